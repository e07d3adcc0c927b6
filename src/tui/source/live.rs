//! The run of this process: what the trainer says goes through a small channel that it never waits for. What does not
//! fit is dropped here and read from the log, which has everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use super::follow::{Follower, POLL};
use super::{BATCH, Outlet, WAITING};
use crate::runlog::{Event, EventSink};

/// How long an event that was dropped may take to reach the log. Its writer waits for a quarter of a second.
const LATE: Duration = Duration::from_secs(2);
/// How often the log is looked at for it.
const LOOK: Duration = Duration::from_millis(50);

/// Takes events on the trainer's thread, in less than the time of a copy.
#[derive(Debug)]
pub struct LiveSink {
    events: SyncSender<Event>,
    dropped: Arc<AtomicU64>,
}

/// The other end.
#[derive(Debug)]
pub(super) struct Taken {
    events: Receiver<Event>,
    /// The number of the last event that did not fit.
    dropped: Arc<AtomicU64>,
}

impl EventSink for LiveSink {
    fn on_event(&mut self, event: &Event) {
        // Nobody there: nothing to tell.
        if let Err(TrySendError::Full(event)) = self.events.try_send(event.clone()) {
            self.dropped.store(event.seq, Ordering::Relaxed);
        }
    }
}

pub(super) fn channel() -> (LiveSink, Taken) {
    let (sink, events) = sync_channel(WAITING);
    let dropped = Arc::new(AtomicU64::new(0));
    (LiveSink { events: sink, dropped: Arc::clone(&dropped) }, Taken { events, dropped })
}

/// Sends what the trainer says, and follows the log as any other when the trainer is gone.
pub(super) fn follow(out: Outlet, taken: &Taken) {
    let Some(mut follower) = Follower::start(out) else { return };
    let mut looked = Instant::now();
    loop {
        let more = match taken.events.recv_timeout(POLL) {
            Ok(event) => {
                let mut batch = vec![event];
                batch.extend(taken.events.try_iter().take(BATCH - 1));
                tell(&mut follower, batch)
            }
            // The last ones that were dropped have none after them that would show the gap.
            Err(RecvTimeoutError::Timeout)
                if taken.dropped.load(Ordering::Relaxed) > follower.last_seq() =>
            {
                follower.catch_up()
            }
            Err(RecvTimeoutError::Timeout) => Some(()),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if more.is_none() || follower.out.is_over() {
            return;
        }
        if looked.elapsed() >= POLL {
            looked = Instant::now();
            if follower.look_at_lock().is_none() {
                return;
            }
        }
    }
    if follower.look().is_some() {
        follower.run();
    }
}

/// Sends events that came through the channel, with those between them that did not.
fn tell(follower: &mut Follower, batch: Vec<Event>) -> Option<()> {
    let mut next = Vec::with_capacity(batch.len());
    let mut last_seq = follower.last_seq();
    for event in batch {
        if event.seq <= last_seq {
            continue;
        }
        if event.seq > last_seq + 1 {
            follower.tell(std::mem::take(&mut next))?;
            let deadline = Instant::now() + LATE;
            while follower.last_seq() + 1 < event.seq && Instant::now() < deadline {
                follower.catch_up()?;
                if follower.last_seq() + 1 < event.seq {
                    std::thread::sleep(LOOK);
                }
            }
            if event.seq <= follower.last_seq() {
                last_seq = follower.last_seq();
                continue;
            }
        }
        last_seq = event.seq;
        next.push(event);
    }
    follower.tell(next)
}
