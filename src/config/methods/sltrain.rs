//! SLTrain's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::number;
use crate::config::settings::{Kind, Setting};
use crate::error::Result;

use super::Defaults;

/// `[sltrain]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlTrainTable {
    /// The share of a weight's entries that the sparse part has.
    pub density: f64,
}

impl Default for SlTrainTable {
    fn default() -> Self {
        Self { density: 0.03 }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[Setting {
    key: "sltrain.density",
    flag: "sltrain-density",
    value: "X",
    kind: Kind::Number,
    short: "Share of a weight's entries in the sparse part, at random places",
    more: "0.05 at 7B in the paper.",
    aliases: &[],
}];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let density = config.sltrain.density;
    let is_share = density > 0.0 && density <= 1.0;
    number("sltrain.density", density, is_share, "above 0 and at most 1")
}

/// What its runs have where nothing else is said (`methods.md` 10.7 and 13).
pub(super) fn defaults(hidden_size: usize) -> Defaults {
    // The authors' at 60M; at 130M and 350M; at 1B.
    let alpha = match hidden_size {
        ..=512 => 32.0,
        513..=1024 => 16.0,
        _ => 8.0,
    };
    Defaults {
        alpha,
        learning_rate: 3e-3,
        most_warmup: u64::MAX,
        max_grad_norm: 0.0,
        ..Defaults::ADAPTER
    }
}
