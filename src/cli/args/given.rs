//! What each command is given: the plain structs.

use std::path::PathBuf;

use clap_complete::Shell;

use crate::bench::Options;
use crate::cli::export::ExportArgs;
use crate::compare::Wanted;
use crate::config::RunConfig;
use crate::report::series::At;
use crate::run::open::Source;
use crate::runlog::Action;
use crate::tui::action::ViewId;

/// How a run shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UiMode {
    /// The full screen where there is a terminal for it, else lines.
    Auto,
    /// The full screen.
    Tui,
    /// One line per interval, to stderr.
    Line,
    /// The events of the run as JSON lines, to stdout.
    Json,
    /// Nothing but the result and errors.
    None,
}

/// What `train` is given.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainArgs {
    /// The configuration, loaded and checked.
    pub config: RunConfig,
    /// Folder in which the run's folder is made.
    pub out: PathBuf,
    /// Last part of the run folder's name.
    pub name: Option<String>,
    /// How the run shows itself.
    pub ui: UiMode,
    /// Whether the full screen draws in ASCII alone.
    pub ascii: bool,
    /// Go on with the newest unfinished run of this configuration instead of starting a new one.
    pub resume_auto: bool,
    /// Say what would be trained on what, and stop there.
    pub dry_run: bool,
}

/// What `resume` is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeArgs {
    /// A run's folder, its name, or `latest`.
    pub run: String,
    /// Folder with the runs.
    pub out: PathBuf,
    /// New total number of updates.
    pub extend: Option<u64>,
    /// How the run shows itself.
    pub ui: UiMode,
    /// Whether the full screen draws in ASCII alone.
    pub ascii: bool,
    /// Worker threads instead of the recorded number; 0 means all cores.
    pub threads: Option<usize>,
    /// Device instead of the recorded one.
    pub device: Option<String>,
}

/// What `compare` is given.
#[derive(Debug, Clone)]
pub struct CompareArgs {
    /// A new comparison, or one to go on with.
    pub start: CompareStart,
    /// Folder in which the comparison's folder is made or looked for.
    pub out: PathBuf,
    /// How it shows itself.
    pub ui: UiMode,
    /// Whether the full screen draws in ASCII alone.
    pub ascii: bool,
}

/// What `compare` begins with.
#[derive(Debug, Clone)]
pub enum CompareStart {
    /// A new comparison.
    New {
        /// What is compared.
        wanted: Box<Wanted>,
        /// Last part of its folder's name.
        name: Option<String>,
    },
    /// The folder or the name of one.
    Resume(String),
}

/// What `report` is given.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportArgs {
    /// A comparison, or for each run its folder, its name, or `latest`.
    pub runs: Vec<String>,
    /// Folder with the runs.
    pub out: PathBuf,
    /// Where the report goes; without it beside the runs.
    pub to: Option<PathBuf>,
    /// Look at all runs at the same budget.
    pub at: Option<At>,
}

/// What `eval` is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalArgs {
    /// What is evaluated.
    pub source: Source,
    /// Text or rows to evaluate on instead of the run's validation text.
    pub data: Option<String>,
    /// Template of chats instead of the run's.
    pub chat_template: Option<String>,
    /// Number of batches; 0 means all.
    pub batches: usize,
    /// Tokens of a block instead of the run's.
    pub max_seq_length: Option<usize>,
    /// Result as JSON.
    pub json: bool,
}

/// What `generate` is given.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateArgs {
    /// What writes.
    pub source: Source,
    /// What the text begins with, or the message in a chat. Default: the run's `train.sample_prompt`; in a chat what is
    /// typed.
    pub prompt: Option<String>,
    /// Answer as in a chat, in the form of the model's own template.
    pub chat: bool,
    /// The system's message of a chat.
    pub system: Option<String>,
    /// Most tokens to add; at least 1.
    pub max_tokens: usize,
    /// Divides the logits; 0 takes the most likely token. Finite, 0 or more.
    pub temperature: f64,
    /// Only the `k` most likely tokens; 0 means all.
    pub top_k: usize,
    /// Only the most likely tokens that reach this probability together; above 0, 1 means all.
    pub top_p: f64,
    /// Only tokens with this share of the likeliest one's probability; 0 to 1, 0 means all.
    pub min_p: f64,
    /// What makes tokens of the text less likely; above 0, 1 changes nothing.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Go on past the model's end of a text.
    pub ignore_eos: bool,
    /// Print the times as a line of JSON to stderr.
    pub stats: bool,
}

/// What `ctl` is given.
#[derive(Debug, Clone, PartialEq)]
pub struct CtlArgs {
    /// A run's folder, its name, or `latest`.
    pub run: String,
    /// Folder with the runs.
    pub out: PathBuf,
    /// What to ask.
    pub action: Action,
    /// Whether to wait until the run has answered.
    pub wait: bool,
}

/// What `watch` is given.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchArgs {
    /// Runs or comparisons: folders, names, `latest`; none: the newest.
    pub runs: Vec<String>,
    /// Folder with the runs.
    pub out: PathBuf,
    /// Print one frame.
    pub once: bool,
    /// Draw one frame into this file.
    pub svg: Option<PathBuf>,
    /// Columns and rows of that frame.
    pub size: Option<(u16, u16)>,
    /// The view to begin with.
    pub view: Option<ViewId>,
    /// Play the runs again, so many times as fast as they were.
    pub speed: Option<f64>,
    /// Whether it is drawn in ASCII alone.
    pub ascii: bool,
}

/// What `estimate` is given.
#[derive(Debug, Clone, PartialEq)]
pub struct EstimateArgs {
    /// The configuration, loaded and checked, of which the methods take turns.
    pub config: RunConfig,
    /// The methods.
    pub methods: Vec<String>,
    /// Entries of the vocabulary instead of the tokenizer's.
    pub vocab_size: Option<usize>,
    /// Whether a few updates are timed.
    pub measure: bool,
    /// Result as JSON.
    pub json: bool,
}

/// What `bench` is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchArgs {
    /// What is measured.
    pub options: Options,
    /// The screen in place of kernels and steps, with runs of this many updates.
    pub screen_updates: Option<u64>,
    /// Worker threads; 0 means all cores.
    pub threads: usize,
    /// Result as JSON.
    pub json: bool,
}

/// A command with everything it needs.
#[derive(Debug)]
pub enum Request {
    /// Train.
    Train(Box<TrainArgs>),
    /// Train several side by side.
    Compare(Box<CompareArgs>),
    /// Go on with a run.
    Resume(ResumeArgs),
    /// Loss and perplexity.
    Eval(EvalArgs),
    /// Text.
    Generate(GenerateArgs),
    /// Files of other tools.
    Export(ExportArgs),
    /// List the runs.
    Ls {
        /// Folder with the runs.
        out: PathBuf,
        /// As JSON.
        json: bool,
    },
    /// One run in detail.
    Show {
        /// A run's folder, its name, or `latest`.
        run: String,
        /// Folder with the runs.
        out: PathBuf,
        /// As JSON.
        json: bool,
    },
    /// Move runs to the trash folder.
    Rm {
        /// For each run its folder, its name, or `latest`.
        runs: Vec<String>,
        /// Folder with the runs.
        out: PathBuf,
    },
    /// Command a live run.
    Ctl(CtlArgs),
    /// List the adapters.
    Devices {
        /// As JSON.
        json: bool,
    },
    /// Test the kernels.
    Doctor {
        /// The device.
        device: String,
        /// As JSON.
        json: bool,
    },
    /// Predict memory.
    Estimate(Box<EstimateArgs>),
    /// Measure kernels and steps.
    Bench(BenchArgs),
    /// A page with plots and a table.
    Report(ReportArgs),
    /// Look at runs.
    Watch(WatchArgs),
    /// The keys of the full screen.
    Keys {
        /// As Markdown.
        md: bool,
    },
    /// A completion script.
    Completions(Shell),
}
