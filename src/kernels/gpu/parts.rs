//! What a table in several parts needs beside the operations on one: columns of logits, rows of some ids.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements, empty, sizes};
use super::rows::over_items;

static COLUMNS: Shader = Shader::new("columns", include_str!("../../../shaders/columns.wgsl"));

fn run(take: u32, wide: &CubeTensor, narrow: &CubeTensor, at: usize) {
    let ([_, wide_width], [_, width]) = (sizes(wide), sizes(narrow));
    let count = elements(narrow);
    let launch = COLUMNS.launch().constant("TAKE", take).tensor(wide).tensor(narrow);
    let launch = launch.uint(count).uint(width).uint(wide_width).uint(at);
    over_items(launch.work(count * 8), narrow, count);
}

/// Writes `narrow` to the columns of `wide` from `at` on, in place.
pub(super) fn put_columns(wide: CubeTensor, narrow: &CubeTensor, at: usize) -> CubeTensor {
    assert_unique(&wide, "put_columns");
    run(0, &wide, narrow, at);
    wide
}

/// The `width` columns from `at` on.
pub(super) fn take_columns(wide: &CubeTensor, at: usize, width: usize) -> CubeTensor {
    let [rows, _] = sizes(wide);
    let narrow = empty(wide, [rows, width]);
    run(1, wide, &narrow, at);
    narrow
}
