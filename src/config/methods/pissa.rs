//! PiSSA's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::one_of;
use crate::config::settings::{Kind, Setting};
use crate::error::Result;

use super::Defaults;
use super::projection::DECOMPOSITIONS;

/// `[pissa]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PissaTable {
    /// `auto`, `exact` or `randomised`: how the weights' singular vectors are found.
    pub decomposition: String,
}

impl Default for PissaTable {
    fn default() -> Self {
        Self { decomposition: "auto".into() }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[Setting {
    key: "pissa.decomposition",
    flag: "pissa-decomposition",
    value: "NAME",
    kind: Kind::Choice(DECOMPOSITIONS),
    short: "How the weights' singular vectors are found: auto, exact or randomised",
    more: "`auto` is exact up to a side of 512.",
    aliases: &[],
}];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    one_of("pissa.decomposition", &config.pissa.decomposition, DECOMPOSITIONS)
}

/// What its runs have where nothing else is said.
pub(super) fn defaults() -> Defaults {
    Defaults::FINE_TUNING
}
