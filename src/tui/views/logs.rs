//! Messages, and texts that the model wrote.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Hits;
use crate::tui::action::{Action, Effect};
use crate::tui::app::App;

/// What a user chose in this view.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The panel in focus.
    pub focus: usize,
    /// What is shown, in the words of the filter.
    pub filter: String,
}

/// What an action changes here.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    let _ = (app, action);
    Vec::new()
}

/// Draws the view.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let _ = (app, area, buffer, hits);
}
