//! Adapters as PEFT saves them, on `llama_mha`: logits, loss, gradients and merged weights of LoRA, rsLoRA and DoRA.

use super::llama::{assert_loss, check_gradients, next_token_batch};
use super::train::parameter_name;
use super::{assert_close, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::Matrix;
use fullrank::methods::factors;
use fullrank::model::{LinearId, Model};
use fullrank::run::export::merged_weight;
use serde_json::Value;
use std::path::Path;

pub fn check(path: &Path, device: &Device) {
    let expected = SafetensorsFile::open(path.join("expected.safetensors")).unwrap();
    let ids = expected.read_i64("input_ids").unwrap();
    let seq_len = expected.shape("input_ids").unwrap()[1];
    for recompute in [false, true] {
        let mut model = adapted(path, device);
        let batch = next_token_batch(&ids, &ids, seq_len, &model);
        let logits = model.logits(&batch).to_host();
        assert_close("logits", &logits, &values(&expected, "logits"), 2e-5);
        assert_loss("loss", &model.token_losses(&batch), &batch, &expected);
        check_gradients(&mut model, &batch, &expected, ("loss", "grad."), recompute);
        merge(&mut model, &expected);
        let logits = model.logits(&batch).to_host();
        assert_close("merged_logits", &logits, &values(&expected, "merged_logits"), 2e-5);
    }
}

/// The base with the adapter on it.
fn adapted(path: &Path, device: &Device) -> Model {
    let file = SafetensorsFile::open(path.join("adapter_model.safetensors")).unwrap();
    let text = std::fs::read(path.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    let rank = config["r"].as_u64().unwrap() as usize;
    let divisor = if config["use_rslora"] == true { (rank as f64).sqrt() } else { rank as f64 };
    let scale = config["lora_alpha"].as_f64().unwrap() / divisor;
    let mut model = Model::load(&path.with_file_name("llama_mha"), device).unwrap();
    for (place, linear) in model.linears().to_vec().iter().enumerate() {
        let read = |what: &str| values(&file, &format!("base_model.model.{}.{what}", linear.name));
        let pair = (read("lora_A.weight"), read("lora_B.weight"));
        factors::attach(&mut model, LinearId(place), rank, scale as f32, pair, false);
        if config["use_dora"] == true {
            model.add_magnitude(LinearId(place));
            let id = model.linears()[place].magnitude.as_ref().unwrap().id;
            let lengths = read("lora_magnitude_vector");
            let shape = [1, lengths.len()];
            model.params.set(id, Matrix::from_host(lengths, shape, device, Category::Adapters));
        }
    }
    factors::freeze_targets(&mut model);
    model.refresh_magnitudes();
    model
}

/// Merges every layer and compares those that the case has.
fn merge(model: &mut Model, expected: &SafetensorsFile) {
    let device = model.device().clone();
    let names: Vec<String> = expected.names().map(str::to_owned).collect();
    let mut compared = 0;
    for (place, linear) in model.linears().to_vec().iter().enumerate() {
        let merged = merged_weight(model, linear);
        let weight = linear.weight.unwrap();
        let stored = names.iter().find(|name| {
            let theirs = name.strip_prefix("merged.");
            theirs.is_some_and(|theirs| parameter_name(theirs).contains(&linear.name))
        });
        if let Some(name) = stored {
            assert_close(name, &merged, &values(expected, name), 1e-6);
            compared += 1;
        }
        let value =
            Matrix::from_host(merged, [linear.rows, linear.cols], &device, Category::Weights);
        model.params.set(weight, value);
        let linear = model.linear_mut(LinearId(place));
        (linear.adapter, linear.magnitude) = (None, None);
    }
    assert_eq!(compared, 2, "merged weights of the case");
}
