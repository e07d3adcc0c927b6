//! The head and the cross-entropy in one, chunked over tokens: the full logits never exist.
//!
//! On flex a chunk's logits are computed, turned into their gradient in place, and used for both
//! gradients before the next chunk. Losses are summed in f64 in the order of the tokens.

use std::sync::Arc;

use burn::backend::{Backend, BoolDType, Dispatch, FloatDType, Scalar};
use burn::tensor::{IndexingUpdateOp, Shape, Slice, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::device::memory::Ticket;

use super::fallback::{
    Float, Int, add, dims, mul, reshape, scaled, shifted, slice_assign, sub, zeros,
};
use super::flex::{self, rows_per_task};
use super::gemm::{self, View, Write};
use super::math::{exp_and_sum, max, vectorised};
use super::matmul::{Layout, default_matmul};
use super::ops::{MaybeTensor, TrainOps};
use super::pool::{self, Scratch};
use super::{Indices, Matrix, Vector};

/// A target that does not count.
pub const IGNORED: i32 = -100;

/// Logits of one chunk: 8 MiB of f32.
const CHUNK_LOGITS: usize = 2 << 20;
/// A chunk has at least so many tokens, or its products would be thin and slow.
const MIN_CHUNK_TOKENS: usize = 32;
/// More tokens do not make the products faster.
const MAX_CHUNK_TOKENS: usize = 1024;

/// Logits of one chunk on a GPU: 32 MiB of f32, a quarter of the smallest binding. Every chunk reads the
/// whole head, and a GPU needs more rows at once than the CPU to be busy.
const GPU_CHUNK_LOGITS: usize = 8 << 20;

/// More tokens would only take memory.
const GPU_MAX_CHUNK_TOKENS: usize = 2048;

/// What to do about the head's gradient.
#[allow(clippy::large_enum_variant)] // passed once per step
pub enum HeadGrad {
    /// The head is frozen.
    Skip,
    /// Add it to this `[V, C]` matrix in place.
    Into(Matrix),
}

/// Result of [`cross_entropy`].
pub struct LossGrads {
    /// Sum of the token losses over targets that count, `[1]` (not multiplied by `grad_scale`).
    pub loss_sum: Vector,
    /// Gradient of `grad_scale · loss_sum` with respect to the hidden states `[T, C]`.
    pub d_hidden: Matrix,
    /// The head's gradient matrix, if asked for.
    pub d_head: Option<Matrix>,
}

/// Cross-entropy of `hidden [T, C] · head [V, C]ᵀ` against `targets [T]` (ids, or [`IGNORED`]), with gradients.
/// Adds to `loss_acc [1]` in place (pass zeros to start).
pub fn cross_entropy(
    loss_acc: Vector,
    hidden: &Matrix,
    head: &Matrix,
    targets: &Indices,
    grad_scale: f32,
    head_grad: HeadGrad,
) -> LossGrads {
    assert_inputs(hidden, head, targets);
    assert_eq!(loss_acc.shape(), [1], "loss accumulator");
    let (d_head, d_head_ticket) = match head_grad {
        HeadGrad::Into(d_head) => {
            assert_eq!(d_head.shape(), head.shape(), "gradient of the head");
            let (tensor, ticket) = d_head.into_unique_parts("cross_entropy");
            (Some(tensor), Some(ticket))
        }
        HeadGrad::Skip => (None, None),
    };
    let _logits = hold_logits(hidden, head);
    let (loss_sum, (d_hidden, d_head)) = loss_acc.in_place_with("cross_entropy", |loss_acc| {
        let (loss_sum, d_hidden, d_head) = <Dispatch as TrainOps>::cross_entropy(
            loss_acc.into_dispatch(),
            hidden.tensor().into_dispatch(),
            head.tensor().into_dispatch(),
            targets.tensor().into_dispatch(),
            grad_scale,
            MaybeTensor::new(d_head.map(Tensor::into_dispatch)),
        );
        let grads = (Tensor::from_dispatch(d_hidden), d_head.map(Tensor::from_dispatch));
        (Tensor::from_dispatch(loss_sum), grads)
    });
    LossGrads {
        loss_sum,
        d_hidden: hidden.like(d_hidden),
        d_head: d_head.zip(d_head_ticket).map(|(head, ticket)| Matrix::from_parts(head, ticket)),
    }
}

/// The loss alone: per-token losses `[T]`, 0 where the target is ignored.
pub fn token_losses(hidden: &Matrix, head: &Matrix, targets: &Indices) -> Vector {
    assert_inputs(hidden, head, targets);
    let _logits = hold_logits(hidden, head);
    hidden.like(Tensor::from_dispatch(<Dispatch as TrainOps>::token_losses(
        hidden.tensor().into_dispatch(),
        head.tensor().into_dispatch(),
        targets.tensor().into_dispatch(),
    )))
}

fn assert_inputs(hidden: &Matrix, head: &Matrix, targets: &Indices) {
    assert_eq!(hidden.shape()[1], head.shape()[1], "width of the head");
    assert_eq!(hidden.shape()[0], targets.len(), "one target for each token");
}

/// Accounts for a chunk of logits, which lives inside the operation.
fn hold_logits(hidden: &Matrix, head: &Matrix) -> Arc<Ticket> {
    let vocabulary = head.shape()[0];
    let is_cpu = hidden.tensor().device() == burn::tensor::Device::flex();
    let chunk = if is_cpu { chunk_tokens(vocabulary) } else { gpu_chunk_tokens(vocabulary) };
    let tokens = chunk.min(hidden.shape()[0]);
    hidden.hold(tokens as u64 * vocabulary as u64 * 4)
}

/// Tokens of one chunk of logits.
pub(crate) fn chunk_tokens(vocabulary: usize) -> usize {
    (CHUNK_LOGITS / vocabulary.max(1)).clamp(MIN_CHUNK_TOKENS, MAX_CHUNK_TOKENS)
}

/// Tokens of one chunk of logits on a GPU. A chunk stays below `GPU_CHUNK_LOGITS` for vocabularies up to it.
pub(crate) fn gpu_chunk_tokens(vocabulary: usize) -> usize {
    (GPU_CHUNK_LOGITS / vocabulary.max(1)).clamp(1, GPU_MAX_CHUNK_TOKENS)
}

/// Calls `each` for every chunk with its first token, its logits, and its losses to fill in.
fn for_each_chunk(
    hidden: View<'_>,
    head: View<'_>,
    losses: &mut [f64],
    mut each: impl FnMut(usize, &mut [f32], &mut [f64]),
) {
    let vocabulary = head.nrows();
    let chunk = chunk_tokens(vocabulary);
    let mut buffer = Scratch::new(chunk.min(losses.len()) * vocabulary);
    for (i, losses) in losses.chunks_mut(chunk).enumerate() {
        let logits = &mut buffer.0[..losses.len() * vocabulary];
        let rows = hidden.subrows(i * chunk, losses.len());
        let target = gemm::view_mut(logits, vocabulary);
        gemm::multiply_tiled(target, Write::Replace, 1.0, rows, head.transpose());
        each(i * chunk, logits, losses);
    }
}

/// Turns a row of logits into softmax numerators and returns `(their sum, the row's loss)`.
#[inline(always)]
fn softmax_loss(row: &mut [f32], target: usize) -> (f32, f64) {
    let largest = max(row);
    let below = f64::from(largest) - f64::from(row[target]);
    let sum = exp_and_sum(row, largest);
    (sum, below + f64::from(sum).ln())
}

/// Turns a row of logits into `grad_scale` times the gradient of its loss, and returns the loss.
#[inline(always)]
fn loss_row(row: &mut [f32], target: i32, grad_scale: f32) -> f64 {
    if target == IGNORED {
        row.fill(0.0);
        return 0.0;
    }
    let (sum, loss) = softmax_loss(row, target as usize);
    let factor = grad_scale / sum;
    for p in row.iter_mut() {
        *p *= factor;
    }
    row[target as usize] -= grad_scale;
    loss
}

pub(super) fn flex_cross_entropy(
    mut loss_acc: FlexTensor,
    hidden: &FlexTensor,
    head: &FlexTensor,
    targets: &FlexTensor,
    grad_scale: f32,
    mut d_head: Option<FlexTensor>,
) -> (FlexTensor, FlexTensor, Option<FlexTensor>) {
    let ([tokens, width], [vocabulary, _]) = (flex::sizes(hidden), flex::sizes(head));
    let hidden = gemm::view(flex::values(hidden), width);
    let head = gemm::view(flex::values(head), width);
    let targets = flex::indices(targets);
    let mut d_hidden = pool::buffer(tokens * width);
    let mut d_hidden_view = gemm::view_mut(&mut d_hidden, width);
    let mut d_head_values = d_head.as_mut().map(flex::values_mut);
    let mut losses = vec![0.0; tokens];
    let rows = rows_per_task(vocabulary);
    for_each_chunk(hidden, head, &mut losses, |first, logits, losses| {
        let count = losses.len();
        let tasks = logits.par_chunks_mut(rows * vocabulary).zip(losses.par_chunks_mut(rows));
        let targets = &targets[first..first + count];
        tasks.zip(targets.par_chunks(rows)).for_each(|((logits, losses), targets)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = logits.chunks_exact_mut(vocabulary).zip(losses).zip(targets);
                    for ((row, loss), &target) in rows {
                        *loss = loss_row(row, target, grad_scale);
                    }
                },
            );
        });
        let d_logits = gemm::view(logits, vocabulary);
        let d_hidden = d_hidden_view.as_mut().subrows_mut(first, count);
        gemm::multiply_tiled(d_hidden, Write::Replace, 1.0, d_logits, head);
        if let Some(d_head) = &mut d_head_values {
            let rows = hidden.subrows(first, count);
            let d_head = gemm::view_mut(d_head, width);
            gemm::multiply_tiled(d_head, Write::Add, 1.0, d_logits.transpose(), rows);
        }
    });
    let sum: f64 = losses.iter().sum();
    for acc in flex::values_mut(&mut loss_acc) {
        *acc = (f64::from(*acc) + sum) as f32;
    }
    (loss_acc, flex::matrix(d_hidden, [tokens, width]), d_head)
}

pub(super) fn flex_token_losses(
    hidden: &FlexTensor,
    head: &FlexTensor,
    targets: &FlexTensor,
) -> FlexTensor {
    let ([tokens, width], [vocabulary, _]) = (flex::sizes(hidden), flex::sizes(head));
    let hidden = gemm::view(flex::values(hidden), width);
    let head = gemm::view(flex::values(head), width);
    let targets = flex::indices(targets);
    let mut losses = vec![0.0; tokens];
    let rows = rows_per_task(vocabulary);
    for_each_chunk(hidden, head, &mut losses, |first, logits, losses| {
        let targets = &targets[first..first + losses.len()];
        let tasks = logits.par_chunks_mut(rows * vocabulary).zip(losses.par_chunks_mut(rows));
        tasks.zip(targets.par_chunks(rows)).for_each(|((logits, losses), targets)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = logits.chunks_exact_mut(vocabulary).zip(losses).zip(targets);
                    for ((row, loss), &target) in rows {
                        if target != IGNORED {
                            *loss = softmax_loss(row, target as usize).1;
                        }
                    }
                },
            );
        });
    });
    flex::vector(losses.into_iter().map(|loss| loss as f32).collect())
}

pub(super) fn flex_logit_losses(
    mut losses: FlexTensor,
    mut logits: FlexTensor,
    targets: &FlexTensor,
    first: usize,
    grad_scale: Option<f32>,
) -> (FlexTensor, FlexTensor) {
    let [count, vocabulary] = flex::sizes(&logits);
    let targets = &flex::indices(targets)[first..first + count];
    let rows = rows_per_task(vocabulary);
    let of_rows = &mut flex::values_mut(&mut losses)[first..first + count];
    let tasks = flex::values_mut(&mut logits).par_chunks_mut(rows * vocabulary);
    let tasks = tasks.zip(of_rows.par_chunks_mut(rows)).zip(targets.par_chunks(rows));
    tasks.for_each(|((logits, losses), targets)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = logits.chunks_exact_mut(vocabulary).zip(losses).zip(targets);
                for ((row, loss), &target) in rows {
                    *loss = match grad_scale {
                        Some(scale) => loss_row(row, target, scale) as f32,
                        None if target == IGNORED => 0.0,
                        None => softmax_loss(row, target as usize).1 as f32,
                    };
                }
            },
        );
    });
    (losses, logits)
}

pub(super) fn flex_add_losses(mut acc: FlexTensor, losses: &FlexTensor) -> FlexTensor {
    let sum: f64 = flex::values(losses).iter().map(|&loss| f64::from(loss)).sum();
    for acc in flex::values_mut(&mut acc) {
        *acc = (f64::from(*acc) + sum) as f32;
    }
    acc
}

/// Per-token losses `[T, 1]`, probabilities `[T, V]`, targets `[T, 1]` with 0 for ignored ones, and 1
/// or 0 for each token `[T, 1]`: counts or not.
fn default_softmax_loss<B: Backend>(
    hidden: Float<B>,
    head: Float<B>,
    targets: Int<B>,
) -> (Float<B>, Float<B>, Int<B>, Float<B>) {
    default_softmax_of::<B>(default_matmul::<B>(1.0, Layout::Nt, hidden, head), targets)
}

/// The same from the logits `[T, V]`.
fn default_softmax_of<B: Backend>(
    logits: Float<B>,
    targets: Int<B>,
) -> (Float<B>, Float<B>, Int<B>, Float<B>) {
    let [tokens, _] = dims::<B, 2>(&logits);
    let targets = B::int_reshape(targets, Shape::from([tokens, 1]));
    let ignored = B::int_equal_elem(targets.clone(), Scalar::from(IGNORED), BoolDType::Native);
    let targets = B::int_mask_fill(targets, ignored.clone(), Scalar::from(0));
    let counts = shifted::<B>(scaled::<B>(B::bool_into_float(ignored, FloatDType::F32), -1.0), 1.0);
    let centred = sub::<B>(logits.clone(), B::float_max_dim(logits, 1));
    let weights = B::float_exp(centred.clone());
    let sum = B::float_sum_dim(weights.clone(), 1);
    let losses = sub::<B>(B::float_log(sum.clone()), B::float_gather(1, centred, targets.clone()));
    let losses = mul::<B>(losses, counts.clone());
    (losses, B::float_div(weights, sum), targets, counts)
}

pub(super) fn default_cross_entropy<B: Backend>(
    loss_acc: Float<B>,
    hidden: Float<B>,
    head: Float<B>,
    targets: Int<B>,
    grad_scale: f32,
    d_head: Option<Float<B>>,
) -> (Float<B>, Float<B>, Option<Float<B>>) {
    let ([tokens, _], [vocabulary, _]) = (dims::<B, 2>(&hidden), dims::<B, 2>(&head));
    let (losses, probabilities, targets, counts) =
        default_softmax_loss::<B>(hidden.clone(), head.clone(), targets);
    let loss_sum = reshape::<B, 1>(B::float_sum_dim(losses, 0), [1]);
    let weight = scaled::<B>(counts, grad_scale);
    let hits = B::float_scatter(
        1,
        zeros::<B, 2>([tokens, vocabulary], &hidden),
        targets,
        weight.clone(),
        IndexingUpdateOp::Add,
    );
    let d_logits = sub::<B>(mul::<B>(probabilities, weight), hits);
    let d_hidden = default_matmul::<B>(1.0, Layout::Nn, d_logits.clone(), head);
    let d_head =
        d_head.map(|acc| add::<B>(acc, default_matmul::<B>(1.0, Layout::Tn, d_logits, hidden)));
    (add::<B>(loss_acc, loss_sum), d_hidden, d_head)
}

pub(super) fn default_token_losses<B: Backend>(
    hidden: Float<B>,
    head: Float<B>,
    targets: Int<B>,
) -> Float<B> {
    let [tokens, _] = dims::<B, 2>(&hidden);
    let (losses, ..) = default_softmax_loss::<B>(hidden, head, targets);
    reshape::<B, 1>(losses, [tokens])
}

pub(super) fn default_logit_losses<B: Backend>(
    losses: Float<B>,
    logits: Float<B>,
    targets: Int<B>,
    first: usize,
    grad_scale: Option<f32>,
) -> (Float<B>, Float<B>) {
    let [count, vocabulary] = dims::<B, 2>(&logits);
    let targets = B::int_slice(targets, &[Slice::from(first..first + count)]);
    let (found, probabilities, targets, counts) = default_softmax_of::<B>(logits.clone(), targets);
    let found = reshape::<B, 1>(found, [count]);
    let losses = slice_assign::<B, 1>(losses, [first..first + count], found);
    let Some(scale) = grad_scale else { return (losses, logits) };
    let weight = scaled::<B>(counts, scale);
    let none = zeros::<B, 2>([count, vocabulary], &logits);
    let hits = B::float_scatter(1, none, targets, weight.clone(), IndexingUpdateOp::Add);
    (losses, sub::<B>(mul::<B>(probabilities, weight), hits))
}
