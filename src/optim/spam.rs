//! SPAM: momentum that begins anew every so often, with a warm-up after it, and gradients that are clipped where they
//! stick out of their own second moments. Source: arXiv:2501.06842 and the authors' code.
//!
//! It acts on the gradients and moments of whatever a method trains, so it goes with any of them. When it does what
//! depends on `t` alone: a checkpoint needs nothing of it.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use crate::device::Device;
use crate::device::memory::Category;
use crate::kernels::spikes::{Mask, SpikeRule, clip_spikes};
use crate::kernels::{Matrix, Vector};
use crate::model::{Model, ParamId};
use crate::random::stream;

/// Updates after the start and after each reset in which nothing is clipped: second moments that have seen little are
/// no measure.
const UNSETTLED: u64 = 20;

/// The step right after a reset is this much smaller.
const FIRST_CUT: f64 = 0.99;

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Updates from one reset of the moments to the next.
    pub reset_every: u64,
    /// Updates after a reset until the step has its full size again.
    pub warmup: u64,
    /// An entry is clipped where its square is above this times its second moment.
    pub threshold: f64,
    /// The share of each dense target weight that is trained between two resets.
    pub density: f64,
    /// Seed of the masks.
    pub seed: u64,
}

impl Rules {
    /// Resets before update index `t`, that of this update included.
    pub fn resets(&self, t: u64) -> u64 {
        t / self.reset_every.max(1)
    }

    /// Updates since the last reset, or since the start.
    fn since(&self, t: u64) -> u64 {
        t % self.reset_every.max(1)
    }

    /// Whether update index `t` begins with moments of zero. The start of a run is no reset.
    pub fn resets_at(&self, t: u64) -> bool {
        t > 0 && self.since(t) == 0
    }

    /// What the step of update index `t` is multiplied by: from 0.01 right after a reset to 1, along a cosine.
    pub fn factor(&self, t: u64) -> f64 {
        let since = self.since(t);
        if self.resets(t) == 0 || since > self.warmup {
            return 1.0;
        }
        let turn = since as f64 / (self.warmup + 1) as f64;
        1.0 - FIRST_CUT * 0.5 * (1.0 + (PI * turn).cos())
    }

    /// Whether update index `t` clips: not while second moments that have just begun say nothing yet.
    pub fn clips_at(&self, t: u64) -> bool {
        self.since(t) >= UNSETTLED
    }
}

/// SPAM between the clipping by norm and Adam.
#[derive(Debug)]
pub struct Spam {
    rules: Rules,
    clips: bool,
    /// Key of the mask of each dense target weight, where the density is below 1.
    masks: BTreeMap<ParamId, u32>,
    /// The resets that the masks were drawn for.
    masks_of: Option<u64>,
    /// Entries clipped in this update, and the largest ratio, `[2]`; none where nothing could be.
    tally: Option<Vector>,
}

impl Spam {
    /// Nothing is clipped before [`Spam::begin_update`].
    pub fn new(rules: Rules) -> Self {
        Self { rules, clips: false, masks: BTreeMap::new(), masks_of: None, tally: None }
    }

    /// The settings.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Sets what the update with index `t` does to gradients.
    pub fn begin_update(&mut self, model: &Model, t: u64) {
        self.clips = self.rules.clips_at(t);
        let resets = self.rules.resets(t);
        if self.rules.density < 1.0 && self.masks_of != Some(resets) {
            let weights = model.linears().iter().filter_map(|linear| linear.weight);
            let trained = weights.filter(|&id| model.params.is_trainable(id));
            let key = |id| {
                let name = &model.params.get(id).name;
                (id, stream(self.rules.seed, name, "spam mask", resets).next_u32())
            };
            self.masks = trained.map(key).collect();
            self.masks_of = Some(resets);
        }
    }

    /// What happens to the gradient of a parameter in this update; `None`: nothing.
    fn rule(&self, id: ParamId) -> Option<SpikeRule> {
        let threshold = self.clips.then_some(self.rules.threshold);
        let density = self.rules.density;
        let mask = self.masks.get(&id).map(|&key| Mask { key, density });
        (threshold.is_some() || mask.is_some()).then_some(SpikeRule { threshold, mask })
    }

    /// Whether this update changes the gradient of a parameter.
    pub fn acts_on(&self, id: ParamId) -> bool {
        self.rule(id).is_some()
    }

    /// The gradient that Adam sees; `clip [1]` multiplies it later, `exp_avg_sq` is from before the update.
    pub fn tame(
        &mut self,
        device: &Device,
        id: ParamId,
        grad: Matrix,
        clip: &Vector,
        exp_avg_sq: &Matrix,
    ) -> Matrix {
        let Some(rule) = self.rule(id) else { return grad };
        let none = || Vector::zeros([2], device, Category::Activations);
        let tally = self.tally.take().unwrap_or_else(none);
        let (grad, tally) = clip_spikes(grad, clip, exp_avg_sq, rule, tally);
        self.tally = Some(tally);
        grad
    }

    /// How many entries the last update clipped and the largest of their squares over their second moments, if any
    /// were. Waits for the device.
    pub fn read(&mut self) -> Option<(u64, f64)> {
        match self.tally.take()?.to_host()[..] {
            [count, largest] if count > 0.0 => Some((count as u64, f64::from(largest))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { reset_every: 500, warmup: 150, threshold: 5000.0, density: 1.0, seed: 0 };

    #[test]
    fn the_step_is_cut_after_each_reset_and_grows_along_a_cosine() {
        assert!([0, 1, 20, 499, 651, 800].iter().all(|&t| RULES.factor(t) == 1.0));
        assert!(
            (RULES.factor(500) - 0.01).abs() < 1e-12 && RULES.factor(1000) == RULES.factor(500)
        );
        let middle = RULES.factor(575) + RULES.factor(576);
        assert!((middle - 2.0 * 0.505).abs() < 1e-12, "{middle}");
        assert!(RULES.factor(650) > 0.9998 && RULES.factor(650) < 1.0);
    }

    #[test]
    fn resets_come_at_multiples_and_clipping_waits_after_them() {
        let resets: Vec<u64> = (0..1200).filter(|&t| RULES.resets_at(t)).collect();
        assert_eq!(resets, [500, 1000]);
        for (t, clips) in [(0, false), (19, false), (20, true), (499, true), (500, false)] {
            assert_eq!(RULES.clips_at(t), clips, "at {t}");
        }
        assert!(!RULES.clips_at(519) && RULES.clips_at(520));
    }
}
