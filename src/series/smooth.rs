//! Moving means with their own pyramids, made as far as they are needed and a part at a time, so that a long series
//! never holds a frame up.

use super::clock::{Axis, Clock};
use super::column::Column;

/// A column smoothed over an axis: each row the mean of what came before it, where a value's weight halves over
/// `half_life` units of the axis. The weights add up to what there is, so there is no pull to zero at the start. A value
/// that is not finite leaves a gap, after which the mean begins anew.
#[derive(Debug, Clone)]
pub struct Smooth {
    /// The column's place in its table.
    pub source: usize,
    /// The axis on which values age.
    pub axis: Axis,
    /// After how many units of it a value has half of its weight.
    pub half_life: f64,
    column: Column,
    sum: f64,
    weight: f64,
    last: f64,
    /// The newest distance between rows, and what it leaves of a weight: most are alike.
    step: (f64, f64),
}

impl Smooth {
    /// Nothing smoothed yet.
    pub fn new(source: usize, axis: Axis, half_life: f64) -> Self {
        Self {
            source,
            axis,
            half_life,
            column: Column::default(),
            sum: 0.0,
            weight: 0.0,
            last: f64::NAN,
            step: (0.0, 1.0),
        }
    }

    /// What is smoothed so far.
    pub fn column(&self) -> &Column {
        &self.column
    }

    /// Goes on by at most `rows` rows; whether all are smoothed then.
    pub fn advance(&mut self, clock: &Clock, column: &Column, rows: usize) -> bool {
        let done = self.column.len();
        let end = column.len().min(done.saturating_add(rows));
        // All of it at once: growing along would copy what is done again and again.
        self.column.reserve(column.len() - done);
        for row in done..end {
            let value = self.next(clock.at(row, self.axis), column.values()[row]);
            self.column.push(value);
        }
        end == column.len()
    }

    fn next(&mut self, place: f64, value: f32) -> f32 {
        if !value.is_finite() || place.is_nan() {
            (self.sum, self.weight, self.last) = (0.0, 0.0, f64::NAN);
            return f32::NAN;
        }
        let distance = if self.last.is_nan() { 0.0 } else { place - self.last };
        self.last = place;
        if distance != self.step.0 {
            self.step = (distance, (-distance / self.half_life).exp2());
        }
        self.sum = self.sum * self.step.1 + f64::from(value);
        self.weight = self.weight * self.step.1 + 1.0;
        (self.sum / self.weight) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Moment;
    use super::*;
    use proptest::prelude::*;

    /// The definition, with every value weighed by its age.
    fn plain(rows: &[(f64, f32)], half_life: f64) -> Vec<f64> {
        let mean = |end: usize| {
            let start =
                rows[..=end].iter().rposition(|row| !row.1.is_finite()).map_or(0, |gap| gap + 1);
            let ages =
                rows[start..=end].iter().map(|row| ((row.0 - rows[end].0) / half_life).exp2());
            let (mut sum, mut weight) = (0.0, 0.0);
            for (age, row) in ages.zip(&rows[start..=end]) {
                sum += age * f64::from(row.1);
                weight += age;
            }
            sum / weight
        };
        (0..rows.len())
            .map(|end| if rows[end].1.is_finite() { mean(end) } else { f64::NAN })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_mean_is_its_definition_however_it_is_cut_up(
            rows in prop::collection::vec(
                (0_u64..5, prop_oneof![9 => 0_f32..10.0, 1 => Just(f32::NAN)]), 1..120,
            ),
            half_life in 0.5_f64..40.0, part in 1_usize..50,
        ) {
            let (mut clock, mut column, mut at) = (Clock::default(), Column::default(), Vec::new());
            let mut smooth = Smooth::new(0, Axis::Step, half_life);
            let mut step = 0;
            for (advance, value) in rows {
                step += advance;
                clock.push(Moment { step, ..Moment::default() });
                column.push(value);
                at.push((step as f64, value));
            }
            while !smooth.advance(&clock, &column, part) {}
            let wanted = plain(&at, half_life);
            for (found, wanted) in smooth.column().values().iter().zip(wanted) {
                let found = f64::from(*found);
                prop_assert!(
                    (found.is_nan() && wanted.is_nan()) || (found - wanted).abs() < 1e-5 * wanted.abs().max(1.0),
                    "{found} {wanted}"
                );
            }
            prop_assert_eq!(smooth.column().len(), column.len());
        }
    }
}
