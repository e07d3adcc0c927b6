//! What a click, a drag or the wheel means, by what the last frame put where.

use ratatui::crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use crate::tui::action::Action;
use crate::tui::app::Msg;
use crate::tui::plot::AxisRange;
use crate::tui::views::{Hits, place_in as place};

/// Columns that a drag beside a chart has to go for one step of the pan.
const DRAG_COLUMNS: u16 = 4;
/// Columns that are swept over at least; less is a slip of a click.
const SWEEP_COLUMNS: u16 = 2;

/// A drag that is under way.
#[derive(Debug, Clone, Copy, Default)]
enum Drag {
    #[default]
    None,
    /// Of a panel that is no chart: the column from which the next step is counted.
    Steps(u16),
    /// Of a chart with the left button: its columns, and the column where the mouse was last. The chart goes along.
    Pan(u16, u16),
    /// Over a chart with the right button: the chart, its axis, and the column where it began. The chart zooms in.
    Sweep(Rect, AxisRange, u16),
}

/// What the mouse is doing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mouse {
    drag: Drag,
}

impl Mouse {
    /// The message that an event of the mouse means.
    pub fn message(&mut self, event: MouseEvent, hits: &Hits, has_overlay: bool) -> Option<Msg> {
        let at = Position { x: event.column, y: event.row };
        let panel = || hits.panels.iter().rev().find(|(area, _)| area.contains(at));
        let chart = || hits.charts.iter().rev().find(|(area, _)| area.contains(at) && !has_overlay);
        match event.kind {
            MouseEventKind::Down(MouseButton::Left) => {
                self.drag = Drag::None;
                // What was drawn last lies on top.
                if let Some((_, action)) =
                    hits.actions.iter().rev().find(|(area, _)| area.contains(at))
                {
                    return Some(Msg::Act(*action));
                }
                if let Some((area, range)) = chart() {
                    self.drag = Drag::Pan(area.width, event.column);
                    let number = panel().map(|(_, number)| *number);
                    return place(*area, *range, event.column).map(|place| Msg::At(number, place));
                }
                let (area, number) = panel()?;
                self.drag = Drag::Steps(event.column);
                let Rect { x, y, .. } = *area;
                Some(Msg::Click(*number, event.column - x, event.row - y))
            }
            MouseEventKind::Down(MouseButton::Right) => {
                self.drag = chart()
                    .map_or(Drag::None, |(area, range)| Drag::Sweep(*area, *range, event.column));
                None
            }
            MouseEventKind::Drag(MouseButton::Left) => match self.drag {
                // The paper follows the hand: to the right means earlier.
                Drag::Pan(width, from) if event.column != from => {
                    self.drag = Drag::Pan(width, event.column);
                    let columns = f64::from(event.column) - f64::from(from);
                    Some(Msg::Pan(columns / f64::from(width.max(1))))
                }
                Drag::Steps(from) if event.column.abs_diff(from) >= DRAG_COLUMNS => {
                    self.drag = Drag::Steps(event.column);
                    let is_right = event.column > from;
                    Some(Msg::Act(if is_right { Action::PanLeft } else { Action::PanRight }))
                }
                _ => None,
            },
            MouseEventKind::Drag(MouseButton::Right) => match self.drag {
                // The cursor shows where the stretch will end.
                Drag::Sweep(area, range, _) => {
                    place(area, range, event.column).map(|place| Msg::At(None, place))
                }
                _ => None,
            },
            MouseEventKind::Up(_) => match std::mem::take(&mut self.drag) {
                Drag::Sweep(area, range, from) if event.column.abs_diff(from) >= SWEEP_COLUMNS => {
                    let of = |column| place(area, range, column);
                    Some(Msg::Sweep(of(from)?, of(event.column)?))
                }
                _ => None,
            },
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

    #[test]
    fn a_chart_goes_along_with_the_left_button_and_zooms_with_the_right_one() {
        let hits = Hits {
            actions: Vec::new(),
            panels: vec![(Rect::new(0, 0, 60, 12), 0)],
            charts: vec![(Rect::new(10, 2, 40, 8), AxisRange::new(0.0, 800.0, false))],
        };
        let mut mouse = Mouse::default();
        let mut act = |kind, x| mouse.message(event(kind, x, 4), &hits, false);
        let (left, right) = (MouseButton::Left, MouseButton::Right);
        assert!(matches!(act(MouseEventKind::Down(left), 20), Some(Msg::At(Some(0), 210.0))));
        assert!(act(MouseEventKind::Drag(left), 20).is_none());
        assert!(matches!(act(MouseEventKind::Drag(left), 24), Some(Msg::Pan(0.1))));
        assert!(matches!(act(MouseEventKind::Drag(left), 20), Some(Msg::Pan(-0.1))));
        assert!(act(MouseEventKind::Up(left), 20).is_none());
        assert!(act(MouseEventKind::Drag(left), 30).is_none(), "the button is up");
        assert!(act(MouseEventKind::Down(right), 30).is_none());
        assert!(matches!(act(MouseEventKind::Drag(right), 40), Some(Msg::At(None, 610.0))));
        let Some(Msg::Sweep(from, to)) = act(MouseEventKind::Up(right), 70) else { panic!() };
        assert_eq!((from.round(), to.round()), (410.0, 790.0), "the edge, where it goes beyond");
        assert!(act(MouseEventKind::Down(right), 30).is_none());
        assert!(act(MouseEventKind::Up(right), 31).is_none(), "a click is no stretch");
        assert!(act(MouseEventKind::Down(right), 2).is_none());
        assert!(act(MouseEventKind::Up(right), 30).is_none(), "it begins in a chart");
    }
}
