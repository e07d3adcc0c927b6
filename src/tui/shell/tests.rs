use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::tui::app::Msg;
use crate::tui::keymap::with_own;
use crate::tui::theme::{Depth, Theme};
use crate::tui::{fixture, page};

fn press(app: &mut App, letters: &str) {
    for letter in letters.chars() {
        app.update(Msg::Press(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::NONE)));
    }
}

#[test]
fn header_tabs_and_hints_stand_around_every_view() {
    let mut app = fixture::app(Theme::default());
    for (view, digit) in ViewId::ALL.into_iter().zip(1..) {
        app.view = view;
        let text = page::text(&page::draw(&app, 100, 30));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 30);
        assert!(lines[0].starts_with(" fullrank │"), "{}", lines[0]);
        assert!(lines[1].contains(&format!("[{digit} {}", view.title())), "{}", lines[1]);
        assert!(lines[29].ends_with("q quit"), "{}", lines[29]);
    }
}

#[test]
fn ascii_screens_have_no_other_signs_around_the_view() {
    let mut app = fixture::app(Theme::new(Depth::Mono, true, false));
    for overlay in ["", "?", ":", "E", "Z"] {
        press(&mut app, overlay);
        let mut buffer = Buffer::empty(Rect::new(0, 0, 120, 30));
        let mut hits = Hits::default();
        header::draw(&app, Rect::new(0, 0, 120, 1), &mut buffer);
        header::tabs(&app, Rect::new(0, 1, 120, 1), &mut buffer, &mut hits);
        footer::draw(&app, Rect::new(0, 29, 120, 1), &mut buffer, &mut hits);
        message(&app, Rect::new(0, 28, 120, 1), &mut buffer, &mut hits);
        let all = Rect::new(0, 2, 120, 26);
        overlay::draw(&app, all, all, &mut buffer, &mut hits);
        let text = page::text(&buffer);
        assert!(text.is_ascii(), "{overlay}: {text}");
        app.overlay = Overlay::None;
    }
}

#[test]
fn what_is_clicked_is_what_is_written_there() {
    let app = fixture::app(Theme::default());
    let area = Rect::new(0, 0, 100, 30);
    let (mut buffer, mut hits) = (Buffer::empty(area), Hits::default());
    draw(&app, area, &mut buffer, &mut hits);
    let text = page::text(&buffer);
    for (action, word) in [(Action::View(ViewId::Rank), "4 Rank"), (Action::Quit, "q quit")] {
        let (place, _) = hits.actions.iter().find(|(_, found)| *found == action).unwrap();
        let line: String = text.lines().nth(usize::from(place.y)).unwrap().to_owned();
        let at = line.chars().skip(usize::from(place.x)).collect::<String>();
        assert!(at.trim_start().trim_start_matches('[').starts_with(word), "{action:?}: {at}");
    }
}

#[test]
fn no_size_is_too_small_to_draw() {
    let mut app = fixture::app(Theme::default());
    for overlay in ["", "?", ":", "E", "Z", "7/abc"] {
        press(&mut app, overlay);
        for width in 0..70 {
            for height in 0..22 {
                page::draw(&app, width, height);
            }
        }
        app.overlay = Overlay::None;
    }
    assert!(page::text(&page::draw(&app, 19, 5)).contains("needs 20x5"));
    app.runs.clear();
    page::draw(&app, 100, 30);
}

#[test]
fn the_footer_keeps_the_way_out_when_it_is_narrow() {
    let app = fixture::app(Theme::default());
    for width in [60, 80, 100, 200] {
        let text = page::text(&page::draw(&app, width, 24));
        let last = text.lines().last().unwrap();
        assert!(last.trim_end().ends_with("q quit"), "{width}: {last}");
        if width >= 80 {
            assert!(last.contains("P pause"), "{width}: {last}");
            let tabs = text.lines().nth(1).unwrap();
            assert!(tabs.contains("? help") && tabs.contains("7 Runs"), "{width}: {tabs}");
            assert_eq!(tabs.ends_with(": command"), width >= 100, "{width}: {tabs}");
        }
    }
}

#[test]
fn a_replay_stands_in_the_header_and_no_key_acts_on_it() {
    let mut app = fixture::app(Theme::default());
    let live = page::text(&page::draw(&app, 160, 30));
    assert!(live.lines().last().unwrap().contains("P pause"), "{live}");
    app.runs[0].replay = Some(2.0);
    let text = page::text(&page::draw(&app, 160, 30));
    let (first, last) = (text.lines().next().unwrap(), text.lines().last().unwrap());
    assert!(first.contains("REPLAY ×2") && !first.contains("LIVE"), "{first}");
    assert!(!text.contains("ETA"), "it goes at another pace: {text}");
    assert!(!last.contains("P pause"), "{last}");
}

#[test]
fn hints_are_of_keys_that_do_something_in_the_view() {
    let mut app = fixture::app(Theme::default());
    let mut footer = |view| {
        app.view = view;
        page::text(&page::draw(&app, 220, 40)).lines().last().unwrap().to_owned()
    };
    for view in ViewId::ALL {
        let hints = footer(view);
        let has_filter = matches!(view, ViewId::Compare | ViewId::Logs | ViewId::Runs);
        assert_eq!(hints.contains("/ filter"), has_filter, "{hints}");
    }
    assert!(footer(ViewId::Train).contains("+ zoom") && !footer(ViewId::Logs).contains("+ zoom"));
    assert!(!footer(ViewId::Rank).contains("y log y"));
}

#[test]
fn an_alert_is_shown_with_its_whole_remedy_or_without_it() {
    let mut app = fixture::app(Theme::default());
    let (alert, _) = app.alert().unwrap();
    let remedy = alert.what.remedy.clone();
    assert!(!remedy.is_empty());
    app.notice = None;
    let line = |width| {
        let text = page::text(&page::draw(&app, width, 30));
        text.lines().find(|line| line.contains("jump")).map(str::to_owned)
    };
    assert!(line(300).unwrap().contains(&remedy));
    let first = remedy.split(' ').next().unwrap();
    let narrow = line(100).unwrap();
    assert!(narrow.contains(&remedy) || !narrow.contains(&format!("· {first}")), "{narrow}");
}

#[test]
fn the_list_of_runs_has_its_hints_without_a_live_run() {
    let mut app = fixture::app(Theme::default());
    app.view = ViewId::Runs;
    let footer =
        |app: &App| page::text(&page::draw(app, 100, 30)).lines().last().unwrap().to_owned();
    assert!(footer(&app).contains("R resume  N clone  X delete"), "{}", footer(&app));
    app.runs.clear();
    let hints = footer(&app);
    assert!(hints.contains("R resume  N clone  X delete") && !hints.contains("P pause"), "{hints}");
    app.browser.clear();
    assert!(!footer(&app).contains("R resume"));
}

#[test]
fn words_on_the_screen_name_the_keys_that_the_user_chose() {
    let own = [
        ("runs", "Ctrl-r"),
        ("pin", "Ctrl-n"),
        ("filter", "Ctrl-f"),
        ("open", "Alt-o"),
        ("back", "Alt-b"),
        ("follow", "Alt-f"),
        ("diff", "Alt-d"),
        ("spectra", "Alt-r"),
        ("zoom-reset", "Alt-0"),
        ("clone-run", "Alt-n"),
        ("interrupt", "Ctrl-x"),
        ("help", "Ctrl-h"),
        ("command", ";"),
    ];
    let own = own.into_iter().map(|(name, keys)| (name.into(), keys.into())).collect();
    let mut app = fixture::app(Theme::default());
    app.keys = with_own(&own).unwrap();
    app.axes.window = Some((10.0, 100.0));
    app.logs.selected = Some(3);
    let is_said = |view, change: &dyn Fn(&mut App), words: &str| {
        let mut app = app.clone();
        app.view = view;
        change(&mut app);
        let text = page::text(&page::draw(&app, 200, 60));
        assert!(text.contains(words), "no `{words}` in\n{text}");
    };
    let empty = |app: &mut App| app.runs.clear();
    for view in ViewId::ALL.into_iter().filter(|view| *view != ViewId::Runs) {
        is_said(view, &empty, "No run is open. Press Ctrl-r for the runs");
    }
    is_said(ViewId::Train, &|_| {}, "6 Logs(1)  Ctrl-r Runs ");
    is_said(ViewId::Train, &|_| {}, "Ctrl-h help  ; command");
    is_said(ViewId::Compare, &empty, "There Ctrl-n lays a run beside");
    is_said(ViewId::Runs, &|_| {}, "Ctrl-n pin · Alt-o open");
    let nothing = |app: &mut App| {
        app.list.filter = "nothing".into();
        app.compare.filter = "nothing".into();
    };
    is_said(ViewId::Runs, &nothing, "Ctrl-f changes it, Alt-b takes it away");
    is_said(ViewId::Compare, &nothing, "Ctrl-f changes it, Alt-b takes it away");
    is_said(ViewId::Logs, &|_| {}, "Alt-f: follow");
    is_said(ViewId::Logs, &|_| {}, "Alt-d: what changed since");
    is_said(ViewId::Train, &|_| {}, "zoomed (Alt-0: all)");
    is_said(ViewId::Rank, &|_| {}, "Alt-r: now");
    let stop = |app: &mut App| {
        app.is_training = true;
        app.act(Action::Interrupt);
    };
    is_said(ViewId::Train, &stop, "Ctrl-x again: at once");
    let resume = |app: &mut App| {
        app.list.selected = Some(fixture::folder("full", 1));
        app.act(Action::ResumeRun);
    };
    is_said(ViewId::Runs, &resume, "Alt-n starts a new run");
}

#[test]
fn a_long_notice_is_said_whole_over_the_view_and_nothing_moves() {
    let mut app = fixture::app(Theme::default());
    let screen = |app: &App, width| page::text(&page::draw(app, width, 24));
    app.say("short");
    let before = screen(&app, 80);
    let words = "the disk is full: 12 bytes of 34 could be written to a folder with a long name; \
                 make room, then write a checkpoint again, or leave the screen: nothing is lost";
    app.say(words);
    for width in [60, 80, 100] {
        let text = screen(&app, width);
        let said: Vec<&str> = text.lines().skip(19).collect();
        let said = said.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(words), "{width}\n{text}");
    }
    let after = screen(&app, 80);
    let above = |text: &str| text.lines().take(20).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(above(&before), above(&after));
    app.say("x".repeat(10_000));
    assert!(screen(&app, 80).contains("xxx …"));
    for (width, height) in [(20, 5), (60, 16), (0, 0), (59, 20)] {
        page::draw(&app, width, height);
    }
}

#[test]
fn the_editor_shows_the_row_under_the_cursor_at_any_height() {
    let mut app = fixture::app(Theme::default());
    press(&mut app, "E");
    let Overlay::Editor(state) = &mut app.overlay else { panic!("no editor") };
    let last = state.rows.iter().filter(|row| row.is_live).count() - 1;
    state.selected = last;
    let key = state.rows[last].key;
    for height in [16, 18, 24, 40] {
        let text = page::text(&page::draw(&app, 80, height));
        assert!(text.contains(&format!("▸{key}")), "{height}\n{text}");
    }
}

#[test]
fn titles_of_what_lies_over_the_view_lose_whole_parts() {
    let mut app = fixture::app(Theme::default());
    press(&mut app, "?");
    let title = |app: &App, width| {
        let text = page::text(&page::draw(app, width, 24));
        let line = text.lines().find(|line| line.contains("help —")).unwrap();
        line[line.find("help —").unwrap()..line.rfind(" ─").unwrap_or(line.len())].trim().to_owned()
    };
    assert!(title(&app, 100).contains("Enter runs the entry   Esc closes"));
    let narrow = title(&app, 60);
    assert!(narrow.ends_with("view   type to search"), "{narrow}");
}
