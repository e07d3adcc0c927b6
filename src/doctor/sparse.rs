//! Values at fixed places of a large matrix.

use crate::kernels::sparse as kernel;

use super::probe::{Operand, Probe};

const SHAPE: [usize; 2] = [1024, 5461];
/// Every so many entries there is a place, 3 % of them.
const APART: usize = 33;

fn places() -> Vec<i32> {
    (0..SHAPE[0] * SHAPE[1]).step_by(APART).map(|place| place as i32).collect()
}

fn shape(probe: &mut Probe<'_>) {
    probe.shape(format!("every {APART}th of {} x {}", SHAPE[0], SHAPE[1]));
}

fn at(x: &Operand, place: usize) -> f64 {
    x.at(place / SHAPE[1], place % SHAPE[1])
}

pub fn scatter_add(probe: &mut Probe<'_>) {
    shape(probe);
    let places = places();
    let (dense, values) = (Operand::new(1, SHAPE, 1.0), Operand::new(2, [1, places.len()], 1.0));
    let (on, values_on) = (dense.on(probe.device), values.on(probe.device));
    let places_on = probe.indices(&places);
    let sum = probe.timed(|| kernel::scatter_add(on, &places_on, &values_on));
    probe.compare_entries("sum", &sum, |place| {
        let value = if place % APART == 0 { values.at(0, place / APART) } else { 0.0 };
        at(&dense, place) + value
    });
}

pub fn gather(probe: &mut Probe<'_>) {
    shape(probe);
    let places = places();
    let (dense, acc) = (Operand::new(1, SHAPE, 1.0), Operand::new(2, [1, places.len()], 1.0));
    let (on, acc_on) = (dense.on(probe.device), acc.on(probe.device));
    let places_on = probe.indices(&places);
    let got = probe.timed(|| kernel::gather(None, &on, &places_on));
    probe.compare_entries("values", &got, |k| at(&dense, k * APART));
    let got = probe.timed(|| kernel::gather(Some(acc_on), &on, &places_on));
    probe.compare_entries("added", &got, |k| acc.at(0, k) + at(&dense, k * APART));
}
