//! Colours and signs, for every terminal.

use ratatui::style::{Color, Modifier, Style};

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
        let of = |color: Color, modifier: Modifier| {
            if is_mono { plain.add_modifier(modifier) } else { plain.fg(color) }
        };
        Self {
            depth,
            is_ascii,
            is_light,
            text: plain,
            dim: of(Color::DarkGray, Modifier::DIM),
            frame: of(Color::DarkGray, Modifier::DIM),
            focus: of(Color::Cyan, Modifier::BOLD),
            title: plain.add_modifier(Modifier::BOLD),
            selected: plain.add_modifier(Modifier::REVERSED),
            good: of(Color::Green, Modifier::empty()),
            warn: of(Color::Yellow, Modifier::BOLD),
            bad: of(Color::Red, Modifier::BOLD),
            key: of(Color::Cyan, Modifier::BOLD),
            act: of(Color::Magenta, Modifier::BOLD),
        }
    }

    /// The style of the line of the run at a place.
    pub fn series(&self, place: usize) -> Style {
        let (r, g, b) = SERIES[place % SERIES.len()];
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
            Depth::Indexed | Depth::True => Style::new().fg(Color::Rgb(r, g, b)),
        }
    }
}
