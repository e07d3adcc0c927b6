//! `fullrank report`: a page with plots and a table of runs or of a comparison.

use std::io::Write;
use std::path::PathBuf;

use super::args::ReportArgs;
use super::text;
use crate::error::{Error, Result};
use crate::report::Comparison;
use crate::report::page;
use crate::report::series::At;
use crate::runlog::{Named, RunDir, find, find_any};

/// Writes the report beside the runs and prints where it is.
///
/// Errors: `Error::Run` if no such run, or runs that have told nothing yet.
pub fn report(args: &ReportArgs, stdout: &mut dyn Write) -> Result<()> {
    let (mut comparison, folder) = open(args)?;
    if comparison.entries.iter().all(|entry| entry.history.is_empty()) {
        return Err(Error::run(
            format!("{}: no events yet", comparison.title),
            "train first; a run tells its first number after its first evaluation",
        ));
    }
    let note = match args.at {
        Some(at) => {
            comparison.cut(at);
            match at {
                At::Tokens(most) => format!("at {} tokens", text::count(most)),
                At::Step(most) => format!("at update {}", text::count(most)),
                At::Time(most) => format!("at {} of training", text::clock(most)),
            }
        }
        None => String::new(),
    };
    let folder = args.to.clone().unwrap_or(folder);
    let path = page::write(&comparison, &note, &folder)?;
    let table = comparison.table().text();
    text::print(stdout, &format!("{table}{}\n", path.display()))
}

/// What the words name: one comparison, or runs; and where its report goes.
fn open(args: &ReportArgs) -> Result<(Comparison, PathBuf)> {
    if let [what] = &args.runs[..]
        && let Named::Comparison(dir) = find_any(&args.out, what)?
    {
        return Ok((Comparison::read(&dir, &dir.plan()?)?, dir.path().join("report")));
    }
    let mut runs: Vec<RunDir> = Vec::new();
    for what in &args.runs {
        let run = find(&args.out, what)?;
        if !runs.contains(&run) {
            runs.push(run);
        }
    }
    let folder = match &runs[..] {
        [one] => one.path().join("report"),
        _ => args.out.join("report"),
    };
    Ok((Comparison::of_runs(&runs)?, folder))
}
