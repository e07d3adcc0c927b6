//! InRank's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{at_least, at_least_if_set, number};
use crate::config::settings::{Kind, Setting};
use crate::error::{Error, Result};

use super::Defaults;

/// `[inrank]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InRankTable {
    /// The rank that layers start with.
    pub start_rank: usize,
    /// Vectors trained beyond the rank, and the most it grows at one check. Default: an eighth of the hidden size.
    pub buffer: Option<usize>,
    /// The rank grows until it explains more than this share of the spectrum's variance.
    pub ratio: f64,
    /// Updates before the first check. Default: 200, at most a tenth of the run.
    pub first_check: Option<u64>,
    /// Updates between two checks. Default: 25, at most a fortieth of the run.
    pub gap: Option<u64>,
    /// The update after which layers are cut to their rank and stay there. Default: after four fifths of the run.
    pub truncate_at: Option<u64>,
}

impl Default for InRankTable {
    fn default() -> Self {
        Self {
            start_rank: 2,
            buffer: None,
            ratio: 0.9,
            first_check: None,
            gap: None,
            truncate_at: None,
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "inrank.start_rank",
        flag: "inrank-start-rank",
        value: "N",
        kind: Kind::Count,
        short: "Rank that layers start with",
        more: "--rank is the most that it may become.",
        aliases: &[],
    },
    Setting {
        key: "inrank.buffer",
        flag: "inrank-buffer",
        value: "N",
        kind: Kind::Count,
        short: "Vectors trained beyond the rank [default: an eighth of the hidden size]",
        more: "They show where the rank has to grow; it grows by this many at one check at most.",
        aliases: &[],
    },
    Setting {
        key: "inrank.ratio",
        flag: "inrank-ratio",
        value: "X",
        kind: Kind::Number,
        short: "The rank grows until it explains this share of the spectrum",
        more: "Of the variance of the singular values.",
        aliases: &[],
    },
    Setting {
        key: "inrank.first_check",
        flag: "inrank-first-check",
        value: "N",
        kind: Kind::Count,
        short: "Updates before the first check of the ranks [default: 200]",
        more: "At most a tenth of the run.",
        aliases: &[],
    },
    Setting {
        key: "inrank.gap",
        flag: "inrank-gap",
        value: "N",
        kind: Kind::Count,
        short: "Updates between two checks of the ranks [default: 25]",
        more: "At most a fortieth of the run.",
        aliases: &[],
    },
    Setting {
        key: "inrank.truncate_at",
        flag: "inrank-truncate-at",
        value: "N",
        kind: Kind::Count,
        short: "Update after which layers are cut to their rank [default: 4/5 of the run]",
        more: "The buffers end then, ranks stay, and training goes on.",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let table = &config.inrank;
    at_least("inrank.start_rank", table.start_rank, 1)?;
    at_least_if_set("inrank.buffer", table.buffer, 1)?;
    at_least_if_set("inrank.gap", table.gap, 1)?;
    at_least_if_set("inrank.truncate_at", table.truncate_at, 1)?;
    let share = table.ratio;
    number("inrank.ratio", share, share > 0.0 && share < 1.0, "above 0 and below 1")?;
    if config.train.method != "inrank" {
        return Ok(());
    }
    if let Some(rank) = config.train.rank.filter(|&rank| rank < table.start_rank) {
        return Err(Error::config(
            format!("inrank.start_rank is {}, above train.rank = {rank}", table.start_rank),
            format!("give --inrank-start-rank {rank} or less, or a higher --rank"),
        ));
    }
    if let (Some(cut), Some(iters)) = (table.truncate_at, config.train.iters)
        && cut > iters
    {
        return Err(Error::config(
            format!("inrank.truncate_at is {cut}, but train.iters is {iters}"),
            format!("give --inrank-truncate-at {iters} or less, or more --iters"),
        ));
    }
    Ok(())
}

/// What its runs have where nothing else is said.
pub(super) fn defaults() -> Defaults {
    Defaults { rank_divisor: 2, alpha: 1.0, ..Defaults::ADAPTER }
}
