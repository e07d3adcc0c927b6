//! The operations of training: for each one a public function on [`Matrix`], [`Vector`] and
//! [`Indices`], a form per backend behind [`TrainOps`], and a plain reference for the tests.
//!
//! Only this room and `device` know burn. Operations in place take their target by value and give it
//! back; they assert that nobody else holds it. Sums run in a fixed order: the bits of a result do not
//! depend on the number of threads.

pub mod array;
pub mod attention;
pub mod embedding;
pub mod lora;
pub mod loss;
pub mod lowrank;
pub mod matmul;
pub mod norm;
pub mod rope;
pub mod swiglu;
pub mod update;

pub use array::{Array, Indices, Matrix, Vector};
