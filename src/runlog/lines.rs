//! Reads a growing file line by line: complete lines are delivered once, a last line without its
//! line end is waited for.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A reading position in a file that another process appends to.
///
/// Only whole lines move the position; an unfinished one is read again the next time, because the
/// writer may cut it off after a crash and put another in its place.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    position: u64,
}

/// What one reading found at the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Bytes after the last line end: a line being written, or torn by a crash.
    pub unfinished_bytes: u64,
    /// The file had become shorter than the position, and was read again from its beginning.
    pub is_restart: bool,
}

impl Lines {
    /// From the beginning of the file. The file need not exist yet.
    pub fn from_start(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_path_buf(), position: 0 }
    }

    /// From the end of what the file holds now.
    pub fn from_end(path: impl AsRef<Path>) -> Result<Self> {
        let mut lines = Self::from_start(path);
        lines.position = lines.len()?;
        Ok(lines)
    }

    /// The byte position after the last complete line that was delivered.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn len(&self) -> Result<u64> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::io("read", &self.path)(error)),
        }
    }

    /// Hands every complete line since the last call to `take`, without its line end.
    ///
    /// Errors: `Error::Io` if the file cannot be read; a missing file is an empty one.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<Reading> {
        let mut reading = Reading::default();
        let len = self.len()?;
        if len < self.position {
            self.position = 0;
            reading.is_restart = true;
        }
        if len == self.position {
            return Ok(reading);
        }
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(reading),
            Err(error) => return Err(Error::io("read", &self.path)(error)),
        };
        file.seek(SeekFrom::Start(self.position)).map_err(Error::io("read", &self.path))?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = file.read_until(b'\n', &mut line).map_err(Error::io("read", &self.path))?;
            let Some((b'\n', content)) = line.split_last() else {
                reading.unfinished_bytes = bytes as u64;
                return Ok(reading);
            };
            self.position += bytes as u64;
            take(content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(lines: &mut Lines) -> (Vec<String>, Reading) {
        let mut found = Vec::new();
        let reading =
            lines.read(|line| found.push(String::from_utf8_lossy(line).into_owned())).unwrap();
        (found, reading)
    }

    #[test]
    fn an_unfinished_line_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut lines = Lines::from_start(&path);
        assert_eq!(read(&mut lines), (vec![], Reading::default()));
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        let (found, reading) = read(&mut lines);
        assert_eq!((found, reading.unfinished_bytes), (vec!["one".to_string()], 2));
        assert_eq!(read(&mut lines).0, Vec::<String>::new());
        file.write_all(b"o\n\nthree\n").unwrap();
        assert_eq!(read(&mut lines).0, ["two", "", "three"]);
        assert_eq!(lines.position(), 15);
    }

    #[test]
    fn an_unfinished_line_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one\nto").unwrap();
        let mut lines = Lines::from_start(&path);
        assert_eq!(read(&mut lines).0, ["one"]);
        std::fs::write(&path, "one\nanother\n").unwrap();
        assert_eq!(read(&mut lines).0, ["another"]);
    }

    #[test]
    fn a_file_that_became_shorter_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let mut lines = Lines::from_start(&path);
        read(&mut lines);
        std::fs::write(&path, "new\n").unwrap();
        let (found, reading) = read(&mut lines);
        assert_eq!((found, reading.is_restart), (vec!["new".to_string()], true));
    }
}
