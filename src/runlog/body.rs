//! What an event says, by kind: one struct for each kind that this crate writes. Kinds that it does
//! not know, or knows only from a newer version, are carried as raw JSON ([`Body::Raw`]).
//!
//! Units stand in the names: `_s` seconds, `_ms` milliseconds, `bytes`, `tok_s` tokens per second.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::number;
use super::rank::Rank;
use super::restart::{Merge, Reset};
use super::switch::Switch;

/// Makes [`Body`] from the table of kinds, so that a kind's name stands in one place.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident($content:ty) = $kind:literal,)*) => {
        /// The content of an event, by kind.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Body {
            $($(#[$doc])* $variant($content),)*
            /// A kind without a struct of its own, or one of a newer version.
            Raw {
                /// The kind's name.
                kind: String,
                /// All fields but those of the envelope.
                fields: Map<String, Value>,
            },
        }

        $(impl From<$content> for Body {
            fn from(content: $content) -> Self {
                Self::$variant(content)
            }
        })*

        impl Body {
            /// The kind's name, as it stands in the log.
            pub fn kind(&self) -> &str {
                match self {
                    $(Self::$variant(_) => $kind,)*
                    Self::Raw { kind, .. } => kind,
                }
            }

            /// Reads the fields of a line of the given kind; `None` for a kind without a struct.
            pub(super) fn parse(kind: &str, line: &[u8]) -> Option<serde_json::Result<Self>> {
                match kind {
                    $($kind => Some(serde_json::from_slice(line).map(Self::$variant)),)*
                    _ => None,
                }
            }
        }

        impl Serialize for Body {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$variant(content) => content.serialize(serializer),)*
                    Self::Raw { fields, .. } => fields.serialize(serializer),
                }
            }
        }
    };
}

kinds! {
    /// A process starts to train: once at the start and once after each resume.
    Run(Box<Run>) = "run",
    /// The run enters another part of its life.
    Phase(Phase) = "phase",
    /// How a method prepared the weights.
    Init(Init) = "init",
    /// A rank was lowered because the layer is too small for it.
    Clamp(Clamp) = "clamp",
    /// One update.
    Step(Step) = "step",
    /// An update that was not applied.
    Skip(Skip) = "skip",
    /// Loss on the validation text.
    Eval(Eval) = "eval",
    /// Vectors that `SwitchLoRA` exchanged in one update.
    Switch(Switch) = "switch",
    /// The factors went into the dense weights.
    Merge(Merge) = "merge",
    /// The factors were made anew and their moments cut back.
    Reset(Reset) = "reset",
    /// A layer's gradient gets another subspace.
    Subspace(Subspace) = "subspace",
    /// Layers whose step was held back.
    Limiter(Limiter) = "limiter",
    /// Ranks and singular values of one matrix of one layer.
    Rank(Box<Rank>) = "rank",
    /// Memory by category.
    Mem(Mem) = "mem",
    /// Where the time of an update goes.
    Time(Time) = "time",
    /// The machine.
    Sys(Sys) = "sys",
    /// A checkpoint is complete on disk.
    Ckpt(Ckpt) = "ckpt",
    /// Text written by the model.
    Sample(Sample) = "sample",
    /// Something that the user should know.
    Alert(Alert) = "alert",
    /// The answer to a command.
    Cmd(Cmd) = "cmd",
    /// A message for the log pane.
    Log(Log) = "log",
    /// The run waits.
    Pause(Pause) = "pause",
    /// The run goes on, after a pause or from a checkpoint.
    Resume(Resume) = "resume",
    /// The run is over.
    End(End) = "end",
}

impl From<Rank> for Body {
    fn from(rank: Rank) -> Self {
        Self::Rank(Box::new(rank))
    }
}

impl From<Run> for Body {
    fn from(run: Run) -> Self {
        Self::Run(Box::new(run))
    }
}

impl Body {
    /// An event of a kind without a struct of its own.
    /// Use [`number::to_value`] for numbers that may not be finite.
    pub fn raw(kind: impl Into<String>, fields: Map<String, Value>) -> Self {
        Self::Raw { kind: kind.into(), fields }
    }

    /// Whether the event tells what an update did or measured, which a resume from an earlier
    /// checkpoint makes void. Starts, stops, commands, checkpoints and messages stay true.
    pub fn belongs_to_an_update(&self) -> bool {
        !matches!(
            self,
            Self::Run(_)
                | Self::Phase(_)
                | Self::Init(_)
                | Self::Clamp(_)
                | Self::Sys(_)
                | Self::Ckpt(_)
                | Self::Alert(_)
                | Self::Cmd(_)
                | Self::Log(_)
                | Self::Pause(_)
                | Self::Resume(_)
                | Self::End(_)
        )
    }
}

/// What is trained, on what and with what: enough for a title line and a run table. Everything else
/// about the run stands in `run.toml` and `facts.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The run's name, without the time stamp.
    pub name: String,
    /// The method: `full`, `lora`, `switchlora`, …
    pub method: String,
    /// The model's preset, folder or id.
    pub model: String,
    /// The data, in a few words.
    pub data: String,
    /// The device, in a few words.
    pub device: String,
    /// The version of this program.
    pub version: String,
    /// The process that trains.
    pub pid: u32,
    /// The run's seed.
    pub seed: u64,
    /// Updates planned.
    pub steps: u64,
    /// The limit of active time, if there is one.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub max_s: Option<f64>,
    /// Tokens of one update.
    pub tokens_per_step: u64,
    /// Tokens of the training text.
    pub train_tokens: u64,
    /// Tokens of the validation text.
    pub val_tokens: u64,
    /// Parameters of the model.
    pub params: u64,
    /// Parameters that get gradients, factors included; after a full-rank warm start, where there is one.
    pub trained_params: u64,
    /// The rank asked for, for low-rank methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// Perplexity of the validation text under the training text's token frequencies: what a model
    /// that knows no context reaches.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub unigram_ppl: Option<f64>,
    /// Names of the target layers; layer numbers in `switch` events count in this list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// A number of a layer beyond this is damage, where a log does not name its layers: no network has so many.
const MOST_LAYERS: usize = 4096;

impl Run {
    /// Whether an event can speak of the layer of this number. A reader asks before it makes room for it: a damaged
    /// line may hold any number.
    pub fn has_layer(&self, number: u32) -> bool {
        let layers = if self.layers.is_empty() { MOST_LAYERS } else { self.layers.len() };
        (number as usize) < layers
    }
}

/// A part of a run's life: `tokenize`, `prepare`, `train`, `warm-start-end`, `export`, …
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Phase {
    /// The part's name.
    pub name: String,
    /// More about it, in a few words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// How a method prepared the weights, for one layer or, without `layer`, for all alike.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Init {
    /// The layer's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// The rank used.
    pub rank: u64,
    /// The factor before B·A.
    #[serde(with = "number")]
    pub scale: f64,
    /// Standard deviation of A's entries.
    #[serde(with = "number")]
    pub std_a: f64,
    /// Standard deviation of B's entries.
    #[serde(with = "number")]
    pub std_b: f64,
    /// Largest absolute change of an entry of the effective weight by the preparation.
    #[serde(with = "number")]
    pub max_change: f64,
    /// Norm of the layer's gradient, where the preparation looked at it.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Share of the squared norm of that gradient, or of the weight, in the singular directions that were taken.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub energy: Option<f64>,
}

/// A rank that was lowered because the layer is too small for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Clamp {
    /// The layer's name.
    pub layer: String,
    /// The rank asked for.
    pub wanted: u64,
    /// The rank used.
    pub rank: u64,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// One update that was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Mean loss of the update's tokens, in nats.
    #[serde(with = "number")]
    pub loss: f64,
    /// Learning rate.
    #[serde(with = "number")]
    pub lr: f64,
    /// Norm of the whole gradient, before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// Tokens trained on so far, resumed parts included.
    pub tokens: u64,
    /// Time spent training so far, without pauses, resumed parts included.
    #[serde(with = "number")]
    pub active_s: f64,
    /// Tokens per second of this update.
    #[serde(with = "number")]
    pub tok_s: f64,
}

/// An update that was not applied, because its loss or gradient was not finite.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Skip {
    /// Why.
    pub reason: String,
    /// The loss seen.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The gradient norm seen.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
}

/// Loss on the validation text, weighted by tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// Mean loss in nats.
    #[serde(with = "number")]
    pub loss: f64,
    /// Perplexity, `exp(loss)`.
    #[serde(with = "number")]
    pub ppl: f64,
    /// Tokens evaluated.
    pub tokens: u64,
}

/// A layer's gradient is projected on another subspace from this update on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Subspace {
    /// The layer's name.
    pub layer: String,
    /// `left` or `right`: which singular vectors span it; `both`: no gradient is projected, factors got another rank.
    pub side: String,
    /// Its dimension.
    pub rank: u64,
    /// The dimension of the one before, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_before: Option<u64>,
    /// The share of the gradient's squared norm that lies in it.
    #[serde(with = "number")]
    pub energy: f64,
    /// How much it shares with the one before, from 0 to 1.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub overlap: Option<f64>,
    /// How long the decomposition took.
    #[serde(with = "number")]
    pub ms: f64,
}

/// What was held back in one update because it grew too fast: residuals of layers, or single entries of gradients.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limiter {
    /// `[layer, growth before the limit, factor applied]` each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub l: Vec<(u64, f64, f64)>,
    /// Entries of gradients that were clipped beside their own second moments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spikes: Option<u64>,
    /// The largest square of such an entry over its second moment.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub largest: Option<f64>,
}

/// Memory by category.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mem {
    /// Bytes held now, by the category names of the memory ledger.
    pub bytes: BTreeMap<String, u64>,
    /// The ledger's high-water mark.
    pub peak_bytes: u64,
    /// The high-water mark that `estimate` predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_bytes: Option<u64>,
}

/// Where the time of an update goes, over the updates since the last such event.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Time {
    /// Mean milliseconds of an update by part: `data`, `forward`, `backward`, `update`, …
    pub ms: BTreeMap<String, f64>,
}

/// The machine, as far as it can be asked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sys {
    /// Resident memory of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Busy CPU cores of the process, 2.0 for two.
    #[serde(with = "number::option", skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<f64>,
    /// Free space where the run is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// Charge of the battery in percent, while the machine runs on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery_percent: Option<u32>,
}

/// A checkpoint that is complete on disk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ckpt {
    /// Its folder, relative to the run's.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// How long the run waited for it.
    #[serde(with = "number")]
    pub ms: f64,
    /// Whether its validation loss is the lowest so far.
    pub is_best: bool,
}

/// Text written by the model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// The text that the model was given.
    pub prompt: String,
    /// The text that it added.
    pub text: String,
}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be; the run goes on.
    Warn,
    /// Good to know. Unknown levels of a newer version are read as this.
    #[default]
    #[serde(other)]
    Info,
}

impl Level {
    /// The level in one word, as the log has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
        }
    }
}

/// Something that the user should know, with what to do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Alert {
    /// How much it matters.
    pub level: Level,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// The answer to a command, written after it was carried out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cmd {
    /// The command's id.
    pub id: String,
    /// The command, with its argument: `checkpoint`, `set lr=0.001`.
    pub cmd: String,
    /// Whether it was carried out.
    pub ok: bool,
    /// What happened, or why it was refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// For a setting that changed: which, and from what to what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<Changed>,
    /// Updates attempted before it: where a resume repeats it.
    pub attempts: u64,
}

/// A setting that changed in flight.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Changed {
    /// Its key: `train.learning_rate`.
    pub key: String,
    /// The value before; empty where it was not set.
    pub from: String,
    /// The value now.
    pub to: String,
}

/// A message for the log pane.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// How much it matters.
    pub level: Level,
    /// The message.
    pub msg: String,
}

/// The run waits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pause {
    /// Why, in a few words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// The run goes on: after a pause (no fields), in a new process from a checkpoint, or from a checkpoint that it went
/// back to by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resume {
    /// The checkpoint's step; updates after it that stand earlier in the log are void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_step: Option<u64>,
    /// The number of the last event when the checkpoint was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// Why the run went back by itself, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
}

/// A run that diverged went back to a checkpoint, in the same process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollback {
    /// How often the run has gone back, this time included.
    pub count: u64,
    /// Completed updates before it; those after the checkpoint are void.
    pub from: u64,
    /// The checkpoint's folder, relative to the run's.
    pub checkpoint: String,
    /// What the alert said.
    pub what: String,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndStatus {
    /// All updates done, or the time limit reached.
    Finished,
    /// Stopped by the user, with a checkpoint.
    Stopped,
    /// Stopped by a signal, with a checkpoint.
    Interrupted,
    /// Too many non-finite losses.
    Diverged,
    /// An error. Unknown words of a newer version are read as this.
    #[serde(other)]
    Failed,
}

/// The run is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// How it ended.
    pub status: EndStatus,
    /// More about it: the error, or who stopped it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
}
