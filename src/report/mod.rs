//! What finished and running training looks like from outside: series, tables, plots, a page.
//!
//! Reads runs through `runlog` alone, so it can be used while they train and on another machine. `series` is a run's
//! numbers over time, `table` compares runs, `plots` says what is drawn, `page` puts it together, `text` is how numbers
//! look.

pub mod acts;
pub mod chart;
mod diff;
pub mod flop;
pub mod heat;
pub mod page;
pub mod pins;
pub mod plots;
pub mod render;
pub mod series;
pub mod stats;
mod strip;
pub mod svg;
pub mod table;
pub mod text;
pub mod tfevents;
pub mod ticks;

pub use series::{History, Point};
pub use table::{Comparison, Entry};
