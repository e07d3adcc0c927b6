//! `fullrank generate`.

use super::args::GenerateArgs;
use crate::error::{Error, Result};

/// Writes text to stdout.
pub fn generate(_args: GenerateArgs) -> Result<()> {
    Err(Error::run("`generate` is not in this build", "update fullrank"))
}
