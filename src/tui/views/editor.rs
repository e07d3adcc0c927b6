//! Settings of the run that may change in flight.

/// What stands in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The text of the line.
    pub text: String,
    /// The entry under the cursor.
    pub selected: usize,
}
