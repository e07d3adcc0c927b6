//! LoRA-GA's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{at_least, one_of, positive};
use crate::config::settings::{Kind, Setting};
use crate::error::Result;

use super::Defaults;

/// Which singular vectors go to which factor.
const GA_DIRECTIONS: &[&str] = &["ArB2r", "A2rBr", "ArBr", "random"];

/// How long the starting vectors are.
const GA_SCALES: &[&str] = &["stable", "gd", "unit", "weight"];

/// `[lora-ga]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraGaTable {
    /// Sequences of the run's first batches over which the gradient is estimated.
    pub sequences: usize,
    /// γ of the stable scale. Default: 16, for models above 1 billion parameters 64.
    pub gamma: Option<f64>,
    /// `ArB2r`, `A2rBr`, `ArBr` or `random`: which singular vectors go to which factor.
    pub direction: String,
    /// `stable`, `gd`, `unit` or `weight`: how long the starting vectors are.
    pub scale: String,
    /// Whether the starting product is limited to the largest entry of the weight.
    pub norm_clip: bool,
}

impl Default for LoraGaTable {
    fn default() -> Self {
        Self {
            sequences: 64,
            gamma: None,
            direction: "ArB2r".into(),
            scale: "stable".into(),
            norm_clip: false,
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "lora-ga.sequences",
        flag: "lora-ga-sequences",
        value: "N",
        kind: Kind::Count,
        short: "Sequences over which the gradient is estimated before the run",
        more: "Rounded up to whole batches of the run's own data. The training sees them again.",
        aliases: &[],
    },
    Setting {
        key: "lora-ga.gamma",
        flag: "lora-ga-gamma",
        value: "X",
        kind: Kind::Number,
        short: "Gamma of the stable scale [default: 16; above 1 billion parameters 64]",
        more: "Larger starts with shorter vectors.",
        aliases: &[],
    },
    Setting {
        key: "lora-ga.direction",
        flag: "lora-ga-direction",
        value: "NAME",
        kind: Kind::Choice(GA_DIRECTIONS),
        short: "Singular vectors of each factor: ArB2r, A2rBr, ArBr or random",
        more: "ArB2r gives the first r to A and the next r to B, A2rBr the other way round; ArBr takes turns.",
        aliases: &[],
    },
    Setting {
        key: "lora-ga.scale",
        flag: "lora-ga-scale",
        value: "NAME",
        kind: Kind::Choice(GA_SCALES),
        short: "Length of the starting vectors: stable, gd, unit or weight",
        more: "`stable` keeps the adapter's output independent of the rank; `gd` makes the first step that of full-rank gradient \
               descent; `weight` goes by the singular values of the weight.",
        aliases: &[],
    },
    Setting {
        key: "lora-ga.norm_clip",
        flag: "lora-ga-norm-clip",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Limit the starting product to the largest entry of the weight",
        more: "",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let table = &config.lora_ga;
    at_least("lora-ga.sequences", table.sequences, 1)?;
    if let Some(gamma) = table.gamma {
        positive("lora-ga.gamma", gamma)?;
    }
    one_of("lora-ga.direction", &table.direction, GA_DIRECTIONS)?;
    one_of("lora-ga.scale", &table.scale, GA_SCALES)
}

/// What its runs have where nothing else is said (`methods.md` 7.4).
pub(super) fn defaults() -> Defaults {
    Defaults::FINE_TUNING
}
