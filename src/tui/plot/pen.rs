//! Text into an area of a buffer. What does not fit is left out whole, or cut where the caller says so.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Cells that a text takes.
pub fn width(text: &str) -> u16 {
    u16::try_from(text.width()).unwrap_or(u16::MAX)
}

/// A text cut to some cells, with `…` at its end where something was cut.
pub fn shortened(text: &str, cells: usize) -> String {
    if text.width() <= cells {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut taken = 0;
    for sign in text.chars() {
        let wide = sign.width().unwrap_or(0);
        if taken + wide + 1 > cells {
            break;
        }
        taken += wide;
        kept.push(sign);
    }
    if cells > 0 {
        kept.push('…');
    }
    kept
}

/// Writes into an area. Positions are counted from the area's corner.
pub struct Pen<'a> {
    /// The area.
    pub area: Rect,
    /// What is written to.
    pub buffer: &'a mut Buffer,
}

impl<'a> Pen<'a> {
    /// A pen for the part of an area that the buffer has.
    pub fn new(area: Rect, buffer: &'a mut Buffer) -> Self {
        Self { area: area.intersection(buffer.area), buffer }
    }

    /// Writes a text from a position on, cut at the right end; says where it ended.
    pub fn text(&mut self, x: u16, y: u16, text: &str, style: Style) -> u16 {
        if x >= self.area.width || y >= self.area.height {
            return x;
        }
        let (left, top) = (self.area.x + x, self.area.y + y);
        let room = usize::from(self.area.width - x);
        // Signs without a width of their own (control characters of a captured line) would be dropped by the buffer.
        let (end, _) = self.buffer.set_stringn(left, top, text, room, style);
        end - self.area.x
    }

    /// Writes a text only if all of it fits; says whether it did.
    pub fn whole(&mut self, x: u16, y: u16, text: &str, style: Style) -> bool {
        let fits = y < self.area.height
            && u32::from(x) + u32::from(width(text)) <= u32::from(self.area.width);
        if fits {
            self.text(x, y, text, style);
        }
        fits
    }

    /// Writes a text that ends before a column, only if all of it fits; says where it begins.
    pub fn right(&mut self, end: u16, y: u16, text: &str, style: Style) -> Option<u16> {
        let start = end.min(self.area.width).checked_sub(width(text))?;
        self.whole(start, y, text, style).then_some(start)
    }

    /// One sign.
    pub fn sign(&mut self, x: u16, y: u16, sign: char, style: Style) {
        if x < self.area.width
            && y < self.area.height
            && let Some(cell) = self.buffer.cell_mut((self.area.x + x, self.area.y + y))
        {
            cell.set_char(sign).set_style(style);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_cut_in_the_middle_unless_it_may_be() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 10, 2));
        let mut pen = Pen::new(Rect::new(2, 0, 6, 2), &mut buffer);
        assert!(!pen.whole(0, 0, "1234567", Style::new()));
        assert!(pen.whole(0, 0, "123456", Style::new()));
        assert_eq!(pen.right(6, 1, "99", Style::new()), Some(4));
        assert_eq!(pen.right(6, 1, "1234567", Style::new()), None);
        assert_eq!(pen.text(3, 1, "abcdef", Style::new()), 6);
        assert_eq!(pen.text(0, 7, "below", Style::new()), 0);
        assert_eq!(buffer, Buffer::with_lines(["  123456  ", "     abc  "]));
        assert_eq!(shortened("a long text", 6), "a lon…");
        assert_eq!((shortened("ab", 2), shortened("日本語", 4)), ("ab".into(), "日…".into()));
        assert_eq!(shortened("abc", 0), "");
    }
}
