//! The finished model as a Hugging Face directory: factors and sparse parts merged into the weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::formats::atomic::sync_folder;
use crate::formats::chat::ChatTemplate;
use crate::formats::gguf::{Format, GgufWriter, ModelInfo};
use crate::formats::hf_shards::{MAX_SHARD_BYTES, ShardWriter};
use crate::formats::safetensors::{Dtype, TensorPlan, TensorValues};
use crate::formats::tokenizer::Tokenizer;
use crate::kernels::Matrix;
use crate::kernels::matmul::{Layout, matmul_add};
use crate::kernels::packed::Weight;
use crate::kernels::scaling::{Along, scale};
use crate::kernels::sparse::scatter_add;
use crate::model::{Linear, Model, Role, Whole};

/// `W + s·B·A` of a layer, with its trained lengths where it has some, or `Sp + s·B·A`, on the host. The layer's own
/// weight keeps its bits. Of one in few bits W is what it decodes to: beside that the factors were trained.
pub fn merged_weight(model: &Model, linear: &Linear) -> Vec<f32> {
    let device = model.device();
    let weight = match linear.weight {
        Some(id) => match model.params.weight(id) {
            Weight::Dense(weight) => weight.duplicate(device, Category::Activations),
            Weight::Packed(weight) => {
                let values = weight.to_host().decode();
                Matrix::from_host(values, weight.shape(), device, Category::Activations)
            }
        },
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
    // Beside it under its whole name: `my.model` is not to take `my.partial` away.
    let mut partial = folder.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
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

/// Writes a GGUF file with the matrices in `format`, everything merged into the weights. The file appears complete or
/// not at all.
///
/// Errors: a network or a tokenizer that llama.cpp has no form of; a value that the format cannot hold.
pub fn write_gguf(
    path: &Path,
    name: &str,
    model: &Model,
    tokenizer: &Tokenizer,
    format: Format,
) -> Result<()> {
    let template = tokenizer.chat_template()?;
    let chat_template = template.as_ref().map(ChatTemplate::source);
    let info = ModelInfo { name, config: &model.config, tokenizer, chat_template };
    let merged = merged_layers(model);
    let mut writer = GgufWriter::create(path, info, format)?;
    while let Some((name, _)) = writer.next() {
        let values = exported_values(model, &merged, name);
        writer.write_next(&values)?;
    }
    model.device().check()?;
    writer.finish()
}

/// The layers whose weight in a file is not the parameter itself, by the weight's name.
fn merged_layers(model: &Model) -> BTreeMap<String, &Linear> {
    let linears = model.linears().iter().filter(|linear| linear.adapter.is_some());
    linears.map(|linear| (format!("{}.weight", linear.name), linear)).collect()
}

/// The values of a tensor of the network as they stand in a file.
fn exported_values(model: &Model, merged: &BTreeMap<String, &Linear>, name: &str) -> Vec<f32> {
    match (merged.get(name), model.params.parts_of(name).as_slice()) {
        (Some(linear), _) => merged_weight(model, linear),
        (None, [one]) => model.params.used_values(*one),
        (None, parts) => model.params.host_values(parts),
    }
}

fn write_files(
    folder: &Path,
    model: &Model,
    tokenizer: &Tokenizer,
    max_shard_bytes: u64,
) -> Result<()> {
    let merged = merged_layers(model);
    let mut plans = Vec::new();
    for Whole { name, shape, .. } in model.params.wholes(Role::Network) {
        plans.push(TensorPlan { name, dtype: Dtype::F32, shape });
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
        let values = exported_values(model, &merged, &plan.name);
        writer.write(&plan.name, TensorValues::F32(&values))?;
    }
    writer.finish()?;
    model.device().check()?;
    model.config.write(folder, "float32")?;
    tokenizer.save(folder)?;
    sync_folder(folder)
}
