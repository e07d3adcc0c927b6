//! The crate's error type and the exit codes of the commands.
//!
//! Every error says what was wrong (with the file, tensor or flag and both numbers), why where that
//! is known, and what to do. `main` prints these as lines; nothing else prints errors.

use std::io;
use std::path::{Path, PathBuf};

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, by kind; the kind decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag, setting or combination of settings that cannot work.
    #[error("{what}")]
    Config {
        /// What is wrong, with the key and the value.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// A file whose content is not what it should be: data, tokenizer, model, checkpoint.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// A tensor whose shape does not fit the model.
    #[error("{}: tensor {tensor}: expected {expected:?}, file has {found:?}", path.display())]
    Shape {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape that the file has.
        found: Vec<usize>,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb: "read", "create", "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A run that cannot do what was asked of it (not found, still live, already finished).
    #[error("{what}")]
    Run {
        /// What is wrong.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// Training produced non-finite numbers more often than allowed.
    #[error("training diverged: {what}")]
    Diverged {
        /// What was seen, with numbers.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// No usable device, or the device failed.
    #[error("{what}")]
    Device {
        /// What is wrong.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// The user or the system stopped the command; where it trained, a checkpoint was written.
    #[error("stopped by signal {signal}{}", if run.is_some() { ", checkpoint written" } else { "" })]
    Interrupted {
        /// The signal's number (2 or 15).
        signal: i32,
        /// What `resume` goes on with, as the user can name it.
        run: Option<String>,
    },
}

/// Characters of a message at most: names and values in a file can be as long as the file.
const LONGEST: usize = 700;

/// A text as it can stand in a message.
fn bounded(text: impl Into<String>) -> String {
    let mut text = text.into();
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Error {
    /// A wrong setting: what is wrong and what to do.
    pub fn config(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Config { what: bounded(what), remedy: bounded(remedy) }
    }

    /// A file with wrong content.
    pub fn file(
        path: impl AsRef<Path>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let path = path.as_ref().to_path_buf();
        Self::File { path, what: bounded(what), remedy: bounded(remedy) }
    }

    /// A failed file operation, for `map_err`: `.map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// As [`Error::io`] for a path that the user named: one that is not there is a wrong setting.
    pub fn named(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::config(
                format!("cannot {action} {}: {source}", path.display()),
                "check the path",
            ),
            _ => Self::Io { action, path, source },
        }
    }

    /// A run that cannot do what was asked.
    pub fn run(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Run { what: what.into(), remedy: remedy.into() }
    }

    /// What the user can do, in one line.
    pub fn remedy(&self) -> String {
        match self {
            Self::Config { remedy, .. }
            | Self::File { remedy, .. }
            | Self::Run { remedy, .. }
            | Self::Diverged { remedy, .. }
            | Self::Device { remedy, .. } => remedy.clone(),
            Self::Shape { .. } => {
                "use the configuration that belongs to these weights, or the weights that belong to \
                 this configuration"
                    .into()
            }
            Self::Io { action, source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "check the path".into(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some disk space, or choose another place with --out; what was saved before is \
                     intact"
                        .into()
                }
                io::ErrorKind::PermissionDenied if matches!(*action, "read" | "open" | "list") => {
                    "make it readable for this user, or name another file".into()
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "choose a place you may write to, with --out".into()
                }
                _ => "check the path and the disk; what was saved before is intact".into(),
            },
            Self::Interrupted { run: Some(run), .. } => {
                format!("go on with `fullrank resume {run}`")
            }
            Self::Interrupted { run: None, .. } => "give the command again".into(),
        }
    }

    /// The process exit code of this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Shape { .. } | Self::Io { .. } | Self::Run { .. } => 1,
            Self::Config { .. } => 2,
            Self::Diverged { .. } => 3,
            Self::Device { .. } => 4,
            Self::Interrupted { signal, .. } => 128 + u8::try_from(*signal).unwrap_or(2),
        }
    }
}
