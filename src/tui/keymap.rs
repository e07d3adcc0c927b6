//! The one table of keys: it serves dispatch, footer, help and the generated page.

use super::action::{Action, ViewId};

/// Where a key has its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Context {
    /// Everywhere.
    Global,
    /// In one view.
    In(ViewId),
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Where it holds.
    pub context: Context,
    /// Keys, separated by spaces: `q`, `Left h`, `Ctrl-c`, `Alt-s`, `Space`.
    pub keys: &'static str,
    /// What they do.
    pub action: Action,
    /// In a few words, for the footer.
    pub hint: &'static str,
    /// In a sentence, for the help.
    pub help: &'static str,
}

/// All keys.
pub const KEYMAP: &[Binding] = &[Binding {
    context: Context::Global,
    keys: "q",
    action: Action::Quit,
    hint: "quit",
    help: "leave; the run of this screen goes on with lines",
}];
