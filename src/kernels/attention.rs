//! Causal grouped-query attention; no `T×T` matrix is kept.
//!
//! On flex a task takes a head of a sequence and goes over blocks of query rows. A block's scores
//! against all keys it sees are one small product, so keys above the diagonal cost nothing beyond
//! their block. Only the log of each softmax sum is kept; the backward pass recomputes probabilities
//! from it. Source of the scheme: FlashAttention-2, arXiv:2307.08691.
//!
//! Several documents may share a sequence. Each position then comes with the begin and the end of its document,
//! and a query sees no key before that begin; blocks of keys that no query of a block sees are passed over.

use std::ops::Range;

use burn::backend::{Backend, Dispatch, FloatDType, Scalar};
use burn::tensor::{Shape, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fallback::{
    Float, Int, add, constant, div, mul, reshape, scaled, slice, slice_assign, sub,
};
use super::flex;
use super::gemm::{self, View, ViewMut, Write};
use super::math::{exp, exp_and_sum, max, sum2, vectorised};
use super::ops::{MaybeIndices, TrainOps};
use super::pool::{self, Scratch};
use super::{Indices, Matrix, Vector};

/// Query rows of a block.
const BLOCK: usize = 64;

/// Sizes of one attention call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences in the batch.
    pub batch: usize,
    /// Query rows per sequence.
    pub queries: usize,
    /// Key and value rows per sequence; the last query sees all of them (`keys - queries` is the offset).
    pub keys: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Query heads that share a key and value head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Width of a query row.
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of a key or value row.
    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Keys that query `row` sees.
    fn visible(&self, row: usize) -> usize {
        self.keys - self.queries + row + 1
    }

    /// `1/√D`, what the scores are multiplied by.
    pub(super) fn score_scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Keys that query `row` sees.
    fn seen(&self, documents: Option<Bounds<'_>>, row: usize) -> Range<usize> {
        documents.map_or(0, |documents| documents.begin(row))..self.visible(row)
    }

    fn assert_documents(&self, documents: Option<&Indices>) {
        if let Some(documents) = documents {
            assert_eq!(self.queries, self.keys, "documents of {self:?} have no cache");
            assert_eq!(documents.len(), self.batch * self.queries * 2, "bounds of {self:?}");
        }
    }

    fn assert_fits(&self, q: [usize; 2], k: [usize; 2], v: [usize; 2]) {
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "heads of {self:?}");
        assert!(self.queries <= self.keys, "every query sees a key in {self:?}");
        assert_eq!(q, [self.batch * self.queries, self.width()], "queries of {self:?}");
        assert_eq!(k, v, "keys and values");
        assert_eq!(k[1], self.kv_width(), "width of keys and values of {self:?}");
        let needed = self.batch * self.keys;
        assert!(
            k[0] == needed || (self.batch == 1 && k[0] > needed),
            "{} rows of keys for {self:?}",
            k[0]
        );
    }
}

/// Where the documents of one sequence begin and end, a pair for each position.
#[derive(Clone, Copy)]
struct Bounds<'a>(&'a [[i32; 2]]);

impl<'a> Bounds<'a> {
    /// Those of a sequence.
    fn of(documents: Option<&'a [i32]>, sequence: usize, rows: usize) -> Option<Self> {
        let pairs = documents?.as_chunks::<2>().0;
        Some(Self(&pairs[sequence * rows..(sequence + 1) * rows]))
    }

    /// Where the document of a position begins.
    fn begin(self, row: usize) -> usize {
        self.0[row][0] as usize
    }
}

/// `o = softmax(q·kᵀ/√D, causal)·v`. `q [batch·queries, heads·D]`, `k`, `v [≥ batch·keys, kv_heads·D]`
/// → `(o [batch·queries, heads·D], lse [batch·heads·queries])`, `lse` the log of the softmax' sum.
/// (`k`, `v` may have more rows than `batch·keys` only when `batch = 1`: a cache with room left.)
pub fn attention(q: &Matrix, k: &Matrix, v: &Matrix, shape: AttentionShape) -> (Matrix, Vector) {
    attention_within(q, k, v, None, shape)
}

/// [`attention`] inside documents. `documents [batch·queries·2]` holds, for each position, where in its sequence its
/// document begins and where it ends (after the last position); positions of a document follow each other. With
/// documents, queries and keys are equally many. `None`: each sequence is one document.
pub fn attention_within(
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    documents: Option<&Indices>,
    shape: AttentionShape,
) -> (Matrix, Vector) {
    shape.assert_fits(q.shape(), k.shape(), v.shape());
    shape.assert_documents(documents);
    let (o, lse) = <Dispatch as TrainOps>::attention(
        q.tensor().into_dispatch(),
        k.tensor().into_dispatch(),
        v.tensor().into_dispatch(),
        MaybeIndices::new(documents.map(|documents| documents.tensor().into_dispatch())),
        shape,
    );
    (q.like(Tensor::from_dispatch(o)), q.like(Tensor::from_dispatch(lse)))
}

/// Gradients of [`attention`] (needs `queries == keys`): `(dq, dk, dv)`, shapes of `q`, `k`, `v`.
pub fn attention_backward(
    d_out: &Matrix,
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    out: &Matrix,
    lse: &Vector,
    shape: AttentionShape,
) -> (Matrix, Matrix, Matrix) {
    attention_backward_within(d_out, q, k, v, out, lse, None, shape)
}

/// Gradients of [`attention_within`].
pub fn attention_backward_within(
    d_out: &Matrix,
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    out: &Matrix,
    lse: &Vector,
    documents: Option<&Indices>,
    shape: AttentionShape,
) -> (Matrix, Matrix, Matrix) {
    shape.assert_fits(q.shape(), k.shape(), v.shape());
    shape.assert_documents(documents);
    assert_eq!(shape.queries, shape.keys, "the backward pass has no cache");
    assert_eq!(k.shape()[0], shape.batch * shape.keys, "the backward pass has no cache");
    assert_eq!(d_out.shape(), q.shape(), "output gradient");
    assert_eq!(out.shape(), q.shape(), "output");
    assert_eq!(lse.len(), shape.batch * shape.heads * shape.queries, "lse");
    let (dq, dk, dv) = <Dispatch as TrainOps>::attention_backward(
        d_out.tensor().into_dispatch(),
        q.tensor().into_dispatch(),
        k.tensor().into_dispatch(),
        v.tensor().into_dispatch(),
        out.tensor().into_dispatch(),
        lse.tensor().into_dispatch(),
        MaybeIndices::new(documents.map(|documents| documents.tensor().into_dispatch())),
        shape,
    );
    (
        q.like(Tensor::from_dispatch(dq)),
        q.like(Tensor::from_dispatch(dk)),
        q.like(Tensor::from_dispatch(dv)),
    )
}

/// Copies the rows of `rows` into `cache` from row `at` on, in place.
pub fn copy_rows(cache: Matrix, rows: &Matrix, at: usize) -> Matrix {
    let ([capacity, width], [count, row_width]) = (cache.shape(), rows.shape());
    assert_eq!(width, row_width, "width of the rows of a cache");
    assert!(at + count <= capacity, "rows {at}..{} in a cache of {capacity}", at + count);
    cache.in_place("copy_rows", |cache| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::copy_rows(
            cache.into_dispatch(),
            rows.tensor().into_dispatch(),
            at,
        ))
    })
}

/// Cuts the rows of each sequence and the columns of each head out of a matrix to write to, in the
/// order sequence, head.
fn head_tiles(values: &mut [f32], rows: usize, heads: usize, width: usize) -> Vec<ViewMut<'_>> {
    let tiles = gemm::tiles(gemm::view_mut(values, heads * width), rows, width);
    tiles.into_iter().map(|(_, _, tile)| tile).collect()
}

/// Blocks of query rows, as `(first row, rows)`.
fn blocks(queries: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..queries).step_by(BLOCK).map(move |first| (first, BLOCK.min(queries - first)))
}

pub(super) fn flex_attention(
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    documents: Option<&FlexTensor>,
    shape: AttentionShape,
) -> (FlexTensor, FlexTensor) {
    let s = shape;
    let documents = documents.map(flex::indices);
    let mut out = pool::buffer(s.batch * s.queries * s.width());
    let mut lse = pool::buffer(s.batch * s.heads * s.queries);
    let q = gemm::view(flex::values(q), s.width());
    let k = gemm::view(flex::values(k), s.kv_width());
    let v = gemm::view(flex::values(v), s.kv_width());
    let tiles = head_tiles(&mut out, s.queries, s.heads, s.head_dim);
    tiles.into_par_iter().zip(lse.par_chunks_mut(s.queries.max(1))).enumerate().for_each_init(
        || Scratch::new(BLOCK * s.keys),
        |scores, (task, (out, lse))| {
            let (sequence, head) = (task / s.heads, task % s.heads);
            let column = head * s.head_dim;
            let kv_column = head / s.group() * s.head_dim;
            let q = q.submatrix(sequence * s.queries, column, s.queries, s.head_dim);
            let k = k.submatrix(sequence * s.keys, kv_column, s.keys, s.head_dim);
            let v = v.submatrix(sequence * s.keys, kv_column, s.keys, s.head_dim);
            let documents = Bounds::of(documents, sequence, s.queries);
            forward_head(out, lse, q, k, v, &mut scores.0, documents, s);
        },
    );
    (flex::matrix(out, [s.batch * s.queries, s.width()]), flex::vector(lse))
}

fn forward_head(
    mut out: ViewMut<'_>,
    lse: &mut [f32],
    q: View<'_>,
    k: View<'_>,
    v: View<'_>,
    scores: &mut [f32],
    documents: Option<Bounds<'_>>,
    s: AttentionShape,
) {
    for (first, rows) in blocks(s.queries) {
        let begin = s.seen(documents, first).start;
        let seen = s.visible(first + rows - 1) - begin;
        let scores = &mut scores[..rows * seen];
        let (q, k) = (q.subrows(first, rows), k.subrows(begin, seen));
        let target = gemm::view_mut(scores, seen);
        gemm::multiply(target, Write::Replace, s.score_scale(), q, k.transpose());
        let lse = &mut lse[first..first + rows];
        vectorised(
            #[inline(always)]
            || {
                for (i, (row, lse)) in scores.chunks_exact_mut(seen).zip(lse).enumerate() {
                    let keys = s.seen(documents, first + i);
                    *lse = softmax(row, keys.start - begin..keys.end - begin);
                }
            },
        );
        let out = out.as_mut().subrows_mut(first, rows);
        let v = v.subrows(begin, seen);
        gemm::multiply(out, Write::Replace, 1.0, gemm::view(scores, seen), v);
    }
}

/// Softmax of the `visible` scores, the others become 0; returns the log of the sum.
#[inline(always)]
fn softmax(row: &mut [f32], visible: Range<usize>) -> f32 {
    let (row, hidden) = row.split_at_mut(visible.end);
    let (before, row) = row.split_at_mut(visible.start);
    before.fill(0.0);
    let largest = max(row);
    let sum = exp_and_sum(row, largest);
    let share = 1.0 / sum;
    for p in row {
        *p *= share;
    }
    hidden.fill(0.0);
    largest + sum.ln()
}

pub(super) fn flex_attention_backward(
    d_out: &FlexTensor,
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    out: &FlexTensor,
    lse: &FlexTensor,
    documents: Option<&FlexTensor>,
    shape: AttentionShape,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let s = shape;
    let documents = documents.map(flex::indices);
    let tokens = s.batch * s.queries;
    let mut dq = pool::buffer(tokens * s.width());
    let mut dk = pool::zeroed(tokens * s.kv_width());
    let mut dv = pool::zeroed(tokens * s.kv_width());
    let (d_out, out, lse) = (flex::values(d_out), flex::values(out), flex::values(lse));
    let q = gemm::view(flex::values(q), s.width());
    let k = gemm::view(flex::values(k), s.kv_width());
    let v = gemm::view(flex::values(v), s.kv_width());
    let delta = output_products(d_out, out, s);
    let d_out = gemm::view(d_out, s.width());

    let dq_tiles = head_tiles(&mut dq, s.queries, s.kv_heads, s.group() * s.head_dim);
    let dk_tiles = head_tiles(&mut dk, s.keys, s.kv_heads, s.head_dim);
    let dv_tiles = head_tiles(&mut dv, s.keys, s.kv_heads, s.head_dim);
    let tasks = dq_tiles.into_par_iter().zip(dk_tiles).zip(dv_tiles).enumerate();
    tasks.for_each_init(
        || (Scratch::new(BLOCK * s.keys), Scratch::new(BLOCK * s.keys)),
        |scratch, (task, ((dq, dk), dv))| {
            let (sequence, kv_head) = (task / s.kv_heads, task % s.kv_heads);
            let row = sequence * s.queries;
            let k = k.submatrix(row, kv_head * s.head_dim, s.keys, s.head_dim);
            let v = v.submatrix(row, kv_head * s.head_dim, s.keys, s.head_dim);
            let (mut dq, mut dk, mut dv) = (dq, dk, dv);
            for member in 0..s.group() {
                let head = kv_head * s.group() + member;
                let at = (sequence * s.heads + head) * s.queries;
                backward_head(
                    dq.as_mut().subcols_mut(member * s.head_dim, s.head_dim),
                    dk.as_mut(),
                    dv.as_mut(),
                    q.submatrix(row, head * s.head_dim, s.queries, s.head_dim),
                    d_out.submatrix(row, head * s.head_dim, s.queries, s.head_dim),
                    k,
                    v,
                    &lse[at..at + s.queries],
                    &delta.0[at..at + s.queries],
                    scratch,
                    Bounds::of(documents, sequence, s.queries),
                    s,
                );
            }
        },
    );
    let (query_sizes, key_sizes) = ([tokens, s.width()], [tokens, s.kv_width()]);
    (flex::matrix(dq, query_sizes), flex::matrix(dk, key_sizes), flex::matrix(dv, key_sizes))
}

/// `Σ d_out·out` of each query and head, in the order of `lse`.
fn output_products(d_out: &[f32], out: &[f32], s: AttentionShape) -> Scratch {
    let mut delta = Scratch::new(s.batch * s.heads * s.queries);
    delta.0.par_chunks_mut(s.queries.max(1)).enumerate().for_each(|(task, delta)| {
        let (sequence, head) = (task / s.heads, task % s.heads);
        vectorised(
            #[inline(always)]
            || {
                for (i, delta) in delta.iter_mut().enumerate() {
                    let at = (sequence * s.queries + i) * s.width() + head * s.head_dim;
                    let range = at..at + s.head_dim;
                    *delta = sum2(&d_out[range.clone()], &out[range], |a, b| a * b);
                }
            },
        );
    });
    delta
}

fn backward_head(
    mut dq: ViewMut<'_>,
    mut dk: ViewMut<'_>,
    mut dv: ViewMut<'_>,
    q: View<'_>,
    d_out: View<'_>,
    k: View<'_>,
    v: View<'_>,
    lse: &[f32],
    delta: &[f32],
    scratch: &mut (Scratch, Scratch),
    documents: Option<Bounds<'_>>,
    s: AttentionShape,
) {
    for (first, rows) in blocks(s.queries) {
        let begin = s.seen(documents, first).start;
        let seen = s.visible(first + rows - 1) - begin;
        let (p, ds) = (&mut scratch.0.0[..rows * seen], &mut scratch.1.0[..rows * seen]);
        let (q, d_out) = (q.subrows(first, rows), d_out.subrows(first, rows));
        let (k, v) = (k.subrows(begin, seen), v.subrows(begin, seen));
        let target = gemm::view_mut(p, seen);
        gemm::multiply(target, Write::Replace, s.score_scale(), q, k.transpose());
        gemm::multiply(gemm::view_mut(ds, seen), Write::Replace, 1.0, d_out, v.transpose());
        vectorised(
            #[inline(always)]
            || {
                let rows = p.chunks_exact_mut(seen).zip(ds.chunks_exact_mut(seen)).enumerate();
                for (i, (p, ds)) in rows {
                    let query = first + i;
                    let keys = s.seen(documents, query);
                    let keys = keys.start - begin..keys.end - begin;
                    softmax_backward(p, ds, keys, lse[query], delta[query]);
                }
            },
        );
        let (p, ds) = (gemm::view(p, seen), gemm::view(ds, seen));
        let dk = dk.as_mut().subrows_mut(begin, seen);
        let dv = dv.as_mut().subrows_mut(begin, seen);
        let dq = dq.as_mut().subrows_mut(first, rows);
        gemm::multiply(dv, Write::Add, 1.0, p.transpose(), d_out);
        gemm::multiply(dk, Write::Add, s.score_scale(), ds.transpose(), q);
        gemm::multiply(dq, Write::Replace, s.score_scale(), ds, k);
    }
}

/// Turns scores into probabilities, and probability gradients into score gradients.
#[inline(always)]
fn softmax_backward(p: &mut [f32], ds: &mut [f32], visible: Range<usize>, lse: f32, delta: f32) {
    let (p, hidden) = p.split_at_mut(visible.end);
    let (ds, hidden_ds) = ds.split_at_mut(visible.end);
    let (before, p) = p.split_at_mut(visible.start);
    let (before_ds, ds) = ds.split_at_mut(visible.start);
    before.fill(0.0);
    before_ds.fill(0.0);
    for (p, ds) in p.iter_mut().zip(ds) {
        *p = exp(*p - lse);
        *ds = *p * (*ds - delta);
    }
    hidden.fill(0.0);
    hidden_ds.fill(0.0);
}

pub(super) fn flex_copy_rows(mut cache: FlexTensor, rows: &FlexTensor, at: usize) -> FlexTensor {
    let [count, width] = flex::sizes(rows);
    flex::values_mut(&mut cache)[at * width..(at + count) * width]
        .copy_from_slice(flex::values(rows));
    cache
}

/// What stands for minus infinity in a mask: far below any score, and safe to subtract.
const HIDDEN: f32 = -1e30;

/// `[batch·rows, heads·D]` as `[batch, heads, rows, D]`.
fn split_heads<B: Backend>(x: Float<B>, batch: usize, rows: usize, heads: usize) -> Float<B> {
    let [_, width] = super::fallback::dims::<B, 2>(&x);
    let x = slice::<B, 2>(x, [0..batch * rows, 0..width]);
    B::float_swap_dims(reshape::<B, 4>(x, [batch, rows, heads, width / heads]), 1, 2)
}

/// The inverse of [`split_heads`].
fn join_heads<B: Backend>(x: Float<B>, rows: usize, width: usize) -> Float<B> {
    reshape::<B, 2>(B::float_swap_dims(x, 1, 2), [rows, width])
}

/// Repeats every key head for its query heads: `[b, kv, t, D]` → `[b, kv·group, t, D]`.
fn repeat_heads<B: Backend>(x: Float<B>, s: AttentionShape) -> Float<B> {
    let x = reshape::<B, 5>(x, [s.batch, s.kv_heads, 1, s.keys, s.head_dim]);
    let x = B::float_expand(x, Shape::from([s.batch, s.kv_heads, s.group(), s.keys, s.head_dim]));
    reshape::<B, 4>(x, [s.batch, s.heads, s.keys, s.head_dim])
}

/// Sums over the query heads of every key head, the transpose of [`repeat_heads`].
fn sum_heads<B: Backend>(x: Float<B>, s: AttentionShape) -> Float<B> {
    let x = reshape::<B, 5>(x, [s.batch, s.kv_heads, s.group(), s.keys, s.head_dim]);
    reshape::<B, 4>(B::float_sum_dim(x, 2), [s.batch, s.kv_heads, s.keys, s.head_dim])
}

/// Masked scores `[batch, heads, queries, keys]` of split queries and repeated keys.
fn default_scores<B: Backend>(
    q: Float<B>,
    k: Float<B>,
    documents: Option<Int<B>>,
    s: AttentionShape,
) -> Float<B> {
    let mask = (0..s.queries).flat_map(|row| {
        (0..s.keys).map(move |key| if key < s.visible(row) { 0.0 } else { HIDDEN })
    });
    let mask = constant::<B, 4>(mask.collect(), [1, 1, s.queries, s.keys], &q);
    let scores = scaled::<B>(B::float_matmul(q, B::float_swap_dims(k, 2, 3)), s.score_scale());
    let scores = add::<B>(scores, mask);
    match documents {
        None => scores,
        Some(documents) => add::<B>(scores, default_document_mask::<B>(documents, s)),
    }
}

/// [`HIDDEN`] for every key before the begin of a query's document, `[batch, 1, queries, keys]`.
fn default_document_mask<B: Backend>(documents: Int<B>, s: AttentionShape) -> Float<B> {
    let pairs = B::int_into_float(documents, FloatDType::F32);
    let pairs = reshape::<B, 4>(pairs, [s.batch, 1, s.queries, 2]);
    let begins = slice::<B, 4>(pairs, [0..s.batch, 0..1, 0..s.queries, 0..1]);
    let keys = (0..s.keys).map(|key| key as f32).collect();
    let keys = constant::<B, 4>(keys, [1, 1, 1, s.keys], &begins);
    // 1 or more where the key comes before the begin, else 0 or less.
    let before = B::float_clamp(sub::<B>(begins, keys), Scalar::from(0.0), Scalar::from(1.0));
    scaled::<B>(before, HIDDEN)
}

pub(super) fn default_attention<B: Backend>(
    q: Float<B>,
    k: Float<B>,
    v: Float<B>,
    documents: Option<Int<B>>,
    s: AttentionShape,
) -> (Float<B>, Float<B>) {
    let q = split_heads::<B>(q, s.batch, s.queries, s.heads);
    let k = repeat_heads::<B>(split_heads::<B>(k, s.batch, s.keys, s.kv_heads), s);
    let v = repeat_heads::<B>(split_heads::<B>(v, s.batch, s.keys, s.kv_heads), s);
    let scores = default_scores::<B>(q, k, documents, s);
    let largest = B::float_max_dim(scores.clone(), 3);
    let weights = B::float_exp(sub::<B>(scores, largest.clone()));
    let sum = B::float_sum_dim(weights.clone(), 3);
    let out = B::float_matmul(div::<B>(weights, sum.clone()), v);
    let lse = add::<B>(largest, B::float_log(sum));
    (
        join_heads::<B>(out, s.batch * s.queries, s.width()),
        reshape::<B, 1>(lse, [s.batch * s.heads * s.queries]),
    )
}

pub(super) fn default_attention_backward<B: Backend>(
    d_out: Float<B>,
    q: Float<B>,
    k: Float<B>,
    v: Float<B>,
    out: Float<B>,
    lse: Float<B>,
    documents: Option<Int<B>>,
    s: AttentionShape,
) -> (Float<B>, Float<B>, Float<B>) {
    let d_out = split_heads::<B>(d_out, s.batch, s.queries, s.heads);
    let out = split_heads::<B>(out, s.batch, s.queries, s.heads);
    let q = split_heads::<B>(q, s.batch, s.queries, s.heads);
    let k = repeat_heads::<B>(split_heads::<B>(k, s.batch, s.keys, s.kv_heads), s);
    let v = repeat_heads::<B>(split_heads::<B>(v, s.batch, s.keys, s.kv_heads), s);
    let lse = reshape::<B, 4>(lse, [s.batch, s.heads, s.queries, 1]);

    let scores = default_scores::<B>(q.clone(), k.clone(), documents, s);
    let p = B::float_exp(sub::<B>(scores, lse));
    let delta = B::float_sum_dim(mul::<B>(d_out.clone(), out), 3);
    let dp = B::float_matmul(d_out.clone(), B::float_swap_dims(v, 2, 3));
    let ds = scaled::<B>(mul::<B>(p.clone(), sub::<B>(dp, delta)), s.score_scale());
    let dq = B::float_matmul(ds.clone(), k);
    let dk = sum_heads::<B>(B::float_matmul(B::float_swap_dims(ds, 2, 3), q), s);
    let dv = sum_heads::<B>(B::float_matmul(B::float_swap_dims(p, 2, 3), d_out), s);
    let rows = s.batch * s.keys;
    (
        join_heads::<B>(dq, s.batch * s.queries, s.width()),
        join_heads::<B>(dk, rows, s.kv_width()),
        join_heads::<B>(dv, rows, s.kv_width()),
    )
}

pub(super) fn default_copy_rows<B: Backend>(
    cache: Float<B>,
    rows: Float<B>,
    at: usize,
) -> Float<B> {
    let [count, width] = super::fallback::dims::<B, 2>(&rows);
    slice_assign::<B, 2>(cache, [at..at + count, 0..width], rows)
}
