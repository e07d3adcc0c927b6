//! Singular value decompositions: exact, and randomised for the leading triplets of a large matrix.

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::{
    qr_in_place, qr_in_place_scratch, recommended_block_size,
};
use faer::linalg::svd::{ComputeSvdVectors, svd_scratch};
use faer::{Accum, Conj, Mat, MatRef, Par, Spec};

/// Singular triplets in descending order: `A ≈ Σ s[i] · u[i] · v[i]ᵀ`.
#[derive(Debug, Clone, PartialEq)]
pub struct Svd {
    /// Left singular vectors, `[k][m]`, each of length 1.
    pub u: Vec<Vec<f64>>,
    /// Singular values, `[k]`.
    pub s: Vec<f64>,
    /// Right singular vectors, `[k][n]`, each of length 1.
    pub v: Vec<Vec<f64>>,
}

/// All `min(m, n)` triplets of `a [m, n]`; `None` if the iteration does not converge, which happens
/// only where `a` holds numbers that are not finite.
pub fn svd(a: &[f64], m: usize, n: usize) -> Option<Svd> {
    decompose(MatRef::from_row_major_slice(a, m, n))
}

/// The leading `k` triplets of `a [m, n]` from the range of `A·(AᵀA)^p·Ω`, with `Ω = start [n, q]` (random
/// numbers) and `p` = `iterations`, orthonormalised after every product. `k ≤ q ≤ min(m, n)`.
/// Source: Halko, Martinsson, Tropp, arXiv:0909.4061, algorithms 4.4 and 5.1.
pub fn randomised_svd(
    a: &[f64],
    m: usize,
    n: usize,
    k: usize,
    start: &[f64],
    iterations: usize,
) -> Option<Svd> {
    let q = start.len() / n;
    assert!(k <= q && q <= m.min(n), "{k} triplets from {q} columns of a {m} x {n} matrix");
    let a = MatRef::from_row_major_slice(a, m, n);
    let mut range = orthonormal(product(a, MatRef::from_row_major_slice(start, n, q)));
    for _ in 0..iterations {
        let rows = orthonormal(product(a.transpose(), range.as_ref()));
        range = orthonormal(product(a, rows.as_ref()));
    }
    let small = decompose(product(range.transpose(), a).as_ref())?;
    let left = |u: &Vec<f64>| -> Vec<f64> {
        let column = MatRef::from_column_major_slice(u, q, 1);
        product(range.as_ref(), column).col(0).iter().copied().collect()
    };
    Some(Svd {
        u: small.u.iter().take(k).map(left).collect(),
        s: small.s.into_iter().take(k).collect(),
        v: small.v.into_iter().take(k).collect(),
    })
}

fn decompose(a: MatRef<'_, f64>) -> Option<Svd> {
    let (m, n) = a.shape();
    let k = m.min(n);
    let (mut u, mut s, mut v) = (Mat::zeros(m, k), Mat::zeros(k, 1), Mat::zeros(n, k));
    let (thin, params) = (ComputeSvdVectors::Thin, Spec::default());
    let mut buffer = MemBuffer::new(svd_scratch::<f64>(m, n, thin, thin, Par::Seq, params));
    faer::linalg::svd::svd(
        a.to_owned().as_ref(),
        s.as_mut().col_mut(0).as_diagonal_mut(),
        Some(u.as_mut()),
        Some(v.as_mut()),
        Par::Seq,
        MemStack::new(&mut buffer),
        params,
    )
    .ok()?;
    let columns = |x: &Mat<f64>| -> Vec<Vec<f64>> {
        (0..k).map(|i| x.col(i).iter().copied().collect()).collect()
    };
    let s: Vec<f64> = s.col(0).iter().copied().collect();
    s.iter().all(|value| value.is_finite()).then(|| Svd { u: columns(&u), s, v: columns(&v) })
}

fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

/// Orthonormal columns that span those of `y [m, q]`, `q ≤ m`; where `y` has a lower rank, more directions.
fn orthonormal(mut y: Mat<f64>) -> Mat<f64> {
    let (m, q) = y.shape();
    let block = recommended_block_size::<f64>(m, q);
    let mut coefficients = Mat::zeros(block, q);
    let scratch = StackReq::any_of(&[
        qr_in_place_scratch::<f64>(m, q, block, Par::Seq, Spec::default()),
        apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(m, block, q),
    ]);
    let mut buffer = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut buffer);
    qr_in_place(y.as_mut(), coefficients.as_mut(), Par::Seq, stack, Spec::default());
    let mut out = Mat::identity(m, q);
    apply_block_householder_sequence_on_the_left_in_place_with_conj(
        y.as_ref(),
        coefficients.as_ref(),
        Conj::No,
        out.as_mut(),
        Par::Seq,
        stack,
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Crude random numbers, good enough for a start; `purpose` seeds them.
    fn normal(len: usize, purpose: &str) -> Vec<f64> {
        let mut state = purpose.bytes().fold(1u64, |state, byte| state * 257 + u64::from(byte));
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / 9_007_199_254_740_992.0 - 0.5
        };
        (0..len).map(|_| (0..6).map(|_| next()).sum()).collect()
    }

    /// `[m, n]` with singular values `1, ½, ¼, …`.
    fn decaying(m: usize, n: usize) -> Vec<f64> {
        let basis = svd(&normal(m * n, "basis"), m, n).unwrap();
        let mut a = vec![0.0; m * n];
        for (i, (u, v)) in basis.u.iter().zip(&basis.v).enumerate() {
            let s = 0.5f64.powi(i as i32);
            for (row, u) in a.chunks_mut(n).zip(u) {
                row.iter_mut().zip(v).for_each(|(a, v)| *a += s * u * v);
            }
        }
        a
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn assert_orthonormal(vectors: &[Vec<f64>]) {
        for (i, a) in vectors.iter().enumerate() {
            for (j, b) in vectors.iter().enumerate() {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((dot(a, b) - expected).abs() < 1e-12, "{i}, {j}: {}", dot(a, b));
            }
        }
    }

    #[test]
    fn the_triplets_make_up_the_matrix() {
        for (m, n) in [(1, 1), (1, 7), (7, 1), (5, 5), (12, 7), (7, 12), (65, 33)] {
            let a = normal(m * n, "a");
            let Svd { u, s, v } = svd(&a, m, n).unwrap();
            assert_orthonormal(&u);
            assert_orthonormal(&v);
            assert!(s.windows(2).all(|pair| pair[0] >= pair[1]) && s.iter().all(|&s| s >= 0.0));
            for (i, &expected) in a.iter().enumerate() {
                let sum: f64 = (0..s.len()).map(|l| s[l] * u[l][i / n] * v[l][i % n]).sum();
                assert!((sum - expected).abs() < 1e-12, "{m} x {n}, entry {i}");
            }
        }
    }

    #[test]
    fn the_randomised_triplets_are_the_leading_exact_ones() {
        for (m, n) in [(40, 30), (30, 40), (64, 64)] {
            let a = decaying(m, n);
            let (k, q) = (4, 8);
            let exact = svd(&a, m, n).unwrap();
            let found = randomised_svd(&a, m, n, k, &normal(n * q, "start"), 4).unwrap();
            assert_eq!((found.u.len(), found.s.len(), found.v.len()), (k, k, k));
            assert_orthonormal(&found.u);
            assert_orthonormal(&found.v);
            for i in 0..k {
                assert!((found.s[i] / exact.s[i] - 1.0).abs() < 1e-10);
                assert!(
                    (dot(&found.u[i], &exact.u[i]).abs() - 1.0).abs() < 1e-10,
                    "{m} x {n}, {i}"
                );
                assert!(
                    (dot(&found.v[i], &exact.v[i]).abs() - 1.0).abs() < 1e-10,
                    "{m} x {n}, {i}"
                );
            }
        }
    }

    #[test]
    fn a_matrix_of_low_rank_has_orthonormal_vectors_all_the_same() {
        let (m, n) = (20, 16);
        let (x, y) = (normal(m, "x"), normal(n, "y"));
        let one: Vec<f64> = x.iter().flat_map(|x| y.iter().map(move |y| x * y)).collect();
        for a in [one, vec![0.0; m * n]] {
            let exact = svd(&a, m, n).unwrap();
            let found = randomised_svd(&a, m, n, 4, &normal(n * 8, "start"), 4).unwrap();
            for svd in [&exact, &found] {
                assert_orthonormal(&svd.u);
                assert_orthonormal(&svd.v);
                assert!(svd.s[1..].iter().all(|&s| s < 1e-12));
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_have_no_decomposition() {
        for bad in [f64::NAN, f64::INFINITY] {
            let mut a = normal(12, "a");
            a[5] = bad;
            assert!(svd(&a, 4, 3).is_none());
        }
    }
}
