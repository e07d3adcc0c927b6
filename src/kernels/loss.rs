//! The head and the cross-entropy in one, chunked over tokens: the full logits never exist.
use super::{Indices, Matrix, Vector};

/// A target that does not count.
pub const IGNORED: i32 = -100;

/// What to do about the head's gradient.
pub enum HeadGrad {
    /// The head is frozen.
    Skip,
    /// Add it to this `[V, C]` matrix in place.
    Into(Matrix),
}

/// Result of [`cross_entropy`].
pub struct LossGrads {
    /// Sum of the token losses over targets that count, `[1]` (not multiplied by `grad_scale`).
    pub loss_sum: Vector,
    /// Gradient of `grad_scale · loss_sum` with respect to the hidden states `[T, C]`.
    pub d_hidden: Matrix,
    /// The head's gradient matrix, if asked for.
    pub d_head: Option<Matrix>,
}

/// Cross-entropy of `hidden [T, C] · head [V, C]ᵀ` against `targets [T]` (ids, or [`IGNORED`]), with gradients.
/// Adds to `loss_acc [1]` in place (pass zeros to start).
pub fn cross_entropy(
    loss_acc: Vector,
    hidden: &Matrix,
    head: &Matrix,
    targets: &Indices,
    grad_scale: f32,
    head_grad: HeadGrad,
) -> LossGrads {
    unimplemented!()
}

/// The loss alone: per-token losses `[T]`, 0 where the target is ignored.
pub fn token_losses(hidden: &Matrix, head: &Matrix, targets: &Indices) -> Vector {
    unimplemented!()
}
