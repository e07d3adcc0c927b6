//! Evaluations of a run: told as events, the best of those that the configuration asks for kept.

use crate::error::Result;
use crate::run::checkpoint::Best;
use crate::run::eval::{Evaluation, evaluate, evaluate_until};
use crate::runlog::Eval;

use super::Trainer;

impl Trainer<'_> {
    /// The validation loss now.
    pub(super) fn evaluate(&mut self) -> Result<f64> {
        let train = &self.config.train;
        let (batch_size, limit) = (train.batch_size.unwrap_or(1), train.eval_batches);
        let result = evaluate(&self.engine.model, &self.valid, batch_size, limit)?;
        self.tell_evaluation(&result)
    }

    /// The evaluation before the first update. Cut short by a signal it is not recorded: from a checkpoint of step 0 a
    /// run begins here again.
    pub(super) fn evaluate_start(&mut self) -> Result<()> {
        let train = &self.config.train;
        let (batch_size, limit) = (train.batch_size.unwrap_or(1), train.eval_batches);
        let is_cut = || self.signals.seen().is_some();
        let model = &self.engine.model;
        if let Some(result) = evaluate_until(model, &self.valid, batch_size, limit, is_cut)? {
            let loss = self.tell_evaluation(&result)?;
            self.keep_best(loss);
        }
        Ok(())
    }

    fn tell_evaluation(&mut self, result: &Evaluation) -> Result<f64> {
        let (loss, ppl, tokens) = (result.loss, result.perplexity(), result.tokens);
        self.emit(Eval { loss, ppl, tokens })?;
        Ok(loss)
    }

    /// An evaluation that the configuration asks for: whether it is the best so far.
    pub(super) fn evaluate_for_best(&mut self) -> Result<bool> {
        let loss = self.evaluate()?;
        Ok(self.keep_best(loss))
    }

    fn keep_best(&mut self, loss: f64) -> bool {
        self.progress.last_eval = Some(loss);
        let is_best = loss.is_finite() && self.progress.best.is_none_or(|best| loss < best.loss);
        if is_best {
            self.progress.best = Some(Best { loss, step: self.engine.t });
        }
        is_best
    }
}
