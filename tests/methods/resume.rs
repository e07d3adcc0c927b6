//! A run that was saved and opened again goes on with the bits of one that was not.

use fullrank::config::RunConfig;
use fullrank::run::checkpoint::{Checkpoint, Progress, save};
use fullrank::run::engine::Engine;
use fullrank::run::setup;
use fullrank::runlog::Body;

use super::fixture::{
    assert_same, busy_switchlora, config, device, engine, lte, relora, sides, snapshot, train,
};

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

/// How long a decomposition took is no part of what is resumed.
fn forget_times(events: &mut [Body]) {
    for event in events {
        if let Body::Subspace(subspace) = event {
            subspace.ms = 0.0;
        }
    }
}

/// Saves after each of `stops` updates and compares `further` updates from there.
fn assert_resumes(what: &str, config: &RunConfig, stops: &[u64], further: u64) {
    let mut run = engine(config);
    for &stop in stops {
        while run.t < stop {
            train(&mut run, 1);
        }
        let mut other = reopened(config, &mut run);
        assert_same(&format!("{what} at {stop}"), &snapshot(&mut other), &snapshot(&mut run));
        run.events.clear();
        train(&mut run, further);
        train(&mut other, further);
        let label = format!("{what}, {further} updates after {stop}");
        assert_same(&label, &snapshot(&mut other), &snapshot(&mut run));
        for events in [&mut run.events, &mut other.events] {
            forget_times(events);
        }
        assert_eq!(run.events, other.events, "{label}: the same events");
    }
}

#[test]
fn every_method_resumes_to_the_bit() {
    for method in ["full", "lora", "switchlora", "lora-ga", "rslora", "lora-plus", "pissa", "dora"]
    {
        let mut config = config(method);
        config.train.lr_schedule = Some("cosine".into());
        config.train.warmup_steps = Some(3);
        config.train.max_grad_norm = Some(0.5);
        config.train.weight_decay = 0.01;
        assert_resumes(method, &config, &[0, 1, 7], 6);
    }
}

#[test]
fn lora_resumes_to_the_bit_from_every_start() {
    for (init, base) in [
        ("both_kaiming", "dense"),
        ("switchlora", "dense"),
        ("gaussian", "dense"),
        ("both_kaiming", "none"),
    ] {
        let mut config = config("lora");
        config.lora.init = Some(init.into());
        config.lora.base = base.into();
        assert_resumes(&format!("{init} {base}"), &config, &[0, 5], 5);
    }
}

// Invariant 9.
#[test]
fn switchlora_resumes_to_the_bit_in_the_middle_of_a_freeze() {
    for selection in ["contiguous", "random"] {
        for counts_frozen_steps in [true, false] {
            let mut config = busy_switchlora();
            config.switchlora.selection = selection.into();
            config.switchlora.count_frozen_steps = counts_frozen_steps;
            let mut probe = engine(&config);
            train(&mut probe, 9);
            let frozen = sides(&mut probe)
                .iter()
                .flatten()
                .flat_map(|side| side.frozen_until.clone())
                .filter(|&until| until > 9)
                .count();
            assert!(frozen > 10, "{frozen} vectors are frozen when it is saved");
            assert_resumes(selection, &config, &[9, 20], 8);
        }
    }
}

// Invariant 9, with a warm start: before the factors exist, right when they are made, and after.
#[test]
fn switchlora_resumes_to_the_bit_around_its_warm_start() {
    for selection in ["contiguous", "random"] {
        let mut config = busy_switchlora();
        config.switchlora.selection = selection.into();
        config.switchlora.warm_start = 6;
        config.train.lr_schedule = Some("cosine_floor".into());
        config.train.warmup_steps = Some(2);
        for stop in [0, 4, 6, 7, 9] {
            assert_resumes(selection, &config, &[stop], 7);
        }
    }
}

// Ranks that differ between layers, and layers without a pool.
#[test]
fn switchlora_resumes_to_the_bit_with_layers_that_cannot_switch() {
    let mut config = busy_switchlora();
    config.train.rank = Some(10);
    assert_resumes("rank 10", &config, &[5], 6);
}

// In the warm start, right when the factors are made, within a cycle, at the update of rate 0, right after a
// restart, in the re-warm.
#[test]
fn relora_resumes_to_the_bit_around_its_warm_start_and_its_restarts() {
    for (reset, masks) in [("magnitude", "joint"), ("random", "independent"), ("zero", "joint")] {
        let mut config = relora(4, 5);
        config.train.max_grad_norm = Some(0.5);
        config.train.weight_decay = 0.01;
        config.relora.reset = reset.into();
        config.relora.masks = masks.into();
        for stop in [0, 3, 4, 6, 9, 10, 11, 14, 15] {
            assert_resumes(&format!("{reset}, {masks}"), &config, &[stop], 4);
        }
    }
}

// Before the first merge, right at one, between two, and with heads that begin anew.
#[test]
fn lte_resumes_to_the_bit_around_its_merges() {
    for reset in ["none", "keep", "clear"] {
        let mut config = lte(3, 4);
        config.lte.reset = reset.into();
        config.train.max_grad_norm = Some(0.5);
        config.train.weight_decay = 0.01;
        assert_resumes(&format!("lte {reset}"), &config, &[0, 3, 4, 6, 8], 5);
    }
    let mut tied = lte(2, 2);
    tied.train.train_non_targets = Some(false);
    assert_resumes("lte without replicas of the rest", &tied, &[0, 3], 3);
    for mhlora in ["mean", "sum"] {
        let mut config = lte(2, 2);
        config.lte.mhlora = mhlora.into();
        assert_resumes(&format!("mhlora {mhlora}"), &config, &[0, 3], 3);
    }
}

// Before a reset, right at it, inside its warm-up, and where clipping has begun again.
#[test]
fn spam_resumes_to_the_bit_around_its_resets() {
    for (name, mut config) in super::spam::cases() {
        config.spam.enabled = true;
        config.spam.reset_every = Some(22);
        config.spam.warmup_steps = Some(6);
        config.spam.threshold = 10.0;
        if name == "spam" {
            config.spam.density = 0.5;
        }
        let stops: &[u64] = if name == "switchlora" { &[20, 22, 25] } else { &[22, 25] };
        assert_resumes(&format!("spam with {name}"), &config, stops, 4);
        assert_resumes(&format!("spam with {name}"), &config, &[41], 3);
    }
}

#[test]
fn a_checkpoint_of_lte_with_other_merges_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = engine(&lte(2, 3));
    train(&mut run, 7);
    let progress = Progress { t: run.t, ..Progress::default() };
    let path = save(folder.path(), &mut run, &progress).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let restored = |config: &RunConfig| {
        let model = checkpoint.load_model(&device()).unwrap();
        checkpoint.restore(&mut setup::engine(config, model).unwrap(), true)
    };
    assert!(restored(&lte(2, 3)).is_ok());
    let error = restored(&lte(2, 5)).unwrap_err().to_string();
    assert!(error.contains("2 merges") && error.contains("gives 1"), "{error}");
    assert!(restored(&lte(4, 3)).is_err(), "more heads");
}

#[test]
fn a_checkpoint_of_relora_with_other_cycles_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = engine(&relora(2, 4));
    train(&mut run, 8);
    let progress = Progress { t: run.t, ..Progress::default() };
    let path = save(folder.path(), &mut run, &progress).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let restored = |config: &RunConfig| {
        let model = checkpoint.load_model(&device()).unwrap();
        checkpoint.restore(&mut setup::engine(config, model).unwrap(), true)
    };
    assert!(restored(&relora(2, 4)).is_ok());
    let error = restored(&relora(2, 2)).unwrap_err().to_string();
    assert!(error.contains("1 restarts") && error.contains("give 2"), "{error}");
    assert!(restored(&relora(9, 4)).is_err(), "a warm start that is not over");
}

#[test]
fn a_checkpoint_of_another_method_or_rank_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = engine(&busy_switchlora());
    train(&mut run, 2);
    let progress = Progress { t: run.t, ..Progress::default() };
    let path = save(folder.path(), &mut run, &progress).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let restored = |config: &RunConfig| {
        let model = checkpoint.load_model(&device()).unwrap();
        let mut engine = setup::engine(config, model).unwrap();
        checkpoint.restore(&mut engine, true)
    };
    assert!(restored(&busy_switchlora()).is_ok());
    let mut other_rank = busy_switchlora();
    other_rank.train.rank = Some(5);
    assert!(restored(&other_rank).is_err(), "another rank");
    assert!(restored(&config("full")).is_err(), "another method");
    let mut warm = busy_switchlora();
    warm.switchlora.warm_start = 50;
    assert!(restored(&warm).is_err(), "a warm start that is not over");
}
