//! One run, from its events alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::runlog::body::{Alert, Body, Ckpt, Cmd, Log, Mem, Sample, Subspace, Sys, Time};
use crate::runlog::status::Status;
use crate::runlog::{Event, Level, Merge, Rank, Reset, Summary};
use crate::series::{Axis, Moment, Table};

use super::super::source::Facts;
use super::cost::Cost;
use super::pace::Pace;
use super::switches::Switches;

/// A run that is silent for this many times the median of its updates seems to hang…
const STALL: f64 = 20.0;
/// …if that is more than this many seconds.
const STALL_LEAST_S: f64 = 30.0;

/// Something with the moment at which it was told.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// When.
    pub at: Moment,
    /// What.
    pub what: T,
}

/// A column of a run that charts can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Metric {
    /// Training loss.
    #[default]
    Loss,
    /// Validation loss.
    ValLoss,
    /// Validation perplexity.
    Perplexity,
    /// Learning rate.
    LearningRate,
    /// Norm of the whole gradient before clipping.
    GradNorm,
    /// Tokens per second.
    TokensPerSecond,
}

impl Metric {
    /// All metrics, in the order in which a key goes through them.
    pub const ALL: [Self; 6] = [
        Self::Loss,
        Self::ValLoss,
        Self::Perplexity,
        Self::LearningRate,
        Self::GradNorm,
        Self::TokensPerSecond,
    ];

    /// Its name in titles and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::ValLoss => "val/loss",
            Self::Perplexity => "val/ppl",
            Self::LearningRate => "lr",
            Self::GradNorm => "grad norm",
            Self::TokensPerSecond => "tok/s",
        }
    }

    /// Its column.
    pub fn column(self) -> &'static str {
        match self {
            Self::Loss | Self::ValLoss => "loss",
            Self::Perplexity => "ppl",
            Self::LearningRate => "lr",
            Self::GradNorm => "grad_norm",
            Self::TokensPerSecond => "tok_s",
        }
    }
}

/// What a mark on a chart stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MarkerKind {
    /// A checkpoint.
    Checkpoint,
    /// Factors went into the dense weights.
    Merge,
    /// Factors or moments began anew.
    Reset,
    /// A subspace was found anew.
    Subspace,
    /// A step was held back.
    Limiter,
    /// An update was skipped.
    Skip,
    /// A warning or an error.
    Alert,
    /// A command that was carried out.
    Command,
    /// The run waited, or went on.
    Pause,
    /// Another phase began.
    Phase,
}

impl MarkerKind {
    /// Whether it tells what an update did, which a resume from an earlier checkpoint makes void.
    fn is_of_an_update(self) -> bool {
        matches!(self, Self::Merge | Self::Reset | Self::Subspace | Self::Limiter | Self::Skip)
    }
}

/// A mark on the charts of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Marker {
    /// When.
    pub at: Moment,
    /// What it stands for.
    pub kind: MarkerKind,
    /// In a few words.
    pub text: String,
}

/// Everything that the views show of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunModel {
    /// Its folder, where it has one.
    pub dir: Option<PathBuf>,
    /// What title lines and tables need.
    pub summary: Summary,
    /// Live, finished, crashed, …
    pub status: Status,
    /// How many times as fast as it was the run is played again; none where it is shown as it is.
    pub replay: Option<f64>,
    /// Updates: `loss`, `lr`, `grad_norm`, `tok_s`.
    pub steps: Table,
    /// Evaluations: `loss`, `ppl`.
    pub evals: Table,
    /// Marks on the charts, oldest first.
    pub markers: Vec<Marker>,
    /// Vectors exchanged by layer.
    pub switches: Switches,
    /// Spectra and ranks, oldest first.
    pub ranks: Vec<At<Rank>>,
    /// Memory by category, the newest.
    pub memory: Option<Mem>,
    /// Where the time of an update goes, oldest first.
    pub times: Vec<At<Time>>,
    /// The machine, oldest first.
    pub machine: Vec<At<Sys>>,
    /// Checkpoints, oldest first.
    pub checkpoints: Vec<At<Ckpt>>,
    /// Texts that the model wrote, oldest first.
    pub samples: Vec<At<Sample>>,
    /// Warnings and errors, oldest first.
    pub alerts: Vec<At<Alert>>,
    /// Messages, oldest first.
    pub logs: Vec<At<Log>>,
    /// Answers to commands, oldest first.
    pub commands: Vec<At<Cmd>>,
    /// Whether the run waits.
    pub is_paused: bool,
    /// Events taken in; changes with every one.
    pub revision: u64,
    /// Its settings from `run.toml`, `table.key` to value; empty where they are not known.
    pub config: BTreeMap<String, String>,
    /// The high-water mark of memory that is predicted for the same run at full rank; none where it is not known.
    pub full_rank_bytes: Option<u64>,
    /// Merges of factors into the weights, oldest first.
    pub merges: Vec<At<Merge>>,
    /// New beginnings of factors or moments, oldest first.
    pub resets: Vec<At<Reset>>,
    /// New subspaces by layer, oldest first.
    pub subspaces: Vec<At<Subspace>>,
    /// What resumes from earlier checkpoints made void, oldest first.
    pub undone: Vec<Undone>,
    /// How fast it goes.
    pub pace: Pace,
    /// What an update costs, where its files tell.
    pub(super) cost: Option<Box<Cost>>,
    now: Moment,
    /// When it last told something, in milliseconds since 1970.
    heard_ms: i64,
    /// The longest that it was silent between two events of one process, in seconds.
    longest_wait_s: f64,
}

/// Updates that were made again after a resume from an earlier checkpoint. Each table begins with the last row that
/// still counts, so that its line begins where it left.
#[derive(Debug, Clone, PartialEq)]
pub struct Undone {
    /// Updates: the columns of [`RunModel::steps`].
    pub steps: Table,
    /// Evaluations: the columns of [`RunModel::evals`].
    pub evals: Table,
}

impl RunModel {
    /// A run that has told nothing yet.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self {
            dir,
            summary: Summary::default(),
            status: Status::default(),
            replay: None,
            steps: Table::new(&["loss", "lr", "grad_norm", "tok_s"]),
            evals: Table::new(&["loss", "ppl"]),
            markers: Vec::new(),
            switches: Switches::default(),
            ranks: Vec::new(),
            memory: None,
            times: Vec::new(),
            machine: Vec::new(),
            checkpoints: Vec::new(),
            samples: Vec::new(),
            alerts: Vec::new(),
            logs: Vec::new(),
            commands: Vec::new(),
            is_paused: false,
            revision: 0,
            config: BTreeMap::new(),
            full_rank_bytes: None,
            merges: Vec::new(),
            resets: Vec::new(),
            subspaces: Vec::new(),
            undone: Vec::new(),
            pace: Pace::default(),
            cost: None,
            now: Moment::default(),
            heard_ms: 0,
            longest_wait_s: 0.0,
        }
    }

    /// Takes in what the run's files say besides its log.
    pub fn set_facts(&mut self, facts: Facts) {
        self.revision += 1;
        self.config = facts.config;
        self.full_rank_bytes = facts.full_rank_bytes;
        self.cost = facts.cost.map(Box::new);
        if let Some(cost) = &self.cost {
            for table in [&mut self.steps, &mut self.evals] {
                cost.put_in(&self.summary.run, &mut table.clock);
            }
        }
    }

    /// Whether a command would reach it: it is live, and this is no replay.
    pub fn takes_commands(&self) -> bool {
        self.status.is_live() && self.replay.is_none()
    }

    /// What it is, in a word or two, for who wants to act on it.
    pub fn state(&self) -> &'static str {
        if self.replay.is_some() { "a replay" } else { self.status.word() }
    }

    /// What it is called: the name that the user gave.
    pub fn name(&self) -> String {
        let name = &self.summary.run.name;
        match &self.dir {
            _ if !name.is_empty() => name.clone(),
            Some(dir) => crate::runlog::RunDir::at(dir).short_name(),
            None => "run".into(),
        }
    }

    /// The newest moment.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// The table that holds a metric.
    pub fn table(&self, metric: Metric) -> &Table {
        match metric {
            Metric::ValLoss | Metric::Perplexity => &self.evals,
            _ => &self.steps,
        }
    }

    /// The tables of a metric that resumes made void, oldest first.
    pub fn undone(&self, metric: Metric) -> impl Iterator<Item = &Table> {
        self.undone.iter().map(move |undone| match metric {
            Metric::ValLoss | Metric::Perplexity => &undone.evals,
            _ => &undone.steps,
        })
    }

    /// Seconds that the run will still take, evaluations and checkpoints included; `None` before its pace is known and
    /// for a run that is not live, as a replay is not.
    pub fn left_s(&self) -> Option<f64> {
        if !self.takes_commands() {
            return None;
        }
        self.pace.left_s(&self.summary.run, self.now)
    }

    /// Tokens at which the validation loss first falls to `target`, on the straight line between two evaluations.
    pub fn tokens_to(&self, target: f64) -> Option<f64> {
        let losses = self.evals.column("loss")?.values();
        let mut before: Option<(f64, f64)> = None;
        for (row, loss) in losses.iter().enumerate().filter(|(_, loss)| loss.is_finite()) {
            let here = (self.evals.clock.at(row, Axis::Tokens), f64::from(*loss));
            if here.1 <= target {
                let Some(before) = before else { return Some(here.0) };
                let share = (before.1 - target) / (before.1 - here.1);
                return Some(before.0 + share * (here.0 - before.0));
            }
            before = Some(here);
        }
        None
    }

    /// Gives drawings that follow this many rows to smooth, all together.
    pub fn allow_smoothing(&self, rows: usize) {
        self.steps.allow(rows);
        self.evals.allow(rows);
    }

    /// Whether a drawing since the last call left something to smooth: draw again soon.
    pub fn take_is_behind(&self) -> bool {
        let tables = [&self.steps, &self.evals];
        tables.map(Table::take_is_behind).contains(&true)
    }

    /// Seconds for which a live run has made no update, where that is far longer than usual: more than `STALL` times
    /// the median and more than `STALL_LEAST_S`, or than twice the longest wait so far. A run that hangs cannot say so.
    pub fn stalled_s(&self, now_ms: i64) -> Option<f64> {
        if self.status != Status::Live || self.is_paused || self.steps.is_empty() {
            return None;
        }
        let since = now_ms.saturating_sub(self.heard_ms) as f64 / 1000.0;
        let usual = STALL * self.pace.step_s()?;
        let least = usual.max(STALL_LEAST_S).max(2.0 * self.longest_wait_s);
        (since > least).then_some(since)
    }

    /// The newest value of a metric.
    pub fn last(&self, metric: Metric) -> Option<f64> {
        self.table(metric).column(metric.column())?.last().map(f64::from)
    }

    /// Takes an event in.
    pub fn apply(&mut self, event: &Event) {
        self.revision += 1;
        let at = self.moment_of(event);
        // Pauses and the time between two processes are no silence.
        if !matches!(event.body, Body::Run(_) | Body::Resume(_) | Body::Cmd(_)) && !self.is_paused {
            let waited = event.ts.saturating_sub(self.heard_ms) as f64 / 1000.0;
            if self.heard_ms > 0 {
                self.longest_wait_s = self.longest_wait_s.max(waited);
            }
        }
        self.heard_ms = event.ts;
        match &event.body {
            Body::Run(run) => {
                for table in [&mut self.steps, &mut self.evals] {
                    if table.clock.start_ms == 0 {
                        table.clock.start_ms = event.ts;
                    }
                    table.clock.tokens_per_epoch = run.train_tokens as f64;
                    if let Some(cost) = &self.cost {
                        cost.put_in(run, &mut table.clock);
                    }
                }
                self.is_paused = false;
                self.pace.begin();
            }
            Body::Step(s) => {
                self.steps.push(at, &[s.loss, s.lr, s.grad_norm, s.tok_s]);
                self.pace.add(at);
            }
            Body::Eval(e) => {
                // A resumed run may evaluate an update again, and a command any: the newest is the one that counts.
                if let Some(last) = self.evals.len().checked_sub(1)
                    && self.evals.clock.step(last) == Some(event.step)
                {
                    self.evals.truncate(last);
                }
                self.evals.push(at, &[e.loss, e.ppl]);
            }
            Body::Switch(switch) => self.switches.add(event.step, switch, &self.summary.run),
            Body::Rank(rank) => self.ranks.push(At { at, what: (**rank).clone() }),
            Body::Mem(mem) => self.memory = Some(mem.clone()),
            Body::Time(time) => self.times.push(At { at, what: time.clone() }),
            Body::Sys(sys) => self.machine.push(At { at, what: sys.clone() }),
            Body::Ckpt(ckpt) => {
                self.mark(at, MarkerKind::Checkpoint, format!("checkpoint {}", event.step));
                self.checkpoints.push(At { at, what: ckpt.clone() });
            }
            Body::Sample(sample) => self.samples.push(At { at, what: sample.clone() }),
            Body::Alert(alert) => {
                if alert.level != Level::Info {
                    self.mark(at, MarkerKind::Alert, alert.what.clone());
                }
                self.alerts.push(At { at, what: alert.clone() });
            }
            Body::Log(log) => self.logs.push(At { at, what: log.clone() }),
            Body::Cmd(cmd) => {
                self.mark(at, MarkerKind::Command, cmd.cmd.clone());
                self.commands.push(At { at, what: cmd.clone() });
            }
            Body::Merge(merge) => {
                self.mark(at, MarkerKind::Merge, "merge".into());
                self.merges.push(At { at, what: merge.clone() });
            }
            Body::Reset(reset) => {
                self.mark(at, MarkerKind::Reset, "reset".into());
                self.resets.push(At { at, what: reset.clone() });
            }
            Body::Subspace(subspace) => {
                // One event a layer; one mark an update.
                let mut of_update = self.markers.iter().rev().take_while(|m| m.at.step == at.step);
                if !of_update.any(|marker| marker.kind == MarkerKind::Subspace) {
                    self.mark(at, MarkerKind::Subspace, "subspace".into());
                }
                self.subspaces.push(At { at, what: subspace.clone() });
            }
            Body::Limiter(_) => self.mark(at, MarkerKind::Limiter, "limiter".into()),
            Body::Skip(skip) => self.mark(at, MarkerKind::Skip, skip.reason.clone()),
            Body::Phase(phase) => self.mark(at, MarkerKind::Phase, phase.name.clone()),
            Body::Pause(pause) => {
                self.is_paused = true;
                self.pace.pause(event.ts);
                self.mark(at, MarkerKind::Pause, pause.reason.clone());
            }
            Body::Resume(resume) => {
                self.is_paused = false;
                match resume.from_step {
                    Some(step) => {
                        self.go_back(step);
                        self.pace.begin();
                    }
                    None => self.pace.go_on(event.ts),
                }
                let words = match &resume.rollback {
                    Some(rollback) => format!("went back from update {}", rollback.from),
                    None => "resume".into(),
                };
                self.mark(at, MarkerKind::Pause, words);
            }
            _ => {}
        }
        self.summary.add(event);
    }

    fn mark(&mut self, at: Moment, kind: MarkerKind, text: String) {
        self.markers.push(Marker { at, kind, text });
    }

    /// When an event is. Methods tell some things of an update after later updates: those belong to their own.
    fn moment_of(&mut self, event: &Event) -> Moment {
        let is_resume = matches!(&event.body, Body::Resume(resume) if resume.from_step.is_some());
        if event.step < self.now.step && !is_resume {
            let row = self.steps.clock.moment_of_step(event.step);
            return Moment { step: event.step, ..row.unwrap_or(self.now) };
        }
        self.now.step = event.step;
        self.now.ts_ms = event.ts;
        if let Body::Step(step) = &event.body {
            self.now.tokens = step.tokens;
            self.now.active_s = step.active_s;
        } else if is_resume {
            let row = self.steps.clock.moment_of_step(event.step).unwrap_or_default();
            self.now.tokens = row.tokens;
            self.now.active_s = row.active_s;
        }
        self.now
    }

    /// Takes back the updates after a checkpoint's: they were made again.
    fn go_back(&mut self, step: u64) {
        let cut = |table: &mut Table| {
            let kept = table.clock.row_after(Axis::Step, step as f64);
            table.split_off(kept)
        };
        let before = (self.steps.len(), self.evals.len());
        let undone = Undone { steps: cut(&mut self.steps), evals: cut(&mut self.evals) };
        if before != (self.steps.len(), self.evals.len()) {
            self.undone.push(undone);
        }
        self.markers.retain(|marker| marker.at.step <= step || !marker.kind.is_of_an_update());
        self.switches.truncate(step);
        self.ranks.retain(|rank| rank.at.step <= step);
        self.merges.retain(|merge| merge.at.step <= step);
        self.resets.retain(|reset| reset.at.step <= step);
        self.subspaces.retain(|subspace| subspace.at.step <= step);
        self.samples.retain(|sample| sample.at.step <= step);
        self.times.retain(|time| time.at.step <= step);
    }
}

#[cfg(test)]
mod tests;
