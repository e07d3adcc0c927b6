//! Curves of what is measured now and then: evaluations, ranks, subspaces, the heads that are merged.

use std::collections::BTreeMap;

use super::super::chart::{Axis, Chart, Curve, Line};
use super::super::series::{History, Spanned};
use super::super::table::Comparison;

/// A line for each group with the mean of its runs' curves, which have the same positions.
pub fn lines(comparison: &Comparison, curve: impl Fn(&History) -> Curve) -> Vec<Line> {
    let line = |(number, group): (usize, &str)| {
        let curves: Vec<Curve> =
            comparison.of_group(group).map(|entry| curve(&entry.history)).collect();
        let (curve, band) = together(&curves);
        let band = if curves.len() > 1 { band } else { Vec::new() };
        let dots = curve.clone();
        Line { name: group.to_owned(), number, dots, curve, band, ..Line::default() }
    };
    comparison.groups().into_iter().enumerate().map(line).filter(|l| !l.curve.is_empty()).collect()
}

/// The mean of several curves, with the lowest and the highest value: point by point, as far as all go.
pub fn together(curves: &[Curve]) -> (Curve, Vec<(f64, f64, f64)>) {
    let len = curves.iter().map(Vec::len).min().unwrap_or(0);
    let (mut mean, mut band) = (Vec::with_capacity(len), Vec::with_capacity(len));
    let n = curves.len() as f64;
    for at in 0..len {
        let points = || curves.iter().map(move |curve| curve[at]);
        let x = points().map(|(x, _)| x).sum::<f64>() / n;
        let y = points().map(|(_, y)| y).sum::<f64>() / n;
        mean.push((x, y));
        if y.is_finite() {
            let low = points().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
            let high = points().map(|(_, y)| y).fold(f64::NEG_INFINITY, f64::max);
            band.push((x, low, high));
        }
    }
    (mean, band)
}

/// The charts over updates that the runs have numbers for: name, title, drawing.
pub fn charts(comparison: &Comparison) -> Vec<(&'static str, &'static str, String)> {
    let mut all = Vec::new();
    let mut add = |name, title: &'static str, note: &str, y: &str, lines: Vec<Line>| {
        if !lines.is_empty() {
            let (x, y) = (Axis::linear("updates"), Axis::linear(y));
            let chart = Chart { title: title.into(), note: note.into(), x, y, lines };
            all.push((name, title, chart.draw()));
        }
    };
    add(
        "rank",
        "Effective rank of the change, mean of the layers",
        "share of the largest rank that a layer can have, of the layers measured",
        "share",
        lines(comparison, |history| {
            let changes = history.changes();
            mean(changes.map(|rank| (rank.step, rank.effective / rank.full.max(1.0))))
        }),
    );
    let used = lines(comparison, ranks_in_use).into_iter();
    add(
        "rank-in-use",
        "Rank in use, mean of the layers",
        "of methods that change it",
        "rank",
        used.map(|line| Line { dots: Vec::new(), ..line }).collect(),
    );
    add(
        "subspace-energy",
        "Gradient inside its new subspace, mean of the layers",
        "share of the squared norm, when the subspace was found",
        "share",
        lines(comparison, |history| of_subspaces(history, |space| space.energy)),
    );
    add(
        "subspace-overlap",
        "What a new subspace shares with the one before, mean of the layers",
        "0: nothing, 1: it is the same",
        "share",
        lines(comparison, |history| of_subspaces(history, |space| space.overlap)),
    );
    add(
        "heads",
        "How far heads agree at a merge, mean of the layers",
        "cosine between what two heads have learned since the last merge; 1: the same",
        "cosine",
        lines(comparison, |history| mean(history.cosines.iter().copied())),
    );
    add(
        "head-subspaces",
        "How far the subspaces of two heads are apart, mean of the layers",
        "by the projection metric of the columns of B; 0: the same, root of the rank: nothing in common",
        "distance",
        lines(comparison, |history| {
            mean(history.ranks.iter().map(|rank| (rank.step, rank.head_distance)))
        }),
    );
    all
}

/// The mean of what is told at each update; what is not finite is left out.
fn mean(told: impl Iterator<Item = (u64, f64)>) -> Curve {
    let mut at: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (step, value) in told.filter(|(_, value)| value.is_finite()) {
        let (sum, count) = at.entry(step).or_default();
        *sum += value;
        *count += 1.0;
    }
    at.into_iter().map(|(step, (sum, count))| (step as f64, sum / count)).collect()
}

fn of_subspaces(history: &History, value: impl Fn(&Spanned) -> f64) -> Curve {
    let spaces = history.spaces.iter().filter(|space| space.is_gradient);
    mean(spaces.map(|space| (space.step, value(space))))
}

/// The mean rank before the first and after each update; nothing where all have stayed the same. A layer has its rank
/// until it tells another.
fn ranks_in_use(history: &History) -> Curve {
    let is_other = |space: &Spanned| space.rank_before.is_some_and(|before| before != space.rank);
    if !history.spaces.iter().any(is_other) {
        return Vec::new();
    }
    let mut ranks: BTreeMap<&str, u64> = BTreeMap::new();
    for space in &history.spaces {
        let at_first = space.rank_before.unwrap_or(space.rank);
        ranks.entry(&space.layer).or_insert(at_first);
    }
    let mut spaces = history.spaces.iter().peekable();
    let steps = history.points.iter().map(|point| point.step);
    let mut at = |step: u64| {
        while let Some(space) = spaces.next_if(|space| space.step <= step) {
            ranks.insert(&space.layer, space.rank);
        }
        (step as f64, ranks.values().map(|rank| *rank as f64).sum::<f64>() / ranks.len() as f64)
    };
    std::iter::once(0).chain(steps).map(&mut at).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::series::tests::{events, step};
    use super::*;
    use crate::runlog::{Body, Subspace};

    #[test]
    fn several_curves_become_a_mean_and_a_band_as_far_as_all_go() {
        let curves = [vec![(0.0, 1.0), (2.0, 3.0), (4.0, 9.0)], vec![(1.0, 2.0), (3.0, 5.0)]];
        let (mean, band) = together(&curves);
        assert_eq!(mean, [(0.5, 1.5), (2.5, 4.0)]);
        assert_eq!(band, [(0.5, 1.0, 2.0), (2.5, 3.0, 5.0)]);
        let (mean, band) = together(&[vec![(0.0, f64::NAN)], vec![(0.0, 1.0)]]);
        assert!(mean[0].1.is_nan() && band.is_empty());
    }

    fn space(step: u64, layer: &str, before: Option<u64>, rank: u64) -> (u64, Body) {
        let (side, layer) = ("left".into(), layer.into());
        let overlap = before.map(|_| 0.5);
        let found =
            Subspace { layer, side, rank, rank_before: before, energy: 0.25, overlap, ms: 1.0 };
        (step, found.into())
    }

    #[test]
    fn a_layer_keeps_its_rank_until_it_tells_another() {
        let told = [
            space(1, "a", None, 8),
            space(1, "b", None, 4),
            space(5, "a", Some(8), 6),
            space(9, "b", Some(4), 2),
            space(9, "c", Some(2), 4),
        ];
        let of = |told: &[(u64, Body)]| {
            let updates = [1, 4, 5, 9].map(|at| step(at, 1.0, 1.0));
            History::of(events(told.iter().cloned().chain(updates)))
        };
        let history = of(&told);
        let third = |sum: f64| sum / 3.0;
        let sums = [(0.0, 14.0), (1.0, 14.0), (4.0, 14.0), (5.0, 12.0), (9.0, 12.0)];
        assert_eq!(ranks_in_use(&history), sums.map(|(at, sum)| (at, third(sum))));
        assert_eq!(of_subspaces(&history, |space| space.overlap), [(5.0, 0.5), (9.0, 0.5)]);
        assert_eq!(ranks_in_use(&of(&told[..2])), []);
    }

    #[test]
    fn ranks_too_large_to_be_added_as_whole_numbers_have_a_mean() {
        let told = [space(1, "a", Some(4), u64::MAX), space(1, "b", Some(4), u64::MAX)];
        let history = History::of(events(told.into_iter().chain([step(1, 1.0, 1.0)])));
        assert_eq!(ranks_in_use(&history), [(0.0, 4.0), (1.0, u64::MAX as f64)]);
    }
}
