//! Matrix products.
//!
//! On flex the output is cut into tiles that faer computes; `gemm` says why that is reproducible.

use burn::backend::{Backend, Dispatch};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::Matrix;
use super::fallback::{Float, add, scaled};
use super::flex;
use super::gemm::{self, Write};
use super::ops::TrainOps;
use super::pool;

/// Which operand is stored transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `A [M, K] · B [K, N]`.
    Nn,
    /// `A [M, K] · (B [N, K])ᵀ`.
    Nt,
    /// `(A [K, M])ᵀ · B [K, N]`.
    Tn,
}

impl Layout {
    /// `(M, N, K)` of a product of matrices stored with these sizes; asserts that they fit.
    pub(super) fn sizes(self, a: [usize; 2], b: [usize; 2]) -> (usize, usize, usize) {
        let (m, k) = if self == Self::Tn { (a[1], a[0]) } else { (a[0], a[1]) };
        let (n, k_of_b) = if self == Self::Nt { (b[0], b[1]) } else { (b[1], b[0]) };
        assert_eq!(k, k_of_b, "inner sizes of a product {self:?} of {a:?} and {b:?}");
        (m, n, k)
    }
}

/// `A · B` in the given layout, `[M, N]`.
pub fn matmul(layout: Layout, a: &Matrix, b: &Matrix) -> Matrix {
    matmul_scaled(1.0, layout, a, b)
}

/// `scale · A · B` in the given layout, `[M, N]`.
pub fn matmul_scaled(scale: f32, layout: Layout, a: &Matrix, b: &Matrix) -> Matrix {
    let (x, y) = (a.tensor().into_dispatch(), b.tensor().into_dispatch());
    a.like(Tensor::from_dispatch(<Dispatch as TrainOps>::matmul(scale, layout, x, y)))
}

/// `C += scale · A · B`, in place.
pub fn matmul_add(c: Matrix, scale: f32, layout: Layout, a: &Matrix, b: &Matrix) -> Matrix {
    let (m, n, _) = layout.sizes(a.shape(), b.shape());
    assert_eq!(c.shape(), [m, n], "target of a product");
    let (x, y) = (a.tensor().into_dispatch(), b.tensor().into_dispatch());
    c.in_place("matmul_add", |c| {
        Tensor::from_dispatch(<Dispatch as TrainOps>::matmul_add(
            c.into_dispatch(),
            scale,
            layout,
            x,
            y,
        ))
    })
}

pub(super) fn flex_matmul(
    scale: f32,
    layout: Layout,
    a: &FlexTensor,
    b: &FlexTensor,
) -> FlexTensor {
    let (m, n, _) = layout.sizes(flex::sizes(a), flex::sizes(b));
    let mut c = pool::buffer(m * n);
    multiply_values(&mut c, n, Write::Replace, scale, layout, a, b);
    flex::matrix(c, [m, n])
}

pub(super) fn flex_matmul_add(
    mut c: FlexTensor,
    scale: f32,
    layout: Layout,
    a: &FlexTensor,
    b: &FlexTensor,
) -> FlexTensor {
    let n = flex::sizes(&c)[1];
    multiply_values(flex::values_mut(&mut c), n, Write::Add, scale, layout, a, b);
    c
}

fn multiply_values(
    c: &mut [f32],
    columns: usize,
    write: Write,
    scale: f32,
    layout: Layout,
    a: &FlexTensor,
    b: &FlexTensor,
) {
    let a = gemm::view(flex::values(a), flex::sizes(a)[1]);
    let b = gemm::view(flex::values(b), flex::sizes(b)[1]);
    let (a, b) = gemm::operands(layout, a, b);
    gemm::multiply_tiled(gemm::view_mut(c, columns), write, scale, a, b);
}

pub(super) fn default_matmul<B: Backend>(
    scale: f32,
    layout: Layout,
    a: Float<B>,
    b: Float<B>,
) -> Float<B> {
    let (a, b) = match layout {
        Layout::Nn => (a, b),
        Layout::Nt => (a, B::float_transpose(b)),
        Layout::Tn => (B::float_transpose(a), b),
    };
    scaled::<B>(B::float_matmul(a, b), scale)
}

pub(super) fn default_matmul_add<B: Backend>(
    c: Float<B>,
    scale: f32,
    layout: Layout,
    a: Float<B>,
    b: Float<B>,
) -> Float<B> {
    add::<B>(c, default_matmul::<B>(scale, layout, a, b))
}
