//! The report: one page that needs nothing else, each plot as SVG and PNG, the table in three forms.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::plots::{Plot, plots};
use super::render::shown;
use super::svg::{COLOURS, DARK_COLOURS, THEME, escape, png};
use super::table::{Comparison, Row, Table};
use crate::error::{Error, Result};

/// Writes `report.html`, the plots and the table into a folder, which is made. Returns the page's path.
///
/// Errors: `Error::Io`.
pub fn write(comparison: &Comparison, note: &str, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let table = comparison.table();
    table.write(folder)?;
    let plots = plots(comparison);
    for plot in &plots {
        let path = folder.join(format!("{}.svg", plot.name));
        fs::write(&path, &plot.svg).map_err(Error::io("write", &path))?;
        let path = folder.join(format!("{}.png", plot.name));
        fs::write(&path, png(&plot.svg)?).map_err(Error::io("write", &path))?;
    }
    let path = folder.join("report.html");
    fs::write(&path, html(&table, &plots, note)).map_err(Error::io("write", &path))?;
    Ok(path)
}

/// The page. Everything stands in it; it has no scripts and refers to nothing outside.
fn html(table: &Table, plots: &[Plot], note: &str) -> String {
    let title = escape(&table.title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<p class=\"faint\">{}{}</p>\n",
        style(),
        escape(&table.legend()),
        if note.is_empty() { String::new() } else { format!(" · {}", escape(note)) },
    );
    page.push_str(&rows(&table.groups));
    if table.members.len() > table.groups.len() {
        let _ = writeln!(
            page,
            "<details><summary>Single runs</summary>\n{}</details>",
            rows(&table.members)
        );
    }
    let failed: Vec<&Row> = table.members.iter().filter(|row| !row.cause.is_empty()).collect();
    if !failed.is_empty() {
        page.push_str("<h2>Not finished</h2>\n<ul>\n");
        for row in failed {
            let _ = writeln!(page, "<li><b>{}</b>: {}</li>", escape(&row.name), escape(&row.cause));
        }
        page.push_str("</ul>\n");
    }
    for (number, plot) in plots.iter().enumerate() {
        // Names inside a drawing must not meet those of another on the same page.
        let svg = plot.svg.replace("\"inside\"", &format!("\"inside{number}\""));
        let svg = svg.replace("url(#inside)", &format!("url(#inside{number})"));
        let _ = writeln!(page, "<figure id=\"{}\">\n{svg}</figure>", escape(&plot.name));
    }
    if !table.differences.is_empty() {
        page.push_str(
            "<h2>Settings that differ</h2>\n<div class=\"wide\"><table>\n<tr><th>setting</th>",
        );
        for row in &table.members {
            let _ = write!(page, "<th>{}</th>", escape(&row.name));
        }
        page.push_str("</tr>\n");
        for difference in &table.differences {
            let _ = write!(page, "<tr><td>{}</td>", escape(&difference.key));
            for value in &difference.values {
                let _ = write!(page, "<td>{}</td>", escape(&shown(value.as_deref())));
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</table></div>\n");
    }
    page.push_str(
        "<p class=\"faint\">Losses are in nats a token. Δ: against the baseline of the same seed. ±: standard \
         deviation over seeds. Tokens/s: median of the updates, the first three of each process left out. A run's \
         time is that of its own updates. Would send: what each of several workers would exchange for an update; \
         nothing is sent here. Trained and would send: after a warm start, where there is one. Arithmetic: forward and backward of linear layers, head and attention; what \
         methods do now and then is not counted.</p>\n</main>\n</body>\n</html>\n",
    );
    page
}

fn rows(rows: &[Row]) -> String {
    let (headings, cells) = Table::cells(rows);
    let class = |is_right: bool| if is_right { " class=\"n\"" } else { "" };
    let mut text = String::from("<div class=\"wide\"><table>\n<tr>");
    for (name, is_right) in &headings {
        let _ = write!(text, "<th{}>{}</th>", class(*is_right), escape(name));
    }
    text.push_str("</tr>\n");
    for row in cells {
        text.push_str("<tr>");
        for (cell, (_, is_right)) in row.iter().zip(&headings) {
            let _ = write!(text, "<td{}>{}</td>", class(*is_right), escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table></div>\n");
    text
}

/// Colours for a light and a dark page; the drawings' own attributes give way to them.
fn style() -> String {
    let theme = |is_dark: bool| {
        let mut text = String::new();
        for (name, light, dark) in THEME {
            let _ = write!(text, "--{name}:{};", if is_dark { dark } else { light });
        }
        for (number, (light, dark)) in COLOURS.iter().zip(DARK_COLOURS).enumerate() {
            let _ = write!(text, "--c{number}:{};", if is_dark { dark } else { light });
        }
        text
    };
    let mut text = format!(
        ":root{{color-scheme:light dark;{}}}\n@media (prefers-color-scheme:dark){{:root{{{}}}}}\n",
        theme(false),
        theme(true)
    );
    for (name, ..) in THEME {
        let _ = writeln!(
            text,
            "svg .{name}{{fill:var(--{name})}} svg .s-{name}{{stroke:var(--{name})}}"
        );
    }
    for number in 0..COLOURS.len() {
        let _ = writeln!(
            text,
            "svg .s{number}{{stroke:var(--c{number})}} svg .f{number}{{fill:var(--c{number})}}"
        );
    }
    text.push_str(
        "body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\n\
         main{max-width:960px;margin:0 auto;padding:24px 20px}\n\
         h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:28px 0 8px}\n\
         .faint{color:var(--faint);font-size:13px}\n\
         .wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;white-space:nowrap}\n\
         th,td{padding:5px 10px;border-bottom:1px solid var(--grid);text-align:left}\n\
         th{color:var(--faint);font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums}\n\
         figure{margin:26px 0}figure svg{max-width:100%;height:auto;display:block}\n\
         details{margin:12px 0}summary{cursor:pointer}\n",
    );
    text
}
