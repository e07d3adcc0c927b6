//! The LoRA linear layer; `B·A` is never built.
//!
//! On flex a task takes some rows of the tokens and computes the thin product, the dense product and
//! their sum while the rows are in its cache. With few rows the products are cut into tiles instead.

use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::Matrix;
use super::fallback::{Float, add, dims, zeros};
use super::flex;
use super::gemm::{self, View, ViewMut, Write};
use super::matmul::{Layout, default_matmul, matmul, matmul_add, matmul_scaled};
use super::ops::{MaybeTensor, TrainOps};
use super::pool;

/// Token rows of one task.
const ROWS: usize = 128;

/// `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ`. Returns `(y [T, M], h = x·Aᵀ [T, R])`; `h` is kept for the backward pass.
/// Shapes: `x [T, N]`, `w [M, N]` (None: the layer has no dense part), `a [R, N]`, `b [M, R]`.
/// Source: LoRA, arXiv:2106.09685, eq. 3; `s = alpha / rank`.
pub fn lora_linear(
    x: &Matrix,
    w: Option<&Matrix>,
    a: &Matrix,
    b: &Matrix,
    scale: f32,
) -> (Matrix, Matrix) {
    assert_factors(x.shape()[1], b.shape()[0], w, a, b);
    let (y, h) = <Dispatch as TrainOps>::lora_linear(
        x.tensor().into_dispatch(),
        MaybeTensor::new(w.map(|w| w.tensor().into_dispatch())),
        a.tensor().into_dispatch(),
        b.tensor().into_dispatch(),
        scale,
    );
    (x.like(Tensor::from_dispatch(y)), x.like(Tensor::from_dispatch(h)))
}

/// Input gradient. Returns `(dx [T, N], g = s·dy·B [T, R])`, `dx = dy·W + g·A`, added to `acc` in place if given.
pub fn lora_input_grad(
    acc: Option<Matrix>,
    dy: &Matrix,
    w: Option<&Matrix>,
    a: &Matrix,
    b: &Matrix,
    scale: f32,
) -> (Matrix, Matrix) {
    assert_factors(a.shape()[1], dy.shape()[1], w, a, b);
    let run = |acc: Option<Tensor<2>>| {
        let (dx, g) = <Dispatch as TrainOps>::lora_input_grad(
            MaybeTensor::new(acc.map(Tensor::into_dispatch)),
            dy.tensor().into_dispatch(),
            MaybeTensor::new(w.map(|w| w.tensor().into_dispatch())),
            a.tensor().into_dispatch(),
            b.tensor().into_dispatch(),
            scale,
        );
        (Tensor::from_dispatch(dx), dy.like(Tensor::from_dispatch(g)))
    };
    if let Some(acc) = acc {
        assert_eq!(acc.shape(), [dy.shape()[0], a.shape()[1]], "target of an input gradient");
        acc.in_place_with("lora_input_grad", |acc| run(Some(acc)))
    } else {
        let (dx, g) = run(None);
        (dy.like(dx), g)
    }
}

/// Factor gradients `dA = gᵀ·x [R, N]` and `dB = s·dyᵀ·h [M, R]`, added to `acc` in place if given.
pub fn lora_factor_grads(
    acc: Option<(Matrix, Matrix)>,
    x: &Matrix,
    dy: &Matrix,
    h: &Matrix,
    g: &Matrix,
    scale: f32,
) -> (Matrix, Matrix) {
    match acc {
        Some((d_a, d_b)) => {
            (matmul_add(d_a, 1.0, Layout::Tn, g, x), matmul_add(d_b, scale, Layout::Tn, dy, h))
        }
        None => (matmul(Layout::Tn, g, x), matmul_scaled(scale, Layout::Tn, dy, h)),
    }
}

fn assert_factors(inputs: usize, outputs: usize, w: Option<&Matrix>, a: &Matrix, b: &Matrix) {
    let rank = a.shape()[0];
    assert_eq!(a.shape(), [rank, inputs], "lora_a");
    assert_eq!(b.shape(), [outputs, rank], "lora_b");
    if let Some(w) = w {
        assert_eq!(w.shape(), [outputs, inputs], "weight of a LoRA layer");
    }
}

pub(super) fn flex_lora_linear(
    x: &FlexTensor,
    w: Option<&FlexTensor>,
    a: &FlexTensor,
    b: &FlexTensor,
    scale: f32,
) -> (FlexTensor, FlexTensor) {
    let [tokens, inputs] = flex::sizes(x);
    let [outputs, rank] = flex::sizes(b);
    let mut y = pool::buffer(tokens * outputs);
    let mut h = pool::buffer(tokens * rank);
    let x = gemm::view(flex::values(x), inputs);
    let w = w.map(|w| gemm::view(flex::values(w), inputs).transpose());
    let a = gemm::view(flex::values(a), inputs).transpose();
    let b = gemm::view(flex::values(b), rank).transpose();
    let (y_view, h_view) = (gemm::view_mut(&mut y, outputs), gemm::view_mut(&mut h, rank));
    two_products(y_view, Write::Replace, h_view, x, w, a, b, 1.0, scale);
    (flex::matrix(y, [tokens, outputs]), flex::matrix(h, [tokens, rank]))
}

pub(super) fn flex_lora_input_grad(
    acc: Option<FlexTensor>,
    dy: &FlexTensor,
    w: Option<&FlexTensor>,
    a: &FlexTensor,
    b: &FlexTensor,
    scale: f32,
) -> (FlexTensor, FlexTensor) {
    let [tokens, outputs] = flex::sizes(dy);
    let [rank, inputs] = flex::sizes(a);
    let mut g = pool::buffer(tokens * rank);
    let write = if acc.is_some() { Write::Add } else { Write::Replace };
    let mut dx =
        acc.unwrap_or_else(|| flex::matrix(pool::buffer(tokens * inputs), [tokens, inputs]));
    let dy = gemm::view(flex::values(dy), outputs);
    let w = w.map(|w| gemm::view(flex::values(w), inputs));
    let a = gemm::view(flex::values(a), inputs);
    let b = gemm::view(flex::values(b), rank);
    let dx_view = gemm::view_mut(flex::values_mut(&mut dx), inputs);
    two_products(dx_view, write, gemm::view_mut(&mut g, rank), dy, w, b, a, scale, 1.0);
    (dx, flex::matrix(g, [tokens, rank]))
}

/// `thin = first_scale·x·first` and `out (+)= x·dense + second_scale·thin·second`.
fn two_products(
    mut out: ViewMut<'_>,
    write: Write,
    mut thin: ViewMut<'_>,
    x: View<'_>,
    dense: Option<View<'_>>,
    first: View<'_>,
    second: View<'_>,
    first_scale: f32,
    second_scale: f32,
) {
    let thin_write = if dense.is_some() { Write::Add } else { write };
    if x.nrows() <= ROWS {
        gemm::multiply_tiled(thin.as_mut(), Write::Replace, first_scale, x, first);
        if let Some(dense) = dense {
            gemm::multiply_tiled(out.as_mut(), write, 1.0, x, dense);
        }
        gemm::multiply_tiled(out, thin_write, second_scale, thin.as_ref(), second);
        return;
    }
    let (out_columns, thin_columns) = (out.ncols(), thin.ncols());
    let out = gemm::tiles(out, ROWS, out_columns);
    let thin = gemm::tiles(thin, ROWS, thin_columns);
    out.into_par_iter().zip(thin).for_each(|((row, _, mut out), (_, _, mut thin))| {
        let x = x.subrows(row, out.nrows());
        gemm::multiply(thin.as_mut(), Write::Replace, first_scale, x, first);
        if let Some(dense) = dense {
            gemm::multiply(out.as_mut(), write, 1.0, x, dense);
        }
        gemm::multiply(out, thin_write, second_scale, thin.as_ref(), second);
    });
}

pub(super) fn default_lora_linear<B: Backend>(
    x: Float<B>,
    w: Option<Float<B>>,
    a: Float<B>,
    b: Float<B>,
    scale: f32,
) -> (Float<B>, Float<B>) {
    let h = default_matmul::<B>(1.0, Layout::Nt, x.clone(), a);
    let low_rank = default_matmul::<B>(scale, Layout::Nt, h.clone(), b);
    let y = match w {
        Some(w) => add::<B>(default_matmul::<B>(1.0, Layout::Nt, x, w), low_rank),
        None => low_rank,
    };
    (y, h)
}

pub(super) fn default_lora_input_grad<B: Backend>(
    acc: Option<Float<B>>,
    dy: Float<B>,
    w: Option<Float<B>>,
    a: Float<B>,
    b: Float<B>,
    scale: f32,
) -> (Float<B>, Float<B>) {
    let [tokens, _] = dims::<B, 2>(&dy);
    let [_, inputs] = dims::<B, 2>(&a);
    let acc = acc.unwrap_or_else(|| zeros::<B, 2>([tokens, inputs], &dy));
    let g = default_matmul::<B>(scale, Layout::Nn, dy.clone(), b);
    let dx = add::<B>(acc, default_matmul::<B>(1.0, Layout::Nn, g.clone(), a));
    let dx = match w {
        Some(w) => add::<B>(dx, default_matmul::<B>(1.0, Layout::Nn, dy, w)),
        None => dx,
    };
    (dx, g)
}
