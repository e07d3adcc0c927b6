//! The band that runs of different seeds span.

use std::ops::Range;

use super::run::{Metric, RunModel};
use crate::series::{Axis, Table};

/// The smallest and largest value at one place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// The place on the axis.
    pub x: f64,
    /// The smallest value of the runs there.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// The mean.
    pub mean: f64,
}

/// The band of some runs' metric at the middle of each dot of a stretch of the axis, smoothed if there is a half-life.
/// Only where at least two of the runs have a value; between two rows of a run its line counts.
pub fn band(
    runs: &[&RunModel],
    metric: Metric,
    axis: Axis,
    half_life: Option<f64>,
    between: Range<f64>,
    dots: usize,
    log_x: bool,
) -> Vec<Band> {
    let mut bands = Vec::new();
    for dot in 0..dots {
        let share = (dot as f64 + 0.5) / dots as f64;
        let x = if log_x {
            between.start * (between.end / between.start).powf(share)
        } else {
            between.start + (between.end - between.start) * share
        };
        let values =
            runs.iter().filter_map(|run| at(run.table(metric), metric, axis, half_life, x));
        let values: Vec<f64> = values.collect();
        if values.len() > 1 {
            bands.push(Band {
                x,
                low: values.iter().copied().fold(f64::INFINITY, f64::min),
                high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                mean: values.iter().sum::<f64>() / values.len() as f64,
            });
        }
    }
    bands
}

/// The value of a line at a place; `None` before its first row, after its last and in gaps.
fn at(table: &Table, metric: Metric, axis: Axis, half_life: Option<f64>, x: f64) -> Option<f64> {
    if !x.is_finite() || !table.clock.has(axis) {
        return None;
    }
    let value = |row| table.value(metric.column(), axis, half_life, row);
    let after = table.clock.row_at(axis, x);
    let to = table.clock.at(after, axis);
    if to == x {
        return value(after);
    }
    let from = table.clock.at(after.checked_sub(1)?, axis);
    let (low, high) = (value(after - 1)?, value(after)?);
    Some(low + (high - low) * (x - from) / (to - from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runlog::{Event, Step};

    fn run(losses: impl Fn(u64) -> f64, steps: u64) -> RunModel {
        let mut run = RunModel::new(None);
        for step in 1..=steps {
            let update = Step {
                loss: losses(step),
                lr: 0.1,
                grad_norm: 1.0,
                tokens: step,
                active_s: 1.0,
                tok_s: 1.0,
            };
            run.apply(&Event { seq: step, ts: 0, step, body: update.into() });
        }
        run
    }

    #[test]
    fn a_band_spans_the_runs_where_there_are_several() {
        let (long, short) = (run(|step| step as f64, 20), run(|step| step as f64 + 2.0, 11));
        let band = band(&[&long, &short], Metric::Loss, Axis::Step, None, 0.0..20.0, 10, false);
        let places: Vec<f64> = band.iter().map(|band| band.x).collect();
        assert_eq!(places, [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]);
        assert!(
            band.iter().all(
                |band| (band.low, band.mean, band.high) == (band.x, band.x + 1.0, band.x + 2.0)
            )
        );
    }

    #[test]
    fn lines_count_between_their_rows_and_gaps_do_not() {
        let (even, gap) =
            (run(|step| step as f64, 10), run(|step| if step == 4 { f64::NAN } else { 1.0 }, 10));
        let band = band(&[&even, &gap], Metric::Loss, Axis::Step, None, 1.0..6.0, 5, false);
        let seen: Vec<(f64, f64)> = band.iter().map(|band| (band.x, band.high)).collect();
        assert_eq!(seen, [(1.5, 1.5), (2.5, 2.5), (5.5, 5.5)]);
    }
}
