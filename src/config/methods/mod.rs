//! The methods' own tables: a file each with its struct, its rows of the table of settings, what values can work, and
//! the defaults of the common settings.

use super::RunConfig;
use super::settings::METHODS;
use crate::error::Result;

pub(super) mod adarankgrad;
pub(super) mod fira;
pub(super) mod galore;
pub(super) mod inrank;
pub(super) mod lora;
pub(super) mod lora_ga;
pub(super) mod lora_plus;
pub(super) mod lte;
pub(super) mod pissa;
mod projection;
pub(super) mod relora;
pub(super) mod sltrain;
pub(super) mod spam;
pub(super) mod switchlora;

pub use adarankgrad::AdaRankGradTable;
pub use fira::FiraTable;
pub use galore::GaloreTable;
pub use inrank::InRankTable;
pub use lora::LoraTable;
pub use lora_ga::LoraGaTable;
pub use lora_plus::LoraPlusTable;
pub use lte::{LteTable, check_batch};
pub use pissa::PissaTable;
pub use projection::ProjectionSettings;
pub use relora::ReloraTable;
pub use sltrain::SlTrainTable;
pub use spam::{SpamTable, check_warmup};
pub use switchlora::SwitchLoraTable;

/// What a method's runs have where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Whether it is made for weights that are trained already; it works on random ones too.
    pub is_for_fine_tuning: bool,
    /// The rank is this part of the hidden size.
    pub rank_divisor: usize,
    /// And this at most.
    pub most_rank: usize,
    /// Numerator of the adapter scale.
    pub alpha: f64,
    /// The adapter scale, where it is what a method fixes: alpha is this times the rank then.
    pub scale: Option<f64>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// What differs on a model folder.
    pub fine_tuning: FineTuning,
    /// Schedule of the learning rate.
    pub schedule: &'static str,
    /// The warm-up is a tenth of the run, and this at most.
    pub most_warmup: u64,
    /// Global gradient-norm clip; 0: none.
    pub max_grad_norm: f64,
}

/// What a method's runs on a model folder have where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FineTuning {
    /// Most rank.
    pub most_rank: usize,
    /// Numerator of the adapter scale, where it differs.
    pub alpha: Option<f64>,
    /// Peak learning rate.
    pub learning_rate: f64,
}

impl FineTuning {
    /// LoRA's habits: rank 8 and alpha 16 (`methods.md` 3).
    const ADAPTER: Self = Self { most_rank: 8, alpha: Some(16.0), learning_rate: 2e-4 };
    /// The method's own rank and scale at a rate for trained weights.
    const fn at(learning_rate: f64) -> Self {
        Self { most_rank: usize::MAX, alpha: None, learning_rate }
    }
}

impl Defaults {
    /// Of methods that train factors (`methods.md` 3).
    const ADAPTER: Self = Self {
        is_for_fine_tuning: false,
        rank_divisor: 4,
        most_rank: usize::MAX,
        alpha: 32.0,
        scale: None,
        learning_rate: 2e-3,
        // A tenth of the rate for random weights.
        fine_tuning: FineTuning::at(2e-4),
        schedule: "cosine",
        most_warmup: 100,
        max_grad_norm: 1.0,
    };
    /// Of methods to fine-tune with (`methods.md` 3 and 7.4).
    const FINE_TUNING: Self = Self {
        is_for_fine_tuning: true,
        most_rank: 8,
        alpha: 16.0,
        fine_tuning: FineTuning { learning_rate: 1e-4, ..FineTuning::ADAPTER },
        ..Self::ADAPTER
    };
    /// Of methods that project gradients (`methods.md` 5.4).
    const PROJECTED: Self = Self {
        alpha: 0.25,
        learning_rate: 1e-2,
        // Times alpha that of full rank and a little more, as only a part of the gradient comes through.
        fine_tuning: FineTuning::at(2e-4),
        schedule: "cosine_min",
        most_warmup: u64::MAX,
        max_grad_norm: 0.0,
        ..Self::ADAPTER
    };
    const FULL: Self =
        Self { learning_rate: 1e-3, fine_tuning: FineTuning::at(2e-5), ..Self::ADAPTER };

    /// The rate of a warm start: that of full rank, which it is.
    pub fn warm_start_rate(is_fine_tuning: bool) -> f64 {
        let full = Self::FULL;
        if is_fine_tuning { full.fine_tuning.learning_rate } else { full.learning_rate }
    }
}

impl RunConfig {
    /// The defaults of the common settings that the method has, for a model of this width.
    pub fn method_defaults(&self, hidden_size: usize) -> Defaults {
        match self.train.method.as_str() {
            "lora" | "rslora" | "lora-plus" => lora::defaults(self),
            "lora-ga" => lora_ga::defaults(),
            "pissa" => pissa::defaults(),
            "dora" => Defaults::FINE_TUNING,
            "switchlora" => switchlora::defaults(self),
            "relora" => relora::defaults(),
            "galore" => galore::defaults(),
            "fira" => fira::defaults(),
            "adarankgrad" => adarankgrad::defaults(),
            "sltrain" => sltrain::defaults(hidden_size),
            "inrank" => inrank::defaults(),
            "lte" => lte::defaults(self),
            "spam" => spam::defaults(),
            _ => Defaults::FULL,
        }
    }
}

impl RunConfig {
    /// Whether the settings of a table mean something to this run: every table but those of other methods.
    pub fn uses_table(&self, table: &str) -> bool {
        table == "spam" && self.uses_spam() || is_table_of(table, &self.train.method)
    }
}

/// Whether the settings of a table mean something to a method of itself: every table but those of other methods.
pub fn is_table_of(table: &str, method: &str) -> bool {
    match table {
        // rsLoRA and LoRA+ are LoRA in everything else.
        "lora" => matches!(method, "lora" | "rslora" | "lora-plus"),
        _ => !METHODS.contains(&table) || table == method,
    }
}

/// Whether a method has factors or projectors, so that a rank means something to it.
pub fn has_rank(method: &str) -> bool {
    !matches!(method, "full" | "spam")
}

/// Checks the tables of all methods, whichever is used.
pub(super) fn check(config: &RunConfig) -> Result<()> {
    lora::check(config)?;
    lora_ga::check(config)?;
    lora_plus::check(config)?;
    pissa::check(config)?;
    switchlora::check(config)?;
    relora::check(config)?;
    galore::check(config)?;
    fira::check(config)?;
    adarankgrad::check(config)?;
    sltrain::check(config)?;
    inrank::check(config)?;
    lte::check(config)?;
    spam::check(config)
}
