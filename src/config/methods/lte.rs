//! LTE's settings.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::config::check::{at_least, one_of};
use crate::config::settings::{Kind, Setting};
use crate::error::{Error, Result};

use super::Defaults;

/// What becomes of the heads at a merge.
const LTE_RESETS: &[&str] = &["none", "keep", "clear"];

/// How long the rows of A begin.
const LTE_SCALES: &[&str] = &["code", "paper"];

/// Whether all heads see all data and nothing is merged, and how their outputs add up.
const LTE_MHLORA: &[&str] = &["off", "mean", "sum"];

/// `[lte]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LteTable {
    /// Heads, each on its slice of every batch.
    pub heads: usize,
    /// Updates from one merge to the next; 0: no merge.
    pub merge_every: u64,
    /// `none`, or the factors begin anew at a merge: `keep` the moments or `clear` them.
    pub reset: String,
    /// Length of the rows of A at the start: `code` `√(n/r)`, `paper` `√(r/n)`.
    pub init_scale: String,
    /// `off`, or all heads on the same data without merges: the `mean` of their outputs or the `sum`.
    pub mhlora: String,
}

impl Default for LteTable {
    fn default() -> Self {
        Self {
            heads: 4,
            merge_every: 10,
            reset: "none".into(),
            init_scale: "code".into(),
            mhlora: "off".into(),
        }
    }
}

/// The rows of the table of settings.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    Setting {
        key: "lte.heads",
        flag: "lte-heads",
        value: "N",
        kind: Kind::Count,
        short: "Low-rank heads, each on its slice of every batch",
        more: "Experimental: the paper's evidence is vision. The batch size must be a multiple. Embedding, norms and \
               head of the model are kept once for each.",
        aliases: &[],
    },
    Setting {
        key: "lte.merge_every",
        flag: "lte-merge-every",
        value: "N",
        kind: Kind::Count,
        short: "Updates between merges of the heads into the weights; 0: never",
        more: "Evaluations, samples and exports show the weights of the last merge.",
        aliases: &[],
    },
    Setting {
        key: "lte.reset",
        flag: "lte-reset",
        value: "NAME",
        kind: Kind::Choice(LTE_RESETS),
        short: "Heads begin anew at a merge: none, keep or clear (their moments)",
        more: "`none` trains them on and takes off what is merged already. `clear` also begins Adam's counters anew.",
        aliases: &[],
    },
    Setting {
        key: "lte.init_scale",
        flag: "lte-init-scale",
        value: "NAME",
        kind: Kind::Choice(LTE_SCALES),
        short: "Length of the rows of A at the start: code or paper",
        more: "`code`: the root of inputs over rank, as the authors' code has it; `paper`: its inverse.",
        aliases: &[],
    },
    Setting {
        key: "lte.mhlora",
        flag: "lte-mhlora",
        value: "NAME",
        kind: Kind::Choice(LTE_MHLORA),
        short: "All heads on the same data, never merged: off, mean or sum",
        more: "Multi-head LoRA, to compare with: the outputs of the heads are averaged or added up.",
        aliases: &[],
    },
];

/// The values that this method can work with.
pub(in crate::config) fn check(config: &RunConfig) -> Result<()> {
    let lte = &config.lte;
    at_least("lte.heads", lte.heads, 1)?;
    one_of("lte.reset", &lte.reset, LTE_RESETS)?;
    one_of("lte.init_scale", &lte.init_scale, LTE_SCALES)?;
    one_of("lte.mhlora", &lte.mhlora, LTE_MHLORA)?;
    check_batch(config)
}

impl RunConfig {
    /// Replicas with parameters of their own, each trained on its slice of every batch; 0 in most runs.
    pub fn replicas(&self) -> usize {
        let has_replicas = self.train.method == "lte" && self.lte.mhlora == "off";
        if has_replicas { self.lte.heads } else { 0 }
    }
}

/// Refuses a batch that cannot be cut into equal slices, as far as its size is known.
pub fn check_batch(config: &RunConfig) -> Result<()> {
    let slices = config.replicas().max(1);
    match config.train.batch_size {
        Some(size) if size % slices != 0 => Err(Error::config(
            format!("train.batch_size is {size}, which {slices} heads cannot share equally"),
            format!(
                "set --batch-size {} (a multiple of the heads), or another --lte-heads",
                size.next_multiple_of(slices)
            ),
        )),
        _ => Ok(()),
    }
}

/// What its runs have where nothing else is said.
pub(super) fn defaults(config: &RunConfig) -> Defaults {
    // The heads together have the rank of a layer (`methods.md` 8.4).
    Defaults { rank_divisor: config.lte.heads.max(1), scale: Some(1.0), ..Defaults::ADAPTER }
}
