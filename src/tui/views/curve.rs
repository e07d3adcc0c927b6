//! One metric of one run as a chart: raw and smoothed, on the axes that all charts share, with marks.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line as Words, Span};

use super::{Hits, frame};
use crate::report::text;
use crate::series::{Axis, Table};
use crate::tui::action::Action;
use crate::tui::app::App;
use crate::tui::model::{Marker, MarkerKind, Metric, RunModel};
use crate::tui::plot::axis::{self, AxisRange, time_label};
use crate::tui::plot::{Chart, Line, Symbol, dots};
use crate::tui::theme::Theme;

/// Values that decide what the extreme percent is, at most.
const SAMPLED: usize = 4096;
/// How far a key moves the cursor: this part of the rows that are shown.
const CURSOR_STEPS: usize = 100;

/// Places and values of a line.
type Points = Vec<(f64, f64)>;

/// What a chart shows.
#[derive(Clone, Copy)]
pub struct Curve<'a> {
    /// Axes and theme.
    pub app: &'a App,
    /// The run.
    pub run: &'a RunModel,
    /// Its place among the open runs, for its colour.
    pub place: usize,
    /// What is drawn.
    pub metric: Metric,
    /// Whether keys go to it.
    pub is_focused: bool,
    /// Whether it has evaluations, marks and words about them.
    pub is_main: bool,
}

/// Whether the vertical axis of a metric is logarithmic: as chosen, else as its values are usually read.
pub fn is_log_y(app: &App, metric: Metric) -> bool {
    let usual = match metric {
        Metric::Loss | Metric::ValLoss | Metric::Perplexity | Metric::GradNorm => true,
        Metric::LearningRate | Metric::TokensPerSecond => false,
    };
    app.axes.log_y.get(&metric).copied().unwrap_or(usual)
}

/// Turns the vertical axis of a metric from linear to logarithmic or back.
pub fn flip_log_y(app: &mut App, metric: Metric) {
    let is_log = is_log_y(app, metric);
    app.axes.log_y.insert(metric, !is_log);
}

/// Holds the vertical range of a metric as it is, or lets it follow again.
pub fn flip_lock(app: &mut App, metric: Metric, is_main: bool) {
    if app.axes.y_locks.remove(&metric).is_some() {
        return;
    }
    let Some(run) = app.run() else { return };
    let curve = Curve { app, run, place: app.active, metric, is_focused: false, is_main };
    if let Some(range) = curve.free_y_range() {
        app.axes.y_locks.insert(metric, (range.low, range.high));
    }
}

/// Whether places on an axis are seconds.
pub fn is_time(axis: Axis) -> bool {
    matches!(axis, Axis::Active | Axis::Wall)
}

/// A place on an axis in words.
pub fn place_words(axis: Axis, place: f64) -> String {
    match axis {
        Axis::Active | Axis::Wall => time_label(place),
        Axis::Step => text::count(place.max(0.0) as u64),
        _ => frame::short(place),
    }
}

/// The part of the horizontal axis that a run's charts show: the window, or all of it. The end of a live run's
/// axis goes ahead of it in steps, up to the end that is planned, so that the axis stands still.
pub fn x_range(app: &App, run: &RunModel) -> AxisRange {
    let (axis, is_log) = (app.axes.x, app.axes.log_x);
    if let Some((low, high)) = app.axes.window {
        return AxisRange::new(low, high, is_log);
    }
    let clock = &run.steps.clock;
    let clock = if clock.is_empty() { &run.evals.clock } else { clock };
    let end = clock.at(clock.len().saturating_sub(1), axis);
    let mut high = end;
    if run.status.is_live() {
        let planned = planned_end(run, axis);
        high = axis::grown(end);
        if planned.is_some_and(|planned| planned >= end && planned < high) {
            high = planned.unwrap_or(high);
        }
    }
    let low = if is_log {
        let first = (0..clock.len()).map(|row| clock.at(row, axis)).find(|place| *place > 0.0);
        first.unwrap_or(f64::NAN)
    } else {
        0.0
    };
    AxisRange::new(low, if high > low || is_log { high } else { 1.0 }, is_log)
}

/// Where the run is planned to end; none on axes that the plan does not tell.
fn planned_end(run: &RunModel, axis: Axis) -> Option<f64> {
    let told = &run.summary.run;
    let steps = (told.steps > 0).then_some(told.steps as f64)?;
    let tokens = steps * told.tokens_per_step as f64;
    let end = match axis {
        Axis::Step => steps,
        Axis::Tokens => tokens,
        Axis::Epoch => tokens / told.train_tokens as f64,
        Axis::Active | Axis::Wall | Axis::Flop => return None,
    };
    (end.is_finite() && end > 0.0).then_some(end)
}

/// Moves the cursor of all charts by some hundredths of the rows in sight, always onto a row.
pub fn move_cursor(app: &mut App, metric: Metric, by: isize) {
    let Some(run) = app.run() else { return };
    let table = run.table(metric);
    let x = x_range(app, run);
    let axis = app.axes.x;
    let row_at = |place: f64| table.nearest(axis, place);
    let (Some(first), Some(last)) = (row_at(x.low), row_at(x.high)) else { return };
    let now = app.axes.cursor.and_then(row_at).unwrap_or(if by < 0 { last + 1 } else { first });
    let step = ((last - first) / CURSOR_STEPS).max(1) as isize;
    let row = (now as isize).saturating_add(by.saturating_mul(step));
    let row = row.min(last as isize).max(first as isize) as usize;
    let place = table.clock.at(row, axis);
    app.axes.cursor = place.is_finite().then_some(place);
}

/// Puts the cursor on the first or the last row of the window.
pub fn cursor_to_end(app: &mut App, metric: Metric, is_last: bool) {
    let Some(run) = app.run() else { return };
    let x = x_range(app, run);
    let table = run.table(metric);
    let Some(row) = table.nearest(app.axes.x, if is_last { x.high } else { x.low }) else { return };
    let place = table.clock.at(row, app.axes.x);
    app.axes.cursor = place.is_finite().then_some(place);
}

/// What a metric's value looks like.
pub fn value_words(metric: Metric, value: f64) -> String {
    match metric {
        _ if !value.is_finite() => frame::value(value),
        Metric::LearningRate => text::lr(value),
        Metric::TokensPerSecond => frame::short(value),
        _ => frame::value(value),
    }
}

/// The sign and the name of a kind of mark.
pub fn mark(kind: MarkerKind, theme: &Theme) -> (char, &'static str, Style) {
    match kind {
        MarkerKind::Alert => ('!', "alert", theme.warn),
        MarkerKind::Skip => ('×', "skip", theme.bad),
        MarkerKind::Merge => ('▲', "merge", theme.key),
        MarkerKind::Reset => ('▽', "reset", theme.key),
        MarkerKind::Checkpoint => ('◇', "ckpt", theme.good),
        MarkerKind::Command => ('✎', "command", theme.act),
        MarkerKind::Pause => ('"', "pause", theme.act),
        MarkerKind::Phase => ('»', "phase", theme.dim),
        MarkerKind::Limiter => ('~', "limiter", theme.dim),
        MarkerKind::Subspace => ('≈', "subspace", theme.dim),
    }
}

/// Kinds of marks, the one that matters most last: it is drawn over the others.
const KINDS: [MarkerKind; 10] = [
    MarkerKind::Limiter,
    MarkerKind::Subspace,
    MarkerKind::Phase,
    MarkerKind::Checkpoint,
    MarkerKind::Pause,
    MarkerKind::Reset,
    MarkerKind::Merge,
    MarkerKind::Command,
    MarkerKind::Skip,
    MarkerKind::Alert,
];

impl Curve<'_> {
    /// Draws the chart.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
        let (app, theme) = (self.app, &self.app.theme);
        let axes = &app.axes;
        let table = self.run.table(self.metric);
        let x = x_range(app, self.run);
        let is_log = is_log_y(app, self.metric);
        let columns = dots(area.width);
        let draw = |table: &Table, half_life| {
            table.draw_smooth(
                self.metric.column(),
                axes.x,
                half_life,
                x.low..x.high,
                columns,
                x.is_log,
            )
        };
        // Evaluations are few and already means.
        let half_life = axes.half_life.filter(|_| !is_evaluated(self.metric));
        let smooth = half_life.map(|half_life| draw(table, Some(half_life)));
        let raw = (axes.shows_raw || smooth.is_none()).then(|| draw(table, None));
        let undone: Vec<_> =
            self.run.undone(self.metric).map(|table| draw(table, half_life)).collect();
        let symbols = self.symbols(x);
        let y =
            axes.y_locks.get(&self.metric).map(|(low, high)| AxisRange::new(*low, *high, is_log));
        let y = y.or_else(|| {
            let lines: Vec<&Points> = raw.iter().chain(&smooth).chain(&undone).collect();
            self.y_range(x, &lines, &symbols)
        });
        let mut chart = Chart::new(theme, x, y.unwrap_or(AxisRange::new(0.0, 1.0, false)));
        let color = theme.series(self.place);
        for points in &undone {
            chart.lines.push(Line {
                points,
                style: theme.dim,
                is_dim: true,
                dots: true,
                letter: None,
            });
        }
        if let Some(points) = &raw {
            let (style, is_dim) = if smooth.is_some() { (theme.dim, true) } else { (color, false) };
            chart.lines.push(Line { points, style, is_dim, ..Line::default() });
        }
        if let Some(points) = &smooth {
            chart.lines.push(Line { points, style: color, ..Line::default() });
        }
        chart.symbols = symbols;
        chart.x_is_time = is_time(axes.x);
        chart.cursor = axes.cursor;
        chart.is_focused = self.is_focused;
        let marks = if self.is_main { self.marks(x) } else { Marks::default() };
        chart.title = self.title(half_life);
        chart.note = self.note(&marks, half_life, !chart.symbols.is_empty());
        chart.marks = marks.signs;
        if let Some(plot) = chart.draw(area, buffer) {
            hits.charts.push((plot, x));
        }
    }

    /// The vertical range that holds what is drawn in a stretch of the axis.
    fn y_range(&self, x: AxisRange, lines: &[&Points], symbols: &[Symbol]) -> Option<AxisRange> {
        let (app, is_log) = (self.app, is_log_y(self.app, self.metric));
        if app.axes.ignores_outliers {
            let table = self.run.table(self.metric);
            let sampled = sampled(table, self.metric.column(), app.axes.x, x);
            return AxisRange::around_most(sampled, is_log);
        }
        let points = lines.iter().flat_map(|points| points.iter());
        let seen = points.filter(|(place, _)| x.contains(*place)).map(|(_, value)| *value);
        AxisRange::around(seen.chain(symbols.iter().map(|symbol| symbol.y)), is_log)
    }

    /// The vertical range that it is drawn with where none is held.
    fn free_y_range(&self) -> Option<AxisRange> {
        let axes = &self.app.axes;
        let (x, table) = (x_range(self.app, self.run), self.run.table(self.metric));
        // Of each dot the extremes are kept, so that any number of dots has the same range.
        let draw = |table: &Table, half_life| {
            let range = x.low..x.high;
            table.draw_smooth(self.metric.column(), axes.x, half_life, range, 64, x.is_log)
        };
        let half_life = axes.half_life.filter(|_| !is_evaluated(self.metric));
        let mut lines = vec![draw(table, half_life)];
        if axes.shows_raw {
            lines.push(draw(table, None));
        }
        lines.extend(self.run.undone(self.metric).map(|table| draw(table, half_life)));
        let lines: Vec<&Points> = lines.iter().collect();
        self.y_range(x, &lines, &self.symbols(x))
    }

    /// Evaluations over the training loss.
    fn symbols(&self, x: AxisRange) -> Vec<Symbol> {
        if !self.is_main || self.metric != Metric::Loss {
            return Vec::new();
        }
        let table = &self.run.evals;
        let points = table.draw("loss", self.app.axes.x, x.low..x.high, 4096, x.is_log);
        let style = self.app.theme.series(self.place + 1);
        let inside = points.into_iter().filter(|(place, _)| x.contains(*place));
        inside.map(|(x, y)| Symbol { x, y, sign: '◆', style }).collect()
    }

    fn title(&self, half_life: Option<f64>) -> Words<'static> {
        let (app, theme) = (self.app, &self.app.theme);
        let mut spans = vec![Span::styled(self.metric.name(), theme.title)];
        if let Some(last) = self.run.last(self.metric) {
            spans.push(Span::raw(format!("  {}", value_words(self.metric, last))));
        }
        if let Some(half_life) = half_life {
            let words = axis::label(half_life, 6).unwrap_or_default();
            spans.push(Span::styled(format!("  ema {words}"), theme.dim));
        }
        if is_log_y(app, self.metric) {
            spans.push(Span::styled("  y:log", theme.dim));
        }
        if app.axes.y_locks.contains_key(&self.metric) {
            spans.push(Span::styled("  y:held", theme.key));
        }
        if self.is_main {
            let log = if app.axes.log_x { " log" } else { "" };
            spans.push(Span::styled(format!("  x:{}{log}", app.axes.x.name()), theme.dim));
            if app.axes.ignores_outliers {
                spans.push(Span::styled("  1–99 %", theme.dim));
            }
        } else if let Some((_, value)) = self.at_cursor(None) {
            let words = format!("  ⌖ {}", value_words(self.metric, value));
            spans.push(Span::styled(words, theme.key));
        }
        Words::from(spans)
    }

    /// Place and value of the row under the cursor.
    pub fn at_cursor(&self, half_life: Option<f64>) -> Option<(f64, f64)> {
        let (table, axis) = (self.run.table(self.metric), self.app.axes.x);
        let row = table.nearest(axis, self.app.axes.cursor?)?;
        let value = match half_life {
            Some(_) => table.value(self.metric.column(), axis, half_life, row)?,
            None => f64::from(*table.column(self.metric.column())?.values().get(row)?),
        };
        Some((table.clock.at(row, axis), value))
    }

    fn note(&self, marks: &Marks, half_life: Option<f64>, has_evals: bool) -> Words<'static> {
        let (app, theme) = (self.app, &self.app.theme);
        if !self.is_main {
            return Words::default();
        }
        let mut spans = Vec::new();
        if let Some((place, value)) = self.at_cursor(None) {
            let axis = app.axes.x;
            let words = format!("⌖ {} {}", axis.name(), place_words(axis, place));
            spans.push(Span::styled(words, theme.key));
            let name = self.metric.name();
            spans.push(Span::raw(format!(" · {name} {}", value_words(self.metric, value))));
            if let Some((_, smooth)) =
                half_life.and_then(|half_life| self.at_cursor(Some(half_life)))
            {
                spans.push(Span::raw(format!(" · ema {}", value_words(self.metric, smooth))));
            }
        } else {
            let state = match (app.is_frozen, app.axes.window) {
                (true, _) => "frozen".into(),
                (_, Some(_)) => format!("zoomed ({}: all)", app.key(Action::ZoomReset)),
                _ if self.run.status.is_live() => "following".into(),
                _ => "all of it".to_owned(),
            };
            spans.push(Span::styled(state, theme.dim));
        }
        if has_evals {
            let style = theme.series(self.place + 1);
            spans.push(Span::styled(" · ◆ val", style));
        }
        for (kind, count) in marks.counts.iter().rev() {
            let (sign, name, style) = mark(*kind, theme);
            spans.push(Span::styled(format!(" · {sign} {name} {count}"), style));
        }
        Words::from(spans)
    }

    fn marks(&self, x: AxisRange) -> Marks {
        let clock = &self.run.steps.clock;
        let axis = self.app.axes.x;
        let mut places: [Vec<f64>; KINDS.len()] = Default::default();
        for Marker { at, kind, .. } in &self.run.markers {
            let place = clock.place(*at, axis);
            let of_kind = KINDS.iter().position(|known| known == kind).map(|n| &mut places[n]);
            if let Some(of_kind) = of_kind.filter(|_| x.contains(place)) {
                of_kind.push(place);
            }
        }
        let mut found = Marks::default();
        for (kind, places) in KINDS.into_iter().zip(&mut places) {
            let (sign, _, style) = mark(kind, &self.app.theme);
            if !places.is_empty() {
                found.counts.push((kind, places.len()));
            }
            // Marks closer than any cell are one.
            places.dedup_by(|a, b| (*a - *b).abs() < (x.high - x.low) / 4096.0 && !x.is_log);
            found.signs.extend(places.iter().map(|place| (*place, sign, style)));
        }
        found
    }
}

#[derive(Default)]
struct Marks {
    signs: Vec<(f64, char, Style)>,
    counts: Vec<(MarkerKind, usize)>,
}

fn is_evaluated(metric: Metric) -> bool {
    matches!(metric, Metric::ValLoss | Metric::Perplexity)
}

/// Some values of the rows in sight, evenly spaced.
fn sampled(table: &Table, column: &str, axis: Axis, x: AxisRange) -> Vec<f64> {
    let Some(column) = table.column(column) else { return Vec::new() };
    let first = table.clock.row_at(axis, x.low);
    let last = table.clock.row_after(axis, x.high).min(column.len());
    let rows = first.min(last)..last;
    let every = rows.len().div_ceil(SAMPLED).max(1);
    rows.step_by(every).map(|row| f64::from(column.values()[row])).collect()
}
