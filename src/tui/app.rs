//! Everything on the screen, and what changes it. Nothing here draws, reads a clock or touches a file:
//! messages bring time, events and keys in, [`Effect`]s carry wishes out.

use std::collections::HashMap;
use std::path::PathBuf;

use ratatui::crossterm::event::KeyEvent;

use crate::runlog::body::{Body, Log};
use crate::runlog::status::{LastWord, Status};
use crate::runlog::summary::RunRecord;
use crate::runlog::{Event, Level};
use crate::series::{Axis, Moment};

use super::action::{Action, Effect, ViewId};
use super::edit::Line;
use super::keymap::{self, KEYMAP, Keymap};
use super::model::{At, Metric, Preview, RunModel};
use super::source::Facts;
use super::theme::Theme;
use super::views;

mod acts;
mod axes;
mod keys;

/// How long a notice stands.
const NOTICE_MS: i64 = 6000;

/// How old an event may be to be news.
const NEWS_MS: i64 = 10_000;

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
    Key(KeyEvent),
    /// The screen has another size.
    Resize(u16, u16),
    /// A key was pressed; the table of keys says what it means here.
    Press(KeyEvent),
    /// Text was pasted.
    Paste(String),
    /// Another run was opened; whether it is the one of this process.
    Add(Box<RunModel>, bool),
    /// A line that something in this process printed while the screen was drawn on.
    Stray(String),
    /// The work of this process is over; the screen stays.
    Over,
    /// A line for the user.
    Notice(String),
    /// What the terminal reports. For the loop, which makes other messages of it.
    Terminal(ratatui::crossterm::event::Event),
    /// A signal came. For the loop.
    Signal(i32),
    /// A click in a chart: its panel, and the place on the horizontal axis.
    At(Option<usize>, f64),
    /// A chart was dragged to the right by this share of its width; to the left, below 0.
    Pan(f64),
    /// A stretch of the horizontal axis was swept over, from its one end to the other.
    Sweep(f64, f64),
    /// Leave at once: what the screen was there for is over. For the loop.
    Leave,
    /// What the browser shows of a run that is not open.
    Preview(PathBuf, Box<Preview>),
    /// A run was read from its files, anew.
    Loaded(usize, Box<RunModel>),
    /// What a run's files say besides its log.
    Facts(usize, Box<Facts>),
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
    /// The vertical range of a metric that is held.
    pub y_locks: HashMap<Metric, (f64, f64)>,
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
            y_locks: HashMap::new(),
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
    /// The line of the view's filter; the text that stood there before.
    Filter(Line, String),
}

/// The app.
#[allow(clippy::struct_excessive_bools)] // switches of the display that have nothing to do with each other
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
    /// What keys do.
    pub keys: Keymap,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
    /// A line for the user above the footer, with the time at which it goes.
    pub notice: Option<(String, i64)>,
    /// The run of this process; none when only looking.
    pub own: Option<usize>,
    /// Whether this process trains: leaving the screen is then asked about.
    pub is_training: bool,
    /// Whether the training of this process is over.
    pub is_over: bool,
    /// Commands that were typed, oldest first.
    pub history: Vec<String>,
    /// Alerts that were taken off the screen, by run.
    pub dismissed: HashMap<usize, usize>,
    /// What came while the display stood still.
    held: Vec<(usize, Vec<Event>)>,
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
            keys: KEYMAP,
            now_ms: 0,
            notice: None,
            own: None,
            is_training: false,
            is_over: false,
            history: Vec::new(),
            dismissed: HashMap::new(),
            held: Vec::new(),
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

    /// The key of an action in the view on the screen, for hints.
    pub fn key(&self, action: Action) -> &'static str {
        self.key_in(self.view, action)
    }

    /// The key of an action in a view.
    pub fn key_in(&self, view: ViewId, action: Action) -> &'static str {
        keymap::binding(self.keys, view, action).map_or("", keymap::Binding::first_key)
    }

    /// Takes a message in; what it asks of the world comes back.
    pub fn update(&mut self, msg: Msg) -> Vec<Effect> {
        match msg {
            Msg::Tick(now_ms) => {
                self.now_ms = now_ms;
                self.notice = self.notice.take().filter(|(_, until)| now_ms < *until);
            }
            Msg::Events(run, events) => {
                let news = self.news(run, &events);
                if self.is_frozen {
                    self.held.push((run, events));
                } else {
                    self.take_in(run, &events);
                }
                return news;
            }
            Msg::Status(run, status) => {
                if let Some(run) = self.runs.get_mut(run) {
                    let was_live = std::mem::replace(&mut run.status, status).is_live();
                    run.replay = None;
                    if status == Status::Crashed && was_live && run.revision > 0 {
                        return vec![Effect::Notify(format!("fullrank: {} crashed", run.name()))];
                    }
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
            Msg::Act(action) => return self.act(action),
            Msg::Press(key) => return self.press(key),
            Msg::Paste(text) => self.paste(&text),
            Msg::Click(..) | Msg::Key(_) => return views::input(self, &msg),
            Msg::At(panel, place) => {
                self.axes.cursor = Some(place);
                if let Some(panel) = panel {
                    return views::input(self, &Msg::Click(panel, 0, 0));
                }
            }
            Msg::Pan(share) => self.pan(-share),
            Msg::Sweep(from, to) => self.show_stretch(from.min(to), from.max(to)),
            Msg::Add(run, is_own) => {
                if is_own && self.own.is_none() {
                    self.own = Some(self.runs.len());
                    self.active = self.runs.len();
                }
                self.runs.push(*run);
            }
            Msg::Stray(text) => self.stray(text),
            Msg::Over => self.is_over = true,
            Msg::Notice(text) => self.say(text),
            Msg::Resize(..) | Msg::Terminal(_) | Msg::Signal(_) | Msg::Leave => {}
        }
        Vec::new()
    }

    /// Shows a line above the footer for a few seconds.
    pub fn say(&mut self, text: impl Into<String>) {
        self.notice = Some((text.into(), self.now_ms.saturating_add(NOTICE_MS)));
    }

    /// Lets the display go on, with all that came while it stood still.
    fn thaw(&mut self) {
        self.is_frozen = false;
        for (run, events) in std::mem::take(&mut self.held) {
            self.take_in(run, &events);
        }
    }

    /// What a user who looks elsewhere should hear of: warnings and ends that are new, not those of a log that is read.
    fn news(&self, run: usize, events: &[Event]) -> Vec<Effect> {
        let name = || self.runs.get(run).map_or_else(String::new, RunModel::name);
        let is_new = |event: &&Event| self.now_ms.saturating_sub(event.ts) < NEWS_MS;
        let words = |event: &Event| match &event.body {
            Body::Alert(alert) if alert.level != Level::Info => {
                Some(format!("fullrank: {}: {}", name(), alert.what))
            }
            Body::End(end) => {
                let status = Status::of(false, LastWord::Ended(end.status));
                Some(format!("fullrank: {} {status} at step {}", name(), event.step))
            }
            _ => None,
        };
        events.iter().filter(is_new).filter_map(words).map(Effect::Notify).collect()
    }

    fn take_in(&mut self, run: usize, events: &[Event]) {
        if let Some(run) = self.runs.get_mut(run) {
            for event in events {
                run.apply(event);
            }
        }
    }

    /// What the process printed beside the screen goes to the log of its run.
    fn stray(&mut self, text: String) {
        let run = self.own.unwrap_or(self.active);
        if let Some(run) = self.runs.get_mut(run) {
            let at = Moment { ts_ms: self.now_ms, ..run.now() };
            let what = Log { level: Level::Info, msg: format!("(stderr) {text}") };
            run.logs.push(At { at, what });
            run.revision += 1;
        } else {
            self.say(text);
        }
    }
}

#[cfg(test)]
mod tests;
