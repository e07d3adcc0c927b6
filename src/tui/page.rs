//! A drawn screen outside a terminal: as text for logs and scripts, as SVG for documents.

use std::fmt::Write as _;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};
use unicode_width::UnicodeWidthStr;

use super::app::App;
use super::plot::canvas;
use super::shell;
use super::theme::Theme;
use super::views::{self, Hits};

/// Size of a cell in an SVG, in pixels, and of its letters.
const CELL: (f64, f64) = (8.4, 17.0);
const FONT_SIZE: f64 = 14.0;
/// Side of a dot of a line.
const DOT: f64 = 2.4;
/// How far the letters' line lies below the top of their cell.
const BASELINE: f64 = 13.0;

/// Draws a whole screen of a size.
pub fn draw(app: &App, width: u16, height: u16) -> Buffer {
    whole(app, width, height, shell::draw)
}

/// Draws the view alone, without what stands around it.
pub fn view(app: &App, width: u16, height: u16) -> Buffer {
    whole(app, width, height, |app, area, buffer, hits| {
        app.runs.iter().for_each(|run| run.allow_smoothing(usize::MAX));
        views::draw(app, area, buffer, hits);
    })
}

/// Draws until all is smoothed: a picture has no next frame.
fn whole(
    app: &App,
    width: u16,
    height: u16,
    draw: impl Fn(&App, Rect, &mut Buffer, &mut Hits),
) -> Buffer {
    let area = Rect::new(0, 0, width, height);
    loop {
        let mut buffer = Buffer::empty(area);
        draw(app, area, &mut buffer, &mut Hits::default());
        if app.runs.iter().filter(|run| run.take_is_behind()).count() == 0 {
            return buffer;
        }
    }
}

/// A screen as lines of text, without spaces at their ends.
pub fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.y..buffer.area.bottom() {
        let start = text.len();
        each(buffer, y, |_, symbol, _| text.push_str(symbol));
        let end = text[start..].trim_end_matches(' ').len();
        text.truncate(start + end);
        text.push('\n');
    }
    text
}

/// A screen as lines of text with the escape sequences of its colours.
pub fn ansi(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.y..buffer.area.bottom() {
        let mut last = (Color::Reset, Color::Reset, Modifier::empty());
        each(buffer, y, |_, symbol, cell| {
            let style = (cell.fg, cell.bg, cell.modifier);
            if style != last {
                text.push_str("\x1b[0m");
                push_style(&mut text, style);
                last = style;
            }
            text.push_str(symbol);
        });
        if last != (Color::Reset, Color::Reset, Modifier::empty()) {
            text.push_str("\x1b[0m");
        }
        text.push('\n');
    }
    text
}

fn push_style(text: &mut String, (fg, bg, modifier): (Color, Color, Modifier)) {
    let flags = [
        (Modifier::BOLD, 1),
        (Modifier::DIM, 2),
        (Modifier::ITALIC, 3),
        (Modifier::UNDERLINED, 4),
        (Modifier::REVERSED, 7),
    ];
    // Writing to a String cannot fail.
    for (_, code) in flags.into_iter().filter(|(flag, _)| modifier.contains(*flag)) {
        let _ = write!(text, "\x1b[{code}m");
    }
    for (color, base) in [(fg, 38), (bg, 48)] {
        match color {
            Color::Reset => {}
            Color::Rgb(r, g, b) => {
                let _ = write!(text, "\x1b[{base};2;{r};{g};{b}m");
            }
            Color::Indexed(index) => {
                let _ = write!(text, "\x1b[{base};5;{index}m");
            }
            named => {
                if let Some(index) = named_index(named) {
                    let _ = write!(text, "\x1b[{base};5;{index}m");
                }
            }
        }
    }
}

/// A screen as SVG, in the colours of a dark or light terminal.
pub fn svg(buffer: &Buffer, theme: &Theme) -> String {
    let (width, height) = (
        f64::from(buffer.area.width) * CELL.0 + 2.0 * CELL.0,
        f64::from(buffer.area.height) * CELL.1 + CELL.1,
    );
    let (back, front) =
        if theme.is_light { ("#ffffff", "#1f2328") } else { ("#14171c", "#d5dae1") };
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 \
         {width:.1} {height:.1}\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{back}\"/>\n<g \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"{FONT_SIZE}\" \
         xml:space=\"preserve\">\n"
    );
    for y in buffer.area.y..buffer.area.bottom() {
        let top = f64::from(y - buffer.area.y) * CELL.1 + CELL.1 / 2.0;
        // Runs of cells of one style are one text, stretched to their width so that columns stay straight.
        let mut runs: Vec<(u16, u16, String, (Color, Color, Modifier))> = Vec::new();
        let mut dots: Vec<(Color, String)> = Vec::new();
        each(buffer, y, |x, symbol, cell| {
            let style = (cell.fg, cell.bg, cell.modifier);
            if let Some(bits) = braille(symbol) {
                if dots.last().is_none_or(|(ink, _)| *ink != cell.fg) {
                    dots.push((cell.fg, String::new()));
                }
                if let Some((_, path)) = dots.last_mut() {
                    push_dots(path, bits, f64::from(x - buffer.area.x + 1) * CELL.0, top);
                }
                return;
            }
            let width = symbol.width().max(1) as u16;
            match runs.last_mut() {
                Some((start, len, text, last)) if *last == style && *start + *len == x => {
                    *len += width;
                    text.push_str(symbol);
                }
                _ => runs.push((x, width, symbol.to_owned(), style)),
            }
        });
        for (ink, path) in dots {
            let ink = hex(ink).unwrap_or_else(|| front.into());
            let _ = writeln!(out, "<path fill=\"{ink}\" d=\"{path}\"/>");
        }
        for (x, len, text, (fg, bg, modifier)) in runs {
            let left = f64::from(x - buffer.area.x) * CELL.0 + CELL.0;
            let wide = f64::from(len) * CELL.0;
            let (mut ink, mut paper) = (hex(fg), hex(bg));
            if modifier.contains(Modifier::REVERSED) {
                (ink, paper) = (
                    Some(paper.unwrap_or_else(|| back.into())),
                    Some(ink.unwrap_or_else(|| front.into())),
                );
            }
            if let Some(paper) = paper {
                let _ = writeln!(
                    out,
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{wide:.1}\" height=\"{:.1}\" fill=\"{paper}\"/>",
                    CELL.1
                );
            }
            if text.trim().is_empty() {
                continue;
            }
            let mut more = String::new();
            if modifier.contains(Modifier::BOLD) {
                more.push_str(" font-weight=\"bold\"");
            }
            if modifier.contains(Modifier::DIM) {
                more.push_str(" opacity=\"0.6\"");
            }
            let _ = writeln!(
                out,
                "<text x=\"{left:.1}\" y=\"{:.1}\" textLength=\"{wide:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
                 fill=\"{}\"{more}>{}</text>",
                top + BASELINE,
                ink.unwrap_or_else(|| front.into()),
                escaped(&text)
            );
        }
    }
    out.push_str("</g>\n</svg>\n");
    out
}

/// The dots of a Braille sign.
fn braille(symbol: &str) -> Option<u32> {
    symbol.chars().next().map(u32::from)?.checked_sub(0x2800).filter(|bits| *bits < 0x100)
}

/// Adds the dots of a cell to a path. Few fonts have them, and those that stand in for others are wider.
fn push_dots(path: &mut String, bits: u32, left: f64, top: f64) {
    for (row, column) in canvas::dots_of(bits) {
        let x = left + CELL.0 * (0.25 + 0.5 * f64::from(column)) - DOT / 2.0;
        let y = top + CELL.1 * (0.125 + 0.25 * f64::from(row)) - DOT / 2.0;
        // Writing to a String cannot fail.
        let _ = write!(path, "M{x:.1} {y:.1}h{DOT}v{DOT}h-{DOT}z");
    }
}

/// Calls with the column, symbol and cell of every cell of a row that shows something: what a wide letter
/// covers is left out.
fn each(buffer: &Buffer, y: u16, mut take: impl FnMut(u16, &str, &ratatui::buffer::Cell)) {
    let mut x = buffer.area.x;
    while x < buffer.area.right() {
        let Some(cell) = buffer.cell((x, y)) else { return };
        take(x, cell.symbol(), cell);
        x += (cell.symbol().width() as u16).max(1);
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The place of a named colour among the sixteen.
fn named_index(color: Color) -> Option<u8> {
    Some(match color {
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 8,
        Color::LightRed => 9,
        Color::LightGreen => 10,
        Color::LightYellow => 11,
        Color::LightBlue => 12,
        Color::LightMagenta => 13,
        Color::LightCyan => 14,
        Color::White => 15,
        Color::Reset | Color::Rgb(..) | Color::Indexed(_) => return None,
    })
}

/// A colour as SVG writes it; the sixteen as most terminals show them.
fn hex(color: Color) -> Option<String> {
    const NAMED: [&str; 16] = [
        "#1c1f24", "#d9534f", "#4caf6a", "#d1a63a", "#4a8fd9", "#b56fc4", "#3fa9b5", "#b8bec7",
        "#7a828d", "#ee6f6a", "#6fd08b", "#e8c45a", "#6fb0f0", "#d08fe0", "#62c8d4", "#ffffff",
    ];
    match color {
        Color::Rgb(r, g, b) => Some(format!("#{r:02x}{g:02x}{b:02x}")),
        Color::Indexed(index @ 0..=15) => Some(NAMED[usize::from(index)].into()),
        Color::Indexed(index @ 16..=231) => {
            let level = |part: u8| if part == 0 { 0 } else { 55 + 40 * part };
            let cube = index - 16;
            let (r, g, b) = (level(cube / 36), level(cube / 6 % 6), level(cube % 6));
            Some(format!("#{r:02x}{g:02x}{b:02x}"))
        }
        Color::Indexed(index) => {
            let grey = 8 + 10 * (index - 232);
            Some(format!("#{grey:02x}{grey:02x}{grey:02x}"))
        }
        named => named_index(named).map(|index| NAMED[usize::from(index)].into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    #[test]
    fn dots_of_lines_are_drawn_where_their_cells_are() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 4, 1));
        buffer.set_string(0, 0, "a", Style::new());
        buffer.set_string(1, 0, "⠁⢀", Style::new().fg(Color::Rgb(1, 2, 3)));
        let picture = svg(&buffer, &Theme::default());
        assert!(!picture.contains('⠁') && !picture.contains('⢀'));
        // The first dot of the second cell, and the last of the third.
        let first = "<path fill=\"#010203\" d=\"M17.7 9.4h2.4v2.4h-2.4z";
        assert!(picture.contains(&format!("{first}M30.3 22.2h2.4v2.4h-2.4z\"/>")), "{picture}");
        assert!(crate::report::svg::png(&picture).is_ok());
    }

    #[test]
    fn text_and_picture_hold_what_the_cells_do() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 8, 2));
        buffer.set_string(0, 0, "a<b 語", Style::new().fg(Color::Rgb(1, 2, 3)));
        assert_eq!(text(&buffer), "a<b 語\n\n");
        let picture = svg(&buffer, &Theme::default());
        assert!(picture.contains("fill=\"#010203\">a&lt;b 語</text>"), "{picture}");
        assert!(crate::report::svg::png(&picture).is_ok());
        assert!(ansi(&buffer).starts_with("\x1b[0m\x1b[38;2;1;2;3ma<b 語\x1b[0m"));
    }
}
