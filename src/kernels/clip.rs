//! Norms of gradients and the clip factor, which stays on the device.

use std::sync::atomic::{AtomicU32, Ordering};

use burn::backend::{Backend, BoolDType, Dispatch, FloatDType, Scalar, TensorMetadata};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::device::fault::Fault;

use super::fallback::{Float, add, constant, mul, reshape, scaled, shifted};
use super::flex::{self, CHUNK};
use super::math::{sum_squares, vectorised};
use super::ops::TrainOps;
use super::{Array, Vector};

/// Read-backs so far, of all devices.
static READS: AtomicU32 = AtomicU32::new(0);
/// Serial numbers of read-backs: so many that are exact in f32.
const SERIALS: u32 = 1 << 20;

/// Added to the norm before dividing, as in `torch.nn.utils.clip_grad_norm_`.
pub(super) const CLIP_EPS: f64 = 1e-6;

/// `acc [1] += Σ x²`, in place, summed in f64 over fixed chunks.
pub fn add_sum_squares<const D: usize>(acc: Vector, x: &Array<D>) -> Vector {
    assert_eq!(acc.shape(), [1], "accumulator of a norm");
    acc.in_place("add_sum_squares", |acc| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::add_sum_squares(
            acc.into_dispatch(),
            x.tensor().into_dispatch(),
        ))
    })
}

/// `min(1, max_norm / (sqrt(sum_squares) + 1e-6))` as `[1]`; 1 where `max_norm` is 0 (no clipping) or the norm does
/// not exceed it.
pub fn clip_factor(sum_squares: &Vector, max_norm: f64) -> Vector {
    assert_eq!(sum_squares.shape(), [1], "sum of a norm");
    sum_squares.like(Tensor::from_dispatch(<Dispatch as TrainOps>::clip_factor(
        sum_squares.tensor().into_dispatch(),
        max_norm,
    )))
}

/// `yes` where the number `x [1]` is finite and not negative, `no` where it is not, as `[1]`.
///
/// Of a sum of squares it makes the factor that [`super::update::adamw`] takes: one below 0 leaves everything as it is.
pub fn guard(x: &Vector, yes: f32, no: f32) -> Vector {
    assert_eq!(x.shape(), [1], "a number to be looked at");
    let number = x.tensor().into_dispatch();
    x.like(Tensor::from_dispatch(<Dispatch as TrainOps>::guard(number, yes, no)))
}

/// The one read-back of an update: the loss sum and the squared gradient norm, both `[1]`, and whether
/// the device did all that was queued: 12 bytes. Waits for the device; everything else is read later or never.
pub fn read_back(loss_sum: &Vector, sum_squares: &Vector) -> (f64, f64) {
    assert_eq!((loss_sum.len(), sum_squares.len()), (1, 1), "numbers of an update");
    // What a driver leaves behind when it drops even this would be the bytes of the read-back before.
    let serial = (READS.fetch_add(1, Ordering::Relaxed) % SERIALS + 1) as f32;
    let both: Vector = loss_sum.like(Tensor::from_dispatch(<Dispatch as TrainOps>::pair(
        loss_sum.tensor().into_dispatch(),
        sum_squares.tensor().into_dispatch(),
        serial,
    )));
    match both.to_host()[..] {
        [loss_sum, sum_squares, told] if told == serial => {
            (f64::from(loss_sum), f64::from(sum_squares))
        }
        [_, _, told] => {
            // If it is NaN the read failed, and why is recorded.
            if !told.is_nan() {
                let what =
                    format!("the driver dropped queued work (it is at {told}, not {serial})");
                loss_sum.faults().record(Fault::Lost(what));
            }
            (f64::NAN, f64::NAN)
        }
        _ => unreachable!("a pair and the canary are three values"),
    }
}

pub(super) fn flex_add_sum_squares(mut acc: FlexTensor, x: &FlexTensor) -> FlexTensor {
    let partial: Vec<f64> = flex::values(x)
        .par_chunks(CHUNK)
        .map(|x| {
            vectorised(
                #[inline(always)]
                || sum_squares(x),
            )
        })
        .collect();
    let sum: f64 = partial.iter().sum();
    for acc in flex::values_mut(&mut acc) {
        *acc = (f64::from(*acc) + sum) as f32;
    }
    acc
}

pub(super) fn flex_clip_factor(sum_squares: &FlexTensor, max_norm: f64) -> FlexTensor {
    let norm = f64::from(flex::values(sum_squares)[0]).sqrt();
    let factor =
        if max_norm <= 0.0 || norm <= max_norm { 1.0 } else { max_norm / (norm + CLIP_EPS) };
    flex::vector(vec![factor as f32])
}

pub(super) fn flex_guard(x: &FlexTensor, yes: f32, no: f32) -> FlexTensor {
    let x = flex::values(x)[0];
    flex::vector(vec![if x.is_finite() && x >= 0.0 { yes } else { no }])
}

pub(super) fn default_guard<B: Backend>(x: Float<B>, yes: f32, no: f32) -> Float<B> {
    let bools = BoolDType::Native;
    let largest = Scalar::from(f32::MAX);
    // A comparison with NaN is false.
    let is_above = B::float_greater_equal_elem(x.clone(), Scalar::from(0.0), bools);
    let is_below = B::float_lower_equal_elem(x, largest, bools);
    let both = mul::<B>(
        B::bool_into_float(is_above, FloatDType::F32),
        B::bool_into_float(is_below, FloatDType::F32),
    );
    shifted::<B>(scaled::<B>(both, yes - no), no)
}

pub(super) fn default_add_sum_squares<B: Backend>(acc: Float<B>, x: Float<B>) -> Float<B> {
    let n = x.shape().num_elements();
    let x = reshape::<B, 1>(x, [n]);
    add::<B>(acc, B::float_sum_dim(mul::<B>(x.clone(), x), 0))
}

pub(super) fn default_clip_factor<B: Backend>(sum_squares: Float<B>, max_norm: f64) -> Float<B> {
    if max_norm <= 0.0 {
        return constant::<B, 1>(vec![1.0], [1], &sum_squares);
    }
    let norm = shifted::<B>(B::float_sqrt(sum_squares), CLIP_EPS as f32);
    let factor = scaled::<B>(B::float_recip(norm), max_norm as f32);
    B::float_clamp_max(factor, Scalar::from(1.0))
}
