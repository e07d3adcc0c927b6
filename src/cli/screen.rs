//! The full screen in front of a command: the work on a thread of its own, the screen on the main one. When the
//! screen is left or fails, the work goes on with lines.

use std::any::Any;
use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{print, rm, watch};
use crate::error::{Error, Result};
use crate::run::commands::Signals;
use crate::run::machine::{POWER, battery_percent};
use crate::runlog::{Body, Event, RunDir, Tail};
use crate::tui::action::{Action, ViewId};
use crate::tui::app::{App, Msg};
use crate::tui::export;
use crate::tui::model::RunModel;
use crate::tui::prefs::Prefs;
use crate::tui::saved::Saved;
use crate::tui::source::LiveSink;
use crate::tui::term::{self, Ended, Feed, Host};
use crate::tui::theme::{Theme, has_light_background};

/// How often the log is looked at when the screen has gone.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What shows events as lines; the number is the run's among those of the command.
pub(super) type Lines<'a> = Box<dyn FnMut(usize, &Event) + 'a>;

/// What the work has of the screen.
pub(super) struct Stage {
    /// Where runs are opened.
    pub feed: Arc<Feed>,
    /// Signals that the work should end for.
    pub signals: Signals,
    /// The key that leaves the screen.
    quit: &'static str,
    runs: Arc<Mutex<Vec<RunDir>>>,
}

impl Stage {
    /// Opens the run that this process trains.
    pub fn own(&self, dir: &RunDir) -> Result<LiveSink> {
        let is_first = {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.push(dir.clone());
            runs.len() == 1
        };
        if is_first {
            let out = dir.home();
            let feed = Arc::clone(&self.feed);
            // The browser of the other runs; without it there is only this one to look at.
            let _ = thread::Builder::new()
                .name("browser".into())
                .spawn(move || watch::browse(&feed, &out));
        }
        self.feed.own(dir)
    }

    /// Leaves the screen: the user wanted the end.
    pub fn leave(&self) {
        self.feed.tell(Msg::Leave);
    }

    /// Shows a line for a few seconds.
    pub fn say(&self, words: &str) {
        self.feed.tell(Msg::Notice(words.into()));
    }
}

/// Whether a screen can be drawn: input and output are a terminal that can move its cursor.
pub(super) fn has_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && !is_dumb()
}

/// Whether the terminal, if there is one, cannot move its cursor, or does not say what it is.
pub(super) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// The columns of the terminal that stdout is; None where it is something else.
pub(super) fn width() -> Option<usize> {
    if std::io::stdout().is_terminal() { term::columns() } else { None }
}

/// An app with the theme of this terminal, and how its screen is to be.
pub(super) fn app(wants_ascii: bool) -> Result<(App, term::Options)> {
    let prefs = match Prefs::path() {
        Some(path) => Prefs::read(&path)?,
        None => Prefs::default(),
    };
    let theme = prefs.theme(wants_ascii, &variable, || has_terminal() && has_light_background());
    let mut app = App::new(Vec::new(), theme);
    app.keys = prefs.keymap().map_err(|what| Error::config(what, "mend tui.toml"))?;
    let is_on_battery = battery_percent(Path::new(POWER)).is_some();
    Ok((app, prefs.options(&variable, is_on_battery)))
}

/// The theme of pictures and pages, which no terminal is asked for.
pub(super) fn theme(wants_ascii: bool, depth: crate::tui::theme::Depth) -> Result<Theme> {
    let prefs = match Prefs::path() {
        Some(path) => Prefs::read(&path)?,
        None => Prefs::default(),
    };
    let theme = prefs.theme(wants_ascii, &variable, || false);
    Ok(Theme::new(depth, theme.is_ascii, theme.is_light))
}

/// A variable of the environment.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Does `work` on a thread of its own with the screen in front. When the screen is left before the work is done,
/// its events go on as what `lines` makes of the runs; when it is left after, `lines` gets their last words.
///
/// Errors: the terminal cannot be taken over, and then nothing was done; what `work` returns.
pub(super) fn show<R: Send>(
    wants_ascii: bool,
    view: ViewId,
    work: impl FnOnce(&Stage) -> Result<R> + Send,
    lines: impl Fn(&[RunDir]) -> Result<Lines<'static>>,
) -> Result<R> {
    let (mut app, options) = app(wants_ascii)?;
    app.is_training = true;
    app.view = view;
    let quit = app.key(Action::Quit);
    let signals = Signals::noted()?;
    let runs: Arc<Mutex<Vec<RunDir>>> = Arc::default();
    let opened = || runs.lock().unwrap_or_else(PoisonError::into_inner).clone();
    thread::scope(|scope| {
        let mut worker = None;
        let ended = term::run(&mut app, options, &mut Hands::default(), |feed| {
            let stage = Stage { feed, signals, quit, runs: Arc::clone(&runs) };
            worker = Some(thread::Builder::new().name("trainer".into()).spawn_scoped(
                scope,
                move || {
                    let result = catch_unwind(AssertUnwindSafe(|| work(&stage)));
                    let result = result.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
                    tell_end(&stage, &result);
                    result
                },
            ));
        })?;
        if let [run] = opened().as_slice() {
            let _ = Saved::of(&app).write(run.path());
        }
        let worker = match worker {
            Some(Ok(worker)) => worker,
            Some(Err(error)) => return Err(Error::io("start", "the trainer's thread")(error)),
            None => return Err(Error::run("the screen was not started", "use --ui line")),
        };
        match &ended {
            Ended::Quit | Ended::Signal(_) | Ended::HungUp => {}
            Ended::Detached => print::notice("the run goes on; Ctrl-C stops it with a checkpoint"),
            Ended::Failed(what) => {
                print::notice(&format!("the screen failed and the run goes on: {what}"));
            }
        }
        if matches!(ended, Ended::Quit | Ended::Signal(_)) {
            let result = join(worker);
            last_words(&opened(), &lines)?;
            return result;
        }
        go_on(&opened, &lines, || worker.is_finished())?;
        join(worker)
    })
}

fn join<R>(worker: thread::ScopedJoinHandle<'_, Result<R>>) -> Result<R> {
    worker.join().unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

/// Tells the screen that the work is over: it stays to be looked at, unless there is nothing to look at or the
/// user wanted the end.
fn tell_end<R>(stage: &Stage, result: &Result<R>) {
    let has_runs = !stage.runs.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
    match result {
        Ok(_) => {
            stage.feed.tell(Msg::Over);
            stage.say(&format!("the training is over; {} leaves the screen", stage.quit));
        }
        Err(Error::Interrupted { .. }) => stage.leave(),
        Err(_) if !has_runs => stage.leave(),
        Err(error) => {
            stage.feed.tell(Msg::Over);
            stage.say(&format!("{error}; {} leaves the screen", stage.quit));
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let words = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    Error::run(
        format!("the trainer panicked: {words}"),
        "report this with the run's log.txt and stderr.log; what was saved before is intact",
    )
}

/// Shows what runs do from now on, until they are over.
fn go_on(
    opened: &dyn Fn() -> Vec<RunDir>,
    lines: &dyn Fn(&[RunDir]) -> Result<Lines<'static>>,
    is_over: impl Fn() -> bool,
) -> Result<()> {
    // A run may still be prepared when the screen goes.
    while opened().is_empty() && !is_over() {
        thread::sleep(LOOK_EVERY);
    }
    let runs = opened();
    let mut tails =
        runs.iter().map(|run| Tail::from_end(run.events())).collect::<Result<Vec<_>>>()?;
    let mut show = lines(&runs)?;
    loop {
        // Asked before the logs are read: the last words come first.
        let is_last = is_over();
        for (number, tail) in tails.iter_mut().enumerate() {
            tail.each(|event| show(number, &event))?;
        }
        if is_last {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Shows how runs ended, after their screen.
fn last_words(runs: &[RunDir], lines: &dyn Fn(&[RunDir]) -> Result<Lines<'static>>) -> Result<()> {
    let mut show = lines(runs)?;
    for (number, run) in runs.iter().enumerate() {
        let mut end = None;
        Tail::new(run.events()).each(|event| {
            if matches!(event.body, Body::End(_)) {
                end = Some(event);
            }
        })?;
        if let Some(end) = end {
            show(number, &end);
        }
    }
    Ok(())
}

/// What the screen has done for it: other processes, the trash, files.
#[derive(Default)]
pub(super) struct Hands {
    children: Vec<Child>,
}

impl Hands {
    fn start(&mut self, arguments: &[&std::ffi::OsStr]) -> Result<()> {
        let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
        let mut command = Command::new(&program);
        command.args(arguments).args(["--ui", "none"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own: it lives on when this terminal is closed or interrupted.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(Error::io("start", &program))?;
        // Those that ended are collected, so that none stays as a zombie.
        self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        self.children.push(child);
        Ok(())
    }
}

impl Host for Hands {
    fn resume(&mut self, run: &Path) -> Result<String> {
        self.start(&["resume".as_ref(), run.as_os_str()])?;
        Ok(format!("resuming {} in a process of its own", RunDir::at(run).name()))
    }

    fn start_again(&mut self, run: &Path) -> Result<String> {
        let run = RunDir::at(run);
        let config = run.config();
        let out = run.home();
        self.start(&[
            "train".as_ref(),
            "--config".as_ref(),
            config.as_os_str(),
            "--out".as_ref(),
            out.as_os_str(),
        ])?;
        Ok(format!("started a new run in {}", out.display()))
    }

    fn trash(&mut self, run: &Path) -> Result<String> {
        let dir = RunDir::at(run);
        rm::rm(&dir.home(), &[run.display().to_string()], &mut Vec::new())?;
        Ok(format!("moved {} to the trash", dir.name()))
    }

    fn export(&mut self, app: &mut App, is_view: bool) -> Result<String> {
        let base = export::write(app, is_view)?;
        let name = base.file_name().unwrap_or_default().to_string_lossy();
        let run = app.run().map(RunModel::name).unwrap_or_default();
        Ok(format!("wrote {name} as .svg, .png, .csv and .json into exports/ of {run}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_runs;
    use super::*;

    #[test]
    fn a_member_of_a_comparison_goes_to_the_trash_of_the_runs() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let compare = out.join("compare-20261121-180011-b");
        let members = compare.join("members");
        let lora = test_runs::finished(&members, "lora");
        let full = test_runs::finished(&members, "full");
        let alone = test_runs::finished(out, "20261120-180011-demo");
        std::fs::write(compare.join("compare.toml"), "").unwrap();
        let mut hands = Hands::default();
        hands.trash(lora.path()).unwrap();
        hands.trash(alone.path()).unwrap();
        let trashed = |name: &str| RunDir::at(out.join(rm::TRASH).join(name)).is_run();
        assert!(trashed("compare-20261121-180011-b-members-lora"));
        assert!(trashed("20261120-180011-demo"));
        assert!(full.is_run() && !lora.path().exists() && !members.join(rm::TRASH).exists());
    }
}
