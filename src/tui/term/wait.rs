//! The loop: one channel is waited on, everything in it is taken in, and one frame is drawn if one is due.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTSTP};

use super::capture::Capture;
use super::feed::Feed;
use super::guard::{self, TermGuard};
use super::input::Input;
use super::mouse::Mouse;
use super::paint::{Budget, Dirt, Painter};
use super::signals::Hearing;
use crate::error::{Error, Result};
use crate::runlog::event::now_ms;
use crate::runlog::{Command, RunDir};
use crate::tui::action::{Effect, ViewId};
use crate::tui::app::{App, Msg, Overlay};
use crate::tui::source::WAITING;
use crate::tui::views::{self, Hits};

/// Frames of data a second, and over a slow line or on battery.
const HZ: u32 = 10;
const HZ_SPARING: u32 = 4;
/// How often a live run's clock moves.
const CLOCK: Duration = Duration::from_secs(1);
/// How often ages of runs do.
const AGES: Duration = Duration::from_mins(1);
/// How often a process in the background looks whether it was brought back.
const BACKGROUND: Duration = Duration::from_millis(300);
/// Messages taken in before a frame gets its turn.
const AT_ONCE: usize = 4096;
/// A test's way to a panic of the screen: with this variable set, Ctrl-P is one.
const PANIC_VARIABLE: &str = "FULLRANK_TEST_UI_PANIC";

/// How a screen is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether the mouse belongs to the screen.
    pub has_mouse: bool,
    /// Frames of data a second.
    pub hz: u32,
    /// Whether the bell sounds when something happened.
    pub rings: bool,
    /// Whether the terminal is asked to show a message then.
    pub notifies: bool,
}

impl Options {
    /// What fits the environment: fewer frames over ssh and on battery.
    pub fn of(variable: impl Fn(&str) -> Option<String>, is_on_battery: bool) -> Self {
        let is_remote = ["SSH_CONNECTION", "SSH_TTY", "MOSH_CONNECTION"]
            .iter()
            .any(|name| variable(name).is_some());
        let hz = if is_remote || is_on_battery { HZ_SPARING } else { HZ };
        Self { has_mouse: true, hz, rings: false, notifies: false }
    }
}

/// Why the screen was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The user is done, or the work of the process is.
    Quit,
    /// The user lets the run go on without a screen.
    Detached,
    /// The terminal has gone.
    HungUp,
    /// A signal ended a screen that trains nothing.
    Signal(i32),
    /// The screen failed; the terminal is as before, the run goes on.
    Failed(String),
}

/// What a screen cannot do itself.
pub trait Host {
    /// Lets a run that has stopped go on, in a process of its own. Answers what was done, in words.
    fn resume(&mut self, run: &Path) -> Result<String>;
    /// Starts a new run with a run's configuration, in a process of its own.
    fn start_again(&mut self, run: &Path) -> Result<String>;
    /// Moves a run to the trash.
    fn trash(&mut self, run: &Path) -> Result<String>;
    /// Writes what the panel in focus shows to files, or the whole view.
    fn export(&mut self, app: &mut App, is_view: bool) -> Result<String>;
}

/// Draws `app` until the user is done. `start` gets the feed before the first frame; it opens runs, here or on
/// another thread, and may be gone when runs still send.
///
/// Errors: the terminal cannot be taken over. A failure after that is an [`Ended::Failed`].
pub fn run(
    app: &mut App,
    options: Options,
    host: &mut dyn Host,
    start: impl FnOnce(std::sync::Arc<Feed>),
) -> Result<Ended> {
    let (send, receive) = sync_channel(WAITING);
    let (capture, pipe) = Capture::start(send.clone())?;
    let hearing = Hearing::start(send.clone())?;
    let guard = TermGuard::take(pipe, options.has_mouse)?;
    guard::on_panic(std::thread::current().id());
    let feed = std::sync::Arc::new(Feed::new(send.clone(), capture));
    start(std::sync::Arc::clone(&feed));
    let ended = catch_unwind(AssertUnwindSafe(|| {
        Screen::new(app, options, host, &guard, &feed, (receive, send))?.run()
    }));
    drop(guard);
    drop(hearing);
    feed.close();
    Ok(match ended {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => Ended::Failed(error.to_string()),
        Err(panic) => Ended::Failed(format!("the screen panicked: {}", words(panic.as_ref()))),
    })
}

/// The message of a panic.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

struct Screen<'a> {
    app: &'a mut App,
    host: &'a mut dyn Host,
    guard: &'a TermGuard,
    feed: &'a Feed,
    messages: Receiver<Msg>,
    input: Input,
    painter: Painter,
    budget: Budget,
    hits: Hits,
    mouse: Mouse,
    clock: Instant,
    options: Options,
    can_panic: bool,
}

impl<'a> Screen<'a> {
    fn new(
        app: &'a mut App,
        options: Options,
        host: &'a mut dyn Host,
        guard: &'a TermGuard,
        feed: &'a Feed,
        (messages, send): (Receiver<Msg>, SyncSender<Msg>),
    ) -> Result<Self> {
        let painter = Painter::new(guard.terminal()?)?;
        Ok(Self {
            app,
            host,
            guard,
            feed,
            messages,
            input: Input::start(send)?,
            painter,
            budget: Budget::new(options.hz),
            hits: Hits::default(),
            mouse: Mouse::default(),
            clock: Instant::now(),
            options,
            can_panic: std::env::var_os(PANIC_VARIABLE).is_some(),
        })
    }

    fn run(&mut self) -> Result<Ended> {
        self.app.update(Msg::Tick(now_ms()));
        loop {
            let now = Instant::now();
            let due = self.budget.due_in(now);
            if due == Some(Duration::ZERO) {
                self.app.update(Msg::Tick(now_ms()));
                let bytes = self.painter.frame(self.app, &mut self.hits)?;
                self.budget.drawn(Instant::now(), bytes);
                // Long series are smoothed over several frames. A key that came meanwhile goes first.
                if self.app.runs.iter().filter(|run| run.take_is_behind()).count() > 0 {
                    self.budget.soil(Dirt::Input);
                    if let Ok(message) = self.messages.try_recv()
                        && let Some(ended) = self.take(message)?
                    {
                        return Ok(ended);
                    }
                }
                continue;
            }
            let wait = match (due, self.tick_in(now)) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let first = match wait {
                Some(wait) => match self.messages.recv_timeout(wait) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Quit),
                },
                None => match self.messages.recv() {
                    Ok(message) => Some(message),
                    Err(_) => return Ok(Ended::Quit),
                },
            };
            if self.every().is_some_and(|every| self.clock.elapsed() >= every) {
                self.clock = Instant::now();
                views::rank::tick(self.app);
                self.budget.soil(Dirt::Data);
            }
            let mut next = first;
            let mut taken = 0;
            while let Some(message) = next {
                if let Some(ended) = self.take(message)? {
                    return Ok(ended);
                }
                taken += 1;
                next = if taken < AT_ONCE { self.messages.try_recv().ok() } else { None };
            }
        }
    }

    /// How often the clock moves: of a live run, or of a notice that goes; ages of runs in minutes. Never where none of
    /// them is on the screen.
    fn every(&self) -> Option<Duration> {
        let app = &self.app;
        let is_live = app.runs.iter().any(|run| run.status.is_live()) && !app.is_frozen;
        let is_begun = app.is_training && app.runs.is_empty();
        if is_live || is_begun || app.notice.is_some() || app.rank.is_playing {
            return Some(CLOCK);
        }
        (app.view == ViewId::Runs).then_some(AGES)
    }

    /// How long until the clock moves.
    fn tick_in(&self, now: Instant) -> Option<Duration> {
        Some(self.every()?.saturating_sub(now.saturating_duration_since(self.clock)))
    }

    /// Takes one message in.
    fn take(&mut self, message: Msg) -> Result<Option<Ended>> {
        let (message, dirt) = match message {
            Msg::Terminal(event) => {
                let Some(message) = self.terminal(event) else { return Ok(None) };
                (message, Dirt::Input)
            }
            Msg::Signal(SIGTSTP) => {
                self.suspend()?;
                return Ok(None);
            }
            Msg::Signal(SIGHUP) => {
                return Ok(Some(if self.is_training() {
                    Ended::HungUp
                } else {
                    Ended::Signal(SIGHUP)
                }));
            }
            Msg::Signal(signal) if !self.is_training() => {
                return Ok(Some(Ended::Signal(signal)));
            }
            // The run hears it too, and ends with its checkpoint.
            Msg::Signal(_) => {
                self.app.say("stopping after this update, with a checkpoint; once more: at once");
                self.budget.soil(Dirt::Input);
                return Ok(None);
            }
            Msg::Leave => return Ok(Some(Ended::Quit)),
            message @ (Msg::Events(..) | Msg::Status(..) | Msg::Loaded(..)) => {
                // What is not on the screen needs no frame.
                let dirt = if self.app.is_frozen { Dirt::None } else { Dirt::Data };
                (message, dirt)
            }
            message => (message, Dirt::Data),
        };
        if dirt == Dirt::Input {
            self.app.update(Msg::Tick(now_ms()));
        }
        self.budget.soil(dirt);
        for effect in self.app.update(message) {
            if let Some(ended) = self.carry_out(effect)? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    fn is_training(&self) -> bool {
        self.app.is_training && !self.app.is_over
    }

    fn terminal(&mut self, event: Event) -> Option<Msg> {
        match event {
            Event::Key(key) => {
                let ctrl_p = KeyEvent::new(KeyCode::Char('p'), KeyModifiers::CONTROL);
                assert!(!(self.can_panic && key == ctrl_p), "asked to by {PANIC_VARIABLE}");
                Some(Msg::Press(key))
            }
            Event::Mouse(event) => {
                let has_overlay = self.app.overlay != Overlay::None;
                self.mouse.message(event, &self.hits, has_overlay)
            }
            Event::Paste(text) => Some(Msg::Paste(text)),
            Event::Resize(width, height) => Some(Msg::Resize(width, height)),
            Event::FocusGained | Event::FocusLost => None,
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Result<Option<Ended>> {
        let done = match effect {
            Effect::Quit => return Ok(Some(Ended::Quit)),
            Effect::Detach => return Ok(Some(Ended::Detached)),
            Effect::Suspend => {
                // To the whole group, as the terminal would: a `cargo run` around this must stop too. The signal
                // comes back to this loop.
                rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)
                    .map_err(|error| Error::io("stop", "the process")(error.into()))?;
                return Ok(None);
            }
            Effect::Interrupt => {
                signal_hook::low_level::raise(signal_hook::consts::SIGINT)
                    .map_err(Error::io("interrupt", "the process"))?;
                return Ok(None);
            }
            Effect::Send(run, action) => self.send(run, action).map(|()| None),
            Effect::Copy(text) => {
                let sequence = format!("\x1b]52;c;{}\x07", BASE64.encode(&text));
                self.painter.send(sequence.as_bytes())?;
                Ok(Some("copied, if the terminal allows it (OSC 52)".into()))
            }
            Effect::Notify(words) => {
                let bytes = notification(self.options, &words);
                if !bytes.is_empty() {
                    self.painter.send(bytes.as_bytes())?;
                }
                return Ok(None);
            }
            Effect::Preview(path) => {
                self.feed.preview(path);
                return Ok(None);
            }
            Effect::Export(is_view) => self.host.export(self.app, is_view).map(Some),
            Effect::Open(path) => self.open(&path).map(|()| None),
            Effect::OpenBeside(path) => {
                self.feed.open_here(&RunDir::at(&path), self.app).map(|_| None)
            }
            Effect::Resume(path) => self.host.resume(&path).map(Some),
            Effect::Clone(path) => self.host.start_again(&path).map(Some),
            Effect::Trash(path) => self.host.trash(&path).map(Some),
        };
        match done {
            Ok(None) => {}
            Ok(Some(words)) => self.app.say(words),
            Err(error) => self.app.say(format!("{error}; {}", error.remedy())),
        }
        self.budget.soil(Dirt::Input);
        Ok(None)
    }

    /// Shows a run of the browser: the one that is open already, or opens it.
    fn open(&mut self, path: &Path) -> Result<()> {
        let known = self.app.runs.iter().position(|run| run.dir.as_deref() == Some(path));
        self.app.active = match known {
            Some(place) => place,
            None => self.feed.open_here(&RunDir::at(path), self.app)?,
        };
        self.app.view = ViewId::Train;
        Ok(())
    }

    fn send(&self, run: usize, action: crate::runlog::Action) -> Result<()> {
        let dir = self.app.runs.get(run).and_then(|run| run.dir.as_ref());
        match dir {
            Some(dir) => Command::new(action).send(&RunDir::at(dir)),
            None => Err(Error::run("the run has no folder", "report this")),
        }
    }

    /// Gives the terminal back, stops as the system would have done, and takes it again when the process is in
    /// the foreground. A run of this process goes on in the background.
    fn suspend(&mut self) -> Result<()> {
        self.input.park();
        guard::leave();
        signal_hook::low_level::emulate_default_handler(SIGTSTP)
            .map_err(Error::io("stop", "the process"))?;
        while !is_foreground() {
            std::thread::sleep(BACKGROUND);
        }
        self.guard.enter()?;
        self.input.go_on();
        // A new one, which knows nothing of what was shown: clearing the old one would ask the terminal for its
        // cursor, and wait for an answer that the input thread reads.
        self.painter = Painter::new(self.guard.terminal()?)?;
        self.budget.soil(Dirt::Input);
        Ok(())
    }
}

/// What the terminal is sent when something happened: its bell, a message.
fn notification(options: Options, words: &str) -> String {
    let mut bytes = String::new();
    if options.notifies {
        let words = crate::report::text::printable(words).replace('\n', " ");
        bytes.extend(["\x1b]9;", &words, "\x1b\\"]);
    }
    if options.rings {
        bytes.push('\x07');
    }
    bytes
}

/// Whether the terminal listens to this process's group.
fn is_foreground() -> bool {
    match rustix::termios::tcgetpgrp(std::io::stdin()) {
        Ok(group) => group == rustix::process::getpgrp(),
        // Without a terminal there is nothing to wait for; the next write will say so.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_a_message_and_a_bell_for_those_who_want_them() {
        let of = |rings, notifies| {
            let options = Options { rings, notifies, ..Options::of(|_| None, false) };
            notification(options, "run\x1b]0;x\x07 finished")
        };
        assert_eq!(of(false, false), "");
        assert_eq!(of(true, false), "\x07");
        let both = of(true, true);
        assert!(
            both.starts_with("\x1b]9;run") && both.ends_with(" finished\x1b\\\x07"),
            "{both:?}"
        );
        assert_eq!(both.matches(['\x1b', '\x07']).count(), 3, "what a run says sends nothing else");
    }
}
