//! Event files that are written here, read by `TensorBoard`'s own reader, where `FULLRANK_PYTHON` (default `python3`) has
//! tensorboard; elsewhere a visible skip.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // helpers of tests may stop; a skip is said

use std::process::Command;

use fullrank::report::tfevents;
use fullrank::runlog::{
    Body, Eval, Event, Mem, Rank, Resume, Run, RunDir, Step, Switch, SwitchLayer,
};
use serde_json::Value;

/// Prints every scalar as `{tag: [[wall time, step, value], …]}`. The reader keeps all of them.
const READ: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
reader = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
reader.Reload()
rows = lambda tag: [[e.wall_time, e.step, e.value] for e in reader.Scalars(tag)]
print(json.dumps({tag: rows(tag) for tag in reader.Tags()['scalars']}))
";
const LAYER: &str = "model.layers.0.mlp.up_proj";

/// A Python that has the package.
fn python() -> Option<String> {
    let python = std::env::var("FULLRANK_PYTHON").unwrap_or_else(|_| "python3".into());
    let probe = Command::new(&python)
        .args(["-c", "import tensorboard.backend.event_processing.event_accumulator"])
        .output();
    if probe.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    eprintln!("SKIPPED: {python} has not tensorboard; its reader was not tried");
    None
}

/// A run of 300 updates with everything that becomes a curve; the last five are made again after a resume.
fn told() -> Vec<(u64, Body)> {
    let mut told: Vec<(u64, Body)> =
        vec![(0, Run { name: "curves".into(), ..Run::default() }.into())];
    let update = |at: u64| Step {
        loss: 1.0 / at as f64,
        lr: 1e-3 * at as f64,
        grad_norm: if at == 7 { f64::NAN } else { 2.0 },
        tokens: 1_000 * at,
        active_s: at as f64,
        tok_s: 1e3,
    };
    told.extend((1..=300).map(|at| (at, update(at).into())));
    told.push((300, Eval { loss: 0.5, ppl: f64::INFINITY, tokens: 9 }.into()));
    told.push((
        295,
        Resume { from_step: Some(295), from_seq: Some(296), ..Resume::default() }.into(),
    ));
    told.extend((296..=300).map(|at| (at, Step { loss: -1.0, ..update(at) }.into())));
    let row = SwitchLayer { k: 3, ..SwitchLayer::default() };
    let more: [Body; 4] = [
        Eval { loss: 0.25, ppl: 1.284, tokens: 9 }.into(),
        Switch { l: vec![row] }.into(),
        Mem { peak_bytes: 1 << 20, ..Mem::default() }.into(),
        Rank {
            layer: LAYER.into(),
            matrix: "change".into(),
            effective: 4.5,
            stable: 2.25,
            ..Rank::default()
        }
        .into(),
    ];
    told.extend(more.into_iter().map(|body| (300, body)));
    told
}

#[test]
fn tensorboard_reads_every_curve_with_its_updates_and_times() {
    let Some(python) = python() else { return };
    let place = tempfile::tempdir().unwrap();
    let run = RunDir::at(place.path().join("20261121-180011-curves"));
    std::fs::create_dir_all(run.path()).unwrap();
    let start = 1_795_284_011_500;
    let lines = (1..).zip(told()).map(|(seq, (step, body))| {
        let ts = start + 250 * seq as i64;
        Event { seq, ts, step, body }.to_line().unwrap() + "\n"
    });
    std::fs::write(run.events(), lines.collect::<String>()).unwrap();
    let folder = place.path().join("curves");
    tfevents::export(&run, &folder).unwrap();

    let output = Command::new(&python)
        .args(["-c", READ])
        .arg(&folder)
        .env("TF_CPP_MIN_LOG_LEVEL", "3")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Python writes NaN and Infinity, which JSON has not.
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace("NaN", "\"nan\"").replace("-Infinity", "\"-inf\"");
    let found: Value = serde_json::from_str(&text.replace("Infinity", "\"inf\"")).unwrap();

    let mut tags: Vec<&str> = found.as_object().unwrap().keys().map(String::as_str).collect();
    tags.sort_unstable();
    let effective = format!("rank/effective/change/{LAYER}");
    let stable = format!("rank/stable/change/{LAYER}");
    let expected = [
        "memory/peak_bytes",
        effective.as_str(),
        stable.as_str(),
        "switch/vectors",
        "train/grad_norm",
        "train/learning_rate",
        "train/loss",
        "train/tokens",
        "train/tokens_per_second",
        "val/loss",
        "val/perplexity",
    ];
    assert_eq!(tags, expected);
    let rows = |tag: &str| found[tag].as_array().unwrap();
    let losses = rows("train/loss");
    assert_eq!(losses.len(), 300, "what a resume made void is left out");
    for (at, row) in (1_u64..).zip(losses) {
        let loss = if at > 295 { -1.0 } else { 1.0 / at as f64 };
        assert_eq!(row[1].as_u64(), Some(at));
        assert_eq!(row[2].as_f64().unwrap() as f32, loss as f32, "update {at}");
    }
    let first = start as f64 / 1000.0 + 0.5;
    assert!((losses[0][0].as_f64().unwrap() - first).abs() < 1e-6, "{}", losses[0]);
    assert_eq!(rows("train/grad_norm")[6][2], "nan");
    assert_eq!(rows("train/tokens")[299][2].as_f64(), Some(300_000.0));
    let of = |tag: &str| {
        let all = rows(tag);
        assert_eq!((all.len(), all[0][1].as_u64()), (1, Some(300)), "{tag}");
        all[0][2].as_f64().unwrap()
    };
    assert_eq!((of("val/loss"), of("switch/vectors")), (0.25, 6.0));
    assert_eq!((of(&effective), of(&stable)), (4.5, 2.25));
    assert_eq!(of("memory/peak_bytes"), 1_048_576.0);
}
