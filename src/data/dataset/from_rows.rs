//! The data of a run that trains on rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DataFacts, Dataset, SplitFacts};
use crate::data::cache::TokenCache;
use crate::data::packed::{Blocks, Layout, PackedRows};
use crate::data::row_cache::{CachedRows, RowFormat};
use crate::data::rows::RowKind;
use crate::data::text::{Corpus, Document, Validation};
use crate::error::{Error, Result};
use crate::formats::chat::ChatTemplate;

/// How rows are read and laid out.
#[derive(Debug, Clone, Copy)]
pub struct RowOptions<'a> {
    /// Tokenizer, template, what is learned, and whether a wrong row stops.
    pub format: RowFormat<'a>,
    /// Positions of a block.
    pub seq_len: usize,
    /// Rows share blocks.
    pub packing: bool,
}

impl RowOptions<'_> {
    fn layout(&self) -> Layout {
        let Self { seq_len, packing, format } = *self;
        Layout { seq_len, mask_prompt: format.mask_prompt, packing, filler: format.tokenizer.eos() }
    }
}

/// What a run records of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFacts {
    /// Rows that are used.
    pub rows: u64,
    /// Rows of the files that can be used, by kind.
    pub kinds: BTreeMap<RowKind, u64>,
    /// Rows of the files that cannot.
    pub bad_rows: u64,
    /// Rows of which nothing is to be learned.
    pub dropped: u64,
    /// Rows that were cut to the length of a block.
    pub truncated: u64,
    /// Tokens of the longest row, before the cut.
    pub longest: u64,
    /// Targets that count.
    pub counted_tokens: u64,
    /// Only completions count.
    pub mask_prompt: bool,
    /// Rows share blocks.
    pub packing: bool,
    /// A hash of the chat template, where there is one.
    pub chat_template_blake3: Option<String>,
}

impl Dataset {
    /// Makes or finds the rows of a corpus, parts and packs them.
    ///
    /// Errors: those of reading the rows; fewer than two rows that can be used, or nothing to be learned in them.
    pub fn prepare_rows(
        corpus: &Corpus,
        options: RowOptions<'_>,
        cache: &TokenCache,
    ) -> Result<Self> {
        let RowOptions { format, seq_len, .. } = options;
        if seq_len == 0 {
            return Err(Error::config("max-seq-length is 0", "give at least 1"));
        }
        let mut notes = Vec::new();
        let made = cache.rows(&corpus.train, format)?;
        note_bad_rows(&corpus.train, &made, &mut notes);
        let rows = made.report.rows();
        let (train, valid, held_out_share) = match &corpus.validation {
            Validation::Documents(documents) => {
                let made_valid = cache.rows(documents, format)?;
                note_bad_rows(documents, &made_valid, &mut notes);
                let train = split(&corpus.train, &made, 0..rows, options, &mut notes)?;
                let all = 0..made_valid.report.rows();
                let valid = split(documents, &made_valid, all, options, &mut notes)?;
                (train, valid, None)
            }
            Validation::ShareAtEnd(share) => {
                if rows < 2 {
                    let path = corpus.train.first().map_or(corpus.source.as_ref(), Document::path);
                    return Err(Error::file(
                        path,
                        "has one row that can be used; one to train on and one to validate are needed",
                        "give more rows, or a folder with train.jsonl and valid.jsonl",
                    ));
                }
                let held_out = ((rows as f64 * share).ceil() as u64).clamp(1, rows - 1);
                let cut = rows - held_out;
                let train = split(&corpus.train, &made, 0..cut, options, &mut notes)?;
                let valid = split(&corpus.train, &made, cut..rows, options, &mut notes)?;
                (train, valid, Some(*share))
            }
        };
        let (train_blocks, valid_blocks) = (Blocks::Rows(train.0), Blocks::Rows(valid.0));
        let facts = DataFacts {
            source: corpus.source.clone(),
            tokenizer_blake3: format.tokenizer.hash().to_owned(),
            vocab_size: format.tokenizer.vocab_size(),
            train: train.1,
            valid: valid.1,
            held_out_share,
            valid_unigram_perplexity: valid_blocks.unigram_perplexity()?,
        };
        Ok(Self { train: train_blocks, valid: valid_blocks, seq_len, facts, notes })
    }
}

/// The rows of some files as blocks, to evaluate on, and what a user should know of them.
///
/// Errors: those of reading the rows; nothing in them to evaluate on.
pub fn row_blocks(
    documents: &[Document],
    options: RowOptions<'_>,
    cache: &TokenCache,
) -> Result<(Blocks, Vec<String>)> {
    let mut notes = Vec::new();
    let made = cache.rows(documents, options.format)?;
    note_bad_rows(documents, &made, &mut notes);
    let (packed, _) = split(documents, &made, 0..made.report.rows(), options, &mut notes)?;
    Ok((Blocks::Rows(packed), notes))
}

/// Packs a range of rows.
fn split(
    documents: &[Document],
    made: &CachedRows,
    range: Range<u64>,
    options: RowOptions<'_>,
    notes: &mut Vec<String>,
) -> Result<(Arc<PackedRows>, SplitFacts)> {
    let RowOptions { seq_len, packing, format } = options;
    let packed = PackedRows::new(made, range, options.layout())?;
    let counts = packed.counts;
    let name = documents.first().map_or_else(String::new, |d| d.path().display().to_string());
    if counts.rows == 0 {
        return Err(Error::file(
            name,
            format!(
                "none of {} rows has anything to learn within its first {seq_len} tokens (the longest has {})",
                counts.dropped, counts.longest
            ),
            "give a larger --max-seq-length, rows with a completion, or --mask-prompt false",
        ));
    }
    if counts.truncated > 0 {
        notes.push(format!(
            "{name}: {} of {} rows are longer than {seq_len} tokens and are cut there; the longest has {}",
            counts.truncated, counts.rows, counts.longest
        ));
    }
    if counts.dropped > 0 {
        notes.push(format!(
            "{name}: {} rows are left out: nothing within their first {seq_len} tokens is to be learned",
            counts.dropped
        ));
    }
    let facts = SplitFacts {
        documents: documents.len(),
        bytes: made.bytes,
        blake3: made.hash.clone(),
        tokens: counts.tokens as usize,
        blocks: packed.blocks(),
        rows: Some(RowFacts {
            rows: counts.rows,
            kinds: made.report.kinds.clone(),
            bad_rows: made.report.bad,
            dropped: counts.dropped,
            truncated: counts.truncated,
            longest: counts.longest,
            counted_tokens: counts.learned,
            mask_prompt: format.mask_prompt,
            packing,
            chat_template_blake3: format.template.map(ChatTemplate::fingerprint),
        }),
    };
    Ok((Arc::new(packed), facts))
}

/// Tells of rows that cannot be used, and shows the first.
fn note_bad_rows(documents: &[Document], made: &CachedRows, notes: &mut Vec<String>) {
    let report = &made.report;
    if report.bad == 0 {
        return;
    }
    let all = report.bad + report.rows();
    notes.push(format!(
        "{} of {all} rows cannot be used and are passed over; the first:",
        report.bad
    ));
    for bad in &report.first_bad {
        let path = documents.get(bad.document).map_or("".as_ref(), Document::path);
        notes.push(format!("{}, line {} {}", path.display(), bad.line, bad.reason));
    }
}
