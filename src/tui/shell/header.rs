//! The two lines above a view: which run and how far it is, and the tabs.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::{bar, dot, put, sign, tab};
use crate::report::text;
use crate::runlog::Level;
use crate::tui::action::{Action, ViewId};
use crate::tui::app::App;
use crate::tui::views::Hits;
use crate::tui::views::frame::letter;

/// The header: program, run, state, step, time left. Parts are dropped whole where they do not fit.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let width = usize::from(area.width);
    let mut right = progress(app);
    let mut left = names(app);
    let start = format!(" fullrank {} ", bar(app));
    let len = |parts: &[String]| parts.iter().map(|part| part.width() + 3).sum::<usize>();
    while start.width() + len(&left) + len(&right) + 2 > width && left.len() > 1 {
        left.pop();
    }
    while start.width() + len(&left) + len(&right) + 2 > width && right.len() > 1 {
        right.pop();
    }
    if start.width() + len(&left) + len(&right) + 2 > width {
        left.clear();
    }
    let x = put(buffer, area, &start, app.theme.title);
    let left = left.join(&format!(" {} ", dot(app)));
    put(buffer, after(area, x), &left, app.theme.text);
    let words = right.join("   ");
    let x = area.right().saturating_sub(words.width() as u16 + 2).max(area.x);
    let style = app.run().map_or(app.theme.dim, |run| sign(app, run.status).1);
    put(buffer, after(area, x), &words, style);
}

/// The one line of small screens.
pub fn status_line(app: &App, area: Rect, buffer: &mut Buffer) {
    let mut parts = progress(app);
    if let Some(loss) = app.run().and_then(|run| run.summary.smooth.value()) {
        parts.insert(1, format!("loss {}", text::loss(loss)));
    }
    while parts.len() > 1 && parts.join(" ").width() > usize::from(area.width) {
        parts.pop();
    }
    let style = app.run().map_or(app.theme.dim, |run| sign(app, run.status).1);
    put(buffer, area, &parts.join(" "), style);
}

/// The tabs, as long as they fit; each can be clicked.
pub fn tabs(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    let alerts = app
        .run()
        .map_or(0, |run| run.alerts.iter().filter(|alert| alert.what.level != Level::Info).count());
    let named: Vec<String> = ViewId::ALL
        .iter()
        .map(|view| match (app.key(tab(*view)), view) {
            (key, ViewId::Logs) if alerts > 0 => format!("{key} {}({alerts})", view.title()),
            (key, _) => format!("{key} {}", view.title()),
        })
        .collect();
    let all: usize = named.iter().map(|name| name.width() + 2).sum();
    let is_named = all < usize::from(area.width);
    let mut x = area.x;
    for (view, name) in ViewId::ALL.into_iter().zip(&named) {
        let is_here = view == app.view;
        let name = if is_named || is_here { name.as_str() } else { app.key(tab(view)) };
        let (words, style) = if is_here {
            (format!("[{name}]"), theme.focus)
        } else {
            (format!(" {name} "), theme.text)
        };
        let start = x;
        x = put(buffer, after(area, x), &words, style);
        hits.actions.push((Rect { x: start, width: x - start, ..area }, tab(view)));
    }
    // Where both do not fit, the way to all other keys does.
    let ways = [(Action::Help, "help"), (Action::Palette, "command")]
        .map(|(action, word)| (action, format!("{} {word}", app.key(action))));
    let len = |ways: &[(Action, String)]| ways.iter().map(|way| way.1.width() + 2).sum::<usize>();
    let room = usize::from(area.right().saturating_sub(x));
    let count = [2, 1].into_iter().find(|count| len(&ways[..*count]) < room).unwrap_or(0);
    let mut x = area.right().saturating_sub(len(&ways[..count]).saturating_sub(1) as u16);
    for (action, words) in &ways[..count] {
        let start = x;
        x = put(buffer, after(area, x), words, theme.dim);
        hits.actions.push((Rect { x: start, width: x - start, ..area }, *action));
        x += 2;
    }
}

/// What is trained: the most important first.
fn names(app: &App) -> Vec<String> {
    if app.view == ViewId::Runs {
        let live = app.browser.iter().filter(|run| run.status.is_live()).count();
        let noun = if app.browser.len() == 1 { "run" } else { "runs" };
        return vec![format!("{} {noun}", app.browser.len()), format!("{live} live")];
    }
    let Some(run) = app.run() else { return vec!["preparing".into()] };
    let what = &run.summary.run;
    let method = match what.rank {
        Some(rank) => format!("{} r{rank}", what.method),
        None => what.method.clone(),
    };
    let mut parts = vec![method, what.model.clone(), what.data.clone()];
    if app.runs.len() > 1 {
        let letter = letter(app.active);
        parts.insert(0, format!("{letter} of {}", app.runs.len()));
    }
    parts.retain(|part| !part.is_empty());
    parts.iter().map(|part| text::printable(part)).collect()
}

/// How far it is: the most important first.
fn progress(app: &App) -> Vec<String> {
    let Some(run) = app.run() else { return Vec::new() };
    let (sign, _) = sign(app, run.status);
    let all = run.summary.run.steps;
    let step = run.summary.step;
    if run.revision == 0 {
        // Its files have not been read yet, or it has not begun.
        let words = if app.own == Some(app.active) { "preparing" } else { "loading" };
        return vec![words.into()];
    }
    let times = if app.theme.is_ascii { 'x' } else { '×' };
    let state = match run.replay {
        Some(speed) => format!("REPLAY {times}{speed}"),
        None => format!("{sign} {}", run.status.word().to_uppercase()),
    };
    let mut parts = vec![state];
    if app.is_frozen {
        parts[0].push_str(" (frozen)");
    }
    if all > 0 {
        let percent = 100.0 * step as f64 / all as f64;
        parts.push(format!("step {}/{}", text::count(step), text::count(all)));
        parts.push(format!("{percent:.0}%"));
    }
    if run.takes_commands() {
        match run.left_s() {
            Some(left) => parts.push(format!("ETA {}", text::clock(left))),
            None => parts.push("ETA -".into()),
        }
    }
    parts
}

fn after(area: Rect, x: u16) -> Rect {
    Rect { x, width: area.right().saturating_sub(x), ..area }
}
