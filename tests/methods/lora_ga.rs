//! LoRA-GA's invariants (section 7.5): what the start is, what the first step does, what is left alone.

use fullrank::config::{RunConfig, Targets};
use fullrank::kernels::Matrix;
use fullrank::linalg::svd::{Svd, svd};
use fullrank::methods::lora_ga::gradient::estimate;
use fullrank::model::Model;
use fullrank::run::engine::Engine;
use fullrank::run::setup;
use fullrank::runlog::{Body, Init};

use super::fixture::{
    AHEAD, LINEARS, all_effective, assert_exports_as_an_adapter, assert_same, batch, config,
    device, effective, engine, engine_of, gradients, logits, parameter_bits, product,
    relative_difference, shape, snapshot, step, tolerances, train, transposed, wide,
};

/// Directions and scales in every combination, with and without the clip.
fn variants() -> Vec<RunConfig> {
    let mut all = Vec::new();
    for direction in ["ArB2r", "A2rBr", "ArBr", "random"] {
        for scale in ["stable", "gd", "unit", "weight"] {
            for norm_clip in [false, true] {
                let mut config = config("lora-ga");
                config.lora_ga.direction = direction.into();
                config.lora_ga.scale = scale.into();
                config.lora_ga.norm_clip = norm_clip;
                all.push(config);
            }
        }
    }
    all
}

fn inits(engine: &Engine) -> Vec<Init> {
    let of = |body: &Body| match body {
        Body::Init(init) => Some(init.clone()),
        _ => None,
    };
    engine.events.iter().filter_map(of).collect()
}

fn values(grad: Option<&Matrix>) -> Vec<f64> {
    grad.unwrap().to_host().into_iter().map(f64::from).collect()
}

/// `Σ s·u·vᵀ` of the first `k` triplets, `[m, n]`.
fn sum_of(svd: &Svd, k: usize, n: usize) -> Vec<f64> {
    let entry = |i: usize, j: usize| (0..k).map(|l| svd.s[l] * svd.u[l][i] * svd.v[l][j]).sum();
    (0..svd.u[0].len() * n).map(|at| entry(at / n, at % n)).collect()
}

// Invariant 1, for every direction and scale.
#[test]
fn every_start_leaves_the_function_as_it_was() {
    let full = engine(&config("full"));
    let (weights, expected) = (all_effective(&full.model), logits(&full.model, 0));
    for config in variants() {
        let engine = engine(&config);
        let name = format!("{:?}", config.lora_ga);
        let difference = relative_difference(&logits(&engine.model, 0), &expected);
        assert!(difference <= 1e-5, "{name}: logits differ by {difference:e}");
        let tolerances = tolerances(&engine.model);
        for ((linear, base), allowed) in
            engine.model.linears().iter().zip(&weights).zip(&tolerances)
        {
            let ours = effective(&engine.model, linear);
            for ((ours, base), allowed) in ours.iter().zip(base).zip(allowed) {
                assert!((ours - base).abs() <= *allowed, "{name}, {}: {ours}", linear.name);
            }
        }
    }
}

// Invariant 2 and section 7.3: ΔW_eff = −η·s²·c²·G_2r + O(η²).
#[test]
fn the_first_plain_step_is_the_best_step_of_twice_the_rank() {
    for direction in ["ArB2r", "A2rBr", "ArBr", "random"] {
        let mut config = config("lora-ga");
        config.train.rank = Some(3);
        config.lora_ga.direction = direction.into();
        config.lora_ga.sequences = 3;
        let mut engine = engine(&config);
        let seen = batch(AHEAD + 1);
        let dense = gradients(&mut Model::init(shape(), 7, &device()), &seen);
        let twin = Model::init(shape(), 7, &device());
        let ours = gradients(&mut engine.model, &seen);
        let eta = 1e-6;
        for (place, linear) in engine.model.linears().iter().enumerate() {
            let (m, n) = (linear.rows, linear.cols);
            let g = values(dense.get(twin.linears()[place].weight.unwrap()));
            let adapter = linear.adapter.unwrap();
            let (a, b) = (wide(&engine.model, adapter.a), wide(&engine.model, adapter.b));
            let rank = a.len() / n;
            let descend = |x: &[f64], grad: &[f64]| -> Vec<f64> {
                x.iter().zip(grad).map(|(x, grad)| x - eta * grad).collect()
            };
            let (da, db) = (values(ours.get(adapter.a)), values(ours.get(adapter.b)));
            let after = product(&descend(&b, &db), &descend(&a, &da), m, rank, n);
            let before = product(&b, &a, m, rank, n);
            let s = f64::from(adapter.scale);
            let change: Vec<f64> = after.iter().zip(&before).map(|(x, y)| s * (x - y)).collect();
            let c_squared = (m as f64).sqrt() / 16.0;
            let best = sum_of(&svd(&g, m, n).unwrap(), 2 * rank, n);
            let expected: Vec<f64> = best.iter().map(|g| -eta * s * s * c_squared * g).collect();
            let difference = relative_difference(&change, &expected);
            assert!(difference < 5e-5, "{direction}, {}: {difference:e}", linear.name);
        }
    }
}

// Invariant 3, for every scale; the clip shortens both factors alike.
#[test]
fn the_rows_of_a_and_the_columns_of_b_are_orthogonal_and_of_one_length() {
    for config in variants() {
        let engine = engine(&config);
        for linear in engine.model.linears() {
            let (m, n) = (linear.rows, linear.cols);
            let adapter = linear.adapter.unwrap();
            let (a, b) = (wide(&engine.model, adapter.a), wide(&engine.model, adapter.b));
            let rank = a.len() / n;
            let gram_a = product(&a, &transposed(&a, rank, n), rank, n, rank);
            let gram_b = product(&transposed(&b, m, rank), &b, rank, m, rank);
            let c_squared = match (config.lora_ga.scale.as_str(), config.lora_ga.norm_clip) {
                ("stable", false) => (m as f64).sqrt() / 16.0,
                ("gd", false) => f64::from(adapter.scale).powi(-2),
                ("unit", false) => 1.0,
                _ => gram_a[0],
            };
            for gram in [gram_a, gram_b] {
                for (at, value) in gram.iter().enumerate() {
                    let expected = if at % (rank + 1) == 0 { c_squared } else { 0.0 };
                    let error = (value - expected).abs() / c_squared;
                    assert!(error < 2e-6, "{:?}, {}: {error:e}", config.lora_ga, linear.name);
                }
            }
        }
    }
}

#[test]
fn the_norm_clip_limits_the_product_to_the_largest_weight() {
    let full = engine(&config("full"));
    let largest = |values: &[f64]| values.iter().fold(0f64, |most, v| most.max(v.abs()));
    let products = |norm_clip: bool| -> Vec<f64> {
        let mut config = config("lora-ga");
        config.lora_ga.scale = "unit".into();
        config.lora_ga.norm_clip = norm_clip;
        let engine = engine(&config);
        let of = |(linear, base): (&fullrank::model::Linear, &fullrank::model::Linear)| {
            let adapter = linear.adapter.unwrap();
            let (a, b) = (wide(&engine.model, adapter.a), wide(&engine.model, adapter.b));
            let product = product(&b, &a, linear.rows, a.len() / linear.cols, linear.cols);
            f64::from(adapter.scale) * largest(&product)
                / largest(&wide(&full.model, base.weight.unwrap()))
        };
        engine.model.linears().iter().zip(full.model.linears()).map(of).collect()
    };
    assert!(products(false).iter().all(|&ratio| ratio > 1.5), "without it they are larger");
    for ratio in products(true) {
        assert!((ratio - 1.0).abs() < 1e-5, "{ratio}");
    }
}

// Invariant 4.
#[test]
fn the_captured_energy_grows_with_the_rank_up_to_one() {
    let mut last = [0.0; LINEARS];
    for rank in 1..=8 {
        let mut config = config("lora-ga");
        config.train.rank = Some(rank);
        let engine = engine(&config);
        let inits = inits(&engine);
        assert_eq!(inits.len(), LINEARS);
        for (last, init) in last.iter_mut().zip(&inits) {
            let energy = init.energy.unwrap();
            assert!(energy > 0.0 && energy <= 1.0 && energy >= *last, "rank {rank}: {energy}");
            assert!(init.grad_norm.unwrap() > 0.0);
            *last = energy;
        }
        let phase = engine.events.iter().find_map(|body| match body {
            Body::Phase(phase) => Some(phase.clone()),
            _ => None,
        });
        assert_eq!(phase.unwrap().name, "gradient-estimate");
    }
    assert!(last.iter().all(|&energy| energy > 1.0 - 1e-9), "rank C/2 takes all: {last:?}");
}

// Section 1.9: `2r > C` lowers r to ⌊C/2⌋.
#[test]
fn a_rank_above_half_the_smaller_side_is_lowered_and_told() {
    let mut config = config("lora-ga");
    config.train.rank = Some(10);
    let mut engine = engine(&config);
    for linear in engine.model.linears() {
        let rank = engine.model.params.value(linear.adapter.unwrap().a).shape()[0];
        assert_eq!(rank, linear.max_rank() / 2, "{}", linear.name);
        let scale = linear.adapter.unwrap().scale;
        assert!((scale - 4.0 / (rank as f32).sqrt()).abs() < 1e-6, "{scale}");
    }
    let clamps = engine.events.iter().filter(|body| matches!(body, Body::Clamp(_))).count();
    assert_eq!(clamps, LINEARS);
    train(&mut engine, 3);
}

// Invariant 5.
#[test]
fn an_adapter_of_twice_the_rank_on_the_original_weight_is_the_trained_model() {
    for rank in [1, 4, 8] {
        let mut config = config("lora-ga");
        config.train.rank = Some(rank);
        assert_exports_as_an_adapter(&config, 2 * rank);
    }
}

// Invariant 6.
#[test]
fn the_estimate_leaves_weights_optimizer_and_what_is_trained_untouched() {
    let mut config = config("lora-ga");
    for trains_rest in [true, false] {
        config.train.train_non_targets = Some(trains_rest);
        let model = Model::init(shape(), 7, &device());
        let mut engine = setup::engine(&config, model).unwrap();
        let flags = |engine: &Engine| -> Vec<bool> {
            engine.model.params.iter().map(|(_, param)| param.trainable).collect()
        };
        let (bits, trained) = (parameter_bits(&engine.model), flags(&engine));
        let mut draw = 0;
        let mut ahead = || {
            draw += 1;
            Ok(batch(draw))
        };
        engine.with_method(|method, cx| method.look_ahead(cx, &mut ahead)).unwrap();
        assert_eq!(draw, 3, "8 sequences in batches of 3");
        assert_same("weights", &parameter_bits(&engine.model), &bits);
        assert_eq!(flags(&engine), trained);
        assert_eq!(engine.optimizer.iter().count(), 0);
        assert_eq!(engine.t, 0);
    }
}

// Invariant 6.
#[test]
fn the_same_data_give_the_same_start_and_other_data_another() {
    let config = config("lora-ga");
    let (mut one, mut two) = (engine(&config), engine(&config));
    assert_same("two starts", &snapshot(&mut one), &snapshot(&mut two));
    let mut recomputing = config.clone();
    recomputing.train.grad_checkpoint = true;
    let mut three = engine(&recomputing);
    assert_same("recomputing", &snapshot(&mut three), &snapshot(&mut one));
    let model = Model::init(shape(), 7, &device());
    let mut other = setup::engine(&config, model).unwrap();
    other.prepare(&mut || Ok(batch(1))).unwrap();
    assert_ne!(parameter_bits(&other.model), parameter_bits(&one.model));
}

#[test]
fn the_estimate_is_the_mean_of_the_gradients_of_its_batches() {
    let mut model = Model::init(shape(), 7, &device());
    let mut draw = 0;
    let mut ahead = || {
        draw += 1;
        Ok(batch(draw))
    };
    let means = estimate(&mut model, &Targets::ALL, 3, false, &mut ahead).unwrap();
    assert_eq!(means.len(), LINEARS);
    let each: Vec<_> = (1..=3).map(|draw| gradients(&mut model, &batch(draw))).collect();
    for (linear, mean) in model.linears().iter().zip(&means) {
        let grads: Vec<_> = each.iter().map(|g| values(g.get(linear.weight.unwrap()))).collect();
        let expected: Vec<f64> =
            (0..mean.len()).map(|i| grads.iter().map(|g| g[i]).sum::<f64>() / 3.0).collect();
        let mean: Vec<f64> = mean.iter().map(|&v| f64::from(v)).collect();
        assert!(relative_difference(&mean, &expected) < 1e-6, "{}", linear.name);
    }
}

#[test]
fn preparing_without_a_look_ahead_is_an_error() {
    let config = config("lora-ga");
    let model = Model::init(shape(), 7, &device());
    let mut engine = setup::engine(&config, model).unwrap();
    let error = engine.with_method(|method, cx| method.prepare(cx)).unwrap_err();
    assert!(error.to_string().contains("no gradient"), "{error}");
}

#[test]
fn a_layer_with_a_side_of_one_is_an_error() {
    let mut narrow = shape();
    narrow.intermediate_size = 1;
    let model = Model::init(narrow, 7, &device());
    let mut engine = setup::engine(&config("lora-ga"), model).unwrap();
    let error = engine.prepare(&mut || Ok(batch(1))).unwrap_err();
    assert!(error.to_string().contains("1 x 16"), "{error}");
}

#[test]
fn it_trains_with_a_frozen_dense_weight() {
    for (name, config) in [("plain", config("lora-ga")), ("clip", variants().remove(1))] {
        let mut engine = engine_of(&config, shape());
        let start = parameter_bits(&engine.model);
        let first = engine.step(&[batch(0)]).unwrap().loss;
        let mut last = first;
        for _ in 0..30 {
            last = engine.step(&[batch(0)]).unwrap().loss;
        }
        assert!(last < 0.8 * first, "{name}: {first} to {last}");
        let end = parameter_bits(&engine.model);
        for linear in engine.model.linears() {
            let weight = format!("{}.weight", linear.name);
            assert_eq!(start[&weight], end[&weight]);
        }
        step(&mut engine);
    }
}
