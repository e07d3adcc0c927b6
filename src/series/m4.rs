//! Of each dot's rows those that make the same picture as all of them: the first, the smallest, the largest and
//! the last. Lines between them fill the same dots, as everything else of the dot's rows lies between its extremes.
//! Source: M4 (Jugel et al., VLDB 2014), here with gaps and with dots that are even in the logarithm.

use std::ops::Range;

use super::clock::{Axis, Clock};
use super::column::Column;
use super::dots::Dots;

/// Stretches without a gap that are told apart inside one dot; what comes after them is taken as one.
const MAX_STRETCHES: usize = 8;

/// What a chart draws of a column: `(place, value)` in order, at most a few for each dot, with the neighbours outside
/// on both sides so that lines reach the edge. Of values that are not finite the first of each gap stands in its place.
pub fn decimate(clock: &Clock, column: &Column, axis: Axis, dots: Dots) -> Vec<(f64, f64)> {
    let mut points = Points { clock, column, axis, out: Vec::new() };
    if !clock.has(axis) || dots.of(dots.low).is_none() {
        return points.out;
    }
    let len = column.len().min(clock.len());
    let start = clock.row_at(axis, dots.low).min(len);
    let end = clock.first_row(axis, start..len, |place| place > dots.high);
    points.out.reserve(4 * dots.count.min(end - start) + 2);
    // A place that is not above 0 is nowhere on an axis of logarithms.
    if let Some(before) = start.checked_sub(1)
        && (!dots.is_log || clock.at(before, axis) > 0.0)
    {
        points.push(before);
    }
    let mut row = start;
    while row < end {
        let dot = dots.of(clock.at(row, axis));
        let next = next_dot(clock, axis, row..end, |place| dots.of(place) > dot);
        points.push_dot(row..next);
        row = next;
    }
    if end < len {
        points.push(end);
    }
    points.out
}

/// The first of some rows beyond the dot of the first of them. Looks near it first: dots of few rows are the most.
fn next_dot(
    clock: &Clock,
    axis: Axis,
    rows: Range<usize>,
    is_beyond: impl Fn(f64) -> bool,
) -> usize {
    let mut reach = 1;
    let mut start = rows.start + 1;
    loop {
        let probe = rows.start.saturating_add(reach);
        if probe >= rows.end {
            return clock.first_row(axis, start..rows.end, is_beyond);
        }
        if is_beyond(clock.at(probe, axis)) {
            return clock.first_row(axis, start..probe, is_beyond);
        }
        start = probe + 1;
        reach *= 4;
    }
}

struct Points<'a> {
    clock: &'a Clock,
    column: &'a Column,
    axis: Axis,
    out: Vec<(f64, f64)>,
}

impl Points<'_> {
    fn push(&mut self, row: usize) {
        if let Some(value) = self.column.values().get(row) {
            self.out.push((self.clock.at(row, self.axis), f64::from(*value)));
        }
    }

    /// The rows of one dot.
    fn push_dot(&mut self, rows: Range<usize>) {
        if rows.len() <= 4 {
            rows.for_each(|row| self.push(row));
            return;
        }
        let mut row = rows.start;
        for _ in 0..MAX_STRETCHES {
            let stretch_end = self.column.first(row..rows.end, false);
            self.push_stretch(row..stretch_end);
            if stretch_end == rows.end {
                return;
            }
            self.push(stretch_end);
            row = self.column.first(stretch_end..rows.end, true);
        }
        self.push_stretch(row..rows.end);
    }

    fn push_stretch(&mut self, rows: Range<usize>) {
        let Some(extremes) = self.column.extremes(rows.clone()) else { return };
        let mut chosen = [rows.start, extremes.min_row, extremes.max_row, rows.end - 1];
        chosen.sort_unstable();
        let mut last = None;
        for row in chosen {
            if last != Some(row) {
                self.push(row);
            }
            last = Some(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Moment;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ROWS: usize = 48;

    /// The cells that lines between points fill: dots across, `ROWS` up, by whole numbers as a screen has them.
    fn raster(
        points: &[(f64, f64)],
        dots: Dots,
        (low, high): (f64, f64),
    ) -> BTreeSet<(usize, usize)> {
        let mut filled = BTreeSet::new();
        let cell = |(x, y): (f64, f64)| {
            let share = ((y - low) / (high - low)).clamp(0.0, 1.0);
            Some((dots.of(x)?, (share * (ROWS - 1) as f64).round() as usize))
        };
        let mut before: Option<(usize, usize)> = None;
        for point in points {
            if !point.1.is_finite() {
                before = None;
                continue;
            }
            let Some(to) = cell(*point) else {
                before = None;
                continue;
            };
            let from = before.unwrap_or(to);
            // A line of cells: one column at a time, as high as it is steep.
            let (x0, y0, x1, y1) = (from.0 as i64, from.1 as i64, to.0 as i64, to.1 as i64);
            let steps = (x1 - x0).abs().max((y1 - y0).abs()).max(1);
            for step in 0..=steps {
                let along = |a: i64, b: i64| a + ((b - a) * step * 2 + steps).div_euclid(2 * steps);
                filled.insert((along(x0, x1) as usize, along(y0, y1) as usize));
            }
            before = Some(to);
        }
        filled
    }

    fn all(clock: &Clock, column: &Column, axis: Axis) -> Vec<(f64, f64)> {
        let value = |row: usize| f64::from(column.values()[row]);
        (0..column.len()).map(|row| (clock.at(row, axis), value(row))).collect()
    }

    /// Rows at uneven places with values of all kinds, gaps among them where `gaps` is not 0.
    fn rows(gaps: u32) -> impl Strategy<Value = Vec<(u64, f32)>> {
        let value = prop_oneof![
            40 => -50_f32..50.0,
            4 => (-3_i8..3).prop_map(f32::from),
            gaps => prop::sample::select(vec![f32::NAN, f32::INFINITY]),
        ];
        prop::collection::vec((0_u64..4, value), 1..900)
    }

    fn table(rows: &[(u64, f32)]) -> (Clock, Column) {
        let (mut clock, mut column) = (Clock::default(), Column::default());
        let mut step = 0;
        for (advance, value) in rows {
            step += advance;
            clock.push(Moment { step, tokens: 10 * step, ..Moment::default() });
            column.push(*value);
        }
        (clock, column)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_picture_is_that_of_all_rows(
            rows in rows(0), low in 0_f64..600.0, width in 0.0_f64..1500.0,
            count in 1_usize..120, is_log: bool,
        ) {
            let (clock, column) = table(&rows);
            let low = if is_log { low.max(1.0) } else { low };
            let dots = Dots { low, high: low + width, count, is_log };
            let drawn = decimate(&clock, &column, Axis::Step, dots);
            let range = (-50.0, 50.0);
            let inside: Vec<_> = drawn.iter().copied().filter(|point| dots.of(point.0).is_some()).collect();
            let wanted: Vec<_> =
                all(&clock, &column, Axis::Step).into_iter().filter(|point| dots.of(point.0).is_some()).collect();
            prop_assert_eq!(raster(&inside, dots, range), raster(&wanted, dots, range));
            prop_assert!(drawn.len() <= 4 * count + 2);
            prop_assert!(drawn.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        }

        #[test]
        fn gaps_stay_gaps(rows in rows(1), count in 200_usize..300) {
            let (clock, column) = table(&rows);
            let high = clock.at(clock.len() - 1, Axis::Step);
            let dots = Dots { low: 0.0, high, count, is_log: false };
            let drawn = decimate(&clock, &column, Axis::Step, dots);
            let everything = all(&clock, &column, Axis::Step);
            prop_assert_eq!(
                raster(&drawn, dots, (-50.0, 50.0)), raster(&everything, dots, (-50.0, 50.0))
            );
            let has_gap = |points: &[(f64, f64)]| points.iter().any(|point| !point.1.is_finite());
            prop_assert_eq!(has_gap(&drawn), has_gap(&everything));
        }
    }

    #[test]
    fn a_single_spike_among_a_million_rows_is_drawn() {
        let (mut clock, mut column) = (Clock::default(), Column::default());
        for step in 0..1_000_000_u64 {
            clock.push(Moment { step, ..Moment::default() });
            column.push(if step == 765_432 { 99.0 } else { 1.0 });
        }
        let dots = Dots { low: 0.0, high: 1e6, count: 100, is_log: false };
        let drawn = decimate(&clock, &column, Axis::Step, dots);
        assert!(drawn.len() <= 402, "{}", drawn.len());
        assert!(drawn.contains(&(765_432.0, 99.0)));
    }

    #[test]
    fn many_gaps_in_one_dot_stay_few_points() {
        let (mut clock, mut column) = (Clock::default(), Column::default());
        for step in 0..10_000_u64 {
            clock.push(Moment { step, ..Moment::default() });
            column.push(if step % 2 == 0 { f32::NAN } else { step as f32 });
        }
        let dots = Dots { low: 0.0, high: 1e4, count: 10, is_log: false };
        let drawn = decimate(&clock, &column, Axis::Step, dots);
        assert!(drawn.len() < 10 * 40, "{}", drawn.len());
        assert_eq!(drawn.iter().map(|point| point.1).fold(0.0, f64::max), 9999.0);
    }

    #[test]
    fn lines_reach_beyond_the_window_and_nothing_is_drawn_of_what_is_not_told() {
        let (clock, column) = table(&[(1, 1.0), (10, 2.0), (10, 3.0)]);
        let dots = Dots { low: 12.0, high: 15.0, count: 5, is_log: false };
        assert_eq!(decimate(&clock, &column, Axis::Step, dots), [(11.0, 2.0), (21.0, 3.0)]);
        assert!(decimate(&clock, &column, Axis::Flop, dots).is_empty());
        for broken in [
            Dots { low: f64::NAN, ..dots },
            Dots { low: 20.0, ..dots },
            Dots { count: 0, ..dots },
            Dots { low: -1.0, is_log: true, ..dots },
        ] {
            assert!(decimate(&clock, &column, Axis::Step, broken).is_empty(), "{broken:?}");
        }
        let (clock, column) = table(&[(0, 1.0), (5, 2.0)]);
        let dots = Dots { low: 1.0, high: 9.0, count: 5, is_log: true };
        assert_eq!(decimate(&clock, &column, Axis::Step, dots), [(5.0, 2.0)]);
    }
}
