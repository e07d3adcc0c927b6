//! Adapters as PEFT saves them, on `llama_mha`: logits, loss, gradients and merged weights of LoRA, rsLoRA and DoRA,
//! read with `formats::peft`, and the same once more after this crate has written them.

use super::llama::{assert_loss, check_gradients, next_token_batch};
use super::train::parameter_name;
use super::{assert_close, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::peft::{PeftAdapter, write};
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::Matrix;
use fullrank::methods::given;
use fullrank::model::{LinearId, Model};
use fullrank::run::export::merged_weight;
use std::path::Path;

pub fn check(path: &Path, device: &Device) {
    let expected = SafetensorsFile::open(path.join("expected.safetensors")).unwrap();
    let ids = expected.read_i64("input_ids").unwrap();
    let seq_len = expected.shape("input_ids").unwrap()[1];
    let base = path.with_file_name("llama_mha");
    for recompute in [false, true] {
        let mut model = adapted(&base, path, device);
        let batch = next_token_batch(&ids, &ids, seq_len, &model);
        let logits = model.logits(&batch).to_host();
        assert_close("logits", &logits, &values(&expected, "logits"), 2e-5);
        assert_loss("loss", &model.token_losses(&batch), &batch, &expected);
        check_gradients(&mut model, &batch, &expected, ("loss", "grad."), recompute);
        if !recompute {
            check_round_trip(&base, path, device, &logits, &batch);
        }
        merge(&mut model, &expected);
        let logits = model.logits(&batch).to_host();
        assert_close("merged_logits", &logits, &values(&expected, "merged_logits"), 2e-5);
    }
}

fn read(model: &Model, path: &Path) -> PeftAdapter {
    PeftAdapter::read(path, &given::modules(model)).unwrap()
}

/// The base with the adapter on it.
fn adapted(base: &Path, path: &Path, device: &Device) -> Model {
    let mut model = Model::load(base, device).unwrap();
    let adapter = read(&model, path);
    given::attach(&mut model, &adapter.layers);
    model
}

/// What is written has the bits of what was read.
fn check_round_trip(
    base: &Path,
    path: &Path,
    device: &Device,
    logits: &[f32],
    batch: &fullrank::model::Batch,
) {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::load(base, device).unwrap();
    let (adapter, network) = (read(&model, path), given::modules(&model));
    let use_rslora = adapter.config.use_rslora;
    write(folder.path(), &adapter.layers, &network, &"llama_mha".into(), use_rslora).unwrap();
    let again = read(&model, folder.path());
    assert_eq!(again.layers, adapter.layers);
    assert_eq!(again.config.rank, adapter.config.rank);
    assert_eq!(again.config.alpha, adapter.config.alpha);
    let flags = |adapter: &PeftAdapter| (adapter.config.use_rslora, adapter.config.use_dora);
    assert_eq!(flags(&again), flags(&adapter));
    let model = adapted(base, folder.path(), device);
    assert_eq!(model.logits(batch).to_host(), logits, "the same bits");
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
