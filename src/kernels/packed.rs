//! Frozen matrices in few bits, and their products: decoded where they are used, never kept in full.
//!
//! On flex a task decodes a panel of the matrix into a buffer of its own and multiplies some token rows with it. On a
//! GPU the tile of a product decodes what it loads.

use burn::backend::{Backend, Dispatch, Scalar};
use burn::tensor::{Shape, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::device::Device;
use crate::device::memory::Category;

use super::fallback::{Float, Int, add, constant, mul, reshape, slice};
use super::flex;
use super::gemm::{self, Write};
use super::math::{sum2, vectorised};
use super::matmul::{Layout, default_matmul, matmul, matmul_scaled};
use super::ops::{MaybeTensor, TrainOps};
use super::pool;
use super::{Indices, Matrix, Vector};

mod code;

pub use code::{BLOCK, Codes, Format, LEVELS, NoCode, Packing};

/// Token rows of one task: so many that decoding a panel once more for each costs little.
const ROWS: usize = 1024;
/// Rows or columns of the packed matrix that a task decodes at once: a block.
const PANEL: usize = BLOCK;

/// A matrix `[rows, cols]` in few bits on a device; frozen.
#[derive(Debug, Clone)]
pub struct Packed {
    packing: Packing,
    words: Indices,
    scales: Vector,
}

impl Packed {
    /// Copies codes to the device, counted as weights.
    pub fn from_host(codes: &Codes, device: &Device) -> Self {
        let scales = codes.scales.clone();
        let shape = [scales.len()];
        Self {
            packing: codes.packing,
            words: Indices::from_host(&codes.words, device, Category::Weights),
            scales: Vector::from_host(scales, shape, device, Category::Weights),
        }
    }

    /// Copies the codes to the host; waits for the device.
    pub fn to_host(&self) -> Codes {
        Codes { packing: self.packing, words: self.words.to_host(), scales: self.scales.to_host() }
    }

    /// The form.
    pub fn format(&self) -> Format {
        self.packing.format
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.packing.rows, self.packing.cols]
    }
}

/// A weight as it is stored.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// In f32.
    Dense(&'a Matrix),
    /// In few bits.
    Packed(&'a Packed),
}

impl Weight<'_> {
    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(w) => w.shape(),
            Self::Packed(w) => w.shape(),
        }
    }
}

/// `low_scale · P · Q`, which goes into the same pass as a product; P is stored as its first operand is, Q as its second.
#[derive(Debug, Clone, Copy)]
struct Low<'a> {
    p: &'a Matrix,
    q: &'a Matrix,
    scale: f32,
}

/// `x·Wᵀ [T, M]` (layout NT, `x [T, N]`) or `x·W [T, N]` (layout NN, `x [T, M]`) with `w [M, N]`, added to `acc` in place
/// if given.
///
/// Panics on other layouts and on sizes that do not fit.
pub fn packed_matmul(acc: Option<Matrix>, layout: Layout, x: &Matrix, w: &Packed) -> Matrix {
    product(acc, layout, x, w, None)
}

/// `scale · W·Aᵀ [M, R]` with `w [M, N]` and a thin `a [R, N]`: of `A·Wᵀ`, which is what the product can do, turned on the
/// way through `A·Wᵀ·I`.
pub(super) fn packed_times_transposed(scale: f32, w: &Packed, a: &Matrix) -> Matrix {
    let product = packed_matmul(None, Layout::Nt, a, w);
    let rank = a.shape()[0];
    let mut identity = vec![0.0; rank * rank];
    identity.iter_mut().step_by(rank + 1).for_each(|value| *value = 1.0);
    let identity = product.beside(identity, [rank, rank]);
    matmul_scaled(scale, Layout::Tn, &product, &identity)
}

/// [`super::lora::lora_linear`] with a packed weight.
pub fn packed_lora_linear(
    x: &Matrix,
    w: &Packed,
    a: &Matrix,
    b: &Matrix,
    scale: f32,
) -> (Matrix, Matrix) {
    let h = matmul(Layout::Nt, x, a);
    let y = product(None, Layout::Nt, x, w, Some(Low { p: &h, q: b, scale }));
    (y, h)
}

/// [`super::lora::lora_input_grad`] with a packed weight.
pub fn packed_lora_input_grad(
    acc: Option<Matrix>,
    dy: &Matrix,
    w: &Packed,
    a: &Matrix,
    b: &Matrix,
    scale: f32,
) -> (Matrix, Matrix) {
    let g = matmul_scaled(scale, Layout::Nn, dy, b);
    let dx = product(acc, Layout::Nn, dy, w, Some(Low { p: &g, q: a, scale: 1.0 }));
    (dx, g)
}

fn product(
    acc: Option<Matrix>,
    layout: Layout,
    x: &Matrix,
    w: &Packed,
    low: Option<Low<'_>>,
) -> Matrix {
    assert!(layout != Layout::Tn, "a packed matrix is the second operand as it is or transposed");
    let (m, n, _) = layout.sizes(x.shape(), w.shape());
    if let Some(low) = low {
        let (low_m, low_n, _) = layout.sizes(low.p.shape(), low.q.shape());
        assert_eq!([low_m, low_n], [m, n], "the thin product beside a product");
    }
    let run = |acc: Option<Tensor<2>>| {
        let factor = |of: fn(&Low<'_>) -> Tensor<2>| {
            MaybeTensor::new(low.as_ref().map(|low| of(low).into_dispatch()))
        };
        Tensor::from_dispatch(<Dispatch as TrainOps>::packed_product(
            MaybeTensor::new(acc.map(Tensor::into_dispatch)),
            x.tensor().into_dispatch(),
            w.words.tensor().into_dispatch(),
            w.scales.tensor().into_dispatch(),
            factor(|low| low.p.tensor()),
            factor(|low| low.q.tensor()),
            low.map_or(0.0, |low| low.scale),
            layout,
            w.packing,
        ))
    };
    match acc {
        Some(acc) => {
            assert_eq!(acc.shape(), [m, n], "target of a product");
            acc.in_place("packed_product", |acc| run(Some(acc)))
        }
        None => x.like(run(None)),
    }
}

pub(super) fn flex_packed_product(
    acc: Option<FlexTensor>,
    x: &FlexTensor,
    words: &FlexTensor,
    scales: &FlexTensor,
    low: Option<(&FlexTensor, &FlexTensor, f32)>,
    layout: Layout,
    packing: Packing,
) -> FlexTensor {
    let [tokens, inner] = flex::sizes(x);
    let width = if layout == Layout::Nt { packing.rows } else { packing.cols };
    let write = if acc.is_some() { Write::Add } else { Write::Replace };
    let mut out =
        acc.unwrap_or_else(|| flex::matrix(pool::buffer(tokens * width), [tokens, width]));
    let (words, scales) = (flex::indices(words), flex::values(scales));
    if tokens == 1 && layout == Layout::Nt {
        let low = low.map(|(p, q, scale)| (flex::values(p), flex::values(q), scale));
        let decode = |row, out: &mut [f32]| code::decode_part(packing, words, scales, row, 0, out);
        one_token(flex::values_mut(&mut out), write, flex::values(x), low, decode);
        return out;
    }
    let x = gemm::view(flex::values(x), inner);
    let low = low.map(|(p, q, scale)| {
        let p = gemm::view(flex::values(p), flex::sizes(p)[1]);
        let q = gemm::view(flex::values(q), flex::sizes(q)[1]);
        let (p, q) = gemm::operands(layout, p, q);
        (p, q, scale)
    });
    let tiles = gemm::tiles(gemm::view_mut(flex::values_mut(&mut out), width), ROWS, PANEL);
    tiles.into_par_iter().for_each_init(
        Vec::new,
        |panel: &mut Vec<f32>, (row, column, mut tile)| {
            let (height, tile_width) = (tile.nrows(), tile.ncols());
            panel.resize(inner * tile_width, 0.0);
            let is_row = layout == Layout::Nt;
            let length = if is_row { inner } else { tile_width };
            vectorised(
                #[inline(always)]
                || {
                    for (number, out) in panel.chunks_mut(length.max(1)).enumerate() {
                        let (row, column) =
                            if is_row { (column + number, 0) } else { (number, column) };
                        code::decode_part(packing, words, scales, row, column, out);
                    }
                },
            );
            let panel = gemm::view(panel, length);
            let dense = if is_row { panel.transpose() } else { panel };
            gemm::multiply(tile.as_mut(), write, 1.0, x.subrows(row, height), dense);
            if let Some((p, q, scale)) = low {
                let (p, q) = (p.subrows(row, height), q.subcols(column, tile_width));
                gemm::multiply(tile, Write::Add, scale, p, q);
            }
        },
    );
    out
}

/// The product with one token: nothing is used twice, so each row of the matrix is decoded and multiplied at once. A dot
/// product has the order of `sum2`, on any number of threads.
fn one_token(
    y: &mut [f32],
    write: Write,
    x: &[f32],
    low: Option<(&[f32], &[f32], f32)>,
    decode: impl Fn(usize, &mut [f32]) + Sync,
) {
    let rows = (gemm::ROW_TASK / x.len().max(1)).max(1);
    y.par_chunks_mut(rows).enumerate().for_each(|(task, y)| {
        let mut weights = vec![0.0; x.len()];
        vectorised(
            #[inline(always)]
            || {
                for (number, y) in y.iter_mut().enumerate() {
                    let row = task * rows + number;
                    decode(row, &mut weights);
                    let mut dot = sum2(x, &weights, |x, w| x * w);
                    if let Some((p, q, scale)) = low {
                        dot += scale * sum2(p, &q[row * p.len()..][..p.len()], |p, q| p * q);
                    }
                    *y = if write == Write::Add { *y + dot } else { dot };
                }
            },
        );
    });
}

/// The whole matrix by look-up.
fn default_decode<B: Backend>(words: Int<B>, scales: Float<B>, packing: Packing) -> Float<B> {
    let Packing { format, rows, cols } = packing;
    let (row_words, per_word) = (format.words_of_row(cols), format.per_word());
    let bits = 32 / per_word;
    let words = B::int_reshape(words, Shape::from([rows * row_words, 1]));
    let codes = (0..per_word).map(|place| {
        let shifted =
            B::bitwise_right_shift_scalar(words.clone(), Scalar::from((place * bits) as i32));
        B::bitwise_and_scalar(shifted, Scalar::from((1 << bits) - 1))
    });
    let codes = B::int_cat(codes.collect(), 1);
    let count = rows * row_words * per_word;
    let codes = B::int_reshape(codes, Shape::from([count]));
    let table = code::table(format);
    let entries = table.len();
    let table = constant::<B, 1>(table, [entries], &scales);
    let values = reshape::<B, 2>(B::float_select(table, 0, codes), [rows, row_words * per_word]);
    let values = slice::<B, 2>(values, [0..rows, 0..cols]);
    if format == Format::F16 {
        return values;
    }
    let blocks = format.scales_of_row(cols);
    let scales = reshape::<B, 3>(scales, [rows, blocks, 1]);
    let scales = reshape::<B, 2>(B::float_repeat_dim(scales, 2, BLOCK), [rows, blocks * BLOCK]);
    mul::<B>(values, slice::<B, 2>(scales, [0..rows, 0..cols]))
}

pub(super) fn default_packed_product<B: Backend>(
    acc: Option<Float<B>>,
    x: Float<B>,
    words: Int<B>,
    scales: Float<B>,
    low: Option<(Float<B>, Float<B>, f32)>,
    layout: Layout,
    packing: Packing,
) -> Float<B> {
    let w = default_decode::<B>(words, scales, packing);
    let product = default_matmul::<B>(1.0, layout, x, w);
    let product = match low {
        Some((p, q, scale)) => add::<B>(product, default_matmul::<B>(scale, layout, p, q)),
        None => product,
    };
    match acc {
        Some(acc) => add::<B>(acc, product),
        None => product,
    }
}
