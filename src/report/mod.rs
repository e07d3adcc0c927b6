//! What finished and running training looks like from outside: series, tables, plots, a page.
//!
//! Reads runs through `runlog` alone, so it can be used while they train and on another machine. `series` is a run's
//! numbers over time, `table` compares runs, `text` is how numbers look.

pub mod series;
pub mod stats;
pub mod table;
pub mod text;
mod diff;
pub mod render;

pub use series::{History, Point};
pub use table::{Comparison, Entry};
