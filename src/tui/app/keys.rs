//! Keys and pasted text: to what is open above the view, else by the table of keys.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{App, Overlay};
use crate::tui::action::{Action, Effect};
use crate::tui::edit::LONGEST;
use crate::tui::{keymap, views};

impl App {
    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        let found = keymap::action(self.keys, self.view, key);
        // These two work wherever a line is being edited, too.
        if let Some(action @ (Action::Interrupt | Action::Suspend)) = found {
            return self.act(action);
        }
        match std::mem::take(&mut self.overlay) {
            Overlay::None => {
                let Some(action) = found else { return Vec::new() };
                self.act(action)
            }
            Overlay::Help(state) => views::help::press(self, state, key),
            Overlay::Palette(state) => views::palette::press(self, state, key),
            Overlay::Editor(state) => views::editor::press(self, state, key),
            Overlay::Confirm(words, effects) => self.answer(words, effects, key),
            Overlay::Filter(mut line, before) => {
                match key.code {
                    KeyCode::Enter => {}
                    KeyCode::Esc => views::set_filter(self, &before),
                    KeyCode::Backspace if line.text().is_empty() => {}
                    _ => {
                        if line.take(key) {
                            views::set_filter(self, line.text());
                        }
                        self.overlay = Overlay::Filter(line, before);
                    }
                }
                Vec::new()
            }
        }
    }

    fn answer(&mut self, words: String, effects: Vec<Effect>, key: KeyEvent) -> Vec<Effect> {
        let is_plain = key.modifiers.difference(KeyModifiers::SHIFT).is_empty();
        match key.code {
            KeyCode::Char('y' | 'Y') | KeyCode::Enter if is_plain => effects,
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc if is_plain => Vec::new(),
            _ => {
                self.overlay = Overlay::Confirm(words, effects);
                Vec::new()
            }
        }
    }

    /// Text was pasted: into the line that is open; nowhere else is it a sequence of keys.
    pub(super) fn paste(&mut self, text: &str) {
        let has_room = match &mut self.overlay {
            Overlay::Help(state) => state.line.paste(text),
            Overlay::Palette(state) => state.line.paste(text),
            Overlay::Editor(state) => state.paste(text),
            Overlay::Filter(line, _) => {
                let has_room = line.paste(text);
                let text = line.text().to_owned();
                views::set_filter(self, &text);
                has_room
            }
            Overlay::None | Overlay::Confirm(..) => true,
        };
        if !has_room {
            self.say(format!(
                "a line holds {LONGEST} characters: the end of the paste is left out"
            ));
        }
    }
}
