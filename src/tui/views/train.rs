//! The run as it trains: loss, the numbers of now, small charts of the rest.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::Hits;
use super::curve::{self, Curve};
use super::frame::{self, frame};
use crate::report::text;
use crate::runlog::Level;
use crate::tui::action::{Action, Effect};
use crate::tui::app::App;
use crate::tui::model::{MarkerKind, Metric, RunModel};
use crate::tui::plot::Panel;
use crate::tui::plot::pen::Pen;
use crate::tui::sheet::Sheet;

mod now;

/// The chart of the loss.
const MAIN: usize = 0;
/// The numbers of now.
pub(super) const NOW: usize = 1;
/// The first small chart.
const SMALL: usize = 2;
/// What happened last.
pub(super) const EVENTS: usize = 6;
const PANELS: usize = 7;

/// Below this there is only the large chart.
const LEAST: (u16, u16) = (58, 12);
/// From this on there are small charts.
const ROOMY: (u16, u16) = (90, 22);
/// From this on there is a fourth small chart and a list of what happened.
const WIDE: (u16, u16) = (158, 34);

/// What a user chose in this view.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The panel in focus.
    pub focus: usize,
    /// What the large chart and the small ones show.
    pub metrics: [Metric; 5],
}

impl Default for State {
    fn default() -> Self {
        let small =
            [Metric::LearningRate, Metric::GradNorm, Metric::TokensPerSecond, Metric::ValLoss];
        let [a, b, c, d] = small;
        Self { focus: MAIN, metrics: [Metric::Loss, a, b, c, d] }
    }
}

impl State {
    /// The chart of the panel in focus, as a place in `metrics`; the large one for panels that are none.
    fn chart(&self) -> usize {
        match self.focus {
            SMALL..EVENTS => self.focus - SMALL + 1,
            _ => 0,
        }
    }

    /// The metric of the chart in focus.
    pub fn metric(&self) -> Metric {
        self.metrics[self.chart()]
    }
}

/// What an action changes here.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    let metric = app.train.metric();
    match action {
        Action::NextPanel => app.train.focus = (app.train.focus + 1) % PANELS,
        Action::PrevPanel => app.train.focus = (app.train.focus + PANELS - 1) % PANELS,
        Action::NextMetric => {
            let chart = app.train.chart();
            app.train.metrics[chart] = next(metric);
        }
        Action::LogY => curve::flip_log_y(app, metric),
        Action::LockY => curve::flip_lock(app, metric, app.train.chart() == 0),
        Action::Left => curve::move_cursor(app, metric, -1),
        Action::Right => curve::move_cursor(app, metric, 1),
        Action::PageUp => curve::move_cursor(app, metric, -10),
        Action::PageDown => curve::move_cursor(app, metric, 10),
        Action::Home => curve::cursor_to_end(app, metric, false),
        Action::End => curve::cursor_to_end(app, metric, true),
        Action::Back => app.axes.cursor = None,
        Action::Open => app.is_maximised = true,
        Action::Copy => return copy(app).map(Effect::Copy).into_iter().collect(),
        Action::Export => return vec![Effect::Export(false)],
        _ => {}
    }
    Vec::new()
}

fn next(metric: Metric) -> Metric {
    let place = Metric::ALL.iter().position(|known| *known == metric).unwrap_or(0);
    Metric::ALL[(place + 1) % Metric::ALL.len()]
}

/// What stands in the panel in focus: the value at the cursor, else the newest, or all numbers of now.
fn copy(app: &App) -> Option<String> {
    let run = app.run()?;
    if app.train.focus == NOW {
        return Some(now::as_text(&now::rows(app, run)));
    }
    let metric = app.train.metric();
    let curve = curve_of(app, run, metric, false, false);
    if let Some((place, value)) = curve.at_cursor(None) {
        return Some(format!("{} {place} {} {value}", app.axes.x.name(), metric.name()));
    }
    Some(format!("{} {}", metric.name(), run.last(metric)?))
}

/// The numbers of now as rows for files.
pub(super) fn now_sheet(app: &App, run: &RunModel) -> Sheet<'static> {
    let mut sheet = Sheet::new(&["name", "value"]);
    for line in now::as_text(&now::rows(app, run)).lines() {
        let (name, value) = line.split_at_checked(10).unwrap_or((line, ""));
        sheet.row([name.trim().into(), value.trim().into()]);
    }
    sheet
}

fn curve_of<'a>(
    app: &'a App,
    run: &'a RunModel,
    metric: Metric,
    is_focused: bool,
    is_main: bool,
) -> Curve<'a> {
    Curve { app, run, place: app.active, metric, is_focused, is_main }
}

/// Draws the view.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    let Some(run) = app.run() else {
        frame::say(&frame::no_run(app), app.theme.dim, &app.theme, area, buffer);
        return frame::plain(&app.theme, area, buffer);
    };
    let has_begun = !run.steps.is_empty() || !run.evals.is_empty();
    if app.is_maximised && has_begun {
        panel(app, run, app.train.focus, area, buffer, hits);
    } else if !has_begun || area.width < LEAST.0 || area.height < LEAST.1 {
        panel(app, run, MAIN, area, buffer, hits);
    } else {
        for (number, place) in layout(area) {
            panel(app, run, number, place, buffer, hits);
        }
    }
    frame::plain(&app.theme, area, buffer);
}

/// Which panels there are, and where.
fn layout(area: Rect) -> Vec<(usize, Rect)> {
    let is_roomy = area.width >= ROOMY.0 && area.height >= ROOMY.1;
    let is_wide = area.width >= WIDE.0 && area.height >= WIDE.1;
    let low = if is_roomy { (area.height * 3 / 10).max(8) } else { 0 };
    let side = match (is_wide, area.width >= 80) {
        (true, _) => 38,
        (false, true) => 31,
        (false, false) => 24,
    };
    let high = area.height - low;
    let main = Rect { width: area.width - side, height: high, ..area };
    let column = Rect { x: main.right(), width: side, height: high, ..area };
    let mut panels = vec![(MAIN, main)];
    if is_wide {
        let now = (high * 6 / 10).max(20).min(high);
        panels.push((NOW, Rect { height: now, ..column }));
        panels.push((EVENTS, Rect { y: column.y + now, height: high - now, ..column }));
    } else {
        panels.push((NOW, column));
    }
    if low > 0 {
        let count: u16 = if is_wide { 4 } else { 3 };
        for number in 0..count {
            let left = area.width * number / count;
            let right = area.width * (number + 1) / count;
            let place = Rect::new(area.x + left, area.y + high, right - left, low);
            panels.push((SMALL + usize::from(number), place));
        }
    }
    panels
}

fn panel(
    app: &App,
    run: &RunModel,
    number: usize,
    area: Rect,
    buffer: &mut Buffer,
    hits: &mut Hits,
) {
    hits.panels.push((area, number));
    let is_focused = app.train.focus == number;
    let theme = &app.theme;
    match number {
        NOW => {
            let inside = frame("now", "", is_focused, theme, area, buffer);
            now::draw(&now::rows(app, run), padded(inside), theme, buffer);
        }
        EVENTS => events(app, run, is_focused, area, buffer),
        MAIN if run.steps.is_empty() && run.evals.is_empty() => {
            preparing(app, run, is_focused, area, buffer);
        }
        _ => {
            let chart = if number == MAIN { 0 } else { number - SMALL + 1 };
            let metric = app.train.metrics[chart.min(app.train.metrics.len() - 1)];
            curve_of(app, run, metric, is_focused, number == MAIN).draw(area, buffer, hits);
        }
    }
}

/// One cell of room on the left and on the right.
fn padded(area: Rect) -> Rect {
    if area.width < 24 {
        return area;
    }
    Rect { x: area.x + 1, width: area.width - 2, ..area }
}

/// What the run does before its first update, so that the first minute is not taken for a hang.
fn preparing(app: &App, run: &RunModel, is_focused: bool, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let is_live = run.status.is_live();
    let title = if is_live { "preparing" } else { "no update was made" };
    let inside = padded(frame(title, "", is_focused, theme, area, buffer));
    let mut pen = Pen::new(inside, buffer);
    let start = run.summary.started.unwrap_or(run.now().ts_ms);
    let mut lines: Vec<(String, String, bool)> = Vec::new();
    for marker in run.markers.iter().filter(|marker| marker.kind == MarkerKind::Phase) {
        let since = (marker.at.ts_ms - start).max(0) as f64 / 1000.0;
        lines.push((frame::duration(since), marker.text.clone(), true));
    }
    for log in run.logs.iter().rev().take(8).rev() {
        let since = (log.at.ts_ms - start).max(0) as f64 / 1000.0;
        lines.push((frame::duration(since), text::printable(&log.what.msg), false));
    }
    let told = &run.summary.run;
    let words =
        [told.model.as_str(), told.method.as_str(), told.data.as_str(), told.device.as_str()];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    pen.text(0, 0, &words.join(" · "), theme.title);
    let room = usize::from(inside.height.saturating_sub(4));
    let lines = &lines[lines.len().saturating_sub(room)..];
    for (y, (time, words, is_phase)) in (2..).zip(lines) {
        pen.right(8, y, time, theme.dim);
        pen.text(10, y, words, if *is_phase { theme.text } else { theme.dim });
    }
    if is_live && app.now_ms > start {
        let since = (app.now_ms - start) as f64 / 1000.0;
        let phase = if run.summary.phase.is_empty() { "starting" } else { &run.summary.phase };
        let words = format!("{phase} … {}", frame::duration(since));
        pen.text(0, 3 + lines.len() as u16, &words, theme.key);
    }
}

/// What happened last, newest at the bottom.
fn events(app: &App, run: &RunModel, is_focused: bool, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let title = Line::from(format!("events  {}", run.markers.len()));
    let inside = Panel { title, is_focused, ..Panel::default() }.draw(area, theme, buffer);
    let inside = padded(inside);
    let mut pen = Pen::new(inside, buffer);
    let shown = usize::from(inside.height).min(run.markers.len());
    for (y, marker) in (0..).zip(&run.markers[run.markers.len() - shown..]) {
        let (sign, name, style) = curve::mark(marker.kind, theme);
        let is_alert = matches!(marker.kind, MarkerKind::Alert | MarkerKind::Skip);
        let words = if marker.text.is_empty() { name } else { &marker.text };
        pen.right(8, y, &frame::thousands(marker.at.step), theme.dim);
        pen.sign(9, y, sign, style);
        let room = usize::from(inside.width.saturating_sub(11));
        let words = crate::tui::plot::pen::shortened(&text::printable(words), room);
        pen.text(11, y, &words, if is_alert { style } else { theme.text });
    }
    let worst = run.alerts.iter().filter(|alert| alert.what.level == Level::Error).count();
    if worst > 0 && area.height > 2 {
        let mut edge = Pen::new(area, buffer);
        edge.right(area.width - 2, area.height - 1, &format!(" {worst} errors "), theme.bad);
    }
}
