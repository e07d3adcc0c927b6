//! What may come between two updates: signals, commands, and the commands that a resumed run repeats.

use std::collections::VecDeque;
use std::mem;

use crate::error::{Error, Result};
use crate::run::checkpoint::{Checkpoint, Progress};
use crate::run::setup;
use crate::runlog::{Action, Body, Changed, Cmd, Command, Event, Pause, Resume};

use super::rollback::{self, RATE};
use super::{Hold, Next, Stop, Trainer};

/// What was changed in flight after the checkpoint that a run goes on from: done again at the same places, a resumed run
/// has the bits of one that never stopped.
#[derive(Debug, Default)]
pub struct Repeats(VecDeque<Cmd>);

impl Repeats {
    /// The changes that lay ahead of a checkpoint already when it was written, and those that the run's log has after it.
    pub fn of(events: &[Event], progress: &Progress) -> Self {
        let mut changes = progress.ahead.clone();
        for event in events.iter().filter(|event| event.seq > progress.event_seq) {
            match &event.body {
                Body::Cmd(cmd)
                    if cmd.ok && cmd.set.is_some() && cmd.attempts >= progress.attempts =>
                {
                    let is_known = changes.iter().any(|earlier| earlier.id == cmd.id);
                    if !is_known && rollback::number_of(cmd).is_some() {
                        changes.retain(|earlier| !is_rate_from(earlier, cmd.attempts));
                    }
                    // What was repeated before stands twice.
                    changes.retain(|earlier| earlier.id != cmd.id);
                    changes.push(cmd.clone());
                }
                _ => {}
            }
        }
        changes.sort_by_key(|cmd| cmd.attempts);
        Self(changes.into())
    }

    /// Leaves out changes of the learning rate from a place on: the run goes back to there with another one.
    pub(super) fn without_rates(mut self, attempts: u64) -> Self {
        self.0.retain(|cmd| !is_rate_from(cmd, attempts));
        self
    }

    fn due(&mut self, attempts: u64) -> Option<Cmd> {
        self.0.pop_front_if(|cmd| cmd.attempts <= attempts)
    }

    /// Those that are still ahead.
    pub(super) fn ahead(&self) -> Vec<Cmd> {
        self.0.iter().cloned().collect()
    }
}

/// Whether a change is one of the learning rate, from a place on.
fn is_rate_from(cmd: &Cmd, attempts: u64) -> bool {
    cmd.attempts >= attempts && cmd.set.as_ref().is_some_and(|changed| changed.key == RATE)
}

impl Trainer<'_> {
    /// Signals and commands that wait.
    pub(super) fn interruption(&mut self) -> Result<Next> {
        if let Some(signal) = self.signals.seen() {
            return Ok(Next::Stop(Stop::Signal(signal)));
        }
        if let Some(what) = self.stage.alarm.take() {
            match self.config.train.alert_policy.as_str() {
                "pause" if self.stage.hold == Hold::No => self.pause(&format!("alert: {what}"))?,
                "stop" => return Ok(Next::Stop(Stop::Alarm(what))),
                _ => {}
            }
        }
        while let Some(cmd) = self.repeats.due(self.progress.attempts) {
            self.repeat(cmd)?;
        }
        for command in self.control.poll()? {
            if let Some(stop) = self.obey(&command)? {
                return Ok(Next::Stop(stop));
            }
        }
        Ok(if self.stage.hold == Hold::No { Next::Going } else { Next::Paused })
    }

    fn obey(&mut self, command: &Command) -> Result<Option<Stop>> {
        let mut answer = Cmd {
            id: command.id.clone(),
            cmd: command.action.to_string(),
            ok: true,
            attempts: self.progress.attempts,
            ..Cmd::default()
        };
        let mut stop = None;
        let needs_device = matches!(
            command.action,
            Action::Checkpoint | Action::Sample | Action::Eval | Action::Spectra | Action::Unload
        );
        match &command.action {
            _ if self.stage.hold == Hold::Unloaded && needs_device => {
                answer.ok = false;
                answer.what = "the device's memory is unloaded: resume first".into();
            }
            Action::Pause if self.stage.hold != Hold::No => {
                answer.what = "the run is paused already".into();
            }
            Action::Pause => self.pause("asked to")?,
            Action::Resume if self.stage.hold == Hold::No => {
                answer.what = "the run is not paused".into();
            }
            Action::Resume => {
                self.let_go()?;
                self.emit(Resume::default())?;
            }
            Action::Checkpoint => {
                self.save()?;
                answer.what = format!("step {}", self.engine.t);
            }
            Action::Stop => stop = Some(Stop::Asked),
            Action::Sample => self.sample()?,
            Action::Eval => {
                let loss = self.evaluate()?;
                answer.what = format!("validation loss {loss:.4}");
            }
            Action::Spectra => self.measure_ranks(true)?,
            Action::Unload => {
                if self.stage.hold == Hold::No {
                    self.pause("unloaded")?;
                }
                let before = self.engine.model.device().ledger().read().total();
                self.unload()?;
                let after = self.engine.model.device().ledger().read().total();
                let mib = before.saturating_sub(after) / (1 << 20);
                answer.what = format!("{mib} MiB freed; resume brings the run back");
            }
            Action::Set { key, value } => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                match self.set(key, &text) {
                    Ok(changed) => {
                        let from = if changed.from.is_empty() { "unset" } else { &changed.from };
                        answer.what = format!("{}: {from} -> {}", changed.key, changed.to);
                        answer.set = Some(changed);
                    }
                    Err(error) => {
                        answer.ok = false;
                        answer.what = format!("{error}; {}", error.remedy());
                    }
                }
            }
        }
        self.emit(answer)?;
        self.log.flush()?;
        Ok(stop)
    }

    fn pause(&mut self, reason: &str) -> Result<()> {
        self.stage.hold = Hold::Paused;
        self.tell_rest()?;
        self.emit(Pause { reason: reason.into() })
    }

    /// Changes a setting from the next update on.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<Changed> {
        let change = self.config.changed_live(key, value)?;
        self.engine.retune(&change.config)?;
        self.config = change.config;
        self.progress.live.insert(change.key.into(), change.to.clone());
        Ok(Changed { key: change.key.into(), from: change.from, to: change.to })
    }

    /// Does again what a user did at this place before the run was interrupted.
    fn repeat(&mut self, mut cmd: Cmd) -> Result<()> {
        let Some(changed) = &cmd.set else { return Ok(()) };
        let changed = self.set(&changed.key.clone(), &changed.to.clone())?;
        cmd.what = format!("{}: {} -> {}, as before", changed.key, changed.from, changed.to);
        cmd.set = Some(changed);
        self.emit(cmd)
    }

    /// Ends a pause, with the engine as it was before it.
    pub(super) fn let_go(&mut self) -> Result<()> {
        if mem::take(&mut self.stage.hold) == Hold::Unloaded {
            self.reload()?;
        }
        Ok(())
    }

    /// Writes a checkpoint and frees the device.
    fn unload(&mut self) -> Result<()> {
        self.save()?;
        self.engine.unload(&self.config)?;
        self.stage.hold = Hold::Unloaded;
        Ok(())
    }

    /// Brings network, moments and the method's state back from the checkpoint that [`unload`](Self::unload) wrote.
    fn reload(&mut self) -> Result<()> {
        let folder = self.dir.checkpoint(self.engine.t);
        let (checkpoint, damaged) = Checkpoint::newest_intact(&[folder])?;
        let Some(checkpoint) = checkpoint else {
            let what = damaged.first().map_or_else(|| "it is gone".into(), ToString::to_string);
            return Err(Error::run(
                format!("the checkpoint that was written before unloading cannot be read: {what}"),
                format!("`fullrank resume {}` takes an older one", self.dir.as_argument()),
            ));
        };
        self.read_engine(&checkpoint)
    }

    /// Takes an engine from a checkpoint in the place of one that was unloaded.
    pub(super) fn read_engine(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let device = self.engine.model.device().clone();
        let mut engine = setup::resumed_engine(&self.config, checkpoint, &device)?;
        checkpoint.restore(&mut engine, true)?;
        self.engine = engine;
        Ok(())
    }
}
