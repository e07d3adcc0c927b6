//! Values with a pyramid of extremes above them, so that the smallest and the largest of any stretch are found
//! without looking at all of it.

use std::ops::Range;

/// Rows below one node of the lowest level: fewer make the pyramid as large as the values.
const BASE: usize = 16;
/// Nodes below a node of the next level.
const FAN_OUT: usize = 4;

/// What is known of the rows below it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Node {
    /// The smallest finite value; infinite where there is none.
    min: f32,
    /// The largest.
    max: f32,
    /// Values that are not finite.
    gaps: u32,
}

impl Node {
    const EMPTY: Self = Self { min: f32::INFINITY, max: f32::NEG_INFINITY, gaps: 0 };

    fn of_values(values: &[f32]) -> Self {
        let mut node = Self::EMPTY;
        for value in values {
            if value.is_finite() {
                node.min = node.min.min(*value);
                node.max = node.max.max(*value);
            } else {
                node.gaps += 1;
            }
        }
        node
    }

    fn of_nodes(nodes: &[Self]) -> Self {
        nodes.iter().fold(Self::EMPTY, |all, node| Self {
            min: all.min.min(node.min),
            max: all.max.max(node.max),
            gaps: all.gaps.saturating_add(node.gaps),
        })
    }
}

/// The extremes of a stretch of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extremes {
    /// The first row with the smallest finite value.
    pub min_row: usize,
    /// The first row with the largest.
    pub max_row: usize,
    /// Whether a value among the rows is not finite.
    pub has_gaps: bool,
}

/// One column: a value for each row of its table. A value that is not finite stays in its row.
#[derive(Debug, Clone, Default)]
pub struct Column {
    values: Vec<f32>,
    /// The lowest level first; whole nodes only, so that rows can be dropped by dropping nodes.
    levels: Vec<Vec<Node>>,
}

impl PartialEq for Column {
    /// By bits: a column with a gap equals itself.
    fn eq(&self, other: &Self) -> bool {
        self.values.len() == other.values.len()
            && self.values.iter().zip(&other.values).all(|(a, b)| a.to_bits() == b.to_bits())
    }
}

/// A row, or a node with all rows below it.
#[derive(Clone, Copy)]
enum Piece {
    Row(usize),
    Node { level: usize, index: usize },
}

impl Column {
    /// The values, oldest first.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The newest value.
    pub fn last(&self) -> Option<f32> {
        self.values.last().copied()
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let nodes: usize = self.levels.iter().map(Vec::capacity).sum();
        4 * self.values.capacity() + size_of::<Node>() * nodes
    }

    /// Adds the value of another row.
    pub fn push(&mut self, value: f32) {
        super::push(&mut self.values, value);
        if !self.values.len().is_multiple_of(BASE) {
            return;
        }
        let mut node = Node::of_values(&self.values[self.values.len() - BASE..]);
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let nodes = &mut self.levels[level];
            super::push(nodes, node);
            if !nodes.len().is_multiple_of(FAN_OUT) {
                return;
            }
            node = Node::of_nodes(&nodes[nodes.len() - FAN_OUT..]);
        }
    }

    /// Makes room for this many more rows, and for some beyond where there is none.
    pub fn reserve(&mut self, rows: usize) {
        if self.values.len() + rows > self.values.capacity() {
            self.values.reserve_exact(rows.max(self.values.len() / 16));
        }
    }

    /// Drops the rows after the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        let mut nodes = rows / BASE;
        for level in &mut self.levels {
            level.truncate(nodes);
            nodes /= FAN_OUT;
        }
    }

    /// The extremes of some rows; `None` where none of their values is finite.
    pub fn extremes(&self, rows: Range<usize>) -> Option<Extremes> {
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        let (mut min_piece, mut max_piece) = (None, None);
        let mut has_gaps = false;
        self.each_piece(rows, |piece| {
            let node = self.node(piece);
            has_gaps |= node.gaps > 0;
            if node.min < min {
                (min, min_piece) = (node.min, Some(piece));
            }
            if node.max > max {
                (max, max_piece) = (node.max, Some(piece));
            }
            false
        });
        let min_row = self.find(min_piece?, |node| node.min == min);
        let max_row = self.find(max_piece?, |node| node.max == max);
        Some(Extremes { min_row, max_row, has_gaps })
    }

    /// The smallest and the largest finite value of some rows.
    pub fn range(&self, rows: Range<usize>) -> Option<(f32, f32)> {
        let Extremes { min_row, max_row, .. } = self.extremes(rows)?;
        Some((*self.values.get(min_row)?, *self.values.get(max_row)?))
    }

    /// The first of some rows whose value is finite, or is not; the end of the rows where there is none.
    pub fn first(&self, rows: Range<usize>, is_finite: bool) -> usize {
        let has = |node: &Node| if is_finite { node.min <= node.max } else { node.gaps > 0 };
        let mut found = rows.end;
        self.each_piece(rows, |piece| {
            let is_hit = has(&self.node(piece));
            if is_hit {
                found = self.find(piece, has);
            }
            is_hit
        });
        found
    }

    fn node(&self, piece: Piece) -> Node {
        match piece {
            Piece::Row(row) => Node::of_values(&self.values[row..=row]),
            Piece::Node { level, index } => self.levels[level][index],
        }
    }

    /// Covers some rows with as few pieces as there can be, in order, until `take` has had enough.
    fn each_piece(&self, rows: Range<usize>, mut take: impl FnMut(Piece) -> bool) {
        let (mut row, end) = (rows.start, rows.end.min(self.values.len()));
        while row < end {
            let (mut piece, mut size) = (Piece::Row(row), 1);
            let mut next_size = BASE;
            for level in 0..self.levels.len() {
                if !row.is_multiple_of(next_size) || row + next_size > end {
                    break;
                }
                piece = Piece::Node { level, index: row / next_size };
                size = next_size;
                next_size *= FAN_OUT;
            }
            if take(piece) {
                return;
            }
            row += size;
        }
    }

    /// The first row below a piece that has what the piece has.
    fn find(&self, piece: Piece, has: impl Fn(&Node) -> bool) -> usize {
        let (mut level, mut index) = match piece {
            Piece::Row(row) => return row,
            Piece::Node { level, index } => (level, index),
        };
        while level > 0 {
            level -= 1;
            let below = index * FAN_OUT..(index + 1) * FAN_OUT;
            index = below.clone().find(|at| has(&self.levels[level][*at])).unwrap_or(below.start);
        }
        let mut rows = index * BASE..(index + 1) * BASE;
        rows.find(|row| has(&Node::of_values(&self.values[*row..=*row]))).unwrap_or(index * BASE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values among which each is rare and each comes: also equal ones, gaps and extremes.
    fn values() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            8 => -1e3_f32..1e3,
            2 => (-3_i8..3).prop_map(f32::from),
            1 => Just(f32::NAN),
            1 => prop::sample::select(vec![f32::INFINITY, f32::NEG_INFINITY, 1e38, -1e38, 1e-38]),
        ];
        prop::collection::vec(value, 0..700)
    }

    fn column(values: &[f32]) -> Column {
        let mut column = Column::default();
        for value in values {
            column.push(*value);
        }
        column
    }

    /// The same by looking at every row.
    fn plain(values: &[f32], rows: Range<usize>) -> Option<Extremes> {
        let finite = || rows.clone().filter(|row| values[*row].is_finite());
        let first_min = finite().min_by(|a, b| values[*a].total_cmp(&values[*b]))?;
        let min_row = finite().find(|row| values[*row] == values[first_min])?;
        let most = finite().max_by(|a, b| values[*a].total_cmp(&values[*b]))?;
        let max_row = finite().find(|row| values[*row] == values[most])?;
        Some(Extremes { min_row, max_row, has_gaps: finite().count() < rows.len() })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn extremes_are_those_of_looking_at_every_row(
            values in values(), a in 0_usize..700, b in 0_usize..700, cut in 0_usize..700,
        ) {
            let mut column = column(&values);
            for _ in 0..2 {
                let len = column.len();
                let rows = a.min(b).min(len)..a.max(b).min(len);
                prop_assert_eq!(column.extremes(rows.clone()), plain(&values, rows.clone()));
                let find = |is_finite: bool| {
                    rows.clone().find(|row| values[*row].is_finite() == is_finite).unwrap_or(rows.end)
                };
                prop_assert_eq!(column.first(rows.clone(), true), find(true));
                prop_assert_eq!(column.first(rows.clone(), false), find(false));
                // And again after rows were dropped and others came.
                column.truncate(cut);
                let kept = column.len();
                values[kept..].iter().for_each(|value| column.push(*value));
            }
        }
    }

    #[test]
    fn a_pyramid_costs_a_quarter_more_than_its_values() {
        let column = column(&vec![1.0; 1 << 16]);
        let bytes = column.bytes() as f64 / f64::from(1 << 16);
        assert!(bytes < 5.35, "{bytes} bytes a row");
    }
}
