//! Settings of the rank metrics.

use serde::{Deserialize, Serialize};

use super::RunConfig;
use super::check::{number, one_of};
use super::settings::{Kind, Setting};
use crate::error::{Error, Result};

/// What the change of a weight is counted from.
const REFERENCES: &[&str] = &["start", "warm-start-end"];

/// Which layers are measured.
const LAYERS: &[&str] = &["sampled", "all"];

/// What can be measured of a layer.
const MATRICES: &[&str] = &["change", "adapter", "weight", "gradient"];

/// `[rank]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RankTable {
    /// Updates between measurements; 0: none. Default: 10 measurements a run.
    pub every: Option<u64>,
    /// Share of the training time that measurements may take.
    pub budget: f64,
    /// `sampled`: the first, middle and last block; `all`.
    pub layers: String,
    /// What is measured, separated by commas: `change`, `adapter`, `weight`.
    pub matrices: String,
    /// `start` or `warm-start-end`: what a change is counted from.
    pub reference: String,
}

impl Default for RankTable {
    fn default() -> Self {
        Self {
            every: None,
            budget: 0.01,
            layers: "sampled".into(),
            matrices: "change,adapter,gradient".into(),
            reference: "start".into(),
        }
    }
}

impl RankTable {
    /// The names in `matrices`.
    pub fn matrices(&self) -> impl Iterator<Item = &str> {
        self.matrices.split(',').map(str::trim)
    }
}

/// The rows of the table of settings.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "rank.every",
        flag: "rank-every",
        value: "N",
        kind: Kind::Count,
        short: "Updates between rank measurements; 0 means none [default: 10 a run]",
        more: "They read the weights and change nothing: the run has the same bits with and without them.",
        aliases: &[],
    },
    Setting {
        key: "rank.budget",
        flag: "rank-budget",
        value: "X",
        kind: Kind::Number,
        short: "Share of the training time that rank measurements may take",
        more: "What does not fit is left out, and the log says so. `inf` measures everything.",
        aliases: &[],
    },
    Setting {
        key: "rank.layers",
        flag: "rank-layers",
        value: "NAME",
        kind: Kind::Choice(LAYERS),
        short: "Layers that are measured: sampled or all",
        more: "`sampled` takes the first, the middle and the last block.",
        aliases: &[],
    },
    Setting {
        key: "rank.matrices",
        flag: "rank-matrices",
        value: "LIST",
        kind: Kind::Text,
        short: "What is measured: change, adapter, weight, gradient",
        more: "Separated by commas. `change` is the effective weight less that of the reference, `adapter` what the factors \
               add to the weight now, `weight` the effective weight itself. `gradient` keeps what methods that look for \
               subspaces find of the gradient on the way.",
        aliases: &[],
    },
    Setting {
        key: "rank.reference",
        flag: "rank-reference",
        value: "NAME",
        kind: Kind::Choice(REFERENCES),
        short: "What a change is counted from: start or warm-start-end",
        more: "The end of a full-rank warm start is kept in a file of the run.",
        aliases: &[],
    },
];

/// The values that can work.
pub(super) fn check(config: &RunConfig) -> Result<()> {
    let rank = &config.rank;
    number("rank.budget", rank.budget, rank.budget >= 0.0, "0 or more (`inf`: no limit)")?;
    one_of("rank.layers", &rank.layers, LAYERS)?;
    one_of("rank.reference", &rank.reference, REFERENCES)?;
    if let Some(unknown) = rank.matrices().find(|name| !MATRICES.contains(name)) {
        return Err(Error::config(
            format!("rank.matrices names `{unknown}`, which cannot be measured"),
            format!("use some of {}", MATRICES.join(",")),
        ));
    }
    Ok(())
}
