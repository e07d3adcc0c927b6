//! One run, from its events alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::runlog::body::{Alert, Body, Ckpt, Cmd, Log, Mem, Sample, Subspace, Sys, Time};
use crate::runlog::status::Status;
use crate::runlog::{Event, Level, Merge, Rank, Reset, Summary};
use crate::series::{Moment, Table};

use super::switches::Switches;

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
    /// Merges of factors into the weights, oldest first.
    pub merges: Vec<At<Merge>>,
    /// New beginnings of factors or moments, oldest first.
    pub resets: Vec<At<Reset>>,
    /// New subspaces by layer, oldest first.
    pub subspaces: Vec<At<Subspace>>,
    now: Moment,
}

impl RunModel {
    /// A run that has told nothing yet.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self {
            dir,
            summary: Summary::default(),
            status: Status::default(),
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
            merges: Vec::new(),
            resets: Vec::new(),
            subspaces: Vec::new(),
            now: Moment::default(),
        }
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

    /// The newest value of a metric.
    pub fn last(&self, metric: Metric) -> Option<f64> {
        self.table(metric).column(metric.column())?.last().map(f64::from)
    }

    /// Takes an event in.
    pub fn apply(&mut self, event: &Event) {
        self.revision += 1;
        self.now.step = event.step;
        self.now.ts_ms = event.ts;
        if let Body::Step(step) = &event.body {
            self.now.tokens = step.tokens;
            self.now.active_s = step.active_s;
        }
        let at = self.now;
        match &event.body {
            Body::Run(run) => {
                for table in [&mut self.steps, &mut self.evals] {
                    if table.clock.start_ms == 0 {
                        table.clock.start_ms = event.ts;
                    }
                    table.clock.tokens_per_epoch = run.train_tokens as f64;
                }
                self.is_paused = false;
            }
            Body::Step(s) => self.steps.push(at, &[s.loss, s.lr, s.grad_norm, s.tok_s]),
            Body::Eval(e) => self.evals.push(at, &[e.loss, e.ppl]),
            Body::Switch(switch) => self.switches.add(event.step, switch),
            Body::Rank(rank) => self.ranks.push(At { at, what: (**rank).clone() }),
            Body::Mem(mem) => self.memory = Some(mem.clone()),
            Body::Time(time) => self.times.push(At { at, what: time.clone() }),
            Body::Sys(sys) => self.machine.push(At { at, what: sys.clone() }),
            Body::Ckpt(ckpt) => {
                self.mark(MarkerKind::Checkpoint, format!("checkpoint {}", event.step));
                self.checkpoints.push(At { at, what: ckpt.clone() });
            }
            Body::Sample(sample) => self.samples.push(At { at, what: sample.clone() }),
            Body::Alert(alert) => {
                if alert.level != Level::Info {
                    self.mark(MarkerKind::Alert, alert.what.clone());
                }
                self.alerts.push(At { at, what: alert.clone() });
            }
            Body::Log(log) => self.logs.push(At { at, what: log.clone() }),
            Body::Cmd(cmd) => {
                self.mark(MarkerKind::Command, cmd.cmd.clone());
                self.commands.push(At { at, what: cmd.clone() });
            }
            Body::Merge(merge) => {
                self.mark(MarkerKind::Merge, "merge".into());
                self.merges.push(At { at, what: merge.clone() });
            }
            Body::Reset(reset) => {
                self.mark(MarkerKind::Reset, "reset".into());
                self.resets.push(At { at, what: reset.clone() });
            }
            Body::Subspace(subspace) => {
                // One event a layer; one mark an update.
                let mut of_update = self.markers.iter().rev().take_while(|m| m.at.step == at.step);
                if !of_update.any(|marker| marker.kind == MarkerKind::Subspace) {
                    self.mark(MarkerKind::Subspace, "subspace".into());
                }
                self.subspaces.push(At { at, what: subspace.clone() });
            }
            Body::Limiter(_) => self.mark(MarkerKind::Limiter, "limiter".into()),
            Body::Skip(skip) => self.mark(MarkerKind::Skip, skip.reason.clone()),
            Body::Phase(phase) => self.mark(MarkerKind::Phase, phase.name.clone()),
            Body::Pause(pause) => {
                self.is_paused = true;
                self.mark(MarkerKind::Pause, pause.reason.clone());
            }
            Body::Resume(resume) => {
                self.is_paused = false;
                if let Some(step) = resume.from_step {
                    self.go_back(step);
                }
                self.mark(MarkerKind::Pause, "resume".into());
            }
            _ => {}
        }
        self.summary.add(event);
    }

    fn mark(&mut self, kind: MarkerKind, text: String) {
        self.markers.push(Marker { at: self.now, kind, text });
    }

    /// Takes back the updates after a checkpoint's: they were made again.
    fn go_back(&mut self, step: u64) {
        for table in [&mut self.steps, &mut self.evals] {
            let kept = (0..table.len())
                .take_while(|row| table.clock.moment(*row).is_some_and(|m| m.step <= step))
                .count();
            table.truncate(kept);
        }
        self.switches.truncate(step);
        self.ranks.retain(|rank| rank.at.step <= step);
        self.merges.retain(|merge| merge.at.step <= step);
        self.resets.retain(|reset| reset.at.step <= step);
        self.subspaces.retain(|subspace| subspace.at.step <= step);
    }
}
