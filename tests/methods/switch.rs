//! One switch of SwitchLoRA: the function stays, no vector is lost, nothing overlaps.

use fullrank::config::RunConfig;
use fullrank::device::memory::Category;
use fullrank::kernels::Matrix;
use fullrank::kernels::switch::{Exchange, Switch, Switched, switch};
use fullrank::random::stream;
use fullrank::run::engine::Engine;

use super::fixture::{
    Side, all_effective, busy_switchlora, config, device, disturb, effective, engine, logits,
    merge_tolerance, passed, product, relative_difference, sides, snapshot, step, switch_once,
    tolerances, train,
};

fn with_selection(selection: &str) -> RunConfig {
    let mut config = busy_switchlora();
    config.switchlora.selection = selection.into();
    config
}

// Invariant 1, both sides: contiguous with wrap-around of pointers and of the pool's ring, and random.
#[test]
fn a_switch_of_both_sides_keeps_the_effective_weight() {
    for selection in ["contiguous", "random"] {
        let mut engine = engine(&with_selection(selection));
        let (mut switched, mut pointer_wraps, mut ring_wraps) = (0, 0, 0);
        for t in 0..80 {
            disturb(&mut engine);
            let (before, old) = (all_effective(&engine.model), sides(&mut engine));
            let allowed_before = tolerances(&engine.model);
            switched += switch_once(&mut engine).iter().filter(|layer| layer.k > 0).count();
            let allowed_after = tolerances(&engine.model);
            for (layer, before) in before.iter().enumerate() {
                let linear = &engine.model.linears()[layer];
                let after = effective(&engine.model, linear);
                for (i, (before, after)) in before.iter().zip(&after).enumerate() {
                    let allowed = allowed_before[layer][i].max(allowed_after[layer][i]);
                    assert!(
                        (before - after).abs() <= allowed,
                        "{selection}, update {t}, {} entry {i}: {before} became {after}, allowed {allowed:e}",
                        linear.name
                    );
                }
            }
            for (old, new) in old.iter().flatten().zip(sides(&mut engine).iter().flatten()) {
                pointer_wraps += usize::from(new.pointer < old.pointer);
                let newest = |side: &Side| {
                    side.slots[(side.pointer + side.slots.len() - 1) % side.slots.len()]
                };
                ring_wraps += usize::from(newest(new) < newest(old));
            }
        }
        assert!(switched > 200, "{selection}: only {switched} switches");
        assert!(pointer_wraps > 20 && ring_wraps > 20, "{pointer_wraps}, {ring_wraps}");
    }
}

// Invariant 1, one side at a time, with index lists that wrap around.
#[test]
fn a_switch_of_one_side_keeps_the_effective_weight() {
    let (m, n, rank, candidates) = (10, 7, 4, 7);
    let device = device();
    let random = |name: &str, shape: [usize; 2]| {
        let values = stream(3, name, "one side", 0).normal_vec(shape[0] * shape[1], 1.0);
        Matrix::from_host(values, shape, &device, Category::Activations)
    };
    let wide = |x: &Matrix| x.to_host().into_iter().map(f64::from).collect::<Vec<_>>();
    let sum = |w: &Matrix, b: &Matrix, a: &Matrix| -> Vec<f64> {
        let product = product(&wide(b), &wide(a), m, rank, n);
        wide(w).iter().zip(product).map(|(w, p)| w + 0.25 * p).collect()
    };
    let allowed = |w: &Matrix, b: &Matrix, a: &Matrix| {
        merge_tolerance(&wide(w), &wide(b), &wide(a), 0.25, rank)
    };
    let exchange = Exchange { vectors: &[3, 0, 1], from: &[6, 3, 4], to: &[0, 1, 2] };
    let pools = || [random("pool a", [candidates, n]), random("pool b", [candidates, m])];
    let layer = || (random("w", [m, n]), random("a", [rank, n]), random("b", [m, rank]));
    let (w, a, b) = layer();
    let (before, least) = (sum(&w, &b, &a), allowed(&w, &b, &a));

    for side in ["A", "B"] {
        let (of_a, of_b) =
            if side == "A" { (exchange, Exchange::NONE) } else { (Exchange::NONE, exchange) };
        let (w, old_a, old_b) = layer();
        let (values_a, values_b) = (old_a.to_host(), old_b.to_host());
        let plan = Switch { a: of_a, b: of_b, scale: 0.25 };
        let Switched { w, a, b, .. } = switch(w, old_a, old_b, pools(), &plan);
        assert_eq!(values_a != a.to_host(), side == "A", "rows of A were exchanged");
        assert_eq!(values_b != b.to_host(), side == "B", "columns of B were exchanged");
        let allowed = allowed(&w, &b, &a);
        let tolerance = least.iter().zip(&allowed).map(|(x, y)| x.max(*y));
        for ((before, after), tolerance) in before.iter().zip(sum(&w, &b, &a)).zip(tolerance) {
            assert!((before - after).abs() <= tolerance, "{side}: {before} became {after}");
        }
    }
}

// Invariant 2.
#[test]
fn a_switch_keeps_the_logits() {
    for selection in ["contiguous", "random"] {
        let mut engine = engine(&with_selection(selection));
        train(&mut engine, 12);
        let mut switched = 0;
        for t in 0..20 {
            disturb(&mut engine);
            let before = logits(&engine.model, t);
            switched += switch_once(&mut engine).iter().filter(|layer| layer.k > 0).count();
            let difference = relative_difference(&logits(&engine.model, t), &before);
            assert!(difference <= 1e-5, "{selection}, switch {t}: {difference:e}");
        }
        assert!(switched > 50, "{selection}: only {switched} switches");
    }
}

// Invariant 6, first half; and the authors' bug B2: an incoming slot was never active before.
#[test]
fn slots_are_distinct_in_range_and_come_from_the_spare_ones() {
    for selection in ["contiguous", "random"] {
        let mut engine = engine(&with_selection(selection));
        for t in 0..80 {
            let before = sides(&mut engine);
            switch_once(&mut engine);
            let after = sides(&mut engine);
            for (old, new) in before.iter().flatten().zip(after.iter().flatten()) {
                let rank = new.slots.len();
                let mut sorted = new.slots.clone();
                sorted.sort_unstable();
                sorted.dedup();
                assert_eq!(sorted.len(), rank, "{selection}, update {t}: {:?}", new.slots);
                assert!(sorted.iter().all(|&slot| slot < new.pool.len()), "{sorted:?}");
                for i in passed(old.pointer, new.pointer, rank) {
                    let slot = new.slots[i];
                    assert!(
                        !old.slots.contains(&slot),
                        "{selection}: {slot} was in {:?}",
                        old.slots
                    );
                }
            }
        }
    }
}

/// All vectors of a side, wherever they are, as sorted bits.
fn inventory(side: &Side) -> Vec<Vec<u32>> {
    let spare = side.pool.iter().enumerate().filter(|(row, _)| !side.slots.contains(row));
    let bits = |vector: &Vec<f32>| vector.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let mut all: Vec<_> = spare.map(|(_, vector)| bits(vector)).collect();
    all.extend(side.active.iter().map(bits));
    all.sort();
    all
}

// Invariant 6, second half.
#[test]
fn at_learning_rate_zero_no_vector_is_ever_lost_or_changed() {
    for selection in ["contiguous", "random"] {
        let mut config = with_selection(selection);
        config.train.learning_rate = Some(0.0);
        config.train.weight_decay = 0.1;
        let mut engine = engine(&config);
        let start: Vec<_> = sides(&mut engine).iter().flatten().map(inventory).collect();
        let first = sides(&mut engine);
        for _ in 0..60 {
            train(&mut engine, 1);
            let now: Vec<_> = sides(&mut engine).iter().flatten().map(inventory).collect();
            assert!(now == start, "{selection}: a vector changed by update {}", engine.t);
        }
        assert_ne!(first, sides(&mut engine), "vectors have moved");
    }
}

// The pool holds what the vector was when it left, not what it was when it came.
#[test]
fn a_leaving_vector_takes_what_it_learned_into_the_pool() {
    for selection in ["contiguous", "random"] {
        let mut engine = engine(&with_selection(selection));
        let mut left = 0;
        for t in 0..40 {
            disturb(&mut engine);
            let before = sides(&mut engine);
            switch_once(&mut engine);
            let after = sides(&mut engine);
            for (old, new) in before.iter().flatten().zip(after.iter().flatten()) {
                assert!(inventory(old) == inventory(new), "{selection}: lost in update {t}");
                for i in passed(old.pointer, new.pointer, new.slots.len()) {
                    assert_eq!(new.pool[old.slots[i]], old.active[i]);
                    left += 1;
                }
            }
        }
        assert!(left > 100, "only {left} vectors left");
    }
}

// Invariant 5, and the freezes themselves: a partner is held for exactly `freeze` updates.
#[test]
fn a_vector_and_its_partner_are_never_frozen_together() {
    // At an odd rank the pointers are not equally far from each other in both directions.
    for (selection, rank, freeze) in [
        ("contiguous", 4, 3),
        ("contiguous", 5, 2),
        ("random", 5, 3),
        ("contiguous", 7, 1),
        ("random", 4, 5),
    ] {
        let mut config = with_selection(selection);
        config.train.rank = Some(rank);
        config.switchlora.freeze = freeze;
        config.switchlora.interval0 = 2.0;
        let mut engine = engine(&config);
        let mut frozen = 0;
        for t in 0..120 {
            let before = sides(&mut engine);
            switch_once(&mut engine);
            for (layer, ([old_a, old_b], [a, b])) in
                before.iter().zip(&sides(&mut engine)).enumerate()
            {
                let rank = a.slots.len();
                for i in 0..rank {
                    let both = a.frozen_until[i] > t && b.frozen_until[i] > t;
                    assert!(
                        !both,
                        "{selection}, layer {layer}: {i} is frozen on both sides at {t}"
                    );
                    frozen += usize::from(a.frozen_until[i] > t || b.frozen_until[i] > t);
                }
                for (old, new, partner) in [(old_a, a, b), (old_b, b, a)] {
                    for i in passed(old.pointer, new.pointer, rank) {
                        assert_eq!(partner.frozen_until[i], t + freeze);
                    }
                }
            }
        }
        assert!(frozen > 500, "only {frozen} freezes");
    }
}

// The authors' bug B1: more vectors wanted than the pool has spare ones.
#[test]
fn a_pool_with_few_spare_candidates_limits_the_switch() {
    for selection in ["contiguous", "random"] {
        let mut config = with_selection(selection);
        // 16 candidates in every layer: 2 spare ones.
        config.train.rank = Some(14);
        config.switchlora.interval0 = 2.0;
        config.switchlora.freeze = 0;
        let mut shape = super::fixture::shape();
        shape.num_key_value_heads = 4;
        let mut engine = super::fixture::engine_of(&config, shape);
        let mut limited = 0;
        for t in 0..40 {
            disturb(&mut engine);
            let before = all_effective(&engine.model);
            for layer in switch_once(&mut engine) {
                assert!(layer.k <= 2, "{} of 2 spare candidates", layer.k);
                limited += usize::from(layer.wanted > 2 && layer.k == 2);
            }
            for (layer, before) in before.iter().enumerate() {
                let after = effective(&engine.model, &engine.model.linears()[layer]);
                let difference = relative_difference(&after, before);
                assert!(
                    difference < 1e-5,
                    "{selection}, update {t}, layer {layer}: {difference:e}"
                );
            }
        }
        assert!(limited > 300, "only {limited} switches were limited");
    }
}

// The other limit: vectors that are still frozen lie ahead of a pointer.
#[test]
fn frozen_vectors_ahead_limit_the_switch() {
    let mut config = config("switchlora");
    config.switchlora.interval0 = 1.0;
    config.switchlora.ratio = 1e9;
    config.switchlora.freeze = 4;
    let mut engine = engine(&config);
    // Rank 4: two vectors between the pointers, all switched at once, then none for 4 updates.
    for t in 0..20 {
        let expected = if t % 4 == 0 { 2 } else { 0 };
        for layer in switch_once(&mut engine) {
            assert_eq!((layer.wanted, layer.k), (4, expected), "update {t}");
        }
    }
}

#[test]
fn pools_on_the_host_change_no_bit() {
    let here = busy_switchlora();
    let mut there = here.clone();
    there.switchlora.pools = "host".into();
    let (mut a, mut b) = (engine(&here), engine(&there));
    for _ in 0..25 {
        let (x, y) = (step(&mut a), step(&mut b));
        assert_eq!(x, y);
    }
    assert_eq!(snapshot(&mut a), snapshot(&mut b));
    // Only the rows of an exchange visit the device.
    let pools =
        |engine: &Engine| engine.model.device().ledger().read().now[Category::Pools as usize];
    drop(a);
    assert_eq!(pools(&b), 0);
}
