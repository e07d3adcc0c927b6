//! How many vectors SwitchLoRA switches, and how much of the pool a run will reach.

/// How incoming candidates are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// The candidates that follow the newest active one in the pool's ring.
    Contiguous,
    /// Distinct candidates drawn uniformly from those that are not active.
    Random,
}

impl Selection {
    /// The selection of a configuration name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "contiguous" => Some(Self::Contiguous),
            "random" => Some(Self::Random),
            _ => None,
        }
    }
}

/// The rate of switching and its decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Mean updates between two switches of one vector at the start; infinite: never.
    pub interval0: f64,
    /// Share of the run after which the rate has fallen to a third.
    pub ratio: f64,
    /// The authors' code: `0.3^((t+1)/(ratio·T))`, at least 1e-8, instead of the paper's
    /// `exp(−ln 3 · t/(ratio·T))`.
    pub is_authors_form: bool,
}

impl Rate {
    /// Expected vectors per side to switch at update `t` of `total`, for rank `r`.
    pub fn expected(&self, t: u64, total: u64, rank: usize) -> f64 {
        let span = self.ratio * total as f64;
        let relative = if self.is_authors_form {
            0.3f64.powf((t + 1) as f64 / span).max(1e-8)
        } else {
            (-(3f64.ln()) * t as f64 / span).exp()
        };
        rank as f64 / self.interval0 * relative
    }

    /// Expected switches per side over a whole run: `(r/interval0)·(1 − e^(−θT))/θ`, `θ = ln 3/(ratio·T)`.
    pub fn expected_total(&self, total: u64, rank: usize) -> f64 {
        let theta = 3f64.ln() / (self.ratio * total as f64);
        rank as f64 / self.interval0 * (1.0 - (-theta * total as f64).exp()) / theta
    }
}

/// Expected share of the pool's candidates that have been active by the end of a run.
///
/// Contiguous selection walks the ring and misses none; random selection draws again what it had, so its
/// share is that of `switches` draws with replacement from the spare candidates.
pub fn coverage(max_rank: usize, rank: usize, switches: f64, selection: Selection) -> f64 {
    let (pool, rank) = (max_rank as f64, rank as f64);
    let spare = pool - rank;
    let visited = match selection {
        _ if spare <= 0.0 => pool,
        Selection::Contiguous => (rank + switches).min(pool),
        Selection::Random => pool - spare * (1.0 - 1.0 / spare).powf(switches),
    };
    visited / pool
}

/// The interval that lets a run of `total` updates reach the whole pool, at least `2·freeze` and at
/// most the one set; `None` when the run reaches it anyway or no interval would do.
pub fn suggest_interval(
    rate: &Rate,
    max_rank: usize,
    rank: usize,
    total: u64,
    freeze: u64,
) -> Option<f64> {
    let needed = max_rank.saturating_sub(rank) as f64;
    let expected = rate.expected_total(total, rank);
    if expected >= needed || expected <= 0.0 {
        return None;
    }
    let interval = (rate.interval0 * expected / needed).floor().max((2 * freeze).max(1) as f64);
    (interval < rate.interval0).then_some(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAPER: Rate = Rate { interval0: 40.0, ratio: 0.1, is_authors_form: false };

    #[test]
    fn expected_switches_are_those_of_the_worked_examples() {
        for (total, ranks) in [(1_000, 2.3), (5_000, 11.4), (40_000, 91.0)] {
            let per_vector = PAPER.expected_total(total, 1);
            assert!((per_vector - ranks).abs() < 0.06 * ranks.max(1.0), "{total}: {per_vector}");
        }
    }

    #[test]
    fn the_sum_over_updates_is_the_expected_total() {
        let sum: f64 = (0..2_000).map(|t| PAPER.expected(t, 2_000, 64)).sum();
        let total = PAPER.expected_total(2_000, 64);
        assert!((sum / total - 1.0).abs() < 0.01, "{sum} against {total}");
    }

    #[test]
    fn a_short_run_gets_a_shorter_interval_suggested() {
        let interval = suggest_interval(&PAPER, 256, 64, 1_000, 5).unwrap();
        assert!((10.0..40.0).contains(&interval));
        let faster = Rate { interval0: interval, ..PAPER };
        let reached = coverage(256, 64, faster.expected_total(1_000, 64), Selection::Contiguous);
        assert!(reached > 0.99, "{reached}");
        assert_eq!(suggest_interval(&PAPER, 256, 64, 40_000, 5), None);
        let never = Rate { interval0: f64::INFINITY, ..PAPER };
        assert_eq!(suggest_interval(&never, 256, 64, 1_000, 5), None);
    }

    #[test]
    fn random_selection_covers_less_than_contiguous() {
        let contiguous = coverage(128, 32, 96.0, Selection::Contiguous);
        let random = coverage(128, 32, 96.0, Selection::Random);
        assert_eq!(contiguous, 1.0);
        assert!(random > 0.5 && random < 0.75, "{random}");
    }
}
