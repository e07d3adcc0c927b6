//! An update that is not finite leaves nothing behind.

use fullrank::config::RunConfig;
use fullrank::run::engine::Engine;

use super::fixture::{
    assert_same, batch, busy_switchlora, config, engine, relora, set, snapshot, train,
};

/// What makes an update fail, by changing one parameter for its duration.
#[derive(Debug, Clone, Copy)]
enum Bad {
    /// A loss that is not a number.
    Loss,
    /// A finite loss with a gradient whose norm overflows.
    Gradient,
}

fn attempt_bad_update(engine: &mut Engine, bad: Bad) {
    let (name, factor) = match bad {
        Bad::Loss => ("model.norm.weight", f32::NAN),
        Bad::Gradient => ("lm_head.weight", 1e25),
    };
    let id = engine.model.params.find(name).unwrap();
    let good = engine.model.params.value(id).to_host();
    set(&mut engine.model, id, good.iter().map(|v| v * factor).collect());
    let outcome = engine.step(&[batch(1_000), batch(1_001)]).unwrap();
    set(&mut engine.model, id, good);
    assert!(!outcome.is_applied, "{bad:?}: skipped");
    match bad {
        Bad::Loss => assert!(outcome.loss.is_nan()),
        Bad::Gradient => {
            assert!(outcome.loss.is_finite() && !outcome.grad_norm.is_finite(), "{outcome:?}");
        }
    }
}

fn cases() -> Vec<(&'static str, RunConfig)> {
    let mut random = busy_switchlora();
    random.switchlora.selection = "random".into();
    let mut warm = busy_switchlora();
    warm.switchlora.warm_start = 5;
    let mut all = vec![
        ("full", config("full")),
        ("lora", config("lora")),
        ("switchlora", busy_switchlora()),
        ("switchlora, random", random),
        ("switchlora, warm start", warm),
        ("relora", relora(3, 4)),
    ];
    for (_, config) in &mut all {
        config.train.lr_schedule = Some("cosine".into());
        config.train.warmup_steps = Some(4);
        config.train.max_grad_norm = Some(1.0);
        config.train.weight_decay = 0.01;
    }
    all
}

// Sections 1.3 and 9: no weight, moment, counter, pointer, draw or schedule moves, now or later.
#[test]
fn a_skipped_update_changes_nothing_and_the_run_goes_on_as_if_it_had_not_been() {
    for (name, config) in cases() {
        for bad in [Bad::Loss, Bad::Gradient] {
            let (mut hit, mut spared) = (engine(&config), engine(&config));
            for t in [3, 5, 9] {
                while spared.t < t {
                    train(&mut hit, 1);
                    train(&mut spared, 1);
                }
                let rate = hit.learning_rate();
                attempt_bad_update(&mut hit, bad);
                attempt_bad_update(&mut hit, bad);
                assert_eq!((hit.t, hit.learning_rate()), (t, rate), "{name}: t and schedule");
                let label = format!("{name}, {bad:?} after {t} updates");
                assert_same(&label, &snapshot(&mut hit), &snapshot(&mut spared));
            }
            train(&mut hit, 6);
            train(&mut spared, 6);
            assert_same(name, &snapshot(&mut hit), &snapshot(&mut spared));
            assert_eq!(hit.events, spared.events, "{name}: the same events");
        }
    }
}
