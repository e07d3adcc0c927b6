//! `fullrank rm`: moves runs and comparisons to the trash folder beside them. Nothing is deleted.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::text;
use crate::error::{Error, Result};
use crate::runlog::compare::CompareDir;
use crate::runlog::index::refresh_latest;
use crate::runlog::{Named, RunDir, find_any};

/// The folder under the runs' folder where removed runs go.
pub const TRASH: &str = ".trash";

/// Moves the named runs, and comparisons with all their members, to `<out>/.trash/` and says where each went.
///
/// All names are looked up, and all locks asked, before anything is moved.
///
/// Errors: `Error::Config` if a name fits nothing, `Error::Run` if what it fits is live, `Error::Io`.
pub fn rm(out: &Path, names: &[String], stdout: &mut dyn Write) -> Result<()> {
    let mut all: Vec<Removed> = Vec::new();
    for name in names {
        let removed = match find_any(out, name)? {
            Named::Run(run) => Removed::run(&run)?,
            Named::Comparison(dir) => Removed::comparison(&dir)?,
        };
        if !all.iter().any(|other| removed.path.starts_with(&other.path)) {
            // A comparison takes its members along, those that were named before it too.
            all.retain(|other| !other.path.starts_with(&removed.path));
            all.push(removed);
        }
    }
    for removed in all {
        let place = trash(out, &removed)?;
        let line = format!("moved {} to {}\n", removed.words, place.display());
        text::print(stdout, &line)?;
    }
    refresh_latest(out)
}

/// A folder that goes to the trash.
struct Removed {
    path: PathBuf,
    name: String,
    /// What it is, for the message.
    words: String,
}

impl Removed {
    fn run(run: &RunDir) -> Result<Self> {
        if run.is_locked()? {
            return Err(Error::run(
                format!("run {} is live and stays", run.name()),
                format!("end it first with `fullrank ctl {} stop`", run.name()),
            ));
        }
        Ok(Self { path: run.path().to_path_buf(), name: run.name(), words: run.name() })
    }

    fn comparison(dir: &CompareDir) -> Result<Self> {
        let live = |what: String, remedy: String| {
            Err(Error::run(format!("comparison {} stays: {what}", dir.name()), remedy))
        };
        if dir.is_locked()? {
            let remedy = "interrupt its process first; every member leaves a checkpoint";
            return live("it is being trained".into(), remedy.into());
        }
        let runs = dir.runs()?;
        for run in &runs {
            if run.is_locked()? {
                let name = run.name();
                let remedy = format!("end it first with `fullrank ctl {name} stop`");
                return live(format!("its member {} is live", run.short_name()), remedy);
            }
        }
        let members = if runs.len() == 1 { "run" } else { "runs" };
        let words = format!("{} with {} {members}", dir.name(), runs.len());
        Ok(Self { path: dir.path().to_path_buf(), name: dir.name(), words })
    }
}

fn trash(out: &Path, removed: &Removed) -> Result<PathBuf> {
    let trash = out.join(TRASH);
    fs::create_dir_all(&trash).map_err(Error::io("create", &trash))?;
    let name = removed.name.replace('/', "-");
    let mut place = trash.join(&name);
    let mut number = 1_u32;
    while place.exists() {
        number += 1;
        place = trash.join(format!("{name}-{number}"));
    }
    fs::rename(&removed.path, &place).map_err(Error::io("move", &removed.path))?;
    Ok(place)
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

    /// A comparison with finished members.
    fn comparison(out: &Path, name: &str) -> CompareDir {
        let members = out.join(name).join("members");
        for member in ["full", "lora"] {
            test_runs::finished(&members, member);
        }
        fs::write(out.join(name).join("compare.toml"), "").unwrap();
        CompareDir::at(out.join(name))
    }

    #[test]
    fn a_comparison_goes_with_its_members_and_one_member_goes_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let other = comparison(out, "compare-20261120-180011-a");
        let dir = comparison(out, "compare-20261121-180011-b");
        dir.member("lora").make_latest(out).unwrap();
        let removed = |names: &[&str]| {
            let mut stdout = Vec::new();
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            rm(out, &names, &mut stdout).unwrap();
            String::from_utf8(stdout).unwrap()
        };
        let member = format!("{}/members/full", dir.name());
        let text = removed(&[&member, "b", &member]);
        assert!(text.starts_with("moved compare-20261121-180011-b with 2 runs to "), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!dir.path().exists());
        let gone = CompareDir::at(out.join(TRASH).join(dir.name()));
        assert!(gone.is_comparison() && gone.member("lora").is_run());
        assert_eq!(latest(out).unwrap(), Some(other.member("lora")));
        let text = removed(&["lora"]);
        assert!(text.starts_with("moved compare-20261120-180011-a/members/lora to "), "{text}");
        assert!(other.member("full").is_run() && !other.member("lora").is_run());
        let text = removed(&["compare-20261120"]);
        assert!(text.starts_with("moved compare-20261120-180011-a with 1 run to "), "{text}");
    }

    #[test]
    fn a_comparison_that_trains_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let dir = comparison(out, "compare-20261121-180011-b");
        let refused = || rm(out, &["b".into()], &mut Vec::new()).unwrap_err().to_string();
        let lock = dir.lock().unwrap();
        assert_eq!(refused(), "comparison compare-20261121-180011-b stays: it is being trained");
        drop(lock);
        let lock = dir.member("lora").lock().unwrap();
        assert_eq!(
            refused(),
            "comparison compare-20261121-180011-b stays: its member lora is live"
        );
        drop(lock);
        assert!(dir.member("full").is_run());
        rm(out, &["b".into()], &mut Vec::new()).unwrap();
        assert!(!dir.path().exists());
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
