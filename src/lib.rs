//! fullrank
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod formats;
pub mod kernels;
pub mod methods;
pub mod model;
pub mod optim;
pub mod random;
pub mod runlog;
pub mod run;
