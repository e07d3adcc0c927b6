//! SwitchLoRA's exchange of vectors between factors and pools.
use super::{Matrix, Vector};

/// One exchange on one side of a layer: vector `vectors[j]` leaves to pool row `from[j]`, pool row `to[j]` comes in.
pub struct Exchange<'a> {
    /// Which rows of A (or columns of B).
    pub vectors: &'a [usize],
    /// The pool rows that the leaving vectors go back to.
    pub from: &'a [usize],
    /// The pool rows that come in.
    pub to: &'a [usize],
    /// The adapter's scale `s`.
    pub scale: f32,
}

/// Exchanges rows of `a [R, N]` with `pool [C, N]` and corrects `w [M, N] += s·B[:,I]·(A_old − A_new)`, so that
/// `W + s·B·A` is unchanged. All leaving rows are saved before any row is read. In place on `w`, `a`, `pool`.
/// The last result is the squared Frobenius norm of the correction, `[1]`.
pub fn switch_rows(
    w: Matrix,
    a: Matrix,
    b: &Matrix,
    pool: Matrix,
    exchange: &Exchange<'_>,
) -> (Matrix, Matrix, Matrix, Vector) {
    unimplemented!()
}

/// Exchanges columns of `b [M, R]` with rows of `pool [C, M]`, `w += s·(B_old − B_new)·A[I,:]`.
pub fn switch_columns(
    w: Matrix,
    a: &Matrix,
    b: Matrix,
    pool: Matrix,
    exchange: &Exchange<'_>,
) -> (Matrix, Matrix, Matrix, Vector) {
    unimplemented!()
}

/// Zeroes the given rows in place.
pub fn zero_rows(x: Matrix, rows: &[usize]) -> Matrix {
    unimplemented!()
}

/// Zeroes the given columns in place.
pub fn zero_columns(x: Matrix, columns: &[usize]) -> Matrix {
    unimplemented!()
}
