//! Layers over time in colours, and bars.

use super::svg::{Anchor, Svg};
use super::ticks;

const WIDTH: f64 = 920.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 52.0;
/// Colours from little to much: light to dark in one run of hues that print well in grey (after "viridis").
const STOPS: [(f64, [u8; 3]); 5] = [
    (0.0, [0xF7, 0xFB, 0xD0]),
    (0.25, [0x9F, 0xD8, 0x8C]),
    (0.5, [0x35, 0xA6, 0x8B]),
    (0.75, [0x2C, 0x6B, 0x96]),
    (1.0, [0x3B, 0x1C, 0x6B]),
];

/// A value for each row and column; `NaN` where there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Heat {
    /// What it shows.
    pub title: String,
    /// How it is to be read, in a line.
    pub note: String,
    /// Names of the rows, from the top.
    pub rows: Vec<String>,
    /// The edges of the columns on the horizontal axis; one more than there are columns.
    pub edges: Vec<f64>,
    /// What the horizontal axis shows.
    pub x_label: String,
    /// What the colours show.
    pub unit: String,
    /// The values, row by row.
    pub values: Vec<Vec<f64>>,
}

/// The colour of a share from 0 to 1.
fn colour(share: f64) -> String {
    let share = share.clamp(0.0, 1.0);
    let above = STOPS.iter().position(|(stop, _)| *stop >= share).unwrap_or(STOPS.len() - 1).max(1);
    let ((low, from), (high, to)) = (STOPS[above - 1], STOPS[above]);
    let part = (share - low) / (high - low);
    let mix = |i: usize| {
        (f64::from(from[i]) + part * (f64::from(to[i]) - f64::from(from[i]))).round() as u8
    };
    format!("#{:02X}{:02X}{:02X}", mix(0), mix(1), mix(2))
}

/// A layer's name without what all names share.
pub fn short_layer(name: &str) -> String {
    name.replace("model.layers.", "")
        .replace(".self_attn", "")
        .replace(".mlp", "")
        .replace(".weight", "")
}

impl Heat {
    /// Draws it.
    pub fn draw(&self) -> String {
        let row_height = (560.0 / self.rows.len().max(1) as f64).clamp(3.0, 22.0);
        let inner = row_height * self.rows.len() as f64;
        let height = TOP + inner.max(40.0) + BOTTOM;
        let mut svg = Svg::new(WIDTH, height, &self.title);
        svg.words(24.0, 26.0, 17.0, Anchor::Start, "ink", &self.title);
        svg.words(24.0, 45.0, 12.0, Anchor::Start, "faint", &self.note);
        let finite = || self.values.iter().flatten().copied().filter(|value| value.is_finite());
        let most = finite().fold(f64::NEG_INFINITY, f64::max);
        let (Some(&first), Some(&last)) = (self.edges.first(), self.edges.last()) else {
            return svg.finish();
        };
        if !most.is_finite() || last <= first {
            svg.words(
                WIDTH / 2.0,
                TOP + 24.0,
                14.0,
                Anchor::Middle,
                "faint",
                "nothing to show yet",
            );
            return svg.finish();
        }
        let most = if most > 0.0 { most } else { 1.0 };
        let x = |value: f64| LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT);
        for (row, values) in self.values.iter().enumerate() {
            let y = TOP + row_height * row as f64;
            for (column, value) in values.iter().enumerate() {
                let (Some(from), Some(to)) = (self.edges.get(column), self.edges.get(column + 1))
                else {
                    break;
                };
                if value.is_finite() {
                    let (from, to) = (x(*from), x(*to));
                    // A little wider, so that no seams show.
                    svg.rect(
                        from,
                        y,
                        to - from + 0.4,
                        row_height + 0.2,
                        "cell",
                        &colour(value / most),
                        "",
                    );
                }
            }
        }
        // Names of rows only as densely as they can be read.
        let every = (11.0 / row_height).ceil().max(1.0) as usize;
        for (row, name) in self.rows.iter().enumerate().step_by(every) {
            let y = TOP + row_height * (row as f64 + 0.5) + 3.5;
            svg.words(LEFT - 8.0, y, 10.0, Anchor::End, "faint", name);
        }
        let bottom = TOP + inner;
        for value in ticks::linear(first, last, 7) {
            svg.rule(x(value), bottom, x(value), bottom + 5.0, "faint");
            svg.words(x(value), bottom + 19.0, 12.0, Anchor::Middle, "faint", &ticks::name(value));
        }
        svg.rule(LEFT, bottom, WIDTH - RIGHT, bottom, "faint");
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        svg.words(middle, height - 12.0, 13.0, Anchor::Middle, "ink", &self.x_label);
        legend(&mut svg, most, inner.max(40.0), &self.unit);
        svg.finish()
    }
}

fn legend(svg: &mut Svg, most: f64, inner: f64, unit: &str) {
    const STEPS: u32 = 40;
    let (left, tall) = (WIDTH - RIGHT + 18.0, inner.min(240.0));
    for step in 0..STEPS {
        let share = f64::from(step) / f64::from(STEPS);
        let y = TOP + tall * (1.0 - share) - tall / f64::from(STEPS);
        let fill = colour(share + 0.5 / f64::from(STEPS));
        svg.rect(left, y, 12.0, tall / f64::from(STEPS) + 0.4, "cell", &fill, "");
    }
    for value in ticks::linear(0.0, most, if tall > 100.0 { 4 } else { 2 }) {
        let y = TOP + tall * (1.0 - value / most) + 4.0;
        svg.words(left + 17.0, y, 11.0, Anchor::Start, "faint", &ticks::name(value));
    }
    svg.words(left - 6.0, TOP - 10.0, 11.0, Anchor::Start, "faint", unit);
}

/// Bars made of parts, in pairs: what was measured, and a mark at what was predicted.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What they show.
    pub title: String,
    /// How they are to be read, in a line.
    pub note: String,
    /// Names of the parts.
    pub parts: Vec<String>,
    /// Name, size of each part, and the prediction of each bar.
    pub bars: Vec<(String, Vec<f64>, Option<f64>)>,
}

impl Bars {
    /// Draws them; sizes are bytes.
    pub fn draw(&self) -> String {
        const ROW: f64 = 34.0;
        let top = TOP + 26.0;
        let inner = ROW * self.bars.len() as f64;
        let height = top + inner + BOTTOM;
        let mut svg = Svg::new(WIDTH, height, &self.title);
        svg.words(24.0, 26.0, 17.0, Anchor::Start, "ink", &self.title);
        svg.words(24.0, 45.0, 12.0, Anchor::Start, "faint", &self.note);
        let mut at = LEFT;
        for (number, part) in self.parts.iter().enumerate() {
            let fill = super::svg::COLOURS[number % super::svg::COLOURS.len()];
            let class = format!("f{}", number % super::svg::COLOURS.len());
            svg.rect(at, TOP - 4.0, 11.0, 11.0, &class, fill, "");
            svg.words(at + 16.0, TOP + 6.0, 12.0, Anchor::Start, "ink", part);
            at += 34.0 + 6.7 * part.chars().count() as f64;
        }
        let sum = |parts: &[f64]| parts.iter().sum::<f64>();
        let most =
            self.bars.iter().map(|(_, parts, predicted)| sum(parts).max(predicted.unwrap_or(0.0)));
        let most = most.fold(0.0, f64::max);
        if most <= 0.0 {
            svg.words(
                WIDTH / 2.0,
                top + 20.0,
                14.0,
                Anchor::Middle,
                "faint",
                "nothing to show yet",
            );
            return svg.finish();
        }
        let x = |bytes: f64| LEFT + bytes / most * (WIDTH - LEFT - RIGHT);
        let bottom = top + inner;
        // Ticks in binary units.
        let (unit, name) = match most {
            m if m >= f64::from(1 << 30) => (f64::from(1 << 30), "GiB"),
            m if m >= f64::from(1 << 20) => (f64::from(1 << 20), "MiB"),
            _ => (1024.0, "KiB"),
        };
        for value in ticks::linear(0.0, most / unit, 6) {
            let place = x(value * unit);
            svg.rule(place, top, place, bottom, "grid");
            svg.words(place, bottom + 18.0, 12.0, Anchor::Middle, "faint", &ticks::name(value));
        }
        svg.words((LEFT + WIDTH - RIGHT) / 2.0, height - 12.0, 13.0, Anchor::Middle, "ink", name);
        for (row, (name, parts, predicted)) in self.bars.iter().enumerate() {
            let y = top + ROW * row as f64 + 6.0;
            svg.words(LEFT - 8.0, y + 15.0, 12.0, Anchor::End, "ink", name);
            let mut from = 0.0;
            for (number, bytes) in parts.iter().enumerate() {
                let fill = super::svg::COLOURS[number % super::svg::COLOURS.len()];
                let class = format!("f{}", number % super::svg::COLOURS.len());
                svg.rect(x(from), y, x(from + bytes) - x(from), ROW - 12.0, &class, fill, "");
                from += bytes;
            }
            let measured = match from / unit {
                m if m >= 100.0 => format!("{m:.0}"),
                m if m >= 10.0 => format!("{m:.1}"),
                m => format!("{m:.2}"),
            };
            let end = x(from.max(predicted.unwrap_or(0.0))) + 8.0;
            svg.words(end, y + 15.0, 12.0, Anchor::Start, "faint", &measured);
            if let Some(predicted) = predicted {
                svg.rect(x(*predicted) - 1.5, y - 4.0, 3.0, ROW - 4.0, "ink", "#1F2328", "");
            }
        }
        svg.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_run_from_the_first_to_the_last() {
        assert_eq!([colour(0.0), colour(1.0), colour(9.0)], ["#F7FBD0", "#3B1C6B", "#3B1C6B"]);
        assert_eq!(colour(0.5), "#35A68B");
    }

    #[test]
    fn empty_values_are_no_trouble() {
        let heat = Heat {
            title: "t".into(),
            note: String::new(),
            rows: vec!["a".into()],
            edges: vec![0.0, 1.0],
            x_label: "x".into(),
            unit: "u".into(),
            values: vec![vec![f64::NAN]],
        };
        assert!(heat.draw().contains("nothing to show yet"));
        let bars = Bars {
            title: "t".into(),
            note: String::new(),
            parts: vec![],
            bars: vec![("a".into(), vec![], None)],
        };
        assert!(bars.draw().contains("nothing to show yet"));
    }

    #[test]
    fn layers_have_short_names() {
        assert_eq!(short_layer("model.layers.3.self_attn.q_proj.weight"), "3.q_proj");
        assert_eq!(short_layer("model.layers.10.mlp.down_proj"), "10.down_proj");
    }
}
