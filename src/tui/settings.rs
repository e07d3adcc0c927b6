//! Settings of a run that may change in flight, their short names, and what a value must be.

use serde_json::Value;

use crate::config::live::LIVE;
use crate::config::setting_named;
use crate::config::settings::Kind;

use super::model::{Metric, RunModel};

/// Short names of the command line.
const SHORT: [(&str, &str); 7] = [
    ("lr", "learning_rate"),
    ("wd", "weight_decay"),
    ("clip", "max_grad_norm"),
    ("grad_clip", "max_grad_norm"),
    ("ckpt_every", "checkpoint_every"),
    ("interval0", "switchlora.interval0"),
    ("freeze", "switchlora.freeze"),
];
/// Settings that are shown beside them and need a new run.
pub const FIXED: [&str; 3] = ["rank", "batch_size", "max_seq_length"];

/// Settings that a live run takes; the common ones without their table.
pub fn all() -> impl Iterator<Item = &'static str> {
    LIVE.iter().map(|key| key.strip_prefix("train.").unwrap_or(key))
}

/// The setting of a name or short name; a common one also with its table in front.
pub fn live(name: &str) -> Option<&'static str> {
    let name = name.trim();
    let bare = name.strip_prefix("train.").unwrap_or(name).replace('-', "_");
    let long =
        SHORT.iter().find(|(short, _)| *short == bare).map_or(bare.as_str(), |(_, key)| *key);
    all().find(|key| *key == long)
}

/// How a setting is best typed: its short name where it has one.
pub fn short(key: &'static str) -> &'static str {
    SHORT.iter().find(|(_, long)| *long == key).map_or(key, |(short, _)| *short)
}

/// What a run has for a setting, as its last change or `run.toml` says; none where it is not known.
pub fn value(run: &RunModel, key: &str) -> Option<String> {
    // The answer to a change says `train.learning_rate: 0.02 -> 0.01`.
    let changed = run.commands.iter().rev().filter(|cmd| cmd.what.ok).find_map(|cmd| {
        let (name, change) = cmd.what.what.split_once(": ")?;
        let (_, to) = change.split_once(" -> ")?;
        (live(name) == Some(key)).then(|| to.split(',').next().unwrap_or(to).to_owned())
    });
    let configured = || {
        let tables = ["train.", "model.", "data.", ""];
        tables.iter().find_map(|table| run.config.get(&format!("{table}{key}"))).cloned()
    };
    changed.or_else(configured)
}

/// What stands behind a value in the list: what it comes to now.
pub fn remark(run: &RunModel, key: &str) -> Option<String> {
    (key == "learning_rate")
        .then(|| run.last(Metric::LearningRate))
        .flatten()
        .map(|lr| format!("now {}", crate::report::text::lr(lr)))
}

/// Whether a setting means something for a run: a method's own only under that method.
pub fn concerns(run: &RunModel, key: &str) -> bool {
    key.split_once('.').is_none_or(|(method, _)| method == run.summary.run.method)
}

/// Whether a name is of a setting that a run scales itself.
pub fn is_number(name: &str) -> bool {
    live(name)
        .and_then(|key| setting_named(key).ok())
        .is_some_and(|setting| setting.kind == Kind::Number)
}

/// A typed value as what is sent.
///
/// Errors: in words, what it is and what it must be.
pub fn parse(key: &str, text: &str) -> Result<Value, String> {
    let text = text.trim();
    let kind = setting_named(key).map_or(Kind::Number, |setting| setting.kind);
    let wrong = || format!("{key} is `{text}`, expected {}", kind.expected());
    match kind {
        Kind::Count => text.parse::<u64>().map(Value::from).map_err(|_| wrong()),
        Kind::Number => {
            let number: f64 = text.parse().map_err(|_| wrong())?;
            if key == "learning_rate" && !(number >= 0.0 && number.is_finite()) || number.is_nan() {
                return Err(format!("{key} is `{text}`, expected 0 or more and finite"));
            }
            // JSON has no infinity; the word is what the configuration takes.
            Ok(serde_json::Number::from_f64(number).map_or_else(|| text.into(), Value::Number))
        }
        Kind::Switch => text.parse::<bool>().map(Value::from).map_err(|_| wrong()),
        Kind::Text | Kind::Choice(_) => Ok(text.into()),
    }
}
