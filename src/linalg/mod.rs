//! Decompositions on the host, in f64: plain slices in and out, one thread, no randomness of its own.
//!
//! A leaf: it knows neither tensors nor methods. Everything runs sequentially inside one matrix, so the
//! bits depend on the input alone; callers may work on several matrices at once.

pub mod eigen;
pub mod factored;
pub mod orthonormal;
pub mod spectrum;
pub mod subspace;
pub mod svd;
