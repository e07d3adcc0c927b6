//! `fullrank train`: a new run, or with `--resume auto` the unfinished one of the same configuration.

use super::args::{TrainArgs, UiMode};
use super::line::{LineView, Mode};
use super::{log, print};
use crate::error::Result;
use crate::run::session::{Session, unfinished, with_threads};
use crate::runlog::{RunDir, Summary};

/// Trains a model and writes the run.
pub fn train(args: TrainArgs) -> Result<()> {
    let TrainArgs { config, out, name, ui, resume_auto, .. } = args;
    let threads = config.train.threads;
    with_threads(threads, move || {
        if resume_auto && let Some(run) = unfinished(&config, &out)? {
            return follow(Session::resume(run, None, None, None)?, ui);
        }
        let is_auto = config.train.device == "auto";
        let session = Session::create(config, &out, name.as_deref())?;
        if is_auto && ui != UiMode::None {
            print::notice(&match session.device().gpu() {
                Some(_) => format!("training on {}", session.device().name()),
                None => "no usable GPU was found: training on the CPU".into(),
            });
        }
        follow(session, ui)
    })
}

/// Trains a session with the view that was asked for.
pub(super) fn follow(session: Session, ui: UiMode) -> Result<()> {
    log::to_run(&session.dir().log())?;
    let history = Summary::of(session.dir())?;
    let mut view = view(session.dir(), ui).after(history);
    session.train(&mut view)
}

fn view(dir: &RunDir, ui: UiMode) -> LineView {
    let mode = match ui {
        UiMode::Auto | UiMode::Tui | UiMode::Line => Mode::for_stderr(),
        UiMode::Json => Mode::Json,
        UiMode::None => Mode::None,
    };
    LineView::new(mode, dir.clone())
}
