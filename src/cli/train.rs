//! `fullrank train`: a new run, or with `--resume auto` the unfinished one of the same configuration.

use std::io::IsTerminal;

use super::args::{TrainArgs, UiMode};
use super::line::{LineView, Mode};
use super::screen::{self, Lines, Stage};
use super::{log, print, words};
use crate::error::Result;
use crate::run::commands::Signals;
use crate::run::session::{Session, unfinished, with_threads};
use crate::runlog::{Body, Event, EventSink, RunDir, Summary};
use crate::tui::action::ViewId;
use crate::tui::source::LiveSink;

/// How a run shows itself.
#[derive(Clone, Copy)]
pub(super) enum Show<'a> {
    /// Without a screen.
    Plain(UiMode),
    /// On the full screen.
    Screen(&'a Stage),
}

impl Show<'_> {
    /// Says something before the run says anything itself.
    fn say(self, words: &str) {
        match self {
            Self::Plain(UiMode::None) => {}
            Self::Plain(_) => print::notice(words),
            Self::Screen(stage) => stage.say(words),
        }
    }
}

/// A test's way to a panic of the trainer: with a number in this variable, the end of that update is one.
const PANIC_VARIABLE: &str = "FULLRANK_TEST_TRAINER_PANIC";

/// The screen's sink of events.
struct Watched {
    sink: LiveSink,
    panics_at: Option<u64>,
}

impl Watched {
    fn new(sink: LiveSink) -> Self {
        let panics_at = screen::variable(PANIC_VARIABLE).and_then(|step| step.parse().ok());
        Self { sink, panics_at }
    }
}

impl EventSink for Watched {
    fn on_event(&mut self, event: &Event) {
        self.sink.on_event(event);
        let is_asked = matches!(event.body, Body::Step(_)) && self.panics_at == Some(event.step);
        assert!(!is_asked, "asked to by {PANIC_VARIABLE}");
    }
}

/// Trains a model and writes the run.
pub fn train(args: TrainArgs) -> Result<()> {
    let (ui, ascii) = (args.ui, args.ascii);
    in_front(ui, ascii, move |show| begin(args, show))
}

/// Does work on one run, with the full screen in front where that is asked for.
pub(super) fn in_front(
    ui: UiMode,
    ascii: bool,
    work: impl FnOnce(Show<'_>) -> Result<()> + Send,
) -> Result<()> {
    if ui != UiMode::Tui {
        return work(Show::Plain(ui));
    }
    screen::show(ascii, ViewId::Train, |stage| work(Show::Screen(stage)), lines)
}

/// Lines for a run that has left its screen.
fn lines(runs: &[RunDir]) -> Result<Lines<'static>> {
    let Some(dir) = runs.first() else { return Ok(Box::new(|_, _| {})) };
    let mut view = view(dir, UiMode::Line).after(Summary::of(dir)?);
    Ok(Box::new(move |_, event| view.on_event(event)))
}

fn begin(args: TrainArgs, show: Show<'_>) -> Result<()> {
    let TrainArgs { config, out, name, resume_auto, .. } = args;
    let threads = config.train.threads;
    with_threads(threads, move || {
        if resume_auto && let Some(run) = unfinished(&config, &out)? {
            return follow(Session::resume(run, None, None, None)?, show);
        }
        let is_auto = config.train.device == "auto";
        let session = Session::create(config, &out, name.as_deref())?;
        if is_auto {
            show.say(&match session.device().gpu() {
                Some(_) => format!("training on {}", session.device().name()),
                None => "no usable GPU was found: training on the CPU".into(),
            });
        }
        follow(session, show)
    })
}

/// Trains a session with the view that was asked for.
pub(super) fn follow(session: Session, show: Show<'_>) -> Result<()> {
    log::to_run(&session.dir().log())?;
    let ui = match show {
        Show::Plain(ui) => ui,
        Show::Screen(stage) => {
            stage.feed.captured_to(session.dir().path())?;
            let mut sink = Watched::new(stage.own(session.dir())?);
            return session.train_until(stage.signals.clone(), &mut sink);
        }
    };
    let history = Summary::of(session.dir())?;
    let mut view = view(session.dir(), ui).after(history);
    let dir = session.dir().clone();
    let signals = Signals::listen(move |press| {
        tell_signal(ui, &words::on_signal(press, || words::resumption(&dir)));
    })?;
    session.train_until(signals, &mut view)
}

/// Answers a signal with a line; a progress bar is drawn anew below it.
pub(super) fn tell_signal(ui: UiMode, line: &str) {
    match ui {
        UiMode::None => {}
        _ if std::io::stderr().is_terminal() => print::notice(&format!("\r\x1b[K{line}")),
        _ => print::notice(line),
    }
}

fn view(dir: &RunDir, ui: UiMode) -> LineView {
    let mode = match ui {
        UiMode::Auto | UiMode::Tui | UiMode::Line => Mode::for_stderr(),
        UiMode::Json => Mode::Json,
        UiMode::None => Mode::None,
    };
    LineView::new(mode, dir.clone())
}
