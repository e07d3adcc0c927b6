//! What every sign becomes where only ASCII may be drawn. Views draw in Unicode; one pass over the finished
//! cells turns them, so that no view has two forms.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Turns every cell of an area into ASCII. A sign without a counterpart becomes `?`.
pub fn to_ascii(area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    for position in area.positions() {
        let Some(cell) = buffer.cell_mut(position) else { continue };
        if !cell.symbol().is_ascii() {
            let sign = cell.symbol().chars().next().map_or(' ', ascii);
            cell.set_char(sign);
        }
    }
}

/// The nearest ASCII sign.
#[allow(clippy::match_same_arms)] // a table, by the sign's shape
pub fn ascii(sign: char) -> char {
    match sign {
        ' '..='~' => sign,
        '─' | '━' | '═' | '┄' | '–' | '—' | '−' | '‐' | '‑' | '╌' | '╴' | '╶' => {
            '-'
        }
        '│' | '┃' | '║' | '┆' | '╎' | '╵' | '╷' | '¦' => '|',
        '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' | '╭' | '╮' | '╰' | '╯' | '╔' | '╗'
        | '╚' | '╝' | '±' => '+',
        '·' | '•' | '∙' | '…' | '⋯' => '.',
        '█' | '▇' | '▉' | '▊' => '#',
        '▆' | '▓' | '▋' => '%',
        '▅' | '▒' | '▌' => '=',
        '▄' | '▍' => '+',
        '▃' | '▎' | '▐' => '-',
        '▂' | '░' | '▏' => ':',
        '▁' => '_',
        '▲' | '△' | '↑' | '▴' => '^',
        '▼' | '▽' | '↓' | '▾' => 'v',
        '▶' | '→' | '▸' | '⏵' | '›' | '»' | '≥' => '>',
        '◀' | '←' | '◂' | '‹' | '«' | '≤' => '<',
        '◆' | '◇' | '⬥' => 'o',
        '●' | '⏺' | '■' | '★' => '*',
        '○' | '□' => 'o',
        '×' | '✗' | '✕' | '✖' => 'x',
        '✓' | '✔' => 'v',
        '⌖' | '⊕' => '+',
        '⚠' => '!',
        '✎' => 'e',
        'Δ' => 'd',
        'σ' => 's',
        'θ' => '0',
        'µ' | 'μ' => 'u',
        '°' => 'o',
        '⇄' | '↔' => '=',
        '∞' => 'I',
        '‘' | '’' => '\'',
        '“' | '”' | '„' => '"',
        '\u{a0}' | '\u{2009}' | '\u{202f}' => ' ',
        '²' => '2',
        '³' => '3',
        // A Braille cell that was not drawn as ASCII from the start: something is there.
        '\u{2801}'..='\u{28ff}' => '*',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_area_is_ascii_and_the_rest_is_not_touched() {
        let mut buffer = Buffer::with_lines(["┌─▲█…日", "└─▲█…日"]);
        to_ascii(Rect::new(0, 0, 40, 1), &mut buffer);
        let row = |y: u16| (0..5).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        assert_eq!((row(0).as_str(), row(1).as_str()), ("+-^#.", "└─▲█…"));
        assert!((0..7).all(|x| buffer[(x, 0)].symbol().is_ascii()));
    }
}
