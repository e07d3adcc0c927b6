//! What the loop tells the world: to the log, to the sink, to `log.txt`, and for warnings to the user's command.

use crate::error::Result;
use crate::runlog::{Alert, Body, Event, Level, Log};

use super::Trainer;

impl Trainer<'_> {
    /// Writes what the method told since the last look.
    pub(super) fn emit_method_events(&mut self) -> Result<()> {
        for body in std::mem::take(&mut self.engine.events) {
            if self.rank.wants(&self.engine, &body) {
                self.emit(body)?;
            }
        }
        Ok(())
    }

    /// Writes what the method told of updates before this one.
    pub(super) fn emit_late_events(&mut self) -> Result<()> {
        for (step, body) in std::mem::take(&mut self.engine.late_events) {
            if self.rank.wants(&self.engine, &body) {
                self.emit_at(step, body)?;
            }
        }
        Ok(())
    }

    /// Has the method tell what it holds back for the next update: after this the log is complete up to here.
    pub(super) fn tell_rest(&mut self) -> Result<()> {
        self.engine.read_late_events();
        self.emit_late_events()
    }

    /// Tells the world.
    pub fn emit(&mut self, body: impl Into<Body>) -> Result<()> {
        self.emit_at(self.engine.t, body)
    }

    pub(super) fn emit_some(&mut self, alert: Option<Alert>) -> Result<()> {
        alert.map_or(Ok(()), |alert| self.emit(alert))
    }

    pub(super) fn emit_at(&mut self, step: u64, body: impl Into<Body>) -> Result<()> {
        let event = self.log.emit(step, body)?;
        note(&event);
        self.sink.on_event(&event);
        if let Body::Alert(alert) = &event.body
            && alert.level != Level::Info
        {
            self.alarm(step, alert)?;
        }
        Ok(())
    }

    /// What the user wants to happen on a warning or an error: the command now, the policy before the next update.
    fn alarm(&mut self, step: u64, alert: &Alert) -> Result<()> {
        self.stage.alarm = Some(alert.what.clone());
        let Some(command) = &self.config.train.on_alert else { return Ok(()) };
        if let Err(error) = self.stage.hook.start(command, self.dir.path(), step, alert) {
            let msg = format!("on_alert: {error}; {}", error.remedy());
            return self.emit(Log { level: Level::Warn, msg });
        }
        Ok(())
    }
}

/// Puts what a reader of `log.txt` looks for there: milestones and trouble, not every update.
fn note(event: &Event) {
    let step = event.step;
    match &event.body {
        Body::Phase(phase) => tracing::info!("step {step}: {} {}", phase.name, phase.detail),
        Body::Eval(eval) => {
            tracing::info!(
                "step {step}: validation loss {:.4}, perplexity {:.2}",
                eval.loss,
                eval.ppl
            );
        }
        Body::Ckpt(ckpt) => {
            tracing::info!("step {step}: {} in {:.0} ms", ckpt.path, ckpt.ms);
        }
        Body::Skip(skip) => tracing::info!("step {step}: update skipped, {}", skip.reason),
        Body::Alert(alert) => tracing::info!("step {step}: {} {}", alert.what, alert.remedy),
        Body::Cmd(cmd) => tracing::info!("step {step}: command {} {}", cmd.cmd, cmd.what),
        Body::End(end) => tracing::info!("step {step}: {:?} {}", end.status, end.what),
        _ => {}
    }
}
