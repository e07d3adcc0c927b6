//! What a click, a drag or the wheel means, by what the last frame put where.

use ratatui::crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use crate::tui::action::Action;
use crate::tui::app::Msg;
use crate::tui::views::Hits;

/// Columns that a drag has to go for one step of the pan.
const DRAG_COLUMNS: u16 = 4;

/// A drag that is under way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mouse {
    /// The column from which the next step is counted.
    from: Option<u16>,
}

impl Mouse {
    /// The message that an event of the mouse means.
    pub fn message(&mut self, event: MouseEvent, hits: &Hits, has_overlay: bool) -> Option<Msg> {
        let at = Position { x: event.column, y: event.row };
        let panel = || hits.panels.iter().rev().find(|(area, _)| area.contains(at));
        match event.kind {
            MouseEventKind::Down(MouseButton::Left) => {
                self.from = None;
                // What was drawn last lies on top.
                if let Some((_, action)) =
                    hits.actions.iter().rev().find(|(area, _)| area.contains(at))
                {
                    return Some(Msg::Act(*action));
                }
                if !has_overlay && let Some(place) = hits.place(event.column, event.row) {
                    self.from = Some(event.column);
                    let number = panel().map(|(_, number)| *number);
                    return Some(Msg::At(number, place));
                }
                let (area, number) = panel()?;
                self.from = Some(event.column);
                let Rect { x, y, .. } = *area;
                Some(Msg::Click(*number, event.column - x, event.row - y))
            }
            MouseEventKind::Drag(MouseButton::Left) => {
                let from = self.from?;
                if event.column.abs_diff(from) < DRAG_COLUMNS {
                    return None;
                }
                self.from = Some(event.column);
                // The paper follows the hand: to the right means earlier.
                let is_right = event.column > from;
                Some(Msg::Act(if is_right { Action::PanLeft } else { Action::PanRight }))
            }
            MouseEventKind::Up(_) => {
                self.from = None;
                None
            }
            MouseEventKind::ScrollUp | MouseEventKind::ScrollDown => {
                let is_up = event.kind == MouseEventKind::ScrollUp;
                if has_overlay || panel().is_none() {
                    return None;
                }
                Some(Msg::Act(if is_up { Action::ZoomIn } else { Action::ZoomOut }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::plot::AxisRange;
    use ratatui::crossterm::event::KeyModifiers;

    fn event(kind: MouseEventKind, column: u16, row: u16) -> MouseEvent {
        MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }
    }

    #[test]
    fn clicks_find_what_was_drawn_there_and_drags_pan() {
        let hits = Hits {
            actions: vec![(Rect::new(0, 0, 5, 1), Action::Help)],
            panels: vec![(Rect::new(0, 1, 40, 10), 2)],
            charts: vec![(Rect::new(30, 2, 8, 4), AxisRange::new(0.0, 800.0, false))],
        };
        let mut mouse = Mouse::default();
        let left = MouseEventKind::Down(MouseButton::Left);
        let mut act = |kind, x, y| mouse.message(event(kind, x, y), &hits, false);
        assert!(matches!(act(left, 4, 0), Some(Msg::Act(Action::Help))));
        assert!(act(left, 5, 0).is_none());
        let drag = MouseEventKind::Drag(MouseButton::Left);
        assert!(act(drag, 20, 0).is_none(), "a drag begins in a panel");
        assert!(matches!(act(left, 10, 4), Some(Msg::Click(2, 10, 3))));
        assert!(matches!(act(left, 32, 3), Some(Msg::At(Some(2), 250.0))), "a place on the axis");
        assert!(matches!(act(left, 10, 4), Some(Msg::Click(2, 10, 3))));
        assert!(act(drag, 12, 4).is_none());
        assert!(matches!(act(drag, 15, 4), Some(Msg::Act(Action::PanLeft))));
        assert!(matches!(act(drag, 8, 4), Some(Msg::Act(Action::PanRight))));
        assert!(matches!(act(MouseEventKind::ScrollUp, 3, 3), Some(Msg::Act(Action::ZoomIn))));
        assert!(act(MouseEventKind::ScrollUp, 60, 3).is_none());
    }
}
