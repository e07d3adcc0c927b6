//! The settings in which runs differ, from their `run.toml`.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::table::{Difference, Entry};

/// The settings that do not have the same value in all runs, in the order of the keys. A run without a readable
/// configuration has no values.
pub(super) fn differences(entries: &[Entry]) -> Vec<Difference> {
    let all: Vec<BTreeMap<String, String>> =
        entries.iter().map(|entry| flat(&entry.history.config)).collect();
    let mut keys: Vec<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    let mut found = Vec::new();
    for key in keys {
        let values: Vec<Option<String>> = all.iter().map(|one| one.get(key).cloned()).collect();
        let known = || values.iter().zip(&all).filter(|(_, all)| !all.is_empty()).map(|(v, _)| v);
        if known().any(|value| Some(value) != known().next()) {
            found.push(Difference { key: key.clone(), values });
        }
    }
    found
}

/// `[table] key` as `table.key`.
fn flat(config: &Table) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in config {
        match value {
            Value::Table(table) => {
                all.extend(
                    table.iter().map(|(key, value)| (format!("{name}.{key}"), plain(value))),
                );
            }
            value => {
                all.insert(name.clone(), plain(value));
            }
        }
    }
    all
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::History;
    use super::*;

    #[test]
    fn only_keys_that_differ_are_named() {
        let entry = |config: &str| {
            let mut history = History::of(Vec::new());
            history.config = config.parse().unwrap();
            Entry { name: "x".into(), group: "x".into(), seed: 0, history }
        };
        let found = differences(&[
            entry("[train]\nmethod = \"full\"\niters = 3\n"),
            entry("[train]\nmethod = \"lora\"\niters = 3\nrank = 8\n"),
            entry(""),
        ]);
        let text = |value: &str| Some(value.to_owned());
        assert_eq!(found[0].key, "train.method");
        assert_eq!(found[0].values, [text("full"), text("lora"), None]);
        assert_eq!((found[1].key.as_str(), &found[1].values[1]), ("train.rank", &text("8")));
        assert_eq!(found.len(), 2, "what is the same is left out, and a run without a file");
        assert!(differences(&[entry("[train]\niters = 3\n")]).is_empty());
    }
}
