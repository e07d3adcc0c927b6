//! Small statistics: mean and deviation over seeds, medians, smoothing.

use serde::{Serialize, Serializer};
use std::fmt;

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of a sample (divided by n − 1); `None` for one value.
    pub std: Option<f64>,
    /// How many values there are.
    pub n: usize,
}

impl Stat {
    /// The mean of some values. `None` without values, and where one of them is not finite: a mean that leaves
    /// out what went wrong would flatter.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Some(Self { mean, std, n })
    }

    /// In words: `3.4100` or `3.4100 ± 0.0120`.
    pub fn text(&self, look: impl Fn(f64) -> String) -> String {
        match self.std {
            Some(std) => format!("{} ± {}", look(self.mean), look(std)),
            None => look(self.mean),
        }
    }
}

impl fmt::Display for Stat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(|value| format!("{value:.4}")))
    }
}

impl Serialize for Stat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Record {
            mean: f64,
            #[serde(skip_serializing_if = "Option::is_none")]
            std: Option<f64>,
            n: usize,
        }
        Record { mean: self.mean, std: self.std, n: self.n }.serialize(serializer)
    }
}

/// The middle value; of an even number the mean of the two in the middle. Values that are not finite are left out.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let is_odd = sorted.len() % 2 == 1;
    Some(if is_odd { upper } else { f64::midpoint(*sorted.get(middle - 1)?, upper) })
}

/// Smooths values at increasing positions: each result is the mean of what came before, where a value's weight
/// halves over `half_life` units of the axis. Positions need not be even. A value that is not finite gives a gap and
/// counts nothing.
pub fn smooth(points: &[(f64, f64)], half_life: f64) -> Vec<(f64, f64)> {
    let mut smoothed = Vec::with_capacity(points.len());
    let (mut sum, mut weight, mut last) = (0.0, 0.0, f64::NAN);
    for &(x, y) in points {
        if !y.is_finite() || !x.is_finite() {
            smoothed.push((x, f64::NAN));
            continue;
        }
        let distance = if last.is_nan() { 0.0 } else { (x - last).max(0.0) };
        let keep = if half_life > 0.0 { 0.5_f64.powf(distance / half_life) } else { 0.0 };
        sum = sum * keep + y;
        weight = weight * keep + 1.0;
        last = x;
        smoothed.push((x, sum / weight));
    }
    smoothed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_those_of_a_sample() {
        let stat = Stat::of(&[1.0, 2.0, 4.5]).unwrap();
        assert_eq!((stat.mean, stat.n), (2.5, 3));
        assert!((stat.std.unwrap() - 3.25_f64.sqrt()).abs() < 1e-12);
        assert_eq!(Stat::of(&[7.0]).unwrap().std, None);
        assert_eq!(Stat::of(&[]), None);
        assert_eq!(Stat::of(&[1.0, f64::NAN]), None);
        assert_eq!(Stat::of(&[1.0, 3.0]).unwrap().to_string(), "2.0000 ± 1.4142");
    }

    #[test]
    fn the_median_leaves_out_what_is_not_finite() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, f64::NAN, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[f64::INFINITY]), None);
    }

    #[test]
    fn a_values_weight_halves_over_the_half_life_in_units_of_the_axis() {
        let smoothed = smooth(&[(0.0, 4.0), (10.0, 1.0)], 10.0);
        assert_eq!(smoothed[0], (0.0, 4.0));
        assert!((smoothed[1].1 - (4.0 * 0.5 + 1.0) / 1.5).abs() < 1e-12);
        // The same values twice as far apart forget twice as much.
        let far = smooth(&[(0.0, 4.0), (20.0, 1.0)], 10.0);
        assert!((far[1].1 - (4.0 * 0.25 + 1.0) / 1.25).abs() < 1e-12);
        let none: Vec<f64> = smooth(&[(0.0, 4.0), (1.0, 1.0)], 0.0).iter().map(|p| p.1).collect();
        assert_eq!(none, [4.0, 1.0]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_a_gap_and_does_not_spread() {
        let smoothed = smooth(&[(0.0, 2.0), (1.0, f64::NAN), (2.0, 2.0)], 5.0);
        assert!(smoothed[1].1.is_nan());
        assert_eq!(smoothed[2].1, 2.0);
    }
}
