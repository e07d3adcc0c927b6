//! Writes SVG: a string with shapes in it, and its picture as PNG.
//!
//! Every shape has its colour of the light theme as an attribute and a class, so that a file stands alone and a page
//! can give the same shape another colour in the dark.

use std::fmt::Write as _;
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::error::{Error, Result};

/// Fonts of the reader's system; the last ones are those of the picture.
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
/// The font that draws the text of pictures.
const FONT: &[u8] = include_bytes!("../../assets/fonts/DejaVuSans-subset.ttf");
const FONT_NAME: &str = "DejaVu Sans";
/// Pixels of a picture for each unit of the drawing.
const SCALE: f32 = 2.0;

/// Colours that people with any colour vision tell apart (Okabe and Ito, "Color Universal Design"), without the
/// yellow, which is too light for lines on white.
pub const COLOURS: [&str; 7] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B"];

/// The same for a dark page: the blue, the green and the grey are lighter.
pub const DARK_COLOURS: [&str; 7] =
    ["#4DA6DB", "#EB7A2F", "#2BC49A", "#DB95BC", "#F0B429", "#7CC7F0", "#B0B0B0"];

/// Colours of text, faint text, grid and background, light and dark, by class.
pub const THEME: [(&str, &str, &str); 4] = [
    ("ink", "#1F2328", "#E6EDF3"),
    ("faint", "#59636E", "#9198A1"),
    ("grid", "#D8DEE4", "#343B44"),
    ("paper", "#FFFFFF", "#0D1117"),
];

/// Which end of a text stands at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// Longest name beside a drawing, in characters.
const MAX_NAME: usize = 26;

/// A drawing.
#[derive(Debug)]
pub struct Svg {
    text: String,
    width: f64,
    height: f64,
}

/// Text as it may stand in XML; characters that may not are left out.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}

/// A name as there is room for it.
pub fn shortened(name: &str) -> String {
    if name.chars().count() <= MAX_NAME {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(MAX_NAME - 1).collect();
    short.push('…');
    short
}

fn theme(class: &str) -> &'static str {
    THEME.iter().find(|(name, ..)| *name == class).map_or("#1F2328", |(_, light, _)| light)
}

impl Svg {
    /// An empty drawing of this size, with a title for those who cannot see it.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" font-family=\"{FONTS}\"><title>{}</title>",
            escape(title)
        );
        let mut svg = Self { text, width, height };
        svg.rect(0.0, 0.0, width, height, "paper", theme("paper"), "");
        svg
    }

    /// A rectangle.
    pub fn rect(&mut self, x: f64, y: f64, w: f64, h: f64, class: &str, fill: &str, more: &str) {
        let _ = writeln!(
            self.text,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{:.2}\" height=\"{:.2}\" class=\"{class}\" fill=\"{fill}\" {more}/>",
            w.max(0.0),
            h.max(0.0)
        );
    }

    /// A rule of the grid or an axis.
    pub fn rule(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, class: &str) {
        let _ = writeln!(
            self.text,
            "<line x1=\"{x1:.2}\" y1=\"{y1:.2}\" x2=\"{x2:.2}\" y2=\"{y2:.2}\" class=\"s-{class}\" \
             stroke=\"{}\" stroke-width=\"1\"/>",
            theme(class)
        );
    }

    /// Words in a colour of the theme.
    pub fn words(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, class: &str, words: &str) {
        self.write_words(x, y, size, anchor, (class, theme(class)), "", words);
    }

    /// Words from bottom to top.
    pub fn words_upwards(&mut self, x: f64, y: f64, size: f64, class: &str, words: &str) {
        let turn = format!("transform=\"rotate(-90 {x:.2} {y:.2})\"");
        self.write_words(x, y, size, Anchor::Middle, (class, theme(class)), &turn, words);
    }

    /// Words in the colour of a line.
    pub fn label(&mut self, x: f64, y: f64, size: f64, colour: usize, words: &str) {
        let colour = colour % COLOURS.len();
        let class = format!("f{colour}");
        self.write_words(x, y, size, Anchor::Start, (&class, COLOURS[colour]), "", words);
    }

    fn write_words(
        &mut self,
        x: f64,
        y: f64,
        size: f64,
        anchor: Anchor,
        (class, fill): (&str, &str),
        more: &str,
        words: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.2}\" y=\"{y:.2}\" font-size=\"{size}\" text-anchor=\"{anchor}\" class=\"{class}\" \
             fill=\"{fill}\" {more}>{}</text>",
            escape(words)
        );
    }

    /// A line through points; where a number is not finite the line has a gap. A point alone becomes a dot.
    pub fn line(&mut self, points: &[(f64, f64)], colour: usize, more: &str) {
        let mut path = String::new();
        let mut run: Vec<(f64, f64)> = Vec::new();
        let mut flush = |run: &mut Vec<(f64, f64)>| {
            for (at, (x, y)) in run.iter().enumerate() {
                let _ = write!(path, "{}{x:.2} {y:.2}", if at == 0 { 'M' } else { 'L' });
            }
            if let [(x, y)] = run[..] {
                let _ = write!(path, "L{:.2} {y:.2}", x + 0.01);
            }
            run.clear();
        };
        for &(x, y) in points {
            if x.is_finite() && y.is_finite() { run.push((x, y)) } else { flush(&mut run) }
        }
        flush(&mut run);
        if path.is_empty() {
            return;
        }
        let colour = colour % COLOURS.len();
        let _ = writeln!(
            self.text,
            "<path d=\"{path}\" fill=\"none\" class=\"s{colour}\" stroke=\"{}\" stroke-linecap=\"round\" \
             stroke-linejoin=\"round\" {more}/>",
            COLOURS[colour]
        );
    }

    /// A filled shape.
    pub fn area(&mut self, points: &[(f64, f64)], colour: usize, more: &str) {
        let finite: Vec<String> = points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|(x, y)| format!("{x:.2},{y:.2}"))
            .collect();
        if finite.len() < 3 {
            return;
        }
        let colour = colour % COLOURS.len();
        let _ = writeln!(
            self.text,
            "<polygon points=\"{}\" class=\"f{colour}\" fill=\"{}\" {more}/>",
            finite.join(" "),
            COLOURS[colour]
        );
    }

    /// A dot with a rim of the background.
    pub fn dot(&mut self, x: f64, y: f64, radius: f64, colour: usize) {
        if !(x.is_finite() && y.is_finite()) {
            return;
        }
        let colour = colour % COLOURS.len();
        let _ = writeln!(
            self.text,
            "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" class=\"f{colour} s-paper\" fill=\"{}\" \
             stroke=\"{}\" stroke-width=\"1\"/>",
            COLOURS[colour],
            theme("paper")
        );
    }

    /// Begins a part of which only what is inside a rectangle shows.
    pub fn begin_clip(&mut self, id: &str, x: f64, y: f64, w: f64, h: f64) {
        let _ = writeln!(
            self.text,
            "<clipPath id=\"{id}\"><rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\"/></clipPath>\
             <g clip-path=\"url(#{id})\">"
        );
    }

    /// Ends that part.
    pub fn end_clip(&mut self) {
        self.text.push_str("</g>\n");
    }

    /// The drawing's size.
    pub fn size(&self) -> (f64, f64) {
        (self.width, self.height)
    }

    /// The whole file.
    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

/// Draws SVG as PNG, on the light theme, at two pixels a unit.
///
/// Errors: `Error::Run` if the text is no SVG or too large a picture.
pub fn png(svg: &str) -> Result<Vec<u8>> {
    let failed =
        |what: String| Error::run(format!("a plot cannot be drawn: {what}"), "report this");
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    fonts.set_sans_serif_family(FONT_NAME);
    let options =
        Options { font_family: FONT_NAME.into(), fontdb: Arc::new(fonts), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size = tree.size();
    let (width, height) = ((size.width() * SCALE) as u32, (size.height() * SCALE) as u32);
    let mut picture =
        Pixmap::new(width, height).ok_or_else(|| failed(format!("{width} × {height} pixels")))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut picture.as_mut());
    picture.encode_png().map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_becomes_a_picture_with_its_colours() {
        let mut svg = Svg::new(100.0, 50.0, "a < b & \"c\"");
        svg.line(&[(10.0, 25.0), (90.0, 25.0)], 0, "stroke-width=\"10\"");
        svg.words(50.0, 15.0, 12.0, Anchor::Middle, "ink", "Δ 3.5 <x>");
        let svg = svg.finish();
        let bytes = png(&svg).unwrap();
        let picture = Pixmap::decode_png(&bytes).unwrap();
        assert_eq!((picture.width(), picture.height()), (200, 100));
        let blue = picture.pixel(100, 50).unwrap();
        assert_eq!((blue.red(), blue.green(), blue.blue()), (0x00, 0x72, 0xB2));
        // The words are drawn: something dark in the upper half.
        let upper = &picture.pixels()[..200 * 38];
        assert!(upper.iter().any(|pixel| pixel.red() < 0x60 && pixel.blue() < 0x60));
    }

    #[test]
    fn a_line_has_gaps_where_numbers_are_missing() {
        let mut svg = Svg::new(10.0, 10.0, "x");
        svg.line(&[(1.0, 1.0), (2.0, f64::NAN), (3.0, 3.0), (4.0, 4.0)], 1, "");
        let text = svg.finish();
        assert_eq!(text.matches('M').count(), 2, "{text}");
        assert!(!text.contains("NaN"));
        let mut empty = Svg::new(10.0, 10.0, "x");
        empty.line(&[(f64::NAN, 1.0)], 1, "");
        assert!(!empty.finish().contains("<path"));
    }

    #[test]
    fn what_is_no_drawing_is_an_error() {
        assert!(png("nonsense").is_err());
    }
}
