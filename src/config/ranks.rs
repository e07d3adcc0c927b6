//! The rank of a layer by its depth.

use super::TrainTable;
use crate::error::{Error, Result};

/// The rank of every block: linear from the first to the last.
///
/// Source: the rank schedule of PRILoRA (arXiv:2401.11316); its pruning is another matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    /// Rank in the first block.
    pub first: usize,
    /// Rank in the last block.
    pub last: usize,
}

impl Ranks {
    /// The rank in block `block` of `blocks`: `round(first + (last − first)·l/(L − 1))`, at least 1. A single
    /// block has the first rank.
    pub fn at(self, block: usize, blocks: usize) -> usize {
        let share = block as f64 / blocks.saturating_sub(1).max(1) as f64;
        let rank = self.first as f64 + (self.last as f64 - self.first as f64) * share;
        (rank.round() as usize).max(1)
    }

    /// The largest of all blocks.
    pub fn most(self) -> usize {
        self.first.max(self.last)
    }
}

impl TrainTable {
    /// The rank by depth; an end that is not given is `rank`. `None`: no rank is set.
    pub fn ranks(&self) -> Option<Ranks> {
        Some(Ranks { first: self.rank_first.or(self.rank)?, last: self.rank_last.or(self.rank)? })
    }
}

/// Where both ends are given, `rank` itself would be without effect.
pub(super) fn check(train: &TrainTable) -> Result<()> {
    let (Some(rank), Some(first), Some(last)) = (train.rank, train.rank_first, train.rank_last)
    else {
        return Ok(());
    };
    // What a resolved configuration holds.
    if rank == first.max(last) {
        return Ok(());
    }
    Err(Error::config(
        format!("train.rank is {rank}, but the ranks go from {first} to {last}"),
        "leave out --rank, or one of --rank-first and --rank-last",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_run_from_the_first_block_to_the_last() {
        let of = |first, last, blocks| -> Vec<usize> {
            (0..blocks).map(|block| Ranks { first, last }.at(block, blocks)).collect()
        };
        assert_eq!(of(4, 12, 5), [4, 6, 8, 10, 12]);
        assert_eq!(of(12, 4, 3), [12, 8, 4]);
        assert_eq!(of(4, 7, 3), [4, 6, 7], "5.5 is rounded up");
        assert_eq!(of(5, 5, 2), [5, 5]);
        assert_eq!(of(4, 12, 1), [4]);
        let ranks = of(4, 12, 12);
        assert_eq!(ranks.iter().sum::<usize>(), 12 * 8, "the mean is half-way");
    }

    #[test]
    fn an_end_that_is_not_given_is_the_common_rank() {
        let mut train = TrainTable { rank: None, ..TrainTable::default() };
        assert_eq!(train.ranks(), None);
        train.rank_last = Some(16);
        assert_eq!(train.ranks(), None);
        train.rank = Some(8);
        assert_eq!(train.ranks(), Some(Ranks { first: 8, last: 16 }));
    }
}
