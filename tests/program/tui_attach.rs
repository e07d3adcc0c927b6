//! Several screens and commands on one live run, and a terminal that goes away under it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests may

use std::process::Child;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::common::{self, Place, status};
use crate::tty::{ENDLESS, Tty};
use fullrank::runlog::status::Status;
use fullrank::runlog::{Body, Cmd, RunDir, Summary, find, read_log};

/// A trainer without a screen, ended with the test.
struct Trainer(Child);

impl Drop for Trainer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends a process that is nobody's child any more.
struct Orphan(Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

fn begun(place: &Place) -> RunDir {
    let trains = |run: &RunDir| Summary::of(run).is_ok_and(|summary| summary.step > 2);
    let found = || find(place.path("runs"), "run").ok().filter(trains);
    common::wait_until("the run trains", || found().is_some());
    place.find("run")
}

fn answers(run: &RunDir) -> Vec<Cmd> {
    let events = read_log(run.events()).unwrap().events.into_iter();
    let cmd = |body| if let Body::Cmd(cmd) = body { Some(cmd) } else { None };
    events.filter_map(|event| cmd(event.body)).collect()
}

#[test]
fn two_screens_and_a_command_line_act_on_one_run_and_see_the_same() {
    let place = Place::new();
    let line = format!("{} --ui none", Place::train_line("run", ENDLESS));
    let mut trainer = Trainer(place.command(&line).spawn().unwrap());
    let run = begun(&place);
    let (mut one, mut other) = (Tty::start(&place, "watch run"), Tty::start(&place, "watch run"));
    let both_see = |one: &Tty, other: &Tty, what: &str| {
        one.see(what);
        other.see(what);
    };
    both_see(&one, &other, "● LIVE");
    one.press("P");
    both_see(&one, &other, "PAUSED");
    assert_eq!(status(&run), Status::Paused);
    other.press(":set lr *0.5\r");
    common::wait_until("the other rate", || answers(&run).len() == 2);
    // What a command line asks for is seen by both, and what one asked for while the other looked is done once.
    place.ok("ctl run resume");
    both_see(&one, &other, "● LIVE");
    place.ok("ctl run set max_grad_norm=0.5");
    other.press("C");
    common::wait_until("the checkpoint", || answers(&run).len() == 5);
    both_see(&one, &other, "● LIVE");

    // One screen leaves, the run and the other screen stay.
    one.press("q");
    assert_eq!(one.end(), 0);
    let step = Summary::of(&run).unwrap().step;
    common::wait_until("more updates", || Summary::of(&run).unwrap().step > step);
    other.press("Z");
    other.wait("a question or the end", |tty| {
        tty.text().contains("y yes") || tty.text().contains("STOPPED")
    });
    if other.text().contains("y yes") {
        other.press("y");
    }
    other.see("STOPPED");
    assert!(trainer.0.wait().unwrap().success());
    other.press("q");
    assert_eq!(other.end(), 0);

    let answers = answers(&run);
    let done: Vec<&str> = answers.iter().map(|cmd| cmd.cmd.as_str()).collect();
    assert!(answers.iter().all(|cmd| cmd.ok), "{answers:#?}");
    let words: Vec<&str> = done.iter().map(|cmd| cmd.split([' ', '=']).next().unwrap()).collect();
    assert_eq!(words, ["pause", "set", "resume", "set", "checkpoint", "stop"], "{done:?}");
    let mut ids: Vec<&str> = answers.iter().map(|cmd| cmd.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6, "each once");
    assert!(
        answers[1].what.starts_with("train.learning_rate: 0.02 -> 0.01"),
        "{}",
        answers[1].what
    );
    assert!(answers.windows(2).all(|pair| pair[0].attempts <= pair[1].attempts));
}

#[test]
fn a_trainer_outlives_the_terminal_that_it_was_started_in() {
    let place = Place::new();
    let tty = Tty::in_shell(&place, &Place::train_line("run", ENDLESS));
    tty.see("● LIVE");
    let run = begun(&place);
    let events = read_log(run.events()).unwrap().events;
    let pid = events.iter().find_map(|event| match &event.body {
        Body::Run(run) => Some(run.pid),
        _ => None,
    });
    let pid = Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()).unwrap();
    assert_ne!(pid, tty.pid(), "the shell is its parent");
    let orphan = Orphan(pid);
    tty.signal(Signal::KILL);
    tty.wait("left screen", |tty| !tty.is_on_alternate_screen() || tty.is_hung_up());
    let step = Summary::of(&run).unwrap().step;
    common::wait_until("updates without a terminal", || {
        Summary::of(&run).unwrap().step > step + 20
    });
    assert_eq!(status(&run), Status::Live);
    place.ok("ctl run stop");
    common::wait_until("the end", || status(&run) == Status::Stopped);
    common::wait_until("the end of the process", || test_kill_process(pid).is_err());
    assert!(!run.list_checkpoints().unwrap().is_empty());
    drop(orphan);
}

#[test]
fn a_panic_of_the_trainer_is_said_on_the_screen_and_after_it() {
    let place = Place::new();
    let more = "--iters 1000000 --checkpoint-every 5";
    let variables = [("FULLRANK_TEST_TRAINER_PANIC", "12")];
    let mut tty = Tty::with(&place, &Place::train_line("run", more), &variables);
    tty.see("the trainer panicked");
    assert!(tty.is_on_alternate_screen(), "what was drawn stays to be looked at");
    tty.see("CRASHED");
    tty.press("q");
    assert_eq!(tty.end(), 1);
    tty.see("error: the trainer panicked: ");
    let run = place.find("run");
    assert_eq!(status(&run), Status::Crashed);
    assert!(common::newest_checkpoint(&run).ends_with("step-00000010"));
    let mut resumed = place.start_resume("run", "");
    resumed.wait_for_step(13);
    resumed.kill();
}
