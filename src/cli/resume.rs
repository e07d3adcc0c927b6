//! `fullrank resume`: goes on from the newest intact checkpoint.

use super::args::ResumeArgs;
use super::compare;
use super::train::{follow, in_front};
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::run::session::{Session, with_threads};
use crate::runlog::{Named, find_any};

/// Resumes a run, or what is left of a comparison; the bits are those of a run that was never stopped.
pub fn resume(args: ResumeArgs) -> Result<()> {
    let dir = match find_any(&args.out, &args.run)? {
        Named::Run(dir) => dir,
        Named::Comparison(dir) => {
            if args.extend.is_some() || args.threads.is_some() || args.device.is_some() {
                return Err(Error::config(
                    "--extend, --threads and --device are for single runs",
                    format!("leave them out, or name one of {}", dir.members().display()),
                ));
            }
            return compare::go_on(&dir, args.ui, args.ascii, &mut std::io::stdout());
        }
    };
    let ResumeArgs { extend, ui, ascii, threads: wanted, device, .. } = args;
    let threads = match wanted {
        Some(threads) => threads,
        None => RunConfig::read(&dir.config())?.train.threads,
    };
    in_front(ui, ascii, move |show| {
        with_threads(threads, move || {
            follow(Session::resume(dir, extend, wanted, device.as_deref())?, show)
        })
    })
}
