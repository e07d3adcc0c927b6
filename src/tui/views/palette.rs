//! The command line.

/// What stands in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The text of the line.
    pub text: String,
    /// The entry under the cursor.
    pub selected: usize,
}
