//! The finished model as a Hugging Face directory: factors and sparse parts merged into the weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::formats::atomic::sync_folder;
use crate::formats::hf_shards::{MAX_SHARD_BYTES, ShardWriter};
use crate::formats::safetensors::{Dtype, TensorPlan, TensorValues};
use crate::formats::tokenizer::Tokenizer;
use crate::kernels::Matrix;
use crate::kernels::matmul::{Layout, matmul_add};
use crate::kernels::scaling::{Along, scale};
use crate::kernels::sparse::scatter_add;
use crate::model::{Linear, Model, Role, Whole};

/// `W + s·B·A` of a layer, with its trained lengths where it has some, or `Sp + s·B·A`, on the host. The layer's own
/// weight keeps its bits.
pub fn merged_weight(model: &Model, linear: &Linear) -> Vec<f32> {
    let device = model.device();
    let weight = match linear.weight {
        Some(id) => model.params.value(id).duplicate(device, Category::Activations),
        None => Matrix::zeros([linear.rows, linear.cols], device, Category::Activations),
    };
    let merged = match &linear.adapter {
        Some(adapter) => {
            let (a, b) = (model.params.value(adapter.a), model.params.value(adapter.b));
            matmul_add(weight, adapter.scale, Layout::Nn, b, a)
        }
        None => weight,
    };
    let merged = match &linear.sparse {
        Some(sparse) => scatter_add(merged, &sparse.places, model.params.value(sparse.values)),
        None => merged,
    };
    match &linear.magnitude {
        Some(magnitude) => scale(merged, magnitude.factor(), Along::Rows).to_host(),
        None => merged.to_host(),
    }
}

/// Writes `config.json`, `generation_config.json`, the weights and the tokenizer with its files. Weights of more than
/// 5 GB are several files with an index. The folder appears complete or not at all.
pub fn write_model(folder: &Path, model: &Model, tokenizer: &Tokenizer) -> Result<()> {
    write_model_in_shards(folder, model, tokenizer, MAX_SHARD_BYTES)
}

/// The same with another limit for a file of weights.
pub fn write_model_in_shards(
    folder: &Path,
    model: &Model,
    tokenizer: &Tokenizer,
    max_shard_bytes: u64,
) -> Result<()> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::io("remove", &partial))?;
    }
    fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
    if let Err(error) = write_files(&partial, model, tokenizer, max_shard_bytes) {
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(Error::io("replace", folder))?;
    }
    fs::rename(&partial, folder).map_err(Error::io("rename", &partial))
}

fn write_files(
    folder: &Path,
    model: &Model,
    tokenizer: &Tokenizer,
    max_shard_bytes: u64,
) -> Result<()> {
    let merged: BTreeMap<String, &Linear> = model
        .linears()
        .iter()
        .filter(|linear| linear.adapter.is_some())
        .map(|linear| (format!("{}.weight", linear.name), linear))
        .collect();
    let mut plans = Vec::new();
    let mut parts = BTreeMap::new();
    for Whole { name, shape, parts: own } in model.params.wholes(Role::Network) {
        plans.push(TensorPlan { name: name.clone(), dtype: Dtype::F32, shape });
        parts.insert(name, own);
    }
    for (name, linear) in &merged {
        // Without a dense weight the product of the factors takes its place.
        if !plans.iter().any(|plan| plan.name == *name) {
            let shape = vec![linear.rows, linear.cols];
            plans.push(TensorPlan { name: name.clone(), dtype: Dtype::F32, shape });
        }
    }
    let mut writer = ShardWriter::create(folder, plans.clone(), max_shard_bytes);
    for plan in &plans {
        let values = match (merged.get(&plan.name), parts.get(&plan.name)) {
            (Some(linear), _) => merged_weight(model, linear),
            (None, Some(parts)) => model.params.host_values(parts),
            (None, None) => unreachable!("{} is a parameter or merged", plan.name),
        };
        writer.write(&plan.name, TensorValues::F32(&values))?;
    }
    writer.finish()?;
    model.device().check()?;
    model.config.write(folder, "float32")?;
    tokenizer.save(folder)?;
    sync_folder(folder)
}
