//! Frames: when one is due, and how it gets to the terminal.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::queue;
use ratatui::crossterm::terminal::{BeginSynchronizedUpdate, EndSynchronizedUpdate};

use crate::error::{Error, Result};
use crate::tui::app::App;
use crate::tui::shell;
use crate::tui::views::Hits;

/// What is new since the last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Dirt {
    /// Nothing: no frame.
    #[default]
    None,
    /// Numbers: a frame as often as the budget allows.
    Data,
    /// What the user did: a frame at once.
    Input,
}

/// Bytes a second that frames of numbers may send, somewhat less than a slow line should have to carry.
const BYTES_PER_S: f64 = 1800.0;
/// A frame that sent much, as a new view does, holds the next one of numbers up for no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Decides when a frame is due. Numbers are drawn as often as asked for, less often where frames send so much that a
/// second would carry more than `BYTES_PER_S`.
#[derive(Debug)]
pub struct Budget {
    every: Duration,
    wait: Duration,
    last: Option<Instant>,
    dirt: Dirt,
}

impl Budget {
    /// At most `hz` frames a second for data.
    pub fn new(hz: u32) -> Self {
        let every = Duration::from_secs(1) / hz.max(1);
        Self { every, wait: every, last: None, dirt: Dirt::Input }
    }

    /// Notes that something is new.
    pub fn soil(&mut self, dirt: Dirt) {
        self.dirt = self.dirt.max(dirt);
    }

    /// How long until a frame is due; `None` where nothing is new.
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        match (self.dirt, self.last) {
            (Dirt::None, _) => None,
            (Dirt::Input, _) | (Dirt::Data, None) => Some(Duration::ZERO),
            (Dirt::Data, Some(last)) => {
                Some(self.wait.saturating_sub(now.saturating_duration_since(last)))
            }
        }
    }

    /// Notes that a frame was drawn, and how many bytes it sent.
    pub fn drawn(&mut self, now: Instant, bytes: u64) {
        let carried = Duration::from_secs_f64(bytes as f64 / BYTES_PER_S);
        self.wait = self.every.max(carried.min(LONGEST_WAIT));
        self.last = Some(now);
        self.dirt = Dirt::None;
    }
}

/// The terminal that frames go to.
pub struct Painter {
    terminal: Terminal<CrosstermBackend<BufWriter<Counted>>>,
    bytes: Rc<Cell<u64>>,
}

/// The terminal, with what it was sent counted.
struct Counted {
    file: File,
    bytes: Rc<Cell<u64>>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.file.write(bytes)?;
        self.bytes.set(self.bytes.get() + sent as u64);
        Ok(sent)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Painter {
    /// Draws on a duplicate of the terminal's descriptor.
    pub fn new(terminal: File) -> Result<Self> {
        // A frame is one write where it fits, so that a slow line never shows half of it.
        let bytes = Rc::new(Cell::new(0));
        let counted = Counted { file: terminal, bytes: Rc::clone(&bytes) };
        let writer = BufWriter::with_capacity(1 << 16, counted);
        let terminal = Terminal::new(CrosstermBackend::new(writer)).map_err(failed)?;
        Ok(Self { terminal, bytes })
    }

    /// Draws a frame and notes in `hits` what stands where. The terminal shows it whole or not at all. Answers how many
    /// bytes it was sent.
    pub fn frame(&mut self, app: &App, hits: &mut Hits) -> Result<u64> {
        let before = self.bytes.get();
        queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate).map_err(failed)?;
        let drawn = self.terminal.draw(|frame| {
            let area = frame.area();
            shell::draw(app, area, frame.buffer_mut(), hits);
        });
        drawn.map_err(failed)?;
        queue!(self.terminal.backend_mut(), EndSynchronizedUpdate).map_err(failed)?;
        self.terminal.backend_mut().flush().map_err(failed)?;
        Ok(self.bytes.get() - before)
    }

    /// Sends bytes that are no frame: a copy to the clipboard.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let backend = self.terminal.backend_mut();
        backend.write_all(bytes).and_then(|()| backend.flush()).map_err(failed)
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("draw on", "the terminal")(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_waits_for_its_turn_and_input_does_not() {
        let mut budget = Budget::new(10);
        let start = Instant::now();
        assert_eq!(budget.due_in(start), Some(Duration::ZERO), "the first frame is due at once");
        budget.drawn(start, 20);
        let later = |ms| start + Duration::from_millis(ms);
        assert_eq!(budget.due_in(later(5000)), None, "nothing new, no frame");
        budget.soil(Dirt::Data);
        assert_eq!(budget.due_in(later(30)), Some(Duration::from_millis(70)));
        assert_eq!(budget.due_in(later(130)), Some(Duration::ZERO));
        budget.soil(Dirt::Input);
        budget.soil(Dirt::Data);
        assert_eq!(budget.due_in(later(30)), Some(Duration::ZERO));
    }

    #[test]
    fn frames_that_send_much_come_less_often() {
        let start = Instant::now();
        let wait = |bytes| {
            let mut budget = Budget::new(10);
            budget.drawn(start, bytes);
            budget.soil(Dirt::Data);
            let wait = budget.due_in(start).unwrap();
            budget.soil(Dirt::Input);
            assert_eq!(budget.due_in(start), Some(Duration::ZERO), "what the user does is seen");
            wait.as_millis()
        };
        assert_eq!([100, 180, 900, 40_000].map(wait), [100, 100, 500, 1000]);
    }
}
