//! A network from a Hugging Face directory or a GGUF file.

use std::path::Path;

use crate::device::Device;
use crate::error::Result;
use crate::formats::gguf::GgufModel;
use crate::formats::hf_checkpoint::HfCheckpoint;
use crate::formats::hf_config::HfConfig;

use super::{Model, PackAtLoad};

impl Model {
    /// Reads `config.json` and the weights (single file or shards; f32, f16, bf16) of a directory.
    ///
    /// Errors: anything missing, unreadable or of another shape, naming file and tensor. Tensors that the
    /// network does not have are reported as a warning, as transformers does.
    ///
    /// A GGUF file is read likewise; there every tensor must be one of the network.
    pub fn load(directory: &Path, device: &Device) -> Result<Self> {
        Self::load_packed(directory, device, &PackAtLoad::default())
    }

    /// The same with some weights in few bits from the start.
    pub fn load_packed(directory: &Path, device: &Device, pack: &PackAtLoad) -> Result<Self> {
        if GgufModel::is_named(directory) && !directory.is_dir() {
            let file = GgufModel::open(directory)?;
            return Self::build(file.config().clone(), device, |name, shape| {
                pack.initial(name, shape, file.read_expected(name, shape)?)
            });
        }
        let config = HfConfig::read(directory.join("config.json"))?;
        let checkpoint = HfCheckpoint::open(directory)?;
        let model = Self::build(config, device, |name, shape| {
            pack.initial(name, shape, checkpoint.read_expected(name, shape)?.values)
        })?;
        let is_known = |name: &str| {
            !model.params.parts_of(name).is_empty()
                || name.ends_with("rotary_emb.inv_freq")
                || (name == "lm_head.weight" && model.config.tie_word_embeddings)
        };
        let unknown: Vec<&str> = checkpoint.names().filter(|name| !is_known(name)).collect();
        if !unknown.is_empty() {
            tracing::warn!(
                "{}: {} tensors are not part of this network and were left out, the first is {}",
                directory.display(),
                unknown.len(),
                unknown[0]
            );
        }
        Ok(model)
    }
}
