//! Random numbers that are a function of (run seed, name, purpose, draw number) and of nothing else.
//!
//! Each draw opens its own ChaCha8 stream, so results do not depend on the order in which layers are
//! processed, on the backend or on the number of threads, and nothing but draw numbers has to be saved.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// An open stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream {
    rng: ChaCha8Rng,
    spare_normal: Option<f64>,
}

/// Opens the stream keyed by blake3(seed ‖ name ‖ purpose ‖ draw), the names with their lengths.
pub fn stream(seed: u64, name: &str, purpose: &str, draw: u64) -> Stream {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for text in [name, purpose] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&draw.to_le_bytes());
    Stream { rng: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()), spare_normal: None }
}

impl Stream {
    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// Uniform in `0..n`, without bias (multiply and reject). `n` must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "an empty range has no element");
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.rng.next_u64()) * u128::from(n);
            if (product as u64) >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Uniform in `[0, 1)` from 24 bits: every value is exact in f32.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / 16_777_216.0
    }

    /// Uniform in `[-bound, bound)`.
    pub fn symmetric(&mut self, bound: f32) -> f32 {
        (2.0 * self.uniform() - 1.0) * bound
    }

    /// Standard normal, Box–Muller in f64.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        // 53 bits, shifted by half a unit so that the logarithm's argument is never 0.
        let mut unit = || ((self.rng.next_u64() >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0;
        let (u, v) = (unit(), unit());
        let radius = (-2.0 * u.ln()).sqrt();
        let angle = std::f64::consts::TAU * v;
        self.spare_normal = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// `n` numbers uniform in `[-bound, bound)`.
    pub fn symmetric_vec(&mut self, n: usize, bound: f32) -> Vec<f32> {
        (0..n).map(|_| self.symmetric(bound)).collect()
    }

    /// `n` normal numbers with mean 0 and the given standard deviation.
    pub fn normal_vec(&mut self, n: usize, std: f64) -> Vec<f32> {
        (0..n).map(|_| (self.normal() * std) as f32).collect()
    }

    /// `k` distinct numbers of `0..n` in random order (a partial Fisher–Yates shuffle).
    pub fn distinct(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "{k} distinct numbers out of {n}");
        let mut pool: Vec<usize> = (0..n).collect();
        for i in 0..k {
            let j = i + self.below((n - i) as u64) as usize;
            pool.swap(i, j);
        }
        pool.truncate(k);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_each_part_of_its_key() {
        let first = |mut s: Stream| s.next_u32();
        let base = first(stream(1, "a", "init", 0));
        assert_eq!(base, first(stream(1, "a", "init", 0)));
        assert_ne!(base, first(stream(2, "a", "init", 0)));
        assert_ne!(base, first(stream(1, "b", "init", 0)));
        assert_ne!(base, first(stream(1, "a", "switch", 0)));
        assert_ne!(base, first(stream(1, "a", "init", 1)));
        assert_ne!(first(stream(1, "ab", "c", 0)), first(stream(1, "a", "bc", 0)));
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let n = 200_000;
        let mut s = stream(7, "moments", "test", 0);
        let uniform: Vec<f64> = (0..n).map(|_| f64::from(s.uniform())).collect();
        let normal: Vec<f64> = (0..n).map(|_| s.normal()).collect();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let var = |x: &[f64]| {
            let center = mean(x);
            x.iter().map(|v| (v - center).powi(2)).sum::<f64>() / x.len() as f64
        };
        assert!((mean(&uniform) - 0.5).abs() < 0.005 && (var(&uniform) - 1.0 / 12.0).abs() < 0.002);
        assert!(mean(&normal).abs() < 0.01 && (var(&normal) - 1.0).abs() < 0.02);
        assert!(uniform.iter().all(|&u| (0.0..1.0).contains(&u)));
    }

    #[test]
    fn distinct_numbers_are_distinct_and_in_range() {
        let mut drawn = stream(3, "x", "y", 0).distinct(20, 20);
        drawn.sort_unstable();
        assert_eq!(drawn, (0..20).collect::<Vec<_>>());
    }
}
