//! Signals as messages. The first interrupt asks the run to stop with a checkpoint, the second gives the
//! terminal back and ends the process at once.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};

use super::guard;
use crate::error::{Error, Result};
use crate::tui::app::Msg;

/// Signals that become messages.
const HEARD: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGTSTP];

/// Listens for the life of the process. After the screen has gone, Ctrl-Z stops the process as it would
/// without a screen, and a hang-up is survived.
#[derive(Debug)]
pub struct Hearing {
    is_on_screen: Arc<AtomicBool>,
}

impl Hearing {
    /// Starts to listen.
    pub fn start(messages: SyncSender<Msg>) -> Result<Self> {
        let failed = || Error::io("listen for signals of", "the process");
        let (mut reader, writer) = UnixStream::pair().map_err(failed())?;
        let mut flags = Vec::new();
        for signal in HEARD {
            let flag = Arc::new(AtomicBool::new(false));
            // The flag before the wake-up, so that who wakes finds it.
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(failed())?;
            let writer = writer.try_clone().map_err(failed())?;
            signal_hook::low_level::pipe::register(signal, writer).map_err(failed())?;
            flags.push((signal, flag));
        }
        let is_on_screen = Arc::new(AtomicBool::new(true));
        let of_thread = Arc::clone(&is_on_screen);
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let mut interrupts = 0;
                let mut wake = [0; 16];
                while reader.read(&mut wake).is_ok_and(|bytes| bytes > 0) {
                    let came: Vec<i32> = flags
                        .iter()
                        .filter(|(_, flag)| flag.swap(false, Ordering::SeqCst))
                        .map(|(signal, _)| *signal)
                        .collect();
                    for signal in came {
                        if signal == SIGINT || signal == SIGTERM {
                            interrupts += 1;
                        }
                        if interrupts > 1 {
                            guard::leave();
                            std::process::exit(128 + signal);
                        }
                        if of_thread.load(Ordering::SeqCst) {
                            // With the loop gone there is nobody to tell.
                            let _ = messages.send(Msg::Signal(signal));
                        } else if signal == SIGTSTP {
                            let _ = signal_hook::low_level::emulate_default_handler(signal);
                        }
                    }
                }
            })
            .map_err(failed())?;
        Ok(Self { is_on_screen })
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.is_on_screen.store(false, Ordering::SeqCst);
    }
}
