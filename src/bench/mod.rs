//! Speed and memory: every kernel and whole training steps, beside stock burn in the same process, turn by
//! turn.
//!
//! Other jobs on the machine slow things down and never speed them up: compare best times, and medians only of
//! a quiet machine.

pub mod kernels;
pub mod steps;
#[doc(hidden)]
pub mod stock;
pub mod ui;

use serde_json::{Value, json};

use crate::device::Device;
use crate::error::Result;
use crate::kernels::ceiling::{Ceilings, ProgramTime};
use crate::model::ModelConfig;
use crate::model::config::{Rope, RopeKind, Variant};
use crate::random::stream;

use kernels::KernelRow;
use steps::StepRow;

/// Seed of weights and tokens.
pub const SEED: u64 = 0;

/// The network and the batch that everything is measured at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Width of the stream.
    pub dim: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads; they divide `dim` into parts of even size.
    pub heads: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Sequences of a batch.
    pub batch: usize,
    /// Rank of the adapters.
    pub rank: usize,
}

impl Default for Shape {
    /// The reference shape of `docs/performance.md`.
    fn default() -> Self {
        Self { dim: 256, layers: 6, heads: 4, ffn: 688, vocab: 4096, seq: 256, batch: 8, rank: 64 }
    }
}

impl Shape {
    /// Tokens of a batch.
    pub fn tokens(&self) -> usize {
        self.batch * self.seq
    }

    /// The network.
    pub fn model(&self) -> ModelConfig {
        ModelConfig {
            variant: Variant::default(),
            hidden_size: self.dim,
            intermediate_size: self.ffn,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.heads,
            head_dim: self.dim / self.heads,
            rms_norm_eps: 1e-6,
            vocab_size: self.vocab,
            max_position_embeddings: self.seq,
            tie_word_embeddings: false,
            rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            initializer_range: 0.02,
        }
    }

    /// Random inputs and targets, the same at every step; each token predicts the next.
    pub fn batch(&self) -> (Vec<i32>, Vec<i32>) {
        let mut draws = stream(SEED, "tokens", "bench", 0);
        let ids: Vec<i32> = (0..self.batch * (self.seq + 1))
            .map(|_| draws.below(self.vocab as u64) as i32)
            .collect();
        let rows = || ids.chunks(self.seq + 1);
        let inputs = rows().flat_map(|row| &row[..self.seq]).copied().collect();
        (inputs, rows().flat_map(|row| &row[1..]).copied().collect())
    }
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The device, as `--device` takes it.
    pub device: String,
    /// Whose steps are timed.
    pub methods: Vec<String>,
    /// Timed turns of each; None: as many as there is time for, at most seven.
    pub rounds: Option<usize>,
    /// Whether kernels are timed.
    pub with_kernels: bool,
    /// Whether steps are timed.
    pub with_steps: bool,
    /// Whether stock burn runs beside them.
    pub with_stock: bool,
    /// Updates of each method in which every launch is timed by itself, after the turns; 0: none.
    pub profiled: usize,
    /// The sizes.
    pub shape: Shape,
}

/// What was measured.
#[derive(Debug)]
pub struct Report {
    /// The device's name.
    pub device: String,
    /// What the device gives at most; measured with the kernels.
    pub ceilings: Option<Ceilings>,
    /// The kernels.
    pub kernels: Vec<KernelRow>,
    /// Whole steps, a row for each method.
    pub steps: Vec<StepRow>,
}

impl Report {
    /// The documented object.
    pub fn json(&self) -> Value {
        let kernels: Vec<Value> = self
            .kernels
            .iter()
            .map(|row| {
                json!({
                    "name": row.name,
                    "shape": row.shape,
                    "gflops": row.gflops(),
                    "stock_gflops": row.stock_gflops(),
                })
            })
            .collect();
        let steps: Vec<Value> = self.steps.iter().map(step).collect();
        json!({"device": self.device, "kernels": kernels, "steps": steps})
    }
}

fn step(row: &StepRow) -> Value {
    let mut object = json!({
        "method": row.method,
        "tokens_per_s": row.tokens_per_s,
        "stock": row.stock,
        "stock_tokens_per_s": row.stock_tokens_per_s,
        "ratio": row.ratio(),
        "ledger_peak_bytes": row.ledger_peak_bytes,
        "predicted_bytes": row.predicted_bytes,
        "pool_bytes": row.pool_bytes,
        "rss_bytes": row.rss_bytes,
    });
    // Of an update each.
    if let Some(updates) = row.profiled {
        let program = |time: &ProgramTime| {
            let each = |sum: f64| sum / updates as f64;
            json!({"name": time.name, "launches": each(time.launches as f64), "seconds": each(time.seconds)})
        };
        object["programs"] = row.programs.iter().map(program).collect();
    }
    object
}

/// Measures what `options` asks for; `tell` hears what is going on.
///
/// Errors: no such device, a failure of the device, or an unknown method.
pub fn run(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<Report> {
    let device = Device::open(&options.device, None)?;
    tell(&format!("device: {}", device.name()));
    let (mut ceilings, mut kernels) = (None, Vec::new());
    if options.with_kernels {
        let measured = Ceilings::measure(&device);
        tell(&format!(
            "at most {:.1} GB/s and {:.0} GFLOP/s",
            measured.bytes_per_s / 1e9,
            measured.flop_per_s / 1e9
        ));
        kernels = kernels::measure(&device, options, tell)?;
        ceilings = Some(measured);
    }
    let name = device.name().to_owned();
    // Its pools would stand beside those of the steps.
    drop(device);
    let steps = if options.with_steps { steps::measure(options, tell)? } else { Vec::new() };
    Ok(Report { device: name, ceilings, kernels, steps })
}
