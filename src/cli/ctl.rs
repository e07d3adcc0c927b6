//! `fullrank ctl`.

use std::io::Write;

use super::args::CtlArgs;
use crate::error::{Error, Result};

/// Commands a live run.
pub fn ctl(_args: &CtlArgs, _stdout: &mut dyn Write) -> Result<()> {
    Err(Error::run("`ctl` is not in this build", "update fullrank"))
}
