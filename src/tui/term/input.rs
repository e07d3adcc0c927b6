//! Keys and mouse, read on a thread of their own and handed to the loop's one channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use ratatui::crossterm::event;

use crate::error::{Error, Result};
use crate::tui::app::Msg;

/// How long the thread waits for a key before it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the loop waits for the thread to let go of the terminal.
const PARK_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Shared {
    should_stop: AtomicBool,
    should_park: AtomicBool,
    is_parked: AtomicBool,
}

/// The thread; dropping this ends it within a tenth of a second.
#[derive(Debug)]
pub struct Input {
    shared: Arc<Shared>,
}

impl Input {
    /// Starts to read.
    pub fn start(messages: SyncSender<Msg>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("input".into())
            .spawn(move || read(&of_thread, &messages))
            .map_err(Error::io("read", "the terminal"))?;
        Ok(Self { shared })
    }

    /// Stops reading until [`go_on`](Self::go_on): a process in the background that reads its terminal is
    /// stopped by the system.
    pub fn park(&self) {
        self.shared.should_park.store(true, Ordering::SeqCst);
        let start = Instant::now();
        while !self.shared.is_parked.load(Ordering::SeqCst) && start.elapsed() < PARK_WAIT {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads again.
    pub fn go_on(&self) {
        self.shared.should_park.store(false, Ordering::SeqCst);
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.shared.should_stop.store(true, Ordering::SeqCst);
        self.park();
    }
}

fn read(shared: &Shared, messages: &SyncSender<Msg>) {
    while !shared.should_stop.load(Ordering::SeqCst) {
        let should_park = shared.should_park.load(Ordering::SeqCst);
        shared.is_parked.store(should_park, Ordering::SeqCst);
        if should_park {
            thread::sleep(LOOK_EVERY / 4);
            continue;
        }
        let event = match event::poll(LOOK_EVERY) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        match event {
            Ok(event) => {
                if messages.send(Msg::Terminal(event)).is_err() {
                    break;
                }
            }
            // The terminal is gone; its end comes as a signal too.
            Err(_) => break,
        }
    }
    shared.is_parked.store(true, Ordering::SeqCst);
}
