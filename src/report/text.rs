//! How numbers, times and tables look in the terminal. Everything here returns plain text.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};

use crate::error::{Error, Result};

/// What stands for a number that is not there.
pub const ABSENT: &str = "-";

/// A count with thousand separators: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate such as tokens per second, as a count.
pub fn rate(number: f64) -> String {
    if number.is_finite() && number >= 0.0 {
        count(number.round() as u64)
    } else {
        not_finite(number)
    }
}

/// A loss: four decimals.
pub fn loss(number: f64) -> String {
    if number.is_finite() { format!("{number:.4}") } else { not_finite(number) }
}

/// A perplexity: two decimals, above ten thousand none.
pub fn ppl(number: f64) -> String {
    match number {
        n if !n.is_finite() => not_finite(n),
        n if n >= 1e15 => format!("{n:.2e}"),
        n if n >= 10_000.0 => count(n.round() as u64),
        n if n >= 1000.0 => {
            let hundredths = (n * 100.0).round() as u64;
            format!("{}.{:02}", count(hundredths / 100), hundredths % 100)
        }
        n => format!("{n:.2}"),
    }
}

/// A learning rate: `1.00e-3`.
pub fn lr(number: f64) -> String {
    if number.is_finite() { format!("{number:.2e}") } else { not_finite(number) }
}

/// A number of any size in three or four digits.
pub fn short(number: f64) -> String {
    match number {
        n if !n.is_finite() => not_finite(n),
        n if n != 0.0 && !(0.01..10_000.0).contains(&n.abs()) => format!("{n:.1e}"),
        n if n.abs() >= 100.0 => format!("{n:.0}"),
        n if n.abs() >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

fn not_finite(number: f64) -> String {
    if number.is_nan() {
        "nan".into()
    } else if number > 0.0 {
        "inf".into()
    } else {
        "-inf".into()
    }
}

/// An optional number, or the sign for none.
pub fn or_absent<T>(number: Option<T>, look: impl FnOnce(T) -> String) -> String {
    number.map_or_else(|| ABSENT.into(), look)
}

/// Bytes in binary units: `39.1 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut number = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if number < 1023.95 {
            break;
        }
        number /= 1024.0;
        unit = larger;
    }
    format!("{number:.1} {unit}")
}

/// A span of time as a clock shows it: `0:07`, `1:02:03`, `2d 03:04`.
pub fn clock(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-:--".into();
    }
    let all = seconds as u64;
    let (days, hours, minutes, seconds) = (all / 86_400, all / 3600 % 24, all / 60 % 60, all % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{seconds:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{}d {hours:02}:{minutes:02}", count(days)),
    }
}

/// How long ago, in one unit: `now`, `42 s`, `5 min`, `3 h`, `12 d`.
pub fn age(milliseconds: i64) -> String {
    match milliseconds / 1000 {
        ..=0 => "now".into(),
        s @ 1..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86_400 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// Text from a file or a model without the characters that could steer a terminal. Line ends stay.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A text broken into lines of at most `width` characters, at spaces where there are any, and at most
/// `max_lines` of them.
pub fn wrap(text: &str, width: usize, max_lines: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in printable(text).lines() {
        let mut line = String::new();
        let mut len = 0;
        for word in paragraph.split_inclusive(' ') {
            let word_len = word.trim_end().chars().count();
            if len > 0 && len + word_len > width {
                lines.push(std::mem::take(&mut line));
                len = 0;
            }
            for c in word.chars() {
                if len >= width && c != ' ' {
                    lines.push(std::mem::take(&mut line));
                    len = 0;
                }
                line.push(c);
                len += 1;
            }
        }
        lines.push(line);
    }
    let is_cut = lines.len() > max_lines;
    lines.truncate(max_lines);
    for line in &mut lines {
        line.truncate(line.trim_end().len());
    }
    if let Some(last) = lines.last_mut().filter(|_| is_cut) {
        last.push_str(" …");
    }
    lines
}

/// A table with aligned columns.
#[derive(Debug, Default)]
pub struct Table {
    is_right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; a heading that starts with `>` makes its column flush right.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            is_right: headings.iter().map(|heading| heading.starts_with('>')).collect(),
            rows: vec![headings.iter().map(|heading| heading.replace('>', "")).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.iter().map(|cell| printable(cell).replace('\n', " ")).collect());
    }

    /// Leaves out columns, in the order of these headings, until no line is wider than `width`.
    pub fn fit(&mut self, width: usize, dispensable: &[&str]) {
        let widest = |table: &Self| table.render(0).lines().map(|line| line.chars().count()).max();
        for heading in dispensable {
            if widest(self) <= Some(width) {
                return;
            }
            let column = self.rows[0].iter().position(|cell| cell == heading);
            let Some(column) = column else { continue };
            self.is_right.remove(column);
            for row in self.rows.iter_mut().filter(|row| row.len() > column) {
                row.remove(column);
            }
        }
    }

    /// The table as lines, each with its line end and after `indent` spaces.
    pub fn render(&self, indent: usize) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.is_right.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for ((cell, width), is_right) in row.iter().zip(&widths).zip(&self.is_right) {
                // Writing to a string cannot fail.
                let _ = if *is_right {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes a result. A reader that has gone away (`fullrank ls | head -1`) is no error.
pub fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    quiet_if_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes a result as JSON.
pub fn print_json(out: &mut dyn Write, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::io("write", "the output")(io::Error::other(error)))?;
    text.push('\n');
    print(out, &text)
}

fn quiet_if_closed(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::io("write", "the output")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [count(0), count(999), count(1000), count(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [ppl(24.906), ppl(4096.5), ppl(32_000.4), ppl(f64::INFINITY), ppl(1e20)],
            ["24.91", "4,096.50", "32,000", "inf", "1.00e20"]
        );
        assert_eq!([loss(3.5), loss(f64::NAN)], ["3.5000", "nan"]);
        assert_eq!([lr(0.001), lr(0.0)], ["1.00e-3", "0.00e0"]);
        assert_eq!(
            [short(1.234), short(12.34), short(123.4), short(0.00123), short(0.0)],
            ["1.23", "12.3", "123", "1.2e-3", "0.00"]
        );
        assert_eq!(
            [bytes(1023), bytes(1024), bytes(41_000_000), bytes(3 << 40)],
            ["1023 B", "1.0 KiB", "39.1 MiB", "3.0 TiB"]
        );
        assert_eq!([rate(12_345.6), rate(f64::NAN)], ["12,346", "nan"]);
    }

    #[test]
    fn times_read_well() {
        assert_eq!(
            [clock(7.9), clock(65.0), clock(3723.0), clock(183_840.0), clock(f64::NAN)],
            ["0:07", "1:05", "1:02:03", "2d 03:04", "-:--"]
        );
        assert_eq!(
            [age(-5), age(59_000), age(3_599_000), age(86_399_000), age(864_000_000)],
            ["now", "59 s", "59 min", "23 h", "10 d"]
        );
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\x07"), "a\u{fffd}[2Jb\u{fffd}\nc\u{fffd}");
    }

    #[test]
    fn long_text_is_broken_at_spaces_and_cut() {
        assert_eq!(wrap("one two three", 8, 9), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij", 4, 9), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("a\n\nb c", 80, 9), ["a", "", "b c"]);
        assert_eq!(wrap("a\nb\nc", 80, 2), ["a", "b …"]);
        assert!(wrap("", 80, 2).is_empty());
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", ">loss"]);
        table.row(&["a".into(), "10.5".into()]);
        table.row(&["longer\nname".into(), "3".into()]);
        assert_eq!(table.render(1), " name         loss\n a            10.5\n longer name     3\n");
    }

    #[test]
    fn a_closed_pipe_is_quiet() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        print(&mut Closed, "x").unwrap();
    }
}
