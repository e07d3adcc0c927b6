//! The numbers of now: one line each, in a fixed order. What a run does not tell has no line.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::report::text;
use crate::series::Column;
use crate::tui::app::App;
use crate::tui::model::{Metric, RunModel};
use crate::tui::plot::bars::bar;
use crate::tui::plot::pen::{Pen, width};
use crate::tui::plot::spark::growing;
use crate::tui::theme::Theme;
use crate::tui::views::curve::value_words;
use crate::tui::views::frame::{bytes, duration, short, thousands, value};

/// Cells of the names.
const NAMES: u16 = 9;
/// Updates in one sign of the little chart of the speed.
const SPARKED: usize = 64;
/// Rows back to which the smoothed loss is compared for its direction.
const BACK: usize = 50;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    name: &'static str,
    /// Parts of the value; those that do not fit are left out from the end, the first one never.
    parts: Vec<(String, Style)>,
    /// Lines with the largest number go first where the room is short.
    order: u8,
}

/// All lines of a run.
pub fn rows(app: &App, run: &RunModel) -> Vec<Row> {
    let mut rows = Rows { theme: &app.theme, rows: Vec::new() };
    rows.losses(app, run);
    rows.update(run);
    rows.method(run);
    rows.machine(run);
    rows.times(run);
    rows.rows
}

/// Draws the lines that fit, from the top.
pub fn draw(rows: &[Row], area: Rect, theme: &Theme, buffer: &mut Buffer) {
    let mut pen = Pen::new(area, buffer);
    let mut orders: Vec<u8> = rows.iter().map(|row| row.order).collect();
    orders.sort_unstable();
    let room = usize::from(pen.area.height);
    let mut shown: Vec<&Row> = rows.iter().collect();
    while shown.len() > room {
        let Some(worst) = shown.iter().map(|row| row.order).max() else { break };
        let Some(place) = shown.iter().rposition(|row| row.order == worst) else { break };
        shown.remove(place);
    }
    for (y, row) in (0..).zip(shown) {
        let Some((first, rest)) = row.parts.split_first() else { continue };
        let names = NAMES.min(pen.area.width.saturating_sub(width(&first.0)));
        if names > 1 {
            pen.whole(0, y, row.name, theme.dim);
        }
        if !pen.whole(names, y, &first.0, first.1) {
            continue;
        }
        let mut x = names + width(&first.0) + 1;
        for (words, style) in rest {
            if !pen.whole(x, y, words, *style) {
                break;
            }
            x += width(words) + 1;
        }
    }
}

/// The lines as text, for the clipboard.
pub fn as_text(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let parts: Vec<&str> = row.parts.iter().map(|part| part.0.as_str()).collect();
        format!("{:<10}{}\n", row.name, parts.join(" "))
    };
    rows.iter().map(line).collect()
}

struct Rows<'a> {
    theme: &'a Theme,
    rows: Vec<Row>,
}

impl Rows<'_> {
    fn push(&mut self, order: u8, name: &'static str, parts: Vec<(String, Style)>) {
        self.rows.push(Row { name, parts, order });
    }

    fn plain(&mut self, order: u8, name: &'static str, first: String, rest: &[String]) {
        let mut parts = vec![(first, self.theme.text)];
        parts.extend(rest.iter().map(|words| (words.clone(), self.theme.dim)));
        self.push(order, name, parts);
    }

    fn losses(&mut self, app: &App, run: &RunModel) {
        let theme = self.theme;
        if let Some(loss) = run.last(Metric::Loss) {
            let style = if loss.is_finite() { theme.title } else { theme.bad };
            let mut parts = vec![(value(loss), style)];
            if let Some((smooth, before)) = smoothed(app, run) {
                parts.push((format!("ema {}", value(smooth)), theme.text));
                let direction = before.map(|before| {
                    if smooth < before { ("▼", theme.good) } else { ("▲", theme.warn) }
                });
                parts.extend(direction.map(|(sign, style)| (sign.to_owned(), style)));
            }
            self.push(0, "loss", parts);
        }
        let Some(eval) = run.summary.last_eval() else { return };
        let style = if eval.loss.is_finite() { theme.title } else { theme.bad };
        let ppl = format!("ppl {}", value(eval.ppl));
        self.push(0, "val", vec![(value(eval.loss), style), (ppl, theme.text)]);
        if let Some(best) = run.summary.best_eval().filter(|best| best.step != eval.step) {
            let away = format!("+{}", value((eval.loss - best.loss).abs()));
            let at = format!("@{}", thousands(best.step));
            self.plain(6, "Δ best", away, &[at]);
        } else if run.summary.evals.len() > 1 {
            self.push(6, "Δ best", vec![("this one".into(), theme.good)]);
        }
    }

    fn update(&mut self, run: &RunModel) {
        let told = &run.summary.run;
        if let Some(lr) = run.last(Metric::LearningRate) {
            let schedule = run.config.get("train.lr_schedule").cloned();
            self.plain(2, "lr", value_words(Metric::LearningRate, lr), schedule.as_slice());
        }
        if let Some(norm) = run.last(Metric::GradNorm) {
            let clip = run.config.get("train.max_grad_norm").filter(|clip| *clip != "0");
            let clip = clip.map(|clip| format!("clip {clip}"));
            self.plain(2, "grad", value(norm), clip.as_slice());
        }
        if run.summary.tokens > 0 {
            let planned = told.steps.saturating_mul(told.tokens_per_step);
            let planned = (planned > 0).then(|| format!("/ {}", short(planned as f64)));
            self.plain(3, "tokens", short(run.summary.tokens as f64), planned.as_slice());
        }
        if let Some(speed) = run.last(Metric::TokensPerSecond) {
            let column = run.steps.column("tok_s").map(Column::values).unwrap_or_default();
            let theme = self.theme;
            let parts = vec![(short(speed), theme.text), (growing(column, 9, SPARKED), theme.key)];
            self.push(1, "tok/s", parts);
        }
        if let Some(step_s) = run.pace.step_s() {
            let spread = run.pace.quantile(0.95).map(|slow| format!("p95 {}", milliseconds(slow)));
            self.plain(4, "step", milliseconds(step_s), spread.as_slice());
        }
        if run.summary.skipped > 0 {
            let words = thousands(run.summary.skipped);
            self.push(3, "skipped", vec![(words, self.theme.warn)]);
        }
    }

    /// What the method did, told by its events.
    fn method(&mut self, run: &RunModel) {
        if let Some(last) = run.switches.together.last() {
            let each = format!("B {0} A {0}", thousands(last.k.into()));
            let at = if last.step == run.now().step { "/step" } else { "last" };
            self.plain(3, "switch", each, &[at.into()]);
            let total = format!("{} vectors", thousands(run.switches.total));
            self.plain(7, "switched", total, &[]);
        }
        if let Some(merge) = run.merges.last() {
            let at = format!("@{}", thousands(merge.at.step));
            self.plain(3, "merges", thousands(merge.what.count), &[at]);
        }
        if let Some(reset) = run.resets.last() {
            let at = format!("@{}", thousands(reset.at.step));
            self.plain(5, "resets", thousands(reset.what.count), &[at]);
        }
        if let Some(subspace) = run.subspaces.last() {
            let at = format!("@{}", thousands(subspace.at.step));
            let rank = format!("r {}", subspace.what.rank);
            self.plain(4, "subspace", rank, &[at]);
        }
        if let Some((rank, most)) = mean_rank(run) {
            self.plain(5, "eff.rank", value(rank), &[format!("/ {most}")]);
        }
    }

    fn machine(&mut self, run: &RunModel) {
        if let Some(memory) = &run.memory {
            let held: u64 = memory.bytes.values().sum();
            let theme = self.theme;
            let peak = memory.peak_bytes.max(held);
            let mut parts = vec![(bytes(held), theme.text)];
            if peak > 0 {
                let share = held as f64 / peak as f64;
                parts.push((format!("{:<5}", bar(share, 5)), theme.key));
            }
            self.push(2, "device", parts);
            self.plain(5, "peak", bytes(peak), &[]);
        }
        if let Some(machine) = run.machine.last() {
            if let Some(rss) = machine.what.rss_bytes {
                let cores = machine.what.cpu_cores.filter(|cores| cores.is_finite());
                let cores = cores.map(|cores| format!("{cores:.1} cores"));
                self.plain(6, "host", bytes(rss), cores.as_slice());
            }
            if let Some(percent) = machine.what.battery_percent {
                self.plain(4, "power", format!("battery {percent} %"), &[]);
            }
            if let Some(free) = machine.what.disk_free_bytes {
                self.plain(8, "disk", format!("{} free", bytes(free)), &[]);
            }
        }
    }

    fn times(&mut self, run: &RunModel) {
        let left = run.left_s().map(|left| format!("ETA {}", duration(left)));
        if run.summary.active_s > 0.0 {
            self.plain(1, "elapsed", duration(run.summary.active_s), left.as_slice());
        }
        if let Some(checkpoint) = run.checkpoints.last() {
            let ago = run.now().step.saturating_sub(checkpoint.at.step);
            let best = checkpoint.what.is_best.then(|| "best".to_owned());
            self.plain(5, "ckpt", format!("{} steps ago", thousands(ago)), best.as_slice());
        }
    }
}

/// The smoothed loss now, and somewhat earlier: with the half-life of the charts, else with the one of tables.
fn smoothed(app: &App, run: &RunModel) -> Option<(f64, Option<f64>)> {
    let last = run.steps.len().checked_sub(1)?;
    let half_life = app.axes.half_life;
    let at = |row| run.steps.value("loss", app.axes.x, half_life, row);
    match half_life {
        Some(_) => Some((at(last)?, last.checked_sub(BACK).and_then(at))),
        None => run.summary.smooth.value().map(|smooth| (smooth, None)),
    }
}

/// Mean effective rank of the newest measurement of what training changed, and the largest that it could have been.
fn mean_rank(run: &RunModel) -> Option<(f64, u64)> {
    let is_change = |matrix: &str| matrix == "change";
    let step = run.ranks.iter().rev().find(|rank| is_change(&rank.what.matrix))?.at.step;
    let newest = run.ranks.iter().rev().take_while(|rank| rank.at.step == step);
    let newest: Vec<_> = newest.filter(|rank| is_change(&rank.what.matrix)).collect();
    let ranks = newest.iter().map(|rank| rank.what.effective);
    let mean = ranks.sum::<f64>() / newest.len() as f64;
    let most = newest.iter().map(|rank| rank.what.ceiling.unwrap_or(rank.what.full)).max()?;
    Some((mean, most))
}

fn milliseconds(seconds: f64) -> String {
    let ms = 1000.0 * seconds;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{} ms", text::count(ms.round() as u64)) }
}
