//! The terminal: its modes and their undoing, captured output, input, and the loop.
//!
//! The screen is drawn on a duplicate of the terminal's descriptor, while descriptors 1 and 2 lead into a pipe:
//! what the process, a driver or a library prints lands in the log of the run and never on the picture. One
//! [`guard`] records each mode that it set and undoes them in reverse, at the end, in a panic and on a signal.
//!
//! | module | what |
//! |---|---|
//! | [`guard`] | modes of the terminal and their undoing |
//! | [`capture`] | what is printed while the screen is drawn on |
//! | [`input`] | keys and mouse, read on a thread of their own |
//! | [`signals`] | signals as messages |
//! | [`mouse`] | what a click, a drag or the wheel means |
//! | [`paint`] | the loop's frames |
//! | [`wait`] | the loop |

pub mod capture;
pub mod feed;
pub mod guard;
pub mod input;
pub mod mouse;
pub mod paint;
pub mod signals;
pub mod wait;

pub use feed::Feed;
pub use wait::{Ended, Host, Options, run};

/// The columns of this process's terminal, if it has one and tells.
pub fn columns() -> Option<usize> {
    let (columns, _) = ratatui::crossterm::terminal::size().ok()?;
    Some(columns.into()).filter(|columns| *columns > 0)
}
