//! Which plots a comparison gets: what each shows, and from which numbers.

use super::acts::Act;
use super::chart::{Axis, Chart, Curve, Line};
use super::pins::Pin;
use super::series::{Evaluated, Point};
use super::stats::smooth;
use super::strip::{Row, Strip};
use super::table::{Comparison, Entry};

mod layers;
mod measured;

use measured::together;

/// The half-life of smoothed curves, as a share of the longest run.
const HALF_LIFE: f64 = 0.01;
/// Longest name of a plot's file, in characters.
const MOST_NAME: usize = 100;
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
    let mut all: Vec<Plot> = Vec::new();
    let mut add = |name: &str, title: &str, svg: String| {
        let name = file_name(name, &all);
        all.push(Plot { name, title: title.into(), svg });
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
            let signs = if seeds { "; signs: of the first seed" } else { "" };
            let note = format!("{behind}; dots: validation loss{signs}");
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
    add(
        "validation",
        title,
        chart(
            title,
            note,
            y,
            measured::lines(comparison, |history| {
                history.evals.iter().map(|eval| (eval.tokens as f64, eval.loss)).collect()
            }),
        ),
    );
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
    for (group, heat) in layers::switches(comparison) {
        add(&format!("switches-{group}"), &heat.title.clone(), heat.draw());
    }
    for (group, heat) in layers::ranks(comparison) {
        add(&format!("rank-{group}"), &heat.title.clone(), heat.draw());
    }
    for (name, title, svg) in measured::charts(comparison) {
        add(name, title, svg);
    }
    for (group, title, svg) in layers::spectra(comparison, "change") {
        add(&format!("spectra-{group}"), &title, svg);
    }
    for (group, title, svg) in layers::spectra(comparison, "gradient") {
        add(&format!("spectra-gradient-{group}"), &title, svg);
    }
    let bars = layers::memory(comparison);
    add("memory", &bars.title.clone(), bars.draw());
    all
}

/// A plot's name as that of a file on every system, unlike those of the plots before it: groups may be called by paths,
/// and two by names that differ in a sign alone.
fn file_name(name: &str, others: &[Plot]) -> String {
    let kept = |c: char| if c.is_alphanumeric() || "-_.=".contains(c) { c } else { '-' };
    let safe: String = name.chars().map(kept).take(MOST_NAME).collect();
    // Some systems take large and small letters for the same.
    let is_taken =
        |name: &str| others.iter().any(|plot| plot.name.to_lowercase() == name.to_lowercase());
    let numbered = (2..).map(|number| format!("{safe}-{number}"));
    let mut names = std::iter::once(safe.clone()).chain(numbered);
    names.find(|name| !is_taken(name)).unwrap_or_default()
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
            if let Some((first, _)) = of_group.first() {
                line.pins = pins(first, &line.curve);
            }
        }
        if of_group.iter().any(|(entry, _)| !entry.history.points.is_empty()) {
            lines.push(line);
        }
    }
    lines
}

/// What happened in a run, on its group's curve over updates.
fn pins(entry: &Entry, curve: &Curve) -> Vec<Pin> {
    let points = &entry.history.points;
    let pin = |(step, act): &(u64, Act)| {
        // After the last update: at it.
        let at = points.partition_point(|point| point.step < *step);
        let (x, y) = *curve.get(at.min(points.len().checked_sub(1)?))?;
        Some(Pin { x, y, act: *act })
    };
    entry.history.acts.iter().filter_map(pin).collect()
}

/// Merges, resets, refreshes and the like, in the colours of the curves.
fn acts(comparison: &Comparison) -> Option<Strip> {
    let groups = comparison.groups();
    let row = |entry: &Entry| {
        let acts = entry.history.acts.iter().map(|(step, act)| (*step as f64, *act));
        let colour = groups.iter().position(|group| *group == entry.group).unwrap_or(0);
        Row { name: entry.name.clone(), colour, acts: acts.collect() }
    };
    let rows = comparison.entries.iter().filter(|entry| !entry.history.acts.is_empty());
    let rows: Vec<Row> = rows.map(row).collect();
    let last = |entry: &Entry| entry.history.points.last().map_or(0, |point| point.step);
    let end = comparison.entries.iter().map(last).max().unwrap_or(0) as f64;
    let title = "What happened between updates".into();
    (!rows.is_empty()).then(|| Strip { title, rows, end, x_label: "updates".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_safe_and_differ() {
        let mut all: Vec<Plot> = Vec::new();
        let long = "x".repeat(300);
        for group in ["a/b", "a-b", "A B", "../c", "ü=1.5", "C:\\d", &long, &long] {
            let name = file_name(&format!("rank-{group}"), &all);
            assert!(!name.contains(['/', '\\', ':', ' ']) && name.len() < 120, "{name}");
            assert!(all.iter().all(|plot| plot.name.to_lowercase() != name.to_lowercase()));
            all.push(Plot { name, title: String::new(), svg: String::new() });
        }
        let names: Vec<&str> = all.iter().take(5).map(|plot| plot.name.as_str()).collect();
        assert_eq!(names, ["rank-a-b", "rank-a-b-2", "rank-A-B-3", "rank-..-c", "rank-ü=1.5"]);
    }
}
