//! The table of settings: every key of a configuration with its flag, its kind and its help.
//!
//! One row per field of [`RunConfig`](super::RunConfig), in the same order; a test compares the two. The
//! loader takes its key names and types from here, the command line its flags and texts. The table
//! knows neither TOML nor clap.

/// What a setting's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number, 0 or more.
    Count,
    /// A number, `inf` included.
    Number,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    /// One of these words; `RunConfig::check` has the last say on which are allowed.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// The kind in words, for messages: "expected …".
    pub fn expected(self) -> &'static str {
        match self {
            Self::Text | Self::Choice(_) => "text",
            Self::Count => "a whole number, 0 or more",
            Self::Number => "a number",
            Self::Switch => "true or false",
        }
    }

    /// A value of this kind as it is written in TOML, for messages.
    pub fn example(self) -> String {
        match self {
            Self::Text => "\"text\"".into(),
            Self::Choice(words) => format!("\"{}\"", words.first().unwrap_or(&"text")),
            Self::Count => "8".into(),
            Self::Number => "0.01".into(),
            Self::Switch => "true".into(),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Table and key in TOML: `switchlora.interval0`.
    pub key: &'static str,
    /// The flag without the dashes in front: the bare key for the common tables, with the method's name in
    /// front for a method's own table.
    pub flag: &'static str,
    /// Name of the value in help: `N`.
    pub value: &'static str,
    /// What the value must look like.
    pub kind: Kind,
    /// Help in one line, without full stop.
    pub short: &'static str,
    /// What the long help adds; empty if there is nothing to add.
    pub more: &'static str,
    /// Spellings of other tools, without dashes in front; hidden in help.
    pub aliases: &'static [&'static str],
}

impl Setting {
    /// The TOML table: `switchlora` of `switchlora.interval0`.
    pub fn table(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(table, _)| table)
    }

    /// The key inside its table: `interval0` of `switchlora.interval0`.
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }
}

/// Settings under one heading of the help.
#[derive(Debug)]
pub struct Group {
    /// The heading.
    pub heading: &'static str,
    /// Its settings, in the order of the configuration.
    pub settings: &'static [Setting],
}

/// All settings, in the order of the configuration.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}

/// The setting with this key (`train.iters`).
pub fn find(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key)
}

/// Methods that this version trains.
pub const METHODS: &[&str] = &["full", "lora", "switchlora"];

/// Methods that are planned and known by name.
pub const LATER_METHODS: &[&str] = &[
    "relora",
    "galore",
    "fira",
    "lora-ga",
    "lte",
    "rslora",
    "lora-plus",
    "dora",
    "pissa",
    "spam",
    "sltrain",
    "adarankgrad",
    "inrank",
];

/// Schedules of the learning rate.
pub const SCHEDULES: &[&str] = &["constant", "linear", "cosine", "cosine_floor", "cosine_min"];

/// Forms of Adam's update.
pub const ADAM_FORMS: &[&str] = &["torch", "reference"];

/// Inits of LoRA's factors.
pub const LORA_INITS: &[&str] = &["standard", "both_kaiming", "switchlora", "gaussian"];

/// What stands behind LoRA's factors.
pub const LORA_BASES: &[&str] = &["dense", "none"];

/// How SwitchLoRA selects vectors.
pub const SWITCH_SELECTIONS: &[&str] = &["contiguous", "random"];

/// Forms of the decay of SwitchLoRA's rate.
pub const SWITCH_RATES: &[&str] = &["paper", "code"];

/// The table, by heading.
pub const GROUPS: &[Group] = &[
    Group { heading: "Model", settings: MODEL },
    Group { heading: "Data", settings: DATA },
    Group { heading: "Training", settings: TRAINING },
    Group { heading: "Learning rate and optimizer", settings: OPTIMIZER },
    Group { heading: "Seed and device", settings: DEVICE },
    Group { heading: "Reports, evaluations, checkpoints, samples", settings: OUTPUT },
    Group { heading: "LoRA", settings: LORA },
    Group { heading: "SwitchLoRA", settings: SWITCHLORA },
];

const MODEL: &[Setting] = &[
    Setting {
        key: "model.model",
        flag: "model",
        value: "PRESET|DIR",
        kind: Kind::Text,
        short: "Preset or Hugging Face folder to train",
        more: "A preset is a shape with random weights and is pre-trained. A folder with config.json and \
               model.safetensors is fine-tuned.",
        aliases: &["model-name-or-path"],
    },
    Setting {
        key: "model.hidden_size",
        flag: "hidden-size",
        value: "N",
        kind: Kind::Count,
        short: "Width of the model [default: the preset's]",
        more: "Changes a preset; not allowed with a folder.",
        aliases: &[],
    },
    Setting {
        key: "model.intermediate_size",
        flag: "intermediate-size",
        value: "N",
        kind: Kind::Count,
        short: "Width of the MLP [default: the preset's]",
        more: "Changes a preset; not allowed with a folder.",
        aliases: &[],
    },
    Setting {
        key: "model.num_hidden_layers",
        flag: "num-hidden-layers",
        value: "N",
        kind: Kind::Count,
        short: "Number of blocks [default: the preset's]",
        more: "Changes a preset; not allowed with a folder.",
        aliases: &[],
    },
    Setting {
        key: "model.num_attention_heads",
        flag: "num-attention-heads",
        value: "N",
        kind: Kind::Count,
        short: "Query heads per block [default: the preset's]",
        more: "Changes a preset; not allowed with a folder.",
        aliases: &[],
    },
    Setting {
        key: "model.num_key_value_heads",
        flag: "num-key-value-heads",
        value: "N",
        kind: Kind::Count,
        short: "Key and value heads per block [default: the preset's]",
        more: "Fewer than query heads means grouped-query attention. Changes a preset; not allowed with a \
               folder.",
        aliases: &[],
    },
    Setting {
        key: "model.tie_word_embeddings",
        flag: "tie-word-embeddings",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Embedding and head share weights [default: the preset's]",
        more: "Changes a preset; not allowed with a folder.",
        aliases: &[],
    },
];

const DATA: &[Setting] = &[
    Setting {
        key: "data.data",
        flag: "data",
        value: "PATH",
        kind: Kind::Text,
        short: "Text to train on: a file, a folder or `builtin`",
        more: "A folder holds text files, and may hold train.txt and valid.txt; else a share at the end is held out. The \
               built-in text is five novels by Jane Austen, with Persuasion to validate.",
        aliases: &[],
    },
    Setting {
        key: "data.tokenizer",
        flag: "tokenizer",
        value: "PATH",
        kind: Kind::Text,
        short: "A tokenizer.json, `builtin` or `bytes` [default: the model's]",
        more: "A folder with a tokenizer.json will do. A model folder brings its own; presets use the built-in one with 4096 entries.",
        aliases: &["tokenizer-name"],
    },
    Setting {
        key: "data.max_seq_length",
        flag: "max-seq-length",
        value: "N",
        kind: Kind::Count,
        short: "Tokens per sequence [default: the preset's]",
        more: "Documents are joined and cut into blocks of this length.",
        aliases: &["max-length", "block-size"],
    },
    Setting {
        key: "data.valid_fraction",
        flag: "valid-fraction",
        value: "X",
        kind: Kind::Number,
        short: "Share of the text held out to validate",
        more: "Taken from the end; not used when the folder has a valid.txt.",
        aliases: &[],
    },
    Setting {
        key: "data.data_seed",
        flag: "data-seed",
        value: "N",
        kind: Kind::Count,
        short: "Seed of the order of the data [default: --seed]",
        more: "The order depends on this seed and the epoch, and on nothing else.",
        aliases: &[],
    },
];

const TRAINING: &[Setting] = &[
    Setting {
        key: "train.method",
        flag: "method",
        value: "NAME",
        kind: Kind::Choice(METHODS),
        short: "Training method: full, lora or switchlora",
        more: "",
        aliases: &["fine-tune-type"],
    },
    Setting {
        key: "train.rank",
        flag: "rank",
        value: "N",
        kind: Kind::Count,
        short: "Rank of the factors [default: hidden size / 4]",
        more: "Layers that are smaller than this take the largest rank they have.",
        aliases: &["lora-r"],
    },
    Setting {
        key: "train.alpha",
        flag: "alpha",
        value: "X",
        kind: Kind::Number,
        short: "The adapter's scale is alpha / rank [default: the method's]",
        more: "SwitchLoRA uses 1.",
        aliases: &["lora-alpha"],
    },
    Setting {
        key: "train.iters",
        flag: "iters",
        value: "N",
        kind: Kind::Count,
        short: "Updates to attempt [default: the preset's]",
        more: "Updates that are skipped because of a non-finite gradient count too.",
        aliases: &["max-steps"],
    },
    Setting {
        key: "train.max_minutes",
        flag: "max-minutes",
        value: "X",
        kind: Kind::Number,
        short: "Stop with a checkpoint after this many minutes of training",
        more: "Pauses do not count. The run can be resumed.",
        aliases: &[],
    },
    Setting {
        key: "train.batch_size",
        flag: "batch-size",
        value: "N",
        kind: Kind::Count,
        short: "Sequences per micro-batch [default: the preset's]",
        more: "",
        aliases: &["per-device-train-batch-size"],
    },
    Setting {
        key: "train.grad_accumulation_steps",
        flag: "grad-accumulation-steps",
        value: "N",
        kind: Kind::Count,
        short: "Micro-batches per update",
        more: "An update sees this many times the batch size, with the memory of one batch.",
        aliases: &["gradient-accumulation-steps"],
    },
];

const OPTIMIZER: &[Setting] = &[
    Setting {
        key: "train.learning_rate",
        flag: "learning-rate",
        value: "X",
        kind: Kind::Number,
        short: "Peak learning rate [default: the method's]",
        more: "SwitchLoRA wants about 20 times the rate of full-rank training.",
        aliases: &["lr"],
    },
    Setting {
        key: "train.lr_schedule",
        flag: "lr-schedule",
        value: "NAME",
        kind: Kind::Choice(SCHEDULES),
        short: "Schedule of the learning rate [default: the method's]",
        more: "One of constant, linear, cosine, cosine_floor, cosine_min. All but `constant` warm up first. `linear` and `cosine` end at 0; `cosine_floor` never goes \
               below --min-lr-ratio, `cosine_min` is scaled to end there.",
        aliases: &["lr-scheduler-type"],
    },
    Setting {
        key: "train.warmup_steps",
        flag: "warmup-steps",
        value: "N",
        kind: Kind::Count,
        short: "Warm-up updates [default: 100, at most a tenth of the run]",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "train.min_lr_ratio",
        flag: "min-lr-ratio",
        value: "X",
        kind: Kind::Number,
        short: "Lowest learning rate as a share of the peak",
        more: "For cosine_floor and cosine_min.",
        aliases: &[],
    },
    Setting {
        key: "train.beta1",
        flag: "beta1",
        value: "X",
        kind: Kind::Number,
        short: "Adam's decay of the first moment",
        more: "",
        aliases: &["adam-beta1"],
    },
    Setting {
        key: "train.beta2",
        flag: "beta2",
        value: "X",
        kind: Kind::Number,
        short: "Adam's decay of the second moment",
        more: "",
        aliases: &["adam-beta2"],
    },
    Setting {
        key: "train.adam_eps",
        flag: "adam-eps",
        value: "X",
        kind: Kind::Number,
        short: "Added to Adam's root",
        more: "",
        aliases: &["adam-epsilon"],
    },
    Setting {
        key: "train.adam_form",
        flag: "adam-form",
        value: "NAME",
        kind: Kind::Choice(ADAM_FORMS),
        short: "Adam's form: torch or reference",
        more: "`reference` adds eps to the uncorrected root and decays after the update, as the code of \
               the methods' authors does.",
        aliases: &[],
    },
    Setting {
        key: "train.weight_decay",
        flag: "weight-decay",
        value: "X",
        kind: Kind::Number,
        short: "Decoupled weight decay",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "train.max_grad_norm",
        flag: "max-grad-norm",
        value: "X",
        kind: Kind::Number,
        short: "Clip the gradient to this global norm; 0 switches it off",
        more: "",
        aliases: &[],
    },
];

const DEVICE: &[Setting] = &[
    Setting {
        key: "train.seed",
        flag: "seed",
        value: "N",
        kind: Kind::Count,
        short: "Seed of everything random",
        more: "Same seed and device, same bits.",
        aliases: &[],
    },
    Setting {
        key: "train.device",
        flag: "device",
        value: "NAME",
        kind: Kind::Text,
        short: "Device: auto, cpu, gpu[:N] or software",
        more: "This version trains on the CPU, which is also what `auto` chooses.",
        aliases: &[],
    },
    Setting {
        key: "train.threads",
        flag: "threads",
        value: "N",
        kind: Kind::Count,
        short: "Worker threads on the CPU; 0 means all cores",
        more: "Results do not depend on it.",
        aliases: &[],
    },
    Setting {
        key: "train.grad_checkpoint",
        flag: "grad-checkpoint",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Recompute activations in the backward pass",
        more: "Less memory, about a third more time, the same numbers.",
        aliases: &["gradient-checkpointing"],
    },
];

const OUTPUT: &[Setting] = &[
    Setting {
        key: "train.steps_per_report",
        flag: "steps-per-report",
        value: "N",
        kind: Kind::Count,
        short: "Updates between report lines [default: about 60 lines a run]",
        more: "",
        aliases: &["logging-steps"],
    },
    Setting {
        key: "train.eval_every",
        flag: "eval-every",
        value: "N",
        kind: Kind::Count,
        short: "Updates between evaluations [default: 10 evaluations a run]",
        more: "There is one more before the first update.",
        aliases: &["eval-steps", "steps-per-eval"],
    },
    Setting {
        key: "train.eval_batches",
        flag: "eval-batches",
        value: "N",
        kind: Kind::Count,
        short: "Validation batches per evaluation; 0 means all",
        more: "",
        aliases: &["val-batches"],
    },
    Setting {
        key: "train.checkpoint_every",
        flag: "checkpoint-every",
        value: "N",
        kind: Kind::Count,
        short: "Updates between checkpoints; 0: only at the end [default: 4 a run]",
        more: "",
        aliases: &["save-steps", "save-every"],
    },
    Setting {
        key: "train.keep_checkpoints",
        flag: "keep-checkpoints",
        value: "N",
        kind: Kind::Count,
        short: "How many of the newest checkpoints to keep",
        more: "The best one is kept besides.",
        aliases: &["save-total-limit"],
    },
    Setting {
        key: "train.sample_every",
        flag: "sample-every",
        value: "N",
        kind: Kind::Count,
        short: "Updates between text samples; 0 means only at the end",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "train.sample_tokens",
        flag: "sample-tokens",
        value: "N",
        kind: Kind::Count,
        short: "Tokens per sample",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "train.sample_prompt",
        flag: "sample-prompt",
        value: "TEXT",
        kind: Kind::Text,
        short: "What samples begin with",
        more: "",
        aliases: &[],
    },
];

const LORA: &[Setting] = &[
    Setting {
        key: "lora.init",
        flag: "lora-init",
        value: "NAME",
        kind: Kind::Choice(LORA_INITS),
        short: "standard, both_kaiming, switchlora or gaussian factors",
        more: "All but `standard` and `gaussian` start with a product that is not zero and take it off the \
               frozen weight, so the model's output is unchanged.",
        aliases: &["init-lora-weights"],
    },
    Setting {
        key: "lora.base",
        flag: "lora-base",
        value: "NAME",
        kind: Kind::Choice(LORA_BASES),
        short: "dense: the frozen weight stays; none: only the product of the factors",
        more: "`none` needs --lora-init both_kaiming.",
        aliases: &[],
    },
];

const SWITCHLORA: &[Setting] = &[
    Setting {
        key: "switchlora.interval0",
        flag: "switchlora-interval0",
        value: "X",
        kind: Kind::Number,
        short: "Mean updates between two switches of one vector, at the start",
        more: "At least twice --switchlora-freeze. `inf` never switches. About 10 suits short runs.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.ratio",
        flag: "switchlora-ratio",
        value: "X",
        kind: Kind::Number,
        short: "The switching rate has fallen to a third at this share of the run",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "switchlora.freeze",
        flag: "switchlora-freeze",
        value: "N",
        kind: Kind::Count,
        short: "Updates for which the counterpart of a switched vector is held",
        more: "0 resets its moments without holding it.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.selection",
        flag: "switchlora-selection",
        value: "NAME",
        kind: Kind::Choice(SWITCH_SELECTIONS),
        short: "Choice of vectors: contiguous or random",
        more: "`contiguous` visits more of the pool in the same number of switches.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.rate",
        flag: "switchlora-rate",
        value: "NAME",
        kind: Kind::Choice(SWITCH_RATES),
        short: "Form of the rate's decay: paper or code",
        more: "`code` is the form of the authors' program.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.decay_frozen",
        flag: "switchlora-decay-frozen",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Let weight decay act on held vectors, as the authors' code does",
        more: "",
        aliases: &[],
    },
    Setting {
        key: "switchlora.count_frozen_steps",
        flag: "switchlora-count-frozen-steps",
        value: "BOOL",
        kind: Kind::Switch,
        short: "Let Adam's counters advance while a vector is held, as the authors' code does",
        more: "The first steps after a hold are then damped.",
        aliases: &[],
    },
    Setting {
        key: "switchlora.warm_start",
        flag: "switchlora-warm-start",
        value: "N",
        kind: Kind::Count,
        short: "Full-rank updates before the factors are made",
        more: "Fewer than --iters.",
        aliases: &[],
    },
];
