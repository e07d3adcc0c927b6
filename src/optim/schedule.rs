//! Learning-rate schedules: the factor on the peak rate at an update index, in f64.
//!
//! All of them are evaluated at index 0 for the first update, as in the reference codes, so the first
//! update has rate 0 when there is a warm-up.

use std::f64::consts::PI;

/// Which curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// 1 throughout.
    Constant,
    /// Warm-up, then 1: for a phase that another one follows.
    WarmupConstant,
    /// Warm-up, then a line to 0.
    Linear,
    /// Warm-up, then a half cosine to 0.
    Cosine,
    /// As `Cosine`, but never below the minimum ratio: a hard floor (SwitchLoRA's code).
    CosineFloor,
    /// Warm-up, then a half cosine from 1 to the minimum ratio (GaLore).
    CosineMin,
    /// ReLoRA's jagged cosine: to 0 at every restart, back onto the cosine after `rewarm` updates.
    CosineRestarts {
        /// Updates between restarts.
        cycle: u64,
        /// Updates of a re-warm.
        rewarm: u64,
        /// Shifts the cosine so that restarts line up with a warm-started step count.
        adjust: u64,
    },
    /// A cosine that starts anew every `cycle` updates (ReLoRA's code, its plain "cosine").
    CyclicCosine {
        /// Updates of a cycle.
        cycle: u64,
    },
}

/// Length and shape parameters that the curves share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Warm-up updates.
    pub warmup: u64,
    /// Updates in all.
    pub total: u64,
    /// Lowest factor, for the curves with a floor.
    pub min_ratio: f64,
}

impl Schedule {
    /// The schedule of a configuration name, for those that need no further numbers.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "constant" => Some(Self::Constant),
            "linear" => Some(Self::Linear),
            "cosine" => Some(Self::Cosine),
            "cosine_floor" => Some(Self::CosineFloor),
            "cosine_min" => Some(Self::CosineMin),
            _ => None,
        }
    }

    /// The factor at update index `t` (0 for the first update).
    pub fn factor(&self, t: u64, span: Span) -> f64 {
        let Span { warmup, total, min_ratio } = span;
        let ramp = t as f64 / warmup.max(1) as f64;
        let floored = |cosine: f64| min_ratio + (1.0 - min_ratio) * cosine;
        match *self {
            Self::Constant => 1.0,
            Self::CyclicCosine { cycle } => {
                let c = t % cycle;
                if c < warmup {
                    if c < 2 && t != c { 1e-7 } else { c as f64 / warmup.max(1) as f64 }
                } else {
                    floored(half_cosine((c - warmup) as f64, (cycle - warmup) as f64))
                }
            }
            _ if t < warmup => ramp,
            Self::WarmupConstant => 1.0,
            Self::Linear => {
                ((total as f64 - t as f64) / (total as f64 - warmup as f64).max(1.0)).max(0.0)
            }
            Self::Cosine => cosine_after_warmup(t as f64, warmup, total),
            Self::CosineFloor => cosine_after_warmup(t as f64, warmup, total).max(min_ratio),
            Self::CosineMin => floored(cosine_after_warmup(t as f64, warmup, total)),
            Self::CosineRestarts { cycle, rewarm, adjust } => {
                // The shift may carry the argument past the end of the half wave, as in the authors' code.
                let wave = |z: f64| {
                    let progress = (z - warmup as f64) / (total as f64 - warmup as f64).max(1.0);
                    floored(0.5 * (1.0 + (PI * progress).cos()))
                };
                let z = t + adjust;
                let (rest, kth) = (z % cycle, z / cycle);
                if rest < rewarm && t >= cycle {
                    rest as f64 / rewarm as f64 * wave((kth * cycle + rewarm) as f64)
                } else {
                    wave(z as f64)
                }
            }
        }
    }
}

fn cosine_after_warmup(t: f64, warmup: u64, total: u64) -> f64 {
    half_cosine(t - warmup as f64, (total as f64 - warmup as f64).max(1.0))
}

/// From 1 at 0 to 0 at `length`, and 0 from there on.
fn half_cosine(t: f64, length: f64) -> f64 {
    let progress = (t / length).min(1.0);
    0.5 * (1.0 + (PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { warmup: 10, total: 100, min_ratio: 0.1 };

    #[test]
    fn every_schedule_with_a_warm_up_starts_at_zero_and_peaks_at_its_end() {
        for name in ["linear", "cosine", "cosine_floor", "cosine_min"] {
            let schedule = Schedule::from_name(name).unwrap();
            assert_eq!(schedule.factor(0, SPAN), 0.0, "{name}");
            assert_eq!(schedule.factor(10, SPAN), 1.0, "{name}");
            let end = schedule.factor(100, SPAN);
            let floor = if matches!(name, "linear" | "cosine") { 0.0 } else { 0.1 };
            assert!((end - floor).abs() < 1e-12, "{name} ends at {end}");
        }
    }

    #[test]
    fn the_jagged_cosine_is_zero_at_restarts_and_continuous_after_the_re_warm() {
        let schedule = Schedule::CosineRestarts { cycle: 25, rewarm: 5, adjust: 0 };
        for k in 1..4 {
            assert_eq!(schedule.factor(25 * k, SPAN), 0.0);
            let smooth = Schedule::CosineMin.factor(25 * k + 5, SPAN);
            assert!((schedule.factor(25 * k + 5, SPAN) - smooth).abs() < 1e-12);
            let before = schedule.factor(25 * k + 4, SPAN);
            assert!((before - smooth * 0.8).abs() < 0.01);
        }
    }
}
