//! Token embedding and its reproducible gradient.
//!
//! The gradient adds rows that share an id; each run of equal ids in the sorted order is one task, so
//! no two tasks write the same row and the order of the sum is fixed.

use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fallback::{Float, Int};
use super::flex::{self, rows_per_task};
use super::math::vectorised;
use super::ops::TrainOps;
use super::pool;
use super::{Indices, Matrix};

/// Rows of `table [V, C]` by `ids [T]` → `[T, C]`.
pub fn embedding(ids: &Indices, table: &Matrix) -> Matrix {
    let (ids, rows) = (ids.tensor().into_dispatch(), table.tensor().into_dispatch());
    table.like(Tensor::from_dispatch(<Dispatch as TrainOps>::embedding(ids, rows)))
}

/// Adds the table's gradient to `acc [V, C]` in place: row `id` gets the sum of `dx` over its positions, in
/// ascending order of position. `order` are the positions sorted by (id, position), made on the host.
pub fn embedding_grad(acc: Matrix, dx: &Matrix, ids: &Indices, order: &Indices) -> Matrix {
    embedding_part_grad(acc, 0, dx, ids, order)
}

/// The same for a part of a table, `acc` its rows from `first` on: what belongs to other rows is left out.
pub fn embedding_part_grad(
    acc: Matrix,
    first: usize,
    dx: &Matrix,
    ids: &Indices,
    order: &Indices,
) -> Matrix {
    assert_eq!(acc.shape()[1], dx.shape()[1], "width of an embedding gradient");
    assert_eq!(ids.len(), dx.shape()[0], "one id for each row");
    assert_eq!(ids.len(), order.len(), "the order holds every position once");
    acc.in_place("embedding_grad", |acc| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::embedding_grad(
            acc.into_dispatch(),
            dx.tensor().into_dispatch(),
            ids.tensor().into_dispatch(),
            order.tensor().into_dispatch(),
            first,
        ))
    })
}

pub(super) fn flex_embedding(ids: &FlexTensor, table: &FlexTensor) -> FlexTensor {
    let width = flex::sizes(table)[1];
    let (ids, table) = (flex::indices(ids), flex::values(table));
    let mut out = pool::buffer(ids.len() * width);
    let rows = rows_per_task(width);
    out.par_chunks_mut(rows * width).zip(ids.par_chunks(rows)).for_each(|(out, ids)| {
        for (out, &id) in out.chunks_exact_mut(width).zip(ids) {
            let at = id as usize * width;
            out.copy_from_slice(&table[at..at + width]);
        }
    });
    flex::matrix(out, [ids.len(), width])
}

pub(super) fn flex_embedding_grad(
    mut acc: FlexTensor,
    dx: &FlexTensor,
    ids: &FlexTensor,
    order: &FlexTensor,
    first: usize,
) -> FlexTensor {
    let [rows, width] = flex::sizes(&acc);
    let (dx, ids, order) = (flex::values(dx), flex::indices(ids), flex::indices(order));
    let id_at = |&position: &i32| ids[position as usize];
    let mut tasks: Vec<(&mut [f32], &[i32])> = Vec::new();
    let mut rest = flex::values_mut(&mut acc);
    let mut passed = 0;
    for run in order.chunk_by(|a, b| id_at(a) == id_at(b)) {
        let Some(id) = run.first().map(id_at) else { continue };
        let Some(id) = (id as usize).checked_sub(first).filter(|id| *id < rows) else { continue };
        assert!(id >= passed, "order is sorted by id");
        let (_, from_here) = rest.split_at_mut((id - passed) * width);
        let (row, after) = from_here.split_at_mut(width);
        (rest, passed) = (after, id + 1);
        tasks.push((row, run));
    }
    tasks.into_par_iter().for_each(|(row, positions)| {
        vectorised(
            #[inline(always)]
            || {
                for &position in positions {
                    let at = position as usize * width;
                    for (sum, &dx) in row.iter_mut().zip(&dx[at..at + width]) {
                        *sum += dx;
                    }
                }
            },
        );
    });
    acc
}

pub(super) fn default_embedding<B: Backend>(ids: Int<B>, table: Float<B>) -> Float<B> {
    B::float_select(table, 0, ids)
}
