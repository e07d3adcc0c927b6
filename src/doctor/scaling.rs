//! Scaling by factors on the device, norms in proportion, and the limit on growth.

use crate::kernels::scaling::{self as kernel, Along, NORM_EPS};

use super::probe::{Operand, Probe};

const SHAPE: [usize; 2] = [1024, 5461];

const ALONG: [(Along, usize); 3] =
    [(Along::All, 1), (Along::Rows, SHAPE[0]), (Along::Columns, SHAPE[1])];

fn shape(probe: &mut Probe<'_>) {
    probe.shape(format!("{} x {}", SHAPE[0], SHAPE[1]));
}

fn vector_of(place: usize, along: Along) -> usize {
    match along {
        Along::All => 0,
        Along::Rows => place / SHAPE[1],
        Along::Columns => place % SHAPE[1],
    }
}

fn at(x: &Operand, place: usize) -> f64 {
    x.at(place / SHAPE[1], place % SHAPE[1])
}

pub fn scale(probe: &mut Probe<'_>) {
    shape(probe);
    let x = Operand::new(1, SHAPE, 1.0);
    for (along, len) in ALONG {
        let factors = Operand::new(2, [1, len], 2.0);
        let (on, factors_on) = (x.on(probe.device), factors.vector_on(probe.device));
        let got = probe.timed(|| kernel::scale(on, &factors_on, along));
        probe.compare_entries(&format!("{along:?}"), &got, |place| {
            at(&x, place) * factors.at(0, vector_of(place, along))
        });
    }
}

pub fn add_scaled(probe: &mut Probe<'_>) {
    shape(probe);
    let (acc, x) = (Operand::new(1, SHAPE, 1.0), Operand::new(2, SHAPE, 1.0));
    let (acc_on, x_on, factor) =
        (acc.on(probe.device), x.on(probe.device), probe.vector(vec![0.5]));
    let got = probe.timed(|| kernel::add_scaled(acc_on, -3.0, &factor, &x_on));
    probe.compare_entries("sum", &got, |place| at(&acc, place) - 1.5 * at(&x, place));
}

pub fn norm_ratios(probe: &mut Probe<'_>) {
    shape(probe);
    let (x, y) = (Operand::new(1, SHAPE, 1.0), Operand::new(2, SHAPE, 3.0));
    let (x_on, y_on) = (x.on(probe.device), y.on(probe.device));
    let (x, y) = (x.host(), y.host());
    for (along, len) in ALONG {
        let got = probe.timed(|| kernel::norm_ratios(&x_on, &y_on, along));
        let norms = |values: &[f32]| {
            let mut squares = vec![0.0; len];
            for (place, &value) in values.iter().enumerate() {
                squares[vector_of(place, along)] += f64::from(value) * f64::from(value);
            }
            squares.into_iter().map(f64::sqrt).collect::<Vec<_>>()
        };
        let right: Vec<f64> =
            norms(&x).iter().zip(norms(&y)).map(|(x, y)| x / (y + NORM_EPS)).collect();
        probe.compare(&format!("{along:?}"), &got.to_host(), &right);
    }
}

pub fn limit_growth(probe: &mut Probe<'_>) {
    probe.shape("growing, not growing, nothing before");
    for (squares, previous) in [(16.0f32, 2.0f32), (16.0, 8.0), (16.0, 0.0)] {
        const GAMMA: f64 = 1.01;
        let (now, before) = (probe.vector(vec![squares]), probe.vector(vec![previous]));
        let got = probe.timed(|| kernel::limit_growth(&now, &before, GAMMA, 0.5));
        let norm = 0.5 * f64::from(squares).sqrt();
        let previous = f64::from(previous);
        let ratio = if previous > 0.0 { norm / (previous + NORM_EPS) } else { 0.0 };
        let factor = if ratio > GAMMA { GAMMA / ratio } else { 1.0 };
        probe.compare("factor", &got.factor.to_host(), &[factor]);
        probe.compare("norm", &got.norm.to_host(), &[norm * factor]);
        // 1 beside it, as a ratio of 0 is no unit.
        probe.compare("1 + ratio", &[1.0 + got.ratio.to_host()[0]], &[1.0 + ratio]);
    }
}
