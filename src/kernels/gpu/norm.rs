//! RMSNorm and the residual addition.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements, empty, sizes};
use super::rows::{over_items, over_rows, vector};

static RMS_NORM: Shader = Shader::new(
    "rms_norm",
    concat!(
        include_str!("../../../shaders/row_sum.wgsl"),
        include_str!("../../../shaders/rms_norm.wgsl")
    ),
);
static RMS_NORM_APPLY: Shader =
    Shader::new("rms_norm_apply", include_str!("../../../shaders/rms_norm_apply.wgsl"));
static RMS_NORM_BACKWARD: Shader = Shader::new(
    "rms_norm_backward",
    concat!(
        include_str!("../../../shaders/row_sum.wgsl"),
        include_str!("../../../shaders/rms_norm_backward.wgsl")
    ),
);
static GAIN_GRAD: Shader =
    Shader::new("rms_norm_gain_grad", include_str!("../../../shaders/rms_norm_gain_grad.wgsl"));
static SUM_PARTIALS: Shader =
    Shader::new("sum_partials", include_str!("../../../shaders/sum_partials.wgsl"));
static ADD_RESIDUAL: Shader =
    Shader::new("add_residual", include_str!("../../../shaders/add_residual.wgsl"));

/// Rows whose gain gradient one invocation sums.
const GAIN_ROWS: usize = 64;

pub(super) fn add_residual(x: &CubeTensor, delta: CubeTensor) -> CubeTensor {
    assert_unique(&delta, "add_residual");
    let vec = vector(elements(x));
    let vectors = elements(x) / vec;
    let launch = ADD_RESIDUAL.launch().constant("VEC", vec).tensor(x).tensor(&delta);
    over_items(launch.uint(vectors).work(elements(x) * 12), x, vectors);
    delta
}

pub(super) fn rms_norm(x: &CubeTensor, gain: &CubeTensor, eps: f32) -> (CubeTensor, CubeTensor) {
    let [rows, width] = sizes(x);
    let (y, rstd) = (empty(x, [rows, width]), empty(x, [rows]));
    let launch = RMS_NORM
        .launch()
        .constant("RESIDUAL", 0)
        .constant("WIDTH", width)
        .constant("VEC", vector(width));
    let launch = launch.tensor(x).tensor(gain).tensor(&y).tensor(&rstd).uint(rows).float(eps);
    over_rows(launch.work(rows * width * 12), x, rows);
    (y, rstd)
}

pub(super) fn add_rms_norm(
    x: &CubeTensor,
    delta: CubeTensor,
    gain: &CubeTensor,
    eps: f32,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    assert_unique(&delta, "add_rms_norm");
    let [rows, width] = sizes(x);
    let (y, rstd) = (empty(x, [rows, width]), empty(x, [rows]));
    let launch = RMS_NORM
        .launch()
        .constant("RESIDUAL", 1)
        .constant("WIDTH", width)
        .constant("VEC", vector(width));
    let launch = launch.tensor(x).tensor(gain).tensor(&y).tensor(&rstd).tensor(&delta);
    over_rows(launch.uint(rows).float(eps).work(rows * width * 24), x, rows);
    (delta, y, rstd)
}

pub(super) fn rms_norm_apply(x: &CubeTensor, gain: &CubeTensor, rstd: &CubeTensor) -> CubeTensor {
    let [rows, width] = sizes(x);
    let vec = vector(width);
    let y = empty(x, [rows, width]);
    let vectors = rows * width / vec;
    let launch = RMS_NORM_APPLY.launch().constant("WIDTH", width).constant("VEC", vec);
    let launch = launch.tensor(x).tensor(gain).tensor(&y).tensor(rstd).uint(vectors);
    over_items(launch.work(rows * width * 12), x, vectors);
    y
}

pub(super) fn rms_norm_backward(
    residual_grad: CubeTensor,
    dy: &CubeTensor,
    x: &CubeTensor,
    gain: &CubeTensor,
    rstd: &CubeTensor,
    gain_grad: Option<CubeTensor>,
) -> (CubeTensor, Option<CubeTensor>) {
    assert_unique(&residual_grad, "rms_norm_backward");
    let [rows, width] = sizes(x);
    let launch = RMS_NORM_BACKWARD.launch().constant("WIDTH", width).constant("VEC", vector(width));
    let launch = launch.tensor(&residual_grad).tensor(dy).tensor(x).tensor(gain).tensor(rstd);
    over_rows(launch.uint(rows).work(rows * width * 28), x, rows);
    let gain_grad = gain_grad.map(|acc| add_gain_grad(acc, dy, x, rstd));
    (residual_grad, gain_grad)
}

/// In two stages: sums over chunks of rows, then their sum in order.
fn add_gain_grad(
    acc: CubeTensor,
    dy: &CubeTensor,
    x: &CubeTensor,
    rstd: &CubeTensor,
) -> CubeTensor {
    assert_unique(&acc, "rms_norm_backward");
    let [rows, width] = sizes(x);
    let vec = vector(width);
    let chunks = rows.div_ceil(GAIN_ROWS);
    let partials = empty(x, [chunks, width]);
    let vectors = chunks * width / vec;
    let launch = GAIN_GRAD
        .launch()
        .constant("WIDTH", width)
        .constant("VEC", vec)
        .constant("ROWS", GAIN_ROWS);
    let launch = launch.tensor(dy).tensor(x).tensor(rstd).tensor(&partials);
    over_items(launch.uint(rows).uint(vectors).work(rows * width * 12), x, vectors);
    add_partials(&acc, &partials);
    acc
}

/// `acc [1, width] += partials [chunks, width]`, in place and in the order of the chunks.
pub(super) fn add_partials(acc: &CubeTensor, partials: &CubeTensor) {
    let [chunks, width] = sizes(partials);
    let launch = SUM_PARTIALS.launch().tensor(acc).tensor(partials).uint(width).uint(chunks);
    over_items(launch, partials, width);
}
