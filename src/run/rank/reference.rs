//! The weights that a change is counted from, without a second copy in memory: the start is drawn again from the
//! seed or read again from the model's folder, the end of a warm start is a file of the run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::formats::gguf::GgufModel;
use crate::formats::hf_checkpoint::HfCheckpoint;
use crate::formats::safetensors::{
    Dtype, SafetensorsFile, SafetensorsWriter, TensorPlan, TensorValues,
};
use crate::kernels::packed::Packing;
use crate::model::llama::initial_values;
use crate::model::params::encode;
use crate::model::{BaseStorage, Linear, ModelConfig};
use crate::run::engine::Engine;
use crate::run::plan::{ModelSource, is_gguf};

/// What is kept of a layer's reference: enough to notice that it is no longer the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seal {
    /// blake3 of the values as little-endian f64, in hexadecimal.
    pub hash: String,
    /// Their Frobenius norm.
    pub norm: f64,
}

impl Seal {
    fn of(values: &[f64]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for value in values {
            hasher.update(&value.to_le_bytes());
        }
        let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        Self { hash: hasher.finalize().to_hex().to_string(), norm }
    }
}

/// Where a reference comes from.
#[derive(Debug)]
enum Source {
    /// Drawn from the seed with this standard deviation.
    Drawn { std: f64, seed: u64 },
    /// The folder, or the GGUF file, that the model was loaded from.
    Folder(PathBuf),
    /// A file of the run that is written when the warm start ends, after this many updates.
    WarmStart { file: PathBuf, updates: u64 },
}

/// The weights that a change is counted from.
#[derive(Debug)]
pub struct Reference {
    source: Source,
}

impl Reference {
    /// As the run's configuration says.
    pub fn new(
        config: &RunConfig,
        shape: &ModelConfig,
        source: &ModelSource,
        folder: &Path,
    ) -> Self {
        let source = if config.rank.reference == "warm-start-end" {
            let file = folder.join("warm-start-end.safetensors");
            Source::WarmStart { file, updates: config.warm_start() }
        } else {
            match source {
                ModelSource::Preset(_) => {
                    Source::Drawn { std: shape.initializer_range, seed: config.train.seed }
                }
                ModelSource::Directory(folder) => Source::Folder(folder.clone()),
            }
        };
        Self { source }
    }

    /// The name in the log.
    pub fn name(&self) -> &'static str {
        match self.source {
            Source::Drawn { .. } | Source::Folder(_) => "start",
            Source::WarmStart { .. } => "warm-start-end",
        }
    }

    /// Whether it is the start of the run.
    pub fn is_start(&self) -> bool {
        self.name() == "start"
    }

    /// Whether there is something to count from after `t` updates.
    pub fn exists(&self, t: u64) -> bool {
        match self.source {
            Source::Drawn { .. } | Source::Folder(_) => true,
            Source::WarmStart { updates, .. } => t >= updates,
        }
    }

    /// Keeps the effective weights of all layers if the warm start ends with this update. A resumed run that passes
    /// here again writes the same file again.
    pub fn keep(&self, engine: &Engine) -> Result<()> {
        let Source::WarmStart { file, updates } = &self.source else { return Ok(()) };
        if engine.t != *updates {
            return Ok(());
        }
        let linears = engine.model.linears();
        let plans: Vec<TensorPlan> = linears
            .iter()
            .map(|linear| TensorPlan {
                name: linear.name.clone(),
                dtype: Dtype::F64,
                shape: vec![linear.rows, linear.cols],
            })
            .collect();
        let mut writer = SafetensorsWriter::create(file, &BTreeMap::new(), &plans)?;
        for linear in linears {
            let values = engine.method.effective_weight(&engine.model, linear);
            writer.write(&linear.name, TensorValues::F64(&values))?;
        }
        writer.finish()
    }

    /// The effective weight of a layer at the reference, row-major, with its seal; `before` is the seal of the first
    /// time.
    ///
    /// Errors: a file that cannot be read, or values that are not those of the first time.
    pub fn read(
        &self,
        engine: &Engine,
        linear: &Linear,
        before: Option<&Seal>,
    ) -> Result<(Vec<f64>, Seal)> {
        let name = format!("{}.weight", linear.name);
        let shape = [linear.rows, linear.cols];
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        let start = |base: Vec<f32>| {
            let base = as_stored(engine, linear, base)?;
            Ok::<_, Error>(engine.method.start_weight(linear, engine.seed, wide(base)))
        };
        let values = match &self.source {
            Source::Drawn { std, seed } => start(initial_values(&name, &shape, *std, *seed))?,
            Source::Folder(folder) => start(if is_gguf(folder) {
                GgufModel::open(folder)?.read_expected(&name, &shape)?
            } else {
                HfCheckpoint::open(folder)?.read_expected(&name, &shape)?.values
            })?,
            Source::WarmStart { file, .. } => {
                SafetensorsFile::open(file)?.read_f64(&linear.name)?
            }
        };
        let seal = Seal::of(&values);
        if before.is_some_and(|before| *before != seal) || values.len() != linear.rows * linear.cols
        {
            return Err(Error::run(
                format!(
                    "{name}: the weights that changes are counted from are not those of before"
                ),
                "bring the model's folder or file back as it was when the run began",
            ));
        }
        Ok((values, seal))
    }
}

/// What a run that stores its frozen weights in few bits began with: its rounding is no change that was trained. Where
/// the f32 values are kept for merges, changes are counted in them.
fn as_stored(engine: &Engine, linear: &Linear, values: Vec<f32>) -> Result<Vec<f32>> {
    let is_packed = linear.weight.is_some_and(|id| engine.model.params.get(id).is_packed());
    match engine.model.base_storage().filter(|storage| is_packed && !storage.keeps_master) {
        Some(BaseStorage { format, .. }) => {
            let packing = Packing { format, rows: linear.rows, cols: linear.cols };
            Ok(encode(&linear.name, &values, packing)?.decode())
        }
        None => Ok(values),
    }
}
