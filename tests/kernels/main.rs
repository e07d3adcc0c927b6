//! Every operation against its plain reference at awkward sizes, in every form (CPU kernels, default bodies, GPU
//! kernels in both tilings), with the same bits for any number of threads, and with in-place targets checked.
//!
//! Tolerances are relative to the largest value of a result: f32 sums of a few hundred terms in another
//! order differ by some 1e-6, so 2e-5 leaves room without hiding a wrong term.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod attention;
mod bias;
#[path = "../devices/mod.rs"]
mod devices;
mod forms;
mod limits;
mod loss;
mod magnitude;
mod matmul;
mod norm;
mod packed;
mod parts;
mod pointwise;
mod replay;
mod scaling;
mod sparse;
mod spikes;
mod split;
mod storage;
mod switch;
mod update;
