//! Which plots a comparison gets: what each shows, and from which numbers.

use std::collections::BTreeMap;

use super::chart::{Axis, Chart, Curve, Line};
use super::heat::{Bars, Heat, Strip, short_layer};
use super::series::{Act, Evaluated, Point};
use super::stats::smooth;
use super::table::{Comparison, Entry};

/// The half-life of smoothed curves, as a share of the longest run.
const HALF_LIFE: f64 = 0.01;
/// Columns of a picture over time.
const COLUMNS: usize = 120;
/// Pictures by layer are drawn for so many groups at most; a table of many ranks would fill a book with them.
const MOST_PICTURES: usize = 8;
/// Spectra are drawn for so many layers of a run.
const SPECTRA: usize = 6;

/// A plot, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Its file's name without the ending.
    pub name: String,
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// The drawing.
    pub svg: String,
}

/// A horizontal axis that runs can be laid on.
#[derive(Debug, Clone, Copy)]
enum Along {
    Tokens,
    Time,
    Flop,
}

impl Along {
    fn axis(self) -> Axis {
        Axis::linear(match self {
            Self::Tokens => "tokens",
            Self::Time => "seconds of training (each run's own)",
            Self::Flop => "floating-point operations",
        })
    }
}

/// A run's positions on an axis: at its updates, and a way to find that of an evaluation.
struct Positions {
    at: Vec<f64>,
}

impl Positions {
    fn of(entry: &Entry, along: Along) -> Option<Self> {
        let points = &entry.history.points;
        let at = match along {
            Along::Tokens => points.iter().map(|point| point.tokens as f64).collect(),
            Along::Time => points.iter().map(|point| point.active_s).collect(),
            Along::Flop => {
                let mut sum = 0.0;
                let updates = entry.history.flop()?;
                updates
                    .into_iter()
                    .map(|flop| {
                        sum += flop;
                        sum
                    })
                    .collect()
            }
        };
        Some(Self { at })
    }

    /// Where an evaluation stands: at the last update before it.
    fn of_eval(&self, entry: &Entry, eval: &Evaluated) -> f64 {
        let before = entry.history.points.partition_point(|point| point.step <= eval.step);
        before.checked_sub(1).and_then(|last| self.at.get(last)).copied().unwrap_or(0.0)
    }
}

/// All plots that the runs have numbers for.
pub fn plots(comparison: &Comparison) -> Vec<Plot> {
    let mut all = Vec::new();
    let mut add = |name: &str, title: &str, svg: String| {
        all.push(Plot { name: name.into(), title: title.into(), svg });
    };
    let seeds = comparison.entries.len() > comparison.groups().len();
    let bands = if seeds { "; band: lowest to highest seed" } else { "; raw behind" };
    let behind = format!("smoothed, half-life 1 % of the axis{bands}");
    for (name, title, along) in [
        ("loss-tokens", "Training loss by tokens", Along::Tokens),
        ("loss-time", "Training loss by time", Along::Time),
        ("loss-flop", "Training loss by arithmetic", Along::Flop),
    ] {
        let lines = trained(comparison, along, |point| point.loss, true);
        // Runs of methods without a known cost are not on that axis.
        if !lines.is_empty() || !matches!(along, Along::Flop) {
            let (x, y) = (along.axis(), Axis::log("loss, nats a token"));
            let note = format!("{behind}; dots: validation loss");
            add(name, title, Chart { title: title.into(), note, x, y, lines }.draw());
        }
    }
    let chart = |title: &str, note: &str, y: Axis, lines: Vec<Line>| {
        let (title, note) = (title.into(), note.into());
        Chart { title, note, x: Along::Tokens.axis(), y, lines }.draw()
    };
    let title = "Validation loss by tokens";
    let note =
        if seeds { "mean over seeds; band: lowest to highest" } else { "at each evaluation" };
    let y = Axis::log("validation loss, nats a token");
    add("validation", title, chart(title, note, y, validated(comparison)));
    let title = "Learning rate";
    let lines = trained(comparison, Along::Tokens, |point| point.lr, false);
    add(
        "learning-rate",
        title,
        chart(title, "as used by each update", Axis::linear("learning rate"), lines),
    );
    let title = "Gradient norm";
    let lines = trained(comparison, Along::Tokens, |point| point.grad_norm, true);
    let lines = lines.into_iter().map(|line| Line { dots: Vec::new(), ..line }).collect();
    add(
        "gradient-norm",
        title,
        chart(title, &format!("before clipping; {behind}"), Axis::log("norm"), lines),
    );
    if let Some(strip) = acts(comparison) {
        add("events", &strip.title.clone(), strip.draw());
    }
    for (group, heat) in switches(comparison) {
        add(&format!("switches-{group}"), &heat.title.clone(), heat.draw());
    }
    for (group, heat) in ranks(comparison) {
        add(&format!("rank-{group}"), &heat.title.clone(), heat.draw());
    }
    if let Some((title, svg)) = mean_ranks(comparison) {
        add("rank", &title, svg);
    }
    for (group, title, svg) in spectra(comparison) {
        add(&format!("spectra-{group}"), &title, svg);
    }
    let bars = memory(comparison);
    add("memory", &bars.title.clone(), bars.draw());
    all
}

/// A line for each group from a number of its updates; `with_evals` adds the evaluations as dots and smooths.
fn trained(
    comparison: &Comparison,
    along: Along,
    number: fn(&Point) -> f64,
    with_evals: bool,
) -> Vec<Line> {
    let entries: Vec<(&Entry, Positions)> = comparison
        .entries
        .iter()
        .filter_map(|entry| Some((entry, Positions::of(entry, along)?)))
        .collect();
    let end = entries.iter().filter_map(|(_, positions)| positions.at.last().copied());
    let half_life = if with_evals { HALF_LIFE * end.fold(0.0, f64::max) } else { 0.0 };
    let mut lines = Vec::new();
    for (at, group) in comparison.groups().into_iter().enumerate() {
        let of_group: Vec<&(&Entry, Positions)> =
            entries.iter().filter(|(entry, _)| entry.group == group).collect();
        let raw: Vec<Curve> = of_group
            .iter()
            .map(|(entry, positions)| {
                let numbers = entry.history.points.iter().map(number);
                positions.at.iter().copied().zip(numbers).collect()
            })
            .collect();
        let smoothed: Vec<Curve> = raw.iter().map(|curve| smooth(curve, half_life)).collect();
        let mut line = Line { name: group.to_owned(), number: at, ..Line::default() };
        if let [one] = &smoothed[..] {
            line.curve.clone_from(one);
            if with_evals {
                line.raw.clone_from(&raw[0]);
            }
        } else {
            (line.curve, line.band) = together(&smoothed);
        }
        if with_evals {
            let dots: Vec<Curve> = of_group
                .iter()
                .map(|(entry, positions)| {
                    let evals = entry.history.evals.iter();
                    evals.map(|eval| (positions.of_eval(entry, eval), eval.loss)).collect()
                })
                .collect();
            line.dots = together(&dots).0;
        }
        if of_group.iter().any(|(entry, _)| !entry.history.points.is_empty()) {
            lines.push(line);
        }
    }
    lines
}

fn validated(comparison: &Comparison) -> Vec<Line> {
    let line = |(number, group): (usize, &str)| {
        let curves: Vec<Curve> = comparison
            .of_group(group)
            .map(|entry| {
                entry.history.evals.iter().map(|eval| (eval.tokens as f64, eval.loss)).collect()
            })
            .collect();
        let (curve, band) = together(&curves);
        let band = if curves.len() > 1 { band } else { Vec::new() };
        Line { name: group.to_owned(), number, dots: curve.clone(), curve, band, raw: Vec::new() }
    };
    comparison.groups().into_iter().enumerate().map(line).filter(|l| !l.curve.is_empty()).collect()
}

/// The mean of several curves, with the lowest and the highest value: point by point, as far as all go.
fn together(curves: &[Curve]) -> (Curve, Vec<(f64, f64, f64)>) {
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

/// Merges, resets, refreshes and skipped updates.
fn acts(comparison: &Comparison) -> Option<Strip> {
    const KINDS: [(Act, &str); 4] = [
        (Act::Merge, "merge"),
        (Act::Reset, "reset"),
        (Act::Subspace, "new subspace"),
        (Act::Skip, "update skipped"),
    ];
    let of = |entry: &Entry| -> Vec<(f64, usize)> {
        let kind = |act: Act| KINDS.iter().position(|(known, _)| *known == act).unwrap_or(0);
        entry.history.acts.iter().map(|(step, act)| (*step as f64, kind(*act))).collect()
    };
    let rows: Vec<(String, Vec<(f64, usize)>)> = comparison
        .entries
        .iter()
        .map(|entry| (entry.name.clone(), of(entry)))
        .filter(|(_, acts)| !acts.is_empty())
        .collect();
    let last = |entry: &Entry| entry.history.points.last().map_or(0, |point| point.step);
    let end = comparison.entries.iter().map(last).max().unwrap_or(0) as f64;
    (!rows.is_empty()).then(|| Strip {
        title: "Merges, resets and refreshes".into(),
        kinds: KINDS.iter().map(|(_, name)| (*name).to_owned()).collect(),
        rows,
        end,
        x_label: "updates".into(),
    })
}

/// The first run of each group, which stands for it in pictures by layer.
fn representatives(comparison: &Comparison) -> impl Iterator<Item = &Entry> {
    comparison.groups().into_iter().filter_map(|group| comparison.of_group(group).next())
}

/// Vectors exchanged, by layer over updates.
fn switches(comparison: &Comparison) -> Vec<(String, Heat)> {
    let heat = |entry: &Entry| {
        let history = &entry.history;
        let steps = history.points.last()?.step.max(1);
        if history.switched.is_empty() {
            return None;
        }
        let last = history.switched.iter().map(|switched| switched.layer).max().unwrap_or(0);
        let layers = history.run.layers.len().max(last + 1);
        let columns = COLUMNS.min(steps as usize);
        let width = steps as f64 / columns as f64;
        let mut values = vec![vec![0.0; columns]; layers];
        for switched in &history.switched {
            let column = ((switched.step.saturating_sub(1)) as f64 / width) as usize;
            values[switched.layer][column.min(columns - 1)] += switched.vectors as f64 / width;
        }
        let name = |layer: usize| {
            history
                .run
                .layers
                .get(layer)
                .map_or_else(|| layer.to_string(), |name| short_layer(name))
        };
        Some((
            entry.group.clone(),
            Heat {
                title: format!("Vectors exchanged by layer: {}", entry.name),
                note: "both sides together, mean of the updates in a column".into(),
                rows: (0..layers).map(name).collect(),
                edges: (0..=columns).map(|column| column as f64 * width).collect(),
                x_label: "updates".into(),
                unit: "an update".into(),
                values,
            },
        ))
    };
    representatives(comparison).filter_map(heat).take(MOST_PICTURES).collect()
}

/// Effective rank of what training changed, by layer over updates, as a share of the largest possible.
fn ranks(comparison: &Comparison) -> Vec<(String, Heat)> {
    let heat = |entry: &Entry| {
        let ranks: Vec<_> = entry.history.changes().collect();
        let mut steps: Vec<u64> = ranks.iter().map(|rank| rank.step).collect();
        steps.dedup();
        let mut layers: Vec<&str> = Vec::new();
        for rank in &ranks {
            if !layers.contains(&rank.layer.as_str()) {
                layers.push(&rank.layer);
            }
        }
        // In the order of the network, as far as it is known.
        let place = |layer: &str| entry.history.run.layers.iter().position(|name| name == layer);
        layers.sort_by_key(|layer| place(layer).unwrap_or(usize::MAX));
        let (first, last) = (*steps.first()?, *steps.last()?);
        let mut values = vec![vec![f64::NAN; steps.len()]; layers.len()];
        for rank in &ranks {
            let row = layers.iter().position(|layer| *layer == rank.layer)?;
            let column = steps.binary_search(&rank.step).ok()?;
            values[row][column] = rank.effective / rank.full.max(1.0);
        }
        let mut edges: Vec<f64> = steps.iter().map(|step| *step as f64).collect();
        let width =
            if steps.len() > 1 { (last - first) as f64 / (steps.len() - 1) as f64 } else { 1.0 };
        edges.push(last as f64 + width);
        Some((
            entry.group.clone(),
            Heat {
                title: format!("Effective rank of the change by layer: {}", entry.name),
                note: "share of the largest rank that the layer can have".into(),
                rows: layers.iter().map(|layer| short_layer(layer)).collect(),
                edges,
                x_label: "updates".into(),
                unit: "share".into(),
                values,
            },
        ))
    };
    representatives(comparison).filter_map(heat).take(MOST_PICTURES).collect()
}

/// Effective rank of the change over updates, mean of the layers.
fn mean_ranks(comparison: &Comparison) -> Option<(String, String)> {
    let mut lines = Vec::new();
    for (number, group) in comparison.groups().into_iter().enumerate() {
        let curves: Vec<Curve> = comparison
            .of_group(group)
            .map(|entry| {
                let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
                for rank in entry.history.changes() {
                    at.entry(rank.step).or_default().push(rank.effective / rank.full.max(1.0));
                }
                let mean = |all: Vec<f64>| all.iter().sum::<f64>() / all.len() as f64;
                at.into_iter().map(|(step, all)| (step as f64, mean(all))).collect()
            })
            .collect();
        let (curve, band) = together(&curves);
        if !curve.is_empty() {
            let band = if curves.len() > 1 { band } else { Vec::new() };
            let dots = curve.clone();
            lines.push(Line { name: group.to_owned(), number, curve, band, dots, raw: Vec::new() });
        }
    }
    let title = "Effective rank of the change, mean of the layers";
    let chart = Chart {
        title: title.into(),
        note: "share of the largest rank that a layer can have".into(),
        x: Axis::linear("updates"),
        y: Axis::linear("share"),
        lines,
    };
    (!chart.lines.is_empty()).then(|| (title.to_owned(), chart.draw()))
}

/// The last spectrum of some layers, largest value first, as shares of it.
fn spectra(comparison: &Comparison) -> Vec<(String, String, String)> {
    let draw = |entry: &Entry| {
        let last = entry.history.changes().map(|rank| rank.step).max()?;
        let all: Vec<_> =
            entry.history.changes().filter(|r| r.step == last && r.sigma.len() > 1).collect();
        let every = all.len().div_ceil(SPECTRA).max(1);
        let line = |(number, rank): (usize, &&super::series::Ranked)| {
            let most = rank.sigma.iter().map(|(_, value)| *value).fold(0.0, f64::max);
            // What is below rounding is no part of the matrix.
            let curve = rank.sigma.iter().map(|(place, value)| {
                let share = value / most;
                (place + 1.0, if share > 1e-10 { share } else { f64::NAN })
            });
            Line {
                name: short_layer(&rank.layer),
                number,
                curve: curve.collect(),
                ..Line::default()
            }
        };
        let lines: Vec<Line> = all.iter().step_by(every).enumerate().map(line).collect();
        if lines.is_empty() {
            return None;
        }
        let title = format!("Singular values of the change at update {last}: {}", entry.name);
        let chart = Chart {
            title: title.clone(),
            note: "as shares of the largest".into(),
            x: Axis::linear("place of the singular value"),
            y: Axis::log("share of the largest"),
            lines,
        };
        Some((entry.group.clone(), title, chart.draw()))
    };
    representatives(comparison).filter_map(draw).take(MOST_PICTURES).collect()
}

/// Memory by category at the peak: what stays during the whole run, and what lives within an update.
fn memory(comparison: &Comparison) -> Bars {
    const LASTING: [&str; 4] = ["weights", "adapters", "optimizer", "pools"];
    let bar = |entry: &Entry| {
        let memory = &entry.history.memory;
        let of = |name: &str| memory.bytes.get(name).copied().unwrap_or(0) as f64;
        let mut parts: Vec<f64> = LASTING.iter().map(|name| of(name)).collect();
        let rest = memory.peak.map_or(0.0, |peak| peak as f64 - parts.iter().sum::<f64>());
        parts.push(rest.max(0.0));
        (entry.group.clone(), parts, memory.predicted.map(|bytes| bytes as f64))
    };
    let mut parts: Vec<String> = LASTING.iter().map(|&name| name.to_owned()).collect();
    parts.push("gradients and activations".into());
    Bars {
        title: "Memory at the peak".into(),
        note: "measured, by category; dark mark: predicted before the run".into(),
        parts,
        bars: representatives(comparison).map(bar).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_curves_become_a_mean_and_a_band_as_far_as_all_go() {
        let curves = [vec![(0.0, 1.0), (2.0, 3.0), (4.0, 9.0)], vec![(1.0, 2.0), (3.0, 5.0)]];
        let (mean, band) = together(&curves);
        assert_eq!(mean, [(0.5, 1.5), (2.5, 4.0)]);
        assert_eq!(band, [(0.5, 1.0, 2.0), (2.5, 3.0, 5.0)]);
        let (mean, band) = together(&[vec![(0.0, f64::NAN)], vec![(0.0, 1.0)]]);
        assert!(mean[0].1.is_nan() && band.is_empty());
    }
}
