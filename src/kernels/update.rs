//! Optimizer updates in place: AdamW with a counter per tensor, row or column.
//!
//! Bias corrections are made in f64; the element-wise part is f32 in PyTorch's order of operations
//! (`lerp` for the first moment), so that the golden cases agree to the last few bits.
//! Sources: arXiv:1711.05101; `torch.optim.AdamW`; for the reference form the package galore-torch 1.0.

use burn::backend::{Backend, BoolDType, Dispatch, FloatDType, Scalar, TensorMetadata};
use burn::tensor::{Int as IntKind, Slice, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::device::Device;
use crate::device::memory::Category;

use super::fallback::{Float, Int, add, constant, div, mul, reshape, scaled, shifted, sub};
use super::flex::{self, CHUNK, rows_per_task};
use super::math::vectorised;
use super::ops::TrainOps;
use super::{Indices, Matrix, Vector};

pub use super::clip::{add_sum_squares, clip_factor, guard, read_back};

/// Where epsilon and the decay stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdamForm {
    /// PyTorch: decay first; epsilon added to the bias-corrected root.
    Torch,
    /// GaLore's and Fira's package: epsilon on the uncorrected root, decay after the update.
    Reference,
}

/// Hyper-parameters of one AdamW update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Where epsilon and the decay stand.
    pub form: AdamForm,
}

/// Which vectors of a matrix have counters of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Each row.
    Rows,
    /// Each column.
    Columns,
}

/// One AdamW update in place of `(param, exp_avg, exp_avg_sq)`, all `[m, n]`; `grad` is multiplied by `grad_scale [1]`
/// (the clip factor, which stays on the device); below 0 it leaves all three as they are. `step` is the counter after
/// this update (1 at the first).
pub fn adamw(
    param: Matrix,
    grad: &Matrix,
    grad_scale: &Vector,
    exp_avg: Matrix,
    exp_avg_sq: Matrix,
    hyper: AdamW,
    step: u32,
) -> (Matrix, Matrix, Matrix) {
    assert!(step > 0, "the first update is step 1");
    in_place_update(param, grad, exp_avg, exp_avg_sq, "adamw", |param, exp_avg, exp_avg_sq| {
        let (param, exp_avg, exp_avg_sq) = <Dispatch as TrainOps>::adamw(
            param.into_dispatch(),
            grad.tensor().into_dispatch(),
            grad_scale.tensor().into_dispatch(),
            exp_avg.into_dispatch(),
            exp_avg_sq.into_dispatch(),
            hyper,
            step,
        );
        [param, exp_avg, exp_avg_sq].map(Tensor::from_dispatch)
    })
}

/// Counters and freezes of the vectors of a parameter, on the device, as functions of the update index `t` (completed
/// updates).
#[derive(Debug)]
pub struct VectorCounters {
    axis: Axis,
    /// `[2·vectors]`. First `since`, the update index at which the vector's counter was last zero: its step in update `t`
    /// is `t + 1 - since`. Then `frozen_until`: the vector is frozen while `t < frozen_until`, its gradient counts as zero.
    values: Indices,
}

impl VectorCounters {
    /// One `since` and one `frozen_until` for each vector along the axis.
    pub fn new(axis: Axis, since: &[i32], frozen_until: &[i32], device: &Device) -> Self {
        assert_eq!(since.len(), frozen_until.len(), "a counter and a freeze for each vector");
        let values = [since, frozen_until].concat();
        Self { axis, values: Indices::from_host(&values, device, Category::Optimizer) }
    }

    /// Which vectors.
    pub fn axis(&self) -> Axis {
        self.axis
    }

    /// How many vectors.
    pub fn len(&self) -> usize {
        self.values.len() / 2
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// `since` and `frozen_until`; waits for the device.
    pub fn to_host(&self) -> (Vec<i32>, Vec<i32>) {
        let mut since = self.values.to_host();
        let frozen_until = since.split_off(self.len());
        (since, frozen_until)
    }

    pub(super) fn in_place<R>(
        &mut self,
        run: impl FnOnce(Tensor<1, IntKind>) -> (R, Tensor<1, IntKind>),
    ) -> R {
        self.values.in_place(run)
    }
}

/// AdamW with a counter per row or column. A frozen vector with `decay_frozen = false` (no weight decay on it) keeps its bits,
/// and its moments decay as with a zero gradient.
pub fn adamw_vectors(
    param: Matrix,
    grad: &Matrix,
    grad_scale: &Vector,
    exp_avg: Matrix,
    exp_avg_sq: Matrix,
    hyper: AdamW,
    t: u32,
    counters: &VectorCounters,
    decay_frozen: bool,
) -> (Matrix, Matrix, Matrix) {
    let vectors = match counters.axis {
        Axis::Rows => param.shape()[0],
        Axis::Columns => param.shape()[1],
    };
    assert_eq!(counters.len(), vectors, "one counter for each vector");
    let name = "adamw_vectors";
    in_place_update(param, grad, exp_avg, exp_avg_sq, name, |param, exp_avg, exp_avg_sq| {
        let (param, exp_avg, exp_avg_sq) = <Dispatch as TrainOps>::adamw_vectors(
            param.into_dispatch(),
            grad.tensor().into_dispatch(),
            grad_scale.tensor().into_dispatch(),
            exp_avg.into_dispatch(),
            exp_avg_sq.into_dispatch(),
            counters.values.tensor().into_dispatch(),
            hyper,
            t,
            counters.axis,
            decay_frozen,
        );
        [param, exp_avg, exp_avg_sq].map(Tensor::from_dispatch)
    })
}

fn in_place_update(
    param: Matrix,
    grad: &Matrix,
    exp_avg: Matrix,
    exp_avg_sq: Matrix,
    name: &str,
    run: impl FnOnce(Tensor<2>, Tensor<2>, Tensor<2>) -> [Tensor<2>; 3],
) -> (Matrix, Matrix, Matrix) {
    assert_eq!(grad.shape(), param.shape(), "gradient of an update");
    assert_eq!(exp_avg.shape(), param.shape(), "first moment of an update");
    assert_eq!(exp_avg_sq.shape(), param.shape(), "second moment of an update");
    let (param, param_ticket) = param.into_unique_parts(name);
    let (exp_avg, exp_avg_ticket) = exp_avg.into_unique_parts(name);
    let (exp_avg_sq, exp_avg_sq_ticket) = exp_avg_sq.into_unique_parts(name);
    let [param, exp_avg, exp_avg_sq] = run(param, exp_avg, exp_avg_sq);
    (
        Matrix::from_parts(param, param_ticket),
        Matrix::from_parts(exp_avg, exp_avg_ticket),
        Matrix::from_parts(exp_avg_sq, exp_avg_sq_ticket),
    )
}

/// The part of an update that does not depend on the step.
#[derive(Clone, Copy)]
pub(super) struct Constants {
    /// `1 - beta1`.
    pub(super) new1: f32,
    pub(super) beta2: f32,
    /// `1 - beta2`.
    pub(super) new2: f32,
    pub(super) eps: f32,
    /// `1 - learning_rate·weight_decay`.
    pub(super) keep: f32,
    pub(super) decay_first: bool,
}

impl Constants {
    pub(super) fn new(hyper: AdamW) -> Self {
        Self {
            new1: (1.0 - hyper.beta1) as f32,
            beta2: hyper.beta2 as f32,
            new2: (1.0 - hyper.beta2) as f32,
            eps: hyper.eps as f32,
            keep: (1.0 - hyper.learning_rate * hyper.weight_decay) as f32,
            decay_first: hyper.form == AdamForm::Torch,
        }
    }
}

/// The part of an update that depends on the step: the learning rate and the divisor of the root, with
/// their bias corrections.
pub(super) fn step_factors(hyper: AdamW, step: u32) -> (f32, f32) {
    let power = i32::try_from(step).unwrap_or(i32::MAX);
    let correction1 = 1.0 - hyper.beta1.powi(power);
    let correction2 = (1.0 - hyper.beta2.powi(power)).sqrt();
    match hyper.form {
        AdamForm::Torch => ((hyper.learning_rate / correction1) as f32, correction2 as f32),
        AdamForm::Reference => ((hyper.learning_rate * correction2 / correction1) as f32, 1.0),
    }
}

/// The part of an update that may differ between vectors.
#[derive(Clone, Copy)]
struct Factors {
    /// Multiplies the gradient; 0 where it does not count.
    grad: f32,
    /// Learning rate with its bias correction.
    rate: f32,
    root_divisor: f32,
    /// The parameter keeps its bits: at learning rate 0 even a subtracted zero could turn -0 into 0.
    stays: bool,
}

/// One element: returns the new `(param, exp_avg, exp_avg_sq)`.
#[inline(always)]
fn update_element((p, m, v): (f32, f32, f32), g: f32, f: Factors, c: Constants) -> (f32, f32, f32) {
    // A gradient that does not count may be anything, also NaN.
    let g = if f.grad == 0.0 { 0.0 } else { g * f.grad };
    let m = m + c.new1 * (g - m);
    let v = v * c.beta2 + c.new2 * g * g;
    let denominator = v.sqrt() / f.root_divisor + c.eps;
    let decayed = if c.decay_first { p * c.keep } else { p };
    let moved = decayed - f.rate * (m / denominator);
    let new = if c.decay_first { moved } else { moved * c.keep };
    (if f.stays { p } else { new }, m, v)
}

/// What a task of the update works on.
struct Task<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    exp_avg: &'a mut [f32],
    exp_avg_sq: &'a mut [f32],
}

impl Task<'_> {
    /// The same factors for every element.
    #[inline(always)]
    fn update(self, f: Factors, c: Constants) {
        let moments = self.exp_avg.iter_mut().zip(self.exp_avg_sq);
        for ((p, &g), (m, v)) in self.param.iter_mut().zip(self.grad).zip(moments) {
            (*p, *m, *v) = update_element((*p, *m, *v), g, f, c);
        }
    }

    /// Factors of its own for every element.
    #[inline(always)]
    fn update_columns(self, factors: &VectorFactors, c: Constants) {
        let moments = self.exp_avg.iter_mut().zip(self.exp_avg_sq);
        let factors = (factors.grad.iter().zip(&factors.rate))
            .zip(factors.root_divisor.iter().zip(&factors.stays));
        let elements = self.param.iter_mut().zip(self.grad).zip(moments).zip(factors);
        for (((p, &g), (m, v)), ((&grad, &rate), (&root_divisor, &stays))) in elements {
            let factors = Factors { grad, rate, root_divisor, stays };
            (*p, *m, *v) = update_element((*p, *m, *v), g, factors, c);
        }
    }
}

/// Runs `each(first element, task)` on chunks of `chunk` elements.
fn for_each_task(
    state: &mut [FlexTensor; 3],
    grad: &[f32],
    chunk: usize,
    each: impl Fn(usize, Task<'_>) + Send + Sync,
) {
    let [param, exp_avg, exp_avg_sq] = state;
    flex::values_mut(param)
        .par_chunks_mut(chunk)
        .zip(grad.par_chunks(chunk))
        .zip(flex::values_mut(exp_avg).par_chunks_mut(chunk))
        .zip(flex::values_mut(exp_avg_sq).par_chunks_mut(chunk))
        .enumerate()
        .for_each(|(i, (((param, grad), exp_avg), exp_avg_sq))| {
            each(i * chunk, Task { param, grad, exp_avg, exp_avg_sq });
        });
}

pub(super) fn flex_adamw(
    param: FlexTensor,
    grad: &FlexTensor,
    grad_scale: &FlexTensor,
    exp_avg: FlexTensor,
    exp_avg_sq: FlexTensor,
    hyper: AdamW,
    step: u32,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let mut state = [param, exp_avg, exp_avg_sq];
    let constants = Constants::new(hyper);
    let (rate, root_divisor) = step_factors(hyper, step);
    let grad_scale = flex::values(grad_scale)[0];
    if grad_scale < 0.0 {
        let [param, exp_avg, exp_avg_sq] = state;
        return (param, exp_avg, exp_avg_sq);
    }
    let stays = hyper.learning_rate == 0.0;
    let factors = Factors { grad: grad_scale, rate, root_divisor, stays };
    for_each_task(&mut state, flex::values(grad), CHUNK, |_, task| {
        vectorised(
            #[inline(always)]
            || task.update(factors, constants),
        );
    });
    let [param, exp_avg, exp_avg_sq] = state;
    (param, exp_avg, exp_avg_sq)
}

/// [`Factors`] of every vector.
struct VectorFactors {
    grad: Vec<f32>,
    rate: Vec<f32>,
    root_divisor: Vec<f32>,
    stays: Vec<bool>,
}

impl VectorFactors {
    fn new(
        since: &[i32],
        frozen_until: &[i32],
        grad_scale: f32,
        hyper: AdamW,
        t: u32,
        decay_frozen: bool,
    ) -> Self {
        let now = i64::from(t);
        let frozen = || frozen_until.iter().map(|&until| now < i64::from(until));
        let steps = since.iter().map(|&since| (now + 1 - i64::from(since)).max(1) as u32);
        let (rate, root_divisor) = steps.map(|step| step_factors(hyper, step)).unzip();
        let none = hyper.learning_rate == 0.0;
        Self {
            grad: frozen().map(|frozen| if frozen { 0.0 } else { grad_scale }).collect(),
            rate,
            root_divisor,
            stays: frozen().map(|frozen| none || (frozen && !decay_frozen)).collect(),
        }
    }

    fn of(&self, vector: usize) -> Factors {
        Factors {
            grad: self.grad[vector],
            rate: self.rate[vector],
            root_divisor: self.root_divisor[vector],
            stays: self.stays[vector],
        }
    }
}

pub(super) fn flex_adamw_vectors(
    param: FlexTensor,
    grad: &FlexTensor,
    grad_scale: &FlexTensor,
    exp_avg: FlexTensor,
    exp_avg_sq: FlexTensor,
    counters: &FlexTensor,
    hyper: AdamW,
    t: u32,
    axis: Axis,
    decay_frozen: bool,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let width = flex::sizes(&param)[1];
    let mut state = [param, exp_avg, exp_avg_sq];
    let constants = Constants::new(hyper);
    let counters = flex::indices(counters);
    let (since, frozen_until) = counters.split_at(counters.len() / 2);
    let factors = VectorFactors::new(
        since,
        frozen_until,
        flex::values(grad_scale)[0],
        hyper,
        t,
        decay_frozen,
    );
    let chunk = rows_per_task(width) * width;
    for_each_task(&mut state, flex::values(grad), chunk.max(1), |first, task| {
        let Task { param, grad, exp_avg, exp_avg_sq } = task;
        let rows = param
            .chunks_exact_mut(width)
            .zip(grad.chunks_exact(width))
            .zip(exp_avg.chunks_exact_mut(width))
            .zip(exp_avg_sq.chunks_exact_mut(width));
        for (i, (((param, grad), exp_avg), exp_avg_sq)) in rows.enumerate() {
            let row = first / width + i;
            let task = Task { param, grad, exp_avg, exp_avg_sq };
            vectorised(
                #[inline(always)]
                || match axis {
                    Axis::Rows => task.update(factors.of(row), constants),
                    Axis::Columns => task.update_columns(&factors, constants),
                },
            );
        }
    });
    let [param, exp_avg, exp_avg_sq] = state;
    (param, exp_avg, exp_avg_sq)
}

/// Moments and parameter with factors of any shape that broadcasts.
fn default_update<B: Backend>(
    param: Float<B>,
    grad: Float<B>,
    exp_avg: Float<B>,
    exp_avg_sq: Float<B>,
    rate: Float<B>,
    root_divisor: Float<B>,
    hyper: AdamW,
) -> (Float<B>, Float<B>, Float<B>) {
    let c = Constants::new(hyper);
    let step = scaled::<B>(sub::<B>(grad.clone(), exp_avg.clone()), c.new1);
    let exp_avg = add::<B>(exp_avg, step);
    let squares = scaled::<B>(mul::<B>(grad.clone(), grad), c.new2);
    let exp_avg_sq = add::<B>(scaled::<B>(exp_avg_sq, c.beta2), squares);
    let root = div::<B>(B::float_sqrt(exp_avg_sq.clone()), root_divisor);
    let step = mul::<B>(rate, div::<B>(exp_avg.clone(), shifted::<B>(root, c.eps)));
    let param = match hyper.form {
        AdamForm::Torch => sub::<B>(scaled::<B>(param, c.keep), step),
        AdamForm::Reference => scaled::<B>(sub::<B>(param, step), c.keep),
    };
    (param, exp_avg, exp_avg_sq)
}

pub(super) fn default_adamw<B: Backend>(
    param: Float<B>,
    grad: Float<B>,
    grad_scale: Float<B>,
    exp_avg: Float<B>,
    exp_avg_sq: Float<B>,
    hyper: AdamW,
    step: u32,
) -> (Float<B>, Float<B>, Float<B>) {
    let grad_scale = reshape::<B, 2>(grad_scale, [1, 1]);
    let spread = B::float_expand(grad_scale.clone(), grad.shape());
    let is_off = B::float_lower_elem(spread, Scalar::from(0.0), BoolDType::Native);
    let before = (param.clone(), exp_avg.clone(), exp_avg_sq.clone());
    let grad = mul::<B>(grad, grad_scale);
    let (rate, root_divisor) = step_factors(hyper, step);
    let rate = constant::<B, 2>(vec![rate], [1, 1], &grad);
    let root_divisor = constant::<B, 2>(vec![root_divisor], [1, 1], &grad);
    let (new_param, exp_avg, exp_avg_sq) =
        default_update::<B>(param.clone(), grad, exp_avg, exp_avg_sq, rate, root_divisor, hyper);
    let param = if hyper.learning_rate == 0.0 { param } else { new_param };
    let kept = |new, old| B::float_mask_where(new, is_off.clone(), old);
    (kept(param, before.0), kept(exp_avg, before.1), kept(exp_avg_sq, before.2))
}

/// From this step on bias corrections no longer change an f32 (for beta2 up to 0.9999).
const SETTLED_STEP: u32 = 1 << 18;

pub(super) fn default_adamw_vectors<B: Backend>(
    param: Float<B>,
    grad: Float<B>,
    grad_scale: Float<B>,
    exp_avg: Float<B>,
    exp_avg_sq: Float<B>,
    counters: Int<B>,
    hyper: AdamW,
    t: u32,
    axis: Axis,
    decay_frozen: bool,
) -> (Float<B>, Float<B>, Float<B>) {
    let vectors = counters.shape().num_elements() / 2;
    let half =
        |i: usize| B::int_slice(counters.clone(), &[Slice::from(i * vectors..(i + 1) * vectors)]);
    let (since, frozen_until) = (half(0), half(1));
    drop(counters);
    let shape = match axis {
        Axis::Rows => [vectors, 1],
        Axis::Columns => [1, vectors],
    };
    // The corrections of every possible step, made in f64 on the host; the device picks by step.
    let steps = (t + 1).min(SETTLED_STEP);
    let (rates, divisors): (Vec<f32>, Vec<f32>) =
        (1..=steps).map(|step| step_factors(hyper, step)).unzip();
    let now = Scalar::from(i64::from(t));
    let entry = B::int_add_scalar(B::int_neg(since), now);
    let entry = B::int_clamp(entry, Scalar::from(0), Scalar::from(i64::from(steps) - 1));
    let pick = |table: Vec<f32>| {
        let len = table.len();
        let table = constant::<B, 1>(table, [len], &param);
        reshape::<B, 2>(B::float_select(table, 0, entry.clone()), shape)
    };
    let (rate, root_divisor) = (pick(rates), pick(divisors));
    let bools = BoolDType::Native;
    let frozen = B::int_greater_elem(frozen_until, now, bools);
    let frozen = reshape::<B, 2>(B::bool_into_float(frozen, FloatDType::F32), shape);
    let expanded = B::float_expand(frozen, param.shape());
    let frozen = B::float_greater_elem(expanded, Scalar::from(0.5), bools);

    let grad = mul::<B>(grad, reshape::<B, 2>(grad_scale, [1, 1]));
    let grad = B::float_mask_fill(grad, frozen.clone(), Scalar::from(0.0));
    let (new, exp_avg, exp_avg_sq) =
        default_update::<B>(param.clone(), grad, exp_avg, exp_avg_sq, rate, root_divisor, hyper);
    let param = if hyper.learning_rate == 0.0 {
        param
    } else if decay_frozen {
        new
    } else {
        B::float_mask_where(new, frozen, param)
    };
    (param, exp_avg, exp_avg_sq)
}
