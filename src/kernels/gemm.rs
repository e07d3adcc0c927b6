//! Matrix products on host slices: views, the cut of the output into tiles, and the sequential product.
//!
//! The products themselves are faer's: safe to call, and near the peak of AVX-512 in every layout (95 to
//! 112 of 112 GFLOP/s a core on Zen 4, `fullrank bench --kernels-only`; the gemm crate is as fast where
//! its operands suit it, but falls to 30 to 70 in layout NT with a long inner dimension).
//! Every tile is one sequential product over the whole inner dimension, and the tiles depend on the
//! sizes only: the bits do not depend on the number of threads.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::math::{sum2, vectorised};
use super::matmul::Layout;

/// A view of a row-major matrix.
pub(super) type View<'a> = MatRef<'a, f32>;
/// A view to write to.
pub(super) type ViewMut<'a> = MatMut<'a, f32>;

/// Rows of an output tile. Each tile packs its operands anew, which costs `1/TILE_ROWS` of the work.
const TILE_ROWS: usize = 128;
/// Columns of an output tile where there are few rows.
const TILE_COLUMNS: usize = 128;
/// Columns of an output tile where the rows alone give enough tiles.
const WIDE_TILE_COLUMNS: usize = 1024;
/// Weights of one task of a product with a single row: 128 KiB, so that waking a thread costs little beside it.
pub(super) const ROW_TASK: usize = 32 * 1024;
/// So many row tiles are enough work for all threads.
const MANY_ROW_TILES: usize = 8;

/// What to do with the values that are in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// Overwrite them.
    Replace,
    /// Add to them.
    Add,
}

impl From<Write> for Accum {
    fn from(write: Write) -> Self {
        match write {
            Write::Replace => Accum::Replace,
            Write::Add => Accum::Add,
        }
    }
}

/// `values` as a matrix of `columns` columns.
pub(super) fn view(values: &[f32], columns: usize) -> View<'_> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    MatRef::from_row_major_slice(values, rows, columns)
}

/// `values` as a matrix of `columns` columns, to write to.
pub(super) fn view_mut(values: &mut [f32], columns: usize) -> ViewMut<'_> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    MatMut::from_row_major_slice_mut(values, rows, columns)
}

/// The operands of a product as they are stored, turned so that the product is plain `A · B`.
pub(super) fn operands<'a>(layout: Layout, a: View<'a>, b: View<'a>) -> (View<'a>, View<'a>) {
    match layout {
        Layout::Nn => (a, b),
        Layout::Nt => (a, b.transpose()),
        Layout::Tn => (a.transpose(), b),
    }
}

/// `C = scale·A·B` or `C += scale·A·B` on the calling thread.
pub(super) fn multiply(c: ViewMut<'_>, write: Write, scale: f32, a: View<'_>, b: View<'_>) {
    matmul(c, write.into(), a, b, scale, Par::Seq);
}

/// The same on all threads, tile by tile.
pub(super) fn multiply_tiled(
    mut c: ViewMut<'_>,
    write: Write,
    scale: f32,
    a: View<'_>,
    b: View<'_>,
) {
    if multiply_row(c.as_mut(), write, scale, a, b) {
        return;
    }
    let tile_columns =
        if c.nrows() >= MANY_ROW_TILES * TILE_ROWS { WIDE_TILE_COLUMNS } else { TILE_COLUMNS };
    let tiles = tiles(c, TILE_ROWS, tile_columns);
    tiles.into_par_iter().for_each(|(row, column, tile)| {
        let a = a.subrows(row, tile.nrows());
        let b = b.subcols(column, tile.ncols());
        multiply(tile, write, scale, a, b);
    });
}

/// The product of one row with a matrix whose columns are contiguous: a weight `[out, in]` on one token. Says whether it
/// is such a product.
///
/// Nothing is used twice here, so the weight's way from memory is all that counts: each is read once, in its order, by
/// whichever thread is free. A dot product has the order of `sum2`, on any number of threads.
fn multiply_row(c: ViewMut<'_>, write: Write, scale: f32, a: View<'_>, b: View<'_>) -> bool {
    if a.nrows() != 1 || c.nrows() != 1 || b.nrows() == 0 || b.row_stride() != 1 {
        return false;
    }
    let x = a.row(0).transpose().try_as_col_major();
    let y = c.row_mut(0).transpose_mut().try_as_col_major_mut();
    let (Some(x), Some(y)) = (x, y) else { return false };
    let (x, y) = (x.as_slice(), y.as_slice_mut());
    let columns = (ROW_TASK / x.len()).max(1);
    y.par_chunks_mut(columns).enumerate().for_each(|(task, y)| {
        vectorised(
            #[inline(always)]
            || {
                for (j, y) in y.iter_mut().enumerate() {
                    let column = b.col(task * columns + j).try_as_col_major();
                    let dot = column.map_or(0.0, |w| sum2(x, w.as_slice(), |x, w| x * w));
                    *y = match write {
                        Write::Replace => scale * dot,
                        Write::Add => *y + scale * dot,
                    };
                }
            },
        );
    });
    true
}

/// Cuts a matrix into tiles, each with its first row and column.
pub(super) fn tiles(
    c: ViewMut<'_>,
    rows: usize,
    columns: usize,
) -> Vec<(usize, usize, ViewMut<'_>)> {
    let mut tiles = Vec::new();
    let mut below = c;
    let mut row = 0;
    while below.nrows() > 0 {
        let height = rows.min(below.nrows());
        let (mut right, rest) = below.split_at_row_mut(height);
        below = rest;
        let mut column = 0;
        while right.ncols() > 0 {
            let width = columns.min(right.ncols());
            let (tile, rest) = right.split_at_col_mut(width);
            right = rest;
            tiles.push((row, column, tile));
            column += width;
        }
        row += height;
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_gives_what_many_rows_give() {
        for (inner, columns) in [(1, 1), (7, 3), (16, 40), (65, 1000), (40_000, 3)] {
            let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
            let x: Vec<f32> = (0..inner).map(value).collect();
            let w: Vec<f32> = (0..inner * columns).map(|i| value(i + 5)).collect();
            for (write, scale) in [(Write::Replace, 1.0), (Write::Add, -0.5)] {
                let mut row = vec![2.0; columns];
                let mut wanted = vec![2.0; columns];
                let (a, b) = operands(Layout::Nt, view(&x, inner), view(&w, inner));
                assert!(multiply_row(view_mut(&mut row, columns), write, scale, a, b));
                multiply(view_mut(&mut wanted, columns), write, scale, a, b);
                // Sums of `inner` products of at most 1, added in another order.
                let tolerance = 1e-6 * (1.0 + inner as f32);
                for (a, b) in row.iter().zip(&wanted) {
                    assert!((a - b).abs() <= tolerance, "{inner} {columns}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn other_products_are_left_to_the_tiles() {
        let (x, w, mut y) = ([1.0; 6], [1.0; 6], [0.0; 4]);
        let (a, b) = operands(Layout::Nt, view(&x, 3), view(&w, 3));
        assert!(!multiply_row(view_mut(&mut y, 2), Write::Replace, 1.0, a, b));
        let (a, b) = operands(Layout::Nn, view(&x[..3], 3), view(&w, 2));
        assert!(!multiply_row(view_mut(&mut y[..2], 2), Write::Replace, 1.0, a, b));
    }
}
