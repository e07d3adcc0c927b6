//! Trained lengths of the rows of a weight.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements, empty, sizes};
use super::super::magnitude::LEAST_LENGTH;
use super::norm::add_partials;
use super::rows::{over_items, vector};

static MAGNITUDE_FACTOR: Shader =
    Shader::new("magnitude_factor", include_str!("../../../shaders/magnitude_factor.wgsl"));
static SCALE_COLUMNS: Shader =
    Shader::new("scale_columns", include_str!("../../../shaders/scale_columns.wgsl"));
static MAGNITUDE_GRAD: Shader =
    Shader::new("magnitude_grad", include_str!("../../../shaders/magnitude_grad.wgsl"));

/// Rows whose gradient one invocation sums.
const GRAD_ROWS: usize = 64;

/// `(length, factor)`.
pub(super) fn magnitude_factor(
    magnitude: &CubeTensor,
    squares: &CubeTensor,
    b: &CubeTensor,
    crossed: &CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let [outputs, rank] = sizes(b);
    let (length, factor) = (empty(b, [outputs]), empty(b, [outputs]));
    let launch = MAGNITUDE_FACTOR
        .launch()
        .tensor(magnitude)
        .tensor(squares)
        .tensor(b)
        .tensor(crossed)
        .tensor(&length)
        .tensor(&factor)
        .uint(outputs)
        .uint(rank)
        .float(LEAST_LENGTH)
        .work(8 * elements(b));
    over_items(launch, b, outputs);
    (length, factor)
}

/// `x` times factors by column.
pub(super) fn scale_columns(x: &CubeTensor, factors: &CubeTensor) -> CubeTensor {
    let [rows, width] = sizes(x);
    let vec = vector(width);
    let y = empty(x, [rows, width]);
    let vectors = rows * width / vec;
    let launch = SCALE_COLUMNS.launch().constant("WIDTH", width).constant("VEC", vec);
    let launch = launch.tensor(x).tensor(factors).tensor(&y).uint(vectors);
    over_items(launch.work(rows * width * 8), x, vectors);
    y
}

/// `acc += Σ dy·z / length` by column, in place: sums over chunks of rows, then their sum in order.
pub(super) fn magnitude_grad(
    acc: CubeTensor,
    dy: &CubeTensor,
    z: &CubeTensor,
    length: &CubeTensor,
) -> CubeTensor {
    assert_unique(&acc, "magnitude_grad");
    let [rows, width] = sizes(z);
    let vec = vector(width);
    let chunks = rows.div_ceil(GRAD_ROWS);
    let partials = empty(z, [chunks, width]);
    let vectors = chunks * width / vec;
    let launch = MAGNITUDE_GRAD
        .launch()
        .constant("WIDTH", width)
        .constant("VEC", vec)
        .constant("ROWS", GRAD_ROWS);
    let launch = launch.tensor(dy).tensor(z).tensor(length).tensor(&partials);
    over_items(launch.uint(rows).uint(vectors).work(rows * width * 8), z, vectors);
    add_partials(&acc, &partials);
    acc
}
