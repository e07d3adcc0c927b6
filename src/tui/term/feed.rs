//! The runs that are open, each with the thread that reads it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};

use super::capture::Capture;
use crate::error::{Error, Result};
use crate::runlog::RunDir;
use crate::tui::app::{App, Msg};
use crate::tui::model::{Preview, RunModel};
use crate::tui::source::{LiveSink, Source};

/// Opens runs for a screen. Runs have the places in the app in the order in which they are opened here.
#[derive(Debug)]
pub struct Feed {
    messages: SyncSender<Msg>,
    capture: Capture,
    sources: Mutex<Vec<Source>>,
}

impl Feed {
    /// A feed into the channel of a screen; what is captured goes to the log of this process's run.
    pub(super) fn new(messages: SyncSender<Msg>, capture: Capture) -> Self {
        Self { messages, capture, sources: Mutex::default() }
    }

    fn add(
        &self,
        dir: &RunDir,
        is_own: bool,
        start: impl FnOnce(usize, SyncSender<Msg>) -> Result<Source>,
    ) -> Result<usize> {
        // One after the other, so that the places here and in the app are the same.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let place = sources.len();
        let run = RunModel::new(Some(dir.path().to_path_buf()));
        // A screen that has gone wants no runs.
        let _ = self.messages.send(Msg::Add(Box::new(run), is_own));
        sources.push(start(place, self.messages.clone())?);
        Ok(place)
    }

    /// Opens a run that another process trains, or that is over.
    pub fn open(&self, dir: &RunDir) -> Result<usize> {
        self.add(dir, false, |place, messages| Source::tail(place, dir.clone(), messages))
    }

    /// Opens a run from the loop itself, which must not wait for its own channel.
    ///
    /// Errors: runs that were opened elsewhere have not arrived yet; the next try will do.
    pub(super) fn open_here(&self, dir: &RunDir, app: &mut App) -> Result<usize> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let place = sources.len();
        if place != app.runs.len() {
            return Err(Error::run("runs are still being opened", "try again in a moment"));
        }
        let run = RunModel::new(Some(dir.path().to_path_buf()));
        app.update(Msg::Add(Box::new(run), false));
        sources.push(Source::tail(place, dir.clone(), self.messages.clone())?);
        Ok(place)
    }

    /// Plays a run again, `speed` times as fast as it was.
    pub fn replay(&self, dir: &RunDir, speed: f64) -> Result<usize> {
        self.add(dir, false, |place, messages| Source::replay(place, dir.clone(), speed, messages))
    }

    /// Copies what the process prints to `stderr.log` in a folder.
    pub fn captured_to(&self, folder: &Path) -> Result<()> {
        self.capture.to_file(&folder.join("stderr.log"))
    }

    /// Opens a run of this process; its events go into the sink.
    pub fn own(&self, dir: &RunDir) -> Result<LiveSink> {
        let mut sink = None;
        self.add(dir, true, |place, messages| {
            let (live, source) = Source::live(place, dir.clone(), messages)?;
            sink = Some(live);
            Ok(source)
        })?;
        sink.ok_or_else(|| Error::run("the run has no sink", "report this"))
    }

    /// Reads what the browser shows of a run, on a thread of its own: a long log takes a moment.
    pub(super) fn preview(&self, path: PathBuf) {
        let messages = self.messages.clone();
        let read = move || {
            // A run that cannot be read shows nothing; opening it says why.
            if let Ok(preview) = Preview::read(&RunDir::at(&path)) {
                let _ = messages.send(Msg::Preview(path, Box::new(preview)));
            }
        };
        let _ = std::thread::Builder::new().name("preview".into()).spawn(read);
    }

    /// Tells the screen something; one that has gone does not hear it.
    pub fn tell(&self, message: Msg) {
        let _ = self.messages.send(message);
    }

    /// Lets go of all runs.
    pub(super) fn close(&self) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
