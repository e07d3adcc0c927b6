//! What a method with a scaled residual needs beside products: scaling by device factors, norms of
//! vectors in proportion, and a limit on how fast a norm may grow.
//!
//! Factors stay on the device. Source: Fira (arXiv:2410.01623) and its authors' package.

use burn::backend::{Backend, BoolDType, Dispatch, Scalar};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fallback::{Float, add, dims, div, mul, reshape, scaled, shifted};
use super::flex::{self, CHUNK, rows_per_task};
use super::math::sum_squares;
use super::ops::TrainOps;
use super::{Matrix, Vector};

/// Added to a norm before dividing by it, as in Fira's package.
pub const NORM_EPS: f64 = 1e-8;

/// A norm below this is not remembered: a limit on its growth would hold the next one near zero.
pub(super) const LEAST_NORM: f64 = 1e-12;

/// What a factor or a norm belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// One for all entries.
    All,
    /// One for each row.
    Rows,
    /// One for each column.
    Columns,
}

/// Multiplies `x [m, n]` in place by `factors`: `[1]`, `[m]` or `[n]`.
pub fn scale(x: Matrix, factors: &Vector, along: Along) -> Matrix {
    let [rows, columns] = x.shape();
    let expected = match along {
        Along::All => 1,
        Along::Rows => rows,
        Along::Columns => columns,
    };
    assert_eq!(factors.len(), expected, "factors {along:?} of {:?}", x.shape());
    let factors = factors.tensor().into_dispatch();
    x.in_place("scale", |x| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::scale(x.into_dispatch(), factors, along))
    })
}

/// `acc += rate · factor · x` in place, `factor [1]`.
pub fn add_scaled(acc: Matrix, rate: f32, factor: &Vector, x: &Matrix) -> Matrix {
    assert_eq!(acc.shape(), x.shape(), "term of a sum");
    assert_eq!(factor.len(), 1, "factor of a sum");
    let (factor, x) = (factor.tensor().into_dispatch(), x.tensor().into_dispatch());
    acc.in_place("add_scaled", |acc| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::add_scaled(
            acc.into_dispatch(),
            rate,
            factor,
            x,
        ))
    })
}

/// `|x_i| / (|y_i| + 1e-8)` for each row or column `i`, or of the whole, of two matrices of one shape.
pub fn norm_ratios(x: &Matrix, y: &Matrix, along: Along) -> Vector {
    assert_eq!(x.shape(), y.shape(), "norms in proportion");
    let (dividend, divisor) = (x.tensor().into_dispatch(), y.tensor().into_dispatch());
    x.like(Tensor::from_dispatch(<Dispatch as TrainOps>::norm_ratios(dividend, divisor, along)))
}

/// The outcome of [`limit_growth`], each `[1]`, on the device.
#[derive(Debug)]
pub struct Limited {
    /// Brings the norm to its limit; exactly 1 where it is below.
    pub factor: Vector,
    /// The norm after that, to be compared with next time.
    pub norm: Vector,
    /// The norm over the one before; 0 where there is none to compare with.
    pub ratio: Vector,
}

/// Limits `unit·√squares [1]` to `gamma` times `previous [1]` (plus 1e-8), where `previous` is not 0, which means unset.
/// A norm that is almost zero is not remembered: `previous` stays.
pub fn limit_growth(squares: &Vector, previous: &Vector, gamma: f64, unit: f64) -> Limited {
    assert_eq!((squares.len(), previous.len()), (1, 1), "norms to compare");
    let (now, before) = (squares.tensor().into_dispatch(), previous.tensor().into_dispatch());
    let (factor, norm, ratio) = <Dispatch as TrainOps>::limit_growth(now, before, gamma, unit);
    let wrap = |tensor| squares.like(Tensor::from_dispatch(tensor));
    Limited { factor: wrap(factor), norm: wrap(norm), ratio: wrap(ratio) }
}

pub(super) fn flex_scale(mut x: FlexTensor, factors: &FlexTensor, along: Along) -> FlexTensor {
    let width = flex::sizes(&x)[1];
    let factors = flex::values(factors);
    let values = flex::values_mut(&mut x);
    let times = |row: &mut [f32], factor: f32| row.iter_mut().for_each(|v| *v *= factor);
    match along {
        Along::All => values.par_chunks_mut(CHUNK).for_each(|part| times(part, factors[0])),
        Along::Rows => values
            .par_chunks_mut(width.max(1))
            .zip(factors)
            .for_each(|(row, &factor)| times(row, factor)),
        Along::Columns => values.par_chunks_mut(width.max(1)).for_each(|row| {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }),
    }
    x
}

pub(super) fn flex_add_scaled(
    mut acc: FlexTensor,
    rate: f32,
    factor: &FlexTensor,
    x: &FlexTensor,
) -> FlexTensor {
    let rate = rate * flex::values(factor)[0];
    let terms = flex::values(x).par_chunks(CHUNK);
    flex::values_mut(&mut acc).par_chunks_mut(CHUNK).zip(terms).for_each(|(acc, x)| {
        acc.iter_mut().zip(x).for_each(|(acc, x)| *acc += rate * x);
    });
    acc
}

/// Sums of squares, in f64; parts of fixed size, added in order.
fn squares(x: &FlexTensor, along: Along) -> Vec<f64> {
    let width = flex::sizes(x)[1].max(1);
    let values = flex::values(x);
    match along {
        Along::All => {
            let partial: Vec<f64> = values.par_chunks(CHUNK).map(sum_squares).collect();
            vec![partial.iter().sum()]
        }
        Along::Rows => values.par_chunks(width).map(sum_squares).collect(),
        Along::Columns => {
            let partial: Vec<Vec<f64>> = values
                .par_chunks(rows_per_task(width) * width)
                .map(|rows| {
                    let mut sums = vec![0.0; width];
                    for row in rows.chunks_exact(width) {
                        let terms = row.iter().map(|&v| f64::from(v) * f64::from(v));
                        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                    }
                    sums
                })
                .collect();
            let mut total = vec![0.0; width];
            for sums in partial {
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
            total
        }
    }
}

pub(super) fn flex_norm_ratios(x: &FlexTensor, y: &FlexTensor, along: Along) -> FlexTensor {
    let pairs = squares(x, along).into_iter().zip(squares(y, along));
    flex::vector(pairs.map(|(x, y)| (x.sqrt() / (y.sqrt() + NORM_EPS)) as f32).collect())
}

pub(super) fn flex_limit_growth(
    squares: &FlexTensor,
    previous: &FlexTensor,
    gamma: f64,
    unit: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let norm = unit * f64::from(flex::values(squares)[0]).sqrt();
    let previous = f64::from(flex::values(previous)[0]);
    let ratio = if previous > 0.0 { norm / (previous + NORM_EPS) } else { 0.0 };
    let factor = if ratio > gamma { gamma / ratio } else { 1.0 };
    let limited = norm * factor;
    let kept = if limited < LEAST_NORM { previous } else { limited };
    let one = |value: f64| flex::vector(vec![value as f32]);
    (one(factor), one(kept), one(ratio))
}

pub(super) fn default_scale<B: Backend>(x: Float<B>, factors: Float<B>, along: Along) -> Float<B> {
    let [len] = dims::<B, 1>(&factors);
    let shape = if along == Along::Rows { [len, 1] } else { [1, len] };
    mul::<B>(x, reshape::<B, 2>(factors, shape))
}

pub(super) fn default_add_scaled<B: Backend>(
    acc: Float<B>,
    rate: f32,
    factor: Float<B>,
    x: Float<B>,
) -> Float<B> {
    let factor = scaled::<B>(reshape::<B, 2>(factor, [1, 1]), rate);
    add::<B>(acc, mul::<B>(x, factor))
}

pub(super) fn default_norm_ratios<B: Backend>(x: Float<B>, y: Float<B>, along: Along) -> Float<B> {
    let [rows, columns] = dims::<B, 2>(&x);
    let norm = |x: Float<B>| {
        let squares = mul::<B>(x.clone(), x);
        let (sums, len) = match along {
            Along::All => (B::float_sum_dim(B::float_sum_dim(squares, 1), 0), 1),
            Along::Rows => (B::float_sum_dim(squares, 1), rows),
            Along::Columns => (B::float_sum_dim(squares, 0), columns),
        };
        reshape::<B, 1>(B::float_sqrt(sums), [len])
    };
    div::<B>(norm(x), shifted::<B>(norm(y), NORM_EPS as f32))
}

pub(super) fn default_limit_growth<B: Backend>(
    squares: Float<B>,
    previous: Float<B>,
    gamma: f64,
    unit: f64,
) -> (Float<B>, Float<B>, Float<B>) {
    let bools = BoolDType::Native;
    let norm = scaled::<B>(B::float_sqrt(squares), unit as f32);
    let ratio = div::<B>(norm.clone(), shifted::<B>(previous.clone(), NORM_EPS as f32));
    let is_unset = B::float_lower_equal_elem(previous.clone(), Scalar::from(0.0), bools);
    let ratio = B::float_mask_fill(ratio, is_unset, Scalar::from(0.0));
    let is_below = B::float_lower_equal_elem(ratio.clone(), Scalar::from(gamma), bools);
    let factor = scaled::<B>(B::float_recip(ratio.clone()), gamma as f32);
    let factor = B::float_mask_fill(factor, is_below, Scalar::from(1.0));
    let limited = mul::<B>(norm, factor.clone());
    let is_nothing = B::float_lower_elem(limited.clone(), Scalar::from(LEAST_NORM), bools);
    (factor, B::float_mask_where(limited, is_nothing, previous), ratio)
}
