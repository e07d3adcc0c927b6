//! The curves of a comparison.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr;

use super::groups::{Band, band, groups, value_at};
use super::{fair, half_life, is_log_y, letters, place, shown};
use crate::series::Axis;
use crate::tui::app::App;
use crate::tui::model::{Metric, RunModel};
use crate::tui::plot::axis::grown;
use crate::tui::plot::{AxisRange, Chart, Line, dots};
use crate::tui::views::Hits;
use crate::tui::views::frame::{letter, put, short, value};

/// Raw and smoothed points of a line.
struct Drawn {
    raw: Vec<(f64, f64)>,
    band: Band,
    letter: char,
    style: Style,
    is_dotted: bool,
}

/// The stretch of the axis that the chart shows; its end is not before its beginning.
pub(super) fn extent(app: &App) -> (f64, f64) {
    let (low, high) = wanted_extent(app);
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

fn wanted_extent(app: &App) -> (f64, f64) {
    let (axis, scale) = fair(app);
    if let Some((low, high)) = app.axes.window {
        return (low * scale, high * scale);
    }
    let ends =
        shown(app).into_iter().filter_map(|place| super::groups::reach(&app.runs[place], axis));
    let end = ends.fold(0.0, f64::max);
    let low = if app.axes.log_x { smallest(app, axis).unwrap_or(end / 1000.0) } else { 0.0 };
    (low, grown(end))
}

/// The smallest place above 0.
fn smallest(app: &App, axis: Axis) -> Option<f64> {
    let metric = app.compare.metric;
    let first = |run: &RunModel| {
        let clock = &run.table(metric).clock;
        let row = clock.row_after(axis, 0.0);
        Some(clock.at(row, axis)).filter(|place| place.is_finite())
    };
    let firsts = shown(app).into_iter().filter_map(|place| first(&app.runs[place]));
    firsts.min_by(f64::total_cmp)
}

/// The lines of the groups of runs on the chart, with the first run of each.
fn lines(app: &App, groups: &[Vec<usize>], dots: usize) -> Vec<(usize, Drawn)> {
    let theme = &app.theme;
    let (axis, _) = fair(app);
    let (metric, log_x, half_life) = (app.compare.metric, app.axes.log_x, half_life(app));
    let (low, high) = extent(app);
    let range = low..high;
    let mut drawn: Vec<(usize, Drawn)> = Vec::new();
    for group in groups {
        let Some(&first) = group.first() else { continue };
        let runs: Vec<&RunModel> = group.iter().filter_map(|place| app.runs.get(*place)).collect();
        let column = metric.column();
        let (raw, band) = if let [run] = runs[..] {
            let table = run.table(metric);
            let mean = table.draw_smooth(column, axis, half_life, range.clone(), dots, log_x);
            let shows_raw = app.axes.shows_raw && half_life.is_some();
            let raw = if shows_raw {
                table.draw(column, axis, range.clone(), dots, log_x)
            } else {
                Vec::new()
            };
            (raw, Band { mean, ..Band::default() })
        } else {
            (Vec::new(), band(&runs, metric, axis, half_life, &range, dots))
        };
        let line = Drawn {
            raw,
            band,
            letter: letter(first),
            style: theme.series(first),
            is_dotted: theme.depth == crate::tui::theme::Depth::Mono && first % 2 == 1,
        };
        drawn.push((first, line));
    }
    drawn
}

/// The vertical range that holds lines.
fn y_range(app: &App, drawn: &[(usize, Drawn)]) -> Option<AxisRange> {
    let bands =
        drawn.iter().flat_map(|(_, line)| [&line.band.mean, &line.band.low, &line.band.high]);
    let values = bands.flatten().map(|point| point.1);
    if app.axes.ignores_outliers {
        AxisRange::around_most(values, is_log_y(app))
    } else {
        AxisRange::around(values, is_log_y(app))
    }
}

/// Holds the vertical range as it is, or lets it follow again.
pub(super) fn flip_lock(app: &mut App) {
    let metric = app.compare.metric;
    if app.axes.y_locks.remove(&metric).is_some() {
        return;
    }
    let groups = groups(&app.runs, &shown(app), app.compare.lays_seeds_together);
    // Of each dot the extremes are kept, so that any number of dots has the same range.
    if let Some(range) = y_range(app, &lines(app, &groups, 64)) {
        app.axes.y_locks.insert(metric, (range.low, range.high));
    }
}

/// Draws the chart with the values at the cursor below it.
pub(super) fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    let (axis, scale) = fair(app);
    let (is_log, log_x) = (is_log_y(app), app.axes.log_x);
    let (low, high) = extent(app);
    let groups = groups(&app.runs, &shown(app), app.compare.lays_seeds_together);
    let mut drawn = lines(app, &groups, dots(area.width).max(2));
    // The selected run on top, the baseline below all others.
    drawn.sort_by_key(|(first, _)| {
        let is_in = |place: usize| {
            groups.iter().any(|group| group.first() == Some(first) && group.contains(&place))
        };
        (is_in(app.compare.selected), !is_in(app.compare.baseline))
    });
    let held = app.axes.y_locks.get(&app.compare.metric);
    let y = held.map(|(low, high)| AxisRange::new(*low, *high, is_log));
    let y = y.or_else(|| y_range(app, &drawn));
    let y = y.unwrap_or_else(|| AxisRange::new(f64::NAN, f64::NAN, is_log));
    let mut chart = Chart::new(theme, AxisRange::new(low, high, log_x), y);
    chart.title = super::super::frame::title(&title(app, axis, &groups));
    let base = app.runs.get(app.compare.baseline);
    let name = base.map(|run| format!("baseline: {} {}", letter(app.compare.baseline), run.name()));
    chart.note = name.unwrap_or_default().into();
    chart.is_focused = app.compare.focus == super::CHART;
    chart.x_is_time = matches!(axis, Axis::Active | Axis::Wall);
    chart.cursor = app.axes.cursor.and_then(|_| place(app));
    for (_, line) in &drawn {
        for points in [&line.raw, &line.band.low, &line.band.high] {
            if !points.is_empty() {
                chart.lines.push(Line {
                    points,
                    style: line.style,
                    letter: None,
                    is_dim: true,
                    dots: false,
                });
            }
        }
    }
    for (_, line) in &drawn {
        chart.lines.push(Line {
            points: &line.band.mean,
            style: line.style,
            letter: Some(line.letter),
            is_dim: false,
            dots: line.is_dotted,
        });
    }
    let has_line = area.height >= 8;
    let chart_area = if has_line { Rect { height: area.height - 1, ..area } } else { area };
    if let Some(plot) = chart.draw(chart_area, buffer) {
        hits.charts.push((plot, AxisRange::new(low / scale, high / scale, log_x)));
    }
    if has_line {
        value_line(app, Rect { y: area.bottom() - 1, height: 1, ..area }, buffer);
    }
}

fn title(app: &App, axis: Axis, groups: &[Vec<usize>]) -> String {
    let runs: usize = groups.iter().map(Vec::len).sum();
    let noun = if runs == 1 { "run" } else { "runs" };
    let mut title = format!("{}  {runs} {noun}", app.compare.metric.name());
    title += &format!("  x: {}{}", axis.name(), if app.axes.log_x { " log" } else { "" });
    if app.axes.window.is_none() {
        title += " (aligned at 0)";
    }
    if is_log_y(app) {
        title += "  y: log";
    }
    if app.axes.y_locks.contains_key(&app.compare.metric) {
        title += "  y: held";
    }
    if let Some(half_life) = half_life(app) {
        title += &format!("  EMA half-life {}", short(half_life));
    }
    if groups.iter().any(|group| group.len() > 1) {
        title += "  band: seed min–max";
    }
    title
}

/// A place on an axis in words.
pub(super) fn place_text(place: f64, axis: Axis) -> String {
    match axis {
        Axis::Step => format!("update {}", super::super::frame::thousands(place as u64)),
        Axis::Tokens => format!("{} tokens", short(place)),
        Axis::Active | Axis::Wall => super::super::frame::duration(place),
        Axis::Flop => format!("{} FLOP", short(place)),
        Axis::Epoch => format!("epoch {place:.2}"),
    }
}

/// Where the cursor stands and what each line has there, with the difference to the baseline; only whole parts.
pub(super) fn value_line(app: &App, area: Rect, buffer: &mut Buffer) {
    let (axis, _) = fair(app);
    let theme = &app.theme;
    let Some(place) = place(app) else { return };
    let metric: Metric = app.compare.metric;
    let half_life = half_life(app);
    let of = |run: &RunModel| value_at(run, metric, axis, half_life, place);
    let base = app.runs.get(app.compare.baseline).and_then(of);
    let mut rest =
        put(&format!(" ⌖ {}", place_text(place, axis)), theme.title, theme, area, buffer);
    let used = place_text(place, axis).width() as u16 + 3;
    rest = Rect {
        x: area.x + used,
        y: area.y,
        width: area.width.saturating_sub(used),
        height: rest.height.max(1),
    };
    for group in groups(&app.runs, &shown(app), app.compare.lays_seeds_together) {
        let Some(&first) = group.first() else { continue };
        let values: Vec<f64> = group.iter().filter_map(|place| of(&app.runs[*place])).collect();
        let mean = crate::report::stats::Stat::of(&values).map(|stat| stat.mean);
        let text = match (mean, base) {
            (Some(mean), Some(base)) if first != app.compare.baseline && base != 0.0 => {
                format!(
                    " {} {} {:+.1}%",
                    letters(&group),
                    value(mean),
                    100.0 * (mean - base) / base
                )
            }
            (Some(mean), _) => format!(" {} {}", letters(&group), value(mean)),
            (None, _) => format!(" {} –", letters(&group)),
        };
        let width = text.width() as u16 + 2;
        if width > rest.width {
            break;
        }
        buffer.set_string(rest.x, rest.y, " │", theme.dim);
        buffer.set_string(rest.x + 2, rest.y, &text, theme.series(first));
        rest = Rect { x: rest.x + width, width: rest.width - width, ..rest };
    }
}
