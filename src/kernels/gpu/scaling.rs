//! Scaling by device factors, norms in proportion, the limiter.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{self, Shader, assert_unique, elements, sizes};
use super::super::scaling::{Along, LEAST_NORM, NORM_EPS};
use super::elementwise_groups;
use super::grid::{rowwise, wide};
use super::sums::{Terms, parts};

static SCALE: Shader = Shader::new("scale", include_str!("../../../shaders/scale.wgsl"));
static ADD_SCALED: Shader =
    Shader::new("add_scaled", include_str!("../../../shaders/add_scaled.wgsl"));
static NORM_RATIOS: Shader =
    Shader::new("norm_ratios", include_str!("../../../shaders/norm_ratios.wgsl"));
static LIMIT_GROWTH: Shader =
    Shader::new("limit_growth", include_str!("../../../shaders/limit_growth.wgsl"));

/// `x` times factors, in place.
pub(super) fn scale(x: CubeTensor, factors: &CubeTensor, along: Along) -> CubeTensor {
    assert_unique(&x, "scale");
    let [rows, width] = if along == Along::All { [1, elements(&x)] } else { sizes(&x) };
    let (is_wide, width) = wide(width);
    let cut = rowwise(&x, rows, width);
    let along = match along {
        Along::All => 0,
        Along::Rows => 1,
        Along::Columns => 2,
    };
    SCALE
        .launch()
        .constant("WIDE", is_wide)
        .constant("ALONG", along)
        .constant("STEPS", cut.steps)
        .constant("WORKGROUP", cut.workgroup)
        .tensor(&x)
        .tensor(factors)
        .uint(rows)
        .uint(width)
        .work(8 * elements(&x))
        .over(cut.groups);
    x
}

/// `acc += rate·factor·x`, in place.
pub(super) fn add_scaled(
    acc: CubeTensor,
    rate: f32,
    factor: &CubeTensor,
    x: &CubeTensor,
) -> CubeTensor {
    assert_unique(&acc, "add_scaled");
    let (is_wide, width) = wide(elements(x));
    let cut = rowwise(x, 1, width);
    ADD_SCALED
        .launch()
        .constant("WIDE", is_wide)
        .constant("STEPS", cut.steps)
        .constant("WORKGROUP", cut.workgroup)
        .tensor(&acc)
        .tensor(factor)
        .tensor(x)
        .uint(width)
        .float(rate)
        .work(12 * elements(x))
        .over(cut.groups);
    acc
}

/// Norms of the vectors of `x` over those of `y`.
pub(super) fn norm_ratios(x: &CubeTensor, y: &CubeTensor, along: Along) -> CubeTensor {
    let (x_sums, y_sums) = (parts(x, along, Terms::Squares), parts(y, along, Terms::Squares));
    let [parts, vectors] = sizes(&x_sums);
    let out = launch::empty(x, [vectors]);
    let (workgroup, groups) = elementwise_groups(x, vectors);
    NORM_RATIOS
        .launch()
        .constant("WORKGROUP", workgroup)
        .tensor(&x_sums)
        .tensor(&y_sums)
        .tensor(&out)
        .uint(vectors)
        .uint(parts)
        .float(NORM_EPS as f32)
        .over(groups);
    out
}

/// `(factor, norm, ratio)`.
pub(super) fn limit_growth(
    squares: &CubeTensor,
    previous: &CubeTensor,
    gamma: f64,
    unit: f64,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [factor, norm, ratio] = [(); 3].map(|()| launch::empty(squares, [1]));
    LIMIT_GROWTH
        .launch()
        .tensor(squares)
        .tensor(previous)
        .tensor(&factor)
        .tensor(&norm)
        .tensor(&ratio)
        .float(gamma as f32)
        .float(unit as f32)
        .float(NORM_EPS as f32)
        .float(LEAST_NORM as f32)
        .over(1);
    (factor, norm, ratio)
}
