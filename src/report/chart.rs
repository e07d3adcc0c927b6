//! A chart with lines: axes, raw values behind smoothed ones, bands over seeds, points, names at the ends of the lines.

use super::pins::{Pin, Pins};
use super::svg::{Anchor, COLOURS, Svg, shortened};
use super::ticks;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 52.0;
/// Lines of names stand at least so far apart.
const NAME_HEIGHT: f64 = 15.0;
/// Raw values are drawn as at most so many pieces, each from its smallest to its largest value.
const PIECES: usize = 400;
/// Larger values have no place on a chart: their differences are infinite.
const LARGEST: f64 = 1e300;
/// Ways to draw lines when there are more of them than colours.
const DASHES: [&str; 3] = ["", "stroke-dasharray=\"7 4\"", "stroke-dasharray=\"2 4\""];

/// Points of a curve, by position.
pub type Curve = Vec<(f64, f64)>;

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: String,
    /// Logarithms.
    pub is_log: bool,
}

impl Axis {
    /// An axis with even steps.
    pub fn linear(label: &str) -> Self {
        Self { label: label.into(), is_log: false }
    }

    /// An axis of logarithms.
    pub fn log(label: &str) -> Self {
        Self { label: label.into(), is_log: true }
    }
}

/// One line, with what belongs to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its number, which gives its colour and dashes.
    pub number: usize,
    /// The line itself.
    pub curve: Curve,
    /// Values as they were, drawn faintly behind.
    pub raw: Curve,
    /// Lower and upper edge at each position.
    pub band: Vec<(f64, f64, f64)>,
    /// Single points.
    pub dots: Curve,
    /// What happened on the way.
    pub pins: Vec<Pin>,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// How it is to be read, in a line.
    pub note: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Where values stand on the drawing.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    is_log: bool,
}

impl Scale {
    fn place(&self, value: f64) -> f64 {
        let on = |value: f64| if self.is_log { value.ln() } else { value };
        // Below the axis of logarithms there is nothing.
        if self.is_log && value <= 0.0 {
            return f64::NAN;
        }
        let share = (on(value) - on(self.low)) / (on(self.high) - on(self.low));
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self, wanted: usize) -> Vec<f64> {
        if self.is_log {
            ticks::logarithmic(self.low, self.high)
        } else {
            ticks::linear(self.low, self.high, wanted)
        }
    }
}

/// Cuts a long curve into pieces and gives the smallest and the largest value of each, in their order: what is drawn
/// looks like all of it.
pub fn reduced(curve: &[(f64, f64)], pieces: usize) -> Curve {
    if curve.len() <= 2 * pieces.max(1) {
        return curve.to_vec();
    }
    let size = curve.len().div_ceil(pieces.max(1));
    let mut few = Vec::with_capacity(2 * pieces + 2);
    for piece in curve.chunks(size) {
        let finite = || piece.iter().enumerate().filter(|(_, (_, y))| y.is_finite());
        let least = finite().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let most = finite().max_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let (Some((i, least)), Some((j, most))) = (least, most) else {
            few.extend(piece.first());
            continue;
        };
        few.extend(if i <= j { [*least, *most] } else { [*most, *least] });
    }
    few
}

impl Chart {
    /// Draws it. A chart without a finite point says so.
    pub fn draw(&self) -> String {
        let mut svg = Svg::new(WIDTH, HEIGHT, &self.title);
        svg.words(LEFT, 26.0, 17.0, Anchor::Start, "ink", &self.title);
        svg.words(LEFT, 45.0, 12.0, Anchor::Start, "faint", &self.note);
        let pins = Pins::new(self.lines.iter().map(|line| &line.pins[..]));
        let across = (LEFT, WIDTH - 24.0);
        let top = TOP + pins.height(across.0, across.1);
        let (Some(x), Some(y)) = (self.x_scale(), self.y_scale(top)) else {
            let middle = (LEFT + WIDTH - RIGHT) / 2.0;
            svg.words(middle, HEIGHT / 2.0, 14.0, Anchor::Middle, "faint", "nothing to show yet");
            return svg.finish();
        };
        pins.draw_legend(&mut svg, across, TOP);
        self.axes(&mut svg, &x, &y);
        let (left, width) = (LEFT, WIDTH - LEFT - RIGHT);
        svg.begin_clip("inside", left - 4.0, top - 4.0, width + 8.0, HEIGHT - top - BOTTOM + 8.0);
        let at = |curve: &[(f64, f64)]| -> Curve {
            curve.iter().map(|(a, b)| (x.place(*a), y.place(*b))).collect()
        };
        for line in &self.lines {
            let edge = |upper: bool| {
                line.band.iter().map(move |(at, low, high)| (*at, if upper { *high } else { *low }))
            };
            let mut around: Curve = edge(true).collect();
            around.extend(edge(false).collect::<Vec<_>>().into_iter().rev());
            svg.area(&at(&around), line.number, "opacity=\"0.18\"");
            let raw = reduced(&line.raw, PIECES);
            svg.line(&at(&raw), line.number, "stroke-width=\"1\" opacity=\"0.25\"");
        }
        for line in &self.lines {
            let dashes = DASHES[line.number / COLOURS.len() % DASHES.len()];
            let curve = reduced(&line.curve, PIECES);
            svg.line(&at(&curve), line.number, &format!("stroke-width=\"2\" {dashes}"));
            for (a, b) in at(&line.dots) {
                svg.dot(a, b, 4.0, line.number);
            }
        }
        for (number, line) in self.lines.iter().enumerate() {
            let at = |pin: &Pin| (x.place(pin.x), y.place(pin.y));
            pins.draw(&mut svg, number, line.number, HEIGHT - BOTTOM, at);
        }
        svg.end_clip();
        self.names(&mut svg, &y);
        svg.finish()
    }

    /// Every point that must be on the chart. Raw values may leave it.
    fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let of = |line: &Line| {
            let band = line.band.iter().flat_map(|(x, low, high)| [(*x, *low), (*x, *high)]);
            let mut all: Curve = line.curve.iter().chain(&line.dots).copied().chain(band).collect();
            if line.curve.is_empty() {
                all.extend(&line.raw);
            }
            all
        };
        let is_shown = |(x, y): &(f64, f64)| {
            x.abs() < LARGEST && y.abs() < LARGEST && !(self.y.is_log && *y <= 0.0)
        };
        self.lines.iter().flat_map(of).filter(is_shown).collect::<Vec<_>>().into_iter()
    }

    fn x_scale(&self) -> Option<Scale> {
        let (low, high) = range(self.points().map(|(x, _)| x))?;
        let (low, high) = if self.x.is_log { (low, high) } else { (low.min(0.0), high) };
        let high = if high > low { high } else { low + 1.0 };
        Some(Scale { low, high, from: LEFT, to: WIDTH - RIGHT, is_log: self.x.is_log })
    }

    fn y_scale(&self, top: f64) -> Option<Scale> {
        let (low, high) = range(self.points().map(|(_, y)| y))?;
        let is_log = self.y.is_log && low > 0.0;
        let (low, high) = if is_log {
            let room = (0.05 * (high.ln() - low.ln()).max(1.02_f64.ln())).exp();
            ((low / room).max(f64::MIN_POSITIVE), (high * room).min(LARGEST))
        } else {
            let room = if high > low { 0.05 * (high - low) } else { low.abs().max(1e-6) * 0.1 };
            // An axis that almost begins at zero begins there.
            let low = if low >= 0.0 && low < 0.3 * high { 0.0 } else { low - room };
            (low, high + room)
        };
        Some(Scale { low, high, from: HEIGHT - BOTTOM, to: top, is_log })
    }

    fn axes(&self, svg: &mut Svg, x: &Scale, y: &Scale) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for value in y.ticks(6) {
            let at = y.place(value);
            svg.rule(LEFT, at, right, at, "grid");
            svg.words(LEFT - 8.0, at + 4.0, 12.0, Anchor::End, "faint", &ticks::name(value));
        }
        for value in x.ticks(7) {
            let at = x.place(value);
            svg.rule(at, bottom, at, bottom + 5.0, "faint");
            svg.words(at, bottom + 19.0, 12.0, Anchor::Middle, "faint", &ticks::name(value));
        }
        svg.rule(LEFT, bottom, right, bottom, "faint");
        let middle = f64::midpoint(LEFT, right);
        svg.words(middle, HEIGHT - 12.0, 13.0, Anchor::Middle, "ink", &self.x.label);
        svg.words_upwards(18.0, f64::midpoint(y.to, bottom), 13.0, "ink", &self.y.label);
    }

    /// The names of the lines at their right ends, moved apart where they would cover each other.
    fn names(&self, svg: &mut Svg, y: &Scale) {
        let last = |line: &Line| {
            let curve = if line.curve.is_empty() { &line.raw } else { &line.curve };
            let end = curve.iter().chain(&line.dots).rev().find(|(_, value)| value.is_finite());
            end.map(|(_, value)| y.place(*value)).filter(|at| at.is_finite())
        };
        let mut ends: Vec<(f64, &Line)> =
            self.lines.iter().filter_map(|line| Some((last(line)?, line))).collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted: Vec<f64> = ends.iter().map(|(at, _)| *at).collect();
        let places = apart(&wanted, y.to, HEIGHT - BOTTOM);
        for ((_, line), place) in ends.iter().zip(places) {
            let dashes = DASHES[line.number / COLOURS.len() % DASHES.len()];
            let from = WIDTH - RIGHT + 10.0;
            svg.line(
                &[(from, place), (from + 16.0, place)],
                line.number,
                &format!("stroke-width=\"2.5\" {dashes}"),
            );
            svg.words(from + 22.0, place + 4.0, 12.0, Anchor::Start, "ink", &shortened(&line.name));
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

/// Places in ascending order, as near to the wanted ones as names of some height allow.
fn apart(wanted: &[f64], low: f64, high: f64) -> Vec<f64> {
    let step = NAME_HEIGHT.min((high - low) / wanted.len().max(1) as f64);
    let mut places: Vec<f64> = Vec::with_capacity(wanted.len());
    for &want in wanted {
        let least = places.last().map_or(low, |last| last + step);
        places.push(want.max(least));
    }
    // Those pushed over the lower edge push the others back.
    let mut most = high;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - step;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: Vec<Line>) -> Chart {
        let (x, y) = (Axis::linear("tokens"), Axis::log("loss"));
        Chart { title: "Loss".into(), note: String::new(), x, y, lines }
    }

    #[test]
    fn a_chart_without_finite_points_says_so() {
        for curve in [vec![], vec![(1.0, f64::NAN)], vec![(f64::NAN, 1.0)], vec![(1.0, -1.0)]] {
            let line = Line { curve, ..Line::default() };
            assert!(chart(vec![line]).draw().contains("nothing to show yet"));
        }
    }

    #[test]
    fn one_point_and_equal_values_are_drawn() {
        for curve in [vec![(5.0, 3.0)], vec![(0.0, 3.0), (10.0, 3.0)], vec![(0.0, 0.0), (1.0, 0.0)]]
        {
            for is_log in [false, true] {
                let line = Line { name: "one".into(), curve: curve.clone(), ..Line::default() };
                let mut chart = chart(vec![line]);
                chart.y.is_log = is_log;
                let svg = chart.draw();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn values_at_the_ends_of_the_numbers_leave_no_hole_in_the_drawing() {
        for values in [[0.0, 5e-324], [1e-310, 1e299], [-1e308, 1e308], [1e-320, 1e-300]] {
            for is_log in [false, true] {
                let curve = [(0.0, values[0]), (1.0, values[1]), (2.0, 3.0)];
                for curve in [curve[..2].to_vec(), curve.to_vec()] {
                    let line = Line { name: "one".into(), curve, ..Line::default() };
                    let mut chart = chart(vec![line]);
                    chart.y.is_log = is_log;
                    let svg = chart.draw();
                    assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{values:?} {svg}");
                }
            }
        }
    }

    #[test]
    fn names_do_not_cover_each_other_and_stay_inside() {
        let places = apart(&[100.0, 101.0, 102.0, 399.0, 400.0], 64.0, 400.0);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= NAME_HEIGHT - 1e-9));
        assert!(places.iter().all(|place| (64.0..=400.0).contains(place)), "{places:?}");
        let many = apart(&[300.0; 40], 64.0, 400.0);
        assert!(many.iter().all(|place| (63.9..=400.1).contains(place)));
    }

    #[test]
    fn a_long_curve_keeps_its_peaks() {
        let mut curve: Curve = (0..10_000).map(|x| (f64::from(x), 1.0)).collect();
        curve[5_003].1 = 9.0;
        curve[7_001].1 = f64::NAN;
        let few = reduced(&curve, 100);
        assert!(few.len() <= 202);
        assert!(few.contains(&(5003.0, 9.0)));
        assert!(few.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }
}
