//! ReLoRA's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{at_least_if_set, not_negative_if_set, number, one_of};
use crate::config::settings::{Kind, Setting};
use crate::error::Result;

use super::Defaults;

/// Which entries of the moments ReLoRA zeroes at a merge.
const RELORA_RESETS: &[&str] = &["magnitude", "random", "zero"];

/// Whether ReLoRA's masks of the two moments regard each other.
const RELORA_MASKS: &[&str] = &["joint", "independent"];

/// `[relora]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReloraTable {
    /// Full-rank updates before the factors are made. Default: a quarter of the run, and what does not go into
    /// whole cycles.
    pub warm_start: Option<u64>,
    /// Peak learning rate of those updates. Default: that of full rank, 1e-3 or, on a model folder, 2e-5.
    pub warm_start_learning_rate: Option<f64>,
    /// Updates from one merge to the next. Default: a quarter of what follows the warm start.
    pub cycle: Option<u64>,
    /// Warm-up of the first cycle. Default: a tenth of a cycle, at most 500.
    pub warmup_steps: Option<u64>,
    /// Warm-up after each merge. Default: a twentieth of a cycle, 2 to 100.
    pub rewarm_steps: Option<u64>,
    /// `magnitude`, `random` or `zero`: which entries of the moments a merge zeroes.
    pub reset: String,
    /// Share of the entries that `magnitude` and `random` zero.
    pub prune_ratio: f64,
    /// `joint`: a first moment stays only where the second does; `independent`: as in the authors' code.
    pub masks: String,
}

impl Default for ReloraTable {
    fn default() -> Self {
        Self {
            warm_start: None,
            warm_start_learning_rate: None,
            cycle: None,
            warmup_steps: None,
            rewarm_steps: None,
            reset: "magnitude".into(),
            prune_ratio: 0.99,
            masks: "joint".into(),
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "relora.warm_start",
        flag: "relora-warm-start",
        value: "N",
        kind: Kind::Count,
        short: "Full-rank updates before the factors are made [default: see below]",
        more: "A quarter of the run, and what does not go into whole cycles after it. 0 leaves it out.",
        aliases: &[],
    },
    Setting {
        key: "relora.warm_start_learning_rate",
        flag: "relora-warm-start-learning-rate",
        value: "X",
        kind: Kind::Number,
        short: "Peak learning rate of the full-rank updates of the warm start [default: full rank's]",
        more: "1e-3, and 2e-5 on a model folder.",
        aliases: &[],
    },
    Setting {
        key: "relora.cycle",
        flag: "relora-cycle",
        value: "N",
        kind: Kind::Count,
        short: "Updates between merges [default: a quarter of the rest]",
        more: "As long as the rest of the run or longer: no merge, plain LoRA from a warm start.",
        aliases: &[],
    },
    Setting {
        key: "relora.warmup_steps",
        flag: "relora-warmup-steps",
        value: "N",
        kind: Kind::Count,
        short: "Warm-up of the first cycle [default: a tenth, at most 500]",
        more: "--warmup-steps is that of the warm start.",
        aliases: &[],
    },
    Setting {
        key: "relora.rewarm_steps",
        flag: "relora-rewarm-steps",
        value: "N",
        kind: Kind::Count,
        short: "Warm-up after each merge [default: a twentieth, 2 to 100]",
        more: "The learning rate drops to 0 at a merge and then joins its curve again.",
        aliases: &[],
    },
    Setting {
        key: "relora.reset",
        flag: "relora-reset",
        value: "NAME",
        kind: Kind::Choice(RELORA_RESETS),
        short: "Reset of the factors' moments: magnitude, random or zero",
        more: "`magnitude` zeroes the smallest entries, `random` any, `zero` all. Adam's counters go on.",
        aliases: &[],
    },
    Setting {
        key: "relora.prune_ratio",
        flag: "relora-prune-ratio",
        value: "X",
        kind: Kind::Number,
        short: "Share of the moments that a reset zeroes",
        more: "For magnitude and random.",
        aliases: &[],
    },
    Setting {
        key: "relora.masks",
        flag: "relora-masks",
        value: "NAME",
        kind: Kind::Choice(RELORA_MASKS),
        short: "Masks of the two moments: joint or independent",
        more: "`joint` keeps a first moment only where its second one stays; `independent` is the authors' code and can take huge steps.",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let relora = &config.relora;
    not_negative_if_set("relora.warm_start_learning_rate", relora.warm_start_learning_rate)?;
    // One update at rate 0, one that learns.
    at_least_if_set("relora.cycle", relora.cycle, 2)?;
    // Without a re-warm the rate would not be 0 at a merge.
    at_least_if_set("relora.rewarm_steps", relora.rewarm_steps, 1)?;
    one_of("relora.reset", &relora.reset, RELORA_RESETS)?;
    let share = relora.prune_ratio;
    number("relora.prune_ratio", share, (0.0..=1.0).contains(&share), "from 0 to 1")?;
    one_of("relora.masks", &relora.masks, RELORA_MASKS)
}

/// What its runs have where nothing else is said.
pub(super) fn defaults() -> Defaults {
    Defaults { most_rank: 128, schedule: "cosine_restarts", ..Defaults::ADAPTER }
}
