//! A run's numbers over time, read from its event log.

use std::collections::BTreeMap;

use serde_json::Value;

use super::acts::Act;
use super::flop::Shape;
use super::stats::Stat;
use crate::error::Result;
use crate::runlog::body::{Body, Run, Subspace};
use crate::runlog::status::{LastWord, Status};
use crate::runlog::{Event, RunDir, effective, read_log};

/// Updates after the start of a process that tell nothing about speed.
const WARM_UP_UPDATES: usize = 3;

/// One update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Updates applied, this one included.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training.
    pub active_s: f64,
    /// Loss of the update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Tokens per second of the update.
    pub tok_s: f64,
}

/// One evaluation, and where in the training it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluated {
    /// Updates applied before.
    pub step: u64,
    /// Tokens trained on before.
    pub tokens: u64,
    /// Seconds of training before.
    pub active_s: f64,
    /// Validation loss.
    pub loss: f64,
}

/// Vectors that one layer exchanged in one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switched {
    /// The update.
    pub step: u64,
    /// The layer's number in `Run::layers`.
    pub layer: usize,
    /// Vectors on both sides together.
    pub vectors: u64,
}

/// The singular values of one matrix of one layer, at one update.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ranked {
    /// The update.
    pub step: u64,
    /// The layer's name.
    pub layer: String,
    /// Which matrix: `change` is what training added to the weight.
    pub matrix: String,
    /// Effective rank.
    pub effective: f64,
    /// The largest rank that there can be.
    pub full: f64,
    /// How far the subspaces of two heads are apart; `NaN` where it was not told.
    pub head_distance: f64,
    /// Singular values by their place from 0; some of them.
    pub sigma: Vec<(f64, f64)>,
}

impl Ranked {
    /// Reads the fields of a `rank` event; `None` without a layer.
    fn of(step: u64, fields: &Value) -> Option<Self> {
        let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| fields.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let sigma = fields.get("sigma").and_then(Value::as_array);
        let pair = |pair: &Value| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?));
        Some(Self {
            step,
            layer: text("layer")?,
            matrix: text("matrix").unwrap_or_default(),
            effective: number("effective"),
            full: number("full"),
            head_distance: number("head_distance"),
            sigma: sigma.into_iter().flatten().filter_map(pair).collect(),
        })
    }
}

/// What one layer's step is bound to from an update on: the subspace of a projected gradient, or the rank of factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Spanned {
    /// The update.
    pub step: u64,
    /// The layer's name.
    pub layer: String,
    /// Whether a gradient is projected on it; `false` for the rank of factors.
    pub is_gradient: bool,
    /// Its dimension.
    pub rank: u64,
    /// The dimension before, where there was one.
    pub rank_before: Option<u64>,
    /// Share of the squared norm that lies in it.
    pub energy: f64,
    /// How much it shares with the one before, from 0 to 1; `NaN` without one.
    pub overlap: f64,
}

impl Spanned {
    fn of(step: u64, found: Subspace) -> Self {
        Self {
            step,
            is_gradient: found.side != "both",
            layer: found.layer,
            rank: found.rank,
            rank_before: found.rank_before,
            energy: found.energy,
            overlap: found.overlap.unwrap_or(f64::NAN),
        }
    }
}

/// Memory as the run measured it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Memory {
    /// Most bytes of each category seen at a report.
    pub bytes: BTreeMap<String, u64>,
    /// The high-water mark of all together.
    pub peak: Option<u64>,
    /// What was predicted for it.
    pub predicted: Option<u64>,
}

/// Everything that reports need of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The run's name.
    pub name: String,
    /// What is trained, on what and with what.
    pub run: Run,
    /// Whether it lives, or how it ended.
    pub status: Status,
    /// Why it ended so.
    pub cause: String,
    /// Its configuration as it stands in `run.toml`; empty if that cannot be read.
    pub config: toml::Table,
    /// Its updates, in order.
    pub points: Vec<Point>,
    /// Its evaluations, in order.
    pub evals: Vec<Evaluated>,
    /// What happened between updates, with the update it was at; each act once an update.
    pub acts: Vec<(u64, Act)>,
    /// Subspaces and ranks of layers as they changed.
    pub spaces: Vec<Spanned>,
    /// How far the heads of a layer that are merged had learned the same: mean cosine between two, over the layers.
    pub cosines: Vec<(u64, f64)>,
    /// Vectors exchanged.
    pub switched: Vec<Switched>,
    /// What was measured of ranks.
    pub ranks: Vec<Ranked>,
    /// Memory.
    pub memory: Memory,
    /// The network's shape, where the run's facts have it.
    pub shape: Option<Shape>,
    /// Speed of the updates that count for it.
    rates: Vec<f64>,
    warm_up: usize,
}

impl History {
    /// Reads a run. A log that is missing, torn or damaged gives what there is.
    ///
    /// Errors: `Error::Io` if a file is there and cannot be read.
    pub fn read(run: &RunDir) -> Result<Self> {
        // The lock first, as for `ls`: a run that ends in between is still live.
        let is_locked = run.is_locked()?;
        let events = read_log(run.events())?.events;
        let last_word = events.iter().fold(LastWord::default(), LastWord::after);
        let mut history = Self::of(effective(events));
        history.name = run.name();
        history.status = Status::of(is_locked, last_word);
        let config = std::fs::read_to_string(run.config()).ok();
        history.config = config.and_then(|text| text.parse().ok()).unwrap_or_default();
        let facts = std::fs::read(run.facts()).ok();
        let facts: Option<Value> = facts.and_then(|text| serde_json::from_slice(&text).ok());
        history.shape = facts.and_then(|facts| Shape::read(&facts, &history.config));
        Ok(history)
    }

    /// The history that events tell; those that a resume made void are gone already.
    pub fn of(events: Vec<Event>) -> Self {
        let mut history = Self {
            name: String::new(),
            run: Run::default(),
            status: Status::Crashed,
            cause: String::new(),
            config: toml::Table::new(),
            points: Vec::new(),
            evals: Vec::new(),
            acts: Vec::new(),
            spaces: Vec::new(),
            cosines: Vec::new(),
            switched: Vec::new(),
            ranks: Vec::new(),
            memory: Memory::default(),
            shape: None,
            rates: Vec::new(),
            warm_up: WARM_UP_UPDATES,
        };
        for event in events {
            history.add(event);
        }
        history
    }

    fn add(&mut self, event: Event) {
        let step = event.step;
        for act in Act::of(&event.body) {
            // Layers tell one by one; an update is marked once.
            let of_update = self.acts.iter().rev().take_while(|(at, _)| *at == step);
            if !of_update.into_iter().any(|(_, known)| *known == act) {
                self.acts.push((step, act));
            }
        }
        match event.body {
            Body::Run(run) => {
                self.run = *run;
                self.warm_up = WARM_UP_UPDATES;
            }
            Body::Step(update) => {
                self.points.push(Point {
                    step,
                    tokens: update.tokens,
                    active_s: update.active_s,
                    loss: update.loss,
                    lr: update.lr,
                    grad_norm: update.grad_norm,
                    tok_s: update.tok_s,
                });
                if self.warm_up == 0 {
                    self.rates.push(update.tok_s);
                }
                self.warm_up = self.warm_up.saturating_sub(1);
            }
            Body::Eval(eval) => {
                let last = self.points.last();
                let (tokens, active_s) = last.map_or((0, 0.0), |last| (last.tokens, last.active_s));
                // A resumed run may evaluate a step again: the same evaluation.
                self.evals.retain(|earlier| earlier.step != step);
                self.evals.push(Evaluated { step, tokens, active_s, loss: eval.loss });
            }
            Body::Subspace(found) => self.spaces.push(Spanned::of(step, found)),
            Body::Merge(merge) => {
                let cosines: Vec<f64> = merge.l.iter().filter_map(|layer| layer.cosine).collect();
                self.cosines.extend(Stat::of(&cosines).map(|stat| (step, stat.mean)));
            }
            Body::Switch(switch) => {
                let rows = switch.l.iter().filter(|row| self.run.has_layer(row.layer));
                self.switched.extend(rows.map(|row| Switched {
                    step,
                    layer: row.layer as usize,
                    vectors: 2 * u64::from(row.k),
                }));
            }
            Body::Mem(mem) => {
                for (category, bytes) in mem.bytes {
                    let most = self.memory.bytes.entry(category).or_default();
                    *most = bytes.max(*most);
                }
                self.memory.peak = self.memory.peak.max(Some(mem.peak_bytes));
                self.memory.predicted = mem.predicted_bytes.or(self.memory.predicted);
            }
            Body::End(end) => self.cause = end.what,
            Body::Resume(resume) if resume.from_step.is_some() => self.cause.clear(),
            body if body.kind() == "rank" => {
                let fields = serde_json::to_value(&body).unwrap_or_default();
                self.ranks.extend(Ranked::of(step, &fields));
            }
            _ => {}
        }
    }

    /// Whether the run has told nothing that could be shown.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.evals.is_empty() && self.cause.is_empty()
    }

    /// The newest evaluation.
    pub fn last_eval(&self) -> Option<Evaluated> {
        self.evals.last().copied()
    }

    /// The evaluation with the lowest loss.
    pub fn best_eval(&self) -> Option<Evaluated> {
        let finite = self.evals.iter().filter(|eval| eval.loss.is_finite());
        finite.min_by(|a, b| a.loss.total_cmp(&b.loss)).copied()
    }

    /// Median of the updates' tokens per second; the first three updates of each process are left out.
    pub fn tok_s(&self) -> Option<f64> {
        super::stats::median(&self.rates)
    }

    /// Tokens at which the validation loss first falls to `target`, on the straight line between two evaluations.
    pub fn tokens_to(&self, target: f64) -> Option<f64> {
        let mut before: Option<Evaluated> = None;
        for eval in self.evals.iter().filter(|eval| eval.loss.is_finite()) {
            if eval.loss <= target {
                let Some(before) = before else { return Some(eval.tokens as f64) };
                let share = (before.loss - target) / (before.loss - eval.loss);
                let (from, to) = (before.tokens as f64, eval.tokens as f64);
                return Some(from + share * (to - from));
            }
            before = Some(*eval);
        }
        None
    }

    /// Bytes that each of several workers would exchange for an update, were there several: 4 for each trained
    /// number. Nothing is exchanged here.
    pub fn exchange_bytes(&self) -> Option<u64> {
        (self.run.trained_params > 0).then_some(4 * self.run.trained_params)
    }

    /// Operations of each update; `None` for a method or a shape that is not known.
    pub fn flop(&self) -> Option<Vec<f64>> {
        super::flop::of_updates(self, &self.shape?)
    }

    /// Ranks of what training changed.
    pub fn changes(&self) -> impl Iterator<Item = &Ranked> {
        self.ranks_of("change")
    }

    /// Ranks of one matrix of the layers.
    pub fn ranks_of(&self, matrix: &str) -> impl Iterator<Item = &Ranked> {
        self.ranks.iter().filter(move |rank| rank.matrix == matrix && rank.effective.is_finite())
    }

    /// The history up to a budget: later updates, evaluations and acts are cut off.
    pub fn cut(&mut self, at: At) {
        let is_in = |step: u64, tokens: u64, active_s: f64| match at {
            At::Tokens(most) => tokens <= most,
            At::Step(most) => step <= most,
            At::Time(most) => active_s <= most,
        };
        self.points.retain(|point| is_in(point.step, point.tokens, point.active_s));
        self.evals.retain(|eval| is_in(eval.step, eval.tokens, eval.active_s));
        let last = self.points.last().map_or(0, |point| point.step);
        self.acts.retain(|(step, _)| *step <= last);
        self.spaces.retain(|space| space.step <= last);
        self.cosines.retain(|(step, _)| *step <= last);
        self.switched.retain(|switched| switched.step <= last);
        self.ranks.retain(|rank| rank.step <= last);
    }
}

/// A budget at which runs are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// Tokens trained on.
    Tokens(u64),
    /// Updates applied.
    Step(u64),
    /// Seconds of training.
    Time(f64),
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::runlog::{Eval, Resume, Step, Switch, SwitchLayer};

    /// Events with numbers and times of their own.
    pub fn events(bodies: impl IntoIterator<Item = (u64, Body)>) -> Vec<Event> {
        let numbered = (1..).zip(bodies);
        numbered.map(|(seq, (step, body))| Event { seq, ts: 0, step, body }).collect()
    }

    /// An update of 100 tokens and half a second.
    pub fn step(step: u64, loss: f64, tok_s: f64) -> (u64, Body) {
        let (tokens, active_s) = (100 * step, 0.5 * step as f64);
        (step, Step { loss, lr: 0.1, grad_norm: 1.0, tokens, active_s, tok_s }.into())
    }

    pub fn eval(step: u64, loss: f64) -> (u64, Body) {
        (step, Eval { loss, ppl: loss.exp(), tokens: 9 }.into())
    }

    #[test]
    fn tokens_to_a_loss_lie_on_the_line_between_two_evaluations() {
        let mut told = vec![eval(0, 5.0)];
        told.extend((1..=10).map(|at| step(at, 4.0, 1.0)));
        told.push(eval(10, 4.0));
        told.extend((11..=20).map(|at| step(at, 4.0, 1.0)));
        told.push(eval(20, 3.0));
        let history = History::of(events(told));
        assert_eq!(history.tokens_to(5.5), Some(0.0));
        assert_eq!(history.tokens_to(4.25), Some(750.0));
        assert_eq!(history.tokens_to(3.5), Some(1500.0));
        assert_eq!(history.tokens_to(3.0), Some(2000.0));
        assert_eq!(history.tokens_to(2.9), None);
        assert_eq!(history.best_eval().unwrap().step, 20);
    }

    #[test]
    fn the_first_three_updates_of_each_process_do_not_count_for_speed() {
        let run = || (0, Body::from(Run::default()));
        let mut told = vec![run()];
        told.extend((1..=5).map(|at| step(at, 1.0, if at <= 3 { 1.0 } else { 100.0 })));
        told.push(run());
        told.push((5, Resume { from_step: Some(5), ..Resume::default() }.into()));
        told.extend((6..=9).map(|at| step(at, 1.0, if at <= 8 { 2.0 } else { 130.0 })));
        let history = History::of(events(told));
        assert_eq!(history.tok_s(), Some(100.0));
        assert_eq!(History::of(events([run(), step(1, 1.0, 5.0)])).tok_s(), None);
    }

    #[test]
    fn a_budget_cuts_off_what_came_later() {
        let whole = || {
            let mut told: Vec<_> = (1..=4).map(|at| step(at, at as f64, 1.0)).collect();
            told.insert(2, eval(2, 2.0));
            told.push(eval(4, 1.0));
            let row = SwitchLayer { layer: 1, k: 3, ..SwitchLayer::default() };
            told.push((4, Switch { l: vec![row] }.into()));
            History::of(events(told))
        };
        assert_eq!(whole().switched[0], Switched { step: 4, layer: 1, vectors: 6 });
        for at in [At::Tokens(350), At::Step(3), At::Time(1.6)] {
            let mut history = whole();
            history.cut(at);
            assert_eq!(history.points.len(), 3, "{at:?}");
            assert_eq!(history.last_eval().unwrap().loss, 2.0, "{at:?}");
            assert!(history.switched.is_empty(), "{at:?}");
        }
    }
}
