//! What a run tells the world, and what the world tells a run.
//!
//! A run is a folder ([`RunDir`]). The trainer appends [`Event`]s to its `events.jsonl` through a
//! [`RunWriter`]; every view (progress line, `ls`, `show`, the terminal screens, reports) reads them
//! back with [`Tail`] and needs nothing else. Commands go the other way through `control.jsonl`
//! ([`control`]). This room is a leaf: it knows no model, no device and no screen.

pub mod body;
pub mod compare;
pub mod control;
pub mod event;
pub mod find;
pub mod index;
mod lines;
pub mod number;
pub mod rank;
pub mod restart;
pub mod status;
mod step_line;
pub mod summary;
pub mod switch;
pub mod tail;
pub mod writer;

pub use body::{
    Alert, Body, Changed, Ckpt, Clamp, Cmd, End, EndStatus, Eval, Init, Level, Limiter, Log, Mem,
    Pause, Phase, Resume, Rollback, Run, Sample, Skip, Step, Subspace, Sys, Time,
};
pub use compare::{CompareDir, find_comparison};
pub use control::{Action, Command, ControlReader};
pub use event::{Event, EventSink};
pub use find::{Named, find, find_any};
pub use index::{RunDir, check_out, list};
pub use rank::{Coverage, Rank, SideCoverage};
pub use restart::{Merge, MergeLayer, Reset};
pub use status::{RunLock, Status};
pub use summary::Summary;
pub use switch::{Switch, SwitchLayer};
pub use tail::{RunLog, Tail, effective, read_log};
pub use writer::RunWriter;
