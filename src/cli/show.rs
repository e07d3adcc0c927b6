//! `fullrank show`: one run in detail.

// A page is put together from formatted lines; `write!` to a string would add an error to ignore.
#![allow(clippy::format_push_string)]

use std::fs;
use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::text::{self, Table};
use super::words;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::runlog::status::Status;
use crate::runlog::summary::{EvalPoint, RunState};
use crate::runlog::{Body, Level, Named, Rank, RunDir, Sample, find, find_any};

/// How many evaluations the text form lists; the first stays, the middle goes.
const MAX_EVALS: usize = 12;
/// Width of the lists, samples and values, in characters: with what stands before them they fit a terminal of 80.
const WIDTH: usize = 74;
/// How much of a hash is shown; `--json` has it whole.
const HASH_WIDTH: usize = 12;

/// Prints the run `name`: what it is, how far it came, its evaluations, last sample, checkpoints and
/// configuration; with `is_json` the same as one object.
///
/// Errors: `Error::Config` if no such run, or if it is a comparison; `Error::Io`.
pub fn show(out: &Path, name: &str, is_json: bool, stdout: &mut dyn Write) -> Result<()> {
    let details = Details::read(one_run(out, name)?)?;
    if is_json {
        let record = details.record()?;
        return text::print_json(stdout, &record);
    }
    text::print(stdout, &details.text(&TimeZone::system()))
}

/// The run that a name means. `latest` is the newest run, whatever was begun after it.
fn one_run(out: &Path, name: &str) -> Result<RunDir> {
    if name != "latest"
        && let Ok(Named::Comparison(dir)) = find_any(out, name)
    {
        let members: Vec<String> = dir.runs()?.iter().map(RunDir::as_argument).collect();
        let path = dir.path().display();
        return Err(Error::config(
            format!(
                "{} is a comparison of {} runs, and show is for one",
                dir.name(),
                members.len()
            ),
            match members.first() {
                Some(first) => format!(
                    "`fullrank report {path}` and `fullrank watch {path}` show it whole, `fullrank show {first}` \
                     a member"
                ),
                None => format!("`fullrank resume {path}` begins its runs"),
            },
        ));
    }
    find(out, name)
}

/// Everything that `show` knows about a run.
struct Details {
    run: RunDir,
    state: RunState,
    sample: Option<(u64, Sample)>,
    /// The words of the last alert that was no mere note.
    alert: Option<String>,
    /// The changes of the newest rank measurement, with its step.
    ranks: (u64, Vec<Rank>),
    config: Option<String>,
    facts: Option<Value>,
}

impl Details {
    fn read(run: RunDir) -> Result<Self> {
        let (mut sample, mut alert) = (None, None);
        let mut ranks = (0, Vec::new());
        let state = RunState::of_with(&run, |event| match &event.body {
            Body::Sample(text) => sample = Some((event.step, text.clone())),
            Body::Alert(last) if last.level != Level::Info => {
                alert = Some(format!("step {}: {}", text::count(event.step), last.what));
            }
            Body::Rank(rank) if rank.matrix == "change" => {
                if ranks.0 != event.step {
                    ranks = (event.step, Vec::new());
                }
                ranks.1.push(Rank::clone(rank));
            }
            _ => {}
        })?;
        // A run that died young has neither file; one that cannot be read is left out as well.
        let config = fs::read_to_string(run.config()).ok();
        let facts = fs::read_to_string(run.facts()).ok();
        let facts = facts.and_then(|text| serde_json::from_str(&text).ok());
        Ok(Self { run, state, sample, alert, ranks, config, facts })
    }

    fn record(&self) -> Result<Value> {
        let failed = |error: serde_json::Error| {
            Error::file(self.run.path(), error.to_string(), "look at the run's files")
        };
        let mut record = serde_json::to_value(self.state.record()).map_err(failed)?;
        let Some(fields) = record.as_object_mut() else { return Ok(record) };
        let summary = &self.state.summary;
        fields.insert("run".into(), serde_json::to_value(&summary.run).map_err(failed)?);
        fields.insert("evals".into(), serde_json::to_value(&summary.evals).map_err(failed)?);
        let sample = self.sample.as_ref().map(
            |(step, sample)| json!({"step": step, "prompt": sample.prompt, "text": sample.text}),
        );
        fields.insert("sample".into(), sample.unwrap_or_default());
        let (step, ranks) = &self.ranks;
        let ranks = (!ranks.is_empty()).then(|| json!({"step": step, "changes": ranks}));
        fields.insert("ranks".into(), ranks.unwrap_or_default());
        let checkpoints: Vec<Value> = self
            .run
            .list_checkpoints()?
            .iter()
            .map(|c| json!({"step": c.step, "path": c.path, "bytes": c.bytes}))
            .collect();
        fields.insert("checkpoints".into(), checkpoints.into());
        let config = self.config.as_deref().and_then(|text| toml::from_str::<Value>(text).ok());
        fields.insert("config".into(), config.unwrap_or_default());
        fields.insert("facts".into(), self.facts.clone().unwrap_or_default());
        Ok(record)
    }

    fn text(&self, zone: &TimeZone) -> String {
        let mut page = self.head(zone);
        page.push_str(&self.evals());
        if let Some((step, sample)) = &self.sample {
            page.push_str(&format!("\nlast sample, step {}\n", text::count(*step)));
            for line in quoted(sample, WIDTH) {
                page.push_str(&format!("  {line}\n"));
            }
        }
        // A folder that cannot be listed has no checkpoints to show.
        let checkpoints = self.run.list_checkpoints().unwrap_or_default();
        if !checkpoints.is_empty() {
            page.push_str("\ncheckpoints\n");
            let mut table = Table::new(&[">step", ">size", "folder"]);
            for checkpoint in checkpoints {
                table.row(&[
                    text::count(checkpoint.step),
                    text::bytes(checkpoint.bytes),
                    self.within(&checkpoint.path),
                ]);
            }
            page.push_str(&table.render(2));
        }
        page.push_str(&self.settings());
        if let Some(Value::Object(facts)) = &self.facts {
            page.push_str("\nfacts\n");
            let (groups, bare): (Vec<_>, Vec<_>) =
                facts.iter().partition(|(_, value)| value.is_object());
            let bare: Vec<String> =
                bare.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect();
            page.push_str(&list(&bare, 2));
            for (name, group) in groups {
                page.push_str(&format!("  {name}\n"));
                let mut facts = Vec::new();
                flatten("", group, &mut facts);
                page.push_str(&list(&facts, 4));
            }
        }
        page
    }

    /// A path inside the run's folder, which stands above.
    fn within(&self, path: &Path) -> String {
        path.strip_prefix(self.run.path()).unwrap_or(path).display().to_string()
    }

    fn head(&self, zone: &TimeZone) -> String {
        let summary = &self.state.summary;
        let run = &summary.run;
        let mut page = String::new();
        let mut line = |key: &str, value: String| {
            if !value.is_empty() {
                let value = text::printable(&value).replace('\n', " ");
                let mut key = key;
                for part in text::wrap(&value, WIDTH - 8, usize::MAX) {
                    page.push_str(&format!("{key:<12}{part}\n"));
                    key = "";
                }
            }
        };
        line("run", self.run.name());
        let why = if summary.end_text.is_empty() || self.state.status.is_live() {
            String::new()
        } else {
            format!(": {}", summary.end_text)
        };
        line("status", format!("{}{why}", self.state.status));
        line("folder", self.run.path().display().to_string());
        let rank = run.rank.map(|rank| format!(", rank {rank}")).unwrap_or_default();
        line("method", format!("{}{rank}", run.method));
        if run.params > 0 {
            let (all, trained) = (text::count(run.params), text::count(run.trained_params));
            line("model", format!("{}: {all} parameters, {trained} trained", run.model));
        }
        if run.train_tokens > 0 {
            let (train, val) = (text::count(run.train_tokens), text::count(run.val_tokens));
            line("data", format!("{}: {train} tokens, {val} for validation", run.data));
        }
        line("device", run.device.clone());
        if let Some(started) = summary.started {
            line("started", when(started, zone));
        }
        line("progress", self.progress());
        if let (Some(loss), Some(smooth)) = (summary.loss, summary.smooth.value()) {
            let lr = text::or_absent(summary.lr, text::lr);
            let (loss, smooth) = (text::loss(loss), text::loss(smooth));
            line("loss", format!("{loss}, smoothed {smooth}, learning rate {lr}"));
        }
        line("validation", self.validation());
        line("rank", self.rank());
        if let Some(bytes) = summary.peak_bytes {
            line("memory", format!("at most {}", text::bytes(bytes)));
        }
        let mut notes = Vec::new();
        let mut note = |number: u64, one: &str, many: &str| match number {
            0 => {}
            1 => notes.push(format!("1 {one}")),
            n => notes.push(format!("{} {many}", text::count(n))),
        };
        note(summary.skipped, "update skipped", "updates skipped");
        note(summary.resumes, "resume", "resumes");
        note(summary.rollbacks, "rollback", "rollbacks");
        note(summary.alerts, "alert", "alerts");
        note(summary.damaged, "damaged line in the log", "damaged lines in the log");
        line("notes", notes.join(", "));
        line("last alert", self.alert.clone().unwrap_or_default());
        page
    }

    /// The mean over layers, each as a share of its full rank, as they differ in shape.
    fn rank(&self) -> String {
        let (step, ranks) = &self.ranks;
        if ranks.is_empty() {
            return String::new();
        }
        let mean = |of: fn(&Rank) -> f64| {
            let shares = ranks.iter().map(|rank| of(rank) / rank.full.max(1) as f64);
            100.0 * shares.sum::<f64>() / ranks.len() as f64
        };
        format!(
            "change of the weights at step {}: effective {:.0} %, numerical {:.0} % of full rank, the mean of {} \
             layers",
            text::count(*step),
            mean(|rank| rank.effective),
            mean(|rank| rank.numerical as f64),
            ranks.len()
        )
    }

    fn progress(&self) -> String {
        let summary = &self.state.summary;
        let steps = summary.run.steps;
        let mut said = match steps {
            0 => format!("{} updates", text::count(summary.step)),
            _ => format!(
                "{} of {} updates ({:.0} %)",
                text::count(summary.step),
                text::count(steps),
                100.0 * summary.step as f64 / steps as f64
            ),
        };
        if let Some(rate) = summary.tok_s() {
            let learned = words::learned(&summary.run, summary.step, summary.tokens);
            said.push_str(&format!(
                ", {} {learned}tokens in {} at {} {learned}tokens/s",
                text::count(summary.tokens),
                text::clock(summary.active_s),
                text::rate(rate)
            ));
        }
        if self.state.status == Status::Live && !summary.phase.is_empty() {
            said.push_str(&format!(", now: {}", summary.phase));
        }
        said
    }

    fn validation(&self) -> String {
        let summary = &self.state.summary;
        let mut words = Vec::new();
        let at =
            |eval: EvalPoint| format!("{} at step {}", text::ppl(eval.ppl), text::count(eval.step));
        if let Some(last) = summary.last_eval() {
            words.push(format!("perplexity {}", at(last)));
            if let Some(best) = summary.best_eval().filter(|best| best.step != last.step) {
                words.push(format!("best {}", at(best)));
            }
        }
        if let Some(unigram) = summary.run.unigram_ppl {
            words.push(format!("unigram {}", text::ppl(unigram)));
        }
        words.join(", ")
    }

    fn evals(&self) -> String {
        let evals = &self.state.summary.evals;
        if evals.is_empty() {
            return String::new();
        }
        let best = self.state.summary.best_eval().map(|best| best.step);
        let mut table = Table::new(&[">step", ">loss", ">perplexity", ""]);
        let hidden = evals.len().saturating_sub(MAX_EVALS);
        for (position, eval) in evals.iter().enumerate() {
            if position == 1 && hidden > 0 {
                table.row(&["…".into()]);
            }
            if position >= 1 && position <= hidden {
                continue;
            }
            table.row(&[
                text::count(eval.step),
                text::loss(eval.loss),
                text::ppl(eval.ppl),
                if best == Some(eval.step) { "best".into() } else { String::new() },
            ]);
        }
        format!("\nevaluations\n{}", table.render(2))
    }

    fn settings(&self) -> String {
        let Some(config) = self.config.as_deref().and_then(|text| text.parse::<toml::Table>().ok())
        else {
            return String::new();
        };
        if config.is_empty() {
            return String::new();
        }
        let mut page = String::from("\nconfiguration (run.toml)\n");
        let setting = |(key, value): (&String, &toml::Value)| match value {
            toml::Value::String(text) => format!("{key} {text}"),
            other => format!("{key} {other}"),
        };
        let (tables, bare): (Vec<_>, Vec<_>) =
            config.iter().partition(|(_, value)| value.is_table());
        page.push_str(&list(&bare.into_iter().map(setting).collect::<Vec<_>>(), 2));
        // A file of another version shows whole.
        let known =
            self.config.as_deref().map(|text| RunConfig::from_toml(text, &self.run.config()));
        let known = known.and_then(Result::ok);
        for (name, table) in tables {
            if known.as_ref().is_some_and(|config| !config.uses_table(name)) {
                continue;
            }
            page.push_str(&format!("  [{name}]\n"));
            let settings = table.as_table().into_iter().flatten().map(setting).collect::<Vec<_>>();
            page.push_str(&list(&settings, 4));
        }
        page
    }
}

/// A sample as a short quoted block: the prompt, a bar, and what the model wrote.
pub(super) fn quoted(sample: &Sample, width: usize) -> Vec<String> {
    const MAX_LINES: usize = 8;
    let whole = format!("{}{}", sample.prompt, sample.text);
    text::wrap(&whole, width, MAX_LINES)
        .into_iter()
        .map(|line| format!("│ {line}").trim_end().to_string())
        .collect()
}

/// Short entries side by side, separated by dots, in lines of the usual width.
fn list(entries: &[String], indent: usize) -> String {
    let mut page = String::new();
    let mut line = String::new();
    for entry in entries {
        let entry = text::printable(entry).replace('\n', " ");
        if !line.is_empty() && line.chars().count() + entry.chars().count() + 3 > WIDTH {
            page.push_str(&format!("{:indent$}{line}\n", ""));
            line.clear();
        }
        if !line.is_empty() {
            line.push_str(" · ");
        }
        line.push_str(&entry);
    }
    if !line.is_empty() {
        page.push_str(&format!("{:indent$}{line}\n", ""));
    }
    page
}

/// The values of an object, those of objects inside it with their path.
fn flatten(path: &str, value: &Value, facts: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, facts);
            }
        }
        Value::Null => {}
        value => facts.push(format!("{path} {}", plain(value))),
    }
}

/// A value in few characters: hashes by their beginning.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if is_hash(text) => format!("{}…", &text[..HASH_WIDTH]),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn when(ts: i64, zone: &TimeZone) -> String {
    Timestamp::from_millisecond(ts).map_or_else(
        |_| text::ABSENT.into(), // outside the years that have a name
        |time| time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::test_runs;
    use super::*;

    fn details(run: &RunDir) -> Details {
        Details::read(run.clone()).unwrap()
    }

    #[test]
    fn a_finished_run_is_one_page() {
        let folder = tempfile::tempdir().unwrap();
        let run = test_runs::finished(folder.path(), "20261121-180011-demo");
        let page = details(&run).text(&TimeZone::UTC);
        let page = page.replace(&folder.path().display().to_string(), "runs");
        assert_eq!(
            page,
            r"run         20261121-180011-demo
status      finished
folder      runs/20261121-180011-demo
method      switchlora, rank 64
model       demo: 3,212,288 parameters, 1,064,960 trained
data        five novels by Jane Austen: 1,002,003 tokens, 120,034 for
            validation
device      CPU, 2 threads
started     2026-11-21 18:00:11
progress    30 of 30 updates (100 %), 61,440 tokens in 1:00 at 1,024 tokens/s
loss        4.8500, smoothed 4.9097, learning rate 3.33e-5
validation  perplexity 81.45 at step 30, unigram 431.20
memory      at most 512.0 MiB

evaluations
  step    loss  perplexity
     0  8.3000    4,023.87
    10  5.4000      221.41
    20  4.9000      134.29
    30  4.4000       81.45  best

last sample, step 30
  │ It is a truth universally acknowledged,
  │ that a single man

checkpoints
  step     size  folder
    20  2.0 KiB  checkpoints/step-00000020

configuration (run.toml)
  [model]
    name demo
  [switchlora]
    interval0 10
  [train]
    iters 30 · method switchlora

facts
  data blake3:ab12
  host
    cpus 2
"
        );
    }

    #[test]
    fn a_comparison_is_no_run_and_the_remedy_says_what_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("compare-20261121-180011-full-lora");
        for member in ["full", "lora"] {
            test_runs::finished(&dir.join("members"), member);
        }
        fs::write(dir.join("compare.toml"), "").unwrap();
        let show = |name: &str| show(folder.path(), name, true, &mut std::io::sink());
        for name in ["full-lora", "compare-20261121-180011-full-lora", dir.to_str().unwrap()] {
            let error = show(name).unwrap_err();
            let what =
                "compare-20261121-180011-full-lora is a comparison of 2 runs, and show is for one";
            assert_eq!((error.to_string().as_str(), error.exit_code()), (what, 2));
            let remedy = error.remedy();
            let path = dir.display();
            for word in [
                format!("report {path}"),
                format!("watch {path}"),
                format!("show {path}/members/full"),
            ] {
                assert!(remedy.contains(&word), "{remedy}");
            }
        }
        for name in ["full", "lora", "latest"] {
            show(name).unwrap();
        }
    }

    #[test]
    fn a_run_without_events_shows_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::at(folder.path().join("20261121-180011-demo"));
        std::fs::create_dir(run.path()).unwrap();
        std::fs::write(run.config(), "").unwrap();
        let page = details(&run).text(&TimeZone::UTC);
        assert!(page.contains("status      crashed\n"), "{page}");
        assert!(page.contains("progress    0 updates\n"), "{page}");
    }

    #[test]
    fn json_holds_the_same() {
        let folder = tempfile::tempdir().unwrap();
        test_runs::finished(folder.path(), "20261121-180011-demo");
        let mut stdout = Vec::new();
        show(folder.path(), "demo", true, &mut stdout).unwrap();
        let record: Value = serde_json::from_slice(&stdout).unwrap();
        assert_eq!(record["evals"].as_array().unwrap().len(), 4);
        assert_eq!(record["run"]["seed"], 42);
        assert_eq!(record["sample"]["step"], 30);
        assert_eq!(record["checkpoints"][0]["bytes"], 2048);
        assert_eq!(record["config"]["train"]["iters"], 30);
        assert_eq!(record["facts"]["host"]["cpus"], 2);
    }

    #[test]
    fn long_lists_of_evaluations_lose_their_middle() {
        let folder = tempfile::tempdir().unwrap();
        let run = test_runs::finished(folder.path(), "20261121-180011-demo");
        let mut details = details(&run);
        details.state.summary.evals = (0..100)
            .map(|step| EvalPoint { step, loss: 5.0 - step as f64 / 50.0, ppl: 1.0 })
            .collect();
        let lines: Vec<String> = details.evals().lines().map(str::to_string).collect();
        assert_eq!(lines.len(), 3 + 1 + MAX_EVALS, "{lines:#?}");
        assert!(lines[3].contains(" 0  5.0000"), "{lines:#?}");
        assert!(lines[4].contains('…') && lines[5].contains("89"), "{lines:#?}");
        assert!(lines[15].contains("best"), "{lines:#?}");
    }
}
