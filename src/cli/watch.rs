//! `fullrank watch`: the full screen on runs that other processes train or that are over, one frame of it, or a
//! picture.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::args::WatchArgs;
use super::screen::{self, Hands};
use super::text;
use crate::error::{Error, Result};
use crate::runlog::event::now_ms;
use crate::runlog::summary::{RunRecord, RunState};
use crate::runlog::{CompareDir, Named, RunDir, find_any, list};
use crate::tui::action::{Effect, ViewId};
use crate::tui::app::{App, Msg};
use crate::tui::model::Preview;
use crate::tui::page;
use crate::tui::saved::Saved;
use crate::tui::source;
use crate::tui::term::{self, Ended, Feed};
use crate::tui::theme::{Depth, depth};

/// How often the folder of the runs is read for the browser.
const BROWSE_EVERY: Duration = Duration::from_secs(3);
/// How many times as long as it took to read a live run's log it is left alone.
const REST: u32 = 300;

/// Looks at runs.
///
/// Errors: no such run; no terminal to draw on; a signal ended it.
pub fn watch(args: &WatchArgs, stdout: &mut dyn Write) -> Result<()> {
    let (runs, view) = opened(args)?;
    let view = args.view.unwrap_or(view);
    if args.once || args.svg.is_some() {
        return once(args, &runs, view, stdout);
    }
    if !screen::has_terminal() {
        return Err(Error::config(
            "watch needs a terminal on standard input and output",
            "`fullrank watch --once` prints one frame anywhere; `fullrank show` and `ls` are for scripts",
        ));
    }
    let (mut app, options) = screen::app(args.ascii)?;
    app.view = view;
    let folder = runs.first().filter(|_| runs.len() == 1).map(|run| run.path().to_path_buf());
    if let Some(saved) = folder.as_deref().and_then(Saved::read) {
        saved.put_in(&mut app);
    }
    app.view = args.view.unwrap_or(app.view);
    let out = args.out.clone();
    let ended = term::run(&mut app, options, &mut Hands::default(), |feed| {
        let speed = args.speed;
        // Runs are sent into a channel of bounded length, which nobody empties before this returns.
        thread::spawn(move || {
            for run in &runs {
                let opened = match speed {
                    Some(speed) => feed.replay(run, speed),
                    None => feed.open(run),
                };
                if let Err(error) = opened {
                    feed.tell(Msg::Notice(error.to_string()));
                }
            }
            browse(&feed, &out);
        });
    })?;
    if let Some(folder) = &folder {
        // In somebody else's folder it cannot be kept, which is no loss.
        let _ = Saved::of(&app).write(folder);
    }
    match ended {
        Ended::Quit | Ended::Detached => Ok(()),
        Ended::Signal(signal) => Err(Error::Interrupted { signal, run: None }),
        Ended::HungUp => Err(Error::Interrupted { signal: signal_hook::consts::SIGHUP, run: None }),
        Ended::Failed(what) => Err(Error::run(what, "report this; no run was touched")),
    }
}

/// The runs that are meant, and the view that fits them.
fn opened(args: &WatchArgs) -> Result<(Vec<RunDir>, ViewId)> {
    let out = &args.out;
    if args.runs.is_empty() && list(out)?.is_empty() && !args.once {
        return Ok((Vec::new(), ViewId::Runs));
    }
    let mut runs = Vec::new();
    let newest = args.runs.is_empty().then_some("latest");
    for what in newest.into_iter().chain(args.runs.iter().map(String::as_str)) {
        match find_any(out, what)? {
            Named::Run(run) => runs.push(run),
            Named::Comparison(dir) => runs.extend(members(&dir)?),
        }
    }
    let view = if runs.len() > 1 { ViewId::Compare } else { ViewId::Train };
    Ok((runs, view))
}

fn members(dir: &CompareDir) -> Result<Vec<RunDir>> {
    Ok(dir.plan()?.members.iter().map(|member| dir.member(&member.name)).collect())
}

/// Reads the folder of the runs again and again, for the browser, for the life of the process. A screen on which nothing
/// changes is told nothing.
pub(super) fn browse(feed: &Feed, out: &Path) {
    let mut known = Known::default();
    let mut told = None;
    loop {
        let runs = records(out, &mut known);
        let now = (known.readings, runs.len());
        if told != Some(now) {
            told = Some(now);
            feed.tell(Msg::Runs(runs));
        }
        thread::sleep(BROWSE_EVERY);
    }
}

/// What was read of a run, when its log had how many bytes and its lock was held, and when it may be read again.
struct Read {
    bytes: u64,
    is_locked: bool,
    record: RunRecord,
    again: Instant,
}

/// What was read of the runs of a folder.
#[derive(Default)]
struct Known {
    runs: HashMap<PathBuf, Read>,
    /// How often one was read. As long as this and the number of runs stay, so do the records: a run that comes is read.
    readings: u64,
}

/// The runs of a folder. One whose log is as it was is not read again, and a live one not often: reading must not
/// take more than a trace of the time in which the run trains.
fn records(out: &Path, known: &mut Known) -> Vec<RunRecord> {
    let runs = list(out).unwrap_or_default();
    let record = |run: &RunDir| {
        let bytes = std::fs::metadata(run.events()).map_or(0, |log| log.len());
        let is_locked = run.is_locked().unwrap_or(false);
        if let Some(read) = known.runs.get(run.path())
            && read.is_locked == is_locked
            && (read.bytes == bytes || is_locked && Instant::now() < read.again)
        {
            return Some(read.record.clone());
        }
        let start = Instant::now();
        let record = RunState::of(run).ok()?.record();
        let again = Instant::now() + (start.elapsed() * REST).max(BROWSE_EVERY);
        let read = Read { bytes, is_locked, record: record.clone(), again };
        known.runs.insert(run.path().to_path_buf(), read);
        known.readings += 1;
        Some(record)
    };
    runs.iter().filter_map(record).collect()
}

/// One frame as text, or as a picture.
fn once(args: &WatchArgs, runs: &[RunDir], view: ViewId, stdout: &mut dyn Write) -> Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    let is_forced =
        screen::variable("CLICOLOR_FORCE").is_some_and(|value| value != "0" && !value.is_empty());
    let has_color = args.svg.is_none() && (is_terminal || is_forced);
    let depth = match (&args.svg, has_color) {
        (Some(_), _) => Depth::True,
        (None, true) => depth(&screen::variable),
        (None, false) => Depth::Mono,
    };
    let mut app = App::new(Vec::new(), screen::theme(args.ascii, depth)?);
    for run in runs {
        app.runs.push(source::load(run)?.model);
    }
    app.view = view;
    let shown = app.update(Msg::Runs(records(&args.out, &mut Known::default())));
    for effect in shown {
        if let Effect::Preview(path) = effect
            && let Ok(preview) = Preview::read(&RunDir::at(&path))
        {
            app.update(Msg::Preview(path, Box::new(preview)));
        }
    }
    app.update(Msg::Tick(time_of(&app)));
    let (width, height) = args.size.unwrap_or_else(size);
    let frame = page::draw(&app, width, height);
    match &args.svg {
        Some(path) => {
            let picture = page::svg(&frame, &app.theme);
            std::fs::write(path, picture).map_err(Error::io("write", path))
        }
        None if depth == Depth::Mono => text::print(stdout, &page::text(&frame)),
        None => text::print(stdout, &page::ansi(&frame)),
    }
}

/// The time of a single frame: that of the newest event, so that the same files give the same picture. A live run may hang,
/// which shows in how long it has been silent: then it is now.
fn time_of(app: &App) -> i64 {
    let newest = app.runs.iter().filter_map(|run| run.summary.updated).max().unwrap_or(0);
    if app.runs.iter().any(|run| run.status.is_live()) { now_ms().max(newest) } else { newest }
}

/// The size that the environment names, else that of the sketches.
fn size() -> (u16, u16) {
    let number = |name: &str| screen::variable(name)?.parse::<u16>().ok().filter(|size| *size > 0);
    (number("COLUMNS").unwrap_or(100), number("LINES").unwrap_or(30))
}

#[cfg(test)]
mod tests {
    use super::super::test_runs;
    use super::*;

    fn frame(run: &RunDir) -> String {
        let out = run.path().parent().unwrap().to_path_buf();
        let args = WatchArgs {
            runs: vec![run.name()],
            out,
            once: true,
            svg: None,
            size: Some((100, 30)),
            view: None,
            speed: None,
            ascii: false,
        };
        let mut stdout = Vec::new();
        watch(&args, &mut stdout).unwrap();
        String::from_utf8(stdout).unwrap()
    }

    #[test]
    fn a_frame_of_a_run_that_hangs_says_that_it_lives_and_for_how_long_it_was_silent() {
        let folder = tempfile::tempdir().unwrap();
        let run = test_runs::crashed(folder.path(), "20261121-190000-lora");
        let frame_of_crashed = frame(&run);
        assert!(frame_of_crashed.contains("CRASHED"), "{frame_of_crashed}");
        assert!(!frame_of_crashed.contains("no update for"), "{frame_of_crashed}");
        assert_eq!(frame_of_crashed, frame(&run), "the same files, the same frame");
        let _lock = run.lock().unwrap();
        let hung = frame(&run);
        assert!(hung.contains("LIVE") && !hung.contains("CRASHED"), "{hung}");
        assert!(hung.contains("no update for"), "{hung}");
    }
}
