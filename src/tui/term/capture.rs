//! What is printed while the screen is drawn on: a pipe whose lines become messages, and a copy in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};
use crate::report::text;
use crate::tui::app::Msg;

/// Bytes kept for the file until there is one.
const KEPT_BYTES: usize = 64 * 1024;

/// Where the copy goes.
#[derive(Debug, Default)]
struct Copy {
    file: Option<File>,
    /// What came before there was a file.
    early: Vec<u8>,
}

/// The reading end of the captured output.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    copy: Arc<Mutex<Copy>>,
}

impl Capture {
    /// A pipe that is read on a thread of its own until every writing end is closed.
    ///
    /// Errors: there is no pipe or no thread to be had.
    pub fn start(messages: SyncSender<Msg>) -> Result<(Self, PipeWriter)> {
        let failed = Error::io("capture", "standard output");
        let (reader, writer) = io::pipe().map_err(failed)?;
        let capture = Self::default();
        let copy = Arc::clone(&capture.copy);
        thread::Builder::new()
            .name("captured output".into())
            .spawn(move || read(reader, &copy, &messages))
            .map_err(Error::io("capture", "standard output"))?;
        Ok((capture, writer))
    }

    /// Copies everything to a file, what came before included.
    pub fn to_file(&self, path: &Path) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(Error::io("open", path))?;
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&std::mem::take(&mut copy.early)).map_err(Error::io("write", path))?;
        copy.file = Some(file);
        Ok(())
    }
}

fn read(reader: PipeReader, copy: &Mutex<Copy>, messages: &SyncSender<Msg>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        {
            let mut copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not stop what prints.
            if let Some(file) = &mut copy.file {
                let _ = file.write_all(&line);
            } else if copy.early.len() < KEPT_BYTES {
                copy.early.extend_from_slice(&line);
            }
        }
        let words = text::printable(String::from_utf8_lossy(&line).trim_end());
        if !words.trim().is_empty() && messages.send(Msg::Stray(words)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn captured_lines_become_messages_and_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stderr.log");
        let (send, receive) = mpsc::sync_channel(64);
        let (capture, mut writer) = Capture::start(send).unwrap();
        writer.write_all(b"loader: no layer\n\n\x1b[31mred\x1b[0m").unwrap();
        let Ok(Msg::Stray(first)) = receive.recv() else { panic!("no line came") };
        assert_eq!(first, "loader: no layer");
        capture.to_file(&path).unwrap();
        drop(writer);
        let Ok(Msg::Stray(last)) = receive.recv() else { panic!("no second line came") };
        assert!(last.contains("red") && !last.contains('\x1b'), "{last}");
        assert!(receive.recv().is_err(), "the thread ends with the pipe");
        let file = std::fs::read(&path).unwrap();
        assert_eq!(file, b"loader: no layer\n\n\x1b[31mred\x1b[0m");
    }
}
