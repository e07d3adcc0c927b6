//! The first and the last words of a run in plain text: what will be done, and what came of it.

use super::text::{self, clock, count};
use crate::run::commands::Press;
use crate::runlog::status::LastWord;
use crate::runlog::{EndStatus, Run, RunDir, Status, Summary};

/// The block that opens the output of a run, with an empty line at its end.
pub(super) fn first(run: &Run, dir: &RunDir) -> Vec<String> {
    let rank = run.rank.map(|rank| format!(", rank {rank}")).unwrap_or_default();
    let limit = run.max_s.map(|max_s| format!(", at most {}", clock(max_s))).unwrap_or_default();
    let (params, trained) = (count(run.params), count(run.trained_params));
    let (train, val) = (count(run.train_tokens), count(run.val_tokens));
    let (steps, tokens) = (count(run.steps), count(run.tokens_per_step));
    let lines = [
        ("method", format!("{}{rank}", run.method)),
        ("model", format!("{}: {params} parameters, {trained} trained", run.model)),
        ("data", format!("{}: {train} tokens, {val} for validation", run.data)),
        ("plan", format!("{steps} updates of {tokens} tokens{limit}, seed {}", run.seed)),
        ("device", run.device.clone()),
        ("folder", dir.path().display().to_string()),
        ("", String::new()),
    ];
    lines
        .map(|(key, words)| text::printable(&format!("{key:<8}{words}")).trim_end().to_string())
        .into()
}

/// The block that ends the output of a run, with an empty line before it. `switched` counts the
/// vectors that `SwitchLoRA` exchanged; `next` are the commands to propose, or none for the usual ones.
pub(super) fn last(
    summary: &Summary,
    dir: &RunDir,
    switched: u64,
    status: EndStatus,
    what: &str,
    next: &[String],
) -> Vec<String> {
    let word = Status::of(false, LastWord::Ended(status)).word();
    let why = if what.is_empty() { String::new() } else { format!(": {}", text::printable(what)) };
    let head = format!("{word} after {} updates{why}", count(summary.step));
    let mut lines = vec![String::new(), head];
    let mut line = |key: &str, words: String| lines.push(format!("  {key:<23}{words}"));
    if let Some(rate) = summary.tok_s() {
        let (tokens, time) = (count(summary.tokens), clock(summary.active_s));
        let (rate, run) = (text::rate(rate), &summary.run);
        let words = match learned(run, summary.step, summary.tokens) {
            "" => format!("{tokens} tokens in {time}, {rate} tokens/s"),
            learned => {
                let read = count(summary.step * run.tokens_per_step);
                format!(
                    "{tokens} {learned}tokens of {read} read in {time}, {rate} {learned}tokens/s"
                )
            }
        };
        line("trained", words);
    }
    if let Some(last) = summary.last_eval() {
        let best = summary.best_eval().filter(|best| best.step != last.step);
        let best =
            best.map(|best| format!(", best {} at step {}", text::ppl(best.ppl), count(best.step)));
        line("validation perplexity", text::ppl(last.ppl) + &best.unwrap_or_default());
    }
    if let Some(unigram) = summary.run.unigram_ppl {
        line("unigram perplexity", text::ppl(unigram));
    }
    if switched > 0 {
        line("vectors switched", count(switched));
    }
    if summary.skipped > 0 {
        line("updates skipped", count(summary.skipped));
    }
    line("run folder", dir.path().display().to_string());
    let name = dir.as_argument();
    let usual = match status {
        // What made it diverge would do so again.
        EndStatus::Finished | EndStatus::Diverged => vec![format!("fullrank show {name}")],
        _ => vec![format!("fullrank resume {name}"), format!("fullrank show {name}")],
    };
    let commands = if next.is_empty() { &usual } else { next };
    for (position, command) in commands.iter().enumerate() {
        line(if position == 0 { "next" } else { "" }, command.clone());
    }
    lines
}

/// The answer to a signal; `resumption` says what is left after the second.
pub(super) fn on_signal(press: Press, resumption: impl Fn() -> String) -> String {
    match press {
        Press::First => {
            "stopping after this update; Ctrl-C again ends now, without a checkpoint".into()
        }
        Press::Second => format!("ended without a checkpoint: {}", resumption()),
    }
}

/// Where a run goes on that ends now.
pub(super) fn resumption(dir: &RunDir) -> String {
    let name = dir.as_argument();
    match dir.list_checkpoints().unwrap_or_default().last() {
        Some(newest) => {
            format!("`fullrank resume {name}` goes on from step {}", count(newest.step))
        }
        None => format!("the run has none yet, `fullrank resume {name}` begins it again"),
    }
}

/// What stands before `tokens` where only a part of what is read is learned from, as in chats.
pub(super) fn learned(run: &Run, step: u64, tokens: u64) -> &'static str {
    if tokens < step.saturating_mul(run.tokens_per_step) { "learned " } else { "" }
}
