//! Where events come from: the run of this process, a growing log, or a log played again. Each source is a thread that
//! reads and sends [`Msg`]s into one channel, the only place where the screen waits; the same messages come from all
//! three, so the model at the end is the same.
//!
//! | module | what |
//! |---|---|
//! | `load` | a whole log into a model; what a run's files say besides |
//! | `follow` | a log as it grows, and whether its run lives |
//! | `live` | the run of this process: a sink that the trainer never waits for, and the log for what it lost |
//! | `replay` | a log at its own pace or faster |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use super::app::Msg;
use crate::error::{Error, Result};
use crate::runlog::{Event, RunDir};

mod follow;
pub mod live;
pub mod load;
mod replay;

pub use live::LiveSink;
pub use load::{Facts, load};

/// Messages that may wait for the screen; a source that has more waits, the trainer does not.
pub const WAITING: usize = 1024;
/// Events that one message carries at most.
const BATCH: usize = 2048;

/// A thread that reads one run and sends what it finds. It ends when this is dropped or nobody listens any more.
#[derive(Debug)]
pub struct Source {
    is_over: Arc<AtomicBool>,
}

impl Source {
    /// Loads the log of a run, and then follows it as it grows: [`Msg::Loaded`], then [`Msg::Events`] and
    /// [`Msg::Status`]. `place` is the run's in [`App::runs`](super::app::App::runs).
    ///
    /// Errors: `Error::Io` if the thread cannot be started.
    pub fn tail(place: usize, dir: RunDir, outlet: SyncSender<Msg>) -> Result<Self> {
        Self::start(place, dir, outlet, follow::tail)
    }

    /// The run of this process: what its log holds, and then what the sink is given. A sink that is dropped ends the
    /// run; from then on its log is followed as any other.
    ///
    /// Errors: `Error::Io` if the thread cannot be started.
    pub fn live(place: usize, dir: RunDir, outlet: SyncSender<Msg>) -> Result<(LiveSink, Self)> {
        let (sink, events) = live::channel();
        let source = Self::start(place, dir, outlet, move |out| live::follow(out, &events))?;
        Ok((sink, source))
    }

    /// Plays the log of a run again, `speed` times as fast as it was.
    ///
    /// Errors: `Error::Io` if the thread cannot be started.
    pub fn replay(place: usize, dir: RunDir, speed: f64, outlet: SyncSender<Msg>) -> Result<Self> {
        Self::start(place, dir, outlet, move |out| replay::play(out, speed))
    }

    fn start(
        place: usize,
        dir: RunDir,
        outlet: SyncSender<Msg>,
        work: impl FnOnce(Outlet) + Send + 'static,
    ) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let path = dir.events();
        let outlet = Outlet { place, dir, messages: outlet, is_over: Arc::clone(&is_over) };
        std::thread::Builder::new()
            .name(format!("source-{place}"))
            .spawn(move || work(outlet))
            .map_err(Error::io("start the reader of", path))?;
        Ok(Self { is_over })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The source's end of the channel.
struct Outlet {
    place: usize,
    dir: RunDir,
    messages: SyncSender<Msg>,
    is_over: Arc<AtomicBool>,
}

impl Outlet {
    /// Whether nobody wants to know any more.
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits until the message has room; `None` where nobody listens any more.
    fn send(&self, message: Msg) -> Option<()> {
        if self.is_over() {
            return None;
        }
        self.messages.send(message).ok()
    }

    /// Sends events in messages of bounded size. Before a `run` event comes what the run's files say: they are there
    /// when it is written.
    fn send_events(&self, mut events: Vec<Event>) -> Option<()> {
        use crate::runlog::Body;
        if events.iter().any(|event| matches!(event.body, Body::Run(_))) {
            self.send(Msg::Facts(self.place, Box::new(Facts::read(&self.dir))))?;
        }
        while events.len() > BATCH {
            let rest = events.split_off(BATCH);
            self.send(Msg::Events(self.place, std::mem::replace(&mut events, rest)))?;
        }
        if events.is_empty() { Some(()) } else { self.send(Msg::Events(self.place, events)) }
    }

    /// Tells the user of a file that cannot be read.
    fn complain(&self, error: &Error) -> Option<()> {
        self.send(Msg::Notice(format!("{error}; {}", error.remedy())))
    }
}

#[cfg(test)]
mod tests;
