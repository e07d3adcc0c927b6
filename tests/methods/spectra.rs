//! Rank metrics of each method: what the change of the weights can have for a rank, what it has, and that looking
//! changes nothing.

use std::path::Path;

use fullrank::config::RunConfig;
use fullrank::methods::NAMES;
use fullrank::run::engine::Engine;
use fullrank::run::plan::ModelSource;
use fullrank::run::rank::{RankMonitor, RankProgress};
use fullrank::runlog::{Body, Rank};

use super::fixture::{
    assert_same, busy_switchlora, config, engine, relora, shape, snapshot, step, train,
};

/// A configuration of the method with every value set.
fn settings(method: &str) -> RunConfig {
    if method == "relora" { relora(0, 5) } else { config(method) }
}

fn monitor(config: &RunConfig) -> RankMonitor {
    let mut config = config.clone();
    config.rank.every = Some(1);
    config.rank.budget = f64::INFINITY;
    config.rank.matrices = "change,adapter,weight".into();
    let source = ModelSource::find("demo").unwrap();
    RankMonitor::new(&config, &shape(), &source, Path::new("not used"))
}

fn ranks(events: Vec<Body>) -> Vec<Rank> {
    let rank = |event| match event {
        Body::Rank(rank) => *rank,
        other => panic!("{other:?}"),
    };
    events.into_iter().map(rank).collect()
}

/// Everything that can be measured now.
fn measure(engine: &Engine, config: &RunConfig) -> Vec<Rank> {
    ranks(monitor(config).measure(engine, &mut RankProgress::default(), Some(1.0)))
}

fn changes(engine: &Engine, config: &RunConfig) -> Vec<Rank> {
    measure(engine, config).into_iter().filter(|rank| rank.matrix == "change").collect()
}

/// No singular value but rounding lies beyond the ceiling, and the metrics are in their ranges.
#[track_caller]
fn assert_below_ceiling(what: &str, ranks: &[Rank]) {
    assert_eq!(ranks.len(), 14, "{what}: seven layers of two blocks");
    for rank in ranks {
        let ceiling = rank.ceiling.unwrap();
        assert!(rank.numerical <= ceiling, "{what}: {} of {ceiling}: {rank:?}", rank.numerical);
        let largest = rank.sigma[0].1;
        for (place, sigma) in &rank.sigma {
            // Weights are stored in f32.
            assert!(*place < ceiling || *sigma < 1e-4 * largest, "{what}: {rank:?}");
        }
        let full = rank.full as f64 + 1e-9;
        for value in [rank.effective, rank.energy_effective, rank.stable] {
            assert!((1.0..=full).contains(&value), "{what}: {rank:?}");
        }
        assert!(rank.energy90 <= rank.energy99 && rank.energy99 <= rank.full, "{what}: {rank:?}");
    }
}

#[test]
fn the_change_under_lora_has_at_most_the_rank_of_its_factors() {
    for (init, base, ceiling) in [
        ("standard", "dense", 4),
        ("gaussian", "dense", 4),
        ("both_kaiming", "dense", 8),
        ("switchlora", "dense", 8),
        ("both_kaiming", "none", 8),
    ] {
        let mut config = config("lora");
        config.lora.init = Some(init.into());
        config.lora.base = base.into();
        let mut engine = engine(&config);
        train(&mut engine, 8);
        let found = changes(&engine, &config);
        assert_below_ceiling(&format!("{init}, base {base}"), &found);
        assert!(found.iter().all(|rank| rank.ceiling == Some(ceiling.min(rank.full))));
        assert!(found.iter().all(|rank| rank.numerical >= 4), "{init}: the rank is used");
    }
}

#[test]
fn the_change_under_full_rank_is_nearly_of_full_rank() {
    let config = config("full");
    let mut engine = engine(&config);
    train(&mut engine, 12);
    let found = changes(&engine, &config);
    for rank in &found {
        assert_eq!((rank.ceiling, rank.strict), (Some(rank.full), Some(rank.full)), "{rank:?}");
        assert_eq!((rank.form.as_str(), rank.reference.as_deref()), ("exact", Some("start")));
    }
    // The heads share their keys and values by twos, so what o_proj sees has little more than half its width.
    let wide = found.iter().filter(|rank| !rank.layer.ends_with("o_proj"));
    let (numerical, full) =
        wide.fold((0, 0), |(sum, of), rank| (sum + rank.numerical, of + rank.full));
    assert!(10 * numerical >= 9 * full, "{numerical} of {full} dimensions: {found:?}");
}

#[test]
fn the_change_under_switchlora_grows_above_the_rank_of_its_factors() {
    let config = busy_switchlora();
    let mut engine = engine(&config);
    let mut before = 0;
    for updates in [2, 10, 40] {
        train(&mut engine, updates);
        let found = changes(&engine, &config);
        assert_below_ceiling("switchlora", &found);
        let sum: u64 = found.iter().map(|rank| rank.numerical).sum();
        assert!(sum >= before, "{sum} after {} updates, {before} before", engine.t);
        before = sum;
    }
    // Rank 4 twice, at the start and now, is what plain LoRA could have.
    for rank in changes(&engine, &config).iter().filter(|rank| rank.full == 16) {
        assert!(rank.numerical > 8, "{rank:?}");
    }
}

#[test]
fn the_change_under_galore_has_at_most_the_rank_of_its_subspaces() {
    let config = config("galore"); // refreshes at 0, 5, 10, …
    let mut engine = engine(&config);
    for (updates, ceiling) in [(5, 4), (1, 8), (4, 8), (1, 12)] {
        train(&mut engine, updates);
        let found = changes(&engine, &config);
        assert_below_ceiling("galore", &found);
        assert!(found.iter().all(|rank| rank.ceiling == Some(ceiling.min(rank.full))));
    }
    let found = changes(&engine, &config);
    assert!(found.iter().any(|rank| rank.numerical > 8), "a refresh adds directions");
}

#[test]
fn the_change_under_relora_has_at_most_a_rank_for_each_cycle() {
    let config = relora(0, 5);
    let mut engine = engine(&config);
    for ceiling in [4, 8, 12] {
        train(&mut engine, 5);
        let found = changes(&engine, &config);
        assert_below_ceiling("relora", &found);
        assert!(found.iter().all(|rank| rank.ceiling == Some(ceiling.min(rank.full))));
    }
    assert!(changes(&engine, &config).iter().any(|rank| rank.numerical > 8), "cycles add up");
}

#[test]
fn at_the_start_nothing_has_changed() {
    for method in NAMES {
        let config = settings(method);
        let engine = engine(&config);
        for rank in changes(&engine, &config) {
            // The compensation of W rounds.
            assert!(rank.relative.unwrap() < 1e-6, "{method}: {rank:?}");
        }
    }
}

#[test]
fn measuring_changes_nothing() {
    for method in NAMES {
        let config = settings(method);
        let mut engine = engine(&config);
        train(&mut engine, 3);
        let before = snapshot(&mut engine);
        assert!(!measure(&engine, &config).is_empty());
        assert_same(method, &snapshot(&mut engine), &before);
        step(&mut engine);
    }
}

#[test]
fn without_a_budget_nothing_is_measured_and_the_log_says_so_once() {
    let mut config = config("full");
    config.rank.every = Some(1);
    config.rank.budget = 0.0;
    let engine = engine(&config);
    let source = ModelSource::find("demo").unwrap();
    let mut monitor = RankMonitor::new(&config, &shape(), &source, Path::new("not used"));
    let mut progress = RankProgress::default();
    let told = monitor.measure(&engine, &mut progress, Some(100.0));
    let [Body::Log(log)] = told.as_slice() else { panic!("{told:?}") };
    assert!(log.msg.contains("0 of 14 layers"), "{log:?}");
    assert!(monitor.measure(&engine, &mut progress, Some(100.0)).is_empty());
}

#[test]
fn the_coverage_of_the_pools_grows_with_the_switches() {
    let config = busy_switchlora();
    let mut engine = engine(&config);
    let coverage = |engine: &Engine| -> Vec<_> {
        let found = measure(engine, &config).into_iter();
        found.filter_map(|rank| Some((rank.layer, rank.coverage?))).collect()
    };
    let start = coverage(&engine);
    assert_eq!(start.len(), 14);
    for (_, layer) in &start {
        assert_eq!((layer.a.visited, layer.b.visited), (4, 4));
        assert_eq!((layer.a.ages.iter().sum::<u64>(), layer.a.lifetimes.len()), (4, 0));
    }
    train(&mut engine, 40);
    for ((name, before), (_, after)) in start.iter().zip(coverage(&engine)) {
        for (before, side) in [(&before.a, &after.a), (&before.b, &after.b)] {
            assert!(side.visited > before.visited && side.visited <= after.candidates, "{name}");
            assert_eq!(side.ages.iter().sum::<u64>(), 4, "{name}: all active vectors");
            // Those that left made room for all that came.
            assert!(side.lifetimes.iter().sum::<u64>() >= side.visited - 4, "{name}");
        }
    }
}
