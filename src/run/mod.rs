//! A training run without any screen: the engine of one update, the loop around it, evaluation,
//! checkpoints and resuming. Tells the world through `runlog`.

pub mod adapter;
pub mod alerts;
pub mod checkpoint;
pub mod commands;
pub mod engine;
pub mod estimate;
pub mod eval;
pub mod export;
pub mod generate;
pub mod hook;
pub mod machine;
pub mod open;
pub mod plan;
pub mod rank;
pub mod session;
pub mod setup;
pub mod trainer;
