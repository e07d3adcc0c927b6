//! The runs of a folder: which there are, what one looks like, and what can be done with it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Hits;
use super::frame::{
    bytes, duration, frame, plain, put, say, short, shown_filter, state, thousands, value,
};
use crate::runlog::summary::RunRecord;
use crate::runlog::{RunDir, Status};
use crate::tui::action::{Action, Effect, ViewId};
use crate::tui::app::{App, Overlay};
use crate::tui::filter;
use crate::tui::model::Preview;
use crate::tui::plot::table::{Cell, Column, Table};
use crate::tui::plot::{AxisRange, Chart, Line};
use crate::tui::sheet::Sheet;

use super::compare::groups::difference;

/// The list.
const LIST: usize = 0;
/// What the selected run looks like.
const ABOUT: usize = 1;
/// Columns that rows can be sorted by.
const COLUMNS: [&str; 7] = ["NAME", "METHOD", "STEP", "loss", "val/loss", "AGE", "STATE"];
/// Facts that stand above the settings that differ.
const FACTS_FIRST: usize = 8;
/// Settings that stand among the facts.
const SETTINGS_FIRST: usize = 4;
/// The column of the start.
const AGE: usize = 5;

/// What a user chose in this view.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The panel in focus.
    pub focus: usize,
    /// Which runs are listed.
    pub filter: String,
    /// The column that rows are sorted by.
    pub sort: usize,
    /// Whether the largest is first.
    pub is_descending: bool,
    /// The run under the cursor.
    pub selected: Option<PathBuf>,
    /// Whether all settings are shown that differ from the run before, and nothing else.
    pub shows_diff: bool,
    /// Runs that were asked about: what cannot be read is not read again and again.
    pub asked: HashSet<PathBuf>,
    /// What was read of runs that are not open.
    pub previews: HashMap<PathBuf, Preview>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            focus: LIST,
            filter: String::new(),
            sort: AGE,
            is_descending: false,
            selected: None,
            shows_diff: false,
            asked: HashSet::new(),
            previews: HashMap::new(),
        }
    }
}

/// The list as rows for files.
pub(super) fn sheet(app: &App) -> Sheet<'static> {
    let mut sheet = Sheet::new(&[
        "name", "method", "model", "rank", "seed", "state", "step", "loss", "val_loss", "path",
    ]);
    for run in listed(app) {
        sheet.row([
            run.name.clone().into(),
            run.method.clone().into(),
            run.model.clone().into(),
            run.rank.into(),
            run.seed.into(),
            run.status.word().into(),
            run.step.into(),
            run.loss.into(),
            run.eval.map(|eval| eval.loss).into(),
            run.path.display().to_string().into(),
        ]);
    }
    sheet
}

/// Runs that the filter lets through, in the order of the list.
fn listed(app: &App) -> Vec<&RunRecord> {
    let (filter, _) = filter::read(&app.list.filter);
    let mut runs: Vec<&RunRecord> = app.browser.iter().filter(|run| filter.passes(*run)).collect();
    let number = |run: &RunRecord| match app.list.sort {
        2 => Some(run.step as f64),
        3 => run.loss,
        4 => run.eval.map(|eval| eval.loss),
        _ => run.started.map(|started| -(started as f64)),
    };
    runs.sort_by(|a, b| {
        let order = match app.list.sort {
            0 => a.name.cmp(&b.name),
            1 => a.method.cmp(&b.method),
            6 => a.status.word().cmp(b.status.word()),
            _ => match (number(a), number(b)) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                // What is not known stands last either way.
                (a, b) => return b.is_some().cmp(&a.is_some()),
            },
        };
        if app.list.is_descending { order.reverse() } else { order }
    });
    runs
}

/// The run under the cursor: the chosen one where it is listed, else the first.
fn selected(app: &App) -> Option<&RunRecord> {
    let runs = listed(app);
    let chosen = runs.iter().find(|run| Some(&run.path) == app.list.selected.as_ref());
    chosen.or(runs.first()).copied()
}

/// The place of a run among those that are open.
fn open_place(app: &App, path: &Path) -> Option<usize> {
    app.runs.iter().position(|run| run.dir.as_deref() == Some(path))
}

/// The run that began before another.
fn before<'a>(app: &'a App, run: &RunRecord) -> Option<&'a RunRecord> {
    let earlier =
        app.browser.iter().filter(|other| other.path != run.path && other.started < run.started);
    earlier.max_by_key(|other| other.started)
}

/// What is known of a run: from its model where it is open, else what was read.
fn preview(app: &App, path: &Path) -> Option<Preview> {
    let read = app.list.previews.get(path);
    match open_place(app, path).and_then(|place| app.runs.get(place)) {
        Some(run) => {
            let (host, bytes) =
                read.map_or_else(Default::default, |read| (read.host.clone(), read.bytes));
            Some(Preview { host, bytes, ..Preview::of(run) })
        }
        None => read.cloned(),
    }
}

/// What has to be read for what is on the screen: the selected run and the one before it.
pub fn wanted(app: &mut App) -> Vec<Effect> {
    let Some(run) = selected(app) else { return Vec::new() };
    let both = [Some(run), before(app, run)].map(|run| run.map(|run| run.path.clone()));
    let new = both.into_iter().flatten().filter(|path| app.list.asked.insert(path.clone()));
    new.map(Effect::Preview).collect()
}

/// What an action changes here.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    let run = selected(app).cloned();
    match action {
        Action::NextPanel | Action::PrevPanel => app.list.focus = 1 - app.list.focus.min(1),
        Action::Up => move_by(app, -1),
        Action::Down => move_by(app, 1),
        Action::PageUp => move_by(app, -10),
        Action::PageDown => move_by(app, 10),
        Action::Home => move_by(app, -1_000_000_000),
        Action::End => move_by(app, 1_000_000_000),
        Action::Left => app.list.sort = (app.list.sort + COLUMNS.len() - 1) % COLUMNS.len(),
        Action::Right => app.list.sort = (app.list.sort + 1) % COLUMNS.len(),
        Action::Sort if app.list.is_descending => {
            app.list.sort = (app.list.sort + 1) % COLUMNS.len();
            app.list.is_descending = false;
        }
        Action::Sort => app.list.is_descending = true,
        Action::Diff => app.list.shows_diff = !app.list.shows_diff,
        Action::Back if app.list.shows_diff => app.list.shows_diff = false,
        Action::Back => app.list.filter.clear(),
        Action::Export => return vec![Effect::Export(false)],
        _ => {}
    }
    let Some(run) = run else { return Vec::new() };
    let place = open_place(app, &run.path);
    match action {
        Action::Open => match place {
            Some(place) => {
                app.active = place;
                app.view = ViewId::Train;
            }
            None => return vec![Effect::Open(run.path)],
        },
        Action::Pin => match place {
            Some(place) => {
                if !app.compare.hidden.remove(&place) {
                    app.compare.hidden.insert(place);
                }
            }
            None => return vec![Effect::OpenBeside(run.path)],
        },
        Action::ResumeRun => return resume(app, &run),
        Action::CloneRun => {
            let words = format!("Start a new run with the settings of {}?", run.name);
            app.overlay = Overlay::Confirm(words, vec![Effect::Clone(run.path)]);
        }
        Action::DeleteRun => delete(app, &run),
        Action::Copy => return vec![Effect::Copy(run.path.display().to_string())],
        _ => return wanted(app),
    }
    Vec::new()
}

/// A click on the head of a column sorts by it, or the other way round; one on a row selects its run.
pub fn pick(app: &mut App, place: usize) -> Vec<Effect> {
    app.list.focus = LIST;
    if let Some(row) = place.checked_sub(super::ROW) {
        let path = listed(app).get(row).map(|run| run.path.clone());
        app.list.selected = path.or(app.list.selected.take());
    } else if let Some(column) = place.checked_sub(super::HEAD).filter(|c| *c < COLUMNS.len()) {
        app.list.is_descending = app.list.sort == column && !app.list.is_descending;
        app.list.sort = column;
    }
    wanted(app)
}

fn notice(app: &mut App, text: String) {
    app.notice = Some((text, app.now_ms + 6000));
}

fn resume(app: &mut App, run: &RunRecord) -> Vec<Effect> {
    match run.status {
        Status::Live | Status::Paused => {
            let open = app.key_in(ViewId::Runs, Action::Open);
            notice(app, format!("{} is live already; {open} shows it", run.name));
        }
        Status::Finished => {
            // It fits 80 columns whatever the run's name is.
            let clone = app.key_in(ViewId::Runs, Action::CloneRun);
            let words =
                format!("all its updates are made; {clone} starts a new run with its settings");
            notice(app, words);
        }
        _ => {
            let words = format!("Let {} go on from its newest checkpoint, on its own?", run.name);
            app.overlay = Overlay::Confirm(words, vec![Effect::Resume(run.path.clone())]);
        }
    }
    Vec::new()
}

fn delete(app: &mut App, run: &RunRecord) {
    if run.status.is_live() {
        notice(app, format!("{} is live: stop it with Z before it is deleted", run.name));
        return;
    }
    let words = format!(
        "Move {} to the trash? `{}` is taken out of the list.",
        run.name,
        run.path.display()
    );
    app.overlay = Overlay::Confirm(words, vec![Effect::Trash(run.path.clone())]);
}

fn move_by(app: &mut App, by: i64) {
    let paths: Vec<PathBuf> = listed(app).into_iter().map(|run| run.path.clone()).collect();
    let chosen = app.list.selected.as_ref();
    let at = paths.iter().position(|path| Some(path) == chosen).unwrap_or(0) as i64;
    let last = paths.len().saturating_sub(1) as i64;
    if let Some(path) = paths.get((at + by).clamp(0, last) as usize) {
        app.list.selected = Some(path.clone());
    }
}

/// Draws the view.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    let has_about = area.width >= 76 && area.height >= 8;
    let (list, about) = if app.is_maximised {
        if app.list.focus == ABOUT { (Rect::ZERO, area) } else { (area, Rect::ZERO) }
    } else if has_about {
        let about = (area.width * 2 / 5).clamp(30, 60);
        let list = Rect { width: area.width - about, ..area };
        (list, Rect { x: list.right(), width: about, ..area })
    } else {
        (area, Rect::ZERO)
    };
    if !list.is_empty() {
        hits.panels.push((list, LIST));
        draw_list(app, list, buffer, hits);
    }
    if !about.is_empty() {
        hits.panels.push((about, ABOUT));
        draw_about(app, about, buffer);
    }
    plain(theme, area, buffer);
}

fn draw_list(app: &App, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let theme = &app.theme;
    let runs = listed(app);
    let live = app.browser.iter().filter(|run| run.status.is_live()).count();
    let mut title = format!("runs  {}", app.browser.len());
    if live > 0 {
        title += &format!(" · {live} live");
    }
    let arrow = if app.list.is_descending { '▼' } else { '▲' };
    title += &format!("  sort: {} {arrow}", COLUMNS[app.list.sort % COLUMNS.len()].to_lowercase());
    if !app.list.filter.is_empty() {
        title += &format!("  filter: {}", shown_filter(app, &app.list.filter));
    }
    if let Some(wrong) = filter::read(&app.list.filter).1 {
        title += &format!("  ({wrong})");
    }
    let (pin, open) = (app.key(Action::Pin), app.key(Action::Open));
    let foot = format!("{}/{} listed · {pin} pin · {open} open", runs.len(), app.browser.len());
    let mut inner = frame(&title, &foot, app.list.focus == LIST, theme, area, buffer);
    if inner.is_empty() {
        inner = area;
    }
    if runs.is_empty() {
        let words = if app.browser.is_empty() {
            "No runs in this folder yet. `fullrank train` makes one.".into()
        } else {
            let (change, clear) = (app.key(Action::Filter), app.key(Action::Back));
            format!("No run passes the filter. {change} changes it, {clear} takes it away.")
        };
        say(&words, theme.text, theme, inner, buffer);
        return;
    }
    let columns = [
        Column::left(format!("  {}", COLUMNS[0]), 0),
        Column::left(COLUMNS[1], 4),
        Column::right(COLUMNS[2], 3),
        Column::right(COLUMNS[3], 5),
        Column::right(COLUMNS[4], 2),
        Column::right(COLUMNS[5], 6),
        Column::left(COLUMNS[6], 1),
    ];
    let body: Vec<Vec<Cell>> = runs.iter().map(|run| cells(app, run)).collect();
    let under_cursor = selected(app).map(|run| &run.path);
    let table = Table {
        columns: &columns,
        rows: &body,
        selected: runs.iter().position(|run| Some(&run.path) == under_cursor),
        sorted: Some((app.list.sort, app.list.is_descending)),
        theme,
    };
    table.draw(inner, buffer).hits(hits);
}

fn cells(app: &App, run: &RunRecord) -> Vec<Cell> {
    let theme = &app.theme;
    let none = || "–".to_owned();
    let place = open_place(app, &run.path);
    let (mark, style) = match place {
        Some(place) if !app.compare.hidden.contains(&place) => ("●", theme.series(place)),
        Some(_) => ("○", theme.dim),
        None => (" ", theme.text),
    };
    let (word, state_style) = state(run.status, theme);
    let plain = |text: String| Cell::new(text, theme.text);
    let name = RunDir::at(&run.path).short_name();
    let age = run.started.map(|started| duration((app.now_ms - started) as f64 / 1000.0));
    let loss = run.loss.map_or_else(none, value);
    let is_bad = run.loss.is_some_and(|loss| !loss.is_finite());
    vec![
        Cell::new(format!("{mark} {name}"), style),
        plain(run.method.clone()),
        plain(thousands(run.step)),
        Cell::new(loss, if is_bad { theme.bad } else { theme.text }),
        plain(run.eval.map_or_else(none, |eval| value(eval.loss))),
        Cell::new(age.unwrap_or_else(none), theme.dim),
        Cell::new(word, state_style),
    ]
}

fn draw_about(app: &App, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let has_focus = app.list.focus == ABOUT;
    let Some(run) = selected(app) else {
        frame("no run", "", has_focus, theme, area, buffer);
        return;
    };
    let name = RunDir::at(&run.path).short_name();
    let inner = frame(&name, "", has_focus, theme, area, buffer);
    let Some(about) = preview(app, &run.path) else {
        say("reading …", theme.dim, theme, inner, buffer);
        return;
    };
    let mut rest = inner;
    let differences = before(app, run).map(|earlier| {
        let name = RunDir::at(&earlier.path).short_name();
        (
            name,
            preview(app, &earlier.path).map(|earlier| difference(&earlier.config, &about.config)),
        )
    });
    if !app.list.shows_diff {
        let first = about.losses.first().map(|point| point.1);
        if let (Some(first), Some(last)) = (first, run.smooth_loss) {
            let words =
                format!("loss {} → {}   {}", value(first), value(last), duration(run.active_s));
            rest = put(&words, theme.title, theme, rest, buffer);
        }
        let height = (rest.height / 3).min(12);
        if height >= 4 {
            curve(app, &about, Rect { height, ..rest }, buffer);
            rest = Rect { y: rest.y + height, height: rest.height - height, ..rest };
        }
        let facts = facts(run, &about);
        let (first, others) = facts.split_at(FACTS_FIRST.min(facts.len()));
        rest = draw_facts(app, first, rest, buffer);
        if let Some((name, found)) = &differences {
            rest = draw_differences(app, name, found.as_deref(), SETTINGS_FIRST, rest, buffer);
        }
        draw_facts(app, others, rest, buffer);
    } else if let Some((name, found)) = &differences {
        draw_differences(app, name, found.as_deref(), usize::MAX, rest, buffer);
    } else {
        put("no run is older than this one", theme.dim, theme, rest, buffer);
    }
}

type Fact = (&'static str, String);

fn draw_facts(app: &App, facts: &[Fact], area: Rect, buffer: &mut Buffer) -> Rect {
    let theme = &app.theme;
    facts.iter().fold(area, |rest, (key, text)| {
        put(&format!("{key:<9} {text}"), theme.text, theme, rest, buffer)
    })
}

type Setting = (String, String, String);

/// The settings in which a run differs from the one before, at most `most` of them.
fn draw_differences(
    app: &App,
    name: &str,
    found: Option<&[Setting]>,
    most: usize,
    area: Rect,
    buffer: &mut Buffer,
) -> Rect {
    let theme = &app.theme;
    let rest = put(&format!("settings ≠ {name}:"), theme.title, theme, area, buffer);
    let Some(found) = found else { return put("  reading …", theme.dim, theme, rest, buffer) };
    if found.is_empty() {
        return put("  none but the name", theme.dim, theme, rest, buffer);
    }
    let rest = found.iter().take(most).fold(rest, |rest, (key, old, new)| {
        put(&format!("  {key}  {old} → {new}"), theme.text, theme, rest, buffer)
    });
    match found.len().saturating_sub(most) {
        0 => rest,
        more => {
            let words = format!("  {more} more · {}: all", app.key(Action::Diff));
            put(&words, theme.dim, theme, rest, buffer)
        }
    }
}

fn curve(app: &App, about: &Preview, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let losses = about.losses.iter().chain(&about.evals);
    let Some(y) = AxisRange::around(losses.map(|point| point.1), true) else { return };
    let end = about.losses.last().map_or(1.0, |point| point.0);
    let mut chart = Chart::new(theme, AxisRange::new(0.0, end, false), y);
    chart.has_frame = false;
    let line = |points, style, is_dim| Line { points, style, letter: None, is_dim, dots: false };
    chart.lines.push(line(&about.losses, theme.dim, true));
    chart.lines.push(line(&about.evals, theme.series(0), false));
    chart.draw(area, buffer);
}

/// What a run was made of, as far as it is known.
fn facts(run: &RunRecord, about: &Preview) -> Vec<Fact> {
    let setting = |key: &str| about.config.get(key).map(String::as_str);
    let mut facts = Vec::new();
    let mut add = |key: &'static str, text: String| {
        if !text.is_empty() {
            facts.push((key, text));
        }
    };
    let params = about.run.params as f64;
    add("model", format!("{} · {} parameters", run.model, short(params)));
    add("data", format!("{} · {} tokens", run.data, short(about.run.train_tokens as f64)));
    let rank = about.run.rank.map(|rank| format!(" r={rank}")).unwrap_or_default();
    add(
        "method",
        format!("{}{rank} · {} trained", run.method, short(about.run.trained_params as f64)),
    );
    let prefix = format!("{}.", run.method);
    let own =
        about.config.iter().filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value)));
    let own: Vec<String> = own.take(4).map(|(key, value)| format!("{key}={value}")).collect();
    add("", own.join(" "));
    let rate = setting("train.learning_rate").unwrap_or_default();
    let schedule = setting("train.lr_schedule").unwrap_or_default();
    let warm_up = setting("train.warmup_steps").map(|steps| format!(" warm-up {steps}"));
    if !rate.is_empty() {
        add("lr", format!("{rate} {schedule}{}", warm_up.unwrap_or_default()));
    }
    if let (Some(batch), Some(length)) =
        (setting("train.batch_size"), setting("data.max_seq_length"))
    {
        let parts = setting("train.grad_accumulation_steps").filter(|parts| *parts != "1");
        let parts = parts.map(|parts| format!(" × {parts}")).unwrap_or_default();
        add("batch", format!("{batch}×{length}{parts}"));
    }
    add("seed", run.seed.to_string());
    add("steps", format!("{} of {}", thousands(run.step), thousands(run.steps)));
    add("tokens", short(run.tokens as f64));
    add("tok/s", run.tok_s.map(short).unwrap_or_default());
    if let Some(best) = run.best {
        add("best", format!("{} at update {}", value(best.loss), thousands(best.step)));
    }
    add("memory", run.peak_bytes.map(bytes).unwrap_or_default());
    add("device", run.device.clone());
    add("host", about.host.clone());
    let points = &about.checkpoints;
    if let Some(last) = points.last() {
        add("ckpts", format!("{}, newest {}", points.len(), thousands(*last)));
    }
    if about.bytes > 0 {
        add("size", bytes(about.bytes));
    }
    if run.alerts > 0 || run.skipped > 0 {
        add("alerts", format!("{} · {} updates skipped", run.alerts, run.skipped));
    }
    if run.resumes > 0 {
        add("resumed", format!("{} times", run.resumes));
    }
    if run.rollbacks > 0 {
        add("went back", format!("{} times by itself", run.rollbacks));
    }
    add("version", about.version.clone());
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::fixture;
    use crate::tui::theme::Theme;

    fn names(app: &App) -> Vec<String> {
        listed(app).into_iter().map(|run| RunDir::at(&run.path).short_name()).collect()
    }

    #[test]
    fn runs_are_listed_newest_first_and_filtered_and_sorted() {
        let mut app = fixture::app(Theme::default());
        assert_eq!(names(&app)[..3], ["switchlora-s1", "full-s1", "galore-s1"]);
        app.list.filter = "method:*lora state:!diverged seed=1".into();
        assert_eq!(names(&app), ["switchlora-s1", "relora-s1", "lora-s1"]);
        update(&mut app, Action::Sort);
        assert_eq!(names(&app), ["lora-s1", "relora-s1", "switchlora-s1"], "the other way round");
        app.list = State { sort: 2, ..State::default() };
        assert_eq!(names(&app)[0], "lora-s2", "fewest updates first");
    }

    #[test]
    fn the_selection_asks_for_what_it_needs_to_show() {
        let mut app = fixture::app(Theme::default());
        let effects = update(&mut app, Action::Down);
        assert_eq!(app.list.selected, Some(fixture::folder("full", 1)));
        let wanted = ["full", "galore"].map(|method| Effect::Preview(fixture::folder(method, 1)));
        assert_eq!(effects, wanted);
        assert!(super::wanted(&mut app).is_empty(), "once");
    }

    #[test]
    fn what_acts_on_a_run_asks_first_and_spares_live_ones() {
        let mut app = fixture::app(Theme::default());
        for action in [Action::DeleteRun, Action::ResumeRun] {
            assert!(update(&mut app, action).is_empty());
            assert_eq!(app.overlay, Overlay::None, "a live run is left alone");
            assert!(app.notice.take().is_some());
        }
        app.list.selected = Some(fixture::folder("switchlora", 2));
        assert!(update(&mut app, Action::DeleteRun).is_empty());
        let path = fixture::folder("switchlora", 2);
        let Overlay::Confirm(words, effects) = &app.overlay else { panic!("no question") };
        assert!(words.contains("trash") && *effects == [Effect::Trash(path.clone())]);
        update(&mut app, Action::ResumeRun);
        let Overlay::Confirm(_, effects) = &app.overlay else { panic!("no question") };
        assert_eq!(*effects, [Effect::Resume(path.clone())]);
        update(&mut app, Action::CloneRun);
        let Overlay::Confirm(_, effects) = &app.overlay else { panic!("no question") };
        assert_eq!(*effects, [Effect::Clone(path)]);
    }

    #[test]
    fn runs_are_opened_pinned_and_taken_out_again() {
        let mut app = fixture::app(Theme::default());
        app.list.selected = Some(fixture::folder("lora", 2));
        let path = fixture::folder("lora", 2);
        assert_eq!(update(&mut app, Action::Open), [Effect::Open(path.clone())]);
        assert_eq!(update(&mut app, Action::Pin), [Effect::OpenBeside(path)]);
        app.list.selected = Some(fixture::folder("galore", 1));
        update(&mut app, Action::Pin);
        assert!(app.compare.hidden.contains(&2));
        update(&mut app, Action::Pin);
        assert!(app.compare.hidden.is_empty());
        update(&mut app, Action::Open);
        assert_eq!((app.active, app.view), (2, ViewId::Train));
    }
}
