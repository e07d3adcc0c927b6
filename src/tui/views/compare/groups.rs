//! Runs that differ in their seed alone, and what they say together.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::config::is_table_of;
use crate::report::stats::Stat;
use crate::series::Axis;
use crate::tui::model::{Metric, RunModel};

/// The setting in which runs of a group may differ,
const SEED: &str = "train.seed";
/// and the one that follows it where nothing else is said.
const DATA_SEED: &str = "data.data_seed";

/// What runs of a group have in common.
fn key(run: &RunModel) -> String {
    let about = &run.summary.run;
    if run.config.is_empty() {
        return format!(
            "{} {:?} {} {} {} {}",
            about.method, about.rank, about.model, about.data, about.steps, about.tokens_per_step
        );
    }
    let follows = data_seed_follows(&run.config);
    let settings =
        run.config.iter().filter(|(key, _)| *key != SEED && !(follows && *key == DATA_SEED));
    let mut all = String::new();
    for (key, value) in settings {
        all.extend([key, "=", value, "\n"]);
    }
    all
}

/// Whether the order of the data has the seed of the run, as it has without a setting of its own.
fn data_seed_follows(config: &BTreeMap<String, String>) -> bool {
    config.get(DATA_SEED).is_none_or(|seed| config.get(SEED) == Some(seed))
}

/// Places of runs, those of a group together, in the order of their first ones.
pub fn groups(runs: &[RunModel], shown: &[usize], lays_together: bool) -> Vec<Vec<usize>> {
    let mut keys: Vec<String> = Vec::new();
    let mut found: Vec<Vec<usize>> = Vec::new();
    for &place in shown {
        let Some(run) = runs.get(place) else { continue };
        let key = key(run);
        let group = keys.iter().position(|known| *known == key).filter(|_| lays_together);
        if let Some(group) = group {
            found[group].push(place);
        } else {
            keys.push(key);
            found.push(vec![place]);
        }
    }
    found
}

/// A run's value at a place of an axis, on the straight line between the rows around it.
fn between(
    run: &RunModel,
    metric: Metric,
    axis: Axis,
    half_life: Option<f64>,
    x: f64,
) -> Option<f64> {
    let table = run.table(metric);
    let after = table.clock.row_at(axis, x);
    let at = |row: usize| {
        Some((table.clock.at(row, axis), table.value(metric.column(), axis, half_life, row)?))
    };
    let (right, top) = at(after)?;
    if right <= x || after == 0 {
        return (right <= x).then_some(top);
    }
    let (left, bottom) = at(after - 1)?;
    Some(bottom + (x - left) / (right - left) * (top - bottom))
}

/// Mean, smallest and largest value of a group over a stretch of an axis, as far as all of its runs have come.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Band {
    /// Means.
    pub mean: Vec<(f64, f64)>,
    /// Smallest values.
    pub low: Vec<(f64, f64)>,
    /// Largest values.
    pub high: Vec<(f64, f64)>,
}

/// The band of some runs at `dots` places.
pub fn band(
    runs: &[&RunModel],
    metric: Metric,
    axis: Axis,
    half_life: Option<f64>,
    range: &Range<f64>,
    dots: usize,
) -> Band {
    let mut band = Band::default();
    for dot in 0..=dots {
        let x = range.start + (range.end - range.start) * dot as f64 / dots.max(1) as f64;
        let values: Option<Vec<f64>> =
            runs.iter().map(|run| between(run, metric, axis, half_life, x)).collect();
        let Some(stat) = values.as_deref().and_then(Stat::of) else { continue };
        let values = values.unwrap_or_default();
        band.mean.push((x, stat.mean));
        band.low.push((x, values.iter().copied().fold(f64::INFINITY, f64::min)));
        band.high.push((x, values.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
    }
    band
}

/// How far a run has come on an axis.
pub fn reach(run: &RunModel, axis: Axis) -> Option<f64> {
    let last = run.steps.len().checked_sub(1)?;
    Some(run.steps.clock.at(last, axis)).filter(|place| place.is_finite())
}

/// A run's newest value at or before a place: a run that has not come so far has none.
pub fn value_at(
    run: &RunModel,
    metric: Metric,
    axis: Axis,
    half_life: Option<f64>,
    place: f64,
) -> Option<f64> {
    if reach(run, axis)? < place * (1.0 - 1e-9) {
        return None;
    }
    let table = run.table(metric);
    let row = table.clock.row_after(axis, place).checked_sub(1)?;
    table.value(metric.column(), axis, half_life, row)
}

/// Tokens at which the validation loss first falls to a target, on the straight line between two evaluations.
pub fn tokens_to(run: &RunModel, target: f64) -> Option<f64> {
    let losses = run.evals.column("loss")?.values();
    let mut before: Option<(f64, f64)> = None;
    for (row, loss) in losses.iter().enumerate().filter(|(_, loss)| loss.is_finite()) {
        let (tokens, loss) = (run.evals.clock.at(row, Axis::Tokens), f64::from(*loss));
        if loss <= target {
            let Some((from, above)) = before else { return Some(tokens) };
            return Some(from + (above - target) / (above - loss) * (tokens - from));
        }
        before = Some((tokens, loss));
    }
    None
}

/// Mean and deviation of the differences to the baseline of the same seed; `None` below two seeds in common.
pub fn paired(
    runs: &[RunModel],
    group: &[usize],
    base: &[usize],
    value: impl Fn(&RunModel) -> Option<f64>,
) -> Option<Stat> {
    let of_seed = |seed: u64| {
        base.iter().filter_map(|place| runs.get(*place)).find(|run| run.summary.run.seed == seed)
    };
    let mut differences = Vec::new();
    for run in group.iter().filter_map(|place| runs.get(*place)) {
        let Some(other) = of_seed(run.summary.run.seed) else { continue };
        if let (Some(value), Some(base)) = (value(run), value(other)) {
            differences.push(value - base);
        }
    }
    Stat::of(&differences).filter(|stat| stat.n > 1)
}

/// Whether a setting means something to a run: it is in no table of a method that the run does not use.
fn is_used(key: &str, config: &BTreeMap<String, String>) -> bool {
    let Some((table, _)) = key.split_once('.') else { return true };
    let says = |key: &str, value: &str| config.get(key).is_some_and(|text| text == value);
    let uses_spam = table == "spam" && says("spam.enabled", "true");
    uses_spam || config.get("train.method").is_none_or(|method| is_table_of(table, method))
}

/// The settings in which two runs differ and that mean something to one of them: name, value of the first, value of the second; `–` for none.
pub fn differences(a: &RunModel, b: &RunModel) -> Vec<(String, String, String)> {
    difference(&a.config, &b.config)
}

/// The same of two configurations.
pub fn difference(
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
) -> Vec<(String, String, String)> {
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort();
    keys.dedup();
    let none = || "–".to_owned();
    // Said once: the seed is there.
    let follows = data_seed_follows(a) && data_seed_follows(b);
    let differing = keys.into_iter().filter(|key| {
        let is_said = follows && *key == DATA_SEED;
        a.get(*key) != b.get(*key) && !is_said && (is_used(key, a) || is_used(key, b))
    });
    differing
        .map(|key| {
            let name = key.strip_prefix("train.").unwrap_or(key).to_owned();
            (
                name,
                a.get(key).cloned().unwrap_or_else(none),
                b.get(key).cloned().unwrap_or_else(none),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture::{self, STEPS, TOKENS};

    fn runs() -> Vec<RunModel> {
        [("full", 1), ("lora", 1), ("full", 2), ("lora", 2), ("lora", 3)]
            .map(|(method, seed)| fixture::run_of(method, seed, STEPS))
            .into()
    }

    #[test]
    fn runs_that_differ_in_their_seed_alone_are_a_group() {
        let runs = runs();
        assert_eq!(groups(&runs, &[0, 1, 2, 3, 4], true), [vec![0, 2], vec![1, 3, 4]]);
        assert_eq!(groups(&runs, &[4, 2, 1], true), [vec![4, 1], vec![2]]);
        assert_eq!(groups(&runs, &[0, 2], false), [vec![0], vec![2]]);
        let mut other = runs;
        other[2].config.insert("train.learning_rate".into(), "0.5".into());
        assert_eq!(groups(&other, &[0, 2], true).len(), 2);
    }

    #[test]
    fn the_order_of_the_data_follows_the_seed_unless_it_has_its_own() {
        let with = |seed: u64, data_seed: &str| {
            let mut run = fixture::run_of("lora", seed, 10);
            run.config.insert("data.data_seed".into(), data_seed.into());
            run
        };
        let runs = [with(1, "1"), with(2, "2"), with(3, "1"), with(4, "1")];
        assert_eq!(groups(&runs, &[0, 1, 2, 3], true), [vec![0, 1], vec![2, 3]]);
        let names = |a: usize, b: usize| -> Vec<String> {
            differences(&runs[a], &runs[b]).into_iter().map(|(name, ..)| name).collect()
        };
        assert_eq!(names(0, 1), ["seed"]);
        assert_eq!(names(1, 2), ["data.data_seed", "seed"]);
    }

    #[test]
    fn a_band_holds_its_mean_and_ends_where_the_shortest_run_ends() {
        let runs = [fixture::run_of("lora", 1, 400), fixture::run_of("lora", 2, 200)];
        let all: Vec<&RunModel> = runs.iter().collect();
        let range = 0.0..400.0;
        let band = band(&all, Metric::Loss, Axis::Step, Some(5.0), &range, 100);
        assert!(band.mean.len() > 40 && band.mean.last().unwrap().0 <= 200.0);
        for ((low, mean), high) in band.low.iter().zip(&band.mean).zip(&band.high) {
            assert!(low.1 <= mean.1 && mean.1 <= high.1);
        }
    }

    #[test]
    fn a_run_has_no_value_where_it_has_not_been() {
        let run = fixture::run_of("lora", 1, 100);
        let at = |x: f64| value_at(&run, Metric::ValLoss, Axis::Tokens, None, x);
        assert_eq!(at(0.0), Some(f64::from(8.9_f32)));
        let losses = run.evals.column("loss").unwrap().values();
        assert_eq!(at(99.0 * TOKENS as f64), Some(f64::from(losses[3])), "the one at 75");
        assert_eq!(at(100.0 * TOKENS as f64), Some(f64::from(losses[4])));
        assert_eq!(at(101.0 * TOKENS as f64), None);
    }

    #[test]
    fn tokens_to_a_loss_lie_between_two_evaluations() {
        let run = fixture::run("full");
        let losses = run.evals.column("loss").unwrap().values();
        let middle = f64::from(losses[2] + losses[3]) / 2.0;
        let tokens = tokens_to(&run, middle).unwrap();
        assert!((tokens / TOKENS as f64 - 62.5).abs() < 0.01, "{tokens}");
        assert_eq!(tokens_to(&run, 100.0), Some(0.0));
        assert_eq!(tokens_to(&run, 0.1), None);
    }

    #[test]
    fn paired_differences_need_two_seeds_in_common() {
        let runs = runs();
        let value =
            |run: &RunModel| Some(run.summary.run.seed as f64 * 10.0 + run.config.len() as f64);
        let stat = paired(&runs, &[1, 3, 4], &[0, 2], value).unwrap();
        assert_eq!((stat.n, stat.mean, stat.std), (2, 1.0, Some(0.0)), "seed 3 has no partner");
        assert!(paired(&runs, &[4, 1], &[0], value).is_none());
    }

    #[test]
    fn differing_settings_are_named_with_both_values() {
        let runs = runs();
        let found = differences(&runs[0], &runs[1]);
        let row = |name: &str, a: &str, b: &str| (name.to_owned(), a.to_owned(), b.to_owned());
        assert!(found.contains(&row("method", "full", "lora")));
        assert!(found.contains(&row("rank", "–", "16")));
        assert!(found.iter().all(|(name, ..)| name != "seed"));
        assert!(differences(&runs[0], &runs[0]).is_empty());
    }

    #[test]
    fn settings_of_methods_that_neither_run_uses_do_not_count() {
        let config = |method: &str, gap: &str, rate: &str| {
            let pairs = [
                ("train.method", method),
                ("fira.update_proj_gap", gap),
                ("train.learning_rate", rate),
            ];
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        };
        let names = |a: &str, b: &str| -> Vec<String> {
            let found = difference(&config(a, "10", "1"), &config(b, "20", "2"));
            found.into_iter().map(|(name, ..)| name).collect()
        };
        assert_eq!(names("lora", "lora"), ["learning_rate"]);
        assert_eq!(names("lora", "fira"), ["fira.update_proj_gap", "learning_rate", "method"]);
    }
}
