//! Everything on the screen, and what changes it. Nothing here draws, reads a clock or touches a file:
//! messages bring time, events and keys in, [`Effect`]s carry wishes out.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::runlog::Event;
use crate::runlog::status::Status;
use crate::runlog::summary::RunRecord;
use crate::series::Axis;

use super::action::{Action, Effect, ViewId};
use super::model::{Metric, Preview, RunModel};
use super::source::Facts;
use super::theme::Theme;
use super::views;

/// What comes in.
#[derive(Debug, Clone)]
pub enum Msg {
    /// The time, in milliseconds since 1970.
    Tick(i64),
    /// Events of the run at that place.
    Events(usize, Vec<Event>),
    /// What the run's lock and log say.
    Status(usize, Status),
    /// The runs of the folder were read again.
    Runs(Vec<RunRecord>),
    /// A key or a click asked for this.
    Act(Action),
    /// A click in a panel, in cells from the panel's corner; the panel as the view numbered it.
    Click(usize, u16, u16),
    /// Text for the line that is being edited: a filter, the palette, a setting.
    Key(ratatui::crossterm::event::KeyEvent),
    /// The screen has another size.
    Resize(u16, u16),
    /// What the browser shows of a run that is not open.
    Preview(PathBuf, Box<Preview>),
    /// A run was read from its files, anew.
    Loaded(usize, Box<RunModel>),
    /// What a run's files say besides its log.
    Facts(usize, Box<Facts>),
    /// A line for the user.
    Notice(String),
}

/// What all charts share.
#[derive(Debug, Clone, PartialEq)]
pub struct Axes {
    /// The horizontal axis.
    pub x: Axis,
    /// Whether it is logarithmic.
    pub log_x: bool,
    /// Whether the vertical axis of a metric is logarithmic.
    pub log_y: HashMap<Metric, bool>,
    /// Half-life of the smoothing in units of the axis; none: raw.
    pub half_life: Option<f64>,
    /// Whether the raw line stands behind the smoothed one.
    pub shows_raw: bool,
    /// Whether the range leaves out the extreme percent on either side.
    pub ignores_outliers: bool,
    /// One cursor for all charts, on the axis; none: off.
    pub cursor: Option<f64>,
    /// The part of the axis that is shown; none: all of it, following the newest.
    pub window: Option<(f64, f64)>,
}

impl Default for Axes {
    fn default() -> Self {
        Self {
            x: Axis::Step,
            log_x: false,
            log_y: HashMap::new(),
            half_life: None,
            shows_raw: true,
            ignores_outliers: false,
            cursor: None,
            window: None,
        }
    }
}

/// What stands over the view.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Overlay {
    /// Nothing.
    #[default]
    None,
    /// All keys, searchable.
    Help(views::help::State),
    /// The command line.
    Palette(views::palette::State),
    /// Settings of the run in flight.
    Editor(views::editor::State),
    /// A question before something is lost: the words, and what happens on yes.
    Confirm(String, Vec<Effect>),
}

/// The app.
#[derive(Debug, Clone)]
pub struct App {
    /// The runs that are open, in the order of their letters A, B, C, …
    pub runs: Vec<RunModel>,
    /// The one that header and single-run views show.
    pub active: usize,
    /// The runs of the folder, for the browser.
    pub browser: Vec<RunRecord>,
    /// The view on the screen.
    pub view: ViewId,
    /// What stands over it.
    pub overlay: Overlay,
    /// What all charts share.
    pub axes: Axes,
    /// Whether the display stands still while the run goes on.
    pub is_frozen: bool,
    /// Whether the panel in focus has the whole view.
    pub is_maximised: bool,
    /// Colours and signs.
    pub theme: Theme,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
    /// A line for the user above the footer, with the time at which it goes.
    pub notice: Option<(String, i64)>,
    /// The run of this process; none when only looking.
    pub own: Option<usize>,
    /// State of the views.
    pub train: views::train::State,
    /// State of the comparison.
    pub compare: views::compare::State,
    /// State of the switch timeline.
    pub switches: views::switches::State,
    /// State of the ranks.
    pub rank: views::rank::State,
    /// State of the machine's view.
    pub system: views::system::State,
    /// State of log and samples.
    pub logs: views::logs::State,
    /// State of the browser.
    pub list: views::runs::State,
}

impl App {
    /// An app that shows the given runs.
    pub fn new(runs: Vec<RunModel>, theme: Theme) -> Self {
        Self {
            runs,
            active: 0,
            browser: Vec::new(),
            view: ViewId::default(),
            overlay: Overlay::None,
            axes: Axes::default(),
            is_frozen: false,
            is_maximised: false,
            theme,
            now_ms: 0,
            notice: None,
            own: None,
            train: views::train::State::default(),
            compare: views::compare::State::default(),
            switches: views::switches::State::default(),
            rank: views::rank::State::default(),
            system: views::system::State::default(),
            logs: views::logs::State::default(),
            list: views::runs::State::default(),
        }
    }

    /// The run that header and single-run views show.
    pub fn run(&self) -> Option<&RunModel> {
        self.runs.get(self.active)
    }

    /// Takes a message in; what it asks of the world comes back.
    pub fn update(&mut self, msg: Msg) -> Vec<Effect> {
        match msg {
            Msg::Tick(now_ms) => self.now_ms = now_ms,
            Msg::Events(run, events) => {
                if let Some(run) = self.runs.get_mut(run) {
                    events.iter().for_each(|event| run.apply(event));
                }
            }
            Msg::Status(run, status) => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.status = status;
                }
            }
            Msg::Runs(runs) => {
                self.browser = runs;
                return views::runs::wanted(self);
            }
            Msg::Preview(path, preview) => {
                self.list.previews.insert(path, *preview);
            }
            Msg::Loaded(place, model) => {
                if let Some(run) = self.runs.get_mut(place) {
                    *run = *model;
                }
            }
            Msg::Facts(run, facts) => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.set_facts(*facts);
                }
            }
            Msg::Notice(text) => self.notice = Some((text, self.now_ms + 5000)),
            Msg::Act(Action::Quit) => return vec![Effect::Quit],
            Msg::Act(Action::View(view)) => self.view = view,
            Msg::Act(action) => return views::update(self, action),
            Msg::Click(..) | Msg::Key(_) | Msg::Resize(..) => {}
        }
        Vec::new()
    }
}
