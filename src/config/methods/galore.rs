//! GaLore's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{at_least_if_set, one_of};
use crate::config::settings::{Kind, Setting};
use crate::error::{Error, Result};

use super::Defaults;
use super::projection::{CARRIES, DECOMPOSITIONS};

/// `[galore]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GaloreTable {
    /// Updates between two refreshes of the subspaces. Default: 200, less in short runs.
    pub update_proj_gap: Option<u64>,
    /// `keep`, `rotate` or `reset`: what becomes of the moments at a refresh.
    pub carry: String,
    /// `auto`, `exact` or `randomised`: how subspaces are found.
    pub decomposition: String,
    /// Whether each gradient is applied and freed during the backward pass.
    pub per_layer: bool,
}

impl Default for GaloreTable {
    fn default() -> Self {
        Self {
            update_proj_gap: None,
            carry: "keep".into(),
            decomposition: "auto".into(),
            per_layer: false,
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "galore.update_proj_gap",
        flag: "galore-update-proj-gap",
        value: "N",
        kind: Kind::Count,
        short: "Updates between two refreshes of the subspaces [default: 200]",
        more: "Shorter runs get a fiftieth of their length, at least 10.",
        aliases: &[],
    },
    Setting {
        key: "galore.carry",
        flag: "galore-carry",
        value: "NAME",
        kind: Kind::Choice(CARRIES),
        short: "Moments at a refresh: keep, rotate or reset",
        more: "`keep` is what the authors' code does; `rotate` turns them into the new subspace; `reset` starts them again, with \
               their counter.",
        aliases: &[],
    },
    Setting {
        key: "galore.decomposition",
        flag: "galore-decomposition",
        value: "NAME",
        kind: Kind::Choice(DECOMPOSITIONS),
        short: "How subspaces are found: auto, exact or randomised",
        more: "`auto` is exact up to a side of 1024.",
        aliases: &[],
    },
    Setting {
        key: "galore.per_layer",
        flag: "galore-per-layer",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Apply each gradient during the backward pass and free it",
        more: "Saves the memory of the gradients. Not with clipping or more than one micro-batch.",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let (galore, train) = (&config.galore, &config.train);
    at_least_if_set("galore.update_proj_gap", galore.update_proj_gap, 1)?;
    one_of("galore.carry", &galore.carry, CARRIES)?;
    one_of("galore.decomposition", &galore.decomposition, DECOMPOSITIONS)?;
    if train.method != "galore" || !galore.per_layer {
        return Ok(());
    }
    // A gradient that is applied at once can wait neither for the others' norm nor for other micro-batches.
    if let Some(norm) = train.max_grad_norm.filter(|&norm| norm > 0.0) {
        return Err(Error::config(
            format!(
                "galore.per_layer is true and train.max_grad_norm is {norm}, which needs all gradients at once"
            ),
            "give --max-grad-norm 0 with it, or leave out --galore-per-layer",
        ));
    }
    let micro_batches = train.grad_accumulation_steps;
    if micro_batches > 1 {
        return Err(Error::config(
            format!(
                "galore.per_layer is true and train.grad_accumulation_steps is {micro_batches}, expected 1"
            ),
            "give --grad-accumulation-steps 1 with it, or leave out --galore-per-layer",
        ));
    }
    Ok(())
}

/// What its runs have where nothing else is said.
pub(super) fn defaults() -> Defaults {
    Defaults::PROJECTED
}
