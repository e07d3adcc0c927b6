//! The marked ids of row data, made once and kept like the tokens of texts, with what was found on the way.
//!
//! A file is read line by line, a few hundred rows at a time are encoded by all threads, and the ids go to
//! the cache's file in the order of the lines, so the data may be larger than memory. Rows that cannot be
//! used are counted and the first of them kept with their places; the report lies beside the ids.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cache::{BuildError, HashingReader, Sink, Source, TokenCache, changed, hash_documents};
use super::encode::{Encoder, RowError};
use super::jsonl::{Line, Lines, MAX_LINE_BYTES};
use super::rows::{RowKind, parse};
use super::text::Document;
use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::formats::atomic::write_atomically;
use crate::formats::chat::ChatTemplate;
use crate::formats::tokenizer::Tokenizer;

/// Changes with the marks, with the reading of rows, and with anything that makes other ids of the same rows.
const VERSION: u32 = 2;
/// Lines, and bytes of them, that are encoded at a time by all threads together.
const LINES_AT_A_TIME: usize = 1024;
const BYTES_AT_A_TIME: usize = 4 << 20;
/// Bad rows that are shown.
pub const SHOWN: usize = 5;
/// Marks take the upper two bits of four bytes.
const WIDTH: usize = 4;

/// How rows become ids.
#[derive(Debug, Clone, Copy)]
pub struct RowFormat<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The template of chats.
    pub template: Option<&'a ChatTemplate>,
    /// Stop at a row that cannot be used.
    pub strict: bool,
    /// Only completions, and what the assistant says, are learned: a chat in which that cannot be found is of no use.
    pub mask_prompt: bool,
}

/// What was found in the rows of some files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowReport {
    /// Rows that can be used, by kind.
    pub kinds: BTreeMap<RowKind, u64>,
    /// Rows that cannot.
    pub bad: u64,
    /// The first of them.
    pub first_bad: Vec<BadRow>,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Which of the files, from 0.
    pub document: usize,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong, as the end of a sentence.
    pub reason: String,
}

impl RowReport {
    /// Rows that can be used.
    pub fn rows(&self) -> u64 {
        self.kinds.values().sum()
    }
}

/// Marked ids with what they were made of.
#[derive(Debug)]
pub struct CachedRows {
    /// The marked ids of all rows.
    pub(super) tokens: Tokens,
    /// What was found.
    pub report: RowReport,
    /// Bytes of the files.
    pub bytes: u64,
    /// blake3 of the file in hexadecimal; of several, blake3 over their hashes in order.
    pub hash: String,
}

impl TokenCache {
    /// The marked ids of the rows of some files, from the cache or made now.
    ///
    /// Errors: those of reading the files; with `strict` the first row that cannot be used, with its line; a
    /// chat where there is no template; no row that can be used.
    pub fn rows(&self, documents: &[Document], format: RowFormat<'_>) -> Result<CachedRows> {
        let hashes = hash_documents(documents)?;
        let key = key(&hashes.all, &format);
        let beside = self.folder().map(|folder| folder.join(format!("{key}.json")));
        let report: Option<RowReport> = beside.as_deref().and_then(read_report);
        let is_known = report.is_some();
        let mut rows =
            Rows { documents, hashes: &hashes.each, format, report: report.unwrap_or_default() };
        if format.strict {
            rows.refuse_bad()?;
        }
        let tokens = self.store(&key, &mut rows)?;
        if !is_known && rows.report == RowReport::default() {
            // The ids are there and their report is not: what it says is found by reading again.
            let made = rows.tokenize(&mut |_| Ok(()));
            made.map_err(|(BuildError::Text(error) | BuildError::Cache(error))| error)?;
        }
        let report = rows.report;
        if let Some(path) = beside.filter(|_| !is_known)
            && let Ok(text) = serde_json::to_vec(&report)
            && let Err(error) = write_atomically(&path, &text)
        {
            tracing::warn!("what was found in the rows is not kept: {error}");
        }
        if report.rows() == 0 {
            return Err(nothing_usable(documents, &report));
        }
        let bytes = documents.iter().map(Document::bytes).sum();
        Ok(CachedRows { tokens, report, bytes, hash: hashes.all.to_hex().to_string() })
    }
}

/// The name of a cache file: everything that decides its content.
fn key(text_hash: &blake3::Hash, format: &RowFormat<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"fullrank rows");
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(format.tokenizer.hash().as_bytes());
    hasher.update(&format.tokenizer.eos().to_le_bytes());
    hasher.update(&format.tokenizer.bos().unwrap_or(u32::MAX).to_le_bytes());
    hasher.update(format.template.map(ChatTemplate::fingerprint).unwrap_or_default().as_bytes());
    hasher.update(&[u8::from(format.mask_prompt)]);
    hasher.update(text_hash.as_bytes());
    hasher.finalize().to_hex().to_string()
}

fn read_report(path: &Path) -> Option<RowReport> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// No row can be used: what is wrong with the first.
fn nothing_usable(documents: &[Document], report: &RowReport) -> Error {
    let path = documents.first().map_or(Path::new("data"), Document::path);
    match report.first_bad.first() {
        None => Error::file(path, "has no rows", "give a file with one JSON object a line"),
        Some(bad) => Error::file(
            documents.get(bad.document).map_or(path, Document::path),
            format!(
                "none of its {} rows can be used; line {} {}",
                report.bad, bad.line, bad.reason
            ),
            ROWS_REMEDY,
        ),
    }
}

const ROWS_REMEDY: &str = "docs/formats.md, section Data, shows the kinds of rows";

/// Files of rows that are to become ids.
struct Rows<'a> {
    documents: &'a [Document],
    hashes: &'a [blake3::Hash],
    format: RowFormat<'a>,
    report: RowReport,
}

/// A line that waits to be encoded.
struct Waiting {
    number: u64,
    line: Line,
}

impl Rows<'_> {
    /// Encodes some lines of a file and hands their ids on.
    fn encode(
        &mut self,
        document: usize,
        lines: &[Waiting],
        sink: &mut Sink<'_>,
    ) -> Result<(), BuildError> {
        let RowFormat { tokenizer, template, mask_prompt, .. } = self.format;
        let encoder = Encoder { tokenizer, template, needs_parts: mask_prompt };
        let encoded: Vec<_> = lines.par_iter().map(|waiting| row_ids(&encoder, waiting)).collect();
        for (waiting, ids) in lines.iter().zip(encoded) {
            match ids {
                Ok((kind, ids)) => {
                    *self.report.kinds.entry(kind).or_default() += 1;
                    sink(&ids)?;
                }
                Err(RowError::All(error)) => return Err(BuildError::Text(error)),
                Err(RowError::Row(reason)) => {
                    self.report.bad += 1;
                    if self.report.first_bad.len() < SHOWN {
                        let line = waiting.number;
                        self.report.first_bad.push(BadRow { document, line, reason });
                    }
                    if self.format.strict {
                        self.refuse_bad()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The first row that cannot be used, as an error.
    fn refuse_bad(&self) -> Result<()> {
        let Some(bad) = self.report.first_bad.first() else { return Ok(()) };
        let path = self.documents.get(bad.document).map_or(Path::new("data"), Document::path);
        Err(Error::file(
            path,
            format!("line {} {}", bad.line, bad.reason),
            "mend the row, or leave out --strict to pass over rows that cannot be used",
        ))
    }
}

fn row_ids(encoder: &Encoder<'_>, waiting: &Waiting) -> Result<(RowKind, Vec<u32>), RowError> {
    match &waiting.line {
        Line::TooLong { bytes } => {
            Err(RowError::Row(format!("has {bytes} bytes, at most {MAX_LINE_BYTES} are read")))
        }
        Line::Bytes(line) => {
            let (kind, row) = parse(line).map_err(RowError::Row)?;
            Ok((kind, encoder.encode(&row)?))
        }
    }
}

impl Source for Rows<'_> {
    fn width(&self) -> usize {
        WIDTH
    }

    fn bytes(&self) -> u64 {
        self.documents.iter().map(Document::bytes).sum()
    }

    fn tokenize(&mut self, sink: &mut Sink<'_>) -> Result<(), BuildError> {
        self.report = RowReport::default();
        let documents = self.documents;
        for (index, (document, hash)) in documents.iter().zip(self.hashes).enumerate() {
            let mut hasher = blake3::Hasher::new();
            let reader = HashingReader { reader: document.open()?, hasher: &mut hasher };
            let mut lines = Lines::new(reader);
            let mut waiting = Vec::new();
            let mut bytes = 0;
            loop {
                let next = lines.next_line().map_err(Error::io("read", document.path()))?;
                let is_end = next.is_none();
                if let Some((number, line)) = next {
                    if let Line::Bytes(line) = &line {
                        bytes += line.len();
                    }
                    waiting.push(Waiting { number, line });
                }
                if is_end || waiting.len() >= LINES_AT_A_TIME || bytes >= BYTES_AT_A_TIME {
                    self.encode(index, &waiting, sink)?;
                    waiting.clear();
                    bytes = 0;
                }
                if is_end {
                    break;
                }
            }
            if hasher.finalize() != *hash {
                return Err(BuildError::Text(changed(document)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn document(folder: &Path, name: &str, text: &[u8]) -> Document {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        Document::File { path, bytes: text.len() as u64 }
    }

    fn ids(rows: &CachedRows) -> Vec<i32> {
        let mut ids = Vec::new();
        rows.tokens.read(0, rows.tokens.len(), &mut ids).unwrap();
        ids
    }

    fn format(tokenizer: &Tokenizer) -> RowFormat<'_> {
        RowFormat { tokenizer, template: None, strict: false, mask_prompt: true }
    }

    #[test]
    fn the_cache_gives_the_same_rows_and_report_as_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut text = b"{\"text\": \"a\"}\nnothing\n{\"text\": 3}\n".to_vec();
        for i in 0..3000 {
            text.extend(format!("{{\"prompt\": \"{i}\", \"completion\": \" is it\"}}\n").bytes());
        }
        let documents = [
            document(folder.path(), "a.jsonl", &text),
            document(folder.path(), "b.jsonl", b"\xff\n{\"text\": \"b\"}"),
        ];
        let tokenizer = Tokenizer::bytes().unwrap();
        let memory = TokenCache::in_memory().rows(&documents, format(&tokenizer)).unwrap();
        assert_eq!(memory.report.bad, 3);
        assert_eq!(memory.report.rows(), 3002);
        let places: Vec<(usize, u64)> =
            memory.report.first_bad.iter().map(|bad| (bad.document, bad.line)).collect();
        assert_eq!(places, [(0, 2), (0, 3), (1, 1)]);
        let cache = TokenCache::in_folder(folder.path().join("cache"));
        for round in 0..4 {
            let cached = cache.rows(&documents, format(&tokenizer)).unwrap();
            assert_eq!(ids(&cached), ids(&memory), "round {round}");
            assert_eq!(cached.report, memory.report, "round {round}");
            // The report alone, then the ids alone, may be lost or damaged.
            for file in fs::read_dir(folder.path().join("cache")).unwrap() {
                let path = file.unwrap().path();
                let is_report = path.extension().is_some_and(|e| e == "json");
                if round == 1 && is_report {
                    fs::write(&path, "{").unwrap();
                } else if round == 2 && !is_report {
                    fs::remove_file(&path).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_first_bad_row_stops_where_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let documents = [document(folder.path(), "a.jsonl", b"{\"text\": \"a\"}\n\n[1]\n{}")];
        let tokenizer = Tokenizer::bytes().unwrap();
        let strict = RowFormat { strict: true, ..format(&tokenizer) };
        let cache = TokenCache::in_folder(folder.path().join("cache"));
        for _ in 0..2 {
            let error = cache.rows(&documents, strict).unwrap_err().to_string();
            assert!(error.ends_with("a.jsonl: line 3 is a list, expected an object"), "{error}");
            // The second time from the report of a run that was not strict.
            assert_eq!(cache.rows(&documents, format(&tokenizer)).unwrap().report.bad, 2);
        }
    }

    #[test]
    fn nothing_but_bad_rows_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::bytes().unwrap();
        let rows = |text: &[u8]| {
            let documents = [document(folder.path(), "a.jsonl", text)];
            TokenCache::in_memory().rows(&documents, format(&tokenizer)).unwrap_err().to_string()
        };
        assert!(rows(b"{}\nx\n").contains("none of its 2 rows can be used; line 1 has no keys"));
        assert!(rows(b"\n\n").ends_with("has no rows"));
    }

    #[test]
    fn chats_that_cannot_be_masked_are_used_where_nothing_is_masked() {
        let folder = tempfile::tempdir().unwrap();
        let line = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n";
        let documents = [document(folder.path(), "a.jsonl", line.repeat(3).as_bytes())];
        let source = "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let template = ChatTemplate::new(source, None, None).unwrap();
        let tokenizer = Tokenizer::bytes().unwrap();
        let masked = RowFormat { template: Some(&template), ..format(&tokenizer) };
        let cache = TokenCache::in_folder(folder.path().join("cache"));
        for _ in 0..2 {
            let error = cache.rows(&documents, masked).unwrap_err().to_string();
            assert!(error.contains("cannot be masked"), "{error}");
            let all = cache.rows(&documents, RowFormat { mask_prompt: false, ..masked }).unwrap();
            assert_eq!((all.report.rows(), all.report.bad), (3, 0));
        }
    }
}
