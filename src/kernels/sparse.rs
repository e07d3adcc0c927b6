//! Matrices that are zero outside a fixed set of places: their values added to a dense matrix, and read out of one.
//!
//! The places are flat indices `row·n + column`, ascending and distinct, so no two values meet and the bits do not
//! depend on the order. A place outside the matrix is left out (reads give NaN).

use burn::backend::{Backend, Dispatch};
use burn::tensor::{IndexingUpdateOp, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fallback::{Float, Int, add, dims, reshape};
use super::flex::{self, CHUNK};
use super::ops::{MaybeTensor, TrainOps};
use super::pool;
use super::{Indices, Matrix};

/// `dense[places[k]] += values[k]`, in place.
///
/// Shapes: `dense [m, n]`, `places [k]` ascending and distinct, `values [1, k]`.
pub fn scatter_add(dense: Matrix, places: &Indices, values: &Matrix) -> Matrix {
    assert_eq!(values.shape(), [1, places.len()], "a value for each place");
    let (places, values) = (places.tensor().into_dispatch(), values.tensor().into_dispatch());
    dense.in_place("scatter_add", |dense| {
        let dense = dense.into_dispatch();
        Tensor::from_dispatch(<Dispatch as TrainOps>::scatter_add(dense, places, values))
    })
}

/// `dense[places[k]]` as `[1, k]`, added to `acc` in place if given. NaN for a place outside `dense`.
pub fn gather(acc: Option<Matrix>, dense: &Matrix, places: &Indices) -> Matrix {
    let places_on = places.tensor().into_dispatch();
    let dense_on = dense.tensor().into_dispatch();
    let run = |acc: Option<Tensor<2>>| {
        let acc = MaybeTensor::new(acc.map(Tensor::into_dispatch));
        Tensor::from_dispatch(<Dispatch as TrainOps>::gather(acc, dense_on, places_on))
    };
    match acc {
        Some(acc) => {
            assert_eq!(acc.shape(), [1, places.len()], "a sum for each place");
            acc.in_place("gather", |acc| run(Some(acc)))
        }
        None => dense.like(run(None)),
    }
}

pub(super) fn flex_scatter_add(
    mut dense: FlexTensor,
    places: &FlexTensor,
    values: &FlexTensor,
) -> FlexTensor {
    let (places, values) = (flex::indices(places), flex::values(values));
    flex::values_mut(&mut dense).par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, dense)| {
        let first = chunk * CHUNK;
        // Ascending, so the places of a chunk stand together.
        let below = |end: usize| places.partition_point(|&place| (place.max(0) as usize) < end);
        let part = below(first)..below(first + dense.len());
        for (&place, value) in places[part.clone()].iter().zip(&values[part]) {
            if let Some(entry) = dense.get_mut((place as usize).wrapping_sub(first)) {
                *entry += value;
            }
        }
    });
    dense
}

pub(super) fn flex_gather(
    acc: Option<FlexTensor>,
    dense: &FlexTensor,
    places: &FlexTensor,
) -> FlexTensor {
    let (dense, places) = (flex::values(dense), flex::indices(places));
    let read = |place: &i32| dense.get(*place as usize).copied().unwrap_or(f32::NAN);
    let places_in_parts = places.par_chunks(CHUNK);
    if let Some(mut acc) = acc {
        flex::values_mut(&mut acc).par_chunks_mut(CHUNK).zip(places_in_parts).for_each(
            |(acc, places)| {
                acc.iter_mut().zip(places).for_each(|(acc, place)| *acc += read(place));
            },
        );
        return acc;
    }
    let mut out = pool::buffer(places.len());
    out.par_chunks_mut(CHUNK).zip(places_in_parts).for_each(|(out, places)| {
        out.iter_mut().zip(places).for_each(|(out, place)| *out = read(place));
    });
    flex::matrix(out, [1, places.len()])
}

fn flat<B: Backend>(x: Float<B>) -> Float<B> {
    let [rows, columns] = dims::<B, 2>(&x);
    reshape::<B, 1>(x, [rows * columns])
}

pub(super) fn default_scatter_add<B: Backend>(
    dense: Float<B>,
    places: Int<B>,
    values: Float<B>,
) -> Float<B> {
    let shape = dims::<B, 2>(&dense);
    let (dense, values) = (flat::<B>(dense), flat::<B>(values));
    let sum = B::float_select_assign(dense, 0, places, values, IndexingUpdateOp::Add);
    reshape::<B, 2>(sum, shape)
}

pub(super) fn default_gather<B: Backend>(
    acc: Option<Float<B>>,
    dense: Float<B>,
    places: Int<B>,
) -> Float<B> {
    let values = B::float_select(flat::<B>(dense), 0, places);
    let [len] = dims::<B, 1>(&values);
    let values = reshape::<B, 2>(values, [1, len]);
    match acc {
        Some(acc) => add::<B>(acc, values),
        None => values,
    }
}
