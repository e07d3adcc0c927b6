//! The operations of training: for each one a public function on [`Matrix`], [`Vector`] and
//! [`Indices`], a form per backend behind [`TrainOps`], and a plain [`mod@reference`] for the tests.
//!
//! Only this room and `device` know burn. Operations in place take their target by value and give it
//! back; they assert that nobody else holds it. Sums run in a fixed order: the bits of a result do not
//! depend on the number of threads.

// What is not inlined into `math::vectorised` keeps the narrow instructions of the oldest x86-64.
#![allow(clippy::inline_always)]

pub mod array;
pub mod attention;
pub mod bias;
pub mod ceiling;
mod clip;
mod cpu;
pub mod embedding;
mod fallback;
mod flex;
mod gemm;
mod gpu;
#[doc(hidden)]
pub mod launch;
pub mod lora;
pub mod loss;
pub mod magnitude;
mod math;
pub mod matmul;
pub mod norm;
pub mod ops;
pub mod packed;
pub mod parts;
#[doc(hidden)]
pub mod pool;
#[doc(hidden)]
pub mod reference;
pub mod rope;
pub mod scaling;
pub mod sparse;
pub mod spikes;
pub mod swiglu;
pub mod switch;
pub mod update;
mod upload;

pub use array::{Array, Indices, Matrix, Vector};
pub use ops::TrainOps;
