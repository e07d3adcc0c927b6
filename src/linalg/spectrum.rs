//! Singular values of a matrix, and the ranks that are read off them.
//!
//! Three ways lead to the values: the matrix itself (`exact`), the two factors of a product (`factors`, as exact and far
//! cheaper where they are thin), and the eigenvalues of the Gram matrix (`gram`, for large matrices; in f64 it
//! resolves values down to about 10⁻⁷ of the largest, and what lies below is noise). All ranks of a matrix of
//! zeros are 0. Definitions: docs/methods.md, "Rank metrics".

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::{
    qr_in_place, qr_in_place_scratch, recommended_block_size,
};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Accum, Mat, MatRef, Par, Spec};

/// How the singular values were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// From the matrix itself.
    Exact,
    /// From the two factors of a product.
    Factors,
    /// From the Gram matrix.
    Gram,
}

impl Form {
    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Factors => "factors",
            Self::Gram => "gram",
        }
    }
}

/// A product `left · right` that is not multiplied out: row-major `[rows, inner]` and `[inner, cols]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// The left factor.
    pub left: Vec<f64>,
    /// The right factor.
    pub right: Vec<f64>,
    /// Rows of the product.
    pub rows: usize,
    /// Columns of the product.
    pub cols: usize,
}

impl Product {
    /// The inner size.
    pub fn inner(&self) -> usize {
        self.left.len().checked_div(self.rows).unwrap_or(0)
    }

    /// `target += left · right`, row-major `[rows, cols]`.
    pub fn add_to(&self, target: &mut [f64]) {
        let inner = self.inner();
        let (left, right) = (
            MatRef::from_row_major_slice(&self.left, self.rows, inner),
            MatRef::from_row_major_slice(&self.right, inner, self.cols),
        );
        let target = faer::MatMut::from_row_major_slice_mut(target, self.rows, self.cols);
        matmul(target, Accum::Add, left, right, 1.0, Par::Seq);
    }
}

/// Singular values, largest first, one for each of the `min(rows, cols)` dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    sigma: Vec<f64>,
    largest_side: usize,
    form: Form,
}

impl Spectrum {
    /// Of a row-major matrix with finite entries, by its singular value decomposition. `None` where the iteration does
    /// not converge, which finite entries do not cause.
    pub fn exact(values: &[f64], [rows, cols]: [usize; 2]) -> Option<Self> {
        let sigma = singular_values(MatRef::from_row_major_slice(values, rows, cols))?;
        Some(Self { sigma, largest_side: rows.max(cols), form: Form::Exact })
    }

    /// Of the same from the eigenvalues of its Gram matrix on the smaller side.
    pub fn gram(values: &[f64], [rows, cols]: [usize; 2]) -> Option<Self> {
        let x = MatRef::from_row_major_slice(values, rows, cols);
        let x = if rows <= cols { x } else { x.transpose() };
        let n = x.nrows();
        let mut gram = Mat::<f64>::zeros(n, n);
        matmul(gram.as_mut(), Accum::Replace, x, x.transpose(), 1.0, Par::Seq);
        let mut squares = Diag::<f64>::zeros(n);
        let (par, params) = (Par::Seq, Spec::default());
        let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::No, par, params);
        let mut memory = MemBuffer::new(scratch);
        let stack = MemStack::new(&mut memory);
        self_adjoint_evd(gram.as_ref(), squares.as_mut(), None, par, stack, params).ok()?;
        // faer's order is ascending.
        let squares: Vec<f64> = (0..n).rev().map(|i| squares.column_vector()[i]).collect();
        Some(Self::of_squares(&squares, [rows, cols]))
    }

    /// Of a matrix whose Gram matrix, on either side, has these eigenvalues, largest first.
    pub fn of_squares(squares: &[f64], [rows, cols]: [usize; 2]) -> Self {
        // Rounding makes some of the smallest negative.
        let sigma = squares.iter().map(|square| square.max(0.0).sqrt());
        let sigma = sigma.chain(std::iter::repeat(0.0)).take(rows.min(cols)).collect();
        Self { sigma, largest_side: rows.max(cols), form: Form::Gram }
    }

    /// Of a product, from the triangles of its factors' QR decompositions: `O((m + n)·k²)` for an inner size `k`.
    pub fn of_product(product: &Product) -> Option<Self> {
        let (rows, cols, inner) = (product.rows, product.cols, product.inner());
        let left = MatRef::from_row_major_slice(&product.left, rows, inner);
        let right = MatRef::from_row_major_slice(&product.right, inner, cols).transpose();
        let (left, right) = (triangle(left), triangle(right));
        let mut small = Mat::zeros(left.nrows(), right.nrows());
        matmul(small.as_mut(), Accum::Replace, left.as_ref(), right.transpose(), 1.0, Par::Seq);
        let mut sigma = singular_values(small.as_ref())?;
        sigma.resize(rows.min(cols), 0.0);
        Some(Self { sigma, largest_side: rows.max(cols), form: Form::Factors })
    }

    /// How the values were found.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The values, largest first.
    pub fn values(&self) -> &[f64] {
        &self.sigma
    }

    /// The Frobenius norm.
    pub fn norm(&self) -> f64 {
        self.largest() * self.relative().map(|x| x * x).sum::<f64>().sqrt()
    }

    fn largest(&self) -> f64 {
        self.sigma.first().copied().unwrap_or(0.0)
    }

    /// The values divided by the largest; none where all are 0, so that every rank built on them is 0.
    fn relative(&self) -> impl Iterator<Item = f64> + Clone {
        let largest = self.largest();
        let count = if largest > 0.0 { self.sigma.len() } else { 0 };
        self.sigma[..count].iter().map(move |sigma| sigma / largest)
    }

    /// `exp(−Σ p·ln p)` with `p = σ/Σσ`.
    pub fn effective(&self) -> f64 {
        exp_entropy(self.relative())
    }

    /// The same with `p = σ²/Σσ²`.
    pub fn energy_effective(&self) -> f64 {
        exp_entropy(self.relative().map(|x| x * x))
    }

    /// `Σσ²/σ₁²`.
    pub fn stable(&self) -> f64 {
        self.relative().map(|x| x * x).sum()
    }

    /// How many values are above `tau·σ₁`.
    pub fn numerical(&self, tau: f64) -> usize {
        self.relative().filter(|&x| x > tau).count()
    }

    /// How many values are above the rounding of f64, `max(m, n)·ε·σ₁`; `None` from a Gram matrix, which does not
    /// resolve them.
    pub fn strict(&self) -> Option<usize> {
        let tau = self.largest_side as f64 * f64::EPSILON;
        (self.form != Form::Gram).then(|| self.numerical(tau))
    }

    /// How many values are above `bound`, whatever the largest is.
    pub fn above(&self, bound: f64) -> usize {
        self.sigma.iter().filter(|&&sigma| sigma > bound).count()
    }

    /// The smallest number of leading values that hold the share `q` of `Σσ²`.
    pub fn energy(&self, q: f64) -> usize {
        // Summed as the loop sums, so that q = 1 is reached.
        let total = self.stable();
        let mut sum = 0.0;
        self.relative()
            .take_while(|x| {
                let is_needed = sum < q * total;
                sum += x * x;
                is_needed
            })
            .count()
    }

    /// The share of values with `(σ − σ_C)/(σ₁ − σ_C) < 0.1`; 0 where all are equal. Source: WeLore (arXiv:2407.11239).
    pub fn tail(&self) -> f64 {
        let (largest, smallest) = (self.largest(), self.sigma.last().copied().unwrap_or(0.0));
        let spread = largest - smallest;
        if spread <= 0.0 {
            return 0.0;
        }
        let small = self.sigma.iter().filter(|&&sigma| (sigma - smallest) / spread < 0.1).count();
        small as f64 / self.sigma.len() as f64
    }

    /// At most `count` values with their places from 0: all, or evenly spaced from the first to the last.
    pub fn sample(&self, count: usize) -> Vec<(usize, f64)> {
        let len = self.sigma.len();
        if len <= count || count < 2 {
            return self.sigma.iter().copied().enumerate().take(count).collect();
        }
        let place = |k: usize| (k * (len - 1) + (count - 1) / 2) / (count - 1);
        (0..count).map(|k| (place(k), self.sigma[place(k)])).collect()
    }
}

/// `exp` of the entropy of weights that are not negative; 0 where there are none.
fn exp_entropy(weights: impl Iterator<Item = f64> + Clone) -> f64 {
    let total: f64 = weights.clone().sum();
    if total <= 0.0 {
        return 0.0;
    }
    let terms = weights.map(|weight| weight / total).filter(|&p| p > 0.0);
    (-terms.map(|p| p * p.ln()).sum::<f64>()).exp()
}

fn singular_values(x: MatRef<'_, f64>) -> Option<Vec<f64>> {
    let (m, n) = (x.nrows(), x.ncols());
    let mut sigma = Diag::<f64>::zeros(m.min(n));
    let none = ComputeSvdVectors::No;
    let (par, params) = (Par::Seq, Spec::default());
    let mut memory = MemBuffer::new(svd_scratch::<f64>(m, n, none, none, par, params));
    let stack = MemStack::new(&mut memory);
    svd(x, sigma.as_mut(), None, None, par, stack, params).ok()?;
    let sigma = sigma.column_vector();
    Some((0..m.min(n)).map(|i| sigma[i]).collect())
}

/// The upper triangle `R` of `x = Q·R`, with `min(rows, cols)` rows.
fn triangle(x: MatRef<'_, f64>) -> Mat<f64> {
    let (m, n) = (x.nrows(), x.ncols());
    let size = m.min(n);
    let block = recommended_block_size::<f64>(m, n);
    let mut factored = x.to_owned();
    let mut coefficients = Mat::zeros(block, size);
    let (par, params) = (Par::Seq, Spec::default());
    let mut memory = MemBuffer::new(qr_in_place_scratch::<f64>(m, n, block, par, params));
    let stack = MemStack::new(&mut memory);
    qr_in_place(factored.as_mut(), coefficients.as_mut(), par, stack, params);
    Mat::from_fn(size, n, |i, j| if i <= j { factored[(i, j)] } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagonal(entries: &[f64], cols: usize) -> Vec<f64> {
        let row = |i: usize| (0..cols).map(move |j| if i == j { 1.0 } else { 0.0 });
        entries.iter().enumerate().flat_map(|(i, v)| row(i).map(move |x| x * v)).collect()
    }

    /// All ranks at once: effective, energy-effective, stable, numerical, strict, energy 0.9 and 0.99.
    fn ranks(s: &Spectrum) -> [f64; 7] {
        [
            s.effective(),
            s.energy_effective(),
            s.stable(),
            s.numerical(1e-3) as f64,
            s.strict().unwrap() as f64,
            s.energy(0.9) as f64,
            s.energy(0.99) as f64,
        ]
    }

    fn assert_close(found: &[f64], wanted: &[f64], bound: f64) {
        let is_close = found.len() == wanted.len()
            && found.iter().zip(wanted).all(|(f, w)| (f - w).abs() <= bound);
        assert!(is_close, "{found:?}, expected {wanted:?}");
    }

    /// Numbers without a pattern, from −1 to 1.
    fn noise(len: usize, mut state: u64) -> Vec<f64> {
        let mut next = || {
            state =
                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (state >> 11) as f64 / 4_503_599_627_370_496.0 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn the_identity_has_full_rank_by_every_measure() {
        let s = Spectrum::exact(&diagonal(&[1.0; 10], 10), [10, 10]).unwrap();
        assert_close(&ranks(&s), &[10.0, 10.0, 10.0, 10.0, 10.0, 9.0, 10.0], 1e-9);
        assert_eq!(s.energy(1.0), 10);
        assert_eq!((s.tail(), s.above(0.1)), (0.0, 10));
        assert!((s.norm() - 10f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_matrix_of_rank_one_has_rank_one_by_every_measure() {
        let (u, v) = (noise(6, 1), noise(9, 2));
        let matrix: Vec<f64> = u.iter().flat_map(|u| v.iter().map(move |v| u * v)).collect();
        let s = Spectrum::exact(&matrix, [6, 9]).unwrap();
        assert_close(&ranks(&s), &[1.0; 7], 1e-9);
    }

    #[test]
    fn two_and_one_have_the_ranks_of_the_worked_example() {
        let s = Spectrum::exact(&diagonal(&[2.0, 1.0], 3), [2, 3]).unwrap();
        assert!((s.effective() - 0.636_514_168f64.exp()).abs() < 1e-8, "{}", s.effective());
        assert!((s.stable() - 1.25).abs() < 1e-12);
        // p = 4/5 and 1/5.
        let entropy = -(0.8 * 0.8f64.ln() + 0.2 * 0.2f64.ln());
        assert!((s.energy_effective() - entropy.exp()).abs() < 1e-12);
        assert_eq!((s.energy(0.8), s.energy(0.9)), (1, 2));
        assert_eq!((s.numerical(0.4), s.numerical(0.6), s.above(1.5)), (2, 1, 1));
        assert!((s.tail() - 0.5).abs() < 1e-12, "the smaller of two values is the tail");
    }

    #[test]
    fn a_matrix_of_zeros_has_rank_zero_by_every_measure() {
        for s in [
            Spectrum::exact(&[0.0; 12], [3, 4]).unwrap(),
            Spectrum::of_product(&Product {
                left: vec![0.0; 6],
                right: vec![1.0; 8],
                rows: 3,
                cols: 4,
            })
            .unwrap(),
        ] {
            assert_eq!(ranks(&s), [0.0; 7]);
            assert_eq!((s.norm(), s.tail(), s.above(0.1)), (0.0, 0.0, 0));
        }
        assert_eq!(Spectrum::gram(&[0.0; 12], [3, 4]).unwrap().effective(), 0.0);
    }

    #[test]
    fn a_factor_before_the_matrix_changes_only_norm_and_absolute_counts() {
        let matrix = noise(7 * 11, 3);
        for factor in [1e-30, 1e-3, 4.0, 1e30] {
            let scaled: Vec<f64> = matrix.iter().map(|v| v * factor).collect();
            let (one, other) = (
                Spectrum::exact(&matrix, [7, 11]).unwrap(),
                Spectrum::exact(&scaled, [7, 11]).unwrap(),
            );
            assert_close(&ranks(&other), &ranks(&one), 1e-9);
            assert!((other.tail() - one.tail()).abs() < 1e-12);
            assert!((other.norm() / factor / one.norm() - 1.0).abs() < 1e-12);
        }
        assert_eq!(Spectrum::exact(&matrix, [7, 11]).unwrap().above(1e-9), 7);
    }

    #[test]
    fn all_three_ways_find_the_same_values() {
        for (rows, cols, inner) in [(12, 9, 3), (9, 12, 3), (8, 8, 1), (5, 20, 5), (6, 4, 9)] {
            let (left, right) = (noise(rows * inner, 4), noise(inner * cols, 5));
            let product = Product { left, right, rows, cols };
            let mut dense = vec![0.0; rows * cols];
            product.add_to(&mut dense);
            let exact = Spectrum::exact(&dense, [rows, cols]).unwrap();
            let factors = Spectrum::of_product(&product).unwrap();
            assert_close(factors.values(), exact.values(), 1e-12 * exact.values()[0]);
            assert_eq!(factors.numerical(1e-3), inner.min(rows).min(cols));
            assert_eq!(factors.strict(), exact.strict());
            let gram = Spectrum::gram(&dense, [rows, cols]).unwrap();
            assert_close(gram.values(), exact.values(), 1e-7 * exact.values()[0]);
            assert_eq!(gram.numerical(1e-3), exact.numerical(1e-3));
            assert_eq!(gram.strict(), None, "a Gram matrix does not resolve the smallest values");
        }
    }

    #[test]
    fn long_spectra_are_sampled_from_first_to_last() {
        let values: Vec<f64> = (0..200).map(|i| 200.0 - f64::from(i)).collect();
        let s = Spectrum::exact(&diagonal(&values, 200), [200, 200]).unwrap();
        let sample = s.sample(64);
        assert_eq!(sample.len(), 64);
        assert_eq!((sample[0].0, sample[63].0), (0, 199));
        assert!(sample.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(sample.iter().all(|&(i, sigma)| (sigma - values[i]).abs() < 1e-9));
        assert_eq!(s.sample(500).len(), 200);
    }
}
