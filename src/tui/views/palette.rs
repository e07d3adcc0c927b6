//! The command line: settings of the run, views, actions.

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::Rect;

use super::frame::edited;
use crate::runlog::control;
use crate::tui::action::{Action, Effect};
use crate::tui::app::{App, Overlay};
use crate::tui::edit::Line;
use crate::tui::{keymap, settings};

/// Commands that are kept.
const HISTORY: usize = 100;

/// What stands in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The command.
    pub line: Line,
    /// How far back in the history it is; 0: not in it.
    pub back: usize,
    /// What was typed when Tab was pressed first, and the suggestion that it has come to.
    pub completing: Option<(String, usize)>,
    /// Why the last command was not carried out.
    pub error: Option<String>,
}

/// What a line means.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// An action of the table of keys.
    Act(Action),
    /// A new value of a setting.
    Set(control::Action),
}

/// A line that Tab completes to, and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The line.
    pub line: String,
    /// What it does.
    pub help: String,
}

/// What a line asks for.
///
/// Errors: in words, what is wrong with it and what would be right.
pub fn parse(app: &App, line: &str) -> Result<Meaning, String> {
    let line = line.trim();
    let (setting, is_set) = match line.strip_prefix("set ") {
        Some(rest) => (rest.trim(), true),
        None => (line, false),
    };
    // The run scales its own value: what it has may have changed since this screen heard of it.
    if let Some((key, by)) = setting.split_once("*=")
        && settings::is_number(key)
    {
        return scaled(key, by);
    }
    for sign in ["*=", "/=", "+=", "-="] {
        if let Some((key, by)) = setting.split_once(sign) {
            return set(key, &calculated(app, key, sign, by)?);
        }
    }
    if let Some((key, value)) = setting.split_once('=') {
        return set(key, value);
    }
    if is_set {
        return match setting.split_once(' ') {
            Some((key, value)) => set(key, value),
            None => Err("write `set KEY VALUE`, for example `set lr 1e-4`".into()),
        };
    }
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or("");
    let name = match name {
        "val" | "eval" => "validate",
        "ckpt" | "save" => "checkpoint",
        "exit" => "quit",
        name => name,
    };
    let Some(binding) = keymap::of(app.keys, app.view).find(|binding| binding.name == name) else {
        return match settings::live(name) {
            Some(key) => Err(format!("{key} to what? write `{name} = VALUE` or `{name} *= 0.5`")),
            None => Err(format!("`{name}` is no command; Tab shows what there is")),
        };
    };
    match words.next() {
        // Export writes all forms; naming one is harmless.
        Some("svg" | "png" | "csv" | "json") if name == "export" => {}
        Some(extra) => return Err(format!("{name} takes no argument, found `{extra}`")),
        None => {}
    }
    Ok(Meaning::Act(binding.action))
}

fn scaled(key: &str, by: &str) -> Result<Meaning, String> {
    match by.trim().parse::<f64>() {
        Ok(by) if by.is_finite() && by > 0.0 => Ok(Meaning::Set(control::Action::Set {
            key: settings::live(key).unwrap_or(key.trim()).into(),
            value: format!("*{by}").into(),
        })),
        _ => Err(format!("`{}` is no factor, expected above 0", by.trim())),
    }
}

fn set(key: &str, value: &str) -> Result<Meaning, String> {
    let key = key.trim();
    // As `ctl set` writes it.
    if let Some(by) = value.trim().strip_prefix('*')
        && settings::is_number(key)
    {
        return scaled(key, by);
    }
    let Some(live) = settings::live(key) else {
        let keys: Vec<&str> = settings::all().collect();
        return Err(format!("`{key}` cannot change in flight; these can: {}", keys.join(", ")));
    };
    let value = settings::parse(live, value)?;
    Ok(Meaning::Set(control::Action::Set { key: live.into(), value }))
}

/// The value of a setting after `*=` and the like.
fn calculated(app: &App, key: &str, sign: &str, by: &str) -> Result<String, String> {
    let name = settings::live(key).unwrap_or(key.trim());
    let old = app.run().and_then(|run| settings::value(run, name));
    let Some(old) = old.and_then(|old| old.parse::<f64>().ok()) else {
        return Err(format!("the value of {name} is not known here; write `{name} = VALUE`"));
    };
    let by: f64 = by.trim().parse().map_err(|_| format!("`{}` is no number", by.trim()))?;
    let new = match sign {
        "*=" => old * by,
        "/=" => old / by,
        "+=" => old + by,
        _ => old - by,
    };
    // Half of 1e-3 is to read 0.0005, not 0.00050000000000000001.
    let text = format!("{new:.6e}");
    Ok(text.parse::<f64>().map_or(text, |rounded| rounded.to_string()))
}

/// Lines that begin like what is typed, best first.
pub fn suggestions(app: &App, typed: &str) -> Vec<Suggestion> {
    let typed = typed.trim_start();
    let word = typed.strip_prefix("set ").unwrap_or(typed);
    let word = word.split([' ', '=', '*', '/', '+']).next().unwrap_or("");
    let mut found = Vec::new();
    if let Some(run) = app.run() {
        for key in settings::all().filter(|key| settings::concerns(run, key)) {
            // The name that was begun, where there is a shorter one too.
            let names = [settings::short(key), key];
            let Some(name) = names.into_iter().find(|name| name.starts_with(word)) else {
                continue;
            };
            let value = settings::value(run, key);
            let line = format!("{name} = {}", value.unwrap_or_default());
            found.push(Suggestion { line, help: format!("set {key} from the next update on") });
            if key == "learning_rate" {
                let help = "scale the whole schedule".into();
                found.push(Suggestion { line: "lr *= 0.5".into(), help });
            }
        }
    }
    if word == typed {
        let named = keymap::of(app.keys, app.view).filter(|binding| binding.name.starts_with(word));
        found.extend(
            named
                .map(|binding| Suggestion { line: binding.name.into(), help: binding.help.into() }),
        );
    }
    found
}

/// A key was pressed while it is open.
pub fn press(app: &mut App, mut state: State, key: KeyEvent) -> Vec<Effect> {
    state.error = None;
    match key.code {
        KeyCode::Esc => return Vec::new(),
        KeyCode::Backspace if state.line.text().is_empty() => return Vec::new(),
        KeyCode::Enter if state.line.text().trim().is_empty() => return Vec::new(),
        KeyCode::Enter => match parse(app, state.line.text()) {
            Ok(meaning) => {
                remember(app, state.line.text());
                return match meaning {
                    Meaning::Act(action) => app.act(action),
                    Meaning::Set(action) => app.send(action),
                };
            }
            Err(error) => state.error = Some(error),
        },
        KeyCode::Up => recall(app, &mut state, 1),
        KeyCode::Down => recall(app, &mut state, -1),
        KeyCode::Tab | KeyCode::BackTab => {
            let typed = match &state.completing {
                Some((typed, _)) => typed.clone(),
                None => state.line.text().to_owned(),
            };
            let all = suggestions(app, &typed);
            if !all.is_empty() {
                let next = match state.completing {
                    None if key.code == KeyCode::BackTab => all.len() - 1,
                    None => 0,
                    Some((_, place)) if key.code == KeyCode::BackTab => {
                        (place + all.len() - 1) % all.len()
                    }
                    Some((_, place)) => (place + 1) % all.len(),
                };
                state.line = Line::new(all[next].line.clone());
                state.completing = Some((typed, next));
            }
        }
        _ => {
            if state.line.take(key) {
                state.completing = None;
                state.back = 0;
            }
        }
    }
    app.overlay = Overlay::Palette(state);
    Vec::new()
}

fn remember(app: &mut App, line: &str) {
    let line = line.trim().to_owned();
    app.history.retain(|earlier| *earlier != line);
    app.history.push(line);
    let old = app.history.len().saturating_sub(HISTORY);
    app.history.drain(..old);
}

fn recall(app: &App, state: &mut State, by: isize) {
    let back = state.back.saturating_add_signed(by).min(app.history.len());
    state.back = back;
    state.completing = None;
    let line = if back == 0 { "" } else { &app.history[app.history.len() - back] };
    state.line = Line::new(line);
}

/// A line that is being edited, behind its sign, with the cursor.
pub fn prompt(app: &App, line: &Line, area: Rect, buffer: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let (x, _) = buffer.set_stringn(area.x, area.y, "> ", usize::from(area.width), app.theme.key);
    let rest = Rect { x, width: area.right().saturating_sub(x), ..area };
    edited(line, rest, app.theme.text, &app.theme, buffer);
}

/// Draws it into the inside of its frame.
pub fn draw(app: &App, state: &State, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let width = usize::from(area.width);
    if area.height < 4 {
        prompt(app, &state.line, area, buffer);
        return;
    }
    prompt(app, &state.line, Rect { height: 1, ..area }, buffer);
    let typed = match &state.completing {
        Some((typed, _)) => typed.as_str(),
        None => state.line.text(),
    };
    let all = suggestions(app, typed);
    let chosen = state.completing.as_ref().map(|(_, place)| *place);
    let room = usize::from(area.height - 4);
    let first = chosen.map_or(0, |place| (place + 1).saturating_sub(room));
    let column = all.iter().map(|one| one.line.len()).max().unwrap_or(0).clamp(12, 26) as u16 + 2;
    for (place, one) in all.iter().enumerate().skip(first).take(room) {
        let y = area.y + 2 + (place - first) as u16;
        buffer.set_stringn(area.x + 2, y, &one.line, width.saturating_sub(2), theme.key);
        let x = area.x + 2 + column;
        if x < area.right() {
            buffer.set_stringn(x, y, &one.help, usize::from(area.right() - x), theme.dim);
        }
        if chosen == Some(place) {
            buffer.set_style(Rect { y, height: 1, ..area }, theme.selected);
        }
    }
    let y = area.bottom() - 1;
    let (words, style) = match &state.error {
        Some(error) => (error.as_str(), theme.bad),
        None => ("settings apply at the next update and are recorded in the run's log", theme.dim),
    };
    buffer.set_stringn(area.x, y, words, width, style);
}
