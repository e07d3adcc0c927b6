//! Going back by itself: a run that diverges returns to a checkpoint from before, with half the learning rate.
//!
//! What follows has the bits of a run that was killed and resumed from that checkpoint, and whose learning rate was then set
//! by hand; the log reads like that, too. Without the other rate the same bits would diverge again.

use std::path::PathBuf;

use crate::data::Position;
use crate::error::Result;
use crate::run::alerts::Trouble;
use crate::run::checkpoint::{self, Checkpoint};
use crate::runlog::{Body, Cmd, Event, Level, Log, Resume, Rollback, read_log};

use super::{Clock, Repeats, Stop, Trainer};

/// How often a run goes back before it stops.
const MOST: u64 = 3;
/// The setting that a rollback changes.
pub(super) const RATE: &str = "train.learning_rate";
/// What the learning rate is multiplied by.
const FACTOR: f64 = 0.5;
/// What the ids of its changes begin with.
const ID: &str = "rollback-";

/// Which of a run's rollbacks made a change in flight.
pub(super) fn number_of(cmd: &Cmd) -> Option<u64> {
    cmd.id.strip_prefix(ID)?.parse().ok()
}

/// How often a run went back by itself, in all of its processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rollbacks {
    count: u64,
    /// The step that it went back to last.
    target: Option<u64>,
}

impl Rollbacks {
    /// As the run's log tells. The last thing that a rollback writes counts: a run that was killed before it goes back
    /// again.
    pub fn of(events: &[Event]) -> Self {
        let mut known = Self::default();
        for event in events {
            // A resumed run makes the change again, under its old id.
            if let Body::Cmd(cmd) = &event.body
                && let Some(count) = number_of(cmd).filter(|count| *count > known.count)
            {
                known = Self { count, target: Some(event.step) };
            }
        }
        known
    }
}

/// What became of training that went wrong.
pub(super) enum Heeded {
    /// It did not, or the policy is another.
    Nothing,
    /// The run stands at an earlier checkpoint.
    WentBack,
    /// It cannot go back, and ends.
    GivesUp(Stop),
}

impl Trainer<'_> {
    /// Goes back where the update that was just attempted shows that training went wrong, and the policy says so.
    pub(super) fn heed_trouble(&mut self) -> Result<Heeded> {
        let Some(trouble) = self.progress.alerts.take_trouble() else { return Ok(Heeded::Nothing) };
        if self.config.train.alert_policy != "rollback" {
            return Ok(Heeded::Nothing);
        }
        let (why_not, stop) = if self.rollbacks.count >= MOST {
            (format!("it has done so {MOST} times already"), Stop::GoneWrong(trouble.what.clone()))
        } else if let Some(checkpoint) = self.sound_checkpoint(&trouble)? {
            self.go_back(&checkpoint, &trouble.what)?;
            return Ok(Heeded::WentBack);
        } else {
            // There is nothing better that its last checkpoint could push out.
            let why_not = "it has no checkpoint from before the trouble".to_owned();
            (why_not, Stop::Alarm(trouble.what.clone()))
        };
        let msg = format!("the run does not go back, {why_not}, and stops: {}", trouble.what);
        self.emit(Log { level: Level::Warn, msg })?;
        Ok(Heeded::GivesUp(stop))
    }

    /// The newest intact checkpoint of weights from before the trouble. Weights that evaluated better than all before
    /// them are sound, whatever spikes came earlier; those that the trouble was seen with never are. The checkpoint that the
    /// run went back to last is taken once more only where there is no older one.
    fn sound_checkpoint(&mut self, trouble: &Trouble) -> Result<Option<Checkpoint>> {
        let best = self.progress.best.map_or(0, |best| best.step + 1);
        let unsound = trouble.since.max(best).min(self.engine.t);
        let mut sound = self.dir.list_checkpoints()?;
        sound.retain(|checkpoint| checkpoint.step < unsound);
        if sound.len() > 1 && sound.last().map(|newest| newest.step) == self.rollbacks.target {
            sound.pop();
        }
        let folders: Vec<PathBuf> = sound.into_iter().map(|checkpoint| checkpoint.path).collect();
        let (found, damaged) = match Checkpoint::newest_intact(&folders) {
            Ok(found) => found,
            Err(error) => (None, vec![error]),
        };
        for error in damaged {
            self.emit(Log { level: Level::Warn, msg: checkpoint::skipped(&error) })?;
        }
        Ok(found)
    }

    /// Makes the updates after a checkpoint void and goes on from it with a lower learning rate.
    fn go_back(&mut self, checkpoint: &Checkpoint, what: &str) -> Result<()> {
        let from = self.engine.t;
        // The rate with which it went wrong, which may have been set after the checkpoint.
        let rate = FACTOR * self.config.train.learning_rate.unwrap_or(0.0);
        let progress = checkpoint.progress().clone();
        let mut void = self.dir.list_checkpoints()?;
        void.retain(|checkpoint| checkpoint.step > progress.t);
        let void: Vec<PathBuf> = void.into_iter().map(|checkpoint| checkpoint.path).collect();
        checkpoint::discard(&void)?;

        self.log.flush()?;
        let told = read_log(self.dir.events())?.events;
        self.repeats = Repeats::of(&told, &progress).without_rates(progress.attempts);
        self.engine.unload(&self.config)?;
        self.config = progress.tuned(&self.base)?;
        self.read_engine(checkpoint)?;
        let start = Position { epoch: 0, index: 0, ..self.loader.position() };
        self.loader.seek(progress.position.unwrap_or(start))?;
        self.progress = progress;
        self.rollbacks = Rollbacks { count: self.rollbacks.count + 1, target: Some(self.engine.t) };
        self.stage.clock = Clock::default();
        self.stage.alarm = None;
        self.stage.owes_checkpoint = false;
        self.stage.is_extended = true;
        self.tell_rollback(checkpoint, from, what, rate)
    }

    /// Writes what happened, and sets the learning rate.
    fn tell_rollback(
        &mut self,
        checkpoint: &Checkpoint,
        from: u64,
        what: &str,
        rate: f64,
    ) -> Result<()> {
        let (to, count) = (self.engine.t, self.rollbacks.count);
        let folder = format!("checkpoints/{}", Checkpoint::folder_name(to));
        let rollback = Rollback { count, from, checkpoint: folder.clone(), what: what.into() };
        let from_seq = Some(checkpoint.progress().event_seq);
        self.emit(Resume { from_step: Some(to), from_seq, rollback: Some(rollback) })?;
        self.emit_method_events()?;
        let changed = self.set(RATE, &rate.to_string())?;
        let rates = format!("{} -> {}", changed.from, changed.to);
        let msg = format!(
            "went back from update {from} to {to} ({folder}), {count} of at most {MOST} times: {what}; the learning \
             rate: {rates}"
        );
        self.emit(Log { level: Level::Warn, msg })?;
        self.emit(Cmd {
            id: format!("{ID}{count}"),
            cmd: format!("set {RATE}={}", changed.to),
            ok: true,
            what: format!("{}: {rates}, as the run went back", changed.key),
            set: Some(changed),
            attempts: self.progress.attempts,
        })?;
        self.log.sync()
    }
}
