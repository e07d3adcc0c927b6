//! A table as text for the terminal, as Markdown, CSV and JSON.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::stats::Stat;
use super::table::{Row, Table};
use super::text::{self, ABSENT, bytes, or_absent};
use crate::error::{Error, Result};

/// Longest value of a setting in a table, in characters.
const MAX_VALUE: usize = 40;

/// One column: heading, whether its numbers stand flush right, and its cell.
type Column = (&'static str, bool, fn(&Row) -> String);

fn stat(number: Option<Stat>, look: impl Fn(f64) -> String) -> String {
    or_absent(number, |stat| stat.text(look))
}

/// A difference with its sign; its deviation has none.
fn signed(number: Option<Stat>) -> String {
    or_absent(number, |stat| match stat.std {
        Some(std) => format!("{:+.4} ± {std:.4}", stat.mean),
        None => format!("{:+.4}", stat.mean),
    })
}

/// A large number in three or four digits: `1.23 M`.
pub(super) fn large(number: f64) -> String {
    for (unit, size) in [("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if number.abs() >= size {
            return format!("{:.2} {unit}", number / size);
        }
    }
    format!("{number:.0}")
}

fn tokens_to_target(row: &Row) -> String {
    let Some(stat) = row.tokens_to_target else { return ABSENT.into() };
    let text = stat.text(large);
    if stat.n < row.seeds.len() {
        format!("{text} ({} of {})", stat.n, row.seeds.len())
    } else {
        text
    }
}

const COLUMNS: [Column; 15] = [
    ("run", false, |row| row.name.clone()),
    ("status", false, |row| row.status.clone()),
    ("step", true, |row| text::count(row.step)),
    ("val loss", true, |row| stat(row.loss, text::loss)),
    ("ppl", true, |row| stat(row.ppl, text::ppl)),
    ("Δ loss", true, |row| signed(row.delta)),
    ("Δ %", true, |row| or_absent(row.delta_percent, |stat| format!("{:+.1}", stat.mean))),
    ("best loss", true, |row| stat(row.best_loss, text::loss)),
    ("best ppl", true, |row| stat(row.best_ppl, text::ppl)),
    ("tokens to target", true, tokens_to_target),
    ("tokens/s", true, |row| or_absent(row.tok_s, |stat| text::rate(stat.mean))),
    ("peak memory", true, |row| or_absent(row.peak_bytes, bytes)),
    ("predicted", true, |row| or_absent(row.predicted_bytes, bytes)),
    ("trained", true, |row| or_absent(row.trained_params, |n| large(n as f64))),
    ("would send", true, |row| or_absent(row.exchange_bytes, bytes)),
];

/// Columns that the terminal has room for.
const NARROW: [&str; 10] = [
    "run",
    "status",
    "val loss",
    "ppl",
    "Δ loss",
    "Δ %",
    "tokens to target",
    "tokens/s",
    "peak memory",
    "trained",
];

/// Whether a setting decides which tokens a validation loss is of.
fn decides_tokens(key: &str) -> bool {
    let is_of_data = key.starts_with("data.") && !["data.data_seed", "data.strict"].contains(&key);
    is_of_data || key.contains("tokenizer") || key.ends_with(".eval_batches")
}

impl Table {
    /// For the terminal: a row for each group, and the reasons of those that did not finish.
    pub fn text(&self) -> String {
        let columns: Vec<&Column> =
            COLUMNS.iter().filter(|(name, ..)| NARROW.contains(name)).collect();
        let headings: Vec<String> = columns
            .iter()
            .map(|(name, is_right, _)| if *is_right { format!(">{name}") } else { (*name).into() })
            .collect();
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        let mut table = text::Table::new(&headings);
        for row in &self.groups {
            let cells: Vec<String> = columns.iter().map(|(_, _, cell)| cell(row)).collect();
            table.row(&cells);
        }
        let mut page = table.render(0);
        let _ = writeln!(page, "{}", text::printable(&self.legend()));
        for row in self.groups.iter().filter(|row| !row.cause.is_empty()) {
            let _ = writeln!(page, "{}: {}", row.name, text::printable(&row.cause));
        }
        page
    }

    /// What the columns mean, in a line, and whether losses are of other tokens.
    pub(super) fn legend(&self) -> String {
        let target = match self.target_loss {
            Some(loss) => format!("target {}", text::loss(loss)),
            None => "no target".into(),
        };
        let mut legend = format!("baseline {}, {target}", self.baseline);
        let keys = self.differences.iter().map(|difference| difference.key.as_str());
        let deciding: Vec<&str> = keys.filter(|key| decides_tokens(key)).collect();
        if !deciding.is_empty() {
            let verb = if deciding.len() == 1 { "differs" } else { "differ" };
            let _ = write!(
                legend,
                "; losses are not of the same tokens: {} {verb}",
                deciding.join(", ")
            );
        }
        legend
    }

    /// As Markdown: groups, single runs where a group has several, settings that differ.
    pub fn markdown(&self) -> String {
        let mut page = format!("# {}\n\n{}\n\n", escaped(&self.title), escaped(&self.legend()));
        page.push_str(&markdown_rows(&self.groups));
        if self.members.len() > self.groups.len() {
            page.push_str("\n## Single runs\n\n");
            page.push_str(&markdown_rows(&self.members));
        }
        let failed = || self.members.iter().filter(|row| !row.cause.is_empty());
        if failed().next().is_some() {
            page.push_str("\n## Not finished\n\n");
            for row in failed() {
                let _ = writeln!(page, "- {}: {}", escaped(&row.name), escaped(&row.cause));
            }
        }
        if !self.differences.is_empty() {
            page.push_str("\n## Settings that differ\n\n| setting |");
            for row in &self.members {
                let _ = write!(page, " {} |", escaped(&row.name));
            }
            page.push_str("\n|---|");
            page.push_str(&"---|".repeat(self.members.len()));
            page.push('\n');
            for difference in &self.differences {
                let _ = write!(page, "| {} |", difference.key);
                for value in &difference.values {
                    let _ = write!(page, " {} |", escaped(&shown(value.as_deref())));
                }
                page.push('\n');
            }
        }
        page.push_str(
            "\nLosses are on the validation text, in nats a token. Δ: against the baseline of the same seed. \
             ±: standard deviation over seeds. Tokens/s: median of the updates, the first three left out. \
             \"Would send\": what each of several workers would exchange for an update; nothing is sent here.\n",
        );
        page
    }

    /// As CSV: a row for each run, plain numbers, empty where there is none.
    pub fn csv(&self) -> String {
        let mut page = String::from(
            "run,group_size,method,rank,seed,status,step,tokens,active_s,val_loss,val_ppl,best_loss,\
             best_ppl,best_step,delta_loss,delta_percent,tokens_to_target,tokens_per_s,peak_bytes,\
             predicted_bytes,trained_params,exchange_bytes\n",
        );
        let mean = |number: Option<Stat>| number.map_or_else(String::new, |s| s.mean.to_string());
        let whole = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
        for row in &self.members {
            let seed = row.seeds.first().copied();
            let cells = [
                quoted(&row.name),
                row.seeds.len().to_string(),
                quoted(&row.method),
                whole(row.rank),
                whole(seed),
                quoted(&row.status),
                row.step.to_string(),
                row.tokens.to_string(),
                mean(row.active_s),
                mean(row.loss),
                mean(row.ppl),
                mean(row.best_loss),
                mean(row.best_ppl),
                whole(row.best_step),
                mean(row.delta),
                mean(row.delta_percent),
                mean(row.tokens_to_target),
                mean(row.tok_s),
                whole(row.peak_bytes),
                whole(row.predicted_bytes),
                whole(row.trained_params),
                whole(row.exchange_bytes),
            ];
            page.push_str(&cells.join(","));
            page.push('\n');
        }
        page
    }

    /// Writes `table.md`, `table.csv` and `table.json` into a folder and gives their paths.
    ///
    /// Errors: `Error::Io`.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let json = serde_json::to_string_pretty(self).map_err(|error| {
            Error::file(folder, format!("the table is no JSON: {error}"), "report this")
        })?;
        let files =
            [("table.md", self.markdown()), ("table.csv", self.csv()), ("table.json", json + "\n")];
        let mut paths = Vec::new();
        for (name, content) in files {
            let path = folder.join(name);
            std::fs::write(&path, content).map_err(Error::io("write", &path))?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Headings and cells of the whole table, for other forms.
    pub(super) fn cells(
        rows: &[Row],
    ) -> (Vec<(&'static str, bool)>, impl Iterator<Item = Vec<String>>) {
        let headings = COLUMNS.iter().map(|(name, is_right, _)| (*name, *is_right)).collect();
        (headings, rows.iter().map(|row| COLUMNS.iter().map(|(_, _, cell)| cell(row)).collect()))
    }
}

/// A setting's value in a table.
pub(super) fn shown(value: Option<&str>) -> String {
    let Some(value) = value else { return ABSENT.into() };
    if value.chars().count() <= MAX_VALUE {
        return value.to_owned();
    }
    // The end of a path tells more than its beginning.
    let skipped = value.chars().count() - MAX_VALUE + 1;
    format!("…{}", value.chars().skip(skipped).collect::<String>())
}

fn markdown_rows(rows: &[Row]) -> String {
    let (headings, cells) = Table::cells(rows);
    let mut page = String::from("|");
    for (name, _) in &headings {
        let _ = write!(page, " {name} |");
    }
    page.push_str("\n|");
    for (_, is_right) in &headings {
        page.push_str(if *is_right { "---:|" } else { "---|" });
    }
    page.push('\n');
    for row in cells {
        page.push('|');
        for cell in row {
            let _ = write!(page, " {} |", escaped(&cell));
        }
        page.push('\n');
    }
    page
}

fn escaped(text: &str) -> String {
    text::printable(text).replace('\n', " ").replace('|', "\\|")
}

fn quoted(text: &str) -> String {
    let text = text::printable(text).replace('\n', " ");
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::table::Difference;
    use super::*;

    fn row(name: &str, loss: f64, delta: f64) -> Row {
        let one = |value: f64| Stat::of(&[value]);
        Row {
            name: name.into(),
            method: name.into(),
            rank: Some(8),
            seeds: vec![0],
            status: "finished".into(),
            cause: String::new(),
            step: 600,
            tokens: 1_228_800,
            active_s: one(10.0),
            loss: one(loss),
            ppl: one(loss.exp()),
            best_loss: one(loss),
            best_ppl: one(loss.exp()),
            best_step: Some(600),
            delta: one(delta),
            delta_percent: one(10.0 * delta),
            tokens_to_target: None,
            tok_s: one(1234.4),
            peak_bytes: Some(3 << 20),
            predicted_bytes: Some(3 << 20),
            trained_params: Some(1_064_960),
            exchange_bytes: Some(4_259_840),
        }
    }

    fn table() -> Table {
        let mut failed = row("lora", f64::NAN, f64::NAN);
        failed.status = "failed".into();
        failed.cause = "rank 99 | too high".into();
        let rows = vec![row("full", 3.0, 0.0), failed];
        let values = vec![Some("full".into()), None];
        Table {
            title: "compare-x".into(),
            baseline: "full".into(),
            target_loss: Some(3.0),
            groups: rows.clone(),
            members: rows,
            differences: vec![Difference { key: "train.method".into(), values }],
        }
    }

    #[test]
    fn the_terminal_gets_a_row_for_each_group_and_the_causes() {
        assert_eq!(
            table().text(),
            "\
run   status    val loss    ppl   Δ loss   Δ %  tokens to target  tokens/s  peak memory  trained
full  finished    3.0000  20.09  +0.0000  +0.0                 -     1,234      3.0 MiB   1.06 M
lora  failed           -      -        -     -                 -     1,234      3.0 MiB   1.06 M
baseline full, target 3.0000
lora: rank 99 | too high
"
        );
    }

    #[test]
    fn losses_of_other_tokens_are_called_so() {
        let differing = |key: &str| {
            let mut table = table();
            let values = vec![Some("a".into()), Some("b".into())];
            table.differences.push(Difference { key: key.into(), values });
            table.legend()
        };
        let expected =
            "baseline full, target 3.0000; losses are not of the same tokens: data.data differs";
        assert_eq!(differing("data.data"), expected);
        assert_eq!(differing("data.data_seed"), table().legend());
    }

    #[test]
    fn markdown_keeps_its_columns_whatever_the_cells_hold() {
        let page = table().markdown();
        assert!(page.contains("- lora: rank 99 \\| too high\n"), "{page}");
        assert!(page.contains("| train.method | full | - |\n"), "{page}");
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| full")).collect();
        assert_eq!(bars(rows[0]), COLUMNS.len() + 1);
    }

    #[test]
    fn csv_has_plain_numbers_and_as_many_cells_as_headings() {
        let page = table().csv();
        let lines: Vec<Vec<&str>> = page.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        let at = |name: &str| lines[0].iter().position(|heading| *heading == name).unwrap();
        assert_eq!((lines[1][at("val_loss")], lines[2][at("val_loss")]), ("3", ""));
        assert_eq!(lines[1][at("peak_bytes")], "3145728");
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
    }

    #[test]
    fn json_is_written_beside_the_others() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(table().write(folder.path()).unwrap().len(), 3);
        let text = std::fs::read(folder.path().join("table.json")).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["groups"][0]["loss"]["mean"], 3.0);
        assert_eq!(value["groups"][1]["loss"], serde_json::Value::Null);
    }

    #[test]
    fn a_difference_has_a_sign_and_its_deviation_has_none() {
        assert_eq!(signed(Stat::of(&[0.25, 0.5])), "+0.3750 ± 0.1768");
        assert_eq!(signed(Stat::of(&[-0.5])), "-0.5000");
        assert_eq!(signed(None), "-");
    }

    #[test]
    fn long_values_keep_their_end() {
        assert_eq!(shown(None), "-");
        let long = format!("/{}/text.txt", "x".repeat(60));
        assert!(shown(Some(&long)).ends_with("/text.txt"));
        assert_eq!(shown(Some(&long)).chars().count(), MAX_VALUE);
    }
}
