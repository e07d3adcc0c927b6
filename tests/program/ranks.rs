//! Rank metrics of whole runs: events in the log, the same bits with and without them, and across a resume.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common::{Place, assert_same_files, assert_same_lines, is_step, numbers};
use fullrank::runlog::{Body, Rank, RunDir, effective, read_log};

/// The `rank` events that count, with their steps.
fn ranks(run: &RunDir) -> Vec<(u64, Rank)> {
    let events = effective(read_log(run.events()).unwrap().events);
    let rank = |event: fullrank::runlog::Event| match event.body {
        Body::Rank(rank) => Some((event.step, *rank)),
        _ => None,
    };
    events.into_iter().filter_map(rank).collect()
}

const SWITCHING: &str =
    "--iters 12 --switchlora-interval0 10 --switchlora-ratio 1 --switchlora-freeze 5";

#[test]
fn rank_events_come_at_their_interval_and_leave_the_bits_of_the_run_alone() {
    let place = Place::new();
    let plain = place.train("plain", &format!("{SWITCHING} --rank-every 0"));
    let more = "--rank-every 5 --rank-budget inf --rank-layers all --rank-matrices change,weight";
    let looked_at = place.train("looked-at", &format!("{SWITCHING} {more}"));
    assert!(ranks(&plain).is_empty());
    assert_same_lines(&numbers(&plain), &numbers(&looked_at), "with and without rank metrics");
    assert_same_files(&plain.model(), &looked_at.model(), &[]);

    let found = ranks(&looked_at);
    let steps: Vec<u64> = found.iter().map(|(step, _)| *step).collect();
    let expected: Vec<u64> = [5, 10, 12].into_iter().flat_map(|step| [step; 2 * 14]).collect();
    assert_eq!(steps, expected, "change and weight of 14 layers at 5, 10 and the end");
    for (_, rank) in &found {
        assert_eq!(rank.sigma.len() as u64, rank.full, "{rank:?}");
        assert!(rank.ms >= 0.0 && rank.norm > 0.0, "{rank:?}");
        assert_eq!(rank.relative.is_some(), rank.matrix == "change", "{rank:?}");
        assert_eq!(rank.coverage.is_some(), rank.matrix == "change", "once a layer: {rank:?}");
    }
}

#[test]
fn a_resumed_run_measures_the_same_ranks_and_coverage() {
    let place = Place::new();
    let more = format!(
        "{SWITCHING} --checkpoint-every 4 --rank-every 6 --rank-budget inf --rank-layers all"
    );
    let straight = place.train("straight", &more);
    let killed = place.killed("killed", &more, Some(4), is_step(6));
    place.ok("resume killed --ui none");
    let timeless = |run: &RunDir| -> Vec<(u64, Rank)> {
        let ranks = ranks(run).into_iter();
        ranks.map(|(step, rank)| (step, Rank { ms: 0.0, ..rank })).collect()
    };
    assert_eq!(timeless(&straight).len(), 2 * 28);
    assert_eq!(timeless(&straight), timeless(&killed));
}

#[test]
fn changes_can_be_counted_from_the_end_of_a_warm_start() {
    let place = Place::new();
    let more = "--method relora --iters 16 --relora-warm-start 8 --relora-cycle 4 --rank 4 \
                --rank-every 4 --rank-budget inf --rank-matrices change";
    let run = place.train("counted", &format!("{more} --rank-reference warm-start-end"));
    let found = ranks(&run);
    let steps: std::collections::BTreeSet<u64> = found.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps.into_iter().collect::<Vec<_>>(), [8, 12, 16], "not before it exists");
    for (step, rank) in &found {
        let cycles = (step - 8) / 4;
        assert_eq!(rank.reference.as_deref(), Some("warm-start-end"));
        assert!(rank.numerical <= 4 * (cycles + 1), "{cycles} cycles: {rank:?}");
        assert!(*step > 8 || rank.norm < 1e-6, "nothing has changed at the end: {rank:?}");
    }
    place.assert_fails(
        &Place::train_line("none", "--method lora --iters 4 --rank-reference warm-start-end"),
        2,
        "error: rank.reference is warm-start-end, and method lora has no warm start here\n  \
         try: leave it out, or give the run a warm start\n",
    );
}

#[test]
fn spectra_of_gradients_come_with_new_subspaces() {
    let place = Place::new();
    let more = "--method galore --rank 4 --iters 9 --galore-update-proj-gap 4 --rank-every 9";
    let run = place.train("run", more);
    let found = ranks(&run);
    let gradients: Vec<&(u64, Rank)> =
        found.iter().filter(|(_, rank)| rank.matrix == "gradient").collect();
    assert_eq!(gradients.len(), 3 * 14, "three subspaces of 14 layers");
    for (step, rank) in gradients {
        assert!([1, 5, 9].contains(step), "{step}");
        assert_eq!((rank.form.as_str(), rank.full), ("gram", 32));
        let sum: f64 = rank.sigma.iter().map(|(_, sigma)| sigma * sigma).sum();
        assert!((sum.sqrt() / rank.norm - 1.0).abs() < 1e-9 && rank.effective > 1.0, "{rank:?}");
    }
    let without = place.train("without", &format!("{more} --rank-matrices change"));
    assert!(ranks(&without).iter().all(|(_, rank)| rank.matrix == "change"));
}
