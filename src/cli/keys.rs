//! `fullrank keys`: what every key of the screen does.

use std::collections::BTreeMap;
use std::io::Write;

use super::text;
use crate::error::{Error, Result};
use crate::tui::keymap::{self, Context, markdown};
use crate::tui::prefs::Prefs;

/// Prints the table of keys, the user's own among them; with `md` the usual ones as the Markdown of the documentation.
///
/// Errors: `tui.toml` cannot be read.
pub fn keys(md: bool, stdout: &mut dyn Write) -> Result<()> {
    if md {
        return text::print(stdout, &markdown());
    }
    let own = match Prefs::path() {
        Some(path) => Prefs::read(&path)?.keys,
        None => BTreeMap::new(),
    };
    let keys = keymap::with_own(&own).map_err(|what| Error::config(what, "mend tui.toml"))?;
    let mut table = text::Table::new(&["KEY", "COMMAND", "WHERE", "WHAT IT DOES"]);
    for binding in keys {
        let place = match binding.context {
            Context::Global => "everywhere",
            Context::In(view) => view.title(),
        };
        let cells = [binding.keys, binding.name, place, binding.help].map(str::to_owned);
        table.row(&cells);
    }
    text::print(stdout, &table.render(0))
}
