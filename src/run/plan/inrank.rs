//! InRank's checks of the rank: when they begin, how often they are made, when they end.

use crate::config::InRankTable;

/// Updates before the first check and between two, in the authors' code.
const FIRST_CHECK: u64 = 200;
const GAP: u64 = 25;

/// Fills in what depends on the model's width and the length of the run. The authors' buffer of 100 is for GPT-2's
/// 768 and more.
pub(super) fn resolve(table: &mut InRankTable, hidden_size: usize, iters: u64) {
    table.buffer.get_or_insert((hidden_size / 8).max(1));
    table.first_check.get_or_insert((iters / 10).min(FIRST_CHECK));
    table.gap.get_or_insert((iters / 40).clamp(1, GAP));
    // The last fifth repairs what the cut takes away.
    table.truncate_at.get_or_insert((iters - iters / 5).max(1));
}
