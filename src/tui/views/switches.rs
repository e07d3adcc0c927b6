//! When which layer switched vectors, merged its factors or found a new subspace, and what the loss did then.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Hits;
use super::frame::{frame, no_run, plain, put, say};
use crate::series::Axis;
use crate::tui::action::{Action, Effect};
use crate::tui::app::App;
use crate::tui::model::RunModel;

mod about;
mod cells;
mod lanes;

use cells::Kind;

/// Layers over updates.
const FIELD: usize = 0;
/// All runs, a line each.
pub(super) const LANES: usize = 1;

/// Whose vectors are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// Rows of A and columns of B.
    #[default]
    Both,
    /// Rows of A.
    A,
    /// Columns of B.
    B,
}

/// What a row of the field stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grouping {
    /// One layer.
    #[default]
    Layers,
    /// All layers of a block.
    Blocks,
    /// All layers of a kind: `q`, `gate`.
    Kinds,
}

/// What a user chose in this view.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The panel in focus.
    pub focus: usize,
    /// Whose vectors are counted.
    pub side: Side,
    /// Whether each row has its own scale.
    pub is_normalised: bool,
    /// What a row stands for.
    pub grouping: Grouping,
    /// The row under the cursor.
    pub row: usize,
}

/// The update at a place of the axis of all charts.
fn step_of(run: &RunModel, axis: Axis, place: f64) -> u64 {
    if axis == Axis::Step {
        return place.max(0.0) as u64;
    }
    let clock = &run.steps.clock;
    let row = clock.row_after(axis, place).checked_sub(1);
    row.and_then(|row| clock.moment(row)).map_or(0, |moment| moment.step)
}

/// The place of an update on the axis of all charts.
fn place_of(run: &RunModel, axis: Axis, step: u64) -> f64 {
    if axis == Axis::Step {
        return step as f64;
    }
    let clock = &run.steps.clock;
    clock.moment_of_step(step).map_or(0.0, |moment| clock.place(moment, axis))
}

/// The updates that are shown, and how many of them each of at most `cells` cells stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bins {
    first: u64,
    last: u64,
    width: u64,
}

/// No run has more updates; a window may be asked for that goes further, and a damaged log may tell of more.
const MOST_UPDATES: u64 = 10_u64.pow(15);

impl Bins {
    fn of(app: &App, run: &RunModel, cells: u16) -> Self {
        let axis = app.axes.x;
        let newest = run.now().step.clamp(1, MOST_UPDATES);
        let (first, last) = match app.axes.window {
            Some((low, high)) => {
                let step = |place| step_of(run, axis, place).clamp(1, MOST_UPDATES);
                (step(low), step(high).max(2))
            }
            None => (1, newest),
        };
        let last = last.max(first);
        // Round widths, and whole cells from the first update on, so that cells stand still while the run grows.
        let mut bins = Self { first, last, width: 1 };
        while bins.count() > usize::from(cells.max(1)) {
            bins.width = match bins.width {
                width @ 0..6 => width + 1,
                width => {
                    let unit = 10_u64.pow(width.ilog10());
                    match width / unit {
                        1 if width == unit => unit + unit / 2,
                        1 => 2 * unit,
                        2 if width == 2 * unit => 2 * unit + unit / 2,
                        6 => 8 * unit,
                        digit => (digit + 1) * unit,
                    }
                }
            };
            bins.first = first - (first - 1) % bins.width;
        }
        bins
    }

    fn count(self) -> usize {
        ((self.last - self.first) / self.width + 1) as usize
    }

    fn range(self, bin: usize) -> std::ops::Range<u64> {
        let start = self.first + bin as u64 * self.width;
        start..start + self.width
    }

    fn bin(self, step: u64) -> Option<usize> {
        let bin = step.checked_sub(self.first)? / self.width;
        (step <= self.last).then_some(bin as usize)
    }
}

/// What an action changes here.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    let rows = app.run().map_or(0, |run| cells::rows(run, app.switches.grouping).len());
    let state = &mut app.switches;
    let last = rows.saturating_sub(1);
    match action {
        Action::NextPanel | Action::PrevPanel => state.focus = 1 - state.focus.min(1),
        Action::Up => state.row = state.row.min(last).saturating_sub(1),
        Action::Down => state.row = (state.row + 1).min(last),
        Action::PageUp => state.row = state.row.min(last).saturating_sub(7),
        Action::PageDown => state.row = (state.row + 7).min(last),
        Action::Home => state.row = 0,
        Action::End => state.row = last,
        Action::Left => move_cursor(app, -1),
        Action::Right => move_cursor(app, 1),
        Action::Back => app.axes.cursor = None,
        Action::Side => {
            state.side = match state.side {
                Side::Both => Side::A,
                Side::A => Side::B,
                Side::B => Side::Both,
            };
        }
        Action::Normalise => state.is_normalised = !state.is_normalised,
        Action::Group => {
            state.row = 0;
            state.grouping = match state.grouping {
                Grouping::Layers => Grouping::Blocks,
                Grouping::Blocks => Grouping::Kinds,
                Grouping::Kinds => Grouping::Layers,
            };
        }
        Action::Export => return vec![Effect::Export(false)],
        _ => {}
    }
    Vec::new()
}

/// A click on a row selects it.
pub fn pick(app: &mut App, place: usize) {
    app.switches.focus = FIELD;
    if let Some(row) = place.checked_sub(super::ROW) {
        app.switches.row = row;
    }
}

/// Cells that the cursor is moved by as if the field had them: a hundred over what is shown.
const CURSOR_CELLS: u16 = 100;

fn move_cursor(app: &mut App, by: i64) {
    let Some(run) = app.run() else { return };
    let bins = Bins::of(app, run, CURSOR_CELLS);
    let axis = app.axes.x;
    let now = app.axes.cursor.map_or(bins.last, |place| step_of(run, axis, place));
    let step = now.saturating_add_signed(by * bins.width as i64).min(bins.last).max(bins.first);
    app.axes.cursor = Some(place_of(run, axis, step));
}

/// Draws the view.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    let Some(run) = app.run() else {
        let inner = frame("switches", "", true, theme, area, buffer);
        say(&no_run(app), theme.text, theme, inner, buffer);
        plain(theme, area, buffer);
        return;
    };
    let lanes_wanted = app.runs.len() as u16 + 2;
    let (mut field, mut lanes, mut about, mut last) = (area, Rect::ZERO, Rect::ZERO, Rect::ZERO);
    if app.is_maximised && app.switches.focus == LANES {
        (field, lanes) = (Rect::ZERO, area);
    } else {
        if area.height >= 6 {
            last = Rect { y: area.bottom() - 1, height: 1, ..area };
            field.height -= 1;
        }
        if !app.is_maximised && field.height >= 14 {
            let height = lanes_wanted.min(field.height / 3);
            field.height -= height;
            lanes = Rect { y: field.bottom(), height, ..area };
        }
        if area.width >= 84 && field.height >= 8 {
            about = Rect { x: area.right() - 26, width: 26, ..field };
            field.width -= 26;
        }
    }
    if !field.is_empty() {
        hits.panels.push((field, FIELD));
        cells::draw(app, run, field, buffer, hits);
    }
    if !about.is_empty() {
        about::draw(app, run, about, buffer);
    }
    if !lanes.is_empty() {
        hits.panels.push((lanes, LANES));
        lanes::draw(app, run, lanes, buffer);
    }
    if !last.is_empty() {
        put(&at_cursor(app, run), theme.dim, theme, last, buffer);
    }
    plain(theme, area, buffer);
}

/// What happened in the updates under the cursor.
fn at_cursor(app: &App, run: &RunModel) -> String {
    let bins = Bins::of(app, run, CURSOR_CELLS);
    let step = app.axes.cursor.map_or(bins.last, |place| step_of(run, app.axes.x, place));
    let range = bins.range(bins.bin(step).unwrap_or(0));
    let mut text = format!(" ⌖ updates {}–{}: ", range.start, range.end - 1);
    match Kind::of(run) {
        Kind::Switches => {
            let vectors = 2 * run.switches.together.count(range.clone());
            let layers =
                run.switches.layers.iter().filter(|layer| layer.count(range.clone()) > 0).count();
            text += &format!("{vectors} vectors switched in {layers} layers");
            if let Some(frozen) = run.config.get("switchlora.freeze") {
                text += &format!(" · partners frozen for {frozen} updates");
            }
        }
        Kind::Merges => {
            let merges = run.merges.iter().filter(|merge| range.contains(&merge.at.step)).count();
            text += &format!("{merges} merges");
        }
        Kind::Subspaces => {
            let found = run.subspaces.iter().filter(|found| range.contains(&found.at.step)).count();
            text += &format!("{found} layers got a new subspace");
        }
        Kind::Nothing => text += "nothing switches here",
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;

    #[test]
    fn bins_cover_what_is_shown_with_round_widths() {
        let mut app = fixture::app(Theme::default());
        for cells in [1, 7, 50, 100, 1000] {
            let bins = Bins::of(&app, &app.runs[0], cells);
            assert!(bins.count() <= cells as usize, "{bins:?} {cells}");
            assert_eq!((bins.first, bins.last), (1, 312));
            assert!(bins.range(bins.count() - 1).contains(&312));
            assert_eq!(bins.bin(312), Some(bins.count() - 1));
            assert_eq!((bins.bin(0), bins.bin(313)), (None, None));
        }
        let widths = [312, 156, 63, 3].map(|cells| Bins::of(&app, &app.runs[0], cells).width);
        assert_eq!(widths, [1, 2, 5, 150]);
        app.axes.window = Some((100.0, 150.0));
        let bins = Bins::of(&app, &app.runs[0], 10);
        assert!(bins.first <= 100 && bins.last == 150 && bins.width == 6, "{bins:?}");
        app.axes.window = Some((-5.0, -1.0));
        assert!(Bins::of(&app, &app.runs[0], 10).count() >= 1);
    }

    #[test]
    fn keys_choose_side_scale_grouping_and_row() {
        let mut app = fixture::app(Theme::default());
        update(&mut app, Action::Side);
        assert_eq!(app.switches.side, Side::A);
        update(&mut app, Action::Normalise);
        assert!(app.switches.is_normalised);
        update(&mut app, Action::End);
        assert_eq!(app.switches.row, 27);
        update(&mut app, Action::Down);
        assert_eq!(app.switches.row, 27);
        update(&mut app, Action::Group);
        assert_eq!((app.switches.grouping, app.switches.row), (Grouping::Blocks, 0));
        update(&mut app, Action::PageDown);
        assert_eq!(app.switches.row, 3);
        update(&mut app, Action::Left);
        assert_eq!(app.axes.cursor, Some(308.0), "312 updates in cells of four");
    }
}
