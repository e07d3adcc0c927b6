//! Programs that show what a device can do at most.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, elements};
use super::elementwise_groups;

static CEILING: Shader = Shader::new("ceiling", include_str!("../../../shaders/ceiling.wgsl"));
static COPY: Shader = Shader::new("bandwidth", include_str!("../../../shaders/bandwidth.wgsl"));

/// Steps of an invocation in one turn, each a multiplication and an addition.
pub(in crate::kernels) const STEPS_A_TURN: usize = 64;

/// `turns` turns of an invocation to each element of `sums`.
pub(in crate::kernels) fn multiply_and_add(sums: &CubeTensor, turns: usize) {
    let n = elements(sums);
    let (workgroup, groups) = elementwise_groups(sums, n);
    CEILING
        .launch()
        .constant("WORKGROUP", workgroup)
        .tensor(sums)
        .uint(n)
        .uint(turns)
        .float(0.999)
        .float(0.001)
        .work(2 * STEPS_A_TURN * turns * n)
        .over(groups);
}

/// `to = from`; the number of elements is a multiple of four.
pub(in crate::kernels) fn copy(from: &CubeTensor, to: &CubeTensor) {
    let quads = elements(to) / 4;
    let (workgroup, groups) = elementwise_groups(to, quads);
    COPY.launch()
        .constant("WORKGROUP", workgroup)
        .tensor(from)
        .tensor(to)
        .uint(quads)
        .work(32 * quads)
        .over(groups);
}
