//! Loss and perplexity on held-out text, weighted by tokens.

use crate::data::ValidationBlocks;
use crate::error::Result;
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
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (mut sum, mut tokens) = (0.0, 0);
    let (mut completion_sum, mut completion_tokens) = (0.0, 0);
    for block in blocks.batches(batch_size).take(limit) {
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
    Ok(Evaluation { loss: sum / tokens.max(1) as f64, tokens, completions })
}
