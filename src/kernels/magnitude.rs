//! A trained length for each row of a layer's weight: the factor of each output, and the lengths' gradient.
//!
//! Source: DoRA, arXiv:2402.09353, as PEFT has it: one magnitude for each output, and the norm is a constant in the
//! backward pass.

use burn::backend::{Backend, BoolDType, Dispatch, Scalar};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fallback::{Float, add, dims, div, mul, reshape};
use super::flex::{self, rows_per_task};
use super::math::vectorised;
use super::matmul::{Layout, matmul, matmul_add, matmul_scaled};
use super::ops::TrainOps;
use super::packed::{Weight, packed_times_transposed};
use super::pool;
use super::{Matrix, Vector};

/// A row of length 0 counts as this long: its outputs are 0, and so is its gradient.
pub(super) const LEAST_LENGTH: f32 = 1e-12;

/// Rows whose gradient is summed by one task; the tasks' sums are added in order.
const GRAD_ROWS: usize = 64;

/// The lengths of the rows of `W + s·B·A` and the factor `magnitude / length` of each, both `[M]`, without building
/// `B·A`: `|w|² + 2s·b·(A·w) + s²·b·(A·Aᵀ)·bᵀ`.
///
/// Shapes: `magnitude [1, M]`, `squares [M]` (the `|w|²`), `w [M, N]`, `a [R, N]`, `b [M, R]`.
pub fn magnitude_factor(
    magnitude: &Matrix,
    squares: &Vector,
    w: Weight<'_>,
    a: &Matrix,
    b: &Matrix,
    scale: f32,
) -> (Vector, Vector) {
    let ([outputs, rank], [_, inputs]) = (b.shape(), a.shape());
    assert_eq!(magnitude.shape(), [1, outputs], "magnitudes of a layer");
    assert_eq!(squares.len(), outputs, "squared lengths of a weight");
    assert_eq!((w.shape(), a.shape()), ([outputs, inputs], [rank, inputs]), "weight and lora_a");
    // Rows c with Σ b·c = what the product adds to the squared length.
    let crossed = match w {
        Weight::Dense(w) => matmul_scaled(2.0 * scale, Layout::Nt, w, a),
        Weight::Packed(w) => packed_times_transposed(2.0 * scale, w, a),
    };
    let gram = matmul(Layout::Nt, a, a);
    let crossed = matmul_add(crossed, scale * scale, Layout::Nn, b, &gram);
    let (length, factor) = <Dispatch as TrainOps>::magnitude_factor(
        magnitude.tensor().into_dispatch(),
        squares.tensor().into_dispatch(),
        b.tensor().into_dispatch(),
        crossed.tensor().into_dispatch(),
    );
    (b.like(Tensor::from_dispatch(length)), b.like(Tensor::from_dispatch(factor)))
}

/// `x [T, M]` times `factors [M]` by column, in new storage.
pub fn scale_columns(x: &Matrix, factors: &Vector) -> Matrix {
    assert_eq!(factors.len(), x.shape()[1], "factors of columns");
    let (x_on, factors) = (x.tensor().into_dispatch(), factors.tensor().into_dispatch());
    x.like(Tensor::from_dispatch(<Dispatch as TrainOps>::scale_columns(x_on, factors)))
}

/// Adds the gradient of the magnitudes to `acc [1, M]` in place: `Σ dy·z / length` by column, where `z` is the layer's
/// output before its factors and `dy` the gradient of what is after them, both `[T, M]`.
pub fn magnitude_grad(acc: Matrix, dy: &Matrix, z: &Matrix, length: &Vector) -> Matrix {
    assert_eq!(dy.shape(), z.shape(), "output gradient of a magnitude");
    assert_eq!(acc.shape(), [1, z.shape()[1]], "gradient of a magnitude");
    assert_eq!(length.len(), z.shape()[1], "lengths of a layer");
    let (dy, z) = (dy.tensor().into_dispatch(), z.tensor().into_dispatch());
    let length = length.tensor().into_dispatch();
    acc.in_place("magnitude_grad", |acc| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::magnitude_grad(
            acc.into_dispatch(),
            dy,
            z,
            length,
        ))
    })
}

pub(super) fn flex_magnitude_factor(
    magnitude: &FlexTensor,
    squares: &FlexTensor,
    b: &FlexTensor,
    crossed: &FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let rank = flex::sizes(b)[1];
    let (b, crossed) = (flex::values(b), flex::values(crossed));
    let length: Vec<f32> = flex::values(squares)
        .par_iter()
        .zip(b.par_chunks(rank.max(1)).zip(crossed.par_chunks(rank.max(1))))
        .map(|(&square, (b, crossed))| {
            let terms = b.iter().zip(crossed).map(|(&b, &c)| f64::from(b) * f64::from(c));
            let square = f64::from(square) + terms.sum::<f64>();
            (square.max(0.0).sqrt() as f32).max(LEAST_LENGTH)
        })
        .collect();
    let factor = flex::values(magnitude).iter().zip(&length).map(|(m, length)| m / length);
    let factor = factor.collect();
    (flex::vector(length), flex::vector(factor))
}

pub(super) fn flex_scale_columns(x: &FlexTensor, factors: &FlexTensor) -> FlexTensor {
    let [rows, width] = flex::sizes(x);
    let (x, factors) = (flex::values(x), flex::values(factors));
    let mut y = pool::buffer(x.len());
    let part = rows_per_task(width) * width.max(1);
    y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for (y, x) in rows {
                    for ((y, x), factor) in y.iter_mut().zip(x).zip(factors) {
                        *y = x * factor;
                    }
                }
            },
        );
    });
    flex::matrix(y, [rows, width])
}

pub(super) fn flex_magnitude_grad(
    mut acc: FlexTensor,
    dy: &FlexTensor,
    z: &FlexTensor,
    length: &FlexTensor,
) -> FlexTensor {
    let width = flex::sizes(z)[1].max(1);
    let part = GRAD_ROWS * width;
    let partial: Vec<Vec<f32>> = flex::values(dy)
        .par_chunks(part)
        .zip(flex::values(z).par_chunks(part))
        .map(|(dy, z)| {
            let mut sums = vec![0.0; width];
            vectorised(
                #[inline(always)]
                || {
                    for (dy, z) in dy.chunks_exact(width).zip(z.chunks_exact(width)) {
                        for ((sum, dy), z) in sums.iter_mut().zip(dy).zip(z) {
                            *sum += dy * z;
                        }
                    }
                },
            );
            sums
        })
        .collect();
    let lengths = flex::values(length);
    let values = flex::values_mut(&mut acc);
    for sums in partial {
        for ((acc, sum), length) in values.iter_mut().zip(sums).zip(lengths) {
            *acc += sum / length;
        }
    }
    acc
}

pub(super) fn default_magnitude_factor<B: Backend>(
    magnitude: Float<B>,
    squares: Float<B>,
    b: Float<B>,
    crossed: Float<B>,
) -> (Float<B>, Float<B>) {
    let [outputs, _] = dims::<B, 2>(&b);
    let added = reshape::<B, 1>(B::float_sum_dim(mul::<B>(b, crossed), 1), [outputs]);
    let square = add::<B>(squares, added);
    let least = Scalar::from(LEAST_LENGTH * LEAST_LENGTH);
    let is_nothing = B::float_lower_elem(square.clone(), least, BoolDType::Native);
    let length = B::float_sqrt(B::float_mask_fill(square, is_nothing, least));
    let factor = div::<B>(reshape::<B, 1>(magnitude, [outputs]), length.clone());
    (length, factor)
}

pub(super) fn default_scale_columns<B: Backend>(x: Float<B>, factors: Float<B>) -> Float<B> {
    let [len] = dims::<B, 1>(&factors);
    mul::<B>(x, reshape::<B, 2>(factors, [1, len]))
}

pub(super) fn default_magnitude_grad<B: Backend>(
    acc: Float<B>,
    dy: Float<B>,
    z: Float<B>,
    length: Float<B>,
) -> Float<B> {
    let [len] = dims::<B, 1>(&length);
    let sums = B::float_sum_dim(mul::<B>(dy, z), 0);
    add::<B>(acc, div::<B>(sums, reshape::<B, 2>(length, [1, len])))
}
