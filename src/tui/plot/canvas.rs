//! Lines of dots finer than cells: two by four dots a cell as Braille, one by three in ASCII.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// Bits of a Braille cell by `[row][column]`.
const BRAILLE: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// Row and column of each dot of a Braille sign, by its bits.
pub fn dots_of(bits: u32) -> impl Iterator<Item = (u8, u8)> {
    let places = (0..4).flat_map(|row: u8| [(row, 0), (row, 1)]);
    places.filter(move |(row, column)| {
        bits & u32::from(BRAILLE[usize::from(*row)][usize::from(*column)]) != 0
    })
}

#[derive(Clone, Copy, Default)]
struct Dots {
    bits: u8,
    style: Style,
    is_dim: bool,
}

/// A raster over an area of cells.
pub struct Canvas {
    area: Rect,
    is_ascii: bool,
    cells: Vec<Dots>,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stroke {
    /// Its colour.
    pub style: Style,
    /// A dim line gives way to others in every cell that they share.
    pub is_dim: bool,
    /// Whether only every third dot is drawn.
    pub is_dotted: bool,
}

impl Canvas {
    /// An empty raster.
    pub fn new(area: Rect, is_ascii: bool) -> Self {
        let count = usize::from(area.width) * usize::from(area.height);
        Self { area, is_ascii, cells: vec![Dots::default(); count] }
    }

    /// Dots from left to right.
    pub fn width(&self) -> usize {
        usize::from(self.area.width) * if self.is_ascii { 1 } else { 2 }
    }

    /// Dots from top to bottom.
    pub fn height(&self) -> usize {
        usize::from(self.area.height) * if self.is_ascii { 3 } else { 4 }
    }

    /// Draws a line through points given as shares of the area, from the left and from the top. What lies outside
    /// is left out; the parts inside are drawn all the same.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: Stroke) {
        let Some((from, to)) = clipped(from, to) else { return };
        let (mut x, mut y) = self.dot(from);
        let (end_x, end_y) = self.dot(to);
        let (wide, high) = ((end_x - x).abs(), -(end_y - y).abs());
        let (right, down) = ((end_x - x).signum(), (end_y - y).signum());
        let mut error = wide + high;
        loop {
            self.set(x, y, stroke);
            if (x, y) == (end_x, end_y) {
                return;
            }
            let twice = 2 * error;
            if twice >= high {
                error += high;
                x += right;
            }
            if twice <= wide {
                error += wide;
                y += down;
            }
        }
    }

    /// Draws one point, given as shares of the area.
    pub fn point(&mut self, at: (f64, f64), stroke: Stroke) {
        if is_inside(at) {
            let (x, y) = self.dot(at);
            self.set(x, y, stroke);
        }
    }

    /// The dot of a point inside.
    fn dot(&self, (x, y): (f64, f64)) -> (i64, i64) {
        let of = |share: f64, count: usize| {
            let dot = (share * count as f64) as i64;
            dot.clamp(0, (count as i64 - 1).max(0))
        };
        (of(x, self.width()), of(y, self.height()))
    }

    fn set(&mut self, x: i64, y: i64, stroke: Stroke) {
        if stroke.is_dotted && (x + y) % 3 != 0 {
            return;
        }
        let (x, y) = (x.max(0) as usize, y.max(0) as usize);
        let (column, row, bit) = if self.is_ascii {
            (x, y / 3, 1 << (y % 3))
        } else {
            (x / 2, y / 4, BRAILLE[y % 4][x % 2])
        };
        let place = row * usize::from(self.area.width) + column;
        let Some(cell) = self.cells.get_mut(place) else { return };
        if stroke.is_dim && cell.bits != 0 && !cell.is_dim {
            return;
        }
        if cell.is_dim && !stroke.is_dim {
            cell.bits = 0;
        }
        *cell = Dots { bits: cell.bits | bit, style: stroke.style, is_dim: stroke.is_dim };
    }

    /// Writes the cells that have dots.
    pub fn paint(&self, buffer: &mut Buffer) {
        let width = usize::from(self.area.width).max(1);
        for (place, dots) in self.cells.iter().enumerate().filter(|(_, dots)| dots.bits != 0) {
            let (x, y) = ((place % width) as u16, (place / width) as u16);
            let sign = if self.is_ascii { ascii(dots.bits) } else { braille(dots.bits) };
            if let Some(cell) = buffer.cell_mut((self.area.x + x, self.area.y + y)) {
                cell.set_char(sign).set_style(dots.style);
            }
        }
    }
}

fn braille(bits: u8) -> char {
    char::from_u32(0x2800 + u32::from(bits)).unwrap_or('?')
}

/// One dot has its height, several are a steep line.
fn ascii(bits: u8) -> char {
    match bits {
        1 => '\'',
        2 => '-',
        4 => '_',
        _ => '|',
    }
}

fn is_inside((x, y): (f64, f64)) -> bool {
    (0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y)
}

/// The part of a line inside the unit square (Liang and Barsky's method); `None` where there is none, and for
/// ends that are not finite.
fn clipped(from: (f64, f64), to: (f64, f64)) -> Option<((f64, f64), (f64, f64))> {
    if is_inside(from) && is_inside(to) {
        return Some((from, to));
    }
    if ![from.0, from.1, to.0, to.1].iter().all(|value| value.is_finite()) {
        return None;
    }
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (mut enters, mut leaves) = (0.0_f64, 1.0_f64);
    for (step, room) in [(-dx, from.0), (dx, 1.0 - from.0), (-dy, from.1), (dy, 1.0 - from.1)] {
        if step == 0.0 {
            if room < 0.0 {
                return None;
            }
        } else if step < 0.0 {
            enters = enters.max(room / step);
        } else {
            leaves = leaves.min(room / step);
        }
    }
    let at = |t: f64| ((from.0 + t * dx).clamp(0.0, 1.0), (from.1 + t * dy).clamp(0.0, 1.0));
    (enters <= leaves).then(|| (at(enters), at(leaves)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drawn(area: Rect, is_ascii: bool, points: &[(f64, f64)]) -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 40, 12));
        let mut canvas = Canvas::new(area, is_ascii);
        for pair in points.windows(2) {
            canvas.line(pair[0], pair[1], Stroke::default());
        }
        canvas.paint(&mut buffer);
        buffer
    }

    fn row(buffer: &Buffer, y: u16) -> String {
        (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim().into()
    }

    #[test]
    fn a_diagonal_goes_from_corner_to_corner() {
        let buffer = drawn(Rect::new(0, 0, 4, 2), false, &[(0.0, 1.0), (1.0, 0.0)]);
        assert_eq!((row(&buffer, 0), row(&buffer, 1)), ("⡠⠊".into(), "⡠⠊".into()));
        let buffer = drawn(Rect::new(0, 0, 6, 2), true, &[(0.0, 1.0), (1.0, 0.0)]);
        assert_eq!((row(&buffer, 0), row(&buffer, 1)), ("_-'".into(), "_-'".into()));
    }

    #[test]
    fn a_line_through_the_area_is_drawn_though_both_ends_are_outside() {
        let buffer = drawn(Rect::new(0, 0, 4, 1), false, &[(-5.0, 0.5), (5.0, 0.5)]);
        assert_eq!(row(&buffer, 0), "⠤⠤⠤⠤");
        assert_eq!(row(&drawn(Rect::new(0, 0, 4, 1), false, &[(-5.0, 2.0), (5.0, 2.0)]), 0), "");
    }

    #[test]
    fn dim_lines_give_way() {
        let area = Rect::new(0, 0, 2, 1);
        let dim = Stroke { is_dim: true, ..Stroke::default() };
        let mut canvas = Canvas::new(area, false);
        canvas.line((0.0, 0.0), (1.0, 0.0), dim);
        canvas.line((0.0, 1.0), (1.0, 1.0), Stroke::default());
        canvas.line((0.0, 0.0), (1.0, 0.0), dim);
        let mut buffer = Buffer::empty(area);
        canvas.paint(&mut buffer);
        assert_eq!(row(&buffer, 0), "⣀⣀");
    }

    proptest! {
        #[test]
        fn nothing_is_drawn_outside(
            x in 0_u16..12, y in 0_u16..6, width in 0_u16..20, height in 0_u16..6, is_ascii: bool,
            points in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..12),
            near in proptest::collection::vec((-2.0_f64..3.0, -2.0_f64..3.0), 0..12),
        ) {
            let area = Rect::new(x, y, width, height);
            for points in [points, near] {
                let buffer = drawn(area, is_ascii, &points);
                for (place, cell) in buffer.content().iter().enumerate() {
                    let (cx, cy) = buffer.pos_of(place);
                    prop_assert!(cell.symbol() == " " || area.contains((cx, cy).into()));
                }
            }
        }
    }
}
