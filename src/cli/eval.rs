//! `fullrank eval`.

use super::args::EvalArgs;
use crate::error::{Error, Result};

/// Measures loss and perplexity and writes them to stdout.
pub fn eval(_args: EvalArgs) -> Result<()> {
    Err(Error::run("`eval` is not in this build", "update fullrank"))
}
