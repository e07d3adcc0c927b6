//! How fast a run goes, and how long it will go on.

use std::collections::VecDeque;

use crate::runlog::Run;
use crate::series::Moment;

/// Updates whose times decide the pace.
const RECENT: usize = 200;
/// The first updates of a process compile kernels and fill caches: its pace counts after this many of them and
/// this many seconds, or after [`LONG_WARM_UP_S`] where updates are slow.
const WARM_UP_UPDATES: usize = 10;
const WARM_UP_S: f64 = 10.0;
const LONG_WARM_UP_S: f64 = 30.0;

/// The pace of the process that trains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pace {
    /// The first update of this process.
    first: Option<Moment>,
    last: Option<Moment>,
    /// Updates of this process.
    updates: usize,
    /// Seconds of the last updates.
    recent: VecDeque<f64>,
    /// Milliseconds of pauses since the first update.
    paused_ms: i64,
    paused_at: Option<i64>,
}

impl Pace {
    /// Another process trains from here on.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// The run waits from this time on.
    pub(super) fn pause(&mut self, ts_ms: i64) {
        self.paused_at.get_or_insert(ts_ms);
    }

    /// The run goes on.
    pub(super) fn go_on(&mut self, ts_ms: i64) {
        if let Some(since) = self.paused_at.take() {
            self.paused_ms = self.paused_ms.saturating_add(ts_ms.saturating_sub(since).max(0));
        }
    }

    /// Takes the moment after one more update.
    pub(super) fn add(&mut self, at: Moment) {
        if let Some(last) = self.last {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back((at.active_s - last.active_s).max(0.0));
        }
        self.first.get_or_insert(at);
        self.last = Some(at);
        self.updates += 1;
    }

    /// Seconds of an update by the median of the last ones, without what comes between them.
    pub fn step_s(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// The time that a share of the last updates stays below, in seconds.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        sorted.get((share.clamp(0.0, 1.0) * last as f64).round() as usize).copied()
    }

    /// Seconds that pass for a second of training: evaluations, checkpoints and the turns of other members add to
    /// it, pauses do not.
    pub fn overhead(&self) -> Option<f64> {
        let (first, last) = (self.first?, self.last?);
        let active_s = last.active_s - first.active_s;
        let wall_ms = last.ts_ms.saturating_sub(first.ts_ms).saturating_sub(self.paused_ms);
        (active_s > 0.0).then(|| (wall_ms as f64 / 1000.0 / active_s).max(1.0))
    }

    /// Whether the updates so far say how fast the next ones will be.
    fn is_warm(&self) -> bool {
        let (Some(first), Some(last)) = (self.first, self.last) else { return false };
        let wall_s = last.ts_ms.saturating_sub(first.ts_ms) as f64 / 1000.0;
        let is_short = self.updates > WARM_UP_UPDATES && wall_s >= WARM_UP_S;
        is_short || (self.updates > 1 && wall_s >= LONG_WARM_UP_S)
    }

    /// Seconds that the run will go on: by the pace of its last updates, or to its limit of training time if that
    /// comes first. `None` before the pace is known.
    pub(super) fn left_s(&self, run: &Run, now: Moment) -> Option<f64> {
        if !self.is_warm() {
            return None;
        }
        let updates = run.steps.saturating_sub(now.step) as f64;
        let by_pace = updates * self.step_s()?;
        let by_limit = run.max_s.map_or(f64::INFINITY, |max_s| (max_s - now.active_s).max(0.0));
        Some(by_pace.min(by_limit) * self.overhead()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(updates: u64, step_s: f64, wall_s: f64) -> (Pace, Moment) {
        let mut pace = Pace::default();
        let mut at = Moment::default();
        for step in 1..=updates {
            let ts_ms = (1000.0 * wall_s * step as f64) as i64;
            at = Moment { step, tokens: 0, active_s: step_s * step as f64, ts_ms };
            pace.add(at);
        }
        (pace, at)
    }

    #[test]
    fn the_time_left_waits_for_the_warm_up_and_counts_what_comes_between_updates() {
        let run = Run { steps: 1000, ..Run::default() };
        let left = |(pace, at): (Pace, Moment)| pace.left_s(&run, at);
        assert_eq!(left(pace(10, 2.0, 2.0)), None, "not enough updates");
        assert_eq!(left(pace(50, 0.1, 0.1)), None, "not enough time");
        assert_eq!(left(pace(3, 20.0, 20.0)), Some(997.0 * 20.0), "slow updates");
        assert!((left(pace(100, 1.0, 1.5)).unwrap() - 900.0 * 1.5).abs() < 1.0);
        let limited = Run { max_s: Some(160.0), ..run.clone() };
        let (pace, at) = pace(100, 1.0, 1.0);
        assert_eq!(pace.left_s(&limited, at), Some(60.0));
    }

    #[test]
    fn pauses_do_not_count_and_a_new_process_begins_anew() {
        let run = Run { steps: 200, ..Run::default() };
        let (mut pace, mut at) = pace(100, 1.0, 1.0);
        pace.pause(at.ts_ms);
        pace.go_on(at.ts_ms + 3_600_000);
        at = Moment { step: 101, active_s: 101.0, ts_ms: at.ts_ms + 3_601_000, ..at };
        pace.add(at);
        assert_eq!(pace.left_s(&run, at), Some(99.0));
        pace.begin();
        assert_eq!(pace.left_s(&run, at), None);
        assert_eq!(pace.step_s(), None);
    }
}
