//! The real program in a pseudo-terminal, for tests: keys in, the screen out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests may

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtyPair, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{PATIENCE, Place};

const COLUMNS: u16 = 100;
const ROWS: u16 = 30;
/// A run that goes on until it is stopped.
pub const ENDLESS: &str = "--iters 1000000 --checkpoint-every 0";

/// The program in a terminal.
pub struct Tty {
    child: Box<dyn Child + Send + Sync>,
    pair: PtyPair,
    writer: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Everything that was sent.
    bytes: Arc<Mutex<Vec<u8>>>,
    is_hung_up: Arc<AtomicBool>,
    before: String,
}

/// The modes of a terminal as text, to compare.
fn modes(master: &dyn MasterPty) -> String {
    let file = std::fs::File::open(master.tty_name().unwrap()).unwrap();
    let modes = rustix::termios::tcgetattr(&file).unwrap();
    format!(
        "{:?} {:?} {:?} {:?}",
        modes.input_modes, modes.output_modes, modes.control_modes, modes.local_modes
    )
}

impl Tty {
    /// Starts the program with words for arguments.
    pub fn start(place: &Place, line: &str) -> Self {
        Self::with(place, line, &[])
    }

    /// The same with more variables in its environment.
    pub fn with(place: &Place, line: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_fullrank"));
        command.args(line.split_whitespace());
        Self::of(place, command, variables)
    }

    /// The program as the child of a shell, which leads the terminal's session.
    pub fn in_shell(place: &Place, line: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_fullrank");
        let mut command = CommandBuilder::new("/bin/sh");
        // Something after it, or the shell would become it.
        command.args(["-c", &format!("'{program}' {line}; true")]);
        Self::of(place, command, &[])
    }

    fn of(place: &Place, mut command: CommandBuilder, variables: &[(&str, &str)]) -> Self {
        let size = PtySize { rows: ROWS, cols: COLUMNS, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let before = modes(pair.master.as_ref());
        command.cwd(place.path(""));
        for name in
            ["CI", "NO_COLOR", "SSH_CONNECTION", "SSH_TTY", "LC_ALL", "LC_CTYPE", "FULLRANK_LOG"]
        {
            command.env_remove(name);
        }
        for (name, value) in [
            ("TERM", "xterm-256color"),
            ("LANG", "C.UTF-8"),
            ("NODEVICE_SELECT", "1"),
            ("XDG_CACHE_HOME", place.path("cache").to_str().unwrap()),
            ("XDG_CONFIG_HOME", place.path("config").to_str().unwrap()),
        ] {
            command.env(name, value);
        }
        for (name, value) in variables {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).unwrap();
        let writer = pair.master.take_writer().unwrap();
        let mut reader = pair.master.try_clone_reader().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(
            NonZero::new(ROWS).unwrap(),
            NonZero::new(COLUMNS).unwrap(),
            200,
        )));
        let of_thread = Arc::clone(&screen);
        let is_hung_up = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&is_hung_up);
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let sent = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = reader.read(&mut bytes) {
                if count == 0 {
                    break;
                }
                of_thread.lock().unwrap().process(&bytes[..count]);
                sent.lock().unwrap().extend(&bytes[..count]);
            }
            is_over.store(true, Ordering::SeqCst);
        });
        Self { child, pair, writer, screen, bytes, is_hung_up, before }
    }

    /// What the screen shows.
    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// What was sent, as text.
    pub fn sent(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// Whether a cell of the screen has a colour.
    pub fn has_color(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let places = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
        let mut cells = places.filter_map(|(row, column)| parser.screen().cell(row, column));
        cells.any(|cell| {
            (cell.fgcolor(), cell.bgcolor()) != (vt100::Color::Default, vt100::Color::Default)
        })
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "no {what} in:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the screen shows a text.
    pub fn see(&self, what: &str) {
        self.wait(what, |tty| tty.text().contains(what));
    }

    /// Types keys.
    pub fn press(&mut self, keys: &str) {
        self.writer.write_all(keys.as_bytes()).unwrap();
        self.writer.flush().unwrap();
    }

    /// The process that leads the terminal.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.process_id().unwrap()).unwrap()).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Whether nobody has the terminal open any more.
    pub fn is_hung_up(&self) -> bool {
        self.is_hung_up.load(Ordering::SeqCst)
    }

    /// Whether a full screen is shown.
    pub fn is_on_alternate_screen(&self) -> bool {
        self.screen.lock().unwrap().screen().alternate_screen()
    }

    /// Whether the terminal is as it was found.
    pub fn is_restored(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        !screen.alternate_screen()
            && !screen.hide_cursor()
            && !screen.bracketed_paste()
            && screen.mouse_protocol_mode() == vt100::MouseProtocolMode::None
            && modes(self.pair.master.as_ref()) == self.before
    }

    /// Waits for the end; the terminal must be as before. Answers the exit code.
    pub fn end(&mut self) -> u32 {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        };
        self.wait("restored terminal", Self::is_restored);
        status.exit_code()
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
