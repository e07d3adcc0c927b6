//! `fullrank resume`: goes on from the newest intact checkpoint.

use super::args::ResumeArgs;
use super::compare;
use super::train::follow;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::run::session::{Session, with_threads};
use crate::runlog::{CompareDir, find};

/// Resumes a run, or what is left of a comparison; the bits are those of a run that was never stopped.
pub fn resume(args: ResumeArgs) -> Result<()> {
    let ResumeArgs { run, out, extend, ui, threads: wanted, device } = args;
    for path in [run.as_str().into(), out.join(&run)] {
        let dir = CompareDir::at(path);
        if dir.is_comparison() {
            if extend.is_some() || wanted.is_some() || device.is_some() {
                return Err(Error::config(
                    "--extend, --threads and --device are for single runs",
                    format!("leave them out, or name one of {}", dir.members().display()),
                ));
            }
            return compare::go_on(&dir, ui, &mut std::io::stdout());
        }
    }
    let dir = find(out, &run)?;
    let threads = match wanted {
        Some(threads) => threads,
        None => RunConfig::read(&dir.config())?.train.threads,
    };
    with_threads(threads, move || {
        follow(Session::resume(dir, extend, wanted, device.as_deref())?, ui)
    })
}
