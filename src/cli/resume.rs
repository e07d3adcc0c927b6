//! `fullrank resume`: goes on from the newest intact checkpoint.

use super::args::ResumeArgs;
use super::train::follow;
use crate::config::RunConfig;
use crate::error::Result;
use crate::run::session::{Session, with_threads};
use crate::runlog::find;

/// Resumes a run; the bits are those of a run that was never stopped.
pub fn resume(args: ResumeArgs) -> Result<()> {
    let ResumeArgs { run, out, extend, ui, threads: wanted, device } = args;
    let dir = find(out, &run)?;
    let threads = match wanted {
        Some(threads) => threads,
        None => RunConfig::read(&dir.config())?.train.threads,
    };
    with_threads(threads, move || {
        follow(Session::resume(dir, extend, wanted, device.as_deref())?, ui)
    })
}
