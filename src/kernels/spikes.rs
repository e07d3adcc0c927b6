//! Clipping of gradients beside their own second moments, and masks that are computed instead of stored.
//!
//! Source: SPAM (arXiv:2501.06842) and its authors' code.

use burn::backend::{Backend, BoolDType, Dispatch, FloatDType, Scalar};
use burn::tensor::{Slice, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fallback::{Float, add, constant, div, mul, reshape, scaled, shifted};
use super::flex::{self, CHUNK};
use super::ops::TrainOps;
use super::{Matrix, Vector};

/// What happens to the entries of a gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpikeRule {
    /// An entry is clipped where its square is above this times its second moment; `None`: nowhere.
    pub threshold: Option<f64>,
    /// Where entries count at all; `None`: everywhere.
    pub mask: Option<Mask>,
}

/// A random share of the places of a tensor, as a function of the place: nothing is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    /// Another key is another mask.
    pub key: u32,
    /// The share that stays.
    pub density: f64,
}

impl Mask {
    /// A place stays where its hash is below this.
    pub(super) fn below(self) -> u32 {
        // Saturates at a density of 1.
        (self.density * f64::from(1u32 << 31) * 2.0) as u32
    }

    /// Whether the entry at a flat index stays.
    pub fn keeps(self, place: usize) -> bool {
        mixed(mixed(place as u32) ^ self.key) < self.below()
    }
}

/// A mixing of bits that WGSL can do too. Source: the constants of C. Wellons's search for hash functions ("lowbias32").
fn mixed(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Clips the entries `g` of a gradient, in place, where `(scale·g)² > threshold·v` to `±√(threshold·v)/scale`, and zeroes
/// those that the mask leaves out. `v` is `exp_avg_sq`, of the gradient's shape, before the update; where it is 0 there
/// is nothing to compare with, and the entry stays. `tally [2]`, in place, gains how many were clipped (exact up to
/// 2²⁴) and keeps the largest `(scale·g)²/v` of them.
pub fn clip_spikes(
    grad: Matrix,
    scale: &Vector,
    exp_avg_sq: &Matrix,
    rule: SpikeRule,
    tally: Vector,
) -> (Matrix, Vector) {
    assert_eq!(grad.shape(), exp_avg_sq.shape(), "second moments of a gradient");
    assert_eq!((scale.len(), tally.len()), (1, 2), "a factor and a tally");
    // Shaders need not know infinity.
    let threshold = rule.threshold.filter(|threshold| threshold.is_finite());
    let rule = SpikeRule { threshold, ..rule };
    let (grad, grad_ticket) = grad.into_unique_parts("clip_spikes");
    let (tally, tally_ticket) = tally.into_unique_parts("clip_spikes");
    let (grad, tally) = <Dispatch as TrainOps>::clip_spikes(
        grad.into_dispatch(),
        scale.tensor().into_dispatch(),
        exp_avg_sq.tensor().into_dispatch(),
        rule,
        tally.into_dispatch(),
    );
    (
        Matrix::from_parts(Tensor::from_dispatch(grad), grad_ticket),
        Vector::from_parts(Tensor::from_dispatch(tally), tally_ticket),
    )
}

pub(super) fn flex_clip_spikes(
    mut grad: FlexTensor,
    scale: &FlexTensor,
    exp_avg_sq: &FlexTensor,
    rule: SpikeRule,
    mut tally: FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let scale = flex::values(scale)[0];
    let tasks = flex::values_mut(&mut grad).par_chunks_mut(CHUNK);
    let tasks = tasks.zip(flex::values(exp_avg_sq).par_chunks(CHUNK)).enumerate();
    let clipped: Vec<(u32, f32)> = tasks
        .map(|(chunk, (grad, exp_avg_sq))| {
            if let Some(mask) = rule.mask {
                for (i, g) in grad.iter_mut().enumerate() {
                    *g = if mask.keeps(chunk * CHUNK + i) { *g } else { 0.0 };
                }
            }
            rule.threshold
                .map_or((0, 0.0), |threshold| clip_chunk(grad, exp_avg_sq, scale, threshold as f32))
        })
        .collect();
    if let [count, largest] = flex::values_mut(&mut tally) {
        for (clipped, ratio) in clipped {
            *count += clipped as f32;
            *largest = largest.max(ratio);
        }
    }
    (grad, tally)
}

/// Returns how many entries were clipped and the largest of their squares over `v`.
fn clip_chunk(grad: &mut [f32], exp_avg_sq: &[f32], scale: f32, threshold: f32) -> (u32, f32) {
    let (mut count, mut largest) = (0, 0f32);
    for (g, &v) in grad.iter_mut().zip(exp_avg_sq) {
        let (x, limit) = (*g * scale, threshold * v);
        if v > 0.0 && x * x > limit {
            *g = limit.sqrt().copysign(x) / scale;
            count += 1;
            largest = largest.max(x * x / v);
        }
    }
    (count, largest)
}

pub(super) fn default_clip_spikes<B: Backend>(
    grad: Float<B>,
    scale: Float<B>,
    exp_avg_sq: Float<B>,
    rule: SpikeRule,
    tally: Float<B>,
) -> (Float<B>, Float<B>) {
    let [rows, columns] = super::fallback::dims::<B, 2>(&grad);
    let grad = match rule.mask {
        Some(mask) => {
            let stays = (0..rows * columns).map(|i| if mask.keeps(i) { 1.0 } else { 0.0 });
            let stays = constant::<B, 2>(stays.collect(), [rows, columns], &grad);
            mul::<B>(grad, stays)
        }
        None => grad,
    };
    let Some(threshold) = rule.threshold else { return (grad, tally) };
    let bools = BoolDType::Native;
    let scale = reshape::<B, 2>(scale, [1, 1]);
    let x = mul::<B>(grad.clone(), scale.clone());
    let squares = mul::<B>(x.clone(), x.clone());
    let limit = scaled::<B>(exp_avg_sq.clone(), threshold as f32);
    let above = |over: Float<B>| {
        let is_above = B::float_greater_elem(over, Scalar::from(0.0), bools);
        B::bool_into_float(is_above, FloatDType::F32)
    };
    let excess = super::fallback::sub::<B>(squares.clone(), limit.clone());
    let spikes = mul::<B>(above(excess), above(exp_avg_sq.clone()));
    let calm = B::float_lower_elem(spikes.clone(), Scalar::from(0.5), bools);
    let clipped = mul::<B>(B::float_sign(x), div::<B>(B::float_sqrt(limit), scale));
    let clipped = mul::<B>(clipped, spikes.clone());
    let rest = mul::<B>(grad, shifted::<B>(scaled::<B>(spikes.clone(), -1.0), 1.0));
    let ratios = B::float_mask_fill(div::<B>(squares, exp_avg_sq), calm, Scalar::from(0.0));

    let flat = |x: Float<B>| reshape::<B, 2>(x, [1, rows * columns]);
    let count = reshape::<B, 1>(B::float_sum_dim(flat(spikes), 1), [1]);
    let part = |i: usize| B::float_slice(tally.clone(), &[Slice::from(i..i + 1)]);
    let count = add::<B>(part(0), count);
    let largest = reshape::<B, 1>(B::float_max_dim(flat(ratios), 1), [1]);
    let largest = B::float_max_dim(B::float_cat(vec![part(1), largest], 0), 0);
    (add::<B>(rest, clipped), B::float_cat(vec![count, largest], 0))
}
