//! Optimizer updates in place: AdamW with a counter per tensor, row or column; norms and clipping.
use super::{Array, Indices, Matrix, Vector};

/// Where epsilon and the decay stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdamForm {
    /// PyTorch: decay first; epsilon added to the bias-corrected root.
    Torch,
    /// GaLore's and Fira's package: epsilon on the uncorrected root, decay after the update.
    Reference,
}

/// Hyper-parameters of one AdamW update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Where epsilon and the decay stand.
    pub form: AdamForm,
}

/// Which vectors of a matrix have counters of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Each row.
    Rows,
    /// Each column.
    Columns,
}

/// One AdamW update in place of `(param, exp_avg, exp_avg_sq)`, all `[m, n]`; `grad` is multiplied by `grad_scale [1]`
/// (the clip factor, which stays on the device). `step` is the counter after this update (1 at the first).
pub fn adamw(
    param: Matrix,
    grad: &Matrix,
    grad_scale: &Vector,
    exp_avg: Matrix,
    exp_avg_sq: Matrix,
    hyper: AdamW,
    step: u32,
) -> (Matrix, Matrix, Matrix) {
    unimplemented!()
}

/// Counters and freezes of vectors, as functions of the update index `t` (completed updates).
pub struct VectorCounters<'a> {
    /// Which vectors.
    pub axis: Axis,
    /// The update index at which the vector's counter was last zero: its step in update `t` is `t + 1 - since`.
    pub since: &'a Indices,
    /// The vector is frozen while `t < frozen_until`: its gradient counts as zero.
    pub frozen_until: &'a Indices,
    /// Whether weight decay still acts on frozen vectors.
    pub decay_frozen: bool,
}

/// AdamW with a counter per row or column. A frozen vector with `decay_frozen = false` keeps its bits, and its moments
/// decay as with a zero gradient.
pub fn adamw_vectors(
    param: Matrix,
    grad: &Matrix,
    grad_scale: &Vector,
    exp_avg: Matrix,
    exp_avg_sq: Matrix,
    hyper: AdamW,
    t: u32,
    counters: &VectorCounters<'_>,
) -> (Matrix, Matrix, Matrix) {
    unimplemented!()
}

/// `acc [1] += Σ x²`, in place, summed in f64 over fixed chunks.
pub fn add_sum_squares<const D: usize>(acc: Vector, x: &Array<D>) -> Vector {
    unimplemented!()
}

/// `min(1, max_norm / (sqrt(sum_squares) + 1e-6))` as `[1]`; 1 where `max_norm` is 0 (no clipping) or the norm does
/// not exceed it.
pub fn clip_factor(sum_squares: &Vector, max_norm: f64) -> Vector {
    unimplemented!()
}
