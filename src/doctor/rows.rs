//! Operations row by row: norms over 20,000 columns, rotation, SwiGLU at a width that fills no tile.

use crate::device::memory::Category::Activations;
use crate::kernels::rope::Rotation;
use crate::kernels::{Matrix, norm, reference, rope as rotation, swiglu as mlp};

use super::probe::{Operand, Probe};

const ROWS: usize = 256;
const WIDE: usize = 20_000;
const EPS: f32 = 1e-6;
const MLP: [usize; 2] = [1024, 5461];

fn operand(seed: u64) -> Operand {
    Operand::new(seed, [ROWS, WIDE], 2.0)
}

fn gain() -> Operand {
    Operand::new(9, [1, WIDE], 1.5)
}

fn added(a: &Operand, b: &Operand, row: usize) -> Vec<f64> {
    // The device adds in f32, and the norm sees that sum.
    a.row(row).iter().zip(b.row(row)).map(|(a, b)| f64::from((a + b) as f32)).collect()
}

fn wide_shape(probe: &mut Probe<'_>) {
    probe.shape(format!("{ROWS} rows of {WIDE}"));
}

fn normed(row: &[f64], gain: &[f64]) -> (Vec<f64>, f64) {
    let (y, rstd) = reference::rms_norm(row, gain, f64::from(EPS));
    (y, rstd[0])
}

pub fn rms_norm(probe: &mut Probe<'_>) {
    wide_shape(probe);
    let x = operand(1);
    let (on, gain_on, gain) = (x.on(probe.device), gain().on(probe.device), gain().wide());
    let (y, rstd) = probe.timed(|| norm::rms_norm(&on, &gain_on, EPS));
    probe.compare_rows("y", &y, |row| normed(&x.row(row), &gain).0);
    probe.compare_entries("1/rms", &rstd, |row| normed(&x.row(row), &gain).1);
}

pub fn rms_norm_apply(probe: &mut Probe<'_>) {
    wide_shape(probe);
    let (x, roots) = (operand(1), Operand::new(4, [1, ROWS], 1.0));
    let (on, gain_on, rstd) =
        (x.on(probe.device), gain().on(probe.device), roots.vector_on(probe.device));
    let y = probe.timed(|| norm::rms_norm_apply(&on, &gain_on, &rstd));
    let gain = gain().wide();
    probe.compare_rows("y", &y, |row| {
        x.row(row).iter().zip(&gain).map(|(x, gain)| x * roots.at(0, row) * gain).collect()
    });
}

pub fn add_residual(probe: &mut Probe<'_>) {
    wide_shape(probe);
    let (x, delta) = (operand(1), operand(2));
    let (on, delta_on) = (x.on(probe.device), delta.on(probe.device));
    let sum = probe.timed(|| norm::add_residual(&on, delta_on));
    probe.compare_rows("sum", &sum, |row| added(&x, &delta, row));
}

pub fn add_rms_norm(probe: &mut Probe<'_>) {
    wide_shape(probe);
    let (x, delta) = (operand(1), operand(2));
    let (on, delta_on, gain_on) =
        (x.on(probe.device), delta.on(probe.device), gain().on(probe.device));
    let (sum, y, rstd) = probe.timed(|| norm::add_rms_norm(&on, delta_on, &gain_on, EPS));
    let gain = gain().wide();
    probe.compare_rows("sum", &sum, |row| added(&x, &delta, row));
    probe.compare_rows("y", &y, |row| normed(&added(&x, &delta, row), &gain).0);
    probe.compare_entries("1/rms", &rstd, |row| normed(&added(&x, &delta, row), &gain).1);
}

pub fn rms_norm_backward(probe: &mut Probe<'_>) {
    wide_shape(probe);
    let (x, dy, bypass) = (operand(1), operand(2), operand(3));
    let [on, dy_on, bypass_on] = [x, dy, bypass].map(|operand| operand.on(probe.device));
    let gain_on = gain().on(probe.device);
    let (_, rstd) = norm::rms_norm(&on, &gain_on, EPS);
    let acc = Matrix::zeros([1, WIDE], probe.device, Activations);
    let (dx, d_gain) =
        probe.timed(|| norm::rms_norm_backward(bypass_on, &dy_on, &on, &gain_on, &rstd, Some(acc)));
    let gain = gain().wide();
    probe.compare_rows("dx", &dx, |row| {
        let (x, dy) = (x.row(row), dy.row(row));
        let (dx, _) = reference::rms_norm_backward(&dy, &x, &gain, &[normed(&x, &gain).1]);
        dx.iter().zip(bypass.row(row)).map(|(dx, bypass)| dx + bypass).collect()
    });
    let rstd: Vec<f64> = (0..ROWS).map(|row| normed(&x.row(row), &gain).1).collect();
    if let Some(d_gain) = d_gain {
        probe.compare_entries("gradient of the gain", &d_gain, |column| {
            (0..ROWS).map(|row| dy.at(row, column) * x.at(row, column) * rstd[row]).sum()
        });
    }
}

pub fn rope(probe: &mut Probe<'_>) {
    const TOKENS: usize = 2048;
    const HEADS: usize = 8;
    const HALF: usize = 32;
    const WIDTH: usize = 2 * HALF * HEADS;
    probe.shape(format!("1 x {TOKENS} tokens, {HEADS} heads of {}", 2 * HALF));
    let x = Operand::new(1, [TOKENS, WIDTH], 1.0);
    let angle = |place: usize| {
        let frequency = 10_000f64.powf(-((place % HALF) as f64) / HALF as f64);
        (place / HALF) as f64 * frequency
    };
    let table = |f: fn(f64) -> f64| -> Vec<f32> {
        (0..TOKENS * HALF).map(|place| f(angle(place)) as f32).collect()
    };
    let (cos, sin) = (table(f64::cos), table(f64::sin));
    let on = |values: &[f32]| {
        Matrix::from_host(values.to_vec(), [TOKENS, HALF], probe.device, Activations)
    };
    let (cos_on, sin_on, x_on) = (on(&cos), on(&sin), x.on(probe.device));
    // From the last position to the first, so that a row and its position differ.
    let positions: Vec<i32> = (0..TOKENS as i32).rev().collect();
    let positions = probe.indices(&positions);
    let y = probe.timed(|| rotation::rope(x_on, &positions, &cos_on, &sin_on, Rotation::Forward));
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
    let (cos, sin) = (wide(&cos), wide(&sin));
    probe.compare_rows("forward", &y, |row| {
        let position = [(TOKENS - 1 - row) as i32];
        reference::rope(&x.row(row), WIDTH, &position, &cos, &sin, HALF, 1.0)
    });
    let back = probe.timed(|| rotation::rope(y, &positions, &cos_on, &sin_on, Rotation::Backward));
    probe.compare_rows("there and back", &back, |row| x.row(row));
}

fn mlp_operand(seed: u64) -> Operand {
    Operand::new(seed, MLP, 6.0)
}

pub fn swiglu(probe: &mut Probe<'_>) {
    probe.shape(format!("{} rows of {}", MLP[0], MLP[1]));
    let (gate, up) = (mlp_operand(1), mlp_operand(2));
    let (gate_on, up_on) = (gate.on(probe.device), up.on(probe.device));
    let y = probe.timed(|| mlp::swiglu(&gate_on, &up_on));
    probe.compare_rows("y", &y, |row| reference::swiglu(&gate.row(row), &up.row(row)));
}

pub fn swiglu_backward(probe: &mut Probe<'_>) {
    probe.shape(format!("{} rows of {}", MLP[0], MLP[1]));
    let (dh, gate, up) = (mlp_operand(3), mlp_operand(1), mlp_operand(2));
    let [dh_on, gate_on, up_on] = [dh, gate, up].map(|operand| operand.on(probe.device));
    let (d_gate, d_up, h) = probe.timed(|| mlp::swiglu_backward(dh_on, gate_on, up_on));
    let right = |row: usize| reference::swiglu_backward(&dh.row(row), &gate.row(row), &up.row(row));
    probe.compare_rows("gradient of the gate", &d_gate, |row| right(row).0);
    probe.compare_rows("gradient of up", &d_up, |row| right(row).1);
    probe.compare_rows("inner", &h, |row| reference::swiglu(&gate.row(row), &up.row(row)));
}
