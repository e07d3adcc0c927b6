//! PEFT adapters: `adapter_config.json` with `adapter_model.safetensors`, read for a known network and written.
//!
//! LoRA, rsLoRA and DoRA on the linear layers of the blocks. What changes the base weights, trains anything else or
//! computes another formula is refused by name: read as if it were plain LoRA it would be another function. Source:
//! the files that PEFT 0.21 writes and its rules for module names.

mod config;
mod modules;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::safetensors::SafetensorsFile;
use crate::error::{Error, Result};

pub use config::PeftConfig;
pub use modules::{Modules, target_names};
pub(crate) use write::check;
pub use write::{BaseName, alpha_of, is_zero, write};

pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const OTHER_BASE: &str = "use the base model that the adapter was trained on, or another adapter";

/// A linear layer of a network, as adapters know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Module path: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Outputs `m`.
    pub rows: usize,
    /// Inputs `n`.
    pub cols: usize,
}

/// The adapter of one linear layer: `W + s·B·A`, or with lengths `diag(magnitude / |W + s·B·A|)·(W + s·B·A)`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterLayer {
    /// The layer.
    pub module: Module,
    /// `A [r, n]`, row-major.
    pub a: Vec<f32>,
    /// `B [m, r]`, row-major.
    pub b: Vec<f32>,
    /// `r`.
    pub rank: usize,
    /// `s`.
    pub scale: f32,
    /// Trained lengths of the rows `[m]` (DoRA).
    pub magnitude: Option<Vec<f32>>,
}

/// An adapter that was read for a network.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftAdapter {
    /// Its folder.
    pub folder: PathBuf,
    /// Its configuration.
    pub config: PeftConfig,
    /// Its layers, in the order of the network's modules.
    pub layers: Vec<AdapterLayer>,
}

impl PeftAdapter {
    /// Reads the adapter in `folder` for a network with these linear layers.
    ///
    /// Errors: a file that is missing, damaged or no adapter; a kind that is not supported; modules that the network
    /// does not have; tensors that are missing, of another shape or not finite.
    pub fn read(folder: &Path, network: &[Module]) -> Result<Self> {
        let config = PeftConfig::read(folder)?;
        let weights = open_weights(folder)?;
        let targets = config.targets(network)?;
        let found = sort_tensors(&weights, network, &targets, &config)?;
        let mut layers = Vec::with_capacity(targets.len());
        for module in targets {
            let (rank, alpha) = (config.rank_of(&module.name), config.alpha_of(&module.name));
            let tensor = |part: Part, shape: &[usize]| {
                read_part(&weights, &found, &module.name, part, shape)
            };
            layers.push(AdapterLayer {
                a: tensor(Part::A, &[rank, module.cols])?,
                b: tensor(Part::B, &[module.rows, rank])?,
                magnitude: config
                    .use_dora
                    .then(|| tensor(Part::Magnitude, &[module.rows]))
                    .transpose()?,
                rank,
                scale: config.scale(rank, alpha),
                module: module.clone(),
            });
        }
        Ok(Self { folder: folder.to_path_buf(), config, layers })
    }

    /// The names of its layers.
    pub fn names(&self) -> Vec<String> {
        self.layers.iter().map(|layer| layer.module.name.clone()).collect()
    }
}

/// Whether a folder looks like an adapter rather than a model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

fn open_weights(folder: &Path) -> Result<SafetensorsFile> {
    let path = folder.join(WEIGHTS);
    if path.exists() {
        return SafetensorsFile::open(path);
    }
    let (what, remedy) = if folder.join("adapter_model.bin").exists() {
        (
            format!("has no {WEIGHTS}, only a pickled adapter_model.bin, which is not read"),
            "save it again with save_pretrained(…, safe_serialization=True)",
        )
    } else if folder.join("adapters.safetensors").exists() {
        (
            format!("has no {WEIGHTS}; adapters.safetensors is mlx-lm's form, which is not read"),
            "give a PEFT adapter",
        )
    } else {
        (format!("has no {WEIGHTS}"), "give the folder that PEFT's save_pretrained wrote")
    };
    Err(Error::file(folder, what, remedy))
}

/// What a tensor is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    A,
    B,
    Magnitude,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::A => "lora_A.weight",
            Self::B => "lora_B.weight",
            Self::Magnitude => "lora_magnitude_vector",
        }
    }
}

/// Endings of tensor names; PEFT has written lengths both ways.
const ENDINGS: [(&str, Part); 4] = [
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
];

type Found = BTreeMap<(String, Part), String>;

/// Finds the place of every tensor in the file; there may be no other.
fn sort_tensors(
    weights: &SafetensorsFile,
    network: &[Module],
    targets: &[&Module],
    config: &PeftConfig,
) -> Result<Found> {
    let wrong = |what: String, remedy: &str| Error::file(weights.path(), what, remedy);
    let mut found = Found::new();
    for name in weights.names() {
        let split =
            ENDINGS.iter().find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)));
        let Some((path, part)) = split else {
            return Err(wrong(
                format!("tensor {name} is no part of a LoRA or DoRA adapter of linear layers"),
                "give an adapter of linear layers alone, without biases and saved modules",
            ));
        };
        let Some(module) = path.strip_prefix(PREFIX) else {
            return Err(wrong(
                format!("tensor {name} does not begin with {PREFIX}"),
                "give the file that PEFT's save_pretrained wrote",
            ));
        };
        if !network.iter().any(|known| known.name == module) {
            return Err(wrong(
                format!("tensor {name}: this network has no such linear layer in its blocks"),
                OTHER_BASE,
            ));
        }
        if !targets.iter().any(|target| target.name == module) {
            return Err(wrong(
                format!("tensor {name} belongs to no module of target_modules"),
                "use the adapter_config.json that belongs to these weights",
            ));
        }
        if part == Part::Magnitude && !config.use_dora {
            return Err(wrong(
                format!("tensor {name} is DoRA's, but use_dora is false"),
                "use the adapter_config.json that belongs to these weights",
            ));
        }
        if found.insert((module.to_owned(), part), name.to_owned()).is_some() {
            return Err(wrong(
                format!("{} of {module} is there twice", part.name()),
                "export the adapter again",
            ));
        }
    }
    Ok(found)
}

fn read_part(
    weights: &SafetensorsFile,
    found: &Found,
    module: &str,
    part: Part,
    shape: &[usize],
) -> Result<Vec<f32>> {
    let Some(name) = found.get(&(module.to_owned(), part)) else {
        return Err(Error::file(
            weights.path(),
            format!("has no tensor {PREFIX}{module}.{}", part.name()),
            "use the weights that belong to this adapter_config.json; every module needs all its parts",
        ));
    };
    let values = weights.read_expected(name, shape)?.values;
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(Error::file(
            weights.path(),
            format!("tensor {name} holds {value}"),
            "use an adapter from before its training diverged",
        )),
        None => Ok(values),
    }
}
