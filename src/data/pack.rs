//! Which rows share a block: best fit, the longest first, by lengths alone, so the same every time.
//!
//! A block is as full as its last gap allows; on chat data one in fifty positions or fewer stays empty.
//! Source: best-fit decreasing bin packing, as TRL and others use it for fine-tuning.

use std::collections::BTreeMap;

/// Rows by block: block `i` has the rows `order[starts[i]..starts[i + 1]]`, in the order of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packing {
    pub order: Vec<u32>,
    pub starts: Vec<u32>,
}

impl Packing {
    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.starts.len() - 1
    }

    /// The rows of a block.
    pub fn rows(&self, block: usize) -> &[u32] {
        &self.order[self.starts[block] as usize..self.starts[block + 1] as usize]
    }

    /// One row to a block.
    pub fn single(rows: u32) -> Self {
        Self { order: (0..rows).collect(), starts: (0..=rows).collect() }
    }

    /// Packs rows of these lengths, each from 1 to `capacity`. Blocks are in the order of their first rows.
    pub fn best_fit(lengths: &[u32], capacity: u32) -> Self {
        let mut longest_first: Vec<u32> = (0..lengths.len() as u32).collect();
        // Stable: equal lengths stay in the order of the data.
        longest_first.sort_by_key(|row| std::cmp::Reverse(lengths[*row as usize]));
        // Open blocks by the room that is left in them.
        let mut open: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut block_of = vec![0_u32; lengths.len()];
        let mut first_row: Vec<u32> = Vec::new();
        for row in longest_first {
            let length = lengths[row as usize];
            let fitting = open.range(length..).next().map(|(room, _)| *room);
            let (block, room) = match fitting.and_then(|room| Some((pop(&mut open, room)?, room))) {
                Some(found) => found,
                None => {
                    first_row.push(row);
                    (first_row.len() as u32 - 1, capacity)
                }
            };
            block_of[row as usize] = block;
            first_row[block as usize] = first_row[block as usize].min(row);
            if room > length {
                open.entry(room - length).or_default().push(block);
            }
        }
        let mut order: Vec<u32> = (0..lengths.len() as u32).collect();
        order.sort_by_key(|row| (first_row[block_of[*row as usize] as usize], *row));
        let mut starts = Vec::with_capacity(first_row.len() + 1);
        for (at, row) in order.iter().enumerate() {
            if first_row[block_of[*row as usize] as usize] == *row {
                starts.push(at as u32);
            }
        }
        starts.push(lengths.len() as u32);
        Self { order, starts }
    }
}

/// Takes a block with this room; the last one that got it.
fn pop(open: &mut BTreeMap<u32, Vec<u32>>, room: u32) -> Option<u32> {
    let blocks = open.get_mut(&room)?;
    let block = blocks.pop();
    if blocks.is_empty() {
        open.remove(&room);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn every_row_is_in_one_block_that_has_room_for_it() {
        let mut random = stream(3, "", "pack", 0);
        for capacity in [1, 7, 64, 1000] {
            let lengths: Vec<u32> =
                (0..500).map(|_| random.below(u64::from(capacity)) as u32 + 1).collect();
            let packing = Packing::best_fit(&lengths, capacity);
            let mut seen = vec![false; lengths.len()];
            let mut last_first = None;
            for block in 0..packing.blocks() {
                let rows = packing.rows(block);
                assert!(rows.is_sorted() && rows.first() > last_first.as_ref());
                last_first = rows.first().copied();
                assert!(rows.iter().map(|row| lengths[*row as usize]).sum::<u32>() <= capacity);
                for row in rows {
                    assert!(!std::mem::replace(&mut seen[*row as usize], true), "row {row} twice");
                }
            }
            assert!(seen.iter().all(|seen| *seen));
            let least = lengths.iter().sum::<u32>().div_ceil(capacity) as usize;
            assert!(packing.blocks() <= least + least / 4 + 1, "{} of {least}", packing.blocks());
        }
    }

    #[test]
    fn a_row_goes_where_it_leaves_the_least_room() {
        let packing = Packing::best_fit(&[2, 7, 5, 3, 8], 10);
        let blocks: Vec<&[u32]> = (0..packing.blocks()).map(|block| packing.rows(block)).collect();
        // 8 + 2, 7 + 3, 5; in the order of their first rows.
        assert_eq!(blocks, [&[0, 4][..], &[1, 3], &[2]]);
        assert_eq!(Packing::best_fit(&[], 10).blocks(), 0);
        assert_eq!(Packing::single(3).rows(2), [2]);
    }
}
