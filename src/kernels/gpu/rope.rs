//! Rotary position embedding.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements, sizes};
use super::super::rope::Rotation;
use super::rows::{over_items, vector};

static ROPE: Shader = Shader::new("rope", include_str!("../../../shaders/rope.wgsl"));

pub(super) fn rope(
    x: CubeTensor,
    positions: &CubeTensor,
    cos: &CubeTensor,
    sin: &CubeTensor,
    rotation: Rotation,
) -> CubeTensor {
    assert_unique(&x, "rope");
    let ([rows, width], [table, half]) = (sizes(&x), sizes(cos));
    let vec = vector(half);
    let items = rows * width / 2 / vec;
    let launch = ROPE
        .launch()
        .constant("HALF", half)
        .constant("HEADS", width / (2 * half))
        .constant("VEC", vec);
    let launch = launch.tensor(&x).tensor(positions).tensor(cos).tensor(sin);
    let launch = launch.uint(items).uint(table).float(rotation.sign());
    over_items(launch.work(elements(&x) * 12), &x, items);
    x
}
