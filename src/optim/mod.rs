//! The optimizer's state and the learning-rate schedules.

pub mod adamw;
pub mod schedule;
pub mod spam;

pub use adamw::Optimizer;
pub use schedule::Schedule;
