//! What the row under the cursor has done so far.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::cells::{Kind, Row, rows};
use crate::report::stats::Stat;
use crate::runlog::{Coverage, Rank, SwitchLayer};
use crate::series::Axis;
use crate::tui::app::App;
use crate::tui::model::{At, Exchanges, RunModel};
use crate::tui::views::frame::{frame, put, thousands, value};

/// Updates of which the loss before and after is looked at.
const LOOKED_AT: usize = 2000;
/// Updates of which the newest rate is the mean.
const RATE_OVER: u64 = 100;

/// What the loss did at the updates after switches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Jumps {
    pub(super) mean: f64,
    pub(super) largest: f64,
    /// Correlation with the number of vectors.
    pub(super) correlation: Option<f64>,
}

impl Jumps {
    /// Of pairs of vectors and differences of the loss.
    pub(super) fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let jumps: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        let mean = Stat::of(&jumps)?.mean;
        let counts: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        let middle = Stat::of(&counts)?.mean;
        let sum = |of: &dyn Fn(f64, f64) -> f64| {
            pairs.iter().map(|(count, jump)| of(count - middle, jump - mean)).sum::<f64>()
        };
        let spread = (sum(&|count, _| count * count) * sum(&|_, jump| jump * jump)).sqrt();
        let correlation = (spread > 0.0).then(|| sum(&|count, jump| count * jump) / spread);
        let largest = jumps.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { mean, largest, correlation })
    }
}

/// Vectors switched in an update by the layers of a row, and by how much the loss of the next update is above its.
fn jumps(run: &RunModel, row: &Row) -> Option<Jumps> {
    let losses = run.steps.column("loss")?.values();
    let mut counts = std::collections::BTreeMap::<u64, u32>::new();
    for layer in row.layers.iter().filter_map(|layer| run.switches.layers.get(*layer)) {
        let entries = layer.entries();
        for entry in &entries[entries.len().saturating_sub(LOOKED_AT)..] {
            *counts.entry(entry.step).or_default() += 2 * entry.k;
        }
    }
    let pairs = counts.iter().rev().take(LOOKED_AT).filter_map(|(step, count)| {
        let place = run.steps.clock.row_at(Axis::Step, *step as f64);
        let jump = f64::from(losses.get(place + 1)? - losses.get(place)?);
        jump.is_finite().then_some((f64::from(*count), jump))
    });
    Jumps::of(&pairs.collect::<Vec<_>>())
}

/// The newest use of a layer's candidates.
fn coverage<'a>(run: &'a RunModel, layer: &str) -> Option<&'a Coverage> {
    let of = |rank: &'a At<Rank>| rank.what.coverage.as_ref().filter(|_| rank.what.layer == layer);
    run.ranks.iter().rev().find_map(of)
}

/// Vectors and candidates of the newest exchange: `17–19 ⇄ 204–206`.
fn exchanged(first: u32, slot: u32, k: u32, list: &[u32]) -> String {
    let span = |first: u32| {
        if k > 1 { format!("{first}–{}", first + k - 1) } else { first.to_string() }
    };
    if list.is_empty() {
        return format!("{} ⇄ {}", span(first), span(slot));
    }
    let slots: Vec<String> = list.iter().take(4).map(u32::to_string).collect();
    format!("{} ⇄ {}", span(first), slots.join(","))
}

/// Draws the panel.
pub(super) fn draw(app: &App, run: &RunModel, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let rows = rows(run, app.switches.grouping);
    let Some(row) = rows.get(app.switches.row.min(rows.len().saturating_sub(1))) else {
        frame("layer", "", false, theme, area, buffer);
        return;
    };
    let rank = run.summary.run.rank.map(|rank| format!("  r={rank}")).unwrap_or_default();
    let inner = frame(&format!("{}{rank}", row.name), "", false, theme, area, buffer);
    let lines = match Kind::of(run) {
        Kind::Switches => switches(run, row),
        Kind::Merges => merges(run, row),
        Kind::Subspaces => subspaces(run, row),
        Kind::Nothing => Vec::new(),
    };
    let mut rest = inner;
    for (key, text) in lines {
        let width = (inner.width as usize).saturating_sub(key.chars().count());
        // A key whose number has no room is left out whole.
        if text.chars().count() <= width || key.is_empty() {
            let style = if text.is_empty() { theme.title } else { theme.text };
            rest = put(&format!("{key}{text:>width$}"), style, theme, rest, buffer);
        }
    }
}

type Lines = Vec<(String, String)>;

fn line(lines: &mut Lines, key: &str, text: impl Into<String>) {
    lines.push((key.to_owned(), text.into()));
}

fn switches(run: &RunModel, row: &Row) -> Lines {
    let mut lines = Lines::new();
    let layers = || row.layers.iter().filter_map(|layer| run.switches.layers.get(*layer));
    let Some(last) = layers().filter_map(Exchanges::last).max_by_key(|last| last.step) else {
        line(&mut lines, "no switch so far", "");
        return lines;
    };
    line(&mut lines, "last switch", thousands(last.step));
    let now = run.now().step + 1;
    let over = RATE_OVER.min(now).max(1);
    let recent: u32 = layers().map(|layer| layer.count(now.saturating_sub(over)..now)).sum();
    line(&mut lines, "A, B each/update", format!("{:.2}", f64::from(recent) / over as f64));
    if last.wanted > last.k {
        line(&mut lines, "held back last", format!("{} of {}", last.wanted - last.k, last.wanted));
    }
    let freeze = run.config.get("switchlora.freeze").and_then(|text| text.parse::<u64>().ok());
    if let Some(freeze) = freeze {
        let frozen: u32 = layers()
            .map(|layer| layer.count((now - 1).saturating_sub(freeze.saturating_sub(1))..now))
            .sum();
        line(&mut lines, "frozen now", (2 * frozen).to_string());
    }
    let names = &run.summary.run.layers;
    let used: Vec<&Coverage> =
        row.layers.iter().filter_map(|layer| coverage(run, names.get(*layer)?)).collect();
    if !used.is_empty() {
        let all: u64 = used.iter().map(|one| one.candidates).sum();
        for (name, side) in [
            ("A", used.iter().map(|one| one.a.visited).sum::<u64>()),
            ("B", used.iter().map(|one| one.b.visited).sum::<u64>()),
        ] {
            line(&mut lines, &format!("pool {name} used"), format!("{side}/{all}"));
            line(&mut lines, "  never used", (all.saturating_sub(side)).to_string());
        }
    }
    if let [layer] = row.layers[..] {
        if let Some((step, newest)) = run.switches.newest.get(layer).and_then(Option::as_ref) {
            let SwitchLayer { k, ptr_a, slot_a, ptr_b, slot_b, slots_a, slots_b, .. } = newest;
            line(&mut lines, "", "");
            line(&mut lines, &format!("at {}", thousands(*step)), "");
            line(&mut lines, " A", exchanged(*ptr_a, *slot_a, *k, slots_a));
            line(&mut lines, " B", exchanged(*ptr_b, *slot_b, *k, slots_b));
            line(&mut lines, " ‖ΔW‖ put right", value(newest.dw_norm));
        }
        let entries = run.switches.layers.get(layer).map_or(&[][..], |layer| layer.entries());
        if entries.len() > 1 {
            line(&mut lines, "before", "");
            for entry in entries.iter().rev().skip(1).take(4) {
                let key = format!(" {}", thousands(entry.step));
                line(&mut lines, &key, format!("A,B ×{}", entry.k));
            }
        }
    }
    if let Some(jumps) = jumps(run, row) {
        line(&mut lines, "", "");
        line(&mut lines, "loss after switches", "");
        line(&mut lines, " mean Δ", format!("{:+.4}", jumps.mean));
        line(&mut lines, " largest Δ", format!("{:+.4}", jumps.largest));
        if let Some(correlation) = jumps.correlation {
            line(&mut lines, " corr(Δ, vectors)", format!("{correlation:+.2}"));
        }
    }
    lines
}

fn merges(run: &RunModel, row: &Row) -> Lines {
    let mut lines = Lines::new();
    let Some(last) = run.merges.last() else { return lines };
    line(&mut lines, "merges", last.what.count.to_string());
    line(&mut lines, "last at", thousands(last.at.step));
    let of_row = last.what.l.iter().filter(|layer| row.layers.contains(&(layer.layer as usize)));
    for layer in of_row.take(1) {
        line(&mut lines, "‖ΔW‖ merged", value(layer.dw_norm));
        if let Some(error) = layer.error {
            line(&mut lines, "largest error", value(error));
        }
        if let Some(cosine) = layer.cosine {
            line(&mut lines, "cosine of heads", format!("{cosine:.2}"));
        }
        if let Some(agreement) = layer.agreement {
            line(&mut lines, "agreement", format!("{agreement:.2}"));
        }
    }
    if let Some(reset) = run.resets.last() {
        line(&mut lines, "moments zeroed", format!("{:.0}%", 100.0 * reset.what.m_zeroed));
        line(&mut lines, "by", reset.what.mode.clone());
    }
    line(&mut lines, "", "");
    line(&mut lines, "Δloss at merges", "");
    for merge in run.merges.iter().rev().take(6) {
        if let Some(jump) = super::lanes::jump(run, merge.at.step) {
            line(&mut lines, &format!(" {}", thousands(merge.at.step)), format!("{jump:+.3}"));
        }
    }
    lines
}

fn subspaces(run: &RunModel, row: &Row) -> Lines {
    let mut lines = Lines::new();
    let names = &run.summary.run.layers;
    let is_of_row = |name: &str| {
        row.layers.iter().any(|layer| names.get(*layer).is_some_and(|known| known == name))
    };
    let found: Vec<_> = run.subspaces.iter().filter(|found| is_of_row(&found.what.layer)).collect();
    let Some(last) = found.last() else { return lines };
    line(&mut lines, "last at", thousands(last.at.step));
    line(&mut lines, "rank", last.what.rank.to_string());
    line(&mut lines, "side", last.what.side.clone());
    line(&mut lines, "energy inside", format!("{:.0}%", 100.0 * last.what.energy));
    if let Some(overlap) = last.what.overlap {
        line(&mut lines, "kept of the last", format!("{:.0}%", 100.0 * overlap));
    }
    line(&mut lines, "took", format!("{:.1} ms", last.what.ms));
    line(&mut lines, "", "");
    line(&mut lines, "before", "");
    for one in found.iter().rev().skip(1).take(6) {
        let kept =
            one.what.overlap.map_or_else(|| "first".into(), |kept| format!("{:.0}%", 100.0 * kept));
        line(
            &mut lines,
            &format!(" {}", thousands(one.at.step)),
            format!("r={} {kept}", one.what.rank),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_have_a_mean_a_largest_and_a_correlation() {
        let jumps = Jumps::of(&[(1.0, 0.1), (2.0, 0.2), (3.0, 0.3)]).unwrap();
        assert!((jumps.mean - 0.2).abs() < 1e-12 && (jumps.largest - 0.3).abs() < 1e-12);
        assert!((jumps.correlation.unwrap() - 1.0).abs() < 1e-12);
        let flat = Jumps::of(&[(1.0, 0.1), (1.0, 0.3)]).unwrap();
        assert_eq!(flat.correlation, None);
        assert_eq!(Jumps::of(&[]), None);
    }

    #[test]
    fn exchanges_are_spans_or_lists() {
        assert_eq!(exchanged(17, 204, 1, &[]), "17 ⇄ 204");
        assert_eq!(exchanged(17, 204, 3, &[]), "17–19 ⇄ 204–206");
        assert_eq!(exchanged(17, 204, 2, &[9, 3]), "17–18 ⇄ 9,3");
    }
}
