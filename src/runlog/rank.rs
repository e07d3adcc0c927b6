//! The `rank` event: the singular values of one matrix of one layer, and the ranks read off them.

use serde::{Deserialize, Serialize};

use super::number;

/// What the singular values of one matrix of a layer say. All ranks of a matrix of zeros are 0.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rank {
    /// The layer's name.
    pub layer: String,
    /// `change`: the effective weight less that of the reference; `weight`: the effective weight; `adapter`: what
    /// the factors add to it now, `s·B·A`; `gradient`: the one that a subspace was found for.
    pub matrix: String,
    /// `start` or `warm-start-end`: what a `change` is counted from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// `exact`: from the matrix itself; `factors`: from the factors of a product, as exact; `gram`: from the Gram
    /// matrix, where values below 10⁻⁷ of the largest are noise.
    pub form: String,
    /// `C = min(m, n)`, the largest rank there can be.
    pub full: u64,
    /// The largest rank that the method can have given a `change` or an `adapter` so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<u64>,
    /// Effective rank: `exp` of the entropy of `σ/Σσ`.
    #[serde(with = "number")]
    pub effective: f64,
    /// The same of `σ²/Σσ²`.
    #[serde(with = "number")]
    pub energy_effective: f64,
    /// Stable rank, `Σσ²/σ₁²`.
    #[serde(with = "number")]
    pub stable: f64,
    /// Values above `0.001·σ₁`.
    pub numerical: u64,
    /// Values above the rounding of f64; not from a Gram matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<u64>,
    /// Values above 0.1, an absolute count that `ReLoRA`'s notebooks print.
    pub above_tenth: u64,
    /// Leading values that hold 90 % of `Σσ²`.
    pub energy90: u64,
    /// Leading values that hold 99 % of `Σσ²`.
    pub energy99: u64,
    /// Share of values in the lowest tenth between the smallest and the largest.
    #[serde(with = "number")]
    pub tail: f64,
    /// Frobenius norm.
    #[serde(with = "number")]
    pub norm: f64,
    /// The norm divided by that of the reference's effective weight, for a `change`.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub relative: Option<f64>,
    /// Singular values as `[place from 0, value]`: all, or 64 spaced evenly.
    pub sigma: Vec<(u64, f64)>,
    /// How much of its candidates the method has used, where it has such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// How far the subspaces of two heads are apart, `√(r − ‖U·Vᵀ‖²)` of the columns of their B, mean over the pairs:
    /// from 0, the same, to `√r`. Told once a layer, of methods with several heads.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub head_distance: Option<f64>,
    /// How long the measurement of this matrix took.
    #[serde(with = "number")]
    pub ms: f64,
}

/// How much of a layer's candidate vectors has been active.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// Candidates on each side, the active ones included.
    pub candidates: u64,
    /// The rows of A.
    pub a: SideCoverage,
    /// The columns of B.
    pub b: SideCoverage,
}

/// One side of a [`Coverage`]. Histograms count by powers of two: place `k` holds `2^k ≤ updates < 2^(k+1)`, place 0
/// also 0 updates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SideCoverage {
    /// Candidates that are or were active.
    pub visited: u64,
    /// Active vectors by the updates since they came in.
    pub ages: Vec<u64>,
    /// Vectors that have left by the updates they were in.
    pub lifetimes: Vec<u64>,
}

impl SideCoverage {
    /// The place of a number of updates in a histogram.
    pub fn place(updates: u64) -> usize {
        updates.max(1).ilog2() as usize
    }

    /// Counts numbers of updates into a histogram.
    pub fn count(histogram: &mut Vec<u64>, updates: u64) {
        let place = Self::place(updates);
        if histogram.len() <= place {
            histogram.resize(place + 1, 0);
        }
        histogram[place] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_by_powers_of_two() {
        let mut histogram = Vec::new();
        for updates in [0, 1, 2, 3, 4, 7, 8, 1000] {
            SideCoverage::count(&mut histogram, updates);
        }
        assert_eq!(histogram, [2, 2, 2, 1, 0, 0, 0, 0, 0, 1]);
    }
}
