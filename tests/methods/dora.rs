//! DoRA's invariants (section 10.3).

use fullrank::device::memory::Category;
use fullrank::kernels::Matrix;
use fullrank::model::Model;
use fullrank::random::stream;
use fullrank::run::engine::Engine;
use fullrank::run::export::merged_weight;

use super::fixture::{
    all_effective, assert_exports_as_an_adapter, batch, config, effective, engine, gradients,
    logits, parameter_bits, relative_difference, train, wide,
};

fn set(model: &mut Model, name: &str, values: Vec<f32>) {
    let id = model.params.find(name).unwrap();
    let (shape, device) = (model.params.value(id).shape(), model.device().clone());
    model.params.set(id, Matrix::from_host(values, shape, &device, Category::Adapters));
}

/// Gives every B random values.
fn fill_b(model: &mut Model) {
    for linear in model.linears().to_vec() {
        let name = format!("{}.lora_B", linear.name);
        let len = model.params.value(linear.adapter.unwrap().b).len();
        let values = stream(3, &name, "test", 0).normal_vec(len, 0.1);
        set(model, &name, values);
    }
    model.refresh_magnitudes();
}

/// Lengths of the rows of `[m, n]`.
fn lengths(values: &[f64], n: usize) -> Vec<f64> {
    values.chunks(n).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt()).collect()
}

fn magnitudes(engine: &Engine, place: usize) -> Vec<f64> {
    wide(&engine.model, engine.model.linears()[place].magnitude.as_ref().unwrap().id)
}

#[test]
fn the_start_leaves_the_function_as_it_was_and_the_magnitudes_are_the_lengths_of_the_rows() {
    let (full, dora) = (engine(&config("full")), engine(&config("dora")));
    let difference = relative_difference(&logits(&dora.model, 0), &logits(&full.model, 0));
    assert!(difference <= 1e-5, "{difference:e}");
    for (place, weight) in all_effective(&full.model).iter().enumerate() {
        let right = lengths(weight, dora.model.linears()[place].cols);
        assert!(relative_difference(&magnitudes(&dora, place), &right) < 1e-6);
    }
}

#[test]
fn magnitudes_at_the_lengths_of_the_rows_give_lora() {
    let (mut dora, mut lora) = (engine(&config("dora")), engine(&config("lora")));
    fill_b(&mut dora.model);
    fill_b(&mut lora.model);
    let moved = relative_difference(&logits(&dora.model, 0), &logits(&lora.model, 0));
    assert!(moved > 1e-3, "the magnitudes of the start are not those of the product: {moved:e}");
    for linear in dora.model.linears().to_vec() {
        let right = lengths(&effective(&dora.model, &linear), linear.cols);
        let values = right.into_iter().map(|length| length as f32).collect();
        set(&mut dora.model, &format!("{}.lora_magnitude_vector", linear.name), values);
    }
    dora.model.refresh_magnitudes();
    let difference = relative_difference(&logits(&dora.model, 0), &logits(&lora.model, 0));
    assert!(difference <= 1e-5, "{difference:e}");
    let (ours, theirs) =
        (gradients(&mut dora.model, &batch(1)), gradients(&mut lora.model, &batch(1)));
    for (ours_in, theirs_in) in dora.model.linears().iter().zip(lora.model.linears()) {
        let (ours_in, theirs_in) = (ours_in.adapter.unwrap(), theirs_in.adapter.unwrap());
        for (our, their) in [(ours_in.a, theirs_in.a), (ours_in.b, theirs_in.b)] {
            let host = |grad: Option<&Matrix>| -> Vec<f64> {
                grad.unwrap().to_host().into_iter().map(f64::from).collect()
            };
            let difference = relative_difference(&host(ours.get(our)), &host(theirs.get(their)));
            assert!(difference < 2e-5, "{difference:e}");
        }
    }
}

#[test]
fn the_rows_of_the_merged_weight_are_as_long_as_their_magnitudes() {
    let mut dora = engine(&config("dora"));
    train(&mut dora, 8);
    let mut plain = engine(&config("full"));
    for (place, linear) in dora.model.linears().iter().enumerate() {
        let merged = merged_weight(&dora.model, linear);
        let rows: Vec<f64> = merged.iter().map(|&v| f64::from(v)).collect();
        let right: Vec<f64> = magnitudes(&dora, place).into_iter().map(f64::abs).collect();
        let difference = relative_difference(&lengths(&rows, linear.cols), &right);
        assert!(difference < 1e-5, "{}: {difference:e}", linear.name);
        set(&mut plain.model, &format!("{}.weight", linear.name), merged);
    }
    for id in dora.model.non_targets() {
        let param = dora.model.params.get(id);
        set(&mut plain.model, &param.name, param.value().to_host());
    }
    let difference = relative_difference(&logits(&plain.model, 2), &logits(&dora.model, 2));
    assert!(difference <= 1e-5, "the merged network computes the same: {difference:e}");
}

#[test]
fn the_adapter_with_its_lengths_computes_what_the_run_does() {
    assert_exports_as_an_adapter(&config("dora"), 4);
}

#[test]
fn lengths_follow_every_update() {
    let mut dora = engine(&config("dora"));
    train(&mut dora, 5);
    let before = logits(&dora.model, 4);
    dora.model.refresh_magnitudes();
    assert_eq!(logits(&dora.model, 4), before, "nothing was left to compute");
    let start = engine(&config("dora"));
    for place in 0..dora.model.linears().len() {
        assert!(relative_difference(&magnitudes(&dora, place), &magnitudes(&start, place)) > 1e-3);
    }
}

#[test]
fn it_trains_with_a_frozen_dense_weight() {
    let mut engine = engine(&config("dora"));
    let start = parameter_bits(&engine.model);
    let first = engine.step(&[batch(0)]).unwrap().loss;
    let mut last = first;
    for _ in 0..30 {
        last = engine.step(&[batch(0)]).unwrap().loss;
    }
    assert!(last < 0.8 * first, "{first} to {last}");
    let end = parameter_bits(&engine.model);
    for linear in engine.model.linears() {
        let weight = format!("{}.weight", linear.name);
        assert_eq!(start[&weight], end[&weight]);
    }
}
