//! The singular value decomposition of a product of two thin factors, `B·A`, without the product.
//!
//! Orthonormal bases `Q` of `B`'s columns and `K` of `A`'s rows leave a core `Qᵀ·B·A·Kᵀ` of the factors' rank, whose
//! decomposition is that of the product.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::matmul::matmul;
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Accum, Mat, MatRef, Par};

use super::orthonormal::{RandomVectors, fix_signs, orthonormalise};

/// `B·A = U·diag(σ)·V` with `r` terms.
#[derive(Debug, Clone)]
pub struct ProductSvd {
    /// Left singular vectors, one a row, `[r, m]`.
    pub left: Vec<f64>,
    /// Singular values, largest first.
    pub values: Vec<f64>,
    /// Right singular vectors, one a row, `[r, n]`; the entry of largest magnitude of each is positive.
    pub right: Vec<f64>,
}

/// Decomposes `B [m, r] · A [r, n]`, row-major with finite entries, `r` at most `min(m, n)`. `random` completes the
/// bases of factors that have not their full rank. `None` where the iteration does not converge, which finite
/// entries do not cause.
pub fn product_svd(
    b: &[f32],
    a: &[f32],
    rank: usize,
    random: &mut RandomVectors<'_>,
) -> Option<ProductSvd> {
    let (m, n) = (b.len() / rank, a.len() / rank);
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let (b, a) = (wide(b), wide(a));
    let mut q: Vec<f64> = (0..rank).flat_map(|j| b[j..].iter().step_by(rank).copied()).collect();
    let mut k = a.clone();
    orthonormalise(&mut q, m, random);
    orthonormalise(&mut k, n, random);
    let rows = |x, count, len| MatRef::from_row_major_slice(x, count, len);
    let (q, k) = (rows(&q[..], rank, m), rows(&k[..], rank, n));
    let on_left = product(q, rows(&b[..], m, rank));
    let on_right = product(rows(&a[..], rank, n), k.transpose());
    let core = product(on_left.as_ref(), on_right.as_ref());

    let (mut u, mut v) = (Mat::<f64>::zeros(rank, rank), Mat::<f64>::zeros(rank, rank));
    let mut values = Diag::<f64>::zeros(rank);
    let (all, par, params) = (ComputeSvdVectors::Full, Par::Seq, faer::Spec::default());
    let mut memory = MemBuffer::new(svd_scratch::<f64>(rank, rank, all, all, par, params));
    let stack = MemStack::new(&mut memory);
    let (left, right) = (Some(u.as_mut()), Some(v.as_mut()));
    svd(core.as_ref(), values.as_mut(), left, right, par, stack, params).ok()?;
    // Terms as rows, so that the sign rule can look at the right vectors and turn the left ones with them.
    let (left, right) = (product(u.transpose(), q), product(v.transpose(), k));
    let (mut left, mut right) = (row_major(&left), row_major(&right));
    let before: Vec<f64> = right.clone();
    fix_signs(&mut right, n);
    for (j, (old, new)) in before.chunks_exact(n).zip(right.chunks_exact(n)).enumerate() {
        if old != new {
            left[j * m..(j + 1) * m].iter_mut().for_each(|value| *value = -*value);
        }
    }
    Some(ProductSvd { left, values: values.column_vector().iter().copied().collect(), right })
}

fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

fn row_major(x: &Mat<f64>) -> Vec<f64> {
    (0..x.nrows()).flat_map(|i| x.row(i).iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random() -> impl FnMut(usize) -> Vec<f64> {
        let mut state = 3u64;
        move |len| {
            (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 11) as f64 / 9_007_199_254_740_992.0 - 0.5
                })
                .collect()
        }
    }

    fn dense(b: &[f64], a: &[f64], rank: usize) -> Vec<f64> {
        let (m, n) = (b.len() / rank, a.len() / rank);
        let entry = |i: usize, j: usize| (0..rank).map(|k| b[i * rank + k] * a[k * n + j]).sum();
        (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect()
    }

    #[test]
    fn the_terms_add_up_to_the_product_and_the_values_are_those_of_the_dense_matrix() {
        for (m, n, rank) in [(1, 1, 1), (9, 5, 3), (6, 14, 6), (20, 20, 7)] {
            let mut draw = random();
            let narrow = |x: Vec<f64>| x.into_iter().map(|v| v as f32).collect::<Vec<_>>();
            let (b, mut a) = (narrow(draw(m * rank)), narrow(draw(rank * n)));
            if rank > 4 {
                // A factor that lacks a rank.
                a.copy_within(0..n, 2 * n);
            }
            let found = product_svd(&b, &a, rank, &mut random()).unwrap();
            let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let right = dense(&wide(&b), &wide(&a), rank);
            let scaled: Vec<f64> = (0..m * rank)
                .map(|i| found.left[i % rank * m + i / rank] * found.values[i % rank])
                .collect();
            let sum = dense(&scaled, &found.right, rank);
            let error = sum.iter().zip(&right).fold(0f64, |e, (x, y)| e.max((x - y).abs()));
            assert!(error < 1e-12, "{m} x {n} of rank {rank}: {error:e}");
            let matrix = Mat::from_fn(m, n, |i, j| right[i * n + j]);
            for (value, other) in found.values.iter().zip(matrix.singular_values().unwrap()) {
                assert!((value - other).abs() < 1e-12, "{:?}", found.values);
            }
        }
    }
}
