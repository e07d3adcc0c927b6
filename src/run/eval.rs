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
    for batch in blocks.batches(batch_size).take(limit) {
        let batch = batch?;
        let batch = Batch::new(&batch.inputs, &batch.targets, batch.seq_len, model.device());
        tokens += batch.counted as u64;
        sum += model.token_losses(&batch).to_host().into_iter().map(f64::from).sum::<f64>();
    }
    model.device().check()?;
    Ok(Evaluation { loss: sum / tokens.max(1) as f64, tokens })
}
