//! The table of settings: every key of a configuration with its flag, its kind and its help.
//!
//! One row per field of [`RunConfig`](super::RunConfig), in the same order; a test compares the two. The
//! loader takes its key names and types from here, the command line its flags and texts. This file says
//! what a row is and which words are known; the rows are in `table`
//! and, of the methods' own tables, in `config::methods`. None of them knows TOML or clap.

mod table;

pub use table::GROUPS;

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
pub const METHODS: &[&str] = &[
    "full",
    "lora",
    "switchlora",
    "relora",
    "galore",
    "fira",
    "lora-ga",
    "rslora",
    "lora-plus",
    "pissa",
    "dora",
    "lte",
    "spam",
    "sltrain",
    "adarankgrad",
    "inrank",
];

/// Schedules of the learning rate.
pub const SCHEDULES: &[&str] =
    &["constant", "linear", "cosine", "cosine_floor", "cosine_min", "cosine_restarts"];

/// Forms of Adam's update.
pub const ADAM_FORMS: &[&str] = &["torch", "reference"];

/// What an alert may do to a run.
pub const ALERT_POLICIES: &[&str] = &["log", "pause", "stop", "rollback"];

/// Forms of storage of frozen weights.
pub const BASE_STORAGES: &[&str] = &["f32", "f16", "q8", "nf4"];

/// What becomes of the moments when a subspace is refreshed.
pub const CARRIES: &[&str] = &["keep", "rotate", "reset"];

/// How subspaces are found.
pub const DECOMPOSITIONS: &[&str] = &["auto", "exact", "randomised"];
