//! `fullrank ls`: the runs, newest first.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::text::{self, ABSENT, Table};
use crate::error::{Error, Result};
use crate::runlog::event::now_ms;
use crate::runlog::summary::RunState;
use crate::runlog::{RunDir, list};

/// Prints the runs under `out` as a table, or with `is_json` as a list of records.
///
/// A run that cannot be read is shown as such and does not hide the others.
///
/// Errors: `Error::Io` if the folder cannot be listed or the output refuses.
pub fn ls(out: &Path, is_json: bool, stdout: &mut dyn Write) -> Result<()> {
    ls_at(now_ms(), out, is_json, stdout)
}

fn ls_at(now: i64, out: &Path, is_json: bool, stdout: &mut dyn Write) -> Result<()> {
    let runs: Vec<(RunDir, Result<RunState>)> = list(out)?
        .into_iter()
        .map(|run| {
            let state = RunState::of(&run);
            (run, state)
        })
        .collect();
    if is_json {
        let records: Vec<serde_json::Value> =
            runs.iter().map(|(run, state)| record(run, state)).collect();
        return text::print_json(stdout, &records);
    }
    if runs.is_empty() {
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
    for (run, state) in &runs {
        table.row(&match state {
            Ok(state) => row(state, now),
            Err(_) => vec![run.name(), "unreadable".into()],
        });
    }
    text::print(stdout, &table.render(0))
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
    use super::super::test_runs;
    use super::*;

    fn text(out: &Path, is_json: bool) -> String {
        let mut stdout = Vec::new();
        ls_at(test_runs::END + 120_000, out, is_json, &mut stdout).unwrap();
        String::from_utf8(stdout).unwrap()
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
