//! fullrank
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod formats;
pub mod kernels;
pub mod random;
