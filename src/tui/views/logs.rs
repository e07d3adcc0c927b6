//! Messages, and texts that the model wrote.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::Hits;
use super::frame;
use crate::report::text;
use crate::runlog::Level;
use crate::tui::action::{Action, Effect};
use crate::tui::app::App;
use crate::tui::model::RunModel;
use crate::tui::plot::Panel;
use crate::tui::plot::pen::{Pen, shortened};
use crate::tui::sheet::Sheet;

mod entries;
mod samples;

pub use entries::Entry;

const LOG: usize = 0;
pub(super) const SAMPLES: usize = 1;
const PANELS: usize = 2;

/// Rows that a page moves by.
const PAGE: usize = 10;
/// Below this height there is only the log.
const TWO_PANELS: u16 = 14;
/// Cells of time, level and source.
const TIME: u16 = 13;
const LEVEL: u16 = 6;
const SOURCE: u16 = 9;
/// Below this width sources are left out, below the next one levels too, then times.
const NO_SOURCE: u16 = 60;
const NO_LEVEL: u16 = 40;

/// What a user chose in this view.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The panel in focus.
    pub focus: usize,
    /// What is shown, in the words of the filter.
    pub filter: String,
    /// The least serious level that is shown; none: all.
    pub level: Option<Level>,
    /// The message under the cursor, counted among those that are shown; none: the newest, which is followed.
    pub selected: Option<usize>,
    /// Whether long messages go on in the next row.
    pub is_wrapped: bool,
    /// The prompt whose samples are shown, counted in the order in which prompts appeared.
    pub prompt: usize,
    /// How many samples before the newest.
    pub back: usize,
    /// First row of the sample that is shown.
    pub scroll: usize,
    /// Whether words that changed since the sample before are marked.
    pub shows_diff: bool,
}

/// What an action changes here.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    match action {
        Action::NextPanel => app.logs.focus = (app.logs.focus + 1) % PANELS,
        Action::PrevPanel => app.logs.focus = (app.logs.focus + PANELS - 1) % PANELS,
        Action::Level => {
            app.logs.level = match app.logs.level {
                None | Some(Level::Info) => Some(Level::Warn),
                Some(Level::Warn) => Some(Level::Error),
                Some(Level::Error) => None,
            };
            app.logs.selected = None;
        }
        Action::Wrap => app.logs.is_wrapped = !app.logs.is_wrapped,
        Action::Diff => app.logs.shows_diff = !app.logs.shows_diff,
        Action::Follow => app.logs.selected = None,
        Action::Export => return vec![Effect::Export(false)],
        Action::Maximise => app.is_maximised = !app.is_maximised,
        _ if app.logs.focus == SAMPLES => return samples::update(app, action),
        Action::Up => step(app, -1),
        Action::Down => step(app, 1),
        Action::PageUp => step(app, -(PAGE as isize)),
        Action::PageDown => step(app, PAGE as isize),
        Action::Home => app.logs.selected = Some(0),
        Action::End => app.logs.selected = None,
        Action::FindNext | Action::FindPrev => find(app, action == Action::FindNext),
        Action::Open => jump(app),
        Action::Copy => {
            let selected =
                app.run().and_then(|run| entries::shown(run, &app.logs).get(place(app)).cloned());
            return selected.map(|entry| Effect::Copy(entry.text)).into_iter().collect();
        }
        _ => {}
    }
    Vec::new()
}

fn count(app: &App) -> usize {
    app.run().map_or(0, |run| entries::shown(run, &app.logs).len())
}

/// The message under the cursor.
fn place(app: &App) -> usize {
    let last = count(app).saturating_sub(1);
    app.logs.selected.map_or(last, |selected| selected.min(last))
}

fn step(app: &mut App, by: isize) {
    let last = count(app).saturating_sub(1);
    let to = place(app).saturating_add_signed(by).min(last);
    // At the newest message the log follows again.
    app.logs.selected = (to < last).then_some(to);
}

/// To the next or the previous warning or error.
fn find(app: &mut App, is_next: bool) {
    let Some(run) = app.run() else { return };
    let shown = entries::shown(run, &app.logs);
    let now = place(app);
    let is_hit = |place: &usize| shown[*place].level != Level::Info;
    let found = if is_next {
        (now + 1..shown.len()).find(is_hit)
    } else {
        (0..now.min(shown.len())).rev().find(is_hit)
    };
    if found.is_some() {
        app.logs.selected = found;
    }
}

/// Puts the cursor of all charts to the update of a message and shows the run there.
fn jump(app: &mut App) {
    let Some(run) = app.run() else { return };
    let Some(at) = entries::shown(run, &app.logs).get(place(app)).map(|entry| entry.at) else {
        return;
    };
    let place = run.steps.clock.place(at, app.axes.x);
    if place.is_finite() {
        app.axes.cursor = Some(place);
        app.view = crate::tui::action::ViewId::Train;
    }
}

/// Draws the view.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    if let Some(run) = app.run() {
        for (number, place) in layout(app, run, area) {
            hits.panels.push((place, number));
            let is_focused = app.logs.focus == number;
            if number == LOG {
                log(app, run, is_focused, place, buffer);
            } else {
                samples::draw(app, run, is_focused, place, buffer);
            }
        }
    } else {
        frame::say(&frame::no_run(app), app.theme.dim, &app.theme, area, buffer);
    }
    frame::plain(&app.theme, area, buffer);
}

/// What is wrong with the filter.
pub(super) fn wrong_filter(app: &App) -> Option<String> {
    entries::Wanted::of(&app.logs).wrong
}

/// The messages that are shown, as rows for files.
pub(super) fn sheet(app: &App, run: &RunModel) -> Sheet<'static> {
    let mut sheet = Sheet::new(&["ts_ms", "step", "level", "source", "text"]);
    for entry in entries::shown(run, &app.logs) {
        let (at, level) = (entry.at, entry.level.word());
        let source = entry.source.into();
        sheet.row([at.ts_ms.into(), at.step.into(), level.into(), source, entry.text.into()]);
    }
    sheet
}

/// The log above, samples below; without samples the log has all.
fn layout(app: &App, run: &RunModel, area: Rect) -> Vec<(usize, Rect)> {
    if app.is_maximised {
        return vec![(app.logs.focus, area)];
    }
    if area.height < TWO_PANELS || run.samples.is_empty() {
        return vec![(if run.samples.is_empty() { LOG } else { app.logs.focus }, area)];
    }
    let upper = (area.height * 3 / 5).max(6);
    vec![
        (LOG, Rect { height: upper, ..area }),
        (SAMPLES, Rect { y: area.y + upper, height: area.height - upper, ..area }),
    ]
}

fn log(app: &App, run: &RunModel, is_focused: bool, area: Rect, buffer: &mut Buffer) {
    let (theme, state) = (&app.theme, &app.logs);
    let all = entries::all(run);
    let wanted = entries::Wanted::of(state);
    let shown: Vec<&Entry> = all.iter().filter(|entry| wanted.passes(entry)).collect();
    let mut title = vec![Span::styled("log", theme.title)];
    let level = state.level.unwrap_or(Level::Info);
    title.push(Span::styled(
        format!("  level ≥ {}", entries::level_name(level).to_lowercase()),
        theme.dim,
    ));
    if !state.filter.is_empty() {
        title.push(Span::styled(
            format!("  filter: {}", frame::shown_filter(app, &state.filter)),
            theme.key,
        ));
    }
    if let Some(wrong) = &wanted.wrong {
        title.push(Span::styled(format!("  ({wrong})"), theme.warn));
    }
    let follow = match state.selected {
        None => "  following".into(),
        Some(_) => format!("  {}: follow", app.key(Action::Follow)),
    };
    title.push(Span::styled(follow, theme.dim));
    let counts = format!("{} messages · {} shown", all.len(), shown.len());
    let note = Line::from(vec![Span::raw(counts), Span::styled(" · UTC", theme.dim)]);
    let panel = Panel { title: Line::from(title), note, is_focused };
    let inside = panel.draw(area, theme, buffer);
    let mut pen = Pen::new(inside, buffer);
    if shown.is_empty() {
        let words =
            if all.is_empty() { "no message yet" } else { "no message passes level and filter" };
        pen.text(0, 0, words, theme.dim);
        return;
    }
    let selected = state.selected.map_or(shown.len() - 1, |selected| selected.min(shown.len() - 1));
    // As much as fits, with the selected message in sight: filled from it upwards, then downwards.
    let columns = columns(inside.width);
    let heights =
        |entry: &Entry| rows_of(entry, state.is_wrapped, columns.text, inside.width).len();
    let room = usize::from(inside.height);
    let (mut first, mut used) = (selected, heights(shown[selected]));
    while first > 0 {
        let more = heights(shown[first - 1]);
        if used + more > room {
            break;
        }
        used += more;
        first -= 1;
    }
    let mut y = 0;
    for (place, entry) in shown.iter().enumerate().skip(first) {
        if y >= inside.height {
            break;
        }
        let is_selected = place == selected && state.selected.is_some();
        y += message(app, entry, columns, is_selected, y, &mut pen);
    }
}

/// Where the columns of the log begin; none for one that is left out.
#[derive(Clone, Copy)]
struct Columns {
    level: Option<u16>,
    source: Option<u16>,
    text: u16,
    has_time: bool,
}

fn columns(width: u16) -> Columns {
    let has_level = width >= NO_LEVEL;
    let has_source = width >= NO_SOURCE;
    let time = if has_level { TIME } else { 0 };
    let level = if has_level { LEVEL } else { 0 };
    let source = if has_source { SOURCE } else { 0 };
    Columns {
        level: has_level.then_some(time),
        source: has_source.then_some(time + level),
        text: time + level + source,
        has_time: has_level,
    }
}

/// The rows of a message.
fn rows_of(entry: &Entry, is_wrapped: bool, left: u16, width: u16) -> Vec<String> {
    let room = usize::from(width.saturating_sub(left)).max(1);
    if is_wrapped {
        let rows = text::wrap(&entry.text, room, 40);
        if rows.is_empty() { vec![String::new()] } else { rows }
    } else {
        vec![shortened(&entry.text, room)]
    }
}

fn message(
    app: &App,
    entry: &Entry,
    columns: Columns,
    is_selected: bool,
    y: u16,
    pen: &mut Pen,
) -> u16 {
    let theme = &app.theme;
    let style = match entry.level {
        Level::Error => theme.bad,
        Level::Warn => theme.warn,
        Level::Info => theme.text,
    };
    if columns.has_time {
        pen.text(0, y, &entries::clock(entry.at.ts_ms), theme.dim);
    }
    if let Some(x) = columns.level {
        pen.text(x, y, entries::level_name(entry.level), style);
    }
    if let Some(x) = columns.source {
        pen.text(x, y, entry.source, theme.dim);
    }
    let rows = rows_of(entry, app.logs.is_wrapped, columns.text, pen.area.width);
    for (row, words) in (y..).zip(&rows) {
        pen.text(columns.text, row, words, style);
        if is_selected && row < pen.area.height {
            let line = Rect { y: pen.area.y + row, height: 1, ..pen.area };
            pen.buffer.set_style(line, theme.selected);
        }
    }
    rows.len() as u16
}
