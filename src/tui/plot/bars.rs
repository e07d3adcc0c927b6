//! Horizontal bars with eighths of a cell, a name before and a value behind.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::pen::{Pen, shortened, width};
use crate::tui::theme::Theme;

const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// A bar of a share (0 to 1) of `cells`, at least an eighth of a cell for anything above 0.
pub fn bar(share: f64, cells: u16) -> String {
    if !(share.is_finite() && share > 0.0) {
        return String::new();
    }
    let eighths = (share.min(1.0) * f64::from(cells) * 8.0).round().max(1.0) as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.extend(eighths.checked_rem(8).filter(|rest| *rest > 0).map(|rest| EIGHTHS[rest - 1]));
    bar.chars().take(usize::from(cells)).collect()
}

/// One bar.
#[derive(Debug, Clone, Default)]
pub struct Row<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its size, beside the largest of all rows.
    pub size: f64,
    /// Its size in words.
    pub value: String,
    /// Its colour.
    pub style: Style,
}

/// Draws rows of bars from the top of an area down; says how many lines they took. The bars go first where room
/// is short, then whole rows.
pub fn draw(rows: &[Row], area: Rect, theme: &Theme, buffer: &mut Buffer) -> u16 {
    let mut pen = Pen::new(area, buffer);
    let names = rows.iter().map(|row| width(row.name)).max().unwrap_or(0);
    let values = rows.iter().map(|row| width(&row.value)).max().unwrap_or(0);
    let Some(for_name) = pen.area.width.checked_sub(values + 1) else { return 0 };
    let names = names.min(for_name);
    let cells = pen.area.width.saturating_sub(names + values + 3);
    let largest = rows.iter().map(|row| row.size).filter(|size| size.is_finite());
    let largest = largest.fold(0.0, f64::max);
    let shown = rows.len().min(usize::from(pen.area.height));
    for (y, row) in (0..).zip(&rows[..shown]) {
        pen.text(0, y, &shortened(row.name, usize::from(names)), theme.text);
        pen.right(pen.area.width, y, &row.value, theme.text);
        if cells >= 4 && largest > 0.0 {
            pen.text(names + 1, y, &bar(row.size / largest, cells), row.style);
        }
    }
    shown as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_eighths_and_never_more_than_their_cells() {
        assert_eq!([0.0, 0.5, 1.0, 7.0].map(|s| bar(s, 4)), ["", "██", "████", "████"]);
        assert_eq!(bar(0.4, 4), "█▋");
        assert_eq!(bar(1e-9, 4), "▏");
        assert_eq!([f64::NAN, -1.0, f64::INFINITY].map(|s| bar(s, 4)), ["", "", ""]);
        assert_eq!(bar(1.0, 0), "");
    }

    #[test]
    fn rows_lose_bars_before_numbers() {
        let row =
            |name, size| Row { name, size, value: format!("{size} MiB"), style: Style::new() };
        let rows = [row("weights", 8.0), row("moments", 2.0)];
        let mut buffer = Buffer::empty(Rect::new(0, 0, 24, 2));
        assert_eq!(draw(&rows, buffer.area, &Theme::default(), &mut buffer), 2);
        let text = |buffer: &Buffer, y: u16| {
            (0..buffer.area.width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>()
        };
        assert_eq!(text(&buffer, 0), "weights █████████  8 MiB");
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 1));
        assert_eq!(draw(&rows, buffer.area, &Theme::default(), &mut buffer), 1);
        assert_eq!(text(&buffer, 0), "weigh… 8 MiB");
        let mut buffer = Buffer::empty(Rect::new(0, 0, 3, 1));
        assert_eq!(draw(&rows, buffer.area, &Theme::default(), &mut buffer), 0);
    }
}
