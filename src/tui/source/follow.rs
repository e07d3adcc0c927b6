//! A log as it grows, and whether its run lives: from the lock, so that a crash is seen at once.

use std::time::Duration;

use super::Outlet;
use super::load::{Loaded, load};
use crate::error::Error;
use crate::runlog::status::LastWord;
use crate::runlog::{Event, Status, Tail};
use crate::tui::app::Msg;

/// How often the log of a live run is looked at.
pub(super) const POLL: Duration = Duration::from_millis(200);
/// How often that of a run that is over, which may be resumed.
const REST: Duration = Duration::from_secs(1);

/// Follows a run that some process trains, or none.
pub(super) fn tail(out: Outlet) {
    let Some(mut follower) = Follower::start(out) else { return };
    follower.run();
}

/// One that knows how far a run was told.
pub(super) struct Follower {
    pub out: Outlet,
    tail: Tail,
    /// The number of the last event that was sent.
    last_seq: u64,
    last_word: LastWord,
    status: Option<Status>,
    restarts: u64,
    /// What was complained of last: not every time anew.
    complaint: String,
}

impl Follower {
    /// Loads the run and sends it; `None` where nobody listens.
    pub fn start(out: Outlet) -> Option<Self> {
        let tail = Tail::new(out.dir.events());
        let mut follower = Self {
            out,
            tail,
            last_seq: 0,
            last_word: LastWord::default(),
            status: None,
            restarts: 0,
            complaint: String::new(),
        };
        follower.load()?;
        Some(follower)
    }

    fn load(&mut self) -> Option<()> {
        match load(&self.out.dir) {
            Ok(Loaded { model, tail, last_word }) => {
                self.restarts = tail.restarts();
                self.last_seq = tail.last_seq();
                self.tail = tail;
                self.last_word = last_word;
                self.status = Some(model.status);
                self.out.send(Msg::Loaded(self.out.place, Box::new(model)))
            }
            Err(error) => self.complain(&error),
        }
    }

    /// Follows the log until nobody listens any more.
    pub fn run(&mut self) {
        loop {
            let is_live = self.status.is_some_and(Status::is_live);
            std::thread::sleep(if is_live { POLL } else { REST });
            if self.out.is_over() || self.look().is_none() {
                return;
            }
        }
    }

    /// Sends what is new; `None` where nobody listens any more.
    pub fn look(&mut self) -> Option<()> {
        // The lock first: a run that ends in between is then still live, and its `end` is read the next time.
        let is_locked = self.out.dir.is_locked();
        self.catch_up()?;
        match is_locked {
            Ok(is_locked) => self.tell_status(is_locked),
            Err(error) => self.complain(&error),
        }
    }

    /// Sends whether the run lives, where that is new.
    pub fn look_at_lock(&mut self) -> Option<()> {
        match self.out.dir.is_locked() {
            Ok(is_locked) => self.tell_status(is_locked),
            Err(error) => self.complain(&error),
        }
    }

    /// Sends what the file has beyond what was sent.
    pub fn catch_up(&mut self) -> Option<()> {
        let events = match self.tail.poll() {
            Ok(events) => events,
            Err(error) => return self.complain(&error),
        };
        if self.tail.restarts() > self.restarts {
            // The file was replaced: everything anew.
            return self.load();
        }
        let last_seq = self.last_seq;
        self.tell(events.into_iter().filter(|event| event.seq > last_seq).collect())
    }

    /// The number of the last event that was sent.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Sends events that follow those that were sent.
    pub fn tell(&mut self, events: Vec<Event>) -> Option<()> {
        let Some(last) = events.last() else { return Some(()) };
        self.last_seq = last.seq;
        self.last_word = events.iter().fold(self.last_word, LastWord::after);
        self.complaint.clear();
        self.out.send_events(events)
    }

    fn tell_status(&mut self, is_locked: bool) -> Option<()> {
        let status = Status::of(is_locked, self.last_word);
        if self.status == Some(status) {
            return Some(());
        }
        self.status = Some(status);
        self.out.send(Msg::Status(self.out.place, status))
    }

    fn complain(&mut self, error: &Error) -> Option<()> {
        let text = error.to_string();
        if text == self.complaint {
            return if self.out.is_over() { None } else { Some(()) };
        }
        self.complaint = text;
        self.out.complain(error)
    }
}
