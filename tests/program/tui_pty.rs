//! The full screen of the real program in a pseudo-terminal: what it draws, and that the terminal is as before
//! however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests may

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::common::{self, PATIENCE, Place};
use crate::tty::{ENDLESS, Tty};

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
fn control_c_ends_a_comparison_and_its_screen() {
    let place = Place::new();
    let line = Place::train_line("x", &format!("--methods full,lora --rank 2 {ENDLESS}"));
    let mut tty = Tty::start(&place, &line.replacen("train ", "compare ", 1));
    tty.see("[2 Compare]");
    tty.see("● 0%");
    tty.press("\x03");
    assert_eq!(tty.end(), 130);
    tty.see("stopped by signal 2");
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

#[test]
fn a_finished_run_that_is_looked_at_sends_nothing() {
    let place = Place::new();
    place.train("run", "--iters 8");
    let mut tty = Tty::start(&place, "watch latest");
    tty.see("FINISHED");
    for view in ["1", "2", "5", "7"] {
        tty.press(view);
        tty.see(&format!("[{view} "));
        // The frame with the tab is whole when nothing more comes for a while.
        std::thread::sleep(Duration::from_millis(700));
        let before = tty.sent().len();
        // The browser reads the folder every three seconds.
        std::thread::sleep(Duration::from_millis(3500));
        assert_eq!(&tty.sent()[before..], "", "view {view}");
    }
    tty.press("q");
    assert_eq!(tty.end(), 0);
}

/// What a command on a terminal is to show.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shown {
    /// The full screen, with colours or without.
    Screen(bool),
    /// Lines, without one byte that moves a cursor.
    Lines,
    /// An error of usage.
    Refused,
}

#[test]
fn the_environment_decides_what_a_terminal_is_shown() {
    use Shown::{Lines, Refused, Screen};
    let place = Place::new();
    for (number, (variables, ui, wanted)) in [
        (&[][..], "auto", Screen(true)),
        (&[("NO_COLOR", "1")][..], "auto", Screen(false)),
        (&[("NO_COLOR", "1"), ("FORCE_COLOR", "1")][..], "auto", Screen(false)),
        (&[("TERM", "dumb")][..], "auto", Lines),
        (&[("TERM", "")][..], "auto", Lines),
        (&[("CI", "1")][..], "auto", Lines),
        (&[("CI", "1"), ("CLICOLOR_FORCE", "1"), ("FORCE_COLOR", "1")][..], "auto", Lines),
        (&[("CI", "1")][..], "tui", Screen(true)),
        (&[("TERM", "dumb")][..], "tui", Refused),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{variables:?} --ui {ui}");
        let line = Place::train_line(&format!("run{number}"), &format!("--iters 2 --ui {ui}"));
        let mut tty = Tty::with(&place, &line, variables);
        if let Screen(has_color) = wanted {
            tty.see("FINISHED");
            assert!(tty.is_on_alternate_screen(), "{what}");
            assert_eq!(tty.has_color(), has_color, "{what}");
            tty.press("q");
            assert_eq!(tty.end(), 0, "{what}");
            continue;
        }
        assert_eq!(tty.end(), if wanted == Lines { 0 } else { 2 }, "{what}");
        tty.see(if wanted == Lines { "finished after 2 updates" } else { "error:" });
        let sent = tty.sent().replace("\r\n", "\n");
        assert!(!sent.contains(['\x1b', '\r']), "{what}: {sent:?}");
    }
}

#[test]
fn without_a_terminal_there_are_plain_lines_whatever_the_environment_says() {
    let place = Place::new();
    let names = ["NO_COLOR", "TERM", "CI", "CLICOLOR_FORCE", "FORCE_COLOR"];
    for (number, variables) in [
        &[][..],
        &[("NO_COLOR", "1")][..],
        &[("TERM", "dumb")][..],
        &[("TERM", "xterm-256color"), ("FORCE_COLOR", "1")][..],
        &[("CI", "1")][..],
        &[("CLICOLOR_FORCE", "1"), ("TERM", "xterm-256color")][..],
    ]
    .into_iter()
    .enumerate()
    {
        let run = |line: &str| {
            let mut command = place.command(line);
            for name in names {
                command.env_remove(name);
            }
            let output = command.envs(variables.iter().copied()).output().unwrap();
            (output.status.code(), common::stdout(&output), common::stderr(&output))
        };
        let name = format!("run{number}");
        let (code, stdout, stderr) = run(&Place::train_line(&name, "--iters 2"));
        let all = format!("{stdout}{stderr}");
        assert_eq!(code, Some(0), "{variables:?}: {all}");
        assert!(all.contains("finished after 2 updates"), "{variables:?}: {all}");
        assert!(!all.contains(['\x1b', '\r']), "{variables:?}: {all:?}");
        for (line, wanted) in [
            (Place::train_line("tui", "--iters 2 --ui tui"), 2),
            (format!("watch {name}"), 2),
            ("ls".to_owned(), 0),
            (format!("show {name}"), 0),
        ] {
            let (code, stdout, stderr) = run(&line);
            assert_eq!(code, Some(wanted), "{variables:?} {line}: {stderr}");
            assert!(!(stdout + &stderr).contains(['\x1b', '\r']), "{variables:?} {line}");
        }
        // Colours in a pipe are for those who ask for them by name.
        let (code, stdout, _) = run(&format!("watch {name} --once"));
        let is_forced = variables.iter().any(|(name, _)| *name == "CLICOLOR_FORCE");
        assert_eq!((code, stdout.contains('\x1b')), (Some(0), is_forced), "{variables:?}");
    }
}
