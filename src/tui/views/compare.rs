//! Several runs on a fair axis: their curves over one another, and a table of what each has reached.

use std::collections::BTreeSet;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Hits;
use super::frame::{frame, letter, no_run, plain, put, say};
use crate::tui::action::{Action, Effect, ViewId};
use crate::tui::app::App;
use crate::tui::model::Metric;
use crate::tui::sheet::Sheet;

pub mod groups;
mod lines;
mod rows;
mod scene;

use rows::Column;
use scene::Scene;

/// The chart.
const CHART: usize = 0;
/// The table.
pub(super) const TABLE: usize = 1;
/// Lines on a chart: more cannot be told apart.
const MOST_LINES: usize = 12;

/// What a user chose in this view.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The panel in focus.
    pub focus: usize,
    /// Which runs the table shows.
    pub filter: String,
    /// What is compared.
    pub metric: Metric,
    /// The column that rows are sorted by.
    pub sort: usize,
    /// Whether the largest is first.
    pub is_descending: bool,
    /// The run under the cursor, by its place among those that are open.
    pub selected: usize,
    /// Runs that are open and not on the chart.
    pub hidden: BTreeSet<usize>,
    /// The run that others are compared with.
    pub baseline: usize,
    /// Whether the settings in which the selected run differs from the baseline are shown.
    pub shows_diff: bool,
    /// Whether runs that differ in their seed alone are one line with a band.
    pub lays_seeds_together: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            focus: CHART,
            filter: String::new(),
            metric: Metric::ValLoss,
            sort: Column::Value as usize,
            is_descending: false,
            selected: 0,
            hidden: BTreeSet::new(),
            baseline: 0,
            shows_diff: false,
            lays_seeds_together: true,
        }
    }
}

/// Places of the runs on the chart.
pub(super) fn shown(app: &App) -> Vec<usize> {
    Scene::of(app).shown
}

/// Whether keys go to the table.
pub fn is_on_table(app: &App) -> bool {
    app.compare.focus == TABLE
}

/// What an action changes here.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    let order = rows::order(&Scene::of(app));
    let state = &mut app.compare;
    match action {
        Action::NextPanel | Action::PrevPanel => state.focus = 1 - state.focus.min(1),
        Action::Up => move_by(state, &order, -1),
        Action::Down => move_by(state, &order, 1),
        Action::PageUp => move_by(state, &order, -10),
        Action::PageDown => move_by(state, &order, 10),
        Action::Left if state.focus == TABLE => sort_by(state, Column::COUNT - 1),
        Action::Right if state.focus == TABLE => sort_by(state, 1),
        Action::Left => move_cursor(app, -1),
        Action::Right => move_cursor(app, 1),
        Action::Home if state.focus == TABLE => move_by(state, &order, -1_000_000),
        Action::End if state.focus == TABLE => move_by(state, &order, 1_000_000),
        Action::Home => app.axes.cursor = Some(0.0),
        Action::Sort if state.is_descending => {
            sort_by(state, 1);
            state.is_descending = false;
        }
        Action::Sort => state.is_descending = true,
        Action::Pin if state.hidden.remove(&state.selected) => {}
        Action::Pin => _ = state.hidden.insert(state.selected),
        Action::Baseline => state.baseline = state.selected,
        Action::Diff => state.shows_diff = !state.shows_diff,
        Action::Group => state.lays_seeds_together = !state.lays_seeds_together,
        Action::NextMetric => {
            let at = Metric::ALL.iter().position(|metric| *metric == state.metric).unwrap_or(0);
            state.metric = Metric::ALL[(at + 1) % Metric::ALL.len()];
        }
        Action::LogY => {
            let is_log = Scene::of(app).is_log_y();
            app.axes.log_y.insert(app.compare.metric, !is_log);
        }
        Action::LockY => lines::flip_lock(app),
        Action::Open if state.selected < app.runs.len() => {
            app.active = state.selected;
            app.view = ViewId::Train;
        }
        Action::Back if state.shows_diff => state.shows_diff = false,
        Action::Back if !state.filter.is_empty() => state.filter.clear(),
        Action::Back | Action::End => app.axes.cursor = None,
        Action::Copy => return vec![Effect::Copy(rows::text(&Scene::of(app)))],
        Action::Export => return vec![Effect::Export(false)],
        _ => {}
    }
    Vec::new()
}

/// A click on the head of a column sorts by it, or the other way round; one on a row selects its run.
pub fn pick(app: &mut App, place: usize) {
    app.compare.focus = TABLE;
    if let Some(row) = place.checked_sub(super::ROW) {
        let run = rows::order(&Scene::of(app)).get(row).copied();
        if let Some(run) = run {
            app.compare.selected = run;
        }
    } else if let Some(column) = place.checked_sub(super::HEAD).filter(|c| *c < Column::COUNT) {
        app.compare.is_descending = app.compare.sort == column && !app.compare.is_descending;
        app.compare.sort = column;
    }
}

fn sort_by(state: &mut State, by: usize) {
    state.sort = (state.sort + by) % Column::COUNT;
}

fn move_by(state: &mut State, order: &[usize], by: i64) {
    let at = order.iter().position(|place| *place == state.selected).unwrap_or(0) as i64;
    let last = order.len().saturating_sub(1) as i64;
    if let Some(place) = order.get(at.saturating_add(by).clamp(0, last) as usize) {
        state.selected = *place;
    }
}

/// Moves the cursor by a hundredth of what is shown, at least to the next value of the selected run.
fn move_cursor(app: &mut App, by: i64) {
    let scene = Scene::of(app);
    let (axis, scale) = (scene.axis, scene.scale);
    let Some(now) = scene.place else { return };
    let (low, high) = scene.extent();
    let step = (high - low) / 100.0 * by as f64;
    // A window may lie beyond the newest row: `clamp` would panic there.
    let target = (now + step).max(low).min(high);
    let mut landed = target;
    if let Some(run) = app.runs.get(app.compare.selected) {
        let clock = &run.table(app.compare.metric).clock;
        if let Some(row) = clock.nearest(axis, target) {
            let here = clock.nearest(axis, now).unwrap_or(row);
            let next = if by > 0 { row.max(here + 1) } else { row.min(here.saturating_sub(1)) };
            let at = clock.at(next.min(clock.len().saturating_sub(1)), axis);
            landed = if at.is_finite() { at } else { target };
        }
    }
    app.axes.cursor = Some(landed / scale);
}

/// Draws the view.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    if app.runs.is_empty() {
        let inner = frame("compare", "", true, theme, area, buffer);
        let words = format!(
            "{} There {} lays a run beside the others, and several lie over one another here.",
            no_run(app),
            app.key_in(ViewId::Runs, Action::Pin)
        );
        say(&words, theme.text, theme, inner, buffer);
        plain(theme, area, buffer);
        return;
    }
    let scene = Scene::of(app);
    let (chart, table, last) = layout(&scene, area);
    if !chart.is_empty() {
        hits.panels.push((chart, CHART));
        lines::draw(&scene, chart, buffer, hits);
    }
    if !table.is_empty() {
        hits.panels.push((table, TABLE));
        rows::draw(&scene, table, buffer, hits);
    }
    if !last.is_empty() && table.is_empty() {
        lines::value_line(&scene, last, buffer);
    } else if !last.is_empty() {
        put(&rows::last_line(&scene), theme.dim, theme, last, buffer);
    }
    plain(theme, area, buffer);
}

/// The table as rows for files.
pub(super) fn sheet(app: &App) -> Sheet<'static> {
    let text = rows::text(&Scene::of(app));
    let mut lines = text.lines().map(|line| line.split('\t'));
    let columns: Vec<&str> = lines.next().map(Iterator::collect).unwrap_or_default();
    let mut sheet = Sheet::new(&columns);
    for cells in lines {
        sheet.add(cells.map(|cell| cell.trim().into()).collect());
    }
    sheet
}

/// Where chart, table and last line stand; what has no room is empty.
fn layout(scene: &Scene, area: Rect) -> (Rect, Rect, Rect) {
    let none = Rect::ZERO;
    if area.width < 3 || area.height < 3 {
        return (none, none, area);
    }
    if scene.app.is_maximised {
        return if is_on_table(scene.app) { (none, area, none) } else { (area, none, none) };
    }
    if area.width < 40 || area.height < 12 {
        let last = Rect { y: area.bottom() - 1, height: 1, ..area };
        return (Rect { height: area.height - 1, ..area }, none, last);
    }
    let last = Rect { y: area.bottom() - 1, height: 1, ..area };
    let rest = area.height - 1;
    let wanted = rows::height(scene) + 3;
    let table = wanted.min(rest * 9 / 20).max(5).min(rest);
    let chart = Rect { height: rest - table, ..area };
    (chart, Rect { y: chart.bottom(), height: table, ..area }, last)
}

/// The letters of a group's runs.
fn letters(group: &[usize]) -> String {
    group.iter().map(|place| letter(*place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;

    #[test]
    fn rows_are_sorted_by_what_was_reached_and_the_unknown_stands_last() {
        let mut app = fixture::app(Theme::default());
        app.compare.baseline = 1;
        let order = |app: &App| rows::order(&Scene::of(app));
        assert_eq!(order(&app), [1, 0, 2, 3, 4], "full, switchlora, galore, relora, lora");
        update(&mut app, Action::Sort);
        assert_eq!(order(&app), [4, 3, 2, 0, 1]);
        app.compare.sort = Column::Tokens as usize;
        app.compare.is_descending = false;
        assert_eq!(order(&app)[0], 1, "only the baseline has reached its own loss");
        app.compare.is_descending = true;
        assert_eq!(order(&app)[0], 1, "what is not known stands last either way");
        app.compare.filter = "method:lora seed=1 !relora".into();
        assert_eq!(order(&app).len(), 2);
        update(&mut app, Action::Sort);
        assert_eq!((app.compare.sort, app.compare.is_descending), (Column::Speed as usize, false));
    }

    #[test]
    fn keys_move_pin_and_choose() {
        let mut app = fixture::app(Theme::default());
        update(&mut app, Action::NextPanel);
        update(&mut app, Action::Home);
        assert_eq!(app.compare.selected, 1, "the best run");
        update(&mut app, Action::Baseline);
        update(&mut app, Action::Down);
        update(&mut app, Action::Pin);
        assert_eq!((app.compare.baseline, app.compare.selected), (1, 0));
        assert_eq!(shown(&app), [1, 2, 3, 4]);
        assert_eq!(Scene::of(&app).passing.len(), 5, "a run off the chart stays in the table");
        update(&mut app, Action::NextMetric);
        assert_eq!(app.compare.metric, Metric::Perplexity);
        update(&mut app, Action::Open);
        assert_eq!((app.active, app.view), (0, ViewId::Train));
    }

    #[test]
    fn the_cursor_steps_over_values_that_were_measured() {
        let mut app = fixture::app(Theme::default());
        update(&mut app, Action::Left);
        assert_eq!(app.axes.cursor, Some(275.0), "evaluations are 25 updates apart");
        update(&mut app, Action::Right);
        assert_eq!(app.axes.cursor, Some(300.0));
        update(&mut app, Action::Back);
        assert_eq!(app.axes.cursor, None);
    }

    #[test]
    fn the_last_line_pairs_seeds() {
        let mut app = fixture::app(Theme::default());
        app.compare.baseline = 1;
        assert!(rows::last_line(&Scene::of(&app)).contains("needs two seeds"));
        app.runs.push(fixture::run_of("full", 2, fixture::STEPS));
        app.runs.push(fixture::run_of("lora", 2, fixture::STEPS));
        let line = rows::last_line(&Scene::of(&app));
        assert!(line.contains("EG−BF = +0.") && line.contains("(2 seeds)"), "{line}");
    }

    #[test]
    fn clicks_sort_and_select() {
        let mut app = fixture::app(Theme::default());
        app.view = ViewId::Compare;
        let area = Rect::new(0, 0, 100, 26);
        let (mut buffer, mut hits) = (Buffer::empty(area), Hits::default());
        draw(&app, area, &mut buffer, &mut hits);
        let click = |app: &mut App, place: usize| {
            assert!(hits.panels.iter().any(|(_, panel)| *panel == place), "{place}");
            drop(super::super::input(app, &crate::tui::app::Msg::Click(place, 0, 0)));
        };
        click(&mut app, super::super::HEAD + Column::Method as usize);
        assert_eq!((app.compare.sort, app.compare.is_descending), (Column::Method as usize, false));
        click(&mut app, super::super::HEAD + Column::Method as usize);
        assert!(app.compare.is_descending);
        click(&mut app, super::super::ROW);
        assert_eq!(
            (app.compare.selected, app.compare.focus),
            (0, TABLE),
            "switchlora is last by name"
        );
    }

    #[test]
    fn settings_are_copied_as_a_table() {
        let mut app = fixture::app(Theme::default());
        let effects = update(&mut app, Action::Copy);
        let [Effect::Copy(text)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(text.lines().count(), 6);
        assert!(text.lines().all(|line| line.split('\t').count() == 10));
    }
}
