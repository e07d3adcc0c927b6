//! The field of cells: layers from top to bottom, updates from left to right.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{Bins, Grouping, Side, step_of};
use crate::report::ticks;
use crate::tui::app::App;
use crate::tui::model::{Exchanges, RunModel};
use crate::tui::plot::heat::{Heat, shade, style};
use crate::tui::views::frame::{frame, layer_name, layer_parts, put, say, thousands};
use crate::tui::views::{Hits, ROW};

/// What a run does to its layers between updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Vectors are exchanged.
    Switches,
    /// Factors go into the weights.
    Merges,
    /// Gradients get other subspaces.
    Subspaces,
    /// None of these.
    Nothing,
}

impl Kind {
    pub(super) fn of(run: &RunModel) -> Self {
        if !run.switches.is_empty() {
            Self::Switches
        } else if !run.merges.is_empty() {
            Self::Merges
        } else if !run.subspaces.is_empty() {
            Self::Subspaces
        } else {
            Self::Nothing
        }
    }
}

/// A row of the field: its name and the layers that it stands for.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) layers: Vec<usize>,
}

/// Names of the target layers; a log without them has numbers.
fn names(run: &RunModel) -> Vec<String> {
    let known = &run.summary.run.layers;
    if !known.is_empty() {
        return known.clone();
    }
    (0..run.switches.layers.len()).map(|layer| format!("layer {layer}")).collect()
}

/// The rows of a run.
pub(super) fn rows(run: &RunModel, grouping: Grouping) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (layer, name) in names(run).iter().enumerate() {
        let (block, kind) = layer_parts(name);
        let name = match (grouping, block) {
            (Grouping::Layers, _) => layer_name(name),
            (Grouping::Blocks, Some(block)) => format!("block {block:02}"),
            (Grouping::Blocks, None) => "outside".into(),
            (Grouping::Kinds, _) => kind,
        };
        match rows.iter_mut().find(|row| row.name == name && grouping != Grouping::Layers) {
            Some(row) => row.layers.push(layer),
            None => rows.push(Row { name, layers: vec![layer] }),
        }
    }
    rows
}

fn side_factor(side: Side) -> f64 {
    if side == Side::Both { 2.0 } else { 1.0 }
}

/// The values of all rows and cells, NaN where there is none.
fn values(app: &App, run: &RunModel, rows: &[Row], bins: Bins) -> Vec<Vec<f64>> {
    let count = bins.count();
    match Kind::of(run) {
        Kind::Switches => {
            let factor = side_factor(app.switches.side) / bins.width as f64;
            let of = |row: &Row, bin: usize| {
                let layers = row.layers.iter().filter_map(|layer| run.switches.layers.get(*layer));
                let vectors: u32 = layers.map(|layer| layer.count(bins.range(bin))).sum();
                f64::from(vectors) * factor
            };
            rows.iter().map(|row| (0..count).map(|bin| of(row, bin)).collect()).collect()
        }
        Kind::Merges => {
            let points = run.merges.iter().flat_map(|merge| {
                let layers = merge.what.l.iter();
                layers.map(move |layer| (merge.at.step, layer.layer as usize, layer.dw_norm))
            });
            means(rows, bins, points)
        }
        Kind::Subspaces => {
            let known = &run.summary.run.layers;
            let points = run.subspaces.iter().filter_map(|found| {
                let layer = known.iter().position(|name| *name == found.what.layer)?;
                Some((found.at.step, layer, 1.0 - found.what.overlap.unwrap_or(0.0)))
            });
            means(rows, bins, points)
        }
        Kind::Nothing => Vec::new(),
    }
}

/// Means of points `(update, layer, value)` by row and cell.
fn means(
    rows: &[Row],
    bins: Bins,
    points: impl Iterator<Item = (u64, usize, f64)>,
) -> Vec<Vec<f64>> {
    let layers = rows.iter().flat_map(|row| &row.layers).max().map_or(0, |last| last + 1);
    let mut row_of = vec![usize::MAX; layers];
    for (place, row) in rows.iter().enumerate() {
        row.layers.iter().for_each(|layer| row_of[*layer] = place);
    }
    let mut sums = vec![vec![(0.0, 0.0); bins.count()]; rows.len()];
    for (step, layer, value) in points {
        let row = row_of.get(layer).and_then(|row| sums.get_mut(*row));
        let cell = row.zip(bins.bin(step)).and_then(|(row, bin)| row.get_mut(bin));
        if let Some(cell) = cell.filter(|_| value.is_finite()) {
            *cell = (cell.0 + value, cell.1 + 1.0);
        }
    }
    let mean = |(sum, count): (f64, f64)| if count > 0.0 { sum / count } else { f64::NAN };
    sums.into_iter().map(|row| row.into_iter().map(mean).collect()).collect()
}

fn unit(kind: Kind) -> &'static str {
    match kind {
        Kind::Switches => "vectors/update",
        Kind::Merges => "‖ΔW‖ merged",
        Kind::Subspaces => "share of the subspace that is new",
        Kind::Nothing => "",
    }
}

/// What a method that does none of these would be told apart by.
fn words(run: &RunModel) -> String {
    let method = &run.summary.run.method;
    let own = match method.as_str() {
        "switchlora" => "No vectors have been switched yet.",
        "relora" => "No merge yet: it comes at the end of a cycle.",
        "lte" => "No merge yet: it comes after the first local updates.",
        "galore" | "fira" | "adarankgrad" => "No subspace has been found yet.",
        "full" | "spam" => {
            "Full-rank training changes every weight at every update: nothing switches."
        }
        "" => "The run has told nothing yet.",
        _ => "This method keeps its factors from the first update to the last: nothing switches.",
    };
    format!(
        "{own}\n\nThis view shows, layer by layer over the updates: vectors that SwitchLoRA exchanged, merges and \
         restarts of ReLoRA and LTE, new subspaces of GaLore, Fira and AdaRankGrad.\n\nThe lanes below show all open runs."
    )
}

/// Draws the field with its frame.
pub(super) fn draw(app: &App, run: &RunModel, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    let state = &app.switches;
    let kind = Kind::of(run);
    let rows = rows(run, state.grouping);
    let names = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).min(12) as u16;
    let has_totals = kind == Kind::Switches && area.width >= 60;
    let totals = if has_totals { 8 } else { 0 };
    let cells = area.width.saturating_sub(2 + 1 + names + 1 + totals);
    let bins = Bins::of(app, run, cells);
    let title = match kind {
        Kind::Switches => "switches by layer",
        Kind::Merges => "merges by layer",
        Kind::Subspaces => "new subspaces by layer",
        Kind::Nothing => "switches",
    };
    let (mut title, mut foot) = (title.to_owned(), String::new());
    if kind != Kind::Nothing {
        title += &format!("  cell = {}", unit(kind));
        title += &format!("  bin {} updates", bins.width);
        if state.is_normalised {
            title += "  each row by its own largest";
        }
    }
    if kind == Kind::Switches {
        let side = match state.side {
            Side::Both => "A+B",
            Side::A => "A",
            Side::B => "B",
        };
        foot = format!("{side} · total {}", thousands(run.switches.total));
    }
    let inner = frame(&title, &foot, state.focus == super::FIELD, theme, area, buffer);
    if kind == Kind::Nothing || rows.is_empty() {
        say(&words(run), theme.text, theme, inner, buffer);
        return;
    }
    if inner.height < 2 || cells < 4 {
        return;
    }
    let values = values(app, run, &rows, bins);
    let has_axis = inner.height >= 5;
    let has_scale = inner.height >= 8;
    let top = inner.y + u16::from(has_axis);
    let height = inner.height - u16::from(has_axis) - u16::from(has_scale);
    let selected = state.row.min(rows.len() - 1);
    let most_first = rows.len().saturating_sub(height as usize);
    let first = selected.saturating_sub(height as usize / 2).min(most_first);
    let left = inner.x + 1 + names + 1;
    if has_axis {
        axis(app, bins, Rect { x: left, y: inner.y, width: cells, height: 1 }, buffer);
    }
    let finite = |row: &Vec<f64>| row.iter().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
    let most = values.iter().map(finite).fold(0.0, f64::max);
    let seen: Vec<Vec<f64>> = values.iter().skip(first).take(height as usize).cloned().collect();
    let scale: Vec<f64> =
        if state.is_normalised { seen.iter().map(finite).collect() } else { vec![most] };
    let cursor = app.axes.cursor.and_then(|place| bins.bin(step_of(run, app.axes.x, place)));
    let heat = Heat {
        values: &seen,
        most: &scale,
        selected: cursor.map(|bin| (selected - first, bin)),
        theme,
    };
    let field = Rect { x: left, y: top, width: cells, height };
    heat.draw(field, buffer);
    for (place, row) in rows.iter().enumerate().skip(first).take(height as usize) {
        let y = top + (place - first) as u16;
        hits.panels.push((Rect { y, height: 1, ..inner }, ROW + place));
        let mark = if place == selected { "▶" } else { " " };
        let name_style = if place == selected { theme.focus } else { theme.dim };
        let name = format!("{mark}{}", row.name);
        put(&name, name_style, theme, Rect { y, height: 1, width: names + 1, ..inner }, buffer);
        if has_totals {
            let layers = row.layers.iter().filter_map(|layer| run.switches.layers.get(*layer));
            let total: u32 = layers.filter_map(Exchanges::last).map(|last| last.sum).sum();
            let total = thousands((f64::from(total) * side_factor(state.side)) as u64);
            let text = format!("{total:>7}");
            if text.chars().count() <= 7 {
                let x = inner.right().saturating_sub(7);
                put(&text, theme.dim, theme, Rect { x, y, width: 7, height: 1 }, buffer);
            }
        }
    }
    if has_scale {
        let y = inner.bottom() - 1;
        let hidden = rows.len() - (height as usize).min(rows.len());
        let mut text = String::new();
        if hidden > 0 {
            text = format!(" {hidden} more rows");
        }
        let below = put(&text, theme.dim, theme, Rect { y, height: 1, ..inner }, buffer);
        let _ = below;
        let mut x = left.max(inner.x + text.chars().count() as u16 + 2);
        for share in [0.125, 0.375, 0.625, 1.0] {
            let value = ticks::name((most * share * 100.0).round() / 100.0);
            let value = if state.is_normalised { format!("{:.0}%", share * 100.0) } else { value };
            let width = value.chars().count() as u16 + 4;
            if x + width > inner.right() {
                break;
            }
            buffer.set_string(x, y, shade(theme, share).to_string(), style(theme, share));
            buffer.set_string(x + 2, y, &value, theme.dim);
            x += width;
        }
    }
}

/// Updates above the field, as many as have room.
fn axis(app: &App, bins: Bins, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let (low, high) = (bins.first as f64, bins.last as f64);
    let mut free = area.x;
    for tick in ticks::linear(low, high.max(low + 1.0), (area.width / 9).max(2) as usize) {
        let Some(bin) = bins.bin(tick.max(0.0) as u64) else { continue };
        let text = ticks::name(tick);
        let x = area.x + bin as u16;
        if x < free || x + text.chars().count() as u16 > area.right() {
            continue;
        }
        buffer.set_string(x, area.y, &text, theme.dim);
        free = x + text.chars().count() as u16 + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;

    #[test]
    fn cells_add_up_to_what_the_run_switched() {
        let app = fixture::app(Theme::default());
        let run = &app.runs[0];
        for grouping in [Grouping::Layers, Grouping::Blocks, Grouping::Kinds] {
            for cells in [3, 50, 400] {
                let bins = Bins::of(&app, run, cells);
                let rows = rows(run, grouping);
                let values = values(&app, run, &rows, bins);
                let sum: f64 = values.iter().flatten().sum::<f64>() * bins.width as f64;
                assert!((sum - run.switches.total as f64).abs() < 1e-6, "{grouping:?} {cells}");
            }
        }
    }

    #[test]
    fn rows_are_layers_blocks_or_kinds() {
        let app = fixture::app(Theme::default());
        let of = |grouping| rows(&app.runs[0], grouping);
        assert_eq!(
            (of(Grouping::Layers).len(), of(Grouping::Blocks).len(), of(Grouping::Kinds).len()),
            (28, 4, 7)
        );
        assert_eq!(of(Grouping::Layers)[8].name, "01.k");
        assert_eq!(of(Grouping::Kinds)[6].layers, [6, 13, 20, 27]);
    }

    #[test]
    fn each_method_has_its_kind_and_a_merge_its_cell() {
        let app = fixture::app(Theme::default());
        let kinds: Vec<Kind> = app.runs.iter().map(Kind::of).collect();
        let wanted = [Kind::Switches, Kind::Nothing, Kind::Subspaces, Kind::Merges, Kind::Nothing];
        assert_eq!(kinds, wanted);
        let run = &app.runs[3];
        let bins = Bins::of(&app, run, 400);
        let values = values(&app, run, &rows(run, Grouping::Layers), bins);
        let merged: Vec<usize> = values[0]
            .iter()
            .enumerate()
            .filter(|(_, v)| v.is_finite())
            .map(|(bin, _)| bin + 1)
            .collect();
        assert_eq!(merged, [101, 201, 301]);
    }
}
