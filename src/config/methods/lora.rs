//! LoRA's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::one_of;
use crate::config::settings::{Kind, Setting};
use crate::error::{Error, Result};

use super::{Defaults, FineTuning};

/// Inits of LoRA's factors.
const LORA_INITS: &[&str] = &["standard", "both_kaiming", "switchlora", "gaussian"];

/// What stands behind LoRA's factors.
const LORA_BASES: &[&str] = &["dense", "none"];

/// `[lora]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraTable {
    /// `standard`, `both_kaiming`, `switchlora` or `gaussian`. Default: `standard`, and `both_kaiming` without a base.
    pub init: Option<String>,
    /// `dense` keeps the frozen weight; `none` trains the product of the factors alone.
    pub base: String,
}

impl Default for LoraTable {
    fn default() -> Self {
        Self { init: None, base: "dense".into() }
    }
}

impl LoraTable {
    /// How the factors begin, where nothing else is said: without a base the product is the whole layer, so neither
    /// factor may be zero.
    pub fn start(&self) -> &str {
        let usual = if self.base == "none" { "both_kaiming" } else { "standard" };
        self.init.as_deref().unwrap_or(usual)
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "lora.init",
        flag: "lora-init",
        value: "NAME",
        kind: Kind::Choice(LORA_INITS),
        short: "standard, both_kaiming, switchlora or gaussian factors [default: standard]",
        more: "both_kaiming with --lora-base none. All but `standard` and `gaussian` start with a product that is not zero and take it off the \
               frozen weight, so the model's output is unchanged.",
        aliases: &["init-lora-weights"],
    },
    Setting {
        key: "lora.base",
        flag: "lora-base",
        value: "NAME",
        kind: Kind::Choice(LORA_BASES),
        short: "dense: the frozen weight stays; none: only the product of the factors",
        more: "`none` goes with --lora-init both_kaiming alone.",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let lora = &config.lora;
    one_of("lora.init", lora.start(), LORA_INITS)?;
    one_of("lora.base", &lora.base, LORA_BASES)?;
    if lora.base == "none" && lora.start() != "both_kaiming" {
        // With one factor at zero and no dense path the gradient is dead (GaLore's "Low-Rank" baseline).
        return Err(Error::config(
            format!("lora.base is `none` and lora.init is `{}`, which cannot learn", lora.start()),
            "leave out --lora-init, which is both_kaiming then, or keep --lora-base dense",
        ));
    }
    Ok(())
}

/// What its runs have where nothing else is said.
pub(super) fn defaults(config: &RunConfig) -> Defaults {
    if config.lora.start() == "switchlora" {
        let fine_tuning = FineTuning { most_rank: 8, alpha: None, learning_rate: 1e-3 };
        return Defaults { alpha: 1.0, learning_rate: 1e-2, fine_tuning, ..Defaults::ADAPTER };
    }
    // The same factors move `s` times as far: rsLoRA's scale is √r times LoRA's; LoRA+ gives B 16 times the rate of A.
    let learning_rate = match config.train.method.as_str() {
        "rslora" => 1e-4,
        "lora-plus" => 5e-5,
        _ => FineTuning::ADAPTER.learning_rate,
    };
    Defaults {
        fine_tuning: FineTuning { learning_rate, ..FineTuning::ADAPTER },
        ..Defaults::ADAPTER
    }
}
