//! The LoRA linear layer; `B·A` is never built.
use super::Matrix;

/// `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ`. Returns `(y [T, M], h = x·Aᵀ [T, R])`; `h` is kept for the backward pass.
/// Shapes: `x [T, N]`, `w [M, N]` (None: the layer has no dense part), `a [R, N]`, `b [M, R]`.
pub fn lora_linear(
    x: &Matrix,
    w: Option<&Matrix>,
    a: &Matrix,
    b: &Matrix,
    scale: f32,
) -> (Matrix, Matrix) {
    unimplemented!()
}

/// Input gradient. Returns `(dx [T, N], g = s·dy·B [T, R])`, `dx = dy·W + g·A`, added to `acc` in place if given.
pub fn lora_input_grad(
    acc: Option<Matrix>,
    dy: &Matrix,
    w: Option<&Matrix>,
    a: &Matrix,
    b: &Matrix,
    scale: f32,
) -> (Matrix, Matrix) {
    unimplemented!()
}

/// Factor gradients `dA = gᵀ·x [R, N]` and `dB = s·dyᵀ·h [M, R]`, added to `acc` in place if given.
pub fn lora_factor_grads(
    acc: Option<(Matrix, Matrix)>,
    x: &Matrix,
    dy: &Matrix,
    h: &Matrix,
    g: &Matrix,
    scale: f32,
) -> (Matrix, Matrix) {
    unimplemented!()
}
