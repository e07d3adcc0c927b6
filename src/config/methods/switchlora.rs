//! SwitchLoRA's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{not_negative_if_set, number, one_of, positive};
use crate::config::settings::{Kind, Setting};
use crate::error::{Error, Result};

use super::{Defaults, FineTuning};

/// How SwitchLoRA selects vectors.
const SWITCH_SELECTIONS: &[&str] = &["contiguous", "random"];

/// Forms of the decay of SwitchLoRA's rate.
const SWITCH_RATES: &[&str] = &["paper", "code"];

/// Where SwitchLoRA's candidate vectors wait.
const SWITCH_POOLS: &[&str] = &["auto", "device", "host"];

/// `[switchlora]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwitchLoraTable {
    /// Mean updates between two switches of one vector, at the start of the run.
    pub interval0: f64,
    /// The rate has fallen to a third at this share of the run.
    pub ratio: f64,
    /// Updates for which the counterpart of a switched vector is held.
    pub freeze: u64,
    /// `contiguous` or `random`.
    pub selection: String,
    /// `paper` or `code`: the form of the rate's decay.
    pub rate: String,
    /// Whether weight decay acts on frozen vectors, as in the authors' code.
    pub decay_frozen: bool,
    /// Whether Adam's counters advance during a freeze, as in the authors' code.
    pub count_frozen_steps: bool,
    /// Full-rank updates before the factors are made.
    pub warm_start: u64,
    /// Peak learning rate of those updates. Default: that of full rank, 1e-3 or, on a model folder, 2e-5.
    pub warm_start_learning_rate: Option<f64>,
    /// `auto`, `device` or `host`: where the candidate vectors wait.
    pub pools: String,
}

impl Default for SwitchLoraTable {
    fn default() -> Self {
        Self {
            interval0: 40.0,
            ratio: 0.1,
            freeze: 5,
            selection: "contiguous".into(),
            rate: "paper".into(),
            decay_frozen: false,
            count_frozen_steps: true,
            warm_start: 0,
            warm_start_learning_rate: None,
            pools: "auto".into(),
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "switchlora.interval0",
        flag: "switchlora-interval0",
        value: "X",
        kind: Kind::Number,
        short: "Mean updates between two switches of one vector, at the start",
        more: "At least twice --switchlora-freeze. `inf` never switches. About 10 suits short runs.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.ratio",
        flag: "switchlora-ratio",
        value: "X",
        kind: Kind::Number,
        short: "The switching rate has fallen to a third at this share of the run",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "switchlora.freeze",
        flag: "switchlora-freeze",
        value: "N",
        kind: Kind::Count,
        short: "Updates for which the counterpart of a switched vector is held",
        more: "0 resets its moments without holding it.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.selection",
        flag: "switchlora-selection",
        value: "NAME",
        kind: Kind::Choice(SWITCH_SELECTIONS),
        short: "Choice of vectors: contiguous or random",
        more: "`contiguous` visits more of the pool in the same number of switches.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.rate",
        flag: "switchlora-rate",
        value: "NAME",
        kind: Kind::Choice(SWITCH_RATES),
        short: "Form of the rate's decay: paper or code",
        more: "`code` is the form of the authors' program.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.decay_frozen",
        flag: "switchlora-decay-frozen",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Let weight decay act on held vectors, as the authors' code does",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "switchlora.count_frozen_steps",
        flag: "switchlora-count-frozen-steps",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Let Adam's counters advance while a vector is held, as the authors' code does",
        more: "The first steps after a hold are then damped.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.warm_start",
        flag: "switchlora-warm-start",
        value: "N",
        kind: Kind::Count,
        short: "Full-rank updates before the factors are made",
        more: "Fewer than --iters.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.warm_start_learning_rate",
        flag: "switchlora-warm-start-learning-rate",
        value: "X",
        kind: Kind::Number,
        short: "Peak learning rate of the full-rank updates of the warm start [default: full rank's]",
        more: "1e-3, and 2e-5 on a model folder.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.pools",
        flag: "switchlora-pools",
        value: "WHERE",
        kind: Kind::Choice(SWITCH_POOLS),
        short: "Memory in which the candidate vectors wait: auto, device or host",
        more: "`auto` is the device, unless they would take more than a quarter of --memory-budget.",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let switchlora = &config.switchlora;
    let SwitchLoraTable { interval0, ratio, freeze, selection, rate, .. } = switchlora;
    number("switchlora.interval0", *interval0, *interval0 > 0.0, "above 0 (`inf` never switches)")?;
    positive("switchlora.ratio", *ratio)?;
    not_negative_if_set(
        "switchlora.warm_start_learning_rate",
        switchlora.warm_start_learning_rate,
    )?;
    one_of("switchlora.selection", selection, SWITCH_SELECTIONS)?;
    one_of("switchlora.rate", rate, SWITCH_RATES)?;
    one_of("switchlora.pools", &switchlora.pools, SWITCH_POOLS)?;
    // Shorter intervals would find most vectors still held (methods.md 2.4).
    let least = 2.0 * *freeze as f64;
    if *interval0 < least {
        return Err(Error::config(
            format!(
                "switchlora.interval0 is {interval0}, below {least}, twice switchlora.freeze = {freeze}"
            ),
            format!(
                "give --switchlora-interval0 {least} or more, or --switchlora-freeze {} or less",
                (interval0 / 2.0).floor()
            ),
        ));
    }
    Ok(())
}

/// What its runs have where nothing else is said.
pub(super) fn defaults(config: &RunConfig) -> Defaults {
    let schedule = if config.switchlora.warm_start > 0 { "cosine_floor" } else { "cosine" };
    // About 20 times that of full rank here too.
    let fine_tuning = FineTuning::at(4e-4);
    Defaults { alpha: 1.0, learning_rate: 2e-2, schedule, fine_tuning, ..Defaults::ADAPTER }
}
