//! What a method keeps on a target layer and needs for it, in numbers of four bytes, before anything is
//! made. Each method says its own in its own file, [`super::phases`] finds
//! it; `run::estimate` adds up and knows no method.

use crate::config::RunConfig;
use crate::kernels::packed::Format;
use crate::model::config::TargetLayer;

/// What one target layer holds under a method, in numbers of four bytes. Counted in 128 bits, as the largest
/// shapes that are let in have more than 2⁶⁴ bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Dense weight; 0 where the method has none.
    pub weight: u128,
    /// Low-rank factors and whatever else the method adds as parameters.
    pub factors: u128,
    /// Numbers that are trained, which is the size of the gradient and of what workers would send; of one replica.
    pub trained: u128,
    /// Moments, counters and projectors.
    pub optimizer: u128,
    /// Candidates that wait on the device.
    pub pools: u128,
    /// What waits in host memory, which is no part of the device's peak.
    pub host: u128,
    /// What each token leaves of the layer's forward pass beside the activations that every method has:
    /// the `x·Aᵀ` of the factors.
    pub trace_per_token: u128,
    /// What a product of this layer holds for a moment, forward and backward.
    pub product_scratch: u128,
    /// What each token leaves of the layer's output before trained lengths scale it.
    pub outputs_per_token: u128,
    /// Arrays in host memory, which are part of the peak on the CPU backend alone.
    pub host_arrays: u128,
    /// A weight in host memory, which is part of the peak on the CPU backend alone.
    pub host_weight: u128,
    /// What the update of this layer holds for a moment beside the gradients.
    pub update_scratch: u128,
    /// What a merge of this layer holds for a moment, after the update, when the gradients are gone.
    pub merge_scratch: u128,
    /// Whether the gradient is used up and freed as soon as it is complete.
    pub is_consumed: bool,
    /// Whether this part of the run is over before the first forward pass.
    pub has_no_pass: bool,
}

impl Footprint {
    /// A dense weight trained by AdamW.
    pub fn dense(layer: &TargetLayer) -> Self {
        let weight = layer.len();
        Self { weight, trained: weight, optimizer: 2 * weight, ..Self::default() }
    }

    /// A frozen dense weight with one trained low-rank pair of the layer's rank.
    pub fn adapter(layer: &TargetLayer, config: &RunConfig) -> Self {
        Self::pair(layer, config, rank(config, layer))
    }

    /// The same with a rank of its own.
    pub fn pair(layer: &TargetLayer, config: &RunConfig, rank: usize) -> Self {
        let factors = layer.factor_len(rank);
        Self {
            weight: frozen(layer, config),
            factors,
            trained: factors,
            optimizer: 2 * factors,
            trace_per_token: rank as u128,
            ..Self::default()
        }
    }

    /// A layer that gets no adapter: it goes with embedding, head and norms.
    pub fn untargeted(layer: &TargetLayer, config: &RunConfig) -> Self {
        if config.train.train_non_targets.unwrap_or(true) {
            Self::dense(layer)
        } else {
            Self { weight: frozen(layer, config), ..Self::default() }
        }
    }

    /// The same layer before its weight is brought into few bits, all else made: what a method that changes the weights at
    /// the start holds then.
    #[must_use]
    pub fn before_packing(self, layer: &TargetLayer) -> Self {
        Self { weight: layer.len(), optimizer: 0, has_no_pass: true, ..self }
    }

    /// With a copy of the first factors, for an adapter of the weight that the run began with.
    #[must_use]
    pub fn with_start(self) -> Self {
        Self { host_arrays: self.factors, ..self }
    }
}

/// A frozen dense weight as it is stored.
pub fn frozen(layer: &TargetLayer, config: &RunConfig) -> u128 {
    match Format::from_name(&config.model.base_storage) {
        Some(format) => format.numbers(layer.rows, layer.cols),
        None => layer.len(),
    }
}

/// Whether a configuration stores frozen weights in few bits.
pub fn is_packed(config: &RunConfig) -> bool {
    Format::from_name(&config.model.base_storage).is_some()
}

/// The rank that a configuration whose rank is set gives to a layer, at most `min(m, n)`.
pub fn rank(config: &RunConfig, layer: &TargetLayer) -> usize {
    config
        .train
        .ranks()
        .map_or(0, |ranks| ranks.at(layer.block, layer.blocks))
        .min(layer.max_rank())
}

/// Whether a configuration gives the layer an adapter.
pub fn is_target(config: &RunConfig, layer: &TargetLayer) -> bool {
    config.train.targets().contains(&layer.name())
}

/// The footprint of a layer in one part of a run.
pub type PhaseFootprint = fn(&RunConfig, &TargetLayer) -> Footprint;
