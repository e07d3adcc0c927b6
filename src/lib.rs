//! fullrank trains LLaMA-family language models with low-rank methods that reach full-rank quality.
//!
//! The rooms, from the command down to the arithmetic; imports point down this list, never up:
//!
//! | room | what it is for |
//! |---|---|
//! | [`cli`] | the commands: parse, check, print |
//! | [`compare`] | several runs by turns in one process |
//! | [`tui`] | the full screen: look at runs, act on them, compare and replay them |
//! | [`report`] | series, tables and plots of runs, from their logs alone |
//! | [`mod@bench`], [`doctor`] | speed and memory beside stock burn; the self-test of a device |
//! | [`run`] | a training run without any screen: engine, loop, checkpoints, evaluation, export |
//! | [`methods`] | full rank, LoRA and its relatives, SwitchLoRA, ReLoRA, GaLore and Fira behind one trait |
//! | [`optim`] | AdamW's state, learning-rate schedules |
//! | [`model`] | the network, forward and backward written out |
//! | [`kernels`] | the operations of training on a backend; the only room with [`device`] that knows burn (and [`mod@bench`], for comparison) |
//! | [`device`] | the device as a resource, the memory ledger |
//!
//! Leaves that everything may use and that use none of these: [`runlog`] (what a run tells the world),
//! [`series`] (numbers over a run, ready to be drawn), [`formats`] (files of other tools), [`data`] (text to batches),
//! [`linalg`] (decompositions on the host), [`config`], [`random`], [`error`].
//!
//! `docs/architecture.md` follows an update from the command to the kernel.

pub mod bench;
pub mod cli;
pub mod compare;
pub mod config;
pub mod data;
pub mod device;
pub mod doctor;
pub mod error;
pub mod formats;
pub mod kernels;
pub mod linalg;
pub mod methods;
pub mod model;
pub mod optim;
pub mod random;
pub mod report;
pub mod run;
pub mod runlog;
pub mod series;
pub mod tui;
