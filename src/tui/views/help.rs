//! All keys, searchable; a chosen entry runs.

use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::Rect;

use crate::tui::action::{Effect, ViewId};
use crate::tui::app::{App, Overlay};
use crate::tui::edit::Line;
use crate::tui::keymap::{self, Binding, Keymap};

/// Width of the column with the keys.
const KEYS_WIDTH: u16 = 13;
/// Rows that `PgUp` and `PgDn` move by.
const PAGE: usize = 10;

/// What stands in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// What is searched for.
    pub line: Line,
    /// The entry under the cursor.
    pub selected: usize,
}

/// The entries that fit what is searched for, best first; all in the order of the table without a search.
pub fn entries(keys: Keymap, view: ViewId, search: &str) -> Vec<&'static Binding> {
    let all = keymap::of(keys, view);
    if search.trim().is_empty() {
        let (acts, looks): (Vec<_>, Vec<_>) = all.partition(|binding| binding.action.acts());
        return looks.into_iter().chain(acts).collect();
    }
    let mut matcher = Matcher::new(Config::DEFAULT);
    let pattern = Pattern::parse(search, CaseMatching::Smart, Normalization::Smart);
    let mut letters = Vec::new();
    let mut found: Vec<(u32, &Binding)> = all
        .filter_map(|binding| {
            let text = format!("{} {} {}", binding.name, binding.help, binding.keys);
            let score = pattern.score(Utf32Str::new(&text, &mut letters), &mut matcher)?;
            Some((score, binding))
        })
        .collect();
    found.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    found.into_iter().map(|(_, binding)| binding).collect()
}

/// A key was pressed while it is open.
pub fn press(app: &mut App, mut state: State, key: KeyEvent) -> Vec<Effect> {
    let last = entries(app.keys, app.view, state.line.text()).len().saturating_sub(1);
    match key.code {
        KeyCode::Esc => return Vec::new(),
        KeyCode::Enter => {
            let entry = entries(app.keys, app.view, state.line.text()).get(state.selected).copied();
            return entry.map_or_else(Vec::new, |entry| app.act(entry.action));
        }
        KeyCode::Up => state.selected = state.selected.saturating_sub(1),
        KeyCode::Down => state.selected = (state.selected + 1).min(last),
        KeyCode::PageUp => state.selected = state.selected.saturating_sub(PAGE),
        KeyCode::PageDown => state.selected = (state.selected + PAGE).min(last),
        KeyCode::Char('?') if state.line.text().is_empty() => return Vec::new(),
        _ => {
            if state.line.take(key) {
                state.selected = 0;
            }
        }
    }
    app.overlay = Overlay::Help(state);
    Vec::new()
}

/// Draws it into the inside of its frame.
pub fn draw(app: &App, state: &State, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let width = usize::from(area.width);
    if area.height < 3 {
        return;
    }
    super::palette::prompt(app, &state.line, area, buffer);
    let found = entries(app.keys, app.view, state.line.text());
    let is_search = !state.line.text().trim().is_empty();
    // Rows of text: headings between what looks and what acts, where nothing is searched for.
    let mut rows: Vec<Result<(usize, &Binding), &str>> = Vec::new();
    for (place, binding) in found.iter().enumerate() {
        let begins = |acts: bool| {
            binding.action.acts() == acts && (place == 0 || found[place - 1].action.acts() != acts)
        };
        if !is_search && begins(false) {
            rows.push(Err("LOOK  (small letters and symbols, never change the run)"));
        }
        if !is_search && begins(true) {
            rows.push(Err(
                "ACT  (capitals, recorded in the run's log; what loses work asks before)",
            ));
        }
        rows.push(Ok((place, binding)));
    }
    if rows.is_empty() {
        rows.push(Err("nothing fits; Esc closes"));
    }
    let room = usize::from(area.height - 2);
    let at = rows
        .iter()
        .position(|row| matches!(row, Ok((place, _)) if *place == state.selected))
        .unwrap_or(0);
    let first = (at + room / 2 + 1).saturating_sub(room).min(rows.len().saturating_sub(room));
    for (y, row) in (area.y + 2..area.bottom()).zip(rows.iter().skip(first)) {
        match row {
            Err(heading) => {
                buffer.set_stringn(area.x, y, heading, width, theme.title);
            }
            Ok((place, binding)) => {
                let key = if binding.action.acts() { theme.act } else { theme.key };
                buffer.set_stringn(area.x + 2, y, binding.keys, width.saturating_sub(2), key);
                let x = area.x + 2 + KEYS_WIDTH;
                let room = usize::from(area.right().saturating_sub(x));
                if room > 0 {
                    buffer.set_stringn(x, y, binding.help, room, theme.text);
                }
                if *place == state.selected {
                    buffer.set_style(Rect { y, height: 1, ..area }, theme.selected);
                }
            }
        }
    }
}
