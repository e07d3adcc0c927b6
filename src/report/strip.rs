//! What happened when: a row for each run, a sign for each act.

use std::collections::BTreeSet;

use super::acts::Act;
use super::pins::{Pins, sign};
use super::svg::{Anchor, Svg, shortened};
use super::ticks;

const WIDTH: f64 = 920.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 90.0;
const BOTTOM: f64 = 52.0;
/// Each kind that occurs in a row has a lane of its own: a merge and a reset come at the same update.
const LANE: f64 = 11.0;
/// Room of a row beside its lanes.
const ROOM: f64 = 10.0;

/// A run and what happened in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The number of its colour.
    pub colour: usize,
    /// Position and kind of each act.
    pub acts: Vec<(f64, Act)>,
}

impl Row {
    fn lanes(&self) -> Vec<Act> {
        let occurs = |act: &Act| self.acts.iter().any(|(_, other)| other == act);
        Act::ALL.into_iter().filter(occurs).collect()
    }

    fn height(&self) -> f64 {
        ROOM + LANE * self.lanes().len().max(1) as f64
    }
}

/// The strip.
#[derive(Debug, Clone, PartialEq)]
pub struct Strip {
    /// What it shows.
    pub title: String,
    /// The rows, from the top.
    pub rows: Vec<Row>,
    /// The end of the horizontal axis.
    pub end: f64,
    /// What the horizontal axis shows.
    pub x_label: String,
}

impl Strip {
    /// Draws it.
    pub fn draw(&self) -> String {
        let legend = Pins::legend_of(
            Act::ALL
                .into_iter()
                .filter(|act| self.rows.iter().any(|row| row.lanes().contains(act))),
        );
        let across = (24.0, WIDTH - 24.0);
        let top = 40.0 + legend.height(across.0, across.1);
        let inner: f64 = self.rows.iter().map(Row::height).sum();
        let height = top + inner + BOTTOM;
        let mut svg = Svg::new(WIDTH, height, &self.title);
        svg.words(24.0, 26.0, 17.0, Anchor::Start, "ink", &self.title);
        legend.draw_legend(&mut svg, across, 46.0);
        let end = if self.end > 0.0 { self.end } else { 1.0 };
        let x = |value: f64| LEFT + value / end * (WIDTH - LEFT - RIGHT);
        let bottom = top + inner;
        for value in ticks::linear(0.0, end, 7) {
            svg.rule(x(value), top, x(value), bottom + 4.0, "grid");
            svg.words(x(value), bottom + 19.0, 12.0, Anchor::Middle, "faint", &ticks::name(value));
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        svg.words(middle, height - 12.0, 13.0, Anchor::Middle, "ink", &self.x_label);
        let mut y = top;
        for row in &self.rows {
            let name = shortened(&row.name);
            svg.words(LEFT - 12.0, y + row.height() / 2.0 + 4.0, 12.0, Anchor::End, "ink", &name);
            svg.rule(LEFT, y + row.height(), WIDTH - RIGHT, y + row.height(), "grid");
            let lanes = row.lanes();
            let mut drawn = BTreeSet::new();
            for (at, act) in &row.acts {
                let lane = lanes.iter().position(|lane| lane == act).unwrap_or(0);
                // Many at the same place of the picture are one.
                if drawn.insert((lane, (2.0 * x(*at)) as i64)) {
                    let middle = y + f64::midpoint(ROOM, LANE) + LANE * lane as f64;
                    sign(&mut svg, x(*at), middle, *act, row.colour);
                }
            }
            y += row.height();
        }
        svg.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_acts_are_as_many_signs_as_the_picture_can_show() {
        let row = |name: &str, acts| Row { name: name.into(), colour: 1, acts };
        let many = (1..=100_000).map(|at| (f64::from(at), Act::Merge)).collect();
        let few = vec![(5.0, Act::Merge), (5.0, Act::Reset)];
        let strip =
            |rows| Strip { title: "t".into(), rows, end: 100_000.0, x_label: "updates".into() };
        let signs = |svg: &str| svg.matches("<polygon").count();
        // One is the legend's.
        let svg = strip(vec![row("few", few.clone())]).draw();
        assert_eq!(signs(&svg), 2);
        assert!(svg.contains(">merge<") && svg.contains(">reset<") && !svg.contains(">rank"));
        let svg = strip(vec![row("many", many), row("few", few)]).draw();
        assert!((600..1300).contains(&signs(&svg)), "{}", signs(&svg));
        assert!(!strip(Vec::new()).draw().contains("NaN"));
    }
}
