//! `fullrank rm`: moves runs to the trash folder beside them. Nothing is deleted.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::text;
use crate::error::{Error, Result};
use crate::runlog::index::refresh_latest;
use crate::runlog::{RunDir, find};

/// The folder under the runs' folder where removed runs go.
pub const TRASH: &str = ".trash";

/// Moves the named runs to `<out>/.trash/` and says where each went.
///
/// All names are looked up, and all locks asked, before the first run is moved.
///
/// Errors: `Error::Config` if a name fits no run, `Error::Run` if the run is live, `Error::Io`.
pub fn rm(out: &Path, names: &[String], stdout: &mut dyn Write) -> Result<()> {
    let mut runs: Vec<RunDir> = Vec::new();
    for name in names {
        let run = find(out, name)?;
        if run.is_locked()? {
            return Err(Error::run(
                format!("run {} is live and stays", run.name()),
                format!("end it first with `fullrank ctl {} stop`", run.name()),
            ));
        }
        if !runs.contains(&run) {
            runs.push(run);
        }
    }
    for run in runs {
        let place = trash(out, &run)?;
        let line = format!("moved {} to {}\n", run.name(), place.path().display());
        text::print(stdout, &line)?;
    }
    refresh_latest(out)
}

fn trash(out: &Path, run: &RunDir) -> Result<RunDir> {
    let trash = out.join(TRASH);
    fs::create_dir_all(&trash).map_err(Error::io("create", &trash))?;
    let name = run.name().replace('/', "-");
    let mut place = trash.join(&name);
    let mut number = 1_u32;
    while place.exists() {
        number += 1;
        place = trash.join(format!("{name}-{number}"));
    }
    fs::rename(run.path(), &place).map_err(Error::io("move", run.path()))?;
    Ok(RunDir::at(place))
}

#[cfg(test)]
mod tests {
    use super::super::test_runs;
    use super::*;
    use crate::runlog::index::latest;

    #[test]
    fn a_removed_run_lies_in_the_trash_and_latest_moves_on() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let old = test_runs::finished(out, "20261120-180011-demo");
        let new = test_runs::finished(out, "20261121-180011-demo");
        new.make_latest(out).unwrap();
        let mut stdout = Vec::new();
        rm(out, &["latest".into(), "20261121".into()], &mut stdout).unwrap();
        let text = String::from_utf8(stdout).unwrap();
        assert!(text.starts_with("moved 20261121-180011-demo to "), "{text}");
        assert_eq!(text.lines().count(), 1, "named twice, moved once");
        assert!(!new.path().exists());
        assert!(RunDir::at(out.join(TRASH).join("20261121-180011-demo")).is_run());
        assert_eq!(latest(out).unwrap(), Some(old));
        test_runs::finished(out, "20261121-180011-demo");
        rm(out, &["20261121".into()], &mut Vec::new()).unwrap();
        assert!(RunDir::at(out.join(TRASH).join("20261121-180011-demo-2")).is_run());
    }

    #[test]
    fn a_live_run_stays_and_so_do_all_others() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let done = test_runs::finished(out, "20261120-180011-demo");
        let live = test_runs::crashed(out, "20261121-190000-lora");
        let lock = live.lock().unwrap();
        let error = rm(out, &["demo".into(), "lora".into()], &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "run 20261121-190000-lora is live and stays");
        assert!(done.path().exists() && live.path().exists());
        drop(lock);
        rm(out, &["demo".into(), "lora".into()], &mut Vec::new()).unwrap();
        assert!(!out.join("latest").exists());
    }
}
