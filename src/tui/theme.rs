//! Colours and signs, for every terminal.

use std::time::Duration;

use ratatui::style::{Color, Modifier, Style};
use terminal_colorsaurus::{QueryOptions, ThemeMode, theme_mode};

/// How long a terminal may take to tell its background; over ssh it is slow, and some never answer.
const ANSWER: Duration = Duration::from_millis(250);

/// How much colour the terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// None: letters, weights and patterns carry everything.
    Mono,
    /// The sixteen named ones.
    Sixteen,
    /// The palette of 256.
    Indexed,
    /// Red, green and blue.
    #[default]
    True,
}

/// Colours by their role. Views name roles only.
#[derive(Debug, Clone, PartialEq)]
pub struct Theme {
    /// How much colour there is.
    pub depth: Depth,
    /// Whether only ASCII may be drawn.
    pub is_ascii: bool,
    /// Whether the background is light.
    pub is_light: bool,
    /// Ordinary text.
    pub text: Style,
    /// Less important text, axes, raw lines.
    pub dim: Style,
    /// Frames.
    pub frame: Style,
    /// The frame and title of the panel in focus.
    pub focus: Style,
    /// Titles.
    pub title: Style,
    /// The row or cell under the cursor.
    pub selected: Style,
    /// Something is as it should be.
    pub good: Style,
    /// Something wants attention.
    pub warn: Style,
    /// Something failed.
    pub bad: Style,
    /// Keys in the footer that only look.
    pub key: Style,
    /// Keys that act on the run.
    pub act: Style,
}

/// The place in the colours of lines that is too bright for a light background, and what stands there instead:
/// black, which is of the palette too.
const YELLOW: usize = 6;
const BLACK: (u8, u8, u8) = (0, 0, 0);

/// How much colour a terminal has, by its variables: `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE`, `COLORTERM`, `TERM`.
pub fn depth(variable: &dyn Fn(&str) -> Option<String>) -> Depth {
    let value = |name: &str| variable(name).filter(|value| !value.is_empty());
    let is_forced = value("CLICOLOR_FORCE").is_some_and(|value| value != "0");
    let is_off = value("NO_COLOR").is_some() || value("CLICOLOR").is_some_and(|value| value == "0");
    if is_off && !is_forced {
        return Depth::Mono;
    }
    let term = value("TERM").unwrap_or_default();
    let color = value("COLORTERM").unwrap_or_default();
    let depth = if matches!(color.as_str(), "truecolor" | "24bit") || term.contains("direct") {
        Depth::True
    } else if term.contains("256color") {
        Depth::Indexed
    } else if matches!(term.as_str(), "" | "dumb" | "vt100" | "vt102" | "vt220") {
        Depth::Mono
    } else {
        Depth::Sixteen
    };
    if is_forced && depth == Depth::Mono { Depth::Sixteen } else { depth }
}

/// Whether only ASCII can be drawn: a locale that says so, or the console of Linux, whose font has no Braille.
pub fn needs_ascii(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let value = |name: &str| variable(name).filter(|value| !value.is_empty());
    if value("TERM").is_some_and(|term| matches!(term.as_str(), "linux" | "vt100" | "dumb")) {
        return true;
    }
    // Where nothing is said, as in a container, terminals of today are UTF-8.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(value);
    locale.is_some_and(|locale| !locale.to_lowercase().replace('-', "").contains("utf8"))
}

/// Whether the background is light: asks the terminal, which must be in nobody's hands yet. Dark where it does
/// not say.
pub fn has_light_background() -> bool {
    let mut options = QueryOptions::default();
    options.timeout = ANSWER;
    matches!(theme_mode(options), Ok(ThemeMode::Light))
}

/// The nearest colour of the palette of 256.
fn indexed((r, g, b): (u8, u8, u8)) -> Color {
    let part = |value: u8| if value < 48 { 0 } else { (value.saturating_sub(35)) / 40 };
    Color::Indexed(16 + 36 * part(r) + 6 * part(g) + part(b))
}

/// The Okabe–Ito palette: eight colours that stay apart for all kinds of colour vision.
const SERIES: [(u8, u8, u8); 8] = [
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (86, 180, 233),
    (240, 228, 66),
    (128, 128, 128),
];

impl Default for Theme {
    fn default() -> Self {
        Self::new(Depth::True, false, false)
    }
}

impl Theme {
    /// A theme for a terminal.
    pub fn new(depth: Depth, is_ascii: bool, is_light: bool) -> Self {
        let plain = Style::new();
        let is_mono = depth == Depth::Mono;
        // Bright yellow and cyan cannot be read on white; the grey of sixteen colours is some terminals' black.
        let (warn, key) =
            if is_light { (Color::Magenta, Color::Blue) } else { (Color::Yellow, Color::Cyan) };
        let grey = match depth {
            Depth::Indexed | Depth::True => Color::Indexed(if is_light { 241 } else { 245 }),
            Depth::Mono | Depth::Sixteen => Color::DarkGray,
        };
        let of = |color: Color, modifier: Modifier| {
            if is_mono { plain.add_modifier(modifier) } else { plain.fg(color) }
        };
        Self {
            depth,
            is_ascii,
            is_light,
            text: plain,
            dim: of(grey, Modifier::DIM),
            frame: of(grey, Modifier::DIM),
            focus: of(key, Modifier::BOLD).add_modifier(Modifier::BOLD),
            title: plain.add_modifier(Modifier::BOLD),
            selected: plain.add_modifier(Modifier::REVERSED),
            good: of(Color::Green, Modifier::empty()),
            warn: of(warn, Modifier::BOLD),
            bad: of(Color::Red, Modifier::BOLD),
            key: of(key, Modifier::BOLD),
            act: of(Color::Magenta, Modifier::BOLD),
        }
    }

    /// The style of the line of the run at a place.
    pub fn series(&self, place: usize) -> Style {
        let place = place % SERIES.len();
        let (r, g, b) = if self.is_light && place == YELLOW { BLACK } else { SERIES[place] };
        match self.depth {
            Depth::Mono => Style::new(),
            Depth::Sixteen => {
                let named = [
                    Color::Blue,
                    Color::Yellow,
                    Color::Green,
                    Color::Red,
                    Color::Magenta,
                    Color::Cyan,
                    Color::LightYellow,
                    Color::Gray,
                ];
                Style::new().fg(named[place % named.len()])
            }
            Depth::Indexed => Style::new().fg(indexed((r, g, b))),
            Depth::True => Style::new().fg(Color::Rgb(r, g, b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &'static [(&'static str, &'static str)]) -> (Depth, bool) {
        let variable = move |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        (depth(&variable), needs_ascii(&variable))
    }

    #[test]
    fn the_environment_decides_on_colours_and_signs() {
        let cases: [(&'static [(&str, &str)], _); 12] = [
            (&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")], (Depth::True, false)),
            (&[("TERM", "xterm-256color"), ("LANG", "de_DE.UTF-8")], (Depth::Indexed, false)),
            (&[("TERM", "xterm"), ("LANG", "C")], (Depth::Sixteen, true)),
            (&[("TERM", "xterm"), ("LANG", "C"), ("LC_ALL", "C.utf8")], (Depth::Sixteen, false)),
            (&[("TERM", "linux")], (Depth::Sixteen, true)),
            (&[("TERM", "dumb")], (Depth::Mono, true)),
            (&[("TERM", "xterm-256color"), ("NO_COLOR", "1")], (Depth::Mono, false)),
            (&[("TERM", "xterm-256color"), ("NO_COLOR", "")], (Depth::Indexed, false)),
            (&[("TERM", "xterm-256color"), ("CLICOLOR", "0")], (Depth::Mono, false)),
            (
                &[("TERM", "xterm-256color"), ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")],
                (Depth::Indexed, false),
            ),
            (&[("TERM", "vt220"), ("CLICOLOR_FORCE", "1")], (Depth::Sixteen, false)),
            (&[], (Depth::Mono, false)),
        ];
        for (pairs, expected) in cases {
            assert_eq!(of(pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn mono_themes_have_no_colour_and_others_keep_roles_apart() {
        let mono = Theme::new(Depth::Mono, false, false);
        for style in [mono.dim, mono.focus, mono.good, mono.warn, mono.bad, mono.key, mono.act] {
            assert_eq!((style.fg, style.bg), (None, None));
        }
        assert_eq!((0..8).map(|place| mono.series(place)).filter(|s| s.fg.is_some()).count(), 0);
        for (depth, is_light) in
            [(Depth::True, false), (Depth::Indexed, true), (Depth::Sixteen, false)]
        {
            let theme = Theme::new(depth, false, is_light);
            let lines: std::collections::HashSet<_> =
                (0..8).map(|place| format!("{:?}", theme.series(place).fg)).collect();
            assert_eq!(lines.len(), 8, "{depth:?}");
        }
    }
}
