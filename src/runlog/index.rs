//! Runs on disk: the folder of a run, how it is named, and which runs there are.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The file in the runs' folder that names the newest run.
const LATEST: &str = "latest";
/// Where runs are made, and looked for, unless `--out` says otherwise.
const DEFAULT_OUT: &str = "runs";
/// Folders that start with this hold several runs under `members/`.
pub(super) const COMPARE_PREFIX: &str = "compare-";
/// Longest name of a run that is taken from the user.
const MAX_NAME_LEN: usize = 80;

/// The folder of one run, and where things are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The run in the folder `path`, which need not exist.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_path_buf() }
    }

    /// Makes the folder of a new run, `<out>/<YYYYMMDD-HHMMSS-name>/` in local time, and makes it the
    /// latest. A name that is taken gets `-2`, `-3`, …
    ///
    /// Errors: `Error::Io` if the folder cannot be made.
    pub fn create(out: impl AsRef<Path>, name: &str) -> Result<Self> {
        let stamp = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
        Self::create_at(out.as_ref(), &stamp, name)
    }

    fn create_at(out: &Path, stamp: &str, name: &str) -> Result<Self> {
        let run = Self { path: new_folder(out, &format!("{stamp}-{}", folder_name(name)))? };
        run.make_latest(out)?;
        Ok(run)
    }

    /// Makes this run the one that `latest` means.
    pub fn make_latest(&self, out: impl AsRef<Path>) -> Result<()> {
        let out = out.as_ref();
        let name = self.path.strip_prefix(out).unwrap_or(&self.path);
        // Written beside and renamed, so that a reader never sees half a name.
        let beside = out.join(format!(".{LATEST}-{}", std::process::id()));
        let text = format!("{}\n", name.display());
        fs::write(&beside, text).map_err(Error::io("write", &beside))?;
        let latest = out.join(LATEST);
        fs::rename(&beside, &latest).map_err(Error::io("write", &latest))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's name, `20261121-180011-demo`; for a member of a comparison
    /// `compare-…/members/lora`.
    pub fn name(&self) -> String {
        let name = last_part(&self.path);
        match self.comparison().map(last_part) {
            Some(compare) => format!("{compare}/members/{name}"),
            None => name,
        }
    }

    /// The folder of the comparison that it is a member of.
    fn comparison(&self) -> Option<&Path> {
        let members = self.path.parent().filter(|parent| last_part(parent) == "members")?;
        members.parent().filter(|compare| last_part(compare).starts_with(COMPARE_PREFIX))
    }

    /// The folder of runs that it lies in: for a member of a comparison the one in which the comparison lies.
    pub fn home(&self) -> PathBuf {
        let parent = self.comparison().unwrap_or(&self.path).parent();
        match parent.filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => parent.to_path_buf(),
            None => PathBuf::from("."),
        }
    }

    /// The name that the user gave: the folder's without the time stamp.
    pub fn short_name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        without_stamp(&name).to_string()
    }

    /// The run as an argument of other commands, for messages: its name where they look by default, else
    /// its folder.
    pub fn as_argument(&self) -> String {
        if self.path.parent() == Some(Path::new(DEFAULT_OUT)) {
            self.name()
        } else {
            self.path.display().to_string()
        }
    }

    /// Whether the folder holds a run.
    pub fn is_run(&self) -> bool {
        self.config().is_file() || self.events().is_file()
    }

    /// `run.toml`: the resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("run.toml")
    }

    /// `facts.json`: hashes, versions, device, host.
    pub fn facts(&self) -> PathBuf {
        self.path.join("facts.json")
    }

    /// `events.jsonl`: the event log.
    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// `control.jsonl`: commands in.
    pub fn control(&self) -> PathBuf {
        self.path.join("control.jsonl")
    }

    /// `run.lock`: locked while the run lives.
    pub fn lock_file(&self) -> PathBuf {
        self.path.join("run.lock")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// `checkpoints/step-00012000/`.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:08}"))
    }

    /// `model/`: the final export.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// `log.txt`: messages of the program.
    pub fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    /// The run's complete checkpoints, oldest first. A checkpoint is written beside and renamed, so
    /// every folder with the right name is complete.
    pub fn list_checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let folder = self.checkpoints();
        let mut found = Vec::new();
        for path in folders(&folder)? {
            let step = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix("step-")?.parse::<u64>().ok());
            if let Some(step) = step {
                let bytes = size_of(&path);
                found.push(Checkpoint { step, path, bytes });
            }
        }
        found.sort_by_key(|checkpoint| checkpoint.step);
        Ok(found)
    }
}

/// Checks that runs can be kept in `out`, before anything costs time. Where it is missing, nothing is made yet.
///
/// Errors: `Error::Config` if it is no folder, `Error::Io` with the full path if nothing can be written there.
pub fn check_out(out: &Path) -> Result<()> {
    let whole = std::path::absolute(out).map_err(Error::io("find", out))?;
    let Some(there) = whole.ancestors().find(|folder| folder.exists()) else { return Ok(()) };
    if !there.is_dir() {
        return Err(Error::config(
            format!("--out {} cannot be a folder: {} is a file", out.display(), there.display()),
            "choose another place with --out",
        ));
    }
    tempfile::tempfile_in(there).map_err(Error::io("write to", there))?;
    Ok(())
}

/// Makes a folder below `out`; a name that is taken gets `-2`, `-3`, …
pub(super) fn new_folder(out: &Path, folder: &str) -> Result<PathBuf> {
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let mut path = out.join(folder);
    let mut number = 1_u32;
    loop {
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                number += 1;
                path = out.join(format!("{folder}-{number}"));
            }
            Err(error) => return Err(Error::io("create", &path)(error)),
        }
    }
}

/// A checkpoint on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The updates it holds.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// The size of its files.
    pub bytes: u64,
}

/// A path's last part as text.
fn last_part(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// All runs under `out`, members of comparisons included, newest first by the time in their names.
/// A missing folder holds no runs.
pub fn list(out: impl AsRef<Path>) -> Result<Vec<RunDir>> {
    let mut runs = Vec::new();
    for path in folders(out.as_ref())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue; // the trash
        }
        let members = path.join("members");
        if name.starts_with(COMPARE_PREFIX) && members.is_dir() {
            runs.extend(folders(&members)?.iter().map(RunDir::at).filter(RunDir::is_run));
        } else {
            runs.extend(Some(RunDir::at(&path)).filter(RunDir::is_run));
        }
    }
    runs.sort_by_cached_key(|run| std::cmp::Reverse(time(&run.name()).to_owned()));
    Ok(runs)
}

/// The part of a name that begins with its time: without the word that marks comparisons.
pub fn time(name: &str) -> &str {
    name.strip_prefix(COMPARE_PREFIX).unwrap_or(name)
}

/// The run that the file `latest` names; `None` if there is no such file or no such run.
pub fn latest(out: impl AsRef<Path>) -> Result<Option<RunDir>> {
    let path = out.as_ref().join(LATEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let name = text.trim();
    if name.is_empty() {
        return Ok(None);
    }
    Ok(Some(RunDir::at(out.as_ref().join(name))).filter(RunDir::is_run))
}

/// Makes the newest run the latest again, after one was removed.
pub fn refresh_latest(out: impl AsRef<Path>) -> Result<()> {
    let out = out.as_ref();
    if latest(out)?.is_some() {
        return Ok(());
    }
    if let Some(newest) = list(out)?.first() {
        return newest.make_latest(out);
    }
    let path = out.join(LATEST);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// A run folder's name without `YYYYMMDD-HHMMSS-`.
pub(super) fn without_stamp(name: &str) -> &str {
    const SHAPE: &[u8] = b"00000000-000000-";
    let has_stamp = name.len() > SHAPE.len()
        && name.bytes().zip(SHAPE).all(|(byte, &shape)| {
            if shape == b'0' { byte.is_ascii_digit() } else { byte == shape }
        });
    if has_stamp { name.get(SHAPE.len()..).unwrap_or(name) } else { name }
}

/// A name that is a good folder name on every system: letters, digits, `-`, `_` and dots inside.
pub(super) fn folder_name(name: &str) -> String {
    let kept: String = name
        .chars()
        .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .take(MAX_NAME_LEN)
        .collect();
    let kept = kept.trim_matches(['.', '-']);
    if kept.is_empty() { "run".into() } else { kept.into() }
}

/// The folders in a folder, in the order of their names; none if it is missing.
pub(super) fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", path))?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The size of all files under a folder; what cannot be read counts nothing.
pub fn size_of(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(out: &Path, name: &str) -> RunDir {
        let run = RunDir::at(out.join(name));
        fs::create_dir_all(run.path()).unwrap();
        fs::write(run.config(), "").unwrap();
        run
    }

    #[test]
    fn a_new_run_gets_a_stamp_and_a_taken_name_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("runs");
        let first = RunDir::create_at(&out, "20261121-180011", "a demo/run").unwrap();
        assert_eq!(first.name(), "20261121-180011-a-demo-run");
        assert_eq!(first.short_name(), "a-demo-run");
        let second = RunDir::create_at(&out, "20261121-180011", "a demo/run").unwrap();
        assert_eq!(second.name(), "20261121-180011-a-demo-run-2");
        let third = RunDir::create_at(&out, "20261121-180011", "a demo/run").unwrap();
        assert_eq!(third.name(), "20261121-180011-a-demo-run-3");
        assert_eq!(fs::read_to_string(out.join("latest")).unwrap(), format!("{}\n", third.name()));
        let today = RunDir::create(&out, "").unwrap();
        assert_eq!(without_stamp(&today.name()), "run");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 5, "nothing else is left behind");
    }

    #[test]
    fn a_run_and_a_member_of_a_comparison_have_the_same_home() {
        let home = |path: &str| RunDir::at(path).home();
        assert_eq!(home("runs/20261121-180011-demo"), Path::new("runs"));
        assert_eq!(home("/a/runs/compare-20261121-180011-b/members/lora"), Path::new("/a/runs"));
        assert_eq!(home("compare-20261121-180011-b/members/lora"), Path::new("."));
        assert_eq!(home("members/lora"), Path::new("members"), "no comparison");
        assert_eq!(home("demo"), Path::new("."));
    }

    #[test]
    fn names_stay_inside_the_folder() {
        assert_eq!(folder_name("../../etc"), "etc");
        assert_eq!(folder_name(".."), "run");
        assert_eq!(folder_name("llama 60m, r=128"), "llama-60m--r-128");
        assert_eq!(folder_name(&"ä".repeat(500)).chars().count(), MAX_NAME_LEN);
        assert_eq!(without_stamp("20261121-180011-x"), "x");
        assert_eq!(without_stamp("2026112118-0011-x"), "2026112118-0011-x");
        assert_eq!(without_stamp("20261121-180011-"), "20261121-180011-");
    }

    #[test]
    fn runs_are_listed_newest_first_with_members_of_comparisons() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        assert!(list(out.join("missing")).unwrap().is_empty());
        run(out, "20261101-000000-old");
        run(out, "20261103-000000-new");
        run(out, "compare-20261102-000000-x/members/lora");
        run(out, ".trash/20261104-000000-gone");
        fs::create_dir(out.join("notes")).unwrap();
        let names: Vec<String> = list(out).unwrap().iter().map(RunDir::name).collect();
        assert_eq!(
            names,
            [
                "20261103-000000-new",
                "compare-20261102-000000-x/members/lora",
                "20261101-000000-old"
            ]
        );
    }

    #[test]
    fn latest_moves_on_when_its_run_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        assert_eq!(latest(out).unwrap(), None);
        let old = run(out, "20261101-000000-old");
        let new = run(out, "20261103-000000-new");
        new.make_latest(out).unwrap();
        assert_eq!(latest(out).unwrap().as_ref(), Some(&new));
        fs::remove_dir_all(new.path()).unwrap();
        assert_eq!(latest(out).unwrap(), None);
        refresh_latest(out).unwrap();
        assert_eq!(latest(out).unwrap().as_ref(), Some(&old));
        fs::remove_dir_all(old.path()).unwrap();
        refresh_latest(out).unwrap();
        assert!(!out.join("latest").exists());
    }

    #[test]
    fn checkpoints_are_listed_with_their_size() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path(), "20261101-000000-x");
        assert!(run.list_checkpoints().unwrap().is_empty());
        for (name, size) in [("step-00000200", 3), ("step-00000100", 5), ("step-00000300.part", 9)]
        {
            fs::create_dir_all(run.checkpoints().join(name)).unwrap();
            fs::write(run.checkpoints().join(name).join("state.json"), vec![b' '; size]).unwrap();
        }
        let found: Vec<(u64, u64)> =
            run.list_checkpoints().unwrap().iter().map(|c| (c.step, c.bytes)).collect();
        assert_eq!(found, [(100, 5), (200, 3)]);
        assert_eq!(run.checkpoint(100), run.list_checkpoints().unwrap()[0].path);
    }
}
