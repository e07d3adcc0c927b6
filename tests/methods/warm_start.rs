//! SwitchLoRA's full-rank warm start: the schedule of both phases and the fresh state after it.

use fullrank::config::RunConfig;

use super::fixture::{
    LINEARS, all_effective, assert_same, config, engine, parameter_bits, relative_difference,
    sides, snapshot, step, train,
};

const WARM: u64 = 6;

fn warm_start() -> RunConfig {
    let mut config = config("switchlora");
    config.train.iters = Some(26);
    config.train.lr_schedule = Some("cosine_floor".into());
    config.train.warmup_steps = Some(2);
    config.switchlora.warm_start = WARM;
    config.switchlora.warm_start_learning_rate = Some(1e-3);
    config.switchlora.interval0 = 4.0;
    config.switchlora.ratio = 100.0;
    config.switchlora.freeze = 2;
    config
}

#[test]
fn the_learning_rate_is_zero_at_the_first_update_of_each_phase_and_has_its_own_peak() {
    let mut engine = engine(&warm_start());
    let rates: Vec<f64> = (0..26)
        .map(|t| {
            engine.t = t;
            engine.learning_rate()
        })
        .collect();
    let near = |ours: f64, right: f64| assert!((ours - right).abs() < 1e-12, "{ours}, {right}");
    let warm = WARM as usize;
    near(rates[0], 0.0);
    near(rates[1], 0.5e-3);
    assert!(rates[2..warm].iter().all(|&rate| rate == 1e-3), "{:?}", &rates[..warm]);
    near(rates[warm], 0.0);
    near(rates[warm + 1], 0.5e-2);
    near(rates[warm + 2], 1e-2);
    // From there a half cosine over the rest, never below a tenth.
    let cosine = |t: usize| 0.5 * (1.0 + (std::f64::consts::PI * (t as f64 - 2.0) / 18.0).cos());
    for t in 2..20 {
        near(rates[warm + t], 1e-2 * cosine(t).max(0.1));
    }
    near(rates[25], 1e-3);
}

#[test]
fn a_phase_shorter_than_twice_the_warm_up_warms_up_for_half_of_itself() {
    let mut config = warm_start();
    config.train.warmup_steps = Some(100);
    let mut engine = engine(&config);
    let mut rate = |t| {
        engine.t = t;
        engine.learning_rate()
    };
    assert!((rate(3) - 1e-3).abs() < 1e-12, "the peak of the warm start is reached");
    assert!((rate(WARM + 10) - 1e-2).abs() < 1e-12, "and that of the rest");
}

#[test]
fn the_warm_start_is_full_rank_training() {
    let warm = warm_start();
    let mut full = config("full");
    full.train.learning_rate = warm.switchlora.warm_start_learning_rate;
    let (mut warm, mut full) = (engine(&warm), engine(&full));
    full.settings.warmup = 2;
    full.settings.schedule = fullrank::optim::Schedule::WarmupConstant;
    train(&mut warm, WARM - 1);
    train(&mut full, WARM - 1);
    assert_same("weights", &parameter_bits(&warm.model), &parameter_bits(&full.model));
    // The last update of the phase is full rank too; then the factors are made from its weights.
    train(&mut warm, 1);
    train(&mut full, 1);
    for (ours, theirs) in all_effective(&warm.model).iter().zip(all_effective(&full.model)) {
        assert!(relative_difference(ours, &theirs) < 1e-6, "wrapping keeps the function");
    }
    assert_eq!(sides(&mut warm).len(), LINEARS);
}

// Section 2.4: "then wrap as in 2.3 with fresh optimizer state": kA = kB = 0.
#[test]
fn counters_and_moments_start_anew_after_the_warm_start() {
    let mut config = warm_start();
    config.switchlora.interval0 = f64::INFINITY;
    // The first update after the wrap has rate 0 otherwise.
    config.train.warmup_steps = Some(0);
    config.train.adam_eps = 1e-30;
    let mut engine = engine(&config);
    train(&mut engine, WARM);
    assert_eq!(engine.optimizer.iter().count(), 0, "no moments are left");
    let wrapped = sides(&mut engine);
    for side in wrapped.iter().flatten() {
        assert!(side.steps.iter().all(|&k| k == 0), "counters at the wrap: {:?}", side.steps);
    }
    let outcome = step(&mut engine);
    for (old, new) in wrapped.iter().flatten().zip(sides(&mut engine).iter().flatten()) {
        assert!(new.steps.iter().all(|&k| k == 1), "counters after one update: {:?}", new.steps);
        for (old, new) in old.active.iter().flatten().zip(new.active.iter().flatten()) {
            // Adam's first step is the rate itself; with a counter of 7 it would be 0.2 to 0.5 of it.
            let moved = f64::from((old - new).abs()) / outcome.learning_rate;
            assert!((moved - 1.0).abs() < 1e-3, "first step: {moved} of the rate");
        }
    }
}

#[test]
fn switching_after_a_warm_start_decays_from_the_wrap_on() {
    let mut config = warm_start();
    config.train.iters = Some(400 + WARM);
    config.switchlora.ratio = 0.1;
    config.switchlora.freeze = 1;
    let mut engine = engine(&config);
    train(&mut engine, WARM);
    let count = |engine: &mut fullrank::run::engine::Engine, updates: u64| -> u32 {
        (0..updates)
            .map(|_| {
                super::fixture::switch_once(engine).iter().map(|layer| layer.wanted).sum::<u32>()
            })
            .sum()
    };
    // Rate r/interval0 = 1 at the wrap, a third of it 40 updates later.
    let first = count(&mut engine, 10);
    assert!((100..=140).contains(&first), "{first} of at most 140 in the first 10 updates");
    count(&mut engine, 30);
    let later = count(&mut engine, 10);
    assert!((20..=64).contains(&later), "{later} switches, expected about 42");
}

#[test]
fn before_the_wrap_there_is_nothing_of_the_method() {
    let mut engine = engine(&warm_start());
    train(&mut engine, 3);
    let state = snapshot(&mut engine);
    assert!(state.keys().all(|name| !name.contains("lora_") && !name.contains("pool_")));
    assert_eq!(
        engine.model.params.trainable_len(),
        engine.model.params.iter().map(|(_, p)| p.len()).sum::<usize>()
    );
}
