//! Which candidates of a side have been active, since when, and for how long: what tells how much of the full
//! space the run has trained in.

use serde_json::{Value, json};

use crate::runlog::SideCoverage;

/// The comings and goings of one side's candidates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    /// By row of the pool: whether the candidate is or was active.
    visited: Vec<bool>,
    /// By active vector: completed updates when it came in.
    came: Vec<u64>,
    /// Histogram of the updates that departed vectors were in.
    lifetimes: Vec<u64>,
}

impl History {
    /// At the start, after `t` updates, with the given rows of the pool active.
    pub(super) fn fresh(slots: &[usize], candidates: usize, t: u64) -> Self {
        let mut visited = vec![false; candidates];
        for &slot in slots {
            visited[slot] = true;
        }
        Self { visited, came: vec![t; slots.len()], lifetimes: Vec::new() }
    }

    /// The given active vectors leave after `t` updates, and the candidates of the rows `to` take their places.
    pub(super) fn exchange(&mut self, vectors: &[usize], to: &[usize], t: u64) {
        for (&vector, &slot) in vectors.iter().zip(to) {
            SideCoverage::count(&mut self.lifetimes, t.saturating_sub(self.came[vector]));
            self.came[vector] = t;
            self.visited[slot] = true;
        }
    }

    /// Vectors that have left so far.
    pub(super) fn departures(&self) -> u64 {
        self.lifetimes.iter().sum()
    }

    /// What the log tells after `t` updates.
    pub(super) fn coverage(&self, t: u64) -> SideCoverage {
        let mut ages = Vec::new();
        for &came in &self.came {
            SideCoverage::count(&mut ages, t.saturating_sub(came));
        }
        let visited = self.visited.iter().filter(|&&visited| visited).count() as u64;
        SideCoverage { visited, ages, lifetimes: self.lifetimes.clone() }
    }

    /// For `state.json`; the visited rows as hexadecimal digits of four each, the first row in the lowest bit of the
    /// first digit.
    pub(super) fn to_json(&self) -> Value {
        let digit = |bits: &[bool]| {
            let value = bits.iter().rev().fold(0, |value, &bit| 2 * value + u32::from(bit));
            char::from_digit(value, 16).unwrap_or('0')
        };
        let visited: String = self.visited.chunks(4).map(digit).collect();
        json!({ "visited": visited, "came": self.came, "lifetimes": self.lifetimes })
    }

    /// Back from `state.json`; `None` where it does not fit the numbers of candidates and of active vectors.
    pub(super) fn read(entry: &Value, candidates: usize, rank: usize) -> Option<Self> {
        let list = |field: &str| -> Option<Vec<u64>> {
            entry.get(field)?.as_array()?.iter().map(Value::as_u64).collect()
        };
        let digits = entry.get("visited")?.as_str()?;
        let digits: Vec<u32> =
            digits.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
        let (came, lifetimes) = (list("came")?, list("lifetimes")?);
        if digits.len() != candidates.div_ceil(4) || came.len() != rank {
            return None;
        }
        let visited = (0..candidates).map(|row| digits[row / 4] >> (row % 4) & 1 == 1).collect();
        Some(Self { visited, came, lifetimes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_ages_and_lifetimes_are_counted_and_survive_a_checkpoint() {
        let mut history = History::fresh(&[4, 5, 6], 7, 10);
        history.exchange(&[0, 2], &[0, 1], 13);
        history.exchange(&[0], &[4], 20);
        let coverage = history.coverage(21);
        assert_eq!(coverage.visited, 5, "4 5 6, then 0 and 1; 4 came back");
        // Vector 0 for 1 update, vector 1 for 11, vector 2 for 8.
        assert_eq!(coverage.ages, [1, 0, 0, 2]);
        assert_eq!(coverage.lifetimes, [0, 2, 1], "two left after 3 updates, one after 7");
        assert_eq!(history.departures(), 3);
        let json = history.to_json();
        assert_eq!(json["visited"], "37");
        assert_eq!(History::read(&json, 7, 3), Some(history));
        assert_eq!(History::read(&json, 9, 3), None, "another number of candidates");
        assert_eq!(History::read(&json, 7, 4), None, "another rank");
    }
}
