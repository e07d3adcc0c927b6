//! fullrank
pub mod device;
pub mod error;
pub mod formats;
pub mod kernels;
