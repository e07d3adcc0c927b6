//! From the singular triplets of a layer's gradient to the starting factors: which of them go to which factor, and
//! their length.

use crate::linalg::svd::Svd;
use crate::random::stream;

use super::super::factors::columns;

/// Which of the `2r` leading singular vectors become the rows of A and the columns of B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A from `1..r`, B from `r+1..2r`: the paper's choice.
    ArB2r,
    /// A from `r+1..2r`, B from `1..r`.
    A2rBr,
    /// A takes the even ones (2, 4, …), B the odd ones.
    ArBr,
    /// A random half each.
    Random,
}

impl Direction {
    /// The direction of a configuration name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "ArB2r" => Some(Self::ArB2r),
            "A2rBr" => Some(Self::A2rBr),
            "ArBr" => Some(Self::ArBr),
            "random" => Some(Self::Random),
            _ => None,
        }
    }

    /// Places (from 0) of the singular vectors for A and for B, `r` each.
    pub fn places(self, rank: usize, seed: u64, layer: &str) -> (Vec<usize>, Vec<usize>) {
        let (first, second) = ((0..rank).collect(), (rank..2 * rank).collect());
        match self {
            Self::ArB2r => (first, second),
            Self::A2rBr => (second, first),
            Self::ArBr => {
                ((0..rank).map(|i| 2 * i + 1).collect(), (0..rank).map(|i| 2 * i).collect())
            }
            Self::Random => {
                let mut drawn =
                    stream(seed, layer, "lora-ga direction", 0).distinct(2 * rank, 2 * rank);
                let b = drawn.split_off(rank);
                (drawn, b)
            }
        }
    }
}

/// The length `c` of the rows of A and the columns of B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// `m^¼ / √γ`: the size of the adapter's output does not depend on the rank or on `n`.
    Stable {
        /// γ
        gamma: f64,
    },
    /// `1/s`.
    Gd,
    /// 1.
    Unit,
    /// Mean of `√(σᵢ(W)/s)` over the `r` leading singular values of the weight.
    Weight,
}

impl Length {
    /// The rule of a configuration name; γ is used by one of them.
    pub fn from_name(name: &str, gamma: f64) -> Option<Self> {
        match name {
            "stable" => Some(Self::Stable { gamma }),
            "gd" => Some(Self::Gd),
            "unit" => Some(Self::Unit),
            "weight" => Some(Self::Weight),
            _ => None,
        }
    }

    /// `c` for a layer of `m` outputs. `weight` gives the leading singular values of W where the rule asks.
    pub fn of(self, m: usize, scale: f64, weight: impl FnOnce() -> Vec<f64>) -> f64 {
        match self {
            Self::Stable { gamma } => (m as f64).powf(0.25) / gamma.sqrt(),
            Self::Gd => 1.0 / scale,
            Self::Unit => 1.0,
            Self::Weight => {
                let sigma = weight();
                sigma.iter().map(|s| (s / scale).sqrt()).sum::<f64>() / sigma.len().max(1) as f64
            }
        }
    }
}

/// `A [r, n]` = `c · vᵢ` for the places of A, `B [m, r]` = `c · uᵢ` for those of B.
///
/// Source: LoRA-GA, arXiv:2407.05000, section 3, and the authors' code.
pub fn factors(svd: &Svd, (for_a, for_b): &(Vec<usize>, Vec<usize>), c: f64) -> [Vec<f32>; 2] {
    let vectors = |from: &[Vec<f64>], places: &[usize]| -> Vec<Vec<f32>> {
        let chosen = places
            .iter()
            .map(|&place| from[place].iter().map(|value| (c * value) as f32).collect());
        chosen.collect()
    };
    let b = vectors(&svd.u, for_b);
    let m = b.first().map_or(0, Vec::len);
    [vectors(&svd.v, for_a).concat(), columns(&b, m)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_direction_shares_out_the_leading_vectors() {
        for name in ["ArB2r", "A2rBr", "ArBr", "random"] {
            let direction = Direction::from_name(name).unwrap();
            let (a, b) = direction.places(3, 1, "layer");
            assert_eq!((a.len(), b.len()), (3, 3));
            let mut all = [a, b].concat();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5], "{name}");
        }
        assert_eq!(Direction::ArBr.places(2, 0, ""), (vec![1, 3], vec![0, 2]));
        let random = |seed, layer| Direction::Random.places(4, seed, layer);
        assert_eq!(random(1, "x"), random(1, "x"));
        assert_ne!(random(1, "x"), random(2, "x"));
        assert_ne!(random(1, "x"), random(1, "y"));
    }

    #[test]
    fn the_lengths_are_those_of_the_rules() {
        let of = |name| Length::from_name(name, 16.0).unwrap().of(81, 4.0, || vec![16.0, 4.0]);
        assert_eq!((of("stable"), of("gd"), of("unit"), of("weight")), (0.75, 0.25, 1.0, 1.5));
    }
}
