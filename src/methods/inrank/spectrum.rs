//! The rule by which ranks grow.

/// The smallest rank from `rank` on that explains more than `ratio` of the spectrum: `1 − var(σ with the first i
/// zeroed) / var(σ)`. All values explain it in any case, so the rank grows by no more than there are values beyond it;
/// a flat spectrum has no variance to explain and takes them all. Source: the InRank repository.
///
/// `values`: singular values, largest first.
pub fn grown_rank(values: &[f64], rank: usize, ratio: f64) -> usize {
    let total = variance(values, 0);
    let is_explained = |&i: &usize| 1.0 - variance(values, i) / total > ratio;
    let found = (rank..values.len()).find(is_explained);
    found.unwrap_or(values.len()).max(rank)
}

/// Population variance of the values with the first `zeroed` replaced by 0.
fn variance(values: &[f64], zeroed: usize) -> f64 {
    let len = values.len().max(1) as f64;
    let rest = &values[zeroed.min(values.len())..];
    let mean = rest.iter().sum::<f64>() / len;
    let squares: f64 = rest.iter().map(|value| value * value).sum();
    squares / len - mean * mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_is_the_smallest_that_explains_the_spectrum() {
        // Variance of [10, 1, 1, 1, 0]: 20.6 − 6.76 = 13.84. Without the first: 0.6 − 0.36 = 0.24.
        let spectrum = [10.0, 1.0, 1.0, 1.0, 0.0];
        assert_eq!(grown_rank(&spectrum, 1, 0.9), 1);
        assert_eq!(grown_rank(&spectrum, 2, 0.9), 2, "it never shrinks");
        // [10, 9, 1, 0, 0]: 36.4 − 16 = 20.4; without one 16.4 − 4 = 12.4; without two 0.2 − 0.04 = 0.16.
        let spectrum = [10.0, 9.0, 1.0, 0.0, 0.0];
        assert_eq!(grown_rank(&spectrum, 1, 0.9), 2);
        assert_eq!(grown_rank(&spectrum, 1, 0.39), 1, "39.2 % are explained by the first");
        assert_eq!(grown_rank(&spectrum, 1, 0.999), 3, "99.2 % by two, all by three");
    }

    #[test]
    fn a_flat_or_empty_spectrum_takes_all_values() {
        assert_eq!(grown_rank(&[2.0; 6], 2, 0.9), 6);
        assert_eq!(grown_rank(&[0.0; 6], 2, 0.9), 6);
        assert_eq!(grown_rank(&[1.0], 1, 0.9), 1);
    }
}
