//! What is on the screen as files beside the run: a picture of it, and the numbers behind it at full length. Numbers
//! are written as they are read from the tables: this runs beside a training that may need all memory.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::app::App;
use super::model::RunModel;
use super::page;
use super::views::sheets;
use crate::error::{Error, Result};
use crate::report::svg::png;
use crate::series::{Axis, Column, Table};

/// Size of the picture where nothing says how large the screen is, in cells.
const SIZE: (u16, u16) = (120, 36);
/// Size of the picture of one panel.
const PANEL: (u16, u16) = (96, 28);
/// Columns of the tables, with their names in files.
const STEPS: [(&str, &str); 4] =
    [("loss", "loss"), ("lr", "lr"), ("grad_norm", "grad_norm"), ("tok_s", "tok_s")];
const EVALS: [(&str, &str); 2] = [("loss", "val_loss"), ("ppl", "val_ppl")];

/// Writes the panel in focus as SVG and PNG, and what it shows as CSV and JSON, into `exports/` in the run's folder; with
/// `is_view` the whole view, and every number of the run on the screen. Answers the common part of the files' names. The
/// screen is afterwards as it was.
///
/// Errors: `Error::Run` if no run is open, `Error::Io`.
pub fn write(app: &mut App, is_view: bool) -> Result<PathBuf> {
    // The picture is of the view without what lies over it. The app is not copied for it: it holds every row of its runs.
    let overlay = std::mem::take(&mut app.overlay);
    let notice = app.notice.take();
    let was_maximised = app.is_maximised;
    app.is_maximised |= !is_view;
    let written = files(app, is_view);
    (app.overlay, app.notice, app.is_maximised) = (overlay, notice, was_maximised);
    written
}

fn files(app: &App, is_view: bool) -> Result<PathBuf> {
    let Some((run, dir)) = app.run().and_then(|run| Some((run, run.dir.as_ref()?))) else {
        return Err(Error::run("no run is open", "open one in the view Runs"));
    };
    let folder = dir.join("exports");
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let (panel, sheet) = sheets::of(app);
    let (name, drawn) = if is_view {
        (app.view.title().to_lowercase(), page::draw(app, SIZE.0, SIZE.1))
    } else {
        (panel, page::view(app, PANEL.0, PANEL.1))
    };
    let base = folder.join(format!("{name}-{:08}", run.summary.step));
    let picture = page::svg(&drawn, &app.theme);
    let pixels = png(&picture)?;
    save(&base, "svg", |out| out.write_all(picture.as_bytes()))?;
    save(&base, "png", |out| out.write_all(&pixels))?;
    save(&base, "csv", |out| if is_view { csv(run, out) } else { sheet.write_csv(out) })?;
    save(&base, "json", |out| if is_view { json(run, out) } else { sheet.write_json(out) })?;
    Ok(base)
}

fn save(
    base: &Path,
    extension: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let path = base.with_extension(extension);
    let done = File::create(&path).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush()
    });
    done.map_err(Error::io("write", &path))
}

/// One row an update or evaluation, by updates; a cell is empty where the row has no such number.
fn csv(run: &RunModel, out: &mut impl Write) -> io::Result<()> {
    let names = STEPS.iter().chain(&EVALS).map(|(_, name)| *name).collect::<Vec<_>>().join(",");
    writeln!(out, "step,tokens,active_s,{names}")?;
    let (of_steps, of_evals) = (columns(&run.steps, &STEPS), columns(&run.evals, &EVALS));
    let (mut step, mut eval) = (0, 0);
    loop {
        let (update, measured) = (run.steps.clock.moment(step), run.evals.clock.moment(eval));
        let is_eval = match (update, measured) {
            (Some(update), Some(measured)) => measured.step < update.step,
            (None, None) => return Ok(()),
            (update, _) => update.is_none(),
        };
        let Some(moment) = (if is_eval { measured } else { update }) else { return Ok(()) };
        write!(out, "{},{},{}", moment.step, moment.tokens, moment.active_s)?;
        let row = if is_eval { eval } else { step };
        for (columns, is_here) in [(&of_steps, !is_eval), (&of_evals, is_eval)] {
            for column in columns {
                out.write_all(b",")?;
                if is_here {
                    write!(out, "{}", at(*column, row))?;
                }
            }
        }
        out.write_all(b"\n")?;
        if is_eval {
            eval += 1;
        } else {
            step += 1;
        }
    }
}

fn columns<'a>(table: &'a Table, names: &[(&str, &str)]) -> Vec<Option<&'a Column>> {
    names.iter().map(|(name, _)| table.column(name)).collect()
}

fn at(column: Option<&Column>, row: usize) -> f64 {
    column.and_then(|column| column.values().get(row)).map_or(f64::NAN, |value| {
        // The shortest text of the stored number, not the digits of its double.
        value.to_string().parse().unwrap_or(f64::from(*value))
    })
}

/// The run's facts, and its tables column by column.
fn json(run: &RunModel, out: &mut impl Write) -> io::Result<()> {
    let what = &run.summary.run;
    let numbers = Numbers {
        name: &what.name,
        method: &what.method,
        model: &what.model,
        seed: what.seed,
        rank: what.rank,
        updates: Columns(&run.steps, &STEPS),
        evaluations: Columns(&run.evals, &EVALS),
    };
    Ok(serde_json::to_writer(out, &numbers)?)
}

#[derive(Serialize)]
struct Numbers<'a> {
    name: &'a str,
    method: &'a str,
    model: &'a str,
    seed: u64,
    rank: Option<u64>,
    updates: Columns<'a>,
    evaluations: Columns<'a>,
}

/// A table as an object of arrays, written number by number.
struct Columns<'a>(&'a Table, &'a [(&'a str, &'a str)]);

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self(table, names) = self;
        let rows = table.len();
        let mut object = serializer.serialize_map(None)?;
        for axis in [Axis::Step, Axis::Tokens, Axis::Active] {
            let values = Values(rows, |row| table.clock.at(row, axis));
            object.serialize_entry(&axis.name().replace(' ', "_"), &values)?;
        }
        for (column, name) in *names {
            let column = table.column(column);
            object.serialize_entry(name, &Values(rows, |row| at(column, row)))?;
        }
        object.end()
    }
}

/// As many numbers, each made when it is written; null for what JSON has no number for.
struct Values<F: Fn(usize) -> f64>(usize, F);

impl<F: Fn(usize) -> f64> Serialize for Values<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.0).map(&self.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;
    use serde_json::Value;

    #[test]
    fn a_view_is_written_as_picture_and_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let mut app = fixture::app(Theme::default());
        app.runs[0].dir = Some(folder.path().to_path_buf());
        let base = write(&mut app, true).unwrap();
        let read = |extension: &str| std::fs::read(base.with_extension(extension)).unwrap();
        assert!(String::from_utf8(read("svg")).unwrap().contains("Train"));
        assert!(read("png").starts_with(b"\x89PNG"));
        let csv = String::from_utf8(read("csv")).unwrap();
        let run = &app.runs[0];
        assert_eq!(csv.lines().count(), 1 + run.steps.len() + run.evals.len());
        assert!(csv.lines().all(|line| line.matches(',').count() == 8), "{csv}");
        let json: Value = serde_json::from_slice(&read("json")).unwrap();
        assert_eq!(json["updates"]["loss"].as_array().unwrap().len(), run.steps.len());
        assert_eq!(json["evaluations"]["step"].as_array().unwrap().len(), run.evals.len());
        let steps: Vec<u64> = csv
            .lines()
            .skip(1)
            .map(|line| line.split(',').next().unwrap().parse().unwrap())
            .collect();
        assert!(steps.is_sorted(), "updates and evaluations in their order");
        let line = |row: usize| csv.lines().nth(row + 1).unwrap().to_owned();
        let loss = |table: &Table, row: usize| table.column("loss").unwrap().values()[row];
        let first = line(steps.iter().position(|step| *step == 1).unwrap());
        assert!(first.contains(&format!(",{},", loss(&run.steps, 0))) && first.ends_with(",,"));
        let last = run.evals.len() - 1;
        let at = run.evals.clock.moment(last).unwrap().step;
        let measured = line(steps.iter().rposition(|step| *step == at).unwrap());
        assert!(measured.contains(&format!(",,,,,{}", loss(&run.evals, last))), "{measured}");
        app.runs.clear();
        assert!(write(&mut app, true).is_err());
    }

    #[test]
    fn a_panel_is_written_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut app = fixture::app(Theme::default());
        app.runs[0].dir = Some(folder.path().to_path_buf());
        app.train.focus = 3;
        let base = write(&mut app, false).unwrap();
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
        app.say("sent");
        app.overlay = crate::tui::app::Overlay::Confirm("sure?".into(), Vec::new());
        let (overlay, notice) = (app.overlay.clone(), app.notice.clone());
        write(&mut app, true).unwrap();
        assert!((app.overlay, app.notice) == (overlay, notice));
    }
}
