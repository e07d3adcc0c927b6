//! Rotary position embedding, rotating halves (`i` with `i + D/2`) as Hugging Face does.
use super::{Indices, Matrix};

/// Which way to rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The forward pass.
    Forward,
    /// The transpose: what the gradient needs.
    Backward,
}

/// Rotates every head of `x [T, heads·D]` in place by the row's position.
/// `cos`, `sin` `[max_positions, D/2]`; `positions [T]`.
pub fn rope(
    x: Matrix,
    positions: &Indices,
    cos: &Matrix,
    sin: &Matrix,
    rotation: Rotation,
) -> Matrix {
    unimplemented!()
}
