//! Token ids at rest: in memory, or in a file that is read by position.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::positioned::read_exact_at;

/// Below this many entries of a vocabulary, an id takes two bytes, else four.
const NARROW_BELOW: usize = 65_536;

/// Bytes of one stored id for a vocabulary.
pub(super) fn id_bytes(vocab_size: usize) -> usize {
    if vocab_size < NARROW_BELOW { 2 } else { 4 }
}

/// A row of token ids; cheap to clone and to cut.
#[derive(Debug, Clone)]
pub struct Tokens {
    store: Arc<Store>,
    /// The part of the store that this row is.
    range: Range<usize>,
}

#[derive(Debug)]
enum Store {
    /// In memory, little endian, `width` bytes each.
    Memory { bytes: Vec<u8>, width: usize },
    /// In a file from byte `begin` on, little endian, `width` bytes each.
    File { file: File, path: PathBuf, begin: u64, width: usize },
}

impl Tokens {
    /// Ids in memory, for a vocabulary of `vocab_size` entries.
    pub fn from_ids(ids: &[u32], vocab_size: usize) -> Self {
        let mut bytes = Vec::with_capacity(ids.len() * id_bytes(vocab_size));
        append_ids(&mut bytes, ids, id_bytes(vocab_size));
        Self::from_bytes(bytes, id_bytes(vocab_size))
    }

    /// Ids in memory as [`append_ids`] lays them out.
    pub(super) fn from_bytes(bytes: Vec<u8>, width: usize) -> Self {
        let count = bytes.len() / width;
        Self { store: Arc::new(Store::Memory { bytes, width }), range: 0..count }
    }

    /// `count` ids of `width` bytes in a file from byte `begin` on.
    pub(super) fn from_file(
        file: File,
        path: &Path,
        begin: u64,
        width: usize,
        count: usize,
    ) -> Self {
        let path = path.to_path_buf();
        Self { store: Arc::new(Store::File { file, path, begin, width }), range: 0..count }
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The ids from `range.start` up to `range.end`, which must lie inside.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "a part lies inside");
        let range = self.range.start + range.start..self.range.start + range.end;
        Self { store: Arc::clone(&self.store), range }
    }

    /// Appends the ids from position `at` on to `out`; `at + count` must lie inside.
    ///
    /// Errors: [`Error::Io`] if the file cannot be read any more.
    pub fn read(&self, at: usize, count: usize, out: &mut Vec<i32>) -> Result<()> {
        assert!(at + count <= self.len(), "ids {at} to {} of {}", at + count, self.len());
        let first = self.range.start + at;
        match self.store.as_ref() {
            Store::Memory { bytes, width } => {
                extend_from_bytes(out, &bytes[first * width..(first + count) * width], *width);
            }
            Store::File { file, path, begin, width } => {
                let mut bytes = vec![0; count * width];
                read_exact_at(file, &mut bytes, begin + (first * width) as u64)
                    .map_err(Error::io("read", path))?;
                extend_from_bytes(out, &bytes, *width);
            }
        }
        Ok(())
    }
}

/// Lays ids out as they are stored: little endian, two or four bytes each.
pub(super) fn append_ids(bytes: &mut Vec<u8>, ids: &[u32], width: usize) {
    if width == 2 {
        for id in ids {
            debug_assert!(u16::try_from(*id).is_ok(), "the width fits the vocabulary");
            bytes.extend_from_slice(&(*id as u16).to_le_bytes());
        }
    } else {
        for id in ids {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
    }
}

fn extend_from_bytes(out: &mut Vec<i32>, bytes: &[u8], width: usize) {
    if width == 2 {
        out.extend(bytes.as_chunks::<2>().0.iter().map(|b| i32::from(u16::from_le_bytes(*b))));
    } else {
        out.extend(bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(tokens: &Tokens) -> Vec<i32> {
        let mut ids = Vec::new();
        tokens.read(0, tokens.len(), &mut ids).unwrap();
        ids
    }

    #[test]
    fn both_widths_keep_the_ids() {
        for vocab_size in [65_535, 65_536, 200_000] {
            let largest = vocab_size as u32 - 1;
            let tokens = Tokens::from_ids(&[0, 1, largest], vocab_size);
            assert_eq!(all(&tokens), [0, 1, largest as i32]);
        }
    }

    #[test]
    fn a_part_of_a_part_is_where_it_should_be() {
        let tokens = Tokens::from_ids(&[10, 11, 12, 13, 14, 15], 100);
        let part = tokens.part(1..6).part(1..3);
        assert_eq!(all(&part), [12, 13]);
        assert_eq!(part.len(), 2);
        assert!(part.part(2..2).is_empty());
    }
}
