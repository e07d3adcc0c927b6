//! Memory by category before anything runs: weights, factors, gradients, moments and pools counted
//! number by number, activations by walking through one update the way the engine does.
//!
//! `docs/performance.md` derives the activation formula. All sizes are f32.

use crate::config::RunConfig;
use crate::kernels::loss;
use crate::model::ModelConfig;
use crate::model::config::{block_linears, non_target_len};

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
        self.weights + self.adapters + self.pools + self.optimizer + self.gradients_and_activations
    }
}

/// What a linear layer contributes, in numbers.
struct LinearSize {
    weight: u64,
    factors: u64,
    rank: u64,
}

/// The sizes that the walk through an update needs, in numbers.
struct Sizes {
    tokens: u64,
    hidden: u64,
    queries: u64,
    keys: u64,
    inner: u64,
    /// One `lse` per query and head.
    heads: u64,
    linears: Vec<LinearSize>,
    /// Gradient of one block that is kept for the update.
    block_gradient: u64,
    /// Gradient of the head or the embedding, where they are trained.
    table_gradient: u64,
    layers: u64,
    is_tied: bool,
}

impl Sizes {
    /// Ranks of all adapters of a block, for their `x·Aᵀ`.
    fn ranks(&self) -> u64 {
        self.linears.iter().map(|linear| linear.rank).sum()
    }

    /// What a block keeps of its forward pass: `x, middle (C)`, `q, attended`, `k, v`, `gate, up`, two
    /// `rstd`, `lse`, and `x·Aᵀ` of every adapter.
    fn trace(&self) -> u64 {
        let row = 2 * self.hidden + 2 * self.queries + 2 * self.keys + 2 * self.inner;
        self.tokens * (row + 2 + self.heads + self.ranks())
    }

    /// The most that a block's forward pass holds besides its trace: the norm's output beside a projection,
    /// or the inner activation beside the output.
    fn forward_extra(&self) -> u64 {
        self.tokens * self.hidden.max(self.inner + self.hidden)
    }

    /// The most that a block's backward pass holds besides the block's trace and gradients: the gradient
    /// of the output with, in the MLP, the inner activation (its own gradients replace `gate` and `up`), or
    /// the two gradients of the residual stream with the norm's output, or in the attention `dq, dk, dv`
    /// beside the residual gradient.
    fn backward_extra(&self) -> u64 {
        let rank = self.linears.iter().map(|linear| linear.rank).max().unwrap_or(0);
        let mlp = self.hidden + self.inner + rank;
        let norm = 3 * self.hidden + 2 * rank;
        let released = self.hidden + 2 * self.inner; // `middle`, `gate` and `up` are gone by then
        let attention = (self.hidden + 2 * self.queries + 2 * self.keys + rank)
            .max(3 * self.hidden + self.queries + 2 * self.keys)
            .saturating_sub(released);
        self.tokens * mlp.max(norm).max(attention)
    }
}

/// Predicts the high-water mark of a run whose configuration is resolved.
pub fn peak_bytes(config: &RunConfig, shape: &ModelConfig) -> Estimate {
    let train = &config.train;
    let method = train.method.as_str();
    let rank = if method == "full" { 0 } else { train.rank.unwrap_or(0) };
    let is_lora = ["lora", "rslora", "lora-plus"].contains(&method);
    let has_base = !(is_lora && config.lora.base == "none");
    // During a warm start everything is trained; the peak is that of the larger phase.
    let has_warm_start = method == "switchlora" && config.switchlora.warm_start > 0;
    let wrapped = phase(config, shape, rank, has_base);
    if has_warm_start {
        let warm = phase(config, shape, 0, true);
        if warm.total() > wrapped.total() {
            return warm;
        }
    }
    if method == "lora-ga" {
        let ahead = gradient_estimate(config, shape);
        if ahead.total() > wrapped.total() {
            return ahead;
        }
    }
    wrapped
}

/// LoRA-GA's look at the gradient before the run: the network alone, nothing kept, and of the gradients one
/// layer's at a time.
fn gradient_estimate(config: &RunConfig, shape: &ModelConfig) -> Estimate {
    let mut alone = config.clone();
    alone.train.train_non_targets = Some(false);
    alone.train.grad_accumulation_steps = 1;
    let sizes = sizes(&alone, shape, 0);
    let largest = sizes.linears.iter().map(|linear| linear.weight).max().unwrap_or(0);
    let sizes = Sizes { block_gradient: 0, ..sizes };
    let walk = walk(&sizes, config.train.grad_checkpoint, shape.vocab_size);
    Estimate {
        optimizer: 0,
        gradients_and_activations: 4 * (walk + largest) + batch_bytes(&sizes, 1),
        ..phase(&alone, shape, 0, true)
    }
}

/// What the walk needs. `rank` 0: no adapters, the targets themselves are trained.
fn sizes(config: &RunConfig, shape: &ModelConfig, rank: usize) -> Sizes {
    let train = &config.train;
    let linears: Vec<LinearSize> = block_linears(shape)
        .iter()
        .map(|&(_, m, n)| {
            let most = m.min(n) / if train.method == "lora-ga" { 2 } else { 1 };
            let rank = rank.min(most);
            LinearSize {
                weight: (m * n) as u64,
                factors: (rank * (m + n)) as u64,
                rank: rank as u64,
            }
        })
        .collect();
    let trains_rest = train.train_non_targets.unwrap_or(true);
    let hidden = shape.hidden_size as u64;
    let trained = |linear: &LinearSize| if rank == 0 { linear.weight } else { linear.factors };
    let trained_targets: u64 = linears.iter().map(trained).sum();
    Sizes {
        tokens: (train.batch_size.unwrap_or(1) * config.data.max_seq_length.unwrap_or(1)) as u64,
        hidden,
        queries: (shape.num_attention_heads * shape.head_dim) as u64,
        keys: (shape.num_key_value_heads * shape.head_dim) as u64,
        inner: shape.intermediate_size as u64,
        heads: shape.num_attention_heads as u64,
        block_gradient: trained_targets + if trains_rest { 2 * hidden } else { 0 },
        table_gradient: if trains_rest { shape.vocab_size as u64 * hidden } else { 0 },
        layers: shape.num_hidden_layers as u64,
        is_tied: shape.tie_word_embeddings,
        linears,
    }
}

fn phase(config: &RunConfig, shape: &ModelConfig, rank: usize, has_base: bool) -> Estimate {
    let train = &config.train;
    let sizes = sizes(config, shape, rank);
    let per_model = |numbers: u64| 4 * sizes.layers * numbers;
    let weight: u64 = sizes.linears.iter().map(|l| l.weight).sum();
    let factors: u64 = sizes.linears.iter().map(|l| l.factors).sum();
    let non_targets = non_target_len(shape) as u64;
    let trained_rest = if train.train_non_targets.unwrap_or(true) { non_targets } else { 0 };
    let trained_targets = if rank == 0 { weight } else { factors };
    let is_switching = train.method == "switchlora" && rank > 0;
    let pools: u64 = block_linears(shape)
        .iter()
        .filter(|&&(_, m, n)| is_switching && rank >= 2 && m.min(n) > rank)
        .map(|&(_, m, n)| (m.min(n) * (m + n)) as u64)
        .sum();
    let rope = shape.max_position_embeddings * (shape.head_dim / 2) * 2;
    let dense = if has_base { weight } else { 0 };
    let counters = if is_switching { 4 * sizes.ranks() } else { 0 };
    Estimate {
        weights: per_model(dense) + 4 * (non_targets + rope as u64),
        adapters: per_model(factors),
        pools: per_model(pools),
        optimizer: 8 * trained_rest + per_model(2 * trained_targets + counters),
        gradients_and_activations: 4 * walk(&sizes, train.grad_checkpoint, shape.vocab_size)
            + batch_bytes(&sizes, train.grad_accumulation_steps),
    }
}

/// Ids, targets, positions and order of every micro-batch of an update.
fn batch_bytes(sizes: &Sizes, micro_batches: usize) -> u64 {
    16 * sizes.tokens * micro_batches as u64
}

/// The largest number of gradient and activation entries that live together, walking through the last
/// micro-batch of an update.
fn walk(sizes: &Sizes, recompute: bool, vocab: usize) -> u64 {
    let stream = sizes.tokens * sizes.hidden;
    let kept = if recompute { stream } else { sizes.trace() };
    let mut peak = 0;
    let mut see = |numbers: u64| peak = peak.max(numbers);
    for layer in 0..sizes.layers {
        let trace = if recompute { sizes.trace() } else { 0 };
        see(layer * kept + trace.max(kept) + sizes.forward_extra());
    }
    // Head: the stream, its norm and the norm's gradient, a chunk of logits, the head's gradient.
    let traces = sizes.layers * kept;
    let chunk = loss::chunk_tokens(vocab).min(sizes.tokens as usize) as u64 * vocab as u64;
    let head_gradient = sizes.table_gradient;
    see(traces + 3 * stream + sizes.tokens + chunk + head_gradient);
    see(traces + 3 * stream + head_gradient);
    // Blocks from the last to the first: traces shrink while gradients grow.
    let mut gradients = head_gradient + sizes.hidden;
    for layer in (0..sizes.layers).rev() {
        let trace = if recompute { stream * layer + sizes.trace() } else { kept * (layer + 1) };
        if recompute {
            // The block runs forward again beside the gradient of its output.
            see(gradients + stream * layer + sizes.trace() + stream + sizes.forward_extra());
        }
        see(gradients + trace + sizes.backward_extra());
        gradients += sizes.block_gradient;
        see(gradients + kept * layer + 2 * stream);
    }
    if !sizes.is_tied {
        gradients += sizes.table_gradient;
    }
    see(gradients + stream);
    peak
}
