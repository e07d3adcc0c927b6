//! What lies over the view: help, the command line, the editor, a question.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::symbols::border::Set;
use ratatui::widgets::{Block, Clear, Widget};
use unicode_width::UnicodeWidthStr;

use super::put;
use crate::report::text;
use crate::tui::app::{App, Overlay};
use crate::tui::views::{Hits, editor, help, palette};

/// Frames of characters that every terminal has.
const ASCII: Set = Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// Draws what is open.
pub fn draw(app: &App, screen: Rect, view: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    match &app.overlay {
        Overlay::None | Overlay::Filter(..) => {}
        Overlay::Help(state) => {
            let title = format!(
                "help {} {} view   type to search   Enter runs the entry   Esc closes",
                if app.theme.is_ascii { "-" } else { "—" },
                app.view.title()
            );
            let inside = frame(app, centred(view, 92, 40), &title, buffer, hits);
            help::draw(app, state, inside, buffer);
        }
        Overlay::Palette(state) => {
            let area = Rect { y: view.y + view.height / 8, ..centred(view, 84, 16) };
            let title = if app.theme.is_ascii {
                ": command   (Tab completes, Up history)"
            } else {
                ": command   (Tab completes, ↑ history)"
            };
            let inside = frame(app, area.intersection(view), title, buffer, hits);
            palette::draw(app, state, inside, buffer);
        }
        Overlay::Editor(state) => {
            let height = (state.rows.len() as u16).saturating_add(4);
            let area = centred(view, 64, height);
            let inside = frame(app, area, "settings of the run in flight", buffer, hits);
            editor::draw(app, state, inside, buffer);
        }
        Overlay::Confirm(words, _) => {
            let width = (words.width() as u16).saturating_add(4).clamp(30, 70);
            let lines = text::wrap(words, usize::from(width.min(screen.width)) - 4, 4);
            let area = centred(view, width, (lines.len() as u16).saturating_add(4));
            let inside = frame(app, area, "sure?", buffer, hits);
            for (line, y) in lines.iter().zip(inside.y..inside.bottom()) {
                put(buffer, Rect { y, height: 1, ..inside }, line, app.theme.text);
            }
            if inside.height > 0 {
                let last = Rect { y: inside.bottom() - 1, height: 1, ..inside };
                put(buffer, last, "y yes   n no", app.theme.act);
            }
        }
    }
}

/// A place in the middle, as large as wanted where the area allows.
fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}

/// Clears a place, frames it, and answers its inside.
fn frame(app: &App, area: Rect, title: &str, buffer: &mut Buffer, hits: &mut Hits) -> Rect {
    let covered = |hit: &(Rect, _)| !hit.0.intersects(area);
    hits.actions.retain(covered);
    Clear.render(area, buffer);
    // Parts of the title that do not fit go whole.
    let mut title = title;
    while title.width() + 4 > usize::from(area.width)
        && let Some((before, _)) = title.rsplit_once("   ")
    {
        title = before;
    }
    let block = Block::bordered()
        .border_style(app.theme.focus)
        .title(format!(" {title} "))
        .title_style(app.theme.title);
    let block = if app.theme.is_ascii { block.border_set(ASCII) } else { block };
    let inside = block.inner(area);
    block.render(area, buffer);
    Rect { x: inside.x.saturating_add(1), width: inside.width.saturating_sub(2), ..inside }
}
