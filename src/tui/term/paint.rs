//! Frames: when one is due, and how it gets to the terminal.

use std::fs::File;
use std::io::{BufWriter, Write};
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

/// Decides when a frame is due.
#[derive(Debug)]
pub struct Budget {
    every: Duration,
    last: Option<Instant>,
    dirt: Dirt,
}

impl Budget {
    /// At most `hz` frames a second for data.
    pub fn new(hz: u32) -> Self {
        Self { every: Duration::from_secs(1) / hz.max(1), last: None, dirt: Dirt::Input }
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
                Some(self.every.saturating_sub(now.saturating_duration_since(last)))
            }
        }
    }

    /// Notes that a frame was drawn.
    pub fn drawn(&mut self, now: Instant) {
        self.last = Some(now);
        self.dirt = Dirt::None;
    }
}

/// The terminal that frames go to.
pub struct Painter {
    terminal: Terminal<CrosstermBackend<BufWriter<File>>>,
}

impl Painter {
    /// Draws on a duplicate of the terminal's descriptor.
    pub fn new(terminal: File) -> Result<Self> {
        // A frame is one write where it fits, so that a slow line never shows half of it.
        let writer = BufWriter::with_capacity(1 << 16, terminal);
        let terminal = Terminal::new(CrosstermBackend::new(writer)).map_err(failed)?;
        Ok(Self { terminal })
    }

    /// Draws a frame and notes in `hits` what stands where. The terminal shows it whole or not at all.
    pub fn frame(&mut self, app: &App, hits: &mut Hits) -> Result<()> {
        queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate).map_err(failed)?;
        let drawn = self.terminal.draw(|frame| {
            let area = frame.area();
            shell::draw(app, area, frame.buffer_mut(), hits);
        });
        drawn.map_err(failed)?;
        queue!(self.terminal.backend_mut(), EndSynchronizedUpdate).map_err(failed)?;
        self.terminal.backend_mut().flush().map_err(failed)
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
        budget.drawn(start);
        let later = |ms| start + Duration::from_millis(ms);
        assert_eq!(budget.due_in(later(5000)), None, "nothing new, no frame");
        budget.soil(Dirt::Data);
        assert_eq!(budget.due_in(later(30)), Some(Duration::from_millis(70)));
        assert_eq!(budget.due_in(later(130)), Some(Duration::ZERO));
        budget.soil(Dirt::Input);
        budget.soil(Dirt::Data);
        assert_eq!(budget.due_in(later(30)), Some(Duration::ZERO));
    }
}
