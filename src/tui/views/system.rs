//! Memory by category, where the time of an update goes, the speed, and the machine.

use std::collections::BTreeMap;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::Hits;
use super::curve::{self, Curve};
use super::frame::{self, bytes, frame};
use crate::report::text;
use crate::runlog::{Mem, Sys};
use crate::tui::action::{Action, Effect};
use crate::tui::app::App;
use crate::tui::model::{At, Metric, RunModel};
use crate::tui::plot::axis::AxisRange;
use crate::tui::plot::pen::{Pen, width};
use crate::tui::plot::{Chart, Line, bars};
use crate::tui::sheet::Sheet;

pub(super) const MEMORY: usize = 0;
pub(super) const TIME: usize = 1;
pub(super) const SPEED: usize = 2;
const MACHINE: usize = 3;
const PANELS: usize = 4;

/// Below this width panels stand in one column.
const TWO_COLUMNS: u16 = 76;
/// Below this width shares stand there in bars alone.
const WITH_SHARES: u16 = 32;
/// A panel has at least as many rows.
const LEAST_ROWS: u16 = 6;

/// Over which part of a run the time of an update is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Window {
    /// The newest measurement.
    #[default]
    Newest,
    /// The last ten.
    Ten,
    /// All of them.
    All,
}

impl Window {
    fn next(self) -> Self {
        match self {
            Self::Newest => Self::Ten,
            Self::Ten => Self::All,
            Self::All => Self::Newest,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Ten => "last 10",
            Self::All => "whole run",
        }
    }
}

/// What the chart of the machine shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gauge {
    /// Resident memory of the process.
    #[default]
    Memory,
    /// Busy cores of the process.
    Cores,
    /// Free space where the run is written.
    Disk,
}

impl Gauge {
    const ALL: [Self; 3] = [Self::Memory, Self::Cores, Self::Disk];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "host memory, GiB",
            Self::Cores => "CPU cores busy",
            Self::Disk => "disk free, GiB",
        }
    }

    fn of(self, machine: &Sys) -> Option<f64> {
        let gib = |bytes: u64| bytes as f64 / (1_u64 << 30) as f64;
        match self {
            Self::Memory => machine.rss_bytes.map(gib),
            Self::Cores => machine.cpu_cores,
            Self::Disk => machine.disk_free_bytes.map(gib),
        }
    }
}

/// What a user chose in this view.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The panel in focus.
    pub focus: usize,
    /// The part of the run whose times are summed up.
    pub window: Window,
    /// What the chart of the machine shows.
    pub gauge: Gauge,
    /// Whether shares are shown as a table instead of bars.
    pub is_table: bool,
}

/// What an action changes here.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    let speed = Metric::TokensPerSecond;
    match action {
        Action::NextPanel => app.system.focus = (app.system.focus + 1) % PANELS,
        Action::PrevPanel => app.system.focus = (app.system.focus + PANELS - 1) % PANELS,
        Action::NextMatrix => app.system.window = app.system.window.next(),
        Action::Group => app.system.is_table = !app.system.is_table,
        Action::NextMetric => {
            let place = Gauge::ALL.iter().position(|gauge| *gauge == app.system.gauge).unwrap_or(0);
            app.system.gauge = Gauge::ALL[(place + 1) % Gauge::ALL.len()];
        }
        Action::LogY if app.system.focus == SPEED => curve::flip_log_y(app, speed),
        Action::LockY if app.system.focus == SPEED => curve::flip_lock(app, speed, false),
        Action::Left => curve::move_cursor(app, speed, -1),
        Action::Right => curve::move_cursor(app, speed, 1),
        Action::Home => curve::cursor_to_end(app, speed, false),
        Action::End => curve::cursor_to_end(app, speed, true),
        Action::Back => app.axes.cursor = None,
        Action::Open => app.is_maximised = true,
        Action::Copy => return copy(app).map(Effect::Copy).into_iter().collect(),
        Action::Export => return vec![Effect::Export(false)],
        _ => {}
    }
    Vec::new()
}

/// The numbers of the panel in focus as lines of text.
fn copy(app: &App) -> Option<String> {
    let run = app.run()?;
    let lines: Vec<String> = match app.system.focus {
        MEMORY => run.memory.as_ref()?.bytes.iter().map(|(n, b)| format!("{n} {b}")).collect(),
        TIME => times(run, app.system.window).iter().map(|(n, ms)| format!("{n} {ms}")).collect(),
        SPEED => vec![format!("tok/s {}", run.last(Metric::TokensPerSecond)?)],
        _ => vec![format!(
            "{} {}",
            app.system.gauge.name(),
            app.system.gauge.of(&run.machine.last()?.what)?
        )],
    };
    Some(lines.join("\n"))
}

/// Where the time of an update goes, as rows for files.
pub(super) fn times_sheet(app: &App, run: &RunModel) -> Sheet<'static> {
    let mut sheet = Sheet::new(&["part", "ms"]);
    for (name, ms) in times(run, app.system.window) {
        sheet.row([name.into(), ms.into()]);
    }
    sheet
}

/// Draws the view.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    if let Some(run) = app.run() {
        let shown: Vec<(usize, Rect)> =
            if app.is_maximised { vec![(app.system.focus, area)] } else { layout(area) };
        for (number, place) in shown {
            hits.panels.push((place, number));
            panel(app, run, number, place, buffer, hits);
        }
    } else {
        frame::say(&frame::no_run(app), app.theme.dim, &app.theme, area, buffer);
    }
    frame::plain(&app.theme, area, buffer);
}

/// Two by two where there is room, else one below the other; those that do not fit are left out from the end.
fn layout(area: Rect) -> Vec<(usize, Rect)> {
    if area.width >= TWO_COLUMNS && area.height >= LEAST_ROWS {
        let left = area.width / 2;
        let rows: &[[usize; 2]] = if area.height >= 2 * LEAST_ROWS + 2 {
            &[[MEMORY, TIME], [SPEED, MACHINE]]
        } else {
            &[[MEMORY, TIME]]
        };
        let high = area.height / rows.len() as u16;
        let mut panels = Vec::new();
        for (y, pair) in (0..).zip(rows) {
            let top = area.y + y * high;
            let bottom = if usize::from(y) + 1 == rows.len() { area.bottom() } else { top + high };
            let row = Rect { y: top, height: bottom - top, ..area };
            panels.push((pair[0], Rect { width: left, ..row }));
            panels.push((pair[1], Rect { x: row.x + left, width: row.width - left, ..row }));
        }
        return panels;
    }
    let count = (area.height / LEAST_ROWS).clamp(1, 3);
    let high = area.height / count;
    let place = |number: u16| {
        let top = area.y + number * high;
        let bottom = if number + 1 == count { area.bottom() } else { top + high };
        (usize::from(number), Rect { y: top, height: bottom - top, ..area })
    };
    (0..count).map(place).collect()
}

fn panel(
    app: &App,
    run: &RunModel,
    number: usize,
    area: Rect,
    buffer: &mut Buffer,
    hits: &mut Hits,
) {
    let is_focused = app.system.focus == number;
    match number {
        MEMORY => memory(app, run, is_focused, area, buffer),
        TIME => time(app, run, is_focused, area, buffer),
        SPEED => {
            let metric = Metric::TokensPerSecond;
            let curve = Curve { app, run, place: app.active, metric, is_focused, is_main: false };
            curve.draw(area, buffer, hits);
        }
        _ => machine(app, run, is_focused, area, buffer, hits),
    }
}

/// Words below the bars, from the first that is known.
fn facts(lines: &[(String, Style)], area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen::new(area, buffer);
    for (y, (words, style)) in (0..).zip(lines) {
        // Parts that do not fit go whole.
        let mut x = 0;
        for part in words.split_inclusive("   ") {
            if !pen.whole(x, y, part.trim_end(), *style) {
                break;
            }
            x += width(part);
        }
    }
}

/// A share of a whole, in words: `47 %`.
fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:>3.0} %", 100.0 * part / whole) } else { String::new() }
}

/// Draws bars or a table of named sizes, and lines of words below.
fn shares(
    app: &App,
    sizes: &[(&str, f64, String, Style)],
    below: &[(String, Style)],
    inside: Rect,
    buffer: &mut Buffer,
) {
    let has_room = inside.width >= WITH_SHARES;
    let total: f64 = sizes.iter().map(|size| size.1).filter(|size| size.is_finite()).sum();
    let rows: Vec<bars::Row> = sizes
        .iter()
        .map(|(name, size, words, style)| bars::Row {
            name,
            size: if app.system.is_table { 0.0 } else { *size },
            value: if has_room {
                format!("{words}  {}", percent(*size, total))
            } else {
                words.clone()
            },
            style: *style,
        })
        .collect();
    // Words below are worth a row each, but not the last bars.
    let for_words = below.len().min(usize::from(inside.height).saturating_sub(rows.len())) as u16;
    let upper = Rect { height: inside.height - for_words, ..inside };
    bars::draw(&rows, upper, &app.theme, buffer);
    let lower = Rect { y: inside.bottom() - for_words, height: for_words, ..inside };
    facts(below, lower, buffer);
}

fn memory(app: &App, run: &RunModel, is_focused: bool, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let Some(memory) = &run.memory else {
        let inside = frame("device memory", "", is_focused, theme, area, buffer);
        frame::say("not measured yet", theme.dim, theme, inside, buffer);
        return;
    };
    let held: u64 = memory.bytes.values().sum();
    let title = format!("device memory  {}  peak {}", bytes(held), bytes(memory.peak_bytes));
    let inside = frame(&title, "", is_focused, theme, area, buffer);
    let mut largest: Vec<(&String, &u64)> =
        memory.bytes.iter().filter(|(_, size)| **size > 0).collect();
    largest.sort_by(|a, b| b.1.cmp(a.1));
    let sizes: Vec<(&str, f64, String, Style)> = largest
        .iter()
        .zip(0..)
        .map(|((name, size), place)| {
            (name.as_str(), **size as f64, bytes(**size), theme.series(place))
        })
        .collect();
    shares(app, &sizes, &memory_words(app, run, memory), inside, buffer);
}

fn memory_words(app: &App, run: &RunModel, memory: &Mem) -> Vec<(String, Style)> {
    let theme = &app.theme;
    let mut words = vec![(String::new(), theme.text)];
    if let Some(predicted) = memory.predicted_bytes {
        let peak = memory.peak_bytes;
        // What is added takes the sign off a zero.
        let off = (100.0 * (predicted as f64 / peak.max(1) as f64 - 1.0)).round() + 0.0;
        words.push((format!("estimated peak  {}   {off:+.0} %", bytes(predicted)), theme.dim));
    }
    // A run at full rank would be compared with itself.
    if let Some(full) = run.full_rank_bytes.filter(|full| Some(*full) != memory.predicted_bytes) {
        let saved = (100.0 * (1.0 - memory.peak_bytes as f64 / full.max(1) as f64)).round();
        let words_of = if saved < 0.0 { "more here" } else { "saved" };
        let line = format!("at full rank  {}   {words_of} {:.0} %", bytes(full), saved.abs());
        words.push((line, theme.dim));
    }
    if let Some(rss) = run.machine.last().and_then(|machine| machine.what.rss_bytes) {
        words.push((format!("process memory  {}", bytes(rss)), theme.dim));
    }
    let told = &run.summary.run;
    if told.params > 0 && told.trained_params > 0 {
        let (trained, all) = (told.trained_params as f64, told.params as f64);
        let line = format!(
            "parameters  {}   trained {} ({})",
            frame::short(all),
            frame::short(trained),
            percent(trained, all).trim_start()
        );
        words.push((line, theme.dim));
    }
    if !told.device.is_empty() {
        words.push((text::printable(&told.device), theme.dim));
    }
    words
}

/// Mean milliseconds of an update by part, over a part of the run.
fn times(run: &RunModel, window: Window) -> BTreeMap<&str, f64> {
    let count = match window {
        Window::Newest => 1,
        Window::Ten => 10,
        Window::All => run.times.len(),
    };
    let shown = &run.times[run.times.len().saturating_sub(count)..];
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for time in shown {
        for (part, ms) in time.what.ms.iter().filter(|(_, ms)| ms.is_finite()) {
            *sums.entry(part).or_default() += ms / shown.len() as f64;
        }
    }
    sums
}

fn time(app: &App, run: &RunModel, is_focused: bool, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let parts = times(run, app.system.window);
    let median = run.pace.step_s().map(|s| format!("  {}", milliseconds(1000.0 * s)));
    let title = format!("step time{}  ({})", median.unwrap_or_default(), app.system.window.name());
    let inside = frame(&title, "", is_focused, theme, area, buffer);
    let mut largest: Vec<(&&str, &f64)> = parts.iter().collect();
    largest.sort_by(|a, b| b.1.total_cmp(a.1));
    let sizes: Vec<(&str, f64, String, Style)> = largest
        .iter()
        .zip(0..)
        .map(|((name, ms), place)| (**name, **ms, milliseconds(**ms), theme.series(place)))
        .collect();
    let mut words = vec![(String::new(), theme.text)];
    let quantile = |share: f64, name: &str| {
        run.pace.quantile(share).map(|s| format!("{name} {}", milliseconds(1000.0 * s)))
    };
    let quantiles = [(0.5, "p50"), (0.95, "p95"), (0.99, "p99"), (1.0, "max")];
    let quantiles: Vec<String> =
        quantiles.into_iter().filter_map(|(share, name)| quantile(share, name)).collect();
    if !quantiles.is_empty() {
        words.push((quantiles.join("   "), theme.dim));
    }
    if let Some(overhead) = run.pace.overhead().filter(|overhead| *overhead > 1.0005) {
        let share = 100.0 * (overhead - 1.0) / overhead;
        words.push((
            format!("evaluations, checkpoints, waiting  {share:.1} % of the time"),
            theme.dim,
        ));
    }
    if let Some(flop) = flop_rate(run) {
        let words_of = frame::short(flop);
        let (number, unit) =
            words_of.split_at(words_of.trim_end_matches(char::is_alphabetic).len());
        words.push((format!("estimated {number} {unit}FLOP/s"), theme.dim));
    }
    if sizes.is_empty() && words.len() == 1 {
        frame::say("not measured yet", theme.dim, theme, inside, buffer);
        return;
    }
    shares(app, &sizes, &words, inside, buffer);
}

/// Operations of training a second, estimated; none where the shape of the model is not known.
fn flop_rate(run: &RunModel) -> Option<f64> {
    let per_token = run.steps.clock.flop_per_token;
    let speed = run.last(Metric::TokensPerSecond)?;
    let rate = per_token * speed;
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

fn milliseconds(ms: f64) -> String {
    match ms {
        _ if !ms.is_finite() => "–".into(),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{} ms", text::count(ms.round() as u64)),
    }
}

fn machine(
    app: &App,
    run: &RunModel,
    is_focused: bool,
    area: Rect,
    buffer: &mut Buffer,
    hits: &mut Hits,
) {
    let theme = &app.theme;
    let gauge = app.system.gauge;
    let clock = &run.steps.clock;
    let place = |sys: &At<Sys>| clock.place(sys.at, app.axes.x);
    let points: Vec<(f64, f64)> =
        run.machine.iter().filter_map(|sys| Some((place(sys), gauge.of(&sys.what)?))).collect();
    let x = curve::x_range(app, run);
    let seen = points.iter().filter(|(place, _)| x.contains(*place)).map(|(_, value)| *value);
    let y = AxisRange::around(seen.chain([0.0]), false);
    let Some(y) = y.filter(|_| !points.is_empty()) else {
        let inside = frame("machine", "", is_focused, theme, area, buffer);
        frame::say("not measured yet", theme.dim, theme, inside, buffer);
        return;
    };
    let mut chart = Chart::new(theme, x, y);
    let last = points.last().map(|point| frame::value(point.1)).unwrap_or_default();
    chart.title = format!("{}  {last}", gauge.name()).into();
    chart.note = note(run).into();
    chart.is_focused = is_focused;
    chart.x_is_time = curve::is_time(app.axes.x);
    chart.cursor = app.axes.cursor;
    chart.lines = vec![Line { points: &points, style: theme.series(5), ..Line::default() }];
    if let Some(plot) = chart.draw(area, buffer) {
        hits.charts.push((plot, x));
    }
}

/// All that is known of the machine now; what is not told is left out.
fn note(run: &RunModel) -> String {
    let Some(machine) = run.machine.last().map(|machine| &machine.what) else {
        return String::new();
    };
    let parts = [
        machine.rss_bytes.map(|rss| format!("host {}", bytes(rss))),
        machine.cpu_cores.map(|cores| format!("{cores:.1} cores")),
        machine.disk_free_bytes.map(|free| format!("disk {} free", bytes(free))),
        machine.battery_percent.map(|percent| format!("battery {percent} %")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}
