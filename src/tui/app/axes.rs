//! What all charts share: which axis, which part of it, how smooth.

use super::{App, Axes};
use crate::series::Axis;
use crate::tui::action::Action;

/// How much one step of the zoom shows more or less.
const ZOOM: f64 = 2.0;
/// How much of the window one step of a pan moves by.
const PAN: f64 = 0.25;
/// The smallest window, as a part of the whole axis.
const NARROWEST: f64 = 1e-6;
/// The first half-life, as a part of the whole axis.
const FIRST_HALF_LIFE: f64 = 0.002;
/// The longest half-life, as a part of the whole axis.
const LONGEST_HALF_LIFE: f64 = 0.25;

impl App {
    /// Carries out what concerns the axes of all charts; answers whether it was that.
    pub(super) fn act_on_axes(&mut self, action: Action) -> bool {
        match action {
            Action::ZoomIn => self.zoom(1.0 / ZOOM),
            Action::ZoomOut => self.zoom(ZOOM),
            Action::ZoomReset | Action::Follow => self.axes.window = None,
            Action::PanLeft => self.pan(-PAN),
            Action::PanRight => self.pan(PAN),
            Action::CycleX => self.cycle_x(),
            Action::LogX => self.axes.log_x = !self.axes.log_x,
            Action::Smoother => self.smoother(),
            Action::Rougher => self.rougher(),
            Action::RawLine => self.axes.shows_raw = !self.axes.shows_raw,
            Action::IgnoreOutliers => self.axes.ignores_outliers = !self.axes.ignores_outliers,
            Action::LinkCursor => {
                self.axes.cursor = match self.axes.cursor {
                    Some(_) => None,
                    None => self.axes.window.or_else(|| self.extent()).map(|(_, high)| high),
                };
            }
            _ => return false,
        }
        true
    }

    /// The whole axis, over all open runs; none before there is anything on it.
    pub fn extent(&self) -> Option<(f64, f64)> {
        let ends = self.runs.iter().flat_map(|run| {
            let clock = &run.steps.clock;
            [clock.at(0, self.axes.x), clock.at(clock.len().saturating_sub(1), self.axes.x)]
        });
        let mut ends = ends.filter(|place| place.is_finite());
        let first = ends.next()?;
        let (low, high) =
            ends.fold((first, first), |(low, high), place| (low.min(place), high.max(place)));
        (low < high).then_some((low, high))
    }

    fn zoom(&mut self, factor: f64) {
        let Some((first, last)) = self.extent() else { return };
        let (low, high) = self.axes.window.unwrap_or((first, last));
        let whole = last - first;
        // Around the cursor where it is in sight; else towards the newest.
        let fixed = self.axes.cursor.filter(|place| (low..=high).contains(place)).unwrap_or(high);
        let width = ((high - low) * factor).max(whole * NARROWEST);
        if width >= whole {
            self.axes.window = None;
            return;
        }
        let part = (fixed - low) / (high - low);
        let low = (fixed - width * part).min(last - width).max(first);
        self.axes.window = Some((low, low + width));
    }

    /// Shows a stretch of the axis and nothing else.
    pub(super) fn show_stretch(&mut self, low: f64, high: f64) {
        let Some((first, last)) = self.extent() else { return };
        let (low, high) = (low.max(first), high.min(last));
        if high - low > (last - first) * NARROWEST {
            self.axes.window = Some((low, high));
        }
    }

    /// Moves the window by a part of its width, to later above 0.
    pub(super) fn pan(&mut self, part: f64) {
        let (Some((first, last)), Some((low, high))) = (self.extent(), self.axes.window) else {
            return;
        };
        if self.axes.log_x && low > 0.0 {
            // Evenly in the logarithm; the window keeps its ratio.
            let ratio = high / low;
            let low = (low * ratio.powf(part)).min(last / ratio).max(first.max(f64::MIN_POSITIVE));
            self.axes.window = Some((low, low * ratio));
            return;
        }
        let width = high - low;
        // Axes grow while they are looked at; a window stays inside what there is now.
        let low = (low + width * part).min(last - width).max(first);
        self.axes.window = Some((low, low + width));
    }

    fn cycle_x(&mut self) {
        let before = self.axes.x;
        let old = self.extent();
        let known = |axis: Axis| {
            self.runs
                .iter()
                .any(|run| run.steps.clock.at(run.steps.len().max(1) - 1, axis).is_finite())
        };
        let mut axis = before.next();
        while axis != before && !known(axis) {
            axis = axis.next();
        }
        self.axes = Axes { x: axis, cursor: None, window: None, ..self.axes.clone() };
        // The half-life keeps its share of the axis.
        if let (Some(half_life), Some(old), Some(new)) = (self.axes.half_life, old, self.extent()) {
            self.axes.half_life = Some(half_life * (new.1 - new.0) / (old.1 - old.0));
        }
    }

    fn smoother(&mut self) {
        let Some((first, last)) = self.extent() else { return };
        let whole = last - first;
        let wanted =
            self.axes.half_life.map_or(whole * FIRST_HALF_LIFE, |half_life| 2.0 * half_life);
        self.axes.half_life = Some(round(wanted).min(whole * LONGEST_HALF_LIFE));
    }

    fn rougher(&mut self) {
        let Some((first, last)) = self.extent() else { return };
        let smallest = (last - first) * FIRST_HALF_LIFE / 2.0;
        self.axes.half_life =
            self.axes.half_life.map(|half_life| half_life / 2.0).filter(|half| *half >= smallest);
    }
}

/// To one significant digit.
fn round(number: f64) -> f64 {
    if number <= 0.0 || !number.is_finite() {
        return number;
    }
    let unit = 10_f64.powf(number.log10().floor());
    (number / unit).round() * unit
}
