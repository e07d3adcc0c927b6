//! Numbers over the course of a run, kept so that any stretch of them can be drawn at once: columns of
//! values over shared clocks, with pyramids of extremes above them.
//!
//! | module | what |
//! |---|---|
//! | [`clock`] | where each row stands on the axes that a chart may have |
//! | [`table`] | rows of one kind of event: a clock and its columns |

pub mod clock;
pub mod table;

pub use clock::{Axis, Clock, Moment};
pub use table::{Column, Table};
