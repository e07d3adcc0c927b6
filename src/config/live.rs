//! Settings that a run takes over while it trains: which they are, and one change of one of them.

use toml::{Table, Value};

use super::RunConfig;
use super::load::{FlagValue, setting_named};
use super::settings::{Kind, Setting};
use crate::error::{Error, Result};

/// Keys that may change in flight. Everything else decides shapes, data order or the schedule's length.
pub const LIVE: &[&str] = &[
    "train.learning_rate",
    "train.weight_decay",
    "train.max_grad_norm",
    "train.steps_per_report",
    "train.eval_every",
    "train.eval_batches",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "switchlora.interval0",
    "switchlora.freeze",
];

/// A live setting, before and after a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its key: `train.learning_rate`.
    pub key: &'static str,
    /// The value before; empty where it was not set.
    pub from: String,
    /// The value now.
    pub to: String,
    /// The configuration with it.
    pub config: RunConfig,
}

impl RunConfig {
    /// The configuration with a live setting changed. `word` is the setting as users write it; `value` is the new one, or
    /// `*FACTOR` for a number: the old one times that.
    ///
    /// Errors: `Error::Config` for an unknown setting, one that needs a new run, or a value that does not fit.
    pub fn changed_live(&self, word: &str, value: &str) -> Result<Change> {
        let setting = setting_named(word)?;
        if !LIVE.contains(&setting.key) {
            return Err(Error::config(
                format!("{} cannot change while a run trains", setting.flag),
                format!("start a new run for it; in flight can change: {}", live_names()),
            ));
        }
        let tables: Table = toml::from_str(&self.to_toml()?).map_err(|error| {
            Error::config(format!("the run's configuration: {error}"), "report this")
        })?;
        let from = text_of(&tables, setting);
        let to = match value.trim().strip_prefix('*') {
            Some(factor) => scaled(setting, &from, factor.trim())?,
            None => value.trim().to_owned(),
        };
        let flag = FlagValue { setting, text: to.clone() };
        let config = Self::layered(&tables, std::path::Path::new("run.toml"), &[flag])?;
        config.check()?;
        Ok(Change { key: setting.key, from, to, config })
    }
}

fn live_names() -> String {
    let bare = LIVE.iter().map(|key| key.strip_prefix("train.").unwrap_or(key));
    bare.collect::<Vec<_>>().join(", ")
}

fn text_of(tables: &Table, setting: &Setting) -> String {
    let value = tables.get(setting.table()).and_then(|table| table.get(setting.name()));
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

fn scaled(setting: &Setting, from: &str, factor: &str) -> Result<String> {
    let product = from.parse::<f64>().ok().zip(factor.parse::<f64>().ok()).map(|(a, b)| a * b);
    match (setting.kind, product) {
        (Kind::Number, Some(product)) => Ok(product.to_string()),
        _ => Err(Error::config(
            format!("{} is `{from}`, which cannot be multiplied by `{factor}`", setting.flag),
            "give the new value itself",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved() -> RunConfig {
        let mut config = RunConfig::default();
        config.train.learning_rate = Some(0.002);
        config
    }

    #[test]
    fn a_live_setting_changes_and_tells_what_it_was() {
        let change = resolved().changed_live("lr", "1e-3").unwrap();
        assert_eq!(change.key, "train.learning_rate");
        assert_eq!((change.from.as_str(), change.to.as_str()), ("0.002", "1e-3"));
        assert_eq!(change.config.train.learning_rate, Some(1e-3));
        let change = resolved().changed_live("learning-rate", "*0.5").unwrap();
        assert_eq!(change.config.train.learning_rate, Some(0.001));
        let change = resolved().changed_live("switchlora.interval0", "60").unwrap();
        assert_eq!(change.config.switchlora.interval0, 60.0);
    }

    #[test]
    fn what_cannot_change_or_does_not_fit_is_refused() {
        for (word, value) in [
            ("rank", "8"),
            ("iters", "10"),
            ("nonsense", "1"),
            ("lr", "fast"),
            ("lr", "-1"),
            ("lr", "*x"),
            ("eval_every", "*2"),
            ("eval_every", "0.5"),
        ] {
            let error = resolved().changed_live(word, value).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{word} = {value}: {error}");
        }
    }

    #[test]
    fn every_live_key_is_a_setting() {
        for key in LIVE {
            assert!(super::super::settings::find(key).is_some(), "{key}");
        }
    }
}
