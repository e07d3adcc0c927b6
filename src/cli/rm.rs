//! `fullrank rm`.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Moves a run to the trash folder.
pub fn rm(_out: &Path, _run: &str, _stdout: &mut dyn Write) -> Result<()> {
    Err(Error::run("`rm` is not in this build", "update fullrank"))
}
