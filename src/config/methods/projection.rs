//! What methods with a projected gradient share.

use super::{AdaRankGradTable, FiraTable, GaloreTable};

/// What becomes of the moments when a subspace is refreshed.
pub(super) const CARRIES: &[&str] = &["keep", "rotate", "reset"];

/// How subspaces are found.
pub(super) const DECOMPOSITIONS: &[&str] = &["auto", "exact", "randomised"];

/// The settings that methods with a projected gradient share.
#[derive(Debug, Clone, Copy)]
pub struct ProjectionSettings<'a> {
    /// Updates between two refreshes.
    pub gap: Option<u64>,
    /// What becomes of the moments at a refresh.
    pub carry: &'a str,
    /// How subspaces are found.
    pub decomposition: &'a str,
    /// The share of the gradient's energy that may stay outside, where the rank follows it.
    pub residual: Option<f64>,
}

impl<'a> From<&'a GaloreTable> for ProjectionSettings<'a> {
    fn from(table: &'a GaloreTable) -> Self {
        let GaloreTable { update_proj_gap, carry, decomposition, .. } = table;
        Self { gap: *update_proj_gap, carry, decomposition, residual: None }
    }
}

impl<'a> From<&'a FiraTable> for ProjectionSettings<'a> {
    fn from(table: &'a FiraTable) -> Self {
        let FiraTable { update_proj_gap, carry, decomposition, .. } = table;
        Self { gap: *update_proj_gap, carry, decomposition, residual: None }
    }
}

impl<'a> From<&'a AdaRankGradTable> for ProjectionSettings<'a> {
    fn from(table: &'a AdaRankGradTable) -> Self {
        let AdaRankGradTable { update_proj_gap, residual, carry, decomposition } = table;
        Self { gap: *update_proj_gap, carry, decomposition, residual: Some(*residual) }
    }
}
