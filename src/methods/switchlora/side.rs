//! One side of a layer under SwitchLoRA: the rows of A or the columns of B, with pool, pointer, freezes
//! and counters.
//!
//! Freezes and counters are kept as functions of the update index `t`: vector `i` is frozen while
//! `t < frozen_until[i]`, and its Adam counter in update `t` is `t + 1 − since[i]`. Both change only
//! when a vector is switched, so nothing is sent to the device in an update without a switch.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::device::Device;
use crate::error::Result;
use crate::kernels::switch::restart;
use crate::kernels::update::{Axis, VectorCounters, adamw_vectors};
use crate::kernels::{Matrix, Vector};
use crate::methods::{Context, StateReader};
use crate::model::ParamId;
use crate::optim::adamw::Moments;
use crate::random::stream;

use super::history::History;
use super::pool::Pool;
use super::schedule::Selection;

/// What decides a switch besides the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Which candidates come in.
    pub selection: Selection,
    /// Updates for which a switched vector's partner is held; 0: only its moments are cleared.
    pub freeze: u64,
    /// Whether counters advance during a freeze.
    pub counts_frozen_steps: bool,
    /// Whether weight decay acts during a freeze.
    pub decay_frozen: bool,
    /// Whether the pools wait in host memory.
    pub pools_on_host: bool,
}

/// Factor A by rows or factor B by columns: the same bookkeeping for both.
#[derive(Debug)]
pub(super) struct Side {
    /// Name of the pool's tensor and of its random streams.
    pub(super) pool_name: &'static str,
    pub(super) param: ParamId,
    /// `[C, n]` for A, `[C, m]` for B: a candidate a row, whichever the axis.
    pub(super) pool: Option<Pool>,
    /// Pool row of each active vector.
    pub(super) slots: Vec<usize>,
    /// The next vector to switch.
    pub(super) pointer: usize,
    frozen_until: Vec<i32>,
    pub(super) since: Vec<i32>,
    pub(super) history: History,
    /// Counters and freezes on the device.
    counters: VectorCounters,
}

/// Vectors that leave a factor: which, from which pool rows they once came, and which come in.
pub(super) struct Moves {
    pub(super) vectors: Vec<usize>,
    pub(super) from: Vec<usize>,
    pub(super) to: Vec<usize>,
}

/// Where a side starts: fresh, or from a checkpoint.
pub(super) struct SideState {
    pub(super) slots: Vec<usize>,
    pointer: usize,
    since: Vec<i32>,
    frozen_until: Vec<i32>,
    history: History,
}

impl SideState {
    /// Nothing frozen, all counters zero at update `t`.
    pub(super) fn fresh(slots: Vec<usize>, candidates: usize, pointer: usize, t: u64) -> Self {
        let rank = slots.len();
        let history = History::fresh(&slots, candidates, t);
        Self { slots, pointer, since: vec![t as i32; rank], frozen_until: vec![0; rank], history }
    }

    /// From a checkpoint after `t` updates; `parameter` names the factor.
    pub(super) fn read(
        entry: &Value,
        parameter: &str,
        rank: usize,
        candidates: usize,
        t: u64,
        state: &dyn StateReader,
    ) -> Result<Self> {
        let list = |field: &str| -> Option<Vec<i64>> {
            entry.get(field)?.as_array()?.iter().map(Value::as_i64).collect()
        };
        let wrong = || {
            state.mismatch(format!(
                "{parameter}: slots, pointer, freezes or history do not fit rank {rank} of {candidates} candidates"
            ))
        };
        let slots = list("slots").ok_or_else(wrong)?;
        let frozen = list("frozen_until").ok_or_else(wrong)?;
        let pointer = entry.get("pointer").and_then(Value::as_u64).ok_or_else(wrong)?;
        let history = History::read(&entry["history"], candidates, rank).ok_or_else(wrong)?;
        let distinct: BTreeSet<_> = slots.iter().collect();
        let is_sound = slots.len() == rank
            && distinct.len() == rank
            && slots.iter().all(|&slot| (0..candidates as i64).contains(&slot))
            && frozen.len() == rank
            && (pointer as usize) < rank;
        if !is_sound {
            return Err(wrong());
        }
        let steps = state.steps(parameter, rank)?;
        Ok(Self {
            slots: slots.into_iter().map(|slot| slot as usize).collect(),
            pointer: pointer as usize,
            since: steps.iter().map(|&k| t as i32 - k).collect(),
            frozen_until: frozen.into_iter().map(|until| until as i32).collect(),
            history,
        })
    }
}

impl Side {
    pub(super) fn new(
        axis: Axis,
        param: ParamId,
        pool: Option<Pool>,
        state: SideState,
        device: &Device,
    ) -> Self {
        let SideState { slots, pointer, since, frozen_until, history } = state;
        Self {
            pool_name: match axis {
                Axis::Rows => "pool_a",
                Axis::Columns => "pool_b",
            },
            param,
            pool,
            slots,
            pointer,
            counters: VectorCounters::new(axis, &since, &frozen_until, device),
            since,
            frozen_until,
            history,
        }
    }

    /// Name of the random stream for the candidates that come in.
    fn slots_purpose(&self) -> &'static str {
        match self.counters.axis() {
            Axis::Rows => "slots a",
            Axis::Columns => "slots b",
        }
    }

    pub(super) fn frozen_count(&self, t: u64) -> usize {
        self.frozen_until.iter().filter(|&&until| i64::from(until) > t as i64).count()
    }

    /// How the next `k` vectors leave, and which candidates come in.
    pub(super) fn moves(
        &self,
        k: usize,
        candidates: usize,
        rules: &Rules,
        layer: &str,
        cx: &Context<'_>,
    ) -> Moves {
        let rank = self.slots.len();
        let vectors: Vec<usize> = (0..k).map(|j| (self.pointer + j) % rank).collect();
        let to = match rules.selection {
            Selection::Contiguous => {
                let newest = self.slots[(self.pointer + rank - 1) % rank];
                (1..=k).map(|j| (newest + j) % candidates).collect()
            }
            Selection::Random => {
                let spare: Vec<usize> =
                    (0..candidates).filter(|slot| !self.slots.contains(slot)).collect();
                let drawn =
                    stream(cx.seed, layer, self.slots_purpose(), cx.t).distinct(spare.len(), k);
                drawn.into_iter().map(|i| spare[i]).collect()
            }
        };
        let from = vectors.iter().map(|&i| self.slots[i]).collect();
        Moves { vectors, from, to }
    }

    /// Notes that the moves are done, in update `t`.
    pub(super) fn install(&mut self, moves: &Moves, t: u64) {
        for (&i, &slot) in moves.vectors.iter().zip(&moves.to) {
            self.slots[i] = slot;
        }
        self.history.exchange(&moves.vectors, &moves.to, t);
        self.pointer = (self.pointer + moves.vectors.len()) % self.slots.len();
    }

    /// Holds the listed vectors from update `t` on: their counters begin, their moments are zero.
    pub(super) fn restart(&mut self, cx: &mut Context<'_>, vectors: &[usize], rules: &Rules) {
        let t = cx.t;
        let until = t.saturating_add(rules.freeze).min(i32::MAX as u64) as i32;
        let since = if rules.counts_frozen_steps { t as i32 } else { until };
        for &i in vectors {
            self.frozen_until[i] = until;
            self.since[i] = since;
        }
        let Moments { exp_avg, exp_avg_sq, step } = cx.optimizer.take(&cx.model.params, self.param);
        let (exp_avg, exp_avg_sq) =
            restart(exp_avg, exp_avg_sq, &mut self.counters, vectors, since, until);
        cx.optimizer.put(self.param, Moments { exp_avg, exp_avg_sq, step });
    }

    pub(super) fn update(
        &self,
        cx: &mut Context<'_>,
        grad: Matrix,
        clip: &Vector,
        learning_rate: f64,
        rules: &Rules,
    ) {
        let Moments { exp_avg, exp_avg_sq, step } = cx.optimizer.take(&cx.model.params, self.param);
        let grad = cx.optimizer.tame(self.param, grad, clip, &exp_avg_sq);
        let (param, exp_avg, exp_avg_sq) = adamw_vectors(
            cx.model.params.take(self.param),
            &grad,
            clip,
            exp_avg,
            exp_avg_sq,
            cx.optimizer.hyper(learning_rate),
            cx.t as u32,
            &self.counters,
            rules.decay_frozen,
        );
        cx.model.params.set(self.param, param);
        cx.optimizer.put(self.param, Moments { exp_avg, exp_avg_sq, step });
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "slots": self.slots,
            "pointer": self.pointer,
            "frozen_until": self.frozen_until,
            "history": self.history.to_json(),
        })
    }
}
