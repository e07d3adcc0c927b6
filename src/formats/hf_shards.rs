//! Writing the weights of a Hugging Face checkpoint: one safetensors file, or several with an index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::atomic::write_atomically;
use super::hf_checkpoint::{INDEX, SINGLE};
use super::safetensors::{SafetensorsWriter, TensorPlan, TensorValues};
use crate::error::Result;

/// Bytes of one file at most, unless a tensor alone is larger: what transformers 4 takes.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// The weight files of a checkpoint that is being written, one open at a time.
#[derive(Debug)]
pub struct ShardWriter {
    folder: PathBuf,
    /// The files still to be written, the next one last.
    waiting: Vec<Shard>,
    open: Option<(SafetensorsWriter, usize)>,
    /// For each tensor the name of its file.
    file_of: BTreeMap<String, String>,
    total_bytes: u64,
    is_sharded: bool,
}

#[derive(Debug)]
struct Shard {
    file: String,
    plan: Vec<TensorPlan>,
}

impl ShardWriter {
    /// Lays the files out. Tensors must then be written in the order of `plan`.
    pub fn create(folder: &Path, plan: Vec<TensorPlan>, max_shard_bytes: u64) -> Self {
        let bytes = |tensor: &TensorPlan| {
            tensor.shape.iter().product::<usize>() as u64 * tensor.dtype.bytes() as u64
        };
        let total_bytes = plan.iter().map(bytes).sum();
        let mut parts: Vec<Vec<TensorPlan>> = vec![Vec::new()];
        let mut filled = 0;
        for tensor in plan {
            let more = bytes(&tensor);
            if let Some(part) = parts.last()
                && !part.is_empty()
                && filled + more > max_shard_bytes
            {
                parts.push(Vec::new());
                filled = 0;
            }
            filled += more;
            if let Some(part) = parts.last_mut() {
                part.push(tensor);
            }
        }
        let count = parts.len();
        let is_sharded = count > 1;
        let file = |number: usize| match is_sharded {
            true => format!("model-{number:05}-of-{count:05}.safetensors"),
            false => SINGLE.to_owned(),
        };
        let shards = parts.into_iter().enumerate();
        let mut waiting: Vec<Shard> =
            shards.map(|(i, plan)| Shard { file: file(i + 1), plan }).collect();
        let names = waiting.iter().flat_map(|shard| {
            shard.plan.iter().map(|tensor| (tensor.name.clone(), shard.file.clone()))
        });
        let file_of = names.collect();
        waiting.reverse();
        Self { folder: folder.to_path_buf(), waiting, open: None, file_of, total_bytes, is_sharded }
    }

    /// Writes the next tensor of the plan.
    pub fn write(&mut self, name: &str, values: TensorValues<'_>) -> Result<()> {
        if !matches!(self.open, Some((_, left)) if left > 0) {
            self.close()?;
            let Some(Shard { file, plan }) = self.waiting.pop() else {
                unreachable!("tensor {name} is planned");
            };
            let path = self.folder.join(file);
            let writer = SafetensorsWriter::create(path, &BTreeMap::new(), &plan)?;
            self.open = Some((writer, plan.len()));
        }
        match &mut self.open {
            Some((writer, left)) => {
                *left -= 1;
                writer.write(name, values)
            }
            None => Ok(()),
        }
    }

    fn close(&mut self) -> Result<()> {
        match self.open.take() {
            Some((writer, _)) => writer.finish(),
            None => Ok(()),
        }
    }

    /// Completes the last file and writes the index where there are several.
    pub fn finish(mut self) -> Result<()> {
        assert!(self.waiting.is_empty(), "every planned tensor was written");
        self.close()?;
        if !self.is_sharded {
            return Ok(());
        }
        let map: Map<String, Value> =
            self.file_of.iter().map(|(name, file)| (name.clone(), json!(file))).collect();
        let index = json!({"metadata": {"total_size": self.total_bytes}, "weight_map": map});
        write_atomically(self.folder.join(INDEX), format!("{index:#}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::hf_checkpoint::HfCheckpoint;
    use crate::formats::safetensors::Dtype;

    /// Tensors of 8, 8, 40 and 4 bytes.
    const SIZES: [(&str, usize); 4] = [("a", 2), ("b", 2), ("c", 10), ("d", 1)];

    fn write(folder: &Path, max_bytes: u64) {
        let plan = SIZES.map(|(name, len)| TensorPlan {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: vec![len],
        });
        let mut writer = ShardWriter::create(folder, plan.to_vec(), max_bytes);
        for (name, len) in SIZES {
            writer.write(name, TensorValues::F32(&vec![len as f32; len])).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn files_hold_what_fits_and_the_reader_finds_every_tensor() {
        for (max_bytes, files) in [(1_000, 1), (16, 3), (1, 4), (56, 2)] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), max_bytes);
            let entries = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(entries, files + usize::from(files > 1), "{max_bytes} bytes a file");
            assert_eq!(folder.path().join(SINGLE).exists(), files == 1);
            let checkpoint = HfCheckpoint::open(folder.path()).unwrap();
            for (name, len) in SIZES {
                assert_eq!(checkpoint.read_f32(name).unwrap().values, vec![len as f32; len]);
            }
        }
    }

    #[test]
    fn the_index_says_the_size_and_the_files() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 16);
        let text = std::fs::read(folder.path().join(INDEX)).unwrap();
        let index: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(index["metadata"]["total_size"], 60);
        assert_eq!(index["weight_map"]["b"], "model-00001-of-00003.safetensors");
        assert_eq!(index["weight_map"]["d"], "model-00003-of-00003.safetensors");
    }
}
