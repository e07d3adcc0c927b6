//! `fullrank report`: every file is there, drawings are drawings and pictures are pictures, the page refers to nothing
//! outside; runs that crashed, told one number or went wrong still give a report.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::{Place, read_json, stderr};
use fullrank::runlog::{
    Body, End, EndStatus, Eval, Mem, Merge, MergeLayer, Reset, Run, RunDir, RunWriter, Step,
    Subspace, Switch, SwitchLayer, find_comparison,
};
use resvg::tiny_skia::Pixmap;
use resvg::usvg::{Options, Tree};
use serde_json::json;

/// A run in `runs/` from what it told.
fn write(place: &Place, name: &str, told: &[(u64, Body)]) -> RunDir {
    let run = RunDir::at(place.path("runs").join(format!("20261121-000000-{name}")));
    fs::create_dir_all(run.path()).unwrap();
    fs::write(run.config(), "[train]\niters = 40\n").unwrap();
    let mut log = RunWriter::open(run.events()).unwrap();
    for (step, body) in told {
        log.emit(*step, body.clone()).unwrap();
    }
    log.sync().unwrap();
    run
}

fn step(step: u64, loss: f64) -> (u64, Body) {
    let (tokens, active_s) = (64 * step, 0.25 * step as f64);
    let body = Step { loss, lr: 1e-3, grad_norm: loss / 2.0, tokens, active_s, tok_s: 256.0 };
    (step, body.into())
}

fn eval(step: u64, loss: f64) -> (u64, Body) {
    (step, Eval { loss, ppl: loss.exp(), tokens: 64 }.into())
}

/// A run with everything that a report can show.
fn full_of_events(method: &str) -> Vec<(u64, Body)> {
    let layers = ["q_proj", "v_proj"].map(|name| format!("model.layers.0.self_attn.{name}"));
    let run = Run {
        method: method.into(),
        steps: 40,
        tokens_per_step: 64,
        trained_params: 1_000,
        rank: Some(8),
        layers: layers.to_vec(),
        ..Run::default()
    };
    let mut told = vec![(0, run.into()), eval(0, 5.5)];
    for at in 1..=40 {
        told.push(step(at, 5.5 - 0.05 * at as f64));
        let row = |layer| SwitchLayer { layer, k: 2, ..SwitchLayer::default() };
        told.push((at, Switch { l: vec![row(0), row(1)] }.into()));
        if at % 10 == 0 {
            told.push(eval(at, 5.4 - 0.05 * at as f64));
            let merged = MergeLayer { cosine: Some(0.1), ..MergeLayer::default() };
            told.push((at, Merge { count: at / 10, l: vec![merged] }.into()));
            told.push((at, Reset::default().into()));
            for layer in &layers {
                let (side, layer_name) = ("left".into(), layer.clone());
                let before = (at > 10).then_some(at - 10);
                told.push((
                    at,
                    Subspace {
                        layer: layer_name,
                        side,
                        rank: at,
                        rank_before: before,
                        energy: 0.5,
                        overlap: before.map(|_| 0.25),
                        ms: 1.0,
                    }
                    .into(),
                ));
                let rank = json!({
                    "layer": layer, "matrix": "change", "full": 32, "effective": at as f64 / 4.0,
                    "sigma": [[0, 2.0], [1, 1.0], [5, 0.01]],
                });
                told.push((at, Body::raw("rank", rank.as_object().unwrap().clone())));
            }
        }
    }
    let bytes = [("weights", 4 << 20), ("optimizer", 2 << 20), ("activations", 0)];
    let bytes = bytes.map(|(name, bytes)| (name.to_owned(), bytes)).into();
    told.push((40, Mem { bytes, peak_bytes: 9 << 20, predicted_bytes: Some(10 << 20) }.into()));
    told.push((40, End { status: EndStatus::Finished, what: String::new() }.into()));
    told
}

/// Checks all files of a report and gives the names of its plots.
fn check(folder: &Path) -> Vec<String> {
    let html = fs::read_to_string(folder.join("report.html")).unwrap();
    for outside in ["<script", "src=", "href=", "@import", "url(http", "<link", "<img"] {
        assert!(!html.contains(outside), "{outside} in {}", folder.display());
    }
    let addresses = html.matches("http").count();
    assert_eq!(addresses, html.matches("\"http://www.w3.org/2000/svg\"").count());
    assert!(html.contains("prefers-color-scheme"));
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "svg") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("NaN") && !text.contains("inf\""), "{}", path.display());
        let tree = Tree::from_str(&text, &Options::default()).unwrap();
        let picture = Pixmap::load_png(path.with_extension("png")).unwrap();
        assert_eq!(picture.width(), 2 * tree.size().width() as u32);
        let colours: BTreeSet<[u8; 3]> =
            picture.pixels().iter().step_by(7).map(|p| [p.red(), p.green(), p.blue()]).collect();
        assert!(colours.len() > 10, "{} has {} colours", path.display(), colours.len());
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(html.contains(&format!("<figure id=\"{name}\">")), "{name}");
        names.push(name);
    }
    for name in ["table.md", "table.csv", "table.json"] {
        assert!(fs::metadata(folder.join(name)).unwrap().len() > 50, "{name}");
    }
    names.sort();
    names
}

#[test]
fn a_run_with_everything_gets_every_plot() {
    let place = Place::new();
    let run = write(&place, "all", &full_of_events("switchlora"));
    let facts = json!({"model": {
        "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 257,
    }});
    fs::write(run.facts(), facts.to_string()).unwrap();
    fs::write(run.config(), "[data]\nmax_seq_length = 32\n").unwrap();
    let out = place.ok("report all");
    assert!(out.trim_end().ends_with("-all/report/report.html"), "{out}");
    assert_eq!(
        check(&run.path().join("report")),
        [
            "events",
            "gradient-norm",
            "heads",
            "learning-rate",
            "loss-flop",
            "loss-time",
            "loss-tokens",
            "memory",
            "rank",
            "rank-all",
            "rank-in-use",
            "spectra-all",
            "subspace-energy",
            "subspace-overlap",
            "switches-all",
            "validation",
        ]
    );
    let svg =
        |name: &str| fs::read_to_string(run.path().join(format!("report/{name}.svg"))).unwrap();
    for name in ["loss-tokens", "loss-time", "loss-flop", "gradient-norm", "events"] {
        for act in ["merge", "reset", "new subspace", "rank changed"] {
            assert_eq!(svg(name).matches(&format!(">{act}<")).count(), 1, "{act} in {name}");
        }
        assert!(!svg(name).contains(">update skipped<"), "{name}");
        // Four merges, three changes of the rank, a sign of each in the legend.
        assert_eq!(svg(name).matches("<polygon").count(), 4 + 3 + 2, "{name}");
    }
    assert!(!svg("validation").contains(">merge<"));
}

#[test]
fn several_runs_are_compared_with_the_first_at_the_same_budget() {
    let place = Place::new();
    write(&place, "one", &full_of_events("full"));
    let worse = full_of_events("lora").into_iter().map(|(at, body)| match body {
        Body::Eval(e) => eval(at, e.loss + 0.5),
        body => (at, body),
    });
    write(&place, "two", &worse.collect::<Vec<_>>());
    for (flag, step) in [("tokens=1300", 20), ("step=25", 25), ("time=7.6", 30)] {
        place.ok(&format!("report one two --to there --at {flag}"));
        let table = read_json(place.path("there/table.json"));
        assert_eq!(table["baseline"], "one");
        assert_eq!(table["members"][1]["step"], step, "{flag}");
        let delta = table["members"][1]["delta"]["mean"].as_f64().unwrap();
        assert!((delta - 0.5).abs() < 1e-9, "{flag}: {delta}");
    }
    check(&place.path("there"));
}

#[test]
fn runs_that_went_wrong_still_give_a_report() {
    let place = Place::new();
    let nan =
        [step(1, 5.0), step(2, f64::NAN), step(3, f64::INFINITY), step(4, 4.0), eval(4, f64::NAN)];
    let failed = End { status: EndStatus::Failed, what: "the <disk> is full & \"gone\"".into() };
    for (name, told) in [
        ("point", vec![step(1, 5.0)]),
        ("start", vec![eval(0, 5.5)]),
        ("nan", nan.to_vec()),
        ("failed", vec![(0, failed.into())]),
    ] {
        let run = write(&place, name, &told);
        place.ok(&format!("report {name}"));
        let folder = run.path().join("report");
        check(&folder);
        if name == "failed" {
            let html = fs::read_to_string(folder.join("report.html")).unwrap();
            assert!(html.contains("the &lt;disk&gt; is full &amp; &quot;gone&quot;"));
        }
    }
}

#[test]
fn a_comparison_with_seeds_has_bands_and_its_table() {
    let place = Place::new();
    let tiny = Place::train_line("x", "--iters 20 --seeds 2 --methods full,switchlora")
        .replacen("train ", "compare ", 1);
    place.ok(&format!("{tiny} --ui none"));
    place.ok("report x");
    let dir = find_comparison(place.path("runs"), "x").unwrap().unwrap();
    let folder = dir.path().join("report");
    let names = check(&folder);
    assert!(names.contains(&"switches-switchlora".to_owned()), "{names:?}");
    assert!(names.contains(&"loss-flop".to_owned()), "{names:?}");
    let svg = fs::read_to_string(folder.join("loss-tokens.svg")).unwrap();
    assert_eq!(svg.matches("<polygon").count(), 2, "a band for each method");
    assert!(fs::read_to_string(folder.join("table.md")).unwrap().contains(" ± "));
    let table = read_json(folder.join("table.json"));
    assert_eq!(table["groups"][1]["loss"]["n"], 2);
    assert_eq!(table["groups"][0]["delta"]["mean"], 0.0);
}

#[test]
fn what_cannot_be_reported_is_said() {
    let place = Place::new();
    let fails = |line: &str, code: i32, expected: &str| {
        let output = place.run(line);
        assert!(stderr(&output).starts_with(expected), "`{line}`: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(code), "`{line}`");
    };
    fails("report x", 2, "error: no runs in runs\n");
    fails("report", 2, "error: the following required arguments");
    write(&place, "empty", &[]);
    fails("report empty", 1, "error: 20261121-000000-empty: no events yet\n");
    write(&place, "one", &[step(1, 5.0)]);
    fails("report one --at 5", 2, "error: --at is `5`, expected tokens=N");
    fails("report one --at tokens=-1", 2, "error: --at is `tokens=-1`");
    fails("report nothing", 2, "error: no run \"nothing\" in runs\n");
    assert!(!place.path("runs/20261121-000000-empty/report").exists());
}
