//! What stands around every view: header, tabs, the line of alerts and notices, hints; overlays above.
//!
//! Small screens lose these lines whole, in a fixed order, before the view loses anything.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget};
use unicode_width::UnicodeWidthStr;

use super::action::{Action, ViewId};
use super::app::{App, Overlay};
use super::views::{self, Hits, frame};
use crate::report::text;
use crate::runlog::{Level, Status};

mod footer;
mod header;
mod overlay;

/// Below this there is one line of text.
const SMALLEST: (u16, u16) = (20, 5);
/// Below this there is the view and one line.
const SMALL: (u16, u16) = (60, 16);

/// Rows of a notice at most.
const NOTICE_ROWS: usize = 4;

/// Rows that one frame smooths, over all runs: a few milliseconds. The rest comes with the next frames.
const SMOOTHED: usize = 1 << 17;

/// Draws the whole screen and notes what stands where.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let area = area.intersection(buffer.area);
    hits.actions.clear();
    hits.panels.clear();
    hits.charts.clear();
    if area.is_empty() {
        return;
    }
    // Comparisons smooth all runs, other views the one on the screen.
    let drawn = if app.view == ViewId::Compare { app.runs.len().max(1) } else { 1 };
    app.runs.iter().for_each(|run| run.allow_smoothing(SMOOTHED / drawn));
    let mut left = area;
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        too_small(app, area, buffer);
        return;
    }
    if area.width < SMALL.0 || area.height < SMALL.1 {
        header::status_line(app, top(&mut left), buffer);
    } else {
        header::draw(app, top(&mut left), buffer);
        header::tabs(app, top(&mut left), buffer, hits);
        footer::draw(app, bottom(&mut left), buffer, hits);
        if has_message(app) {
            message(app, bottom(&mut left), buffer, hits);
        }
    }
    views::draw(app, left, buffer, hits);
    if left.bottom() + 1 < area.bottom() {
        notice(app, left, buffer);
    }
    if app.overlay != Overlay::None {
        // What is covered cannot be clicked.
        hits.panels.clear();
        hits.charts.clear();
        overlay::draw(app, area, left, buffer, hits);
    }
}

fn too_small(app: &App, area: Rect, buffer: &mut Buffer) {
    let (width, height) = SMALLEST;
    let words = match app.run() {
        Some(run) => format!("{} step {}", run.status, text::count(run.summary.step)),
        None => format!("needs {width}x{height}"),
    };
    put(buffer, row(area, 0), &words, app.theme.text);
    let size = format!("needs {width}x{height}");
    put(buffer, row(area, 1), &size, app.theme.dim);
}

fn has_message(app: &App) -> bool {
    let now_ms = app.now_ms;
    app.notice.is_some()
        || app.alert().is_some()
        || app.run().is_some_and(|run| run.is_paused || run.stalled_s(now_ms).is_some())
}

/// One line: the newest alert, else that the run waits; empty where what was just done is said.
fn message(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    if app.notice.is_some() {
        return;
    }
    if let Some(since) = app.run().and_then(|run| run.stalled_s(app.now_ms)) {
        let median = app.run().and_then(|run| run.pace.step_s()).unwrap_or_default();
        let words = format!(
            " no update for {}, the median is {median:.2} s: the process lives, its device may hang",
            frame::duration(since)
        );
        put(buffer, area, fit(&words, usize::from(area.width)), theme.warn);
        return;
    }
    if let Some((alert, count)) = app.alert() {
        let sign = if theme.is_ascii { "!" } else { "⚠" };
        let style = if alert.what.level == Level::Error { theme.bad } else { theme.warn };
        let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        let dash = if theme.is_ascii { "-" } else { "—" };
        let (jump, dismiss) = (app.key(Action::JumpAlert), app.key(Action::DismissAlert));
        let keys = format!("{dash} {jump}: jump {} {dismiss}: dismiss ", dot(app));
        let room = usize::from(area.width).saturating_sub(keys.width() + 1);
        let what = format!(
            " {sign} step {}: {}{others}",
            text::count(alert.at.step),
            text::printable(&alert.what.what)
        );
        // Half a remedy is none.
        let whole = format!("{what} {} {}", dot(app), text::printable(&alert.what.remedy));
        let has_remedy = !alert.what.remedy.is_empty() && whole.width() <= room;
        let words = if has_remedy { whole } else { what };
        let end = put(buffer, cut(area, room), fit(words.trim_end(), room), style);
        let keys_area = Rect { x: end + 1, width: area.right().saturating_sub(end + 1), ..area };
        put(buffer, keys_area, &keys, theme.dim);
        hits.actions.push((Rect { width: end - area.x, ..area }, Action::JumpAlert));
        hits.actions.push((keys_area, Action::DismissAlert));
        return;
    }
    if let Some(run) = app.run().filter(|run| run.is_paused) {
        let words = format!(
            " PAUSED at step {} {dot} {}: resume {dot} {}: checkpoint and free the device's memory",
            text::count(run.summary.step),
            app.key(Action::PauseResume),
            app.key(Action::Unload),
            dot = dot(app)
        );
        put(buffer, area, &words, theme.warn);
        hits.actions.push((area, Action::PauseResume));
    }
}

/// What was just done, in the row below the view; what it has beyond one row stands over the view's last ones, which
/// keeps its place.
fn notice(app: &App, view: Rect, buffer: &mut Buffer) {
    let Some((notice, _)) = &app.notice else { return };
    let lines = text::wrap(notice, usize::from(view.width).saturating_sub(4), NOTICE_ROWS);
    let top = (view.bottom() + 1).saturating_sub(lines.len() as u16).max(view.y);
    let rows = top..=view.bottom();
    for (y, line) in rows.zip(lines) {
        let row = Rect { y, height: 1, ..view };
        Clear.render(row, buffer);
        put(buffer, row, &format!(" {line}"), app.theme.title);
        frame::plain(&app.theme, row, buffer);
    }
}

/// Text on one row, as much of it as fits; answers the column after it.
fn put(buffer: &mut Buffer, area: Rect, text: &str, style: Style) -> u16 {
    if area.is_empty() {
        return area.x;
    }
    buffer.set_stringn(area.x, area.y, text, usize::from(area.width), style).0
}

/// The beginning of a text that is not wider than `width` columns, up to a whole word where it is cut.
fn fit(text: &str, width: usize) -> &str {
    if text.width() <= width {
        return text;
    }
    let mut used = 0;
    let mut end = 0;
    for word in text.split_inclusive(' ') {
        used += word.width();
        if used > width {
            break;
        }
        end += word.len();
    }
    &text[..end]
}

fn cut(area: Rect, width: usize) -> Rect {
    Rect { width: area.width.min(width.min(usize::from(u16::MAX)) as u16), ..area }
}

fn row(area: Rect, number: u16) -> Rect {
    Rect { y: area.y.saturating_add(number), height: 1, ..area }.intersection(area)
}

/// Takes the first row off.
fn top(left: &mut Rect) -> Rect {
    let line = Rect { height: left.height.min(1), ..*left };
    left.y += line.height;
    left.height -= line.height;
    line
}

/// Takes the last row off.
fn bottom(left: &mut Rect) -> Rect {
    left.height = left.height.saturating_sub(1);
    Rect { y: left.bottom(), height: 1, ..*left }
}

fn dot(app: &App) -> &'static str {
    if app.theme.is_ascii { "." } else { "·" }
}

fn bar(app: &App) -> &'static str {
    if app.theme.is_ascii { "|" } else { "│" }
}

/// The sign and style of a status.
fn sign(app: &App, status: Status) -> (&'static str, Style) {
    let theme = &app.theme;
    let (unicode, ascii, style) = match status {
        Status::Live => ("●", "*", theme.good),
        Status::Paused => ("‖", "=", theme.warn),
        Status::Finished => ("✓", "+", theme.good),
        Status::Stopped | Status::Interrupted => ("■", "#", theme.warn),
        Status::Diverged | Status::Failed | Status::Crashed => ("✗", "x", theme.bad),
    };
    (if theme.is_ascii { ascii } else { unicode }, style)
}

/// The view that a tab opens.
fn tab(view: ViewId) -> Action {
    Action::View(view)
}

#[cfg(test)]
mod tests;
