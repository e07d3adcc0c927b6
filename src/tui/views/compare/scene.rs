//! What is compared: which runs, how they are laid together, on which axis and at which place. Found once for a frame;
//! chart, table and lines of values read it.

use super::MOST_LINES;
use super::groups::{groups, reach};
use crate::runlog::Status;
use crate::series::Axis;
use crate::tui::app::App;
use crate::tui::filter;
use crate::tui::model::{Metric, RunModel};
use crate::tui::plot::axis::grown;

/// The comparison of one frame.
pub struct Scene<'a> {
    /// What is on the screen.
    pub app: &'a App,
    /// The axis of the comparison. Updates are no fair axis where batches differ, so tokens stand in for them.
    pub axis: Axis,
    /// What a place on the axis of all charts is multiplied by for it.
    pub scale: f64,
    /// Half-life of the smoothing on it.
    pub half_life: Option<f64>,
    /// Places of the runs that the filter lets through, in their order.
    pub passing: Vec<usize>,
    /// What is wrong with the filter.
    pub wrong: Option<String>,
    /// How many of them are to be on the chart.
    pub pinned: usize,
    /// Places of those on the chart: those of the first lines where there would be too many.
    pub shown: Vec<usize>,
    /// The same, a group for each line.
    pub groups: Vec<Vec<usize>>,
    /// The place at which runs are compared: the cursor, else as far as all have come that did not fail.
    pub place: Option<f64>,
}

impl<'a> Scene<'a> {
    /// The comparison on the screen.
    pub fn of(app: &'a App) -> Self {
        let (axis, scale) = match (app.axes.x, app.run()) {
            (Axis::Step, Some(run)) => {
                (Axis::Tokens, run.summary.run.tokens_per_step.max(1) as f64)
            }
            (Axis::Step, None) => (Axis::Tokens, 1.0),
            (axis, _) => (axis, 1.0),
        };
        let (filter, wrong) = filter::read(&app.compare.filter);
        let runs = app.runs.iter().enumerate();
        let passing: Vec<usize> =
            runs.filter(|(_, run)| filter.passes(*run)).map(|(place, _)| place).collect();
        let mut shown = passing.clone();
        shown.retain(|place| !app.compare.hidden.contains(place));
        let pinned = shown.len();
        let mut groups = groups(&app.runs, &shown, app.compare.lays_seeds_together);
        if groups.len() > MOST_LINES {
            groups.truncate(MOST_LINES);
            shown = groups.iter().flatten().copied().collect();
            shown.sort_unstable();
        }
        let half_life = app.axes.half_life.map(|half_life| half_life * scale);
        let mut scene = Self {
            app,
            axis,
            scale,
            half_life,
            passing,
            wrong,
            pinned,
            shown,
            groups,
            place: None,
        };
        scene.place = scene.found_place();
        scene
    }

    fn found_place(&self) -> Option<f64> {
        if let Some(cursor) = self.app.axes.cursor {
            return Some(cursor * self.scale);
        }
        let of = |counts: &dyn Fn(&RunModel) -> bool| {
            let reaches =
                self.runs().filter(|run| counts(run)).filter_map(|run| reach(run, self.axis));
            reaches.min_by(f64::total_cmp)
        };
        of(&|run| !matches!(run.status, Status::Crashed | Status::Diverged | Status::Failed))
            .or_else(|| of(&|_| true))
    }

    /// The runs on the chart.
    pub fn runs(&self) -> impl Iterator<Item = &'a RunModel> {
        self.shown.iter().filter_map(|place| self.app.runs.get(*place))
    }

    /// What is compared.
    pub fn metric(&self) -> Metric {
        self.app.compare.metric
    }

    /// Whether the vertical axis is logarithmic: losses are unless the user said otherwise.
    pub fn is_log_y(&self) -> bool {
        let metric = self.metric();
        let is_loss = matches!(metric, Metric::Loss | Metric::ValLoss | Metric::Perplexity);
        self.app.axes.log_y.get(&metric).copied().unwrap_or(is_loss)
    }

    /// A run's value at the place; `None` where it has not come so far.
    pub fn value(&self, run: &RunModel) -> Option<f64> {
        super::groups::value_at(run, self.metric(), self.axis, self.half_life, self.place?)
    }

    /// The stretch of the axis that the chart shows; its end is not before its beginning.
    pub fn extent(&self) -> (f64, f64) {
        let (low, high) = self.wanted_extent();
        if low <= high { (low, high) } else { (0.0, 1.0) }
    }

    fn wanted_extent(&self) -> (f64, f64) {
        let axes = &self.app.axes;
        if let Some((low, high)) = axes.window {
            return (low * self.scale, high * self.scale);
        }
        let end = self.runs().filter_map(|run| reach(run, self.axis)).fold(0.0, f64::max);
        let low = if axes.log_x { self.smallest().unwrap_or(end / 1000.0) } else { 0.0 };
        (low, grown(end))
    }

    /// The smallest place above 0.
    fn smallest(&self) -> Option<f64> {
        let first = |run: &RunModel| {
            let clock = &run.table(self.metric()).clock;
            let row = clock.row_after(self.axis, 0.0);
            Some(clock.at(row, self.axis)).filter(|place| place.is_finite())
        };
        self.runs().filter_map(first).min_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture::{self, TOKENS};
    use crate::tui::theme::Theme;

    #[test]
    fn runs_are_compared_as_far_as_all_have_come_that_did_not_fail() {
        let mut app = fixture::app(Theme::default());
        let place = |app: &App| Scene::of(app).place;
        assert_eq!(place(&app), Some(312.0 * TOKENS as f64));
        app.runs.push(fixture::run_of("lora", 2, 40));
        app.runs[5].status = Status::Crashed;
        assert_eq!(place(&app), Some(312.0 * TOKENS as f64));
        app.compare.hidden.insert(0);
        assert_eq!(place(&app), Some(400.0 * TOKENS as f64));
        app.axes.cursor = Some(20.0);
        assert_eq!(place(&app), Some(20.0 * TOKENS as f64), "updates are shown as tokens");
        app.axes.x = Axis::Active;
        assert_eq!(place(&app), Some(20.0));
    }

    #[test]
    fn as_many_lines_are_drawn_as_can_be_told_apart_and_the_table_says_which() {
        let mut app = fixture::app(Theme::default());
        app.view = crate::tui::action::ViewId::Compare;
        let of_seed = |seed: u64| ["full", "lora"].map(|m| fixture::run_of(m, seed, 40));
        app.runs = (1..=7).flat_map(of_seed).collect();
        let drawn = |app: &App| crate::tui::page::text(&crate::tui::page::draw(app, 120, 60));
        assert_eq!(Scene::of(&app).shown.len(), 14, "two lines");
        let text = drawn(&app);
        assert!(text.contains("val/loss  14 runs"), "{text}");
        assert!(text.contains("14/14 shown · 14 pinned"), "{text}");
        app.compare.lays_seeds_together = false;
        assert_eq!(Scene::of(&app).shown, (0..12).collect::<Vec<_>>());
        let text = drawn(&app);
        assert!(text.contains("14/14 shown · 14 pinned · 12 drawn"), "{text}");
        assert!(text.contains("●L lora-s6") && text.contains("○M full-s7"), "{text}");
        app.compare.hidden.insert(0);
        let text = drawn(&app);
        assert!(text.contains(" A full-s1") && text.contains("●M full-s7"), "{text}");
    }
}
