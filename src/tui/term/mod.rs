//! The terminal: its modes and their undoing, captured output, input, and the loop.
