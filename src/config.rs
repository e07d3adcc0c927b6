//! The configuration of a run: one struct for flags and TOML.
//!
//! Values that depend on the model or the method are `Option`s here; `RunConfig::resolve` fills them in
//! once the model is known, and the result is what `run.toml` holds. `settings` is the table of keys, flags
//! and texts, `load` reads and writes, `check` says which values are allowed.

use serde::{Deserialize, Serialize};

mod check;
pub mod live;
mod load;
mod methods;
mod rank;
mod ranks;
pub mod settings;
mod targets;
#[cfg(test)]
mod tests;

pub use check::check_methods_flag;
pub use load::{FlagValue, setting_named};
pub use methods::{
    AdaRankGradTable, Defaults, FiraTable, GaloreTable, InRankTable, LoraGaTable, LoraPlusTable,
    LoraTable, LteTable, PissaTable, ProjectionSettings, ReloraTable, SlTrainTable, SpamTable,
    SwitchLoraTable, check_batch, check_warmup, has_rank, is_table_of,
};
pub use rank::RankTable;
pub use ranks::Ranks;
pub use targets::Targets;

/// Everything that decides a run. Tables of TOML: `[model] [data] [train] [rank]` and one per method.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Which network.
    pub model: ModelTable,
    /// Which text.
    pub data: DataTable,
    /// How to train it.
    pub train: TrainTable,
    /// What is measured of the ranks.
    pub rank: RankTable,
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
    /// LoRA-GA's settings.
    #[serde(rename = "lora-ga")]
    pub lora_ga: LoraGaTable,
    /// LoRA+'s settings.
    #[serde(rename = "lora-plus")]
    pub lora_plus: LoraPlusTable,
    /// PiSSA's settings.
    pub pissa: PissaTable,
    /// AdaRankGrad's settings.
    pub adarankgrad: AdaRankGradTable,
    /// SLTrain's settings.
    pub sltrain: SlTrainTable,
    /// InRank's settings.
    pub inrank: InRankTable,
    /// LTE's settings.
    pub lte: LteTable,
    /// SPAM's settings, which count with every method.
    pub spam: SpamTable,
}

impl RunConfig {
    /// Whether the method is LoRA or differs from it in one number: these read LoRA's table.
    pub fn is_plain_lora(&self) -> bool {
        matches!(self.train.method.as_str(), "lora" | "rslora" | "lora-plus")
    }

    /// Full-rank updates before the method makes its factors; 0 where it has no such phase.
    pub fn warm_start(&self) -> u64 {
        match self.train.method.as_str() {
            "switchlora" => self.switchlora.warm_start,
            "relora" => self.relora.warm_start.unwrap_or(0),
            _ => 0,
        }
    }

    /// Has the method make its factors before the first update.
    pub fn skip_warm_start(&mut self) {
        self.switchlora.warm_start = 0;
        self.relora.warm_start = Some(0);
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelTable {
    /// A preset's name, a Hugging Face directory, or the id of a model in the Hugging Face cache.
    pub model: String,
    /// A PEFT adapter of that directory to go on with.
    pub adapter: Option<String>,
    /// How frozen weights of linear layers are stored: `f32`, `f16`, `q8` or `nf4`.
    pub base_storage: String,
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
            adapter: None,
            base_storage: "f32".into(),
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
    /// `builtin`, a file of text or of rows (`.jsonl`), or a folder of such files.
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
    /// `chatml` or a file with a template of chats. Default: the model's own.
    pub chat_template: Option<String>,
    /// Of rows only completions, and what the assistant says, are learned.
    pub mask_prompt: bool,
    /// Rows share blocks.
    pub packing: bool,
    /// A row that cannot be used stops the run.
    pub strict: bool,
}

impl Default for DataTable {
    fn default() -> Self {
        Self {
            data: "builtin".into(),
            tokenizer: None,
            max_seq_length: None,
            valid_fraction: 0.05,
            data_seed: None,
            chat_template: None,
            mask_prompt: true,
            packing: true,
            strict: false,
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
    /// Rank in the first block, where ranks differ by depth. Default: `rank`.
    pub rank_first: Option<usize>,
    /// Rank in the last block. Default: `rank`.
    pub rank_last: Option<usize>,
    /// Numerator of the adapter scale. Default: the method's.
    pub alpha: Option<f64>,
    /// Linear layers that get an adapter: names with commas between, or `all-linear`. Default: all.
    pub target_modules: Option<String>,
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
    /// Stop after this many evaluations without a lower loss. Default: never.
    pub early_stop: Option<u64>,
    /// Updates between checkpoints; 0 means only at the end. Default: 4 a run.
    pub checkpoint_every: Option<u64>,
    /// Whether each best evaluation is followed by a checkpoint. Default: with a model folder or an early stop.
    pub save_best: Option<bool>,
    /// How many of the newest checkpoints are kept (the best one is kept besides).
    pub keep_checkpoints: usize,
    /// Updates between text samples; 0 means only at the end.
    pub sample_every: u64,
    /// Tokens per sample.
    pub sample_tokens: usize,
    /// What samples begin with.
    pub sample_prompt: String,
    /// What an alert does to the run: `log`, `pause` or `stop`.
    pub alert_policy: String,
    /// Command that each alert starts. Default: none.
    pub on_alert: Option<String>,
}

impl Default for TrainTable {
    fn default() -> Self {
        Self {
            method: "switchlora".into(),
            rank: None,
            rank_first: None,
            rank_last: None,
            alpha: None,
            target_modules: None,
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
            early_stop: None,
            checkpoint_every: None,
            save_best: None,
            keep_checkpoints: 2,
            sample_every: 0,
            sample_tokens: 64,
            sample_prompt: "It was".into(),
            alert_policy: "log".into(),
            on_alert: None,
        }
    }
}
