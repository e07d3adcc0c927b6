//! What may interrupt the loop between two updates: signals and commands from `control.jsonl`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// SIGINT and SIGTERM, noted and acted on after the current update. A second signal ends the process at
/// once: then the newest checkpoint is what there is. Runs that one process trains together share it.
#[derive(Debug, Clone)]
pub struct Signals {
    seen: Arc<AtomicUsize>,
}

impl Signals {
    /// Starts to listen.
    pub fn listen() -> Result<Self> {
        let seen = Arc::new(AtomicUsize::new(0));
        let is_second = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the shutdown is armed by the first signal and acts on the second.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&is_second),
            )
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&is_second)))
            .and_then(|_| {
                signal_hook::flag::register_usize(signal, Arc::clone(&seen), signal as usize)
            })
            .map_err(Error::io("listen for signals of", "the process"))?;
        }
        Ok(Self { seen })
    }

    /// Starts to listen without an end at the second signal: for who sees to that himself, because something is to be
    /// put in order before the process ends.
    pub fn noted() -> Result<Self> {
        let seen = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_usize(signal, Arc::clone(&seen), signal as usize)
                .map_err(Error::io("listen for signals of", "the process"))?;
        }
        Ok(Self { seen })
    }

    /// The signal that came, if one did.
    pub fn seen(&self) -> Option<i32> {
        match self.seen.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}
