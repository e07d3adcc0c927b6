//! `fullrank train`.

use super::args::TrainArgs;
use crate::error::{Error, Result};

/// Trains a model and writes the run.
pub fn train(_args: TrainArgs) -> Result<()> {
    Err(Error::run("`train` is not in this build", "update fullrank"))
}
