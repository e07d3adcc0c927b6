//! Biases: added to every row, and their gradient.

use crate::kernels::bias as kernel;

use super::probe::{Operand, Probe};

const TOKENS: usize = 1024;
const OUTPUTS: usize = 2730;

pub fn add_bias(probe: &mut Probe<'_>) {
    probe.shape(format!("{TOKENS} x {OUTPUTS}"));
    let (y, bias) = (Operand::new(1, [TOKENS, OUTPUTS], 1.0), Operand::new(2, [1, OUTPUTS], 2.0));
    let (y_on, bias_on) = (y.on(probe.device), bias.on(probe.device));
    let got = probe.timed(|| kernel::add_bias(y_on, &bias_on));
    probe.compare_entries("y", &got, |place| {
        y.at(place / OUTPUTS, place % OUTPUTS) + bias.at(0, place % OUTPUTS)
    });
}

pub fn bias_grad(probe: &mut Probe<'_>) {
    probe.shape(format!("{TOKENS} x {OUTPUTS}"));
    let (dy, acc) = (Operand::new(1, [TOKENS, OUTPUTS], 1.0), Operand::new(2, [1, OUTPUTS], 1.0));
    let (dy_on, acc_on) = (dy.on(probe.device), acc.on(probe.device));
    let got = probe.timed(|| kernel::bias_grad(acc_on, &dy_on));
    probe.compare_entries("gradient", &got, |column| {
        acc.at(0, column) + dy.column(column).into_iter().sum::<f64>()
    });
}
