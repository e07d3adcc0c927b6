//! What the checks share: operands that can be computed anywhere, samples, and the comparison.

use rayon::prelude::*;

use crate::device::Device;
use crate::device::gpu::Tiling;
use crate::device::memory::Category::Activations;
use crate::kernels::{Array, Indices, Matrix, Vector, ceiling};

use super::Finding;

/// f32 sums in another order than the reference's differ by some 1e-6 of the largest value.
pub const TOLERANCE: f64 = 2e-5;
/// Rows or columns that are compared.
const SAMPLES: usize = 64;

/// A mixing of bits (splitmix64): every value of an operand is a function of its place.
fn mixed(seed: u64, place: usize) -> u64 {
    let mut x = (seed << 40) ^ (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A matrix of numbers uniform in `[-bound, bound)` that nobody has to store.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    pub seed: u64,
    pub rows: usize,
    pub columns: usize,
    pub bound: f32,
}

impl Operand {
    pub fn new(seed: u64, [rows, columns]: [usize; 2], bound: f32) -> Self {
        Self { seed, rows, columns, bound }
    }

    fn value(&self, place: usize) -> f32 {
        let unit = (mixed(self.seed, place) >> 40) as f32 / (1u64 << 24) as f32;
        (2.0 * unit - 1.0) * self.bound
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        f64::from(self.value(row * self.columns + column))
    }

    pub fn row(&self, row: usize) -> Vec<f64> {
        (0..self.columns).map(|column| self.at(row, column)).collect()
    }

    pub fn column(&self, column: usize) -> Vec<f64> {
        (0..self.rows).map(|row| self.at(row, column)).collect()
    }

    pub fn host(&self) -> Vec<f32> {
        (0..self.rows * self.columns).into_par_iter().map(|place| self.value(place)).collect()
    }

    pub fn wide(&self) -> Vec<f64> {
        self.host().into_par_iter().map(f64::from).collect()
    }

    pub fn on(&self, device: &Device) -> Matrix {
        Matrix::from_host(self.host(), [self.rows, self.columns], device, Activations)
    }

    pub fn vector_on(&self, device: &Device) -> Vector {
        Vector::from_host(self.host(), [self.rows * self.columns], device, Activations)
    }
}

/// Reproducible numbers below `n`.
pub fn ids(seed: u64, count: usize, n: usize) -> Vec<i32> {
    (0..count).map(|place| (mixed(seed, place) % n as u64) as i32).collect()
}

/// Some of `0..n`, the first and the last among them.
pub fn sample(n: usize) -> Vec<usize> {
    if n <= SAMPLES {
        return (0..n).collect();
    }
    let inner = (1..SAMPLES - 1).map(|place| (mixed(77, place) % n as u64) as usize);
    let mut all: Vec<usize> = inner.chain([0, n - 1]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// `Σ aᵢ·bᵢ`, in four partial sums so that the compiler can keep the core busy.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (a_parts, b_parts) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_parts.zip(b_parts) {
        for lane in 0..4 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// One check at work.
pub struct Probe<'a> {
    pub device: &'a Device,
    shape: String,
    seconds: f64,
    worst: f64,
    trouble: Option<String>,
    /// A test wants the first comparison to fail.
    is_planted: bool,
}

impl<'a> Probe<'a> {
    pub fn new(device: &'a Device, is_planted: bool) -> Self {
        Self { device, shape: String::new(), seconds: 0.0, worst: 0.0, trouble: None, is_planted }
    }

    /// Whether the device is a software adapter, which gets smaller sizes.
    pub fn is_slow(&self) -> bool {
        self.device.gpu().is_some_and(|gpu| gpu.tiling == Tiling::Direct)
    }

    pub fn shape(&mut self, shape: impl Into<String>) {
        self.shape = shape.into();
    }

    /// Runs the operation that is checked.
    pub fn timed<R>(&mut self, run: impl FnOnce() -> R) -> R {
        let (result, seconds) = ceiling::timed(self.device, run);
        self.seconds += seconds;
        result
    }

    pub fn vector(&self, values: Vec<f32>) -> Vector {
        let n = values.len();
        Vector::from_host(values, [n], self.device, Activations)
    }

    pub fn indices(&self, values: &[i32]) -> Indices {
        Indices::from_host(values, self.device, Activations)
    }

    /// Compares some values of a result, relative to the largest of them.
    pub fn compare(&mut self, what: &str, got: &[f32], right: &[f64]) {
        self.compare_within(TOLERANCE, what, got, right);
    }

    pub fn compare_within(&mut self, tolerance: f64, what: &str, got: &[f32], right: &[f64]) {
        if self.trouble.is_some() {
            return;
        }
        if got.len() != right.len() {
            self.trouble =
                Some(format!("{what}: expected {} values, got {}", right.len(), got.len()));
            return;
        }
        let largest = right.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
        let mut got = got.to_vec();
        if std::mem::take(&mut self.is_planted)
            && let Some(first) = got.first_mut()
        {
            *first += largest as f32;
        }
        for (place, (&got, &right)) in got.iter().zip(right).enumerate() {
            let error = (f64::from(got) - right).abs() / largest;
            self.worst = self.worst.max(error);
            if error.is_nan() || error > tolerance {
                self.worst = error;
                self.trouble = Some(format!(
                    "{what}, value {place} of those compared: expected {right:e}, got {got:e}"
                ));
                return;
            }
        }
    }

    /// Compares the sampled rows of a matrix with what `right` says of each.
    pub fn compare_rows(
        &mut self,
        what: &str,
        got: &Matrix,
        right: impl Fn(usize) -> Vec<f64> + Sync,
    ) {
        let [rows, columns] = got.shape();
        let host = got.to_host();
        let rows = sample(rows);
        let right: Vec<f64> = rows.par_iter().flat_map_iter(|&row| right(row)).collect();
        let got: Vec<f32> = rows
            .iter()
            .flat_map(|row| &host[row * columns..(row + 1) * columns])
            .copied()
            .collect();
        self.compare(what, &got, &right);
    }

    /// Compares the sampled entries of an array, counted through its rows.
    pub fn compare_entries<const D: usize>(
        &mut self,
        what: &str,
        got: &Array<D>,
        right: impl Fn(usize) -> f64,
    ) {
        let host = got.to_host();
        // More than of rows: an entry is cheap.
        let step = (host.len() / 4096).max(1);
        let places: Vec<usize> =
            (0..host.len()).step_by(step).chain(host.len().checked_sub(1)).collect();
        let got: Vec<f32> = places.iter().map(|&place| host[place]).collect();
        let right: Vec<f64> = places.iter().map(|&place| right(place)).collect();
        self.compare(what, &got, &right);
    }

    /// The result, with what the device itself has to say.
    pub fn finding(self, name: &'static str) -> Finding {
        let fault = self.device.check().err().map(|error| error.to_string());
        Finding {
            name,
            shape: self.shape,
            worst: self.worst,
            ms: self.seconds * 1e3,
            trouble: fault.or(self.trouble),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_both_ends_and_lie_inside() {
        assert_eq!(sample(3), [0, 1, 2]);
        let many = sample(20_000);
        assert!(many.len() > 50 && many.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((many[0], many[many.len() - 1]), (0, 19_999));
    }

    #[test]
    fn an_operand_is_what_it_says_of_itself() {
        let x = Operand::new(3, [5, 7], 2.0);
        let host = x.wide();
        assert_eq!(host[2 * 7 + 4], x.at(2, 4));
        assert_eq!(x.row(4), host[28..]);
        assert_eq!(x.column(6)[1], host[13]);
        assert!(host.iter().all(|value| value.abs() <= 2.0));
        assert!((dot(&host, &host) - host.iter().map(|v| v * v).sum::<f64>()).abs() < 1e-12);
    }

    #[test]
    fn a_wrong_number_and_a_missing_one_are_found() {
        let device = Device::cpu();
        let after = |got: &[f32], is_planted| {
            let mut probe = Probe::new(&device, is_planted);
            probe.compare("y", got, &[1.0, -4.0]);
            probe.finding("op").trouble
        };
        assert_eq!(after(&[1.0, -4.0], false), None);
        let wrong = after(&[1.0, -4.1], false).unwrap();
        assert!(wrong.contains("y, value 1") && wrong.contains("expected -4e0"), "{wrong}");
        assert!(after(&[f32::NAN, -4.0], false).unwrap().contains("got NaN"));
        assert!(after(&[1.0, -4.0], true).is_some());
    }
}
