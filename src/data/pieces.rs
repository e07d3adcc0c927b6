//! A document in pieces of bounded size, checked to be UTF-8 on the way.
//!
//! Pieces are cut so that a byte-level tokenizer gives the same ids as for the whole text: before
//! a line break or space that follows a letter or digit. Every pre-tokenizer of that family begins
//! a new part there and looks at nothing before it. A tokenizer that puts a space before every text
//! gets the pieces after the first by `Tokenizer::encode_rest`, which leaves it out.

use std::io::{self, Read};

/// Bytes of a piece, about: large enough to cost little, small enough to share among threads.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Why no further piece can be had.
#[derive(Debug)]
pub(super) enum PieceError {
    Io(io::Error),
    /// The text is not UTF-8.
    NotUtf8 {
        /// The first wrong byte, from 0.
        offset: u64,
        /// Its line, from 1.
        line: u64,
    },
}

/// Cuts what a reader yields into pieces.
pub(super) struct Pieces<R> {
    reader: R,
    /// Bytes that are read and not yet given out.
    buffer: Vec<u8>,
    /// Bytes given out before `buffer`.
    offset: u64,
    /// Line breaks given out before `buffer`.
    lines: u64,
    is_at_end: bool,
}

impl<R: Read> Pieces<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), offset: 0, lines: 0, is_at_end: false }
    }

    /// The next piece; `None` at the end. A byte order mark at the start is left out.
    pub fn next_piece(&mut self) -> Result<Option<String>, PieceError> {
        if !self.is_at_end {
            // Tokens may be cut less well if no good place is found, so look at a whole piece.
            let wanted = (PIECE_BYTES - self.buffer.len().min(PIECE_BYTES)) as u64;
            let read = self.reader.by_ref().take(wanted).read_to_end(&mut self.buffer);
            let read = read.map_err(PieceError::Io)?;
            self.is_at_end = (read as u64) < wanted;
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let valid = self.valid_text()?;
        let cut = if self.is_at_end { valid.len() } else { best_cut(valid) };
        let piece = valid[..cut].to_owned();
        self.buffer.drain(..cut);
        let is_first = self.offset == 0;
        self.offset += cut as u64;
        self.lines += count_lines(piece.as_bytes());
        match piece.strip_prefix('\u{FEFF}') {
            Some(rest) if is_first => Ok(Some(rest.to_owned())),
            _ => Ok(Some(piece)),
        }
    }

    /// The buffer as text, without a character that is still to be completed.
    fn valid_text(&self) -> Result<&str, PieceError> {
        let error = match std::str::from_utf8(&self.buffer) {
            Ok(text) => return Ok(text),
            Err(error) => error,
        };
        let valid = &self.buffer[..error.valid_up_to()];
        if error.error_len().is_none() && !self.is_at_end {
            // At most three bytes are waiting, and the buffer is longer: `valid` is not empty.
            return Ok(std::str::from_utf8(valid).unwrap_or_default());
        }
        Err(PieceError::NotUtf8 {
            offset: self.offset + valid.len() as u64,
            line: self.lines + count_lines(valid) + 1,
        })
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.split(|byte| *byte == b'\n').count() as u64 - 1
}

/// Where to cut a text that goes on: the last good line break, else the last good space, else its
/// end.
fn best_cut(text: &str) -> usize {
    let good = |mark: char| {
        text.rmatch_indices(mark)
            .map(|(at, _)| at)
            .find(|at| text[..*at].chars().next_back().is_some_and(char::is_alphanumeric))
    };
    good('\n').or_else(|| good(' ')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::tokenizer::Tokenizer;

    fn all(bytes: &[u8]) -> Result<Vec<String>, PieceError> {
        let mut pieces = Pieces::new(bytes);
        let mut found = Vec::new();
        while let Some(piece) = pieces.next_piece()? {
            found.push(piece);
        }
        Ok(found)
    }

    #[test]
    fn pieces_are_the_text_and_give_its_tokens() {
        let text = include_str!("../../assets/corpus/mansfield-park.txt");
        let pieces = all(text.as_bytes()).unwrap();
        assert!(pieces.len() > 2);
        assert_eq!(pieces.concat(), text);
        let tokenizer = Tokenizer::builtin().unwrap();
        let ids: Vec<u32> =
            pieces.iter().flat_map(|piece| tokenizer.encode(piece).unwrap()).collect();
        assert_eq!(ids, tokenizer.encode(text).unwrap());
    }

    #[test]
    fn a_tokenizer_that_puts_a_space_before_a_text_puts_it_before_the_first_piece_alone() {
        let mut vocab = serde_json::Map::new();
        for token in
            ["</s>", "▁", "\n"].into_iter().map(str::to_owned).chain(('a'..='z').map(String::from))
        {
            let id = vocab.len();
            vocab.insert(token, id.into());
        }
        for merged in ["▁w", "▁wo", "wo"] {
            let id = vocab.len();
            vocab.insert(merged.into(), id.into());
        }
        let merges = serde_json::json!([["▁", "w"], ["▁w", "o"], ["w", "o"]]);
        let parts = [
            serde_json::json!({"normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}}),
            serde_json::json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false}}),
            serde_json::json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}}),
        ];
        let folder = tempfile::tempdir().unwrap();
        for mut json in parts {
            json["version"] = "1.0".into();
            json["model"] = serde_json::json!({"type": "BPE", "vocab": vocab, "merges": merges});
            std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
            let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
            for word in ["wo ab  cd ", "ab\nwo", "wo ", "wo  wo "] {
                let text = word.repeat(PIECE_BYTES / word.len() + 9);
                let pieces = all(text.as_bytes()).unwrap();
                assert!(pieces.len() > 1);
                let mut ids = tokenizer.encode(&pieces[0]).unwrap();
                for piece in &pieces[1..] {
                    ids.extend(tokenizer.encode_rest(piece).unwrap());
                }
                let whole = tokenizer.encode(&text).unwrap();
                let first = ids.iter().zip(&whole).position(|(a, b)| a != b);
                assert_eq!((first, ids.len()), (None, whole.len()), "{word:?} {json}");
            }
        }
    }

    #[test]
    fn a_text_without_breaks_is_cut_between_characters() {
        let text = "€".repeat(PIECE_BYTES);
        let pieces = all(text.as_bytes()).unwrap();
        assert!(pieces.len() > 2);
        assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn a_byte_order_mark_is_left_out_only_at_the_start() {
        assert_eq!(all("\u{FEFF}a\u{FEFF}b".as_bytes()).unwrap().concat(), "a\u{FEFF}b");
    }

    #[test]
    fn a_wrong_byte_is_found_with_its_line() {
        let mut bytes = "word\n".repeat(PIECE_BYTES).into_bytes();
        let at = PIECE_BYTES * 2 + 3;
        bytes[at] = 0xFF;
        match all(&bytes) {
            Err(PieceError::NotUtf8 { offset, line }) => {
                assert_eq!(offset, at as u64);
                assert_eq!(line, at as u64 / 5 + 1);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_character_cut_off_at_the_end_is_an_error() {
        assert!(matches!(all(b"ab\n\xE2\x82"), Err(PieceError::NotUtf8 { offset: 3, line: 2 })));
        assert!(all(b"").unwrap().is_empty());
    }
}
