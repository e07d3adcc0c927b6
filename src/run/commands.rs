//! What may interrupt the loop between two updates: signals and commands from `control.jsonl`.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;

use crate::error::{Error, Result};

/// How long the last words of a process may take that a second signal ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Which signal came, for who tells the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    /// The first: the run ends after the current update, with a checkpoint.
    First,
    /// The second: the process ends now.
    Second,
}

/// SIGINT and SIGTERM, noted and acted on after the current update. A second signal ends the process at
/// once: then the newest checkpoint is what there is. Runs that one process trains together share it.
#[derive(Debug, Clone)]
pub struct Signals {
    seen: Arc<AtomicUsize>,
}

impl Signals {
    /// Starts to listen. `tell` is called for the first signal and for the second, on a thread of its own: the handler
    /// itself only notes the signal and wakes that thread.
    pub fn listen(tell: impl Fn(Press) + Send + Sync + 'static) -> Result<Self> {
        let failed = || Error::io("listen for signals of", "the process");
        let signals = Self::noted()?;
        let (mut wakes, waker) = UnixStream::pair().map_err(failed())?;
        for signal in [SIGINT, SIGTERM] {
            // After the note, so that who wakes finds it.
            let waker = waker.try_clone().map_err(failed())?;
            low_level::pipe::register(signal, waker).map_err(failed())?;
        }
        let seen = Arc::clone(&signals.seen);
        let tell = Arc::new(tell);
        let listen = move || {
            let mut count = 0;
            let mut bytes = [0; 16];
            while let Ok(more) = wakes.read(&mut bytes)
                && more > 0
            {
                for _ in 0..more {
                    count += 1;
                    let press = if count == 1 { Press::First } else { Press::Second };
                    let (said, is_said) = mpsc::channel();
                    let tell = Arc::clone(&tell);
                    // A terminal that takes no words must not keep the process from ending.
                    let _ = thread::Builder::new().spawn(move || {
                        tell(press);
                        let _ = said.send(());
                    });
                    if press == Press::Second {
                        let _ = is_said.recv_timeout(LAST_WORDS);
                        low_level::exit(128 + seen.load(Ordering::SeqCst) as i32);
                    }
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed())?;
        Ok(signals)
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
