//! `fullrank rm`: moves runs and comparisons to the trash folder beside them. Nothing is deleted.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::text;
use crate::error::{Error, Result};
use crate::runlog::compare::CompareDir;
use crate::runlog::index::refresh_latest;
use crate::runlog::{Named, RunDir, find, find_any};

/// The folder under the runs' folder where removed runs go.
pub const TRASH: &str = ".trash";

/// Moves the named runs, and comparisons with all their members, to `<out>/.trash/` and says where each went.
///
/// All names are looked up, and all locks asked, before anything is moved. `latest` is a run: what is removed should
/// be the smaller of two things that may be meant.
///
/// Errors: `Error::Config` if a name fits nothing, `Error::Run` if what it fits is live or on another disk, `Error::Io`.
pub fn rm(out: &Path, names: &[String], stdout: &mut dyn Write) -> Result<()> {
    let mut all: Vec<Removed> = Vec::new();
    for name in names {
        let named =
            if name == "latest" { Named::Run(find(out, name)?) } else { find_any(out, name)? };
        let removed = match named {
            Named::Run(run) => Removed::run(&run)?,
            Named::Comparison(dir) => Removed::comparison(&dir)?,
        };
        if !all.iter().any(|other| removed.whole.starts_with(&other.whole)) {
            // A comparison takes its members along, those that were named before it too.
            all.retain(|other| !other.whole.starts_with(&removed.whole));
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
    /// The path from the root, links followed: the same folder may be named in several ways.
    whole: PathBuf,
    name: String,
    /// What it is, for the message.
    words: String,
}

impl Removed {
    fn run(run: &RunDir) -> Result<Self> {
        if run.is_locked()? {
            return Err(Error::run(
                format!("run {} is live and stays", run.name()),
                format!("end it first with `fullrank ctl {} stop`", run.as_argument()),
            ));
        }
        Self::at(run.path(), run.name(), run.name())
    }

    fn at(path: &Path, name: String, words: String) -> Result<Self> {
        let whole = fs::canonicalize(path).map_err(Error::io("find", path))?;
        Ok(Self { path: path.to_path_buf(), whole, name, words })
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
                let remedy = format!("end it first with `fullrank ctl {} stop`", run.as_argument());
                return live(format!("its member {} is live", run.short_name()), remedy);
            }
        }
        let members = if runs.len() == 1 { "run" } else { "runs" };
        let words = format!("{} with {} {members}", dir.name(), runs.len());
        Self::at(dir.path(), dir.name(), words)
    }

    /// Why it could not be moved to the trash.
    fn stays(&self, trash: &Path, error: io::Error) -> Error {
        if error.kind() != ErrorKind::CrossesDevices {
            return Error::io("move", &self.path)(error);
        }
        // Nothing is copied: what was half copied when the disk was full would lie in two places.
        let (parent, name) = (self.whole.parent(), self.whole.file_name());
        let own = parent.unwrap_or(&self.whole).display();
        Error::run(
            format!(
                "{} lies on another disk than the trash {}",
                self.path.display(),
                trash.display()
            ),
            format!(
                "give the folder that it lies in: `fullrank rm {} --out {own}` has its trash there",
                name.unwrap_or_default().display()
            ),
        )
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
    fs::rename(&removed.path, &place).map_err(|error| removed.stays(&trash, error))?;
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
    fn a_run_named_in_two_ways_is_moved_once() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let run = test_runs::finished(out, "20261121-180011-demo");
        let path = run.path().display().to_string();
        let roundabout = format!("{}/../{}", path, run.name());
        let mut stdout = Vec::new();
        rm(out, &[path, roundabout, "demo".into()], &mut stdout).unwrap();
        assert_eq!(String::from_utf8(stdout).unwrap().lines().count(), 1);
        assert!(!run.path().exists());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_run_on_another_disk_stays_and_the_remedy_moves_it() {
        let here = tempfile::tempdir().unwrap();
        let Ok(there) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("skipped: there is no /dev/shm");
            return;
        };
        let run = test_runs::finished(there.path(), "20261121-180011-demo");
        let refused = Removed::run(&run).unwrap();
        let error = refused.stays(&here.path().join(TRASH), ErrorKind::CrossesDevices.into());
        let (what, remedy) = (error.to_string(), error.remedy());
        assert!(what.contains("lies on another disk than the trash"), "{what}");
        let wanted = format!("rm 20261121-180011-demo --out {}", there.path().display());
        assert!(remedy.contains(&wanted), "{remedy}");
        if device(here.path()) == device(there.path()) {
            eprintln!("skipped: /dev/shm and the temporary folder are on one disk");
            return;
        }
        let path = run.path().display().to_string();
        let error = rm(here.path(), &[path], &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), what);
        assert!(run.is_run());
        rm(there.path(), &["20261121-180011-demo".into()], &mut Vec::new()).unwrap();
        assert!(!run.is_run());
    }

    #[cfg(target_os = "linux")]
    fn device(path: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).unwrap().dev()
    }

    #[test]
    fn latest_is_a_run_even_where_a_comparison_is_newer() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let dir = comparison(out, "compare-20261121-180011-b");
        let run = test_runs::finished(out, "20261120-180011-demo");
        run.make_latest(out).unwrap();
        rm(out, &["latest".into()], &mut Vec::new()).unwrap();
        assert!(!run.is_run() && dir.is_comparison());
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
        let remedy = error.remedy();
        assert!(remedy.contains(&format!("ctl {} stop", live.path().display())), "{remedy}");
        assert!(done.path().exists() && live.path().exists());
        drop(lock);
        rm(out, &["demo".into(), "lora".into()], &mut Vec::new()).unwrap();
        assert!(!out.join("latest").exists());
    }
}
