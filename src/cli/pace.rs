//! How fast a run goes, and how long it will go on.

use std::collections::VecDeque;

use crate::runlog::{Run, Step};

/// Updates whose pace decides the time left.
const PACE_UPDATES: usize = 64;

/// The pace of the last updates.
#[derive(Debug, Default)]
pub(super) struct Pace {
    marks: VecDeque<Mark>,
}

/// Where the run was when.
#[derive(Debug, Clone, Copy)]
struct Mark {
    ts: i64,
    step: u64,
    tokens: u64,
    active_s: f64,
}

impl Pace {
    /// Takes one more update.
    pub(super) fn add(&mut self, ts: i64, step: u64, update: &Step) {
        if self.marks.len() == PACE_UPDATES {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark { ts, step, tokens: update.tokens, active_s: update.active_s });
    }

    /// Seconds per update by the times of the events, so that evaluations and checkpoints between
    /// them count; `None` before the second update.
    pub(super) fn step_s(&self) -> Option<f64> {
        let (first, last) = (self.marks.front()?, self.marks.back()?);
        let steps = last.step.checked_sub(first.step).filter(|steps| *steps > 0)?;
        Some(last.ts.saturating_sub(first.ts).max(0) as f64 / 1000.0 / steps as f64)
    }

    /// Tokens per second of training time; `None` before the second update.
    pub(super) fn tok_s(&self) -> Option<f64> {
        let (first, last) = (self.marks.front()?, self.marks.back()?);
        let seconds = last.active_s - first.active_s;
        let tokens = last.tokens.saturating_sub(first.tokens);
        (seconds > 0.0).then(|| tokens as f64 / seconds)
    }

    /// Seconds that the run will go on after this update: by the pace of the last updates, or to its
    /// limit of active time if that comes first.
    pub(super) fn left_s(&self, run: &Run, step: u64, update: &Step) -> Option<f64> {
        let steps = run.steps.saturating_sub(step) as f64;
        let by_pace = self.step_s().map(|step_s| steps * step_s);
        let by_limit = run.max_s.map(|max_s| (max_s - update.active_s).max(0.0));
        match (by_pace, by_limit) {
            (Some(pace), Some(limit)) => Some(pace.min(limit)),
            (left, None) | (None, left) => left,
        }
    }
}
