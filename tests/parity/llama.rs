//! transformers' `LlamaForCausalLM`: logits, loss and the gradient of every parameter.

use super::train::parameter_name;
use super::{assert_close, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::Vector;
use fullrank::kernels::loss::IGNORED;
use fullrank::model::backward::GradientSink;
use fullrank::model::{Batch, Gradients, Model};
use std::path::Path;

pub fn check(path: &Path, device: &Device) {
    let expected = SafetensorsFile::open(path.join("expected.safetensors")).unwrap();
    let ids = expected.read_i64("input_ids").unwrap();
    let seq_len = expected.shape("input_ids").unwrap()[1];
    let has = |prefix: &str| expected.names().any(|name| name.starts_with(prefix));
    for recompute in [false, true] {
        let mut model = Model::load(path, device).unwrap();
        let batch = next_token_batch(&ids, &ids, seq_len, &model);
        let logits = model.logits(&batch).to_host();
        assert_close("logits", &logits, &values(&expected, "logits"), 2e-5);
        assert_loss("loss", &model.token_losses(&batch), &batch, &expected);
        if has("grad.") {
            check_gradients(&mut model, &batch, &expected, ("loss", "grad."), recompute);
        }
        if has("grad_masked.") {
            let labels = expected.read_i64("labels_masked").unwrap();
            let masked = next_token_batch(&ids, &labels, seq_len, &model);
            let names = ("loss_masked", "grad_masked.");
            check_gradients(&mut model, &masked, &expected, names, recompute);
        }
    }
}

/// Labels shifted by one within each sequence, as transformers does; the last position has none.
pub fn next_token_batch(ids: &[i64], labels: &[i64], seq_len: usize, model: &Model) -> Batch {
    let inputs: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let targets: Vec<i32> = labels
        .chunks(seq_len)
        .flat_map(|row| row[1..].iter().map(|&id| id as i32).chain([IGNORED]))
        .collect();
    Batch::new(&inputs, &targets, seq_len, model.device())
}

pub fn assert_loss(name: &str, losses: &Vector, batch: &Batch, expected: &SafetensorsFile) {
    let sum: f64 = losses.to_host().iter().map(|&loss| f64::from(loss)).sum();
    let mean = (sum / batch.counted as f64) as f32;
    assert_close(name, &[mean], &values(expected, name), 2e-6);
}

/// Compares the loss and every gradient that the case has under a prefix.
pub fn check_gradients(
    model: &mut Model,
    batch: &Batch,
    expected: &SafetensorsFile,
    (loss_name, prefix): (&str, &str),
    recompute: bool,
) {
    let mut gradients = Gradients::default();
    let mut keep = |_: &mut _, _, grad| Some(grad);
    let mut sink = GradientSink::new(&mut gradients, true, &mut keep);
    let zero = Vector::from_host(vec![0.0], [1], model.device(), Category::Activations);
    let scale = 1.0 / batch.counted as f32;
    let loss = model.forward_backward(batch, zero, scale, recompute, &mut sink);
    let mean = loss.to_host()[0] / batch.counted as f32;
    assert_close(loss_name, &[mean], &values(expected, loss_name), 2e-6);
    let names: Vec<String> = expected.names().map(str::to_owned).collect();
    let mut compared = 0;
    for (name, parameter) in
        names.iter().filter_map(|name| Some((name, name.strip_prefix(prefix)?)))
    {
        let parameter = &parameter_name(parameter);
        let id = model.params.find(parameter).unwrap_or_else(|| panic!("no parameter {parameter}"));
        let grad = gradients.get(id).unwrap_or_else(|| panic!("no gradient of {parameter}"));
        assert_close(name, &grad.to_host(), &values(expected, name), 5e-5);
        compared += 1;
    }
    assert!(compared > 0, "no gradient with prefix {prefix}");
}
