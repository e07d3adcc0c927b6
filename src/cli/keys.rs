//! `fullrank keys`: what every key of the screen does.

use std::io::Write;

use super::text;
use crate::error::Result;
use crate::tui::keymap::{Context, KEYMAP, markdown};

/// Prints the table of keys; with `md` as the Markdown of the documentation.
pub fn keys(md: bool, stdout: &mut dyn Write) -> Result<()> {
    if md {
        return text::print(stdout, &markdown());
    }
    let mut table = text::Table::new(&["KEY", "COMMAND", "WHERE", "WHAT IT DOES"]);
    for binding in KEYMAP {
        let place = match binding.context {
            Context::Global => "everywhere",
            Context::In(view) => view.title(),
        };
        let cells = [binding.keys, binding.name, place, binding.help].map(str::to_owned);
        table.row(&cells);
    }
    text::print(stdout, &table.render(0))
}
