//! LoRA+'s settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::positive;
use crate::config::settings::{Kind, Setting};
use crate::error::Result;

/// `[lora-plus]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraPlusTable {
    /// Learning rate of B as a multiple of that of A.
    pub ratio: f64,
}

impl Default for LoraPlusTable {
    fn default() -> Self {
        Self { ratio: 16.0 }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[Setting {
    key: "lora-plus.ratio",
    flag: "lora-plus-ratio",
    value: "X",
    kind: Kind::Number,
    short: "Learning rate of B as a multiple of that of A",
    more: "1 is plain LoRA.",
    aliases: &[],
}];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    positive("lora-plus.ratio", config.lora_plus.ratio)
}
