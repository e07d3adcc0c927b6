//! Appends events to a run's log.
//!
//! Lines are collected and written by a thread of their own, several whole lines in one write, so
//! that a slow disk does not hold the trainer. [`RunWriter::sync`] waits until everything is on disk;
//! the trainer calls it at checkpoints and at the end. A disk that refuses is reported at the next
//! call; the lines that it refused are kept and tried again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::body::Body;
use super::event::{Event, now_ms};
use super::tail::Tail;
use crate::error::{Error, Result};

/// How long a line may wait before it is written.
const FLUSH_EVERY: Duration = Duration::from_millis(250);
/// How many bytes may wait before they are written.
const FLUSH_BYTES: usize = 64 * 1024;

/// The one writer of a run's event log; the caller holds the run's lock.
#[derive(Debug)]
pub struct RunWriter {
    path: PathBuf,
    seq: u64,
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

enum Message {
    /// A line with its end; `true` asks for it to be written at once.
    Line(String, bool),
    /// Write everything, and with `true` wait for the disk; the answer says whether it worked.
    Flush(bool, Sender<io::Result<()>>),
}

impl RunWriter {
    /// Opens the log at `path` for appending, or creates it. Event numbers go on where the log ends.
    ///
    /// A crash may have left the last line unfinished: if only its line end is missing it gets one,
    /// otherwise it is cut off.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let mut tail = Tail::new(&path);
        tail.each(|_| {})?;
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let mut seq = tail.last_seq();
        let mut len = tail.position();
        if tail.is_torn() {
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            let last_line = bytes.get(len as usize..).unwrap_or_default();
            match Event::parse(last_line) {
                Ok(event) => {
                    file.write_all(b"\n").map_err(Error::io("write", &path))?;
                    len += last_line.len() as u64 + 1;
                    seq = seq.max(event.seq);
                }
                Err(_) => file.set_len(len).map_err(Error::io("repair", &path))?,
            }
        }
        let failure = Arc::new(Mutex::new(None));
        let (sender, receiver) = mpsc::channel();
        let appender = Appender { file, len, waiting: Vec::new(), failure: Arc::clone(&failure) };
        let thread = std::thread::Builder::new()
            .name("events".into())
            .spawn(move || appender.run(&receiver))
            .map_err(Error::io("start the writer of", &path))?;
        Ok(Self { path, seq, sender: Some(sender), thread: Some(thread), failure })
    }

    /// The number of the last event; a checkpoint remembers it.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Numbers an event, dates it, hands it to the log and returns it for the views.
    ///
    /// Errors: `Error::Io` if the disk refused an earlier event.
    pub fn emit(&mut self, step: u64, body: impl Into<Body>) -> Result<Event> {
        self.emit_at(now_ms(), step, body)
    }

    /// [`emit`](Self::emit) with a given time, in milliseconds since 1970.
    pub fn emit_at(&mut self, ts: i64, step: u64, body: impl Into<Body>) -> Result<Event> {
        if let Some(error) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Error::io("write", &self.path)(error));
        }
        let event = Event { seq: self.seq.saturating_add(1), ts, step, body: body.into() };
        let mut line = event
            .to_line()
            .map_err(|error| Error::io("write", &self.path)(io::Error::other(error)))?;
        line.push('\n');
        let is_urgent = !matches!(event.body, Body::Step(_) | Body::Switch(_) | Body::Time(_));
        self.send(Message::Line(line, is_urgent))?;
        self.seq = event.seq;
        Ok(event)
    }

    /// Waits until everything is with the operating system, so that other processes can read it.
    pub fn flush(&self) -> Result<()> {
        self.wait_for(false)
    }

    /// Waits until everything is on disk.
    pub fn sync(&self) -> Result<()> {
        self.wait_for(true)
    }

    fn wait_for(&self, is_sync: bool) -> Result<()> {
        let (answer, answered) = mpsc::channel();
        self.send(Message::Flush(is_sync, answer))?;
        let result = answered.recv().unwrap_or_else(|_| Err(writer_is_gone()));
        // The same failure is not reported twice.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.map_err(Error::io("write", &self.path))
    }

    fn send(&self, message: Message) -> Result<()> {
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(message).is_ok());
        if sent { Ok(()) } else { Err(Error::io("write", &self.path)(writer_is_gone())) }
    }
}

impl Drop for RunWriter {
    /// Writes what still waits. Failures show only in [`RunWriter::sync`], which comes before.
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn writer_is_gone() -> io::Error {
    io::Error::other("the writer of the event log has stopped")
}

/// The thread's side: the file and the lines that wait.
struct Appender {
    file: File,
    /// Length of the file up to the last whole line.
    len: u64,
    waiting: Vec<u8>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Appender {
    fn run(mut self, receiver: &Receiver<Message>) {
        let mut due: Option<Instant> = None;
        loop {
            let message = match due {
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => receiver.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(Message::Line(line, is_urgent)) => {
                    self.waiting.extend_from_slice(line.as_bytes());
                    let is_full = self.waiting.len() >= FLUSH_BYTES;
                    if is_urgent || is_full {
                        due = Some(Instant::now()); // lines that follow at once join the same write
                    } else if due.is_none() {
                        due = Some(Instant::now() + FLUSH_EVERY);
                    }
                    if is_full {
                        self.write_or_report();
                    }
                }
                Ok(Message::Flush(is_sync, answer)) => {
                    let result = self
                        .write()
                        .and_then(|()| if is_sync { self.file.sync_data() } else { Ok(()) });
                    due = None;
                    let _ = answer.send(result); // nobody waits any more: nothing to tell
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.write_or_report();
                    due = None;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.write_or_report();
                    return;
                }
            }
        }
    }

    fn write_or_report(&mut self) {
        if let Err(error) = self.write() {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    /// Writes all waiting lines. A full disk may take half of them: the rest of a line is cut off
    /// again, and everything stays here for the next try.
    fn write(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(&self.waiting) {
            let _ = self.file.set_len(self.len); // where this fails too, readers skip the torn line
            return Err(error);
        }
        self.len += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::{Log, Phase};
    use super::super::tail::read_log;
    use super::*;

    fn phase(name: &str) -> Phase {
        Phase { name: name.into(), detail: String::new() }
    }

    #[test]
    fn numbers_go_on_after_an_existing_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut writer = RunWriter::open(&path).unwrap();
        assert_eq!(writer.seq(), 0);
        assert_eq!(writer.emit(0, phase("a")).unwrap().seq, 1);
        assert_eq!(writer.emit(1, phase("b")).unwrap().seq, 2);
        drop(writer);
        let mut writer = RunWriter::open(&path).unwrap();
        assert_eq!(writer.seq(), 2);
        writer.emit(2, phase("c")).unwrap();
        writer.flush().unwrap();
        let log = read_log(&path).unwrap();
        assert_eq!(log.events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((log.damaged, log.missing), (0, 0));
    }

    #[test]
    fn a_flushed_event_can_be_read_and_a_waiting_one_comes_soon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut writer = RunWriter::open(&path).unwrap();
        writer.emit(0, Log::default()).unwrap();
        writer.sync().unwrap();
        assert_eq!(read_log(&path).unwrap().events.len(), 1);
        let mut fields = serde_json::Map::new();
        fields.insert("norm".into(), 1.5.into());
        writer.emit(0, Body::raw("merge", fields)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while read_log(&path).unwrap().events.len() < 2 {
            assert!(Instant::now() < deadline, "the event was not written");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_line_that_only_misses_its_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut writer = RunWriter::open(&path).unwrap();
        writer.emit(0, phase("a")).unwrap();
        drop(writer);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.trim_end()).unwrap();
        let mut writer = RunWriter::open(&path).unwrap();
        assert_eq!(writer.seq(), 1);
        writer.emit(1, phase("b")).unwrap();
        drop(writer);
        let log = read_log(&path).unwrap();
        assert_eq!((log.events.len(), log.damaged), (2, 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported() {
        let mut writer = RunWriter::open("/dev/full").unwrap_or_else(|error| panic!("{error}"));
        let written = writer.emit(0, phase("a")).and_then(|_| writer.sync());
        let error = written.unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains("/dev/full"), "{error}");
    }
}
