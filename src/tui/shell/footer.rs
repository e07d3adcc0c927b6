//! The last line: what keys do here, from the table of keys. Each hint can be clicked.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr;

use super::{bar, put};
use crate::tui::action::{Action, ViewId};
use crate::tui::app::{App, Overlay};
use crate::tui::keymap::{self, Binding};
use crate::tui::model::RunModel;
use crate::tui::views::frame::edited;
use crate::tui::views::{self, Hits, compare};

/// Draws as many hints as fit: keys that look, then those that act, then the way out.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    if let Overlay::Filter(line, _) = &app.overlay {
        let x = put(buffer, area, " /", app.theme.key);
        let rest = Rect { x, width: area.right().saturating_sub(x), ..area };
        let wrong = views::wrong_filter(app).map(|wrong| format!("  {wrong} ")).unwrap_or_default();
        let room = (rest.width / 2).max(rest.width.saturating_sub(line.text().width() as u16 + 1));
        let wrong = super::fit(&wrong, usize::from(room));
        let shown = rest.width - wrong.width() as u16;
        edited(line, Rect { width: shown, ..rest }, app.theme.text, &app.theme, buffer);
        put(buffer, after(rest, x + shown), wrong, app.theme.warn);
        return;
    }
    let hints = |binding: &&Binding| {
        !binding.hint.is_empty()
            && binding.action != Action::Quit
            && does_something(app, binding.action)
    };
    let (mut acts, looks): (Vec<&Binding>, Vec<&Binding>) =
        keymap::of(app.keys, app.view).filter(hints).partition(|binding| binding.action.acts());
    let is_live = app.run().is_some_and(RunModel::takes_commands);
    // What acts on the run under the cursor of the list needs no live one.
    acts.retain(|binding| match binding.action {
        Action::ResumeRun | Action::CloneRun | Action::DeleteRun => !app.browser.is_empty(),
        _ => is_live,
    });
    let quit: Vec<_> = keymap::binding(app.keys, app.view, Action::Quit).into_iter().collect();
    let room = usize::from(area.width).saturating_sub(1);
    let tail = len(&quit) + 2;
    // Acting has up to two fifths of the line; what looks has the rest.
    let acts = take(&acts, (room * 2 / 5).saturating_sub(2));
    let acts_len = if acts.is_empty() { 0 } else { len(&acts) + 2 };
    let looks = take(&looks, room.saturating_sub(tail + acts_len));
    let mut x = area.x + 1;
    for (group, style) in [(looks, app.theme.key), (acts, app.theme.act), (quit, app.theme.key)] {
        if group.is_empty() {
            continue;
        }
        if x > area.x + 1 {
            x = put(buffer, after(area, x), &format!("{} ", bar(app)), app.theme.dim);
        }
        for binding in group {
            x = hint(binding, after(area, x), buffer, hits, style, app.theme.dim);
        }
    }
}

/// Whether a key that holds everywhere has something to act on in a view.
fn does_something(app: &App, action: Action) -> bool {
    use ViewId::{Compare, Logs, Rank, Runs, Switches, System, Train};
    let view = app.view;
    match action {
        // In the table it goes to the next column.
        Action::Right if view == Compare => !compare::is_on_table(app),
        Action::Filter => matches!(view, Compare | Logs | Runs),
        Action::Right => !matches!(view, Logs | Runs),
        Action::ZoomIn | Action::ZoomReset | Action::CycleX => {
            matches!(view, Train | Compare | Switches | Rank | System)
        }
        Action::Smoother | Action::LinkCursor => matches!(view, Train | Compare | System),
        Action::LogY => matches!(view, Train | Compare),
        _ => true,
    }
}

fn hint(
    binding: &Binding,
    area: Rect,
    buffer: &mut Buffer,
    hits: &mut Hits,
    key: Style,
    word: Style,
) -> u16 {
    let x = put(buffer, area, binding.first_key(), key);
    let x = put(buffer, after(area, x), &format!(" {}  ", binding.hint), word);
    hits.actions.push((Rect { width: x.saturating_sub(area.x), ..area }, binding.action));
    x
}

fn width(binding: &Binding) -> usize {
    binding.first_key().width() + binding.hint.width() + 3
}

fn len(bindings: &[&Binding]) -> usize {
    bindings.iter().map(|binding| width(binding)).sum()
}

/// The first bindings that fit.
fn take<'a>(bindings: &[&'a Binding], room: usize) -> Vec<&'a Binding> {
    let mut used = 0;
    let fits = |binding: &&&Binding| {
        used += width(binding);
        used <= room
    };
    bindings.iter().take_while(fits).copied().collect()
}

fn after(area: Rect, x: u16) -> Rect {
    Rect { x, width: area.right().saturating_sub(x), ..area }
}
