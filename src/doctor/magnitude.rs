//! Trained lengths of the rows of a weight: factors, scaling by column, gradient.

use crate::kernels::magnitude as kernel;
use crate::kernels::packed::Weight;

use super::probe::{Operand, Probe};

const TOKENS: usize = 1024;
const OUTPUTS: usize = 2730;

fn shape(probe: &mut Probe<'_>) {
    probe.shape(format!("{TOKENS} x {OUTPUTS}"));
}

pub fn scale_columns(probe: &mut Probe<'_>) {
    shape(probe);
    let (x, factors) =
        (Operand::new(1, [TOKENS, OUTPUTS], 1.0), Operand::new(2, [1, OUTPUTS], 2.0));
    let (on, factors_on) = (x.on(probe.device), factors.vector_on(probe.device));
    let got = probe.timed(|| kernel::scale_columns(&on, &factors_on));
    probe.compare_entries("y", &got, |place| {
        x.at(place / OUTPUTS, place % OUTPUTS) * factors.at(0, place % OUTPUTS)
    });
}

pub fn magnitude_grad(probe: &mut Probe<'_>) {
    shape(probe);
    let sizes = [TOKENS, OUTPUTS];
    let (dy, z, acc) = (
        Operand::new(1, sizes, 1.0),
        Operand::new(2, sizes, 1.0),
        Operand::new(3, [1, OUTPUTS], 1.0),
    );
    let lengths: Vec<f32> = (0..OUTPUTS).map(|row| 0.5 + row as f32 / OUTPUTS as f32).collect();
    let (dy_on, z_on, acc_on) = (dy.on(probe.device), z.on(probe.device), acc.on(probe.device));
    let lengths_on = probe.vector(lengths.clone());
    let got = probe.timed(|| kernel::magnitude_grad(acc_on, &dy_on, &z_on, &lengths_on));
    probe.compare_entries("gradient", &got, |column| {
        let terms = dy.column(column).into_iter().zip(z.column(column)).map(|(dy, z)| dy * z);
        acc.at(0, column) + terms.sum::<f64>() / f64::from(lengths[column])
    });
}

pub fn magnitude_factor(probe: &mut Probe<'_>) {
    const INPUTS: usize = 1024;
    const RANK: usize = 64;
    const SCALE: f32 = 0.25;
    probe.shape(format!("{OUTPUTS} x {INPUTS}, rank {RANK}"));
    let w = Operand::new(1, [OUTPUTS, INPUTS], 1.0);
    let (a, b) = (Operand::new(2, [RANK, INPUTS], 1.0), Operand::new(3, [OUTPUTS, RANK], 1.0));
    let magnitude = Operand::new(4, [1, OUTPUTS], 2.0);
    let squares = (0..OUTPUTS).map(|row| w.row(row).iter().map(|v| v * v).sum::<f64>() as f32);
    let squares = probe.vector(squares.collect());
    let (w_on, a_on) = (w.on(probe.device), a.on(probe.device));
    let (b_on, magnitude_on) = (b.on(probe.device), magnitude.on(probe.device));
    let (length, factor) = probe.timed(|| {
        kernel::magnitude_factor(&magnitude_on, &squares, Weight::Dense(&w_on), &a_on, &b_on, SCALE)
    });
    let rows: Vec<Vec<f64>> = (0..RANK).map(|row| a.row(row)).collect();
    let right = |row: usize| {
        let mut sum = w.row(row);
        for (b, a) in b.row(row).into_iter().zip(&rows) {
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(SCALE) * b * a);
        }
        sum.iter().map(|v| v * v).sum::<f64>().sqrt()
    };
    probe.compare_entries("length", &length, right);
    probe.compare_entries("factor", &factor, |row| magnitude.at(0, row) / right(row));
}
