//! Memory by category before anything runs: weights, factors, gradients, moments and pools counted
//! number by number, activations by walking through one update the way the engine does.
//!
//! `docs/performance.md` derives the activation formula. All sizes are f32. Counted in 128 bits, as the
//! largest shapes that are let in have more than 2⁶⁴ bytes.

use crate::config::{Ranks, RunConfig};
use crate::device::Device;
use crate::device::gpu::Tiling;
use crate::device::memory::machine_bytes;
use crate::error::{Error, Result};
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
        [self.weights, self.adapters, self.pools, self.optimizer, self.gradients_and_activations]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// What a linear layer contributes, in numbers.
struct LinearSize {
    weight: u128,
    /// Everything that is trained beside the weight: both factors, and trained lengths.
    factors: u128,
    rank: u128,
    /// Trained lengths of the outputs.
    lengths: u128,
}

/// A block's linear layers, and what of its gradient is kept for the update.
struct BlockSize {
    linears: Vec<LinearSize>,
    gradient: u128,
}

impl BlockSize {
    /// Ranks of all adapters of the block, for their `x·Aᵀ`.
    fn ranks(&self) -> u128 {
        self.linears.iter().map(|linear| linear.rank).sum()
    }

    fn lengths(&self) -> u128 {
        self.linears.iter().map(|linear| linear.lengths).sum()
    }

    fn weight(&self) -> u128 {
        self.linears.iter().map(|linear| linear.weight).sum()
    }

    fn factors(&self) -> u128 {
        self.linears.iter().map(|linear| linear.factors).sum()
    }
}

/// The sizes that the walk through an update needs, in numbers.
struct Sizes {
    tokens: u128,
    hidden: u128,
    queries: u128,
    keys: u128,
    inner: u128,
    /// One `lse` per query and head.
    heads: u128,
    /// They differ in their ranks alone.
    blocks: Vec<BlockSize>,
    /// Gradient of the head or the embedding, where they are trained.
    table_gradient: u128,
    is_tied: bool,
    /// What the update of a layer holds beside the gradients.
    update_scratch: u128,
    /// The largest gradient of a linear layer with its scratch, where each is used up and freed at once.
    consumed_gradient: Option<u128>,
}

impl Sizes {
    /// What a block keeps of its forward pass: `x, middle (C)`, `q, attended`, `k, v`, `gate, up`, two
    /// `rstd`, `lse`, `x·Aᵀ` of every adapter, and the output before trained lengths.
    fn trace(&self, block: &BlockSize) -> u128 {
        let row = 2 * self.hidden + 2 * self.queries + 2 * self.keys + 2 * self.inner;
        self.tokens * (row + 2 + self.heads + block.ranks() + block.lengths())
    }

    /// The most that a block's forward pass holds besides its trace: the norm's output beside a projection,
    /// or the inner activation beside the output.
    fn forward_extra(&self) -> u128 {
        self.tokens * self.hidden.max(self.inner + self.hidden)
    }

    /// The most that a block's backward pass holds besides the block's trace and gradients: the gradient
    /// of the output with, in the MLP, the inner activation (its own gradients replace `gate` and `up`), or
    /// the two gradients of the residual stream with the norm's output, or in the attention `dq, dk, dv`
    /// beside the residual gradient. With trained lengths there are the gradients before them too.
    fn backward_extra(&self, block: &BlockSize) -> u128 {
        let rank = block.linears.iter().map(|linear| linear.rank).max().unwrap_or(0);
        let has_lengths = block.lengths() > 0;
        let scaled = |width: u128| if has_lengths { width } else { 0 };
        let mlp = self.hidden + self.inner + rank + scaled(self.hidden);
        let norm = 3 * self.hidden + 2 * rank + scaled(2 * self.inner);
        // `middle`, `gate` and `up` are gone by then.
        let released = self.hidden + 2 * self.inner + scaled(self.hidden + 2 * self.inner);
        let attention = (self.hidden + 2 * self.queries + 2 * self.keys + rank)
            .max(
                3 * self.hidden
                    + self.queries
                    + 2 * self.keys
                    + scaled(self.queries + 2 * self.keys),
            )
            .saturating_sub(released);
        self.tokens * mlp.max(norm).max(attention)
    }

    fn largest_weight(&self) -> u128 {
        let linears = self.blocks.iter().flat_map(|block| &block.linears);
        linears.map(|linear| linear.weight).max().unwrap_or(0)
    }

    /// A sum over the blocks.
    fn of_blocks(&self, numbers: impl Fn(&BlockSize) -> u128) -> u128 {
        self.blocks.iter().map(numbers).sum()
    }
}

/// Whether the method projects gradients instead of training factors.
fn is_projected(config: &RunConfig) -> bool {
    matches!(config.train.method.as_str(), "galore" | "fira")
}

/// What a projected layer `m × n` keeps beside its weight, and what its update holds for a moment.
struct ProjectedSize {
    /// Projector and moments.
    state: u128,
    /// The projected gradient and Adam's direction.
    scratch: u128,
}

impl ProjectedSize {
    fn new(m: usize, n: usize, rank: usize) -> Self {
        let (short, long) = (m.min(n), m.max(n));
        let numbers = |numbers: usize| numbers as u128;
        if rank >= short {
            // AdamW without a projection.
            return Self { state: numbers(2 * m * n), scratch: 0 };
        }
        Self { state: numbers(rank * (short + 2 * long)), scratch: numbers(2 * rank * long) }
    }
}

/// Predicts the high-water mark of a run whose configuration is resolved, on a GPU or on the CPU backend (which
/// cut the logits into other chunks).
pub fn peak_bytes(config: &RunConfig, shape: &ModelConfig, on_gpu: bool) -> Estimate {
    let train = &config.train;
    let method = train.method.as_str();
    let has_factors = method != "full" && !is_projected(config);
    let ranks = train.ranks().filter(|_| has_factors);
    let has_base = !(config.is_plain_lora() && config.lora.base == "none");
    // During a warm start everything is trained; the peak is that of the larger phase.
    let wrapped = phase(config, shape, ranks, has_base, on_gpu);
    if config.warm_start() > 0 {
        let warm = phase(config, shape, None, true, on_gpu);
        if warm.total() > wrapped.total() {
            return warm;
        }
    }
    if method == "lora-ga" {
        let ahead = gradient_estimate(config, shape, on_gpu);
        if ahead.total() > wrapped.total() {
            return ahead;
        }
    }
    wrapped
}

/// LoRA-GA's look at the gradient before the run: the network alone, nothing kept, and of the gradients one
/// layer's at a time.
fn gradient_estimate(config: &RunConfig, shape: &ModelConfig, on_gpu: bool) -> Estimate {
    let mut alone = config.clone();
    alone.train.train_non_targets = Some(false);
    alone.train.grad_accumulation_steps = 1;
    let mut sizes = sizes(&alone, shape, None);
    sizes.consumed_gradient = Some(sizes.largest_weight());
    let walk = walk(&sizes, config.train.grad_checkpoint, logits(&sizes, shape, on_gpu));
    Estimate {
        optimizer: 0,
        gradients_and_activations: bytes(4 * walk + batch_bytes(&sizes, 1)),
        ..phase(&alone, shape, None, true, on_gpu)
    }
}

/// Refuses a run that cannot fit this machine's memory, before the allocator or the system would end it.
///
/// Errors: `Error::Device` with both sizes; never where the machine does not say how much it has.
pub fn check_fits(config: &RunConfig, shape: &ModelConfig) -> Result<()> {
    let needed = peak_bytes(config, shape, false).total();
    match machine_bytes() {
        Some(has) if needed > has => {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            Err(Error::Device {
                what: format!(
                    "this run needs about {:.1} GiB of memory, the machine has {:.1} GiB with swap",
                    gib(needed),
                    gib(has)
                ),
                remedy:
                    "use a smaller model, --batch-size or --max-seq-length, or --grad-checkpoint"
                        .into(),
            })
        }
        _ => Ok(()),
    }
}

/// Refuses a run that does not fit the budget that was set, or needs a tensor larger than the device binds.
///
/// Errors: `Error::Device` with both sizes.
pub fn check_fits_device(config: &RunConfig, shape: &ModelConfig, device: &Device) -> Result<()> {
    const MIB: f64 = (1 << 20) as f64;
    let needed = peak_bytes(config, shape, device.gpu().is_some()).total() as f64 / MIB;
    if let Some(budget) = config.train.memory_budget.map(|gib| gib * 1024.0)
        && needed > budget
    {
        return Err(Error::Device {
            what: format!(
                "this run needs {needed:.0} MiB of memory, the budget is {budget:.0} MiB"
            ),
            remedy: "use a smaller model, --batch-size, --max-seq-length or --rank, or \
                     --grad-checkpoint; or raise --memory-budget"
                .into(),
        });
    }
    let Some(gpu) = device.gpu() else { return Ok(()) };
    let (name, numbers) = largest_tensor(config, shape);
    let (bytes, most) = (4.0 * numbers as f64, gpu.max_binding as f64);
    if bytes <= most {
        return check_fits_loops(config, device, gpu.tiling);
    }
    Err(Error::Device {
        what: format!(
            "{name} needs {:.0} MiB in one buffer, {} binds at most {:.0} MiB",
            bytes / MIB,
            device.name(),
            most / MIB
        ),
        remedy:
            "use a GPU that binds more (`fullrank devices` shows it), --device cpu, or a smaller \
                 model, --batch-size or --max-seq-length"
                .into(),
    })
}

/// llvmpipe ends all loops of an invocation after 65,535 turns, silently: sums over the tokens, and over the
/// positions of one id, would stop there.
const MOST_TOKENS_IN_SOFTWARE: u128 = 65_000;

fn check_fits_loops(config: &RunConfig, device: &Device, tiling: Tiling) -> Result<()> {
    let tokens = micro_batch_tokens(config);
    if tiling != Tiling::Direct || tokens <= MOST_TOKENS_IN_SOFTWARE {
        return Ok(());
    }
    Err(Error::Device {
        what: format!(
            "a micro-batch has {tokens} tokens, {} computes {MOST_TOKENS_IN_SOFTWARE} at most",
            device.name()
        ),
        remedy: "use a smaller --batch-size with more --grad-accumulation-steps, or --device cpu"
            .into(),
    })
}

fn micro_batch_tokens(config: &RunConfig) -> u128 {
    config.train.batch_size.unwrap_or(1) as u128 * config.data.max_seq_length.unwrap_or(1) as u128
}

/// The largest tensor that a run holds in one piece, with its size in numbers. Logits are cut into chunks.
fn largest_tensor(config: &RunConfig, shape: &ModelConfig) -> (&'static str, u128) {
    let tokens = micro_batch_tokens(config);
    let hidden = shape.hidden_size as u128;
    let inner = shape.intermediate_size as u128;
    let queries = (shape.num_attention_heads * shape.head_dim) as u128;
    let sizes = [
        ("the embedding", shape.vocab_size as u128 * hidden),
        ("a weight of the MLP", inner * hidden),
        ("an activation of the MLP", tokens * inner),
        ("an activation of the attention", tokens * queries.max(hidden)),
    ];
    sizes.into_iter().max_by_key(|(_, numbers)| *numbers).unwrap_or(("a tensor", 0))
}

/// Bytes of SwitchLoRA's pools.
pub fn pool_bytes(shape: &ModelConfig, ranks: Option<Ranks>) -> u64 {
    bytes(4 * pool_numbers(shape, ranks))
}

/// Numbers in the pools of all blocks.
fn pool_numbers(shape: &ModelConfig, ranks: Option<Ranks>) -> u128 {
    let of_rank = |rank: usize| -> u128 {
        block_linears(shape)
            .iter()
            .filter(|&&(_, m, n)| rank >= 2 && m.min(n) > rank)
            .map(|&(_, m, n)| m.min(n) as u128 * (m + n) as u128)
            .sum()
    };
    let blocks = shape.num_hidden_layers;
    let in_block = |block| ranks.map_or(0, |ranks| of_rank(ranks.at(block, blocks)));
    (0..blocks).map(in_block).sum()
}

/// What the walk needs. Without ranks there are no adapters, and the targets themselves are trained.
fn sizes(config: &RunConfig, shape: &ModelConfig, ranks: Option<Ranks>) -> Sizes {
    let train = &config.train;
    let trains_rest = train.train_non_targets.unwrap_or(true);
    let hidden = shape.hidden_size as u128;
    let blocks = (0..shape.num_hidden_layers).map(|block| {
        let wanted = ranks.map_or(0, |ranks| ranks.at(block, shape.num_hidden_layers));
        let linears = block_linears(shape).map(|(_, m, n)| {
            let most = m.min(n) / if train.method == "lora-ga" { 2 } else { 1 };
            let rank = wanted.min(most) as u128;
            let (m, n) = (m as u128, n as u128);
            let lengths = if train.method == "dora" && ranks.is_some() { m } else { 0 };
            LinearSize { weight: m * n, factors: rank * (m + n) + lengths, rank, lengths }
        });
        let mut block = BlockSize { linears: linears.into(), gradient: 0 };
        let trained = if ranks.is_some() { block.factors() } else { block.weight() };
        block.gradient = trained + if trains_rest { 2 * hidden } else { 0 };
        block
    });
    let mut sizes = Sizes {
        tokens: micro_batch_tokens(config),
        hidden,
        queries: (shape.num_attention_heads * shape.head_dim) as u128,
        keys: (shape.num_key_value_heads * shape.head_dim) as u128,
        inner: shape.intermediate_size as u128,
        heads: shape.num_attention_heads as u128,
        table_gradient: if trains_rest { shape.vocab_size as u128 * hidden } else { 0 },
        is_tied: shape.tie_word_embeddings,
        blocks: blocks.collect(),
        update_scratch: 0,
        consumed_gradient: None,
    };
    if is_projected(config) {
        let scratch = projected(config, shape).map(|(_, size)| size.scratch);
        sizes.update_scratch = scratch.max().unwrap_or(0);
        if train.method == "galore" && config.galore.per_layer {
            let largest = projected(config, shape).map(|(weight, size)| weight + size.scratch);
            sizes.consumed_gradient = Some(largest.max().unwrap_or(0));
        }
    }
    sizes
}

/// The projected layers of all blocks, each with the entries of its weight.
fn projected(
    config: &RunConfig,
    shape: &ModelConfig,
) -> impl Iterator<Item = (u128, ProjectedSize)> {
    let (ranks, blocks) = (config.train.ranks(), shape.num_hidden_layers);
    (0..blocks).flat_map(move |block| {
        let rank = ranks.map_or(0, |ranks| ranks.at(block, blocks));
        block_linears(shape)
            .map(|(_, m, n)| (m as u128 * n as u128, ProjectedSize::new(m, n, rank)))
    })
}

fn phase(
    config: &RunConfig,
    shape: &ModelConfig,
    ranks: Option<Ranks>,
    has_base: bool,
    on_gpu: bool,
) -> Estimate {
    let train = &config.train;
    let sizes = sizes(config, shape, ranks);
    let has_factors = ranks.is_some();
    let weight = sizes.of_blocks(BlockSize::weight);
    let factors = sizes.of_blocks(BlockSize::factors);
    let non_targets = non_target_len(shape) as u128;
    let trained_rest = if train.train_non_targets.unwrap_or(true) { non_targets } else { 0 };
    let trained_targets = if has_factors { factors } else { weight };
    let is_switching = train.method == "switchlora" && has_factors;
    let is_on_device = is_switching && config.switchlora.pools != "host";
    let pools = if is_on_device { pool_numbers(shape, ranks) } else { 0 };
    // Where factors started is kept in host memory, which the CPU backend's ledger counts.
    let keeps_start = matches!(train.method.as_str(), "lora-ga" | "pissa");
    let starts = if keeps_start && has_factors && !on_gpu { factors } else { 0 };
    // Lengths of the weights' rows, of the whole rows, and the factors from them.
    let lengths = 3 * sizes.of_blocks(BlockSize::lengths);
    let rope = shape.max_position_embeddings * (shape.head_dim / 2) * 2;
    let dense = if has_base { weight } else { 0 };
    let target_moments = if is_projected(config) {
        projected(config, shape).map(|(_, size)| size.state).sum()
    } else {
        2 * trained_targets
    };
    let counters = if is_switching { 4 * sizes.of_blocks(BlockSize::ranks) } else { 0 };
    // What a merge adds to a weight, one layer at a time and not during an update.
    let merges = train.method == "relora" && has_factors;
    let merged = if merges { sizes.largest_weight() } else { 0 };
    let logits = logits(&sizes, shape, on_gpu);
    let walked = walk(&sizes, train.grad_checkpoint, logits).max(merged);
    Estimate {
        weights: bytes(4 * (dense + non_targets + rope as u128)),
        adapters: bytes(4 * (factors + starts + lengths)),
        pools: bytes(4 * pools),
        optimizer: bytes(8 * trained_rest + 4 * (target_moments + counters)),
        gradients_and_activations: bytes(
            4 * walked + batch_bytes(&sizes, train.grad_accumulation_steps),
        ),
    }
}

fn bytes(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Entries of one chunk of the logits.
fn logits(sizes: &Sizes, shape: &ModelConfig, on_gpu: bool) -> u128 {
    let vocab = shape.vocab_size;
    let chunk = if on_gpu { loss::gpu_chunk_tokens(vocab) } else { loss::chunk_tokens(vocab) };
    (chunk as u128).min(sizes.tokens) * vocab as u128
}

/// Ids, targets, positions and order of every micro-batch of an update.
fn batch_bytes(sizes: &Sizes, micro_batches: usize) -> u128 {
    16 * sizes.tokens * micro_batches as u128
}

/// The largest number of gradient and activation entries that live together, walking through the last
/// micro-batch of an update. `logits`: entries of one chunk of them.
fn walk(sizes: &Sizes, recompute: bool, logits: u128) -> u128 {
    let stream = sizes.tokens * sizes.hidden;
    let kept = |block: &BlockSize| if recompute { stream } else { sizes.trace(block) };
    let mut peak = 0;
    let mut see = |numbers: u128| peak = peak.max(numbers);
    let mut traces = 0;
    for block in &sizes.blocks {
        see(traces + sizes.trace(block).max(kept(block)) + sizes.forward_extra());
        traces += kept(block);
    }
    // Head: the stream, its norm and the norm's gradient, a chunk of logits, the head's gradient.
    let head_gradient = sizes.table_gradient;
    see(traces + 3 * stream + sizes.tokens + logits + head_gradient);
    see(traces + 3 * stream + head_gradient);
    // Blocks from the last to the first: traces shrink while gradients grow.
    let is_consumed = sizes.consumed_gradient.is_some();
    let mut gradients = if is_consumed { 0 } else { head_gradient + sizes.hidden };
    let transient = sizes.consumed_gradient.unwrap_or(0);
    for block in sizes.blocks.iter().rev() {
        traces -= kept(block);
        if recompute {
            // The block runs forward again beside the gradient of its output.
            see(gradients + traces + sizes.trace(block) + stream + sizes.forward_extra());
        }
        see(gradients + traces + sizes.trace(block) + sizes.backward_extra(block) + transient);
        gradients += if is_consumed { 0 } else { block.gradient };
        see(gradients + traces + 2 * stream);
    }
    if !sizes.is_tied {
        gradients += sizes.table_gradient;
    }
    see(gradients + stream);
    see(gradients + sizes.update_scratch);
    peak
}
