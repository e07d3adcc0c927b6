//! Numbers over the course of a run, kept so that any stretch of them can be drawn at once: columns of
//! values over shared clocks, with pyramids of extremes above them.
//!
//! | module | what |
//! |---|---|
//! | [`clock`] | where each row stands on the axes that a chart may have |
//! | [`mod@column`] | values with a pyramid of extremes above them |
//! | [`dots`] | which dot of a chart a place of an axis falls into |
//! | [`m4`] | of each dot's rows those that make the same picture as all of them |
//! | [`smooth`] | moving means with their own pyramids |
//! | [`table`] | rows of one kind of event: a clock and its columns |

pub mod clock;
pub mod column;
pub mod dots;
pub mod m4;
pub mod smooth;
pub mod table;

pub use clock::{Axis, Clock, Moment};
pub use column::Column;
pub use dots::Dots;
pub use table::Table;

/// Adds to a vector that grows by a sixteenth where it is full: columns of long runs hold little that is unused, and
/// growing still costs the same for each value.
fn push<T>(values: &mut Vec<T>, value: T) {
    if values.len() == values.capacity() {
        values.reserve_exact((values.len() / 16).max(16));
    }
    values.push(value);
}
