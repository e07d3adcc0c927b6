//! A comparison on disk: a folder with the plan, and one run under `members/` for each member.
//!
//! `<out>/compare-<YYYYMMDD-HHMMSS-name>/` holds `compare.toml` (the plan), `members/NAME/` (ordinary runs), the
//! tables and `report/`. Who makes the plan and trains the members is not this file's business.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

use super::index::{COMPARE_PREFIX, RunDir, folder_name, folders, new_folder, without_stamp};
use super::status::RunLock;
use crate::error::{Error, Result};

/// The version of the plan's format that this program writes.
const VERSION: u32 = 1;

/// What a comparison trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the format.
    pub version: u32,
    /// The group that the others are compared with.
    pub baseline: String,
    /// Validation loss for "tokens to target"; without it the baseline's last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_loss: Option<f64>,
    /// Minutes of training that all members have together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<f64>,
    /// One member after the other instead of by turns; without it, as the memory allows.
    #[serde(default)]
    pub sequential: bool,
    /// Settings of all members, as in a run's configuration.
    pub common: Table,
    /// The members, in the order of the table.
    pub members: Vec<Member>,
}

/// One run of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its folder's name.
    pub name: String,
    /// The name of the members that differ from it in the seed alone.
    pub group: String,
    /// Its seed.
    pub seed: u64,
    /// What it sets beside the common settings: key (`train.rank`) to value.
    pub settings: BTreeMap<String, String>,
}

impl Plan {
    /// A plan in the current format.
    pub fn new(baseline: String, common: Table, members: Vec<Member>) -> Self {
        Self {
            version: VERSION,
            baseline,
            target_loss: None,
            max_minutes: None,
            sequential: false,
            common,
            members,
        }
    }

    /// The groups, in the order of their first members.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for member in &self.members {
            if !groups.contains(&member.group.as_str()) {
                groups.push(&member.group);
            }
        }
        groups
    }
}

/// The folder of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompareDir {
    path: PathBuf,
}

impl CompareDir {
    /// The comparison in the folder `path`, which need not exist.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_path_buf() }
    }

    /// Makes the folder of a new comparison below `out` and writes its plan.
    pub fn create(out: impl AsRef<Path>, name: &str, plan: &Plan) -> Result<Self> {
        let stamp = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
        let folder = format!("{COMPARE_PREFIX}{stamp}-{}", folder_name(name));
        let dir = Self { path: new_folder(out.as_ref(), &folder)? };
        let members = dir.members();
        fs::create_dir(&members).map_err(Error::io("create", &members))?;
        let path = dir.plan_file();
        let text = toml::to_string(plan).map_err(|error| {
            Error::file(&path, format!("the plan is no TOML: {error}"), "report this")
        })?;
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        Ok(dir)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The name that the user gave.
    pub fn short_name(&self) -> String {
        let name = self.name();
        let stamped = name.strip_prefix(COMPARE_PREFIX).unwrap_or(&name);
        without_stamp(stamped).to_owned()
    }

    /// `compare.toml`: the plan.
    pub fn plan_file(&self) -> PathBuf {
        self.path.join("compare.toml")
    }

    /// `members/`.
    pub fn members(&self) -> PathBuf {
        self.path.join("members")
    }

    /// The run of a member.
    pub fn member(&self, name: &str) -> RunDir {
        RunDir::at(self.members().join(name))
    }

    /// Whether the folder holds a comparison.
    pub fn is_comparison(&self) -> bool {
        self.plan_file().is_file()
    }

    /// Reads the plan.
    ///
    /// Errors: a plan that is damaged, of another version, or whose members are no folder names.
    pub fn plan(&self) -> Result<Plan> {
        let path = self.plan_file();
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let wrong = |what: String| {
            Error::file(&path, what, "restore the file, or start the comparison anew")
        };
        let plan: Plan = toml::from_str(&text)
            .map_err(|error| wrong(format!("not a plan: {}", error.message())))?;
        if plan.version != VERSION {
            let what = format!("the plan has version {}, expected {VERSION}", plan.version);
            return Err(wrong(what));
        }
        if plan.members.is_empty() {
            return Err(wrong("the plan has no members".into()));
        }
        if let Some(member) = plan.members.iter().find(|member| !is_folder_name(&member.name)) {
            return Err(wrong(format!("a member is called `{}`", member.name)));
        }
        Ok(plan)
    }

    /// The members that were begun, in the order of the plan; where that cannot be read, by their names.
    ///
    /// Errors: `Error::Io` if the folder cannot be listed.
    pub fn runs(&self) -> Result<Vec<RunDir>> {
        let folders = folders(&self.members())?.into_iter();
        let mut runs: Vec<RunDir> = folders.map(RunDir::at).filter(RunDir::is_run).collect();
        if let Ok(plan) = self.plan() {
            let place = |run: &RunDir| {
                let is_it = |member: &Member| self.member(&member.name).path() == run.path();
                plan.members.iter().position(is_it).unwrap_or(usize::MAX)
            };
            runs.sort_by_key(place);
        }
        Ok(runs)
    }

    /// Takes the comparison for this process.
    ///
    /// Errors: `Error::Run` if another process trains it.
    pub fn lock(&self) -> Result<RunLock> {
        if self.is_locked()? {
            return Err(Error::run(
                format!("comparison {} is being trained by another process", self.name()),
                format!("look at it with `fullrank watch {}`", self.path.display()),
            ));
        }
        RunDir::at(&self.path).lock()
    }

    /// Whether a process trains it.
    ///
    /// Errors: `Error::Io` if the lock cannot be asked.
    pub fn is_locked(&self) -> Result<bool> {
        RunDir::at(&self.path).is_locked()
    }
}

fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && folder_name(name) == name
}

/// The comparison that `what` means: a folder, a name below `out`, the name that the user gave, a unique
/// beginning or part of either, or `latest`. `None` where nothing fits.
///
/// Errors: several fit.
pub fn find_comparison(out: impl AsRef<Path>, what: &str) -> Result<Option<CompareDir>> {
    let out = out.as_ref();
    let what = what.trim_end_matches(['/', '\\']);
    if what.is_empty() {
        return Ok(None);
    }
    for path in [PathBuf::from(what), out.join(what)] {
        let dir = CompareDir::at(path);
        if dir.is_comparison() {
            return Ok(Some(dir));
        }
    }
    let mut all = list(out)?;
    if what == "latest" {
        return Ok(all.pop());
    }
    let fits: [&dyn Fn(&CompareDir) -> bool; 3] = [
        &|dir| dir.short_name() == what,
        &|dir| dir.name().starts_with(what) || dir.short_name().starts_with(what),
        &|dir| dir.name().contains(what),
    ];
    for fit in fits {
        let found: Vec<&CompareDir> = all.iter().filter(|dir| fit(dir)).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(Some(one.clone())),
            _ => {
                let names: Vec<String> = found.iter().map(|dir| dir.name()).collect();
                return Err(Error::config(
                    format!("{} comparisons fit \"{what}\": {}", names.len(), names.join(", ")),
                    "give more of the name",
                ));
            }
        }
    }
    Ok(None)
}

/// All comparisons under `out`, oldest first by the time in their names.
///
/// Errors: `Error::Io` if the folder cannot be listed.
pub fn list(out: &Path) -> Result<Vec<CompareDir>> {
    let all = folders(out)?.into_iter().map(CompareDir::at);
    Ok(all.filter(|dir| dir.name().starts_with(COMPARE_PREFIX) && dir.is_comparison()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let member = |name: &str, seed: u64| Member {
            name: format!("{name}-s{seed}"),
            group: name.into(),
            seed,
            settings: BTreeMap::from([("train.method".into(), name.into())]),
        };
        let members = vec![member("full", 0), member("full", 1), member("lora", 0)];
        let common = "[train]\niters = 3\n[switchlora]\ninterval0 = inf\n".parse().unwrap();
        Plan::new("full".into(), common, members)
    }

    #[test]
    fn a_plan_comes_back_as_it_was_written() {
        let out = tempfile::tempdir().unwrap();
        let written = Plan { target_loss: Some(3.5), max_minutes: Some(2.0), ..plan() };
        let dir = CompareDir::create(out.path(), "a b", &written).unwrap();
        assert!(dir.name().starts_with("compare-2") && dir.short_name() == "a-b", "{}", dir.name());
        assert_eq!(dir.plan().unwrap(), written);
        assert_eq!(written.groups(), ["full", "lora"]);
        assert!(dir.member("full-s0").name().ends_with("-a-b/members/full-s0"));
    }

    #[test]
    fn a_damaged_plan_is_an_error_that_names_the_file() {
        let out = tempfile::tempdir().unwrap();
        let dir = CompareDir::create(out.path(), "x", &plan()).unwrap();
        let whole = fs::read_to_string(dir.plan_file()).unwrap();
        for (from, to, what) in [
            ("version = 1", "version = 9", "has version 9"),
            ("name = \"full-s0\"", "name = \"../x\"", "called `../x`"),
            ("baseline = ", "baseline ", "not a plan"),
        ] {
            fs::write(dir.plan_file(), whole.replace(from, to)).unwrap();
            let error = dir.plan().unwrap_err().to_string();
            assert!(error.contains("compare.toml") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_comparison_is_found_by_folder_name_and_beginning() {
        let out = tempfile::tempdir().unwrap();
        let a = CompareDir::create(out.path(), "ranks", &plan()).unwrap();
        let b = CompareDir::create(out.path(), "rates", &plan()).unwrap();
        let find = |what: &str| find_comparison(out.path(), what);
        assert_eq!(find("ranks").unwrap(), Some(a.clone()));
        assert_eq!(find(&b.name()).unwrap(), Some(b));
        assert_eq!(find(a.path().to_str().unwrap()).unwrap(), Some(a));
        assert_eq!(find("nothing").unwrap(), None);
        let error = find("ra").unwrap_err();
        assert!(error.to_string().starts_with("2 comparisons fit \"ra\""), "{error}");
        assert_eq!(error.exit_code(), 2, "a wrong name, as for runs");
    }
}
