//! `fullrank compare`: members have the bits of the run alone, a failure stops no other, and a comparison that was
//! killed goes on to the same bits.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;

use crate::common::{Place, assert_same_run, is_step, read_json, status, stderr, stdout};
use fullrank::runlog::status::Status;
use fullrank::runlog::{Body, CompareDir, RunDir, find_comparison, read_log};

/// A tiny comparison.
fn line(methods: &str, more: &str) -> String {
    let tiny = Place::train_line("x", more).replacen("train ", "compare ", 1);
    format!("{tiny} --methods {methods}")
}

fn dir(place: &Place) -> CompareDir {
    find_comparison(place.path("runs"), "x").unwrap().unwrap()
}

fn first_eval(run: &RunDir) -> f64 {
    let events = read_log(run.events()).unwrap().events;
    let evals = events.iter().find_map(|event| match &event.body {
        Body::Eval(eval) if event.step == 0 => Some(eval.loss),
        _ => None,
    });
    evals.unwrap()
}

#[test]
fn a_member_has_the_bits_of_the_run_alone() {
    let place = Place::new();
    let more = "--iters 12 --checkpoint-every 5 --eval-every 4 --switchlora-interval0 10";
    for (name, flag) in [("x", ""), ("one-by-one", "--sequential")] {
        place.ok(&format!("{} --ui none {flag} --name {name}", line("full,switchlora", more)));
        let compared = find_comparison(place.path("runs"), name).unwrap().unwrap();
        for method in ["full", "switchlora"] {
            let alone = format!("{method}-{name}");
            let alone = place.train(&alone, &format!("{more} --method {method}"));
            let member = compared.member(method);
            assert_same_run(&alone, &member);
            assert_eq!(
                fs::read_to_string(alone.config()).unwrap(),
                fs::read_to_string(member.config()).unwrap()
            );
        }
        // Methods that keep a dense W start as the same function.
        let [full, switchlora] =
            ["full", "switchlora"].map(|name| first_eval(&compared.member(name)));
        assert!((full - switchlora).abs() < 1e-5, "{full} and {switchlora}");
    }
}

#[test]
fn members_take_turns_and_each_has_its_own_clock() {
    let place = Place::new();
    place.ok(&format!("{} --ui none", line("full,lora", "--iters 8")));
    let compared = dir(&place);
    let steps = |name: &str| -> Vec<i64> {
        let events = read_log(compared.member(name).events()).unwrap().events;
        let steps = events.iter().filter(|event| matches!(event.body, Body::Step(_)));
        steps.map(|event| event.ts).collect()
    };
    let (full, lora) = (steps("full"), steps("lora"));
    assert_eq!((full.len(), lora.len()), (8, 8));
    for at in 1..8 {
        assert!(full[at] >= lora[at - 1] && lora[at] >= full[at], "turn {at}");
    }
    let active_s = |name: &str| {
        let events = read_log(compared.member(name).events()).unwrap().events;
        let last = events.iter().rev().find_map(|event| match &event.body {
            Body::Step(update) => Some(update.active_s),
            _ => None,
        });
        last.unwrap()
    };
    let all_s = (full.iter().chain(&lora).max().unwrap() - full.iter().min().unwrap()) as f64 / 1e3;
    // The first updates lie before the first time stamp.
    assert!(active_s("full") + active_s("lora") < 2.0 * all_s + 1.0);
}

#[test]
fn members_train_one_after_the_other_where_memory_does_not_hold_them_together() {
    let place = Place::new();
    let line = line("full,lora", "--iters 6 --device cpu --rank 2");
    place.ok(&format!("{line} --ui none"));
    let table = read_json(dir(&place).path().join("table.json"));
    let needs = [0, 1].map(|at| table["members"][at]["predicted_bytes"].as_f64().unwrap());
    let all = needs[0] + needs[1];
    let compare = |name: &str, bytes: f64| {
        let gib = bytes / f64::from(1 << 30);
        let output =
            place.run(&format!("{line} --name {name} --ui line --memory-budget {gib:.12}"));
        let compared = find_comparison(place.path("runs"), name).unwrap().unwrap();
        (output, compared)
    };
    let note = "one after the other";
    let times = |run: &RunDir| -> Vec<i64> {
        read_log(run.events()).unwrap().events.iter().map(|event| event.ts).collect()
    };
    for (name, bytes, together) in [("wide", 1.01 * all, true), ("narrow", 0.99 * all, false)] {
        let (output, compared) = compare(name, bytes);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(!stderr(&output).contains(note), together, "{}", stderr(&output));
        let [full, lora] = ["full", "lora"].map(|name| times(&compared.member(name)));
        assert_eq!(lora[0] < *full.last().unwrap(), together, "{name}");
    }
    // What does not fit alone fails, with both sizes, and leaves the room to the other.
    let (most, between) = (needs[0].max(needs[1]), all / 2.0);
    assert!(most > 1.01 * between, "{needs:?}");
    let (output, compared) = compare("tight", between);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(note), "{}", stderr(&output));
    let statuses = ["full", "lora"].map(|name| status(&compared.member(name)));
    let expected =
        needs.map(|bytes| if bytes < between { Status::Finished } else { Status::Failed });
    assert_eq!(statuses, expected, "{needs:?}");
    assert!(stdout(&output).contains("this run needs "), "{}", stdout(&output));
}

#[test]
fn a_member_that_fails_is_recorded_and_stops_no_other() {
    let place = Place::new();
    let more = "--iters 4 --for lora:rank=64 --for switchlora:learning_rate=1e30 --max-grad-norm 0";
    let output = place.run(&format!("{} --ui none", line("full,lora,switchlora", more)));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let compared = dir(&place);
    assert_eq!(status(&compared.member("full")), Status::Finished);
    assert_eq!(status(&compared.member("lora")), Status::Failed);
    assert_eq!(status(&compared.member("switchlora")), Status::Diverged);
    let expected = "error: 2 of 3 runs failed: lora, switchlora\n";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    let table = stdout(&output);
    assert!(
        table.contains("lora: train.rank = 64 is above the model's hidden size 32\n"),
        "{table}"
    );
    let json = read_json(compared.path().join("table.json"));
    assert_eq!(json["groups"][1]["status"], "failed");
    assert!(json["groups"][0]["loss"]["mean"].as_f64().unwrap() > 0.0);
    // The failed one is an ordinary run for the other commands.
    let shown = place.ok(&format!("show {}", compared.member("lora").path().display()));
    assert!(shown.contains("failed: train.rank = 64"), "{shown}");
}

#[test]
fn a_killed_comparison_goes_on_to_the_same_bits() {
    let place = Place::new();
    let more = "--iters 24 --checkpoint-every 5 --switchlora-interval0 10 --seeds 2";
    place.ok(&format!("{} --ui none --name straight", line("full,switchlora", more)));
    let straight = find_comparison(place.path("runs"), "straight").unwrap().unwrap();
    let mut live = place.spawn(&line("full,switchlora", more));
    live.wait_for(is_step(13));
    live.kill();
    let compared = dir(&place);
    assert_eq!(status(&compared.member("full-s0")), Status::Crashed);
    place.ok(&format!("resume {} --ui none", compared.name()));
    for name in ["full-s0", "full-s1", "switchlora-s0", "switchlora-s1"] {
        assert_eq!(status(&compared.member(name)), Status::Finished, "{name}");
        assert_same_run(&straight.member(name), &compared.member(name));
    }
    // What is done is left alone.
    let events = || fs::read(compared.member("full-s0").events()).unwrap();
    let before = events();
    place.ok("compare --resume x --ui none");
    assert_eq!(before, events());
}

#[test]
fn a_signal_leaves_a_checkpoint_of_each_member() {
    let place = Place::new();
    let more = "--iters 4000 --checkpoint-every 0 --eval-every 4000";
    let mut live = place.spawn(&line("full,lora", more));
    live.wait_for(is_step(5));
    live.signal("INT");
    let (_, output) = live.end();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{told}");
    let compared = dir(&place);
    // The comparison goes on as a whole, and is named once.
    let resume = format!("go on with `fullrank resume runs/{}`", compared.name());
    assert!(told.contains(&resume), "{told}");
    assert_eq!(told.matches("fullrank resume").count(), 1, "{told}");
    for name in ["full", "lora"] {
        assert_eq!(status(&compared.member(name)), Status::Interrupted);
        assert_eq!(compared.member(name).list_checkpoints().unwrap().len(), 1);
    }
}

#[test]
fn the_time_of_all_members_together_can_be_limited() {
    let place = Place::new();
    for flag in ["", "--sequential"] {
        let name = format!("time{flag}");
        let more = format!("--iters 100000 --max-minutes 0.01 --checkpoint-every 0 {flag}");
        place.ok(&format!("{} --ui none --name {name}", line("full,lora", &more)));
        let compared = find_comparison(place.path("runs"), &name).unwrap().unwrap();
        for member in ["full", "lora"] {
            assert_eq!(status(&compared.member(member)), Status::Finished);
            assert!(compared.member(member).model().is_dir());
        }
    }
}

#[test]
fn wrong_usage_is_refused_before_anything_is_made() {
    let place = Place::new();
    for (line, expected) in [
        ("compare --methods full,lorra", "error: --methods names `lorra`, which is no method"),
        (
            "compare --methods full --sweep learnin_rate=1,2",
            "error: there is no setting `learnin_rate`",
        ),
        ("compare --methods full --sweep learning_rate", "error: --sweep is `learning_rate`"),
        ("compare --methods full --sweep learning_rate=x,1", "error: --learning-rate is `x`"),
        ("compare --methods full --for lora:rank=3", "error: --for lora:rank: the method"),
        ("compare --methods full --for rank=3", "error: --for is `rank=3`"),
        ("compare --methods full --baseline lora", "error: --baseline lora: the comparison"),
        ("compare --methods full --iters 0", "error: train.iters is 0"),
        ("compare --resume x --iters 3", "error: --resume goes on with the settings"),
    ] {
        let output = place.run(line);
        assert_eq!(output.status.code(), Some(2), "`{line}`: {}", stderr(&output));
        assert!(stderr(&output).starts_with(expected), "`{line}`: {}", stderr(&output));
    }
    assert!(!place.path("runs").exists());
    let output = place.run("compare --resume x");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).starts_with("error: no comparison \"x\" in runs"),
        "{}",
        stderr(&output)
    );
}
