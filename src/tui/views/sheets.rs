//! What the panel in focus shows, as rows for files.

use serde_json::Value;

use super::{compare, logs, rank, runs, switches, system, train};
use crate::series::Axis;
use crate::tui::action::ViewId;
use crate::tui::app::App;
use crate::tui::model::{Metric, RunModel};
use crate::tui::sheet::Sheet;

/// The name of the panel in focus and what it shows at full length; the rows of a chart are those of its lines.
pub fn of(app: &App) -> (String, Sheet<'_>) {
    let run = app.run();
    let (panel, sheet) = match app.view {
        ViewId::Train => match app.train.focus {
            train::NOW => ("now", run.map(|run| train::now_sheet(app, run))),
            train::EVENTS => ("events", run.map(markers)),
            _ => {
                let metric = app.train.metric();
                let sheet = run.map(|run| series(vec![run], metric)).unwrap_or_default();
                return (format!("train-{}", file_word(metric)), sheet);
            }
        },
        ViewId::Compare if app.compare.focus == compare::TABLE => {
            ("runs", Some(compare::sheet(app)))
        }
        ViewId::Compare => {
            let shown = compare::shown(app);
            let runs: Vec<&RunModel> = shown.iter().map(|place| &app.runs[*place]).collect();
            let metric = app.compare.metric;
            return (format!("compare-{}", file_word(metric)), series(runs, metric));
        }
        ViewId::Switches if app.switches.focus == switches::LANES => ("lanes", run.map(restarts)),
        ViewId::Switches => ("layers", run.map(exchanges)),
        ViewId::Rank if app.rank.focus == rank::SPECTRUM => ("spectra", run.map(spectra)),
        ViewId::Rank => ("ranks", run.map(ranks)),
        ViewId::System => match app.system.focus {
            system::MEMORY => ("memory", run.map(memory)),
            system::TIME => ("time", run.map(|run| system::times_sheet(app, run))),
            system::SPEED => ("speed", run.map(|run| series(vec![run], Metric::TokensPerSecond))),
            _ => ("machine", run.map(machine)),
        },
        ViewId::Logs if app.logs.focus == logs::SAMPLES => ("samples", run.map(samples)),
        ViewId::Logs => ("log", run.map(|run| logs::sheet(app, run))),
        ViewId::Runs => ("list", Some(runs::sheet(app))),
    };
    (format!("{}-{panel}", app.view.title().to_lowercase()), sheet.unwrap_or_default())
}

/// A metric's name as a part of a file's.
fn file_word(metric: Metric) -> String {
    metric.name().replace(['/', ' '], "_")
}

/// A stored number, or null for what JSON has no number for. The shortest text of it, not the digits of its double.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().ok().map_or(Value::Null, Value::from)
}

fn series(runs: Vec<&RunModel>, metric: Metric) -> Sheet<'_> {
    let columns = ["run", "step", "tokens", "active_s", metric.name()];
    Sheet::made(&columns, move |take| {
        for run in &runs {
            let table = run.table(metric);
            let Some(column) = table.column(metric.column()) else { continue };
            let mut cells: [Value; 5] = std::array::from_fn(|_| Value::Null);
            cells[0] = run.name().into();
            for (row, value) in column.values().iter().enumerate() {
                cells[1] = table.clock.step(row).map_or(Value::Null, Value::from);
                cells[2] = table.clock.moment(row).map_or(Value::Null, |at| at.tokens.into());
                cells[3] = table.clock.at(row, Axis::Active).into();
                cells[4] = number(*value);
                take(&cells)?;
            }
        }
        Ok(())
    })
}

fn markers(run: &RunModel) -> Sheet<'_> {
    let mut sheet = Sheet::new(&["step", "ts_ms", "kind", "what"]);
    for marker in &run.markers {
        let kind = format!("{:?}", marker.kind).to_lowercase();
        let at = marker.at;
        sheet.row([at.step.into(), at.ts_ms.into(), kind.into(), marker.text.clone().into()]);
    }
    sheet
}

fn exchanges(run: &RunModel) -> Sheet<'_> {
    Sheet::made(&["layer", "step", "vectors", "wanted", "dw_norm"], |take| {
        let names = &run.summary.run.layers;
        for (place, layer) in run.switches.layers.iter().enumerate() {
            let name = names.get(place).cloned().unwrap_or_else(|| place.to_string());
            for one in layer.entries() {
                let (step, norm) = (one.step.into(), number(one.dw_norm));
                take(&[name.clone().into(), step, one.k.into(), one.wanted.into(), norm])?;
            }
        }
        Ok(())
    })
}

fn restarts(run: &RunModel) -> Sheet<'_> {
    let mut rows: Vec<(u64, [Value; 3])> = Vec::new();
    for one in run.switches.together.entries() {
        rows.push((one.step, ["switch".into(), one.k.into(), Value::Null]));
    }
    for one in &run.merges {
        rows.push((one.at.step, ["merge".into(), one.what.count.into(), Value::Null]));
    }
    for one in &run.resets {
        let mode = one.what.mode.clone().into();
        rows.push((one.at.step, ["reset".into(), one.what.count.into(), mode]));
    }
    for one in &run.subspaces {
        let layer = one.what.layer.clone().into();
        rows.push((one.at.step, ["subspace".into(), one.what.rank.into(), layer]));
    }
    rows.sort_by_key(|(step, _)| *step);
    let mut sheet = Sheet::new(&["step", "kind", "count", "detail"]);
    for (step, [kind, count, detail]) in rows {
        sheet.row([step.into(), kind, count, detail]);
    }
    sheet
}

/// Columns of measured ranks.
const RANKS: [&str; 9] =
    ["step", "layer", "matrix", "full", "effective", "stable", "numerical", "energy99", "norm"];

fn ranks(run: &RunModel) -> Sheet<'_> {
    Sheet::made(&RANKS, |take| {
        for rank in &run.ranks {
            let what = &rank.what;
            take(&[
                rank.at.step.into(),
                what.layer.clone().into(),
                what.matrix.clone().into(),
                what.full.into(),
                what.effective.into(),
                what.stable.into(),
                what.numerical.into(),
                what.energy99.into(),
                what.norm.into(),
            ])?;
        }
        Ok(())
    })
}

fn spectra(run: &RunModel) -> Sheet<'_> {
    Sheet::made(&["step", "layer", "matrix", "place", "sigma"], |take| {
        for rank in &run.ranks {
            let (step, what) = (rank.at.step, &rank.what);
            for (place, value) in &what.sigma {
                let (layer, matrix) = (what.layer.clone().into(), what.matrix.clone().into());
                take(&[step.into(), layer, matrix, (*place).into(), (*value).into()])?;
            }
        }
        Ok(())
    })
}

fn memory(run: &RunModel) -> Sheet<'_> {
    let mut sheet = Sheet::new(&["category", "bytes"]);
    for (name, bytes) in run.memory.iter().flat_map(|memory| &memory.bytes) {
        sheet.row([name.clone().into(), (*bytes).into()]);
    }
    sheet
}

fn machine(run: &RunModel) -> Sheet<'_> {
    let mut sheet = Sheet::new(&[
        "step",
        "ts_ms",
        "rss_bytes",
        "cpu_cores",
        "disk_free_bytes",
        "battery_percent",
    ]);
    for machine in &run.machine {
        let what = &machine.what;
        sheet.row([
            machine.at.step.into(),
            machine.at.ts_ms.into(),
            what.rss_bytes.into(),
            what.cpu_cores.into(),
            what.disk_free_bytes.into(),
            what.battery_percent.into(),
        ]);
    }
    sheet
}

fn samples(run: &RunModel) -> Sheet<'_> {
    let mut sheet = Sheet::new(&["step", "prompt", "text"]);
    for sample in &run.samples {
        let (prompt, text) = (sample.what.prompt.clone(), sample.what.text.clone());
        sheet.row([sample.at.step.into(), prompt.into(), text.into()]);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;
    use std::collections::HashSet;

    fn rows(sheet: &Sheet<'_>) -> Vec<Vec<Value>> {
        let mut rows = Vec::new();
        let all = sheet.each(&mut |row| {
            rows.push(row.to_vec());
            Ok(())
        });
        all.unwrap();
        rows
    }

    #[test]
    fn every_panel_of_every_view_has_rows_of_its_own() {
        let mut app = fixture::app(Theme::default());
        let mut names = HashSet::new();
        for view in ViewId::ALL {
            app.view = view;
            for panel in 0..8 {
                *super::super::focus(&mut app) = panel;
                let (name, sheet) = of(&app);
                let rows = rows(&sheet);
                assert!(!rows.is_empty(), "{name} is empty");
                assert!(rows.iter().all(|row| row.len() == sheet.columns.len()), "{name}");
                names.insert(name);
            }
        }
        for name in [
            "train-loss",
            "train-lr",
            "train-now",
            "train-events",
            "compare-val_loss",
            "compare-runs",
            "switches-layers",
            "switches-lanes",
            "rank-ranks",
            "rank-spectra",
            "system-memory",
            "system-time",
            "system-speed",
            "system-machine",
            "logs-log",
            "logs-samples",
            "runs-list",
        ] {
            assert!(names.contains(name), "{name} of {names:?}");
        }
    }

    #[test]
    fn a_chart_of_several_runs_has_the_rows_of_each() {
        let mut app = fixture::app(Theme::default());
        app.view = ViewId::Compare;
        let (name, sheet) = of(&app);
        assert_eq!(
            (name.as_str(), sheet.columns.join(" ")),
            ("compare-val_loss", "run step tokens active_s val/loss".into())
        );
        let wanted: usize = app.runs.iter().map(|run| run.evals.len()).sum();
        assert_eq!(rows(&sheet).len(), wanted);
        drop(sheet);
        app.compare.hidden.insert(0);
        assert_eq!(rows(&of(&app).1).len(), wanted - app.runs[0].evals.len());
    }
}
