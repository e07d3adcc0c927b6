//! The real program as a user runs it: its commands, its screen, runs that end well, badly and not at all.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../devices/mod.rs"]
mod devices;

mod acting;
mod adapters;
mod bad_input;
mod chat_data;
mod chat_pty;
mod cli;
mod commands;
mod compare;
mod damaged_runs;
mod determinism;
mod endings;
mod estimate;
mod faults;
mod gpu_runs;
mod packed_runs;
mod ranks;
mod readme;
mod report;
mod resume;
mod tools;
mod tui_pty;
