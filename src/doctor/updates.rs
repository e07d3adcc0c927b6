//! Optimizer updates of 16 million parameters, norms and clipping.

use crate::device::memory::Category::Activations;
use crate::kernels::spikes::{self, Mask, SpikeRule};
use crate::kernels::update::{self as kernel, AdamForm, AdamW, Axis, VectorCounters};
use crate::kernels::{Matrix, Vector, reference};

use super::probe::{Operand, Probe};

const SIDE: usize = 4096;

const HYPER: AdamW = AdamW {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.1,
    form: AdamForm::Torch,
};
/// What the gradient is multiplied by.
const CLIP: f32 = 0.7;

pub fn zero(probe: &mut Probe<'_>) {
    probe.shape(format!("{SIDE} x {SIDE}"));
    let device = probe.device;
    let got = probe.timed(|| Matrix::zeros([SIDE, SIDE], device, Activations));
    // Against 1, as the largest of zeros is no unit.
    let shifted: Vec<f32> = got.to_host().iter().map(|x| 1.0 + x).collect();
    probe.compare("1 + x", &shifted, &vec![1.0; shifted.len()]);
}

pub fn fill(probe: &mut Probe<'_>) {
    probe.shape(format!("{SIDE} x {SIDE}"));
    let device = probe.device;
    let got = probe.timed(|| Matrix::filled(0.3, [SIDE, SIDE], device, Activations));
    let right = vec![f64::from(0.3f32); SIDE * SIDE];
    probe.compare("x", &got.to_host(), &right);
}

pub fn copy(probe: &mut Probe<'_>) {
    probe.shape(format!("{SIDE} x {SIDE}"));
    let (x, device) = (Operand::new(1, [SIDE, SIDE], 1.0), probe.device);
    let on = x.on(device);
    let got = probe.timed(|| on.duplicate(device, Activations));
    drop(on);
    probe.compare("x", &got.to_host(), &x.wide());
}

pub fn pair(probe: &mut Probe<'_>) {
    probe.shape("two numbers, read at once");
    let (a, b) = (probe.vector(vec![2.5]), probe.vector(vec![-7.0]));
    let (a, b) = probe.timed(|| kernel::read_back(&a, &b));
    probe.compare("pair", &[a as f32, b as f32], &[2.5, -7.0]);
}

/// Parameter, gradient, and moments: the second is a square, so never negative.
struct State {
    param: Operand,
    grad: Operand,
    exp_avg: Operand,
    /// Its root.
    root: Operand,
}

impl State {
    fn new(shape: [usize; 2]) -> Self {
        Self {
            param: Operand::new(1, shape, 1.0),
            grad: Operand::new(2, shape, 1.0),
            exp_avg: Operand::new(3, shape, 0.1),
            root: Operand::new(4, shape, 0.3),
        }
    }

    fn on(&self, probe: &Probe<'_>) -> [Matrix; 4] {
        let squares: Vec<f32> = self.root.host().into_iter().map(|x| x * x).collect();
        let shape = [self.root.rows, self.root.columns];
        let exp_avg_sq = Matrix::from_host(squares, shape, probe.device, Activations);
        let [param, grad, exp_avg] =
            [self.param, self.grad, self.exp_avg].map(|operand| operand.on(probe.device));
        [param, grad, exp_avg, exp_avg_sq]
    }

    fn right(&self, place: usize, step: u32, is_frozen: bool) -> (f64, f64, f64) {
        let (row, column) = (place / self.param.columns, place % self.param.columns);
        let root = self.root.at(row, column) as f32;
        let start =
            (self.param.at(row, column), self.exp_avg.at(row, column), f64::from(root * root));
        let factor = if is_frozen { 0.0 } else { f64::from(CLIP) };
        let (p, m, v) = reference::adamw(start, factor * self.grad.at(row, column), HYPER, step);
        (if is_frozen { start.0 } else { p }, m, v)
    }
}

fn compare(
    probe: &mut Probe<'_>,
    got: &(Matrix, Matrix, Matrix),
    right: impl Fn(usize) -> (f64, f64, f64),
) {
    probe.compare_entries("parameter", &got.0, |place| right(place).0);
    probe.compare_entries("first moment", &got.1, |place| right(place).1);
    probe.compare_entries("second moment", &got.2, |place| right(place).2);
}

pub fn adamw(probe: &mut Probe<'_>) {
    probe.shape(format!("{} parameters", SIDE * SIDE));
    let state = State::new([SIDE, SIDE]);
    let [param, grad, exp_avg, exp_avg_sq] = state.on(probe);
    let clip = probe.vector(vec![CLIP]);
    let got = probe.timed(|| kernel::adamw(param, &grad, &clip, exp_avg, exp_avg_sq, HYPER, 10));
    compare(probe, &got, |place| state.right(place, 10, false));
}

pub fn adamw_vectors(probe: &mut Probe<'_>) {
    const LONG: usize = 5461;
    const VECTORS: usize = 128;
    const NOW: u32 = 20;
    probe.shape(format!("{VECTORS} rows and columns of {LONG}, every fifth frozen"));
    let since: Vec<i32> = (0..VECTORS as i32).map(|vector| vector % 20).collect();
    let is_frozen = |vector: usize| vector.is_multiple_of(5);
    let until: Vec<i32> =
        (0..VECTORS).map(|vector| if is_frozen(vector) { 30 } else { 10 }).collect();
    let clip = probe.vector(vec![CLIP]);
    for (axis, shape) in [(Axis::Rows, [VECTORS, LONG]), (Axis::Columns, [LONG, VECTORS])] {
        let state = State::new(shape);
        let [param, grad, exp_avg, exp_avg_sq] = state.on(probe);
        let counters = VectorCounters::new(axis, &since, &until, probe.device);
        let got = probe.timed(|| {
            kernel::adamw_vectors(
                param, &grad, &clip, exp_avg, exp_avg_sq, HYPER, NOW, &counters, false,
            )
        });
        compare(probe, &got, |place| {
            let vector = if axis == Axis::Rows { place / LONG } else { place % VECTORS };
            state.right(place, NOW + 1 - since[vector] as u32, is_frozen(vector))
        });
    }
}

pub fn add_sum_squares(probe: &mut Probe<'_>) {
    probe.shape(format!("{} numbers", SIDE * SIDE));
    let x = Operand::new(1, [SIDE, SIDE], 1.0);
    let (on, acc) = (x.on(probe.device), probe.vector(vec![3.0]));
    let sum = probe.timed(|| kernel::add_sum_squares(acc, &on));
    let right: f64 = 3.0 + x.host().iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    probe.compare("sum", &sum.to_host(), &[right]);
}

pub fn guard(probe: &mut Probe<'_>) {
    probe.shape("finite, negative, infinite, no number");
    for (number, right) in
        [(0.25f32, 1.0), (0.0, 1.0), (-1.0, -2.0), (f32::INFINITY, -2.0), (f32::NAN, -2.0)]
    {
        let number: Vector = probe.vector(vec![number]);
        let got = probe.timed(|| kernel::guard(&number, 1.0, -2.0));
        probe.compare("guard", &got.to_host(), &[right]);
    }
}

pub fn clip_factor(probe: &mut Probe<'_>) {
    probe.shape("below the limit, above it, no limit");
    for (squares, limit, right) in
        [(0.25f32, 1.0, 1.0), (9.0, 1.0, 1.0 / 3.000_001), (9.0, 0.0, 1.0)]
    {
        let squares: Vector = probe.vector(vec![squares]);
        let factor = probe.timed(|| kernel::clip_factor(&squares, limit));
        probe.compare("factor", &factor.to_host(), &[right]);
    }
}

pub fn clip_spikes(probe: &mut Probe<'_>) {
    const THRESHOLD: f64 = 2.0;
    probe.shape(format!("{SIDE} x {SIDE}, one in eight masked"));
    let shape = [SIDE, SIDE];
    let (grad, roots) = (Operand::new(1, shape, 1.0), Operand::new(2, shape, 1.0));
    let device = probe.device;
    let squares = roots.host().into_iter().map(|root| root * root).collect();
    let exp_avg_sq = Matrix::from_host(squares, shape, device, Activations);
    let (on, clip) = (grad.on(device), probe.vector(vec![CLIP]));
    let tally = probe.vector(vec![0.0, 0.0]);
    let mask = Mask { key: 5, density: 0.875 };
    let rule = SpikeRule { threshold: Some(THRESHOLD), mask: Some(mask) };
    let (got, tally) = probe.timed(|| spikes::clip_spikes(on, &clip, &exp_avg_sq, rule, tally));
    let clip = f64::from(CLIP);
    let right = |place: usize| {
        let (row, column) = (place / SIDE, place % SIDE);
        let (g, root) = (grad.at(row, column), roots.at(row, column));
        let limit = THRESHOLD.sqrt() * root.abs() / clip;
        if mask.keeps(place) { g.clamp(-limit, limit) } else { 0.0 }
    };
    probe.compare_entries("gradient", &got, right);
    let is_told = tally.to_host().iter().all(|number| *number > 0.0);
    probe.compare("tally", &[f32::from(u8::from(is_told))], &[1.0]);
}
