//! Values at fixed places of a matrix: added, and read.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements, empty};
use super::rows::over_items;

static SCATTER_ADD: Shader =
    Shader::new("scatter_add", include_str!("../../../shaders/scatter_add.wgsl"));
static GATHER: Shader = Shader::new("gather", include_str!("../../../shaders/gather.wgsl"));

/// `dense[places[k]] += values[k]`, in place.
pub(super) fn scatter_add(
    dense: CubeTensor,
    places: &CubeTensor,
    values: &CubeTensor,
) -> CubeTensor {
    assert_unique(&dense, "scatter_add");
    let count = elements(places);
    let launch = SCATTER_ADD.launch().tensor(&dense).tensor(places).tensor(values);
    let launch = launch.uint(count).uint(elements(&dense));
    over_items(launch.work(16 * count), &dense, count);
    dense
}

/// `dense[places[k]]`, or added to `acc` in place.
pub(super) fn gather(
    acc: Option<CubeTensor>,
    dense: &CubeTensor,
    places: &CubeTensor,
) -> CubeTensor {
    let count = elements(places);
    let adds = u32::from(acc.is_some());
    let out = if let Some(acc) = acc {
        assert_unique(&acc, "gather");
        acc
    } else {
        empty(dense, [1, count])
    };
    let launch = GATHER.launch().constant("ADD", adds);
    let launch = launch.tensor(dense).tensor(places).tensor(&out);
    let launch = launch.uint(count).uint(elements(dense)).float(f32::NAN);
    over_items(launch.work(16 * count), dense, count);
    out
}
