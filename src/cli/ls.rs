//! `fullrank ls`.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Lists the runs, newest first.
pub fn ls(_out: &Path, _json: bool, _stdout: &mut dyn Write) -> Result<()> {
    Err(Error::run("`ls` is not in this build", "update fullrank"))
}
