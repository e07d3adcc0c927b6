//! What a run has told so far: the reducer of its events.

mod band;
mod cost;
mod pace;
mod run;
mod switches;

pub use band::{Band, band};
pub use cost::Cost;
pub use pace::Pace;
pub use run::{At, Marker, MarkerKind, Metric, RunModel, Undone};
pub use switches::{Exchange, Exchanges, Switches};
