#![allow(clippy::unwrap_used, clippy::panic)] // tests may

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::*;
use crate::runlog::body::{Body, End, EndStatus, Eval, Phase, Resume, Run, Skip, Step};
use crate::runlog::{EventSink, RunLock, RunWriter, Status};
use crate::tui::app::App;
use crate::tui::model::{Metric, RunModel};
use crate::tui::theme::Theme;

/// A run with a log of some updates, an evaluation that is not finite among them, and a resume.
fn a_run(steps: u64) -> (tempfile::TempDir, RunDir) {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::at(folder.path());
    std::fs::write(dir.config(), "[train]\nmethod = \"lora\"\nseed = 3\n").unwrap();
    let mut log = RunWriter::open(dir.events()).unwrap();
    tell(&mut log, 1..=steps);
    log.sync().unwrap();
    (folder, dir)
}

fn update(step: u64) -> Body {
    let (loss, tokens) = (5.0 / step as f64, 100 * step);
    Step { loss, lr: 1e-3, grad_norm: 1.0, tokens, active_s: 0.1 * step as f64, tok_s: 1e3 }.into()
}

fn tell(log: &mut RunWriter, steps: std::ops::RangeInclusive<u64>) {
    let ts = |step: u64| 1_000_000 + 100 * step as i64;
    if *steps.start() == 1 {
        let run = Run { method: "lora".into(), steps: 100, tokens_per_step: 100, ..Run::default() };
        log.emit_at(ts(0), 0, run).unwrap();
        log.emit_at(ts(0), 0, Eval { loss: f64::NAN, ppl: f64::NAN, tokens: 9 }).unwrap();
    }
    for step in steps {
        log.emit_at(ts(step), step, update(step)).unwrap();
        if step % 7 == 0 {
            let skip = Skip { reason: "loss is not finite".into(), ..Skip::default() };
            log.emit_at(ts(step), step, skip).unwrap();
        }
    }
}

/// Takes messages into an app until it is as wanted.
fn until(app: &mut App, messages: &Receiver<Msg>, is_done: impl Fn(&App) -> bool) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut notices = Vec::new();
    while !is_done(app) {
        let left =
            deadline.checked_duration_since(Instant::now()).unwrap_or_else(|| panic!("too long"));
        if let Ok(message) = messages.recv_timeout(left) {
            if let Msg::Notice(text) = &message {
                notices.push(text.clone());
            }
            app.update(message);
        }
    }
    notices
}

fn app() -> App {
    App::new(vec![RunModel::new(None)], Theme::default())
}

#[test]
fn a_log_is_loaded_and_followed_and_its_run_seen_to_crash() {
    let (_folder, dir) = a_run(10);
    let lock = dir.lock().unwrap();
    let (outlet, messages) = sync_channel(WAITING);
    let source = Source::tail(0, dir.clone(), outlet).unwrap();
    let mut app = app();
    until(&mut app, &messages, |app| app.runs[0].steps.len() == 10);
    assert_eq!(app.runs[0].status, Status::Live);
    assert_eq!(app.runs[0].config["train.method"], "lora");
    let mut log = RunWriter::open(dir.events()).unwrap();
    tell(&mut log, 11..=20);
    log.sync().unwrap();
    until(&mut app, &messages, |app| app.runs[0].steps.len() == 20);
    drop(lock);
    let killed = Instant::now();
    until(&mut app, &messages, |app| app.runs[0].status == Status::Crashed);
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert_eq!(app.runs[0].steps, load(&dir).unwrap().model.steps);
    drop(source);
}

#[test]
fn another_log_in_the_place_of_one_is_read_anew() {
    let (_folder, dir) = a_run(30);
    let _lock = dir.lock().unwrap();
    let (outlet, messages) = sync_channel(WAITING);
    let _source = Source::tail(0, dir.clone(), outlet).unwrap();
    let mut app = app();
    until(&mut app, &messages, |app| app.runs[0].steps.len() == 30);
    let (_other_folder, other) = a_run(5);
    std::fs::copy(other.events(), dir.events()).unwrap();
    until(&mut app, &messages, |app| app.runs[0].steps.len() == 5);
}

fn replayed(dir: &RunDir, speed: f64) -> RunModel {
    let (outlet, messages) = sync_channel(WAITING);
    let _source = Source::replay(0, dir.clone(), speed, outlet).unwrap();
    let mut app = app();
    loop {
        match messages.recv_timeout(Duration::from_secs(20)).unwrap() {
            Msg::Notice(text) if text == "the replay is over" => break,
            message => {
                app.update(message);
            }
        }
    }
    app.runs.remove(0)
}

#[test]
fn a_replay_at_any_speed_ends_as_a_load() {
    let (_folder, dir) = a_run(40);
    let mut log = RunWriter::open(dir.events()).unwrap();
    log.emit(20, Run { method: "lora".into(), steps: 100, ..Run::default() }).unwrap();
    log.emit(20, Resume { from_step: Some(20), from_seq: Some(24), rollback: None }).unwrap();
    tell(&mut log, 21..=30);
    log.emit(30, End { status: EndStatus::Finished, what: String::new() }).unwrap();
    log.sync().unwrap();
    let loaded = load(&dir).unwrap().model;
    assert_eq!(loaded.status, Status::Finished);
    assert_eq!((loaded.steps.len(), loaded.undone.len()), (30, 1));
    // By what is written of them, as a loss that is not a number is not equal to itself.
    for speed in [20.0, 1e3, 1e9] {
        let mut replayed = replayed(&dir, speed);
        // Facts are read once more where a run event comes.
        replayed.revision = loaded.revision;
        assert_eq!(format!("{replayed:?}"), format!("{loaded:?}"), "speed {speed}");
    }
}

/// A writer and a sink as a trainer has them.
struct Told {
    log: RunWriter,
    sink: LiveSink,
    _lock: RunLock,
}

impl Told {
    fn emit(&mut self, step: u64, body: impl Into<Body>) {
        let event = self.log.emit(step, body).unwrap();
        self.sink.on_event(&event);
    }
}

fn live() -> (tempfile::TempDir, RunDir, Told, Source, Receiver<Msg>) {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::at(folder.path());
    let (outlet, messages) = sync_channel(4);
    let (sink, source) = Source::live(0, dir.clone(), outlet).unwrap();
    let lock = dir.lock().unwrap();
    let log = RunWriter::open(dir.events()).unwrap();
    (folder, dir, Told { log, sink, _lock: lock }, source, messages)
}

#[test]
fn a_slow_screen_holds_no_trainer_up_and_misses_nothing() {
    let (_folder, dir, mut told, _source, messages) = live();
    std::fs::write(dir.config(), "[train]\nmethod = \"lora\"\n").unwrap();
    told.emit(0, Run { method: "lora".into(), ..Run::default() });
    let started = Instant::now();
    for step in 1..=20_000 {
        told.emit(step, update(step));
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let mut app = app();
    until(&mut app, &messages, |app| app.runs[0].steps.len() == 20_000);
    assert_eq!(app.runs[0].config["train.method"], "lora");
    told.emit(20_000, Phase { name: "export".into(), detail: String::new() });
    told.emit(20_000, End { status: EndStatus::Finished, what: String::new() });
    told.log.sync().unwrap();
    drop(told);
    until(&mut app, &messages, |app| app.runs[0].status == Status::Finished);
    let mut run = app.runs.remove(0);
    let loaded = load(&dir).unwrap().model;
    run.revision = loaded.revision;
    assert_eq!(format!("{run:?}"), format!("{loaded:?}"));
}

#[test]
fn a_trainer_whose_screen_is_gone_goes_on() {
    let (_folder, dir, mut told, source, messages) = live();
    drop((source, messages));
    for step in 1..=5000 {
        told.emit(step, update(step));
    }
    told.log.sync().unwrap();
    assert_eq!(load(&dir).unwrap().model.last(Metric::Loss), Some(f64::from(0.001_f32)));
}
