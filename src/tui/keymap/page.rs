//! The table of keys as Markdown, for the documentation.

use std::fmt::Write as _;

use super::{Binding, Context, KEYMAP};
use crate::tui::action::ViewId;

/// All keys as tables in Markdown: what looks, what acts, and what each view has of its own.
pub fn markdown() -> String {
    let mut text = String::new();
    let global = |acts: bool| {
        KEYMAP.iter().filter(move |b| b.context == Context::Global && b.action.acts() == acts)
    };
    section(&mut text, "Everywhere: keys that only look", global(false));
    section(&mut text, "Everywhere: keys that act on the run", global(true));
    for view in ViewId::ALL {
        let own = KEYMAP.iter().filter(|binding| binding.context == Context::In(view));
        section(&mut text, &format!("In the view {}", view.title()), own);
    }
    text
}

fn section<'a>(text: &mut String, title: &str, rows: impl Iterator<Item = &'a Binding>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    // Writing to a String cannot fail.
    let _ = write!(text, "### {title}\n\n| key | command | what it does |\n|---|---|---|\n");
    for binding in rows {
        let keys: Vec<String> =
            binding.keys.split(' ').map(|key| format!("`{}`", key.replace('|', "\\|"))).collect();
        let _ = writeln!(text, "| {} | `{}` | {} |", keys.join(" "), binding.name, binding.help);
    }
    text.push('\n');
}
