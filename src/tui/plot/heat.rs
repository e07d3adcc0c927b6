//! Cells in colours: a value for each row and column, as shades that also read without colour.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use crate::tui::theme::{Depth, Theme};

/// Colours from little to much on a dark background; every fourth also serves sixteen-colour terminals by
/// the shade alone.
const DARK: [(f64, [u8; 3]); 5] = [
    (0.0, [0x2A, 0x1A, 0x50]),
    (0.25, [0x2C, 0x5A, 0x8C]),
    (0.5, [0x2A, 0x92, 0x86]),
    (0.75, [0x7F, 0xC8, 0x5A]),
    (1.0, [0xF4, 0xE6, 0x45]),
];
/// And on a light one.
const LIGHT: [(f64, [u8; 3]); 5] = [
    (0.0, [0xF7, 0xFB, 0xD0]),
    (0.25, [0x9F, 0xD8, 0x8C]),
    (0.5, [0x35, 0xA6, 0x8B]),
    (0.75, [0x2C, 0x6B, 0x96]),
    (1.0, [0x3B, 0x1C, 0x6B]),
];
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
const ASCII_SHADES: [char; 5] = [' ', '.', '+', '#', '@'];

/// The shade of a share from 0 to 1: blank only at 0.
pub fn shade(theme: &Theme, share: f64) -> char {
    let shades = if theme.is_ascii { ASCII_SHADES } else { SHADES };
    if share.is_nan() || share <= 0.0 {
        return shades[0];
    }
    shades[1 + ((share.min(1.0) * 4.0) as usize).min(3)]
}

/// The colour of a share from 0 to 1; none where the terminal has too few.
pub fn color(theme: &Theme, share: f64) -> Option<Color> {
    let stops = if theme.is_light { &LIGHT } else { &DARK };
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    let above = stops.iter().position(|(stop, _)| *stop >= share).unwrap_or(stops.len() - 1).max(1);
    let ((low, from), (high, to)) = (stops[above - 1], stops[above]);
    let part = (share - low) / (high - low);
    let mix = |i: usize| {
        (f64::from(from[i]) + part * (f64::from(to[i]) - f64::from(from[i]))).round() as u8
    };
    match theme.depth {
        Depth::True => Some(Color::Rgb(mix(0), mix(1), mix(2))),
        Depth::Indexed => {
            // The colour cube of the 256: six levels each, from 16 on.
            let level = |value: u8| if value < 48 { 0 } else { ((value - 35) / 40).min(5) };
            Some(Color::Indexed(16 + 36 * level(mix(0)) + 6 * level(mix(1)) + level(mix(2))))
        }
        Depth::Sixteen | Depth::Mono => None,
    }
}

/// The style of a cell: its shade in the colour of its share.
pub fn style(theme: &Theme, share: f64) -> Style {
    match color(theme, share) {
        Some(color) => theme.text.fg(color),
        None if theme.depth == Depth::Sixteen => theme.title,
        None => theme.text,
    }
}

/// A field of cells, one character each.
#[derive(Debug, Clone, Copy)]
pub struct Heat<'a> {
    /// The values, row by row; NaN where there is none.
    pub values: &'a [Vec<f64>],
    /// The value with the fullest shade, for each row; rows without one share the last.
    pub most: &'a [f64],
    /// Row and column under the cursor.
    pub selected: Option<(usize, usize)>,
    /// Colours and signs.
    pub theme: &'a Theme,
}

impl Heat<'_> {
    /// Draws as many rows and columns as fit.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer) {
        let area = area.intersection(buffer.area);
        let rows = self.values.iter().enumerate().take(area.height as usize);
        for (row, values) in rows {
            let most = self.most.get(row).or(self.most.last()).copied().unwrap_or(1.0);
            for (column, value) in values.iter().enumerate().take(area.width as usize) {
                let share = if most > 0.0 { value / most } else { 0.0 };
                let (x, y) = (area.x + column as u16, area.y + row as u16);
                let (sign, style) = if value.is_nan() {
                    (' ', self.theme.dim)
                } else {
                    (shade(self.theme, share), style(self.theme, share))
                };
                let mut style = style;
                if self.selected == Some((row, column)) {
                    style = style.add_modifier(Modifier::REVERSED);
                }
                if let Some(cell) = buffer.cell_mut((x, y)) {
                    cell.set_char(sign).set_style(style);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_grow_with_the_share_and_only_nothing_is_blank() {
        let theme = Theme::default();
        let shades: String = [0.0, 1e-9, 0.24, 0.26, 0.5, 0.75, 1.0, 9.0, f64::NAN]
            .map(|s| shade(&theme, s))
            .iter()
            .collect();
        assert_eq!(shades, " ░░▒▓███ ");
        let ascii = Theme::new(Depth::Mono, true, false);
        assert!(
            [0.1, 0.4, 0.6, 1.0, f64::INFINITY]
                .map(|s| shade(&ascii, s))
                .iter()
                .all(char::is_ascii)
        );
    }

    #[test]
    fn colours_differ_between_little_and_much_in_each_depth_that_has_them() {
        for (depth, has) in [
            (Depth::True, true),
            (Depth::Indexed, true),
            (Depth::Sixteen, false),
            (Depth::Mono, false),
        ] {
            for is_light in [false, true] {
                let theme = Theme::new(depth, false, is_light);
                assert_eq!(color(&theme, 0.1).is_some(), has);
                assert_eq!(color(&theme, 0.1) != color(&theme, 0.9), has, "{depth:?}");
            }
        }
    }

    #[test]
    fn a_field_larger_than_its_area_stays_inside() {
        let theme = Theme::default();
        let values = vec![vec![1.0; 50]; 50];
        let heat = Heat { values: &values, most: &[1.0], selected: Some((0, 0)), theme: &theme };
        let mut buffer = Buffer::empty(Rect::new(0, 0, 10, 5));
        heat.draw(Rect::new(2, 1, 3, 2), &mut buffer);
        let drawn = buffer.content().iter().filter(|cell| cell.symbol() == "█").count();
        assert_eq!(drawn, 6);
        heat.draw(Rect::new(8, 4, 300, 300), &mut buffer);
        heat.draw(Rect::new(400, 400, 30, 30), &mut buffer);
    }
}
