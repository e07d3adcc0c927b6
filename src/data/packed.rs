//! Rows in blocks: several rows share a block of constant length, each a document of its own.
//!
//! A row of `n` ids fills `n − 1` positions: all but its last id go in, all but its first are targets. What
//! stays empty at a block's end is filled with the end of text, which nothing learns from and nothing sees.
//! A row longer than a block is cut, and what is cut off is not used.

use std::ops::Range;
use std::sync::Arc;

use super::encode::{FIRST, ID, LEARNED};
use super::loader::{Batch, IGNORED};
use super::pack::Packing;
use super::row_cache::CachedRows;
use super::tokens::Tokens;
use crate::error::Result;

/// Ids that are looked at at a time.
const READ_AT_A_TIME: usize = 1 << 16;

/// How rows become blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Positions of a block.
    pub seq_len: usize,
    /// Only completions, and what the assistant says, are learned; else every id after the first.
    pub mask_prompt: bool,
    /// Rows share blocks; else each has one of its own.
    pub packing: bool,
    /// The id that fills what is left of a block.
    pub filler: u32,
}

/// What became of some rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows that are used.
    pub rows: u64,
    /// Ids of them, without what was cut off.
    pub tokens: u64,
    /// Targets that count.
    pub learned: u64,
    /// Rows that were cut because a block is shorter.
    pub truncated: u64,
    /// Rows that are left out because nothing in them is to be learned, or nothing is left of it after the cut.
    pub dropped: u64,
    /// Ids of the longest row, before the cut.
    pub longest: u64,
}

/// Where a row's ids are.
#[derive(Debug, Clone, Copy)]
struct Place {
    begin: u64,
    /// Ids that are used: at least 2, at most one more than a block has positions.
    len: u32,
}

/// Rows packed into blocks.
#[derive(Debug)]
pub struct PackedRows {
    tokens: Tokens,
    layout: Layout,
    places: Vec<Place>,
    packing: Packing,
    /// What became of the rows.
    pub counts: RowCounts,
}

impl PackedRows {
    /// Packs the rows of a range (of all rows, counted from 0).
    ///
    /// Errors: the token cache cannot be read any more.
    pub fn new(cached: &CachedRows, range: Range<u64>, layout: Layout) -> Result<Self> {
        let (places, counts) = find_rows(&cached.tokens, range, layout)?;
        let lengths: Vec<u32> = places.iter().map(|place| place.len - 1).collect();
        let packing = if layout.packing {
            Packing::best_fit(&lengths, layout.seq_len as u32)
        } else {
            Packing::single(lengths.len() as u32)
        };
        Ok(Self { tokens: cached.tokens.clone(), layout, places, packing, counts })
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.packing.blocks()
    }

    /// Positions of a block.
    pub fn seq_len(&self) -> usize {
        self.layout.seq_len
    }

    /// The frequencies of the targets that count, by id.
    pub(super) fn target_counts(&self) -> Result<Vec<u64>> {
        let mut counts = Vec::new();
        let mut ids = Vec::new();
        for place in &self.places {
            ids.clear();
            self.tokens.read(place.begin as usize, place.len as usize, &mut ids)?;
            for id in ids[1..].iter().map(|id| id.cast_unsigned()) {
                if self.counts_as_target(id) {
                    let id = (id & ID) as usize;
                    if id >= counts.len() {
                        counts.resize(id + 1, 0);
                    }
                    counts[id] += 1;
                }
            }
        }
        Ok(counts)
    }

    fn counts_as_target(&self, id: u32) -> bool {
        !self.layout.mask_prompt || id & LEARNED != 0
    }

    /// Adds a block as a row of a batch.
    pub(super) fn push(&self, batch: &mut Batch, block: usize) -> Result<()> {
        let begin = batch.inputs.len();
        let mut ids = Vec::new();
        for row in self.packing.rows(block) {
            let place = self.places[*row as usize];
            ids.clear();
            self.tokens.read(place.begin as usize, place.len as usize, &mut ids)?;
            let marked = ids.iter().map(|id| id.cast_unsigned());
            let plain = |id: u32| (id & ID).cast_signed();
            let first = (batch.inputs.len() - begin) as i32;
            batch.inputs.extend(marked.clone().take(ids.len() - 1).map(plain));
            for id in marked.skip(1) {
                batch.targets.push(if self.counts_as_target(id) { plain(id) } else { IGNORED });
                batch.completions.push(id & LEARNED != 0);
            }
            let last = (batch.inputs.len() - begin) as i32;
            batch.documents.extend((first..last).flat_map(|_| [first, last]));
        }
        let first = batch.inputs.len() - begin;
        let rest = self.layout.seq_len - first;
        let filler = self.layout.filler.cast_signed();
        batch.inputs.extend(std::iter::repeat_n(filler, rest));
        batch.targets.extend(std::iter::repeat_n(IGNORED, rest));
        batch.completions.extend(std::iter::repeat_n(false, rest));
        let filled = [first as i32, self.layout.seq_len as i32];
        batch.documents.extend((0..rest).flat_map(|_| filled));
        // What fills the end sees the row before it, and nothing comes of that: a single row needs no bounds.
        batch.is_packed |= self.packing.rows(block).len() > 1;
        batch.batch += 1;
        Ok(())
    }
}

/// Goes over the marked ids once and finds the rows of a range that can be learned from.
fn find_rows(
    tokens: &Tokens,
    range: Range<u64>,
    layout: Layout,
) -> Result<(Vec<Place>, RowCounts)> {
    let most = layout.seq_len as u64 + 1;
    let mut places = Vec::new();
    let mut counts = RowCounts::default();
    // The row that is being read: where it begins, its ids, its targets that count before the cut.
    let mut open: Option<(u64, u64, u64)> = None;
    let mut close = |(begin, len, learned): (u64, u64, u64)| {
        counts.longest = counts.longest.max(len);
        if learned == 0 {
            counts.dropped += 1;
            return;
        }
        counts.rows += 1;
        counts.tokens += len.min(most);
        counts.learned += learned;
        counts.truncated += u64::from(len > most);
        places.push(Place { begin, len: len.min(most) as u32 });
    };
    let mut index = 0;
    let mut ids = Vec::with_capacity(READ_AT_A_TIME);
    'all: for first in (0..tokens.len()).step_by(READ_AT_A_TIME) {
        ids.clear();
        tokens.read(first, READ_AT_A_TIME.min(tokens.len() - first), &mut ids)?;
        for (at, id) in ids.iter().map(|id| id.cast_unsigned()).enumerate() {
            if id & FIRST != 0 {
                if let Some(row) = open.take() {
                    close(row);
                }
                if index >= range.end {
                    break 'all;
                }
                if index >= range.start {
                    open = Some(((first + at) as u64, 0, 0));
                }
                index += 1;
            }
            if let Some((_, len, learned)) = &mut open {
                let is_target = *len > 0 && *len < most;
                *learned += u64::from(is_target && (!layout.mask_prompt || id & LEARNED != 0));
                *len += 1;
            }
        }
    }
    if let Some(row) = open {
        close(row);
    }
    Ok((places, counts))
}

/// Blocks to load: of a text that is cut, or of packed rows.
#[derive(Debug, Clone)]
pub enum Blocks {
    /// Documents joined and cut into blocks that overlap by one id.
    Text {
        /// The ids.
        tokens: Tokens,
        /// Positions of a block.
        seq_len: usize,
    },
    /// Rows, each a document of its own.
    Rows(Arc<PackedRows>),
}

impl Blocks {
    /// Positions of a block.
    pub fn seq_len(&self) -> usize {
        match self {
            Self::Text { seq_len, .. } => *seq_len,
            Self::Rows(rows) => rows.seq_len(),
        }
    }

    /// Full blocks.
    pub fn count(&self) -> usize {
        match self {
            Self::Text { tokens, seq_len } => super::loader::count_blocks(tokens.len(), *seq_len),
            Self::Rows(rows) => rows.blocks(),
        }
    }

    /// Ids that are used.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Text { tokens, .. } => tokens.len(),
            Self::Rows(rows) => rows.counts.tokens as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::row_cache::RowReport;

    /// Rows of these lengths with ids that count up from 1; the last `learned` of each are learned.
    fn cached(rows: &[(u32, u32)]) -> CachedRows {
        let mut ids = Vec::new();
        for (len, learned) in rows {
            for i in 0..*len {
                let first = if i == 0 { FIRST } else { 0 };
                let learned = if i + learned >= *len { LEARNED } else { 0 };
                ids.push((ids.len() as u32 + 1) | first | learned);
            }
        }
        let tokens = Tokens::from_ids(&ids, 1 << 20);
        CachedRows { tokens, report: RowReport::default(), bytes: 0, hash: String::new() }
    }

    const LAYOUT: Layout = Layout { seq_len: 6, mask_prompt: true, packing: true, filler: 99 };

    #[test]
    fn a_block_holds_rows_with_their_own_targets_and_bounds() {
        let packed = PackedRows::new(&cached(&[(4, 2), (7, 1), (3, 3)]), 0..3, LAYOUT).unwrap();
        assert_eq!(packed.blocks(), 2);
        let mut batch = Batch::with_capacity(1, 6);
        packed.push(&mut batch, 0).unwrap();
        assert_eq!(batch.inputs, [1, 2, 3, 12, 13, 99]);
        assert_eq!(batch.targets, [IGNORED, 3, 4, 13, 14, IGNORED]);
        assert_eq!(batch.documents, [0, 3, 0, 3, 0, 3, 3, 5, 3, 5, 5, 6]);
        assert!(batch.is_packed);
        let mut batch = Batch::with_capacity(1, 6);
        packed.push(&mut batch, 1).unwrap();
        assert_eq!(batch.inputs, [5, 6, 7, 8, 9, 10]);
        assert_eq!(batch.targets, [IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, 11]);
        assert!(!batch.is_packed);
    }

    #[test]
    fn rows_are_cut_dropped_and_counted() {
        let rows = cached(&[(9, 2), (9, 3), (2, 0), (5, 5), (2, 1)]);
        let packed = PackedRows::new(&rows, 0..4, LAYOUT).unwrap();
        // Of the first row nothing is left to learn, of the second one target; the third has none.
        let expected =
            RowCounts { rows: 2, tokens: 12, learned: 5, truncated: 1, dropped: 2, longest: 9 };
        assert_eq!(packed.counts, expected);
        let all = Layout { mask_prompt: false, ..LAYOUT };
        let counts = PackedRows::new(&rows, 0..5, all).unwrap().counts;
        assert_eq!((counts.rows, counts.truncated, counts.dropped), (5, 2, 0));
        assert_eq!(counts.learned, 6 + 6 + 1 + 4 + 1);
        let tail = PackedRows::new(&rows, 3..5, LAYOUT).unwrap();
        assert_eq!(tail.counts.rows, 2);
        assert_eq!(tail.target_counts().unwrap().iter().sum::<u64>(), 5);
    }

    #[test]
    fn without_packing_every_row_has_a_block() {
        let layout = Layout { packing: false, ..LAYOUT };
        let packed = PackedRows::new(&cached(&[(2, 1), (3, 2)]), 0..2, layout).unwrap();
        assert_eq!(packed.blocks(), 2);
        let mut batch = Batch::with_capacity(2, 6);
        packed.push(&mut batch, 0).unwrap();
        packed.push(&mut batch, 1).unwrap();
        assert_eq!(batch.inputs, [1, 99, 99, 99, 99, 99, 3, 4, 99, 99, 99, 99]);
        assert!(!batch.is_packed);
    }
}
