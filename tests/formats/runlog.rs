//! The event log as files: crashes at any byte, readers while a writer writes, other writers' junk.

#![allow(clippy::unwrap_used)] // helpers of tests, not only tests

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::fuzz;
use fullrank::cli;
use fullrank::runlog::summary::RunState;
use fullrank::runlog::{
    Action, Body, Command, ControlReader, End, EndStatus, Eval, Event, Log, Pause, Resume, Run,
    RunDir, RunWriter, Status, Step, Summary, Tail, effective, find, list, read_log,
};
use proptest::prelude::*;

fn step(loss: f64, tokens: u64) -> Step {
    Step { loss, lr: 1e-3, grad_norm: 1.0, tokens, active_s: 1.0, tok_s: tokens as f64 }
}

fn end(status: EndStatus) -> End {
    End { status, what: String::new() }
}

/// A log of three events, as its writer leaves it.
fn three_events(folder: &Path) -> (PathBuf, Vec<u8>) {
    let path = folder.join("events.jsonl");
    let mut writer = RunWriter::open(&path).unwrap();
    writer.emit(0, Run { method: "lora".into(), ..Run::default() }).unwrap();
    writer.emit(1, step(4.5, 100)).unwrap();
    writer.emit(2, step(f64::NAN, 200)).unwrap();
    drop(writer);
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn a_kill_at_any_byte_of_the_log_loses_at_most_the_line_it_was_in() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = three_events(folder.path());
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole_lines = bytes[..cut].split(|byte| *byte == b'\n').count() - 1;
        let before = read_log(&path).unwrap();
        assert_eq!((before.events.len(), before.damaged), (whole_lines, 0), "cut at {cut}");

        let mut writer = RunWriter::open(&path).unwrap();
        let seq = writer.emit(9, Log::default()).unwrap().seq;
        drop(writer);
        let after = read_log(&path).unwrap();
        assert_eq!((after.damaged, after.missing, after.is_torn), (0, 0, false), "cut at {cut}");
        assert_eq!(after.events.last().map(|event| event.seq), Some(seq), "cut at {cut}");
        // A line that misses only its end is kept, so there may be one more than whole lines.
        let kept = after.events.len() - 1;
        assert!(kept == whole_lines || kept == whole_lines + 1, "cut at {cut}: {kept}");
        assert_eq!(seq, kept as u64 + 1);
    }
}

#[test]
fn a_reader_sees_every_event_once_while_the_writer_writes() {
    const EVENTS: u64 = 3000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = RunWriter::open(&path).unwrap();
            for n in 1..=EVENTS {
                writer.emit(n, step(n as f64, n)).unwrap();
                if n % 100 == 0 {
                    writer.flush().unwrap();
                }
            }
            writer.sync().unwrap();
            is_done.store(true, Ordering::SeqCst);
        });
        let mut tail = Tail::new(&path);
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_mins(1);
        while seen.len() < EVENTS as usize {
            let was_done = is_done.load(Ordering::SeqCst);
            seen.extend(tail.poll().unwrap().into_iter().map(|event| event.seq));
            assert!(!was_done || seen.len() == EVENTS as usize, "synced events are readable");
            assert!(Instant::now() < deadline);
        }
        assert_eq!(seen, (1..=EVENTS).collect::<Vec<_>>());
        assert_eq!((tail.damaged(), tail.missing()), (0, 0));
    });
}

#[test]
fn the_life_of_a_run_shows_in_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(folder.path(), "life").unwrap();
    fs::write(run.config(), "").unwrap();
    let status = || RunState::of(&run).unwrap().status;
    assert_eq!(status(), Status::Crashed, "nobody holds it");

    let lock = run.lock().unwrap();
    let mut writer = RunWriter::open(run.events()).unwrap();
    writer.emit(0, Run::default()).unwrap();
    writer.emit(1, Pause::default()).unwrap();
    writer.flush().unwrap();
    assert_eq!(status(), Status::Paused);
    writer.emit(1, Resume::default()).unwrap();
    writer.flush().unwrap();
    assert_eq!(status(), Status::Live);
    writer.emit(1, end(EndStatus::Stopped)).unwrap();
    writer.sync().unwrap();
    drop((writer, lock));
    assert_eq!(status(), Status::Stopped);

    // Resumed in a new process and killed there.
    let lock = run.lock().unwrap();
    let mut writer = RunWriter::open(run.events()).unwrap();
    writer.emit(1, Resume { from_step: Some(1), from_seq: Some(3), rollback: None }).unwrap();
    drop((writer, lock));
    assert_eq!(status(), Status::Crashed);
}

#[test]
fn a_resume_leaves_the_old_updates_in_the_log_and_out_of_the_views() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let mut writer = RunWriter::open(&path).unwrap();
    let eval = |loss: f64| Eval { loss, ppl: loss.exp(), tokens: 10 };
    for n in 1..=4 {
        writer.emit(n, step(5.0 - n as f64, 100 * n)).unwrap();
        writer.emit(n, eval(5.0 - n as f64)).unwrap();
    }
    drop(writer);
    let mut writer = RunWriter::open(&path).unwrap();
    writer.emit(2, Resume { from_step: Some(2), from_seq: Some(4), rollback: None }).unwrap();
    writer.emit(3, eval(2.5)).unwrap();
    drop(writer);
    let log = read_log(&path).unwrap();
    assert_eq!(log.events.len(), 10);
    let evals: Vec<(u64, f64)> = effective(log.events)
        .iter()
        .filter_map(|event| match &event.body {
            Body::Eval(eval) => Some((event.step, eval.loss)),
            _ => None,
        })
        .collect();
    assert_eq!(evals, [(1, 4.0), (2, 3.0), (3, 2.5)]);
    let summary = Summary::of(&RunDir::at(folder.path())).unwrap();
    assert_eq!(summary.best_eval().map(|eval| eval.loss), Some(2.5));
}

#[test]
fn commands_reach_the_process_that_runs_now() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(folder.path(), "x").unwrap();
    Command::new(Action::Stop).send(&run).unwrap();
    let mut trainer = ControlReader::open(&run).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    Command::new(Action::Checkpoint).send(&run).unwrap();
                }
            });
        }
    });
    let mut ids: BTreeMap<String, Action> = BTreeMap::new();
    for command in trainer.poll().unwrap() {
        ids.insert(command.id, command.action);
    }
    assert_eq!(ids.len(), 100, "each once, none torn");
    assert!(
        ids.values().all(|action| *action == Action::Checkpoint),
        "the old stop is not among them"
    );
}

#[test]
fn a_run_goes_from_the_list_to_the_trash() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("runs");
    let run = RunDir::create(&out, "demo").unwrap();
    let mut writer = RunWriter::open(run.events()).unwrap();
    writer.emit(0, Run { method: "switchlora".into(), steps: 10, ..Run::default() }).unwrap();
    writer.emit(10, step(3.25, 100)).unwrap();
    writer.emit(10, end(EndStatus::Finished)).unwrap();
    drop(writer);
    assert_eq!(find(&out, "latest").unwrap(), run);

    let mut table = Vec::new();
    cli::ls::ls(&out, false, &mut table).unwrap();
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("finished  switchlora  -      10/10  3.2500"), "{table}");

    let mut page = Vec::new();
    cli::show::show(&out, "demo", false, &mut page).unwrap();
    assert!(String::from_utf8(page).unwrap().contains("10 of 10 updates (100 %)"));

    cli::rm::rm(&out, &["demo".into()], &mut Vec::new()).unwrap();
    assert!(list(&out).unwrap().is_empty());
    assert!(find(&out, "latest").is_err());
}

/// Lines that look like events more often than random bytes do.
fn almost_an_event() -> impl Strategy<Value = Vec<u8>> {
    let good = Just(br#"{"v":1,"seq":1,"ts":0,"t":"step","step":1,"loss":1,"lr":1,"grad_norm":1,"tokens":1,"active_s":1,"tok_s":1}"#.to_vec());
    let field = prop::sample::select(vec![
        r#""v":1"#,
        r#""v":2"#,
        r#""seq":18446744073709551615"#,
        r#""seq":2"#,
        r#""ts":-9223372036854775808"#,
        r#""ts":9223372036854775807"#,
        r#""t":"step""#,
        r#""t":"end""#,
        r#""t":"resume""#,
        r#""t":"run""#,
        r#""t":"eval""#,
        r#""t":"\u0000""#,
        r#""t":"switch""#,
        r#""step":18446744073709551615"#,
        r#""loss":"nan""#,
        r#""loss":1e400"#,
        r#""ppl":null"#,
        r#""tokens":3"#,
        r#""l":[[1,2,3,4,5,6,7,"inf",[],[9]]]"#,
        r#""from_step":0"#,
        r#""status":"finished""#,
        r#""name":"\u001b[2J""#,
        r#""active_s":-1"#,
        r#""lr":1"#,
        r#""grad_norm":0"#,
        r#""tok_s":0"#,
        r#""steps":18446744073709551615"#,
        r#""tokens_per_step":18446744073709551615"#,
    ]);
    let object = prop::collection::vec(field, 0..12)
        .prop_map(|fields| format!("{{{}}}", fields.join(",")).into_bytes());
    let torn = (object.clone(), any::<prop::sample::Index>())
        .prop_map(|(line, cut)| line[..cut.index(line.len())].to_vec());
    prop_oneof![good, object, torn, prop::collection::vec(any::<u8>(), 0..60)]
}

#[test]
fn no_content_of_a_run_folder_can_panic_a_reader() {
    let strategy = (
        prop::collection::vec(almost_an_event(), 0..8),
        prop::collection::vec(any::<u8>(), 0..40),
        any::<bool>(),
    );
    fuzz::each("run folder", 256, &strategy, |(lines, config, is_ended)| {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::at(folder.path().join("20261121-180011-x"));
        fs::create_dir_all(run.path()).unwrap();
        let mut log = lines.join(&b'\n');
        if is_ended {
            log.push(b'\n');
        }
        fs::write(run.events(), &log).unwrap();
        fs::write(run.control(), &log).unwrap();
        fs::write(run.config(), &config).unwrap();
        fs::write(run.facts(), &config).unwrap();

        let read = read_log(run.events()).unwrap();
        let mut tail = Tail::new(run.events());
        prop_assert_eq!(tail.poll().unwrap().len(), read.events.len());
        let mut view = cli::line::LineView::with_outputs(
            cli::line::Mode::Lines,
            run.clone(),
            Box::new(std::io::sink()),
            Box::new(std::io::sink()),
        );
        for event in &read.events {
            fullrank::runlog::EventSink::on_event(&mut view, event);
            let line = event.to_line().unwrap();
            // What a newer version wrote is carried as it is, also where this one would want other fields.
            if !matches!(event.body, Body::Raw { .. }) {
                Event::parse(line.as_bytes()).unwrap();
            }
        }
        drop(view);
        effective(read.events);
        for is_json in [false, true] {
            cli::ls::ls(folder.path(), is_json, &mut std::io::sink()).unwrap();
            cli::show::show(folder.path(), "x", is_json, &mut std::io::sink()).unwrap();
        }
        let mut control = ControlReader::open(&run).unwrap();
        Command::new(Action::Pause).send(&run).unwrap();
        prop_assert!(control.poll().unwrap().len() <= 1);
        let mut writer = RunWriter::open(run.events()).unwrap();
        writer.emit(1, Log::default()).unwrap();
        writer.sync().unwrap();
        Ok(())
    });
}
