//! Constant values.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, elements};
use super::elementwise_groups;

static FILL: Shader = Shader::new("fill", include_str!("../../../shaders/fill.wgsl"));

/// Sets every element.
pub(in crate::kernels) fn fill(x: &CubeTensor, value: f32) {
    let n = elements(x);
    let (workgroup, groups) = elementwise_groups(x, n.div_ceil(4));
    FILL.launch().constant("WORKGROUP", workgroup).tensor(x).uint(n).float(value).over(groups);
}
