//! SwitchLoRA's exchange of vectors between factors and pools.
//!
//! Source: arXiv:2406.06564 and its authors' code; the order (save all, read all, correct, install) is
//! part of the method.

use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::fallback::{
    Float, add, dims, mul, reshape, row_numbers, scaled, slice_assign, sub, zeros,
};
use super::flex;
use super::gemm::{self, Write};
use super::matmul::{Layout, default_matmul};
use super::ops::TrainOps;
use super::{Matrix, Vector};

/// One exchange on one side of a layer: vector `vectors[j]` leaves to pool row `from[j]`, pool row `to[j]` comes in.
pub struct Exchange<'a> {
    /// Which rows of A (or columns of B).
    pub vectors: &'a [usize],
    /// The pool rows that the leaving vectors go back to.
    pub from: &'a [usize],
    /// The pool rows that come in.
    pub to: &'a [usize],
    /// The adapter's scale `s`.
    pub scale: f32,
}

impl Exchange<'_> {
    fn assert_fits(&self, rank: usize, pool: usize) {
        assert_eq!(self.vectors.len(), self.from.len(), "one way out for each vector");
        assert_eq!(self.vectors.len(), self.to.len(), "one way in for each vector");
        assert!(self.vectors.iter().all(|&i| i < rank), "vectors of a factor of rank {rank}");
        let rows = self.from.iter().chain(self.to);
        assert!(rows.copied().all(|row| row < pool), "rows of a pool of {pool}");
    }
}

/// Exchanges rows of `a [R, N]` with `pool [C, N]` and corrects `w [M, N] += s·B[:,I]·(A_old − A_new)`, so that
/// `W + s·B·A` is unchanged. All leaving rows are saved before any row is read. In place on `w`, `a`, `pool`.
/// The last result is the squared Frobenius norm of the correction, `[1]`.
pub fn switch_rows(
    w: Matrix,
    a: Matrix,
    b: &Matrix,
    pool: Matrix,
    exchange: &Exchange<'_>,
) -> (Matrix, Matrix, Matrix, Vector) {
    let [rank, inputs] = a.shape();
    exchange.assert_fits(rank, pool.shape()[0]);
    assert_eq!(pool.shape()[1], inputs, "width of a pool of rows");
    assert_eq!(b.shape()[1], rank, "rank of B");
    assert_eq!(w.shape(), [b.shape()[0], inputs], "weight of a switched layer");
    let (w, w_ticket) = w.into_unique_parts("switch_rows");
    let (a, a_ticket) = a.into_unique_parts("switch_rows");
    let (pool, pool_ticket) = pool.into_unique_parts("switch_rows");
    let (w, a, pool, norm) = <Dispatch as TrainOps>::switch_rows(
        w.into_dispatch(),
        a.into_dispatch(),
        b.tensor().into_dispatch(),
        pool.into_dispatch(),
        exchange,
    );
    (
        Matrix::from_parts(Tensor::from_dispatch(w), w_ticket),
        Matrix::from_parts(Tensor::from_dispatch(a), a_ticket),
        Matrix::from_parts(Tensor::from_dispatch(pool), pool_ticket),
        b.like(Tensor::from_dispatch(norm)),
    )
}

/// Exchanges columns of `b [M, R]` with rows of `pool [C, M]`, `w += s·(B_old − B_new)·A[I,:]`.
pub fn switch_columns(
    w: Matrix,
    a: &Matrix,
    b: Matrix,
    pool: Matrix,
    exchange: &Exchange<'_>,
) -> (Matrix, Matrix, Matrix, Vector) {
    let [outputs, rank] = b.shape();
    exchange.assert_fits(rank, pool.shape()[0]);
    assert_eq!(pool.shape()[1], outputs, "width of a pool of columns");
    assert_eq!(a.shape()[0], rank, "rank of A");
    assert_eq!(w.shape(), [outputs, a.shape()[1]], "weight of a switched layer");
    let (w, w_ticket) = w.into_unique_parts("switch_columns");
    let (b, b_ticket) = b.into_unique_parts("switch_columns");
    let (pool, pool_ticket) = pool.into_unique_parts("switch_columns");
    let (w, b, pool, norm) = <Dispatch as TrainOps>::switch_columns(
        w.into_dispatch(),
        a.tensor().into_dispatch(),
        b.into_dispatch(),
        pool.into_dispatch(),
        exchange,
    );
    (
        Matrix::from_parts(Tensor::from_dispatch(w), w_ticket),
        Matrix::from_parts(Tensor::from_dispatch(b), b_ticket),
        Matrix::from_parts(Tensor::from_dispatch(pool), pool_ticket),
        a.like(Tensor::from_dispatch(norm)),
    )
}

/// Zeroes the given rows in place.
pub fn zero_rows(x: Matrix, rows: &[usize]) -> Matrix {
    assert!(rows.iter().all(|&row| row < x.shape()[0]), "rows of {:?}", x.shape());
    x.in_place("zero_rows", |x| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::zero_rows(x.into_dispatch(), rows))
    })
}

/// Zeroes the given columns in place.
pub fn zero_columns(x: Matrix, columns: &[usize]) -> Matrix {
    assert!(columns.iter().all(|&column| column < x.shape()[1]), "columns of {:?}", x.shape());
    x.in_place("zero_columns", |x| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::zero_columns(x.into_dispatch(), columns))
    })
}

/// Puts the saved vectors into the pool and returns the incoming ones, all `[k, n]`.
fn exchange_with_pool(pool: &mut [f32], saved: &[f32], exchange: &Exchange<'_>) -> Vec<f32> {
    let width = saved.len().checked_div(exchange.vectors.len()).unwrap_or(0);
    for (&row, saved) in exchange.from.iter().zip(saved.chunks_exact(width.max(1))) {
        pool[row * width..(row + 1) * width].copy_from_slice(saved);
    }
    exchange.to.iter().flat_map(|&row| &pool[row * width..(row + 1) * width]).copied().collect()
}

/// `‖s·Lᵀ·D‖²` of `left [k, m]` and `difference [k, n]`, from their Gram matrices, which are small.
fn correction_norm(left: &[f32], difference: &[f32], vectors: usize, scale: f32) -> f32 {
    let dot = |x: &[f32], y: &[f32]| {
        x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>()
    };
    let m = left.len().checked_div(vectors).unwrap_or(0);
    let n = difference.len().checked_div(vectors).unwrap_or(0);
    let mut sum = 0.0;
    for i in 0..vectors {
        for j in 0..vectors {
            let of_left = dot(&left[i * m..(i + 1) * m], &left[j * m..(j + 1) * m]);
            let (x, y) = (&difference[i * n..(i + 1) * n], &difference[j * n..(j + 1) * n]);
            sum += of_left * dot(x, y);
        }
    }
    (f64::from(scale) * f64::from(scale) * sum).max(0.0) as f32
}

pub(super) fn flex_switch_rows(
    mut w: FlexTensor,
    mut a: FlexTensor,
    b: &FlexTensor,
    mut pool: FlexTensor,
    exchange: &Exchange<'_>,
) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
    let ([outputs, rank], inputs) = (flex::sizes(b), flex::sizes(&a)[1]);
    let a_values = flex::values_mut(&mut a);
    let saved: Vec<f32> = rows_of(a_values, inputs, exchange.vectors);
    let incoming = exchange_with_pool(flex::values_mut(&mut pool), &saved, exchange);
    let difference: Vec<f32> = saved.iter().zip(&incoming).map(|(old, new)| old - new).collect();
    let columns = columns_of(flex::values(b), outputs, rank, exchange.vectors);
    correct(&mut w, &columns, outputs, &difference, inputs, exchange.scale);
    for (&i, row) in exchange.vectors.iter().zip(incoming.chunks_exact(inputs)) {
        a_values[i * inputs..(i + 1) * inputs].copy_from_slice(row);
    }
    let norm = correction_norm(&columns, &difference, exchange.vectors.len(), exchange.scale);
    (w, a, pool, flex::vector(vec![norm]))
}

pub(super) fn flex_switch_columns(
    mut w: FlexTensor,
    a: &FlexTensor,
    mut b: FlexTensor,
    mut pool: FlexTensor,
    exchange: &Exchange<'_>,
) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
    let ([outputs, rank], inputs) = (flex::sizes(&b), flex::sizes(a)[1]);
    let b_values = flex::values_mut(&mut b);
    let saved = columns_of(b_values, outputs, rank, exchange.vectors);
    let incoming = exchange_with_pool(flex::values_mut(&mut pool), &saved, exchange);
    let difference: Vec<f32> = saved.iter().zip(&incoming).map(|(old, new)| old - new).collect();
    let rows = rows_of(flex::values(a), inputs, exchange.vectors);
    correct(&mut w, &difference, outputs, &rows, inputs, exchange.scale);
    for (&i, column) in exchange.vectors.iter().zip(incoming.chunks_exact(outputs)) {
        for (row, &value) in b_values.chunks_exact_mut(rank).zip(column) {
            row[i] = value;
        }
    }
    let norm = correction_norm(&difference, &rows, exchange.vectors.len(), exchange.scale);
    (w, b, pool, flex::vector(vec![norm]))
}

fn rows_of(values: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect()
}

/// The columns as rows, `[k, m]`.
fn columns_of(values: &[f32], rows: usize, width: usize, columns: &[usize]) -> Vec<f32> {
    columns.iter().flat_map(|&i| (0..rows).map(move |row| values[row * width + i])).collect()
}

/// `w [m, n] += scale·leftᵀ·right`, `left [k, m]`, `right [k, n]`.
fn correct(w: &mut FlexTensor, left: &[f32], m: usize, right: &[f32], n: usize, scale: f32) {
    let left = gemm::view(left, m).transpose();
    let w = gemm::view_mut(flex::values_mut(w), n);
    gemm::multiply_tiled(w, Write::Add, scale, left, gemm::view(right, n));
}

pub(super) fn flex_zero_rows(mut x: FlexTensor, rows: &[usize]) -> FlexTensor {
    let width = flex::sizes(&x)[1];
    let values = flex::values_mut(&mut x);
    for &row in rows {
        values[row * width..(row + 1) * width].fill(0.0);
    }
    x
}

pub(super) fn flex_zero_columns(mut x: FlexTensor, columns: &[usize]) -> FlexTensor {
    let width = flex::sizes(&x)[1];
    for row in flex::values_mut(&mut x).chunks_exact_mut(width) {
        for &column in columns {
            row[column] = 0.0;
        }
    }
    x
}

/// Puts row `j` of `values` into row `rows[j]` of `x`.
fn default_put_rows<B: Backend>(mut x: Float<B>, rows: &[usize], values: &Float<B>) -> Float<B> {
    let [_, width] = dims::<B, 2>(&x);
    for (j, &row) in rows.iter().enumerate() {
        let value = super::fallback::slice::<B, 2>(values.clone(), [j..j + 1, 0..width]);
        x = slice_assign::<B, 2>(x, [row..row + 1, 0..width], value);
    }
    x
}

/// `(w + s·L·D, ‖s·L·D‖²)`.
fn default_correct<B: Backend>(
    w: Float<B>,
    left: Float<B>,
    right: Float<B>,
    layout: Layout,
    scale: f32,
) -> (Float<B>, Float<B>) {
    let correction = default_matmul::<B>(scale, layout, left, right);
    let squares = mul::<B>(correction.clone(), correction.clone());
    let norm = B::float_sum_dim(B::float_sum_dim(squares, 1), 0);
    (add::<B>(w, correction), reshape::<B, 1>(norm, [1]))
}

pub(super) fn default_switch_rows<B: Backend>(
    w: Float<B>,
    a: Float<B>,
    b: Float<B>,
    pool: Float<B>,
    exchange: &Exchange<'_>,
) -> (Float<B>, Float<B>, Float<B>, Float<B>) {
    if exchange.vectors.is_empty() {
        let norm = zeros::<B, 1>([1], &w);
        return (w, a, pool, norm);
    }
    let vectors = row_numbers::<B>(exchange.vectors, &a);
    let saved = B::float_select(a.clone(), 0, vectors.clone());
    let pool = default_put_rows::<B>(pool, exchange.from, &saved);
    let incoming = B::float_select(pool.clone(), 0, row_numbers::<B>(exchange.to, &pool));
    let columns = B::float_select(b, 1, vectors);
    let difference = sub::<B>(saved, incoming.clone());
    let (w, norm) = default_correct::<B>(w, columns, difference, Layout::Nn, exchange.scale);
    (w, default_put_rows::<B>(a, exchange.vectors, &incoming), pool, norm)
}

pub(super) fn default_switch_columns<B: Backend>(
    w: Float<B>,
    a: Float<B>,
    b: Float<B>,
    pool: Float<B>,
    exchange: &Exchange<'_>,
) -> (Float<B>, Float<B>, Float<B>, Float<B>) {
    if exchange.vectors.is_empty() {
        let norm = zeros::<B, 1>([1], &w);
        return (w, b, pool, norm);
    }
    let [outputs, _] = dims::<B, 2>(&b);
    let vectors = row_numbers::<B>(exchange.vectors, &b);
    let saved = B::float_transpose(B::float_select(b.clone(), 1, vectors.clone()));
    let pool = default_put_rows::<B>(pool, exchange.from, &saved);
    let incoming = B::float_select(pool.clone(), 0, row_numbers::<B>(exchange.to, &pool));
    let difference = sub::<B>(saved, incoming.clone());
    let rows = B::float_select(a, 0, vectors);
    let (w, norm) = default_correct::<B>(w, difference, rows, Layout::Tn, exchange.scale);
    let mut b = b;
    for (j, &column) in exchange.vectors.iter().enumerate() {
        let value = super::fallback::slice::<B, 2>(incoming.clone(), [j..j + 1, 0..outputs]);
        let value = reshape::<B, 2>(value, [outputs, 1]);
        b = slice_assign::<B, 2>(b, [0..outputs, column..column + 1], value);
    }
    (w, b, pool, norm)
}

pub(super) fn default_zero_rows<B: Backend>(x: Float<B>, rows: &[usize]) -> Float<B> {
    let [_, width] = dims::<B, 2>(&x);
    let nothing = zeros::<B, 2>([rows.len().max(1), width], &x);
    default_put_rows::<B>(x, rows, &nothing)
}

pub(super) fn default_zero_columns<B: Backend>(mut x: Float<B>, columns: &[usize]) -> Float<B> {
    let [height, _] = dims::<B, 2>(&x);
    let nothing = scaled::<B>(zeros::<B, 2>([height, 1], &x), 0.0);
    for &column in columns {
        x = slice_assign::<B, 2>(x, [0..height, column..column + 1], nothing.clone());
    }
    x
}
