//! Memory by category before anything runs: weights, factors, gradients, moments and pools counted
//! number by number, activations by walking through one update the way the engine does.
//!
//! `docs/performance.md` derives the activation formula. All sizes are f32. Counted in 128 bits, as the
//! largest shapes that are let in have more than 2⁶⁴ bytes.

use crate::config::RunConfig;
use crate::error::Result;
use crate::kernels::loss;
use crate::methods::{self, footprint::Footprint};
use crate::model::ModelConfig;
use crate::model::config::{non_target_len, target_layers};

mod activations;
mod describe;
mod fits;
mod measure;

use activations::Walk;
pub use describe::{Description, Fits, describe, trained_parameters};
pub use fits::{check_fits, check_fits_device};
pub use measure::{Measured, measure};

/// Predicted bytes at the ledger's high-water mark, by category.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Dense weights and rotation tables.
    pub weights: u64,
    /// Low-rank factors.
    pub adapters: u64,
    /// Candidate pools.
    pub pools: u64,
    /// Moments and counters.
    pub optimizer: u64,
    /// Gradients and activations that live together at the peak.
    pub gradients_and_activations: u64,
}

impl Estimate {
    /// The high-water mark.
    pub fn total(&self) -> u64 {
        [self.weights, self.adapters, self.pools, self.optimizer, self.gradients_and_activations]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// Predicts the high-water mark of a run whose configuration is resolved, on a GPU or on the CPU backend (which
/// cut the logits into other chunks). A run of several parts peaks in the largest of them.
///
/// Errors: `Error::Config` for a method that does not exist.
pub fn peak_bytes(config: &RunConfig, shape: &ModelConfig, on_gpu: bool) -> Result<Estimate> {
    let layers = target_layers(shape);
    let mut largest = Estimate::default();
    for footprint in methods::phases(config)? {
        let layers: Vec<Footprint> = layers.iter().map(|layer| footprint(config, layer)).collect();
        let phase = phase(config, shape, &layers, on_gpu);
        if phase.total() >= largest.total() {
            largest = phase;
        }
    }
    Ok(largest)
}

fn phase(config: &RunConfig, shape: &ModelConfig, layers: &[Footprint], on_gpu: bool) -> Estimate {
    let train = &config.train;
    let sum = |of: fn(&Footprint) -> u128| layers.iter().map(of).sum::<u128>();
    let non_targets = non_target_len(shape) as u128;
    let trained_rest = if trains_rest(config, layers) { non_targets } else { 0 };
    let rope = (shape.max_position_embeddings * (shape.head_dim / 2) * 2) as u128;
    let vocab = shape.vocab_size;
    let chunk = if on_gpu { loss::gpu_chunk_tokens(vocab) } else { loss::chunk_tokens(vocab) };
    let walked = Walk::new(config, shape, layers, chunk).peak(train.grad_checkpoint);
    // Where parts of a batch have what is trained for themselves.
    let replicas = config.replicas() as u128;
    let sets = replicas.max(1);
    let on_host = if on_gpu { 0 } else { sum(|layer| layer.host_arrays) };
    let host_weights = if on_gpu { 0 } else { sum(|layer| layer.host_weight) };
    let micro_batches = if has_optimizer(layers) { train.grad_accumulation_steps } else { 1 };
    Estimate {
        weights: bytes(4 * (sum(|layer| layer.weight) + host_weights + non_targets + rope)),
        adapters: bytes(4 * (sum(|layer| layer.factors) + on_host + replicas * trained_rest)),
        pools: bytes(4 * sum(|layer| layer.pools)),
        optimizer: bytes(4 * (2 * sets * trained_rest + sum(|layer| layer.optimizer))),
        gradients_and_activations: if layers.iter().all(|layer| layer.has_no_pass) {
            // One layer after the other.
            bytes(4 * layers.iter().map(|layer| layer.weight).max().unwrap_or(0))
        } else {
            bytes(4 * walked + batch_bytes(config, micro_batches))
        },
    }
}

fn bytes(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Whether this part of the run updates anything; a look at the gradient does not.
fn has_optimizer(layers: &[Footprint]) -> bool {
    layers.iter().any(|layer| layer.optimizer > 0)
}

/// Whether embedding, head and norms are trained in this part of the run.
fn trains_rest(config: &RunConfig, layers: &[Footprint]) -> bool {
    has_optimizer(layers) && config.train.train_non_targets.unwrap_or(true)
}

fn micro_batch_tokens(config: &RunConfig) -> u128 {
    config.train.batch_size.unwrap_or(1) as u128 * config.data.max_seq_length.unwrap_or(1) as u128
}

/// Ids, targets, positions and order of every micro-batch of an update.
fn batch_bytes(config: &RunConfig, micro_batches: usize) -> u128 {
    16 * micro_batch_tokens(config) * micro_batches as u128
}
