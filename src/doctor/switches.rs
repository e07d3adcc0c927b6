//! SwitchLoRA's exchanges, and the resets that follow them.

use crate::kernels::Matrix;
use crate::kernels::switch::{self as kernel, Exchange, Switch};
use crate::kernels::update::{Axis, VectorCounters};

use super::probe::{Operand, Probe, sample};

const OUTPUTS: usize = 1024;
const INPUTS: usize = 2048;
const RANK: usize = 64;
const POOL: usize = 1024;

/// Row 5 comes back at once: all leaving vectors are saved before any is read.
const OF_A: Exchange<'static> =
    Exchange { vectors: &[0, 3, 17, 63], from: &[5, 6, 1023, 0], to: &[9, 5, 4, 700] };
const OF_B: Exchange<'static> =
    Exchange { vectors: &[1, 62, 40], from: &[2, 1022, 300], to: &[1022, 11, 12] };
const PLAN: Switch<'static> = Switch { a: OF_A, b: OF_B, scale: 0.5 };

/// The vectors of one side of a layer after the exchange, each `width` long.
struct Side {
    factor: Operand,
    pool: Operand,
    exchange: Exchange<'static>,
    /// The vectors are columns of the factor.
    is_columns: bool,
}

impl Side {
    fn old(&self, vector: usize) -> Vec<f64> {
        if self.is_columns { self.factor.column(vector) } else { self.factor.row(vector) }
    }

    /// What stands in the pool after the leaving vectors went there.
    fn pool_row(&self, row: usize) -> Vec<f64> {
        match self.exchange.from.iter().position(|&from| from == row) {
            Some(j) => self.old(self.exchange.vectors[j]),
            None => self.pool.row(row),
        }
    }

    fn new_vector(&self, vector: usize) -> Vec<f64> {
        match self.exchange.vectors.iter().position(|&switched| switched == vector) {
            Some(j) => self.pool_row(self.exchange.to[j]),
            None => self.old(vector),
        }
    }

    /// Old minus new of the switched vectors.
    fn differences(&self) -> Vec<Vec<f64>> {
        let minus = |vector: &usize| {
            let (old, new) = (self.old(*vector), self.new_vector(*vector));
            old.iter().zip(new).map(|(old, new)| old - new).collect()
        };
        self.exchange.vectors.iter().map(minus).collect()
    }
}

/// `Σⱼ s·uⱼ·vⱼᵀ` of a row, and the squared norm of the whole, from the two lists of vectors.
fn correction(row: usize, left: &[Vec<f64>], right: &[Vec<f64>]) -> Vec<f64> {
    let mut sum = vec![0.0; right[0].len()];
    for (left, right) in left.iter().zip(right) {
        let factor = f64::from(PLAN.scale) * left[row];
        sum.iter_mut().zip(right).for_each(|(sum, value)| *sum += factor * value);
    }
    sum
}

fn squared_norm(left: &[Vec<f64>], right: &[Vec<f64>]) -> f64 {
    let scale = f64::from(PLAN.scale);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let pairs = (0..left.len()).flat_map(|i| (0..left.len()).map(move |j| (i, j)));
    pairs.map(|(i, j)| scale * scale * dot(&left[i], &left[j]) * dot(&right[i], &right[j])).sum()
}

fn weight() -> Operand {
    Operand::new(1, [OUTPUTS, INPUTS], 1.0)
}

pub fn switch(probe: &mut Probe<'_>) {
    let counts = (OF_A.vectors.len(), OF_B.vectors.len());
    probe.shape(format!(
        "{} and {} of {RANK} vectors of [{OUTPUTS}, {INPUTS}], pools of {POOL}",
        counts.0, counts.1
    ));
    let w = weight();
    let a = Side {
        factor: Operand::new(2, [RANK, INPUTS], 1.0),
        pool: Operand::new(3, [POOL, INPUTS], 1.0),
        exchange: OF_A,
        is_columns: false,
    };
    let b = Side {
        factor: Operand::new(4, [OUTPUTS, RANK], 1.0),
        pool: Operand::new(5, [POOL, OUTPUTS], 1.0),
        exchange: OF_B,
        is_columns: true,
    };
    let [w_on, a_on, b_on, pool_a, pool_b] =
        [w, a.factor, b.factor, a.pool, b.pool].map(|operand| operand.on(probe.device));
    let got = probe.timed(|| kernel::switch(w_on, a_on, b_on, [pool_a, pool_b], &PLAN));
    let mut left: Vec<Vec<f64>> = OF_A.vectors.iter().map(|&vector| b.old(vector)).collect();
    left.extend(b.differences());
    let mut right = a.differences();
    right.extend(OF_B.vectors.iter().map(|&vector| a.old(vector)));
    let columns: Vec<Vec<f64>> = (0..RANK).map(|vector| b.new_vector(vector)).collect();
    probe.compare_rows("A", &got.a, |row| a.new_vector(row));
    probe.compare_rows("B", &got.b, |row| columns.iter().map(|column| column[row]).collect());
    probe.compare_rows("pool of A", &got.pools[0], |row| a.pool_row(row));
    probe.compare_rows("pool of B", &got.pools[1], |row| b.pool_row(row));
    probe.compare_rows("W", &got.w, |row| plus(w.row(row), correction(row, &left, &right)));
    probe.compare("norm", &got.squared_norm.to_host(), &[squared_norm(&left, &right)]);
}

fn plus(a: Vec<f64>, b: Vec<f64>) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

pub fn restart(probe: &mut Probe<'_>) {
    probe.shape(format!("a sample of rows and columns of [{OUTPUTS}, {INPUTS}]"));
    let x = weight();
    for (axis, count) in [(Axis::Rows, OUTPUTS), (Axis::Columns, INPUTS)] {
        let list = sample(count);
        let [exp_avg, exp_avg_sq] = [x, x].map(|operand| operand.on(probe.device));
        let mut counters =
            VectorCounters::new(axis, &vec![1; count], &vec![2; count], probe.device);
        let got = probe.timed(|| kernel::restart(exp_avg, exp_avg_sq, &mut counters, &list, 7, 9));
        for moments in [&got.0, &got.1] {
            check_zeroed(probe, moments, axis, &list);
        }
        let (since, until) = counters.to_host();
        let narrow = |values: Vec<i32>| values.into_iter().map(|x| x as f32).collect::<Vec<_>>();
        let right = |set: f64, kept: f64| {
            (0..count).map(|i| if list.contains(&i) { set } else { kept }).collect::<Vec<_>>()
        };
        probe.compare("since", &narrow(since), &right(7.0, 1.0));
        probe.compare("frozen until", &narrow(until), &right(9.0, 2.0));
    }
}

/// Of the listed vectors nothing may be left, of the others nothing lost.
fn check_zeroed(probe: &mut Probe<'_>, moments: &Matrix, axis: Axis, list: &[usize]) {
    let x = weight();
    probe.compare_rows("moments", moments, |row| {
        let mut values = x.row(row);
        match axis {
            Axis::Rows if list.contains(&row) => values.fill(0.0),
            Axis::Rows => {}
            Axis::Columns => list.iter().for_each(|&column| values[column] = 0.0),
        }
        values
    });
    if axis == Axis::Rows {
        let host = moments.to_host();
        let rows = list.iter().flat_map(|&row| &host[row * INPUTS..(row + 1) * INPUTS]);
        let values: Vec<f32> = rows.copied().collect();
        probe.compare("zeroed rows", &values, &vec![0.0; values.len()]);
    }
}
