//! Pictures of views at the sizes that the screens are made for, of the runs of the fixture.

use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::Hits;
use crate::runlog::{Body, Eval, Event, Level, Log, Mem, Sample, Step, Sys, Time};
use crate::tui::action::{Action, Effect, ViewId};
use crate::tui::app::{App, Msg};
use crate::tui::fixture::{self, snapshot, text};
use crate::tui::model::{Metric, RunModel};
use crate::tui::theme::{Depth, Theme};

/// Sizes of the screen, and of what header, tabs, alerts and hints leave of it.
const SIZES: [(u16, u16); 5] = [(200, 60), (100, 30), (80, 24), (60, 16), (20, 5)];

fn drawn(app: &App, width: u16, height: u16) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    super::draw(app, buffer.area, &mut buffer, &mut Hits::default());
    buffer
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

/// Which cells have which style: a letter for each style in the order in which they appear, a point for none.
fn styles(buffer: &Buffer) -> String {
    let mut known: Vec<Style> = Vec::new();
    let plain = Cell::default().style();
    let mut rows = Vec::new();
    for y in 0..buffer.area.height {
        let mut row = String::new();
        for x in 0..buffer.area.width {
            let style = buffer[(x, y)].style();
            let place = known.iter().position(|other| *other == style).unwrap_or_else(|| {
                if style != plain {
                    known.push(style);
                }
                known.len().saturating_sub(1)
            });
            row.push(if style == plain { '.' } else { char::from(b'a' + place.min(25) as u8) });
        }
        rows.push(row);
    }
    let name = |style: &Style| format!("{:?} {:?} {:?}", style.fg, style.bg, style.add_modifier);
    let legend = known.iter().zip('a'..).map(|(style, letter)| format!("{letter} {}", name(style)));
    rows.into_iter().chain(legend).collect::<Vec<_>>().join("\n")
}

#[test]
fn colours() {
    let themes = [
        ("true", Theme::new(Depth::True, false, false)),
        ("sixteen", Theme::new(Depth::Sixteen, false, true)),
        ("mono", Theme::new(Depth::Mono, false, false)),
    ];
    for (name, theme) in themes {
        let pictures = [ViewId::Train, ViewId::System, ViewId::Logs].map(|view| {
            let mut app = app(view, false);
            app.theme = theme.clone();
            app.axes.cursor = Some(200.0);
            app.logs.selected = Some(18);
            format!("--- {}\n{}", view.title(), styles(&drawn(&app, 80, 20)))
        });
        snapshot(&format!("colours_{name}"), &pictures.join("\n"));
    }
}

#[test]
fn a_run_that_prepares_says_so() {
    let mut run = RunModel::new(None);
    let before_training = |event: &&Event| event.step == 0 && !matches!(event.body, Body::Eval(_));
    let events = fixture::events("switchlora", 1, 3);
    events.iter().filter(before_training).for_each(|event| run.apply(event));
    let mut app = App::new(vec![run], Theme::default());
    app.now_ms = fixture::START_MS + 4200;
    snapshot("preparing", &text(&drawn(&app, 80, 14)));
    app.runs.clear();
    assert!(text(&drawn(&app, 80, 14)).starts_with("No run is open"));
}

#[test]
fn a_click_in_a_chart_is_a_place_on_its_axis() {
    let app = app(ViewId::Train, false);
    let mut buffer = Buffer::empty(Rect::new(0, 0, 100, 26));
    let mut hits = Hits::default();
    super::draw(&app, buffer.area, &mut buffer, &mut hits);
    let (plot, range) = hits.charts[0];
    let left = hits.place(plot.x, plot.y).unwrap();
    let right = hits.place(plot.right() - 1, plot.y).unwrap();
    assert!(range.low <= left && left < range.low + range.high / 50.0, "{left} {range:?}");
    assert!(right <= range.high && right > 0.97 * range.high, "{right} {range:?}");
    assert_eq!(hits.place(plot.x - 1, plot.y), None);
}

#[test]
fn keys_move_the_cursor_over_rows_and_change_the_charts() {
    let mut app = app(ViewId::Train, false);
    for _ in 0..3 {
        super::update(&mut app, Action::Right);
    }
    let cursor = app.axes.cursor.unwrap();
    assert_eq!(cursor, cursor.trunc(), "a row of its own: an update");
    super::update(&mut app, Action::End);
    assert_eq!(app.axes.cursor, Some(312.0));
    super::update(&mut app, Action::Left);
    assert_eq!(app.axes.cursor, Some(309.0));
    let Some(Effect::Copy(copied)) = super::update(&mut app, Action::Copy).pop() else { panic!() };
    assert!(copied.starts_with("step 309 loss 3."), "{copied}");
    super::update(&mut app, Action::NextMetric);
    assert_eq!(app.train.metrics[0], Metric::ValLoss);
    let was_log = super::curve::is_log_y(&app, Metric::ValLoss);
    super::update(&mut app, Action::LogY);
    assert_eq!(super::curve::is_log_y(&app, Metric::ValLoss), !was_log);
    super::update(&mut app, Action::Back);
    assert_eq!(app.axes.cursor, None);
}

#[test]
fn keys_go_through_messages_and_samples() {
    let mut app = app(ViewId::Logs, false);
    let all = text(&drawn(&app, 100, 26));
    super::update(&mut app, Action::Level);
    let serious = text(&drawn(&app, 100, 26));
    assert!(
        all.contains("eval") && !serious.contains("eval") && serious.contains("WARN"),
        "{serious}"
    );
    super::update(&mut app, Action::Level);
    super::update(&mut app, Action::Level);
    app.logs.filter = "ckpt".into();
    assert!(text(&drawn(&app, 100, 26)).contains("3 shown"));
    app.logs.filter.clear();
    super::update(&mut app, Action::FindPrev);
    let Some(Effect::Copy(copied)) = super::update(&mut app, Action::Copy).pop() else { panic!() };
    assert!(copied.contains("grad norm 14.1"), "{copied}");
    super::update(&mut app, Action::Open);
    assert_eq!((app.view, app.axes.cursor), (ViewId::Train, Some(311.0)));
    app.view = ViewId::Logs;
    super::update(&mut app, Action::NextPanel);
    super::update(&mut app, Action::Left);
    assert!(text(&drawn(&app, 100, 26)).contains("samples  step 200"));
    super::update(&mut app, Action::Diff);
    assert!(text(&drawn(&app, 100, 26)).contains("marked: not so at step 100"));
}

/// Numbers from a seed, the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides.max(1)
    }

    /// A number as a run in trouble may tell it.
    fn number(&mut self) -> f64 {
        const ODD: [f64; 9] =
            [0.0, -1.0, 1e-38, 1e38, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3.0, 1e-3];
        if self.roll(4) == 0 {
            ODD[self.roll(ODD.len())]
        } else {
            3.0 + self.roll(1000) as f64 / 500.0
        }
    }
}

/// Events as no run should tell them.
fn odd_events(dice: &mut Dice, step: u64) -> Vec<Event> {
    let event =
        |body: Body| Event { seq: step, ts: fixture::START_MS + 100 * step as i64, step, body };
    let told = Step {
        loss: dice.number(),
        lr: dice.number(),
        grad_norm: dice.number(),
        tokens: step * 100,
        active_s: step as f64 / 10.0,
        tok_s: dice.number(),
    };
    let mut events = vec![event(told.into())];
    if dice.roll(5) == 0 {
        events.push(event(Eval { loss: dice.number(), ppl: dice.number(), tokens: 5 }.into()));
        let ms = [("data".to_owned(), dice.number()), ("step".to_owned(), dice.number())];
        events.push(event(Time { ms: ms.into() }.into()));
        let cpu_cores = Some(dice.number());
        events.push(event(Sys { rss_bytes: Some(u64::MAX), cpu_cores, ..Sys::default() }.into()));
        let bytes = [("weights".to_owned(), dice.roll(9) as u64), ("x".to_owned(), 1 << 40)];
        events.push(event(Mem { bytes: bytes.into(), ..Mem::default() }.into()));
        let text = "日本語 \u{1b}[31m\n\n𝕏 e\u{301} wide\t".to_owned();
        events.push(event(Sample { prompt: "p\n".into(), text: text.clone() }.into()));
        events.push(event(Log { level: Level::Error, msg: text }.into()));
    }
    events
}

#[test]
fn ten_thousand_sizes_with_any_keys_and_data() {
    const ACTIONS: [Action; 46] = [
        Action::NextPanel,
        Action::PrevPanel,
        Action::Left,
        Action::Right,
        Action::Up,
        Action::Down,
        Action::PageUp,
        Action::PageDown,
        Action::Home,
        Action::End,
        Action::Open,
        Action::Back,
        Action::Maximise,
        Action::Filter,
        Action::FindNext,
        Action::FindPrev,
        Action::Freeze,
        Action::Follow,
        Action::Copy,
        Action::ZoomIn,
        Action::ZoomOut,
        Action::ZoomReset,
        Action::PanLeft,
        Action::PanRight,
        Action::CycleX,
        Action::LogY,
        Action::LogX,
        Action::Smoother,
        Action::Rougher,
        Action::RawLine,
        Action::LinkCursor,
        Action::IgnoreOutliers,
        Action::NextMetric,
        Action::NextMatrix,
        Action::Pin,
        Action::Sort,
        Action::Baseline,
        Action::Diff,
        Action::Side,
        Action::Normalise,
        Action::Group,
        Action::Earlier,
        Action::Later,
        Action::Level,
        Action::Wrap,
        Action::JumpAlert,
    ];
    let mut dice = Dice(7);
    let mut app = app(ViewId::Train, false);
    app.runs.push(RunModel::new(None));
    let odd = app.runs.len() - 1;
    let mut buffer = Buffer::empty(Rect::ZERO);
    for turn in 0..10_000_u64 {
        let events = odd_events(&mut dice, turn);
        app.update(Msg::Events(odd, events));
        for _ in 0..3 {
            app.update(Msg::Act(ACTIONS[dice.roll(ACTIONS.len())]));
        }
        match dice.roll(12) {
            0 => app.view = ViewId::ALL[dice.roll(7)],
            1 => app.active = dice.roll(app.runs.len() + 1),
            2 => app.theme = Theme::new(Depth::True, dice.roll(2) == 0, false),
            3 => app.axes.cursor = Some(dice.number()),
            4 => app.axes.window = Some((dice.number() * 10.0, dice.number() * 1e3)),
            5 => drop(app.update(Msg::Click(
                dice.roll(9),
                dice.roll(300) as u16,
                dice.roll(99) as u16,
            ))),
            6 => app.axes = crate::tui::app::Axes::default(),
            _ => {}
        }
        let large = dice.roll(20) == 0;
        let size = if large { (301, 101) } else { (110, 34) };
        let (x, y) = (dice.roll(4) as u16, dice.roll(4) as u16);
        let area = Rect::new(x, y, dice.roll(size.0) as u16, dice.roll(size.1) as u16);
        buffer.resize(Rect::new(0, 0, area.right(), area.bottom()));
        buffer.reset();
        super::draw(&app, area, &mut buffer, &mut Hits::default());
        for (place, cell) in buffer.content().iter().enumerate() {
            let at = buffer.pos_of(place);
            assert!(
                cell.symbol() == " " || area.contains(at.into()),
                "turn {turn}, {:?}: {:?} at {at:?} is outside {area}",
                app.view,
                cell.symbol()
            );
        }
    }
}
