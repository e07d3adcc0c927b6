//! The curves of a comparison.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr;

use super::groups::{Band, band};
use super::letters;
use super::scene::Scene;
use crate::series::Axis;
use crate::tui::app::App;
use crate::tui::model::RunModel;
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

/// The lines of the groups of runs on the chart, with the first run of each.
fn lines(scene: &Scene, dots: usize) -> Vec<(usize, Drawn)> {
    let app = scene.app;
    let theme = &app.theme;
    let (axis, metric, half_life) = (scene.axis, scene.metric(), scene.half_life);
    let log_x = app.axes.log_x;
    let (low, high) = scene.extent();
    let range = low..high;
    let mut drawn: Vec<(usize, Drawn)> = Vec::new();
    for group in &scene.groups {
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
fn y_range(scene: &Scene, drawn: &[(usize, Drawn)]) -> Option<AxisRange> {
    let bands =
        drawn.iter().flat_map(|(_, line)| [&line.band.mean, &line.band.low, &line.band.high]);
    let values = bands.flatten().map(|point| point.1);
    if scene.app.axes.ignores_outliers {
        AxisRange::around_most(values, scene.is_log_y())
    } else {
        AxisRange::around(values, scene.is_log_y())
    }
}

/// Holds the vertical range as it is, or lets it follow again.
pub(super) fn flip_lock(app: &mut App) {
    let metric = app.compare.metric;
    if app.axes.y_locks.remove(&metric).is_some() {
        return;
    }
    let scene = Scene::of(app);
    // Of each dot the extremes are kept, so that any number of dots has the same range.
    if let Some(range) = y_range(&scene, &lines(&scene, 64)) {
        app.axes.y_locks.insert(metric, (range.low, range.high));
    }
}

/// Draws the chart with the values at the cursor below it.
pub(super) fn draw(scene: &Scene, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let app = scene.app;
    let theme = &app.theme;
    let (is_log, log_x) = (scene.is_log_y(), app.axes.log_x);
    let (low, high) = scene.extent();
    let mut drawn = lines(scene, dots(area.width).max(2));
    // The selected run on top, the baseline below all others.
    drawn.sort_by_key(|(first, _)| {
        let is_in = |place: usize| {
            let mut groups = scene.groups.iter();
            groups.any(|group| group.first() == Some(first) && group.contains(&place))
        };
        (is_in(app.compare.selected), !is_in(app.compare.baseline))
    });
    let held = app.axes.y_locks.get(&app.compare.metric);
    let y = held.map(|(low, high)| AxisRange::new(*low, *high, is_log));
    let y = y.or_else(|| y_range(scene, &drawn));
    let y = y.unwrap_or_else(|| AxisRange::new(f64::NAN, f64::NAN, is_log));
    let mut chart = Chart::new(theme, AxisRange::new(low, high, log_x), y);
    chart.title = super::super::frame::title(&title(scene));
    let base = app.runs.get(app.compare.baseline);
    let name = base.map(|run| format!("baseline: {} {}", letter(app.compare.baseline), run.name()));
    chart.note = name.unwrap_or_default().into();
    chart.is_focused = app.compare.focus == super::CHART;
    chart.x_is_time = matches!(scene.axis, Axis::Active | Axis::Wall);
    chart.cursor = app.axes.cursor.and(scene.place);
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
        hits.charts.push((plot, AxisRange::new(low / scene.scale, high / scene.scale, log_x)));
    }
    if has_line {
        value_line(scene, Rect { y: area.bottom() - 1, height: 1, ..area }, buffer);
    }
}

fn title(scene: &Scene) -> String {
    let (app, axis) = (scene.app, scene.axis);
    let runs = scene.shown.len();
    let noun = if runs == 1 { "run" } else { "runs" };
    let mut title = format!("{}  {runs} {noun}", app.compare.metric.name());
    title += &format!("  x: {}{}", axis.name(), if app.axes.log_x { " log" } else { "" });
    if app.axes.window.is_none() {
        title += " (aligned at 0)";
    }
    if scene.is_log_y() {
        title += "  y: log";
    }
    if app.axes.y_locks.contains_key(&app.compare.metric) {
        title += "  y: held";
    }
    if let Some(half_life) = scene.half_life {
        title += &format!("  EMA half-life {}", short(half_life));
    }
    if scene.groups.iter().any(|group| group.len() > 1) {
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
pub(super) fn value_line(scene: &Scene, area: Rect, buffer: &mut Buffer) {
    let (app, axis) = (scene.app, scene.axis);
    let theme = &app.theme;
    let Some(place) = scene.place else { return };
    let of = |run: &RunModel| scene.value(run);
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
    for group in &scene.groups {
        let Some(&first) = group.first() else { continue };
        let values: Vec<f64> = group.iter().filter_map(|place| of(&app.runs[*place])).collect();
        let mean = crate::report::stats::Stat::of(&values).map(|stat| stat.mean);
        let text = match (mean, base) {
            (Some(mean), Some(base)) if first != app.compare.baseline && base != 0.0 => {
                format!(" {} {} {:+.1}%", letters(group), value(mean), 100.0 * (mean - base) / base)
            }
            (Some(mean), _) => format!(" {} {}", letters(group), value(mean)),
            (None, _) => format!(" {} –", letters(group)),
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
