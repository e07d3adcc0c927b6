//! The explicit backward pass of a two-block network against two oracles: burn's autodiff of the same
//! network in burn's own operations, and central differences of an f64 loss in plain loops.
//!
//! Sizes are odd on purpose: grouped heads, a head size that is not `hidden / heads`, ranks and lengths
//! that fill no tile.
#![allow(clippy::unwrap_used)] // helpers of tests may unwrap

use std::collections::BTreeMap;

use crate::oracle::Oracle;
use fullrank::bench::stock::{NamedGradients, StockBatch, StockLlama};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::kernels::loss::IGNORED;
use fullrank::kernels::{Matrix, Vector};
use fullrank::methods::factors;
use fullrank::model::backward::GradientSink;
use fullrank::model::config::{Family, Rope, RopeKind, Variant};
use fullrank::model::{Batch, Gradients, LinearId, Model, ModelConfig};
use fullrank::random::stream;

const SEED: u64 = 7;
const SEQ_LEN: usize = 13;
const BATCH: usize = 3;
const RANK: usize = 5;
/// Both sides compute in f32 and sum in different orders; measured at most 5.4e-6.
const AUTODIFF_TOLERANCE: f64 = 2e-5;
/// The rounding of the f32 gradient; the differences are taken in f64. Measured at most 1.8e-6.
const DIFFERENCE_TOLERANCE: f64 = 1e-5;
const STEP: f64 = 1e-4;

/// Every architecture: plain, with all biases, with some, with norms on heads and without.
const VARIANTS: [Variant; 4] = [
    Variant { family: Family::Llama, attention_bias: true, mlp_bias: true },
    Variant { family: Family::Qwen2, attention_bias: true, mlp_bias: false },
    Variant { family: Family::Qwen3, attention_bias: false, mlp_bias: false },
    Variant { family: Family::Qwen3, attention_bias: true, mlp_bias: false },
];

fn config(is_tied: bool, variant: Variant) -> ModelConfig {
    ModelConfig {
        variant,
        hidden_size: 20,
        intermediate_size: 29,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 6,
        rms_norm_eps: 1e-6,
        vocab_size: 37,
        max_position_embeddings: 32,
        tie_word_embeddings: is_tied,
        rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
        initializer_range: 0.02,
    }
}

/// Weights large enough that every nonlinearity bends.
fn model(is_tied: bool) -> Model {
    model_of(is_tied, Variant::default())
}

fn model_of(is_tied: bool, variant: Variant) -> Model {
    let result = Model::build(config(is_tied, variant), &Device::cpu(), |name, shape| {
        let len = shape.iter().product();
        let noise = stream(SEED, name, "test", 0).normal_vec(len, 0.25);
        let is_gain = shape.len() == 1 && !name.ends_with("bias");
        let centre = if is_gain { 1.0 } else { 0.0 };
        Ok::<_, std::convert::Infallible>(
            noise.into_iter().map(|v| v + centre).collect::<Vec<f32>>(),
        )
    });
    result.unwrap()
}

/// The same with factors on every linear layer, neither of them zero, and frozen dense weights.
fn model_with_factors(is_tied: bool) -> Model {
    with_factors(model(is_tied))
}

fn with_factors(mut model: Model) -> Model {
    for index in 0..model.linears().len() {
        let linear = model.linears()[index].clone();
        let draw = |purpose: &str, len| stream(SEED, &linear.name, purpose, 0).normal_vec(len, 0.3);
        let pair = (draw("a", RANK * linear.cols), draw("b", linear.rows * RANK));
        factors::attach(&mut model, LinearId(index), RANK, 0.4, pair, false);
    }
    factors::freeze_targets(&mut model);
    model
}

/// The same with trained lengths that are not those of the rows.
fn model_with_magnitudes(is_tied: bool) -> Model {
    with_magnitudes(model_with_factors(is_tied))
}

fn with_magnitudes(mut model: Model) -> Model {
    for index in 0..model.linears().len() {
        model.add_magnitude(LinearId(index));
        let linear = model.linears()[index].clone();
        let id = linear.magnitude.unwrap().id;
        let noise = stream(SEED, &linear.name, "length", 0).normal_vec(linear.rows, 0.3);
        let lengths = model.params.value(id).to_host().into_iter().zip(noise);
        let lengths = lengths.map(|(length, noise)| length * (1.0 + noise)).collect();
        let device = model.device().clone();
        let value = Matrix::from_host(lengths, [1, linear.rows], &device, Category::Adapters);
        model.params.set(id, value);
    }
    model.refresh_magnitudes();
    model
}

/// Ids and targets of micro-batch `index`; with `is_masked` a third of the targets is ignored, the whole
/// first row of it included.
fn tokens(index: u64, is_masked: bool) -> (Vec<i32>, Vec<i32>) {
    let ids = |purpose: &str| -> Vec<i32> {
        let mut draws = stream(SEED, "tokens", purpose, index);
        (0..BATCH * SEQ_LEN).map(|_| draws.below(37) as i32).collect()
    };
    let mut targets = ids("targets");
    if is_masked {
        for (i, target) in targets.iter_mut().enumerate() {
            if i < SEQ_LEN || i % 3 == 0 {
                *target = IGNORED;
            }
        }
    }
    (ids("inputs"), targets)
}

/// Mean loss and gradients over micro-batches, as an update sees them.
fn explicit(
    model: &mut Model,
    micro_batches: &[(Vec<i32>, Vec<i32>)],
    recompute: bool,
) -> (f64, NamedGradients) {
    let mut gradients = Gradients::default();
    let mut loss = 0.0;
    for (index, (inputs, targets)) in micro_batches.iter().enumerate() {
        let batch = Batch::new(inputs, targets, SEQ_LEN, model.device());
        let mut keep = |_: &mut _, _, grad| Some(grad);
        let is_last = index + 1 == micro_batches.len();
        let mut sink = GradientSink::new(&mut gradients, is_last, &mut keep);
        let zero = Vector::zeros([1], &model.device().clone(), Category::Activations);
        let scale = 1.0 / (batch.counted * micro_batches.len()) as f32;
        let sum = model.forward_backward(&batch, zero, scale, recompute, &mut sink);
        loss += f64::from(sum.to_host()[0]) * f64::from(scale);
    }
    let named = gradients.ids().into_iter().map(|id| {
        let grad = gradients.get(id).unwrap().to_host();
        (model.params.get(id).name.clone(), grad)
    });
    (loss, named.collect())
}

/// The same from burn's autodiff, averaged over micro-batches here.
fn autodiff(model: &Model, micro_batches: &[(Vec<i32>, Vec<i32>)]) -> (f64, NamedGradients) {
    let device = Device::cpu();
    let stock = StockLlama::from_model(model, &device);
    let share = 1.0 / micro_batches.len() as f32;
    let (mut loss, mut mean) = (0.0, NamedGradients::new());
    for (inputs, targets) in micro_batches {
        let batch = StockBatch::new(inputs, targets, SEQ_LEN, &device);
        let (one, grads) = stock.gradients(&batch);
        loss += one * f64::from(share);
        for (name, grad) in grads {
            let sum = mean.entry(name).or_insert_with(|| vec![0.0; grad.len()]);
            sum.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += share * grad);
        }
    }
    (loss, mean)
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |max, &v| max.max(f64::from(v).abs()))
}

fn assert_agrees_with_autodiff(mut model: Model, micro_batches: &[(Vec<i32>, Vec<i32>)]) {
    let (their_loss, theirs) = autodiff(&model, micro_batches);
    for recompute in [false, true] {
        let (our_loss, ours) = explicit(&mut model, micro_batches, recompute);
        assert!((our_loss - their_loss).abs() < 2e-6 * their_loss, "{our_loss} and {their_loss}");
        let names = |grads: &NamedGradients| grads.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs), "the same parameters are trained");
        for (name, ours) in &ours {
            let theirs = &theirs[name];
            let scale = largest(theirs);
            assert!(scale > 0.0, "{name}: the oracle's gradient is zero");
            for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
                let error = f64::from((a - b).abs()) / scale;
                assert!(
                    error <= AUTODIFF_TOLERANCE,
                    "{name}[{i}]: explicit {a}, autodiff {b}: {error:.1e} of the largest"
                );
            }
        }
    }
}

fn assert_agrees_with_differences(mut model: Model, is_masked: bool) {
    let (inputs, targets) = tokens(0, is_masked);
    let (our_loss, ours) = explicit(&mut model, &[(inputs.clone(), targets.clone())], false);
    let mut oracle = Oracle::from_model(&model);
    let loss = |oracle: &Oracle| oracle.loss(&inputs, &targets, SEQ_LEN);
    let exact = loss(&oracle);
    assert!((our_loss - exact).abs() < 2e-6 * exact, "{our_loss} and {exact}");
    for (name, grad) in &ours {
        let scale = largest(grad);
        let mut draws = stream(SEED, name, "entries", 0);
        for _ in 0..30 {
            let i = draws.below(grad.len() as u64) as usize;
            let centre = oracle.values[name][i];
            let mut at = |value: f64| {
                oracle.values.get_mut(name).unwrap()[i] = value;
                loss(&oracle)
            };
            let slope = (at(centre + STEP) - at(centre - STEP)) / (2.0 * STEP);
            at(centre);
            let error = (f64::from(grad[i]) - slope).abs() / scale;
            assert!(
                error <= DIFFERENCE_TOLERANCE,
                "{name}[{i}]: explicit {}, differences {slope}: {error:.1e} of the largest",
                grad[i]
            );
        }
    }
}

#[test]
fn full_rank_gradients_agree_with_autodiff() {
    for is_tied in [false, true] {
        assert_agrees_with_autodiff(model(is_tied), &[tokens(0, false)]);
    }
}

#[test]
fn factor_gradients_agree_with_autodiff() {
    for is_tied in [false, true] {
        assert_agrees_with_autodiff(model_with_factors(is_tied), &[tokens(0, false)]);
    }
}

#[test]
fn ignored_targets_give_the_gradients_of_autodiff() {
    assert_agrees_with_autodiff(model(true), &[tokens(0, true)]);
    assert_agrees_with_autodiff(model_with_factors(false), &[tokens(0, true)]);
}

#[test]
fn accumulated_gradients_are_the_mean_over_micro_batches() {
    let micro_batches = [tokens(0, true), tokens(1, false), tokens(2, true)];
    for is_tied in [false, true] {
        assert_agrees_with_autodiff(model(is_tied), &micro_batches);
        assert_agrees_with_autodiff(model_with_factors(is_tied), &micro_batches);
    }
}

#[test]
fn full_rank_gradients_agree_with_differences_in_f64() {
    assert_agrees_with_differences(model(false), true);
    assert_agrees_with_differences(model(true), false);
}

#[test]
fn factor_gradients_agree_with_differences_in_f64() {
    assert_agrees_with_differences(model_with_factors(false), false);
    assert_agrees_with_differences(model_with_factors(true), true);
}

// Section 10.3: the lengths of the rows are constants in the backward pass.
#[test]
fn magnitude_gradients_agree_with_differences_in_f64_at_constant_lengths() {
    assert_agrees_with_differences(model_with_magnitudes(false), false);
    assert_agrees_with_differences(model_with_magnitudes(true), true);
}

#[test]
fn biases_and_norms_of_heads_have_the_gradients_of_autodiff() {
    let micro_batches = [tokens(0, true), tokens(1, false)];
    for (is_tied, variant) in VARIANTS.into_iter().enumerate() {
        let is_tied = is_tied % 2 == 0;
        assert_agrees_with_autodiff(model_of(is_tied, variant), &micro_batches);
        let adapted = with_factors(model_of(is_tied, variant));
        assert_agrees_with_autodiff(adapted, &micro_batches);
    }
}

#[test]
fn biases_and_norms_of_heads_have_the_gradients_of_differences_in_f64() {
    let [biased, _, _, normed] = VARIANTS;
    assert_agrees_with_differences(model_of(false, normed), true);
    let adapted = with_magnitudes(with_factors(model_of(true, biased)));
    assert_agrees_with_differences(adapted, false);
}

#[test]
fn frozen_biases_and_norms_of_heads_have_no_gradient() {
    for variant in VARIANTS {
        let mut model = with_factors(model_of(true, variant));
        let extra = |name: &str| name.ends_with("bias") || name.contains("_norm.weight");
        let (_, all) = explicit(&mut model, &[tokens(0, false)], false);
        assert!(all.keys().any(|name| extra(name)), "{variant:?}");
        for id in model.non_targets() {
            model.params.set_trainable(id, false);
        }
        let (_, rest) = explicit(&mut model, &[tokens(0, false)], false);
        assert!(!rest.keys().any(|name| extra(name)), "{variant:?}");
        assert!(rest.iter().all(|(name, grad)| all[name] == *grad), "{variant:?}");
    }
}

#[test]
fn magnitude_gradients_are_accumulated_over_micro_batches() {
    let mut model = model_with_magnitudes(false);
    let micro_batches = [tokens(0, false), tokens(1, false)];
    let (_, both) = explicit(&mut model, &micro_batches, false);
    let each = micro_batches.map(|batch| explicit(&mut model, &[batch], false).1);
    assert!(both.keys().any(|name| name.ends_with("lora_magnitude_vector")));
    for (name, both) in &both {
        let scale = largest(both);
        for (i, both) in both.iter().enumerate() {
            let mean = f32::midpoint(each[0][name][i], each[1][name][i]);
            let error = f64::from((both - mean).abs()) / scale;
            assert!(error < AUTODIFF_TOLERANCE, "{name}[{i}]: {both} for {mean}");
        }
    }
}

#[test]
fn recomputed_activations_give_the_same_bits() {
    let variants = VARIANTS.map(|variant| model_of(true, variant));
    let plain = [model(true), model_with_factors(false), model_with_magnitudes(true)];
    for mut model in plain.into_iter().chain(variants) {
        let micro_batches = [tokens(0, false), tokens(1, true)];
        let kept: BTreeMap<_, _> = explicit(&mut model, &micro_batches, false).1;
        assert_eq!(kept, explicit(&mut model, &micro_batches, true).1);
    }
}
