//! Moments, counters and freezes around a switch.

use super::fixture::{
    busy_switchlora, config, engine, gradients, passed, sides, step, switch_once, switches, train,
};

fn is_zero(vector: &[f32]) -> bool {
    vector.iter().all(|v| v.to_bits() == 0)
}

// Invariant 4, at the moment of the switch: the partner alone is reset.
#[test]
fn a_switch_resets_the_partner_and_keeps_the_moments_of_the_switched_vector() {
    for selection in ["contiguous", "random"] {
        let mut config = busy_switchlora();
        config.switchlora.selection = selection.into();
        let mut engine = engine(&config);
        let (mut switched, mut kept) = (0, 0);
        for _ in 0..30 {
            train(&mut engine, 2);
            let before = sides(&mut engine);
            switch_once(&mut engine);
            // Counters as they are within the update, before it is counted.
            engine.t -= 1;
            let after = sides(&mut engine);
            engine.t += 1;
            for ([old_a, old_b], [a, b]) in before.iter().zip(&after) {
                let rank = a.slots.len();
                for (old, new, partner_old, partner) in [(old_a, a, old_b, b), (old_b, b, old_a, a)]
                {
                    let moved = passed(old.pointer, new.pointer, rank);
                    for i in 0..rank {
                        if moved.contains(&i) {
                            switched += 1;
                            assert_ne!(new.active[i], old.active[i], "a new vector is in");
                            // Invariant 4: of the vector itself every bit stays.
                            assert_eq!(new.exp_avg[i], old.exp_avg[i]);
                            assert_eq!(new.exp_avg_sq[i], old.exp_avg_sq[i]);
                            assert_eq!(new.steps[i], old.steps[i]);
                            kept += usize::from(!is_zero(&new.exp_avg_sq[i]) && new.steps[i] > 0);
                            // Of its partner nothing but its value.
                            assert!(
                                is_zero(&partner.exp_avg[i]) && is_zero(&partner.exp_avg_sq[i])
                            );
                            assert_eq!(partner.steps[i], 0);
                            assert_eq!(partner.active[i], partner_old.active[i]);
                        } else {
                            assert_eq!(new.active[i], old.active[i]);
                            assert_eq!(partner.exp_avg[i], partner_old.exp_avg[i]);
                            assert_eq!(partner.exp_avg_sq[i], partner_old.exp_avg_sq[i]);
                            assert_eq!(partner.steps[i], partner_old.steps[i]);
                        }
                    }
                }
            }
        }
        assert!(
            switched > 100 && kept > 50,
            "{selection}: {switched} switched, {kept} with moments"
        );
    }
}

// Invariant 4, over time: held for exactly `freeze` updates, the switching one included.
#[test]
fn a_partner_keeps_its_bits_for_the_freeze_and_then_changes() {
    for (selection, decay) in [("contiguous", 0.0), ("random", 0.0), ("contiguous", 0.1)] {
        let mut config = busy_switchlora();
        config.switchlora.selection = selection.into();
        config.train.weight_decay = decay;
        let mut engine = engine(&config);
        let (mut held, mut thawed) = (0, 0);
        for t in 0..60 {
            let before = sides(&mut engine);
            step(&mut engine);
            let after = sides(&mut engine);
            for ([old_a, old_b], [a, b]) in before.iter().zip(&after) {
                let rank = a.slots.len();
                for (old, new, partner_old, partner) in [(old_b, b, old_a, a), (old_a, a, old_b, b)]
                {
                    let restarted = passed(partner_old.pointer, partner.pointer, rank);
                    for i in 0..rank {
                        if restarted.contains(&i) {
                            assert_eq!(new.frozen_until[i], t + config.switchlora.freeze);
                        }
                        if new.frozen_until[i] > t {
                            held += 1;
                            assert_eq!(new.active[i], old.active[i], "frozen in update {t}");
                            assert!(is_zero(&new.exp_avg[i]) && is_zero(&new.exp_avg_sq[i]));
                        } else {
                            assert_ne!(new.active[i], old.active[i], "trained in update {t}");
                            assert!(!is_zero(&new.exp_avg_sq[i]));
                            thawed += usize::from(t > 0 && new.frozen_until[i] == t);
                        }
                    }
                }
            }
        }
        assert!(held > 300 && thawed > 100, "{selection}: {held} held, {thawed} thawed");
    }
}

// Section 2.4: the counter after a freeze, and the size of the first real step that follows from it.
#[test]
fn the_first_step_after_a_freeze_is_damped_only_when_frozen_updates_count() {
    // Factor 0.52 for Nf = 5; see the table in methods 2.4.
    for (counts, counter, factor) in [(true, 6, 0.522), (false, 1, 1.0)] {
        let mut config = busy_switchlora();
        config.switchlora.freeze = 5;
        config.switchlora.interval0 = 10.0;
        config.switchlora.count_frozen_steps = counts;
        // Far below any gradient: an Adam step is then its factor times the rate.
        config.train.adam_eps = 1e-30;
        let mut engine = engine(&config);
        let mut seen = 0;
        for t in 0..40 {
            let before = sides(&mut engine);
            step(&mut engine);
            for (old, new) in before.iter().flatten().zip(sides(&mut engine).iter().flatten()) {
                let pointer_range = passed(old.pointer, new.pointer, new.slots.len());
                for i in 0..new.slots.len() {
                    // Vectors that were switched in this very update moved for another reason.
                    if t == 0 || new.frozen_until[i] != t || pointer_range.contains(&i) {
                        continue;
                    }
                    seen += 1;
                    assert_eq!(new.steps[i], counter, "counts_frozen_steps = {counts}");
                    for (old, new) in old.active[i].iter().zip(&new.active[i]) {
                        let moved = f64::from((old - new).abs()) / 0.01;
                        assert!((moved - factor).abs() < 2e-3, "{moved} of the rate, not {factor}");
                    }
                }
            }
        }
        assert!(seen > 50, "only {seen} freezes ended");
    }
}

// Section 1.9: decay skips frozen vectors unless the authors' behaviour is asked for.
#[test]
fn decay_acts_on_frozen_vectors_only_when_asked() {
    for decay_frozen in [false, true] {
        let mut config = busy_switchlora();
        config.switchlora.decay_frozen = decay_frozen;
        config.train.weight_decay = 0.1;
        let keep = (1.0 - 0.01 * 0.1) as f32;
        let mut engine = engine(&config);
        let mut held = 0;
        for t in 0..30 {
            let before = sides(&mut engine);
            step(&mut engine);
            for (old, new) in before.iter().flatten().zip(sides(&mut engine).iter().flatten()) {
                for i in (0..new.slots.len()).filter(|&i| new.frozen_until[i] > t) {
                    held += 1;
                    let expected: Vec<f32> = if decay_frozen {
                        old.active[i].iter().map(|v| v * keep).collect()
                    } else {
                        old.active[i].clone()
                    };
                    assert_eq!(new.active[i], expected, "decay_frozen = {decay_frozen}");
                }
            }
        }
        assert!(held > 100, "only {held} vectors were held");
    }
}

// `freeze = 0`: the partner is reset and trains on in the same update.
#[test]
fn without_a_freeze_a_partner_is_reset_and_trains_on() {
    let mut config = busy_switchlora();
    config.switchlora.freeze = 0;
    let mut engine = engine(&config);
    let mut restarted = 0;
    for t in 0..30 {
        let before = sides(&mut engine);
        step(&mut engine);
        for ([old_a, _], [a, b]) in before.iter().zip(&sides(&mut engine)) {
            for i in passed(old_a.pointer, a.pointer, a.slots.len()) {
                restarted += 1;
                assert_eq!(b.steps[i], 1, "update {t}");
                assert!(!is_zero(&b.exp_avg_sq[i]));
            }
        }
    }
    assert!(restarted > 50, "only {restarted} vectors were switched");
}

// Section 1.3: the norm that clips is that of all gradients, those of frozen vectors included.
#[test]
fn gradients_of_frozen_vectors_count_in_the_norm() {
    let mut engine = engine(&busy_switchlora());
    train(&mut engine, 20);
    let frozen = sides(&mut engine)
        .iter()
        .flatten()
        .flat_map(|side| side.frozen_until.clone())
        .filter(|&until| until > engine.t)
        .count();
    assert!(frozen > 5, "{frozen} vectors are frozen");
    let batch = super::fixture::batch(engine.t);
    let mut squares = 0.0;
    let mut grads = gradients(&mut engine.model, &batch);
    for id in grads.ids() {
        let grad = grads.take(id).unwrap().to_host();
        squares += grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    }
    let outcome = step(&mut engine);
    assert!((outcome.grad_norm / squares.sqrt() - 1.0).abs() < 1e-6);
    assert!(!switches(&engine).is_empty());
}

// A vector that is switched keeps the gradient of its old value, which depends on its partner alone.
#[test]
fn a_switched_vector_is_trained_in_the_same_update() {
    let mut config = config("switchlora");
    config.switchlora.interval0 = 4.0;
    config.switchlora.ratio = 100.0;
    let mut engine = engine(&config);
    train(&mut engine, 1);
    let before = sides(&mut engine);
    step(&mut engine);
    let mut seen = 0;
    for (old, new) in before.iter().flatten().zip(sides(&mut engine).iter().flatten()) {
        for i in passed(old.pointer, new.pointer, new.slots.len()) {
            seen += 1;
            // The candidate that came in is the pool's row, moved by one Adam step.
            let candidate = &old.pool[new.slots[i]];
            assert_ne!(&new.active[i], candidate);
            for (came, is) in candidate.iter().zip(&new.active[i]) {
                assert!((came - is).abs() <= 0.011, "{came} became {is}");
            }
            assert_eq!(new.steps[i], old.steps[i] + 1);
        }
    }
    assert!(seen > 5, "{seen}");
}
