//! The shape of a LLaMA-family network, and the presets.

pub use crate::formats::hf_config::{Family, HfConfig as ModelConfig, Rope, RopeKind, Variant};

/// A named shape with training settings that suit it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Name on the command line.
    pub name: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    /// Tokens per sequence.
    pub seq_len: usize,
    /// Sequences per micro-batch.
    pub batch_size: usize,
    /// Updates.
    pub iters: u64,
}

/// Vocabulary of the t5-base tokenizer, which the papers' parameter counts include.
pub const PAPER_VOCAB: usize = 32_100;

const fn paper(
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
) -> Preset {
    Preset { name, hidden, intermediate, layers, heads, seq_len: 256, batch_size: 8, iters: 10_000 }
}

/// `demo`, and the configurations of the SwitchLoRA, ReLoRA and GaLore papers.
pub const PRESETS: [Preset; 14] = [
    Preset {
        name: "demo",
        hidden: 128,
        intermediate: 344,
        layers: 4,
        heads: 4,
        seq_len: 128,
        batch_size: 16,
        iters: 600,
    },
    paper("9M", 128, 352, 4, 4),
    paper("20M", 256, 688, 4, 4),
    paper("35M", 384, 1024, 6, 8),
    paper("40M", 416, 1024, 8, 8),
    paper("60M", 512, 1376, 8, 8),
    paper("71M", 512, 1368, 12, 8),
    paper("100M", 640, 1708, 12, 10),
    paper("130M", 768, 2048, 12, 12),
    paper("250M", 768, 2560, 24, 16),
    paper("350M", 1024, 2736, 24, 16),
    paper("1.3B", 2048, 5461, 24, 32),
    paper("3B", 2560, 6848, 32, 32),
    paper("7B", 4096, 11008, 32, 32),
];

/// Finds a preset; `1B` is another name of `1.3B`.
pub fn preset(name: &str) -> Option<&'static Preset> {
    let name = if name.eq_ignore_ascii_case("1B") { "1.3B" } else { name };
    PRESETS.iter().find(|preset| preset.name.eq_ignore_ascii_case(name))
}

impl Preset {
    /// The network of this preset for a vocabulary.
    pub fn config(&self, vocab_size: usize) -> ModelConfig {
        ModelConfig {
            variant: Variant::default(),
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.heads,
            head_dim: self.hidden / self.heads,
            rms_norm_eps: 1e-6,
            vocab_size,
            max_position_embeddings: if self.name == "7B" { 2048 } else { 1024 },
            tie_word_embeddings: false,
            rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            initializer_range: 0.02,
        }
    }
}

/// The seven linear layers of a block: module name within the block, outputs, inputs.
pub fn block_linears(config: &ModelConfig) -> [(&'static str, usize, usize); 7] {
    let hidden = config.hidden_size;
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let inner = config.intermediate_size;
    [
        ("self_attn.q_proj", queries, hidden),
        ("self_attn.k_proj", keys, hidden),
        ("self_attn.v_proj", keys, hidden),
        ("self_attn.o_proj", hidden, queries),
        ("mlp.gate_proj", inner, hidden),
        ("mlp.up_proj", inner, hidden),
        ("mlp.down_proj", hidden, inner),
    ]
}

/// A target layer before it exists: its shape and its place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetLayer {
    /// Module name within the block: `self_attn.q_proj`.
    pub module: &'static str,
    /// Outputs `m`.
    pub rows: usize,
    /// Inputs `n`.
    pub cols: usize,
    /// The block it is in, from 0.
    pub block: usize,
    /// Blocks of the network.
    pub blocks: usize,
}

impl TargetLayer {
    /// Module path, as [`super::Linear`] has it.
    pub fn name(&self) -> String {
        format!("model.layers.{}.{}", self.block, self.module)
    }

    /// `C = min(m, n)`, the largest rank it can have.
    pub fn max_rank(&self) -> usize {
        self.rows.min(self.cols)
    }

    /// Entries of its dense weight, `m·n`.
    pub fn len(&self) -> u128 {
        self.rows as u128 * self.cols as u128
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries of a low-rank pair, `r·(m + n)`.
    pub fn factor_len(&self, rank: usize) -> u128 {
        rank as u128 * (self.rows as u128 + self.cols as u128)
    }
}

/// All target layers, block by block in the model's order.
pub fn target_layers(config: &ModelConfig) -> Vec<TargetLayer> {
    let blocks = config.num_hidden_layers;
    let linears = block_linears(config);
    let of_block = |block| {
        linears.into_iter().map(move |(module, rows, cols)| TargetLayer {
            module,
            rows,
            cols,
            block,
            blocks,
        })
    };
    (0..blocks).flat_map(of_block).collect()
}

/// Numbers in the target layers, all blocks: `Σ m·n`.
pub fn target_len(config: &ModelConfig) -> usize {
    let block: usize = block_linears(config).iter().map(|(_, m, n)| m * n).sum();
    config.num_hidden_layers * block
}

/// Numbers in the factors of rank `rank`, all blocks: `Σ r_l·(m+n)` with `r_l` clamped to the layer.
pub fn factor_len(config: &ModelConfig, rank: usize) -> usize {
    let block: usize =
        block_linears(config).iter().map(|(_, m, n)| rank.min(*m).min(*n) * (m + n)).sum();
    config.num_hidden_layers * block
}

/// Numbers in a block beside its linear weights: norm gains and biases.
pub fn block_rest_len(config: &ModelConfig) -> usize {
    let biases: usize = block_linears(config)
        .iter()
        .filter(|(module, ..)| config.variant.has_bias(module))
        .map(|(_, outputs, _)| outputs)
        .sum();
    let head_norms = if config.variant.has_head_norms() { 2 * config.head_dim } else { 0 };
    2 * config.hidden_size + head_norms + biases
}

/// Numbers in everything else: embedding, head (unless tied), norm gains and biases.
pub fn non_target_len(config: &ModelConfig) -> usize {
    let tables = if config.tie_word_embeddings { 1 } else { 2 };
    let outside = (tables * config.vocab_size + 1) * config.hidden_size;
    outside + config.num_hidden_layers * block_rest_len(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Million parameters at vocabulary 32,100: total, targets, non-targets, then trainable at ranks
    /// 16 32 64 128 256 512 (0: not in the table).
    const TABLE: [(&str, [f64; 9]); 10] = [
        ("9M", [9.02, 0.80, 8.22, 8.4, 8.5, 8.8, 0.0, 0.0, 0.0]),
        ("20M", [19.60, 3.16, 16.44, 16.7, 17.1, 17.7, 18.9, 0.0, 0.0]),
        ("35M", [35.27, 10.62, 24.66, 25.4, 26.1, 27.5, 30.3, 0.0, 0.0]),
        ("60M", [58.18, 25.30, 32.88, 34.1, 35.4, 37.9, 42.9, 52.9, 0.0]),
        ("71M", [70.68, 37.80, 32.88, 34.8, 36.6, 40.4, 47.8, 62.8, 0.0]),
        ("130M", [134.26, 84.93, 49.32, 52.1, 54.9, 60.5, 71.7, 94.2, 0.0]),
        ("250M", [247.52, 198.18, 49.34, 55.5, 61.7, 74.1, 98.9, 148.4, 0.0]),
        ("350M", [368.17, 302.38, 65.79, 73.3, 80.7, 95.7, 125.6, 185.4, 305.1]),
        ("1.3B", [1339.49, 1207.91, 131.58, 146.5, 161.5, 191.3, 251.1, 370.7, 609.7]),
        ("7B", [6739.23, 6476.01, 263.23, 303.2, 343.2, 423.1, 583.0, 902.9, 1542.5]),
    ];

    #[test]
    fn parameter_counts_are_those_of_the_papers() {
        for (name, row) in TABLE {
            let config = preset(name).unwrap().config(PAPER_VOCAB);
            let millions = |n: usize, digits: i32| {
                let unit = 10f64.powi(digits);
                (n as f64 / 1e6 * unit).round() / unit
            };
            let (targets, rest) = (target_len(&config), non_target_len(&config));
            assert_eq!(millions(targets + rest, 2), row[0], "{name} total");
            assert_eq!(millions(targets, 2), row[1], "{name} targets");
            assert_eq!(millions(rest, 2), row[2], "{name} non-targets");
            for (rank, expected) in [16, 32, 64, 128, 256, 512].into_iter().zip(&row[3..]) {
                if *expected > 0.0 {
                    let trained = rest + factor_len(&config, rank);
                    assert_eq!(millions(trained, 1), *expected, "{name} rank {rank}");
                }
            }
        }
    }

    #[test]
    fn the_other_presets_have_the_counts_of_their_table() {
        for (name, with_t5, with_llama) in [("40M", 42.48, 42.39), ("3B", 2686.34, 2685.83)] {
            for (vocab, expected) in [(PAPER_VOCAB, with_t5), (32_000, with_llama)] {
                let config = preset(name).unwrap().config(vocab);
                let total = (target_len(&config) + non_target_len(&config)) as f64 / 1e6;
                assert!((total - expected).abs() < 0.005, "{name}: {total}");
            }
        }
        let config = preset("100M").unwrap().config(PAPER_VOCAB);
        let total = (target_len(&config) + non_target_len(&config)) as f64 / 1e6;
        assert!((total - 100.12).abs() < 0.005, "100M: {total}");
    }
}
