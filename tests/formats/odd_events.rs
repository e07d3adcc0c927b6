//! Event logs in which values were replaced, lines doubled, lost or put elsewhere: every reader of logs, every view of
//! the screen and every plot ends, with numbers or without.
#![allow(clippy::unwrap_used)] // helpers of tests, not only tests

use std::fs;

use crate::fuzz;
use fullrank::cli;
use fullrank::report::{Comparison, plots};
use fullrank::runlog::{
    Alert, Body, Changed, Ckpt, Clamp, Cmd, Coverage, End, EndStatus, Eval, Event, Init, Level,
    Limiter, Log, Mem, Merge, MergeLayer, Pause, Phase, Rank, Reset, Resume, Run, RunDir, Sample,
    SideCoverage, Skip, Step, Subspace, Switch, SwitchLayer, Sys, Time, effective, read_log,
};
use fullrank::tui::action::ViewId;
use fullrank::tui::app::App;
use fullrank::tui::model::RunModel;
use fullrank::tui::page;
use fullrank::tui::theme::{Depth, Theme};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use serde_json::{Value, json};

const LAYER: &str = "model.layers.0.self_attn.q_proj";

/// A log with every kind of event.
fn log() -> Vec<Value> {
    let run = Run {
        name: "odd".into(),
        method: "switchlora".into(),
        model: "demo".into(),
        steps: 20,
        tokens_per_step: 64,
        train_tokens: 1_000,
        trained_params: 500,
        rank: Some(4),
        unigram_ppl: Some(50.0),
        layers: vec![LAYER.into(), "model.layers.1.mlp.up_proj".into()],
        ..Run::default()
    };
    let mut told: Vec<(u64, Body)> = vec![
        (0, run.into()),
        (0, Phase { name: "train".into(), detail: String::new() }.into()),
        (0, Init { rank: 4, scale: 1.0, ..Init::default() }.into()),
        (0, Clamp { layer: LAYER.into(), wanted: 9, rank: 4, reason: "small".into() }.into()),
        (0, Eval { loss: 5.0, ppl: 148.0, tokens: 9 }.into()),
    ];
    for at in 1..=8 {
        let (tokens, active_s) = (64 * at, 0.5 * at as f64);
        let loss = 5.0 - 0.1 * at as f64;
        told.push((
            at,
            Step { loss, lr: 0.01, grad_norm: 1.0, tokens, active_s, tok_s: 128.0 }.into(),
        ));
        let row = |layer| SwitchLayer { layer, k: 1, slot_a: 2, ..SwitchLayer::default() };
        told.push((at, Switch { l: vec![row(0), row(1)] }.into()));
    }
    let side = || SideCoverage { visited: 3, ages: vec![1, 2], lifetimes: vec![0, 4] };
    let rank = Rank {
        layer: LAYER.into(),
        matrix: "change".into(),
        reference: Some("start".into()),
        full: 32,
        ceiling: Some(9),
        effective: 4.5,
        relative: Some(0.1),
        sigma: vec![(0, 1.0), (1, 0.5), (9, 0.01)],
        coverage: Some(Coverage { candidates: 32, a: side(), b: side() }),
        head_distance: Some(0.5),
        ..Rank::default()
    };
    let merged =
        MergeLayer { dw_norm: 0.5, cosine: Some(0.5), head_norms: vec![], ..MergeLayer::default() };
    let found = Subspace {
        layer: LAYER.into(),
        side: "left".into(),
        rank: 4,
        rank_before: Some(6),
        energy: 0.9,
        overlap: Some(0.5),
        ms: 1.0,
    };
    let set = Changed { key: "train.learning_rate".into(), from: "1".into(), to: "2".into() };
    let cmd = Cmd { id: "1".into(), cmd: "set".into(), ok: true, set: Some(set), ..Cmd::default() };
    let more: [Body; 20] = [
        rank.into(),
        Merge { count: 1, l: vec![merged] }.into(),
        Reset { count: 1, mode: "zero".into(), m_zeroed: 0.9, ..Reset::default() }.into(),
        found.into(),
        Limiter { l: vec![(0, 1.5, 0.5)], spikes: Some(3), largest: Some(9.0) }.into(),
        Skip { reason: "loss".into(), loss: Some(f64::NAN), grad_norm: None }.into(),
        Mem { bytes: [("weights".into(), 99)].into(), peak_bytes: 120, predicted_bytes: Some(130) }
            .into(),
        Time { ms: [("forward".into(), 1.5)].into() }.into(),
        Sys {
            rss_bytes: Some(9),
            cpu_cores: Some(1.5),
            disk_free_bytes: Some(9),
            battery_percent: Some(42),
        }
        .into(),
        Ckpt { path: "checkpoints/step-00000008".into(), bytes: 9, ms: 1.0, is_best: true }.into(),
        Sample { prompt: "It is".into(), text: " a truth".into() }.into(),
        Alert { level: Level::Warn, what: "slow".into(), remedy: "wait".into() }.into(),
        cmd.into(),
        Log { level: Level::Info, msg: "m".into() }.into(),
        Pause { reason: "asked".into() }.into(),
        Resume::default().into(),
        Resume { from_step: Some(4), from_seq: Some(12), rollback: None }.into(),
        Eval { loss: 4.0, ppl: 54.0, tokens: 9 }.into(),
        Phase { name: "ranks-fixed".into(), detail: String::new() }.into(),
        End { status: EndStatus::Finished, what: String::new() }.into(),
    ];
    told.extend(more.into_iter().map(|body| (8, body)));
    let line = |(seq, (step, body)): (u64, (u64, Body))| {
        let ts = 1_795_284_011_000 + 1000 * seq as i64;
        serde_json::to_value(Event { seq, ts, step, body }).unwrap()
    };
    (1..).zip(told).map(line).collect()
}

/// Replaces one value inside another; places are counted through the whole tree.
fn replace(value: &mut Value, place: &mut usize, by: &Value) {
    if *place == 0 {
        *value = by.clone();
    }
    *place = place.wrapping_sub(1);
    match value {
        _ if *place == usize::MAX => {}
        Value::Array(list) => list.iter_mut().for_each(|item| replace(item, place, by)),
        Value::Object(map) => map.values_mut().for_each(|item| replace(item, place, by)),
        _ => {}
    }
}

/// The places in an event, as `replace` counts them, at which a number stands; those in the envelope of every line
/// only where that is wanted.
fn numbers(event: &Value, with_envelope: bool) -> Vec<usize> {
    fn walk(value: &Value, place: &mut usize, found: &mut Vec<usize>) {
        found.extend(value.is_number().then_some(*place));
        *place += 1;
        match value {
            Value::Array(list) => list.iter().for_each(|item| walk(item, place, found)),
            Value::Object(map) => map.values().for_each(|item| walk(item, place, found)),
            _ => {}
        }
    }
    let (mut place, mut found) = (1, Vec::new());
    for (key, item) in event.as_object().unwrap() {
        let mut own = Vec::new();
        walk(item, &mut place, &mut own);
        if with_envelope || !["v", "seq", "ts"].contains(&key.as_str()) {
            found.extend(own);
        }
    }
    found
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            json!(0),
            json!(1),
            json!(-1),
            json!(0.5),
            json!(1e300),
            json!(-1e300),
            json!(1e-300),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(u32::MAX),
            json!("nan"),
            json!("inf"),
            json!("-inf"),
            json!(""),
            json!("\u{1b}[2J\u{0}"),
            json!("é\u{300}漢字👩‍👩‍👧"),
            json!("x".repeat(300)),
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!("diverged"),
            json!("gradient"),
        ]),
        any::<u64>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0_u64..40).prop_map(Value::from),
    ]
}

/// A damage: which event, which value in it, by what, and what happens to the line.
type Damage = (Index, Index, Value, u8, Index);

fn damaged(mut events: Vec<Value>, damages: Vec<Damage>) -> Vec<u8> {
    for (event, place, by, how, other) in damages {
        let at = event.index(events.len());
        match how {
            0 => drop(events.remove(at)),
            1 => events.insert(at, events[other.index(events.len())].clone()),
            2 => {
                let with = other.index(events.len());
                events.swap(at, with);
            }
            _ => {
                let mut place = place.index(count(&events[at]));
                replace(&mut events[at], &mut place, &by);
            }
        }
        if events.is_empty() {
            break;
        }
    }
    events.iter().flat_map(|event| (event.to_string() + "\n").into_bytes()).collect()
}

/// A run's folder whose log is written anew for each case.
struct Folder {
    folder: tempfile::TempDir,
    run: RunDir,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::at(folder.path().join("20261121-180011-x"));
        fs::create_dir_all(run.path()).unwrap();
        fs::write(run.config(), "[train]\niters = 20\n").unwrap();
        let facts = json!({"model": {
            "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
            "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 257,
        }});
        fs::write(run.facts(), facts.to_string()).unwrap();
        Self { folder, run }
    }

    /// Shows a log in every way there is.
    fn show(&self, log: &[u8], sizes: &[(u16, u16)]) -> TestCaseResult {
        fs::write(self.run.events(), log).unwrap();
        let events = read_log(self.run.events()).unwrap().events;
        let mut model = RunModel::new(None);
        for event in &events {
            model.apply(event);
        }
        let mut app = App::new(vec![model], Theme::new(Depth::True, false, false));
        for view in ViewId::ALL {
            app.view = view;
            for &(width, height) in sizes {
                prop_assert_eq!(
                    page::text(&page::draw(&app, width, height)).lines().count(),
                    usize::from(height)
                );
            }
        }
        effective(events);
        let out = self.folder.path();
        for is_json in [false, true] {
            cli::ls::ls(out, is_json, &mut std::io::sink()).unwrap();
            cli::show::show(out, "x", is_json, &mut std::io::sink()).unwrap();
        }
        let comparison = Comparison::of_runs(std::slice::from_ref(&self.run)).unwrap();
        comparison.table().text();
        for plot in plots::plots(&comparison) {
            prop_assert!(!plot.svg.contains("NaN") && !plot.svg.contains("inf\""), "{}", plot.name);
        }
        Ok(())
    }
}

#[test]
fn odd_values_in_a_log_stop_no_reader_no_view_and_no_plot() {
    let folder = Folder::new();
    let log = log();
    let damage = (any::<Index>(), any::<Index>(), odd(), 0_u8..20, any::<Index>());
    let strategy = prop::collection::vec(damage, 1..10);
    fuzz::each("event log", 96, &strategy, |damages| {
        folder.show(&damaged(log.clone(), damages), &[(100, 30), (21, 6)])
    });
}

/// Random damages seldom meet the one number that sizes memory with the one value that is too large for it, so each
/// number of each kind of event gets each extreme in turn.
#[test]
fn an_extreme_in_place_of_any_one_number_stops_nothing() {
    let folder = Folder::new();
    let log = log();
    let mut cases = 0;
    let mut seen = std::collections::BTreeSet::new();
    for (at, event) in log.iter().enumerate() {
        // Of a kind that comes often, the first is enough.
        if !seen.insert(event["t"].to_string()) {
            continue;
        }
        for number in numbers(event, at == 0) {
            for extreme in [json!(u32::MAX), json!(u64::MAX), json!(1e300), json!(5e-324)] {
                let mut log = log.clone();
                replace(&mut log[at], &mut number.clone(), &extreme);
                let told = format!("{extreme} at {number} of {event}");
                let shown = folder.show(&damaged(log, Vec::new()), &[(100, 30)]);
                assert!(shown.is_ok(), "{told}: {shown:?}");
                cases += 1;
            }
        }
    }
    assert!(cases > 300, "{cases}");
    // The largest numbers of rows and updates at once, on the narrowest screen.
    let mut widest = log.clone();
    for event in &mut widest {
        event["step"] = json!(u64::MAX);
    }
    let shown = folder.show(&damaged(widest, Vec::new()), &[(100, 30), (21, 6), (1, 1)]);
    assert!(shown.is_ok(), "{shown:?}");
}

#[test]
fn the_log_that_is_damaged_has_every_kind_and_reads_whole() {
    let text = damaged(log(), Vec::new());
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let event = Event::parse(line).unwrap();
        assert!(!matches!(event.body, Body::Raw { .. }), "{}", String::from_utf8_lossy(line));
    }
    let kinds: std::collections::BTreeSet<String> =
        log().iter().map(|event| event["t"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds.len(), 24, "{kinds:?}");
}
