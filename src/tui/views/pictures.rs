//! Pictures of views at the sizes that the screens are made for, of the runs of the fixture.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Hits;
use crate::tui::action::ViewId;
use crate::tui::app::App;
use crate::tui::fixture;
use crate::tui::theme::{Depth, Theme};

/// Sizes of the screen, and of what header, tabs, alerts and hints leave of it.
const SIZES: [(u16, u16); 5] = [(200, 60), (100, 30), (80, 24), (60, 16), (20, 5)];

fn drawn(app: &App, width: u16, height: u16) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    super::draw(app, buffer.area, &mut buffer, &mut Hits::default());
    buffer
}

fn text(buffer: &Buffer) -> String {
    let row = |y| {
        let row = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol());
        row.collect::<String>().trim_end().to_owned()
    };
    (0..buffer.area.height).map(row).collect::<Vec<_>>().join("\n")
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../tests/snapshots/tui");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn app(view: ViewId, is_ascii: bool) -> App {
    let depth = if is_ascii { Depth::Mono } else { Depth::True };
    let mut app = fixture::app(Theme::new(depth, is_ascii, false));
    app.view = view;
    app.axes.half_life = Some(8.0);
    app
}

fn pictures(name: &str, view: ViewId) {
    for (form, is_ascii) in [("unicode", false), ("ascii", true)] {
        let app = app(view, is_ascii);
        let pictures = SIZES.map(|(width, height)| {
            let height = height - if height >= 16 { 4 } else { 1 };
            let drawn = drawn(&app, width, height);
            if is_ascii {
                assert!(drawn.content().iter().all(|cell| cell.symbol().is_ascii()));
            }
            format!("--- {width} x {height}\n{}", text(&drawn))
        });
        snapshot(&format!("{name}_{form}"), &pictures.join("\n"));
    }
}

#[test]
fn train() {
    pictures("train", ViewId::Train);
}

#[test]
fn system() {
    pictures("system", ViewId::System);
}

#[test]
fn logs() {
    pictures("logs", ViewId::Logs);
}

#[test]
fn compare() {
    pictures("compare", ViewId::Compare);
}

#[test]
fn runs() {
    pictures("runs", ViewId::Runs);
}

#[test]
fn switches() {
    pictures("switches", ViewId::Switches);
}

#[test]
fn rank() {
    pictures("rank", ViewId::Rank);
}
