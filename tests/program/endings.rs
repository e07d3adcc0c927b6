//! How runs end and go on: nothing is lost by what fails at the end, a run that is done says so, a refusal changes nothing.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests may stop

use std::fs;

use crate::common::{self, Place, newest_checkpoint, status, stderr};
use fullrank::run::commands::Signals;
use fullrank::run::session::Session;
use fullrank::runlog::control::Command;
use fullrank::runlog::status::Status;
use fullrank::runlog::{Action, Body, Event, EventSink, RunDir, read_log};
use serde_json::Value;

struct Events(Vec<Event>);

impl EventSink for Events {
    fn on_event(&mut self, event: &Event) {
        self.0.push(event.clone());
    }
}

fn steps(run: &RunDir) -> usize {
    let events = read_log(run.events()).unwrap().events;
    events.iter().filter(|event| matches!(event.body, Body::Step(_))).count()
}

#[test]
fn a_result_that_cannot_be_written_costs_no_update_and_is_told() {
    let place = Place::new();
    let more = "--iters 400 --checkpoint-every 0 --eval-every 5000";
    let mut live = place.start("run", more);
    live.wait_for_step(1);
    let run = place.find("run");
    fs::write(run.model(), "in the way").unwrap();
    let (_, output) = live.end();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(status(&run), Status::Failed);
    assert!(newest_checkpoint(&run).ends_with("step-00000400"));
    fs::remove_file(run.model()).unwrap();
    place.ok("resume run --ui none");
    assert_eq!((status(&run), steps(&run)), (Status::Finished, 400));
    assert!(run.model().join("model.safetensors").is_file());
}

#[test]
fn a_model_whose_samples_would_fail_is_refused_before_the_first_update() {
    let place = Place::new();
    let base = place.train("base", "--iters 2");
    let broken = base.model().join("generation_config.json");
    fs::write(&broken, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let line = format!("train --model {} --data text.txt --name tuned", base.model().display());
    let output = place.run(&line);
    let told = stderr(&output);
    assert!(!output.status.success() && told.contains("generation_config.json"), "{told}");
    assert!(!told.contains("step 1"), "{told}");
}

#[test]
fn a_refused_extension_leaves_the_run_as_it_was() {
    let place = Place::new();
    let run = place.train("run", "--iters 3");
    let before = fs::read(run.config()).unwrap();
    let output = place.run("resume run --extend 5 --device gpu:9 --ui none");
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(fs::read(run.config()).unwrap(), before);
    place.ok("resume run --extend 5 --ui none");
    assert_eq!(steps(&run), 5);
}

#[test]
fn a_run_that_stopped_early_is_done_until_it_is_extended() {
    let place = Place::new();
    // A rate at which nothing moves: no evaluation is better than the first.
    let run = place.train("run", "--iters 60 --eval-every 5 --early-stop 2 --learning-rate 1e-30");
    let done = steps(&run);
    assert!(done < 60, "{done}");
    let output = place.run("resume run --ui none");
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains(&format!("stopped early after {done} of 60 updates")), "{told}");
    assert_eq!(steps(&run), done);
    place.ok("resume run --extend 70 --ui none");
    assert_eq!(steps(&run), done + 5, "one more evaluation");
}

#[test]
fn looking_at_the_loss_does_not_change_which_evaluation_is_the_best() {
    let place = Place::new();
    let mut live = place
        .start("run", "--iters 100000 --eval-every 90000 --checkpoint-every 0 --save-best true");
    live.wait_for_step(5);
    let events = std::thread::spawn(move || live.end());
    place.ok("ctl run pause");
    place.ok("ctl run eval");
    place.ok("ctl run checkpoint");
    place.ok("ctl run stop");
    events.join().unwrap();
    let run = place.find("run");
    let state = fs::read(newest_checkpoint(&run).join("state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state["progress"]["best"]["step"], 0, "{}", state["progress"]);
}

#[test]
fn a_command_that_comes_while_a_resume_prepares_is_obeyed() {
    let place = Place::new();
    let run = place.train("run", "--iters 3");
    let session = Session::resume(run.clone(), Some(100_000), None, None).unwrap();
    Command::new(Action::Stop).send(&run).unwrap();
    let mut sink = Events(Vec::new());
    session.train_until(Signals::listen(|_| ()).unwrap(), &mut sink).unwrap();
    let answered = sink.0.iter().any(|event| matches!(&event.body, Body::Cmd(cmd) if cmd.ok));
    assert!(answered);
    assert_eq!((status(&run), steps(&run)), (Status::Stopped, 3));
}

#[test]
fn a_comparison_out_of_time_brings_an_unloaded_member_back_to_finish_it() {
    let place = Place::new();
    let members = "--methods full,lora --max-minutes 0.15 --name pair --iters 1000000";
    let tiny = Place::train_line("x", "").replace("train ", "").replace("--name x", "");
    let mut child = place.command(&format!("compare {members} {tiny} --ui none")).spawn().unwrap();
    let lora = || {
        let comparison = fs::read_dir(place.path("runs")).ok()?.flatten().next()?.path();
        let run = RunDir::at(comparison.join("members/lora"));
        (run.events().is_file() && steps(&run) > 3).then_some(run)
    };
    common::wait_until("the member trains", || lora().is_some());
    let run = lora().unwrap();
    place.ok(&format!("ctl {} unload", run.path().display()));
    assert!(child.wait().unwrap().success());
    assert_eq!(status(&run), Status::Finished);
}
