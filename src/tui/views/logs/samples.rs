//! Texts that the model wrote, by prompt, each beside the one before.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use crate::report::text;
use crate::runlog::Sample;
use crate::tui::action::{Action, Effect};
use crate::tui::app::App;
use crate::tui::model::{At, RunModel};
use crate::tui::plot::Panel;
use crate::tui::plot::pen::{Pen, shortened};
use crate::tui::theme::Theme;
use crate::tui::views::frame::thousands;

/// Words of a text that are compared with those of another, at most.
const COMPARED: usize = 600;

/// Prompts in the order in which they appeared.
fn prompts(run: &RunModel) -> Vec<&str> {
    let mut prompts: Vec<&str> = Vec::new();
    for sample in &run.samples {
        if !prompts.contains(&sample.what.prompt.as_str()) {
            prompts.push(&sample.what.prompt);
        }
    }
    prompts
}

/// The samples of a prompt, oldest first.
fn of_prompt<'a>(run: &'a RunModel, prompt: &str) -> Vec<&'a At<Sample>> {
    run.samples.iter().filter(|sample| sample.what.prompt == prompt).collect()
}

/// What an action changes in the panel of samples.
pub fn update(app: &mut App, action: Action) -> Vec<Effect> {
    let Some(run) = app.run() else { return Vec::new() };
    let prompts = prompts(run);
    let prompt = app.logs.prompt.min(prompts.len().saturating_sub(1));
    let count = prompts.get(prompt).map_or(0, |prompt| of_prompt(run, prompt).len());
    let (prompts, last) = (prompts.len(), count.saturating_sub(1));
    match action {
        Action::FindNext => (app.logs.prompt, app.logs.back) = ((prompt + 1) % prompts.max(1), 0),
        Action::FindPrev => {
            (app.logs.prompt, app.logs.back) = ((prompt + prompts.max(1) - 1) % prompts.max(1), 0);
        }
        Action::Left | Action::Earlier => app.logs.back = (app.logs.back + 1).min(last),
        Action::Right | Action::Later => app.logs.back = app.logs.back.min(last).saturating_sub(1),
        Action::Home => app.logs.back = last,
        Action::End => app.logs.back = 0,
        Action::Up => app.logs.scroll = app.logs.scroll.saturating_sub(1),
        Action::Down => app.logs.scroll += 1,
        Action::PageUp => app.logs.scroll = app.logs.scroll.saturating_sub(super::PAGE),
        Action::PageDown => app.logs.scroll += super::PAGE,
        Action::Open => app.is_maximised = true,
        Action::Copy => {
            let shown = chosen(app)
                .map(|(sample, ..)| format!("{}{}", sample.what.prompt, sample.what.text));
            return shown.map(Effect::Copy).into_iter().collect();
        }
        _ => {}
    }
    // A text has no more rows than characters.
    let longest =
        chosen(app).map_or(0, |(sample, ..)| sample.what.prompt.len() + sample.what.text.len());
    app.logs.scroll = app.logs.scroll.min(longest);
    Vec::new()
}

/// The sample that is shown, the one before it, and the place of its prompt among how many.
fn chosen(app: &App) -> Option<(&At<Sample>, Option<&At<Sample>>, usize, usize)> {
    let run = app.run()?;
    let prompts = prompts(run);
    let prompt = app.logs.prompt.min(prompts.len().checked_sub(1)?);
    let samples = of_prompt(run, prompts[prompt]);
    let place = (samples.len() - 1).saturating_sub(app.logs.back);
    let before = place.checked_sub(1).map(|place| samples[place]);
    Some((samples[place], before, prompt, prompts.len()))
}

/// Draws the panel.
pub fn draw(app: &App, run: &RunModel, is_focused: bool, area: Rect, buffer: &mut Buffer) {
    let theme = &app.theme;
    let Some((sample, before, prompt, prompts)) = chosen(app) else {
        let panel = Panel { title: "samples".into(), is_focused, ..Panel::default() };
        let inside = panel.draw(area, theme, buffer);
        let words = if run.takes_commands() {
            format!("no sample yet · {}: write one now", app.key(Action::Sample))
        } else {
            "no sample was written".into()
        };
        Pen::new(inside, buffer).text(0, 0, &words, theme.dim);
        return;
    };
    let mut title = vec![
        Span::styled("samples", theme.title),
        Span::styled(format!("  step {}", thousands(sample.at.step)), theme.text),
    ];
    let name = shortened(&text::printable(&sample.what.prompt).replace('\n', " "), 24);
    title.push(Span::styled(format!("  prompt {}/{prompts} «{name}»", prompt + 1), theme.dim));
    let note = match before {
        Some(before) if app.logs.shows_diff => {
            format!("marked: not so at step {}", thousands(before.at.step))
        }
        Some(before) => {
            let key = app.key(Action::Diff);
            format!("{key}: what changed since step {}", thousands(before.at.step))
        }
        None => "the first of this prompt".into(),
    };
    let panel = Panel { title: Line::from(title), note: note.into(), is_focused };
    let inside = panel.draw(area, theme, buffer);
    let before = before.filter(|_| app.logs.shows_diff).map(|before| before.what.text.as_str());
    let words = words(sample, before, theme);
    let rows = rows(&words, usize::from(inside.width));
    let scroll = app.logs.scroll.min(rows.len().saturating_sub(1));
    let mut pen = Pen::new(inside, buffer);
    for (y, row) in (0..inside.height).zip(&rows[scroll..]) {
        let mut x = 0;
        for (word, style) in row {
            x = pen.text(x, y, word, *style);
        }
    }
}

/// The prompt and the text word by word, each with the blanks or the line end behind it.
fn words(sample: &At<Sample>, before: Option<&str>, theme: &Theme) -> Vec<(String, Style)> {
    let split = |text: &str| -> Vec<String> {
        let text = text::printable(text);
        text.split_inclusive([' ', '\n']).map(str::to_owned).collect()
    };
    let mut words: Vec<(String, Style)> =
        split(&sample.what.prompt).into_iter().map(|word| (word, theme.dim)).collect();
    let written = split(&sample.what.text);
    let is_new = match before {
        Some(before) => new_words(&split(before), &written),
        None => vec![false; written.len()],
    };
    let marked = theme.key.add_modifier(Modifier::UNDERLINED);
    for (word, is_new) in written.into_iter().zip(is_new) {
        words.push((word, if is_new { marked } else { theme.text }));
    }
    words
}

/// Which words of a text are not in a longest common sequence with the one before.
fn new_words(before: &[String], after: &[String]) -> Vec<bool> {
    let trimmed = |words: &[String]| -> Vec<String> {
        words.iter().take(COMPARED).map(|word| word.trim_end().to_owned()).collect()
    };
    let (old, new) = (trimmed(before), trimmed(after));
    // `longest[i][j]`: length of the longest common sequence of what follows place i of the old and j of the new.
    let mut longest = vec![vec![0_u16; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i][j] = if old[i] == new[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let mut is_new = vec![true; after.len()];
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            is_new[j] = false;
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    is_new
}

/// Words in rows of at most some cells; a word longer than that is cut into pieces.
fn rows(words: &[(String, Style)], width: usize) -> Vec<Vec<(String, Style)>> {
    let width = width.max(1);
    let mut rows: Vec<Vec<(String, Style)>> = vec![Vec::new()];
    let mut used = 0;
    for (word, style) in words {
        let ends_line = word.ends_with('\n');
        let word = word.trim_end_matches(['\n', '\r']);
        let bare = word.trim_end().width();
        if used > 0 && used + bare > width {
            rows.push(Vec::new());
            used = 0;
        }
        let mut piece = String::new();
        let mut wide = 0;
        for sign in word.chars() {
            let cells = unicode_width::UnicodeWidthChar::width(sign).unwrap_or(0);
            if used + wide + cells > width {
                if sign == ' ' {
                    break;
                }
                push(&mut rows, std::mem::take(&mut piece), *style);
                rows.push(Vec::new());
                (used, wide) = (0, 0);
            }
            piece.push(sign);
            wide += cells;
        }
        push(&mut rows, piece, *style);
        used += wide;
        if ends_line {
            rows.push(Vec::new());
            used = 0;
        }
    }
    rows
}

fn push(rows: &mut [Vec<(String, Style)>], piece: String, style: Style) {
    if let Some(row) = rows.last_mut().filter(|_| !piece.is_empty()) {
        row.push((piece, style));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        text.split_inclusive(' ').map(str::to_owned).collect()
    }

    #[test]
    fn words_that_were_not_there_before_are_new() {
        let new = |before: &str, after: &str| new_words(&split(before), &split(after));
        assert_eq!(new("the red house", "the blue house"), [false, true, false]);
        assert_eq!(new("", "a b"), [true, true]);
        assert_eq!(new("a b", "a b"), [false, false]);
        assert_eq!(new("a b c d", "b d e"), [false, false, true]);
    }

    #[test]
    fn rows_break_between_words_and_at_line_ends() {
        let lines = |text: &str, width: usize| -> Vec<String> {
            let words: Vec<(String, Style)> = text
                .split_inclusive([' ', '\n'])
                .map(|word| (word.to_owned(), Style::new()))
                .collect();
            let row = |row: &Vec<(String, Style)>| {
                row.iter().map(|(word, _)| word.as_str()).collect::<String>().trim_end().to_owned()
            };
            rows(&words, width).iter().map(row).collect()
        };
        assert_eq!(lines("one two three", 7), ["one two", "three"]);
        assert_eq!(lines("one\ntwo three", 20), ["one", "two three"]);
        assert_eq!(lines("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(lines("日本語", 4), ["日本", "語"]);
        assert_eq!(lines("", 0), [""]);
        assert_eq!(lines("abc", 0), ["a", "b", "c"]);
    }
}
