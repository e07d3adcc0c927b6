//! The leading singular triplets of a layer's matrix, exact where that is cheap and randomised above: for methods whose
//! factors start from them.

use crate::linalg::orthonormal::fix_signs;
use crate::linalg::svd::{Svd, randomised_svd, svd};
use crate::random::stream;

/// Up to this smaller side the decomposition is exact: it takes less than a second a layer.
const EXACT_UP_TO: usize = 512;
/// Columns of the randomised range finder for each triplet, and its power iterations: the values of
/// `svd_lowrank(q = 4r, niter = 4)` for `2r` triplets in LoRA-GA's code.
const COLUMNS_PER_TRIPLET: usize = 2;
const POWER_ITERATIONS: usize = 4;

/// How triplets are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decomposition {
    /// Exact up to a smaller side of 512, randomised above.
    Auto,
    /// All triplets, of which the leading are kept.
    Exact,
    /// A randomised range finder.
    Randomised,
}

impl Decomposition {
    /// The way of a configuration name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "exact" => Some(Self::Exact),
            "randomised" => Some(Self::Randomised),
            _ => None,
        }
    }
}

/// The leading `count` triplets of a layer's matrix `[m, n]`; `None` if it holds numbers that are not finite.
/// `count ≤ min(m, n)`.
pub fn leading(
    matrix: &[f64],
    [m, n]: [usize; 2],
    count: usize,
    way: Decomposition,
    seed: u64,
    layer: &str,
) -> Option<Svd> {
    let smaller = m.min(n);
    let columns = (COLUMNS_PER_TRIPLET * count).min(smaller);
    let is_exact = match way {
        Decomposition::Auto => smaller <= EXACT_UP_TO || columns == smaller,
        Decomposition::Exact => true,
        Decomposition::Randomised => false,
    };
    if is_exact {
        let Svd { mut u, mut s, mut v } = svd(matrix, m, n)?;
        u.truncate(count);
        s.truncate(count);
        v.truncate(count);
        return Some(Svd { u, s, v });
    }
    let mut random = stream(seed, layer, "singular vectors", 0);
    let start: Vec<f64> = (0..n * columns).map(|_| random.normal()).collect();
    randomised_svd(matrix, m, n, count, &start, POWER_ITERATIONS)
}

/// Gives each pair of vectors the sign by which the right one's largest entry is positive; their product stays.
pub fn fix_pair_signs(svd: &mut Svd) {
    for (u, v) in svd.u.iter_mut().zip(&mut svd.v) {
        let before = v.clone();
        let len = v.len();
        fix_signs(v, len);
        if *v != before {
            for value in u {
                *value = -*value;
            }
        }
    }
}

/// Gives every vector a sign of its own, by which its largest entry is positive: for factors that pair no left
/// vector with its right one.
pub fn fix_own_signs(svd: &mut Svd) {
    for vector in svd.u.iter_mut().chain(&mut svd.v) {
        let len = vector.len();
        fix_signs(vector, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_layer_gets_the_randomised_triplets_and_they_are_the_exact_ones() {
        let (m, n, count) = (EXACT_UP_TO + 8, EXACT_UP_TO + 20, 4);
        let mut random = stream(1, "large", "test", 0);
        let mut vector = |len: usize| -> Vec<f64> { (0..len).map(|_| random.normal()).collect() };
        let mut matrix = vec![0.0; m * n];
        for size in [8.0, 4.0, 2.0, 1.0, 0.1] {
            let (u, v) = (vector(m), vector(n));
            for (row, u) in matrix.chunks_mut(n).zip(&u) {
                row.iter_mut().zip(&v).for_each(|(x, v)| *x += size * u * v);
            }
        }
        let find = || leading(&matrix, [m, n], count, Decomposition::Auto, 3, "layer").unwrap();
        let found = find();
        assert_eq!(found, find());
        assert_eq!(found.s.len(), count);
        // A·v = s·u holds for singular vectors alone.
        for i in 0..count {
            for (row, u) in matrix.chunks(n).zip(&found.u[i]) {
                let product: f64 = row.iter().zip(&found.v[i]).map(|(a, v)| a * v).sum();
                assert!((product - found.s[i] * u).abs() < 1e-8 * found.s[0], "triplet {i}");
            }
        }
    }

    #[test]
    fn signs_of_pairs_keep_the_product_and_own_signs_make_every_vector_positive() {
        let given = || Svd {
            u: vec![vec![0.6, -0.8], vec![0.8, 0.6]],
            s: vec![2.0, 1.0],
            v: vec![vec![0.0, -1.0], vec![1.0, 0.0]],
        };
        let mut pairs = given();
        fix_pair_signs(&mut pairs);
        assert_eq!(pairs.u, [vec![-0.6, 0.8], vec![0.8, 0.6]]);
        assert_eq!(pairs.v, [vec![0.0, 1.0], vec![1.0, 0.0]]);
        let mut own = given();
        fix_own_signs(&mut own);
        assert_eq!(own.u, [vec![-0.6, 0.8], vec![0.8, 0.6]]);
        assert_eq!(own.v, [vec![0.0, 1.0], vec![1.0, 0.0]]);
    }
}
