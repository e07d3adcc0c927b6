//! Whole runs of the real binary on tiny models: a place for them, training and killing them, and
//! comparing what they leave behind.

// Clippy knows `#[test]` functions as tests, but not the functions they share; and each test binary
// uses only a part of these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fullrank::runlog::status::Status;
use fullrank::runlog::summary::RunState;
use fullrank::runlog::{Body, Event, RunDir, effective, read_log};
use serde_json::Value;
use tempfile::TempDir;

/// A network of 37,000 parameters, which does an update in a few milliseconds.
const TINY: &str = "--tokenizer bytes --hidden-size 32 --num-hidden-layers 2 --num-attention-heads 2 \
                    --intermediate-size 64 --max-seq-length 32 --batch-size 4 --eval-batches 2 \
                    --sample-tokens 8";
/// Nothing here takes longer than this, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A folder of its own with a text, runs and a token cache.
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// Makes the folder, with 40,000 bytes of text in `text.txt`.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = include_bytes!("../../assets/corpus/emma.txt");
        fs::write(folder.path().join("text.txt"), &text[2_000..42_000]).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program in this place, with words for arguments.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fullrank"));
        command
            .args(line.split_whitespace())
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env_remove("COLUMNS")
            .env_remove("FULLRANK_LOG")
            // A layer of Mesa says on stderr that a container has no display.
            .env("NODEVICE_SELECT", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs the program to its end, which must be a good one, and gives its stdout.
    pub fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "`{line}`: {:?}\n{}", output.status, stderr(&output));
        stdout(&output)
    }

    /// The arguments that train a tiny model; `name` names the run.
    pub fn train_line(name: &str, more: &str) -> String {
        format!("train {TINY} --data text.txt --name {name} {more}")
    }

    /// Trains a tiny model to its end.
    pub fn train(&self, name: &str, more: &str) -> RunDir {
        self.ok(&format!("{} --ui none", Self::train_line(name, more)));
        self.find(name)
    }

    /// Starts to train a tiny model; its events come from its stdout.
    pub fn start(&self, name: &str, more: &str) -> Live {
        self.spawn(&Self::train_line(name, more))
    }

    /// A run that was killed right after an event. A kill that came too late, after another checkpoint than
    /// `newest` (where that matters) or after the end, is tried again.
    pub fn killed(
        &self,
        name: &str,
        more: &str,
        newest: Option<u64>,
        is_it: impl Fn(&Event) -> bool,
    ) -> RunDir {
        for _ in 0..20 {
            let mut live = self.start(name, more);
            live.wait_for(&is_it);
            live.kill();
            let run = self.find(name);
            let found = run.list_checkpoints().unwrap().pop().map(|checkpoint| checkpoint.step);
            if status(&run) == Status::Crashed && (newest.is_none() || newest == found) {
                return run;
            }
            self.ok(&format!("rm {name}"));
        }
        panic!("{name} cannot be killed in time");
    }

    /// Goes on with a run; its events come from its stdout.
    pub fn start_resume(&self, name: &str, more: &str) -> Live {
        self.spawn(&format!("resume {name} {more}"))
    }

    /// Starts a command that trains; its events come from its stdout.
    pub fn spawn(&self, line: &str) -> Live {
        let mut child = self.command(&format!("{line} --ui json")).spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap());
        Live { child, events }
    }

    /// The run of this name.
    pub fn find(&self, name: &str) -> RunDir {
        fullrank::runlog::find(self.path("runs"), name).unwrap()
    }

    /// The program must end with this exit code and these lines on stderr, and say nothing on stdout.
    /// `PLACE` stands for this folder.
    pub fn assert_fails(&self, line: &str, code: i32, expected: &str) {
        assert_failure(&self.run(line), code, &self.expand(expected), line);
    }

    /// Writes the path of this folder for `PLACE`.
    pub fn expand(&self, text: &str) -> String {
        text.replace("PLACE", &self.folder.path().display().to_string())
    }
}

/// An ended program must have this exit code and these lines on stderr, and nothing on stdout.
pub fn assert_failure(output: &Output, code: i32, expected: &str, what: &str) {
    assert_eq!(stderr(output), expected, "`{what}`");
    assert_eq!(stdout(output), "", "`{what}`");
    assert_eq!(output.status.code(), Some(code), "`{what}`");
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A program that trains.
pub struct Live {
    child: Child,
    events: BufReader<std::process::ChildStdout>,
}

impl Live {
    /// The next event; `None` at the end of the program.
    pub fn next(&mut self) -> Option<Event> {
        let mut line = String::new();
        self.events.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| Event::parse(line.trim_end().as_bytes()).unwrap())
    }

    /// Waits for an event; it must come.
    pub fn wait_for(&mut self, mut is_it: impl FnMut(&Event) -> bool) -> Event {
        loop {
            let event = self.next().expect("the program ended before the event came");
            if is_it(&event) {
                return event;
            }
        }
    }

    /// Waits for the end of an update.
    pub fn wait_for_step(&mut self, step: u64) {
        self.wait_for(|event| matches!(event.body, Body::Step(_)) && event.step >= step);
    }

    /// Ends the process at once, as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name (`INT`).
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Reads the remaining events and waits for the end.
    pub fn end(mut self) -> (Vec<Event>, Output) {
        let events = std::iter::from_fn(|| self.next()).collect();
        (events, self.child.wait_with_output().unwrap())
    }
}

/// Whether an event is the end of update `step`.
pub fn is_step(step: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event.body, Body::Step(_)) && event.step == step
}

/// Whether an event is the checkpoint of update `step`.
pub fn is_saved(step: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event.body, Body::Ckpt(_)) && event.step == step
}

/// What the run is doing.
pub fn status(run: &RunDir) -> Status {
    RunState::of(run).unwrap().status
}

/// Waits until something is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The folder of the newest checkpoint.
pub fn newest_checkpoint(run: &RunDir) -> PathBuf {
    run.list_checkpoints().unwrap().pop().expect("the run has a checkpoint").path
}

pub fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn write_json(path: impl AsRef<Path>, value: &Value) {
    fs::write(path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
}

/// `state.json` without what depends on the clock or on how often the run was stopped.
fn lasting_state(checkpoint: &Path) -> Value {
    let mut state = read_json(checkpoint.join("state.json"));
    for key in ["active_s", "event_seq", "rank"] {
        assert!(state["progress"].as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    state
}

/// What a run computed, from its log: for each update that counts the loss, learning rate, gradient
/// norm and tokens, then evaluations, skips and switches.
pub fn numbers(run: &RunDir) -> Vec<String> {
    let events = effective(read_log(run.events()).unwrap().events);
    let number = |event: &Event| {
        let step = event.step;
        match &event.body {
            Body::Step(s) => Some(format!(
                "{step}: loss {} lr {} grad {} tokens {}",
                s.loss, s.lr, s.grad_norm, s.tokens
            )),
            Body::Eval(eval) => Some(format!("{step}: eval {} of {}", eval.loss, eval.tokens)),
            Body::Switch(switch) => Some(format!("{step}: switch {:?}", switch.l)),
            Body::Skip(skip) => Some(format!("{step}: skip {skip:?}")),
            _ => None,
        }
    };
    events.iter().filter_map(number).collect()
}

/// Shows the first difference alone.
pub fn assert_same_lines(a: &[String], b: &[String], what: &str) {
    for (x, y) in a.iter().zip(b) {
        assert_eq!(x, y, "{what}");
    }
    assert_eq!(a.len(), b.len(), "{what}");
}

/// Two folders must hold the same files with the same bytes.
pub fn assert_same_files(a: &Path, b: &Path, but_not: &[&str]) {
    let names = |folder: &Path| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !but_not.contains(&name.as_str()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
        let is_same = fs::read(a.join(&name)).unwrap() == fs::read(b.join(&name)).unwrap();
        assert!(is_same, "{} and {} differ", a.join(&name).display(), b.join(&name).display());
    }
}

/// Two checkpoints must hold the same bits.
pub fn assert_same_checkpoint(a: &Path, b: &Path) {
    assert_same_files(a, b, &["state.json"]);
    assert_eq!(lasting_state(a), lasting_state(b), "{} and {}", a.display(), b.display());
}

/// Two runs must have computed the same bits: last checkpoint, export, and every number in the log.
pub fn assert_same_run(a: &RunDir, b: &RunDir) {
    assert_same_lines(&numbers(a), &numbers(b), &format!("{} and {}", a.name(), b.name()));
    let (last_a, last_b) = (newest_checkpoint(a), newest_checkpoint(b));
    assert_eq!(last_a.file_name(), last_b.file_name());
    assert_same_checkpoint(&last_a, &last_b);
    assert_same_files(&a.model(), &b.model(), &[]);
}
