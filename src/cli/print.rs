//! What the program itself prints: errors and notices to stderr, results to stdout.

use std::error::Error as _;
use std::io::{self, Write};

use crate::error::Error;

/// The path that stands for stdout in an `Error::Io`.
const STDOUT: &str = "standard output";

/// Writes an error as lines: what, why where that is known, and what to do.
pub fn error(error: &Error, out: &mut dyn Write) -> io::Result<()> {
    let whole = error.to_string();
    let mut reasons = Vec::new();
    let mut source = error.source();
    while let Some(reason) = source {
        reasons.push(reason.to_string());
        source = reason.source();
    }
    // Some messages end with their reason; it gets its own line.
    let what = reasons
        .first()
        .and_then(|reason| whole.strip_suffix(reason.as_str())?.strip_suffix(": "))
        .unwrap_or(&whole);
    writeln!(out, "error: {what}")?;
    for reason in reasons {
        writeln!(out, "  why: {reason}")?;
    }
    writeln!(out, "  try: {}", error.remedy())
}

/// Writes a line of notice to stderr. A closed stderr is no reason to stop.
pub fn notice(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The error of a failed write to stdout.
pub fn stdout_failed(source: io::Error) -> Error {
    Error::Io { action: "write to", path: STDOUT.into(), source }
}

/// Whether the reader of stdout has gone (`fullrank ls | head -1`), which ends the program quietly.
pub fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(error: &Error) -> String {
        let mut out = Vec::new();
        super::error(error, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_error_is_one_line_of_what_and_one_of_what_to_do() {
        let error = Error::config("train.rank is 0, expected 1 or more", "set --rank N");
        assert_eq!(
            lines(&error),
            "error: train.rank is 0, expected 1 or more\n  try: set --rank N\n"
        );
    }

    #[test]
    fn the_reason_of_the_system_has_a_line_of_its_own() {
        let error = Error::io("read", "a.txt")(io::Error::other("the disk is gone"));
        assert_eq!(
            lines(&error),
            "error: cannot read a.txt\n  why: the disk is gone\n  try: check the path and the disk; what was \
             saved before is intact\n"
        );
    }

    #[test]
    fn what_may_not_be_read_and_what_may_not_be_written_are_told_apart() {
        let denied = || io::ErrorKind::PermissionDenied.into();
        let read = Error::io("read", "a.txt")(denied()).remedy();
        let write = Error::io("create", "runs")(denied()).remedy();
        assert!(read.starts_with("make it readable"), "{read}");
        assert!(write.ends_with("with --out"), "{write}");
        let missing = || io::ErrorKind::NotFound.into();
        assert_eq!(Error::io("read", "a.txt")(missing()).exit_code(), 1);
        assert_eq!(Error::named("read", "a.txt")(missing()).exit_code(), 2);
    }

    #[test]
    fn only_a_closed_pipe_is_quiet() {
        let closed = stdout_failed(io::ErrorKind::BrokenPipe.into());
        let full = stdout_failed(io::ErrorKind::StorageFull.into());
        assert!(is_closed_pipe(&closed));
        assert!(!is_closed_pipe(&full));
    }
}
