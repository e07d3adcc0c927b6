//! `fullrank rm`.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Moves runs to the trash folder.
pub fn rm(_out: &Path, _names: &[String], _stdout: &mut dyn Write) -> Result<()> {
    Err(Error::run("`rm` is not in this build", "update fullrank"))
}
