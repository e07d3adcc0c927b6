//! Matrix products.
use super::Matrix;

/// Which operand is stored transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `A [M, K] · B [K, N]`.
    Nn,
    /// `A [M, K] · (B [N, K])ᵀ`.
    Nt,
    /// `(A [K, M])ᵀ · B [K, N]`.
    Tn,
}

/// `A · B` in the given layout, `[M, N]`.
pub fn matmul(layout: Layout, a: &Matrix, b: &Matrix) -> Matrix {
    unimplemented!()
}

/// `C += scale · A · B`, in place.
pub fn matmul_add(c: Matrix, scale: f32, layout: Layout, a: &Matrix, b: &Matrix) -> Matrix {
    unimplemented!()
}
