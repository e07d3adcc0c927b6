//! 30 updates beside PyTorch: loss, gradient norm and learning rate of each, logits and weights at the end.

use super::llama::{assert_loss, next_token_batch};
use super::{assert_close, number, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::Matrix;
use fullrank::kernels::update::{AdamForm, AdamW};
use fullrank::methods;
use fullrank::model::Model;
use fullrank::optim::{Optimizer, Schedule};
use fullrank::run::engine::{Engine, Settings};
use std::path::Path;

pub fn check(path: &Path, device: &Device) {
    let file = SafetensorsFile::open(path).unwrap();
    let base = path.with_file_name(&file.metadata()["base_model"]);
    let model = Model::load(&base, device).unwrap();
    let rank = number(&file, "lora_rank") as usize;
    let mut config = fullrank::config::RunConfig::default();
    config.train.method = if rank == 0 { "full".into() } else { "lora".into() };
    config.train.rank = Some(rank.max(1));
    config.train.alpha = Some(number(&file, "lora_alpha").max(1.0));
    let hyper = AdamW {
        learning_rate: 0.0,
        beta1: number(&file, "beta1"),
        beta2: number(&file, "beta2"),
        eps: number(&file, "eps"),
        weight_decay: number(&file, "weight_decay"),
        form: AdamForm::Torch,
    };
    let mut engine = Engine {
        optimizer: Optimizer::new(hyper, device),
        method: methods::create(&config).unwrap(),
        settings: Settings {
            learning_rate: number(&file, "peak_lr"),
            schedule: Schedule::Cosine,
            warmup: number(&file, "warmup_steps") as u64,
            min_ratio: 0.0,
            max_grad_norm: number(&file, "clip_grad_norm"),
            recompute: false,
        },
        model,
        seed: 0,
        t: 0,
        total: number(&file, "steps") as u64,
        events: Vec::new(),
        late_events: Vec::new(),
    };
    engine.with_method(|method, cx| method.prepare(cx)).unwrap();
    if rank > 0 {
        // PEFT trains the factors alone, from its own start.
        for id in engine.model.non_targets() {
            engine.model.params.set_trainable(id, false);
        }
        set_factors(&mut engine.model, &file);
    }

    let batches = file.read_i64("batches").unwrap();
    let [_, rows, seq_len] = file.shape("batches").unwrap()[..] else {
        panic!("batches [steps,b,t]")
    };
    let (losses, norms) = (values(&file, "loss"), values(&file, "grad_norm"));
    let rates = file.read_f64("lr").unwrap();
    for (step, ids) in batches.chunks(rows * seq_len).enumerate() {
        let batch = next_token_batch(ids, ids, seq_len, &engine.model);
        let outcome = engine.step(&[batch]).unwrap();
        let at = |what| format!("{what} of step {step}");
        assert_close(&at("loss"), &[outcome.loss as f32], &losses[step..=step], 2e-5);
        assert_close(&at("grad_norm"), &[outcome.grad_norm as f32], &norms[step..=step], 2e-5);
        assert!((outcome.learning_rate - rates[step]).abs() < 1e-12, "{}", at("learning rate"));
    }

    let first = &batches[..seq_len];
    let batch = next_token_batch(first, first, seq_len, &engine.model);
    let logits = engine.model.logits(&batch).to_host();
    assert_close("final logits", &logits, &values(&file, "final_logits_on_batch0"), 2e-4);
    // The logits are stored for the first sequence, the loss is that of the whole batch.
    let first = &batches[..rows * seq_len];
    let batch = next_token_batch(first, first, seq_len, &engine.model);
    assert_loss("final_loss_on_batch0", &engine.model.token_losses(&batch), &batch, &file);
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    for (name, theirs) in names.iter().filter_map(|name| Some((name, name.strip_prefix("final.")?)))
    {
        let ours = parameter_name(theirs);
        let id = engine.model.params.find(&ours).unwrap_or_else(|| panic!("no parameter {ours}"));
        let tolerance = if rank == 0 { 2e-4 } else { 2e-3 };
        let value = engine.model.params.value(id).to_host();
        assert_close(name, &value, &values(&file, name), tolerance);
    }
}

/// PEFT's name of a factor in ours; other names stay.
pub fn parameter_name(theirs: &str) -> String {
    match theirs.strip_prefix("base_model.model.") {
        Some(name) => name.trim_end_matches(".weight").to_owned(),
        None => theirs.to_owned(),
    }
}

fn set_factors(model: &mut Model, file: &SafetensorsFile) {
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    for (name, theirs) in names.iter().filter_map(|name| Some((name, name.strip_prefix("init.")?)))
    {
        let id = model.params.find(&parameter_name(theirs)).unwrap();
        let tensor = file.read_f32(name).unwrap();
        let shape = [tensor.shape[0], tensor.shape[1]];
        let value =
            Matrix::from_host(tensor.values, shape, &model.device().clone(), Category::Adapters);
        model.params.set(id, value);
    }
}
