//! Spectra and ranks: by layer, over time, by method.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Hits;
use super::frame::{frame, plain, put, say};
use crate::tui::action::{Action, Effect};
use crate::tui::app::App;

mod field;
mod lines;
mod measured;

use measured::{Grid, MATRICES, Measure, steps};

/// Layers by block and kind.
const FIELD: usize = 0;
/// Singular values of the selected layer.
pub(super) const SPECTRUM: usize = 1;
/// Its rank over time.
const TIME: usize = 2;
/// All runs at equal tokens.
const METHODS: usize = 3;

/// What a user chose in this view.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The panel in focus.
    pub focus: usize,
    /// Which of the matrices the ranks are of.
    pub matrix: usize,
    /// Which rank.
    pub measure: Measure,
    /// The block and the kind of layer under the cursor; none: the first layer that was measured.
    pub cell: Option<(usize, usize)>,
    /// The update that is looked at; none: the newest measurement.
    pub at: Option<u64>,
    /// The update that spectra are compared with; none: the first measurement.
    pub earlier: Option<u64>,
    /// Whether the view goes through the measurements by itself.
    pub is_playing: bool,
}

/// Which matrix is shown: the chosen one, or the first that the run was measured in.
fn matrix(app: &App) -> &'static str {
    let chosen = MATRICES[app.rank.matrix % MATRICES.len()];
    let Some(run) = app.run() else { return chosen };
    let has = |matrix: &str| run.ranks.iter().any(|rank| rank.what.matrix == matrix);
    if has(chosen) {
        chosen
    } else {
        MATRICES.into_iter().find(|matrix| has(matrix)).unwrap_or(chosen)
    }
}

/// The update of the measurement that is looked at.
fn looked_at(app: &App) -> Option<u64> {
    let steps = steps(app.run()?, matrix(app));
    let newest = steps.last().copied()?;
    let wanted = app.rank.at.unwrap_or(newest);
    Some(steps.iter().rev().copied().find(|step| *step <= wanted).unwrap_or(steps[0]))
}

/// The row and the column under the cursor, inside the field.
fn cell(app: &App, grid: &Grid) -> (usize, usize) {
    let (row, column) = app.rank.cell.or_else(|| grid.first()).unwrap_or((0, 0));
    let last = |count: usize| count.saturating_sub(1);
    (row.min(last(grid.rows.len())), column.min(last(grid.columns.len())))
}

/// What an action changes here.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    let grid = app.run().zip(looked_at(app)).map(|(run, at)| Grid::of(run, matrix(app), at));
    let (rows, columns) =
        grid.as_ref().map_or((1, 1), |grid| (grid.rows.len().max(1), grid.columns.len().max(1)));
    let (row, column) = grid.as_ref().map_or((0, 0), |grid| cell(app, grid));
    let state = &mut app.rank;
    let mut go_to = |row: usize, column: usize| {
        state.cell = Some((row.min(rows - 1), column.min(columns - 1)));
    };
    match action {
        Action::NextPanel => state.focus = (state.focus + 1) % 4,
        Action::PrevPanel => state.focus = (state.focus + 3) % 4,
        Action::Up => go_to(row.saturating_sub(1), column),
        Action::Down => go_to(row + 1, column),
        Action::PageUp => go_to(row.saturating_sub(8), column),
        Action::PageDown => go_to(row + 8, column),
        Action::Left => go_to(row, column.saturating_sub(1)),
        Action::Right => go_to(row, column + 1),
        Action::Home => go_to(0, 0),
        Action::End => go_to(rows - 1, columns - 1),
        Action::NextMetric => state.measure = state.measure.next(),
        Action::NextMatrix => next_matrix(app),
        Action::Earlier => go(app, -1),
        Action::Later => go(app, 1),
        Action::Baseline => app.rank.earlier = looked_at(app),
        Action::Play if state.is_playing => state.is_playing = false,
        Action::Play => {
            // From the beginning, where it already stands at the end.
            let steps = app.run().map(|run| steps(run, matrix(app))).unwrap_or_default();
            if looked_at(app) == steps.last().copied() {
                app.rank.at = steps.first().copied();
            }
            app.rank.is_playing = steps.len() > 1;
        }
        Action::Back => (state.at, state.earlier, state.is_playing) = (None, None, false),
        Action::Export => return vec![Effect::Export(false)],
        _ => {}
    }
    Vec::new()
}

/// A click on a layer selects it.
pub fn pick(app: &mut App, place: usize) {
    app.rank.focus = FIELD;
    if let Some(cell) = place.checked_sub(super::ROW) {
        app.rank.cell = Some((cell / field::MOST_COLUMNS, cell % field::MOST_COLUMNS));
    }
}

/// The next matrix that was measured.
fn next_matrix(app: &mut App) {
    let now = MATRICES.iter().position(|name| *name == matrix(app)).unwrap_or(0);
    let Some(run) = app.run() else { return };
    let is_there = |place: &usize| {
        let name = MATRICES[place % MATRICES.len()];
        run.ranks.iter().any(|rank| rank.what.matrix == name)
    };
    if let Some(next) = (now + 1..=now + MATRICES.len()).find(is_there) {
        app.rank.matrix = next % MATRICES.len();
    }
}

/// To an earlier or later measurement; after the newest the view follows again.
fn go(app: &mut App, by: i64) {
    let Some((run, at)) = app.run().zip(looked_at(app)) else { return };
    let steps = steps(run, matrix(app));
    let place = steps.iter().position(|step| *step == at).unwrap_or(0) as i64 + by;
    let last = steps.len() as i64 - 1;
    app.rank.at = if place >= last { None } else { steps.get(place.max(0) as usize).copied() };
}

/// A moment has passed: a view that plays shows the next measurement, and stops at the newest.
pub fn tick(app: &mut App) {
    if app.rank.is_playing {
        go(app, 1);
        app.rank.is_playing = app.rank.at.is_some();
    }
}

/// Draws the view.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    let (Some(run), Some(at)) = (app.run(), looked_at(app)) else {
        let inner = frame("ranks", "", true, theme, area, buffer);
        say(&measured::words(app), theme.text, theme, inner, buffer);
        plain(theme, area, buffer);
        return;
    };
    let grid = Grid::of(run, matrix(app), at);
    for (panel, place) in layout(app, area, &grid) {
        if place.is_empty() {
            continue;
        }
        hits.panels.push((place, panel));
        match panel {
            FIELD => field::draw(app, &grid, at, place, buffer, hits),
            SPECTRUM => lines::spectrum(app, run, &grid, at, place, buffer),
            TIME => lines::over_time(app, &grid, place, buffer, hits),
            _ => lines::by_method(app, place, buffer),
        }
    }
    if area.height >= 6 {
        let last = Rect { y: area.bottom() - 1, height: 1, ..area };
        put(&measured::budget(app, run), theme.dim, theme, last, buffer);
    }
    plain(theme, area, buffer);
}

/// Where the panels stand; those without room are left out whole.
fn layout(app: &App, area: Rect, grid: &Grid) -> Vec<(usize, Rect)> {
    let mut rest = area;
    if rest.height >= 6 {
        rest.height -= 1;
    }
    if app.is_maximised {
        return vec![(app.rank.focus, rest)];
    }
    let mut panels = Vec::new();
    if rest.height >= 20 && area.width >= 50 {
        let height = (app.runs.len() as u16 + 2).clamp(3, rest.height / 3);
        rest.height -= height;
        panels.push((METHODS, Rect { y: rest.bottom(), height, ..rest }));
    }
    if area.width >= 76 {
        let wanted = field::width(grid);
        let left = wanted.min(area.width * 9 / 16);
        let right = Rect { x: rest.x + left, width: rest.width - left, ..rest };
        rest.width = left;
        if right.height >= 14 {
            let top = right.height / 2;
            panels.push((SPECTRUM, Rect { height: top, ..right }));
            panels.push((TIME, Rect { y: right.y + top, height: right.height - top, ..right }));
        } else {
            panels.push((SPECTRUM, right));
        }
    }
    panels.push((FIELD, rest));
    panels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;

    #[test]
    fn measurements_are_gone_through_and_followed_again() {
        let mut app = fixture::app(Theme::default());
        assert_eq!(looked_at(&app), Some(300));
        update(&mut app, Action::Earlier);
        assert_eq!(looked_at(&app), Some(250));
        update(&mut app, Action::Later);
        assert_eq!((looked_at(&app), app.rank.at), (Some(300), None));
        (0..20).for_each(|_| drop(update(&mut app, Action::Earlier)));
        assert_eq!(looked_at(&app), Some(1));
        update(&mut app, Action::Back);
        assert_eq!(looked_at(&app), Some(300));
    }

    #[test]
    fn playing_begins_at_the_first_and_stops_at_the_newest() {
        let mut app = fixture::app(Theme::default());
        update(&mut app, Action::Play);
        let mut seen = vec![looked_at(&app).unwrap()];
        for _ in 0..20 {
            tick(&mut app);
            seen.push(looked_at(&app).unwrap());
        }
        assert_eq!(seen[..8], [1, 50, 100, 150, 200, 250, 300, 300]);
        assert!(!app.rank.is_playing);
    }

    #[test]
    fn only_matrices_that_were_measured_are_shown() {
        let mut app = fixture::app(Theme::default());
        assert_eq!(matrix(&app), "change");
        update(&mut app, Action::NextMatrix);
        assert_eq!(matrix(&app), "weight");
        update(&mut app, Action::NextMatrix);
        assert_eq!(matrix(&app), "change");
        update(&mut app, Action::NextMetric);
        assert_eq!(app.rank.measure, Measure::Stable);
    }

    #[test]
    fn the_cursor_stays_in_the_field() {
        let mut app = fixture::app(Theme::default());
        for action in [Action::End, Action::Down, Action::Right, Action::PageDown] {
            update(&mut app, action);
        }
        assert_eq!(app.rank.cell, Some((3, 6)));
        app.active = 4;
        app.runs[4].ranks.clear();
        update(&mut app, Action::Left);
        assert_eq!(app.rank.cell, Some((0, 0)));
    }

    #[test]
    fn the_view_opens_on_a_layer_that_was_measured() {
        let mut app = fixture::app(Theme::default());
        let at = looked_at(&app).unwrap();
        let grid = |app: &App| cell(app, &Grid::of(&app.runs[0], "change", at));
        assert_eq!(grid(&app), (0, 0));
        let first = Grid::of(&app.runs[0], "change", at).get(2, 3).unwrap().what.layer.clone();
        app.runs[0].ranks.retain(|rank| rank.what.layer == first || rank.what.matrix != "change");
        assert_eq!(grid(&app), (2, 3), "rows and columns stand in the order of the network");
        update(&mut app, Action::Left);
        assert_eq!(grid(&app), (2, 2), "from there the cursor goes anywhere");
    }
}
