//! A whole log into a model, and what the run's other files say.

use std::collections::BTreeMap;

use super::super::model::{Cost, RunModel, full_rank_bytes};
use crate::error::Result;
use crate::runlog::status::LastWord;
use crate::runlog::{RunDir, Status, Tail};

/// What a run's files say besides its log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Its settings, `table.key` to value.
    pub config: BTreeMap<String, String>,
    /// What its updates cost.
    pub cost: Option<Cost>,
    /// The memory that it would take at full rank, predicted.
    pub full_rank_bytes: Option<u64>,
}

impl Facts {
    /// Reads `run.toml` and `facts.json`. Files that are missing or damaged tell nothing: a run can be looked at
    /// without them.
    pub fn read(dir: &RunDir) -> Self {
        let text = std::fs::read_to_string(dir.config()).unwrap_or_default();
        let config: toml::Table = text.parse().unwrap_or_default();
        let facts = std::fs::read(dir.facts()).ok();
        let facts = facts.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut settings = BTreeMap::new();
        for (table, content) in &config {
            match content {
                toml::Value::Table(content) => {
                    let named =
                        content.iter().map(|(key, value)| (format!("{table}.{key}"), shown(value)));
                    settings.extend(named);
                }
                value => {
                    settings.insert(table.clone(), shown(value));
                }
            }
        }
        Self {
            config: settings,
            cost: Cost::read(&facts, &config),
            full_rank_bytes: full_rank_bytes(&facts, &config),
        }
    }
}

/// A value as a user would write it after `=`, without the quotes of a text.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A run as its log leaves it, and the log from there on.
#[derive(Debug)]
pub struct Loaded {
    /// The run.
    pub model: RunModel,
    /// Follows the log from what was loaded.
    pub tail: Tail,
    /// What the log says last about the run's life.
    pub last_word: LastWord,
}

/// Reads a run's files, lock and log. A log that is missing, torn or damaged gives what there is.
///
/// Errors: `Error::Io` if a file is there and cannot be read.
pub fn load(dir: &RunDir) -> Result<Loaded> {
    // The lock first: a run that ends in between is then still live.
    let is_locked = dir.is_locked()?;
    let mut model = RunModel::new(Some(dir.path().to_path_buf()));
    model.set_facts(Facts::read(dir));
    let mut tail = Tail::new(dir.events());
    let mut last_word = LastWord::default();
    tail.each(|event| {
        last_word = last_word.after(&event);
        model.apply(&event);
    })?;
    model.summary.damaged = tail.damaged();
    model.status = Status::of(is_locked, last_word);
    Ok(Loaded { model, tail, last_word })
}
