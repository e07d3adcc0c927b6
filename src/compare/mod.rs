//! Several methods side by side: the same text in the same order, the same seed, the same start.
//!
//! `plan` turns methods, ranks, seeds and sweeps into members, `members` trains them by turns, one update each, or
//! one after the other. Every member is an ordinary run with the bits of that run alone; what all of them come to is
//! for `report`.

mod members;
mod plan;

pub use members::{Ending, Observer, Outcome, train};
pub use plan::{Wanted, config_of, make};
