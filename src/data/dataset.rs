//! The data of a run, ready to be loaded: blocks to train on, blocks to validate, and the facts.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cache::{CachedTokens, TokenCache};
use super::loader::{Loader, ValidationBlocks, count_blocks};
use super::packed::Blocks;
use super::text::{Corpus, Document, Validation};
use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::formats::tokenizer::Tokenizer;

mod from_rows;

pub use from_rows::{RowFacts, RowOptions, row_blocks};

/// Ids that are counted at a time.
const COUNTED_AT_A_TIME: usize = 1 << 16;

/// The tokens of a run and what they were made of.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// What is trained on; at least one block.
    pub train: Blocks,
    /// What validates; at least one block, and nothing of `train`.
    pub valid: Blocks,
    /// Tokens of a block.
    pub seq_len: usize,
    /// What `facts.json` says of the data.
    pub facts: DataFacts,
    /// What a user should know of the data before training begins.
    pub notes: Vec<String>,
}

/// What a run records of its data, so that another can be compared with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFacts {
    /// `builtin` or the path.
    pub source: String,
    /// blake3 of `tokenizer.json`.
    pub tokenizer_blake3: String,
    /// One more than the tokenizer's largest id.
    pub vocab_size: usize,
    /// The texts to train on.
    pub train: SplitFacts,
    /// The texts to validate; the same as `train` where a share at its end is held out.
    pub valid: SplitFacts,
    /// The share of the text that is held out at its end, where it is.
    pub held_out_share: Option<f64>,
    /// What a model that knows only how often each token occurs would reach on `valid`.
    pub valid_unigram_perplexity: f64,
}

/// What a run records of the texts that it trains on or validates with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitFacts {
    /// Documents.
    pub documents: usize,
    /// Bytes of text.
    pub bytes: u64,
    /// blake3 of the text; of several documents, blake3 over their hashes in order.
    pub blake3: String,
    /// Tokens that are used, separators included.
    pub tokens: usize,
    /// Full blocks that they fill.
    pub blocks: usize,
    /// Of row data: what became of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowFacts>,
}

impl Dataset {
    /// Makes or finds the tokens of a corpus and parts them.
    ///
    /// Errors: those of reading the texts; [`Error::File`] with both numbers if they do not fill
    /// one block to train on and one to validate.
    pub fn prepare(
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        seq_len: usize,
        cache: &TokenCache,
    ) -> Result<Self> {
        if seq_len == 0 {
            return Err(Error::config("max-seq-length is 0", "give at least 1"));
        }
        let source = Path::new(&corpus.source);
        let split_facts = |documents: &[Document], made: &CachedTokens, used: &Tokens| SplitFacts {
            documents: documents.len(),
            bytes: made.bytes,
            blake3: made.hash.clone(),
            tokens: used.len(),
            blocks: count_blocks(used.len(), seq_len),
            rows: None,
        };

        let made = cache.tokens(&corpus.train, tokenizer)?;
        let (train, valid, train_facts, valid_facts, held_out_share) = match &corpus.validation {
            Validation::Documents(documents) => {
                let made_valid = cache.tokens(documents, tokenizer)?;
                let (train, valid) = (made.tokens.clone(), made_valid.tokens.clone());
                need_block(source, &train, seq_len, "to train on")?;
                need_block(source, &valid, seq_len, "to validate")?;
                let facts = split_facts(documents, &made_valid, &valid);
                (train.clone(), valid, split_facts(&corpus.train, &made, &train), facts, None)
            }
            Validation::ShareAtEnd(share) => {
                let (train, valid) = hold_out(source, &made.tokens, *share, seq_len)?;
                let facts = |used| split_facts(&corpus.train, &made, used);
                (train.clone(), valid.clone(), facts(&train), facts(&valid), Some(*share))
            }
        };
        let facts = DataFacts {
            source: corpus.source.clone(),
            tokenizer_blake3: tokenizer.hash().to_owned(),
            vocab_size: tokenizer.vocab_size(),
            train: train_facts,
            valid: valid_facts,
            held_out_share,
            valid_unigram_perplexity: unigram_perplexity(&valid)?,
        };
        let blocks = |tokens| Blocks::Text { tokens, seq_len };
        let (train, valid) = (blocks(train), blocks(valid));
        Ok(Self { train, valid, seq_len, facts, notes: Vec::new() })
    }

    /// Training batches from the start of the first epoch.
    pub fn loader(&self, data_seed: u64) -> Result<Loader> {
        Loader::over(self.train.clone(), data_seed)
    }

    /// The validation blocks.
    pub fn validation(&self) -> Result<ValidationBlocks> {
        ValidationBlocks::over(self.valid.clone())
    }
}

/// Checks that a text of its own fills a block.
fn need_block(source: &Path, tokens: &Tokens, seq_len: usize, purpose: &str) -> Result<()> {
    if count_blocks(tokens.len(), seq_len) > 0 {
        return Ok(());
    }
    Err(Error::file(
        source,
        format!(
            "the text {purpose} has {} tokens, one block of {seq_len} needs {}",
            tokens.len(),
            seq_len + 1
        ),
        "give more text, or a smaller --max-seq-length",
    ))
}

/// Parts a text into its beginning to train on and its end to validate, each at least one block.
fn hold_out(source: &Path, all: &Tokens, share: f64, seq_len: usize) -> Result<(Tokens, Tokens)> {
    let block = seq_len + 1;
    if all.len() < 2 * block {
        return Err(Error::file(
            source,
            format!(
                "the text has {} tokens; a block of {seq_len} to train on and one to validate need {}",
                all.len(),
                2 * block
            ),
            "give more text, or a smaller --max-seq-length",
        ));
    }
    let wanted = (all.len() as f64 * share).ceil() as usize;
    let cut = all.len() - wanted.clamp(block, all.len() - block);
    Ok((all.part(0..cut), all.part(cut..all.len())))
}

impl Blocks {
    /// [`unigram_perplexity`] of what counts in these blocks.
    pub fn unigram_perplexity(&self) -> Result<f64> {
        match self {
            Self::Text { tokens, .. } => unigram_perplexity(tokens),
            Self::Rows(rows) => Ok(perplexity_of(&rows.target_counts()?)),
        }
    }
}

/// The perplexity of a text under the frequencies of its own tokens: `exp(−Σ p ln p)`.
///
/// A model below this has learned more of the text than how often each token occurs.
/// Errors: [`Error::Io`] if the token cache cannot be read any more.
pub fn unigram_perplexity(tokens: &Tokens) -> Result<f64> {
    let mut counts: Vec<u64> = Vec::new();
    let mut ids = Vec::with_capacity(COUNTED_AT_A_TIME);
    for first in (0..tokens.len()).step_by(COUNTED_AT_A_TIME) {
        ids.clear();
        tokens.read(first, COUNTED_AT_A_TIME.min(tokens.len() - first), &mut ids)?;
        for id in ids.iter().map(|id| *id as usize) {
            if id >= counts.len() {
                counts.resize(id + 1, 0);
            }
            counts[id] += 1;
        }
    }
    Ok(perplexity_of(&counts))
}

/// The perplexity of these frequencies.
fn perplexity_of(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let shares = counts.iter().filter(|count| **count > 0).map(|count| *count as f64 / total);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    entropy.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_builtin_data_fill_their_blocks() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let corpus = Corpus::builtin();
        let data = Dataset::prepare(&corpus, &tokenizer, 128, &TokenCache::in_memory()).unwrap();
        assert_eq!(data.facts.train.documents, 5);
        assert_eq!(data.facts.train.bytes, 3_558_175);
        assert_eq!(data.facts.valid.tokens, data.valid.tokens());
        assert!(data.facts.train.tokens > 800_000, "{}", data.facts.train.tokens);
        let perplexity = data.facts.valid_unigram_perplexity;
        assert!((200.0..900.0).contains(&perplexity), "{perplexity}");
        let batch = data.loader(0).unwrap().next_batch(8).unwrap();
        assert!(batch.inputs.iter().all(|id| (0..4096).contains(id)));
        assert_eq!(data.validation().unwrap().blocks(), data.facts.valid.blocks);
    }

    #[test]
    fn the_end_is_held_out_and_nothing_is_in_both() {
        let ids: Vec<u32> = (0..1000).collect();
        let all = Tokens::from_ids(&ids, 1000);
        for (share, seq_len, expected) in
            [(0.05, 9, 50), (0.001, 9, 10), (0.999, 9, 990), (0.5, 499, 500)]
        {
            let (train, valid) = hold_out(Path::new("x"), &all, share, seq_len).unwrap();
            assert_eq!(valid.len(), expected, "{share} {seq_len}");
            assert_eq!(train.len() + valid.len(), 1000);
            let mut first = Vec::new();
            valid.read(0, 1, &mut first).unwrap();
            assert_eq!(first[0] as usize, train.len());
        }
        let error = hold_out(Path::new("x"), &all, 0.5, 500).unwrap_err().to_string();
        assert!(error.contains("has 1000 tokens") && error.ends_with("need 1002"), "{error}");
    }

    #[test]
    fn a_text_shorter_than_its_blocks_is_told_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("train.txt", "a".repeat(50)), ("valid.txt", "b".repeat(9))] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let corpus = Corpus::from_path(folder.path(), 0.05).unwrap();
        let tokenizer = Tokenizer::bytes().unwrap();
        let prepare =
            |seq_len| Dataset::prepare(&corpus, &tokenizer, seq_len, &TokenCache::in_memory());
        assert!(prepare(9).is_ok());
        let error = prepare(10).unwrap_err().to_string();
        assert!(error.ends_with("to validate has 10 tokens, one block of 10 needs 11"), "{error}");
        let error = prepare(60).unwrap_err().to_string();
        assert!(error.ends_with("to train on has 51 tokens, one block of 60 needs 61"), "{error}");
    }

    #[test]
    fn equal_frequencies_give_the_number_of_tokens() {
        let ids: Vec<u32> = (0..70_000).map(|i| i % 16).collect();
        let perplexity = unigram_perplexity(&Tokens::from_ids(&ids, 16)).unwrap();
        assert!((perplexity - 16.0).abs() < 1e-9, "{perplexity}");
        assert_eq!(unigram_perplexity(&Tokens::from_ids(&[3; 10], 16)).unwrap(), 1.0);
    }
}
