//! fullrank
pub mod cli;
pub mod device;
pub mod error;
pub mod kernels;
pub mod runlog;
