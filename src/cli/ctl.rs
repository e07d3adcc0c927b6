//! `fullrank ctl`.

use std::io::Write;
use std::path::Path;

use super::args::CtlCommand;
use crate::error::{Error, Result};

/// Commands a live run.
pub fn ctl(
    _out: &Path,
    _name: &str,
    _command: CtlCommand,
    _wait: bool,
    _stdout: &mut dyn Write,
) -> Result<()> {
    Err(Error::run("`ctl` is not in this build", "update fullrank"))
}
