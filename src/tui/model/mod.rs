//! What a run has told so far: the reducer of its events.

mod cost;
mod pace;
mod preview;
mod run;
mod switches;

pub use cost::{Cost, full_rank_bytes};
pub use pace::Pace;
pub use preview::Preview;
pub use run::{At, Marker, MarkerKind, Metric, RunModel, Undone};
pub use switches::{Exchange, Exchanges, Switches};
