//! SwiGLU.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements, empty, sizes};
use super::rows::{over_items, vector};

static SWIGLU: Shader = Shader::new(
    "swiglu",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/swiglu.wgsl")
    ),
);
static SWIGLU_BACKWARD: Shader = Shader::new(
    "swiglu_backward",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/swiglu_backward.wgsl")
    ),
);

pub(super) fn swiglu(gate: &CubeTensor, up: &CubeTensor) -> CubeTensor {
    let h = empty::<2>(gate, sizes(gate));
    let vec = vector(elements(gate));
    let vectors = elements(gate) / vec;
    let launch = SWIGLU.launch().constant("VEC", vec).tensor(gate).tensor(up).tensor(&h);
    over_items(launch.uint(vectors).work(elements(gate) * 24), gate, vectors);
    h
}

pub(super) fn swiglu_backward(
    dh: CubeTensor,
    gate: CubeTensor,
    up: CubeTensor,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    for target in [&dh, &gate, &up] {
        assert_unique(target, "swiglu_backward");
    }
    let vec = vector(elements(&gate));
    let vectors = elements(&gate) / vec;
    let launch = SWIGLU_BACKWARD.launch().constant("VEC", vec);
    let launch = launch.tensor(&dh).tensor(&gate).tensor(&up).uint(vectors);
    over_items(launch.work(elements(&gate) * 40), &gate, vectors);
    (gate, up, dh)
}
