//! SPAM's settings. It stands between clipping and Adam, so its table counts with every method.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{at_least_if_set, number, positive};
use crate::config::settings::{Kind, Setting};
use crate::error::{Error, Result};

use super::Defaults;

/// `[spam]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpamTable {
    /// Whether the run uses SPAM; `method = "spam"` is full rank with it.
    pub enabled: bool,
    /// Updates from one reset of the moments to the next. Default: a quarter of the run, 50 to 500.
    pub reset_every: Option<u64>,
    /// Updates after a reset until the step has its full size again. Default: three tenths of the interval.
    pub warmup_steps: Option<u64>,
    /// A gradient's entry is clipped where its square is above this times its second moment.
    pub threshold: f64,
    /// The share of each dense target weight that is trained between two resets.
    pub density: f64,
}

impl Default for SpamTable {
    fn default() -> Self {
        Self {
            enabled: false,
            reset_every: None,
            warmup_steps: None,
            threshold: 5000.0,
            density: 1.0,
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "spam.enabled",
        flag: "spam-enabled",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Momentum resets and spike clipping, with any method",
        more: "--method spam is full rank with it.",
        aliases: &["spam"],
    },
    Setting {
        key: "spam.reset_every",
        flag: "spam-reset-every",
        value: "N",
        kind: Kind::Count,
        short: "Updates between resets of the moments [default: a quarter, 50 to 500]",
        more: "Adam's counters go on.",
        aliases: &[],
    },
    Setting {
        key: "spam.warmup_steps",
        flag: "spam-warmup-steps",
        value: "N",
        kind: Kind::Count,
        short: "Updates after a reset until steps are whole again [default: 3/10]",
        more: "The learning rate begins at a hundredth and follows a cosine.",
        aliases: &[],
    },
    Setting {
        key: "spam.threshold",
        flag: "spam-threshold",
        value: "X",
        kind: Kind::Number,
        short: "An entry is clipped where its square is this many second moments",
        more: "Not in the first 20 updates and those after a reset. `inf` never clips.",
        aliases: &[],
    },
    Setting {
        key: "spam.density",
        flag: "spam-density",
        value: "X",
        kind: Kind::Number,
        short: "Share of the entries of each target weight that are trained",
        more: "A random share, drawn anew at each reset. Below 1 only with --method spam.",
        aliases: &[],
    },
];

impl RunConfig {
    /// Whether moments are reset and spikes clipped.
    pub fn uses_spam(&self) -> bool {
        self.spam.enabled || self.train.method == "spam"
    }
}

/// The values that can work.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let spam = &config.spam;
    // Nothing is clipped for 20 updates after a reset.
    at_least_if_set("spam.reset_every", spam.reset_every, 21)?;
    let threshold = spam.threshold;
    if threshold != f64::INFINITY {
        positive("spam.threshold", threshold)?;
    }
    let density = spam.density;
    number("spam.density", density, density > 0.0 && density <= 1.0, "above 0, at most 1")?;
    if density < 1.0 && spam.enabled && config.train.method != "spam" {
        return Err(Error::config(
            format!("spam.density is {density}, which goes with --method spam alone"),
            "leave it out: other methods do not train the whole of a target weight",
        ));
    }
    check_warmup(config)
}

/// Refuses a warm-up that the next reset would cut short, as far as both are known.
pub fn check_warmup(config: &RunConfig) -> Result<()> {
    match (config.spam.warmup_steps, config.spam.reset_every) {
        (Some(warmup), Some(every)) if warmup >= every => Err(Error::config(
            format!(
                "spam.warmup_steps is {warmup}, but the moments are reset every {every} updates"
            ),
            format!(
                "set --spam-warmup-steps {} or less, or a larger --spam-reset-every",
                every - 1
            ),
        )),
        _ => Ok(()),
    }
}

/// What `--method spam` has where nothing else is said: its clipping of entries takes the place of that by norm.
pub(super) fn defaults() -> Defaults {
    Defaults { max_grad_norm: 0.0, ..Defaults::FULL }
}
