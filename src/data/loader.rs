//! Blocks of tokens in order: shuffled by epoch to train, one after the other to validate.
//!
//! Block `i` covers the tokens from `i·T` to `i·T + T`, both included: `T` inputs and, shifted by
//! one, `T` targets. The last, partial block is left out.

use serde::{Deserialize, Serialize};

use super::packed::Blocks;
use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::random;

/// A target that does not count, as the loss knows it.
pub const IGNORED: i32 = -100;

/// Token ids of some blocks, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The ids that go in, `[batch, seq_len]`.
    pub inputs: Vec<i32>,
    /// The id that follows each of them, `[batch, seq_len]`, or [`IGNORED`].
    pub targets: Vec<i32>,
    /// Of row data: whether a target belongs to a completion, `[batch, seq_len]`, whether or not others count.
    pub completions: Vec<bool>,
    /// Of row data: where the document of each position begins and ends in its row, `[batch, seq_len, 2]`.
    pub documents: Vec<i32>,
    /// Some row has more than one document.
    pub is_packed: bool,
    /// Rows.
    pub batch: usize,
    /// Tokens of a row.
    pub seq_len: usize,
}

impl Batch {
    pub(super) fn with_capacity(batch: usize, seq_len: usize) -> Self {
        let ids = || Vec::with_capacity(batch * seq_len);
        let (completions, documents) = (Vec::new(), Vec::new());
        Self {
            inputs: ids(),
            targets: ids(),
            completions,
            documents,
            is_packed: false,
            batch: 0,
            seq_len,
        }
    }

    /// Adds block `block` as a row.
    fn push(&mut self, blocks: &Blocks, block: usize) -> Result<()> {
        match blocks {
            Blocks::Rows(rows) => rows.push(self, block),
            Blocks::Text { tokens, .. } => {
                let first = block * self.seq_len;
                tokens.read(first, self.seq_len, &mut self.inputs)?;
                tokens.read(first + 1, self.seq_len, &mut self.targets)?;
                self.batch += 1;
                Ok(())
            }
        }
    }

    /// Where documents begin and end, if a row has more than one.
    pub fn bounds(&self) -> Option<&[i32]> {
        self.is_packed.then_some(self.documents.as_slice())
    }
}

/// Full blocks in a row of tokens: each needs its `seq_len` inputs and one token more.
pub fn count_blocks(tokens: usize, seq_len: usize) -> usize {
    tokens.saturating_sub(1) / seq_len
}

/// Where a loader stands; what a checkpoint holds of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Complete passes over the data.
    pub epoch: u64,
    /// Blocks of this pass that were given out.
    pub index: u64,
    /// Blocks of a pass; another number means other data or another length.
    pub blocks: u64,
}

/// Training batches, endless: a new order of the blocks in every epoch.
#[derive(Debug, Clone)]
pub struct Loader {
    source: Blocks,
    seed: u64,
    position: Position,
    /// The blocks of this epoch in their order.
    order: Vec<u32>,
}

impl Loader {
    /// A loader of text at the start of the first epoch. `seed` is the data seed of the run.
    ///
    /// Errors: [`Error::Config`] if the tokens do not fill one block, or fill too many.
    pub fn new(tokens: Tokens, seq_len: usize, seed: u64) -> Result<Self> {
        Self::over(Blocks::Text { tokens, seq_len }, seed)
    }

    /// A loader of blocks, as [`Loader::new`].
    pub fn over(source: Blocks, seed: u64) -> Result<Self> {
        let blocks = checked_blocks(&source)?;
        let position = Position { epoch: 0, index: 0, blocks: u64::from(blocks) };
        let order = epoch_order(seed, 0, blocks);
        Ok(Self { source, seed, position, order })
    }

    /// The next `batch` blocks. A batch may reach from one epoch into the next.
    ///
    /// Errors: [`Error::Io`] if the token cache cannot be read any more.
    pub fn next_batch(&mut self, batch: usize) -> Result<Batch> {
        let mut rows = Batch::with_capacity(batch, self.source.seq_len());
        while rows.batch < batch {
            if self.position.index == self.position.blocks {
                self.position.epoch += 1;
                self.position.index = 0;
                self.order = epoch_order(self.seed, self.position.epoch, self.order.len() as u32);
            }
            rows.push(&self.source, self.order[self.position.index as usize] as usize)?;
            self.position.index += 1;
        }
        Ok(rows)
    }

    /// Where the loader stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes to a position that [`Loader::position`] gave for the same data and length.
    ///
    /// Errors: [`Error::Run`] with both numbers if the position belongs to other data.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        if position.blocks != self.position.blocks || position.index > position.blocks {
            return Err(Error::run(
                format!(
                    "the saved position is block {} of {}, the data have {} blocks",
                    position.index, position.blocks, self.position.blocks
                ),
                "resume with the same data, tokenizer and max-seq-length",
            ));
        }
        if position.epoch != self.position.epoch {
            self.order = epoch_order(self.seed, position.epoch, self.order.len() as u32);
        }
        self.position = position;
        Ok(())
    }
}

/// The blocks of an epoch in their order: a Fisher–Yates shuffle with numbers that depend on the
/// data seed and the epoch only.
fn epoch_order(seed: u64, epoch: u64, blocks: u32) -> Vec<u32> {
    let mut stream = random::stream(seed, "", "data order", epoch);
    let mut order: Vec<u32> = (0..blocks).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, stream.below(last as u64 + 1) as usize);
    }
    order
}

/// Validation blocks: always the same, from the start of the text.
#[derive(Debug, Clone)]
pub struct ValidationBlocks {
    source: Blocks,
    blocks: usize,
}

impl ValidationBlocks {
    /// All full blocks of a text.
    ///
    /// Errors: [`Error::Config`] if the tokens do not fill one block, or fill too many.
    pub fn new(tokens: Tokens, seq_len: usize) -> Result<Self> {
        Self::over(Blocks::Text { tokens, seq_len })
    }

    /// All blocks, as [`ValidationBlocks::new`].
    pub fn over(source: Blocks) -> Result<Self> {
        let blocks = checked_blocks(&source)? as usize;
        Ok(Self { source, blocks })
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The blocks in batches of `batch`; the last may have fewer rows.
    pub fn batches(&self, batch: usize) -> impl Iterator<Item = Result<Batch>> + '_ {
        assert!(batch > 0, "a batch has rows");
        (0..self.blocks).step_by(batch).map(move |first| {
            let mut rows = Batch::with_capacity(batch, self.source.seq_len());
            for block in first..(first + batch).min(self.blocks) {
                rows.push(&self.source, block)?;
            }
            Ok(rows)
        })
    }
}

/// The number of full blocks, at least one.
fn checked_blocks(source: &Blocks) -> Result<u32> {
    let seq_len = source.seq_len();
    if seq_len == 0 {
        return Err(Error::config("max-seq-length is 0", "give at least 1"));
    }
    let blocks = source.count();
    if blocks == 0 {
        return Err(match source {
            Blocks::Text { tokens, .. } => too_short(tokens.len(), seq_len),
            Blocks::Rows(_) => Error::config(
                "the data have no row with anything to learn from",
                "give rows with a completion that begins within --max-seq-length tokens, or \
                 --mask-prompt false",
            ),
        });
    }
    u32::try_from(blocks).map_err(|_| {
        Error::config(
            format!("the data have {blocks} blocks of {seq_len} tokens, at most {}", u32::MAX),
            "give a larger --max-seq-length",
        )
    })
}

fn too_short(tokens: usize, seq_len: usize) -> Error {
    Error::config(
        format!("the text has {tokens} tokens, one block of {seq_len} needs {}", seq_len + 1),
        "give more text, or a smaller --max-seq-length",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(count: u32) -> Tokens {
        Tokens::from_ids(&(0..count).collect::<Vec<_>>(), 70_000)
    }

    #[test]
    fn targets_are_the_inputs_shifted_by_one() {
        let mut loader = Loader::new(counting(101), 10, 1).unwrap();
        let batch = loader.next_batch(4).unwrap();
        assert_eq!((batch.batch, batch.seq_len, batch.inputs.len()), (4, 10, 40));
        for (input, target) in batch.inputs.iter().zip(&batch.targets) {
            assert_eq!(input + 1, *target);
        }
        assert!(batch.inputs.chunks(10).all(|row| row[0] % 10 == 0));
    }

    #[test]
    fn an_epoch_gives_every_block_once_and_the_next_in_another_order() {
        let mut loader = Loader::new(counting(1001), 10, 7).unwrap();
        let firsts = |batch: Batch| -> Vec<i32> { batch.inputs.chunks(10).map(|r| r[0]).collect() };
        let first = firsts(loader.next_batch(100).unwrap());
        let second = firsts(loader.next_batch(100).unwrap());
        assert_ne!(first, second);
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..100).map(|i| i * 10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_batch_size_does_not_change_the_order() {
        let mut one = Loader::new(counting(230), 10, 3).unwrap();
        let mut many = Loader::new(counting(230), 10, 3).unwrap();
        let singles: Vec<i32> = (0..60).flat_map(|_| one.next_batch(1).unwrap().inputs).collect();
        let batches: Vec<i32> = (0..4).flat_map(|_| many.next_batch(15).unwrap().inputs).collect();
        assert_eq!(singles, batches);
        assert_eq!(one.position(), many.position());
    }

    #[test]
    fn a_loader_goes_on_from_a_saved_position() {
        let mut whole = Loader::new(counting(230), 10, 3).unwrap();
        for steps in [0, 1, 22, 23, 40] {
            let mut start = Loader::new(counting(230), 10, 3).unwrap();
            let _ = start.next_batch(steps).unwrap();
            let json = serde_json::to_string(&start.position()).unwrap();
            let mut again = whole.clone();
            again.seek(serde_json::from_str(&json).unwrap()).unwrap();
            assert_eq!(again.next_batch(30).unwrap(), start.next_batch(30).unwrap());
        }
        let wrong = Position { epoch: 0, index: 5, blocks: 21 };
        let error = whole.seek(wrong).unwrap_err().to_string();
        assert!(error.contains("block 5 of 21, the data have 22 blocks"), "{error}");
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch() {
        assert_eq!(epoch_order(1, 0, 50), epoch_order(1, 0, 50));
        assert_ne!(epoch_order(1, 0, 50), epoch_order(2, 0, 50));
        assert_ne!(epoch_order(1, 0, 50), epoch_order(1, 1, 50));
        // The order is part of what makes a run repeatable, from version to version.
        assert_eq!(epoch_order(42, 0, 8), [3, 7, 1, 5, 2, 0, 4, 6]);
    }

    #[test]
    fn validation_gives_all_full_blocks_in_order() {
        let blocks = ValidationBlocks::new(counting(58), 10).unwrap();
        assert_eq!(blocks.blocks(), 5);
        let batches: Vec<Batch> = blocks.batches(2).map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|batch| batch.batch).collect::<Vec<_>>(), [2, 2, 1]);
        let inputs: Vec<i32> = batches.iter().flat_map(|batch| batch.inputs.clone()).collect();
        assert_eq!(inputs, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_block_needs_one_token_more_than_its_length() {
        assert!(Loader::new(counting(11), 10, 0).is_ok());
        let error = Loader::new(counting(10), 10, 0).unwrap_err().to_string();
        assert_eq!(error, "the text has 10 tokens, one block of 10 needs 11");
        assert!(Loader::new(counting(10), 0, 0).is_err());
    }
}
