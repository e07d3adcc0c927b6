use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use super::*;
use crate::runlog::control;
use crate::tui::fixture;
use crate::tui::keymap::KEYMAP;

fn app() -> App {
    fixture::app(Theme::default())
}

fn press(app: &mut App, keys: &str) -> Vec<Effect> {
    let mut effects = Vec::new();
    for letter in keys.chars() {
        let code = match letter {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            letter => KeyCode::Char(letter),
        };
        effects.extend(app.update(Msg::Press(KeyEvent::new(code, KeyModifiers::NONE))));
    }
    effects
}

fn sent(effects: &[Effect]) -> Vec<String> {
    let words = effects.iter().map(|effect| match effect {
        Effect::Send(run, action) => format!("{run}: {action}"),
        other => format!("{other:?}"),
    });
    words.collect()
}

#[test]
fn digits_choose_views_in_all_views() {
    let mut app = app();
    for (view, digit) in ViewId::ALL.into_iter().zip('1'..) {
        press(&mut app, &digit.to_string());
        assert_eq!(app.view, view);
    }
}

#[test]
fn keys_that_look_send_nothing_in_any_view() {
    for view in ViewId::ALL {
        for binding in KEYMAP.iter().filter(|b| b.is_in(view) && !b.action.acts()) {
            let mut app = app();
            app.view = view;
            let effects = app.update(Msg::Act(binding.action));
            let acts = |effect: &Effect| {
                matches!(
                    effect,
                    Effect::Send(..)
                        | Effect::Interrupt
                        | Effect::Trash(_)
                        | Effect::Resume(_)
                        | Effect::Clone(_)
                )
            };
            assert!(!effects.iter().any(acts), "{binding:?} in {view:?}: {effects:?}");
        }
    }
}

#[test]
fn capitals_send_commands_to_a_live_run_only() {
    let mut app = app();
    assert_eq!(sent(&press(&mut app, "P")), ["0: pause"]);
    app.runs[0].is_paused = true;
    assert_eq!(sent(&press(&mut app, "PC")), ["0: resume", "0: checkpoint"]);
    assert_eq!(sent(&press(&mut app, "Z")), [""; 0], "asked first");
    assert_eq!(sent(&press(&mut app, "y")), ["0: stop"]);
    app.active = 1;
    assert_eq!(press(&mut app, "PCZ"), []);
    assert!(app.notice.as_ref().unwrap().0.contains("is finished"), "{:?}", app.notice);
}

#[test]
fn a_replay_takes_no_commands() {
    let mut app = app();
    app.runs[0].replay = Some(2.0);
    assert_eq!(press(&mut app, "PCZE"), []);
    assert!(app.notice.as_ref().unwrap().0.contains("is a replay"), "{:?}", app.notice);
    let status = app.runs[0].status;
    app.update(Msg::Status(0, status));
    assert_eq!(sent(&press(&mut app, "P")), ["0: pause"], "at its end it is the run itself");
}

#[test]
fn a_factor_may_stand_as_ctl_takes_it() {
    for line in [":lr *= 0.5\n", ":set learning_rate=*0.5\n", ":set lr *0.5\n"] {
        assert_eq!(sent(&press(&mut app(), line)), ["0: set learning_rate=\"*0.5\""], "{line}");
    }
}

#[test]
fn leaving_a_run_that_trains_is_asked_about() {
    let mut app = app();
    assert_eq!(press(&mut app, "q"), [Effect::Quit]);
    app.is_training = true;
    assert_eq!(press(&mut app, "qn"), []);
    assert_eq!(app.overlay, Overlay::None);
    assert_eq!(press(&mut app, "qy"), [Effect::Detach]);
    assert_eq!(press(&mut app, "D"), [Effect::Detach]);
    app.update(Msg::Over);
    assert_eq!(press(&mut app, "q"), [Effect::Quit]);
}

#[test]
fn control_c_interrupts_the_own_run_even_in_an_open_line() {
    let mut app = app();
    app.is_training = true;
    press(&mut app, ":lr");
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.update(Msg::Press(key)), [Effect::Interrupt]);
    app.is_training = false;
    assert_eq!(app.update(Msg::Press(key)), [Effect::Quit]);
}

#[test]
fn a_frozen_display_takes_nothing_in_until_it_goes_on() {
    let mut app = app();
    let event = fixture::events("switchlora", 1, 313).pop().unwrap();
    let before = app.runs[0].revision;
    press(&mut app, "f");
    app.update(Msg::Events(0, vec![event]));
    assert_eq!(app.runs[0].revision, before);
    press(&mut app, "f");
    assert!(app.runs[0].revision > before);
}

#[test]
fn help_finds_an_entry_and_runs_it() {
    let mut app = app();
    assert_eq!(sent(&press(&mut app, "?checkpoint\n")), ["0: checkpoint"]);
    assert_eq!(app.overlay, Overlay::None);
    press(&mut app, "?log y\n");
    press(&mut app, "?spectra and ranks\n");
    assert_eq!(app.view, ViewId::Rank);
    press(&mut app, "?zzzqqq\n");
    assert_eq!(app.overlay, Overlay::None);
    press(&mut app, "?\x1b");
    assert_eq!(app.overlay, Overlay::None);
}

#[test]
fn the_command_line_sets_scales_completes_and_says_what_is_wrong() {
    let mut app = app();
    app.runs[0].config.insert("train.learning_rate".into(), "0.02".into());
    assert_eq!(sent(&press(&mut app, ":lr = 1e-4\n")), ["0: set learning_rate=0.0001"]);
    assert_eq!(sent(&press(&mut app, ":lr *= 0.5\n")), ["0: set learning_rate=\"*0.5\""]);
    assert_eq!(sent(&press(&mut app, ":set eval_every 50\n")), ["0: set eval_every=50"]);
    assert_eq!(sent(&press(&mut app, ":pause\n")), ["0: pause"]);
    press(&mut app, ":compare\n");
    assert_eq!(app.view, ViewId::Compare);
    for (line, part) in [
        (":rank = 8\n", "cannot change in flight"),
        (":eval_every = x\n", "expected a whole number"),
        (":lr = -1\n", "expected 0 or more"),
        (":lr\n", "lr = VALUE"),
        (":frobnicate\n", "no command"),
        (":pause now\n", "takes no argument"),
    ] {
        assert_eq!(press(&mut app, line), [], "{line}");
        let Overlay::Palette(state) = &app.overlay else { panic!("{line} closed it") };
        assert!(state.error.as_ref().unwrap().contains(part), "{line}: {:?}", state.error);
        press(&mut app, "\x1b");
    }
    press(&mut app, ":che\t");
    let Overlay::Palette(state) = &app.overlay else { panic!("closed") };
    assert!(state.line.text().starts_with("check"), "{:?}", state.line);
    app.overlay = Overlay::None;
    press(&mut app, ":");
    let up = KeyEvent::new(KeyCode::Up, KeyModifiers::NONE);
    app.update(Msg::Press(up));
    let Overlay::Palette(state) = &app.overlay else { panic!("closed") };
    assert_eq!(state.line.text(), "compare");
}

#[test]
fn the_editor_sends_only_what_was_changed() {
    let mut app = app();
    for (key, value) in [("learning_rate", "0.02"), ("eval_every", "100"), ("rank", "16")] {
        app.runs[0].config.insert(format!("train.{key}"), value.into());
    }
    press(&mut app, "E");
    let Overlay::Editor(state) = &app.overlay else { panic!("not open") };
    assert_eq!(state.rows[0].old, "0.02");
    assert!(state.rows.iter().any(|row| row.key == "rank" && !row.is_live));
    let key = |code| Msg::Press(KeyEvent::new(code, KeyModifiers::NONE));
    app.update(key(KeyCode::Backspace));
    press(&mut app, "1");
    let effects = press(&mut app, "\n");
    assert_eq!(sent(&effects), ["0: set learning_rate=0.01"]);
    assert_eq!(app.overlay, Overlay::None);
    press(&mut app, "E1u");
    assert_eq!(press(&mut app, "\n"), [], "undone");
}

#[test]
fn zoom_stays_inside_the_axis_and_reset_follows_again() {
    let mut app = app();
    let (first, last) = app.extent().unwrap();
    press(&mut app, "++");
    let (low, high) = app.axes.window.unwrap();
    assert!((high - low - (last - first) / 4.0).abs() < 1e-6 && high <= last);
    for _ in 0..20 {
        press(&mut app, "<");
    }
    assert_eq!(app.axes.window.unwrap().0, first);
    press(&mut app, "0");
    assert_eq!(app.axes.window, None);
    press(&mut app, "+x");
    assert_eq!((app.axes.x, app.axes.window), (Axis::Tokens, None));
    press(&mut app, "ss");
    let half_life = app.axes.half_life.unwrap();
    let alt_s = KeyEvent::new(KeyCode::Char('s'), KeyModifiers::ALT);
    app.update(Msg::Press(alt_s));
    assert!((app.axes.half_life.unwrap() * 2.0 - half_life).abs() < half_life * 0.3);
    for _ in 0..9 {
        app.update(Msg::Press(alt_s));
    }
    assert_eq!(app.axes.half_life, None);
}

#[test]
fn alerts_can_be_jumped_to_and_taken_off() {
    let mut app = app();
    let (_, count) = app.alert().unwrap();
    assert!(count > 0);
    press(&mut app, "!");
    assert!(app.axes.cursor.is_some());
    let backspace = KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE);
    app.update(Msg::Press(backspace));
    assert!(app.alert().is_none());
}

#[test]
fn a_filter_follows_every_letter_and_escape_takes_it_back() {
    let mut app = app();
    press(&mut app, "7/lo");
    assert_eq!(app.list.filter, "lo");
    press(&mut app, "ra\n");
    assert_eq!((app.list.filter.as_str(), &app.overlay), ("lora", &Overlay::None));
    press(&mut app, "/x\x1b");
    assert_eq!(app.list.filter, "lora");
    press(&mut app, "1/");
    assert_eq!(app.overlay, Overlay::None);
}

#[test]
fn every_word_for_a_command_is_known_to_the_control_file() {
    for word in ["pause", "resume", "checkpoint", "stop", "sample", "eval", "spectra", "unload"] {
        assert!(control::Action::parse(word, None).is_ok(), "{word}");
    }
}

#[test]
fn warnings_and_ends_that_are_new_are_notified_and_old_ones_are_not() {
    use crate::runlog::{Alert, End, EndStatus};
    let mut app = app();
    app.runs[0].status = Status::Live;
    let now = app.now_ms;
    let mut tell = |ts: i64, body: Body| {
        let event = Event { seq: 1_000_000, ts, step: 320, body };
        app.update(Msg::Events(0, vec![event]))
    };
    let alert = |level| Alert { level, what: "a spike".into(), remedy: String::new() };
    let told = tell(now - 100, alert(Level::Warn).into());
    let [Effect::Notify(words)] = &told[..] else { panic!("{told:?}") };
    assert!(words.contains("a spike"), "{words}");
    assert!(tell(now, alert(Level::Info).into()).is_empty());
    assert!(tell(now - 60_000, alert(Level::Error).into()).is_empty(), "read from a log");
    let end = End { status: EndStatus::Finished, what: String::new() };
    let told = tell(now, end.into());
    assert!(
        matches!(&told[..], [Effect::Notify(words)] if words.ends_with("finished at step 320"))
    );
    app.runs[1].status = Status::Live;
    let told = app.update(Msg::Status(1, Status::Crashed));
    assert!(matches!(&told[..], [Effect::Notify(words)] if words.ends_with("crashed")));
    assert!(app.update(Msg::Status(1, Status::Crashed)).is_empty(), "once");
}

#[test]
fn a_chart_is_dragged_and_a_stretch_of_it_is_swept_over() {
    let mut app = app();
    app.update(Msg::Pan(0.5));
    assert_eq!(app.axes.window, None, "nothing lies beside the whole axis");
    app.update(Msg::Sweep(200.0, 100.0));
    assert_eq!(app.axes.window, Some((100.0, 200.0)));
    app.update(Msg::Pan(0.25));
    assert_eq!(app.axes.window, Some((75.0, 175.0)), "the paper follows the hand");
    app.update(Msg::Pan(-9.0));
    let (_, last) = app.extent().unwrap();
    assert_eq!(app.axes.window.unwrap().1, last);
    app.axes.log_x = true;
    app.axes.window = Some((10.0, 40.0));
    app.update(Msg::Pan(-0.5));
    let (low, high) = app.axes.window.unwrap();
    assert!((low - 20.0).abs() < 1e-9 && (high - 80.0).abs() < 1e-9, "{low} {high}");
    app.update(Msg::Sweep(50.0, 50.0));
    assert_eq!(app.axes.window, Some((low, high)), "nothing was swept over");
}

#[test]
fn a_vertical_range_is_held_by_metric_and_said() {
    let alt_y = KeyEvent::new(KeyCode::Char('y'), KeyModifiers::ALT);
    let screen = |app: &App| crate::tui::page::text(&crate::tui::page::draw(app, 120, 36));
    for view in [ViewId::Train, ViewId::Compare] {
        let mut app = app();
        app.view = view;
        let before = screen(&app);
        app.update(Msg::Press(alt_y));
        let metric = if view == ViewId::Train { Metric::Loss } else { app.compare.metric };
        let held = app.axes.y_locks[&metric];
        let words = if view == ViewId::Train { "y:held" } else { "y: held" };
        assert!(screen(&app).contains(words) && !before.contains(words), "{view:?}");
        // Half of the run only: the range stays.
        app.update(Msg::Sweep(200.0, 300.0));
        assert_eq!(app.axes.y_locks[&metric], held);
        let labels = |text: &str| {
            let label = |line: &str| line.split('┤').next().map(|label| label.trim().to_owned());
            text.lines().filter(|line| line.contains('┤')).filter_map(label).collect::<Vec<_>>()
        };
        let free = {
            let mut free = app.clone();
            free.axes.y_locks.clear();
            labels(&screen(&free))
        };
        assert_eq!(labels(&screen(&app))[..3], labels(&before)[..3], "{view:?}");
        assert_ne!(labels(&screen(&app)), free, "{view:?}");
        app.update(Msg::Press(alt_y));
        assert!(app.axes.y_locks.is_empty());
    }
}

#[test]
fn own_keys_are_pressed_shown_and_searched_for() {
    let mut app = app();
    let own = [("smoother".to_owned(), "u".to_owned())].into();
    app.keys = crate::tui::keymap::with_own(&own).unwrap();
    press(&mut app, "s");
    assert_eq!(app.axes.half_life, None);
    press(&mut app, "u");
    assert!(app.axes.half_life.is_some());
    let footer = crate::tui::page::text(&crate::tui::page::draw(&app, 160, 36));
    let footer = footer.lines().last().unwrap();
    assert!(footer.contains("u smooth") && !footer.contains("s smooth"), "{footer}");
}

#[test]
fn a_large_paste_into_a_filter_is_cut_and_said() {
    let mut app = app();
    app.view = ViewId::Runs;
    press(&mut app, "/");
    app.update(Msg::Paste("(".repeat(1_000_000)));
    assert_eq!(app.list.filter, "(".repeat(1000));
    assert!(app.notice.take().unwrap().0.contains("1000 characters"));
    let text = crate::tui::page::text(&crate::tui::page::draw(&app, 100, 30));
    let footer = text.lines().last().unwrap();
    assert!(footer.starts_with(" /((((") && footer.contains("  brackets and NOT"), "{text}");
    assert!(footer.contains("more than 64 deep"), "{text}");
    app.update(Msg::Paste("x".into()));
    assert_eq!((app.list.filter.len(), app.notice.is_some()), (1000, true));
}
