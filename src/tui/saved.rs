//! What a user chose on the screen, kept with the run as `view.toml`: the view, the axes, the smoothing.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::action::ViewId;
use super::app::App;
use super::model::Metric;
use crate::error::{Error, Result};
use crate::series::Axis;

/// The file in the folder of a run or of a comparison.
pub const FILE: &str = "view.toml";

/// What is kept. Names that this program does not know are left out when it is taken up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// The view on the screen, by its name.
    pub view: String,
    /// The horizontal axis, by its name.
    pub x: String,
    /// Whether it is logarithmic.
    pub log_x: bool,
    /// Whether the vertical axis of a metric is logarithmic, by the metric's name.
    pub log_y: BTreeMap<String, bool>,
    /// The vertical range of a metric that is held, by the metric's name.
    pub y_locks: BTreeMap<String, (f64, f64)>,
    /// Half-life of the smoothing in units of the axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_life: Option<f64>,
    /// Whether the raw line stands behind the smoothed one.
    pub shows_raw: bool,
    /// Whether the range leaves out the extreme percent on either side.
    pub ignores_outliers: bool,
}

impl Default for Saved {
    fn default() -> Self {
        Self {
            view: String::new(),
            x: String::new(),
            log_x: false,
            log_y: BTreeMap::new(),
            y_locks: BTreeMap::new(),
            half_life: None,
            shows_raw: true,
            ignores_outliers: false,
        }
    }
}

impl Saved {
    /// What a user chose in an app.
    pub fn of(app: &App) -> Self {
        let log_y = app.axes.log_y.iter().map(|(metric, is_log)| (metric.name().into(), *is_log));
        let y_locks = app.axes.y_locks.iter().map(|(metric, held)| (metric.name().into(), *held));
        Self {
            view: app.view.title().into(),
            x: app.axes.x.name().into(),
            log_x: app.axes.log_x,
            log_y: log_y.collect(),
            y_locks: y_locks.collect(),
            half_life: app.axes.half_life,
            shows_raw: app.axes.shows_raw,
            ignores_outliers: app.axes.ignores_outliers,
        }
    }

    /// Chooses the same in an app.
    pub fn put_in(&self, app: &mut App) {
        if let Some(view) = ViewId::ALL.into_iter().find(|view| view.title() == self.view) {
            app.view = view;
        }
        if let Some(axis) = Axis::ALL.into_iter().find(|axis| axis.name() == self.x) {
            app.axes.x = axis;
        }
        app.axes.log_x = self.log_x;
        let known = Metric::ALL.into_iter();
        let log_y = known.filter_map(|metric| Some((metric, *self.log_y.get(metric.name())?)));
        app.axes.log_y = log_y.collect();
        let held = |metric: Metric| {
            let (low, high) = *self.y_locks.get(metric.name())?;
            (low.is_finite() && high.is_finite() && low < high).then_some((metric, (low, high)))
        };
        app.axes.y_locks = Metric::ALL.into_iter().filter_map(held).collect();
        app.axes.half_life =
            self.half_life.filter(|half_life| half_life.is_finite() && *half_life > 0.0);
        app.axes.shows_raw = self.shows_raw;
        app.axes.ignores_outliers = self.ignores_outliers;
    }

    /// Reads what was kept in a folder. One that is missing or damaged is none: a choice of axes is not worth a word.
    pub fn read(folder: &Path) -> Option<Self> {
        toml::from_str(&std::fs::read_to_string(folder.join(FILE)).ok()?).ok()
    }

    /// Keeps it in a folder.
    ///
    /// Errors: `Error::Io` where the folder cannot be written to.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = toml::to_string(self)
            .map_err(|error| Error::io("write", &path)(std::io::Error::other(error)))?;
        crate::formats::atomic::write_atomically(&path, text.as_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests may
mod tests {
    use super::*;
    use crate::tui::theme::Theme;

    fn app() -> App {
        App::new(Vec::new(), Theme::default())
    }

    #[test]
    fn what_was_chosen_is_there_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Saved::read(folder.path()), None);
        let mut chosen = app();
        chosen.view = ViewId::Rank;
        chosen.axes.x = Axis::Tokens;
        chosen.axes.log_x = true;
        chosen.axes.log_y.insert(Metric::GradNorm, true);
        chosen.axes.log_y.insert(Metric::Loss, false);
        chosen.axes.y_locks.insert(Metric::Loss, (2.5, 4.0));
        chosen.axes.half_life = Some(12.5);
        chosen.axes.shows_raw = false;
        Saved::of(&chosen).write(folder.path()).unwrap();
        let mut later = app();
        Saved::read(folder.path()).unwrap().put_in(&mut later);
        assert_eq!((later.view, &later.axes), (chosen.view, &chosen.axes));
        Saved::of(&app()).write(folder.path()).unwrap();
        Saved::read(folder.path()).unwrap().put_in(&mut later);
        assert_eq!((later.view, &later.axes), (app().view, &app().axes));
    }

    #[test]
    fn a_damaged_file_and_unknown_names_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "view = [").unwrap();
        assert_eq!(Saved::read(folder.path()), None);
        let newer = "view = \"Galaxy\"\nx = \"parsecs\"\nhalf_life = -1.0\ncolour = 3\n[y_locks]\nloss = [4.0, 2.0]\n[log_y]\n\"new\" = true\n";
        std::fs::write(folder.path().join(FILE), newer).unwrap();
        let mut app = app();
        Saved::read(folder.path()).unwrap().put_in(&mut app);
        let fresh = App::new(Vec::new(), Theme::default());
        assert_eq!((app.view, app.axes), (fresh.view, fresh.axes));
    }
}
