//! Ids that become text while they arrive.

use super::Tokenizer;
use crate::error::Result;

/// Text from ids that arrive one at a time; never shows half a character.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids that are not shown yet, behind those shown last: some decoders treat the first
    /// token of a sequence differently, so new ones are never decoded alone.
    ids: Vec<u32>,
    /// How many of `ids` are shown.
    shown: usize,
}

impl<'a> StreamDecoder<'a> {
    /// After this many ids without a whole character, the bytes are no text: a character has at
    /// most four.
    const MAX_WAITING: usize = 8;

    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), shown: 0 }
    }

    /// Takes the next id and returns the text that is now certain, often a word, sometimes nothing.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.waiting_text()?;
        let is_whole = !text.is_empty() && !text.ends_with(char::REPLACEMENT_CHARACTER);
        if is_whole || self.ids.len() - self.shown > Self::MAX_WAITING {
            self.ids.drain(..self.shown);
            self.shown = self.ids.len();
            return Ok(text);
        }
        Ok(String::new())
    }

    /// The rest: a character that was begun and not finished becomes U+FFFD.
    pub fn finish(mut self) -> Result<String> {
        let text = self.waiting_text()?;
        self.ids.clear();
        Ok(text)
    }

    fn waiting_text(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown])?;
        let all = self.tokenizer.decode(&self.ids)?;
        Ok(all.strip_prefix(before.as_str()).unwrap_or_default().to_owned())
    }
}
