//! Loss and perplexity on held-out text, weighted by tokens.

use crate::data::ValidationBlocks;
use crate::error::{Error, Result};
use crate::model::{Batch, Model};

/// Result of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean loss over tokens, in nats.
    pub loss: f64,
    /// Tokens that were predicted.
    pub tokens: u64,
    /// Of row data: mean loss over the completions alone, and their tokens.
    pub completions: Option<(f64, u64)>,
}

impl Evaluation {
    /// `exp(loss)`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Evaluates the network as it is trained (no merge) on the first `limit` batches; 0: on all.
pub fn evaluate(
    model: &Model,
    blocks: &ValidationBlocks,
    batch_size: usize,
    limit: usize,
) -> Result<Evaluation> {
    evaluate_until(model, blocks, batch_size, limit, || false)?
        .ok_or_else(|| Error::run("the evaluation was cut short", "report this"))
}

/// As [`evaluate`]; nothing where `is_cut` says so between two batches.
pub fn evaluate_until(
    model: &Model,
    blocks: &ValidationBlocks,
    batch_size: usize,
    limit: usize,
    is_cut: impl Fn() -> bool,
) -> Result<Option<Evaluation>> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (mut sum, mut tokens) = (0.0, 0);
    let (mut completion_sum, mut completion_tokens) = (0.0, 0);
    for block in blocks.batches(batch_size).take(limit) {
        if is_cut() {
            return Ok(None);
        }
        let block = block?;
        let batch = Batch::of(&block, model.device());
        tokens += batch.counted as u64;
        let losses = model.token_losses(&batch).to_host();
        for (loss, is_completion) in losses.iter().zip(&block.completions) {
            if *is_completion {
                completion_sum += f64::from(*loss);
                completion_tokens += 1;
            }
        }
        sum += losses.into_iter().map(f64::from).sum::<f64>();
    }
    model.device().check()?;
    let completions = (completion_tokens > 0)
        .then(|| (completion_sum / completion_tokens as f64, completion_tokens));
    Ok(Some(Evaluation { loss: sum / tokens.max(1) as f64, tokens, completions }))
}
