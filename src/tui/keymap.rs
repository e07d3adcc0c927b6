//! The one table of keys: it serves dispatch, footer, help, palette and the generated page.
//!
//! Lower case and symbols only look; what acts on the run stands on upper case and control keys, so that a
//! slip of the finger costs no training time. A view's own row wins over the one that holds everywhere.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::action::{Action, ViewId};

mod own;
mod page;
mod table;

pub use own::with_own;
pub use page::markdown;
pub use table::KEYMAP;

/// A table of keys: [`KEYMAP`], or that with a user's own keys.
pub type Keymap = &'static [Binding];

/// Where a key has its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Context {
    /// Everywhere.
    Global,
    /// In one view.
    In(ViewId),
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Where it holds.
    pub context: Context,
    /// Keys, separated by spaces: `q`, `Left h`, `Ctrl-c`, `Alt-s`, `Space`.
    pub keys: &'static str,
    /// What they do.
    pub action: Action,
    /// The word for the palette and for a table of own keys.
    pub name: &'static str,
    /// In a few words, for the footer; empty: not in the footer.
    pub hint: &'static str,
    /// In a sentence, for the help.
    pub help: &'static str,
}

impl Binding {
    /// Whether it holds in a view.
    pub fn is_in(&self, view: ViewId) -> bool {
        self.context == Context::Global || self.context == Context::In(view)
    }

    /// The first of its keys, as it is shown.
    pub fn first_key(&self) -> &'static str {
        self.keys.split(' ').next().unwrap_or("")
    }
}

impl Action {
    /// Whether it acts on a run; everything else only looks.
    pub fn acts(self) -> bool {
        matches!(
            self,
            Self::PauseResume
                | Self::Checkpoint
                | Self::Sample
                | Self::Validate
                | Self::Spectra
                | Self::Unload
                | Self::Stop
                | Self::Detach
                | Self::Edit
                | Self::ResumeRun
                | Self::CloneRun
                | Self::DeleteRun
                | Self::Interrupt
        )
    }
}

/// What a key does in a view: the view's own row first, then the one that holds everywhere.
pub fn action(keys: Keymap, view: ViewId, key: KeyEvent) -> Option<Action> {
    let row = |context| {
        keys.iter().find(|binding| {
            binding.context == context && binding.keys.split(' ').any(|name| is(name, key))
        })
    };
    row(Context::In(view)).or_else(|| row(Context::Global)).map(|binding| binding.action)
}

/// The row of an action in a view.
pub fn binding(keys: Keymap, view: ViewId, action: Action) -> Option<&'static Binding> {
    let row = |context| {
        keys.iter().find(|binding| binding.context == context && binding.action == action)
    };
    row(Context::In(view)).or_else(|| row(Context::Global))
}

/// The rows that hold in a view, its own first; a row whose every key the view gives another meaning is left out.
pub fn of(keys: Keymap, view: ViewId) -> impl Iterator<Item = &'static Binding> {
    let own = keys.iter().filter(move |binding| binding.context == Context::In(view));
    let global = keys.iter().filter(move |binding| {
        let is_free =
            |name| parse(name).is_none_or(|key| action(keys, view, key) == Some(binding.action));
        binding.context == Context::Global && binding.keys.split(' ').any(is_free)
    });
    own.chain(global)
}

/// Whether a key that was pressed is the one of this name.
fn is(name: &str, key: KeyEvent) -> bool {
    parse(name).is_some_and(|wanted| normal(wanted) == normal(key))
}

/// A key without what terminals report differently: a letter carries its case itself.
fn normal(key: KeyEvent) -> (KeyCode, KeyModifiers) {
    let known = key.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT | KeyModifiers::SHIFT);
    match key.code {
        KeyCode::Char(letter) if known.contains(KeyModifiers::CONTROL) => {
            (KeyCode::Char(letter.to_ascii_lowercase()), known - KeyModifiers::SHIFT)
        }
        KeyCode::Char(letter) if known == KeyModifiers::SHIFT && letter.is_ascii_lowercase() => {
            (KeyCode::Char(letter.to_ascii_uppercase()), KeyModifiers::NONE)
        }
        KeyCode::Tab if known.contains(KeyModifiers::SHIFT) => {
            (KeyCode::BackTab, KeyModifiers::NONE)
        }
        KeyCode::BackTab => (KeyCode::BackTab, KeyModifiers::NONE),
        _ => (key.code, known - KeyModifiers::SHIFT),
    }
}

/// The key of a name in the table.
pub fn parse(name: &str) -> Option<KeyEvent> {
    let (modifiers, name) = if let Some(name) = name.strip_prefix("Ctrl-") {
        (KeyModifiers::CONTROL, name)
    } else if let Some(name) = name.strip_prefix("Alt-") {
        (KeyModifiers::ALT, name)
    } else {
        (KeyModifiers::NONE, name)
    };
    let mut letters = name.chars();
    let code = match (letters.next(), letters.next()) {
        (Some(letter), None) => KeyCode::Char(letter),
        _ => match name {
            "Left" => KeyCode::Left,
            "Right" => KeyCode::Right,
            "Up" => KeyCode::Up,
            "Down" => KeyCode::Down,
            "PgUp" => KeyCode::PageUp,
            "PgDn" => KeyCode::PageDown,
            "Home" => KeyCode::Home,
            "End" => KeyCode::End,
            "Enter" => KeyCode::Enter,
            "Esc" => KeyCode::Esc,
            "Tab" => KeyCode::Tab,
            "S-Tab" => KeyCode::BackTab,
            "Space" => KeyCode::Char(' '),
            "Backspace" => KeyCode::Backspace,
            _ => return None,
        },
    };
    Some(KeyEvent::new(code, modifiers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_context_gives_a_key_two_meanings_and_every_key_has_a_name() {
        let mut seen = HashSet::new();
        for binding in KEYMAP {
            for name in binding.keys.split(' ') {
                let key = parse(name).unwrap_or_else(|| panic!("{name} is no key"));
                assert!(seen.insert((binding.context, normal(key))), "{name} twice in {binding:?}");
            }
            assert!(!binding.help.is_empty() && !binding.name.is_empty(), "{binding:?}");
        }
    }

    #[test]
    fn what_acts_on_the_run_stands_on_no_small_letter_and_no_symbol() {
        for binding in KEYMAP.iter().filter(|binding| binding.action.acts()) {
            for name in binding.keys.split(' ') {
                let is_upper = name.len() == 1 && name.chars().all(|c| c.is_ascii_uppercase());
                assert!(is_upper || name.starts_with("Ctrl-"), "{name} in {binding:?}");
            }
        }
    }

    #[test]
    fn a_letter_is_found_by_its_case_however_the_terminal_reports_shift() {
        let press = |code, modifiers| action(KEYMAP, ViewId::Train, KeyEvent::new(code, modifiers));
        let (none, shift) = (KeyModifiers::NONE, KeyModifiers::SHIFT);
        assert_eq!(press(KeyCode::Char('P'), shift), Some(Action::PauseResume));
        assert_eq!(press(KeyCode::Char('P'), none), Some(Action::PauseResume));
        assert_eq!(press(KeyCode::Char('p'), shift), Some(Action::PauseResume));
        assert_eq!(press(KeyCode::Char('p'), none), None);
        assert_eq!(press(KeyCode::Char('?'), shift), Some(Action::Help));
        assert_eq!(press(KeyCode::BackTab, shift), Some(Action::PrevPanel));
        assert_eq!(press(KeyCode::Tab, shift), Some(Action::PrevPanel));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Action::Interrupt));
        assert_eq!(press(KeyCode::Char('s'), KeyModifiers::ALT), Some(Action::Rougher));
        assert_eq!(press(KeyCode::Char('s'), none), Some(Action::Smoother));
    }

    #[test]
    fn a_views_own_row_wins_and_the_hidden_one_is_not_listed() {
        let key = KeyEvent::new(KeyCode::Char('R'), KeyModifiers::NONE);
        assert_eq!(action(KEYMAP, ViewId::Rank, key), Some(Action::Spectra));
        assert_eq!(action(KEYMAP, ViewId::Runs, key), Some(Action::ResumeRun));
        assert!(of(KEYMAP, ViewId::Runs).all(|binding| binding.action != Action::Spectra));
        assert!(of(KEYMAP, ViewId::Rank).any(|binding| binding.action == Action::Spectra));
    }

    #[test]
    fn every_action_is_on_a_key() {
        // Exhaustive by hand: a new action without a row here does not compile in `acts` either way, so the
        // count of different actions is what is watched.
        let actions: HashSet<Action> = KEYMAP.iter().map(|binding| binding.action).collect();
        for view in ViewId::ALL {
            assert!(actions.contains(&Action::View(view)));
        }
        for action in
            [Action::Follow, Action::Play, Action::Level, Action::JumpAlert, Action::Suspend]
        {
            assert!(actions.contains(&action), "{action:?}");
        }
    }

    #[test]
    fn the_page_of_the_documentation_is_the_table() {
        let page = include_str!("../../docs/tui.md");
        let (_, rest) = page.split_once("<!-- keys: begin -->\n").unwrap();
        let (table, _) = rest.split_once("<!-- keys: end -->").unwrap();
        assert_eq!(table, markdown(), "put the output of `fullrank keys --md` between the marks");
    }
}
