//! All open runs over the same updates, a line each: bars where vectors are switched, signs where factors are merged,
//! moments reset, subspaces found.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::cells::Kind;
use super::{Bins, LANES, step_of};
use crate::report::stats::Stat;
use crate::series::Axis;
use crate::tui::app::App;
use crate::tui::model::{MarkerKind, RunModel};
use crate::tui::views::frame::{frame, letter, put};

const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Updates before and after a merge whose losses are compared.
const AROUND: usize = 10;
/// Cells of the words at the end of a line.
const WORDS: u16 = 36;

/// The sign of what happened; none for what lanes leave out.
fn sign(kind: MarkerKind) -> Option<char> {
    match kind {
        MarkerKind::Merge => Some('│'),
        MarkerKind::Reset => Some('┆'),
        MarkerKind::Subspace => Some('·'),
        MarkerKind::Limiter => Some('!'),
        MarkerKind::Skip => Some('×'),
        MarkerKind::Phase => Some('▸'),
        _ => None,
    }
}

/// How much the loss of the updates after one is above that of those up to it.
pub(super) fn jump(run: &RunModel, step: u64) -> Option<f64> {
    let losses = run.steps.column("loss")?.values();
    let row = run.steps.clock.row_after(Axis::Step, step as f64);
    let mean = |part: &[f32]| {
        let values: Vec<f64> = part.iter().map(|loss| f64::from(*loss)).collect();
        Stat::of(&values).map(|stat| stat.mean)
    };
    let before = mean(losses.get(row.saturating_sub(AROUND)..row)?)?;
    let after = mean(losses.get(row..(row + AROUND).min(losses.len()))?)?;
    Some(after - before)
}

/// What a run's line says at its end.
fn words(run: &RunModel) -> String {
    match Kind::of(run) {
        Kind::Switches => {
            let newest = run.now().step;
            let over = newest.clamp(1, 20);
            let rate = |first: u64| {
                f64::from(2 * run.switches.together.count(first..first + over)) / over as f64
            };
            format!(
                "{:.1} → {:.1} vectors/update",
                rate(1),
                rate((newest + 1).saturating_sub(over))
            )
        }
        Kind::Merges => {
            let jumps =
                run.merges.iter().rev().take(3).filter_map(|merge| jump(run, merge.at.step));
            let mut jumps: Vec<String> = jumps.map(|jump| format!("{jump:+.2}")).collect();
            jumps.reverse();
            format!("{} merges, Δloss {}", run.merges.len(), jumps.join(" "))
        }
        Kind::Subspaces => {
            let mut steps: Vec<u64> = run.subspaces.iter().map(|found| found.at.step).collect();
            steps.dedup();
            let every = match steps[..] {
                [.., before, last] => format!("every {}", last - before),
                _ => "once".into(),
            };
            let last = steps.last().copied();
            let newest = run.subspaces.iter().rev().take_while(|found| Some(found.at.step) == last);
            let ms: f64 = newest.clone().map(|found| found.what.ms).sum();
            let kept: Vec<f64> = newest.filter_map(|found| found.what.overlap).collect();
            let kept = Stat::of(&kept).map(|stat| format!(", {:.0}% kept", 100.0 * stat.mean));
            format!("{every}, {ms:.0} ms{}", kept.unwrap_or_default())
        }
        Kind::Nothing => match run.summary.run.method.as_str() {
            "full" | "spam" => "every weight at every update".into(),
            _ => "the same factors throughout".into(),
        },
    }
}

/// Draws the lanes.
pub(super) fn draw(app: &App, shown: &RunModel, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let title = "all runs  ▇ switches  │ merge  ┆ reset  · subspace  ! limiter  × skip";
    let inner = frame(title, "", app.switches.focus == LANES, theme, area, buffer);
    let names = app.runs.iter().map(|run| run.summary.run.method.chars().count() + 2);
    let names = names.max().unwrap_or(0).min(14) as u16;
    let words_width = if inner.width >= names + WORDS + 20 { WORDS } else { 0 };
    let cells = inner.width.saturating_sub(names + 1 + words_width);
    let bins = Bins::of(app, shown, cells);
    let height = inner.height as usize;
    let first = (app.active + 1).saturating_sub(height).min(app.runs.len().saturating_sub(height));
    for (place, run) in app.runs.iter().enumerate().skip(first).take(height) {
        let y = inner.y + (place - first) as u16;
        let style = theme.series(place);
        let name = format!("{} {}", letter(place), run.summary.run.method);
        put(&name, style, theme, Rect { y, width: names, height: 1, ..inner }, buffer);
        if cells < 4 {
            continue;
        }
        let left = inner.x + names + 1;
        let counts: Vec<u32> =
            (0..bins.count()).map(|bin| run.switches.together.count(bins.range(bin))).collect();
        let most = counts.iter().copied().max().unwrap_or(0);
        for (bin, count) in counts.iter().enumerate().take(cells as usize) {
            if most > 0 && *count > 0 {
                let eighth = (8.0 * f64::from(*count) / f64::from(most)).ceil() as usize;
                if let Some(cell) = buffer.cell_mut((left + bin as u16, y)) {
                    cell.set_char(BARS[eighth.min(8)]).set_style(style);
                }
            }
        }
        // What happens rarely stands above what happens often.
        let order = [
            MarkerKind::Subspace,
            MarkerKind::Limiter,
            MarkerKind::Skip,
            MarkerKind::Phase,
            MarkerKind::Reset,
            MarkerKind::Merge,
        ];
        for kind in order {
            let Some(sign) = sign(kind) else { continue };
            for marker in run.markers.iter().filter(|marker| marker.kind == kind) {
                let bin = bins.bin(marker.at.step).filter(|bin| *bin < cells as usize);
                if let Some(cell) = bin.and_then(|bin| buffer.cell_mut((left + bin as u16, y))) {
                    cell.set_char(sign).set_style(style);
                }
            }
        }
        if let Some(cursor) = app.axes.cursor {
            let bin =
                bins.bin(step_of(shown, app.axes.x, cursor)).filter(|bin| *bin < cells as usize);
            if let Some(cell) = bin.and_then(|bin| buffer.cell_mut((left + bin as u16, y))) {
                cell.set_style(theme.selected);
            }
        }
        if words_width > 0 {
            let x = inner.right() - words_width + 1;
            let room = Rect { x, y, width: words_width - 1, height: 1 };
            put(&words(run), theme.text, theme, room, buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;

    #[test]
    fn lines_end_in_what_each_method_did() {
        let app = fixture::app(Theme::default());
        let words: Vec<String> = app.runs.iter().map(words).collect();
        assert!(words[0].ends_with("vectors/update"), "{words:?}");
        assert_eq!(words[1], "every weight at every update");
        assert!(words[2].starts_with("every 50, 42 ms, "), "{words:?}");
        assert!(words[3].starts_with("3 merges, Δloss "), "{words:?}");
        assert_eq!(words[4], "the same factors throughout");
    }

    #[test]
    fn a_jump_is_the_difference_of_the_losses_around_an_update() {
        let mut run = fixture::run_of("lora", 1, 40);
        let falling = jump(&run, 20).unwrap();
        assert!(falling < 0.0, "{falling}");
        assert_eq!(jump(&run, 40), None, "nothing follows the last");
        run.steps.truncate(0);
        assert_eq!(jump(&run, 5), None);
    }
}
