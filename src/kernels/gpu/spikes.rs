//! Clipping of gradients beside their own second moments.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements};
use super::super::spikes::SpikeRule;
use super::grid::rowwise;

static CLIP_SPIKES: Shader =
    Shader::new("clip_spikes", include_str!("../../../shaders/clip_spikes.wgsl"));

/// `(grad, tally)`, both in place.
pub(super) fn clip_spikes(
    grad: CubeTensor,
    scale: &CubeTensor,
    exp_avg_sq: &CubeTensor,
    rule: SpikeRule,
    tally: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    assert_unique(&grad, "clip_spikes");
    assert_unique(&tally, "clip_spikes");
    let count = elements(&grad);
    let cut = rowwise(&grad, 1, count);
    let (key, below) = rule.mask.map_or((0, 0), |mask| (mask.key, mask.below()));
    CLIP_SPIKES
        .launch()
        .constant("STEPS", cut.steps)
        .constant("WORKGROUP", cut.workgroup)
        .tensor(&grad)
        .tensor(exp_avg_sq)
        .tensor(scale)
        .tensor(&tally)
        .uint(count)
        .uint(u32::from(rule.threshold.is_some()))
        .float(rule.threshold.unwrap_or(0.0) as f32)
        .uint(u32::from(rule.mask.is_some()))
        .uint(key)
        .uint(below)
        .work(12 * count)
        .over(cut.groups);
    (grad, tally)
}
