//! RMSNorm, alone and fused with the residual addition.
//!
//! Source: arXiv:1910.07467, as Hugging Face's LLaMA computes it, but with the reciprocal root kept in
//! f32 for the backward pass.

use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fallback::{Float, add, dims, mul, reshape, scaled, shifted, sub};
use super::flex::{self, rows_per_task};
use super::math::{sum, sum2, vectorised};
use super::ops::{MaybeTensor, TrainOps};
use super::pool;
use super::{Matrix, Vector};

/// Rows whose gain gradient is summed by one task; the tasks' sums are added in order.
const GAIN_ROWS: usize = 64;

/// `y = x · rstd · gain`, `rstd = 1/sqrt(mean(x²) + eps)` per row. `x [T, C]`, `gain [1, C]` → `(y [T, C], rstd [T])`.
pub fn rms_norm(x: &Matrix, gain: &Matrix, eps: f32) -> (Matrix, Vector) {
    assert_eq!(gain.shape(), [1, x.shape()[1]], "gain of a norm");
    let (y, rstd) = <Dispatch as TrainOps>::rms_norm(
        x.tensor().into_dispatch(),
        gain.tensor().into_dispatch(),
        eps,
    );
    (x.like(Tensor::from_dispatch(y)), x.like(Tensor::from_dispatch(rstd)))
}

/// `delta += x`, in place: the residual addition at the end of a block.
pub fn add_residual(x: &Matrix, delta: Matrix) -> Matrix {
    assert_eq!(x.shape(), delta.shape(), "x and delta");
    let (delta, ticket) = delta.into_unique_parts("add_residual");
    let sum =
        <Dispatch as TrainOps>::add_residual(x.tensor().into_dispatch(), delta.into_dispatch());
    Matrix::from_parts(Tensor::from_dispatch(sum), ticket)
}

/// `sum = x + delta` (in the storage of `delta`), then RMSNorm of it. Returns `(sum, y, rstd)`.
pub fn add_rms_norm(
    x: &Matrix,
    delta: Matrix,
    gain: &Matrix,
    eps: f32,
) -> (Matrix, Matrix, Vector) {
    assert_eq!(gain.shape(), [1, x.shape()[1]], "gain of a norm");
    assert_eq!(delta.shape(), x.shape(), "residual of a norm");
    let (sum, (y, rstd)) = delta.in_place_with("add_rms_norm", |delta| {
        let (sum, y, rstd) = <Dispatch as TrainOps>::add_rms_norm(
            x.tensor().into_dispatch(),
            delta.into_dispatch(),
            gain.tensor().into_dispatch(),
            eps,
        );
        (Tensor::from_dispatch(sum), (Tensor::from_dispatch(y), Tensor::from_dispatch(rstd)))
    });
    (sum, x.like(y), x.like(rstd))
}

/// `y = x · rstd · gain` from a stored `rstd` (recomputation in the backward pass); same bits as `rms_norm`.
pub fn rms_norm_apply(x: &Matrix, gain: &Matrix, rstd: &Vector) -> Matrix {
    assert_eq!(gain.shape(), [1, x.shape()[1]], "gain of a norm");
    assert_eq!(rstd.shape(), [x.shape()[0]], "rstd of a norm");
    x.like(Tensor::from_dispatch(<Dispatch as TrainOps>::rms_norm_apply(
        x.tensor().into_dispatch(),
        gain.tensor().into_dispatch(),
        rstd.tensor().into_dispatch(),
    )))
}

/// Adds the norm's input gradient to `residual_grad` in place (the gradient that bypasses the norm) and
/// returns it; with `gain_grad = Some(acc)` also adds the gain's gradient `[1, C]` to `acc` in place.
pub fn rms_norm_backward(
    residual_grad: Matrix,
    dy: &Matrix,
    x: &Matrix,
    gain: &Matrix,
    rstd: &Vector,
    gain_grad: Option<Matrix>,
) -> (Matrix, Option<Matrix>) {
    assert_eq!(residual_grad.shape(), x.shape(), "residual gradient of a norm");
    assert_eq!(dy.shape(), x.shape(), "output gradient of a norm");
    assert_eq!(gain.shape(), [1, x.shape()[1]], "gain of a norm");
    assert_eq!(rstd.shape(), [x.shape()[0]], "rstd of a norm");
    let (acc, acc_ticket) = match gain_grad {
        Some(acc) => {
            assert_eq!(acc.shape(), gain.shape(), "gain gradient of a norm");
            let (tensor, ticket) = acc.into_unique_parts("rms_norm_backward");
            (Some(tensor), Some(ticket))
        }
        None => (None, None),
    };
    let (dx, acc) = residual_grad.in_place_with("rms_norm_backward", |residual_grad| {
        let (dx, acc) = <Dispatch as TrainOps>::rms_norm_backward(
            residual_grad.into_dispatch(),
            dy.tensor().into_dispatch(),
            x.tensor().into_dispatch(),
            gain.tensor().into_dispatch(),
            rstd.tensor().into_dispatch(),
            MaybeTensor::new(acc.map(Tensor::into_dispatch)),
        );
        (Tensor::from_dispatch(dx), acc.map(Tensor::from_dispatch))
    });
    (dx, acc.zip(acc_ticket).map(|(acc, ticket)| Matrix::from_parts(acc, ticket)))
}

#[inline(always)]
fn reciprocal_root(row: &[f32], eps: f32) -> f32 {
    1.0 / (sum(row, |x| x * x) / row.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn apply_row(y: &mut [f32], x: &[f32], gain: &[f32], rstd: f32) {
    for ((y, &x), &gain) in y.iter_mut().zip(x).zip(gain) {
        *y = x * rstd * gain;
    }
}

pub(super) fn flex_rms_norm(
    x: &FlexTensor,
    gain: &FlexTensor,
    eps: f32,
) -> (FlexTensor, FlexTensor) {
    let [tokens, width] = flex::sizes(x);
    let (x, gain) = (flex::values(x), flex::values(gain));
    let (mut y, mut rstd) = (pool::buffer(x.len()), pool::buffer(tokens));
    let rows = rows_per_task(width);
    let tasks = y.par_chunks_mut(rows * width).zip(x.par_chunks(rows * width));
    tasks.zip(rstd.par_chunks_mut(rows)).for_each(|((y, x), rstd)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(rstd);
                for ((y, x), rstd) in rows {
                    *rstd = reciprocal_root(x, eps);
                    apply_row(y, x, gain, *rstd);
                }
            },
        );
    });
    (flex::matrix(y, [tokens, width]), flex::vector(rstd))
}

pub(super) fn flex_add_residual(x: &FlexTensor, mut delta: FlexTensor) -> FlexTensor {
    let sums = flex::values_mut(&mut delta).par_chunks_mut(flex::CHUNK);
    sums.zip(flex::values(x).par_chunks(flex::CHUNK)).for_each(|(sum, x)| {
        vectorised(
            #[inline(always)]
            || sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x),
        );
    });
    delta
}

pub(super) fn flex_add_rms_norm(
    x: &FlexTensor,
    mut delta: FlexTensor,
    gain: &FlexTensor,
    eps: f32,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let [tokens, width] = flex::sizes(x);
    let (x, gain) = (flex::values(x), flex::values(gain));
    let (mut y, mut rstd) = (pool::buffer(x.len()), pool::buffer(tokens));
    let rows = rows_per_task(width);
    let tasks = y
        .par_chunks_mut(rows * width)
        .zip(x.par_chunks(rows * width))
        .zip(flex::values_mut(&mut delta).par_chunks_mut(rows * width));
    tasks.zip(rstd.par_chunks_mut(rows)).for_each(|(((y, x), sum), rstd)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = y
                    .chunks_exact_mut(width)
                    .zip(x.chunks_exact(width))
                    .zip(sum.chunks_exact_mut(width));
                for (((y, x), sum), rstd) in rows.zip(rstd) {
                    for (sum, &x) in sum.iter_mut().zip(x) {
                        *sum += x;
                    }
                    *rstd = reciprocal_root(sum, eps);
                    apply_row(y, sum, gain, *rstd);
                }
            },
        );
    });
    (delta, flex::matrix(y, [tokens, width]), flex::vector(rstd))
}

pub(super) fn flex_rms_norm_apply(
    x: &FlexTensor,
    gain: &FlexTensor,
    rstd: &FlexTensor,
) -> FlexTensor {
    let [tokens, width] = flex::sizes(x);
    let (x, gain, rstd) = (flex::values(x), flex::values(gain), flex::values(rstd));
    let mut y = pool::buffer(x.len());
    let rows = rows_per_task(width);
    let tasks = y.par_chunks_mut(rows * width).zip(x.par_chunks(rows * width));
    tasks.zip(rstd.par_chunks(rows)).for_each(|((y, x), rstd)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(rstd);
                for ((y, x), &rstd) in rows {
                    apply_row(y, x, gain, rstd);
                }
            },
        );
    });
    flex::matrix(y, [tokens, width])
}

pub(super) fn flex_rms_norm_backward(
    mut residual_grad: FlexTensor,
    dy: &FlexTensor,
    x: &FlexTensor,
    gain: &FlexTensor,
    rstd: &FlexTensor,
    mut gain_grad: Option<FlexTensor>,
) -> (FlexTensor, Option<FlexTensor>) {
    let width = flex::sizes(x)[1];
    let (dy, x) = (flex::values(dy), flex::values(x));
    let (gain, rstd) = (flex::values(gain), flex::values(rstd));
    let wants_gain = gain_grad.is_some();
    let tasks = flex::values_mut(&mut residual_grad)
        .par_chunks_mut(GAIN_ROWS * width)
        .zip(dy.par_chunks(GAIN_ROWS * width))
        .zip(x.par_chunks(GAIN_ROWS * width))
        .zip(rstd.par_chunks(GAIN_ROWS));
    let partial_gains: Vec<Vec<f32>> = tasks
        .map(|(((dx, dy), x), rstd)| {
            let mut partial = vec![0.0; if wants_gain { width } else { 0 }];
            vectorised(
                #[inline(always)]
                || backward_rows(dx, dy, x, gain, rstd, &mut partial),
            );
            partial
        })
        .collect();
    if let Some(acc) = &mut gain_grad {
        let acc = flex::values_mut(acc);
        for partial in partial_gains {
            for (acc, partial) in acc.iter_mut().zip(partial) {
                *acc += partial;
            }
        }
    }
    (residual_grad, gain_grad)
}

/// `dx += rstd·(gain·dy − x·rstd²/C·Σ gain·dy·x)`, and `gain_grad += Σ dy·x·rstd` (empty: not wanted).
#[inline(always)]
fn backward_rows(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    gain: &[f32],
    rstd: &[f32],
    gain_grad: &mut [f32],
) {
    let width = gain.len();
    let mut weighted = vec![0.0; width];
    let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width));
    for (((dx, dy), x), &rstd) in rows.zip(rstd) {
        for ((weighted, &dy), &gain) in weighted.iter_mut().zip(dy).zip(gain) {
            *weighted = dy * gain;
        }
        let along = sum2(&weighted, x, |a, b| a * b) * rstd * rstd / width as f32;
        for ((dx, &weighted), &x) in dx.iter_mut().zip(&weighted).zip(x) {
            *dx += rstd * (weighted - x * along);
        }
        for ((gain_grad, &dy), &x) in gain_grad.iter_mut().zip(dy).zip(x) {
            *gain_grad += dy * x * rstd;
        }
    }
}

fn default_rstd<B: Backend>(x: Float<B>, eps: f32) -> Float<B> {
    let mean = B::float_mean_dim(mul::<B>(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(shifted::<B>(mean, eps)))
}

pub(super) fn default_rms_norm<B: Backend>(
    x: Float<B>,
    gain: Float<B>,
    eps: f32,
) -> (Float<B>, Float<B>) {
    let [tokens, _] = dims::<B, 2>(&x);
    let rstd = default_rstd::<B>(x.clone(), eps);
    let y = mul::<B>(mul::<B>(x, rstd.clone()), gain);
    (y, reshape::<B, 1>(rstd, [tokens]))
}

pub(super) fn default_add_rms_norm<B: Backend>(
    x: Float<B>,
    delta: Float<B>,
    gain: Float<B>,
    eps: f32,
) -> (Float<B>, Float<B>, Float<B>) {
    let sum = add::<B>(delta, x);
    let (y, rstd) = default_rms_norm::<B>(sum.clone(), gain, eps);
    (sum, y, rstd)
}

pub(super) fn default_rms_norm_apply<B: Backend>(
    x: Float<B>,
    gain: Float<B>,
    rstd: Float<B>,
) -> Float<B> {
    let [tokens, _] = dims::<B, 2>(&x);
    mul::<B>(mul::<B>(x, reshape::<B, 2>(rstd, [tokens, 1])), gain)
}

pub(super) fn default_rms_norm_backward<B: Backend>(
    residual_grad: Float<B>,
    dy: Float<B>,
    x: Float<B>,
    gain: Float<B>,
    rstd: Float<B>,
    gain_grad: Option<Float<B>>,
) -> (Float<B>, Option<Float<B>>) {
    let [tokens, width] = dims::<B, 2>(&x);
    let rstd = reshape::<B, 2>(rstd, [tokens, 1]);
    let normed = mul::<B>(x, rstd.clone());
    let weighted = mul::<B>(dy.clone(), gain);
    let along = B::float_sum_dim(mul::<B>(weighted.clone(), normed.clone()), 1);
    let along = mul::<B>(normed.clone(), scaled::<B>(along, 1.0 / width as f32));
    let dx = mul::<B>(rstd, sub::<B>(weighted, along));
    let gain_grad = gain_grad.map(|acc| add::<B>(acc, B::float_sum_dim(mul::<B>(dy, normed), 0)));
    (add::<B>(residual_grad, dx), gain_grad)
}
