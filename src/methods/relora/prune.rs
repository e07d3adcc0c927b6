//! Which entries of Adam's moments survive a restart. Works on plain values on the host: a restart is rare,
//! and a quantile needs all entries at once.
//!
//! Source: ReLoRA (arXiv:2307.05695) and its authors' code, which prunes the two moments each for itself. An entry
//! whose first moment survives while the second is zeroed then takes a huge step (`m/(0 + eps)`), so by
//! default the first moment is kept only where the second is too.

use crate::random::Stream;

/// How entries are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// Zero the share with the smallest absolute values.
    Magnitude(f64),
    /// Zero each entry with this probability.
    Random(f64),
    /// Zero everything.
    Zero,
}

/// A reset of the moments of one factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prune {
    /// Which entries are zeroed.
    pub mode: Mode,
    /// The authors' form: a mask for each moment, without regard to the other.
    pub has_independent_masks: bool,
}

impl Prune {
    /// The settings `relora.reset`, `relora.prune_ratio` and `relora.masks`.
    pub fn from_names(reset: &str, ratio: f64, masks: &str) -> Option<Self> {
        let mode = match reset {
            "magnitude" => Mode::Magnitude(ratio),
            "random" => Mode::Random(ratio),
            "zero" => Mode::Zero,
            _ => return None,
        };
        Some(Self { mode, has_independent_masks: masks == "independent" })
    }

    /// The mode's name, for the log.
    pub fn name(&self) -> &'static str {
        match self.mode {
            Mode::Magnitude(_) => "magnitude",
            Mode::Random(_) => "random",
            Mode::Zero => "zero",
        }
    }

    /// Zeroes entries of the first and second moments of one factor. `open` makes the random stream of a
    /// moment by its name; only the random mode asks for it.
    pub fn apply(&self, m: &mut [f32], v: &mut [f32], open: impl Fn(&str) -> Stream) {
        let mask = |values: &[f32], moment: &str| match self.mode {
            Mode::Magnitude(ratio) => magnitude_mask(values, ratio),
            Mode::Random(ratio) => {
                let mut random = open(moment);
                let draws: Vec<f32> = values.iter().map(|_| random.uniform()).collect();
                random_mask(&draws, ratio)
            }
            Mode::Zero => vec![false; values.len()],
        };
        let (mut keep_m, keep_v) = (mask(m, "exp_avg"), mask(v, "exp_avg_sq"));
        if !self.has_independent_masks {
            for (m, v) in keep_m.iter_mut().zip(&keep_v) {
                *m &= v;
            }
        }
        for (values, keep) in [(m, keep_m), (v, keep_v)] {
            for (value, keep) in values.iter_mut().zip(keep) {
                if !keep {
                    *value = 0.0;
                }
            }
        }
    }
}

/// The `ratio`-quantile of the absolute values, between two entries by linear interpolation, as
/// `torch.quantile` has it; 0 for no values.
pub fn threshold(values: &[f32], ratio: f64) -> f32 {
    let mut sizes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    if sizes.is_empty() {
        return 0.0;
    }
    let place = ratio * (sizes.len() - 1) as f64;
    let (_, &mut lower, above) =
        sizes.select_nth_unstable_by(place.floor() as usize, f32::total_cmp);
    let upper = above.iter().copied().min_by(f32::total_cmp).unwrap_or(lower);
    let (lower, upper) = (f64::from(lower), f64::from(upper));
    // In f32 again, so that a place that is a whole number but for rounding gives that entry itself.
    (lower + place.fract() * (upper - lower)) as f32
}

/// True where the absolute value is strictly above the threshold: ties are zeroed.
pub fn magnitude_mask(values: &[f32], ratio: f64) -> Vec<bool> {
    let threshold = threshold(values, ratio);
    values.iter().map(|value| value.abs() > threshold).collect()
}

/// True where a uniform draw is above the ratio.
pub fn random_mask(draws: &[f32], ratio: f64) -> Vec<bool> {
    draws.iter().map(|&draw| draw > ratio as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn open(moment: &str) -> Stream {
        stream(3, "layer.lora_A", moment, 1)
    }

    fn moments() -> (Vec<f32>, Vec<f32>) {
        let mut random = stream(1, "moments", "test", 0);
        let m = random.normal_vec(500, 1.0);
        let v = random.normal_vec(500, 1.0).iter().map(|v| v * v).collect();
        (m, v)
    }

    fn zeros(values: &[f32]) -> usize {
        values.iter().filter(|&&value| value == 0.0).count()
    }

    #[test]
    fn the_threshold_interpolates_between_the_two_entries_beside_the_place() {
        let values = [-4.0, 1.0, 3.0, -2.0, 0.0];
        for (ratio, expected) in [(0.0, 0.0), (0.5, 2.0), (0.6, 2.4), (1.0, 4.0)] {
            assert_eq!(threshold(&values, ratio), expected, "{ratio}");
        }
        assert_eq!(threshold(&[5.0], 0.99), 5.0);
        assert_eq!(threshold(&[], 0.99), 0.0);
    }

    #[test]
    fn equal_values_at_the_threshold_are_all_zeroed() {
        assert_eq!(magnitude_mask(&[2.0, -2.0, 2.0, 7.0], 0.5), [false, false, false, true]);
        assert_eq!(magnitude_mask(&[2.0; 4], 0.5), [false; 4]);
    }

    #[test]
    fn joint_masks_keep_no_first_moment_without_its_second() {
        for mode in [Mode::Magnitude(0.9), Mode::Random(0.9)] {
            let (mut m, mut v) = moments();
            Prune { mode, has_independent_masks: false }.apply(&mut m, &mut v, open);
            assert!(m.iter().zip(&v).all(|(&m, &v)| m == 0.0 || v != 0.0), "{mode:?}");
            assert!(zeros(&v) < 500, "{mode:?}");
            assert!(zeros(&m) >= zeros(&v), "{mode:?}");
        }
    }

    #[test]
    fn independent_masks_do_not_look_at_each_other() {
        for mode in [Mode::Magnitude(0.9), Mode::Random(0.9)] {
            let (mut m, mut v) = moments();
            Prune { mode, has_independent_masks: true }.apply(&mut m, &mut v, open);
            assert!(m.iter().zip(&v).any(|(&m, &v)| m != 0.0 && v == 0.0), "{mode:?}");
            if let Mode::Magnitude(_) = mode {
                assert_eq!((zeros(&m), zeros(&v)), (450, 450));
            }
        }
    }

    #[test]
    fn zero_leaves_nothing() {
        let (mut m, mut v) = moments();
        Prune { mode: Mode::Zero, has_independent_masks: false }.apply(&mut m, &mut v, open);
        assert_eq!((zeros(&m), zeros(&v)), (500, 500));
    }
}
