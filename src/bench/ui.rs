//! The screen at its limits: eight long runs loaded, drawn and gone through with keys, and a live run for a while.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SEED;
use crate::error::{Error, Result};
use crate::random::stream;
use crate::run::machine::Machine;
use crate::runlog::{Eval, Event, Run, RunDir, RunWriter, Status, Step};
use crate::tui::action::{Action, ViewId};
use crate::tui::app::{App, Msg};
use crate::tui::keymap;
use crate::tui::measure::Screen;
use crate::tui::model::RunModel;
use crate::tui::source::load;
use crate::tui::term::paint::{Budget, Dirt};
use crate::tui::theme::Theme;

/// Runs on the screen at once.
pub const RUNS: usize = 8;
/// Sizes of the screen.
const SIZES: [(u16, u16); 2] = [(100, 30), (200, 60)];
/// Views with long series.
const VIEWS: [ViewId; 2] = [ViewId::Train, ViewId::Compare];
/// Frames whose median counts.
const FRAMES: usize = 31;
/// Frames after which series of ten million rows are smoothed.
const FRAMES_TO_SETTLE: usize = 160;
/// Keys that are pressed for each size and view.
const KEYS: usize = 200;
/// Frames a second of a live run at most, seconds of it, and updates for each frame.
const LIVE_HZ: u64 = 10;
#[cfg(not(test))]
const LIVE_S: u64 = 20;
#[cfg(test)]
const LIVE_S: u64 = 2;
const LIVE_UPDATES: u64 = 2;
/// Updates between two evaluations.
const EVAL_EVERY: u64 = 500;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct UiReport {
    /// Updates of each run.
    pub updates: u64,
    /// Seconds to load one run from its log.
    pub load_s: f64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Bytes that the series of one update take.
    pub bytes_per_update: f64,
    /// Memory of the process with all runs loaded.
    pub rss_bytes: Option<u64>,
    /// Frames, by size and view.
    pub frames: Vec<FrameRow>,
    /// Bytes a second to the terminal with a live run, at the smaller size.
    pub live_bytes_per_s: f64,
    /// Frames a second that were drawn of it.
    pub live_frames_per_s: f64,
    /// Share of the time that writing down, taking in and drawing a live run takes the threads that do it.
    pub live_share: f64,
    /// The same as processor time of all threads of the process, where the system tells.
    pub live_cpu_share: Option<f64>,
}

/// Frames of one view at one size.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameRow {
    /// Columns and rows of the screen.
    pub size: (u16, u16),
    /// The view.
    pub view: &'static str,
    /// Milliseconds of the first frame.
    pub first_ms: f64,
    /// Median milliseconds of a frame.
    pub draw_ms: f64,
    /// Milliseconds from a key to its frame: the median, and what 99 of 100 stay below.
    pub key_ms: (f64, f64),
    /// The key that took longest, by its command.
    pub slowest_key: &'static str,
}

impl UiReport {
    /// The documented object.
    pub fn json(&self) -> Value {
        let frames: Vec<Value> = self
            .frames
            .iter()
            .map(|row| {
                json!({
                    "width": row.size.0,
                    "height": row.size.1,
                    "view": row.view,
                    "first_ms": row.first_ms,
                    "draw_ms": row.draw_ms,
                    "key_ms": row.key_ms.0,
                    "key_p99_ms": row.key_ms.1,
                    "slowest_key": row.slowest_key,
                })
            })
            .collect();
        json!({
            "runs": RUNS,
            "updates": self.updates,
            "load_s": self.load_s,
            "log_bytes": self.log_bytes,
            "bytes_per_update": self.bytes_per_update,
            "rss_bytes": self.rss_bytes,
            "frames": frames,
            "live_bytes_per_s": self.live_bytes_per_s,
            "live_frames_per_s": self.live_frames_per_s,
            "live_share": self.live_share,
            "live_cpu_share": self.live_cpu_share,
        })
    }
}

/// Measures with runs of `updates` updates; `tell` hears what is going on.
///
/// Errors: the log cannot be written to the temporary folder, or not read back.
pub fn measure(updates: u64, tell: &mut dyn FnMut(&str)) -> Result<UiReport> {
    let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let dir = RunDir::at(folder.path());
    tell(&format!("writing a log of {updates} updates"));
    let log_bytes = write_log(&dir, updates)?;
    let start = Instant::now();
    let model = load(&dir)?.model;
    let load_s = start.elapsed().as_secs_f64();
    tell(&format!("loaded in {load_s:.2} s; drawing {RUNS} runs"));
    let bytes_per_update = model.steps.bytes() as f64 / updates.max(1) as f64;
    let mut app = App::new(runs(&model), Theme::default());
    app.update(Msg::Tick(START_MS));
    let rss_bytes = Machine::default().read(dir.path()).rss_bytes;
    let mut frames = Vec::new();
    for size in SIZES {
        for view in VIEWS {
            frames.push(measure_frames(&mut app, size, view)?);
        }
    }
    app.runs.truncate(1);
    tell(&format!("watching a live run for {LIVE_S} s"));
    let live = measure_live(&mut app, updates)?;
    Ok(UiReport {
        updates,
        load_s,
        log_bytes,
        bytes_per_update,
        rss_bytes,
        frames,
        live_bytes_per_s: live.bytes_per_s,
        live_frames_per_s: live.frames_per_s,
        live_share: live.screen_share,
        live_cpu_share: live.cpu_share,
    })
}

/// When the invented runs begin, in milliseconds since 1970.
const START_MS: i64 = 1_795_266_131_000;

/// The events of an update: a loss that falls with noise on it.
fn told(step: u64, noise: f64) -> Vec<Event> {
    let loss = 3.0 + 6.0 * (-(step as f64) / 20_000.0).exp() + 0.2 * noise;
    let event = |seq: u64, body| Event { seq, ts: START_MS + 100 * step as i64, step, body };
    let evals = step / EVAL_EVERY;
    let update = Step {
        loss,
        lr: 1e-3 * (1.0 - (step as f64 / 2e6)),
        grad_norm: 0.8 + 0.1 * noise.abs(),
        tokens: 8192 * step,
        active_s: 0.1 * step as f64,
        tok_s: 81_920.0 + 500.0 * noise,
    };
    let mut told = vec![event(1 + step + evals, update.into())];
    if step.is_multiple_of(EVAL_EVERY) {
        told[0].seq -= 1;
        told.push(event(1 + step + evals, Eval { loss, ppl: loss.exp(), tokens: 4096 }.into()));
    }
    told
}

fn noise(draws: &mut crate::random::Stream) -> f64 {
    f64::from(draws.uniform()) - 0.5
}

/// Writes the log; returns its size.
fn write_log(dir: &RunDir, updates: u64) -> Result<u64> {
    let path = dir.events();
    let mut file = BufWriter::new(File::create(&path).map_err(Error::io("create", &path))?);
    let run = Run {
        name: "bench".into(),
        method: "lora".into(),
        steps: 2 * updates,
        tokens_per_step: 8192,
        train_tokens: 100_000_000,
        ..Run::default()
    };
    let first = Event { seq: 1, ts: START_MS, step: 0, body: run.into() };
    let mut draws = stream(SEED, "loss", "bench", 0);
    let mut bytes = 0;
    let events = (1..=updates).flat_map(|step| told(step, noise(&mut draws)));
    for event in std::iter::once(first).chain(events) {
        let line = event.to_line().map_err(|error| Error::io("write", &path)(error.into()))?;
        writeln!(file, "{line}").map_err(Error::io("write", &path))?;
        bytes += line.len() as u64 + 1;
    }
    file.flush().map_err(Error::io("write", &path))?;
    Ok(bytes)
}

/// The run several times, under names of their own.
fn runs(model: &RunModel) -> Vec<RunModel> {
    let named = |place: usize| {
        let mut run = model.clone();
        run.summary.run.name = format!("run-{place}");
        run.summary.run.seed = place as u64;
        run.summary.run.rank = Some(1 << place);
        run.status = Status::Live;
        run
    };
    (0..RUNS).map(named).collect()
}

/// Keys as a user presses them who looks for something: zoom, pan, axes, smoothing, cursor.
const SCRIPT: [Action; 24] = [
    Action::ZoomIn,
    Action::ZoomIn,
    Action::PanLeft,
    Action::PanLeft,
    Action::ZoomOut,
    Action::Smoother,
    Action::Smoother,
    Action::LogX,
    Action::LogY,
    Action::ZoomReset,
    Action::CycleX,
    Action::LinkCursor,
    Action::Left,
    Action::Left,
    Action::Right,
    Action::Rougher,
    Action::RawLine,
    Action::NextMetric,
    Action::LogX,
    Action::IgnoreOutliers,
    Action::LinkCursor,
    Action::NextPanel,
    Action::Maximise,
    Action::Maximise,
];

fn measure_frames(app: &mut App, size: (u16, u16), view: ViewId) -> Result<FrameRow> {
    let fresh = App::new(Vec::new(), Theme::default());
    app.axes = fresh.axes;
    app.axes.half_life = Some(50.0);
    app.update(Msg::Act(Action::View(view)));
    let mut screen = Screen::new(size.0, size.1)?;
    let mut frame = |app: &App| -> Result<f64> {
        let start = Instant::now();
        screen.draw(app)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let first_ms = frame(app)?;
    // The first frames smooth: those that stay count.
    settle(app, &mut frame)?;
    let mut drawn = Vec::new();
    for _ in 0..FRAMES {
        drawn.push(frame(app)?);
    }
    let mut keys = Vec::new();
    let mut slowest = (0.0, SCRIPT[0]);
    for action in SCRIPT.iter().cycle().take(KEYS) {
        let start = Instant::now();
        app.update(Msg::Act(*action));
        frame(app)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if ms > slowest.0 {
            slowest = (ms, *action);
        }
        keys.push(ms);
    }
    settle(app, &mut frame)?;
    Ok(FrameRow {
        size,
        view: view.title(),
        first_ms,
        draw_ms: quantile(&mut drawn, 0.5),
        key_ms: (quantile(&mut keys, 0.5), quantile(&mut keys, 0.99)),
        slowest_key: keymap::binding(keymap::KEYMAP, view, slowest.1)
            .map_or("", |binding| binding.name),
    })
}

/// Draws until all that is shown is smoothed; a screen that is never done shows in its figures and does not hang.
fn settle(app: &App, frame: &mut dyn FnMut(&App) -> Result<f64>) -> Result<()> {
    for _ in 0..FRAMES_TO_SETTLE {
        if !is_behind(app) {
            break;
        }
        frame(app)?;
    }
    Ok(())
}

fn is_behind(app: &App) -> bool {
    app.runs.iter().filter(|run| run.take_is_behind()).count() > 0
}

/// What a live run costs.
struct Live {
    bytes_per_s: f64,
    frames_per_s: f64,
    screen_share: f64,
    cpu_share: Option<f64>,
}

/// A live run on the first view, in the time that it takes: a trainer that says what it does to the recorder, which
/// writes it to a log, and the screen that shows it. The trainer's own work is left out.
fn measure_live(app: &mut App, updates: u64) -> Result<Live> {
    let fresh = App::new(Vec::new(), Theme::default());
    app.axes = fresh.axes;
    app.update(Msg::Act(Action::View(ViewId::Train)));
    let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let mut recorder = RunWriter::open(RunDir::at(folder.path()).events())?;
    let mut screen = Screen::new(SIZES[0].0, SIZES[0].1)?;
    screen.draw(app)?;
    let mut budget = Budget::new(LIVE_HZ as u32);
    let mut draws = stream(SEED, "loss", "bench", 1);
    let (mut busy, mut frames) = (Duration::ZERO, 0);
    let sent = screen.bytes();
    let (start, cpu) = (Instant::now(), cpu_s());
    budget.drawn(start, 0);
    for update in 1..=LIVE_S * LIVE_HZ * LIVE_UPDATES {
        let due = start + Duration::from_secs(1) * update as u32 / (LIVE_HZ * LIVE_UPDATES) as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let begin = Instant::now();
        let (step, mut events) = (updates + update, Vec::new());
        let now_ms = START_MS + 100 * updates as i64 + start.elapsed().as_millis() as i64;
        for event in told(step, noise(&mut draws)) {
            events.push(recorder.emit_at(now_ms, step, event.body)?);
        }
        app.update(Msg::Tick(now_ms));
        app.update(Msg::Events(0, events));
        budget.soil(Dirt::Data);
        if budget.due_in(begin) == Some(Duration::ZERO) {
            let before = screen.bytes();
            screen.draw(app)?;
            frames += 1;
            budget.drawn(begin, screen.bytes() - before);
        }
        busy += begin.elapsed();
    }
    let seconds = start.elapsed().as_secs_f64();
    recorder.flush()?;
    Ok(Live {
        bytes_per_s: (screen.bytes() - sent) as f64 / seconds,
        frames_per_s: f64::from(frames) / seconds,
        screen_share: busy.as_secs_f64() / seconds,
        cpu_share: cpu.zip(cpu_s()).map(|(before, now)| (now - before) / seconds),
    })
}

/// Seconds of processor time of all threads of this process; `None` where the system does not tell.
fn cpu_s() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let mut ns = 0_u64;
    for thread in threads {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        ns += text.split(' ').next()?.parse::<u64>().ok()?;
    }
    Some(ns as f64 * 1e-9)
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (share * values.len() as f64) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // tests may
mod tests {
    use super::*;

    #[test]
    fn a_small_measurement_has_all_figures() {
        let report = measure(2000, &mut |_| {}).unwrap();
        assert_eq!(report.frames.len(), SIZES.len() * VIEWS.len());
        assert!(report.live_bytes_per_s > 0.0 && report.load_s > 0.0 && report.log_bytes > 100_000);
        assert!(report.frames.iter().all(|row| row.key_ms.0 <= row.key_ms.1 && row.draw_ms > 0.0));
        assert!(report.live_bytes_per_s < 2000.0, "{} B/s", report.live_bytes_per_s);
        assert!(report.live_frames_per_s > 1.0 && report.live_frames_per_s <= 10.5);
        assert_eq!(report.json()["runs"], 8);
    }
}
