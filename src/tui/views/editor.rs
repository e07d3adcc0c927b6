//! Settings of the run that may change in flight: old value, new value, sent together.

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::Rect;

use super::frame::edited;
use crate::runlog::control;
use crate::tui::action::Effect;
use crate::tui::app::{App, Overlay};
use crate::tui::edit::Line;
use crate::tui::model::RunModel;
use crate::tui::settings;

/// Width of the columns of keys and of values.
const KEY_WIDTH: u16 = 23;
const VALUE_WIDTH: u16 = 12;

/// One setting in the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The setting.
    pub key: &'static str,
    /// What the run has.
    pub old: String,
    /// What it is to get; as long as it is the old value nothing is sent.
    pub new: Line,
    /// Whether it may change in flight.
    pub is_live: bool,
}

impl Row {
    fn is_changed(&self) -> bool {
        self.is_live && self.new.text().trim() != self.old
    }
}

/// What stands in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The settings, those that may change first.
    pub rows: Vec<Row>,
    /// The row under the cursor.
    pub selected: usize,
    /// Why the changes were not sent.
    pub error: Option<String>,
}

impl State {
    /// The settings of a run.
    pub fn of(run: &RunModel) -> Self {
        let row = |key: &'static str, is_live| {
            let old = settings::value(run, key).unwrap_or_default();
            Row { key, new: Line::new(old.clone()), old, is_live }
        };
        let live =
            settings::all().filter(|key| settings::concerns(run, key)).map(|key| row(key, true));
        let fixed = settings::FIXED.into_iter().map(|key| row(key, false));
        let rows = live.chain(fixed.filter(|row| !row.old.is_empty())).collect();
        Self { rows, selected: 0, error: None }
    }

    /// Text was pasted: into the value under the cursor. Answers whether all of it had room.
    pub fn paste(&mut self, text: &str) -> bool {
        let row = self.rows.get_mut(self.selected).filter(|row| row.is_live);
        row.is_none_or(|row| row.new.paste(text))
    }

    /// The commands of all changes.
    ///
    /// Errors: in words, the first value that is none.
    fn changes(&self) -> Result<Vec<control::Action>, String> {
        let changed = self.rows.iter().filter(|row| row.is_changed());
        changed
            .map(|row| {
                let value = settings::parse(row.key, row.new.text())?;
                Ok(control::Action::Set { key: row.key.into(), value })
            })
            .collect()
    }
}

/// A key was pressed while it is open.
pub fn press(app: &mut App, mut state: State, key: KeyEvent) -> Vec<Effect> {
    let live = state.rows.iter().filter(|row| row.is_live).count();
    state.error = None;
    match key.code {
        KeyCode::Esc => return Vec::new(),
        KeyCode::Enter => match state.changes() {
            Ok(actions) => {
                return actions.into_iter().flat_map(|action| app.send(action)).collect();
            }
            Err(error) => state.error = Some(error),
        },
        KeyCode::Up | KeyCode::BackTab => state.selected = state.selected.saturating_sub(1),
        KeyCode::Down | KeyCode::Tab => {
            state.selected = (state.selected + 1).min(live.saturating_sub(1));
        }
        // Values are numbers, so this letter is free.
        KeyCode::Char('u') => {
            if let Some(row) = state.rows.get_mut(state.selected) {
                row.new = Line::new(row.old.clone());
            }
        }
        _ => {
            if let Some(row) = state.rows.get_mut(state.selected).filter(|row| row.is_live) {
                row.new.take(key);
            }
        }
    }
    app.overlay = Overlay::Editor(state);
    Vec::new()
}

/// Draws it into the inside of its frame.
pub fn draw(app: &App, state: &State, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let width = usize::from(area.width);
    let arrow = if theme.is_ascii { "->" } else { "→" };
    // What is below the last row that fits comes up with the cursor.
    let room = usize::from(area.height.saturating_sub(2));
    let first = (state.selected + 1).saturating_sub(room);
    for (place, row) in state.rows.iter().enumerate().skip(first).take(room) {
        let y = area.y + (place - first) as u16;
        let style = if row.is_live { theme.text } else { theme.dim };
        let put = |buffer: &mut Buffer, x: u16, text: &str, style| {
            if x < area.right() {
                buffer.set_stringn(x, y, text, usize::from(area.right() - x), style);
            }
        };
        put(buffer, area.x + 1, row.key, style);
        let x = area.x + 1 + KEY_WIDTH;
        let old = if row.old.is_empty() { "-" } else { &row.old };
        put(buffer, x, old, style);
        let x = x + VALUE_WIDTH;
        let is_here = place == state.selected;
        if !row.is_live {
            put(buffer, x, "(needs a new run)", theme.dim);
        } else if row.is_changed() || is_here {
            let style = if row.is_changed() { theme.act } else { theme.dim };
            put(buffer, x, arrow, style);
            let start = x + arrow.chars().count() as u16 + 1;
            let rest = Rect::new(start, y, area.right().saturating_sub(start), 1);
            if is_here {
                edited(&row.new, rest, style, theme, buffer);
            } else {
                put(buffer, start, row.new.text(), style);
            }
        } else if let Some(remark) = app.run().and_then(|run| settings::remark(run, row.key)) {
            put(buffer, x, &remark, theme.dim);
        }
        if is_here {
            put(buffer, area.x, if theme.is_ascii { ">" } else { "▸" }, theme.key);
        }
    }
    if area.height == 0 {
        return;
    }
    let changes = state.rows.iter().filter(|row| row.is_changed()).count();
    let (words, style) = match &state.error {
        Some(error) => (error.clone(), theme.bad),
        None if changes == 1 => ("Enter apply 1 change   u undo   Esc cancel".into(), theme.dim),
        None => (format!("Enter apply {changes} changes   u undo   Esc cancel"), theme.dim),
    };
    buffer.set_stringn(area.x, area.bottom() - 1, words, width, style);
}
