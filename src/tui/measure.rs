//! A screen without a terminal, for measurements: what it draws is what a terminal would get, counted and thrown away.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;

use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::app::App;
use super::shell;
use super::views::Hits;
use crate::error::{Error, Result};

/// A screen of a fixed size.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Counter>>,
    bytes: Rc<Cell<u64>>,
    hits: Hits,
}

impl Screen {
    /// A screen of `width` × `height` cells.
    ///
    /// Errors: none that a terminal in memory has.
    pub fn new(width: u16, height: u16) -> Result<Self> {
        let bytes = Rc::new(Cell::new(0));
        let backend = CrosstermBackend::new(Counter { bytes: Rc::clone(&bytes) });
        let viewport = Viewport::Fixed(Rect::new(0, 0, width, height));
        let terminal =
            Terminal::with_options(backend, TerminalOptions { viewport }).map_err(failed)?;
        Ok(Self { terminal, bytes, hits: Hits::default() })
    }

    /// Draws a frame: only cells that differ from the frame before are sent.
    pub fn draw(&mut self, app: &App) -> Result<()> {
        let hits = &mut self.hits;
        let drawn = self.terminal.draw(|frame| {
            let area = frame.area();
            *hits = Hits::default();
            shell::draw(app, area, frame.buffer_mut(), hits);
        });
        drawn.map(|_| ()).map_err(failed)
    }

    /// Bytes sent so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("draw on", "a screen in memory")(error)
}

struct Counter {
    bytes: Rc<Cell<u64>>,
}

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.set(self.bytes.get() + bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
