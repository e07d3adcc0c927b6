//! The table of a comparison.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::groups::{differences, groups, paired, tokens_to};
use super::lines::place_text;
use super::scene::Scene;
use super::{State, letters};
use crate::tui::action::Action;
use crate::tui::app::App;
use crate::tui::plot::table::{self, Cell, Table};
use crate::tui::views::Hits;
use crate::tui::views::frame::{bytes, frame, letter, put, say, short, shown_filter, state, value};

/// Columns of the table, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Run,
    Method,
    Rank,
    Value,
    Difference,
    Tokens,
    Speed,
    Memory,
    Trained,
    State,
}

impl Column {
    const ALL: [Self; 10] = [
        Self::Run,
        Self::Method,
        Self::Rank,
        Self::Value,
        Self::Difference,
        Self::Tokens,
        Self::Speed,
        Self::Memory,
        Self::Trained,
        Self::State,
    ];
    /// Columns.
    pub(super) const COUNT: usize = Self::ALL.len();
}

/// What the table says of a run.
struct Row {
    place: usize,
    value: Option<f64>,
    difference: Option<f64>,
    tokens: Option<f64>,
}

/// The validation loss that "tokens to" counts to: the baseline's newest.
fn target(app: &App) -> Option<f64> {
    app.runs.get(app.compare.baseline)?.summary.last_eval().map(|eval| eval.loss)
}

fn row(scene: &Scene, run_place: usize, base: Option<f64>, target: Option<f64>) -> Row {
    let app = scene.app;
    let run = &app.runs[run_place];
    let value = scene.value(run);
    let difference = match (value, base) {
        (Some(value), Some(base)) if base != 0.0 && run_place != app.compare.baseline => {
            Some(100.0 * (value - base) / base)
        }
        _ => None,
    };
    let tokens = target.and_then(|target| tokens_to(run, target));
    Row { place: run_place, value, difference, tokens }
}

fn sorted(scene: &Scene) -> Vec<Row> {
    let app = scene.app;
    let base = app.runs.get(app.compare.baseline).and_then(|run| scene.value(run));
    let target = target(app);
    let mut rows: Vec<Row> =
        scene.passing.iter().map(|place| row(scene, *place, base, target)).collect();
    let State { sort, is_descending, .. } = app.compare;
    let column = Column::ALL[sort % Column::COUNT];
    let number = |row: &Row| {
        let summary = &app.runs[row.place].summary;
        match column {
            Column::Rank => summary.run.rank.map(|rank| rank as f64),
            Column::Value => row.value,
            Column::Difference => row.difference,
            Column::Tokens => row.tokens,
            Column::Speed => summary.tok_s(),
            Column::Memory => summary.peak_bytes.map(|bytes| bytes as f64),
            Column::Trained => Some(summary.run.trained_params as f64),
            Column::Run | Column::Method | Column::State => None,
        }
    };
    let word = |row: &Row| {
        let run = &app.runs[row.place];
        match column {
            Column::Method => run.summary.run.method.clone(),
            Column::State => run.status.word().to_owned(),
            _ => run.name(),
        }
    };
    rows.sort_by(|a, b| {
        let order = if matches!(column, Column::Run | Column::Method | Column::State) {
            word(a).cmp(&word(b))
        } else {
            match (number(a), number(b)) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                // What is not known stands last either way.
                (a, b) => return b.is_some().cmp(&a.is_some()),
            }
        };
        if is_descending { order.reverse() } else { order }
    });
    rows
}

/// Places of the runs in the order of the table.
pub(super) fn order(scene: &Scene) -> Vec<usize> {
    sorted(scene).into_iter().map(|row| row.place).collect()
}

/// Rows that the table would like to have.
pub(super) fn height(scene: &Scene) -> u16 {
    let rows = scene.passing.len() as u16;
    rows + if scene.app.compare.shows_diff { 3 } else { 0 }
}

fn columns(app: &App) -> Vec<table::Column> {
    let to = target(app).map_or_else(|| "tok→target".into(), |target| format!("tok→{target:.2}"));
    vec![
        table::Column::left("RUN", 0),
        table::Column::left("METHOD", 4),
        table::Column::right("r", 6),
        table::Column::right(app.compare.metric.name(), 1),
        table::Column::right("Δ% base", 2),
        table::Column::right(to, 5),
        table::Column::right("tok/s", 7),
        table::Column::right("memory", 8),
        table::Column::right("trained", 9),
        table::Column::left("STATE", 3),
    ]
}

fn cells(scene: &Scene, row: &Row) -> Vec<Cell> {
    let app = scene.app;
    let theme = &app.theme;
    let run = &app.runs[row.place];
    let about = &run.summary.run;
    let is_shown = scene.shown.contains(&row.place);
    let none = || "–".to_owned();
    let (state_word, state_style) = state(run.status, theme);
    let mut state_text = state_word.to_owned();
    if run.status.is_live() && about.steps > 0 {
        state_text = format!("● {}%", 100 * run.summary.step / about.steps);
    }
    let plain = |text: String| Cell::new(text, theme.text);
    let difference = row.difference.map(|difference| format!("{difference:+.1}"));
    let mark = match (is_shown, app.compare.hidden.contains(&row.place)) {
        (true, _) => '●',
        // It would be one line too many.
        (false, false) => '○',
        (false, true) => ' ',
    };
    let name = format!("{mark}{} {}", letter(row.place), run.name());
    vec![
        Cell::new(name, if is_shown { theme.series(row.place) } else { theme.dim }),
        plain(about.method.clone()),
        plain(about.rank.map_or_else(none, |rank| rank.to_string())),
        plain(row.value.map_or_else(none, value)),
        plain(difference.unwrap_or_else(none)),
        plain(row.tokens.map_or_else(none, short)),
        plain(run.summary.tok_s().map_or_else(none, short)),
        plain(run.summary.peak_bytes.map_or_else(none, bytes)),
        plain(short(about.trained_params as f64)),
        Cell::new(state_text, state_style),
    ]
}

/// Draws the table.
pub(super) fn draw(scene: &Scene, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let app = scene.app;
    let theme = &app.theme;
    let rows = sorted(scene);
    let mut title = match scene.place {
        Some(place) => format!("runs at ⌖ {}", place_text(place, scene.axis)),
        None => "runs".into(),
    };
    if !app.compare.filter.is_empty() {
        title += &format!("  filter: {}", shown_filter(app, &app.compare.filter));
    }
    if let Some(wrong) = &scene.wrong {
        title += &format!("  ({wrong})");
    }
    let mut foot = format!("{}/{} shown · {} pinned", rows.len(), app.runs.len(), scene.pinned);
    if scene.shown.len() < scene.pinned {
        foot += &format!(" · {} drawn", scene.shown.len());
    }
    let inner = frame(&title, &foot, app.compare.focus == super::TABLE, theme, area, buffer);
    let difference = difference_text(app);
    let lines = if app.compare.shows_diff { inner.height.saturating_sub(2).min(3) } else { 0 };
    let table_area = Rect { height: inner.height.saturating_sub(lines), ..inner };
    let body: Vec<Vec<Cell>> = rows.iter().map(|row| cells(scene, row)).collect();
    let selected = rows.iter().position(|row| row.place == app.compare.selected);
    let table = Table {
        columns: &columns(app),
        rows: &body,
        selected,
        sorted: Some((app.compare.sort % Column::COUNT, app.compare.is_descending)),
        theme,
    };
    table.draw(table_area, buffer).hits(hits);
    if rows.is_empty() {
        let (change, clear) = (app.key(Action::Filter), app.key(Action::Back));
        let words =
            format!("no open run passes the filter; {change} changes it, {clear} takes it away");
        let below =
            Rect { y: table_area.y + 1, height: table_area.height.saturating_sub(1), ..table_area };
        put(&words, theme.warn, theme, below, buffer);
    }
    if lines > 0 {
        let below = Rect { y: table_area.bottom(), height: lines, ..inner };
        say(&difference, theme.text, theme, below, buffer);
    }
}

/// The settings in which the selected run differs from the baseline.
fn difference_text(app: &App) -> String {
    let pair = app.runs.get(app.compare.baseline).zip(app.runs.get(app.compare.selected));
    let Some((base, run)) = pair else { return String::new() };
    let names = format!("{}↔{}", letter(app.compare.baseline), letter(app.compare.selected));
    if app.compare.baseline == app.compare.selected {
        return format!(
            "settings {names}: this is the baseline; choose another run with the arrows"
        );
    }
    if base.config.is_empty() || run.config.is_empty() {
        return format!("settings {names}: run.toml of one of them cannot be read");
    }
    let found: Vec<String> =
        differences(base, run).into_iter().map(|(name, a, b)| format!("{name} {a}→{b}")).collect();
    if found.is_empty() {
        format!("settings {names}: no difference")
    } else {
        format!("settings {names}: {}", found.join(" · "))
    }
}

/// Differences to the baseline over seeds, or what would show them.
pub(super) fn last_line(scene: &Scene) -> String {
    let app = scene.app;
    if scene.place.is_none() {
        return " nothing trained yet".into();
    }
    let groups = groups(&app.runs, &scene.passing, true);
    let Some(base) = groups.iter().find(|group| group.contains(&app.compare.baseline)) else {
        return " the baseline is not among the runs that the filter lets through".into();
    };
    let mut parts = Vec::new();
    for group in groups.iter().filter(|group| *group != base) {
        if let Some(stat) = paired(&app.runs, group, base, |run| scene.value(run)) {
            let (a, b) = (letters(group), letters(base));
            parts.push(format!(
                "{a}−{b} = {:+.4} ± {:.4} ({} seeds)",
                stat.mean,
                stat.std.unwrap_or(0.0),
                stat.n
            ));
        }
    }
    if parts.is_empty() {
        return " paired Δ over seeds · needs two seeds of the baseline and of another run".into();
    }
    format!(" paired Δ over seeds, same seed beside same seed: {}", parts.join(" · "))
}

/// The table as text with tabs, for the clipboard.
pub(super) fn text(scene: &Scene) -> String {
    let mut text: Vec<String> = Vec::new();
    let titles: Vec<String> = columns(scene.app).into_iter().map(|column| column.title).collect();
    text.push(titles.join("\t"));
    for row in sorted(scene) {
        let cells: Vec<String> = cells(scene, &row).into_iter().map(|cell| cell.text).collect();
        text.push(cells.join("\t"));
    }
    text.join("\n")
}
