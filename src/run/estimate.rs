//! Memory by category before anything runs: weights, factors, gradients, moments and pools counted
//! number by number, activations by walking through one update the way the engine does.
//!
//! `docs/performance.md` derives the activation formula. All sizes are f32. Counted in 128 bits, as the
//! largest shapes that are let in have more than 2⁶⁴ bytes.

use crate::config::RunConfig;
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
    factors: u128,
    rank: u128,
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
    linears: Vec<LinearSize>,
    /// Gradient of one block that is kept for the update.
    block_gradient: u128,
    /// Gradient of the head or the embedding, where they are trained.
    table_gradient: u128,
    layers: u128,
    is_tied: bool,
    /// What the update of a layer holds beside the gradients.
    update_scratch: u128,
    /// The largest gradient of a linear layer with its scratch, where each is used up and freed at once.
    consumed_gradient: Option<u128>,
}

impl Sizes {
    /// Ranks of all adapters of a block, for their `x·Aᵀ`.
    fn ranks(&self) -> u128 {
        self.linears.iter().map(|linear| linear.rank).sum()
    }

    /// What a block keeps of its forward pass: `x, middle (C)`, `q, attended`, `k, v`, `gate, up`, two
    /// `rstd`, `lse`, and `x·Aᵀ` of every adapter.
    fn trace(&self) -> u128 {
        let row = 2 * self.hidden + 2 * self.queries + 2 * self.keys + 2 * self.inner;
        self.tokens * (row + 2 + self.heads + self.ranks())
    }

    /// The most that a block's forward pass holds besides its trace: the norm's output beside a projection,
    /// or the inner activation beside the output.
    fn forward_extra(&self) -> u128 {
        self.tokens * self.hidden.max(self.inner + self.hidden)
    }

    /// The most that a block's backward pass holds besides the block's trace and gradients: the gradient
    /// of the output with, in the MLP, the inner activation (its own gradients replace `gate` and `up`), or
    /// the two gradients of the residual stream with the norm's output, or in the attention `dq, dk, dv`
    /// beside the residual gradient.
    fn backward_extra(&self) -> u128 {
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
    let rank = if has_factors { train.rank.unwrap_or(0) } else { 0 };
    let has_base = !(config.is_plain_lora() && config.lora.base == "none");
    // During a warm start everything is trained; the peak is that of the larger phase.
    let wrapped = phase(config, shape, rank, has_base, on_gpu);
    if config.warm_start() > 0 {
        let warm = phase(config, shape, 0, true, on_gpu);
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
    let mut sizes = sizes(&alone, shape, 0);
    let largest = sizes.linears.iter().map(|linear| linear.weight).max().unwrap_or(0);
    sizes.consumed_gradient = Some(largest);
    let walk = walk(&sizes, config.train.grad_checkpoint, logits(&sizes, shape, on_gpu));
    Estimate {
        optimizer: 0,
        gradients_and_activations: bytes(4 * walk + batch_bytes(&sizes, 1)),
        ..phase(&alone, shape, 0, true, on_gpu)
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
pub fn pool_bytes(shape: &ModelConfig, rank: usize) -> u64 {
    let numbers = 4 * shape.num_hidden_layers as u128 * pool_numbers(shape, rank);
    u64::try_from(numbers).unwrap_or(u64::MAX)
}

/// Numbers in the pools of one block.
fn pool_numbers(shape: &ModelConfig, rank: usize) -> u128 {
    block_linears(shape)
        .iter()
        .filter(|&&(_, m, n)| rank >= 2 && m.min(n) > rank)
        .map(|&(_, m, n)| m.min(n) as u128 * (m + n) as u128)
        .sum()
}

/// What the walk needs. `rank` 0: no adapters, the targets themselves are trained.
fn sizes(config: &RunConfig, shape: &ModelConfig, rank: usize) -> Sizes {
    let train = &config.train;
    let linears: Vec<LinearSize> = block_linears(shape)
        .iter()
        .map(|&(_, m, n)| {
            let most = m.min(n) / if train.method == "lora-ga" { 2 } else { 1 };
            let rank = rank.min(most) as u128;
            let (m, n) = (m as u128, n as u128);
            LinearSize { weight: m * n, factors: rank * (m + n), rank }
        })
        .collect();
    let trains_rest = train.train_non_targets.unwrap_or(true);
    let hidden = shape.hidden_size as u128;
    let trained = |linear: &LinearSize| if rank == 0 { linear.weight } else { linear.factors };
    let trained_targets: u128 = linears.iter().map(trained).sum();
    let mut sizes = Sizes {
        tokens: micro_batch_tokens(config),
        hidden,
        queries: (shape.num_attention_heads * shape.head_dim) as u128,
        keys: (shape.num_key_value_heads * shape.head_dim) as u128,
        inner: shape.intermediate_size as u128,
        heads: shape.num_attention_heads as u128,
        block_gradient: trained_targets + if trains_rest { 2 * hidden } else { 0 },
        table_gradient: if trains_rest { shape.vocab_size as u128 * hidden } else { 0 },
        layers: shape.num_hidden_layers as u128,
        is_tied: shape.tie_word_embeddings,
        linears,
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

/// The projected layers of a block, each with the entries of its weight.
fn projected(
    config: &RunConfig,
    shape: &ModelConfig,
) -> impl Iterator<Item = (u128, ProjectedSize)> {
    let rank = config.train.rank.unwrap_or(0);
    block_linears(shape)
        .into_iter()
        .map(move |(_, m, n)| (m as u128 * n as u128, ProjectedSize::new(m, n, rank)))
}

fn phase(
    config: &RunConfig,
    shape: &ModelConfig,
    rank: usize,
    has_base: bool,
    on_gpu: bool,
) -> Estimate {
    let train = &config.train;
    let sizes = sizes(config, shape, rank);
    let per_model = |numbers: u128| 4 * sizes.layers * numbers;
    let weight: u128 = sizes.linears.iter().map(|l| l.weight).sum();
    let factors: u128 = sizes.linears.iter().map(|l| l.factors).sum();
    let non_targets = non_target_len(shape) as u128;
    let trained_rest = if train.train_non_targets.unwrap_or(true) { non_targets } else { 0 };
    let trained_targets = if rank == 0 { weight } else { factors };
    let is_switching = train.method == "switchlora" && rank > 0;
    let is_on_device = is_switching && config.switchlora.pools != "host";
    let pools = if is_on_device { pool_numbers(shape, rank) } else { 0 };
    let rope = shape.max_position_embeddings * (shape.head_dim / 2) * 2;
    let dense = if has_base { weight } else { 0 };
    let target_moments = if is_projected(config) {
        projected(config, shape).map(|(_, size)| size.state).sum()
    } else {
        2 * trained_targets
    };
    let counters = if is_switching { 4 * sizes.ranks() } else { 0 };
    // What a merge adds to a weight, one layer at a time and not during an update.
    let merged = merge_entries(&sizes, train.method == "relora" && rank > 0);
    let logits = logits(&sizes, shape, on_gpu);
    let walked = walk(&sizes, train.grad_checkpoint, logits).max(merged);
    Estimate {
        weights: bytes(per_model(dense) + 4 * (non_targets + rope as u128)),
        adapters: bytes(per_model(factors)),
        pools: bytes(per_model(pools)),
        optimizer: bytes(8 * trained_rest + per_model(target_moments + counters)),
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

/// Entries of the largest dense weight, where the method merges into it.
fn merge_entries(sizes: &Sizes, merges: bool) -> u128 {
    let largest = sizes.linears.iter().map(|linear| linear.weight).max().unwrap_or(0);
    if merges { largest } else { 0 }
}

/// Ids, targets, positions and order of every micro-batch of an update.
fn batch_bytes(sizes: &Sizes, micro_batches: usize) -> u128 {
    16 * sizes.tokens * micro_batches as u128
}

/// The largest number of gradient and activation entries that live together, walking through the last
/// micro-batch of an update. `logits`: entries of one chunk of them.
fn walk(sizes: &Sizes, recompute: bool, logits: u128) -> u128 {
    let stream = sizes.tokens * sizes.hidden;
    let kept = if recompute { stream } else { sizes.trace() };
    let mut peak = 0;
    let mut see = |numbers: u128| peak = peak.max(numbers);
    for layer in 0..sizes.layers {
        let trace = if recompute { sizes.trace() } else { 0 };
        see(layer * kept + trace.max(kept) + sizes.forward_extra());
    }
    // Head: the stream, its norm and the norm's gradient, a chunk of logits, the head's gradient.
    let traces = sizes.layers * kept;
    let head_gradient = sizes.table_gradient;
    see(traces + 3 * stream + sizes.tokens + logits + head_gradient);
    see(traces + 3 * stream + head_gradient);
    // Blocks from the last to the first: traces shrink while gradients grow.
    let is_consumed = sizes.consumed_gradient.is_some();
    let mut gradients = if is_consumed { 0 } else { head_gradient + sizes.hidden };
    let transient = sizes.consumed_gradient.unwrap_or(0);
    for layer in (0..sizes.layers).rev() {
        let trace = if recompute { stream * layer + sizes.trace() } else { kept * (layer + 1) };
        if recompute {
            // The block runs forward again beside the gradient of its output.
            see(gradients + stream * layer + sizes.trace() + stream + sizes.forward_extra());
        }
        see(gradients + trace + sizes.backward_extra() + transient);
        gradients += if is_consumed { 0 } else { sizes.block_gradient };
        see(gradients + kept * layer + 2 * stream);
    }
    if !sizes.is_tied {
        gradients += sizes.table_gradient;
    }
    see(gradients + stream);
    see(gradients + sizes.update_scratch);
    peak
}
