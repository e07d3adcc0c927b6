//! The frame around a part of a view: a title above, a note below.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, BorderType, Clear, Widget};

use crate::tui::theme::Theme;

/// A frame.
#[derive(Debug, Clone, Default)]
pub struct Panel<'a> {
    /// Stands in the upper edge, on the left. Spans that do not fit are left out whole.
    pub title: Line<'a>,
    /// Stands in the lower edge, on the right; likewise.
    pub note: Line<'a>,
    /// Whether keys go to it.
    pub is_focused: bool,
}

impl Panel<'_> {
    /// Draws the frame; what is left inside comes back. An area too small for a frame is all inside.
    pub fn draw(&self, area: Rect, theme: &Theme, buffer: &mut Buffer) -> Rect {
        let area = area.intersection(buffer.area);
        if area.width < 3 || area.height < 3 {
            return area;
        }
        let style = if self.is_focused { theme.focus } else { theme.frame };
        let kind = if self.is_focused
            && theme.depth == crate::tui::theme::Depth::Mono
            && !theme.is_ascii
        {
            BorderType::Double
        } else {
            BorderType::Plain
        };
        let room = usize::from(area.width.saturating_sub(4));
        let block = Block::bordered().border_type(kind).border_style(style);
        let inner = block.inner(area);
        Clear.render(area, buffer);
        block.render(area, buffer);
        let title = fitted(&self.title, room);
        if title.width() > 0 {
            buffer.set_line(area.x + 1, area.y, &padded(title), area.width - 2);
        }
        let note = fitted(&self.note, room);
        if note.width() > 0 {
            let note = padded(note);
            let start = area.right().saturating_sub(1 + note.width() as u16);
            buffer.set_line(start, area.bottom() - 1, &note, area.width - 2);
        }
        inner
    }
}

/// As many whole spans as fit, without blanks at the end.
fn fitted<'a>(line: &Line<'a>, room: usize) -> Line<'a> {
    let mut taken = 0;
    let spans = line.spans.iter().take_while(|span| {
        taken += span.width();
        taken <= room
    });
    let mut spans: Vec<_> = spans.cloned().collect();
    if let Some(last) = spans.last_mut() {
        last.content = last.content.trim_end().to_owned().into();
    }
    Line { spans, ..line.clone() }
}

fn padded(mut line: Line<'_>) -> Line<'_> {
    line.spans.insert(0, " ".into());
    line.spans.push(" ".into());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn title_and_note_stand_in_the_edges_or_not_at_all() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 14, 3));
        let title = Line::from(vec!["loss".into(), " and more of it".into()]);
        let panel = Panel { title, note: "n 3".into(), is_focused: false };
        assert_eq!(panel.draw(buffer.area, &Theme::default(), &mut buffer), Rect::new(1, 1, 12, 1));
        let row = |buffer: &Buffer, y: u16| {
            (0..14).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>()
        };
        assert_eq!(row(&buffer, 0), "┌ loss ──────┐");
        assert_eq!(row(&buffer, 2), "└─────── n 3 ┘");
        let tiny = Rect::new(0, 0, 2, 2);
        assert_eq!(panel.draw(tiny, &Theme::default(), &mut buffer), tiny);
    }
}
