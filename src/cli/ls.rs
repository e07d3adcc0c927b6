//! `fullrank ls`: runs and comparisons, newest first.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::screen;
use super::text::{self, ABSENT, Table};
use crate::error::{Error, Result};
use crate::runlog::event::now_ms;
use crate::runlog::summary::RunState;
use crate::runlog::{CompareDir, RunDir, Status, compare, index, list};

/// Prints the runs under `out` as a table, or with `is_json` as a list of records.
///
/// A run that cannot be read is shown as such and does not hide the others. On a terminal, columns that do not fit it
/// are left out.
///
/// Errors: `Error::Io` if the folder cannot be listed or the output refuses.
pub fn ls(out: &Path, is_json: bool, stdout: &mut dyn Write) -> Result<()> {
    ls_at(now_ms(), out, is_json, screen::width(), stdout)
}

/// What to leave out on a narrow terminal, first to last.
const DISPENSABLE: [&str; 5] = ["model", "tokens/s", "method", "val ppl", "age"];

fn ls_at(
    now: i64,
    out: &Path,
    is_json: bool,
    width: Option<usize>,
    stdout: &mut dyn Write,
) -> Result<()> {
    if is_json {
        let runs = list(out)?;
        let records: Vec<serde_json::Value> =
            runs.iter().map(|run| record(run, &RunState::of(run))).collect();
        return text::print_json(stdout, &records);
    }
    let listed = listed(out)?;
    if listed.is_empty() {
        let place = out.display();
        return text::print(
            stdout,
            &format!("no runs in {place}; start one with `fullrank train`\n"),
        );
    }
    let mut table = Table::new(&[
        "name",
        "status",
        "method",
        "model",
        ">step",
        ">loss",
        ">val ppl",
        ">tokens/s",
        ">age",
    ]);
    for (dir, runs) in &listed {
        let states: Vec<Result<RunState>> = runs.iter().map(RunState::of).collect();
        if let Some(dir) = dir {
            table.row(&comparison(dir, &states));
        }
        for (run, state) in runs.iter().zip(&states) {
            table.row(&match state {
                Ok(state) => row(state, now),
                Err(_) => vec![run.name(), "unreadable".into()],
            });
        }
    }
    if let Some(width) = width {
        table.fit(width, &DISPENSABLE);
    }
    text::print(stdout, &table.render(0))
}

/// A comparison with the members that were begun, or a run alone.
type Listed = (Option<CompareDir>, Vec<RunDir>);

/// Newest first; members stay with their comparison, in the order of its plan.
fn listed(out: &Path) -> Result<Vec<Listed>> {
    let dirs = compare::list(out)?;
    let is_member = |run: &RunDir| dirs.iter().any(|dir| run.path().starts_with(dir.path()));
    let alone = list(out)?.into_iter().filter(|run| !is_member(run));
    let mut all: Vec<(String, Listed)> =
        alone.map(|run| (index::time(&run.name()).to_owned(), (None, vec![run]))).collect();
    for dir in dirs {
        let runs = dir.runs()?;
        all.push((index::time(&dir.name()).to_owned(), (Some(dir), runs)));
    }
    all.sort_by(|a, b| b.0.cmp(&a.0));
    Ok(all.into_iter().map(|(_, listed)| listed).collect())
}

/// How a comparison stands: its members tell the rest.
fn comparison(dir: &CompareDir, states: &[Result<RunState>]) -> Vec<String> {
    let (Ok(plan), Ok(is_locked)) = (dir.plan(), dir.is_locked()) else {
        return vec![dir.name(), "unreadable".into()];
    };
    let is_finished =
        |state: &&Result<RunState>| matches!(state, Ok(state) if state.status == Status::Finished);
    let (finished, all) = (states.iter().filter(is_finished).count(), plan.members.len());
    let status = match (is_locked, finished == all) {
        (true, _) => "live".into(),
        (false, true) => "finished".into(),
        (false, false) => format!("{finished} of {all} finished"),
    };
    vec![dir.name(), status, format!("{all} {}", if all == 1 { "run" } else { "runs" })]
}

fn row(state: &RunState, now: i64) -> Vec<String> {
    let summary = &state.summary;
    let word = |text: &str| if text.is_empty() { ABSENT.into() } else { text.to_string() };
    let steps = match summary.run.steps {
        0 => text::count(summary.step),
        steps => format!("{}/{}", text::count(summary.step), text::count(steps)),
    };
    vec![
        state.run.name(),
        state.status.to_string(),
        word(&summary.run.method),
        word(&summary.run.model),
        steps,
        text::or_absent(summary.smooth.value(), text::loss),
        text::or_absent(summary.last_eval(), |eval| text::ppl(eval.ppl)),
        text::or_absent(summary.tok_s(), text::rate),
        text::or_absent(summary.updated, |updated| text::age(now.saturating_sub(updated))),
    ]
}

fn record(run: &RunDir, state: &Result<RunState>) -> serde_json::Value {
    let record = match state {
        Ok(state) => serde_json::to_value(state.record()).map_err(|error| error.to_string()),
        Err(error) => Err(Error::to_string(error)),
    };
    record.unwrap_or_else(|error| {
        json!({"name": run.name(), "path": run.path(), "status": "unreadable", "error": error})
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::test_runs;
    use super::*;
    use crate::runlog::compare::{Member, Plan};

    fn text(out: &Path, is_json: bool) -> String {
        let mut stdout = Vec::new();
        ls_at(test_runs::END + 120_000, out, is_json, None, &mut stdout).unwrap();
        String::from_utf8(stdout).unwrap()
    }

    #[test]
    fn a_narrow_terminal_has_fewer_columns() {
        let folder = tempfile::tempdir().unwrap();
        test_runs::finished(folder.path(), "20261121-180011-demo");
        let at = |width| {
            let mut stdout = Vec::new();
            let now = test_runs::END + 120_000;
            ls_at(now, folder.path(), false, Some(width), &mut stdout).unwrap();
            String::from_utf8(stdout).unwrap()
        };
        assert_eq!(at(200), text(folder.path(), false));
        assert_eq!(
            at(75),
            "\
name                  status    method       step    loss  val ppl    age
20261121-180011-demo  finished  switchlora  30/30  4.9097    81.45  2 min
"
        );
        assert!(at(20).starts_with("name                  status     step    loss\n"));
    }

    #[test]
    fn the_table_shows_the_newest_run_first() {
        let folder = tempfile::tempdir().unwrap();
        test_runs::finished(folder.path(), "20261121-180011-demo");
        let live = test_runs::crashed(folder.path(), "20261121-190000-lora");
        let _lock = live.lock().unwrap();
        let empty = RunDir::at(folder.path().join("20261101-000000-empty"));
        std::fs::create_dir(empty.path()).unwrap();
        std::fs::write(empty.config(), "").unwrap();
        assert_eq!(
            text(folder.path(), false),
            "\
name                   status    method      model      step    loss  val ppl  tokens/s    age
20261121-190000-lora   live      lora        demo   10/1,000  4.9711   221.41     1,024  2 min
20261121-180011-demo   finished  switchlora  demo      30/30  4.9097    81.45     1,024  2 min
20261101-000000-empty  crashed   -           -             0       -        -         -      -
"
        );
    }

    #[test]
    fn a_comparison_stands_above_its_members_in_the_order_of_the_plan() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        test_runs::finished(out, "20261121-180011-demo");
        let member = |name: &str| Member {
            name: name.into(),
            group: name.into(),
            seed: 0,
            settings: BTreeMap::default(),
        };
        let members = ["switchlora", "full", "lora"].map(member).to_vec();
        let plan = toml::to_string(&Plan::new("full".into(), toml::Table::new(), members)).unwrap();
        let dir = CompareDir::at(out.join("compare-20261122-070000-x"));
        std::fs::create_dir_all(dir.members()).unwrap();
        std::fs::write(dir.plan_file(), plan).unwrap();
        assert!(text(out, false).contains("\ncompare-20261122-070000-x  0 of 3 finished  3 runs"));
        for name in ["full", "switchlora"] {
            test_runs::finished(&dir.members(), name);
        }
        std::fs::create_dir(out.join("compare-20261101-000000-bad")).unwrap();
        std::fs::write(out.join("compare-20261101-000000-bad/compare.toml"), "x").unwrap();
        assert_eq!(
            text(out, false),
            "\
name                                          status           method      model   step    loss  val ppl  tokens/s    age
compare-20261122-070000-x                     2 of 3 finished  3 runs
compare-20261122-070000-x/members/switchlora  finished         switchlora  demo   30/30  4.9097    81.45     1,024  2 min
compare-20261122-070000-x/members/full        finished         switchlora  demo   30/30  4.9097    81.45     1,024  2 min
20261121-180011-demo                          finished         switchlora  demo   30/30  4.9097    81.45     1,024  2 min
compare-20261101-000000-bad                   unreadable
"
        );
        let _lock = dir.lock().unwrap();
        assert!(text(out, false).contains("\ncompare-20261122-070000-x                     live "));
    }

    #[test]
    fn json_has_a_record_for_each_run() {
        let folder = tempfile::tempdir().unwrap();
        test_runs::finished(folder.path(), "20261121-180011-demo");
        let records: serde_json::Value = serde_json::from_str(&text(folder.path(), true)).unwrap();
        assert_eq!(records[0]["status"], "finished");
        assert_eq!(records[0]["step"], 30);
        assert_eq!(records[0]["best"]["step"], 30);
        assert_eq!(records[0]["name"], "20261121-180011-demo");
    }

    #[test]
    fn no_runs_is_said_and_in_json_an_empty_list() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("runs");
        assert!(text(&out, false).starts_with("no runs in "));
        assert_eq!(text(&out, true), "[]\n");
    }
}
