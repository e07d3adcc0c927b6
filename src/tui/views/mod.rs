//! One file a view. Each has a `State` (what a user chose there, kept per run), `update` (what an action
//! changes) and `draw` (a function of the app and a size).

// Lines are put together from formatted parts; `write!` to a string would add an error to ignore.
#![allow(clippy::format_push_string)]

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::action::{Action, Effect, ViewId};
use super::app::{App, Msg};
use super::plot::AxisRange;

pub mod compare;
pub mod curve;
pub mod editor;
pub mod frame;
pub mod help;
pub mod logs;
pub mod palette;
#[cfg(test)]
mod pictures;
pub mod rank;
pub mod runs;
pub mod sheets;
pub mod switches;
pub mod system;
pub mod train;

/// What stands where on the screen, for the mouse: filled while drawing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hits {
    /// Cells that do something when clicked.
    pub actions: Vec<(Rect, Action)>,
    /// Panels by the number that the view gave them.
    pub panels: Vec<(Rect, usize)>,
    /// Cells of plots, with the part of the horizontal axis that they show.
    pub charts: Vec<(Rect, AxisRange)>,
}

impl Hits {
    /// The place on the horizontal axis of the chart under a cell; none where there is no chart.
    pub fn place(&self, x: u16, y: u16) -> Option<f64> {
        let at = ratatui::layout::Position::new(x, y);
        let (plot, range) = self.charts.iter().rev().find(|(plot, _)| plot.contains(at))?;
        place_in(*plot, *range, x)
    }
}

/// The place of a column on the axis of a chart; beyond its cells, that of its edge.
pub fn place_in(plot: Rect, range: AxisRange, column: u16) -> Option<f64> {
    let column = column.min(plot.right().saturating_sub(1)).saturating_sub(plot.x);
    let share = (f64::from(column) + 0.5) / f64::from(plot.width.max(1));
    Some(range.at(share)).filter(|place| place.is_finite())
}

/// Gives an action to the view on the screen.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    match app.view {
        ViewId::Train => train::update(app, action),
        ViewId::Compare => compare::update(app, action),
        ViewId::Switches => switches::update(app, action),
        ViewId::Rank => rank::update(app, action),
        ViewId::System => system::update(app, action),
        ViewId::Logs => logs::update(app, action),
        ViewId::Runs => runs::update(app, action),
    }
}

/// The filter of the view on the screen; none where it has none.
pub fn filter(app: &App) -> Option<&str> {
    match app.view {
        ViewId::Compare => Some(&app.compare.filter),
        ViewId::Logs => Some(&app.logs.filter),
        ViewId::Runs => Some(&app.list.filter),
        ViewId::Train | ViewId::Switches | ViewId::Rank | ViewId::System => None,
    }
}

/// What is wrong with the filter of the view on the screen.
pub fn wrong_filter(app: &App) -> Option<String> {
    match app.view {
        ViewId::Logs => logs::wrong_filter(app),
        _ => filter(app).and_then(|text| crate::tui::filter::read(text).1),
    }
}

/// Sets the filter of the view on the screen, with every letter that is typed.
pub fn set_filter(app: &mut App, text: &str) {
    match app.view {
        ViewId::Compare => text.clone_into(&mut app.compare.filter),
        ViewId::Logs => text.clone_into(&mut app.logs.filter),
        ViewId::Runs => text.clone_into(&mut app.list.filter),
        ViewId::Train | ViewId::Switches | ViewId::Rank | ViewId::System => {}
    }
}

/// A click or a key for the view on the screen: a click puts its panel into focus.
pub fn input(app: &mut App, msg: &Msg) -> Vec<Effect> {
    if let Msg::Click(panel, _, _) = msg {
        if *panel >= HEAD {
            return pick(app, *panel);
        }
        *focus(app) = *panel;
    }
    Vec::new()
}

/// Places in [`Hits::panels`] from here on are heads of columns,
pub const HEAD: usize = 1000;
/// and from here on rows or cells, as the view counts them.
pub const ROW: usize = 2000;

/// A click on a row, a cell or a head.
fn pick(app: &mut App, place: usize) -> Vec<Effect> {
    match app.view {
        ViewId::Compare => compare::pick(app, place),
        ViewId::Runs => return runs::pick(app, place),
        ViewId::Switches => switches::pick(app, place),
        ViewId::Rank => rank::pick(app, place),
        ViewId::Train | ViewId::System | ViewId::Logs => {}
    }
    Vec::new()
}

/// The panel in focus of the view on the screen.
fn focus(app: &mut App) -> &mut usize {
    match app.view {
        ViewId::Train => &mut app.train.focus,
        ViewId::Compare => &mut app.compare.focus,
        ViewId::Switches => &mut app.switches.focus,
        ViewId::Rank => &mut app.rank.focus,
        ViewId::System => &mut app.system.focus,
        ViewId::Logs => &mut app.logs.focus,
        ViewId::Runs => &mut app.list.focus,
    }
}

/// Draws the view on the screen into its area (header, tabs and footer are around it).
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    match app.view {
        ViewId::Train => train::draw(app, area, buffer, hits),
        ViewId::Compare => compare::draw(app, area, buffer, hits),
        ViewId::Switches => switches::draw(app, area, buffer, hits),
        ViewId::Rank => rank::draw(app, area, buffer, hits),
        ViewId::System => system::draw(app, area, buffer, hits),
        ViewId::Logs => logs::draw(app, area, buffer, hits),
        ViewId::Runs => runs::draw(app, area, buffer, hits),
    }
}
