//! Rotary position embedding, rotating halves (`i` with `i + D/2`) as Hugging Face does.
//!
//! Source: arXiv:2104.09864.

use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fallback::{Float, Int, add, dims, mul, reshape, scaled, slice, sub};
use super::flex::{self, rows_per_task};
use super::math::vectorised;
use super::ops::TrainOps;
use super::{Indices, Matrix};

/// Which way to rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The forward pass.
    Forward,
    /// The transpose: what the gradient needs.
    Backward,
}

impl Rotation {
    pub(super) fn sign(self) -> f32 {
        match self {
            Self::Forward => 1.0,
            Self::Backward => -1.0,
        }
    }
}

/// Rotates every head of `x [T, heads·D]` in place by the row's position.
/// `cos`, `sin` `[max_positions, D/2]`; `positions [T]`.
pub fn rope(
    x: Matrix,
    positions: &Indices,
    cos: &Matrix,
    sin: &Matrix,
    rotation: Rotation,
) -> Matrix {
    let [tokens, width] = x.shape();
    let [_, half] = cos.shape();
    assert_eq!(cos.shape(), sin.shape(), "cosines and sines");
    assert_eq!(positions.len(), tokens, "one position for each row");
    assert!(half > 0 && width % (2 * half) == 0, "rows of {width} hold heads of {}", 2 * half);
    x.in_place("rope", |x| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::rope(
            x.into_dispatch(),
            positions.tensor().into_dispatch(),
            cos.tensor().into_dispatch(),
            sin.tensor().into_dispatch(),
            rotation,
        ))
    })
}

pub(super) fn flex_rope(
    mut x: FlexTensor,
    positions: &FlexTensor,
    cos: &FlexTensor,
    sin: &FlexTensor,
    rotation: Rotation,
) -> FlexTensor {
    let width = flex::sizes(&x)[1];
    let half = flex::sizes(cos)[1];
    let (cos, sin, positions) = (flex::values(cos), flex::values(sin), flex::indices(positions));
    let sign = rotation.sign();
    let rows = rows_per_task(width);
    let tasks = flex::values_mut(&mut x).par_chunks_mut(rows * width);
    tasks.zip(positions.par_chunks(rows)).for_each(|(x, positions)| {
        vectorised(
            #[inline(always)]
            || {
                for (row, &position) in x.chunks_exact_mut(width).zip(positions) {
                    let at = position as usize * half;
                    let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                    for head in row.chunks_exact_mut(2 * half) {
                        rotate(head, cos, sin, sign);
                    }
                }
            },
        );
    });
    x
}

#[inline(always)]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (x, y, sin) = (*low, *high, sign * sin);
        *low = x * cos - y * sin;
        *high = y * cos + x * sin;
    }
}

pub(super) fn default_rope<B: Backend>(
    x: Float<B>,
    positions: Int<B>,
    cos: Float<B>,
    sin: Float<B>,
    rotation: Rotation,
) -> Float<B> {
    let [tokens, width] = dims::<B, 2>(&x);
    let [_, half] = dims::<B, 2>(&cos);
    let heads = width / (2 * half);
    let cos = reshape::<B, 3>(B::float_select(cos, 0, positions.clone()), [tokens, 1, half]);
    let sin = reshape::<B, 3>(B::float_select(sin, 0, positions), [tokens, 1, half]);
    let sin = scaled::<B>(sin, rotation.sign());
    let x = reshape::<B, 3>(x, [tokens, heads, 2 * half]);
    let low = slice::<B, 3>(x.clone(), [0..tokens, 0..heads, 0..half]);
    let high = slice::<B, 3>(x, [0..tokens, 0..heads, half..2 * half]);
    let new_low = sub::<B>(mul::<B>(low.clone(), cos.clone()), mul::<B>(high.clone(), sin.clone()));
    let new_high = add::<B>(mul::<B>(high, cos), mul::<B>(low, sin));
    reshape::<B, 2>(B::float_cat(vec![new_low, new_high], 2), [tokens, width])
}
