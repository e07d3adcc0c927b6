//! The leading singular directions of a matrix on its smaller (or any chosen) side.
//!
//! Exact: the Gram matrix and its eigenvectors. Only the span matters, so squaring the spectrum is
//! harmless in f64. Randomised, for large sides: a range finder with some extra columns and two power
//! iterations (Halko, Martinsson and Tropp, arXiv:0909.4061). Both end with one re-orthonormalisation
//! and the sign rule.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::eigen;
use super::orthonormal::{RandomVectors, fix_signs, orthonormalise};

/// Whose singular vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Left: vectors of as many entries as the matrix has rows.
    Left,
    /// Right: vectors of as many entries as it has columns.
    Right,
}

/// How the directions are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decomposition {
    /// Eigenvectors of the Gram matrix: `O(C²·(m + n))`.
    Exact,
    /// Randomised range finder: `O(C·r·(m + n))`.
    Randomised,
}

/// Columns of the range finder beyond the rank.
const EXTRA_COLUMNS: usize = 8;
/// Power iterations of the range finder.
const POWER_ITERATIONS: usize = 2;
/// Share of the largest eigenvalue, per row of the Gram matrix, below which a direction is rounding noise.
const NOISE: f64 = 1e-15;

/// Leading singular directions.
#[derive(Debug, Clone)]
pub struct Subspace {
    /// Orthonormal rows, as many as the rank, the strongest direction first.
    pub vectors: Vec<f32>,
    /// The share of the matrix's squared norm that lies in them; 0 for a matrix of zeros.
    pub energy: f64,
    /// The eigenvalues of the Gram matrix, largest first, where all were found: of the exact decomposition.
    pub squares: Option<Vec<f64>>,
}

/// The `rank` leading directions of a row-major `[rows, cols]` matrix with finite entries. Directions that the
/// matrix does not have (its rank is lower, or it is zero) are random orthonormal ones.
pub fn leading(
    values: &[f32],
    shape: [usize; 2],
    side: Side,
    rank: usize,
    decomposition: Decomposition,
    random: &mut RandomVectors<'_>,
) -> Subspace {
    find(values, shape, side, (rank, None), decomposition, random)
}

/// As few of the leading directions as leave at most the share `residual` of the matrix's squared norm outside
/// their span: `|G − PᵀP·G|² <= residual·|G|²`; `most` where even that many leave more, 1 for a matrix of zeros.
/// Source: AdaRankGrad (arXiv:2410.17881).
pub fn sufficient(
    values: &[f32],
    shape: [usize; 2],
    side: Side,
    (most, residual): (usize, f64),
    decomposition: Decomposition,
    random: &mut RandomVectors<'_>,
) -> Subspace {
    find(values, shape, side, (most, Some(residual)), decomposition, random)
}

fn find(
    values: &[f32],
    [rows, cols]: [usize; 2],
    side: Side,
    (rank, residual): (usize, Option<f64>),
    decomposition: Decomposition,
    random: &mut RandomVectors<'_>,
) -> Subspace {
    assert_eq!(values.len(), rows * cols, "values fill the matrix");
    let wide: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
    let x = MatRef::from_row_major_slice(&wide, rows, cols);
    let x = if side == Side::Left { x } else { x.transpose() };
    let len = x.nrows();
    assert!(rank <= len, "rank {rank} of vectors of {len} entries");
    let (mut vectors, mut energies, squares) = match decomposition {
        Decomposition::Exact => {
            let (vectors, energies, all) = strongest(product(x, x.transpose()).as_ref(), rank);
            (vectors, energies, Some(all))
        }
        Decomposition::Randomised => {
            let (vectors, energies) = randomised(x, rank, random);
            (vectors, energies, None)
        }
    };
    let total: f64 = wide.iter().map(|value| value * value).sum();
    let count = match residual {
        Some(share) => smallest_count(&energies, total, share),
        None => rank,
    };
    energies.truncate(count);
    // Directions that are missing are zero here and become random ones.
    vectors.resize(count * len, 0.0);
    orthonormalise(&mut vectors, len, random);
    fix_signs(&mut vectors, len);
    let captured: f64 = energies.iter().sum();
    Subspace {
        vectors: vectors.iter().map(|&value| value as f32).collect(),
        energy: if total > 0.0 { (captured / total).min(1.0) } else { 0.0 },
        squares,
    }
}

/// The fewest directions, at least one, that leave at most `share` of `total` outside; all if none do.
fn smallest_count(energies: &[f64], total: f64, share: f64) -> usize {
    let mut outside = total;
    let enough = energies.iter().position(|energy| {
        outside -= energy;
        outside <= share * total
    });
    enough.map_or(energies.len(), |last| last + 1).max(1)
}

/// Up to `rank` directions as rows, and the squared norm that lies in each.
fn randomised(
    x: MatRef<'_, f64>,
    rank: usize,
    random: &mut RandomVectors<'_>,
) -> (Vec<f64>, Vec<f64>) {
    let (len, width) = (x.nrows(), (rank + EXTRA_COLUMNS).min(x.nrows()).min(x.ncols()));
    // Rows of vectors are the transposes of the columns in the books.
    let start: Vec<f64> = (0..width).flat_map(|_| random(x.ncols())).collect();
    let mut range = rows_times(&start, x.transpose());
    for _ in 0..POWER_ITERATIONS {
        orthonormalise(&mut range, len, random);
        let mut back = rows_times(&range, x);
        orthonormalise(&mut back, x.ncols(), random);
        range = rows_times(&back, x.transpose());
    }
    orthonormalise(&mut range, len, random);
    let range = MatRef::from_row_major_slice(&range, width, len);
    let small = product(range, x);
    let (inner, energies, _) = strongest(product(small.as_ref(), small.transpose()).as_ref(), rank);
    (rows_times(&inner, range), energies)
}

/// Eigenvectors of the largest eigenvalues of a Gram matrix, as rows, without those that are noise, their
/// eigenvalues, and all eigenvalues.
fn strongest(gram: MatRef<'_, f64>, rank: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let n = gram.nrows();
    let Some(eigen) = eigen::symmetric(gram) else { return Default::default() };
    let largest = eigen.values.first().copied().unwrap_or(0.0);
    let noise = largest * NOISE * n as f64;
    let kept = eigen.values.iter().take(rank).take_while(|&&value| value > noise).count();
    (eigen.vectors[..kept * n].to_vec(), eigen.values[..kept].to_vec(), eigen.values)
}

fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

/// `rows [k, b.nrows()] · b`, row-major.
fn rows_times(rows: &[f64], b: MatRef<'_, f64>) -> Vec<f64> {
    let count = rows.len().checked_div(b.nrows()).unwrap_or(0);
    let out = product(MatRef::from_row_major_slice(rows, count, b.nrows()), b);
    (0..count).flat_map(|i| out.row(i).iter().copied().collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::orthonormal::overlap;
    use super::*;

    /// A crude source of numbers, good enough for a start.
    fn random() -> impl FnMut(usize) -> Vec<f64> {
        let mut state = 1u64;
        move |len| {
            (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 11) as f64 / 9_007_199_254_740_992.0 - 0.5
                })
                .collect()
        }
    }

    /// A matrix whose singular values fall by half from one to the next.
    fn falling(rows: usize, cols: usize) -> Vec<f32> {
        let count = rows.min(cols);
        let mut draw = random();
        let mut u: Vec<f64> = (0..count).flat_map(|_| draw(rows)).collect();
        let mut v: Vec<f64> = (0..count).flat_map(|_| draw(cols)).collect();
        orthonormalise(&mut u, rows, &mut draw);
        orthonormalise(&mut v, cols, &mut draw);
        let entry = |i: usize, j: usize| {
            let terms =
                (0..count).map(|k| u[k * rows + i] * v[k * cols + j] * 0.5f64.powi(k as i32));
            terms.sum::<f64>() as f32
        };
        (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect()
    }

    fn assert_orthonormal(vectors: &[f32], len: usize) {
        for (i, a) in vectors.chunks(len).enumerate() {
            for (j, b) in vectors.chunks(len).enumerate() {
                let dot: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let wanted = f64::from(u8::from(i == j));
                assert!((dot - wanted).abs() < 1e-5, "vectors {i} and {j}: {dot}");
            }
        }
    }

    #[test]
    fn the_exact_decomposition_gives_all_squares() {
        let mut draw = random();
        let found = leading(&falling(6, 9), [6, 9], Side::Left, 2, Decomposition::Exact, &mut draw);
        let squares = found.squares.unwrap();
        for (k, square) in squares.iter().enumerate() {
            let wanted = 0.25f64.powi(k as i32);
            assert!((square - wanted).abs() < 1e-6, "{k}: {square} {wanted}");
        }
        assert_eq!(squares.len(), 6);
    }

    #[test]
    fn both_ways_find_the_same_span_with_the_same_signs() {
        for (rows, cols, side) in
            [(12, 30, Side::Left), (30, 12, Side::Right), (40, 40, Side::Right), (9, 5, Side::Left)]
        {
            let matrix = falling(rows, cols);
            let find = |way| leading(&matrix, [rows, cols], side, 4, way, &mut random());
            let (exact, drawn) = (find(Decomposition::Exact), find(Decomposition::Randomised));
            let len = if side == Side::Left { rows } else { cols };
            assert_orthonormal(&exact.vectors, len);
            assert_orthonormal(&drawn.vectors, len);
            assert!(overlap(&exact.vectors, &drawn.vectors, len) > 0.999);
            assert!((exact.energy - drawn.energy).abs() < 1e-4);
            let aligned =
                exact.vectors.iter().zip(&drawn.vectors).all(|(a, b)| (a - b).abs() < 1e-2);
            assert!(aligned, "the sign rule leaves one answer");
            // Singular values 1, 1/2, 1/4, 1/8 of a falling spectrum.
            let expected = (1.0 - 0.25f64.powi(4)) / (1.0 - 0.25f64.powi(rows.min(cols) as i32));
            assert!((exact.energy - expected).abs() < 1e-4, "{} {expected}", exact.energy);
        }
    }

    #[test]
    fn as_few_directions_as_keep_the_share_of_the_energy() {
        let (rows, cols) = (12, 30);
        let matrix = falling(rows, cols);
        for way in [Decomposition::Exact, Decomposition::Randomised] {
            let find = |most, share| {
                let wanted = (most, share);
                let found =
                    sufficient(&matrix, [rows, cols], Side::Left, wanted, way, &mut random());
                assert_orthonormal(&found.vectors, rows);
                (found.vectors.len() / rows, found.energy)
            };
            // After k directions a share of 4^-k is outside, nearly.
            for (share, count) in [(0.9, 1), (0.26, 1), (0.24, 2), (0.02, 3), (0.003, 5)] {
                let (found, energy) = find(8, share);
                assert_eq!(found, count, "{way:?} at {share}");
                assert!(1.0 - energy <= share);
            }
            assert_eq!(find(3, 1e-6).0, 3, "the most that is allowed");
        }
        let zeros = vec![0.0; 60];
        let way = Decomposition::Exact;
        let found = sufficient(&zeros, [6, 10], Side::Left, (4, 0.1), way, &mut random());
        assert_eq!((found.vectors.len(), found.energy), (6, 0.0), "one direction of nothing");
    }

    #[test]
    fn directions_that_the_matrix_does_not_have_are_random_and_orthonormal() {
        let zeros = vec![0.0; 60];
        let mut single = zeros.clone();
        single[0] = 1e-20;
        for matrix in [zeros, single] {
            for way in [Decomposition::Exact, Decomposition::Randomised] {
                let found = leading(&matrix, [6, 10], Side::Left, 4, way, &mut random());
                assert_orthonormal(&found.vectors, 6);
            }
        }
    }
}
