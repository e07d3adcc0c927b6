//! The messages of a run: its log, and in the same words what its other events say.

use super::State;
use crate::formats::pattern::Pattern;
use crate::report::text;
use crate::runlog::Level;
use crate::series::Moment;
use crate::tui::model::{MarkerKind, RunModel};
use crate::tui::views::frame::{bytes, thousands, value};

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When.
    pub at: Moment,
    /// How much it matters.
    pub level: Level,
    /// What it comes from.
    pub source: &'static str,
    /// What it says, in one line.
    pub text: String,
}

/// All messages of a run, oldest first.
pub fn all(run: &RunModel) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |at: Moment, level, source, words: &str| {
        let text = text::printable(words).replace('\n', " ");
        entries.push(Entry { at, level, source, text });
    };
    for log in &run.logs {
        let is_stray = log.what.msg.starts_with("(stderr)");
        add(log.at, log.what.level, if is_stray { "stderr" } else { "log" }, &log.what.msg);
    }
    for alert in &run.alerts {
        let remedy = if alert.what.remedy.is_empty() {
            String::new()
        } else {
            format!(" · {}", alert.what.remedy)
        };
        add(alert.at, alert.what.level, "alert", &format!("{}{remedy}", alert.what.what));
    }
    for command in &run.commands {
        let level = if command.what.ok { Level::Info } else { Level::Warn };
        let done = if command.what.ok { "done" } else { "refused" };
        let why = if command.what.what.is_empty() {
            String::new()
        } else {
            format!(": {}", command.what.what)
        };
        add(command.at, level, "control", &format!("{} · {done}{why}", command.what.cmd));
    }
    for checkpoint in &run.checkpoints {
        let best = if checkpoint.what.is_best { " · best so far" } else { "" };
        let words = format!(
            "step {} saved in {:.0} ms · {}{best}",
            thousands(checkpoint.at.step),
            checkpoint.what.ms,
            bytes(checkpoint.what.bytes)
        );
        add(checkpoint.at, Level::Info, "ckpt", &words);
    }
    evaluations(run, &mut add);
    for marker in &run.markers {
        let (source, level) = match marker.kind {
            MarkerKind::Phase => ("phase", Level::Info),
            MarkerKind::Skip => ("skip", Level::Warn),
            MarkerKind::Merge => ("merge", Level::Info),
            MarkerKind::Reset => ("reset", Level::Info),
            MarkerKind::Pause => ("run", Level::Info),
            MarkerKind::Alert
            | MarkerKind::Checkpoint
            | MarkerKind::Command
            | MarkerKind::Limiter
            | MarkerKind::Subspace => continue,
        };
        add(
            marker.at,
            level,
            source,
            &format!("step {} · {}", thousands(marker.at.step), marker.text),
        );
    }
    entries.sort_by_key(|entry| (entry.at.ts_ms, entry.at.step));
    entries
}

fn evaluations(run: &RunModel, add: &mut impl FnMut(Moment, Level, &'static str, &str)) {
    let columns = (run.evals.column("loss"), run.evals.column("ppl"));
    let (Some(losses), Some(ppls)) = columns else { return };
    for (row, (loss, ppl)) in losses.values().iter().zip(ppls.values()).enumerate() {
        let Some(at) = run.evals.clock.moment(row) else { break };
        let level = if loss.is_finite() { Level::Info } else { Level::Warn };
        let (loss, ppl) = (value(f64::from(*loss)), value(f64::from(*ppl)));
        add(at, level, "eval", &format!("step {} · loss {loss} · ppl {ppl}", thousands(at.step)));
    }
}

/// The messages that level and filter let through.
pub fn shown(run: &RunModel, state: &State) -> Vec<Entry> {
    let mut entries = all(run);
    let wanted = Wanted::of(state);
    entries.retain(|entry| wanted.passes(entry));
    entries
}

/// Which messages are shown. The filter is words that must all stand in them, in upper or lower case; `a|b` is either,
/// `!a` that it does not. Between two slashes it is a regular expression; until it can be read, all are shown.
pub struct Wanted {
    level: Option<Level>,
    words: Vec<String>,
    pattern: Option<Pattern>,
    /// What is wrong with the expression.
    pub wrong: Option<String>,
}

impl Wanted {
    /// What a user chose.
    pub fn of(state: &State) -> Self {
        let filter = state.filter.trim();
        let mut wanted = Self { level: state.level, words: Vec::new(), pattern: None, wrong: None };
        if let Some(text) = filter.strip_prefix('/') {
            match text.strip_suffix('/').map(Pattern::parse) {
                None => wanted.wrong = Some("a regular expression ends with /".into()),
                Some(Ok(pattern)) => wanted.pattern = Some(pattern),
                Some(Err(what)) => wanted.wrong = Some(what),
            }
        } else {
            wanted.words = filter.to_lowercase().split_whitespace().map(str::to_owned).collect();
        }
        wanted
    }

    /// Whether a message is one of them.
    pub fn passes(&self, entry: &Entry) -> bool {
        let is_serious = match self.level {
            None | Some(Level::Info) => true,
            Some(Level::Warn) => entry.level != Level::Info,
            Some(Level::Error) => entry.level == Level::Error,
        };
        if !is_serious {
            return false;
        }
        let line = format!("{} {} {}", level_name(entry.level), entry.source, entry.text);
        if let Some(pattern) = &self.pattern {
            return pattern.matches(&line);
        }
        let line = line.to_lowercase();
        self.words.iter().all(|word| match word.strip_prefix('!') {
            Some("") => true,
            Some(word) => !word.split('|').any(|word| line.contains(word)),
            None => word.split('|').any(|word| line.contains(word)),
        })
    }
}

/// A level in at most five letters.
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARN",
        Level::Info => "INFO",
    }
}

/// The time of day, UTC: `13:02:11.402`.
pub fn clock(ts_ms: i64) -> String {
    let of_day = ts_ms.rem_euclid(86_400_000);
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", of_day / 1000 % 60, of_day % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(level: Level, source: &'static str, text: &str) -> Entry {
        Entry { at: Moment::default(), level, source, text: text.into() }
    }

    #[test]
    fn level_and_words_let_messages_through() {
        let entries = [
            entry(Level::Info, "ckpt", "step 4 000 saved"),
            entry(Level::Warn, "grad", "norm 14.2: Update skipped"),
            entry(Level::Error, "run", "out of memory"),
        ];
        let passing = |level: Option<Level>, filter: &str| {
            let state = State { level, filter: filter.into(), ..State::default() };
            let wanted = Wanted::of(&state);
            entries.iter().map(|entry| wanted.passes(entry)).collect::<Vec<_>>()
        };
        assert_eq!(passing(None, ""), [true, true, true]);
        assert_eq!(passing(Some(Level::Warn), ""), [false, true, true]);
        assert_eq!(passing(Some(Level::Error), ""), [false, false, true]);
        assert_eq!(passing(None, "skipped|ckpt"), [true, true, false]);
        assert_eq!(passing(None, "/skipped$|^info +ckpt/"), [true, true, false]);
        assert_eq!(passing(None, "/norm [0-9.]+:/"), [false, true, false]);
        assert_eq!(passing(None, "/norm ("), [true; 3], "not closed yet");
        assert_eq!(passing(None, "/norm (/"), [true; 3], "cannot be read");
        assert_eq!(passing(None, "update norm"), [false, true, false]);
        assert_eq!(passing(None, "!memory !ckpt"), [false, true, false]);
        assert_eq!(passing(None, "warn"), [false, true, false]);
    }

    #[test]
    fn all_that_a_run_tells_is_in_the_order_of_time() {
        let run = crate::tui::fixture::run_of("relora", 1, 320);
        let entries = all(&run);
        assert!(entries.is_sorted_by_key(|entry| entry.at.ts_ms));
        for source in ["log", "alert", "control", "ckpt", "eval", "phase", "skip", "merge", "reset"]
        {
            assert!(entries.iter().any(|entry| entry.source == source), "{source}");
        }
        assert_eq!(clock(crate::tui::fixture::START_MS), "13:02:11.000");
        assert_eq!(clock(-1), "23:59:59.999");
    }
}
