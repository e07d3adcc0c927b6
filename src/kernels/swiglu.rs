//! SwiGLU: `h = silu(gate) ⊙ up`.
use super::Matrix;

/// `h = gate·σ(gate)·up`, element-wise.
pub fn swiglu(gate: &Matrix, up: &Matrix) -> Matrix {
    unimplemented!()
}

/// Returns `(d_gate, d_up, h)` in the storages of `gate`, `up` and `dh`: the gradients, and the forward result again
/// for the weight gradient of the down projection.
pub fn swiglu_backward(dh: Matrix, gate: Matrix, up: Matrix) -> (Matrix, Matrix, Matrix) {
    unimplemented!()
}
