//! The table with a user's own keys in place of its own.

use std::collections::BTreeMap;

use super::{Binding, Context, KEYMAP, Keymap, normal, parse};

/// The table of keys with other keys for some commands: `command` to keys with blanks between. A command that several
/// views have gets them in each.
///
/// Errors: in words, a command or a key that there is not, or a key that two commands would share.
pub fn with_own(own: &BTreeMap<String, String>) -> Result<Keymap, String> {
    if own.is_empty() {
        return Ok(KEYMAP);
    }
    let mut table = KEYMAP.to_vec();
    for (name, keys) in own {
        known(name)?;
        let keys: Vec<&str> = keys.split_whitespace().collect();
        if keys.is_empty() {
            return Err(format!("keys: {name} names no key"));
        }
        if let Some(wrong) = keys.iter().find(|key| parse(key).is_none()) {
            return Err(format!(
                "keys: {name} is `{wrong}`, which is no key: a letter or a sign, Ctrl-x, Alt-x, Left, Right, Up, Down, \
                 PgUp, PgDn, Home, End, Enter, Esc, Tab, S-Tab, Space or Backspace"
            ));
        }
        // One table for the life of the program: rows hold their words for ever.
        let keys: &'static str = Box::leak(keys.join(" ").into_boxed_str());
        for row in table.iter_mut().filter(|row| row.name == name) {
            row.keys = keys;
        }
    }
    shared(&table)?;
    Ok(Box::leak(table.into_boxed_slice()))
}

fn known(name: &str) -> Result<(), String> {
    if KEYMAP.iter().any(|row| row.name == name) {
        return Ok(());
    }
    let near = KEYMAP.iter().min_by_key(|row| strsim::levenshtein(row.name, name));
    let near = near.map_or("", |row| row.name);
    Err(format!(
        "keys: there is no command `{name}`; did you mean `{near}`? `fullrank keys` lists them"
    ))
}

/// Whether a new key has another meaning where it is to hold. Keys that views hide on purpose are those of the table.
fn shared(table: &[Binding]) -> Result<(), String> {
    for (row, usual) in table.iter().zip(KEYMAP) {
        let is_usual = |key: &str| usual.keys.split(' ').any(|usual| usual == key);
        for key in row.keys.split(' ').filter(|key| !is_usual(key)) {
            let meet = |other: &&Binding| {
                let together = row.context == other.context
                    || row.context == Context::Global
                    || other.context == Context::Global;
                let same = |name: &str| parse(name).map(normal) == parse(key).map(normal);
                together && *other != row && other.keys.split(' ').any(same)
            };
            if let Some(other) = table.iter().find(meet) {
                return Err(format!(
                    "keys: `{key}` would be both {} and {}; give {} another key too",
                    row.name, other.name, other.name
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{action, of};
    use super::*;
    use crate::tui::action::{Action, ViewId};

    fn own(rows: &[(&str, &str)]) -> Result<Keymap, String> {
        with_own(&rows.iter().map(|(name, keys)| ((*name).into(), (*keys).into())).collect())
    }

    #[test]
    fn own_keys_take_the_place_of_the_usual_ones() {
        let keys =
            own(&[("metric", "p"), ("pause", "Ctrl-p"), ("smoother", "b u"), ("baseline", "B")]);
        let keys = keys.unwrap();
        let pressed = |view, name| action(keys, view, parse(name).unwrap());
        for view in [ViewId::Train, ViewId::Compare, ViewId::Rank] {
            assert_eq!(pressed(view, "p"), Some(Action::NextMetric), "{view:?}");
            assert_eq!(pressed(view, "m"), None);
            assert_eq!(pressed(view, "u"), Some(Action::Smoother));
        }
        assert_eq!(pressed(ViewId::Logs, "Ctrl-p"), Some(Action::PauseResume));
        assert_eq!(pressed(ViewId::Logs, "P"), None);
        let hint = of(keys, ViewId::Train).find(|row| row.action == Action::Smoother).unwrap();
        assert_eq!(hint.first_key(), "b");
        assert_eq!(own(&[]).unwrap(), KEYMAP);
    }

    #[test]
    fn two_keys_may_change_places() {
        let keys = own(&[("log-y", "x"), ("x-axis", "y")]).unwrap();
        assert_eq!(action(keys, ViewId::Train, parse("x").unwrap()), Some(Action::LogY));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (rows, words) in [
            (&[("smoothre", "x")][..], "did you mean `smoother`"),
            (&[("smoother", "F13")], "`F13`, which is no key"),
            (&[("smoother", " ")], "names no key"),
            (&[("smoother", "x")], "`x` would be both smoother and x-axis"),
            (&[("smoother", "m")], "`m` would be both smoother and metric"),
            (&[("metric", "q")], "`q` would be both metric and quit"),
            (&[("smoother", "Alt-z"), ("raw", "Alt-z")], "`Alt-z` would be both smoother and raw"),
        ] {
            let error = own(rows).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
