//! What the panels of several views share: frames, layers' names, numbers in words.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::runlog::Status;
use crate::tui::action::{Action, ViewId};
use crate::tui::app::App;
use crate::tui::edit;
use crate::tui::plot::panel::Panel;
use crate::tui::plot::signs::to_ascii;
use crate::tui::plot::table::fit;
use crate::tui::theme::Theme;

/// Draws a frame with a title above and words below, and gives the room inside. A frame with no room inside is not
/// drawn.
pub fn frame(
    title: &str,
    foot: &str,
    has_focus: bool,
    theme: &Theme,
    area: Rect,
    buffer: &mut Buffer,
) -> Rect {
    if area.width < 3 || area.height < 3 {
        return Rect::ZERO;
    }
    let panel = Panel { title: self::title(title), note: Line::from(foot), is_focused: has_focus };
    panel.draw(area, theme, buffer)
}

/// A title whose parts, two blanks apart, go whole where the room is too small.
pub fn title(text: &str) -> Line<'static> {
    let parts = text.split_inclusive("  ").map(|part| Span::raw(part.to_owned()));
    Line::from(parts.collect::<Vec<_>>())
}

/// A text that fits into some cells: parts between dots go whole, from the last on; what is left is shortened.
fn fitting(text: &str, width: usize, is_ascii: bool) -> String {
    use unicode_width::UnicodeWidthStr;
    let mut kept = text;
    while kept.width() > width {
        match kept.rsplit_once(" · ") {
            Some((before, _)) => kept = before,
            None => return fit(kept, width, is_ascii),
        }
    }
    kept.to_owned()
}

/// Writes a line of text, shortened to the area's width; returns the area below it.
pub fn put(text: &str, style: Style, theme: &Theme, area: Rect, buffer: &mut Buffer) -> Rect {
    let seen = area.intersection(buffer.area);
    if seen.is_empty() {
        return Rect::ZERO;
    }
    let text = fitting(text, seen.width as usize, theme.is_ascii);
    buffer.set_string(seen.x, seen.y, text, style);
    Rect::new(area.x, area.y + 1, area.width, area.height - 1)
}

/// What a view of one run says where none is open.
pub fn no_run(app: &App) -> String {
    let key = app.key(Action::View(ViewId::Runs));
    format!("No run is open. Press {key} for the runs of the folder.")
}

/// A filter in a title: the beginning of a long one.
pub fn shown_filter(app: &App, filter: &str) -> String {
    fit(&crate::report::text::printable(filter), 40, app.theme.is_ascii)
}

/// Writes sentences one below the other, broken between words; returns the area below them.
pub fn say(text: &str, style: Style, theme: &Theme, area: Rect, buffer: &mut Buffer) -> Rect {
    use unicode_width::UnicodeWidthStr;
    let width = area.width as usize;
    let mut rest = area;
    for part in text.lines() {
        let mut line = String::new();
        for word in part.split(' ') {
            if !line.is_empty() && line.width() + 1 + word.width() > width {
                rest = put(&line, style, theme, rest, buffer);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        rest = put(&line, style, theme, rest, buffer);
    }
    rest
}

/// Draws a text that is being edited, with its cursor. Of one that is longer than its room the part up to the cursor is
/// shown.
pub fn edited(line: &edit::Line, area: Rect, style: Style, theme: &Theme, buffer: &mut Buffer) {
    use unicode_width::UnicodeWidthChar;
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    let last = usize::from(area.width) - 1;
    let mut cursor = line.cursor_column();
    let mut shown = line.text();
    while cursor > last
        && let Some(letter) = shown.chars().next()
    {
        cursor -= letter.width().unwrap_or(0);
        shown = &shown[letter.len_utf8()..];
    }
    buffer.set_stringn(area.x, area.y, shown, usize::from(area.width), style);
    buffer.set_style(Rect::new(area.x + cursor as u16, area.y, 1, 1), theme.selected);
}

/// Turns what is drawn in an area into ASCII, where the theme wants that.
pub fn plain(theme: &Theme, area: Rect, buffer: &mut Buffer) {
    if theme.is_ascii {
        to_ascii(area, buffer);
    }
}

/// The letter of the run at a place: A, B, …, Z, then a, b, …
pub fn letter(place: usize) -> char {
    let letters = ('A'..='Z').chain('a'..='z');
    letters.into_iter().nth(place).unwrap_or('*')
}

/// The block and the kind of a layer by its name: `model.layers.3.self_attn.q_proj.weight` is block 3, `q`.
pub fn layer_parts(name: &str) -> (Option<usize>, String) {
    let mut block = None;
    let mut kind = name;
    for part in name.split('.') {
        match part.parse::<usize>() {
            Ok(number) => block = Some(number),
            Err(_) if part == "weight" => {}
            Err(_) => kind = part,
        }
    }
    (block, kind.trim_end_matches("_proj").to_owned())
}

/// A layer's short name: `03.q`.
pub fn layer_name(name: &str) -> String {
    match layer_parts(name) {
        (Some(block), kind) => format!("{block:02}.{kind}"),
        (None, kind) => kind,
    }
}

/// A status as a sign and a word, in its colour.
pub fn state(status: Status, theme: &Theme) -> (&'static str, Style) {
    match status {
        Status::Live => ("● live", theme.good),
        Status::Paused => ("● paused", theme.warn),
        Status::Finished => ("✓ done", theme.text),
        Status::Stopped => ("■ stopped", theme.text),
        Status::Interrupted => ("■ interrupted", theme.text),
        Status::Diverged => ("✗ diverged", theme.bad),
        Status::Failed => ("✗ failed", theme.bad),
        Status::Crashed => ("✗ crashed", theme.bad),
    }
}

/// A whole number with its thousands apart: `12 480`.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A size in a few signs: `56.0M`, `32.9k`, `812`.
pub fn short(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let units = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| value.abs() >= *unit) {
        Some((unit, name)) if value.abs() >= 100.0 * unit => format!("{:.0}{name}", value / unit),
        Some((unit, name)) => format!("{:.1}{name}", value / unit),
        None if value == value.trunc() => format!("{value:.0}"),
        None => format!("{value:.2}"),
    }
}

/// Bytes in binary units: `3.1 GiB`.
pub fn bytes(value: u64) -> String {
    let value = value as f64;
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| value >= *unit as f64) {
        Some((unit, name)) => format!("{:.1} {name}", value / unit as f64),
        None => format!("{value:.0} B"),
    }
}

/// A loss or another value in four digits: `3.391`, `0.0123`, `1.2e-5`.
pub fn value(value: f64) -> String {
    let size = value.abs();
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    match size {
        0.0 => "0".into(),
        s if s >= 1e5 => short(value),
        s if s >= 1000.0 => format!("{value:.0}"),
        s if s >= 100.0 => format!("{value:.1}"),
        s if s >= 10.0 => format!("{value:.2}"),
        s if s >= 0.1 => format!("{value:.3}"),
        s if s >= 1e-3 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

/// A stretch of time: `52 s`, `4m10s`, `1h54m`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Modifier;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        assert_eq!(
            [0, 999, 1000, 12_480, 1_000_000].map(thousands),
            ["0", "999", "1 000", "12 480", "1 000 000"]
        );
        assert_eq!(
            [0.0, 812.0, 32_900.0, 102.2e6, 56e6, f64::NAN].map(short),
            ["0", "812", "32.9k", "102M", "56.0M", "–"]
        );
        assert_eq!(
            [3.391, 30.31, 1100.4, 0.0123, 1e-9, f64::NAN].map(value),
            ["3.391", "30.31", "1100", "0.0123", "1.0e-9", "nan"]
        );
        assert_eq!(
            [5.0, 250.0, 6840.0, 200_000.0].map(duration),
            ["5s", "4m10s", "1h54m", "2d07h"]
        );
        assert_eq!(bytes(3_100 << 20), "3.0 GiB");
    }

    #[test]
    fn layers_have_a_block_and_a_kind() {
        assert_eq!(layer_parts("model.layers.12.mlp.gate_proj.weight"), (Some(12), "gate".into()));
        assert_eq!(layer_name("model.layers.3.self_attn.q_proj"), "03.q");
        assert_eq!(layer_name("lm_head.weight"), "lm_head");
    }

    #[test]
    fn plain_signs_are_ascii() {
        let theme = Theme::new(crate::tui::theme::Depth::Mono, true, false);
        let area = Rect::new(0, 0, 40, 3);
        let mut buffer = Buffer::empty(area);
        let inner = frame("a·b", "→ 3 ± 1 日本", true, &theme, area, &mut buffer);
        put("● live ▁▂▃ Δ−", theme.text, &theme, inner, &mut buffer);
        plain(&theme, area, &mut buffer);
        assert!(buffer.content().iter().all(|cell| cell.symbol().is_ascii()));
        assert_eq!(buffer.cell((1, 1)).unwrap().symbol(), "*");
    }

    #[test]
    fn the_cursor_of_a_long_line_stays_in_sight() {
        let theme = Theme::default();
        for (text, wanted, column) in
            [("abc", "abc ", 3), ("abcdef", "def ", 3), ("日本語", "語  ", 2), ("", "    ", 0)]
        {
            let mut buffer = Buffer::empty(Rect::new(0, 0, 4, 1));
            edited(&edit::Line::new(text), buffer.area, theme.text, &theme, &mut buffer);
            assert_eq!(crate::tui::page::text(&buffer).trim_end(), wanted.trim_end(), "{text}");
            let reversed =
                |cell: &ratatui::buffer::Cell| cell.modifier.contains(Modifier::REVERSED);
            let at = buffer.content().iter().position(reversed);
            assert_eq!(at, Some(column), "{text}");
        }
        let mut buffer = Buffer::empty(Rect::new(0, 0, 4, 1));
        edited(&edit::Line::new("ab"), Rect::new(4, 0, 0, 1), theme.text, &theme, &mut buffer);
    }

    #[test]
    fn sentences_break_between_words() {
        let theme = Theme::default();
        let area = Rect::new(0, 0, 10, 4);
        let mut buffer = Buffer::empty(area);
        let rest = say("one two three four", theme.text, &theme, area, &mut buffer);
        assert_eq!(rest, Rect::new(0, 2, 10, 2));
        say("one two three four", theme.text, &theme, Rect::new(9, 3, 1, 1), &mut buffer);
        say("one two three four", theme.text, &theme, Rect::new(0, 0, 0, 0), &mut buffer);
    }
}
