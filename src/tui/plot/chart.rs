//! A chart of lines over a buffer of cells: axes with ticks, lines as dots, signs, marks and a cursor.
//!
//! The column of labels has a fixed width, so that [`dots`] tells before anything is drawn how many dots a chart
//! of a width has: a table asked for as many gives the same picture as all of its rows.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text;

use super::axis::{AxisRange, label, time_label};
use super::canvas::{Canvas, Stroke};
use super::panel::Panel;
use super::pen::{Pen, width};
use crate::tui::theme::Theme;

/// Cells of a label of the vertical axis.
const LABEL: u16 = 6;
/// Charts with fewer cells inside have no vertical axis.
const NARROW: u16 = 26;
/// Charts with fewer rows inside have no horizontal axis.
const LOW: u16 = 4;
/// Charts with fewer rows inside have no row of marks.
const LOW_FOR_MARKS: u16 = 7;

/// One line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line<'a> {
    /// Places and values, from left to right. A value that is not finite is a gap.
    pub points: &'a [(f64, f64)],
    /// Its colour.
    pub style: Style,
    /// What stands at its end.
    pub letter: Option<char>,
    /// A dim line gives way to others.
    pub is_dim: bool,
    /// Whether it is dotted.
    pub dots: bool,
}

/// A sign at a place and a value.
#[derive(Debug, Clone, Copy)]
pub struct Symbol {
    /// Its place.
    pub x: f64,
    /// Its value.
    pub y: f64,
    /// The sign.
    pub sign: char,
    /// Its colour.
    pub style: Style,
}

/// A chart with its frame.
#[derive(Debug, Clone)]
pub struct Chart<'a> {
    /// Stands in the upper edge of the frame.
    pub title: text::Line<'a>,
    /// Stands in the lower edge of the frame.
    pub note: text::Line<'a>,
    /// Whether keys go to it.
    pub is_focused: bool,
    /// Whether it has a frame.
    pub has_frame: bool,
    /// Lines, the one on top last.
    pub lines: Vec<Line<'a>>,
    /// Signs over the lines.
    pub symbols: Vec<Symbol>,
    /// The horizontal axis.
    pub x: AxisRange,
    /// Whether places are seconds, whose ticks are minutes and hours.
    pub x_is_time: bool,
    /// The vertical axis.
    pub y: AxisRange,
    /// Signs in a row of their own below the axis, by place.
    pub marks: Vec<(f64, char, Style)>,
    /// Where the cursor stands.
    pub cursor: Option<f64>,
    /// Colours.
    pub theme: &'a Theme,
}

/// Dots from left to right of a framed chart of a width: what to ask a table for.
pub fn dots(area_width: u16) -> usize {
    let inner = area_width.saturating_sub(2);
    2 * usize::from(inner - gutter(inner))
}

/// Cells of the vertical axis with its labels.
fn gutter(inner_width: u16) -> u16 {
    if inner_width < NARROW { 0 } else { LABEL + 2 }
}

/// What a line hides, counted while it is drawn.
#[derive(Default)]
struct Hidden {
    above: usize,
    below: usize,
}

impl<'a> Chart<'a> {
    /// A chart without lines.
    pub fn new(theme: &'a Theme, x: AxisRange, y: AxisRange) -> Self {
        Self {
            title: text::Line::default(),
            note: text::Line::default(),
            is_focused: false,
            has_frame: true,
            lines: Vec::new(),
            symbols: Vec::new(),
            x,
            x_is_time: false,
            y,
            marks: Vec::new(),
            cursor: None,
            theme,
        }
    }

    /// Draws the chart. The cells of the plot itself come back, for the mouse; `None` where there is no room.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer) -> Option<Rect> {
        let area = area.intersection(buffer.area);
        let inner = if self.has_frame {
            let (title, note) = (self.title.clone(), self.note.clone());
            let panel = Panel { title, note, is_focused: self.is_focused };
            panel.draw(area, self.theme, buffer)
        } else {
            area
        };
        let has_marks = inner.height >= LOW_FOR_MARKS && !self.marks.is_empty();
        let axis_rows = if inner.height >= LOW { 2 + u16::from(has_marks) } else { 0 };
        let left = gutter(inner.width);
        let plot = Rect {
            x: inner.x + left,
            width: inner.width - left,
            height: inner.height - axis_rows,
            ..inner
        };
        if plot.is_empty() {
            return None;
        }
        if left > 0 {
            self.y_axis(inner, plot, axis_rows > 0, buffer);
        }
        if axis_rows > 0 {
            self.x_axis(inner, plot, buffer);
        }
        self.cursor(plot, axis_rows > 0, buffer);
        let mut canvas = Canvas::new(plot, self.theme.is_ascii);
        let mut hidden = Hidden::default();
        let mut gaps = Vec::new();
        for is_dim in [true, false] {
            for line in self.lines.iter().filter(|line| line.is_dim == is_dim) {
                self.line(line, &mut canvas, &mut hidden, &mut gaps);
            }
        }
        canvas.paint(buffer);
        let mut pen = Pen::new(plot, buffer);
        for x in gaps {
            pen.sign(cell(x, plot.width), plot.height - 1, '×', self.theme.bad);
        }
        self.symbols(&mut pen, &mut hidden);
        self.letters(&mut pen);
        self.hidden(&mut pen, &hidden);
        if has_marks {
            self.marks(inner, plot, buffer);
        }
        Some(plot)
    }

    fn line(&self, line: &Line, canvas: &mut Canvas, hidden: &mut Hidden, gaps: &mut Vec<f64>) {
        let stroke = Stroke { style: line.style, is_dim: line.is_dim, is_dotted: line.dots };
        let mut last: Option<(f64, f64)> = None;
        for &(x, y) in line.points {
            let Some(share_x) = self.x.share(x) else {
                last = None;
                continue;
            };
            let is_inside = (0.0..=1.0).contains(&share_x);
            let Some(share_y) = self.y.share(y) else {
                last = None;
                if is_inside {
                    match (y > 0.0, y.is_nan()) {
                        (_, true) => gaps.push(share_x),
                        (true, _) => hidden.above += 1,
                        (false, _) => hidden.below += 1,
                    }
                }
                continue;
            };
            if is_inside {
                hidden.above += usize::from(share_y > 1.0);
                hidden.below += usize::from(share_y < 0.0);
            }
            let at = (share_x, 1.0 - share_y);
            match last {
                Some(from) => canvas.line(from, at, stroke),
                None => canvas.point(at, stroke),
            }
            last = Some(at);
        }
    }

    fn y_axis(&self, inner: Rect, plot: Rect, has_x_axis: bool, buffer: &mut Buffer) {
        let column = LABEL;
        let mut pen = Pen::new(inner, buffer);
        for y in 0..plot.height {
            pen.sign(column + 1, y, '│', self.theme.dim);
        }
        if has_x_axis {
            pen.sign(column + 1, plot.height, '└', self.theme.dim);
        }
        let wanted = usize::from(plot.height / 3).clamp(2, 8);
        let mut ticks: Vec<(u16, f64)> = Vec::new();
        for value in self.y.ticks(wanted) {
            let Some(share) = self.y.share(value) else { continue };
            ticks.push((cell(1.0 - share, plot.height), value));
        }
        // Neighbouring rows of labels are hard to read: the first of each pair stays, round ones before others.
        ticks.sort_by_key(|(_, value)| (roughness(*value), value.to_bits()));
        let mut taken: Vec<(u16, String)> = Vec::new();
        for (row, value) in ticks {
            let Some(text) = label(value, usize::from(LABEL)) else { continue };
            if taken.iter().all(|(other, name)| row.abs_diff(*other) >= 2 && *name != text) {
                pen.right(column, row, &text, self.theme.dim);
                pen.sign(column + 1, row, '┤', self.theme.dim);
                taken.push((row, text));
            }
        }
    }

    fn x_axis(&self, inner: Rect, plot: Rect, buffer: &mut Buffer) {
        let left = plot.x - inner.x;
        let mut pen = Pen::new(inner, buffer);
        let (line, names) = (plot.height, plot.height + 1);
        for x in 0..plot.width {
            pen.sign(left + x, line, '─', self.theme.dim);
        }
        let wanted = usize::from(plot.width / 14).clamp(2, 10);
        // A single label says nothing of the scale: then closer ones are tried.
        let tries =
            [1, 2, 4].map(|more| self.x_labels(more * wanted, left, plot.width, inner.width));
        let best = tries.iter().find(|labels| labels.len() > 1).unwrap_or(&tries[0]);
        for (at, start, text) in best {
            pen.whole(*start, names, text, self.theme.dim);
            pen.sign(*at, line, '┬', self.theme.dim);
        }
    }

    /// Labels of the horizontal axis that fit: the column of the tick, that of the first letter, the text.
    fn x_labels(
        &self,
        wanted: usize,
        left: u16,
        plot_width: u16,
        room: u16,
    ) -> Vec<(u16, u16, String)> {
        let ticks = if self.x_is_time { self.x.time_ticks(wanted) } else { self.x.ticks(wanted) };
        let mut free_from = 0;
        let mut labels = Vec::new();
        for value in ticks {
            let Some(share) = self.x.share(value) else { continue };
            let at = left + cell(share, plot_width);
            let text = if self.x_is_time { Some(time_label(value)) } else { label(value, 8) };
            let Some(text) = text else { continue };
            let start = (at + 1).saturating_sub(width(&text).div_ceil(2));
            if start >= free_from && start + width(&text) <= room {
                free_from = start + width(&text) + 2;
                labels.push((at, start, text));
            }
        }
        labels
    }

    fn cursor(&self, plot: Rect, has_x_axis: bool, buffer: &mut Buffer) {
        let share = self.cursor.and_then(|place| self.x.share(place));
        let Some(share) = share.filter(|share| (0.0..=1.0).contains(share)) else { return };
        let x = cell(share, plot.width);
        let rows = plot.height + u16::from(has_x_axis);
        let mut pen = Pen::new(Rect { height: rows, ..plot }, buffer);
        for y in 0..plot.height {
            pen.sign(x, y, '┆', self.theme.key);
        }
        if has_x_axis {
            pen.sign(x, plot.height, '┴', self.theme.key);
        }
    }

    fn symbols(&self, pen: &mut Pen, hidden: &mut Hidden) {
        for symbol in &self.symbols {
            let Some(x) = self.x.share(symbol.x).filter(|x| (0.0..=1.0).contains(x)) else {
                continue;
            };
            let column = cell(x, pen.area.width);
            match self.y.share(symbol.y) {
                Some(y) if (0.0..=1.0).contains(&y) => {
                    pen.sign(column, cell(1.0 - y, pen.area.height), symbol.sign, symbol.style);
                }
                Some(y) if y > 0.0 => hidden.above += 1,
                Some(_) => hidden.below += 1,
                None => pen.sign(column, pen.area.height - 1, '×', self.theme.bad),
            }
        }
    }

    /// Letters behind the last point of each line, moved up or down where two would meet.
    fn letters(&self, pen: &mut Pen) {
        let mut ends: Vec<(u16, u16, char, Style)> = Vec::new();
        for line in &self.lines {
            let Some(letter) = line.letter else { continue };
            let shares = line.points.iter().rev().filter_map(|(x, y)| {
                let x = self.x.share(*x).filter(|x| (0.0..=1.0).contains(x))?;
                Some((x, self.y.share(*y)?))
            });
            let Some((x, y)) = shares.into_iter().next() else { continue };
            let column = (cell(x, pen.area.width) + 2).min(pen.area.width - 1);
            ends.push((column, cell(1.0 - y, pen.area.height), letter, line.style));
        }
        ends.sort_by_key(|end| (end.1, end.0));
        let mut taken: Vec<(u16, u16)> = Vec::new();
        for (column, row, letter, style) in ends {
            let rows =
                (0..pen.area.height).map(|away| [row.checked_add(away), row.checked_sub(away)]);
            let free = rows.flatten().flatten().find(|row| {
                *row < pen.area.height
                    && taken.iter().all(|(x, y)| y != row || x.abs_diff(column) > 1)
            });
            if let Some(row) = free {
                taken.push((column, row));
                pen.sign(column, row, letter, style.patch(self.theme.title));
            }
        }
    }

    /// Says at the edge how much lies beyond it.
    fn hidden(&self, pen: &mut Pen, hidden: &Hidden) {
        let rows = [(hidden.above, '▲', 0), (hidden.below, '▼', pen.area.height - 1)];
        for (count, sign, row) in rows.into_iter().filter(|(count, ..)| *count > 0) {
            let text = format!("{sign}{count}");
            pen.right(pen.area.width, row, &text, self.theme.warn);
        }
    }

    fn marks(&self, inner: Rect, plot: Rect, buffer: &mut Buffer) {
        let mut pen = Pen::new(inner, buffer);
        for (place, sign, style) in &self.marks {
            if let Some(share) = self.x.share(*place).filter(|share| (0.0..=1.0).contains(share)) {
                let column = plot.x - inner.x + cell(share, plot.width);
                pen.sign(column, plot.height + 2, *sign, *style);
            }
        }
    }
}

/// Which cell of `count` holds a share.
fn cell(share: f64, count: u16) -> u16 {
    ((share * f64::from(count)) as u16).min(count.saturating_sub(1))
}

/// How far a number is from being round: 0 for 1, 10, 100, …, 1 for 5, 2 for 2, 3 for other single digits, more for others.
fn roughness(value: f64) -> u8 {
    let digits = format!("{:e}", value.abs());
    match digits.split('e').next() {
        Some("0" | "1") => 0,
        Some("5") => 1,
        Some("2") => 2,
        Some(mantissa) if mantissa.len() == 1 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture::{snapshot, text};
    use proptest::prelude::*;

    fn drawn(chart: &Chart, width: u16, height: u16) -> String {
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        chart.draw(buffer.area, &mut buffer);
        text(&buffer)
    }

    fn falling() -> Vec<(f64, f64)> {
        (0..400).map(|i| (f64::from(i), 3.0 + 6.0 * (-f64::from(i) / 60.0).exp())).collect()
    }

    #[test]
    fn the_horizontal_axis_has_two_labels_where_they_fit() {
        let theme = Theme::default();
        for (high, width) in [(500.0, 49), (500.0, 40), (600.0, 30), (1e6, 35), (1250.0, 28)] {
            let y = AxisRange::new(0.0, 1.0, false);
            let chart = Chart::new(&theme, AxisRange::new(0.0, high, false), y);
            let text = drawn(&chart, width, 12);
            assert!(text.matches('┬').count() > 1, "{high} {width}\n{text}");
        }
    }

    #[test]
    fn a_falling_loss_with_axes_signs_marks_and_a_cursor() {
        let theme = Theme::default();
        let points = falling();
        let y = AxisRange::around(points.iter().map(|p| p.1), true).unwrap();
        let chart = Chart {
            title: "loss".into(),
            note: "◇ checkpoint".into(),
            lines: vec![Line { points: &points, letter: Some('A'), ..Line::default() }],
            symbols: vec![Symbol { x: 100.0, y: 4.2, sign: '◆', style: Style::new() }],
            marks: vec![(200.0, '◇', Style::new())],
            cursor: Some(300.0),
            ..Chart::new(&theme, AxisRange::new(0.0, 500.0, false), y)
        };
        snapshot("chart", &drawn(&chart, 60, 16));
        let ascii = Theme::new(crate::tui::theme::Depth::Mono, true, false);
        let mut buffer = Buffer::empty(Rect::new(0, 0, 60, 16));
        Chart { theme: &ascii, ..chart }.draw(buffer.area, &mut buffer);
        super::super::signs::to_ascii(buffer.area, &mut buffer);
        snapshot("chart_ascii", &text(&buffer));
    }

    #[test]
    fn gaps_and_what_lies_outside_are_marked() {
        let theme = Theme::default();
        let points: Vec<(f64, f64)> = (0..20)
            .map(|i| match i {
                5 => (5.0, f64::NAN),
                9 => (9.0, f64::INFINITY),
                12 => (12.0, -1.0),
                15 => (15.0, 1e9),
                _ => (f64::from(i), 2.0),
            })
            .collect();
        let x = AxisRange::new(0.0, 19.0, false);
        let chart = Chart {
            has_frame: false,
            lines: vec![Line { points: &points, ..Line::default() }],
            ..Chart::new(&theme, x, AxisRange::new(1.0, 10.0, true))
        };
        let text = drawn(&chart, 20, 3);
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].ends_with("▲2"), "one infinite, one above: {text}");
        assert!(rows[2].ends_with("▼1"), "not above 0 on an axis of logarithms: {text}");
        assert_eq!(rows[2].chars().nth(5), Some('×'), "{text}");
    }

    #[test]
    fn a_stored_value_on_the_rounded_end_is_not_beyond_it() {
        let theme = Theme::default();
        let stored = |value: f32| f64::from(value);
        for (low, high) in [(0.0, 0.002_f32), (0.1_f32, 0.9), (1e-4, 1e-3), (-0.3, 0.7)] {
            for is_log in [false, true] {
                let points = [(0.0, stored(low)), (1.0, stored(high))];
                let y = AxisRange::around(points.iter().map(|p| p.1), is_log).unwrap();
                let line = Line { points: &points, ..Line::default() };
                let x = AxisRange::new(0.0, 1.0, false);
                let text = drawn(&Chart { lines: vec![line], ..Chart::new(&theme, x, y) }, 40, 12);
                let is_beyond = is_log && low <= 0.0;
                assert_eq!(text.contains(['▲', '▼']), is_beyond, "{low} {high} {is_log}\n{text}");
            }
        }
    }

    #[test]
    fn a_chart_has_as_many_dots_as_it_says() {
        let theme = Theme::default();
        let chart =
            Chart::new(&theme, AxisRange::new(0.0, 1.0, false), AxisRange::new(0.0, 1.0, false));
        for width in 3..200 {
            let mut buffer = Buffer::empty(Rect::new(0, 0, width, 12));
            let plot = chart.draw(buffer.area, &mut buffer).unwrap();
            assert_eq!(dots(width), 2 * usize::from(plot.width), "width {width}");
        }
    }

    #[test]
    fn the_extremes_of_each_dot_give_the_picture_of_all_points() {
        let theme = Theme::default();
        let wave = |i: usize| (i as f64 * 0.37).sin() + (i as f64 * 0.0021).cos();
        let points: Vec<(f64, f64)> = (0..20_000).map(|i| (i as f64, wave(i))).collect();
        let x = AxisRange::new(0.0, 20_000.0, false);
        let y = AxisRange::new(-2.0, 2.0, false);
        let count = dots(80);
        let mut few: Vec<(f64, f64)> = Vec::new();
        let dot = |x: f64| (x / 20_000.0 * count as f64) as usize;
        for bucket in points.chunk_by(|a, b| dot(a.0) == dot(b.0)) {
            let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let mut kept = vec![bucket[0], bucket[bucket.len() - 1]];
            kept.extend(bucket.iter().min_by(by).copied());
            kept.extend(bucket.iter().max_by(by).copied());
            kept.sort_by(|a, b| a.0.total_cmp(&b.0));
            few.extend(kept);
        }
        let with = |points: &[(f64, f64)]| {
            let line = Line { points, ..Line::default() };
            drawn(&Chart { lines: vec![line], ..Chart::new(&theme, x, y) }, 80, 20)
        };
        assert!(few.len() < points.len() / 20);
        assert_eq!(with(&few), with(&points));
    }

    #[test]
    fn letters_at_one_place_stand_above_each_other() {
        let theme = Theme::default();
        let points = [(0.0, 1.0), (0.5, 0.5)];
        let line = |letter| Line { points: &points, letter: Some(letter), ..Line::default() };
        let unit = AxisRange::new(0.0, 1.0, false);
        let chart = Chart {
            lines: vec![line('A'), line('B'), line('C')],
            ..Chart::new(&theme, unit, unit)
        };
        let text = drawn(&chart, 40, 12);
        assert!("ABC".chars().all(|letter| text.contains(letter)), "{text}");
    }

    proptest! {
        #[test]
        fn any_numbers_at_any_size_stay_inside(
            x in 0_u16..20, y in 0_u16..10, width in 0_u16..70, height in 0_u16..24,
            points in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..40),
            near in proptest::collection::vec((-2.0_f64..3.0, -2.0_f64..3.0), 0..40),
            ends in (any::<f64>(), any::<f64>(), any::<f64>(), any::<f64>()),
            log in (any::<bool>(), any::<bool>()), is_ascii: bool, has_frame: bool,
        ) {
            let theme = Theme::new(crate::tui::theme::Depth::True, is_ascii, false);
            let area = Rect::new(x, y, width, height);
            for (points, ranges) in [
                (&points, (AxisRange::new(ends.0, ends.1, log.0), AxisRange::new(ends.2, ends.3, log.1))),
                (&near, (AxisRange::new(-1.0, 2.0, log.0), AxisRange::new(-1.0, 2.0, log.1))),
            ] {
                let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 30));
                let symbols = points.iter().map(|p| Symbol { x: p.0, y: p.1, sign: '◆', style: Style::new() });
                let chart = Chart {
                    title: "a title".into(),
                    note: "a note".into(),
                    has_frame,
                    lines: vec![
                        Line { points, letter: Some('A'), ..Line::default() },
                        Line { points, letter: Some('B'), is_dim: true, dots: true, ..Line::default() },
                    ],
                    symbols: symbols.collect(),
                    marks: points.iter().map(|p| (p.0, '!', Style::new())).collect(),
                    cursor: points.first().map(|p| p.0),
                    x_is_time: is_ascii,
                    ..Chart::new(&theme, ranges.0, ranges.1)
                };
                if let Some(plot) = chart.draw(area, &mut buffer) {
                    prop_assert_eq!(plot, plot.intersection(area));
                }
                for (place, cell) in buffer.content().iter().enumerate() {
                    let at = buffer.pos_of(place);
                    prop_assert!(cell.symbol() == " " || area.contains(at.into()), "{:?} at {at:?}", cell.symbol());
                }
            }
        }
    }
}
