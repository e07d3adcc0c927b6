//! Runs that hang and runs without memory, as a user sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests may stop

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{self, Place, assert_same_run, newest_checkpoint, status, stderr};
use crate::tty::ENDLESS;
use fullrank::runlog::status::Status;
use fullrank::runlog::{Body, Event, read_log};
use serde_json::Value;

fn is_stall(event: &Event) -> bool {
    matches!(&event.body, Body::Alert(alert) if alert.what.starts_with("an update took "))
}

/// A process that is stopped for longer than an update may take is a run that hangs: nothing in it can tell.
#[test]
fn a_run_that_hangs_is_shown_as_live_and_its_slow_update_is_told_when_it_goes_on() {
    let place = Place::new();
    let mut live =
        place.start("run", &format!("{ENDLESS} --eval-every 900000 --alert-policy stop"));
    live.wait_for_step(20);
    let run = place.find("run");
    // Between two updates, which is not counted, it may be stopped as well; then it hangs once more.
    for attempt in 0.. {
        assert!(attempt < 4, "no slow update was told");
        live.signal("STOP");
        let stopped = Instant::now();
        let length = || fs::metadata(run.events()).unwrap().len();
        let before = length();
        let listed: Value = serde_json::from_str(&place.ok("ls --json")).unwrap();
        assert_eq!(listed[0]["status"], "live");
        let frame = place.ok("watch latest --once");
        assert!(frame.contains("LIVE") && !frame.contains("CRASHED"), "{frame}");
        std::thread::sleep(Duration::from_secs(6).saturating_sub(stopped.elapsed()));
        assert_eq!(length(), before, "it says nothing");
        assert_eq!(status(&run), Status::Live);
        live.signal("CONT");
        let resumed = Instant::now();
        while resumed.elapsed() < Duration::from_secs(5) && status(&run) == Status::Live {
            std::thread::sleep(Duration::from_millis(50));
        }
        if read_log(run.events()).unwrap().events.iter().any(is_stall) {
            break;
        }
    }
    let (_, output) = live.end();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(status(&run), Status::Stopped);
    let events = read_log(run.events()).unwrap().events;
    let end = events.iter().find_map(|event| match &event.body {
        Body::End(end) => Some(end.what.clone()),
        _ => None,
    });
    assert!(end.unwrap().starts_with("alert: an update took "), "the policy acted on it");
    let frame = place.ok("watch latest --once --size 140x30");
    assert!(frame.contains("STOPPED") && frame.contains("an update took"), "{frame}");
}

#[test]
fn a_run_over_its_budget_is_refused_with_both_sizes_and_stays_as_it_was() {
    let place = Place::new();
    let refused = |line: &str| {
        let output = place.run(line);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{told}");
        assert!(told.contains("MiB of memory, the budget is 0 MiB"), "{told}");
        assert!(told.contains("--grad-checkpoint; or raise --memory-budget"), "{told}");
    };
    refused(&Place::train_line("new", "--device cpu --memory-budget 0.0001"));
    assert!(!place.path("runs").exists(), "no run is made");

    let more = "--iters 40 --checkpoint-every 10 --memory-budget 1";
    let run = place.killed("run", more, Some(20), common::is_step(23));
    let text = fs::read_to_string(run.config()).unwrap();
    let small = text.replace("memory_budget = 1.0", "memory_budget = 0.0001");
    assert_ne!(small, text);
    fs::write(run.config(), small).unwrap();
    let before = fs::read(run.events()).unwrap();
    refused("resume run --ui none");
    assert_eq!(fs::read(run.events()).unwrap(), before);
    assert!(newest_checkpoint(&run).ends_with("step-00000020"));
    let frame = place.ok("watch latest --once");
    assert!(frame.contains("CRASHED"), "{frame}");
    fs::write(run.config(), text).unwrap();
    place.ok("resume run --ui none");
    assert_same_run(&place.train("straight", more), &run);
}
