//! A run in a few numbers, folded from its events: for tables, titles and the last words of a run.

use std::path::PathBuf;

use serde::Serialize;

use super::body::{Body, EndStatus, Resume, Run};
use super::event::Event;
use super::index::RunDir;
use super::number;
use super::status::{LastWord, Status};
use super::tail::Tail;
use crate::error::Result;

/// Half-life of the smoothed loss, in updates.
const LOSS_HALF_LIFE: f64 = 20.0;

/// A loss on the validation text, and when.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EvalPoint {
    /// Updates applied before.
    pub step: u64,
    /// Mean loss in nats.
    #[serde(with = "number")]
    pub loss: f64,
    /// Perplexity.
    #[serde(with = "number")]
    pub ppl: f64,
}

/// A mean that forgets, without the pull towards zero at its start. Non-finite values are left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Smooth {
    keep: f64,
    sum: f64,
    weight: f64,
}

impl Smooth {
    /// A mean in which a value loses half of its weight with every `half_life` values that follow.
    pub fn new(half_life: f64) -> Self {
        Self { keep: 0.5_f64.powf(1.0 / half_life), sum: 0.0, weight: 0.0 }
    }

    /// Takes one more value.
    pub fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.sum = self.sum * self.keep + value;
            self.weight = self.weight * self.keep + 1.0;
        }
    }

    /// The mean; `None` before the first value.
    pub fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// A run in a few numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// What is trained, on what and with what.
    pub run: Run,
    /// When the first event was written, in milliseconds since 1970.
    pub started: Option<i64>,
    /// When the last event was written.
    pub updated: Option<i64>,
    /// What the log says about the run's life.
    pub last_word: LastWord,
    /// What the last `end` event says, or nothing.
    pub end_text: String,
    /// The phase that was entered last.
    pub phase: String,
    /// Updates applied.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Time spent training.
    pub active_s: f64,
    /// Loss of the last update.
    pub loss: Option<f64>,
    /// Loss smoothed over the last updates.
    pub smooth: Smooth,
    /// Learning rate of the last update.
    pub lr: Option<f64>,
    /// All evaluations that count, in order.
    pub evals: Vec<EvalPoint>,
    /// Updates skipped.
    pub skipped: u64,
    /// Memory high-water mark.
    pub peak_bytes: Option<u64>,
    /// Warnings and errors.
    pub alerts: u64,
    /// Times that the run went on in a new process.
    pub resumes: u64,
    /// Times that the run went back to a checkpoint by itself.
    pub rollbacks: u64,
    /// Lines of the log that could not be read.
    pub damaged: u64,
    /// The events of `skipped` and `alerts`: a resume takes those back that came after its checkpoint.
    counted: Vec<(u64, Counted)>,
}

/// An event that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Skip,
    Alert,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            run: Run::default(),
            started: None,
            updated: None,
            last_word: LastWord::default(),
            end_text: String::new(),
            phase: String::new(),
            step: 0,
            tokens: 0,
            active_s: 0.0,
            loss: None,
            smooth: Smooth::new(LOSS_HALF_LIFE),
            lr: None,
            evals: Vec::new(),
            skipped: 0,
            peak_bytes: None,
            alerts: 0,
            resumes: 0,
            rollbacks: 0,
            damaged: 0,
            counted: Vec::new(),
        }
    }
}

impl Summary {
    /// Reads the log of a run. Lines that cannot be read are counted, a missing log is an empty one.
    pub fn of(run: &RunDir) -> Result<Self> {
        Self::of_with(run, |_| {})
    }

    /// Like [`of`](Self::of), and shows every event to `look` on the way.
    pub fn of_with(run: &RunDir, mut look: impl FnMut(&Event)) -> Result<Self> {
        let mut summary = Self::default();
        let mut tail = Tail::new(run.events());
        tail.each(|event| {
            look(&event);
            summary.add(&event);
        })?;
        summary.damaged = tail.damaged();
        Ok(summary)
    }

    /// Takes one more event.
    pub fn add(&mut self, event: &Event) {
        self.started = self.started.or(Some(event.ts));
        self.updated = Some(event.ts);
        self.last_word = self.last_word.after(event);
        match &event.body {
            Body::Run(run) => self.run = (**run).clone(),
            Body::Phase(phase) => self.phase.clone_from(&phase.name),
            Body::Step(step) => {
                self.step = event.step;
                self.tokens = step.tokens;
                self.active_s = step.active_s;
                self.loss = Some(step.loss);
                self.smooth.add(step.loss);
                self.lr = Some(step.lr);
            }
            Body::Skip(_) => self.count(event.seq, Counted::Skip),
            Body::Eval(eval) => {
                // A resumed run may evaluate a step again: the same evaluation.
                self.evals.retain(|earlier| earlier.step != event.step);
                self.evals.push(EvalPoint { step: event.step, loss: eval.loss, ppl: eval.ppl });
            }
            Body::Mem(mem) => self.peak_bytes = Some(mem.peak_bytes),
            Body::Alert(_) => self.count(event.seq, Counted::Alert),
            Body::Resume(Resume { from_step: Some(from_step), from_seq, rollback }) => {
                if let Some(from_seq) = from_seq {
                    self.take_back(*from_seq);
                }
                match rollback {
                    Some(_) => self.rollbacks += 1,
                    None => self.resumes += 1,
                }
                self.step = *from_step;
                self.evals.retain(|eval| eval.step <= *from_step);
            }
            Body::End(end) => self.end_text.clone_from(&end.what),
            _ => {}
        }
    }

    fn count(&mut self, seq: u64, what: Counted) {
        self.counted.push((seq, what));
        match what {
            Counted::Skip => self.skipped += 1,
            Counted::Alert => self.alerts += 1,
        }
    }

    /// Takes back what was counted after the event `seq`.
    fn take_back(&mut self, seq: u64) {
        self.counted.retain(|(at, _)| *at <= seq);
        let count = |of| self.counted.iter().filter(|(_, what)| *what == of).count() as u64;
        (self.skipped, self.alerts) = (count(Counted::Skip), count(Counted::Alert));
    }

    /// The newest evaluation.
    pub fn last_eval(&self) -> Option<EvalPoint> {
        self.evals.last().copied()
    }

    /// The evaluation with the lowest loss.
    pub fn best_eval(&self) -> Option<EvalPoint> {
        let finite = self.evals.iter().filter(|eval| eval.loss.is_finite());
        finite.min_by(|a, b| a.loss.total_cmp(&b.loss)).copied()
    }

    /// Tokens per second of training time, over the whole run.
    pub fn tok_s(&self) -> Option<f64> {
        (self.active_s > 0.0).then(|| self.tokens as f64 / self.active_s)
    }

    /// Seconds from the first event to the last, pauses and interruptions included.
    pub fn duration_s(&self) -> Option<f64> {
        Some(self.updated?.saturating_sub(self.started?) as f64 / 1000.0)
    }

    /// How the log says that the run ended.
    pub fn end(&self) -> Option<EndStatus> {
        match self.last_word {
            LastWord::Ended(status) => Some(status),
            _ => None,
        }
    }
}

/// A run on disk with its status and summary: one row of a table, one object of `--json`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    /// The run.
    pub run: RunDir,
    /// Whether it lives, or how it ended.
    pub status: Status,
    /// What its log says.
    pub summary: Summary,
}

impl RunState {
    /// Reads a run's lock and log.
    pub fn of(run: &RunDir) -> Result<Self> {
        Self::of_with(run, |_| {})
    }

    /// Like [`of`](Self::of), and shows every event to `look` on the way.
    pub fn of_with(run: &RunDir, look: impl FnMut(&Event)) -> Result<Self> {
        // The lock is asked first: a run that ends in between is then live with an `end`, which is
        // shown as live; asked last it could be free without its `end`, which would say crashed.
        let is_locked = run.is_locked()?;
        let summary = Summary::of_with(run, look)?;
        let status = Status::of(is_locked, summary.last_word);
        Ok(Self { run: run.clone(), status, summary })
    }

    /// The numbers for scripts. Times are in milliseconds since 1970, absent numbers `null`.
    pub fn record(&self) -> RunRecord {
        let summary = &self.summary;
        RunRecord {
            name: self.run.name(),
            path: self.run.path().to_path_buf(),
            status: self.status,
            method: summary.run.method.clone(),
            model: summary.run.model.clone(),
            data: summary.run.data.clone(),
            device: summary.run.device.clone(),
            started: summary.started,
            updated: summary.updated,
            step: summary.step,
            steps: summary.run.steps,
            tokens: summary.tokens,
            active_s: summary.active_s,
            tok_s: summary.tok_s(),
            loss: summary.loss,
            smooth_loss: summary.smooth.value(),
            eval: summary.last_eval(),
            best: summary.best_eval(),
            unigram_ppl: summary.run.unigram_ppl,
            skipped: summary.skipped,
            peak_bytes: summary.peak_bytes,
            alerts: summary.alerts,
            resumes: summary.resumes,
            rollbacks: summary.rollbacks,
            damaged_lines: summary.damaged,
            seed: summary.run.seed,
            rank: summary.run.rank,
        }
    }
}

/// A run as JSON, for scripts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // the fields of `Summary`, flat
pub struct RunRecord {
    pub name: String,
    pub path: PathBuf,
    pub status: Status,
    pub method: String,
    pub model: String,
    pub data: String,
    pub device: String,
    pub started: Option<i64>,
    pub updated: Option<i64>,
    pub step: u64,
    pub steps: u64,
    pub tokens: u64,
    #[serde(with = "number")]
    pub active_s: f64,
    #[serde(with = "number::option")]
    pub tok_s: Option<f64>,
    #[serde(with = "number::option")]
    pub loss: Option<f64>,
    #[serde(with = "number::option")]
    pub smooth_loss: Option<f64>,
    pub eval: Option<EvalPoint>,
    pub best: Option<EvalPoint>,
    #[serde(with = "number::option")]
    pub unigram_ppl: Option<f64>,
    pub skipped: u64,
    pub peak_bytes: Option<u64>,
    pub alerts: u64,
    pub resumes: u64,
    pub rollbacks: u64,
    pub damaged_lines: u64,
    pub seed: u64,
    pub rank: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::super::body::{End, Eval, Step};
    use super::*;

    fn event(seq: u64, step: u64, body: impl Into<Body>) -> Event {
        Event { seq, ts: 1000 * seq as i64, step, body: body.into() }
    }

    fn step(loss: f64, tokens: u64) -> Step {
        Step { loss, lr: 0.1, grad_norm: 1.0, tokens, active_s: tokens as f64 / 10.0, tok_s: 10.0 }
    }

    fn eval(loss: f64) -> Eval {
        Eval { loss, ppl: loss.exp(), tokens: 9 }
    }

    #[test]
    fn a_summary_follows_the_log() {
        let mut summary = Summary::default();
        assert_eq!(
            (summary.best_eval(), summary.tok_s(), summary.smooth.value()),
            (None, None, None)
        );
        summary.add(&event(1, 0, Run { method: "lora".into(), steps: 3, ..Run::default() }));
        summary.add(&event(2, 0, eval(5.0)));
        summary.add(&event(3, 1, step(4.0, 100)));
        summary.add(&event(4, 2, step(3.0, 200)));
        summary.add(&event(5, 2, eval(3.5)));
        summary.add(&event(6, 3, step(f64::NAN, 300)));
        summary.add(&event(7, 3, eval(f64::NAN)));
        let end = End { status: EndStatus::Finished, what: String::new() };
        summary.add(&event(8, 3, end));
        assert_eq!((summary.step, summary.tokens), (3, 300));
        assert_eq!(summary.tok_s(), Some(10.0));
        assert_eq!(summary.best_eval().map(|eval| eval.step), Some(2));
        assert!(summary.last_eval().unwrap().loss.is_nan());
        assert!(summary.loss.unwrap().is_nan());
        let smooth = summary.smooth.value().unwrap();
        assert!(smooth > 3.0 && smooth < 4.0, "{smooth}");
        assert_eq!(summary.duration_s(), Some(7.0));
        assert_eq!(summary.end(), Some(EndStatus::Finished));
    }

    fn from_step(step: u64, seq: u64) -> Resume {
        Resume { from_step: Some(step), from_seq: Some(seq), rollback: None }
    }

    #[test]
    fn a_run_that_goes_back_by_itself_is_not_resumed() {
        let mut summary = Summary::default();
        summary.add(&event(1, 10, eval(3.0)));
        summary.add(&event(2, 20, eval(2.0)));
        let rollback = Some(crate::runlog::Rollback { count: 1, from: 25, ..Default::default() });
        summary.add(&event(3, 10, Resume { rollback, ..from_step(10, 1) }));
        assert_eq!((summary.step, summary.resumes, summary.rollbacks), (10, 0, 1));
        assert_eq!(summary.evals.len(), 1);
        assert_eq!(summary.last_word, LastWord::Running);
    }

    #[test]
    fn a_resume_from_an_earlier_step_takes_back_later_evaluations() {
        let mut summary = Summary::default();
        summary.add(&event(1, 10, eval(3.0)));
        summary.add(&event(2, 20, eval(2.0)));
        summary.add(&event(3, 10, from_step(10, 1)));
        assert_eq!((summary.step, summary.resumes), (10, 1));
        assert_eq!(summary.best_eval().map(|eval| eval.step), Some(10));
    }

    #[test]
    fn a_resume_takes_back_what_was_skipped_and_warned_of_after_its_checkpoint() {
        use super::super::body::{Alert, Level, Skip};
        let skip = || Skip { reason: "loss is not finite".into(), loss: None, grad_norm: None };
        let alert = || Alert { level: Level::Warn, what: "a".into(), remedy: String::new() };
        let mut summary = Summary::default();
        summary.add(&event(1, 5, skip()));
        summary.add(&event(2, 10, alert()));
        summary.add(&event(4, 12, skip()));
        summary.add(&event(5, 13, alert()));
        assert_eq!((summary.skipped, summary.alerts), (2, 2));
        summary.add(&event(6, 10, from_step(10, 3)));
        assert_eq!((summary.skipped, summary.alerts), (1, 1));
        summary.add(&event(7, 12, skip()));
        assert_eq!((summary.skipped, summary.alerts), (2, 1));
    }

    #[test]
    fn the_smoothed_loss_starts_at_the_first_value_and_halves_old_weight() {
        let mut smooth = Smooth::new(1.0);
        smooth.add(4.0);
        assert_eq!(smooth.value(), Some(4.0));
        smooth.add(1.0);
        assert_eq!(smooth.value(), Some((4.0 * 0.5 + 1.0) / 1.5));
    }
}
