//! SwitchLoRA's exchanges, and the resets that follow them.

use crate::kernels::lowrank::{self, Exchange};

use super::probe::{Operand, Probe, sample};

const OUTPUTS: usize = 1024;
const INPUTS: usize = 2048;
const RANK: usize = 64;
const POOL: usize = 1024;

/// Row 5 comes back at once: all leaving vectors are saved before any is read.
const VECTORS: [usize; 4] = [0, 3, 17, 63];
const FROM: [usize; 4] = [5, 6, 1023, 0];
const TO: [usize; 4] = [9, 5, 4, 700];

const EXCHANGE: Exchange<'static> =
    Exchange { vectors: &VECTORS, from: &FROM, to: &TO, scale: 0.5 };

/// The vectors of one side of a layer after the exchange, each `width` long.
struct Side {
    factor: Operand,
    pool: Operand,
    /// The vectors are columns of the factor.
    is_columns: bool,
}

impl Side {
    fn old(&self, vector: usize) -> Vec<f64> {
        if self.is_columns { self.factor.column(vector) } else { self.factor.row(vector) }
    }

    /// What stands in the pool after the leaving vectors went there.
    fn pool_row(&self, row: usize) -> Vec<f64> {
        match FROM.iter().position(|&from| from == row) {
            Some(j) => self.old(VECTORS[j]),
            None => self.pool.row(row),
        }
    }

    fn new_vector(&self, vector: usize) -> Vec<f64> {
        match VECTORS.iter().position(|&switched| switched == vector) {
            Some(j) => self.pool_row(TO[j]),
            None => self.old(vector),
        }
    }

    /// Old minus new of the switched vectors.
    fn differences(&self) -> Vec<Vec<f64>> {
        let minus = |vector: &usize| {
            let (old, new) = (self.old(*vector), self.new_vector(*vector));
            old.iter().zip(new).map(|(old, new)| old - new).collect()
        };
        VECTORS.iter().map(minus).collect()
    }
}

/// `Σⱼ s·uⱼ·vⱼᵀ` of a row, and the squared norm of the whole, from the two lists of vectors.
fn correction(row: usize, left: &[Vec<f64>], right: &[Vec<f64>]) -> Vec<f64> {
    let mut sum = vec![0.0; right[0].len()];
    for (left, right) in left.iter().zip(right) {
        let factor = f64::from(EXCHANGE.scale) * left[row];
        sum.iter_mut().zip(right).for_each(|(sum, value)| *sum += factor * value);
    }
    sum
}

fn squared_norm(left: &[Vec<f64>], right: &[Vec<f64>]) -> f64 {
    let scale = f64::from(EXCHANGE.scale);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let pairs = (0..left.len()).flat_map(|i| (0..left.len()).map(move |j| (i, j)));
    pairs.map(|(i, j)| scale * scale * dot(&left[i], &left[j]) * dot(&right[i], &right[j])).sum()
}

fn weight() -> Operand {
    Operand::new(1, [OUTPUTS, INPUTS], 1.0)
}

fn shape(probe: &mut Probe<'_>) {
    let k = VECTORS.len();
    probe.shape(format!("{k} of {RANK} vectors of [{OUTPUTS}, {INPUTS}], pool of {POOL}"));
}

pub fn switch_rows(probe: &mut Probe<'_>) {
    shape(probe);
    let (w, b) = (weight(), Operand::new(2, [OUTPUTS, RANK], 1.0));
    let side = Side {
        factor: Operand::new(3, [RANK, INPUTS], 1.0),
        pool: Operand::new(4, [POOL, INPUTS], 1.0),
        is_columns: false,
    };
    let [w_on, a_on, b_on, pool_on] =
        [w, side.factor, b, side.pool].map(|operand| operand.on(probe.device));
    let (w_new, a, pool, norm) =
        probe.timed(|| lowrank::switch_rows(w_on, a_on, &b_on, pool_on, &EXCHANGE));
    let left: Vec<Vec<f64>> = VECTORS.iter().map(|&vector| b.column(vector)).collect();
    let right = side.differences();
    probe.compare_rows("A", &a, |row| side.new_vector(row));
    probe.compare_rows("pool", &pool, |row| side.pool_row(row));
    probe.compare_rows("W", &w_new, |row| plus(w.row(row), correction(row, &left, &right)));
    probe.compare("norm", &norm.to_host(), &[squared_norm(&left, &right)]);
}

pub fn switch_columns(probe: &mut Probe<'_>) {
    shape(probe);
    let (w, a) = (weight(), Operand::new(2, [RANK, INPUTS], 1.0));
    let side = Side {
        factor: Operand::new(3, [OUTPUTS, RANK], 1.0),
        pool: Operand::new(4, [POOL, OUTPUTS], 1.0),
        is_columns: true,
    };
    let [w_on, a_on, b_on, pool_on] =
        [w, a, side.factor, side.pool].map(|operand| operand.on(probe.device));
    let (w_new, b, pool, norm) =
        probe.timed(|| lowrank::switch_columns(w_on, &a_on, b_on, pool_on, &EXCHANGE));
    let left = side.differences();
    let right: Vec<Vec<f64>> = VECTORS.iter().map(|&vector| a.row(vector)).collect();
    let columns: Vec<Vec<f64>> = (0..RANK).map(|vector| side.new_vector(vector)).collect();
    probe.compare_rows("B", &b, |row| columns.iter().map(|column| column[row]).collect());
    probe.compare_rows("pool", &pool, |row| side.pool_row(row));
    probe.compare_rows("W", &w_new, |row| plus(w.row(row), correction(row, &left, &right)));
    probe.compare("norm", &norm.to_host(), &[squared_norm(&left, &right)]);
}

fn plus(a: Vec<f64>, b: Vec<f64>) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

pub fn zero_rows(probe: &mut Probe<'_>) {
    let x = weight();
    let rows = sample(OUTPUTS);
    probe.shape(format!("{} rows of [{OUTPUTS}, {INPUTS}]", rows.len()));
    let on = x.on(probe.device);
    let got = probe.timed(|| lowrank::zero_rows(on, &rows));
    probe.compare_entries("x", &got, |place| {
        let (row, column) = (place / INPUTS, place % INPUTS);
        if rows.contains(&row) { 0.0 } else { x.at(row, column) }
    });
    // Of the sampled rows and their neighbours nothing may be left or lost.
    let host = got.to_host();
    let values: Vec<f32> =
        rows.iter().flat_map(|&row| &host[row * INPUTS..(row + 1) * INPUTS]).copied().collect();
    probe.compare("zeroed rows", &values, &vec![0.0; values.len()]);
}

pub fn zero_columns(probe: &mut Probe<'_>) {
    let x = weight();
    let columns = sample(INPUTS);
    probe.shape(format!("{} columns of [{OUTPUTS}, {INPUTS}]", columns.len()));
    let on = x.on(probe.device);
    let got = probe.timed(|| lowrank::zero_columns(on, &columns));
    probe.compare_rows("x", &got, |row| {
        let mut values = x.row(row);
        for &column in &columns {
            values[column] = 0.0;
        }
        values
    });
}
