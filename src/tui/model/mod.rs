//! What a run has told so far: the reducer of its events.

mod preview;
mod run;
mod switches;

pub use preview::{Preview, settings};
pub use run::{At, Marker, MarkerKind, Metric, RunModel};
pub use switches::{Exchange, Exchanges, Switches};
