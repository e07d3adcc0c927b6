//! The `merge` and `reset` events: factors folded into the weights, and an optimizer that begins anew.
//! Both are rare, so their fields have names.

use serde::{Deserialize, Serialize};

use super::number;

/// The product of the factors went into the dense weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Merge {
    /// Merges so far, this one included.
    pub count: u64,
    /// The layers.
    pub l: Vec<MergeLayer>,
}

/// The merge of one layer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MergeLayer {
    /// The layer's number in [`Run::layers`](super::Run::layers).
    pub layer: u32,
    /// Frobenius norm of what was added to W.
    #[serde(with = "number")]
    pub dw_norm: f64,
    /// `max|W_new − (W + s·B·A)|`: rounding, or what a narrow storage of W loses.
    #[serde(with = "number")]
    pub error: f64,
}

/// The factors were drawn anew and their moments cut back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reset {
    /// Resets so far, this one included.
    pub count: u64,
    /// Which entries were zeroed: `magnitude`, `random`, `zero`.
    pub mode: String,
    /// Share of the first moments that is zero afterwards.
    #[serde(with = "number")]
    pub m_zeroed: f64,
    /// Share of the second moments that is zero afterwards.
    #[serde(with = "number")]
    pub v_zeroed: f64,
    /// Whether Adam's counters began anew.
    pub counters: bool,
}
