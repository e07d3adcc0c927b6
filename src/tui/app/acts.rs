//! What actions do that belong to no single view: overlays, the run, leaving. The rest goes to the view.

use super::{App, Overlay};
use crate::runlog::{Level, control};
use crate::tui::action::{Action, Effect, ViewId};
use crate::tui::edit::Line;
use crate::tui::views;

impl App {
    /// Carries an action out.
    pub(in crate::tui) fn act(&mut self, action: Action) -> Vec<Effect> {
        match action {
            Action::View(view) => self.show(view),
            Action::Help => self.overlay = Overlay::Help(views::help::State::default()),
            Action::Palette => self.overlay = Overlay::Palette(views::palette::State::default()),
            Action::Filter => match views::filter(self) {
                Some(text) => {
                    let text = text.to_owned();
                    self.overlay = Overlay::Filter(Line::new(text.clone()), text);
                }
                None => self.say("nothing to filter in this view"),
            },
            Action::Edit => return self.edit(),
            Action::Freeze if self.is_frozen => self.thaw(),
            Action::Freeze => self.is_frozen = true,
            Action::Maximise => self.is_maximised = !self.is_maximised,
            Action::PrevRun => self.step_run(self.runs.len().saturating_sub(1)),
            Action::NextRun => self.step_run(1),
            Action::JumpAlert => return self.jump(),
            Action::DismissAlert => self.dismiss(),
            Action::Quit => return self.quit(),
            Action::Detach => {
                return if self.is_training { vec![Effect::Detach] } else { vec![Effect::Quit] };
            }
            Action::Interrupt => {
                return if self.is_training && !self.is_over {
                    let key = self.key(Action::Interrupt);
                    self.say(format!(
                        "stopping after this update, with a checkpoint; {key} again: at once"
                    ));
                    vec![Effect::Interrupt]
                } else {
                    vec![Effect::Quit]
                };
            }
            Action::Suspend => return vec![Effect::Suspend],
            Action::PauseResume => {
                let is_paused = self.run().is_some_and(|run| run.is_paused);
                return self.command(if is_paused { "resume" } else { "pause" });
            }
            Action::Checkpoint => return self.command("checkpoint"),
            Action::Sample => return self.command("sample"),
            Action::Validate => return self.command("eval"),
            Action::Spectra => return self.command("spectra"),
            Action::Unload => return self.command("unload"),
            Action::Stop => {
                let effects = self.command("stop");
                if !effects.is_empty() {
                    let words = "Stop the run after this update, with a checkpoint?";
                    self.overlay = Overlay::Confirm(words.into(), effects);
                }
            }
            Action::ExportView => return vec![Effect::Export(true)],
            Action::Back if self.is_maximised => self.is_maximised = false,
            // In the log this is about messages.
            Action::Follow if self.view == ViewId::Logs => return views::update(self, action),
            _ if self.act_on_axes(action) => {}
            _ => return views::update(self, action),
        }
        Vec::new()
    }

    fn show(&mut self, view: ViewId) {
        if self.view != view {
            self.view = view;
            self.is_maximised = false;
        }
    }

    fn step_run(&mut self, by: usize) {
        if !self.runs.is_empty() {
            self.active = (self.active + by) % self.runs.len();
        }
    }

    /// A command for the run on the screen; nothing where it is not live.
    pub(in crate::tui) fn command(&mut self, word: &str) -> Vec<Effect> {
        match control::Action::parse(word, None) {
            Ok(action) => self.send(action),
            Err(error) => {
                self.say(error.to_string());
                Vec::new()
            }
        }
    }

    /// Sends a command to the run on the screen; where it is not live, says so.
    pub(in crate::tui) fn send(&mut self, action: control::Action) -> Vec<Effect> {
        let Some(run) = self.run() else {
            self.say("no run is open");
            return Vec::new();
        };
        if !run.takes_commands() {
            let state = run.state();
            self.say(format!("the run is {state}: it takes no commands"));
            return Vec::new();
        }
        self.say(format!("sent: {action}; the run acts after its current update"));
        vec![Effect::Send(self.active, action)]
    }

    fn edit(&mut self) -> Vec<Effect> {
        let Some(run) = self.run() else {
            self.say("no run is open");
            return Vec::new();
        };
        if run.takes_commands() {
            self.overlay = Overlay::Editor(views::editor::State::of(run));
        } else {
            let state = run.state();
            self.say(format!("the run is {state}: its settings cannot be changed"));
        }
        Vec::new()
    }

    /// Leaving. What still trains goes on with lines, after a question.
    fn quit(&mut self) -> Vec<Effect> {
        if self.is_maximised {
            self.is_maximised = false;
            return Vec::new();
        }
        if self.is_training && !self.is_over {
            let words = "Leave the screen? The run goes on with lines; Ctrl-C stops it there.";
            self.overlay = Overlay::Confirm(words.into(), vec![Effect::Detach]);
            return Vec::new();
        }
        vec![Effect::Quit]
    }

    /// The newest warning or error of the run on the screen that was not taken off, and how many there are.
    pub fn alert(&self) -> Option<(&crate::tui::model::At<crate::runlog::Alert>, usize)> {
        let run = self.run()?;
        let skip = self.dismissed.get(&self.active).copied().unwrap_or(0);
        let mut open = run.alerts.iter().skip(skip).filter(|alert| alert.what.level != Level::Info);
        let count = open.clone().count();
        open.next_back().map(|alert| (alert, count))
    }

    fn dismiss(&mut self) {
        let Some(run) = self.runs.get(self.active) else { return };
        self.dismissed.insert(self.active, run.alerts.len());
    }

    /// Moves the cursor of all charts to the newest alert, and the window with it.
    fn jump(&mut self) -> Vec<Effect> {
        let Some((alert, _)) = self.alert() else {
            self.say("no alert");
            return Vec::new();
        };
        let at = alert.at;
        let Some(place) = self.run().map(|run| run.steps.clock.place(at, self.axes.x)) else {
            return Vec::new();
        };
        if place.is_finite() {
            self.axes.cursor = Some(place);
            if let Some((low, high)) = self.axes.window
                && !(low..=high).contains(&place)
            {
                let half = (high - low) / 2.0;
                self.axes.window = Some((place - half, place + half));
            }
        }
        Vec::new()
    }
}
