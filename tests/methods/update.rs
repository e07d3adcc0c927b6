//! One update of the engine: rate zero, accumulation, recomputation, clipping. Full rank and the adapters.

use fullrank::config::RunConfig;
use fullrank::kernels::Matrix;
use fullrank::model::Batch;
use fullrank::random::stream;
use fullrank::run::engine::Engine;

use super::fixture::{
    SEQ_LEN, assert_same, batch, batch_of, busy_switchlora, config, device, engine, gradients,
    parameter_bits, relative_difference, relora, snapshot, step, train, wide,
};

fn methods() -> Vec<(&'static str, RunConfig)> {
    vec![
        ("full", config("full")),
        ("lora", config("lora")),
        ("switchlora", busy_switchlora()),
        // Within its first cycle.
        ("relora", relora(0, 100)),
    ]
}

// Section 9.
#[test]
fn at_learning_rate_zero_weights_keep_their_bits() {
    for (name, mut config) in methods() {
        config.train.learning_rate = Some(0.0);
        config.train.weight_decay = 0.1;
        // Switches do change W, A and B.
        config.switchlora.interval0 = f64::INFINITY;
        let mut engine = engine(&config);
        let start = parameter_bits(&engine.model);
        train(&mut engine, 5);
        assert_same(name, &parameter_bits(&engine.model), &start);
        let is_zero = |moment: &Matrix| moment.to_host().iter().all(|&v| v == 0.0);
        let is_moving = engine.optimizer.iter().any(|(_, moments)| !is_zero(&moments.exp_avg));
        assert!(is_moving, "{name}: moments are those of an update");
    }
}

/// The same tokens as one batch and as four micro-batches of equal size.
fn whole_and_parts(draw: u64) -> (Batch, Vec<Batch>) {
    let mut random = stream(13, "accumulate", "test", draw);
    let mut ids = || (0..8 * SEQ_LEN).map(|_| random.below(50) as i32).collect::<Vec<_>>();
    let (inputs, targets) = (ids(), ids());
    let device = device();
    let make = |inputs: &[i32], targets: &[i32]| Batch::new(inputs, targets, SEQ_LEN, &device);
    let part = 2 * SEQ_LEN;
    let parts = inputs.chunks(part).zip(targets.chunks(part)).map(|(i, t)| make(i, t)).collect();
    (make(&inputs, &targets), parts)
}

// Section 9.
#[test]
fn accumulating_micro_batches_equals_one_large_batch_to_rounding() {
    for (name, mut config) in methods() {
        config.train.max_grad_norm = Some(0.5);
        // Smooth in the gradient: a tiny gradient must not decide the sign of a step.
        config.train.adam_eps = 1e-2;
        let (mut whole, mut parts) = (engine(&config), engine(&config));
        for draw in 0..6 {
            let (batch, micro_batches) = whole_and_parts(draw);
            let one = whole.step(&[batch]).unwrap();
            let four = parts.step(&micro_batches).unwrap();
            assert!((one.loss / four.loss - 1.0).abs() < 1e-6, "{name}: loss");
            assert!((one.grad_norm / four.grad_norm - 1.0).abs() < 1e-5, "{name}: norm");
            for (id, param) in whole.model.params.iter() {
                let (ours, right) = (wide(&parts.model, id), wide(&whole.model, id));
                if right.iter().any(|&v| v != 0.0) {
                    let difference = relative_difference(&ours, &right);
                    assert!(difference < 1e-5, "{name}: {} differs by {difference:e}", param.name);
                }
            }
        }
    }
}

#[test]
fn recomputing_activations_gives_the_same_bits() {
    for (name, mut config) in methods() {
        let mut kept = engine(&config);
        config.train.grad_checkpoint = true;
        let mut recomputed = engine(&config);
        assert!(recomputed.settings.recompute && !kept.settings.recompute);
        for t in 0..4 {
            let micro_batches = || [batch(t), batch(t + 100)];
            let ours = recomputed.step(&micro_batches()).unwrap();
            assert_eq!(ours, kept.step(&micro_batches()).unwrap(), "{name}");
        }
        assert_same(name, &snapshot(&mut recomputed), &snapshot(&mut kept));
    }
}

#[test]
fn the_same_run_gives_the_same_bits_and_another_batch_others() {
    for (name, config) in methods() {
        let run = |shift: u64| {
            let mut engine = engine(&config);
            for t in 0..5 {
                engine.step(&[batch(t + shift)]).unwrap();
            }
            snapshot(&mut engine)
        };
        assert_same(name, &run(0), &run(0));
        assert_ne!(run(0), run(1), "{name}");
    }
}

/// The norm of all first moments together.
fn norm_of_first_moments(engine: &Engine) -> f64 {
    let squares = engine.optimizer.iter().flat_map(|(_, moments)| moments.exp_avg.to_host());
    squares.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

// Section 1.3: every gradient is scaled by clip / (norm + 1e-6) where the norm exceeds the clip.
#[test]
fn clipping_scales_all_gradients_to_the_global_norm() {
    for (name, mut config) in methods() {
        // Frozen vectors have no moments to show their gradient in.
        config.switchlora.interval0 = f64::INFINITY;
        let norm = step(&mut engine(&config)).grad_norm;
        for clip in [0.01 * norm, 0.7 * norm] {
            config.train.max_grad_norm = Some(clip);
            let mut engine = engine(&config);
            let outcome = step(&mut engine);
            assert_eq!(outcome.grad_norm, norm, "{name}: the norm that is told is the one before");
            // After the first update the moments are (1 − beta1) of the gradients.
            let expected = 0.1 * clip * norm / (norm + 1e-6);
            let ours = norm_of_first_moments(&engine);
            assert!((ours / expected - 1.0).abs() < 1e-5, "{name}: {ours} against {expected}");
        }
        let run = |clip: f64| {
            let mut config = config.clone();
            config.train.max_grad_norm = Some(clip);
            let mut engine = engine(&config);
            step(&mut engine);
            snapshot(&mut engine)
        };
        assert_same(name, &run(2.0 * norm), &run(0.0));
    }
}

#[test]
fn the_loss_falls_on_a_task_that_can_be_learnt() {
    for (name, mut config) in methods() {
        config.switchlora.interval0 = 20.0;
        let mut engine = engine(&config);
        let same = || [batch(0)];
        let first = engine.step(&same()).unwrap().loss;
        let mut last = first;
        for _ in 0..80 {
            last = engine.step(&same()).unwrap().loss;
        }
        assert!((first - 50f64.ln()).abs() < 0.1, "{name} starts at chance: {first}");
        assert!(last < 0.5 * first, "{name}: {first} fell to {last} only");
    }
}

// Only what is trained has a gradient, and only that has moments.
#[test]
fn nothing_is_computed_for_a_frozen_weight() {
    for (name, config) in methods() {
        let mut engine = engine(&config);
        let batch = batch_of(2, 0, &device());
        let grads = gradients(&mut engine.model, &batch);
        let trained: Vec<_> =
            engine.model.params.iter().filter(|(_, p)| p.trainable).map(|(id, _)| id).collect();
        assert_eq!(grads.ids(), trained, "{name}");
        train(&mut engine, 2);
        let with_moments: Vec<_> = engine.optimizer.iter().map(|(id, _)| id).collect();
        assert_eq!(with_moments, trained, "{name}");
    }
}
