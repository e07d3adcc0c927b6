//! Training beside a screen: the trainer has a thread of its own, on which all work of the device happens, and the
//! main thread shows what it says. Neither waits for the other.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::line::LineView;
use crate::compare::Observer;
use crate::error::{Error, Result};
use crate::run::session::{Session, with_threads};
use crate::runlog::{Event, EventSink, RunDir};
use crate::tui::source::LiveSink;

/// Work on a thread of its own.
pub(super) struct Beside<R> {
    thread: JoinHandle<Result<R>>,
}

impl<R: Send + 'static> Beside<R> {
    /// Starts `work` with a pool of the given number of threads; `at_end` is called when it is over, however it ends.
    ///
    /// Errors: the thread could not be started.
    pub(super) fn start(
        threads: usize,
        at_end: impl FnOnce() + Send + 'static,
        work: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> Result<Self> {
        let thread = std::thread::Builder::new()
            .name("trainer".into())
            .spawn(move || {
                let _at_end = AtEnd(Some(at_end));
                with_threads(threads, work)
            })
            .map_err(Error::io("start the trainer of", "the process"))?;
        Ok(Self { thread })
    }

    /// Whether the work is over.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of the work.
    ///
    /// Errors: those of the work; a panic in it.
    pub(super) fn join(self) -> Result<R> {
        self.thread.join().unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
            Err(Error::run(
                format!("the trainer panicked: {words}"),
                "this is a fault of the program; the newest checkpoint is intact: `fullrank resume latest`",
            ))
        })
    }
}

/// Calls what it holds when it goes, in a panic too.
struct AtEnd<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// A run that trains on a thread of its own and has its folder.
pub(super) struct Training {
    /// The run's folder.
    pub(super) dir: RunDir,
    sink: Sender<Box<dyn EventSink + Send>>,
    work: Beside<()>,
}

impl Training {
    /// Makes or opens a run by `begin` on the trainer's thread and waits until its folder is there. The trainer then
    /// waits for [`go`](Self::go).
    ///
    /// Errors: those of `begin`.
    pub(super) fn begin(
        threads: usize,
        at_end: impl FnOnce() + Send + 'static,
        begin: impl FnOnce() -> Result<Session> + Send + 'static,
    ) -> Result<Self> {
        let (told, dir): (Sender<RunDir>, Receiver<RunDir>) = channel();
        let (sink, given) = channel::<Box<dyn EventSink + Send>>();
        let work = Beside::start(threads, at_end, move || {
            let session = begin()?;
            // Nobody there any more: nobody wants the run.
            if told.send(session.dir().clone()).is_err() {
                return Ok(());
            }
            drop(told);
            match given.recv() {
                Ok(mut sink) => session.train(&mut *sink),
                Err(_) => Ok(()),
            }
        })?;
        match dir.recv() {
            Ok(dir) => Ok(Self { dir, sink, work }),
            // It ended before there was a folder: its error says why.
            Err(_) => Err(match work.join() {
                Err(error) => error,
                Ok(()) => Error::run("the run ended before it began", "try again"),
            }),
        }
    }

    /// Lets the trainer go; it tells the sink what it does. What comes back is to be joined at the end.
    pub(super) fn go(self, sink: Box<dyn EventSink + Send>) -> Beside<()> {
        // A trainer that is gone has its error for the join.
        let _ = self.sink.send(sink);
        self.work
    }
}

/// Lines in the place of the screen: empty while the screen stands, and filled when it is left or fails.
pub(super) type Lines = Arc<Mutex<Option<LineView>>>;

/// Tells the screen, and lines where there are some.
pub(super) struct ScreenSink {
    /// The screen's.
    pub(super) screen: LiveSink,
    /// The lines that take over.
    pub(super) lines: Lines,
}

impl EventSink for ScreenSink {
    fn on_event(&mut self, event: &Event) {
        self.screen.on_event(event);
        if let Some(lines) = &mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner) {
            lines.on_event(event);
        }
    }
}

/// Another observer beside the screen: it directs each member's messages to its `log.txt`, and shows lines once the screen is left.
pub(super) type Fallback = Arc<Mutex<Option<Box<dyn Observer + Send>>>>;

/// Tells the screen what the members of a comparison do, and lines where there are some.
pub(super) struct ScreenObserver {
    /// The screen's, by member.
    pub(super) screens: Vec<LiveSink>,
    /// What takes over.
    pub(super) lines: Fallback,
}

impl ScreenObserver {
    fn with_lines(&self, tell: impl FnOnce(&mut dyn Observer)) {
        if let Some(lines) = &mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(&mut **lines);
        }
    }
}

impl Observer for ScreenObserver {
    fn on_turn(&mut self, member: usize) {
        self.with_lines(|lines| lines.on_turn(member));
    }

    fn on_event(&mut self, member: usize, event: &Event) {
        if let Some(screen) = self.screens.get_mut(member) {
            screen.on_event(event);
        }
        self.with_lines(|lines| lines.on_event(member, event));
    }

    fn on_note(&mut self, note: &str) {
        self.with_lines(|lines| lines.on_note(note));
    }
}
