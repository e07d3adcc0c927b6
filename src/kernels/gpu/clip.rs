//! Norms of gradients, the clip factor, and what the host reads of an update.

use burn::backend::TensorMetadata;
use burn::backend::wgpu::CubeTensor;

use super::super::clip::CLIP_EPS;
use super::super::launch::{self, Shader, assert_unique, elements};
use super::canary;
use super::fill::fill;
use super::grid::{rowwise, wide};
use super::sums::{Terms, add_total};

static CLIP_FACTOR: Shader =
    Shader::new("clip_factor", include_str!("../../../shaders/clip_factor.wgsl"));
static GUARD: Shader = Shader::new("guard", include_str!("../../../shaders/guard.wgsl"));
static PAIR: Shader = Shader::new("pair", include_str!("../../../shaders/pair.wgsl"));
static COPY: Shader = Shader::new("copy", include_str!("../../../shaders/copy.wgsl"));

/// `acc += Σ x²`, in place.
pub(super) fn add_sum_squares(acc: CubeTensor, x: &CubeTensor) -> CubeTensor {
    assert_unique(&acc, "add_sum_squares");
    add_total(&acc, x, Terms::Squares);
    acc
}

/// The factor that brings a gradient to `max_norm`.
pub(super) fn clip_factor(sum_squares: &CubeTensor, max_norm: f64) -> CubeTensor {
    let out = launch::empty(sum_squares, [1]);
    if max_norm <= 0.0 {
        fill(&out, 1.0);
        return out;
    }
    CLIP_FACTOR
        .launch()
        .tensor(sum_squares)
        .tensor(&out)
        .float(max_norm as f32)
        .float(CLIP_EPS as f32)
        .over(1);
    out
}

/// `yes` where the number is finite and not negative, else `no`.
pub(super) fn guard(x: &CubeTensor, yes: f32, no: f32) -> CubeTensor {
    let out = launch::empty(x, [1]);
    GUARD.launch().tensor(x).tensor(&out).float(yes).float(no).over(1);
    out
}

/// Two numbers, and `serial` plus what the canary lacks, to be read at once.
pub(super) fn pair(a: &CubeTensor, b: &CubeTensor, serial: f32) -> CubeTensor {
    let out = launch::empty(a, [3]);
    canary::state(a, |counter, counted| {
        let launch = PAIR.launch().tensor(a).tensor(b).tensor(counter).tensor(&out);
        launch.float(counted).float(serial).over(1);
    });
    out
}

/// A copy into storage of its own, of any number of dimensions.
pub(super) fn copy(x: &CubeTensor) -> CubeTensor {
    let out = launch::empty_shaped(x, x.shape());
    let (is_wide, width) = wide(elements(x));
    let cut = rowwise(x, 1, width);
    COPY.launch()
        .constant("WIDE", is_wide)
        .constant("STEPS", cut.steps)
        .constant("WORKGROUP", cut.workgroup)
        .tensor(x)
        .tensor(&out)
        .uint(width)
        .work(8 * elements(x))
        .over(cut.groups);
    out
}
