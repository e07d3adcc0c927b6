//! How programs over the rows of a matrix are cut into invocations.

use burn::backend::wgpu::CubeTensor;

use crate::device::gpu::Tiling;

use super::super::launch;
use super::elementwise_groups;

/// A cut of `rows` rows into pieces of `steps` neighbours, an invocation to each.
pub(super) struct Cut {
    /// Neighbours in a row that one invocation takes.
    pub(super) steps: usize,
    /// Invocations of a workgroup.
    pub(super) workgroup: usize,
    /// Workgroups.
    pub(super) groups: usize,
}

/// The cut for rows of `width` elements (or vec4s).
pub(super) fn rowwise(like: &CubeTensor, rows: usize, width: usize) -> Cut {
    let steps = match launch::gpu(like).tiling {
        // Neighbouring invocations read neighbouring addresses.
        Tiling::Workgroup => 1,
        // Finding the row takes a division, which is dear there.
        Tiling::Direct => 16,
    };
    let (workgroup, groups) = elementwise_groups(like, rows * width.div_ceil(steps));
    Cut { steps, workgroup, groups }
}

/// Whether rows of `width` elements can be read as vec4s: `(1, width / 4)`, or `(0, width)`. The number is
/// the template's `WIDE`.
pub(super) fn wide(width: usize) -> (usize, usize) {
    if width.is_multiple_of(4) { (1, width / 4) } else { (0, width) }
}
