//! Everything that can be said of a method before it runs: what it trains, what it holds and where, what workers
//! would send, and what fits a budget. By formulas alone; nothing is allocated.

use serde::Serialize;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::kernels::loss;
use crate::methods::{
    self,
    footprint::{Footprint, PhaseFootprint},
};
use crate::model::ModelConfig;
use crate::model::config::{non_target_len, target_layers, target_len};

use super::activations::Walk;
use super::{Estimate, bytes, peak_bytes, phase};

/// Most sequences of a micro-batch that are tried for a budget.
const MOST_SEQUENCES: usize = 1 << 20;

/// What one method needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// The method.
    pub method: String,
    /// The rank asked for; none where everything is trained at full rank.
    pub rank: Option<usize>,
    /// Full-rank updates before the factors are made.
    pub warm_start_updates: u64,
    /// Parameters of the network at full rank.
    pub parameters: u64,
    /// Numbers that are trained, after a warm start.
    pub trained_parameters: u64,
    /// Dense weights and rotation tables.
    pub weight_bytes: u64,
    /// Low-rank factors.
    pub factor_bytes: u64,
    /// Moments, counters, projectors.
    pub optimizer_bytes: u64,
    /// Candidates on the device.
    pub device_pool_bytes: u64,
    /// What waits in host memory.
    pub host_bytes: u64,
    /// Gradients at the end of a backward pass.
    pub gradient_bytes: u64,
    /// Weights, factors, moments and gradients, without pools and activations.
    pub static_bytes: u64,
    /// Whether the configuration has activations recomputed: then `activation_bytes`, `peak_bytes` and what fits a
    /// budget are those with recomputation.
    pub is_recomputed: bool,
    /// What the peak holds beside those: activations and what an operation needs for a moment.
    pub activation_bytes: u64,
    /// The same with all activations kept.
    pub kept_activation_bytes: u64,
    /// The same with recomputation.
    pub recomputed_activation_bytes: u64,
    /// The high-water mark on the device, over the whole run.
    pub peak_bytes: u64,
    /// The same with all activations kept.
    pub kept_peak_bytes: u64,
    /// The same with recomputation.
    pub recomputed_peak_bytes: u64,
    /// What each of several data-parallel workers would send per update: four bytes for each trained number.
    pub sent_bytes_per_update: u64,
    /// How much less that is than at full rank.
    pub sent_saved_share: f64,
    /// What fits the budget, where there is one.
    pub fits: Option<Fits>,
}

/// The largest settings whose predicted peak fits a budget, each with the others as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fits {
    /// The budget.
    pub budget_bytes: u64,
    /// The largest rank; none where not even 1 fits, or where there is no rank.
    pub largest_rank: Option<usize>,
    /// The most sequences of a micro-batch; none where not even 1 fits.
    pub largest_batch_size: Option<usize>,
}

/// Describes the method of a resolved configuration, on a GPU or on the CPU backend.
///
/// Errors: `Error::Config` for a method that does not exist.
pub fn describe(config: &RunConfig, shape: &ModelConfig, on_gpu: bool) -> Result<Description> {
    let phases = methods::phases(config)?;
    let Some(last) = phases.last() else {
        return Err(Error::config("the method has no part that trains", "use another method"));
    };
    let layers: Vec<Footprint> =
        target_layers(shape).iter().map(|layer| last(config, layer)).collect();
    let sum = |of: fn(&Footprint) -> u128| layers.iter().map(of).sum::<u128>();
    let chunk = if on_gpu { loss::gpu_chunk_tokens } else { loss::chunk_tokens }(shape.vocab_size);
    let sets = config.replicas().max(1) as u128;
    let gradient_bytes = bytes(4 * sets * Walk::new(config, shape, &layers, chunk).gradients());
    let at = |recompute: bool| {
        let mut config = config.clone();
        config.train.grad_checkpoint = recompute;
        let peak = peak_bytes(&config, shape, on_gpu)?.total();
        Ok::<_, Error>((phase(&config, shape, &layers, on_gpu), peak))
    };
    let ((kept, kept_peak), (recomputed, recomputed_peak)) = (at(false)?, at(true)?);
    let is_recomputed = config.train.grad_checkpoint;
    let (own, peak) =
        if is_recomputed { (&recomputed, recomputed_peak) } else { (&kept, kept_peak) };
    let beside =
        |estimate: &Estimate| estimate.gradients_and_activations.saturating_sub(gradient_bytes);

    let rest = non_target_len(shape) as u128;
    let trains_rest = config.train.train_non_targets.unwrap_or(true);
    let all = target_len(shape) as u128 + rest;
    let trained = trained(config, shape, &layers);
    // What full rank would send: all that is not held back by the setting.
    let full = all - if trains_rest { 0 } else { rest };
    let has_rank = !layers_ignore_rank(config, shape, *last);
    let static_bytes = [own.weights, own.adapters, own.optimizer, gradient_bytes]
        .into_iter()
        .fold(0, u64::saturating_add);
    Ok(Description {
        method: config.train.method.clone(),
        rank: config.train.rank.filter(|_| has_rank),
        warm_start_updates: config.warm_start(),
        parameters: bytes(all),
        trained_parameters: bytes(trained),
        weight_bytes: own.weights,
        factor_bytes: own.adapters,
        optimizer_bytes: own.optimizer,
        device_pool_bytes: own.pools,
        host_bytes: bytes(4 * sum(|layer| layer.host)),
        gradient_bytes,
        static_bytes,
        is_recomputed,
        activation_bytes: beside(own),
        kept_activation_bytes: beside(&kept),
        recomputed_activation_bytes: beside(&recomputed),
        peak_bytes: peak,
        kept_peak_bytes: kept_peak,
        recomputed_peak_bytes: recomputed_peak,
        sent_bytes_per_update: bytes(4 * trained),
        sent_saved_share: 1.0 - trained as f64 / full.max(1) as f64,
        fits: fits(config, shape, on_gpu, has_rank)?,
    })
}

/// Numbers that get a gradient after a warm start, for a resolved configuration.
///
/// Errors: `Error::Config` for a method that does not exist.
pub fn trained_parameters(config: &RunConfig, shape: &ModelConfig) -> Result<u64> {
    let phases = methods::phases(config)?;
    let layers: Vec<Footprint> = phases.last().map_or_else(Vec::new, |last| {
        target_layers(shape).iter().map(|layer| last(config, layer)).collect()
    });
    Ok(bytes(trained(config, shape, &layers)))
}

fn trained(config: &RunConfig, shape: &ModelConfig, layers: &[Footprint]) -> u128 {
    let trains_rest = config.train.train_non_targets.unwrap_or(true);
    let rest = if trains_rest { non_target_len(shape) as u128 } else { 0 };
    let sets = config.replicas().max(1) as u128;
    sets * (layers.iter().map(|layer| layer.trained).sum::<u128>() + rest)
}

/// Whether a method's footprint is the same at rank 1 and 2, as where everything is trained.
fn layers_ignore_rank(config: &RunConfig, shape: &ModelConfig, footprint: PhaseFootprint) -> bool {
    let at = |rank: usize| {
        let mut config = config.clone();
        config.train.rank = Some(rank);
        target_layers(shape).iter().map(|layer| footprint(&config, layer)).collect::<Vec<_>>()
    };
    at(1) == at(2)
}

fn fits(
    config: &RunConfig,
    shape: &ModelConfig,
    on_gpu: bool,
    has_rank: bool,
) -> Result<Option<Fits>> {
    const GIB: f64 = (1u64 << 30) as f64;
    let Some(budget) = config.train.memory_budget else { return Ok(None) };
    let budget_bytes = (budget * GIB) as u64;
    let is_within = |change: &dyn Fn(&mut RunConfig)| {
        let mut config = config.clone();
        change(&mut config);
        Ok(peak_bytes(&config, shape, on_gpu)?.total() <= budget_bytes)
    };
    let rank = |rank| is_within(&|config| config.train.rank = Some(rank));
    let batch = |rows| is_within(&|config| config.train.batch_size = Some(rows));
    Ok(Some(Fits {
        budget_bytes,
        largest_rank: if has_rank { largest(shape.hidden_size, rank)? } else { None },
        largest_batch_size: largest(MOST_SEQUENCES, batch)?,
    }))
}

/// The largest number from 1 to `most` that fits, where none fits above one that does not.
fn largest(most: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<Option<usize>> {
    if !fits(1)? {
        return Ok(None);
    }
    // `low` fits, `high` does not.
    let (mut low, mut high) = (1, most + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_found() {
        for limit in [0, 1, 2, 7, 8, 99, 100] {
            let found = largest(100, |x| Ok(x <= limit)).unwrap();
            assert_eq!(found, (limit > 0).then_some(limit));
        }
        assert_eq!(largest(100, |_| Ok(true)).unwrap(), Some(100));
    }
}
