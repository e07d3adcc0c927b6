//! The full screen of the real program in a pseudo-terminal: what it draws, and that the terminal is as before
//! however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests may

use std::io::{Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtyPair, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{self, PATIENCE, Place};

const COLUMNS: u16 = 100;
const ROWS: u16 = 30;
/// A run that goes on until it is stopped.
const ENDLESS: &str = "--iters 1000000 --checkpoint-every 0";

/// The program in a terminal.
pub struct Tty {
    child: Box<dyn Child + Send + Sync>,
    pair: PtyPair,
    writer: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    before: String,
}

/// The modes of a terminal as text, to compare.
fn modes(master: &dyn MasterPty) -> String {
    let file = std::fs::File::open(master.tty_name().unwrap()).unwrap();
    let modes = rustix::termios::tcgetattr(&file).unwrap();
    format!(
        "{:?} {:?} {:?} {:?}",
        modes.input_modes, modes.output_modes, modes.control_modes, modes.local_modes
    )
}

impl Tty {
    pub fn start(place: &Place, line: &str) -> Self {
        Self::with(place, line, &[])
    }

    pub fn with(place: &Place, line: &str, variables: &[(&str, &str)]) -> Self {
        let size = PtySize { rows: ROWS, cols: COLUMNS, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let before = modes(pair.master.as_ref());
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_fullrank"));
        command.args(line.split_whitespace());
        command.cwd(place.path(""));
        for name in
            ["CI", "NO_COLOR", "SSH_CONNECTION", "SSH_TTY", "LC_ALL", "LC_CTYPE", "FULLRANK_LOG"]
        {
            command.env_remove(name);
        }
        for (name, value) in [
            ("TERM", "xterm-256color"),
            ("LANG", "C.UTF-8"),
            ("NODEVICE_SELECT", "1"),
            ("XDG_CACHE_HOME", place.path("cache").to_str().unwrap()),
            ("XDG_CONFIG_HOME", place.path("config").to_str().unwrap()),
        ] {
            command.env(name, value);
        }
        for (name, value) in variables {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).unwrap();
        let writer = pair.master.take_writer().unwrap();
        let mut reader = pair.master.try_clone_reader().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(
            NonZero::new(ROWS).unwrap(),
            NonZero::new(COLUMNS).unwrap(),
            200,
        )));
        let of_thread = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = reader.read(&mut bytes) {
                if count == 0 {
                    break;
                }
                of_thread.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { child, pair, writer, screen, before }
    }

    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    pub fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "no {what} in:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the screen shows a text.
    pub fn see(&self, what: &str) {
        self.wait(what, |tty| tty.text().contains(what));
    }

    pub fn press(&mut self, keys: &str) {
        self.writer.write_all(keys.as_bytes()).unwrap();
        self.writer.flush().unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.process_id().unwrap()).unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn is_on_alternate_screen(&self) -> bool {
        self.screen.lock().unwrap().screen().alternate_screen()
    }

    /// Whether the terminal is as it was found.
    fn is_restored(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        !screen.alternate_screen()
            && !screen.hide_cursor()
            && !screen.bracketed_paste()
            && screen.mouse_protocol_mode() == vt100::MouseProtocolMode::None
            && modes(self.pair.master.as_ref()) == self.before
    }

    /// Waits for the end; the terminal must be as before. Answers the exit code.
    pub fn end(&mut self) -> u32 {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        };
        self.wait("restored terminal", Self::is_restored);
        status.exit_code()
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn watch_shows_every_view_searches_the_help_and_leaves() {
    let place = Place::new();
    place.train("run", "--iters 8");
    let mut tty = Tty::start(&place, "watch latest");
    tty.see("FINISHED");
    for (digit, title) in
        ["Train", "Compare", "Switches", "Rank", "System", "Logs", "Runs"].iter().enumerate()
    {
        tty.press(&(digit + 1).to_string());
        tty.see(&format!("[{} {title}", digit + 1));
    }
    tty.press("?");
    tty.see("type to search");
    tty.press("half-life");
    tty.see("twice the half-life");
    tty.press("\x1b");
    tty.wait("closed help", |tty| !tty.text().contains("type to search"));
    tty.press("q");
    assert_eq!(tty.end(), 0);
}

#[test]
fn a_frame_in_the_terminal_is_the_frame_that_once_prints() {
    let place = Place::new();
    place.train("run", "--iters 8");
    let output = place.run("watch latest --once --size 100x30");
    let once = String::from_utf8(output.stdout).unwrap();
    assert!(!once.contains('\x1b') && !once.contains('\r'));
    let tty = Tty::start(&place, "watch latest");
    tty.see("FINISHED");
    let trimmed = |text: &str| {
        let text = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        // A picture without colours marks the panel in focus by a double frame.
        let single =
            |c| "╔╗╚╝═║".chars().position(|d| d == c).and_then(|at| "┌┐└┘─│".chars().nth(at));
        text.trim_end().chars().map(|c| single(c).unwrap_or(c)).collect::<String>()
    };
    tty.wait("the same frame", |tty| trimmed(&tty.text()) == trimmed(&once));
}

#[test]
fn training_on_a_terminal_is_watched_and_its_last_words_stay() {
    let place = Place::new();
    let mut tty = Tty::start(&place, &Place::train_line("run", "--iters 60"));
    tty.see("fullrank │");
    assert!(tty.is_on_alternate_screen());
    tty.see("FINISHED");
    tty.press("q");
    assert_eq!(tty.end(), 0);
    tty.see("finished after 60 updates");
    assert!(place.find("run").path().join("stderr.log").exists());
}

#[test]
fn a_run_is_paused_goes_on_and_is_left_to_lines() {
    let place = Place::new();
    let mut tty = Tty::start(&place, &Place::train_line("run", ENDLESS));
    tty.see("● LIVE");
    tty.press("P");
    tty.see("PAUSED");
    tty.press("P");
    tty.see("● LIVE");
    tty.press("q");
    tty.see("y yes");
    tty.press("y");
    tty.wait("left screen", Tty::is_restored);
    tty.see("the run goes on");
    assert!(place.find("run").is_locked().unwrap());
    tty.press("\x03"); // the terminal makes a signal of it again
    assert_eq!(tty.end(), 130);
    assert!(!place.find("run").list_checkpoints().unwrap().is_empty());
}

#[test]
fn signals_end_a_run_with_its_checkpoint_and_leave_the_terminal_as_it_was() {
    let place = Place::new();
    for (out, signal, code) in [("term", Some(Signal::TERM), 143), ("key", None, 130)] {
        let mut tty = Tty::start(&place, &Place::train_line(out, ENDLESS));
        tty.see("● LIVE");
        match signal {
            Some(signal) => tty.signal(signal),
            None => tty.press("\x03"),
        }
        assert_eq!(tty.end(), code, "{out}");
        assert!(!place.find(out).list_checkpoints().unwrap().is_empty(), "{out}");
    }
}

#[test]
fn a_hang_up_leaves_the_run_to_lines() {
    let place = Place::new();
    let mut tty = Tty::start(&place, &Place::train_line("run", ENDLESS));
    tty.see("● LIVE");
    tty.signal(Signal::HUP);
    tty.wait("left screen", Tty::is_restored);
    std::thread::sleep(Duration::from_millis(300));
    assert!(place.find("run").is_locked().unwrap(), "the run lives");
    tty.signal(Signal::TERM);
    assert_eq!(tty.end(), 143);
}

#[test]
fn a_hang_up_ends_a_screen_that_only_looks() {
    let place = Place::new();
    place.train("run", "--iters 2");
    let mut tty = Tty::start(&place, "watch latest");
    tty.see("FINISHED");
    tty.signal(Signal::HUP);
    assert_eq!(tty.end(), 129);
}

/// The letter of a process's state in `/proc`.
fn state(pid: Pid) -> String {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = std::fs::read_to_string(Path::new(&path)).unwrap();
    stat.rsplit(") ").next().unwrap()[..1].to_owned()
}

#[test]
fn control_z_gives_the_terminal_back_and_a_continue_draws_again() {
    let place = Place::new();
    place.train("run", "--iters 2");
    let mut tty = Tty::start(&place, "watch latest");
    tty.see("FINISHED");
    tty.press("\x1a");
    tty.wait("stopped process", |tty| state(tty.pid()) == "T");
    tty.wait("restored terminal", Tty::is_restored);
    tty.signal(Signal::CONT);
    tty.wait("screen", Tty::is_on_alternate_screen);
    tty.see("FINISHED");
    tty.press("q");
    assert_eq!(tty.end(), 0);
}

#[test]
fn a_panic_of_the_screen_costs_the_screen_and_not_the_run() {
    let place = Place::new();
    let line = Place::train_line("run", ENDLESS);
    let mut tty = Tty::with(&place, &line, &[("FULLRANK_TEST_UI_PANIC", "1")]);
    tty.see("● LIVE");
    tty.press("\x10");
    tty.wait("left screen", Tty::is_restored);
    tty.see("the screen failed and the run goes on");
    let run = place.find("run");
    assert!(run.is_locked().unwrap());
    tty.signal(Signal::INT);
    assert_eq!(tty.end(), 130);
}

#[test]
fn an_error_before_the_run_is_printed_on_the_ordinary_screen() {
    let place = Place::new();
    let mut tty = Tty::start(&place, "train --data nowhere.txt --device cpu");
    assert_ne!(tty.end(), 0);
    tty.see("error:");
    tty.see("nowhere.txt");
}

#[test]
fn a_killed_trainer_is_shown_as_crashed_within_two_seconds() {
    let place = Place::new();
    let line = format!("{} --ui none", Place::train_line("run", ENDLESS));
    let mut trainer = place.command(&line).spawn().unwrap();
    let start = Instant::now();
    while !place.path("runs/latest").exists() {
        assert!(start.elapsed() < PATIENCE, "the run does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut tty = Tty::start(&place, "watch latest");
    tty.see("● LIVE");
    trainer.kill().unwrap();
    let start = Instant::now();
    tty.see("CRASHED");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    trainer.wait().unwrap();
    tty.press("q");
    assert_eq!(tty.end(), 0);
}

#[test]
fn without_a_terminal_there_is_no_screen_and_it_is_said() {
    let place = Place::new();
    place.train("run", "--iters 2");
    let output = place.run("watch latest");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--once"));
    let line = Place::train_line("tui", "--iters 2 --ui tui");
    let output = place.run(&line);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_screen_changes_no_bit() {
    let place = Place::new();
    let plain = place.train("plain", "--iters 30");
    let mut tty = Tty::start(&place, &Place::train_line("watched", "--iters 30"));
    tty.see("FINISHED");
    tty.press("q");
    assert_eq!(tty.end(), 0);
    common::assert_same_run(&plain, &place.find("watched"));
}
