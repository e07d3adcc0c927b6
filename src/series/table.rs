//! Rows of one kind of event: a clock and columns of values.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::clock::{Axis, Clock, Moment};
use super::column::Column;
use super::dots::Dots;
use super::m4;
use super::smooth::Smooth;

/// Rows by which a smoothed column may lag behind and still be drawn in place of one that is done.
const SMALL_LAG: usize = 4096;
/// Smoothed columns that are kept; those that were not asked for longest go first. No view draws more of one table: it
/// would push out what it is about to ask for, and never be done.
const KEPT: usize = 12;

/// A clock and named columns of the same length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Where the rows stand.
    pub clock: Clock,
    names: Vec<&'static str>,
    columns: Vec<Column>,
    smoothed: Smoothed,
}

/// Smoothed columns, the newest asked for last. They follow from the rows, so tables with and without are equal.
#[derive(Debug)]
struct Smoothed {
    kept: RefCell<Vec<Smooth>>,
    /// A drawing had to stop before the newest row.
    is_behind: Cell<bool>,
    /// Rows that may still be smoothed before the next [`Table::allow`].
    allowance: Cell<usize>,
}

impl Default for Smoothed {
    fn default() -> Self {
        Self {
            kept: RefCell::default(),
            is_behind: Cell::default(),
            allowance: Cell::new(usize::MAX),
        }
    }
}

impl Clone for Smoothed {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Smoothed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Table {
    /// An empty table with the given columns.
    pub fn new(names: &[&'static str]) -> Self {
        let columns = names.iter().map(|_| Column::default()).collect();
        Self { names: names.to_vec(), columns, ..Self::default() }
    }

    /// Adds a row; `values` in the order of the columns, a missing one is a gap.
    pub fn push(&mut self, moment: Moment, values: &[f64]) {
        debug_assert_eq!(values.len(), self.columns.len(), "one value for each column");
        self.clock.push(moment);
        for (place, column) in self.columns.iter_mut().enumerate() {
            column.push(values.get(place).map_or(f32::NAN, |value| *value as f32));
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.clock.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.clock.is_empty()
    }

    /// Bytes held for rows, smoothed ones left out.
    pub fn bytes(&self) -> usize {
        self.clock.bytes() + self.columns.iter().map(Column::bytes).sum::<usize>()
    }

    /// The column of a name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.place(name).map(|place| &self.columns[place])
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| *known == name)
    }

    /// Drops the rows after the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        if rows >= self.len() {
            return;
        }
        self.clock.truncate(rows);
        for column in &mut self.columns {
            column.truncate(rows);
        }
        // A mean of dropped rows is in all that follow.
        self.smoothed = Smoothed::default();
    }

    /// Drops the rows after the first `rows` and returns them as a table of their own, which begins with the last row
    /// that stays, so that a line of them begins where it left.
    #[must_use]
    pub fn split_off(&mut self, rows: usize) -> Self {
        let mut off = Self::new(&self.names);
        off.clock = self.clock.like();
        for row in rows.saturating_sub(1)..self.len() {
            let Some(moment) = self.clock.moment(row) else { break };
            off.clock.push(moment);
            for (to, from) in off.columns.iter_mut().zip(&self.columns) {
                to.push(from.values()[row]);
            }
        }
        self.truncate(rows);
        off
    }

    /// What a chart of `columns` dots draws of a column between two places of an axis: of each dot's rows the
    /// first, the smallest, the largest and the last, which gives the same picture as all of them, and the nearest row
    /// outside on either side. The first of values that are not finite is left in as it is, for a gap and a mark.
    /// `log_x` cuts the dots evenly in the logarithm; rows that are not above 0 are then left out. [`Dots`] says which
    /// row falls into which dot.
    pub fn draw(
        &self,
        name: &str,
        axis: Axis,
        between: Range<f64>,
        columns: usize,
        log_x: bool,
    ) -> Vec<(f64, f64)> {
        let Some(column) = self.column(name) else { return Vec::new() };
        m4::decimate(&self.clock, column, axis, dots(between, columns, log_x))
    }

    /// The same of the column smoothed with a half-life in units of the axis; without one, of the column itself. No more
    /// rows are smoothed than [`allow`](Self::allow) gave; until the rest is done, with later drawings, the line is the
    /// one that was drawn with another half-life, or where there is none what is smoothed so far.
    pub fn draw_smooth(
        &self,
        name: &str,
        axis: Axis,
        half_life: Option<f64>,
        between: Range<f64>,
        columns: usize,
        log_x: bool,
    ) -> Vec<(f64, f64)> {
        let drawn = self.smooth(name, axis, half_life, |column| {
            m4::decimate(&self.clock, column, axis, dots(between.clone(), columns, log_x))
        });
        drawn.unwrap_or_else(|| self.draw(name, axis, between, columns, log_x))
    }

    /// The value of a column at a row, smoothed if there is a half-life; `None` where it is not finite.
    pub fn value(&self, name: &str, axis: Axis, half_life: Option<f64>, row: usize) -> Option<f64> {
        let at = |column: &Column| column.values().get(row).copied().map(f64::from);
        let value =
            self.smooth(name, axis, half_life, at).unwrap_or_else(|| at(self.column(name)?));
        value.filter(|value| value.is_finite())
    }

    /// The row nearest to a place on an axis: a cursor shows what was measured, not what lies between.
    pub fn nearest(&self, axis: Axis, place: f64) -> Option<usize> {
        self.clock.nearest(axis, place)
    }

    /// The smallest and largest finite value of a column between two places of an axis.
    pub fn range(&self, name: &str, axis: Axis, between: Range<f64>) -> Option<(f64, f64)> {
        if !self.clock.has(axis) {
            return None;
        }
        let rows = self.clock.row_at(axis, between.start)..self.clock.row_after(axis, between.end);
        let (low, high) = self.column(name)?.range(rows)?;
        Some((f64::from(low), f64::from(high)))
    }

    /// Gives drawings that follow this many rows to smooth, all together: a frame must not wait for a long series.
    /// Without a call there is no bound.
    pub fn allow(&self, rows: usize) {
        self.smoothed.allowance.set(rows);
    }

    /// Whether a drawing since the last call had to leave newest rows unsmoothed: draw again soon.
    pub fn take_is_behind(&self) -> bool {
        self.smoothed.is_behind.take()
    }

    /// Looks at the smoothed column; `None` where there is nothing to smooth with or on.
    fn smooth<R>(
        &self,
        name: &str,
        axis: Axis,
        half_life: Option<f64>,
        look: impl FnOnce(&Column) -> R,
    ) -> Option<R> {
        let half_life = half_life.filter(|half_life| *half_life > 0.0)?;
        let source = self.place(name).filter(|_| self.clock.has(axis))?;
        let mut kept = self.smoothed.kept.borrow_mut();
        let is_it = |smooth: &Smooth| {
            smooth.source == source && smooth.axis == axis && smooth.half_life == half_life
        };
        let mut smooth = match kept.iter().position(is_it) {
            Some(place) => kept.remove(place),
            None => Smooth::new(source, axis, half_life),
        };
        let column = &self.columns[source];
        let allowance = self.smoothed.allowance.get();
        let before = smooth.column().len();
        if !smooth.advance(&self.clock, column, allowance) {
            self.smoothed.is_behind.set(true);
        }
        self.smoothed.allowance.set(allowance - (smooth.column().len() - before).min(allowance));
        let is_near = |smooth: &&Smooth| smooth.column().len() + SMALL_LAG >= column.len();
        let is_other = |smooth: &&Smooth| smooth.source == source && smooth.axis == axis;
        let stand_in =
            if is_near(&&smooth) { None } else { kept.iter().rev().filter(is_other).find(is_near) };
        let seen = look(stand_in.unwrap_or(&smooth).column());
        kept.push(smooth);
        if kept.len() > KEPT {
            kept.remove(0);
        }
        Some(seen)
    }
}

fn dots(between: Range<f64>, count: usize, is_log: bool) -> Dots {
    Dots { low: between.start, high: between.end, count, is_log }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: u64) -> Table {
        let mut table = Table::new(&["loss", "lr"]);
        (1..=rows).for_each(|step| table.push(moment(step), &[1.0 / step as f64, 0.1]));
        table
    }

    fn moment(step: u64) -> Moment {
        Moment { step, tokens: 100 * step, active_s: step as f64, ts_ms: 1000 * step as i64 }
    }

    #[test]
    fn a_row_of_six_metrics_takes_sixty_bytes() {
        let mut table = Table::new(&["a", "b", "c", "d", "e", "f"]);
        let rows = 300_000;
        (0..rows).for_each(|step| table.push(moment(step), &[1.0; 6]));
        let bytes = table.bytes() as f64 / rows as f64;
        assert!(bytes <= 60.0, "{bytes} bytes a row");
    }

    /// Draws until all is smoothed; how many drawings it took, and the last line.
    fn settle(table: &Table, half_life: f64) -> (usize, Vec<(f64, f64)>) {
        let mut drawings = 0;
        loop {
            table.allow(1 << 16);
            let range = 0.0..600_000.0;
            let line = table.draw_smooth("loss", Axis::Step, Some(half_life), range, 100, false);
            drawings += 1;
            if !table.take_is_behind() {
                return (drawings, line);
            }
        }
    }

    #[test]
    fn a_long_column_is_smoothed_over_several_drawings_and_ends_the_same() {
        let long = table(600_000);
        let (drawings, last) = settle(&long, 50.0);
        assert_eq!(drawings, 600_000_usize.div_ceil(1 << 16));
        assert_eq!(last.last().unwrap().0, 600_000.0);
        assert!(!long.take_is_behind(), "nothing to wait for");
        let mut grown = table(10);
        settle(&grown, 50.0);
        (11..=600_000).for_each(|step| grown.push(moment(step), &[1.0 / step as f64, 0.1]));
        assert_eq!(settle(&grown, 50.0).1, last);
        assert_eq!(grown, long);
        let at_once = table(600_000);
        let range = 0.0..600_000.0;
        let line = at_once.draw_smooth("loss", Axis::Step, Some(50.0), range, 100, false);
        assert!(line == last && !at_once.take_is_behind(), "without a bound nothing waits");
    }

    #[test]
    fn the_line_of_the_half_life_before_stands_until_the_new_one_is_done() {
        let long = table(600_000);
        let draw = |half_life: f64| {
            long.allow(1000);
            long.draw_smooth("loss", Axis::Step, Some(half_life), 0.0..600_000.0, 100, false)
        };
        let begun = draw(50.0);
        assert!(begun.last().unwrap().0 <= 1000.0, "nothing before it: what there is");
        let (_, old) = settle(&long, 50.0);
        assert_eq!(draw(100.0), old);
        assert!(long.take_is_behind());
        let (_, new) = settle(&long, 100.0);
        assert!(new != old && draw(100.0) == new);
        let row = 599_999;
        long.allow(1000);
        let value = long.value("loss", Axis::Step, Some(100.0), row);
        long.allow(1000);
        assert_eq!(long.value("loss", Axis::Step, Some(400.0), row), value, "numbers likewise");
    }

    #[test]
    fn what_comes_after_a_cut_is_smoothed_without_what_was_cut() {
        let mut cut = table(20);
        let value = |table: &Table| table.value("loss", Axis::Step, Some(5.0), 11);
        value(&cut);
        let off = cut.split_off(10);
        assert_eq!((cut.len(), off.len(), off.clock.step(0)), (10, 11, Some(10)));
        cut.push(moment(11), &[7.0, 0.1]);
        cut.push(moment(12), &[8.0, 0.1]);
        let mut plain = table(10);
        plain.push(moment(11), &[7.0, 0.1]);
        plain.push(moment(12), &[8.0, 0.1]);
        assert_eq!(value(&cut), value(&plain));
        assert_eq!(cut, plain);
    }

    #[test]
    fn values_are_those_of_rows_and_ranges_those_between_places() {
        let table = table(10);
        let row = table.nearest(Axis::Tokens, 420.0).unwrap();
        assert_eq!(table.value("loss", Axis::Tokens, None, row), Some(0.25));
        assert_eq!(table.value("none", Axis::Tokens, None, row), None);
        assert_eq!(table.range("loss", Axis::Step, 2.0..4.0), Some((0.25, 0.5)));
        assert_eq!(table.range("loss", Axis::Flop, 2.0..4.0), None);
        assert_eq!(table.range("loss", Axis::Step, 20.0..40.0), None);
    }
}
