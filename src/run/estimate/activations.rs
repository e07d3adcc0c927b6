//! Gradients and activations of one update, entry by entry: a walk through the last micro-batch the way the
//! engine does it, which finds the most that live together.

use crate::config::RunConfig;
use crate::methods::footprint::Footprint;
use crate::model::ModelConfig;
use crate::model::config::block_rest_len;

/// What the layers of one block add to the walk, in numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    /// Per token, of all its layers.
    trace_per_token: u128,
    /// The largest of them.
    widest_trace: u128,
    /// Outputs per token that are kept from before trained lengths, of all its layers.
    outputs_per_token: u128,
    /// Gradients that are kept for the update, norm gains and biases included.
    gradient: u128,
}

/// The sizes that the walk through an update needs, in numbers.
pub(super) struct Walk {
    /// Of one replica.
    tokens: u128,
    replicas: u128,
    hidden: u128,
    queries: u128,
    keys: u128,
    inner: u128,
    /// One `lse` per query and head.
    heads: u128,
    /// What each token leaves for the norms of heads: q and k before them, and a number for each head.
    head_norms: u128,
    blocks: Vec<Block>,
    /// Gradient of the head or the embedding, where they are trained.
    table_gradient: u128,
    is_tied: bool,
    /// What a product of a layer holds for a moment.
    product_scratch: u128,
    /// What the update of a layer holds beside the gradients.
    update_scratch: u128,
    /// What a merge of a layer holds, one layer at a time and not during an update.
    merge_scratch: u128,
    /// The largest gradient of a target layer with its scratch, where each is used up and freed at once.
    consumed_gradient: Option<u128>,
    /// Entries of one chunk of logits.
    logits: u128,
}

impl Walk {
    /// For a configuration whose every value is set; `layers` are the footprints of all target layers, block by
    /// block, `chunk` the tokens whose logits are made at once.
    pub(super) fn new(
        config: &RunConfig,
        shape: &ModelConfig,
        layers: &[Footprint],
        chunk: usize,
    ) -> Self {
        // Replicas have equal parts of a batch, one after the other.
        let replicas = config.replicas().max(1) as u128;
        let tokens = super::micro_batch_tokens(config) / replicas;
        let hidden = shape.hidden_size as u128;
        let vocab = shape.vocab_size as u128;
        let trains_rest = super::trains_rest(config, layers);
        let gains = if trains_rest { block_rest_len(shape) as u128 } else { 0 };
        let per_block = layers.len().checked_div(shape.num_hidden_layers).unwrap_or(0).max(1);
        let block = |layers: &[Footprint]| {
            let traces = layers.iter().map(|layer| layer.trace_per_token);
            Block {
                trace_per_token: traces.clone().sum(),
                widest_trace: traces.max().unwrap_or(0),
                outputs_per_token: layers.iter().map(|layer| layer.outputs_per_token).sum(),
                gradient: gains + layers.iter().map(|layer| layer.trained).sum::<u128>(),
            }
        };
        let largest = |of: fn(&Footprint) -> u128| layers.iter().map(of).max().unwrap_or(0);
        let is_consumed = layers.iter().any(|layer| layer.is_consumed);
        Self {
            tokens,
            replicas,
            hidden,
            queries: (shape.num_attention_heads * shape.head_dim) as u128,
            keys: (shape.num_key_value_heads * shape.head_dim) as u128,
            inner: shape.intermediate_size as u128,
            heads: shape.num_attention_heads as u128,
            head_norms: if shape.variant.has_head_norms() {
                let heads = shape.num_attention_heads + shape.num_key_value_heads;
                (heads * (shape.head_dim + 1)) as u128
            } else {
                0
            },
            blocks: layers.chunks(per_block).map(block).collect(),
            table_gradient: if trains_rest { vocab * hidden } else { 0 },
            is_tied: shape.tie_word_embeddings,
            product_scratch: largest(|layer| layer.product_scratch),
            update_scratch: largest(|layer| layer.update_scratch),
            merge_scratch: largest(|layer| layer.merge_scratch),
            consumed_gradient: is_consumed
                .then(|| largest(|layer| layer.trained + layer.update_scratch)),
            logits: (chunk as u128).min(tokens) * vocab,
        }
    }

    /// What a block keeps of its forward pass: `x, middle (C)`, `q, attended`, `k, v`, `gate, up`, two
    /// `rstd`, `lse`, what norms of heads read, `x·Aᵀ` of every adapter, and the output before trained lengths.
    fn trace(&self, block: &Block) -> u128 {
        let row = 2 * self.hidden + 2 * self.queries + 2 * self.keys + 2 * self.inner;
        let norms = 2 + self.head_norms;
        self.tokens * (row + norms + self.heads + block.trace_per_token + block.outputs_per_token)
    }

    /// The most that a block's forward pass holds besides its trace: the norm's output beside a projection,
    /// or the inner activation beside the output.
    fn forward_extra(&self) -> u128 {
        self.tokens * self.hidden.max(self.inner + self.hidden) + self.product_scratch
    }

    /// The most that a block's backward pass holds besides the block's trace and gradients: the gradient
    /// of the output with, in the MLP, the inner activation (its own gradients replace `gate` and `up`), or
    /// the two gradients of the residual stream with the norm's output, or in the attention `dq, dk, dv`
    /// beside the residual gradient. With trained lengths there are the gradients before them too.
    fn backward_extra(&self, block: &Block) -> u128 {
        let rank = block.widest_trace;
        let scaled = |width: u128| if block.outputs_per_token > 0 { width } else { 0 };
        let mlp = self.hidden + self.inner + rank + scaled(self.hidden);
        let norm = 3 * self.hidden + 2 * rank + scaled(2 * self.inner);
        // `middle`, `gate` and `up` are gone by then.
        let released = self.hidden + 2 * self.inner + scaled(self.hidden + 2 * self.inner);
        let rows = self.queries + 2 * self.keys;
        let attention = (self.hidden + 2 * self.queries + 2 * self.keys + rank)
            .max(3 * self.hidden + rows + scaled(rows))
            .saturating_sub(released);
        self.tokens * mlp.max(norm).max(attention) + self.product_scratch
    }

    /// The largest number of gradient and activation entries that live together.
    pub(super) fn peak(&self, recompute: bool) -> u128 {
        // The gradients of the other replicas are there when the last one is computed.
        let others = (self.replicas - 1) * self.gradients();
        (others + self.peak_of_one(recompute)).max(self.merge_scratch)
    }

    fn peak_of_one(&self, recompute: bool) -> u128 {
        let stream = self.tokens * self.hidden;
        let kept = |block: &Block| if recompute { stream } else { self.trace(block) };
        let mut peak = 0;
        let mut see = |numbers: u128| peak = peak.max(numbers);
        let mut traces = 0;
        for block in &self.blocks {
            see(traces + self.trace(block) + self.forward_extra());
            traces += kept(block);
        }
        // Head: the stream, its norm and the norm's gradient, a chunk of logits, the head's gradient.
        let head_gradient = self.table_gradient;
        see(traces + 3 * stream + self.tokens + self.logits + head_gradient);
        see(traces + 3 * stream + head_gradient);
        // Blocks from the last to the first: traces shrink while gradients grow.
        let is_consumed = self.consumed_gradient.is_some();
        let mut gradients = if is_consumed { 0 } else { head_gradient + self.hidden };
        let transient = self.consumed_gradient.unwrap_or(0);
        for block in self.blocks.iter().rev() {
            traces -= kept(block);
            let trace = self.trace(block);
            if recompute {
                // The block runs forward again beside the gradient of its output.
                see(gradients + traces + trace + stream + self.forward_extra());
            }
            see(gradients + traces + trace + self.backward_extra(block) + transient);
            gradients += if is_consumed { 0 } else { block.gradient };
            see(gradients + traces + 2 * stream);
        }
        if !self.is_tied {
            gradients += self.table_gradient;
        }
        see(gradients + stream);
        see(gradients + self.update_scratch);
        peak
    }

    /// The same without a single activation: what the gradients alone are at the end of the backward pass.
    pub(super) fn gradients(&self) -> u128 {
        if self.consumed_gradient.is_some() {
            return self.consumed_gradient.unwrap_or(0);
        }
        let tables = if self.is_tied { 1 } else { 2 } * self.table_gradient;
        let norm = if self.table_gradient > 0 { self.hidden } else { 0 };
        tables + norm + self.blocks.iter().map(|block| block.gradient).sum::<u128>()
    }
}
