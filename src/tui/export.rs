//! What is on the screen as files beside the run: a picture of it, and the numbers behind it at full length.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::app::App;
use super::model::RunModel;
use super::page;
use super::views::sheets;
use crate::error::{Error, Result};
use crate::report::svg::png;
use crate::series::{Axis, Table};

/// Size of the picture where nothing says how large the screen is, in cells.
const SIZE: (u16, u16) = (120, 36);
/// Size of the picture of one panel.
const PANEL: (u16, u16) = (96, 28);
/// Columns of the tables, with their names in files.
const STEPS: [(&str, &str); 4] =
    [("loss", "loss"), ("lr", "lr"), ("grad_norm", "grad_norm"), ("tok_s", "tok_s")];
const EVALS: [(&str, &str); 2] = [("loss", "val_loss"), ("ppl", "val_ppl")];

/// Writes the panel in focus as SVG and PNG, and what it shows as CSV and JSON, into `exports/` in the run's folder; with
/// `is_view` the whole view, and every number of the run on the screen. Answers the common part of the files' names.
///
/// Errors: `Error::Run` if no run is open, `Error::Io`.
pub fn write(app: &App, is_view: bool) -> Result<PathBuf> {
    let Some((run, dir)) = app.run().and_then(|run| Some((run, run.dir.as_ref()?))) else {
        return Err(Error::run("no run is open", "open one in the view Runs"));
    };
    let folder = dir.join("exports");
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let step = run.summary.step;
    // The picture is of the view without what lies over it.
    let mut app = app.clone();
    app.overlay = super::app::Overlay::None;
    app.notice = None;
    let (name, drawn, rows, values) = if is_view {
        let name = app.view.title().to_lowercase();
        (name, page::draw(&app, SIZE.0, SIZE.1), csv(run), numbers(run))
    } else {
        app.is_maximised = true;
        let (name, sheet) = sheets::of(&app);
        (name, page::view(&app, PANEL.0, PANEL.1), sheet.csv(), sheet.json())
    };
    let base = folder.join(format!("{name}-{step:08}"));
    let picture = page::svg(&drawn, &app.theme);
    save(&base, "svg", picture.as_bytes())?;
    save(&base, "png", &png(&picture)?)?;
    save(&base, "csv", rows.as_bytes())?;
    save(&base, "json", values.to_string().as_bytes())?;
    Ok(base)
}

fn save(base: &Path, extension: &str, bytes: &[u8]) -> Result<()> {
    let path = base.with_extension(extension);
    std::fs::write(&path, bytes).map_err(Error::io("write", &path))
}

/// One row an update or evaluation; a cell is empty where the row has no such number.
fn csv(run: &RunModel) -> String {
    let names = STEPS.iter().chain(&EVALS).map(|(_, name)| *name).collect::<Vec<_>>().join(",");
    let mut text = format!("step,tokens,active_s,{names}\n");
    let mut rows: Vec<(u64, bool, String)> = Vec::new();
    for (table, columns, is_eval) in
        [(&run.steps, &STEPS[..], false), (&run.evals, &EVALS[..], true)]
    {
        for row in 0..table.len() {
            let Some(moment) = table.clock.moment(row) else { continue };
            let mut line = format!("{},{},{}", moment.step, moment.tokens, moment.active_s);
            if is_eval {
                line.push_str(&",".repeat(STEPS.len()));
            }
            for (column, _) in columns {
                // Writing to a String cannot fail.
                let _ = write!(line, ",{}", at(table, column, row));
            }
            if !is_eval {
                line.push_str(&",".repeat(EVALS.len()));
            }
            rows.push((moment.step, is_eval, line));
        }
    }
    rows.sort_by_key(|(step, is_eval, _)| (*step, *is_eval));
    for (_, _, line) in rows {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn at(table: &Table, column: &str, row: usize) -> f64 {
    table.column(column).and_then(|column| column.values().get(row)).map_or(f64::NAN, |value| {
        // The shortest text of the stored number, not the digits of its double.
        value.to_string().parse().unwrap_or(f64::from(*value))
    })
}

fn numbers(run: &RunModel) -> Value {
    let table = |table: &Table, columns: &[(&str, &str)]| {
        let rows = 0..table.len();
        let mut object = Map::new();
        for axis in [Axis::Step, Axis::Tokens, Axis::Active] {
            let values: Vec<Value> =
                rows.clone().map(|row| table.clock.at(row, axis).into()).collect();
            object.insert(axis.name().replace(' ', "_"), values.into());
        }
        for (column, name) in columns {
            let values: Vec<Value> =
                rows.clone().map(|row| at(table, column, row).into()).collect();
            object.insert((*name).into(), values.into());
        }
        Value::Object(object)
    };
    let what = &run.summary.run;
    json!({
        "name": what.name, "method": what.method, "model": what.model, "seed": what.seed,
        "rank": what.rank, "updates": table(&run.steps, &STEPS), "evaluations": table(&run.evals, &EVALS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;

    #[test]
    fn a_view_is_written_as_picture_and_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let mut app = fixture::app(Theme::default());
        app.runs[0].dir = Some(folder.path().to_path_buf());
        let base = write(&app, true).unwrap();
        let read = |extension: &str| std::fs::read(base.with_extension(extension)).unwrap();
        assert!(String::from_utf8(read("svg")).unwrap().contains("Train"));
        assert!(read("png").starts_with(b"\x89PNG"));
        let csv = String::from_utf8(read("csv")).unwrap();
        let run = &app.runs[0];
        assert_eq!(csv.lines().count(), 1 + run.steps.len() + run.evals.len());
        assert!(csv.lines().all(|line| line.matches(',').count() == 8), "{csv}");
        let json: Value = serde_json::from_slice(&read("json")).unwrap();
        assert_eq!(json["updates"]["loss"].as_array().unwrap().len(), run.steps.len());
        app.runs.clear();
        assert!(write(&app, true).is_err());
    }

    #[test]
    fn a_panel_is_written_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut app = fixture::app(Theme::default());
        app.runs[0].dir = Some(folder.path().to_path_buf());
        app.train.focus = 3;
        let base = write(&app, false).unwrap();
        assert!(base.display().to_string().contains("train-grad_norm-"), "{}", base.display());
        let read = |extension: &str| std::fs::read(base.with_extension(extension)).unwrap();
        let picture = String::from_utf8(read("svg")).unwrap();
        assert!(picture.contains("grad norm") && !picture.contains("tok/s"), "one panel");
        assert!(read("png").starts_with(b"\x89PNG"));
        let csv = String::from_utf8(read("csv")).unwrap();
        assert!(csv.starts_with("run,step,tokens,active_s,grad norm\n"), "{csv}");
        assert_eq!(csv.lines().count(), 1 + app.runs[0].steps.len());
        let json: Value = serde_json::from_slice(&read("json")).unwrap();
        assert_eq!(json[0]["step"], 1);
        assert!(!app.is_maximised, "the screen is as it was");
    }
}
