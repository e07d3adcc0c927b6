//! mlx-lm's adapters, written: `adapters.safetensors` with transposed factors and `adapter_config.json`.
//!
//! The scale multiplies directly and is one number for all layers, and so is the rank. Where layers differ, `B` takes
//! up the ratio of the scales and both factors get zeros up to the largest rank: the product stays the same.
//! Source: mlx-lm's `tuner/lora.py` and `tuner/utils.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::atomic::write_atomically;
use super::peft::{AdapterLayer, BaseName, Module};
use super::safetensors::{Dtype, SafetensorsWriter, TensorPlan, TensorValues};
use crate::error::{Error, Result};

const WEIGHTS: &str = "adapters.safetensors";
const CONFIG: &str = "adapter_config.json";

/// Writes an adapter into a folder that exists. `blocks`: those of the base.
///
/// Errors: no layers, a value that is not finite, or a file that cannot be written.
pub fn write(
    folder: &Path,
    layers: &[AdapterLayer],
    base_model: &BaseName,
    blocks: usize,
) -> Result<()> {
    super::peft::check(layers)?;
    let rank = layers.iter().map(|layer| layer.rank).max().unwrap_or(1);
    let scale = layers.first().map_or(1.0, |layer| layer.scale);
    let names =
        |module: &Module| ["lora_a", "lora_b", "m"].map(|part| format!("{}.{part}", module.name));
    let mut plans = Vec::new();
    for layer in layers {
        let [a, b, m] = names(&layer.module);
        let mut plan = |name, shape| plans.push(TensorPlan { name, dtype: Dtype::F32, shape });
        plan(a, vec![layer.module.cols, rank]);
        plan(b, vec![rank, layer.module.rows]);
        if layer.magnitude.is_some() {
            plan(m, vec![layer.module.rows]);
        }
    }
    let mut writer = SafetensorsWriter::create(folder.join(WEIGHTS), &BTreeMap::new(), &plans)?;
    for layer in layers {
        let [a, b, m] = names(&layer.module);
        let Module { rows, cols, .. } = layer.module;
        // A [r, n] → [n, rank]; B [m, r] → [rank, m].
        let mut turned = vec![0.0; cols * rank];
        for (i, row) in layer.a.chunks(cols).enumerate() {
            row.iter().enumerate().for_each(|(j, &value)| turned[j * rank + i] = value);
        }
        writer.write(&a, TensorValues::F32(&turned))?;
        let ratio = layer.scale / scale;
        let mut turned = vec![0.0; rank * rows];
        for (i, row) in layer.b.chunks(layer.rank).enumerate() {
            row.iter().enumerate().for_each(|(j, &value)| turned[j * rows + i] = ratio * value);
        }
        writer.write(&b, TensorValues::F32(&turned))?;
        if let Some(lengths) = &layer.magnitude {
            writer.write(&m, TensorValues::F32(lengths))?;
        }
    }
    writer.finish()?;
    // Module names within a block.
    let keys: BTreeSet<String> = layers
        .iter()
        .filter_map(|layer| {
            let (_, rest) = layer.module.name.split_once("layers.")?;
            Some(rest.split_once('.')?.1.to_owned())
        })
        .collect();
    let is_dora = layers.iter().all(|layer| layer.magnitude.is_some());
    let config = json!({
        "model": base_model.name,
        "fine_tune_type": if is_dora { "dora" } else { "lora" },
        "num_layers": blocks,
        "lora_parameters": {
            "rank": rank,
            "scale": f64::from(scale),
            "dropout": 0.0,
            "keys": keys,
        },
    });
    let path = folder.join(CONFIG);
    let text = serde_json::to_vec_pretty(&config)
        .map_err(|error| Error::file(&path, error.to_string(), "report this"))?;
    write_atomically(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::safetensors::SafetensorsFile;

    fn layer(block: usize, rank: usize, scale: f32) -> AdapterLayer {
        let values = |count: usize| (0..count).map(|i| i as f32 + 1.0).collect::<Vec<_>>();
        AdapterLayer {
            module: Module {
                name: format!("model.layers.{block}.self_attn.q_proj"),
                rows: 3,
                cols: 2,
            },
            a: values(rank * 2),
            b: values(3 * rank),
            rank,
            scale,
            magnitude: None,
        }
    }

    #[test]
    fn factors_are_transposed_and_the_product_stays_where_layers_differ() {
        let folder = tempfile::tempdir().unwrap();
        let layers = [layer(0, 2, 0.5), layer(1, 1, 2.0)];
        write(folder.path(), &layers, &"base".into(), 2).unwrap();
        let file = SafetensorsFile::open(folder.path().join(WEIGHTS)).unwrap();
        let name =
            |block: usize, part: &str| format!("model.layers.{block}.self_attn.q_proj.{part}");
        let a = file.read_expected(&name(0, "lora_a"), &[2, 2]).unwrap().values;
        assert_eq!(a, [1.0, 3.0, 2.0, 4.0]);
        let b = file.read_expected(&name(0, "lora_b"), &[2, 3]).unwrap().values;
        assert_eq!(b, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        // Rank 1 in a file of rank 2, and four times the scale.
        let a = file.read_expected(&name(1, "lora_a"), &[2, 2]).unwrap().values;
        assert_eq!(a, [1.0, 0.0, 2.0, 0.0]);
        let b = file.read_expected(&name(1, "lora_b"), &[2, 3]).unwrap().values;
        assert_eq!(b, [4.0, 8.0, 12.0, 0.0, 0.0, 0.0]);
        let text = std::fs::read(folder.path().join(CONFIG)).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(config["fine_tune_type"], "lora");
        assert_eq!(config["num_layers"], 2);
        assert_eq!(config["lora_parameters"]["rank"], 2);
        assert_eq!(config["lora_parameters"]["scale"], 0.5);
        assert_eq!(config["lora_parameters"]["keys"], json!(["self_attn.q_proj"]));
    }
}
