//! Eigenvalues and eigenvectors of a symmetric matrix.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, MatRef, Par};

/// Eigenvalues, largest first, and their orthonormal eigenvectors, one a row of `n` entries.
#[derive(Debug, Clone)]
pub struct Eigen {
    /// Eigenvalues, largest first.
    pub values: Vec<f64>,
    /// `[n, n]`, row `i` belongs to value `i`.
    pub vectors: Vec<f64>,
}

/// Decomposes a symmetric matrix of size `n`; only the lower triangle is read. `None` where the iteration does
/// not converge, which finite entries do not cause.
pub(super) fn symmetric(matrix: MatRef<'_, f64>) -> Option<Eigen> {
    let n = matrix.nrows();
    let (mut values, mut vectors) = (Diag::<f64>::zeros(n), Mat::<f64>::zeros(n, n));
    let par = Par::Seq;
    let params = faer::Spec::default();
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, params);
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(matrix, values.as_mut(), Some(vectors.as_mut()), par, stack, params).ok()?;
    // faer's order is ascending.
    let order = || (0..n).rev();
    Some(Eigen {
        values: order().map(|i| values.column_vector()[i]).collect(),
        vectors: order().flat_map(|i| vectors.col(i).iter().copied().collect::<Vec<_>>()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvalues_come_largest_first_with_their_vectors() {
        let matrix = [2.0, 1.0, 1.0, 2.0];
        let eigen = symmetric(MatRef::from_row_major_slice(&matrix, 2, 2)).unwrap();
        assert!((eigen.values[0] - 3.0).abs() < 1e-14 && (eigen.values[1] - 1.0).abs() < 1e-14);
        let ratio = eigen.vectors[0] / eigen.vectors[1];
        assert!((ratio - 1.0).abs() < 1e-14, "the vector of 3 is (1, 1): {:?}", eigen.vectors);
    }
}
