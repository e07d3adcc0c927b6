//! GGUF, the format of llama.cpp: models of the `llama` architecture in and out.
//!
//! `header.rs` reads and checks the header, `blocks.rs` holds the formats of tensors, `config.rs` turns
//! metadata into the shape of a network, `tokenizer.rs` into a tokenizer (and back), `write.rs` writes
//! files. Tensors are given and taken under their Hugging Face names and in that layout: GGUF stores the
//! rows of the query and key projections in another order, which is undone here.

mod blocks;
mod config;
mod header;
mod metadata;
mod pretokenizers;
mod rope;
mod spm;
mod tokenizer;
mod vocabulary;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};

use self::header::{Entry, Header};
use self::metadata::Metadata;
use super::hf_config::HfConfig;
use super::positioned::read_exact_at;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

pub use self::blocks::Format;
pub use self::write::{GgufWriter, ModelInfo};

/// Bytes that are read and converted at a time, about.
const PIECE_BYTES: u64 = 1 << 20;

/// An open GGUF file of a model of the `llama` architecture.
#[derive(Debug)]
pub struct GgufModel {
    path: PathBuf,
    file: File,
    header: Header,
    config: HfConfig,
}

impl GgufModel {
    /// Whether a file name says that it is a GGUF file.
    pub fn is_named(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
    }

    /// Opens a file, checks its header and that it holds a network which this program computes.
    ///
    /// Errors: [`Error::Io`], [`Error::File`] for a damaged file, another architecture, a format of
    /// tensors that is not read, or a tensor that the network does not have.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        let about = file.metadata().map_err(Error::io("read", &path))?;
        if !about.is_file() {
            return Err(Error::file(&path, "is not a file", "name the .gguf file itself"));
        }
        let source = std::io::BufReader::with_capacity(1 << 16, &file);
        let header = Header::read(&path, source, about.len())?;
        let mut model = Self { config: config::read(&path, &header)?, path, file, header };
        model.check_tensors()?;
        if let Some(entry) = model.header.tensors.get(rope::FACTORS) {
            let factors = model.values(entry)?;
            model.config.rope.kind =
                rope::kind_of_factors(&model.metadata(), &model.config, &factors)?;
        }
        Ok(model)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The network's shape.
    pub fn config(&self) -> &HfConfig {
        &self.config
    }

    /// The tokenizer of the file.
    ///
    /// Errors: [`Error::File`] for a kind of tokenizer that is not supported, by name.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer::read(&self.metadata())
    }

    /// Reads a tensor by its Hugging Face name as f32, `[out, in]` as there.
    ///
    /// Errors: [`Error::Shape`] before anything is read, [`Error::File`] if there is no such tensor.
    pub fn read_expected(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let own = config::gguf_name(name);
        let entry = own.as_ref().and_then(|own| self.header.tensors.get(own));
        let (Some(own), Some(entry)) = (own, entry) else {
            return Err(self.metadata().wrong_file(format!("has no tensor for {name}")));
        };
        if entry.shape != shape {
            return Err(Error::Shape {
                path: self.path.clone(),
                tensor: own,
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        let values = self.values(entry)?;
        Ok(match config::rotated_heads(name, &self.config) {
            Some(heads) => config::rows_to_halves(&values, heads, self.config.head_dim, shape[1]),
            None => values,
        })
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata::new(&self.path, &self.header.metadata)
    }

    /// A tensor's values, read in pieces: the only large memory is the result.
    fn values(&self, entry: &Entry) -> Result<Vec<f32>> {
        let (block, block_bytes) = entry.format.block();
        let piece = PIECE_BYTES / block_bytes * block_bytes;
        let mut values = Vec::with_capacity((entry.bytes / block_bytes * block) as usize);
        let mut bytes = vec![0; piece.min(entry.bytes) as usize];
        let mut done = 0;
        while done < entry.bytes {
            let len = piece.min(entry.bytes - done);
            let bytes = &mut bytes[..len as usize];
            read_exact_at(&self.file, bytes, entry.begin + done)
                .map_err(Error::io("read", &self.path))?;
            entry.format.decode(bytes, &mut values);
            done += len;
        }
        Ok(values)
    }

    /// A tensor that is passed over would give a network that runs and is wrong.
    fn check_tensors(&self) -> Result<()> {
        let unknown: Vec<&str> = (self.header.tensors.keys().map(String::as_str))
            .filter(|name| config::hf_name(name, &self.config).is_none() && *name != rope::FACTORS)
            .collect();
        if let Some(first) = unknown.first() {
            return Err(Error::file(
                &self.path,
                format!(
                    "{} tensors are not part of a network that is supported, the first is {first}",
                    unknown.len()
                ),
                "use a model of the llama architecture without biases and experts, in one file",
            ));
        }
        Ok(())
    }
}
