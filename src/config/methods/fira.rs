//! Fira's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{at_least_if_set, number, one_of};
use crate::config::settings::{Kind, Setting};
use crate::error::Result;

use super::Defaults;
use super::projection::{CARRIES, DECOMPOSITIONS};

/// Forms of Fira's residual.
const FIRA_FORMS: &[&str] = &["released", "paper"];

/// Scalings of Fira's residual.
const FIRA_SCALINGS: &[&str] = &["column", "matrix", "none"];

/// `[fira]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FiraTable {
    /// Updates between two refreshes of the subspaces. Default: 200, less in short runs.
    pub update_proj_gap: Option<u64>,
    /// `keep`, `rotate` or `reset`: what becomes of the moments at a refresh.
    pub carry: String,
    /// `auto`, `exact` or `randomised`: how subspaces are found.
    pub decomposition: String,
    /// `released` or `paper`: the authors' package and their paper differ.
    pub form: String,
    /// `column`, `matrix` or `none`: how the residual is scaled.
    pub scaling: String,
    /// Most growth of the residual's norm from one update to the next.
    pub gamma: f64,
}

impl Default for FiraTable {
    fn default() -> Self {
        Self {
            update_proj_gap: None,
            carry: "keep".into(),
            decomposition: "auto".into(),
            form: "released".into(),
            scaling: "column".into(),
            gamma: 1.01,
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "fira.update_proj_gap",
        flag: "fira-update-proj-gap",
        value: "N",
        kind: Kind::Count,
        short: "Updates between two refreshes of the subspaces [default: 200]",
        more: "Shorter runs get a fiftieth of their length, at least 10.",
        aliases: &[],
    },
    Setting {
        key: "fira.carry",
        flag: "fira-carry",
        value: "NAME",
        kind: Kind::Choice(CARRIES),
        short: "Moments at a refresh: keep, rotate or reset",
        more: "`keep` is what the authors' code does; `rotate` turns them into the new subspace; `reset` starts them again, with \
               their counter.",
        aliases: &[],
    },
    Setting {
        key: "fira.decomposition",
        flag: "fira-decomposition",
        value: "NAME",
        kind: Kind::Choice(DECOMPOSITIONS),
        short: "How subspaces are found: auto, exact or randomised",
        more: "`auto` is exact up to a side of 1024.",
        aliases: &[],
    },
    Setting {
        key: "fira.form",
        flag: "fira-form",
        value: "NAME",
        kind: Kind::Choice(FIRA_FORMS),
        short: "Form of the residual: released or paper",
        more: "`released` is the authors' package, from which their numbers come.",
        aliases: &[],
    },
    Setting {
        key: "fira.scaling",
        flag: "fira-scaling",
        value: "NAME",
        kind: Kind::Choice(FIRA_SCALINGS),
        short: "Scaling of the residual: column, matrix or none",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "fira.gamma",
        flag: "fira-gamma",
        value: "X",
        kind: Kind::Number,
        short: "Most growth of the residual's norm from one update to the next",
        more: "At least 1; `inf` switches the limiter off.",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let fira = &config.fira;
    at_least_if_set("fira.update_proj_gap", fira.update_proj_gap, 1)?;
    one_of("fira.carry", &fira.carry, CARRIES)?;
    one_of("fira.decomposition", &fira.decomposition, DECOMPOSITIONS)?;
    one_of("fira.form", &fira.form, FIRA_FORMS)?;
    one_of("fira.scaling", &fira.scaling, FIRA_SCALINGS)?;
    number("fira.gamma", fira.gamma, fira.gamma >= 1.0, "1 or more (`inf` never limits)")
}

/// What its runs have where nothing else is said.
pub(super) fn defaults() -> Defaults {
    Defaults::PROJECTED
}
