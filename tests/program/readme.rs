//! What the README shows: every command line in it is understood, and the first one does what it says.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests may stop

use std::path::{Path, PathBuf};
use std::process::Command;

use fullrank::cli::commands::command;
use fullrank::runlog::{Body, EndStatus, RunDir, read_log};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// Command lines of the code blocks, comments cut off.
fn lines() -> Vec<Vec<String>> {
    let text = readme();
    let blocks = text.split("```").skip(1).step_by(2);
    let commands = blocks.flat_map(str::lines).flat_map(|line| {
        let line = line.split(" # ").next().unwrap_or("");
        line.split(" ; ").map(str::trim).map(str::to_owned).collect::<Vec<_>>()
    });
    commands
        .filter(|line| line.starts_with("fullrank "))
        .map(|line| line.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect())
        .collect()
}

#[test]
fn every_command_line_is_understood() {
    let lines = lines();
    assert!(lines.len() >= 10, "found {} command lines", lines.len());
    for words in lines {
        // A quoted prompt of two words is one argument.
        let words: Vec<String> = match words.iter().position(|word| word == "--prompt") {
            Some(at) => {
                let mut joined = words[..=at].to_vec();
                joined.push(words[at + 1..].join(" "));
                joined
            }
            None => words,
        };
        let parsed = command().try_get_matches_from(&words);
        assert!(parsed.is_ok(), "{}: {}", words.join(" "), parsed.unwrap_err());
    }
}

#[test]
fn the_pages_it_names_are_there() {
    for name in
        readme().split('`').filter(|name| name.starts_with("docs/") || name.starts_with("assets/"))
    {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).is_file(), "{name} is missing");
    }
}

/// The first command: no file, no network, no GPU; a loss that falls far below the unigram perplexity, a
/// sample, a complete run folder.
#[test]
fn train_without_options_trains_the_demo() {
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_fullrank"))
        .arg("train")
        .current_dir(place.path())
        .env("XDG_CACHE_HOME", place.path().join("cache"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("validation perplexity") && told.contains("unigram perplexity"),
        "{told}"
    );

    let latest = std::fs::read_to_string(place.path().join("runs/latest")).unwrap();
    let run = RunDir::at(place.path().join("runs").join(latest.trim()));
    let expected: [PathBuf; 7] = [
        run.config(),
        run.facts(),
        run.events(),
        run.log(),
        run.model().join("model.safetensors"),
        run.model().join("config.json"),
        run.model().join("tokenizer.json"),
    ];
    for path in expected {
        assert!(path.is_file(), "{} is missing", path.display());
    }
    assert!(!run.list_checkpoints().unwrap().is_empty());

    let events = read_log(run.events()).unwrap().events;
    let unigram = events.iter().find_map(|event| match &event.body {
        Body::Run(run) => run.unigram_ppl,
        _ => None,
    });
    let evals: Vec<f64> = events
        .iter()
        .filter_map(|event| match &event.body {
            Body::Eval(eval) => Some(eval.ppl),
            _ => None,
        })
        .collect();
    let (first, last) = (evals[0], *evals.last().unwrap());
    assert!(last < unigram.unwrap() / 2.0, "perplexity {last}, unigram {unigram:?}");
    assert!(last < first / 10.0, "from {first} to {last}");
    let has_sample =
        events.iter().any(|e| matches!(&e.body, Body::Sample(sample) if !sample.text.is_empty()));
    assert!(has_sample, "no sample was written");
    let end = events.last().map(|event| event.body.clone());
    assert!(matches!(end, Some(Body::End(end)) if end.status == EndStatus::Finished));
}

/// The tutorial, line by line, on a tiny model: shorter runs, everything else as it stands there.
#[test]
fn the_tutorial_on_fine_tuning_runs() {
    let place = tempfile::tempdir().unwrap();
    let run = |words: &[String]| {
        let output = Command::new(env!("CARGO_BIN_EXE_fullrank"))
            .args(&words[1..])
            .current_dir(place.path())
            .env("XDG_CACHE_HOME", place.path().join("cache"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {told}", words.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = include_bytes!("../../assets/corpus/emma.txt");
    std::fs::write(place.path().join("notes.txt"), &text[2_000..30_000]).unwrap();
    let small = "--max-seq-length 32 --batch-size 4 --eval-batches 2 --sample-tokens 4 --ui none";
    let base = format!(
        "fullrank train --method full --iters 4 --name first --data notes.txt --hidden-size 32 --num-hidden-layers 2 \
         --num-attention-heads 2 --intermediate-size 64 {small}"
    );
    run(&base.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let latest = std::fs::read_to_string(place.path().join("runs/latest")).unwrap();
    let model = place.path().join("runs").join(latest.trim()).join("model");
    std::fs::rename(model, place.path().join("base")).unwrap();

    let readme = readme();
    let section = readme.split("### Fine-tuning a checkpoint").nth(1).unwrap();
    let block = section.split("```").nth(1).unwrap();
    let mut losses = Vec::new();
    let mut count = 0;
    for line in block.lines().map(|line| line.split(" # ").next().unwrap_or("").trim()) {
        if line.is_empty() {
            continue;
        }
        let (line, prompt) = match line.split_once(" --prompt ") {
            Some((line, prompt)) => (line, Some(prompt.trim_matches('"').to_owned())),
            None => (line, None),
        };
        let line = line.replace("--iters 200", "--iters 8").replace("--iters 50", "--iters 2");
        let is_training = line.contains(" train ") || line.contains(" compare ");
        let line = if is_training { format!("{line} {small}") } else { line };
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if let Some(prompt) = prompt {
            words.extend(["--prompt".to_owned(), prompt, "--max-tokens".into(), "4".into()]);
        }
        let is_eval = line.contains(" eval ");
        if is_eval {
            words.extend(["--json", "--max-seq-length", "32"].map(str::to_owned));
        }
        let told = run(&words);
        if is_eval {
            let value: serde_json::Value = serde_json::from_str(&told).unwrap();
            losses.push(value["loss"].as_f64().unwrap());
        }
        count += 1;
    }
    assert_eq!(count, 10, "lines of the tutorial");
    let [base, tuned, beside] = losses[..] else { panic!("three evaluations: {losses:?}") };
    assert!(tuned < base, "{losses:?}");
    assert!(
        (beside / tuned - 1.0).abs() < 1e-5,
        "the adapter gives the same loss again: {losses:?}"
    );
}
