//! RMSNorm, alone and fused with the residual addition.
use super::{Matrix, Vector};

/// `y = x · rstd · gain`, `rstd = 1/sqrt(mean(x²) + eps)` per row. `x [T, C]`, `gain [1, C]` → `(y [T, C], rstd [T])`.
pub fn rms_norm(x: &Matrix, gain: &Matrix, eps: f32) -> (Matrix, Vector) {
    unimplemented!()
}

/// `sum = x + delta` (in the storage of `delta`), then RMSNorm of it. Returns `(sum, y, rstd)`.
pub fn add_rms_norm(
    x: &Matrix,
    delta: Matrix,
    gain: &Matrix,
    eps: f32,
) -> (Matrix, Matrix, Vector) {
    unimplemented!()
}

/// `y = x · rstd · gain` from a stored `rstd` (recomputation in the backward pass); same bits as `rms_norm`.
pub fn rms_norm_apply(x: &Matrix, gain: &Matrix, rstd: &Vector) -> Matrix {
    unimplemented!()
}

/// Adds the norm's input gradient to `residual_grad` in place (the gradient that bypasses the norm) and
/// returns it; with `gain_grad = Some(acc)` also adds the gain's gradient `[1, C]` to `acc` in place.
pub fn rms_norm_backward(
    residual_grad: Matrix,
    dy: &Matrix,
    x: &Matrix,
    gain: &Matrix,
    rstd: &Vector,
    gain_grad: Option<Matrix>,
) -> (Matrix, Option<Matrix>) {
    unimplemented!()
}

/// `y += x`, in place.
pub fn add(y: Matrix, x: &Matrix) -> Matrix {
    unimplemented!()
}
