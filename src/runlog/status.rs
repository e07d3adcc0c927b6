//! Whether a run lives: an operating-system lock, not a guess by silence.
//!
//! The trainer holds `run.lock` for the life of its process. Locked is live; free with an `end`
//! event as the last word is that end; free without is crashed, known at once.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::time::Duration;

use serde::Serialize;

use super::body::{Body, EndStatus};
use super::event::Event;
use super::index::RunDir;
use crate::error::{Error, Result};

/// How often and how long taking the lock is tried: another process that only asks whether the run
/// lives holds it for a moment.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// A process trains it.
    #[default]
    Live,
    /// A process holds it and waits.
    Paused,
    /// All updates done.
    Finished,
    /// Stopped by the user, with a checkpoint.
    Stopped,
    /// Stopped by a signal, with a checkpoint.
    Interrupted,
    /// Too many non-finite losses.
    Diverged,
    /// Ended by an error.
    Failed,
    /// No process and no end: killed, or the machine went down.
    Crashed,
}

impl Status {
    /// The status of a run, from its lock and what its log says last.
    pub fn of(is_locked: bool, last_word: LastWord) -> Self {
        match (is_locked, last_word) {
            (true, LastWord::Paused) => Self::Paused,
            (true, _) => Self::Live,
            (false, LastWord::Ended(end)) => match end {
                EndStatus::Finished => Self::Finished,
                EndStatus::Stopped => Self::Stopped,
                EndStatus::Interrupted => Self::Interrupted,
                EndStatus::Diverged => Self::Diverged,
                EndStatus::Failed => Self::Failed,
            },
            (false, LastWord::Running | LastWord::Paused) => Self::Crashed,
        }
    }

    /// Whether a process holds the run.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Live | Self::Paused)
    }

    /// The status in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::Diverged => "diverged",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The part of a log that the status needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LastWord {
    /// Started, resumed, or nothing yet.
    #[default]
    Running,
    /// Paused and not resumed.
    Paused,
    /// Ended, and not resumed in a new process.
    Ended(EndStatus),
}

impl LastWord {
    /// What the log says after one more event.
    #[must_use]
    pub fn after(self, event: &Event) -> Self {
        match &event.body {
            Body::Run(_) | Body::Resume(_) => Self::Running,
            Body::Pause(_) => Self::Paused,
            Body::End(end) => Self::Ended(end.status),
            _ => self,
        }
    }
}

/// Holds a run; dropping it, or the end of the process, lets the run go.
#[derive(Debug)]
#[must_use = "the run is held only while this lives"]
pub struct RunLock {
    _file: File,
}

impl RunDir {
    /// Takes the run for this process.
    ///
    /// Errors: `Error::Run` if another process holds it, `Error::Io`.
    pub fn lock(&self) -> Result<RunLock> {
        let path = self.lock_file();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::run(
                        format!("run {} is live in another process", self.name()),
                        format!(
                            "look at it with `fullrank show {0}`, or end it with `fullrank ctl {0} stop`",
                            self.as_argument()
                        ),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
        }
        Ok(RunLock { _file: file })
    }

    /// Whether a process holds the run.
    ///
    /// Errors: `Error::Io` if the lock cannot be asked.
    pub fn is_locked(&self) -> Result<bool> {
        let path = self.lock_file();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        // Shared, so that two who ask at the same time do not take each other for the trainer.
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(Error::io("ask the lock of", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::{End, Log, Pause, Resume};
    use super::*;

    fn last_word(bodies: Vec<Body>) -> LastWord {
        bodies.into_iter().fold(LastWord::default(), |word, body| {
            word.after(&Event { seq: 1, ts: 0, step: 0, body })
        })
    }

    #[test]
    fn a_lock_is_seen_through_another_handle_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::at(folder.path());
        assert!(!run.is_locked().unwrap());
        let lock = run.lock().unwrap();
        assert!(run.is_locked().unwrap());
        let error = run.lock().unwrap_err();
        assert!(error.to_string().contains("is live in another process"), "{error}");
        drop(lock);
        assert!(!run.is_locked().unwrap());
        drop(run.lock().unwrap());
    }

    #[test]
    fn status_comes_from_the_lock_and_the_last_word() {
        let end = |status| Body::from(End { status, what: String::new() });
        let finished = last_word(vec![end(EndStatus::Finished), Log::default().into()]);
        assert_eq!(Status::of(false, finished), Status::Finished);
        assert_eq!(Status::of(true, finished), Status::Live, "still writing its last files");
        assert_eq!(Status::of(false, last_word(vec![])), Status::Crashed);
        assert_eq!(Status::of(true, last_word(vec![])), Status::Live);
        let paused = last_word(vec![Pause::default().into()]);
        assert_eq!(Status::of(true, paused), Status::Paused);
        assert_eq!(Status::of(false, paused), Status::Crashed);
        let on = last_word(vec![Pause::default().into(), Resume::default().into()]);
        assert_eq!(Status::of(true, on), Status::Live);
        let killed_after_resume =
            last_word(vec![end(EndStatus::Stopped), Resume::default().into()]);
        assert_eq!(Status::of(false, killed_after_resume), Status::Crashed);
    }
}
