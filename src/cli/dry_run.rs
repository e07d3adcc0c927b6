//! `fullrank train --dry-run`: the resolved configuration, the data and what the method would need; nothing is trained
//! and no run is made.

// A page is put together from formatted lines; `write!` to a string would add an error to ignore.
#![allow(clippy::format_push_string)]

use std::io::Write;

use super::estimate;
use super::text;
use crate::config::RunConfig;
use crate::data::{DataFacts, RowFacts, SplitFacts};
use crate::error::Result;
use crate::run::session::{open_device, with_threads};
use crate::run::setup;

/// Prepares a run as `train` would, and says what it came to.
///
/// Errors: those of starting the run.
pub fn dry_run(config: RunConfig, stdout: &mut dyn Write) -> Result<()> {
    let threads = config.train.threads;
    let page = with_threads(threads, move || {
        let prepared = setup::prepare(config)?;
        let on_gpu = match prepared.config.train.device.as_str() {
            "cpu" => false,
            "auto" => open_device(&prepared.config)?.gpu().is_some(),
            _ => true,
        };
        let mut page = format!("{}\n", prepared.config.to_toml_in_use()?.trim_end());
        page += &format!("\n{}\n", data(&prepared.dataset.facts, prepared.dataset.seq_len));
        for note in prepared.unusual_start().iter().chain(&prepared.dataset.notes) {
            page += &format!("note   {note}\n");
        }
        page += &format!("\n{}", estimate::of_run(&prepared.config, &prepared.shape, on_gpu)?);
        Ok(page)
    })?;
    text::print(stdout, &page)
}

fn data(facts: &DataFacts, seq_len: usize) -> String {
    let splits = [("train", &facts.train), ("valid", &facts.valid)];
    let lines = splits.map(|(name, split)| format!("{name}  {}", describe(split, seq_len)));
    format!("data   {}\n{}", facts.source, lines.join("\n"))
}

fn describe(split: &SplitFacts, seq_len: usize) -> String {
    let blocks = format!(
        "{} tokens in {} blocks of {seq_len}",
        text::count(split.tokens as u64),
        text::count(split.blocks as u64)
    );
    match &split.rows {
        None => blocks,
        Some(rows) => format!("{}, {blocks}, {}", of_rows(rows), counted(split, rows)),
    }
}

fn of_rows(rows: &RowFacts) -> String {
    let plural = if rows.rows == 1 { "" } else { "s" };
    let mut out = format!("{} row{plural}", text::count(rows.rows));
    let parts = [
        (rows.bad_rows, "in the files cannot be used"),
        (rows.dropped, "with nothing to learn are left out"),
        (rows.truncated, "are cut"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> =
        parts.map(|(count, what)| format!("{} {what}", text::count(count))).collect();
    if !parts.is_empty() {
        out += &format!(" ({})", parts.join(", "));
    }
    out + &format!(", the longest of {} tokens", text::count(rows.longest))
}

/// The share of the targets that count.
fn counted(split: &SplitFacts, rows: &RowFacts) -> String {
    let targets = split.tokens as u64 - rows.rows;
    let share = 100.0 * rows.counted_tokens as f64 / targets.max(1) as f64;
    format!(
        "{} of {} targets count ({share:.1} %)",
        text::count(rows.counted_tokens),
        text::count(targets)
    )
}
