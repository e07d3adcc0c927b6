//! Layers by block and kind, a number and a shade each.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::measured::{Grid, Measure, matrix_name};
use super::{FIELD, matrix};
use crate::tui::app::App;
use crate::tui::plot::axis::grown;
use crate::tui::plot::heat::{shade, style};
use crate::tui::plot::table::fit;
use crate::tui::views::frame::{frame, put, thousands, value};
use crate::tui::views::{Hits, ROW};

/// Kinds of layers that the mouse can tell apart.
pub(super) const MOST_COLUMNS: usize = 64;
/// Cells of the blocks' names.
const NAMES: u16 = 6;
/// Cells of a layer with its number.
const WIDE: u16 = 6;
/// Cells of a layer with its number, where there is less room.
const TIGHT: u16 = 5;
/// Cells of a layer with its shade alone.
const NARROW: u16 = 3;

/// The width that shows everything.
pub(super) fn width(grid: &Grid) -> u16 {
    2 + NAMES + WIDE * grid.columns.len() as u16 + 1
}

/// A round number above all measurements, so that shades keep their meaning through time.
fn most(app: &App, measure: Measure) -> f64 {
    let matrix = matrix(app);
    let ranks = app.run().into_iter().flat_map(|run| &run.ranks);
    let values =
        ranks.filter(|rank| rank.what.matrix == matrix).map(|rank| measure.percent(&rank.what));
    grown(values.filter(|value| value.is_finite()).fold(0.0, f64::max))
}

/// The share that a shade is made of: a shade for each quarter that is full.
fn quarter(percent: f64, most: f64) -> f64 {
    (percent / most - 0.25).max(0.01)
}

/// Draws the field.
pub(super) fn draw(
    app: &App,
    grid: &Grid,
    at: u64,
    area: Rect,
    buffer: &mut Buffer,
    hits: &mut Hits,
) {
    let theme = &app.theme;
    let measure = app.rank.measure;
    let matrix_name = matrix_name(matrix(app));
    let title = format!("{} of {matrix_name}  % of min(m,n)", measure.name());
    let follows = match (app.rank.is_playing, app.rank.at) {
        (true, _) => "  ▶ playing",
        (false, None) => "  ⏵ follow",
        (false, Some(_)) => "",
    };
    let foot = format!("update {}{follows}", thousands(at));
    let inner = frame(&title, &foot, app.rank.focus == FIELD, theme, area, buffer);
    if inner.height < 2 || inner.width < NAMES + NARROW {
        return;
    }
    let columns = grid.columns.len() as u16;
    let cells = [WIDE, TIGHT, NARROW];
    let cell = cells.into_iter().find(|cell| inner.width + 1 >= NAMES + cell * columns);
    let cell = cell.unwrap_or(NARROW);
    let seen_columns = ((inner.width + 1 - NAMES) / cell).min(columns) as usize;
    let (row, column) = super::cell(app, grid);
    let first_column = (column + 1).saturating_sub(seen_columns);
    let has_scale = inner.height >= 7;
    let has_about = inner.height >= 10;
    let height = inner.height - 1 - u16::from(has_scale) - 2 * u16::from(has_about);
    let most_first = grid.rows.len().saturating_sub(height as usize);
    let first = row.saturating_sub(height as usize / 2).min(most_first);
    let most = most(app, measure).max(1e-9);
    buffer.set_string(inner.x, inner.y, fit("block", NAMES as usize, false), theme.dim);
    let room = (cell - 1) as usize;
    for (place, kind) in grid.columns.iter().enumerate().skip(first_column).take(seen_columns) {
        let x = inner.x + NAMES + (place - first_column) as u16 * cell;
        let kind = fit(kind, room, theme.is_ascii);
        let shift = (room - kind.width().min(room)) as u16;
        buffer.set_string(x + shift, inner.y, kind, theme.dim);
    }
    for (place, block) in grid.rows.iter().enumerate().skip(first).take(height as usize) {
        let y = inner.y + 1 + (place - first) as u16;
        let name = block.map_or_else(|| "  –".into(), |block| format!("  {block:02}"));
        let name_style = if place == row { theme.focus } else { theme.dim };
        buffer.set_string(inner.x, y, name, name_style);
        for kind in first_column..first_column + seen_columns {
            let x = inner.x + NAMES + (kind - first_column) as u16 * cell;
            let percent = grid.get(place, kind).map(|rank| measure.percent(&rank.what));
            if kind < MOST_COLUMNS {
                hits.panels.push((Rect::new(x, y, cell, 1), ROW + place * MOST_COLUMNS + kind));
            }
            let is_selected = (place, kind) == (row, column);
            let Some(percent) = percent.filter(|percent| percent.is_finite()) else {
                let text = format!("{:>room$}", "–");
                buffer.set_string(x, y, text, if is_selected { theme.selected } else { theme.dim });
                continue;
            };
            let sign = shade(theme, quarter(percent, most));
            let of_shade = style(theme, percent / most);
            if cell > NARROW {
                let number =
                    if percent < 9.95 { format!("{percent:.1}") } else { format!("{percent:.0}") };
                buffer.set_string(x, y, sign.to_string(), of_shade);
                buffer.set_string(
                    x + 1,
                    y,
                    format!("{number:>width$}", width = room - 1),
                    theme.text,
                );
            } else {
                buffer.set_string(x, y, sign.to_string().repeat(2), of_shade);
            }
            if is_selected {
                buffer.set_style(Rect::new(x, y, cell - 1, 1), theme.selected);
            }
        }
    }
    if has_scale {
        scale(app, grid, most, Rect { y: inner.y + 1 + height, height: 1, ..inner }, buffer);
    }
    if has_about {
        let below = Rect { y: inner.bottom() - 2, height: 2, ..inner };
        about(app, grid, row, column, below, buffer);
    }
}

fn scale(app: &App, grid: &Grid, most: f64, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let mut x = area.x;
    for share in [0.25, 0.5, 0.75, 1.0] {
        let text = format!(" {:.0}  ", most * share);
        let width = text.width() as u16 + 1;
        if x + width > area.right() {
            return;
        }
        let sign = shade(theme, quarter(most * share, most)).to_string();
        buffer.set_string(x, area.y, sign, style(theme, share));
        buffer.set_string(x + 1, area.y, text, theme.dim);
        x += width;
    }
    if let Some(mean) = grid.mean(app.rank.measure) {
        let text = format!("mean {mean:.1}");
        if x + text.width() as u16 <= area.right() {
            buffer.set_string(x, area.y, text, theme.text);
        }
    }
}

/// The numbers of the layer under the cursor.
fn about(app: &App, grid: &Grid, row: usize, column: usize, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let Some(rank) = grid.get(row, column) else {
        put("not measured", theme.dim, theme, area, buffer);
        return;
    };
    let what = &rank.what;
    let first = format!(
        "effective {:.1} of {} · stable {:.1} · numerical {}",
        what.effective, what.full, what.stable, what.numerical
    );
    let mut second = format!(
        "energy 90 %: {} · 99 %: {} · norm {}",
        what.energy90,
        what.energy99,
        value(what.norm)
    );
    if let Some(relative) = what.relative {
        second += &format!(" ({:.1} % of W)", 100.0 * relative);
    }
    if let Some(ceiling) = what.ceiling {
        second += &format!(" · at most {ceiling}");
    }
    let rest = put(&first, theme.text, theme, area, buffer);
    put(&second, theme.text, theme, rest, buffer);
}
