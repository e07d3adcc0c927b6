//! Text from a network: a prompt or a chat in, text out token by token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::formats::tokenizer::Tokenizer;
use crate::model::Model;
use crate::model::generate::{Decoder, Sampling, penalise, sample};
use crate::random::Stream;

/// Tokens that end a turn in the chats of known models, for files that do not say it.
const TURN_ENDS: [&str; 5] = ["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|eom_id|>"];

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Token,
    /// It has as many tokens as were asked for.
    Length,
    /// The model's context is full.
    Context,
    /// It was stopped from outside.
    Stopped,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text, without the prompt.
    pub text: String,
    /// Its tokens, the ending one not counted.
    pub tokens: usize,
    /// Why it ended.
    pub end: End,
}

/// A text that grows: what was read and written so far, with its cache.
pub struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    decoder: Decoder<'a>,
    model: &'a Model,
    sampling: Sampling,
    random: Stream,
    ends: Vec<u32>,
    /// The tokens whose keys and values are in the cache.
    fed: Vec<i32>,
    /// Logits after the last of them.
    logits: Vec<f32>,
    /// Set from outside to end a text; taken back when it has.
    stop: Option<Arc<AtomicBool>>,
}

impl<'a> Writer<'a> {
    /// A writer of at most `capacity` tokens, prompt included, and at most the model's context.
    ///
    /// Errors: a `generation_config.json` that cannot be read.
    pub fn new(
        model: &'a Model,
        tokenizer: &'a Tokenizer,
        capacity: usize,
        sampling: Sampling,
        random: Stream,
    ) -> Result<Self> {
        let mut ends = vec![tokenizer.eos()];
        ends.extend(&model.config.eos_token_ids);
        ends.extend(tokenizer.generation_ends()?);
        let decoder = Decoder::new(model, capacity);
        let (fed, logits) = (Vec::new(), Vec::new());
        Ok(Self { tokenizer, decoder, model, sampling, random, ends, fed, logits, stop: None })
    }

    /// Also ends where the chats of known models end a turn.
    #[must_use]
    pub fn for_chat(mut self) -> Self {
        self.ends.extend(TURN_ENDS.iter().filter_map(|name| self.tokenizer.id_of(name)));
        self
    }

    /// Writes on past ending tokens: to measure.
    #[must_use]
    pub fn without_end(mut self) -> Self {
        self.ends.clear();
        self
    }

    /// Ends a text before its next token when `stop` is set, and takes that back.
    #[must_use]
    pub fn stopped_by(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        self.decoder.room()
    }

    /// Reads a text from its beginning. What it has in common with what was read and written before is not read again.
    ///
    /// Errors: a text that does not fit the context, with both numbers.
    pub fn read(&mut self, ids: &[u32]) -> Result<()> {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let common = self.fed.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        // The logits after the last token are needed, so that one is read in any case.
        let keep = common.min(ids.len().saturating_sub(1));
        self.decoder.rewind(keep);
        self.fed.truncate(keep);
        let context = self.fed.len() + self.decoder.room();
        if ids.is_empty() || ids.len() > context {
            return Err(Error::config(
                format!("the text has {} tokens, the context {context}", ids.len()),
                "shorten it, or begin a new chat",
            ));
        }
        self.feed(&ids[keep..])
    }

    fn feed(&mut self, ids: &[i32]) -> Result<()> {
        self.logits = self.decoder.feed(ids);
        // A model may have more rows than the tokenizer has entries; those are no text.
        self.logits.truncate(self.tokenizer.vocab_size());
        self.fed.extend(ids);
        self.model.device().check()
    }

    /// Writes up to `max_tokens` tokens and hands each piece of text to `emit` as soon as it is complete.
    pub fn write(
        &mut self,
        max_tokens: usize,
        emit: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Written> {
        let mut stream = self.tokenizer.stream();
        let mut text = String::new();
        let mut show = |piece: &str| {
            text.push_str(piece);
            emit(piece)
        };
        let (mut tokens, mut end) = (0, End::Length);
        while tokens < max_tokens {
            if self.stop.as_ref().is_some_and(|stop| stop.swap(false, Ordering::SeqCst)) {
                end = End::Stopped;
                break;
            }
            penalise(&mut self.logits, &self.fed, self.sampling.repetition_penalty);
            let id = sample(&self.logits, self.sampling, &mut self.random);
            if self.ends.contains(&(id as u32)) {
                end = End::Token;
                break;
            }
            tokens += 1;
            show(&stream.push(id as u32)?)?;
            if self.decoder.room() == 0 {
                end = End::Context;
                break;
            }
            self.feed(&[id])?;
        }
        show(&stream.finish()?)?;
        Ok(Written { text, tokens, end })
    }
}

/// The ids of a prompt: with the token that begins a text where the tokenizer's rule puts one, once; an empty prompt
/// stands after the separator, as a document does.
pub fn prompt_ids(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode(prompt)?;
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos())
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
    }
    if ids.is_empty() {
        ids.push(tokenizer.eos());
    }
    Ok(ids)
}

/// Continues a prompt by up to `max_tokens` tokens; of a prompt that is too long the end is taken.
pub fn continue_text(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &str,
    max_tokens: usize,
    sampling: Sampling,
    random: Stream,
    emit: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Written> {
    let mut ids = prompt_ids(tokenizer, prompt)?;
    cut(&mut ids, tokenizer.bos(), model.config.max_position_embeddings, max_tokens);
    let capacity = ids.len().saturating_add(max_tokens);
    let mut writer = Writer::new(model, tokenizer, capacity, sampling, random)?;
    writer.read(&ids)?;
    writer.write(max_tokens, emit)
}

/// Leaves out the beginning of a prompt that is too long: its end is what matters, and half the context stays for the
/// answer. The token that begins a text, `bos`, stays where it stands at the beginning.
pub fn cut(ids: &mut Vec<u32>, bos: Option<u32>, context: usize, max_tokens: usize) {
    let longest = (context - (context / 2).min(max_tokens)).max(1);
    let cut = ids.len().saturating_sub(longest);
    if cut > 0 {
        tracing::warn!(
            "the first {cut} of the prompt's {} tokens are left out: the context has {context}, and some stay for the answer",
            ids.len()
        );
        let kept = usize::from(longest > 1 && bos.is_some() && ids.first().copied() == bos);
        ids.drain(kept..kept + cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::model::config::preset;
    use crate::random::stream;

    fn tiny() -> (Model, Tokenizer) {
        let tokenizer = Tokenizer::bytes().unwrap();
        let mut config = preset("demo").unwrap().config(tokenizer.vocab_size());
        config.num_hidden_layers = 2;
        config.max_position_embeddings = 64;
        (Model::init(config, 5, &Device::cpu()), tokenizer)
    }

    fn writer<'a>(model: &'a Model, tokenizer: &'a Tokenizer) -> Writer<'a> {
        Writer::new(model, tokenizer, 1000, Sampling::GREEDY, stream(0, "", "", 0)).unwrap()
    }

    #[test]
    fn a_text_read_on_gives_what_a_text_read_anew_gives() {
        let (model, tokenizer) = tiny();
        let mut on = writer(&model, &tokenizer);
        on.read(&tokenizer.encode("one two").unwrap()).unwrap();
        on.write(9, &mut |_| Ok(())).unwrap();
        for text in ["one two three", "one tw", "one tw", "another"] {
            let ids = tokenizer.encode(text).unwrap();
            on.read(&ids).unwrap();
            let mut anew = writer(&model, &tokenizer);
            anew.read(&ids).unwrap();
            let pairs = on.logits.iter().zip(&anew.logits);
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-4), "{text}");
            assert_eq!(on.fed, anew.fed);
            let (a, b) = (on.write(7, &mut |_| Ok(())), anew.write(7, &mut |_| Ok(())));
            assert_eq!(a.unwrap(), b.unwrap(), "{text}");
        }
    }

    #[test]
    fn the_end_of_the_context_ends_a_text_and_refuses_longer_ones() {
        let (model, tokenizer) = tiny();
        let mut writer = writer(&model, &tokenizer).without_end();
        writer.read(&[5; 60]).unwrap();
        let written = writer.write(100, &mut |_| Ok(())).unwrap();
        assert_eq!((written.tokens, written.end), (5, End::Context));
        let error = writer.read(&[5; 65]).unwrap_err().to_string();
        assert!(error.contains("65 tokens, the context 64"), "{error}");
        assert!(writer.read(&[]).is_err());
        let error = writer.read(&[7; 65]).unwrap_err().to_string();
        assert!(error.contains("the context 64"), "{error}");
    }

    #[test]
    fn the_same_seed_writes_the_same_text_and_pieces_join_to_it() {
        let (model, tokenizer) = tiny();
        let text = |seed| {
            let sampling =
                Sampling { temperature: 1.0, repetition_penalty: 1.2, ..Sampling::GREEDY };
            let mut pieces = String::new();
            let random = stream(seed, "", "", 0);
            let mut emit = |piece: &str| {
                pieces.push_str(piece);
                Ok(())
            };
            let written =
                continue_text(&model, &tokenizer, "It", 20, sampling, random, &mut emit).unwrap();
            assert_eq!(written.text, pieces);
            pieces
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn a_prompt_that_is_too_long_keeps_the_token_that_begins_it() {
        let cut_of = |ids: &[u32], bos, context, max_tokens| {
            let mut ids = ids.to_vec();
            cut(&mut ids, bos, context, max_tokens);
            ids
        };
        let ids = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(cut_of(&ids, Some(1), 8, 4), [1, 6, 7, 8]);
        assert_eq!(cut_of(&ids, Some(9), 8, 4), [5, 6, 7, 8]);
        assert_eq!(cut_of(&ids, None, 8, 4), [5, 6, 7, 8]);
        assert_eq!(cut_of(&ids, Some(1), 16, 4), ids);
        assert_eq!(cut_of(&ids, Some(1), 1, 4), [8]);
    }
}
