//! `fullrank show`.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Shows one run in detail.
pub fn show(_out: &Path, _name: &str, _json: bool, _stdout: &mut dyn Write) -> Result<()> {
    Err(Error::run("`show` is not in this build", "update fullrank"))
}
