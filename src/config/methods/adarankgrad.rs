//! AdaRankGrad's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{at_least_if_set, number, one_of};
use crate::config::settings::{Kind, Setting};
use crate::error::Result;

use super::Defaults;
use super::projection::DECOMPOSITIONS;

/// What becomes of moments whose rank changes; they cannot stay as they are.
const CARRIES: &[&str] = &["rotate", "reset"];

/// `[adarankgrad]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaRankGradTable {
    /// Updates between two refreshes of the subspaces. Default: 200, less in short runs.
    pub update_proj_gap: Option<u64>,
    /// The share of a gradient's squared norm that may stay outside its subspace.
    pub residual: f64,
    /// `rotate` or `reset`: what becomes of the moments at a refresh.
    pub carry: String,
    /// `auto`, `exact` or `randomised`: how subspaces are found.
    pub decomposition: String,
}

impl Default for AdaRankGradTable {
    fn default() -> Self {
        Self {
            update_proj_gap: None,
            // The paper's value was not found; the middle of 0.1 to 0.3 (`methods.md` 10.8).
            residual: 0.2,
            carry: "rotate".into(),
            decomposition: "auto".into(),
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "adarankgrad.update_proj_gap",
        flag: "adarankgrad-update-proj-gap",
        value: "N",
        kind: Kind::Count,
        short: "Updates between two refreshes of the subspaces [default: 200]",
        more: "Shorter runs get a fiftieth of their length, at least 10.",
        aliases: &[],
    },
    Setting {
        key: "adarankgrad.residual",
        flag: "adarankgrad-residual",
        value: "X",
        kind: Kind::Number,
        short: "Share of the gradient's energy that may stay outside the subspace",
        more: "A layer gets the smallest rank that keeps the rest, at most --rank. 0 always takes --rank.",
        aliases: &[],
    },
    Setting {
        key: "adarankgrad.carry",
        flag: "adarankgrad-carry",
        value: "NAME",
        kind: Kind::Choice(CARRIES),
        short: "Moments at a refresh: rotate or reset",
        more: "`rotate` turns them into the new subspace; `reset` starts them again, with their counter.",
        aliases: &[],
    },
    Setting {
        key: "adarankgrad.decomposition",
        flag: "adarankgrad-decomposition",
        value: "NAME",
        kind: Kind::Choice(DECOMPOSITIONS),
        short: "How subspaces are found: auto, exact or randomised",
        more: "`auto` is exact up to a side of 1024.",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let table = &config.adarankgrad;
    at_least_if_set("adarankgrad.update_proj_gap", table.update_proj_gap, 1)?;
    let share = table.residual;
    let is_share = (0.0..1.0).contains(&share);
    number("adarankgrad.residual", share, is_share, "from 0 to below 1")?;
    one_of("adarankgrad.carry", &table.carry, CARRIES)?;
    one_of("adarankgrad.decomposition", &table.decomposition, DECOMPOSITIONS)
}

/// What its runs have where nothing else is said.
pub(super) fn defaults() -> Defaults {
    Defaults::PROJECTED
}
