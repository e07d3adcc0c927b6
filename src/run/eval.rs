//! Loss and perplexity on held-out text, weighted by tokens; and text samples.

use crate::data::ValidationBlocks;
use crate::error::Result;
use crate::formats::tokenizer::Tokenizer;
use crate::model::generate::{Decoder, Sampling, sample};
use crate::model::{Batch, Model};
use crate::random::Stream;

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

/// Continues a prompt by up to `max_tokens` tokens and hands each piece of text to `emit` as soon as it is
/// complete. Ends at an end-of-text token or at the end of the model's context.
///
/// An empty prompt starts after the separator, as a document does.
pub fn continue_text(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &str,
    max_tokens: usize,
    sampling: Sampling,
    random: &mut Stream,
    emit: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let context = model.config.max_position_embeddings;
    let mut ids: Vec<i32> = tokenizer.encode(prompt)?.into_iter().map(|id| id as i32).collect();
    if ids.is_empty() {
        ids.push(tokenizer.eos() as i32);
    }
    // The end of a long prompt is what matters; half the context stays for the answer.
    let longest = context - (context / 2).min(max_tokens);
    let cut = ids.len().saturating_sub(longest.max(1));
    if cut > 0 {
        tracing::warn!(
            "the first {cut} of the prompt's {} tokens are left out: the context has {context}, and some stay for the answer",
            ids.len()
        );
        ids.drain(..cut);
    }
    let mut decoder = Decoder::new(model, ids.len().saturating_add(max_tokens));
    let mut text = tokenizer.stream();
    let mut logits = decoder.feed(&ids);
    for _ in 0..max_tokens {
        // A model may have more rows than the tokenizer has entries; those are no text.
        logits.truncate(tokenizer.vocab_size());
        let id = sample(&logits, sampling, random);
        let is_end =
            id as u32 == tokenizer.eos() || model.config.eos_token_ids.contains(&(id as u32));
        if is_end {
            break;
        }
        emit(&text.push(id as u32)?)?;
        if decoder.room() == 0 {
            break;
        }
        logits = decoder.feed(&[id]);
        model.device().check()?;
    }
    emit(&text.finish()?)
}
