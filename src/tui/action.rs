//! What a key, a click or a command of the palette asks for, and what follows outside the app.

use std::path::PathBuf;

use crate::runlog::control;

/// The views, in the order of their digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ViewId {
    /// `1`: the run as it trains.
    #[default]
    Train,
    /// `2`: several runs on a fair axis.
    Compare,
    /// `3`: switches, merges, refreshes over time.
    Switches,
    /// `4`: spectra and ranks.
    Rank,
    /// `5`: memory, time and the machine.
    System,
    /// `6`: log and samples.
    Logs,
    /// `7`: the runs of a folder.
    Runs,
}

impl ViewId {
    /// All views, in order.
    pub const ALL: [Self; 7] = [
        Self::Train,
        Self::Compare,
        Self::Switches,
        Self::Rank,
        Self::System,
        Self::Logs,
        Self::Runs,
    ];

    /// Its name in the tabs.
    pub fn title(self) -> &'static str {
        match self {
            Self::Train => "Train",
            Self::Compare => "Compare",
            Self::Switches => "Switches",
            Self::Rank => "Rank",
            Self::System => "System",
            Self::Logs => "Logs",
            Self::Runs => "Runs",
        }
    }
}

/// Everything that a key can do. Those of the second group act on the run and stand on upper-case keys only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Go to a view.
    View(ViewId),
    /// The next panel of the view.
    NextPanel,
    /// The panel before.
    PrevPanel,
    /// Cursor or selection left.
    Left,
    /// Cursor or selection right.
    Right,
    /// Cursor or selection up.
    Up,
    /// Cursor or selection down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Open what is selected.
    Open,
    /// Close what is open, one level.
    Back,
    /// Give the panel the whole view.
    Maximise,
    /// Filter what is shown.
    Filter,
    /// The next hit.
    FindNext,
    /// The hit before.
    FindPrev,
    /// Stop the display, not the run.
    Freeze,
    /// Follow the newest.
    Follow,
    /// Copy the value at the cursor or the panel to the clipboard (OSC 52).
    Copy,
    /// Write the panel as SVG, PNG, CSV and JSON.
    Export,
    /// Write the whole view, and all numbers of the run.
    ExportView,
    /// Zoom the horizontal axis in.
    ZoomIn,
    /// Zoom it out.
    ZoomOut,
    /// All of the axis again, following the newest.
    ZoomReset,
    /// Move the window to earlier.
    PanLeft,
    /// Move the window to later.
    PanRight,
    /// The next horizontal axis.
    CycleX,
    /// Logarithmic vertical axis.
    LogY,
    /// Hold the vertical range of the metric, or let it follow the values.
    LockY,
    /// Logarithmic horizontal axis.
    LogX,
    /// Twice the half-life of the smoothing.
    Smoother,
    /// Half of it; below the smallest: none.
    Rougher,
    /// The raw line behind the smoothed one.
    RawLine,
    /// One cursor for all charts.
    LinkCursor,
    /// Leave the extreme one percent on either side out of the range.
    IgnoreOutliers,
    /// The next metric of the panel.
    NextMetric,
    /// Which matrix or window the panel shows.
    NextMatrix,
    /// Pin the run for comparison.
    Pin,
    /// Sort by the next column; on the same again: the other way round.
    Sort,
    /// Make the run the baseline.
    Baseline,
    /// Differences of configurations.
    Diff,
    /// A, B or both sides.
    Side,
    /// Normalise by the layer.
    Normalise,
    /// Group by block or by kind.
    Group,
    /// An earlier measurement.
    Earlier,
    /// A later measurement.
    Later,
    /// Play through time.
    Play,
    /// The next level of messages.
    Level,
    /// Wrap long lines.
    Wrap,
    /// To what the newest alert is about.
    JumpAlert,
    /// Take the newest alert off the screen.
    DismissAlert,
    /// All keys, searchable.
    Help,
    /// The command line.
    Palette,
    /// Leave, or close what is open.
    Quit,
    /// Put the program in the background.
    Suspend,
    /// The run before among those that are open.
    PrevRun,
    /// The next run among those that are open.
    NextRun,

    /// Pause the run, or let it go on.
    PauseResume,
    /// Write a checkpoint after this update.
    Checkpoint,
    /// Let the model write text now.
    Sample,
    /// Measure the validation loss now.
    Validate,
    /// Measure spectra and ranks now.
    Spectra,
    /// Write a checkpoint and free the memory of the device until the run goes on.
    Unload,
    /// Stop after this update, with a checkpoint.
    Stop,
    /// Leave the screen and let the run go on.
    Detach,
    /// Change settings of the run in flight.
    Edit,
    /// Let a run that has stopped go on from its checkpoint.
    ResumeRun,
    /// A new run with this one's configuration.
    CloneRun,
    /// Move the run to the trash.
    DeleteRun,
    /// Ctrl-C: stop the run as a signal does.
    Interrupt,
}

/// What `update` asks the loop to do outside the app.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Append a command to a run's control file; the place of the run in [`App::runs`](super::app::App::runs).
    Send(usize, control::Action),
    /// Put text on the clipboard through the terminal.
    Copy(String),
    /// Write the panel in focus to files beside the run; with `true` the whole view.
    Export(bool),
    /// Open a run of the browser beside those that are open.
    Open(PathBuf),
    /// Start `fullrank resume` for a run, detached.
    Resume(PathBuf),
    /// Start `fullrank train --config` with a run's configuration, detached.
    Clone(PathBuf),
    /// Move a run to the trash.
    Trash(PathBuf),
    /// Open a run beside those that are open, and stay where the screen is.
    OpenBeside(PathBuf),
    /// Read what the browser shows of a run; the answer is [`Msg::Preview`](super::app::Msg::Preview).
    Preview(PathBuf),
    /// Tell the user who looks elsewhere: something went wrong, or a run is over.
    Notify(String),
    /// Leave the screen; the run goes on with lines.
    Detach,
    /// Put the program in the background.
    Suspend,
    /// Interrupt the run of this process as SIGINT does.
    Interrupt,
    /// Leave.
    Quit,
}
