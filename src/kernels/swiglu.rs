//! SwiGLU: `h = silu(gate) ⊙ up`.
//!
//! Source: arXiv:2002.05202; `silu(x) = x·σ(x)`.

use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::Matrix;
use super::fallback::{Float, add, mul, shifted};
use super::flex::{self, CHUNK};
use super::math::{sigmoid, vectorised};
use super::ops::TrainOps;
use super::pool;

/// `h = gate·σ(gate)·up`, element-wise.
pub fn swiglu(gate: &Matrix, up: &Matrix) -> Matrix {
    assert_eq!(gate.shape(), up.shape(), "gate and up");
    let (g, u) = (gate.tensor().into_dispatch(), up.tensor().into_dispatch());
    gate.like(Tensor::from_dispatch(<Dispatch as TrainOps>::swiglu(g, u)))
}

/// Returns `(d_gate, d_up, h)` in the storages of `gate`, `up` and `dh`: the gradients, and the forward result again
/// for the weight gradient of the down projection.
pub fn swiglu_backward(dh: Matrix, gate: Matrix, up: Matrix) -> (Matrix, Matrix, Matrix) {
    assert_eq!(gate.shape(), up.shape(), "gate and up");
    assert_eq!(gate.shape(), dh.shape(), "gate and dh");
    let (dh, dh_ticket) = dh.into_unique_parts("swiglu_backward");
    let (gate, gate_ticket) = gate.into_unique_parts("swiglu_backward");
    let (up, up_ticket) = up.into_unique_parts("swiglu_backward");
    let (d_gate, d_up, h) = <Dispatch as TrainOps>::swiglu_backward(
        dh.into_dispatch(),
        gate.into_dispatch(),
        up.into_dispatch(),
    );
    (
        Matrix::from_parts(Tensor::from_dispatch(d_gate), gate_ticket),
        Matrix::from_parts(Tensor::from_dispatch(d_up), up_ticket),
        Matrix::from_parts(Tensor::from_dispatch(h), dh_ticket),
    )
}

pub(super) fn flex_swiglu(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    let (g, u) = (flex::values(gate), flex::values(up));
    let mut h = pool::buffer(g.len());
    let tasks = h.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(u.par_chunks(CHUNK));
    tasks.for_each(|((h, g), u)| {
        vectorised(
            #[inline(always)]
            || {
                for ((h, &g), &u) in h.iter_mut().zip(g).zip(u) {
                    *h = g * sigmoid(g) * u;
                }
            },
        );
    });
    flex::matrix(h, flex::sizes(gate))
}

pub(super) fn flex_swiglu_backward(
    mut dh: FlexTensor,
    mut gate: FlexTensor,
    mut up: FlexTensor,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let tasks = flex::values_mut(&mut dh)
        .par_chunks_mut(CHUNK)
        .zip(flex::values_mut(&mut gate).par_chunks_mut(CHUNK))
        .zip(flex::values_mut(&mut up).par_chunks_mut(CHUNK));
    tasks.for_each(|((dh, gate), up)| {
        vectorised(
            #[inline(always)]
            || {
                for ((dh, gate), up) in dh.iter_mut().zip(gate).zip(up) {
                    let (d, g, u) = (*dh, *gate, *up);
                    let s = sigmoid(g);
                    let silu = g * s;
                    *dh = silu * u;
                    *up = d * silu;
                    *gate = d * u * (s + silu * (1.0 - s));
                }
            },
        );
    });
    (gate, up, dh)
}

fn default_sigmoid<B: Backend>(x: Float<B>) -> Float<B> {
    B::float_recip(shifted::<B>(B::float_exp(B::float_neg(x)), 1.0))
}

pub(super) fn default_swiglu<B: Backend>(gate: Float<B>, up: Float<B>) -> Float<B> {
    let silu = mul::<B>(gate.clone(), default_sigmoid::<B>(gate));
    mul::<B>(silu, up)
}

pub(super) fn default_swiglu_backward<B: Backend>(
    dh: Float<B>,
    gate: Float<B>,
    up: Float<B>,
) -> (Float<B>, Float<B>, Float<B>) {
    let s = default_sigmoid::<B>(gate.clone());
    let silu = mul::<B>(gate, s.clone());
    let slope = add::<B>(s.clone(), mul::<B>(silu.clone(), shifted::<B>(B::float_neg(s), 1.0)));
    let d_gate = mul::<B>(mul::<B>(dh.clone(), up.clone()), slope);
    (d_gate, mul::<B>(dh, silu.clone()), mul::<B>(silu, up))
}
