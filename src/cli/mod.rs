//! The commands: each takes its checked arguments and writes results to a given output.

pub mod ctl;
pub mod line;
pub mod ls;
mod pace;
pub mod rm;
pub mod show;
pub mod text;
mod words;

#[cfg(test)]
mod test_runs;
