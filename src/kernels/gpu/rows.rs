//! What the programs over rows and elements have in common.

use burn::backend::wgpu::CubeTensor;

use crate::device::gpu::Tiling;

use super::super::launch::{self, Launch};
use super::elementwise_groups;

/// Elements of one load: 4 where every row has a multiple of 4 of them, else 1.
pub(super) fn vector(width: usize) -> usize {
    if width.is_multiple_of(4) { 4 } else { 1 }
}

/// Invocations of a workgroup that works on one row.
const ROW_WORKGROUP: usize = 256;
/// Invocations of a workgroup that take a row each. More would leave cores idle at small batches.
const DIRECT_WORKGROUP: usize = 16;

/// Runs a program of an invocation to each of `items`, whose workgroup is `WORKGROUP`.
pub(super) fn over_items(launch: Launch<'_>, like: &CubeTensor, items: usize) {
    let (workgroup, groups) = elementwise_groups(like, items);
    launch.constant("WORKGROUP", workgroup).over(groups);
}

/// Runs a program over rows: a workgroup to a row (`TREE` 1), or on software adapters an invocation.
pub(super) fn over_rows(launch: Launch<'_>, like: &CubeTensor, rows: usize) {
    match launch::gpu(like).tiling {
        Tiling::Workgroup => {
            launch.constant("TREE", 1).constant("WORKGROUP", ROW_WORKGROUP).over(rows);
        }
        Tiling::Direct => {
            let groups = rows.div_ceil(DIRECT_WORKGROUP);
            launch.constant("TREE", 0).constant("WORKGROUP", DIRECT_WORKGROUP).over(groups);
        }
    }
}

/// Runs a program of one workgroup, which is one invocation on software adapters.
pub(super) fn over_one(launch: Launch<'_>, like: &CubeTensor) {
    match launch::gpu(like).tiling {
        Tiling::Workgroup => {
            launch.constant("TREE", 1).constant("WORKGROUP", ROW_WORKGROUP).over(1);
        }
        Tiling::Direct => launch.constant("TREE", 0).constant("WORKGROUP", 1).over(1),
    }
}
