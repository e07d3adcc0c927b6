//! Pictures by layer, and memory by category: one run of each group stands for it.

use super::super::chart::{Axis, Chart, Line};
use super::super::heat::{Bars, Heat, short_layer};
use super::super::series::Ranked;
use super::super::table::{Comparison, Entry};

/// Columns of a picture over time.
const COLUMNS: usize = 120;
/// Pictures by layer are drawn for so many groups at most; a table of many ranks would fill a book with them.
const MOST_PICTURES: usize = 8;
/// Spectra are drawn for so many layers of a run.
const SPECTRA: usize = 6;

/// The first run of each group, which stands for it in pictures by layer.
fn representatives(comparison: &Comparison) -> impl Iterator<Item = &Entry> {
    comparison.groups().into_iter().filter_map(|group| comparison.of_group(group).next())
}

/// Vectors exchanged, by layer over updates.
pub fn switches(comparison: &Comparison) -> Vec<(String, Heat)> {
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
pub fn ranks(comparison: &Comparison) -> Vec<(String, Heat)> {
    let heat = |entry: &Entry| {
        let ranks: Vec<_> = entry.history.changes().collect();
        // A measurement is told after updates that came later, so the steps of a log need not rise.
        let mut steps: Vec<u64> = ranks.iter().map(|rank| rank.step).collect();
        steps.sort_unstable();
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
        // A value stands for the updates that led to it.
        let width = if steps.len() > 1 { (last - first) / (steps.len() - 1) as u64 } else { first };
        let mut edges = vec![first as f64 - width.clamp(1, first.max(1)) as f64];
        edges.extend(steps.iter().map(|step| *step as f64));
        Some((
            entry.group.clone(),
            Heat {
                title: format!("Effective rank of the change by layer: {}", entry.name),
                note: "share of the largest rank that the layer can have; gaps: not measured"
                    .into(),
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

/// The last spectrum of a matrix (`change`, `gradient`) of some layers, largest value first, as shares of it.
pub fn spectra(comparison: &Comparison, matrix: &str) -> Vec<(String, String, String)> {
    let draw = |entry: &Entry| {
        let of_matrix = || entry.history.ranks_of(matrix);
        let last = of_matrix().map(|rank| rank.step).max()?;
        let all: Vec<_> =
            of_matrix().filter(|rank| rank.step == last && rank.sigma.len() > 1).collect();
        let every = all.len().div_ceil(SPECTRA).max(1);
        let line = |(number, rank): (usize, &&Ranked)| {
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
        let title = format!("Singular values of the {matrix} at update {last}: {}", entry.name);
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
pub fn memory(comparison: &Comparison) -> Bars {
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
