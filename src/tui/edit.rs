//! A line of text that is being edited: what keys do in it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tui_input::{Input, InputRequest};

/// Characters that a line holds: a paste by mistake must not slow every frame down that reads it.
pub const LONGEST: usize = 1000;

/// A line of text with its cursor.
#[derive(Debug, Clone, Default)]
pub struct Line {
    input: Input,
}

impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text() && self.cursor() == other.cursor()
    }
}

impl Line {
    /// A line with the cursor at its end.
    pub fn new(text: impl Into<String>) -> Self {
        Self { input: Input::new(text.into()) }
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.input.value()
    }

    /// The cursor, in characters from the beginning.
    pub fn cursor(&self) -> usize {
        self.input.cursor()
    }

    /// Columns of the screen before the cursor.
    pub fn cursor_column(&self) -> usize {
        self.input.visual_cursor()
    }

    /// Takes a key as text or as a movement; answers whether it was one.
    pub fn take(&mut self, key: KeyEvent) -> bool {
        let has = |modifier| key.modifiers.contains(modifier);
        let (is_ctrl, is_alt) = (has(KeyModifiers::CONTROL), has(KeyModifiers::ALT));
        let request = match key.code {
            KeyCode::Char('a') if is_ctrl => InputRequest::GoToStart,
            KeyCode::Char('e') if is_ctrl => InputRequest::GoToEnd,
            KeyCode::Char('u') if is_ctrl => InputRequest::DeleteLine,
            KeyCode::Char('w') if is_ctrl => InputRequest::DeletePrevWord,
            KeyCode::Char('k') if is_ctrl => InputRequest::DeleteTillEnd,
            KeyCode::Char(letter) if !is_ctrl && !is_alt && !letter.is_control() => {
                if self.room() == 0 {
                    return true;
                }
                InputRequest::InsertChar(letter)
            }
            KeyCode::Backspace if is_ctrl || is_alt => InputRequest::DeletePrevWord,
            KeyCode::Backspace => InputRequest::DeletePrevChar,
            KeyCode::Delete => InputRequest::DeleteNextChar,
            KeyCode::Left if is_ctrl => InputRequest::GoToPrevWord,
            KeyCode::Right if is_ctrl => InputRequest::GoToNextWord,
            KeyCode::Left => InputRequest::GoToPrevChar,
            KeyCode::Right => InputRequest::GoToNextChar,
            KeyCode::Home => InputRequest::GoToStart,
            KeyCode::End => InputRequest::GoToEnd,
            _ => return false,
        };
        self.input.handle(request);
        true
    }

    /// Puts text in at the cursor, without line ends: what was pasted, as much of it as has room. Answers whether all
    /// of it had.
    pub fn paste(&mut self, text: &str) -> bool {
        let mut room = self.room();
        for letter in text.chars().filter(|letter| !letter.is_control()) {
            if room == 0 {
                return false;
            }
            self.input.handle(InputRequest::InsertChar(letter));
            room -= 1;
        }
        true
    }

    /// Characters that it can still take in.
    fn room(&self) -> usize {
        LONGEST.saturating_sub(self.text().chars().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_edited_with_the_usual_keys() {
        let mut line = Line::new("lr =");
        let plain = |code| KeyEvent::new(code, KeyModifiers::NONE);
        for letter in " 1e-4".chars() {
            assert!(line.take(plain(KeyCode::Char(letter))));
        }
        assert_eq!((line.text(), line.cursor()), ("lr = 1e-4", 9));
        line.take(plain(KeyCode::Backspace));
        line.take(plain(KeyCode::Home));
        line.take(plain(KeyCode::Delete));
        assert_eq!((line.text(), line.cursor()), ("r = 1e-", 0));
        assert!(line.paste("l\n\x1b["));
        assert_eq!(line.text(), "l[r = 1e-");
        line.take(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
        assert_eq!(line.text(), "");
        assert!(!line.take(plain(KeyCode::Up)) && !line.take(plain(KeyCode::Enter)));
    }

    #[test]
    fn a_line_holds_a_thousand_characters() {
        let mut line = Line::new("ab");
        line.take(KeyEvent::new(KeyCode::Left, KeyModifiers::NONE));
        assert!(!line.paste(&"日".repeat(1_000_000)));
        assert_eq!(line.text(), format!("a{}b", "日".repeat(998)));
        let letter = KeyEvent::new(KeyCode::Char('x'), KeyModifiers::NONE);
        assert!(line.take(letter), "it is a letter, though there is no room");
        assert_eq!(line.text().chars().count(), LONGEST);
        line.take(KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE));
        assert!(line.paste("x") && !line.paste("y") && line.paste("\n"));
    }
}
