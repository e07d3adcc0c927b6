//! Reads an event log, at once or as it grows.

use std::path::Path;

use super::body::{Body, Resume};
use super::event::Event;
use super::lines::Lines;
use crate::error::Result;

/// Follows an event log: each [`poll`](Self::poll) returns what was added since the last.
///
/// A last line without its end is waited for; a damaged line is skipped and counted. No content of
/// the file is an error.
#[derive(Debug)]
pub struct Tail {
    lines: Lines,
    last_seq: u64,
    damaged: u64,
    missing: u64,
    is_torn: bool,
    restarts: u64,
}

impl Tail {
    /// Follows the log at `path` from its beginning. The file need not exist yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            lines: Lines::from_start(path),
            last_seq: 0,
            damaged: 0,
            missing: 0,
            is_torn: false,
            restarts: 0,
        }
    }

    /// Follows the log at `path` from what it holds now: only events still to come are returned.
    pub fn from_end(path: impl AsRef<Path>) -> Result<Self> {
        let mut tail = Self::new(path);
        tail.each(|_| {})?;
        Ok(tail)
    }

    /// The events that were added since the last call.
    ///
    /// Errors: `Error::Io` if the file exists and cannot be read.
    pub fn poll(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.each(|event| events.push(event))?;
        Ok(events)
    }

    /// Like [`poll`](Self::poll), but hands the events over one by one: for long logs.
    pub fn each(&mut self, mut take: impl FnMut(Event)) -> Result<()> {
        let (mut last_seq, mut damaged, mut missing) = (self.last_seq, 0, 0);
        let reading = self.lines.read(|line| {
            if line.trim_ascii().is_empty() {
                return;
            }
            let Ok(event) = Event::parse(line) else {
                damaged += 1;
                return;
            };
            // A number seen before means that the file was replaced, or written by two processes;
            // what was delivered once is not delivered again.
            if event.seq > last_seq {
                missing = event.seq.saturating_sub(last_seq + 1).saturating_add(missing);
                last_seq = event.seq;
                take(event);
            }
        })?;
        self.last_seq = last_seq;
        self.damaged += damaged;
        self.missing = self.missing.saturating_add(missing);
        self.is_torn = reading.unfinished_bytes > 0;
        self.restarts += u64::from(reading.is_restart);
        Ok(())
    }

    /// The number of the last event read, 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Lines that were no events.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Events that the numbering says should be there and are not.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Whether the log ended without a line end when it was last read.
    pub fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// How often the log had become shorter than it was and was read from its beginning: another one lies there.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The byte position after the last complete line.
    pub(super) fn position(&self) -> u64 {
        self.lines.position()
    }
}

/// A whole event log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunLog {
    /// The events, in the order of the file.
    pub events: Vec<Event>,
    /// Lines that were no events.
    pub damaged: u64,
    /// Events that the numbering says should be there and are not.
    pub missing: u64,
    /// Whether the last line is unfinished.
    pub is_torn: bool,
}

/// Reads a whole log; a missing file is an empty log.
pub fn read_log(path: impl AsRef<Path>) -> Result<RunLog> {
    let mut tail = Tail::new(path);
    let events = tail.poll()?;
    Ok(RunLog { events, damaged: tail.damaged(), missing: tail.missing(), is_torn: tail.is_torn() })
}

/// The events that count: without the updates that a later resume from an earlier checkpoint, or
/// a run that went back to one by itself, made void. What was started, stopped, saved, commanded and said stays.
pub fn effective(events: Vec<Event>) -> Vec<Event> {
    let mut kept: Vec<Event> = Vec::with_capacity(events.len());
    for event in events {
        if let Body::Resume(Resume { from_step: Some(from_step), from_seq, .. }) = event.body {
            // By number too: a skip after the checkpoint, or the evaluation before the first update, has the
            // step of the checkpoint and comes again.
            let is_before = |old: &Event| {
                old.step <= from_step && from_seq.is_none_or(|from_seq| old.seq <= from_seq)
            };
            kept.retain(|old| is_before(old) || !old.body.belongs_to_an_update());
        }
        kept.push(event);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::body::{Eval, Phase};
    use super::*;

    fn line(seq: u64) -> String {
        let body = Phase { name: format!("p{seq}"), detail: String::new() }.into();
        Event { seq, ts: 0, step: seq, body }.to_line().unwrap() + "\n"
    }

    #[test]
    fn damaged_lines_are_skipped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let text =
            format!("{}{{\"v\":1,garbage\n\n\r\n{}\u{0}\u{0}\n{}", line(1), line(2), line(5));
        std::fs::write(&path, text).unwrap();
        let log = read_log(&path).unwrap();
        assert_eq!(log.events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 5]);
        assert_eq!((log.damaged, log.missing, log.is_torn), (2, 2, false));
    }

    #[test]
    fn a_windows_line_end_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, line(1).replace('\n', "\r\n")).unwrap();
        assert_eq!(read_log(&path).unwrap().events.len(), 1);
    }

    #[test]
    fn what_was_delivered_is_not_delivered_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, line(1) + &line(2)).unwrap();
        let mut tail = Tail::new(&path);
        assert_eq!(tail.poll().unwrap().len(), 2);
        assert_eq!(tail.poll().unwrap().len(), 0);
        std::fs::write(&path, line(2)).unwrap(); // shorter: someone rewrote it
        assert_eq!(tail.poll().unwrap().len(), 0);
        std::fs::write(&path, line(2) + &line(3)).unwrap();
        assert_eq!(tail.poll().unwrap().len(), 1);
        assert_eq!(Tail::from_end(&path).unwrap().poll().unwrap().len(), 0);
    }

    #[test]
    fn updates_before_a_resume_from_an_earlier_step_are_dropped() {
        let eval = |seq, step| Event {
            seq,
            ts: 0,
            step,
            body: Eval { loss: 1.0, ppl: 1.0, tokens: 1 }.into(),
        };
        let resume = |seq, from| Event {
            seq,
            ts: 0,
            step: from,
            body: Resume { from_step: Some(from), ..Resume::default() }.into(),
        };
        let events = vec![
            eval(1, 10),
            eval(2, 20),
            eval(3, 30),
            resume(4, 20),
            eval(5, 30),
            eval(6, 40),
            resume(7, 30),
            eval(8, 40),
        ];
        let kept: Vec<u64> = effective(events).iter().map(|event| event.seq).collect();
        assert_eq!(kept, [1, 2, 4, 5, 7, 8]);
    }

    #[test]
    fn what_came_after_the_checkpoint_at_its_own_step_is_dropped() {
        let event = |seq, body: Body| Event { seq, ts: 0, step: 10, body };
        let eval = || Body::from(Eval { loss: 1.0, ppl: 1.0, tokens: 1 });
        let resume = Resume { from_step: Some(10), from_seq: Some(1), rollback: None };
        let events =
            vec![event(1, eval()), event(2, eval()), event(3, resume.into()), event(4, eval())];
        let kept: Vec<u64> = effective(events).iter().map(|event| event.seq).collect();
        assert_eq!(kept, [1, 3, 4]);
    }
}
