//! Finds the run that the user means: `latest`, a path, a name, or the beginning of a name.

use std::path::{Path, PathBuf};

use super::compare::{self, CompareDir};
use super::index::{COMPARE_PREFIX, RunDir, latest, list, time};
use crate::error::{Error, Result};

/// How many runs an error message names.
const MAX_NAMED: usize = 5;
/// How alike names are, of at most 1, of which one may be meant for the other.
const NEAR: f64 = 0.75;
/// Characters of the time in a folder's name: `20261121-180011`.
const STAMP_LEN: usize = 15;

/// The run under `out` that `what` means: the word `latest`, the path of a run's folder, a folder's
/// name, the name that the user gave, or the beginning of either, as long as it fits only one run.
///
/// Errors: `Error::Config` if no run or more than one fits; it names the nearest.
pub fn find(out: impl AsRef<Path>, what: &str) -> Result<RunDir> {
    let out = out.as_ref();
    let what = what.trim_end_matches(['/', '\\']);
    if what == "latest" {
        if let Some(run) = latest(out)? {
            return Ok(run);
        }
        return match list(out)?.into_iter().next() {
            Some(newest) => Ok(newest), // the file is gone, the runs are not
            None => Err(no_runs(out)),
        };
    }
    for path in [Path::new(what), &out.join(what)] {
        let run = RunDir::at(path);
        if !what.is_empty() && run.is_run() {
            return Ok(run);
        }
    }
    let runs = list(out)?;
    if runs.is_empty() {
        return Err(no_runs(out));
    }
    let fits: [&dyn Fn(&RunDir) -> bool; 3] = [
        &|run| run.short_name() == what,
        &|run| run.name().starts_with(what) || run.short_name().starts_with(what),
        &|run| run.name().contains(what),
    ];
    for fit in fits {
        let mut found = runs.iter().filter(|run| fit(run));
        if let Some(first) = found.next().filter(|_| !what.is_empty()) {
            let others: Vec<&RunDir> = found.collect();
            if others.is_empty() {
                return Ok(first.clone());
            }
            return Err(several(what, first, &others));
        }
    }
    Err(not_found(out, what, &runs))
}

/// What a name fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A run; it may be a member of a comparison.
    Run(RunDir),
    /// A comparison as a whole.
    Comparison(CompareDir),
}

/// Finds a run as [`find`] does, or a comparison in the same ways. What fits the folder of a comparison means the
/// comparison and none of its members. `latest` is what was begun last: a run alone, or a comparison.
///
/// Errors: `Error::Config` if nothing fits, or more than one thing fits as well.
pub fn find_any(out: impl AsRef<Path>, what: &str) -> Result<Named> {
    let out = out.as_ref();
    let what = what.trim_end_matches(['/', '\\']);
    for path in [Path::new(what), &out.join(what)] {
        let (run, dir) = (RunDir::at(path), CompareDir::at(path));
        if !what.is_empty() && dir.is_comparison() {
            return Ok(Named::Comparison(dir));
        }
        if !what.is_empty() && run.is_run() {
            return Ok(Named::Run(run));
        }
    }
    let dirs = compare::list(out)?;
    if what.is_empty() || dirs.is_empty() {
        return find(out, what).map(Named::Run);
    }
    if what == "latest" {
        return newest(out, dirs);
    }
    let runs = list(out)?;
    // By whole name and its part after the stamp.
    let fits: [&dyn Fn(&str, &str) -> bool; 3] = [
        &|_, short| short == what,
        &|name, short| name.starts_with(what) || short.starts_with(what),
        &|name, _| name.contains(what),
    ];
    for fit in fits {
        let dirs: Vec<&CompareDir> =
            dirs.iter().filter(|dir| fit(&dir.name(), &dir.short_name())).collect();
        // A member of a comparison that fits must fit by its own name.
        let fits = |run: &RunDir| {
            let short = run.short_name();
            let is_inside = dirs.iter().any(|dir| run.path().starts_with(dir.path()));
            if is_inside { fit(&short, &short) } else { fit(&run.name(), &short) }
        };
        let runs: Vec<&RunDir> = runs.iter().filter(|run| fits(run)).collect();
        match (&dirs[..], &runs[..]) {
            ([], []) => {}
            ([dir], []) => return Ok(Named::Comparison((*dir).clone())),
            ([], [run]) => return Ok(Named::Run((*run).clone())),
            ([], [first, others @ ..]) => return Err(several(what, first, others)),
            _ => {
                let names = dirs.iter().map(|dir| dir.name());
                let names: Vec<String> = names.chain(runs.iter().map(|run| run.name())).collect();
                let more = if names.len() > MAX_NAMED { ", …" } else { "" };
                let shown = names[..names.len().min(MAX_NAMED)].join(", ");
                return Err(Error::config(
                    format!("{} runs and comparisons fit \"{what}\": {shown}{more}", names.len()),
                    "give the whole name of one",
                ));
            }
        }
    }
    Err(not_found(out, what, &runs))
}

/// The newest run that is no member of a comparison, or the newest comparison, whichever was begun later.
fn newest(out: &Path, mut dirs: Vec<CompareDir>) -> Result<Named> {
    let is_alone = |run: &RunDir| !run.name().starts_with(COMPARE_PREFIX);
    let run = match latest(out)?.filter(is_alone) {
        Some(run) => Some(run),
        None => list(out)?.into_iter().find(is_alone),
    };
    // Both names begin with the second; within one, the file that is written first tells.
    let begun = |name: &str, file: PathBuf| {
        let stamp: String = time(name).chars().take(STAMP_LEN).collect();
        (stamp, std::fs::metadata(file).and_then(|about| about.modified()).ok())
    };
    match (run, dirs.pop()) {
        (Some(run), Some(dir))
            if begun(&run.name(), run.config()) > begun(&dir.name(), dir.plan_file()) =>
        {
            Ok(Named::Run(run))
        }
        (_, Some(dir)) => Ok(Named::Comparison(dir)),
        (Some(run), None) => Ok(Named::Run(run)),
        (None, None) => Err(no_runs(out)),
    }
}

fn several(what: &str, first: &RunDir, others: &[&RunDir]) -> Error {
    Error::config(
        format!("{} runs fit \"{what}\": {}", others.len() + 1, names(first, others)),
        "give more of the name; `latest` is the newest run",
    )
}

fn no_runs(out: &Path) -> Error {
    Error::config(
        format!("no runs in {}", out.display()),
        "start one with `fullrank train`, or name the runs' folder with --out",
    )
}

fn not_found(out: &Path, what: &str, runs: &[RunDir]) -> Error {
    let nearness = |run: &RunDir| {
        strsim::jaro_winkler(what, &run.name()).max(strsim::jaro_winkler(what, &run.short_name()))
    };
    let mut nearest: Vec<&RunDir> = runs.iter().filter(|run| nearness(run) >= NEAR).collect();
    nearest.sort_by(|a, b| nearness(b).total_cmp(&nearness(a))); // stable: newest first
    let shown: Vec<String> = nearest.iter().take(MAX_NAMED).map(|run| run.name()).collect();
    let remedy = match shown.as_slice() {
        [] => format!("`fullrank ls` lists all, {} of them", runs.len()),
        [one] => format!("the nearest name is {one}; `fullrank ls` lists all"),
        all => format!("the nearest names are {}; `fullrank ls` lists all", all.join(", ")),
    };
    Error::config(format!("no run \"{what}\" in {}", out.display()), remedy)
}

fn names(first: &RunDir, others: &[&RunDir]) -> String {
    let all = std::iter::once(first).chain(others.iter().copied());
    let mut text = all.take(MAX_NAMED).map(RunDir::name).collect::<Vec<_>>().join(", ");
    if others.len() >= MAX_NAMED {
        text.push_str(", …");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let run = RunDir::at(folder.path().join(name));
            std::fs::create_dir_all(run.path()).unwrap();
            std::fs::write(run.config(), "").unwrap();
        }
        folder
    }

    #[test]
    fn a_run_is_found_by_path_name_and_unique_beginning() {
        let folder =
            runs(&["20261101-000000-austen", "20261102-000000-lora", "20261103-000000-lora-r64"]);
        let out = folder.path();
        let name = |what: &str| find(out, what).unwrap().name();
        assert_eq!(name("20261101-000000-austen"), "20261101-000000-austen");
        assert_eq!(name("20261101-000000-austen/"), "20261101-000000-austen");
        let path = out.join("20261102-000000-lora");
        assert_eq!(name(path.to_str().unwrap()), "20261102-000000-lora");
        assert_eq!(name("lora"), "20261102-000000-lora", "a whole name wins over a beginning");
        assert_eq!(name("lora-"), "20261103-000000-lora-r64");
        assert_eq!(name("20261101"), "20261101-000000-austen");
        assert_eq!(name("r64"), "20261103-000000-lora-r64");
        assert_eq!(name("latest"), "20261103-000000-lora-r64", "the newest, where no file says");
    }

    #[test]
    fn an_ambiguous_name_lists_the_runs_that_fit() {
        let folder = runs(&["20261101-000000-demo", "20261102-000000-demo"]);
        for what in ["demo", "2026", "de"] {
            let error = find(folder.path(), what).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("2 runs fit \"{what}\": 20261102-000000-demo, 20261101-000000-demo")
            );
        }
    }

    #[test]
    fn a_comparison_is_found_as_a_whole_and_its_members_by_their_own_names() {
        let folder = runs(&[
            "20261101-000000-demo",
            "compare-20261102-000000-full-lora/members/full",
            "compare-20261102-000000-full-lora/members/lora",
            "compare-20261103-000000-ranks/members/lora-r8",
            "20261104-000000-ranks",
        ]);
        let out = folder.path();
        let named = |what: &str| {
            find_any(out, what).map_or_else(
                |error| error.to_string(),
                |named| match named {
                    Named::Run(run) => run.name(),
                    Named::Comparison(dir) => format!("all of {}", dir.name()),
                },
            )
        };
        for name in ["full-lora", "ranks"] {
            let dir =
                format!("compare-2026110{}-000000-{name}", if name == "ranks" { 3 } else { 2 });
            std::fs::write(out.join(&dir).join("compare.toml"), "").unwrap();
            let path = out.join(&dir);
            assert_eq!(named(&dir), format!("all of {dir}"));
            assert_eq!(named(path.to_str().unwrap()), format!("all of {dir}"));
        }
        let all = "all of compare-20261102-000000-full-lora";
        assert_eq!(named("full-lora"), all);
        assert_eq!(named("full-l"), all);
        assert_eq!(named("compare-20261102"), all);
        assert_eq!(named("compare-20261103"), "all of compare-20261103-000000-ranks");
        assert_eq!(named("full"), "compare-20261102-000000-full-lora/members/full");
        assert_eq!(named("lora-r"), "compare-20261103-000000-ranks/members/lora-r8");
        assert_eq!(named("demo"), "20261101-000000-demo");
        assert_eq!(named("latest"), "20261104-000000-ranks");
        assert_eq!(
            named("ranks"),
            "2 runs and comparisons fit \"ranks\": compare-20261103-000000-ranks, 20261104-000000-ranks"
        );
        assert!(named("2026").starts_with("2 runs fit \"2026\": 20261104"), "{}", named("2026"));
        assert!(named("nothing").starts_with("no run \"nothing\" in "));
        assert!(named("").starts_with("no run \"\" in "));
    }

    #[test]
    fn the_latest_is_what_was_begun_last_and_a_comparison_as_a_whole() {
        let older = "20261101-000000-demo";
        let members =
            ["full", "lora"].map(|name| format!("compare-20261102-000000-x/members/{name}"));
        let folder = runs(&[older, &members[0], &members[1]]);
        let out = folder.path();
        let plan = out.join("compare-20261102-000000-x").join("compare.toml");
        std::fs::write(&plan, "").unwrap();
        RunDir::at(out.join(older)).make_latest(out).unwrap();
        let named = || match find_any(out, "latest").unwrap() {
            Named::Run(run) => run.name(),
            Named::Comparison(dir) => dir.name(),
        };
        let compared = "compare-20261102-000000-x";
        assert_eq!(named(), compared, "the file names an older run");
        assert_eq!(find(out, "latest").unwrap().name(), older, "a run, where only runs are meant");
        // As `rm` leaves it, when no run alone is left.
        RunDir::at(out.join(&members[0])).make_latest(out).unwrap();
        assert_eq!(named(), compared);
        std::fs::remove_dir_all(out.join(older)).unwrap();
        assert_eq!(named(), compared);
        for newer in ["20261102-000000-a", "20261103-000000-demo"] {
            let run = RunDir::at(out.join(newer));
            std::fs::create_dir_all(run.path()).unwrap();
            std::fs::write(run.config(), "").unwrap();
            let after = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
            let file = std::fs::File::options().write(true).open(run.config()).unwrap();
            file.set_modified(after).unwrap();
            run.make_latest(out).unwrap();
            assert_eq!(named(), newer);
        }
    }

    #[test]
    fn a_wrong_name_gets_the_nearest() {
        let folder = runs(&["20261101-000000-austen", "20261102-000000-lora"]);
        let error = find(folder.path(), "asten").unwrap_err();
        assert!(error.to_string().starts_with("no run \"asten\" in "), "{error}");
        assert!(error.remedy().contains("is 20261101-000000-austen; `"), "{}", error.remedy());
        assert!(find(folder.path(), "").is_err());
        let empty = tempfile::tempdir().unwrap();
        for what in ["latest", "x"] {
            let error = find(empty.path(), what).unwrap_err();
            assert!(error.to_string().starts_with("no runs in "), "{error}");
        }
    }
}
