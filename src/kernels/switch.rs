//! SwitchLoRA's switch: vectors of both factors change places with candidates, the dense weight takes up the
//! difference, the partners of what came in start again.
//!
//! Source: arXiv:2406.06564 and its authors' code; the order (save all, read all, correct, install) is
//! part of the method.

use burn::backend::{Backend, Dispatch, TensorMetadata};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::fallback::{
    Float, Int, add, dims, mul, reshape, row_numbers, set_entries, slice, slice_assign, sub, zeros,
};
use super::flex;
use super::gemm::{self, Write};
use super::matmul::{Layout, default_matmul};
use super::ops::TrainOps;
use super::update::{Axis, VectorCounters};
use super::{Matrix, Vector};

/// What one side exchanges: vector `vectors[j]` leaves to pool row `from[j]`, pool row `to[j]` comes in.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// Which rows of A (or columns of B).
    pub vectors: &'a [usize],
    /// The pool rows that the leaving vectors go back to.
    pub from: &'a [usize],
    /// The pool rows that come in.
    pub to: &'a [usize],
}

impl Exchange<'_> {
    /// Exchanges nothing.
    pub const NONE: Self = Self { vectors: &[], from: &[], to: &[] };

    fn assert_fits(&self, rank: usize, pool: usize) {
        assert_eq!(self.vectors.len(), self.from.len(), "one way out for each vector");
        assert_eq!(self.vectors.len(), self.to.len(), "one way in for each vector");
        assert!(self.vectors.iter().all(|&i| i < rank), "vectors of a factor of rank {rank}");
        let rows = self.from.iter().chain(self.to);
        assert!(rows.copied().all(|row| row < pool), "rows of a pool of {pool}");
    }
}

/// A switch of one layer. No index is on both sides: what a vector that comes in multiplies, its partner, stays.
#[derive(Debug, Clone, Copy)]
pub struct Switch<'a> {
    /// Rows of A.
    pub a: Exchange<'a>,
    /// Columns of B.
    pub b: Exchange<'a>,
    /// The adapter's scale `s`.
    pub scale: f32,
}

/// A layer after its switch.
pub struct Switched {
    /// `[M, N]`.
    pub w: Matrix,
    /// `[R, N]`.
    pub a: Matrix,
    /// `[M, R]`.
    pub b: Matrix,
    /// `[C, N]` and `[C, M]`.
    pub pools: [Matrix; 2],
    /// Squared Frobenius norm of what was added to `w`, `[1]`.
    pub squared_norm: Vector,
}

/// Exchanges rows of `a [R, N]` and columns of `b [M, R]` with rows of `pools` (`[C, N]`, `[C, M]`) and corrects
/// `w [M, N] += s·B[:,I]·(A_old − A_new)[I,:] + s·(B_old − B_new)[:,J]·A[J,:]`, so that `W + s·B·A` is unchanged.
/// All leaving vectors are saved before any row is read. In place on all of them.
pub fn switch(
    w: Matrix,
    a: Matrix,
    b: Matrix,
    pools: [Matrix; 2],
    switch: &Switch<'_>,
) -> Switched {
    let ([rank, inputs], [outputs, _]) = (a.shape(), b.shape());
    let [pool_a, pool_b] = pools;
    switch.a.assert_fits(rank, pool_a.shape()[0]);
    switch.b.assert_fits(rank, pool_b.shape()[0]);
    let is_shared = |i| switch.b.vectors.contains(i);
    assert!(!switch.a.vectors.iter().any(is_shared), "no vector is switched on both sides");
    assert_eq!(pool_a.shape()[1], inputs, "width of a pool of rows");
    assert_eq!(pool_b.shape()[1], outputs, "width of a pool of columns");
    assert_eq!(b.shape()[1], rank, "rank of B");
    assert_eq!(w.shape(), [outputs, inputs], "weight of a switched layer");
    let parts = [w, a, b, pool_a, pool_b].map(|x| x.into_unique_parts("switch"));
    let [(w, w_ticket), (a, a_ticket), (b, b_ticket), (pool_a, pa_ticket), (pool_b, pb_ticket)] =
        parts;
    let (w, a, b, pool_a, pool_b, norm) = <Dispatch as TrainOps>::switch(
        w.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
        pool_a.into_dispatch(),
        pool_b.into_dispatch(),
        switch,
    );
    let w = Matrix::from_parts(Tensor::from_dispatch(w), w_ticket);
    Switched {
        squared_norm: w.like(Tensor::from_dispatch(norm)),
        w,
        a: Matrix::from_parts(Tensor::from_dispatch(a), a_ticket),
        b: Matrix::from_parts(Tensor::from_dispatch(b), b_ticket),
        pools: [
            Matrix::from_parts(Tensor::from_dispatch(pool_a), pa_ticket),
            Matrix::from_parts(Tensor::from_dispatch(pool_b), pb_ticket),
        ],
    }
}

/// Zeroes the moments of the listed vectors and starts their counters: zero at update `since`, frozen before
/// `until`. In place.
pub fn restart(
    exp_avg: Matrix,
    exp_avg_sq: Matrix,
    counters: &mut VectorCounters,
    vectors: &[usize],
    since: i32,
    until: i32,
) -> (Matrix, Matrix) {
    let axis = counters.axis();
    let count = match axis {
        Axis::Rows => exp_avg.shape()[0],
        Axis::Columns => exp_avg.shape()[1],
    };
    assert_eq!(counters.len(), count, "a counter for each vector");
    assert!(vectors.iter().all(|&i| i < count), "vectors of {count}");
    assert_eq!(exp_avg.shape(), exp_avg_sq.shape(), "moments of one parameter");
    let (exp_avg, avg_ticket) = exp_avg.into_unique_parts("restart");
    let (exp_avg_sq, sq_ticket) = exp_avg_sq.into_unique_parts("restart");
    let (exp_avg, exp_avg_sq) = counters.in_place(|counters| {
        let (exp_avg, exp_avg_sq, counters) = <Dispatch as TrainOps>::restart(
            exp_avg.into_dispatch(),
            exp_avg_sq.into_dispatch(),
            counters.into_dispatch(),
            axis,
            vectors,
            since,
            until,
        );
        ((exp_avg, exp_avg_sq), Tensor::from_dispatch(counters))
    });
    (
        Matrix::from_parts(Tensor::from_dispatch(exp_avg), avg_ticket),
        Matrix::from_parts(Tensor::from_dispatch(exp_avg_sq), sq_ticket),
    )
}

/// Puts the saved vectors `[k, n]` into the pool and turns them into what left minus what came. Returns what came.
fn exchange_with_pool(pool: &mut [f32], saved: &mut [f32], exchange: &Exchange<'_>) -> Vec<f32> {
    let width = saved.len().checked_div(exchange.vectors.len()).unwrap_or(0);
    for (&row, saved) in exchange.from.iter().zip(saved.chunks_exact(width.max(1))) {
        pool[row * width..(row + 1) * width].copy_from_slice(saved);
    }
    let coming = exchange.to.iter().flat_map(|&row| &pool[row * width..(row + 1) * width]);
    let coming: Vec<f32> = coming.copied().collect();
    saved.iter_mut().zip(&coming).for_each(|(saved, new)| *saved -= new);
    coming
}

/// `‖s·Lᵀ·D‖²` of `left [k, m]` and `right [k, n]`, from their Gram matrices, which are small.
fn correction_norm(left: &[f32], right: &[f32], vectors: usize, scale: f32) -> f32 {
    let dot = |x: &[f32], y: &[f32]| {
        x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>()
    };
    let m = left.len().checked_div(vectors).unwrap_or(0);
    let n = right.len().checked_div(vectors).unwrap_or(0);
    let mut sum = 0.0;
    for i in 0..vectors {
        for j in 0..vectors {
            let of_left = dot(&left[i * m..(i + 1) * m], &left[j * m..(j + 1) * m]);
            let (x, y) = (&right[i * n..(i + 1) * n], &right[j * n..(j + 1) * n]);
            sum += of_left * dot(x, y);
        }
    }
    (f64::from(scale) * f64::from(scale) * sum).max(0.0) as f32
}

/// `(w, a, b, pool_a, pool_b, norm)`.
type Parts<T> = (T, T, T, T, T, T);

pub(super) fn flex_switch(
    mut w: FlexTensor,
    mut a: FlexTensor,
    mut b: FlexTensor,
    mut pool_a: FlexTensor,
    mut pool_b: FlexTensor,
    switch: &Switch<'_>,
) -> Parts<FlexTensor> {
    let ([outputs, rank], inputs) = (flex::sizes(&b), flex::sizes(&a)[1]);
    let (a_values, b_values) = (flex::values_mut(&mut a), flex::values_mut(&mut b));
    // s·[B_I, B_old − B_new]·[A_old − A_new ; A_J], as no vector is on both sides.
    let mut left = columns_of(b_values, outputs, rank, switch.a.vectors);
    let mut right = rows_of(a_values, inputs, switch.a.vectors);
    let new_rows = exchange_with_pool(flex::values_mut(&mut pool_a), &mut right, &switch.a);
    right.extend(rows_of(a_values, inputs, switch.b.vectors));
    let mut leaving = columns_of(b_values, outputs, rank, switch.b.vectors);
    let new_columns = exchange_with_pool(flex::values_mut(&mut pool_b), &mut leaving, &switch.b);
    left.extend(leaving);

    let vectors = switch.a.vectors.len() + switch.b.vectors.len();
    if vectors > 0 {
        let left = gemm::view(&left, outputs).transpose();
        let w = gemm::view_mut(flex::values_mut(&mut w), inputs);
        gemm::multiply_tiled(w, Write::Add, switch.scale, left, gemm::view(&right, inputs));
    }
    for (&i, row) in switch.a.vectors.iter().zip(new_rows.chunks_exact(inputs)) {
        a_values[i * inputs..(i + 1) * inputs].copy_from_slice(row);
    }
    for (&i, column) in switch.b.vectors.iter().zip(new_columns.chunks_exact(outputs)) {
        for (row, &value) in b_values.chunks_exact_mut(rank).zip(column) {
            row[i] = value;
        }
    }
    let norm = correction_norm(&left, &right, vectors, switch.scale);
    (w, a, b, pool_a, pool_b, flex::vector(vec![norm]))
}

fn rows_of(values: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect()
}

/// The columns as rows, `[k, m]`.
fn columns_of(values: &[f32], rows: usize, width: usize, columns: &[usize]) -> Vec<f32> {
    columns.iter().flat_map(|&i| (0..rows).map(move |row| values[row * width + i])).collect()
}

pub(super) fn flex_restart(
    mut exp_avg: FlexTensor,
    mut exp_avg_sq: FlexTensor,
    mut counters: FlexTensor,
    axis: Axis,
    vectors: &[usize],
    since: i32,
    until: i32,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    for moments in [&mut exp_avg, &mut exp_avg_sq] {
        let width = flex::sizes(moments)[1];
        let values = flex::values_mut(moments);
        match axis {
            Axis::Rows => {
                for &row in vectors {
                    values[row * width..(row + 1) * width].fill(0.0);
                }
            }
            Axis::Columns => {
                for row in values.chunks_exact_mut(width) {
                    for &column in vectors {
                        row[column] = 0.0;
                    }
                }
            }
        }
    }
    let counters_values = flex::indices_mut(&mut counters);
    let count = counters_values.len() / 2;
    for &i in vectors {
        counters_values[i] = since;
        counters_values[count + i] = until;
    }
    (exp_avg, exp_avg_sq, counters)
}

/// Puts row `j` of `values` into row `rows[j]` of `x`.
fn put_rows<B: Backend>(mut x: Float<B>, rows: &[usize], values: &Float<B>) -> Float<B> {
    let [_, width] = dims::<B, 2>(&x);
    for (j, &row) in rows.iter().enumerate() {
        let value = slice::<B, 2>(values.clone(), [j..j + 1, 0..width]);
        x = slice_assign::<B, 2>(x, [row..row + 1, 0..width], value);
    }
    x
}

/// Puts row `j` of `values` into column `columns[j]` of `x`.
fn put_columns<B: Backend>(mut x: Float<B>, columns: &[usize], values: &Float<B>) -> Float<B> {
    let [height, _] = dims::<B, 2>(&x);
    for (j, &column) in columns.iter().enumerate() {
        let value = slice::<B, 2>(values.clone(), [j..j + 1, 0..height]);
        let value = reshape::<B, 2>(value, [height, 1]);
        x = slice_assign::<B, 2>(x, [0..height, column..column + 1], value);
    }
    x
}

/// The pool with the saved vectors in it, and the rows that come in.
fn default_exchange<B: Backend>(
    pool: Float<B>,
    saved: &Float<B>,
    exchange: &Exchange<'_>,
) -> (Float<B>, Float<B>) {
    let pool = put_rows::<B>(pool, exchange.from, saved);
    let coming = B::float_select(pool.clone(), 0, row_numbers::<B>(exchange.to, &pool));
    (pool, coming)
}

pub(super) fn default_switch<B: Backend>(
    mut w: Float<B>,
    mut a: Float<B>,
    mut b: Float<B>,
    mut pool_a: Float<B>,
    mut pool_b: Float<B>,
    switch: &Switch<'_>,
) -> Parts<Float<B>> {
    let mut added: Option<Float<B>> = None;
    if !switch.a.vectors.is_empty() {
        let vectors = row_numbers::<B>(switch.a.vectors, &a);
        let saved = B::float_select(a.clone(), 0, vectors.clone());
        let (pool, coming) = default_exchange::<B>(pool_a, &saved, &switch.a);
        let difference = sub::<B>(saved, coming.clone());
        let columns = B::float_select(b.clone(), 1, vectors);
        added = Some(default_matmul::<B>(switch.scale, Layout::Nn, columns, difference));
        (a, pool_a) = (put_rows::<B>(a, switch.a.vectors, &coming), pool);
    }
    if !switch.b.vectors.is_empty() {
        let vectors = row_numbers::<B>(switch.b.vectors, &b);
        let saved = B::float_transpose(B::float_select(b.clone(), 1, vectors.clone()));
        let (pool, coming) = default_exchange::<B>(pool_b, &saved, &switch.b);
        let difference = sub::<B>(saved, coming.clone());
        let rows = B::float_select(a.clone(), 0, vectors);
        let correction = default_matmul::<B>(switch.scale, Layout::Tn, difference, rows);
        added = Some(match added {
            Some(first) => add::<B>(first, correction),
            None => correction,
        });
        (b, pool_b) = (put_columns::<B>(b, switch.b.vectors, &coming), pool);
    }
    let norm = match added {
        None => zeros::<B, 1>([1], &w),
        Some(added) => {
            let squares = mul::<B>(added.clone(), added.clone());
            w = add::<B>(w, added);
            reshape::<B, 1>(B::float_sum_dim(B::float_sum_dim(squares, 1), 0), [1])
        }
    };
    (w, a, b, pool_a, pool_b, norm)
}

pub(super) fn default_restart<B: Backend>(
    exp_avg: Float<B>,
    exp_avg_sq: Float<B>,
    counters: Int<B>,
    axis: Axis,
    vectors: &[usize],
    since: i32,
    until: i32,
) -> (Float<B>, Float<B>, Int<B>) {
    let [height, width] = dims::<B, 2>(&exp_avg);
    let length = if axis == Axis::Rows { width } else { height };
    let nothing = zeros::<B, 2>([vectors.len().max(1), length], &exp_avg);
    let [exp_avg, exp_avg_sq] = [exp_avg, exp_avg_sq].map(|x| match axis {
        Axis::Rows => put_rows::<B>(x, vectors, &nothing),
        Axis::Columns => put_columns::<B>(x, vectors, &nothing),
    });
    let count = counters.shape().num_elements() / 2;
    let counters = set_entries::<B>(counters, vectors, since);
    let freezes: Vec<usize> = vectors.iter().map(|&i| count + i).collect();
    (exp_avg, exp_avg_sq, set_entries::<B>(counters, &freezes, until))
}
