//! Acting on a live run: settings changed in flight and what a resume makes of them, memory given back
//! and taken again, work asked for out of turn.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use crate::common::{self, Place, assert_same_run, status};
use fullrank::runlog::body::Changed;
use fullrank::runlog::status::Status;
use fullrank::runlog::{Body, Cmd, RunDir, read_log};

const LONG: &str = "--iters 3000 --checkpoint-every 20 --keep-checkpoints 1000 --eval-every 5000 \
                    --switchlora-interval0 10";

fn answers(run: &RunDir) -> Vec<Cmd> {
    let events = read_log(run.events()).unwrap().events.into_iter();
    let cmd = |body| if let Body::Cmd(cmd) = body { Some(cmd) } else { None };
    events.filter_map(|event| cmd(event.body)).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn settings_changed_in_flight_are_told_kept_and_repeated_to_the_bit() {
    let place = Place::new();
    let mut live = place.start("run", LONG);
    live.wait_for_step(25);
    let run = place.find("run");
    let name = run.name();
    let events = std::thread::spawn(move || live.end());

    let said = place.ok("ctl run set lr=*0.5");
    assert!(said.contains("train.learning_rate: 0.02 -> 0.01"), "{said}");
    let said = place.ok("ctl run set switchlora.interval0=12");
    assert!(said.contains("switchlora.interval0: 10.0 -> 12"), "{said}");
    place.ok("ctl run set max_grad_norm=0.5");
    let refused = place.run("ctl run set rank=2");
    assert_eq!(refused.status.code(), Some(1));
    let said = common::stderr(&refused);
    assert!(
        said.starts_with(&format!(
            "error: run {name} refused set rank=2: rank cannot change while a run trains; start a new run for it; in \
             flight can change: learning_rate, "
        )),
        "{said}"
    );
    let changed: Vec<Cmd> = answers(&run).into_iter().filter(|cmd| cmd.set.is_some()).collect();
    let expected =
        Changed { key: "train.learning_rate".into(), from: "0.02".into(), to: "0.01".into() };
    assert_eq!((changed.len(), changed[0].set.as_ref()), (3, Some(&expected)));
    let at = changed[2].attempts;
    common::wait_until("a checkpoint after the changes", || {
        run.list_checkpoints().unwrap().iter().any(|checkpoint| checkpoint.step > at)
    });
    place.ok("ctl run stop");
    assert_eq!(events.join().unwrap().1.status.code(), Some(0));

    // The same run as if its machine had gone down before the changes were in a checkpoint.
    let other = RunDir::at(run.path().with_file_name("20200101-000000-other"));
    copy(run.path(), other.path());
    let first = changed[0].attempts;
    for checkpoint in other.list_checkpoints().unwrap() {
        if checkpoint.step > first {
            fs::remove_dir_all(checkpoint.path).unwrap();
        }
    }
    place.ok("resume run --ui none");
    place.ok("resume other --ui none");
    let repeated = answers(&other);
    let repeated: Vec<&Cmd> =
        repeated.iter().filter(|cmd| cmd.what.ends_with("as before")).collect();
    assert_eq!(repeated.len(), 3);
    assert_eq!(repeated[0].attempts, first);
    assert_same_run(&run, &other);
    let rate = |run: &RunDir| {
        let events = read_log(run.events()).unwrap().events;
        let of = |body: &Body| if let Body::Step(step) = body { Some(step.lr) } else { None };
        events.iter().filter_map(|event| of(&event.body)).fold(0.0, f64::max)
    };
    assert!(rate(&run) <= 0.02);
}

/// Makes a run as it was right after its newest checkpoint of a step: nothing later in its folder.
fn cut_after_checkpoint(run: &RunDir, step: u64) {
    for checkpoint in run.list_checkpoints().unwrap() {
        if checkpoint.step > step {
            fs::remove_dir_all(checkpoint.path).unwrap();
        }
    }
    let events = read_log(run.events()).unwrap().events;
    let is_it = |body: &Body| matches!(body, Body::Ckpt(_));
    let last = events.iter().rposition(|event| event.step == step && is_it(&event.body)).unwrap();
    let log = fs::read_to_string(run.events()).unwrap();
    let kept: Vec<&str> = log.lines().take(last + 1).collect();
    fs::write(run.events(), kept.join("\n") + "\n").unwrap();
}

#[test]
fn a_change_is_not_lost_when_a_run_is_interrupted_twice_before_it() {
    let place = Place::new();
    let more = "--iters 400 --checkpoint-every 5 --keep-checkpoints 1000 --eval-every 5000";
    let mut live = place.start("run", more);
    live.wait_for_step(40);
    let run = place.find("run");
    let events = std::thread::spawn(move || live.end());
    place.ok("ctl run set lr=*0.5");
    let output = events.join().unwrap().1;
    assert_eq!(output.status.code(), Some(0), "{}", common::stderr(&output));

    let other = RunDir::at(run.path().with_file_name("20200101-000000-other"));
    copy(run.path(), other.path());
    for checkpoint in other.list_checkpoints().unwrap() {
        if checkpoint.step > 10 {
            fs::remove_dir_all(checkpoint.path).unwrap();
        }
    }
    // The first interruption came after 10 updates, the second after 20, both before the change.
    place.ok("resume other --ui none");
    cut_after_checkpoint(&other, 20);
    place.ok("resume other --ui none");
    assert_same_run(&run, &other);
}

#[test]
fn a_run_gives_its_memory_back_and_goes_on_with_the_same_bits() {
    let place = Place::new();
    for method in ["switchlora", "galore", "sltrain", "dora"] {
        let more = format!("--method {method} --iters 300 --checkpoint-every 0 --eval-every 5000");
        let mut live = place.start(method, &more);
        live.wait_for_step(5);
        let run = place.find(method);
        let events = std::thread::spawn(move || live.end());
        let said = place.ok(&format!("ctl {method} unload"));
        assert!(said.contains("freed; resume brings the run back"), "{said}");
        assert_eq!(status(&run), Status::Paused);
        let refused = place.run(&format!("ctl {method} sample"));
        assert_eq!(refused.status.code(), Some(1));
        place.ok(&format!("ctl {method} resume"));
        let (_, output) = events.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{method}: {}", common::stderr(&output));
        assert_eq!(status(&run), Status::Finished);
        assert_same_run(&place.train("straight", &more), &run);
        place.ok("rm straight");
    }
}

#[test]
fn an_unloaded_run_can_be_stopped_and_resumed() {
    let place = Place::new();
    let more = "--iters 300 --checkpoint-every 0 --eval-every 5000";
    let mut live = place.start("run", more);
    live.wait_for_step(5);
    let events = std::thread::spawn(move || live.end());
    place.ok("ctl run unload");
    place.ok("ctl run stop");
    assert_eq!(events.join().unwrap().1.status.code(), Some(0));
    let run = place.find("run");
    assert_eq!(status(&run), Status::Stopped);
    place.ok("resume run --ui none");
    assert_same_run(&place.train("straight", more), &run);
}

#[test]
fn work_is_done_out_of_turn_when_asked_for() {
    let place = Place::new();
    let mut live = place.start("run", "--iters 100000 --checkpoint-every 0 --eval-every 90000");
    live.wait_for_step(5);
    let events = std::thread::spawn(move || live.end());
    place.ok("ctl run pause");
    let said = place.ok("ctl run eval");
    assert!(said.contains("validation loss "), "{said}");
    place.ok("ctl run sample");
    place.ok("ctl run spectra");
    place.ok("ctl run stop");
    let (events, _) = events.join().unwrap();
    let has = |is_it: fn(&Body) -> bool| events.iter().any(|event| is_it(&event.body));
    assert!(has(|body| matches!(body, Body::Eval(_))));
    assert!(has(|body| matches!(body, Body::Sample(_))));
    assert!(has(|body| matches!(body, Body::Rank(_))));
}

/// A layer that learns nothing is warned of after 20 updates.
const STANDS_STILL: &str = "--method lora --learning-rate 0 --eval-every 500 --checkpoint-every 0 --rank-every 25 \
                            --rank-budget inf --rank-matrices change";

#[test]
fn a_warning_starts_its_command_and_stops_the_run_with_a_checkpoint() {
    let place = Place::new();
    let line = format!("{} --alert-policy stop --ui none", Place::train_line("run", STANDS_STILL));
    let mut command = place.command(&line);
    command.args(["--iters", "1000", "--on-alert"]);
    command
        .arg("echo \"$FULLRANK_LEVEL $FULLRANK_STEP $FULLRANK_ALERT\" >> \"$FULLRANK_RUN/told\"");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", common::stderr(&output));
    let run = place.find("run");
    assert_eq!(status(&run), Status::Stopped);
    let told = run.path().join("told");
    common::wait_until("the command has run", || {
        told.exists() && fs::metadata(&told).unwrap().len() > 0
    });
    let told = fs::read_to_string(told).unwrap();
    assert!(told.starts_with("warn 25 ") && told.contains("has not moved"), "{told}");
    let events = read_log(run.events()).unwrap().events;
    let end = events.iter().find_map(|event| match &event.body {
        Body::End(end) => Some((event.step, end.what.clone())),
        _ => None,
    });
    let (step, what) = end.unwrap();
    assert!(what.starts_with("alert: ") && what.contains("has not moved"), "{what}");
    assert_eq!(step, 25, "before the next update");
    assert_eq!(run.list_checkpoints().unwrap().pop().unwrap().step, 25);
}

#[test]
fn a_warning_pauses_a_run_that_goes_on_when_asked_to() {
    let place = Place::new();
    let more = format!("{STANDS_STILL} --iters 60 --alert-policy pause");
    let mut live = place.start("run", &more);
    let pause = live.wait_for(|event| matches!(event.body, Body::Pause(_)));
    let Body::Pause(why) = &pause.body else { panic!() };
    assert!(pause.step == 25 && why.reason.contains("has not moved"), "{pause:?}");
    common::wait_until("the run is paused", || status(&place.find("run")) == Status::Paused);
    let events = std::thread::spawn(move || live.end());
    place.ok("ctl run resume");
    assert_eq!(events.join().unwrap().1.status.code(), Some(0));
    assert_eq!(status(&place.find("run")), Status::Finished, "it warns once in a hundred updates");
}
