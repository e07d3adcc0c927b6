//! ReLoRA's invariants: merging, resetting, the schedule of its cycles, the rank it reaches.

use std::collections::BTreeMap;

use faer::Mat;
use fullrank::methods::factors::draw_a;
use fullrank::optim::Schedule;
use fullrank::run::engine::Engine;
use fullrank::runlog::{Body, Merge, Reset};

use super::fixture::{
    LINEARS, all_effective, assert_same, batch, config, engine, gradients, logits, parameter_bits,
    relative_difference, relora, snapshot, step, tolerances, train, wide,
};

const WARM: u64 = 4;
const CYCLE: u64 = 6;

fn merges(engine: &Engine) -> Vec<Merge> {
    let merges = engine.events.iter().filter_map(|event| match event {
        Body::Merge(merge) => Some(merge.clone()),
        _ => None,
    });
    merges.collect()
}

fn resets(engine: &Engine) -> Vec<Reset> {
    let resets = engine.events.iter().filter_map(|event| match event {
        Body::Reset(reset) => Some(reset.clone()),
        _ => None,
    });
    resets.collect()
}

/// An engine one update before a restart: the next one has rate 0 and merges.
fn before_a_restart(restart: u64) -> Engine {
    let mut engine = engine(&relora(WARM, CYCLE));
    train(&mut engine, WARM + restart * CYCLE);
    engine.events.clear();
    engine
}

// Invariant 1.
#[test]
fn merging_keeps_the_output() {
    for restart in [1, 2] {
        let mut engine = before_a_restart(restart);
        let (outputs, weights) = (logits(&engine.model, 5), all_effective(&engine.model));
        let allowed = tolerances(&engine.model);
        assert_eq!(step(&mut engine).learning_rate, 0.0);
        let difference = relative_difference(&logits(&engine.model, 5), &outputs);
        assert!(difference <= 1e-5, "logits differ by {difference:e}");
        let events = merges(&engine);
        assert_eq!((events.len(), events[0].count, events[0].l.len()), (1, restart, LINEARS));
        for (place, linear) in engine.model.linears().iter().enumerate() {
            let adapter = linear.adapter.unwrap();
            assert!(wide(&engine.model, adapter.b).iter().all(|&b| b == 0.0), "B is zero");
            let merged = wide(&engine.model, linear.weight.unwrap());
            let entries = merged.iter().zip(&weights[place]).zip(&allowed[place]);
            let mut largest = 0f64;
            for ((ours, right), allowed) in entries {
                assert!((ours - right).abs() <= *allowed, "{}: {ours} for {right}", linear.name);
                largest = largest.max((ours - right).abs());
            }
            let event = &events[0].l[place];
            assert_eq!(event.layer as usize, place);
            assert!(event.dw_norm > 1e-4, "something was merged: {event:?}");
            assert!(event.error.unwrap() <= 2.0 * largest + 1e-7, "{event:?}, {largest:e}");
        }
    }
}

// Section 4.2: right after the update whose rate was exactly 0, three times less one in three cycles.
#[test]
fn a_restart_follows_every_update_of_rate_zero_but_the_first() {
    let config = relora(WARM, CYCLE);
    let mut engine = engine(&config);
    let total = config.train.iters.unwrap();
    let mut restarts = Vec::new();
    for t in 0..total {
        engine.events.clear();
        let rate = step(&mut engine).learning_rate;
        if merges(&engine).is_empty() {
            assert!(rate > 0.0 || t == 0 || t == WARM, "rate 0 at {t} without a restart");
        } else {
            assert_eq!((rate, resets(&engine).len()), (0.0, 1), "at {t}");
            restarts.push(t - WARM);
        }
    }
    assert_eq!(restarts, [CYCLE, 2 * CYCLE]);
}

// Invariant 2, in the engine: after a warm start with a rate of its own.
#[test]
fn the_rate_drops_to_zero_at_a_restart_and_joins_the_cosine_again() {
    let mut config = relora(10, 20);
    config.relora.rewarm_steps = Some(4);
    config.relora.warmup_steps = Some(5);
    config.relora.warm_start_learning_rate = Some(3e-3);
    config.train.warmup_steps = Some(2);
    let mut engine = engine(&config);
    let mut rate = |t| {
        engine.t = t;
        engine.learning_rate()
    };
    let near = |ours: f64, right: f64| assert!((ours - right).abs() < 1e-12, "{ours}, {right}");
    near(rate(0), 0.0);
    near(rate(1), 1.5e-3);
    (2..10).for_each(|t| near(rate(t), 3e-3));
    (0..5).for_each(|u| near(rate(10 + u), 1e-2 * u as f64 / 5.0));
    let span = fullrank::optim::schedule::Span { warmup: 5, total: 60, min_ratio: 0.1 };
    let cosine = |u| 1e-2 * Schedule::CosineMin.factor(u, span);
    for u in 5..60 {
        let rest = u % 20;
        match (u, rest) {
            (20.., 0) => assert_eq!(rate(10 + u), 0.0),
            (20.., 1..4) => near(rate(10 + u), rest as f64 / 4.0 * cosine(u - rest + 4)),
            _ => near(rate(10 + u), cosine(u)),
        }
    }
}

/// First and second moments with the counter.
type Triple = (Vec<f32>, Vec<f32>, u32);

/// Moments and counters by parameter.
fn moments(engine: &Engine) -> BTreeMap<String, Triple> {
    let all = engine.optimizer.iter().map(|(id, moments)| {
        let name = engine.model.params.get(id).name.clone();
        let values = (moments.exp_avg.to_host(), moments.exp_avg_sq.to_host(), moments.step);
        (name, values)
    });
    all.collect()
}

/// Moments before and after a restart that no update comes with.
fn restart_alone(reset: &str, masks: &str) -> [BTreeMap<String, Triple>; 2] {
    let mut config = relora(WARM, CYCLE);
    config.relora.reset = reset.into();
    config.relora.masks = masks.into();
    let mut engine = engine(&config);
    train(&mut engine, WARM + CYCLE);
    engine.events.clear();
    let before = moments(&engine);
    engine.t += 1;
    engine.with_method(|method, cx| method.after_update(cx)).unwrap();
    let after = moments(&engine);
    let (told, mode) = (&resets(&engine)[0], reset);
    assert_eq!((told.mode.as_str(), told.count, told.counters), (mode, 1, false));
    let share = |pick: fn(&Triple) -> &Vec<f32>| {
        let factors = after.iter().filter(|(name, _)| name.contains("lora_"));
        let values: Vec<f32> = factors.flat_map(|(_, moments)| pick(moments).clone()).collect();
        values.iter().filter(|&&v| v == 0.0).count() as f64 / values.len() as f64
    };
    assert_eq!((told.m_zeroed, told.v_zeroed), (share(|m| &m.0), share(|m| &m.1)));
    [before, after]
}

// Invariant 3.
#[test]
fn a_reset_zeroes_its_share_of_the_factors_moments_and_touches_nothing_else() {
    let cases = [
        ("magnitude", "joint"),
        ("magnitude", "independent"),
        ("random", "joint"),
        ("zero", "joint"),
    ];
    for (reset, masks) in cases {
        let [before, after] = restart_alone(reset, masks);
        let mut factors = 0;
        for (name, old) in &before {
            let new = &after[name];
            assert_eq!(old.2, new.2, "{name}: the counter goes on");
            if !name.contains("lora_") {
                assert_eq!(old, new, "{name} is no factor");
                continue;
            }
            factors += 1;
            assert_eq!(u64::from(new.2), CYCLE);
            for (old, new) in [(&old.0, &new.0), (&old.1, &new.1)] {
                let is_kept = old.iter().zip(new).all(|(old, new)| old == new || *new == 0.0);
                assert!(is_kept, "{name}: an entry stays or is zero");
                let zeros = new.iter().filter(|&&v| v == 0.0).count();
                let least = (0.9 * (new.len() - 1) as f64) as usize + 1;
                match reset {
                    "magnitude" => assert!(zeros >= least, "{name}: {zeros} of {}", new.len()),
                    "random" => assert!(zeros * 10 > new.len() * 7, "{name}: {zeros}"),
                    _ => assert_eq!(zeros, new.len()),
                }
            }
            if masks == "joint" {
                let has_both = new.0.iter().zip(&new.1).all(|(&m, &v)| m == 0.0 || v != 0.0);
                assert!(has_both, "{name}: no first moment without its second");
            }
        }
        assert_eq!(factors, 2 * LINEARS);
    }
}

// Invariant 4.
#[test]
fn every_restart_adds_the_rank_of_the_factors_to_the_update() {
    const RANK: usize = 2;
    let mut config = relora(2, 12);
    config.train.rank = Some(RANK);
    let mut engine = engine(&config);
    train(&mut engine, 2);
    let start = all_effective(&engine.model);
    for pairs in 1..=3 {
        train(&mut engine, if pairs == 1 { 12 } else { 11 });
        let now = all_effective(&engine.model);
        for (linear, (before, after)) in engine.model.linears().iter().zip(start.iter().zip(&now)) {
            let columns = linear.cols;
            let change = Mat::from_fn(linear.rows, columns, |i, j| {
                after[i * columns + j] - before[i * columns + j]
            });
            let values: Vec<f64> = change.singular_values().unwrap();
            // Merged parts are rounded to f32 beside W.
            let bound = pairs * RANK;
            let rounding = 1e-7 * linear.rows.max(columns) as f64;
            let name = &linear.name;
            assert!(values[bound - 1] > 10.0 * rounding, "{pairs} pairs, {name}: {values:?}");
            if bound < values.len() {
                assert!(values[bound] < rounding, "{pairs} pairs, {name}: {values:?}");
            }
        }
        if pairs < 3 {
            // The update of rate 0, with the restart.
            train(&mut engine, 1);
        }
    }
}

// Invariant 5.
#[test]
fn every_pair_is_a_new_draw_of_the_seed() {
    let (mut ours, mut again) = (before_a_restart(1), before_a_restart(1));
    let old = parameter_bits(&ours.model);
    step(&mut ours);
    step(&mut again);
    assert_same("drawn twice", &snapshot(&mut ours), &snapshot(&mut again));
    let new = parameter_bits(&ours.model);
    for linear in ours.model.linears() {
        let name = format!("{}.lora_A", linear.name);
        assert_ne!(old[&name], new[&name]);
        let drawn = draw_a(linear, 4, 7, 1);
        assert_eq!(ours.model.params.value(linear.adapter.unwrap().a).to_host(), drawn);
        assert_ne!(drawn, draw_a(linear, 4, 7, 0));
        assert_ne!(drawn, draw_a(linear, 4, 7, 2));
    }
}

// Invariant 6, without and with a warm start.
#[test]
fn with_a_cycle_as_long_as_the_rest_it_is_plain_lora() {
    let mut ours = relora(0, 50);
    ours.train.iters = Some(20);
    let mut lora = config("lora");
    lora.train.iters = Some(20);
    let (mut ours, mut lora) = (engine(&ours), engine(&lora));
    lora.settings.schedule = Schedule::CosineMin;
    lora.settings.warmup = 2;
    train(&mut ours, 20);
    train(&mut lora, 20);
    let without_state = |engine: &mut Engine| {
        let mut all = snapshot(engine);
        all.remove("state.json");
        all
    };
    assert_same("plain LoRA", &without_state(&mut ours), &without_state(&mut lora));

    let mut warm = relora(WARM, 50);
    warm.train.iters = Some(20);
    let mut engine = engine(&warm);
    let (before, after) = (4, 16);
    train(&mut engine, before);
    let weight = |engine: &Engine| {
        let id = engine.model.linears()[0].weight.unwrap();
        engine.model.params.value(id).to_host()
    };
    let wrapped = weight(&engine);
    train(&mut engine, after);
    assert_eq!(weight(&engine), wrapped, "W keeps its bits after the warm start");
    assert!(merges(&engine).is_empty() && resets(&engine).is_empty());
}

// Invariant 7; the released code wraps with both factors at zero.
#[test]
fn the_first_cycle_learns_from_its_first_update_on() {
    for warm in [0, WARM] {
        let mut config = relora(warm, CYCLE);
        config.train.lr_schedule = Some("constant".into());
        let mut engine = engine(&config);
        train(&mut engine, warm);
        let batch = batch(900);
        let grads = gradients(&mut engine.model, &batch);
        for linear in engine.model.linears() {
            let b = linear.adapter.unwrap().b;
            let grad = grads.get(b).unwrap().to_host();
            assert!(grad.iter().any(|&g| g != 0.0), "{}: dB at u = 0", linear.name);
        }
        train(&mut engine, 1);
        for linear in engine.model.linears() {
            let b = wide(&engine.model, linear.adapter.unwrap().b);
            assert!(b.iter().any(|&b| b != 0.0), "{}: B after one update", linear.name);
        }
    }
}

#[test]
fn the_warm_start_is_full_rank_training_and_leaves_no_moments() {
    let warm = relora(WARM, CYCLE);
    let mut full = config("full");
    full.train.learning_rate = warm.relora.warm_start_learning_rate;
    let (mut warm, mut full) = (engine(&warm), engine(&full));
    train(&mut warm, WARM);
    train(&mut full, WARM);
    assert_eq!(warm.optimizer.iter().count(), 0, "all optimizer state starts fresh");
    let (ours, theirs) = (parameter_bits(&warm.model), parameter_bits(&full.model));
    for (name, bits) in &theirs {
        assert_eq!(&ours[name], bits, "{name}");
    }
    assert_eq!(ours.len(), theirs.len() + 2 * LINEARS);
    let names = warm.events.iter().filter_map(|event| match event {
        Body::Phase(phase) => Some(phase.name.as_str()),
        _ => None,
    });
    assert_eq!(names.collect::<Vec<_>>(), ["warm-start", "warm-start-end"]);
}

// Section 1.4: the step after a restart stays small, because counters go on but the rate is re-warmed.
#[test]
fn no_step_after_a_restart_is_a_jump() {
    let mut engine = before_a_restart(1);
    step(&mut engine);
    for _ in 0..CYCLE - 1 {
        let before = all_effective(&engine.model);
        let outcome = step(&mut engine);
        assert!(outcome.loss < 5.0, "{outcome:?}");
        for (old, new) in before.iter().zip(all_effective(&engine.model)) {
            assert!(relative_difference(&new, old) < 0.5);
        }
    }
}
