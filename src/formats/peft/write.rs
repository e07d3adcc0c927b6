//! Writes an adapter as PEFT does, with the fields that other readers (vLLM, llama.cpp's converter, older PEFT) want.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{AdapterLayer, CONFIG, Module, PREFIX, Part, WEIGHTS, target_names};
use crate::error::{Error, Result};
use crate::formats::atomic::write_atomically;
use crate::formats::safetensors::{Dtype, SafetensorsWriter, TensorPlan, TensorValues};

/// What an adapter says of its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseName {
    /// A folder, or a name on the Hugging Face hub.
    pub name: String,
    /// The commit, branch or tag there, where one is known.
    pub revision: Option<String>,
}

impl From<&str> for BaseName {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), revision: None }
    }
}

/// Writes `adapter_model.safetensors` and `adapter_config.json` into a folder that exists. `network`: all linear layers
/// of the base. `use_rslora`: write scales as `alpha/√r`.
///
/// Errors: no layers; a value that is not finite; lengths on some layers alone; a file that cannot be written.
pub fn write(
    folder: &Path,
    layers: &[AdapterLayer],
    network: &[Module],
    base_model: &BaseName,
    use_rslora: bool,
) -> Result<()> {
    check(layers)?;
    let mut plans = Vec::new();
    for layer in layers {
        let Module { name, rows, cols } = &layer.module;
        let mut plan = |part: Part, shape: Vec<usize>| {
            let name = format!("{PREFIX}{name}.{}", part.name());
            plans.push(TensorPlan { name, dtype: Dtype::F32, shape });
        };
        plan(Part::A, vec![layer.rank, *cols]);
        plan(Part::B, vec![*rows, layer.rank]);
        if layer.magnitude.is_some() {
            plan(Part::Magnitude, vec![*rows]);
        }
    }
    let mut writer = SafetensorsWriter::create(folder.join(WEIGHTS), &BTreeMap::new(), &plans)?;
    for layer in layers {
        let mut put = |part: Part, values: &[f32]| {
            let name = format!("{PREFIX}{}.{}", layer.module.name, part.name());
            writer.write(&name, TensorValues::F32(values))
        };
        put(Part::A, &layer.a)?;
        put(Part::B, &layer.b)?;
        if let Some(lengths) = &layer.magnitude {
            put(Part::Magnitude, lengths)?;
        }
    }
    writer.finish()?;
    let path = folder.join(CONFIG);
    let text = serde_json::to_vec_pretty(&config(layers, network, base_model, use_rslora))
        .map_err(|error| Error::file(&path, error.to_string(), "report this"))?;
    write_atomically(path, &text)
}

/// Refuses what would be no adapter to anyone who loads it.
pub(crate) fn check(layers: &[AdapterLayer]) -> Result<()> {
    if layers.is_empty() {
        return Err(Error::run("there is no adapter on any layer", "export the merged model"));
    }
    for layer in layers {
        let parts = [("A", &layer.a), ("B", &layer.b)];
        let lengths = layer.magnitude.iter().map(|lengths| ("magnitude", lengths));
        for (part, values) in parts.into_iter().chain(lengths) {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(Error::run(
                    format!("{part} of {} holds {value}: no adapter is written", layer.module.name),
                    "export an earlier checkpoint with --step or --best",
                ));
            }
        }
    }
    let with_lengths = layers.iter().filter(|layer| layer.magnitude.is_some()).count();
    if with_lengths != 0 && with_lengths != layers.len() {
        return Err(Error::run(
            format!("{with_lengths} of {} layers have trained lengths", layers.len()),
            "export the merged model",
        ));
    }
    Ok(())
}

/// Whether a layer's `B` is zero: the adapter changes nothing there.
pub fn is_zero(layer: &AdapterLayer) -> bool {
    layer.b.iter().all(|&value| value == 0.0)
}

/// The shortest decimal numerator whose scale has the bits of `scale`.
pub fn alpha_of(scale: f32, rank: usize, use_rslora: bool) -> f64 {
    let divisor = if use_rslora { (rank as f64).sqrt() } else { rank as f64 };
    let exact = f64::from(scale) * divisor;
    (0..16)
        .filter_map(|digits| format!("{exact:.digits$e}").parse::<f64>().ok())
        .find(|alpha| (alpha / divisor) as f32 == scale)
        .unwrap_or(exact)
}

/// A whole number without a fraction, as PEFT writes it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn config(
    layers: &[AdapterLayer],
    network: &[Module],
    base_model: &BaseName,
    use_rslora: bool,
) -> Value {
    let alpha = |layer: &AdapterLayer| alpha_of(layer.scale, layer.rank, use_rslora);
    // What most layers have; the others stand in the patterns.
    let mut counts: Vec<(usize, f64, usize)> = Vec::new();
    for layer in layers {
        let key = (layer.rank, alpha(layer));
        match counts.iter_mut().find(|(rank, alpha, _)| (*rank, *alpha) == key) {
            Some((.., count)) => *count += 1,
            None => counts.push((key.0, key.1, 1)),
        }
    }
    let (rank, common_alpha) = counts
        .iter()
        .rev()
        .max_by_key(|(.., count)| *count)
        .map_or((1, 1.0), |&(rank, alpha, _)| (rank, alpha));
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for layer in layers {
        if layer.rank != rank {
            ranks.insert(layer.module.name.clone(), json!(layer.rank));
        }
        if alpha(layer) != common_alpha {
            alphas.insert(layer.module.name.clone(), number(alpha(layer)));
        }
    }
    let chosen: Vec<String> = layers.iter().map(|layer| layer.module.name.clone()).collect();
    let targets = target_names(network.iter().map(|module| module.name.as_str()), &chosen);
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model.name,
        "revision": base_model.revision,
        "r": rank,
        "lora_alpha": number(common_alpha),
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": true,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "use_rslora": use_rslora,
        "use_dora": layers.iter().all(|layer| layer.magnitude.is_some()),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "layers_to_transform": null,
        "layers_pattern": null,
    })
}
