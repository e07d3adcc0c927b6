//! The configuration of a run: one struct for flags and TOML.
//!
//! Values that depend on the model or the method are `Option`s here; `RunConfig::resolve` fills them in
//! once the model is known, and the result is what `run.toml` holds. `settings` is the table of keys, flags
//! and texts, `load` reads and writes, `check` says which values are allowed.

use serde::{Deserialize, Serialize};

mod check;
mod load;
pub mod settings;
#[cfg(test)]
mod tests;

pub use load::FlagValue;

/// Everything that decides a run. Tables of TOML: `[model] [data] [train]` and one per method.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Which network.
    pub model: ModelTable,
    /// Which text.
    pub data: DataTable,
    /// How to train it.
    pub train: TrainTable,
    /// LoRA's settings.
    pub lora: LoraTable,
    /// SwitchLoRA's settings.
    pub switchlora: SwitchLoraTable,
    /// ReLoRA's settings.
    pub relora: ReloraTable,
    /// GaLore's settings.
    pub galore: GaloreTable,
    /// Fira's settings.
    pub fira: FiraTable,
}

impl RunConfig {
    /// Full-rank updates before the method makes its factors; 0 where it has no such phase.
    pub fn warm_start(&self) -> u64 {
        match self.train.method.as_str() {
            "switchlora" => self.switchlora.warm_start,
            "relora" => self.relora.warm_start.unwrap_or(0),
            _ => 0,
        }
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelTable {
    /// A preset's name or a Hugging Face directory.
    pub model: String,
    /// Overrides of a preset's shape; not allowed with a directory.
    pub hidden_size: Option<usize>,
    /// Width of the MLP.
    pub intermediate_size: Option<usize>,
    /// Number of blocks.
    pub num_hidden_layers: Option<usize>,
    /// Query heads.
    pub num_attention_heads: Option<usize>,
    /// Key and value heads.
    pub num_key_value_heads: Option<usize>,
    /// Whether the head shares the embedding's weights.
    pub tie_word_embeddings: Option<bool>,
}

impl Default for ModelTable {
    fn default() -> Self {
        Self {
            model: "demo".into(),
            hidden_size: None,
            intermediate_size: None,
            num_hidden_layers: None,
            num_attention_heads: None,
            num_key_value_heads: None,
            tie_word_embeddings: None,
        }
    }
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataTable {
    /// `builtin`, a text file or a folder of text files.
    pub data: String,
    /// `builtin`, `bytes`, a `tokenizer.json`, or a folder that holds one. Default: the model directory's own,
    /// `builtin` for presets.
    pub tokenizer: Option<String>,
    /// Tokens per sequence. Default: the preset's.
    pub max_seq_length: Option<usize>,
    /// Share of user text held out at the end when there is no `valid.txt`.
    pub valid_fraction: f64,
    /// Seed of the data order. Default: `train.seed`.
    pub data_seed: Option<u64>,
}

impl Default for DataTable {
    fn default() -> Self {
        Self {
            data: "builtin".into(),
            tokenizer: None,
            max_seq_length: None,
            valid_fraction: 0.05,
            data_seed: None,
        }
    }
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainTable {
    /// Training method.
    pub method: String,
    /// Rank of the factors. Default: a quarter of the hidden size.
    pub rank: Option<usize>,
    /// Numerator of the adapter scale. Default: the method's.
    pub alpha: Option<f64>,
    /// Updates attempted. Default: the preset's.
    pub iters: Option<u64>,
    /// Stop (with a checkpoint) after this much active time.
    pub max_minutes: Option<f64>,
    /// Sequences per micro-batch. Default: the preset's.
    pub batch_size: Option<usize>,
    /// Micro-batches per update.
    pub grad_accumulation_steps: usize,
    /// Peak learning rate. Default: the method's.
    pub learning_rate: Option<f64>,
    /// Schedule of the learning rate. Default: the method's.
    pub lr_schedule: Option<String>,
    /// Warm-up updates. Default: 100, at most a tenth of the run.
    pub warmup_steps: Option<u64>,
    /// Lowest learning rate as a share of the peak, for the schedules with a floor.
    pub min_lr_ratio: f64,
    /// Adam's first decay rate.
    pub beta1: f64,
    /// Adam's second decay rate.
    pub beta2: f64,
    /// Added to Adam's root.
    pub adam_eps: f64,
    /// `torch` or `reference`.
    pub adam_form: String,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Global gradient-norm clip; 0 switches it off. Default: the method's.
    pub max_grad_norm: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// `auto`, `cpu`, `gpu`, `gpu:N`, `software`.
    pub device: String,
    /// Device memory in GiB that the run may need. Default: no limit but the driver's.
    pub memory_budget: Option<f64>,
    /// Worker threads of the CPU backend; 0 means all cores.
    pub threads: usize,
    /// Recompute activations per block in the backward pass.
    pub grad_checkpoint: bool,
    /// Whether embedding, head and norms are trained. Default: not when adapters are trained on a model folder.
    pub train_non_targets: Option<bool>,
    /// Updates between report lines (and `mem`/`time` events). Default: about 60 lines a run.
    pub steps_per_report: Option<u64>,
    /// Updates between evaluations. Default: 10 evaluations a run.
    pub eval_every: Option<u64>,
    /// Validation batches per evaluation; 0 means all.
    pub eval_batches: usize,
    /// Updates between checkpoints; 0 means only at the end. Default: 4 a run.
    pub checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints are kept (the best one is kept besides).
    pub keep_checkpoints: usize,
    /// Updates between text samples; 0 means only at the end.
    pub sample_every: u64,
    /// Tokens per sample.
    pub sample_tokens: usize,
    /// What samples begin with.
    pub sample_prompt: String,
}

impl Default for TrainTable {
    fn default() -> Self {
        Self {
            method: "switchlora".into(),
            rank: None,
            alpha: None,
            iters: None,
            max_minutes: None,
            batch_size: None,
            grad_accumulation_steps: 1,
            learning_rate: None,
            lr_schedule: None,
            warmup_steps: None,
            min_lr_ratio: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            adam_eps: 1e-8,
            adam_form: "torch".into(),
            weight_decay: 0.0,
            max_grad_norm: None,
            seed: 0,
            device: "auto".into(),
            memory_budget: None,
            threads: 0,
            grad_checkpoint: false,
            train_non_targets: None,
            steps_per_report: None,
            eval_every: None,
            eval_batches: 8,
            checkpoint_every: None,
            keep_checkpoints: 2,
            sample_every: 0,
            sample_tokens: 64,
            sample_prompt: "It was".into(),
        }
    }
}

/// `[lora]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraTable {
    /// `standard`, `both_kaiming`, `switchlora` or `gaussian`.
    pub init: String,
    /// `dense` keeps the frozen weight; `none` trains the product of the factors alone.
    pub base: String,
}

impl Default for LoraTable {
    fn default() -> Self {
        Self { init: "standard".into(), base: "dense".into() }
    }
}

/// `[switchlora]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwitchLoraTable {
    /// Mean updates between two switches of one vector, at the start of the run.
    pub interval0: f64,
    /// The rate has fallen to a third at this share of the run.
    pub ratio: f64,
    /// Updates for which the counterpart of a switched vector is held.
    pub freeze: u64,
    /// `contiguous` or `random`.
    pub selection: String,
    /// `paper` or `code`: the form of the rate's decay.
    pub rate: String,
    /// Whether weight decay acts on frozen vectors, as in the authors' code.
    pub decay_frozen: bool,
    /// Whether Adam's counters advance during a freeze, as in the authors' code.
    pub count_frozen_steps: bool,
    /// Full-rank updates before the factors are made.
    pub warm_start: u64,
    /// Peak learning rate of those updates.
    pub warm_start_learning_rate: f64,
    /// `auto`, `device` or `host`: where the candidate vectors wait.
    pub pools: String,
}

impl Default for SwitchLoraTable {
    fn default() -> Self {
        Self {
            interval0: 40.0,
            ratio: 0.1,
            freeze: 5,
            selection: "contiguous".into(),
            rate: "paper".into(),
            decay_frozen: false,
            count_frozen_steps: true,
            warm_start: 0,
            warm_start_learning_rate: 1e-3,
            pools: "auto".into(),
        }
    }
}

/// `[relora]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReloraTable {
    /// Full-rank updates before the factors are made. Default: a quarter of the run, and what does not go into
    /// whole cycles.
    pub warm_start: Option<u64>,
    /// Peak learning rate of those updates.
    pub warm_start_learning_rate: f64,
    /// Updates from one merge to the next. Default: a quarter of what follows the warm start.
    pub cycle: Option<u64>,
    /// Warm-up of the first cycle. Default: a tenth of a cycle, at most 500.
    pub warmup_steps: Option<u64>,
    /// Warm-up after each merge. Default: a twentieth of a cycle, 2 to 100.
    pub rewarm_steps: Option<u64>,
    /// `magnitude`, `random` or `zero`: which entries of the moments a merge zeroes.
    pub reset: String,
    /// Share of the entries that `magnitude` and `random` zero.
    pub prune_ratio: f64,
    /// `joint`: a first moment stays only where the second does; `independent`: as in the authors' code.
    pub masks: String,
}

impl Default for ReloraTable {
    fn default() -> Self {
        Self {
            warm_start: None,
            warm_start_learning_rate: 1e-3,
            cycle: None,
            warmup_steps: None,
            rewarm_steps: None,
            reset: "magnitude".into(),
            prune_ratio: 0.99,
            masks: "joint".into(),
        }
    }
}

/// `[galore]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GaloreTable {
    /// Updates between two refreshes of the subspaces. Default: 200, less in short runs.
    pub update_proj_gap: Option<u64>,
    /// `keep`, `rotate` or `reset`: what becomes of the moments at a refresh.
    pub carry: String,
    /// `auto`, `exact` or `randomised`: how subspaces are found.
    pub decomposition: String,
    /// Whether each gradient is applied and freed during the backward pass.
    pub per_layer: bool,
}

impl Default for GaloreTable {
    fn default() -> Self {
        Self {
            update_proj_gap: None,
            carry: "keep".into(),
            decomposition: "auto".into(),
            per_layer: false,
        }
    }
}

/// `[fira]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FiraTable {
    /// Updates between two refreshes of the subspaces. Default: 200, less in short runs.
    pub update_proj_gap: Option<u64>,
    /// `keep`, `rotate` or `reset`: what becomes of the moments at a refresh.
    pub carry: String,
    /// `auto`, `exact` or `randomised`: how subspaces are found.
    pub decomposition: String,
    /// `released` or `paper`: the authors' package and their paper differ.
    pub form: String,
    /// `column`, `matrix` or `none`: how the residual is scaled.
    pub scaling: String,
    /// Most growth of the residual's norm from one update to the next.
    pub gamma: f64,
}

impl Default for FiraTable {
    fn default() -> Self {
        Self {
            update_proj_gap: None,
            carry: "keep".into(),
            decomposition: "auto".into(),
            form: "released".into(),
            scaling: "column".into(),
            gamma: 1.01,
        }
    }
}

/// The settings that methods with a projected gradient share.
#[derive(Debug, Clone, Copy)]
pub struct ProjectionSettings<'a> {
    /// Updates between two refreshes.
    pub gap: Option<u64>,
    /// What becomes of the moments at a refresh.
    pub carry: &'a str,
    /// How subspaces are found.
    pub decomposition: &'a str,
}

impl<'a> From<&'a GaloreTable> for ProjectionSettings<'a> {
    fn from(table: &'a GaloreTable) -> Self {
        let GaloreTable { update_proj_gap, carry, decomposition, .. } = table;
        Self { gap: *update_proj_gap, carry, decomposition }
    }
}

impl<'a> From<&'a FiraTable> for ProjectionSettings<'a> {
    fn from(table: &'a FiraTable) -> Self {
        let FiraTable { update_proj_gap, carry, decomposition, .. } = table;
        Self { gap: *update_proj_gap, carry, decomposition }
    }
}
