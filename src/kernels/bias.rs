//! A bias on the outputs of a layer, and its gradient.

use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::Matrix;
use super::fallback::{Float, add};
use super::flex::{self, rows_per_task};
use super::math::vectorised;
use super::ops::TrainOps;

/// Rows whose gradient is summed by one task; the tasks' sums are added in order.
const GRAD_ROWS: usize = 64;

/// `y [T, M] += bias [1, M]` on every row, in place.
pub fn add_bias(y: Matrix, bias: &Matrix) -> Matrix {
    assert_eq!(bias.shape(), [1, y.shape()[1]], "bias of a layer");
    let bias = bias.tensor().into_dispatch();
    y.in_place("add_bias", |y| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::add_bias(y.into_dispatch(), bias))
    })
}

/// Adds the gradient of a bias to `acc [1, M]` in place: the sum of `dy [T, M]` over its rows, in two stages of a
/// fixed order.
pub fn bias_grad(acc: Matrix, dy: &Matrix) -> Matrix {
    assert_eq!(acc.shape(), [1, dy.shape()[1]], "gradient of a bias");
    let dy = dy.tensor().into_dispatch();
    acc.in_place("bias_grad", |acc| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::bias_grad(acc.into_dispatch(), dy))
    })
}

pub(super) fn flex_add_bias(mut y: FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let width = flex::sizes(bias)[1].max(1);
    let bias = flex::values(bias);
    flex::values_mut(&mut y).par_chunks_mut(rows_per_task(width) * width).for_each(|y| {
        vectorised(
            #[inline(always)]
            || {
                for row in y.chunks_exact_mut(width) {
                    for (y, bias) in row.iter_mut().zip(bias) {
                        *y += bias;
                    }
                }
            },
        );
    });
    y
}

pub(super) fn flex_bias_grad(mut acc: FlexTensor, dy: &FlexTensor) -> FlexTensor {
    let width = flex::sizes(dy)[1].max(1);
    let partial: Vec<Vec<f32>> = flex::values(dy)
        .par_chunks(GRAD_ROWS * width)
        .map(|dy| {
            let mut sums = vec![0.0; width];
            vectorised(
                #[inline(always)]
                || {
                    for row in dy.chunks_exact(width) {
                        for (sum, dy) in sums.iter_mut().zip(row) {
                            *sum += dy;
                        }
                    }
                },
            );
            sums
        })
        .collect();
    let values = flex::values_mut(&mut acc);
    for sums in partial {
        for (acc, sum) in values.iter_mut().zip(sums) {
            *acc += sum;
        }
    }
    acc
}

pub(super) fn default_add_bias<B: Backend>(y: Float<B>, bias: Float<B>) -> Float<B> {
    add::<B>(y, bias)
}

pub(super) fn default_bias_grad<B: Backend>(acc: Float<B>, dy: Float<B>) -> Float<B> {
    add::<B>(acc, B::float_sum_dim(dy, 0))
}
