//! A table of rows in several parts: an embedding or a head that is larger than what a device binds at once.
//!
//! Every part is a matrix of its own, so products, updates and norms need nothing new. What is here puts the parts
//! together: rows by id from whichever part has them, and the loss over the logits of all parts, for a few tokens at a
//! time. With one part everything is the operation on it.

use burn::backend::{Backend, BoolDType, Dispatch, FloatDType, Scalar, TensorMetadata};
use burn::tensor::{IndexingUpdateOp, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::device::Device;
use crate::device::memory::Category;

use super::attention::copy_rows;
use super::embedding::embedding;
use super::fallback::{Float, Int, add, dims, mul, reshape, scaled, shifted, slice, slice_assign};
use super::flex::{self, rows_per_task};
use super::loss::{HeadGrad, cross_entropy, gpu_chunk_tokens, token_losses};
use super::matmul::{Layout, matmul, matmul_add};
use super::ops::TrainOps;
use super::pool;
use super::{Indices, Matrix, Vector};

/// Parts of a table with the first row of each.
fn with_first_rows<'a>(parts: &'a [&'a Matrix]) -> impl Iterator<Item = (usize, &'a Matrix)> {
    parts.iter().scan(0, |next, part| {
        let first = *next;
        *next += part.shape()[0];
        Some((first, *part))
    })
}

fn total_rows(parts: &[&Matrix]) -> usize {
    parts.iter().map(|part| part.shape()[0]).sum()
}

/// Rows of the table by `ids [T]` → `[T, C]`.
pub fn embedding_of(ids: &Indices, parts: &[&Matrix], device: &Device) -> Matrix {
    if let [whole] = parts {
        return embedding(ids, whole);
    }
    let width = parts.first().map_or(0, |part| part.shape()[1]);
    let zeros = Matrix::zeros([ids.len(), width], device, Category::Activations);
    with_first_rows(parts).fold(zeros, |out, (first, part)| {
        let (ids, table) = (ids.tensor().into_dispatch(), part.tensor().into_dispatch());
        out.in_place("embedding_of", |out| {
            let out = out.into_dispatch();
            Tensor::from_dispatch(<Dispatch as TrainOps>::embedding_rows(out, ids, table, first))
        })
    })
}

/// The products of `hidden [T, C]` with all rows of the head, `[T, V]`.
pub fn logits_of(hidden: &Matrix, parts: &[&Matrix], device: &Device) -> Matrix {
    if let [whole] = parts {
        return matmul(Layout::Nt, hidden, whole);
    }
    let shape = [hidden.shape()[0], total_rows(parts)];
    let logits = Matrix::zeros(shape, device, Category::Activations);
    with_first_rows(parts).fold(logits, |logits, (first, part)| {
        let of_part = matmul(Layout::Nt, hidden, part);
        logits.in_place("logits_of", |logits| {
            let (logits, of_part) = (logits.into_dispatch(), of_part.tensor().into_dispatch());
            Tensor::from_dispatch(<Dispatch as TrainOps>::put_columns(logits, of_part, first))
        })
    })
}

/// The loss of each token, as [`token_losses`], with a head in parts.
pub fn token_losses_of(
    hidden: &Matrix,
    parts: &[&Matrix],
    targets: &Indices,
    device: &Device,
) -> Vector {
    if let [whole] = parts {
        return token_losses(hidden, whole, targets);
    }
    for_each_chunk(hidden, parts, targets, None, device, |_, _, _| ())
}

/// Result of [`cross_entropy_of`].
pub struct PartGrads {
    /// Sum of the token losses, as in [`super::loss::LossGrads`].
    pub loss_sum: Vector,
    /// Gradient of the hidden states `[T, C]`.
    pub d_hidden: Matrix,
    /// The gradients of the head's parts, if asked for.
    pub d_head: Option<Vec<Matrix>>,
}

/// [`cross_entropy`] with a head in parts. `d_head` has a matrix to add to for each part, or is none.
pub fn cross_entropy_of(
    loss_acc: Vector,
    hidden: &Matrix,
    parts: &[&Matrix],
    targets: &Indices,
    grad_scale: f32,
    d_head: Option<Vec<Matrix>>,
    device: &Device,
) -> PartGrads {
    if let [whole] = parts {
        let d_head = d_head.and_then(|mut d_head| d_head.pop());
        let d_head = d_head.map_or(HeadGrad::Skip, HeadGrad::Into);
        let result = cross_entropy(loss_acc, hidden, whole, targets, grad_scale, d_head);
        return PartGrads {
            loss_sum: result.loss_sum,
            d_hidden: result.d_hidden,
            d_head: result.d_head.map(|d_head| vec![d_head]),
        };
    }
    let mut d_head: Option<Vec<Option<Matrix>>> =
        d_head.map(|d_head| d_head.into_iter().map(Some).collect());
    let mut d_hidden = Some(Matrix::zeros(hidden.shape(), device, Category::Activations));
    let scale = Some(grad_scale);
    let losses = for_each_chunk(hidden, parts, targets, scale, device, |first, rows, d_logits| {
        let mut d_rows = None;
        for (number, (at, part)) in with_first_rows(parts).enumerate() {
            let d_logits = columns(d_logits, at, part.shape()[0]);
            d_rows = Some(match d_rows.take() {
                Some(sum) => matmul_add(sum, 1.0, Layout::Nn, &d_logits, part),
                None => matmul(Layout::Nn, &d_logits, part),
            });
            if let Some(d_part) = d_head.as_mut().and_then(|all| all.get_mut(number)) {
                let sum = d_part.take().map(|d| matmul_add(d, 1.0, Layout::Tn, &d_logits, rows));
                *d_part = sum;
            }
        }
        if let (Some(all), Some(rows)) = (d_hidden.take(), d_rows) {
            d_hidden = Some(copy_rows(all, &rows, first));
        }
    });
    let loss_sum = loss_acc.in_place("cross_entropy_of", |acc| {
        let losses = losses.tensor().into_dispatch();
        Tensor::from_dispatch(<Dispatch as TrainOps>::add_losses(acc.into_dispatch(), losses))
    });
    let Some(d_hidden) = d_hidden else { unreachable!("each chunk puts it back") };
    PartGrads { loss_sum, d_hidden, d_head: d_head.map(|all| all.into_iter().flatten().collect()) }
}

/// Columns of a matrix in storage of their own.
fn columns(x: &Matrix, at: usize, width: usize) -> Matrix {
    let taken = <Dispatch as TrainOps>::take_columns(x.tensor().into_dispatch(), at, width);
    x.like(Tensor::from_dispatch(taken))
}

/// Some rows of `x`; all of them without a copy.
fn some_rows(x: &Matrix, first: usize, count: usize, device: &Device) -> Matrix {
    if count == x.shape()[0] {
        return x.clone();
    }
    let numbers: Vec<i32> = (first..first + count).map(|row| row as i32).collect();
    embedding(&Indices::from_host(&numbers, device, Category::Activations), x)
}

/// Losses of all tokens. For every chunk of tokens `each` gets the first, their hidden states, and their logits over
/// all parts, which are the gradient of the losses by then where a scale is given.
fn for_each_chunk(
    hidden: &Matrix,
    parts: &[&Matrix],
    targets: &Indices,
    grad_scale: Option<f32>,
    device: &Device,
    mut each: impl FnMut(usize, &Matrix, &Matrix),
) -> Vector {
    let tokens = hidden.shape()[0];
    assert_eq!(tokens, targets.len(), "one target for each token");
    let chunk = gpu_chunk_tokens(total_rows(parts));
    let mut losses = Vector::zeros([tokens], device, Category::Activations);
    for first in (0..tokens).step_by(chunk) {
        let count = chunk.min(tokens - first);
        let rows = some_rows(hidden, first, count, device);
        let logits = logits_of(&rows, parts, device);
        let (so_far, ticket) = losses.into_unique_parts("logit_losses");
        let (logits, so_far) = logits.in_place_with("logit_losses", |logits| {
            let (so_far, logits) = <Dispatch as TrainOps>::logit_losses(
                so_far.into_dispatch(),
                logits.into_dispatch(),
                targets.tensor().into_dispatch(),
                first,
                grad_scale.is_some(),
                grad_scale.unwrap_or(0.0),
            );
            (Tensor::from_dispatch(logits), Tensor::from_dispatch(so_far))
        });
        losses = Vector::from_parts(so_far, ticket);
        each(first, &rows, &logits);
    }
    losses
}

pub(super) fn flex_embedding_rows(
    mut out: FlexTensor,
    ids: &FlexTensor,
    table: &FlexTensor,
    first: usize,
) -> FlexTensor {
    let [rows, width] = flex::sizes(table);
    let (ids, table) = (flex::indices(ids), flex::values(table));
    let at_once = rows_per_task(width);
    let tasks = flex::values_mut(&mut out).par_chunks_mut(at_once * width.max(1));
    tasks.zip(ids.par_chunks(at_once)).for_each(|(out, ids)| {
        for (out, &id) in out.chunks_exact_mut(width).zip(ids) {
            let row = usize::try_from(id).ok().and_then(|id| id.checked_sub(first));
            if let Some(row) = row.filter(|row| *row < rows) {
                let row = &table[row * width..(row + 1) * width];
                out.iter_mut().zip(row).for_each(|(out, value)| *out += value);
            }
        }
    });
    out
}

pub(super) fn flex_put_columns(mut wide: FlexTensor, narrow: &FlexTensor, at: usize) -> FlexTensor {
    let ([_, wide_width], [_, width]) = (flex::sizes(&wide), flex::sizes(narrow));
    let rows = flex::values_mut(&mut wide).par_chunks_exact_mut(wide_width);
    rows.zip(flex::values(narrow).par_chunks_exact(width))
        .for_each(|(wide, narrow)| wide[at..at + width].copy_from_slice(narrow));
    wide
}

pub(super) fn flex_take_columns(wide: &FlexTensor, at: usize, width: usize) -> FlexTensor {
    let [rows, wide_width] = flex::sizes(wide);
    let mut narrow = pool::buffer(rows * width);
    let wide = flex::values(wide).par_chunks_exact(wide_width);
    let pairs = narrow.par_chunks_exact_mut(width).zip(wide);
    pairs.for_each(|(narrow, wide)| narrow.copy_from_slice(&wide[at..at + width]));
    flex::matrix(narrow, [rows, width])
}

/// The row of each id in a part, 0 where it is in another, and 1 or 0 for each `[T, 1]`: in this part or not.
fn default_places<B: Backend>(ids: Int<B>, first: usize, rows: usize) -> (Int<B>, Float<B>) {
    let tokens = ids.shape().num_elements();
    let (zero, native) = (Scalar::from(0), BoolDType::Native);
    let local = B::int_sub_scalar(ids, Scalar::from(first as i32));
    let rows = Scalar::from(rows as i32);
    let above = B::int_greater_equal_elem(local.clone(), rows, native);
    let below = B::int_lower_elem(local.clone(), zero, native);
    let local = B::int_mask_fill(local, above.clone(), zero);
    let local = B::int_mask_fill(local, below.clone(), zero);
    let float = |mask| B::bool_into_float(mask, FloatDType::F32);
    let outside = add::<B>(float(above), float(below));
    let inside = shifted::<B>(scaled::<B>(outside, -1.0), 1.0);
    (local, reshape::<B, 2>(inside, [tokens, 1]))
}

pub(super) fn default_embedding_rows<B: Backend>(
    out: Float<B>,
    ids: Int<B>,
    table: Float<B>,
    first: usize,
) -> Float<B> {
    let [rows, _] = dims::<B, 2>(&table);
    let (local, inside) = default_places::<B>(ids, first, rows);
    add::<B>(out, mul::<B>(B::float_select(table, 0, local), inside))
}

pub(super) fn default_embedding_grad<B: Backend>(
    acc: Float<B>,
    dx: Float<B>,
    ids: Int<B>,
    first: usize,
) -> Float<B> {
    let [rows, _] = dims::<B, 2>(&acc);
    let (local, inside) = default_places::<B>(ids, first, rows);
    B::float_select_assign(acc, 0, local, mul::<B>(dx, inside), IndexingUpdateOp::Add)
}

pub(super) fn default_put_columns<B: Backend>(
    wide: Float<B>,
    narrow: Float<B>,
    at: usize,
) -> Float<B> {
    let [rows, width] = dims::<B, 2>(&narrow);
    slice_assign::<B, 2>(wide, [0..rows, at..at + width], narrow)
}

pub(super) fn default_take_columns<B: Backend>(
    wide: Float<B>,
    at: usize,
    width: usize,
) -> Float<B> {
    let [rows, _] = dims::<B, 2>(&wide);
    slice::<B, 2>(wide, [0..rows, at..at + width])
}
