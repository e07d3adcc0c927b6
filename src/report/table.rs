//! Runs in rows: what each reached, beside the baseline, with seeds taken together.

use serde::Serialize;

use super::series::{At, History};
use super::stats::Stat;
use crate::error::{Error, Result};
use crate::runlog::compare::{CompareDir, Member, Plan};
use crate::runlog::{RunDir, Status};

/// A run in a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name in tables and legends.
    pub name: String,
    /// The name of all that differ from it in the seed alone.
    pub group: String,
    /// Its seed.
    pub seed: u64,
    /// What it did.
    pub history: History,
}

/// Runs that are looked at together.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What it is called.
    pub title: String,
    /// The group that the others are compared with.
    pub baseline: String,
    /// Validation loss for "tokens to target", where one was given.
    pub wanted_target: Option<f64>,
    /// The runs.
    pub entries: Vec<Entry>,
}

impl Comparison {
    /// Reads a comparison from disk. Members that were never begun are rows without numbers.
    pub fn read(dir: &CompareDir, plan: &Plan) -> Result<Self> {
        let entry = |member: &Member| {
            let mut history = History::read(&dir.member(&member.name))?;
            if history.run.method.is_empty() {
                history.run.method =
                    member.settings.get("train.method").cloned().unwrap_or_default();
            }
            let (name, group) = (member.name.clone(), member.group.clone());
            Ok(Entry { name, group, seed: member.seed, history })
        };
        Ok(Self {
            title: dir.name(),
            baseline: plan.baseline.clone(),
            wanted_target: plan.target_loss,
            entries: plan.members.iter().map(entry).collect::<Result<_>>()?,
        })
    }

    /// Takes runs together that were trained one by one; the first is the baseline. Each is a group of its own.
    ///
    /// Errors: no runs.
    pub fn of_runs(runs: &[RunDir]) -> Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for run in runs {
            let history = History::read(run)?;
            let name = own_name(run, &entries);
            let (group, seed) = (name.clone(), history.run.seed);
            entries.push(Entry { name, group, seed, history });
        }
        let Some(first) = entries.first() else {
            return Err(Error::config(
                "no runs to report on",
                "name some; `fullrank ls` lists them",
            ));
        };
        let title = match &entries[..] {
            [one] => one.history.name.clone(),
            all => format!("{} runs", all.len()),
        };
        Ok(Self { title, baseline: first.group.clone(), wanted_target: None, entries })
    }

    /// Looks at all runs at the same budget.
    pub fn cut(&mut self, at: At) {
        for entry in &mut self.entries {
            entry.history.cut(at);
        }
    }

    /// The groups, in order.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !groups.contains(&entry.group.as_str()) {
                groups.push(&entry.group);
            }
        }
        groups
    }

    /// The runs of a group.
    pub fn of_group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.group == group)
    }

    /// The table.
    pub fn table(&self) -> Table {
        let last = |entry: &Entry| entry.history.last_eval().map(|eval| eval.loss);
        let base: Vec<f64> = self.of_group(&self.baseline).filter_map(last).collect();
        let target = self.wanted_target.or_else(|| Stat::of(&base).map(|stat| stat.mean));
        let members: Vec<Row> =
            self.entries.iter().map(|entry| self.row(entry, &base, target)).collect();
        let groups = self.groups().into_iter().map(|group| {
            let rows: Vec<&Row> = self
                .entries
                .iter()
                .zip(&members)
                .filter(|(entry, _)| entry.group == group)
                .map(|(_, row)| row)
                .collect();
            Row::together(group, &rows)
        });
        Table {
            title: self.title.clone(),
            baseline: self.baseline.clone(),
            target_loss: target,
            groups: groups.collect(),
            members,
            differences: super::diff::differences(&self.entries),
        }
    }

    fn row(&self, entry: &Entry, base: &[f64], target: Option<f64>) -> Row {
        let history = &entry.history;
        let one = |value: Option<f64>| value.and_then(|value| Stat::of(&[value]));
        let (last, best) = (history.last_eval(), history.best_eval());
        let loss = last.map(|eval| eval.loss);
        // The baseline of the same seed has the same text and the same start; without one, the mean of all.
        let same_seed = self.of_group(&self.baseline).find(|other| other.seed == entry.seed);
        let own_base = same_seed
            .and_then(|other| Some(other.history.last_eval()?.loss))
            .or_else(|| Stat::of(base).map(|stat| stat.mean));
        let delta = loss.zip(own_base).map(|(loss, base)| loss - base);
        Row {
            name: entry.name.clone(),
            method: history.run.method.clone(),
            rank: history.run.rank,
            seeds: vec![entry.seed],
            status: history.status.word().to_owned(),
            cause: match history.status {
                Status::Finished => String::new(),
                _ => history.cause.clone(),
            },
            step: history.points.last().map_or(0, |point| point.step),
            tokens: history.points.last().map_or(0, |point| point.tokens),
            active_s: one(history.points.last().map(|point| point.active_s)),
            loss: one(loss),
            ppl: one(loss.map(f64::exp)),
            best_loss: one(best.map(|eval| eval.loss)),
            best_ppl: one(best.map(|eval| eval.loss.exp())),
            best_step: best.map(|eval| eval.step),
            delta: one(delta),
            delta_percent: one(delta.zip(own_base).map(|(delta, base)| 100.0 * delta / base)),
            tokens_to_target: one(target.and_then(|target| history.tokens_to(target))),
            tok_s: one(history.tok_s()),
            peak_bytes: history.memory.peak,
            predicted_bytes: history.memory.predicted,
            trained_params: (history.run.trained_params > 0).then_some(history.run.trained_params),
            exchange_bytes: history.exchange_bytes(),
        }
    }
}

/// A name that no other run has, so that each is a group of its own: the name that the user gave, the folder's, its path.
fn own_name(run: &RunDir, others: &[Entry]) -> String {
    let path = run.path().display().to_string();
    let numbered = (2..).map(|number| format!("{path} ({number})"));
    let mut names = [run.short_name(), run.name(), path.clone()].into_iter().chain(numbered);
    names.find(|name| others.iter().all(|entry| entry.name != *name)).unwrap_or_default()
}

/// A run, or the runs of a group taken together. Numbers that are not there are `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The run's or the group's name.
    pub name: String,
    /// The method.
    pub method: String,
    /// The rank asked for.
    pub rank: Option<u64>,
    /// The seeds in it.
    pub seeds: Vec<u64>,
    /// How it ended; of several that ended differently, each.
    pub status: String,
    /// Why, where it did not finish.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// Updates applied; of several the fewest.
    pub step: u64,
    /// Tokens trained on; of several the fewest.
    pub tokens: u64,
    /// Seconds of training.
    pub active_s: Option<Stat>,
    /// Validation loss at the end.
    pub loss: Option<Stat>,
    /// Perplexity at the end.
    pub ppl: Option<Stat>,
    /// Lowest validation loss.
    pub best_loss: Option<Stat>,
    /// Lowest perplexity.
    pub best_ppl: Option<Stat>,
    /// The update of the lowest loss, of a single run.
    pub best_step: Option<u64>,
    /// Loss minus the baseline's of the same seed.
    pub delta: Option<Stat>,
    /// The same in percent of the baseline's loss.
    pub delta_percent: Option<Stat>,
    /// Tokens to the target loss, over the runs that reached it.
    pub tokens_to_target: Option<Stat>,
    /// Median of the updates' tokens per second.
    pub tok_s: Option<Stat>,
    /// Memory high-water mark; of several the largest.
    pub peak_bytes: Option<u64>,
    /// What was predicted for it.
    pub predicted_bytes: Option<u64>,
    /// Parameters that get gradients, after a full-rank warm start.
    pub trained_params: Option<u64>,
    /// Bytes that each of several workers would exchange for an update.
    pub exchange_bytes: Option<u64>,
}

impl Row {
    fn together(group: &str, rows: &[&Self]) -> Self {
        let all = |number: fn(&Self) -> Option<Stat>| {
            let means: Vec<f64> =
                rows.iter().filter_map(|row| number(row)).map(|stat| stat.mean).collect();
            Stat::of(&means)
        };
        // A mean over the seeds that went well alone is not the group's.
        let whole =
            |number: fn(&Self) -> Option<Stat>| all(number).filter(|stat| stat.n == rows.len());
        let join = |words: Vec<&str>| {
            let mut different: Vec<&str> = Vec::new();
            for word in words.into_iter().filter(|word| !word.is_empty()) {
                if !different.contains(&word) {
                    different.push(word);
                }
            }
            different.join(", ")
        };
        let first = rows.first();
        Self {
            name: group.to_owned(),
            method: first.map(|row| row.method.clone()).unwrap_or_default(),
            rank: first.and_then(|row| row.rank),
            seeds: rows.iter().flat_map(|row| row.seeds.clone()).collect(),
            status: join(rows.iter().map(|row| row.status.as_str()).collect()),
            cause: join(rows.iter().map(|row| row.cause.as_str()).collect()),
            step: rows.iter().map(|row| row.step).min().unwrap_or(0),
            tokens: rows.iter().map(|row| row.tokens).min().unwrap_or(0),
            active_s: whole(|row| row.active_s),
            loss: whole(|row| row.loss),
            ppl: whole(|row| row.ppl),
            best_loss: whole(|row| row.best_loss),
            best_ppl: whole(|row| row.best_ppl),
            best_step: match rows {
                [one] => one.best_step,
                _ => None,
            },
            delta: whole(|row| row.delta),
            delta_percent: whole(|row| row.delta_percent),
            tokens_to_target: all(|row| row.tokens_to_target),
            tok_s: all(|row| row.tok_s),
            peak_bytes: rows.iter().filter_map(|row| row.peak_bytes).max(),
            predicted_bytes: rows.iter().filter_map(|row| row.predicted_bytes).max(),
            trained_params: first.and_then(|row| row.trained_params),
            exchange_bytes: first.and_then(|row| row.exchange_bytes),
        }
    }
}

/// A setting in which runs differ, with the value of each run; `None`: not set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The key: `train.rank`.
    pub key: String,
    /// A value for each run, in their order.
    pub values: Vec<Option<String>>,
}

/// All rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// What is compared.
    pub title: String,
    /// The group that the others are compared with.
    pub baseline: String,
    /// The loss that tokens are counted to.
    pub target_loss: Option<f64>,
    /// A row for each group.
    pub groups: Vec<Row>,
    /// A row for each run.
    pub members: Vec<Row>,
    /// The settings in which the runs differ.
    pub differences: Vec<Difference>,
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::{eval, events, step};
    use super::*;
    use crate::runlog::{End, EndStatus, Mem, Run, Switch, SwitchLayer};

    /// A run whose validation loss falls from 5 to `last` on a straight line, by way of one evaluation.
    fn entry(group: &str, seed: u64, last: f64) -> Entry {
        let run = Run { method: group.into(), trained_params: 1000, seed, ..Run::default() };
        let mut told = vec![(0, run.into()), eval(0, 5.0)];
        told.extend((1..=10).map(|at| step(at, 4.0, 10.0 * at as f64)));
        told.push(eval(10, f64::midpoint(5.0, last)));
        told.extend((11..=20).map(|at| step(at, 4.0, 10.0 * at as f64)));
        told.push(eval(20, last));
        let mem = Mem { peak_bytes: 700, predicted_bytes: Some(650), ..Mem::default() };
        told.push((20, mem.into()));
        told.push((20, End { status: EndStatus::Finished, what: String::new() }.into()));
        let mut history = History::of(events(told));
        history.status = Status::Finished;
        Entry { name: format!("{group}-s{seed}"), group: group.into(), seed, history }
    }

    fn comparison(entries: Vec<Entry>) -> Comparison {
        let (title, baseline) = ("x".into(), "full".into());
        Comparison { title, baseline, wanted_target: None, entries }
    }

    #[test]
    fn a_row_holds_what_the_events_say() {
        let table = comparison(vec![entry("full", 0, 3.0), entry("lora", 0, 4.0)]).table();
        let mean = |stat: Option<Stat>| stat.unwrap().mean;
        assert_eq!(table.target_loss, Some(3.0));
        let (full, lora) = (&table.groups[0], &table.groups[1]);
        assert_eq!((mean(full.loss), mean(lora.loss)), (3.0, 4.0));
        assert_eq!((mean(full.delta), mean(lora.delta)), (0.0, 1.0));
        assert!((mean(lora.delta_percent) - 100.0 / 3.0).abs() < 1e-12);
        assert!((mean(full.ppl) - 3.0_f64.exp()).abs() < 1e-12);
        assert_eq!(mean(full.tokens_to_target), 2000.0);
        assert_eq!(lora.tokens_to_target, None);
        // Updates 4 to 20, at ten times their number.
        assert_eq!(mean(full.tok_s), 120.0);
        assert_eq!((full.peak_bytes, full.predicted_bytes), (Some(700), Some(650)));
        assert_eq!((full.trained_params, full.exchange_bytes), (Some(1000), Some(4000)));
        assert_eq!((full.step, full.tokens, full.best_step), (20, 2000, Some(20)));
    }

    #[test]
    fn a_given_target_wins_over_the_baselines_last_loss() {
        let mut all = comparison(vec![entry("full", 0, 3.0), entry("lora", 0, 4.0)]);
        all.wanted_target = Some(4.5);
        let table = all.table();
        let tokens = |row: &Row| row.tokens_to_target.unwrap().mean;
        assert_eq!(tokens(&table.groups[0]), 500.0);
        assert_eq!(tokens(&table.groups[1]), 1000.0);
    }

    #[test]
    fn seeds_are_compared_in_pairs_and_taken_together() {
        let table = comparison(vec![
            entry("full", 0, 3.0),
            entry("full", 1, 3.5),
            entry("lora", 0, 3.25),
            entry("lora", 1, 4.0),
        ])
        .table();
        assert_eq!((table.groups.len(), table.members.len()), (2, 4));
        let lora = &table.groups[1];
        // 3.25 − 3 and 4 − 3.5, not against the mean.
        assert_eq!(table.members[2].delta.unwrap().mean, 0.25);
        let delta = lora.delta.unwrap();
        assert_eq!((delta.mean, delta.n), (0.375, 2));
        assert!((delta.std.unwrap() - 0.125 * 2.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(lora.seeds, [0, 1]);
        assert_eq!(lora.best_step, None);
        // The target is 3.25, which the first of them reaches at its very end.
        assert_eq!(lora.tokens_to_target.unwrap().n, 1);
    }

    #[test]
    fn a_group_with_a_failed_seed_has_no_mean_loss() {
        let mut failed = entry("lora", 1, f64::NAN);
        failed.history.status = Status::Diverged;
        failed.history.cause = "loss is nan".into();
        let table = comparison(vec![entry("full", 0, 3.0), entry("lora", 0, 4.0), failed]).table();
        let lora = &table.groups[1];
        assert_eq!((lora.loss, lora.delta), (None, None));
        assert_eq!(
            (lora.status.as_str(), lora.cause.as_str()),
            ("finished, diverged", "loss is nan")
        );
        assert_eq!(table.members[2].best_loss.unwrap().mean, 5.0);
    }

    #[test]
    fn runs_of_one_name_are_groups_of_their_own_and_make_a_report() {
        let folder = tempfile::tempdir().unwrap();
        let places = [
            "compare-20261101-000000-a/members/lora",
            "compare-20261102-000000-b/members/lora",
            "20261103-000000-lora",
            "other/20261103-000000-lora",
        ];
        let runs: Vec<RunDir> =
            places.iter().map(|place| RunDir::at(folder.path().join(place))).collect();
        for run in &runs {
            std::fs::create_dir_all(run.path()).unwrap();
            let row = SwitchLayer { k: 1, ..SwitchLayer::default() };
            let told = [
                (0, Run::default().into()),
                step(1, 4.0, 1.0),
                (1, Switch { l: vec![row] }.into()),
            ];
            let lines: Vec<String> =
                events(told).iter().map(|event| event.to_line().unwrap()).collect();
            std::fs::write(run.events(), lines.join("\n") + "\n").unwrap();
        }
        let all = Comparison::of_runs(&runs).unwrap();
        let last = runs[3].path().display().to_string();
        let names =
            ["lora", "compare-20261102-000000-b/members/lora", "20261103-000000-lora", &last];
        assert_eq!(all.groups(), names);
        let report = folder.path().join("report");
        super::super::page::write(&all, "", &report).unwrap();
        let is_switches =
            |name: &str| name.starts_with("switches-") && name.strip_suffix(".png").is_some();
        let files = std::fs::read_dir(&report).unwrap();
        let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        assert_eq!(files.filter(|name| is_switches(name)).count(), 4);
    }

    #[test]
    fn runs_without_events_are_rows_without_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::at(folder.path().join("20261121-000000-empty"));
        std::fs::create_dir(run.path()).unwrap();
        let table = Comparison::of_runs(&[run]).unwrap().table();
        assert_eq!((table.groups[0].name.as_str(), table.groups[0].loss), ("empty", None));
        assert_eq!(table.target_loss, None);
        assert!(Comparison::of_runs(&[]).is_err());
    }
}
