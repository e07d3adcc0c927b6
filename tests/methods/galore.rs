//! `GaLore`: what the projection, its refresh and the per-layer update promise.

use std::collections::BTreeMap;

use faer::Mat;
use fullrank::config::RunConfig;
use fullrank::device::memory::Category;
use fullrank::kernels::Matrix;
use fullrank::methods::projection::{Carry, Layer, Rules};
use fullrank::model::Linear;
use fullrank::random::stream;
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

/// A layer of the shape with the rank, and the projector of a random gradient in use.
fn installed([m, n]: [usize; 2], rank: usize, grad: &[f32]) -> (Layer, Vec<f64>) {
    let linear = Linear {
        name: "layer".into(),
        rows: m,
        cols: n,
        weight: engine(&config("full")).model.linears()[0].weight,
        adapter: None,
        sparse: None,
        block: 0,
        blocks: 1,
        magnitude: None,
        bias: None,
    };
    let mut layer = Layer::new(&linear, rank).unwrap();
    let rules = Rules { gap: 1, carry: Carry::Keep, decomposition: None, residual: None };
    let found = layer.find(grad, &rules, 1, 0);
    let mut engine = engine(&config("full"));
    engine.with_method(|_, cx| layer.install(&mut cx.for_layers(0.0), found, Carry::Keep));
    let projector = layer.projector().unwrap().into_iter().map(f64::from).collect();
    (layer, projector)
}

const SHAPES: [[usize; 2]; 3] = [[7, 12], [12, 7], [9, 9]];

// Invariant 3: without Adam between projection and its way back, a square projector changes nothing.
#[test]
fn a_square_projector_gives_the_gradient_back() {
    for shape @ [m, n] in SHAPES {
        let values = stream(5, "grad", "test", 0).normal_vec(m * n, 1.0);
        let (layer, projector) = installed(shape, m.min(n), &values);
        assert_eq!(projector.len(), m.min(n) * m.min(n));
        let grad = Matrix::from_host(values.clone(), shape, &device(), Category::Gradients);
        let zeros = Matrix::zeros(shape, &device(), Category::Weights);
        let back = layer.add_back(zeros, 1.0, &layer.project(&grad)).to_host();
        for (back, value) in back.iter().zip(values) {
            assert!((back - value).abs() < 1e-5, "{shape:?}: {back} {value}");
        }
    }
}

// Invariant 7, against a decomposition of another kind: singular vectors instead of a Gram matrix.
#[test]
fn projectors_span_the_leading_singular_vectors() {
    for shape @ [m, n] in SHAPES {
        let noise = stream(6, "grad", "test", 0).normal_vec(m * n, 0.01);
        // Three strong directions, so that there is a gap.
        let values: Vec<f32> = (noise.iter().enumerate())
            .map(|(k, v)| v + if k / n == k % n && k / n < 3 { 3.0 - (k / n) as f32 } else { 0.0 })
            .collect();
        let (_, projector) = installed(shape, 3, &values);
        let matrix = Mat::from_fn(m, n, |i, j| f64::from(values[i * n + j]));
        let svd = matrix.thin_svd().unwrap();
        let vectors = if m < n { svd.U() } else { svd.V() };
        let len = m.min(n);
        let shared: f64 = (0..3)
            .flat_map(|k| (0..3).map(move |l| (k, l)))
            .map(|(k, l)| {
                (0..len).map(|i| projector[k * len + i] * vectors[(i, l)]).sum::<f64>().powi(2)
            })
            .sum();
        assert!(shared / 3.0 > 0.999_99, "{shape:?}: {shared}");
    }
}

// Invariant 4.
#[test]
fn the_step_is_that_of_adam_in_the_subspace_projected_back() {
    let mut config = config("galore");
    config.train.alpha = Some(0.25);
    let mut engine = engine(&config);
    let weights = |engine: &Engine| -> Vec<Vec<f64>> {
        engine.model.linears().iter().map(|l| wide(&engine.model, l.weight.unwrap())).collect()
    };
    let mut moments: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    for k in 1..=3 {
        let grads = gradients(&mut engine.model, &batch(engine.t));
        let before = weights(&engine);
        train(&mut engine, 1);
        let projectors = projectors(&mut engine);
        for (index, linear) in engine.model.linears().to_vec().iter().enumerate() {
            let (m, n) = (linear.rows, linear.cols);
            let grad: Vec<f64> = grads
                .get(linear.weight.unwrap())
                .unwrap()
                .to_host()
                .into_iter()
                .map(f64::from)
                .collect();
            let (shape, rows) = &projectors[&format!("{}.projector", linear.name)];
            let (r, len) = (shape[0], shape[1]);
            let p: Vec<f64> = rows.iter().map(|&v| f64::from(v)).collect();
            let pt = transposed(&p, r, len);
            let is_left = m < n;
            let projected =
                if is_left { product(&p, &grad, r, m, n) } else { product(&grad, &pt, m, n, r) };
            if k == 1 {
                moments.push((vec![0.0; projected.len()], vec![0.0; projected.len()]));
            }
            let (first, second) = &mut moments[index];
            let mut direction = Vec::new();
            for (i, g) in projected.iter().enumerate() {
                first[i] = 0.9 * first[i] + 0.1 * g;
                second[i] = 0.999 * second[i] + 0.001 * g * g;
                let (one, two) = (1.0 - 0.9f64.powi(k), 1.0 - 0.999f64.powi(k));
                direction.push(first[i] / one / ((second[i] / two).sqrt() + 1e-8));
            }
            let back = if is_left {
                product(&pt, &direction, m, r, n)
            } else {
                product(&direction, &p, m, r, n)
            };
            let after = wide(&engine.model, linear.weight.unwrap());
            for ((after, before), back) in after.iter().zip(&before[index]).zip(back) {
                let expected = before - 0.01 * 0.25 * back;
                assert!(
                    (after - expected).abs() < 2e-6,
                    "{} at {k}: {after} {expected}",
                    linear.name
                );
            }
        }
    }
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
