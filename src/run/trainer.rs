//! The loop around the engine: data, updates, evaluation, samples, checkpoints, commands, signals.
//!
//! Everything it does is told as an event, to the log and to one sink (a progress line, a screen). It
//! decides nothing from time except `--max-minutes`, and what a policy makes of an update that hangs, so two runs of one
//! configuration have the same bits.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::RunConfig;
use crate::data::{Loader, ValidationBlocks};
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::formats::tokenizer::Tokenizer;
use crate::model::generate::Sampling;
use crate::random::stream;
use crate::runlog::{
    Alert, Body, Ckpt, ControlReader, End, EndStatus, EventSink, Level, Log, Mem, Phase, RunDir,
    RunLock, RunWriter, Sample, Skip, Step, Time,
};

use super::checkpoint::{self, Best, Progress};
use super::commands::Signals;
use super::engine::{Engine, Outcome};
use super::export::write_model;
use super::generate::continue_text;
use super::hook::Hook;
use super::machine::{Machine, free_bytes};
use super::rank::RankMonitor;

mod act;
mod looks;
mod rollback;
mod tell;

pub use act::Repeats;
use rollback::Heeded;
pub use rollback::Rollbacks;

/// Updates may be skipped as not finite for this share of the run before it stops.
const MAX_SKIPPED_SHARE: f64 = 0.05;
/// Weight of the newest loss in the smoothed one.
const EMA_WEIGHT: f64 = 0.05;
/// How often a paused run looks for commands.
const PAUSE_POLL: Duration = Duration::from_millis(50);

/// A run in progress.
pub struct Trainer<'a> {
    /// The resolved configuration, with what was changed in flight.
    pub config: RunConfig,
    /// The same without it.
    pub base: RunConfig,
    /// The run's folder.
    pub dir: RunDir,
    /// Holds the folder for this process.
    pub lock: RunLock,
    /// The event log.
    pub log: RunWriter,
    /// Where events go besides the log.
    pub sink: Box<dyn EventSink + 'a>,
    /// Network, optimizer, method.
    pub engine: Engine,
    /// Training batches, at the position of `progress`.
    pub loader: Loader,
    /// Validation batches.
    pub valid: ValidationBlocks,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// How far the run is.
    pub progress: Progress,
    /// Rank metrics.
    pub rank: RankMonitor,
    /// Commands in.
    pub control: ControlReader,
    /// Changes in flight to make again.
    pub repeats: Repeats,
    /// How often the run went back by itself.
    pub rollbacks: Rollbacks,
    /// Signals in.
    pub signals: Signals,
    /// The high-water mark of memory that was predicted.
    pub predicted_bytes: u64,
    /// Where the loop stands.
    pub stage: Stage,
    /// The device computes for other runs too, between two updates of this one: what an update leaves for it to
    /// do is waited for, so that it counts as this run's time.
    pub shares_device: bool,
}

/// Whether a command holds the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Hold {
    /// It goes on.
    #[default]
    No,
    /// It waits.
    Paused,
    /// It waits, the engine is empty, and a checkpoint holds everything.
    Unloaded,
}

/// Where the loop stands between two turns.
#[derive(Default)]
pub struct Stage {
    /// The first turn was taken.
    has_begun: bool,
    hold: Hold,
    /// A checkpoint was due after an update that was skipped.
    owes_checkpoint: bool,
    /// The run was made longer, or went back, and has not been evaluated since: what ended it before does not end it
    /// again.
    is_extended: bool,
    /// Seconds of training at which the run ends.
    max_s: Option<f64>,
    clock: Clock,
    /// The newest warning on which the policy has not acted.
    alarm: Option<String>,
    hook: Hook,
    machine: Machine,
}

impl Stage {
    /// Before the first turn.
    pub fn new(is_extended: bool) -> Self {
        Self { is_extended, ..Self::default() }
    }
}

/// What a turn of the loop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There is more to do.
    Going,
    /// The run is paused; nothing was done.
    Paused,
    /// The run is over and its log has its `end`.
    Over,
}

/// Why the loop ended.
enum Stop {
    Done,
    TimeIsUp {
        minutes: f64,
    },
    /// No evaluation of the last few was better than the best.
    NoGain {
        evaluations: u64,
        best: Best,
    },
    Asked,
    /// An alert came, and the policy is to stop.
    Alarm(String),
    /// Training went wrong once more than the run goes back.
    GoneWrong(String),
    Signal(i32),
    Diverged(String),
}

/// What a piece of work came to.
enum Next {
    Going,
    Paused,
    Stop(Stop),
}

/// Milliseconds by part since the last report.
#[derive(Default)]
struct Clock {
    data: Duration,
    step: Duration,
    updates: u32,
}

impl Trainer<'_> {
    /// Trains to the end, or until something stops it. Except where it diverged or a file could
    /// not be written, a checkpoint holds the last state; the log ends with an `end` event.
    pub fn run(&mut self) -> Result<()> {
        loop {
            match self.turn()? {
                Turn::Going => {}
                Turn::Paused => std::thread::sleep(PAUSE_POLL),
                Turn::Over => return Ok(()),
            }
        }
    }

    /// The next piece of the run: what comes before the first update, or one update attempted with what is due
    /// after it, or the end. One who takes the turns of several runs by turns gets the bits of each run alone.
    ///
    /// Errors: the run is over, badly.
    pub fn turn(&mut self) -> Result<Turn> {
        match self.advance() {
            Ok(Next::Going) => Ok(Turn::Going),
            Ok(Next::Paused) => Ok(Turn::Paused),
            Ok(Next::Stop(stop)) => self.finish(stop).map(|()| Turn::Over),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Puts an error that ends the run into its log.
    fn failed(&mut self, error: Error) -> Error {
        let what = error.to_string();
        // The first error is the one to report; the log may be what failed.
        if matches!(error, Error::Device { .. }) {
            let (what, remedy) = (what.clone(), error.remedy());
            let _ = self.emit(Alert { level: Level::Error, what, remedy });
        }
        let _ = self.emit(End { status: EndStatus::Failed, what });
        let _ = self.log.sync();
        error
    }

    /// Ends the run because the time is up that it had together with others.
    pub fn end_in_time(&mut self, minutes: f64) -> Result<()> {
        self.finish(Stop::TimeIsUp { minutes })
    }

    fn advance(&mut self) -> Result<Next> {
        if !self.stage.has_begun {
            self.stage.has_begun = true;
            return self.begin().map(|()| Next::Going);
        }
        let iters = self.engine.total;
        if self.progress.attempts >= iters {
            return Ok(Next::Stop(Stop::Done));
        }
        match self.interruption()? {
            Next::Going => {}
            other => return Ok(other),
        }
        if let Some(stop) = self.early_stop() {
            return Ok(Next::Stop(stop));
        }
        if self.stage.max_s.is_some_and(|limit| self.progress.active_s >= limit) {
            let minutes = self.config.train.max_minutes.unwrap_or(0.0);
            return Ok(Next::Stop(Stop::TimeIsUp { minutes }));
        }
        let outcome = self.attempt()?;
        let heeded = self.heed_trouble()?;
        if matches!(heeded, Heeded::WentBack) {
            return Ok(Next::Going);
        }
        if !outcome.is_applied && self.progress.skipped as f64 > MAX_SKIPPED_SHARE * iters as f64 {
            return Ok(Next::Stop(Stop::Diverged(format!(
                "{} of {} updates were not finite (loss {}, gradient norm {})",
                self.progress.skipped, self.progress.attempts, outcome.loss, outcome.grad_norm
            ))));
        }
        if let Heeded::GivesUp(stop) = heeded {
            return Ok(Next::Stop(stop));
        }
        self.at_intervals(outcome.is_applied)?;
        Ok(Next::Going)
    }

    /// Whether the validation loss has not fallen for as many evaluations as the run's patience. The end of the
    /// last update is the end in any case.
    fn early_stop(&self) -> Option<Stop> {
        let patience = self.config.train.early_stop?;
        let Progress { evals_since_best, best, attempts, .. } = self.progress;
        let is_due = !self.stage.is_extended && evals_since_best >= patience;
        (is_due && attempts < self.engine.total)
            .then_some(Stop::NoGain { evaluations: evals_since_best, best: best? })
    }

    /// What comes before the first update of this process.
    fn begin(&mut self) -> Result<()> {
        self.emit_method_events()?;
        self.emit(Phase { name: "train".into(), detail: String::new() })?;
        if let Some(command) = &self.config.train.on_alert {
            let msg = format!("warnings start the command: {command}");
            self.emit(Log { level: Level::Info, msg })?;
        }
        if self.progress.attempts == 0 {
            self.evaluate_start()?;
        }
        self.stage.max_s = time_limit_s(self.config.train.max_minutes, &self.progress);
        Ok(())
    }

    /// One update, applied or skipped, with its events.
    fn attempt(&mut self) -> Result<Outcome> {
        let start = Instant::now();
        let train = &self.config.train;
        let batch_size = train.batch_size.unwrap_or(1);
        let mut micro_batches = Vec::new();
        for _ in 0..train.grad_accumulation_steps {
            let batch = self.loader.next_batch(batch_size)?;
            let model = &self.engine.model;
            micro_batches.extend(model.batches_of(&batch));
        }
        let tokens: u64 = micro_batches.iter().map(|batch| batch.counted as u64).sum();
        let loaded = Instant::now();
        let outcome = self.engine.step(&micro_batches)?;
        if self.shares_device {
            self.engine.model.device().wait();
        }
        let end = Instant::now();
        self.emit_late_events()?;

        let clock = &mut self.stage.clock;
        clock.data += loaded - start;
        clock.step += end - loaded;
        clock.updates += 1;
        let seconds = (end - start).as_secs_f64();
        let progress = &mut self.progress;
        progress.t = self.engine.t;
        progress.attempts += 1;
        progress.tokens += tokens;
        progress.active_s += seconds;
        let late = progress.alerts.after_time(self.engine.t, seconds);
        progress.position = Some(self.loader.position());
        let Outcome { loss, grad_norm, learning_rate, is_applied } = outcome;
        if is_applied {
            let ema = progress.loss_ema.map_or(loss, |ema| ema + EMA_WEIGHT * (loss - ema));
            progress.loss_ema = Some(ema);
            let (tokens_seen, active_s) = (progress.tokens, progress.active_s);
            let step = Step {
                loss,
                lr: learning_rate,
                grad_norm,
                tokens: tokens_seen,
                active_s,
                tok_s: tokens as f64 / seconds.max(1e-9),
            };
            self.emit(step.clone())?;
            for alert in self.progress.alerts.after_step(self.engine.t, &step) {
                self.emit(alert)?;
            }
        } else {
            progress.skipped += 1;
            let reason = if loss.is_finite() { "gradient norm" } else { "loss" };
            let skip = Skip {
                reason: format!("{reason} is not finite"),
                loss: Some(loss),
                grad_norm: Some(grad_norm),
            };
            let alert = progress.alerts.after_skip(self.engine.t, &skip);
            self.emit(skip)?;
            self.emit_some(alert)?;
        }
        self.emit_some(late)?;
        self.emit_method_events()?;
        Ok(outcome)
    }

    /// What is due after this attempt: report, evaluation, sample, checkpoint.
    fn at_intervals(&mut self, is_applied: bool) -> Result<()> {
        let train = &self.config.train;
        let attempts = self.progress.attempts;
        let is_last = attempts >= self.engine.total;
        let is_due = |every: u64| every > 0 && attempts.is_multiple_of(every);
        let (report, eval, save_is_due, sample) = (
            is_due(train.steps_per_report.unwrap_or(1)) || is_last,
            is_due(train.eval_every.unwrap_or(0)) || is_last,
            is_due(train.checkpoint_every.unwrap_or(0)),
            is_due(train.sample_every) && !is_last,
        );
        if report {
            self.report()?;
        }
        let mut is_best = false;
        if eval {
            self.stage.is_extended = false;
            is_best = self.evaluate_for_best()?;
            // Only what the configuration asks for counts, so that nobody who looks in between stops the run sooner.
            self.progress.evals_since_best =
                if is_best { 0 } else { self.progress.evals_since_best + 1 };
            self.stage.owes_checkpoint |= is_best && self.config.train.save_best == Some(true);
        }
        if sample {
            self.sample()?;
        }
        if is_applied {
            self.rank.keep_reference(&self.engine)?;
        }
        if self.rank.is_due(attempts, is_last) {
            self.measure_ranks(false)?;
        }
        // Weights that just gave a loss that is not finite must not push out good ones.
        self.stage.owes_checkpoint |= save_is_due;
        if self.stage.owes_checkpoint && (is_applied || is_best) && !is_last {
            self.stage.owes_checkpoint = false;
            self.save()?;
        }
        Ok(())
    }

    fn report(&mut self) -> Result<()> {
        let reading = self.engine.model.device().ledger().read();
        let bytes = Category::ALL.iter().zip(reading.now);
        self.emit(Mem {
            bytes: bytes.map(|(category, bytes)| (category.name().into(), bytes)).collect(),
            peak_bytes: reading.peak,
            predicted_bytes: Some(self.predicted_bytes),
        })?;
        let clock = std::mem::take(&mut self.stage.clock);
        let mean = |total: Duration| total.as_secs_f64() * 1e3 / f64::from(clock.updates.max(1));
        let ms = [("data".into(), mean(clock.data)), ("step".into(), mean(clock.step))];
        self.emit(Time { ms: ms.into() })?;
        let alert =
            self.progress.alerts.after_memory(self.engine.t, reading.peak, self.predicted_bytes);
        self.emit_some(alert)?;
        let machine = self.stage.machine.read(self.dir.path());
        let alerts = &mut self.progress.alerts;
        let alert = machine
            .battery_percent
            .and_then(|percent| alerts.after_battery(self.engine.t, percent));
        self.emit(machine)?;
        self.emit_some(alert)
    }

    /// Measures ranks within their budget, or all of them where that was asked for.
    fn measure_ranks(&mut self, is_asked: bool) -> Result<()> {
        let Progress { rank, active_s, .. } = &mut self.progress;
        let active_s = (!is_asked).then_some(*active_s);
        for body in self.rank.measure(&self.engine, rank, active_s) {
            let alert = match &body {
                Body::Rank(rank) => self.progress.alerts.after_rank(self.engine.t, rank),
                _ => None,
            };
            self.emit(body)?;
            self.emit_some(alert)?;
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<()> {
        let train = &self.config.train;
        let random = stream(train.seed, "sample", "text", self.engine.t);
        let text = continue_text(
            &self.engine.model,
            &self.tokenizer,
            &train.sample_prompt,
            train.sample_tokens,
            Sampling::default(),
            random,
            &mut |_| Ok(()),
        )?
        .text;
        let prompt = train.sample_prompt.clone();
        self.emit(Sample { prompt, text })
    }

    fn save(&mut self) -> Result<()> {
        let start = Instant::now();
        self.tell_rest()?;
        self.log.sync()?;
        self.progress.event_seq = self.log.seq();
        self.progress.ahead = self.repeats.ahead();
        let path = checkpoint::save(&self.dir.checkpoints(), &mut self.engine, &self.progress)?;
        let is_best = self.progress.best.is_some_and(|best| best.step == self.engine.t);
        // Later ones are damaged (else the run would have gone on from them) and must not push out good ones.
        let mut all = self.dir.list_checkpoints()?;
        all.retain(|checkpoint| checkpoint.step <= self.engine.t);
        let all: Vec<PathBuf> = all.into_iter().map(|checkpoint| checkpoint.path).collect();
        let best = self.progress.best.map(|best| best.step);
        checkpoint::prune(&all, self.config.train.keep_checkpoints, best)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = crate::runlog::index::size_of(&path);
        let ms = start.elapsed().as_secs_f64() * 1e3;
        self.emit(Ckpt { path: format!("checkpoints/{name}"), bytes, ms, is_best })?;
        let free = free_bytes(self.dir.path());
        let alert = self.progress.alerts.after_checkpoint(self.engine.t, bytes, free);
        self.emit_some(alert)
    }

    fn finish(&mut self, stop: Stop) -> Result<()> {
        if let Err(error) = self.wind_up(&stop) {
            return Err(self.failed(error));
        }
        let (status, what, result) = match stop {
            Stop::Done => (EndStatus::Finished, String::new(), Ok(())),
            Stop::TimeIsUp { minutes } => {
                (EndStatus::Finished, format!("{minutes} minutes are up"), Ok(()))
            }
            Stop::NoGain { evaluations, best } => {
                let what = format!(
                    "no lower validation loss in {evaluations} evaluations; the best, {:.4}, is that of step {}",
                    best.loss, best.step
                );
                (EndStatus::Finished, what, Ok(()))
            }
            Stop::Asked => (EndStatus::Stopped, "asked to".into(), Ok(())),
            Stop::Alarm(what) | Stop::GoneWrong(what) => {
                (EndStatus::Stopped, format!("alert: {what}"), Ok(()))
            }
            Stop::Signal(signal) => {
                let what = format!("signal {signal}");
                let run = Some(self.dir.as_argument());
                (EndStatus::Interrupted, what, Err(Error::Interrupted { signal, run }))
            }
            Stop::Diverged(what) => {
                let remedy = "lower --learning-rate, or clip harder with --max-grad-norm; the \
                              newest checkpoint may be from before it";
                let error = Error::Diverged { what: what.clone(), remedy: remedy.into() };
                let alert =
                    Alert { level: Level::Error, what: what.clone(), remedy: remedy.into() };
                self.emit(alert)?;
                (EndStatus::Diverged, what, Err(error))
            }
        };
        self.emit(End { status, what })?;
        self.log.sync()?;
        result
    }

    /// The last looks at a run that has done what it was to do, its last checkpoint, its result.
    fn wind_up(&mut self, stop: &Stop) -> Result<()> {
        let has_all = matches!(stop, Stop::Done | Stop::TimeIsUp { .. } | Stop::NoGain { .. });
        if has_all {
            self.let_go()?;
        }
        if self.stage.hold != Hold::Unloaded {
            self.tell_rest()?;
        }
        if let Stop::NoGain { evaluations, best } = stop {
            let detail = format!(
                "{evaluations} evaluations without a validation loss below {:.4}, that of step {}",
                best.loss, best.step
            );
            self.emit(Phase { name: "early-stop".into(), detail })?;
        }
        let looked = if has_all { self.look_last(stop) } else { Ok(()) };
        // A run that diverged keeps the states from before: the last one is what went wrong.
        let is_sick = matches!(stop, Stop::Diverged(_) | Stop::GoneWrong(_));
        if !is_sick && self.stage.hold != Hold::Unloaded {
            // Whatever the looks came to: they must not cost the last updates.
            let saved = self.save();
            looked.and(saved)?;
        }
        if has_all {
            let detail = match self.engine.model.base_storage() {
                Some(base) => format!("model/, merged into the decoded {}", base.format.name()),
                None => "model/".into(),
            };
            self.emit(Phase { name: "export".into(), detail })?;
            write_model(&self.dir.model(), &self.engine.model, &self.tokenizer)?;
        }
        Ok(())
    }

    fn look_last(&mut self, stop: &Stop) -> Result<()> {
        if matches!(stop, Stop::TimeIsUp { .. }) {
            self.evaluate_for_best()?;
        }
        let attempts = self.progress.attempts;
        // An early stop comes after what was due at its evaluation.
        let is_measured = matches!(stop, Stop::NoGain { .. }) && self.rank.is_due(attempts, false);
        if !matches!(stop, Stop::Done) && !is_measured && self.rank.is_due(attempts, true) {
            self.measure_ranks(false)?;
        }
        self.sample()
    }
}

/// Seconds of training at which `--max-minutes` ends a run. One that goes on after its time was up gets the
/// same time once more.
pub(super) fn time_limit_s(max_minutes: Option<f64>, progress: &Progress) -> Option<f64> {
    let limit_s = max_minutes? * 60.0;
    Some(if progress.active_s < limit_s { limit_s } else { progress.active_s + limit_s })
}
