//! Rows and columns of text. A column that does not fit is left out whole: no number is ever cut.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::tui::theme::Theme;
use crate::tui::views::{HEAD, Hits, ROW};

/// On which side of its column a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Align {
    /// Names.
    #[default]
    Left,
    /// Numbers.
    Right,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its head.
    pub title: String,
    /// Side of its texts.
    pub align: Align,
    /// The column with the largest number goes first where the room is too small; 0 stays always.
    pub order: u8,
}

impl Column {
    /// A column of names.
    pub fn left(title: impl Into<String>, order: u8) -> Self {
        Self { title: title.into(), align: Align::Left, order }
    }

    /// A column of numbers.
    pub fn right(title: impl Into<String>, order: u8) -> Self {
        Self { title: title.into(), align: Align::Right, order }
    }
}

/// A text of a row, with its style.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cell {
    /// What stands there.
    pub text: String,
    /// How it looks.
    pub style: Style,
}

impl Cell {
    /// A text in a style.
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

/// A table.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// Its columns.
    pub columns: &'a [Column],
    /// Its rows, a cell for each column.
    pub rows: &'a [Vec<Cell>],
    /// The row under the cursor; it is always in sight.
    pub selected: Option<usize>,
    /// The column that the rows are sorted by, and whether the largest is first.
    pub sorted: Option<(usize, bool)>,
    /// Colours and signs.
    pub theme: &'a Theme,
}

/// What was drawn where, for the mouse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Heads, by column.
    pub heads: Vec<(usize, Rect)>,
    /// Rows.
    pub rows: Vec<(usize, Rect)>,
}

impl Places {
    /// Tells the mouse what stands where.
    pub fn hits(&self, hits: &mut Hits) {
        let heads = self.heads.iter().map(|(column, area)| (*area, HEAD + column));
        let rows = self.rows.iter().map(|(row, area)| (*area, ROW + row));
        hits.panels.extend(heads.chain(rows));
    }
}

/// A text in at most `width` cells, with a mark where something is missing.
pub fn fit(text: &str, width: usize, is_ascii: bool) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mark = if is_ascii { '~' } else { '…' };
    let mut kept = String::new();
    let mut used = 1;
    for sign in text.chars() {
        used += sign.width().unwrap_or(0);
        if used > width {
            break;
        }
        kept.push(sign);
    }
    if width > 0 {
        kept.push(mark);
    }
    kept
}

impl Table<'_> {
    /// Widths of the columns; none for one that is left out.
    fn widths(&self, room: usize) -> Vec<Option<usize>> {
        let title = |column: usize| {
            let is_sorted = self.sorted.is_some_and(|(sorted, _)| sorted == column);
            self.columns[column].title.width() + usize::from(is_sorted)
        };
        let wanted = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.width()).fold(title(column), usize::max)
        };
        let mut widths: Vec<Option<usize>> =
            (0..self.columns.len()).map(|c| Some(wanted(c))).collect();
        let total = |widths: &[Option<usize>]| {
            widths.iter().flatten().map(|width| width + 2).sum::<usize>().saturating_sub(2)
        };
        while total(&widths) > room {
            let kept = self.columns.iter().enumerate().filter(|(c, _)| widths[*c].is_some());
            let Some((last, _)) =
                kept.filter(|(_, column)| column.order > 0).max_by_key(|(_, column)| column.order)
            else {
                break;
            };
            widths[last] = None;
        }
        // What stays always gives way: the first name is shortened with a mark.
        let over = total(&widths).saturating_sub(room);
        if let Some(first) = widths.iter_mut().flatten().next() {
            *first = first.saturating_sub(over);
        }
        widths
    }

    /// Draws the head and as many rows as fit.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer) -> Places {
        let area = area.intersection(buffer.area);
        let mut places = Places::default();
        if area.is_empty() {
            return places;
        }
        let widths = self.widths(area.width as usize);
        let is_ascii = self.theme.is_ascii;
        let mut lefts = Vec::new();
        let mut x = area.x as usize;
        for width in &widths {
            lefts.push(x);
            x += width.map_or(0, |width| width + 2);
        }
        let put = |buffer: &mut Buffer, column: usize, y: u16, text: &str, style: Style| {
            let Some(width) = widths[column] else { return Rect::ZERO };
            let room = (area.right() as usize).saturating_sub(lefts[column]).min(width);
            let text = fit(text, room, is_ascii);
            let slack = room - text.width().min(room);
            let shift = if self.columns[column].align == Align::Right { slack } else { 0 };
            let at = (lefts[column] + shift) as u16;
            if room > 0 {
                buffer.set_stringn(at, y, &text, room - shift, style);
            }
            Rect::new(lefts[column] as u16, y, room as u16, 1)
        };
        for (place, column) in self.columns.iter().enumerate() {
            let mark = match self.sorted {
                Some((sorted, is_down)) if sorted == place => match (is_down, is_ascii) {
                    (true, false) => "▼",
                    (false, false) => "▲",
                    (true, true) => "v",
                    (false, true) => "^",
                },
                _ => "",
            };
            let title = format!("{}{mark}", column.title);
            let style = if mark.is_empty() { self.theme.dim } else { self.theme.title };
            let head = put(buffer, place, area.y, &title, style);
            if !head.is_empty() {
                places.heads.push((place, head));
            }
        }
        let seen = area.height.saturating_sub(1) as usize;
        let most = self.rows.len().saturating_sub(seen);
        let first = self.selected.map_or(0, |row| row.saturating_sub(seen / 2)).min(most);
        for (place, row) in self.rows.iter().enumerate().skip(first).take(seen) {
            let y = area.y + 1 + (place - first) as u16;
            for (column, cell) in row.iter().enumerate().take(self.columns.len()) {
                put(buffer, column, y, &cell.text, cell.style);
            }
            let line = Rect::new(area.x, y, area.width, 1);
            if self.selected == Some(place) {
                buffer.set_style(line, self.theme.selected);
            }
            places.rows.push((place, line));
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(buffer: &Buffer) -> Vec<String> {
        let width = (buffer.area.width as usize).max(1);
        let text =
            |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect();
        buffer
            .content()
            .chunks(width)
            .map(text)
            .map(|line: String| line.trim_end().into())
            .collect()
    }

    fn drawn(width: u16, height: u16, selected: Option<usize>) -> Vec<String> {
        let theme = Theme::default();
        let columns = [
            Column::left("RUN", 0),
            Column::right("loss", 1),
            Column::right("tok/s", 3),
            Column::left("STATE", 2),
        ];
        let row = |name: &str, loss: &str| {
            [name, loss, "32900", "done"].map(|text| Cell::new(text, theme.text)).to_vec()
        };
        let rows = [row("full-s1", "3.391"), row("switchlora", "3.412"), row("lora", "4.12")];
        let table = Table {
            columns: &columns,
            rows: &rows,
            selected,
            sorted: Some((1, false)),
            theme: &theme,
        };
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        let places = table.draw(buffer.area, &mut buffer);
        assert!(places.rows.iter().all(|(_, rect)| buffer.area.intersection(*rect) == *rect));
        lines(&buffer)
    }

    #[test]
    fn columns_go_whole_in_their_order_and_no_number_is_cut() {
        assert_eq!(
            drawn(40, 4, None),
            [
                "RUN         loss▲  tok/s  STATE",
                "full-s1     3.391  32900  done",
                "switchlora  3.412  32900  done",
                "lora         4.12  32900  done",
            ]
        );
        assert_eq!(drawn(25, 2, None), ["RUN         loss▲  STATE", "full-s1     3.391  done"]);
        assert_eq!(drawn(18, 2, None), ["RUN         loss▲", "full-s1     3.391"]);
        assert_eq!(drawn(12, 3, None), ["RUN", "full-s1", "switchlora"]);
        assert_eq!(drawn(7, 3, None), ["RUN", "full-s1", "switch…"]);
        for width in 0..8 {
            drawn(width, 2, Some(1));
        }
    }

    #[test]
    fn the_selected_row_is_in_sight() {
        assert_eq!(drawn(12, 2, Some(2))[1], "lora");
        assert_eq!(drawn(12, 3, Some(2))[2], "lora");
        assert_eq!(drawn(12, 3, Some(0))[1], "full-s1");
    }

    #[test]
    fn a_text_is_shortened_by_its_width_in_cells() {
        assert_eq!(fit("abc", 3, false), "abc");
        assert_eq!(fit("abcd", 3, false), "ab…");
        assert_eq!(fit("abcd", 3, true), "ab~");
        assert_eq!(fit("日本語", 4, false), "日…");
        assert_eq!(fit("abcd", 0, false), "");
    }
}
