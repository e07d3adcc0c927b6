//! `GaLore`: what the projection, its refresh and the per-layer update promise.

use std::collections::BTreeMap;

use faer::Mat;
use fullrank::config::RunConfig;
use fullrank::device::memory::Category;
use fullrank::run::checkpoint::{Checkpoint, Progress, save};
use fullrank::run::engine::Engine;
use fullrank::run::setup;
use fullrank::runlog::{Body, Subspace};

use super::fixture::{
    assert_same, batch, config, device, engine, gradients, method_state, parameter_bits, product,
    snapshot, train, transposed, wide,
};

/// Every projector on the host, by name.
fn projectors(engine: &mut Engine) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let tensors = method_state(engine).tensors.into_iter();
    let projectors = tensors.filter(|tensor| tensor.name.ends_with(".projector"));
    projectors
        .map(|tensor| (tensor.name, (tensor.value.shape().to_vec(), tensor.value.to_host())))
        .collect()
}

pub fn refreshes(engine: &Engine) -> Vec<Subspace> {
    let events = engine.events.iter().filter_map(|event| match event {
        Body::Subspace(subspace) => Some(subspace.clone()),
        _ => None,
    });
    events.collect()
}

/// Writes the engine's state to disk and makes another engine of it.
fn reopened(config: &RunConfig, engine: &mut Engine) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let progress = Progress { t: engine.t, ..Progress::default() };
    let path = save(folder.path(), engine, &progress).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let model = checkpoint.load_model(&device()).unwrap();
    let mut other = setup::engine(config, model).unwrap();
    checkpoint.restore(&mut other, true).unwrap();
    other
}

/// Saves after each of `stops` updates and compares seven updates from there.
pub fn assert_resumes(what: &str, config: &RunConfig, stops: &[u64]) {
    let mut run = engine(config);
    for &stop in stops {
        while run.t < stop {
            train(&mut run, 1);
        }
        let mut other = reopened(config, &mut run);
        assert_same(&format!("{what} at {stop}"), &snapshot(&mut other), &snapshot(&mut run));
        train(&mut run, 7);
        train(&mut other, 7);
        assert_same(&format!("{what} after {stop}"), &snapshot(&mut other), &snapshot(&mut run));
    }
}

// Invariant 1.
#[test]
fn projectors_are_orthonormal_and_the_step_lies_in_their_span() {
    let mut engine = engine(&config("galore"));
    let start = engine
        .model
        .linears()
        .iter()
        .map(|l| wide(&engine.model, l.weight.unwrap()))
        .collect::<Vec<_>>();
    train(&mut engine, 1);
    let projectors = projectors(&mut engine);
    for (linear, before) in engine.model.linears().to_vec().iter().zip(start) {
        let (shape, rows) = &projectors[&format!("{}.projector", linear.name)];
        let (r, len) = (shape[0], shape[1]);
        let p: Vec<f64> = rows.iter().map(|&v| f64::from(v)).collect();
        let pt = transposed(&p, r, len);
        for (k, value) in product(&p, &pt, r, len, r).into_iter().enumerate() {
            let wanted = f64::from(u8::from(k / r == k % r));
            assert!((value - wanted).abs() < 1e-5, "{}: {value}", linear.name);
        }
        let after = wide(&engine.model, linear.weight.unwrap());
        let step: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let span = product(&pt, &p, len, r, len);
        let inside = if linear.rows < linear.cols {
            product(&span, &step, len, len, linear.cols)
        } else {
            product(&step, &span, linear.rows, len, len)
        };
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let outside: Vec<f64> = step.iter().zip(&inside).map(|(s, i)| s - i).collect();
        // The difference of two weights in f32 has rounding of its own.
        assert!(
            norm(&outside) <= 2e-5 * norm(&step),
            "{}: {}",
            linear.name,
            norm(&outside) / norm(&step)
        );
    }
    for event in refreshes(&engine) {
        assert!(event.energy > 0.0 && event.energy <= 1.0, "{event:?}");
    }
}

// Invariant 2.
#[test]
fn projectors_keep_their_bits_between_refreshes_and_moments_keep_theirs_across_one() {
    let mut engine = engine(&config("galore"));
    train(&mut engine, 1);
    let first = projectors(&mut engine);
    train(&mut engine, 4);
    assert_eq!(first, projectors(&mut engine), "updates 1 to 4 use the projectors of update 0");
    let before = snapshot(&mut engine);
    let batch = batch(engine.t);
    let mut grads = gradients(&mut engine.model, &batch);
    engine.with_method(|method, cx| method.before_update(cx, &mut grads));
    let after = snapshot(&mut engine);
    for (name, bits) in &before {
        assert_eq!(after[name] == *bits, !name.ends_with(".projector"), "{name}");
    }
    let overlaps: Vec<_> = refreshes(&engine).iter().filter_map(|event| event.overlap).collect();
    assert_eq!(overlaps.len(), engine.model.linears().len());
    assert!(overlaps.iter().all(|overlap| (0.0..=1.0 + 1e-6).contains(overlap)));
}

// Invariant 5.
#[test]
fn full_rank_is_adamw_with_the_rate_times_alpha_to_the_bit() {
    let mut config_galore = config("galore");
    config_galore.train.rank = Some(16);
    config_galore.train.alpha = Some(1.0);
    let mut ours = engine(&config_galore);
    let mut full = engine(&config("full"));
    train(&mut ours, 8);
    train(&mut full, 8);
    assert_eq!(parameter_bits(&ours.model), parameter_bits(&full.model));
    assert!(projectors(&mut ours).is_empty());
}

// Invariant 6.
#[test]
fn the_change_of_a_weight_has_at_most_one_rank_for_each_refresh() {
    let mut config = config("galore");
    config.train.rank = Some(2);
    let mut engine = engine(&config);
    let weights = |engine: &Engine| -> Vec<Vec<f64>> {
        engine.model.linears().iter().map(|l| wide(&engine.model, l.weight.unwrap())).collect()
    };
    let start = weights(&engine);
    for (updates, bound) in [(5, 2), (5, 4)] {
        train(&mut engine, updates);
        for ((linear, before), after) in
            engine.model.linears().iter().zip(&start).zip(weights(&engine))
        {
            let columns = linear.cols;
            let change = Mat::from_fn(linear.rows, columns, |i, j| {
                after[i * columns + j] - before[i * columns + j]
            });
            let spectrum = change.singular_values().unwrap();
            assert!(spectrum[bound] < 1e-4 * spectrum[0], "{}: {spectrum:?}", linear.name);
            assert!(spectrum[bound - 1] > 1e-3 * spectrum[0], "{}: {spectrum:?}", linear.name);
        }
    }
}

#[test]
fn per_layer_updates_give_the_bits_of_updates_at_the_end_and_leave_no_gradients() {
    let mut at_once = config("galore");
    at_once.galore.per_layer = true;
    let (mut ours, mut other) = (engine(&at_once), engine(&config("galore")));
    train(&mut ours, 8);
    train(&mut other, 8);
    assert_same("per layer", &snapshot(&mut ours), &snapshot(&mut other));
    let held = ours.model.device().ledger().read().now[Category::Gradients as usize];
    assert_eq!(held, 0);
}

#[test]
fn a_gradient_that_is_not_finite_is_not_applied_per_layer_either() {
    let mut at_once = config("galore");
    at_once.galore.per_layer = true;
    let mut engine = engine(&at_once);
    train(&mut engine, 2);
    let head = engine.model.params.find("lm_head.weight").unwrap();
    let mut values = engine.model.params.value(head).to_host();
    values[3] = f32::NAN;
    super::fixture::set(&mut engine.model, head, values);
    let before = snapshot(&mut engine);
    let outcome = engine.step(&[batch(2)]).unwrap();
    assert!(!outcome.is_applied);
    assert_same("a skipped update", &snapshot(&mut engine), &before);
}

// At the first update, between refreshes, at one, and with a decay of weights.
#[test]
fn gradients_that_are_not_finite_change_nothing_and_counters_are_set_back() {
    for (decay, updates) in [(0.0, 0), (0.0, 2), (0.01, 2), (0.0, 5)] {
        let mut at_once = config("galore");
        at_once.galore.per_layer = true;
        at_once.train.weight_decay = decay;
        let mut engine = engine(&at_once);
        train(&mut engine, updates);
        let norm = "model.layers.0.post_attention_layernorm.weight";
        let id = engine.model.params.find(norm).unwrap();
        let whole = engine.model.params.value(id).to_host();
        let mut broken = whole.clone();
        broken[3] = f32::INFINITY;
        super::fixture::set(&mut engine.model, id, broken);
        let before = snapshot(&mut engine);
        let outcome = engine.step(&[batch(updates)]).unwrap();
        assert!(!outcome.is_applied);
        let after = snapshot(&mut engine);
        assert_same(&format!("after {updates} updates"), &after, &before);
        // It goes on as if nothing had been.
        super::fixture::set(&mut engine.model, id, whole);
        train(&mut engine, 1);
    }
}

#[test]
fn moments_are_kept_rotated_or_reset_at_a_refresh() {
    let moments = |carry: &str| {
        let mut config = config("galore");
        config.galore.carry = carry.into();
        let mut engine = engine(&config);
        train(&mut engine, 5);
        let norm = |engine: &Engine| -> Vec<(u32, f64, f32)> {
            let moments = engine.model.linears().iter().filter_map(|linear| {
                engine.optimizer.iter().find(|(id, _)| Some(*id) == linear.weight)
            });
            let sums = moments.map(|(_, moments)| {
                let (m, v) = (moments.exp_avg.to_host(), moments.exp_avg_sq.to_host());
                let squares = m.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
                (moments.step, squares, v.into_iter().fold(f32::INFINITY, f32::min))
            });
            sums.collect()
        };
        let before = norm(&engine);
        let batch = batch(engine.t);
        let mut grads = gradients(&mut engine.model, &batch);
        engine.with_method(|method, cx| method.before_update(cx, &mut grads));
        (before, norm(&engine))
    };
    let (before, after) = moments("keep");
    assert_eq!(before, after);
    let (before, after) = moments("rotate");
    for ((step, norm, _), (new_step, new_norm, least)) in before.iter().zip(&after) {
        assert_eq!(step, new_step);
        // The part outside the new subspace is lost; a change of basis adds nothing.
        assert!(*new_norm <= norm * 1.000_01 && *least >= 0.0, "{norm} {new_norm} {least}");
    }
    assert_ne!(before, after);
    let (before, after) = moments("reset");
    assert_eq!(before.len(), engine(&config("galore")).model.linears().len());
    assert!(after.is_empty(), "moments and counters start again");
}

#[test]
fn galore_resumes_to_the_bit_between_refreshes_and_at_one() {
    for carry in ["keep", "rotate", "reset"] {
        let mut config = config("galore");
        config.galore.carry = carry.into();
        config.train.max_grad_norm = Some(0.5);
        config.train.weight_decay = 0.01;
        assert_resumes(carry, &config, &[0, 3, 5, 9]);
    }
    let mut config = config("galore");
    config.galore.per_layer = true;
    // Layers of 8 x 16 have their full rank here, the others have not.
    config.train.rank = Some(10);
    assert_resumes("per layer", &config, &[2, 10]);
}
