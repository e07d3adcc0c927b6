//! What the panel in focus shows, as rows for files.

use serde_json::Value;

use super::{compare, logs, rank, runs, switches, system, train};
use crate::series::Axis;
use crate::tui::action::ViewId;
use crate::tui::app::App;
use crate::tui::model::{Metric, RunModel};
use crate::tui::sheet::Sheet;

/// The name of the panel in focus and what it shows at full length; the rows of a chart are those of its lines.
pub fn of(app: &App) -> (String, Sheet) {
    let run = app.run();
    let of_run = |sheet: &dyn Fn(&RunModel) -> Sheet| run.map_or_else(Sheet::default, sheet);
    let (panel, sheet) = match app.view {
        ViewId::Train => match app.train.focus {
            train::NOW => ("now", of_run(&|run| train::now_sheet(app, run))),
            train::EVENTS => ("events", of_run(&markers)),
            _ => {
                let metric = app.train.metric();
                let sheet = of_run(&|run| series(&[run], metric));
                return (format!("train-{}", file_word(metric)), sheet);
            }
        },
        ViewId::Compare if app.compare.focus == compare::TABLE => ("runs", compare::sheet(app)),
        ViewId::Compare => {
            let shown = compare::shown(app);
            let runs: Vec<&RunModel> = shown.iter().map(|place| &app.runs[*place]).collect();
            let metric = app.compare.metric;
            return (format!("compare-{}", file_word(metric)), series(&runs, metric));
        }
        ViewId::Switches if app.switches.focus == switches::LANES => ("lanes", of_run(&restarts)),
        ViewId::Switches => ("layers", of_run(&exchanges)),
        ViewId::Rank if app.rank.focus == rank::SPECTRUM => ("spectra", of_run(&spectra)),
        ViewId::Rank => ("ranks", of_run(&ranks)),
        ViewId::System => match app.system.focus {
            system::MEMORY => ("memory", of_run(&memory)),
            system::TIME => ("time", of_run(&|run| system::times_sheet(app, run))),
            system::SPEED => ("speed", of_run(&|run| series(&[run], Metric::TokensPerSecond))),
            _ => ("machine", of_run(&machine)),
        },
        ViewId::Logs if app.logs.focus == logs::SAMPLES => ("samples", of_run(&samples)),
        ViewId::Logs => ("log", of_run(&|run| logs::sheet(app, run))),
        ViewId::Runs => ("list", runs::sheet(app)),
    };
    (format!("{}-{panel}", app.view.title().to_lowercase()), sheet)
}

/// A metric's name as a part of a file's.
fn file_word(metric: Metric) -> String {
    metric.name().replace(['/', ' '], "_")
}

/// A stored number, or null for what JSON has no number for. The shortest text of it, not the digits of its double.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().ok().map_or(Value::Null, Value::from)
}

fn series(runs: &[&RunModel], metric: Metric) -> Sheet {
    let name = metric.name();
    let mut sheet = Sheet::new(&["run", "step", "tokens", "active_s", name]);
    for run in runs {
        let table = run.table(metric);
        let Some(column) = table.column(metric.column()) else { continue };
        for (row, value) in column.values().iter().enumerate() {
            let at = |axis| Value::from(table.clock.at(row, axis));
            let step = table.clock.step(row).map_or(Value::Null, Value::from);
            let tokens = table.clock.moment(row).map_or(Value::Null, |at| at.tokens.into());
            sheet.row([run.name().into(), step, tokens, at(Axis::Active), number(*value)]);
        }
    }
    sheet
}

fn markers(run: &RunModel) -> Sheet {
    let mut sheet = Sheet::new(&["step", "ts_ms", "kind", "what"]);
    for marker in &run.markers {
        let kind = format!("{:?}", marker.kind).to_lowercase();
        let at = marker.at;
        sheet.row([at.step.into(), at.ts_ms.into(), kind.into(), marker.text.clone().into()]);
    }
    sheet
}

fn exchanges(run: &RunModel) -> Sheet {
    let mut sheet = Sheet::new(&["layer", "step", "vectors", "wanted", "dw_norm"]);
    let names = &run.summary.run.layers;
    for (place, layer) in run.switches.layers.iter().enumerate() {
        let name = names.get(place).cloned().unwrap_or_else(|| place.to_string());
        for one in layer.entries() {
            let norm = number(one.dw_norm);
            sheet.row([
                name.clone().into(),
                one.step.into(),
                one.k.into(),
                one.wanted.into(),
                norm,
            ]);
        }
    }
    sheet
}

fn restarts(run: &RunModel) -> Sheet {
    let mut sheet = Sheet::new(&["step", "kind", "count", "detail"]);
    for one in run.switches.together.entries() {
        sheet.row([one.step.into(), "switch".into(), one.k.into(), Value::Null]);
    }
    for one in &run.merges {
        sheet.row([one.at.step.into(), "merge".into(), one.what.count.into(), Value::Null]);
    }
    for one in &run.resets {
        let mode = one.what.mode.clone().into();
        sheet.row([one.at.step.into(), "reset".into(), one.what.count.into(), mode]);
    }
    for one in &run.subspaces {
        let layer = one.what.layer.clone().into();
        sheet.row([one.at.step.into(), "subspace".into(), one.what.rank.into(), layer]);
    }
    sheet.rows.sort_by_key(|row| row[0].as_u64());
    sheet
}

fn ranks(run: &RunModel) -> Sheet {
    let mut sheet = Sheet::new(&[
        "step",
        "layer",
        "matrix",
        "full",
        "effective",
        "stable",
        "numerical",
        "energy99",
        "norm",
    ]);
    for rank in &run.ranks {
        let what = &rank.what;
        sheet.row([
            rank.at.step.into(),
            what.layer.clone().into(),
            what.matrix.clone().into(),
            what.full.into(),
            what.effective.into(),
            what.stable.into(),
            what.numerical.into(),
            what.energy99.into(),
            what.norm.into(),
        ]);
    }
    sheet
}

fn spectra(run: &RunModel) -> Sheet {
    let mut sheet = Sheet::new(&["step", "layer", "matrix", "place", "sigma"]);
    for rank in &run.ranks {
        for (place, value) in &rank.what.sigma {
            let (layer, matrix) = (rank.what.layer.clone(), rank.what.matrix.clone());
            sheet.row([
                rank.at.step.into(),
                layer.into(),
                matrix.into(),
                (*place).into(),
                (*value).into(),
            ]);
        }
    }
    sheet
}

fn memory(run: &RunModel) -> Sheet {
    let mut sheet = Sheet::new(&["category", "bytes"]);
    for (name, bytes) in run.memory.iter().flat_map(|memory| &memory.bytes) {
        sheet.row([name.clone().into(), (*bytes).into()]);
    }
    sheet
}

fn machine(run: &RunModel) -> Sheet {
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

fn samples(run: &RunModel) -> Sheet {
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

    #[test]
    fn every_panel_of_every_view_has_rows_of_its_own() {
        let mut app = fixture::app(Theme::default());
        let mut names = HashSet::new();
        for view in ViewId::ALL {
            app.view = view;
            for panel in 0..8 {
                *super::super::focus(&mut app) = panel;
                let (name, sheet) = of(&app);
                let width = sheet.columns.len();
                assert!(!sheet.rows.is_empty(), "{name} is empty");
                assert!(sheet.rows.iter().all(|row| row.len() == width), "{name}");
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
        assert_eq!(sheet.rows.len(), wanted);
        app.compare.hidden.insert(0);
        assert_eq!(of(&app).1.rows.len(), wanted - app.runs[0].evals.len());
    }
}
