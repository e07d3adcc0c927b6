//! The spectrum of a layer, its rank over time, and all runs at equal tokens.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::measured::{Grid, matrix_name, steps};
use super::{METHODS, SPECTRUM, TIME, matrix};
use crate::runlog::Rank;
use crate::series::Axis;
use crate::tui::app::App;
use crate::tui::model::{At, RunModel};
use crate::tui::plot::axis::grown;
use crate::tui::plot::{AxisRange, Chart, Line, bars};
use crate::tui::views::Hits;
use crate::tui::views::frame::{frame, layer_name, letter, put, short, thousands, title};

/// Singular values below this part of the largest are not drawn.
const SMALLEST: f64 = 1e-6;

/// The layer under the cursor, if it was measured.
fn chosen<'a>(app: &App, grid: &Grid<'a>) -> Option<&'a At<Rank>> {
    let (row, column) = super::cell(app, grid);
    grid.get(row, column)
}

/// The newest measurement of a layer's matrix up to an update.
fn measured<'a>(run: &'a RunModel, layer: &str, matrix: &str, until: u64) -> Option<&'a At<Rank>> {
    let mut newest_first = run.ranks.iter().rev();
    newest_first.find(|rank| {
        rank.at.step <= until && rank.what.matrix == matrix && rank.what.layer == layer
    })
}

/// Singular values by their place from 1, over the largest.
fn spectrum_of(rank: &Rank) -> Vec<(f64, f64)> {
    let largest = rank.sigma.iter().map(|pair| pair.1).fold(0.0, f64::max);
    if largest <= 0.0 {
        return Vec::new();
    }
    let points = rank.sigma.iter().map(|(place, value)| (*place as f64 + 1.0, value / largest));
    points.filter(|point| point.1 >= SMALLEST).collect()
}

/// Draws the singular values of the layer under the cursor, now and earlier.
pub(super) fn spectrum(
    app: &App,
    run: &RunModel,
    grid: &Grid,
    at: u64,
    area: Rect,
    buffer: &mut Buffer,
) {
    let theme = &app.theme;
    let Some(now) = chosen(app, grid) else {
        let inner = frame("spectrum", "", app.rank.focus == SPECTRUM, theme, area, buffer);
        put("this layer was not measured", theme.dim, theme, inner, buffer);
        return;
    };
    let first = steps(run, matrix(app)).first().copied().unwrap_or(at);
    let before = app.rank.earlier.unwrap_or(first);
    let earlier = measured(run, &now.what.layer, matrix(app), before)
        .filter(|old| old.at.step != now.at.step);
    let (new, old) =
        (spectrum_of(&now.what), earlier.map(|old| spectrum_of(&old.what)).unwrap_or_default());
    let values = new.iter().chain(&old).map(|point| point.1);
    let y = AxisRange::around(values, true).unwrap_or_else(|| AxisRange::new(1e-3, 1.0, true));
    let x = AxisRange::new(1.0, now.what.full.max(2) as f64, app.axes.log_x);
    let mut chart = Chart::new(theme, x, y);
    let name = layer_name(&now.what.layer);
    chart.title = title(&format!("spectrum {name}  σ/σ1 of {}", matrix_name(matrix(app))));
    let note = match earlier {
        Some(old) => {
            format!("update {} and, dotted, {}", thousands(now.at.step), thousands(old.at.step))
        }
        None => format!("update {}", thousands(now.at.step)),
    };
    chart.note = note.into();
    chart.is_focused = app.rank.focus == SPECTRUM;
    let line = |points, dots| Line {
        points,
        style: if dots { theme.dim } else { theme.series(app.active) },
        letter: None,
        is_dim: dots,
        dots,
    };
    if !old.is_empty() {
        chart.lines.push(line(&old, true));
    }
    chart.lines.push(line(&new, false));
    chart.draw(area, buffer);
}

/// Draws the rank of the layer under the cursor over time, of all open runs.
pub(super) fn over_time(app: &App, grid: &Grid, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    let Some(now) = chosen(app, grid) else {
        frame("rank over time", "", app.rank.focus == TIME, theme, area, buffer);
        return;
    };
    let (layer, matrix, measure, axis) =
        (&now.what.layer, matrix(app), app.rank.measure, app.axes.x);
    let points = |run: &RunModel| -> Vec<(f64, f64)> {
        let of_layer =
            run.ranks.iter().filter(|rank| rank.what.matrix == matrix && rank.what.layer == *layer);
        of_layer
            .map(|rank| (run.steps.clock.place(rank.at, axis), measure.of(&rank.what)))
            .collect()
    };
    let all: Vec<Vec<(f64, f64)>> = app.runs.iter().map(points).collect();
    let ends = all.iter().flatten().map(|point| point.0).filter(|place| place.is_finite());
    let end = grown(ends.fold(0.0, f64::max));
    let (low, high) =
        app.axes.window.unwrap_or((if app.axes.log_x { end / 1000.0 } else { 0.0 }, end));
    let y = AxisRange::around(all.iter().flatten().map(|point| point.1).chain([0.0]), false)
        .unwrap_or_else(|| AxisRange::new(0.0, 1.0, false));
    let mut chart = Chart::new(theme, AxisRange::new(low, high, app.axes.log_x), y);
    let name = layer_name(layer);
    chart.title = title(&format!("{} over time  {name}  x: {}", measure.name(), axis.name()));
    chart.x_is_time = matches!(axis, Axis::Active | Axis::Wall);
    chart.is_focused = app.rank.focus == TIME;
    chart.cursor = app.axes.cursor;
    for (place, points) in all.iter().enumerate() {
        if !points.is_empty() {
            chart.lines.push(Line {
                points,
                style: theme.series(place),
                letter: Some(letter(place)),
                is_dim: false,
                dots: false,
            });
        }
    }
    if let Some(plot) = chart.draw(area, buffer) {
        hits.charts.push((plot, AxisRange::new(low, high, app.axes.log_x)));
    }
}

/// Draws the mean over the layers of every open run, at the tokens that all of them have been measured at.
pub(super) fn by_method(app: &App, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let (matrix, measure) = (matrix(app), app.rank.measure);
    let newest = |run: &RunModel| {
        let mut of_matrix = run.ranks.iter().rev().filter(|rank| rank.what.matrix == matrix);
        of_matrix.next().map(|rank| rank.at.tokens)
    };
    let Some(tokens) = app.runs.iter().filter_map(newest).min() else { return };
    let words = format!(
        "by method  mean {} of {}, % of min(m,n)  at {} tokens",
        measure.name(),
        matrix_name(matrix),
        short(tokens as f64),
    );
    let inner = frame(&words, "", app.rank.focus == METHODS, theme, area, buffer);
    let mut names = Vec::new();
    for (place, run) in app.runs.iter().enumerate() {
        let until =
            run.ranks.iter().filter(|rank| rank.what.matrix == matrix && rank.at.tokens <= tokens);
        let Some(at) = until.map(|rank| rank.at.step).max() else { continue };
        let grid = Grid::of(run, matrix, at);
        let Some(mean) = grid.mean(measure) else { continue };
        let name = format!("{} {}", letter(place), run.summary.run.method);
        let limit = grid.ceiling().map(|limit| format!(" (at most {limit:.1})"));
        names.push((place, name, mean, limit.unwrap_or_default()));
    }
    // Numbers stand below one another whether a limit follows or not.
    let room = names.iter().map(|(.., limit)| limit.len()).max().unwrap_or(0);
    let rows: Vec<bars::Row> = names
        .iter()
        .map(|(place, name, mean, limit)| bars::Row {
            name,
            size: *mean,
            value: format!("{mean:.1}{limit:<room$}"),
            style: theme.series(*place),
        })
        .collect();
    bars::draw(&rows, inner, theme, buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;

    #[test]
    fn a_spectrum_begins_at_one_and_leaves_out_what_is_nothing() {
        let rank = Rank { sigma: vec![(0, 4.0), (1, 2.0), (2, 0.0)], ..Rank::default() };
        assert_eq!(spectrum_of(&rank), [(1.0, 1.0), (2.0, 0.5)]);
        assert!(spectrum_of(&Rank::default()).is_empty());
    }

    #[test]
    fn the_measurement_before_an_update_is_found() {
        let run = fixture::run("lora");
        let layer = &fixture::layers()[3];
        let at = |until| measured(&run, layer, "weight", until).map(|rank| rank.at.step);
        assert_eq!((at(0), at(60), at(1000)), (None, Some(50), Some(400)));
    }
}
