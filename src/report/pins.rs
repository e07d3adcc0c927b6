//! Pins on the lines of a chart: what happened at an update, as a small sign on a stem.

use super::acts::Act;
use super::svg::{Anchor, Svg};

/// A line carries at most so many signs of a kind; more cannot be told apart.
const MOST: usize = 16;
/// From the line to the middle of its first sign, and from there to the next one of the same update.
const STEM: f64 = 11.0;
const NEXT: f64 = 9.0;
/// Half a sign's width.
const RADIUS: f64 = 3.6;
/// A row of the legend.
pub const ROW: f64 = 18.0;
/// The grey of the legend's signs.
const GREY: usize = 6;

/// Something that happened, at a place of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pin {
    /// The place, in the numbers of the axes.
    pub x: f64,
    /// The same.
    pub y: f64,
    /// What happened.
    pub act: Act,
}

/// The pins of all lines of a chart, as few as can be read.
#[derive(Debug, Default)]
pub struct Pins {
    /// By line.
    of: Vec<Vec<Pin>>,
    /// What occurs, and the pins that one stands for.
    legend: Vec<(Act, usize)>,
}

impl Pins {
    /// Keeps every nth pin of a kind, with the same n on all lines.
    pub fn new<'a>(lines: impl Iterator<Item = &'a [Pin]>) -> Self {
        let lines: Vec<&[Pin]> = lines.collect();
        let mut pins = Self { of: vec![Vec::new(); lines.len()], legend: Vec::new() };
        for act in Act::ALL {
            let of_line = |line: &&[Pin]| line.iter().filter(|pin| pin.act == act).count();
            let most = lines.iter().map(of_line).max().unwrap_or(0);
            if most == 0 {
                continue;
            }
            let every = most.div_ceil(MOST);
            pins.legend.push((act, every));
            for (kept, line) in pins.of.iter_mut().zip(&lines) {
                kept.extend(line.iter().filter(|pin| pin.act == act).step_by(every));
            }
        }
        pins
    }

    /// A legend alone, of acts that are all shown.
    pub fn legend_of(acts: impl Iterator<Item = Act>) -> Self {
        Self { of: Vec::new(), legend: acts.map(|act| (act, 1)).collect() }
    }

    /// The legend's entries: what happened, and of how many one is shown where not all are.
    fn entries(&self) -> impl Iterator<Item = (Act, String)> + '_ {
        self.legend.iter().map(|(act, every)| {
            let name = act.name();
            (*act, if *every > 1 { format!("{name} (1 of {every} shown)") } else { name.into() })
        })
    }

    /// Where the entries stand between two edges: place and row of each, and the number of rows.
    fn places(&self, from: f64, to: f64) -> (Vec<(f64, usize)>, usize) {
        let (mut at, mut row) = (from, 0);
        let mut places = Vec::new();
        for (_, words) in self.entries() {
            let width = 34.0 + 6.7 * words.chars().count() as f64;
            if at > from && at + width > to {
                (at, row) = (from, row + 1);
            }
            places.push((at, row));
            at += width;
        }
        let rows = if places.is_empty() { 0 } else { row + 1 };
        (places, rows)
    }

    /// The height of the legend between two edges.
    pub fn height(&self, from: f64, to: f64) -> f64 {
        ROW * self.places(from, to).1 as f64
    }

    /// Draws the legend, its first row at `y`.
    pub fn draw_legend(&self, svg: &mut Svg, (from, to): (f64, f64), y: f64) {
        let (places, _) = self.places(from, to);
        for ((act, words), (x, row)) in self.entries().zip(places) {
            let y = y + ROW * row as f64;
            sign(svg, x + RADIUS, y, act, GREY);
            svg.words(x + 12.0, y + 4.0, 12.0, Anchor::Start, "faint", &words);
        }
    }

    /// Draws the pins of one line, under it or, at the lower edge of the chart, above it.
    pub fn draw(
        &self,
        svg: &mut Svg,
        line: usize,
        colour: usize,
        bottom: f64,
        place: impl Fn(&Pin) -> (f64, f64),
    ) {
        let of_line = self.of.get(line).map(Vec::as_slice).unwrap_or_default();
        for (number, pin) in of_line.iter().enumerate() {
            let (x, y) = place(pin);
            if !(x.is_finite() && y.is_finite()) {
                continue;
            }
            let is_same = |other: &&Pin| other.x.total_cmp(&pin.x).is_eq();
            let before = of_line[..number].iter().filter(is_same).count() as f64;
            let together = of_line.iter().filter(is_same).count() as f64;
            let room = STEM + (together - 1.0) * NEXT + RADIUS;
            let down = if y + room > bottom { -1.0 } else { 1.0 };
            let middle = y + down * (STEM + NEXT * before);
            if before == 0.0 {
                let stem = [(x, y), (x, middle - down * RADIUS)];
                svg.line(&stem, colour, "stroke-width=\"1\"");
            }
            sign(svg, x, middle, pin.act, colour);
        }
    }
}

/// The sign of an act around a place.
pub fn sign(svg: &mut Svg, x: f64, y: f64, act: Act, colour: usize) {
    let r = RADIUS;
    let at = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().map(|(a, b)| (x + r * a, y + r * b)).collect()
    };
    let around = |points: &[(f64, f64)]| {
        let mut points = at(points);
        points.extend(points.first().copied());
        points
    };
    let stroke = "stroke-width=\"1.3\"";
    match act {
        Act::Merge => svg.area(&at(&[(-1.0, -0.9), (1.0, -0.9), (0.0, 0.9)]), colour, ""),
        Act::Rank => svg.area(&at(&[(-1.0, 0.9), (1.0, 0.9), (0.0, -0.9)]), colour, ""),
        Act::Phase => {
            svg.area(&at(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]), colour, "");
        }
        Act::Reset => {
            let circle: Vec<(f64, f64)> = (0..16)
                .map(|k| (std::f64::consts::TAU * f64::from(k) / 16.0).sin_cos())
                .map(|(sin, cos)| (0.9 * cos, 0.9 * sin))
                .collect();
            svg.line(&around(&circle), colour, stroke);
        }
        Act::Subspace => {
            svg.line(&around(&[(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]), colour, stroke);
        }
        Act::Set => {
            let corners = [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)];
            svg.line(&around(&corners), colour, stroke);
        }
        Act::Limit => svg.line(&at(&[(-1.0, 0.0), (1.0, 0.0)]), colour, "stroke-width=\"2.4\""),
        Act::Skip => {
            svg.line(&at(&[(-0.9, -0.9), (0.9, 0.9)]), colour, stroke);
            svg.line(&at(&[(-0.9, 0.9), (0.9, -0.9)]), colour, stroke);
        }
        Act::Back => svg.line(&at(&[(0.7, -0.9), (-0.8, 0.0), (0.7, 0.9)]), colour, stroke),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins(counts: &[(Act, usize)]) -> Vec<Pin> {
        let of = |&(act, count): &(Act, usize)| {
            (0..count).map(move |at| Pin { x: at as f64, y: 1.0, act })
        };
        counts.iter().flat_map(of).collect()
    }

    #[test]
    fn a_line_has_few_signs_and_the_legend_says_of_how_many() {
        let (one, other) =
            (pins(&[(Act::Subspace, 40), (Act::Merge, 3)]), pins(&[(Act::Subspace, 9)]));
        let all = Pins::new([&one[..], &other[..], &[]].into_iter());
        let count = |line: usize, act| all.of[line].iter().filter(|pin| pin.act == act).count();
        assert_eq!((count(0, Act::Subspace), count(0, Act::Merge)), (14, 3));
        assert_eq!((count(1, Act::Subspace), all.of[2].len()), (3, 0));
        let entries: Vec<String> = all.entries().map(|(_, words)| words).collect();
        assert_eq!(entries, ["merge", "new subspace (1 of 3 shown)"]);
    }

    #[test]
    fn the_legend_goes_on_in_another_row_and_nothing_has_no_height() {
        let every: Vec<(Act, usize)> = Act::ALL.into_iter().map(|act| (act, 1)).collect();
        let all = Pins::new([&pins(&every)[..]].into_iter());
        let (places, rows) = all.places(72.0, 500.0);
        assert_eq!((places.len(), rows), (9, 3));
        assert!(places.iter().all(|(at, _)| (72.0..500.0).contains(at)));
        assert_eq!(Pins::new(std::iter::once(&[][..])).height(0.0, 100.0), 0.0);
    }

    #[test]
    fn signs_of_one_update_stand_under_each_other_and_stay_on_the_chart() {
        let one = pins(&[(Act::Merge, 1), (Act::Reset, 1)]);
        let all = Pins::new([&one[..]].into_iter());
        let heights = |y: f64| {
            let mut svg = Svg::new(100.0, 100.0, "x");
            all.draw(&mut svg, 0, 0, 100.0, |_| (50.0, y));
            let text = svg.finish();
            let path = text.lines().find(|line| line.starts_with("<path d=\"M50")).unwrap();
            let stem = path.split('"').nth(1).unwrap().split('L').next_back().unwrap();
            (
                text.matches("<polygon").count(),
                stem.split(' ').nth(1).unwrap().parse::<f64>().unwrap(),
            )
        };
        assert_eq!(heights(20.0), (1, 20.0 + STEM - RADIUS));
        assert_eq!(heights(90.0), (1, 90.0 - STEM + RADIUS));
    }

    #[test]
    fn an_update_at_which_everything_happened_keeps_its_signs_on_the_chart() {
        let every: Vec<(Act, usize)> = Act::ALL.into_iter().map(|act| (act, 1)).collect();
        let all = Pins::new([&pins(&every)[..]].into_iter());
        for line in [10.0, 100.0, 150.0, 165.0, 190.0] {
            let mut svg = Svg::new(100.0, 200.0, "x");
            all.draw(&mut svg, 0, 0, 200.0, |_| (50.0, line));
            let text = svg.finish();
            let shapes =
                text.lines().filter(|line| line.contains(" d=\"M") || line.contains("points"));
            let places = shapes.flat_map(|shape| {
                let mut quoted = shape.split('"').skip(1);
                quoted.next().unwrap().split(['M', 'L']).collect::<Vec<_>>()
            });
            let heights = places.flat_map(|part| part.split(' ').collect::<Vec<_>>());
            let heights =
                heights.filter_map(|part| part.split(',').next_back()?.parse::<f64>().ok());
            let heights: Vec<f64> = heights.collect();
            assert!(heights.len() > 2 * Act::ALL.len(), "{text}");
            assert!(heights.iter().all(|y| (0.0..=200.0).contains(y)), "{line}: {heights:?}");
        }
    }
}
