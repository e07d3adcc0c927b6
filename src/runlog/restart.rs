//! The `merge` and `reset` events: factors folded into the weights, and an optimizer that begins anew.
//! Both are rare, so their fields have names.

use serde::{Deserialize, Serialize};

use super::number::{self, Number};

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
    /// `max|W_new − (W + s·B·A)|`: rounding, or what a narrow storage of W loses. Not of several heads.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// Frobenius norms of what each of several heads has learned since the last merge; W gets their mean.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub head_norms: Vec<Number>,
    /// Mean cosine of the angles between what two heads have learned.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Norm of the mean over the mean of the norms: 1 where all heads learned the same.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
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
