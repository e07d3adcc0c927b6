//! The modes of the terminal: each that is set is recorded, and undone in reverse.
//!
//! There is one terminal, so there is one record. It is undone from three places: the end of the screen, a
//! panic of the screen's thread, and the second of two signals. Undoing twice does nothing.

use std::fs::File;
use std::io::{self, IsTerminal, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use ratatui::crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use ratatui::crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::crossterm::{cursor, execute};

use crate::error::{Error, Result};

/// What was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Captured,
    Raw,
    AlternateScreen,
    HiddenCursor,
    Mouse,
    Paste,
}

/// The record: what was set, and where the terminal and the process's own outputs are meanwhile.
#[derive(Debug)]
struct Record {
    terminal: File,
    stdout: OwnedFd,
    stderr: OwnedFd,
    pipe: Option<PipeWriter>,
    has_mouse: bool,
    modes: Vec<Mode>,
}

static RECORD: Mutex<Option<Record>> = Mutex::new(None);

fn record() -> MutexGuard<'static, Option<Record>> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the terminal; dropping it gives it back.
#[derive(Debug)]
#[must_use = "the terminal is held only while this lives"]
pub struct TermGuard {
    _private: (),
}

impl TermGuard {
    /// Takes the terminal. What is printed meanwhile goes into `pipe`.
    ///
    /// Errors: the outputs cannot be duplicated, or the terminal refuses a mode; then none stays set.
    pub fn take(pipe: PipeWriter, has_mouse: bool) -> Result<Self> {
        let taken = || -> io::Result<Record> {
            let copy = io::stdout().as_fd().try_clone_to_owned()?;
            Ok(Record {
                terminal: File::from(copy),
                stdout: io::stdout().as_fd().try_clone_to_owned()?,
                stderr: io::stderr().as_fd().try_clone_to_owned()?,
                pipe: Some(pipe),
                has_mouse,
                modes: Vec::new(),
            })
        };
        *record() = Some(taken().map_err(failed)?);
        let guard = Self { _private: () };
        guard.enter()?;
        Ok(guard)
    }

    /// Sets the modes again after [`leave`]; the screen is empty then.
    pub fn enter(&self) -> Result<()> {
        let entered = record().as_mut().map_or(Ok(()), Record::enter);
        entered.map_err(|error| {
            leave();
            failed(error)
        })
    }

    /// A duplicate of the terminal's descriptor to draw on.
    pub fn terminal(&self) -> Result<File> {
        match record().as_ref() {
            Some(record) => record.terminal.try_clone().map_err(failed),
            None => Err(failed(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Drop for TermGuard {
    fn drop(&mut self) {
        leave();
        // Its copy of the pipe's end goes with it, so that the reader of the pipe comes to an end.
        *record() = None;
    }
}

/// Undoes every mode that is set, the newest first. It may be called from any thread, at any time, twice.
pub fn leave() {
    if let Some(record) = record().as_mut() {
        record.leave();
    }
}

/// Gives the terminal back before a panic of the thread `of` is printed. A panic of another thread is printed
/// into the pipe, and the screen stays.
pub fn on_panic(of: ThreadId) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == of {
            leave();
        }
        before(info);
    }));
}

fn failed(error: io::Error) -> Error {
    Error::io("take over", "the terminal")(error)
}

impl Record {
    fn set(&mut self, mode: Mode) -> io::Result<()> {
        if self.modes.contains(&mode) {
            return Ok(());
        }
        // Recorded first: undoing a mode that was not set does no harm, leaving one does.
        self.modes.push(mode);
        match mode {
            Mode::Captured => {
                let Some(pipe) = &self.pipe else { return Ok(()) };
                // Who sends an output to a file has it there; only what would hit the screen is caught.
                if io::stdout().is_terminal() {
                    rustix::stdio::dup2_stdout(pipe)?;
                }
                if io::stderr().is_terminal() {
                    rustix::stdio::dup2_stderr(pipe)?;
                }
                Ok(())
            }
            Mode::Raw => terminal::enable_raw_mode(),
            Mode::AlternateScreen => execute!(self.terminal, EnterAlternateScreen),
            Mode::HiddenCursor => execute!(self.terminal, cursor::Hide),
            Mode::Mouse => execute!(self.terminal, EnableMouseCapture),
            Mode::Paste => execute!(self.terminal, EnableBracketedPaste),
        }
    }

    fn enter(&mut self) -> io::Result<()> {
        for mode in [Mode::Captured, Mode::Raw, Mode::AlternateScreen, Mode::HiddenCursor] {
            self.set(mode)?;
        }
        if self.has_mouse {
            self.set(Mode::Mouse)?;
        }
        self.set(Mode::Paste)
    }

    fn leave(&mut self) {
        // A terminal that is gone cannot be given back; the outputs still are.
        while let Some(mode) = self.modes.pop() {
            let _ = match mode {
                Mode::Captured => {
                    let _ = io::stdout().flush();
                    rustix::stdio::dup2_stdout(&self.stdout)
                        .and(rustix::stdio::dup2_stderr(&self.stderr))
                        .map_err(io::Error::from)
                }
                Mode::Raw => terminal::disable_raw_mode(),
                Mode::AlternateScreen => execute!(self.terminal, LeaveAlternateScreen),
                Mode::HiddenCursor => execute!(self.terminal, cursor::Show),
                Mode::Mouse => execute!(self.terminal, DisableMouseCapture),
                Mode::Paste => execute!(self.terminal, DisableBracketedPaste),
            };
        }
    }
}
