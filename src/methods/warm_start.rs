//! A full-rank phase before the factors are made: everything is trained at a rate of its own, then the
//! optimizer starts anew. Shared by the methods that begin so; when the phase ends is decided by `t` alone,
//! so a checkpoint needs nothing of it.

use crate::error::Result;
use crate::optim::schedule::Schedule;
use crate::runlog::Phase;

use super::{Context, ScheduleIndex, resolved};

/// The length and the rate of a full-rank warm start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmStart {
    /// Its updates; 0: the factors are made before the first update.
    pub updates: u64,
    /// Its peak learning rate, reached after the warm-up and kept.
    pub learning_rate: f64,
}

impl WarmStart {
    /// A warm start from a method's settings; `key` is that of its rate. One of no updates has no rate.
    ///
    /// Errors: updates without a rate.
    pub fn new(updates: u64, learning_rate: Option<f64>, key: &str) -> Result<Self> {
        let learning_rate = if updates > 0 { resolved(learning_rate, key)? } else { 0.0 };
        Ok(Self { updates, learning_rate })
    }

    /// Whether the factors exist after `t` updates.
    pub fn is_over(&self, t: u64) -> bool {
        t >= self.updates
    }

    /// Whether update number `t` was the last of a warm start.
    pub fn ends_with(&self, t: u64) -> bool {
        self.updates > 0 && t == self.updates
    }

    /// Updates since the factors were made.
    pub fn since(&self, t: u64) -> u64 {
        t.saturating_sub(self.updates)
    }

    /// Updates of a run of `total` that come after the warm start.
    pub fn rest(&self, total: u64) -> u64 {
        total.saturating_sub(self.updates)
    }

    /// Tells that the run begins with full rank.
    pub fn announce(&self, cx: &mut Context<'_>) {
        let detail = format!("full rank for {} updates", self.updates);
        cx.events.push(Phase { name: "warm-start".into(), detail }.into());
    }

    /// Forgets all moments and counters and tells that the factors come now.
    pub fn finish(&self, cx: &mut Context<'_>) {
        cx.optimizer.clear();
        let detail = format!("{} full-rank updates done, factors made", self.updates);
        cx.events.push(Phase { name: "warm-start-end".into(), detail }.into());
    }

    /// Where update `t` stands: in the warm start's own schedule, or in the run's, counted from its end.
    pub fn schedule_index(&self, t: u64, total: u64) -> ScheduleIndex {
        if self.is_over(t) {
            return ScheduleIndex::new(self.since(t), self.rest(total));
        }
        ScheduleIndex {
            peak: Some(self.learning_rate),
            schedule: Some(Schedule::WarmupConstant),
            ..ScheduleIndex::new(t, self.updates)
        }
    }
}
