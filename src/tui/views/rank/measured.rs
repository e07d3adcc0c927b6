//! What was measured of a run's ranks, in the order in which it is looked at.

use crate::report::stats::Stat;
use crate::runlog::Rank;
use crate::tui::action::Action;
use crate::tui::app::App;
use crate::tui::model::{At, RunModel};
use crate::tui::views::frame::{layer_parts, no_run, thousands};

/// Matrices by the names that events have for them.
pub(super) const MATRICES: [&str; 4] = ["change", "weight", "adapter", "gradient"];

/// A matrix in words.
pub(super) fn matrix_name(matrix: &str) -> &'static str {
    match matrix {
        "change" => "ΔW",
        "weight" => "W",
        "adapter" => "s·B·A now",
        _ => "gradient",
    }
}

/// Which number a rank is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Measure {
    /// `exp` of the entropy of the singular values.
    #[default]
    Effective,
    /// `Σσ²/σ₁²`.
    Stable,
    /// Values above a thousandth of the largest.
    Numerical,
    /// Leading values with 99 % of `Σσ²`.
    Energy99,
}

impl Measure {
    const ALL: [Self; 4] = [Self::Effective, Self::Stable, Self::Numerical, Self::Energy99];

    /// The next one.
    pub fn next(self) -> Self {
        let place = Self::ALL.iter().position(|measure| *measure == self).unwrap_or(0);
        Self::ALL[(place + 1) % Self::ALL.len()]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Effective => "effective rank",
            Self::Stable => "stable rank",
            Self::Numerical => "numerical rank",
            Self::Energy99 => "rank at 99 % energy",
        }
    }

    /// Its value.
    pub fn of(self, rank: &Rank) -> f64 {
        match self {
            Self::Effective => rank.effective,
            Self::Stable => rank.stable,
            Self::Numerical => rank.numerical as f64,
            Self::Energy99 => rank.energy99 as f64,
        }
    }

    /// Its value in percent of the largest rank there can be; NaN where that is not known.
    pub fn percent(self, rank: &Rank) -> f64 {
        if rank.full > 0 { 100.0 * self.of(rank) / rank.full as f64 } else { f64::NAN }
    }
}

/// Updates at which a matrix was measured, in order.
pub(super) fn steps(run: &RunModel, matrix: &str) -> Vec<u64> {
    let of_matrix = run.ranks.iter().filter(|rank| rank.what.matrix == matrix);
    let mut steps: Vec<u64> = of_matrix.map(|rank| rank.at.step).collect();
    steps.sort_unstable();
    steps.dedup();
    steps
}

/// Layers by block and kind, with the newest measurement of each up to an update.
pub(super) struct Grid<'a> {
    /// Blocks; none for layers outside.
    pub(super) rows: Vec<Option<usize>>,
    /// Kinds, in the order of the network.
    pub(super) columns: Vec<String>,
    cells: Vec<Vec<Option<&'a At<Rank>>>>,
}

impl<'a> Grid<'a> {
    pub(super) fn of(run: &'a RunModel, matrix: &str, at: u64) -> Self {
        let mut grid = Self { rows: Vec::new(), columns: Vec::new(), cells: Vec::new() };
        let until =
            run.ranks.iter().filter(|rank| rank.what.matrix == matrix && rank.at.step <= at);
        let of_layer = |name: &str| layer_parts(name);
        // The network's order first, so that rows and columns do not change places over time.
        for name in &run.summary.run.layers {
            let (block, kind) = of_layer(name);
            grid.place(block, &kind);
        }
        for rank in until {
            let (block, kind) = of_layer(&rank.what.layer);
            let (row, column) = grid.place(block, &kind);
            grid.cells[row][column] = Some(rank);
        }
        grid
    }

    fn place(&mut self, block: Option<usize>, kind: &str) -> (usize, usize) {
        let column = self.columns.iter().position(|known| known == kind).unwrap_or_else(|| {
            self.columns.push(kind.to_owned());
            self.cells.iter_mut().for_each(|row| row.push(None));
            self.columns.len() - 1
        });
        let row = self.rows.iter().position(|known| *known == block).unwrap_or_else(|| {
            self.rows.push(block);
            self.cells.push(vec![None; self.columns.len()]);
            self.rows.len() - 1
        });
        (row, column)
    }

    /// The first layer that was measured.
    pub(super) fn first(&self) -> Option<(usize, usize)> {
        let found = |row: &Vec<Option<_>>| row.iter().position(Option::is_some);
        self.cells.iter().enumerate().find_map(|(row, cells)| Some((row, found(cells)?)))
    }

    /// What was measured of a layer.
    pub(super) fn get(&self, row: usize, column: usize) -> Option<&'a At<Rank>> {
        self.cells.get(row)?.get(column).copied().flatten()
    }

    /// All that was measured.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a Rank> + '_ {
        self.cells.iter().flatten().filter_map(|rank| rank.map(|rank| &rank.what))
    }

    /// The mean over the layers, in percent.
    pub(super) fn mean(&self, measure: Measure) -> Option<f64> {
        let values: Vec<f64> = self.all().map(|rank| measure.percent(rank)).collect();
        Stat::of(&values).map(|stat| stat.mean)
    }

    /// The mean over the layers of the largest rank that the method can have given, in percent; none where one has
    /// no such limit.
    pub(super) fn ceiling(&self) -> Option<f64> {
        let percent = |rank: &Rank| Some(100.0 * rank.ceiling? as f64 / rank.full.max(1) as f64);
        let all: Option<Vec<f64>> = self.all().map(percent).collect();
        Stat::of(&all?).map(|stat| stat.mean).filter(|mean| *mean < 99.95)
    }
}

/// When and at what cost ranks are measured.
pub(super) fn budget(app: &App, run: &RunModel) -> String {
    let mut steps: Vec<u64> = run.ranks.iter().map(|rank| rank.at.step).collect();
    steps.dedup();
    let Some(last) = steps.last().copied() else { return String::new() };
    let newest = run.ranks.iter().rev().take_while(|rank| rank.at.step == last);
    let (count, ms) = newest.fold((0, 0.0), |(n, ms), rank| (n + 1, ms + rank.what.ms));
    let form = run.ranks.last().map(|rank| rank.what.form.as_str()).unwrap_or_default();
    let mut text =
        format!(" measured at update {}: {count} matrices ({form}) in {ms:.0} ms", thousands(last));
    let all: f64 = run.ranks.iter().map(|rank| rank.what.ms).sum();
    let active_ms = 1000.0 * run.summary.active_s;
    if active_ms > 0.0 {
        text += &format!(" · all of them {:.2} % of the time", 100.0 * all / active_ms);
    }
    if let [.., before, last] = steps[..]
        && run.status.is_live()
    {
        let next = last + (last - before);
        let now = run.now().step;
        if next > now {
            text += &format!(" · next in about {} updates", thousands(next - now));
            if run.takes_commands() {
                text += &format!(" · {}: now", app.key(Action::Spectra));
            }
        }
    }
    text
}

/// What the view would show, where there is nothing yet.
pub(super) fn words(app: &App) -> String {
    let Some(run) = app.run() else { return no_run(app) };
    let now = if run.takes_commands() {
        format!(" {} measures them now.", app.key(Action::Spectra))
    } else {
        String::new()
    };
    format!(
        "No ranks have been measured in {}.{now}\n\nRanks and singular values are measured now and then during \
         training, within a small part of its time. This view shows, for each layer, how many directions \
         training has changed in the weights (ΔW), those of the weight itself, of the adapter and of the \
         gradient; the spectrum of one layer now and earlier; and all open runs at equal tokens.",
        run.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;

    #[test]
    fn a_grid_has_the_newest_measurement_up_to_an_update() {
        let run = fixture::run("lora");
        let grid = Grid::of(&run, "change", 170);
        assert_eq!(grid.columns, ["q", "k", "v", "o", "gate", "up", "down"]);
        assert_eq!(grid.rows, [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(grid.get(3, 6).unwrap().at.step, 150);
        assert_eq!(grid.get(3, 6).unwrap().what.layer, "model.layers.3.mlp.down_proj.weight");
        assert!(grid.get(4, 0).is_none() && grid.get(0, 7).is_none());
        assert_eq!(grid.all().count(), 28);
        assert_eq!(grid.ceiling(), Some(25.0), "rank 16 of 64");
        assert_eq!(Grid::of(&run, "gradient", 170).all().count(), 0);
        assert_eq!(steps(&run, "change")[..3], [1, 50, 100]);
    }

    #[test]
    fn measures_are_numbers_of_the_event_and_their_percent() {
        let rank = Rank {
            effective: 16.0,
            stable: 8.0,
            numerical: 32,
            energy99: 24,
            full: 64,
            ..Rank::default()
        };
        let all = Measure::ALL.map(|measure| (measure.of(&rank), measure.percent(&rank)));
        assert_eq!(all, [(16.0, 25.0), (8.0, 12.5), (32.0, 50.0), (24.0, 37.5)]);
        assert!(Measure::Effective.percent(&Rank::default()).is_nan());
    }

    #[test]
    fn the_budget_is_said_with_what_comes_next() {
        let app = fixture::app(crate::tui::theme::Theme::default());
        let text = budget(&app, &fixture::run_of("switchlora", 1, 312));
        assert!(text.contains("update 300: 56 matrices (gram) in 22 ms"), "{text}");
        assert!(text.contains("next in about 38 updates · R: now"), "{text}");
        assert!(!budget(&app, &fixture::run("lora")).contains("next"));
        assert_eq!(budget(&app, &RunModel::new(None)), "");
    }
}
