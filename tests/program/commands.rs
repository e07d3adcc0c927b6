//! What the commands do on real runs: results on stdout, progress on stderr, and the same numbers
//! whichever way they are asked for.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Read;
use std::process::Stdio;

use crate::common::{
    self, Place, assert_same_files, assert_same_run, newest_checkpoint, read_json, status, stderr,
    stdout, wait_until,
};
use fullrank::runlog::status::Status;
use fullrank::runlog::{Body, Event, RunDir, read_log};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The loss that `eval --json` gives.
fn loss(place: &Place, line: &str) -> f64 {
    json(&place.ok(&format!("eval {line} --json")))["loss"].as_f64().unwrap()
}

// ---- eval and generate ----

#[test]
fn eval_gives_the_same_for_a_run_and_its_checkpoint_and_takes_other_text() {
    let place = Place::new();
    let run = place.train("run", "--iters 8 --eval-batches 0");
    let folder = newest_checkpoint(&run);
    let of_run = loss(&place, "run");
    assert_eq!(of_run, loss(&place, &folder.display().to_string()));
    assert_eq!(of_run, loss(&place, "latest"));
    assert_eq!(of_run, loss(&place, &run.path().display().to_string()));
    let state = read_json(folder.join("state.json"));
    assert_eq!(of_run, state["progress"]["last_eval"].as_f64().unwrap(), "as the run saw it");
    assert_ne!(of_run, loss(&place, "run --batches 1"));

    let result = json(&place.ok("eval run --json"));
    assert_eq!(result["model"], format!("{} at step 8", run.name()));
    assert_eq!(result["data"], place.expand("PLACE/text.txt"));
    assert!((result["perplexity"].as_f64().unwrap() / of_run.exp() - 1.0).abs() < 1e-12);
    let lines = place.ok("eval run");
    let expected = format!(
        "{} at step 8\n  text        {}, 1,984 tokens in blocks of 32\n  loss        {of_run:.4}\n",
        run.name(),
        place.expand("PLACE/text.txt")
    );
    assert!(lines.starts_with(&expected), "{lines}");

    // All of another text counts, not only the share that a run would hold out.
    let text = fs::read(place.path("text.txt")).unwrap();
    fs::write(place.path("other.txt"), &text[..3_200]).unwrap();
    let other = json(&place.ok("eval run --data other.txt --json"));
    assert_eq!((other["tokens"].as_u64(), &other["data"]), (Some(3_200), &"other.txt".into()));
    let builtin = json(&place.ok("eval run --data builtin --batches 2 --json"));
    assert_eq!(builtin["data"], "builtin");
    fs::write(place.path("short.txt"), "six").unwrap();
    place.assert_fails(
        "eval run --data short.txt",
        1,
        "error: short.txt: the text has 4 tokens, one block of 32 needs 33\n  try: give a longer text\n",
    );
}

#[test]
fn a_prompt_beyond_the_context_loses_its_beginning_and_says_so() {
    let place = Place::new();
    place.train("run", "--iters 1 --tokenizer bytes");
    let mut command = place.command("generate run --max-tokens 18446744073709551615 --prompt");
    let output = command.arg("word ".repeat(1000)).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the first 4488 of the prompt's 5000 tokens are left out"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn generated_text_depends_on_the_seed_alone() {
    let place = Place::new();
    let run = place.train("run", "--iters 8");
    let text = |more: &str| place.ok(&format!("generate run --max-tokens 24 --prompt Emma {more}"));
    let first = text("--seed 4");
    assert!(first.starts_with("Emma") && first.ends_with('\n'), "{first:?}");
    assert_eq!(first, text("--seed 4"));
    assert_ne!(first, text("--seed 5"));
    let greedy = text("--temperature 0");
    assert_eq!(greedy, text("--temperature 0 --seed 9"));
    assert_eq!(
        greedy,
        text("--top-k 1 --seed 9"),
        "the most likely token is the only one of the first"
    );
    let folder = run.model().display().to_string();
    let of_folder = place.ok(&format!("generate {folder} --max-tokens 24 --prompt Emma --seed 4"));
    assert_eq!(first.chars().count(), of_folder.chars().count());
    // A prompt longer than the context, and one that is empty.
    let long = "word ".repeat(600);
    let output = place.command("generate run --max-tokens 4 --prompt").arg(&long).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let output = place.command("generate run --max-tokens 4 --prompt").arg("").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

// ---- the export ----

/// The first evaluation of a run that begins with a model, on everything held out.
fn first_loss(place: &Place, name: &str, model: &RunDir) -> f64 {
    let line = format!(
        "train --model {} --data text.txt --max-seq-length 32 --batch-size 4 --eval-batches 0 --iters 3 \
         --name {name} --ui json",
        model.model().display()
    );
    let text = place.ok(&line);
    let events = text.lines().map(|line| Event::parse(line.as_bytes()).unwrap());
    let mut evals = events.filter_map(|event| match event.body {
        Body::Eval(eval) => Some(eval.loss),
        _ => None,
    });
    evals.next().unwrap()
}

#[test]
fn the_exported_model_has_the_loss_of_the_checkpoint_and_can_be_fine_tuned() {
    let place = Place::new();
    let switching = "--switchlora-interval0 10 --switchlora-ratio 1";
    for (name, more) in [
        ("full", "--method full"),
        ("lora", "--method lora"),
        ("product", "--method lora --lora-base none"),
        ("switchlora", switching),
        ("warm", "--switchlora-warm-start 5"),
        ("tied", "--tie-word-embeddings --num-key-value-heads 1"),
    ] {
        let run = place.train(name, &format!("{more} --iters 16 --learning-rate 0.01"));
        let of_run = loss(&place, name);
        for method in ["full", "lora", "switchlora"] {
            let tuned = format!("{name}-tuned-{method}");
            let exported = first_loss(&place, &format!("{tuned} --method {method}"), &run);
            let error = (exported / of_run - 1.0).abs();
            assert!(error < 2e-6, "{tuned}: {exported} against {of_run}");
            assert!(place.find(&tuned).model().join("model.safetensors").is_file());
        }
    }
}

// ---- lists ----

#[test]
fn ls_and_show_give_json_that_agrees_with_the_run() {
    let place = Place::new();
    assert_eq!(json(&place.ok("ls --json")), Value::Array(Vec::new()));
    let run = place.train("one", "--iters 6");
    place.train("two", "--method full --iters 4");
    let list = json(&place.ok("ls --json"));
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    let one = list.iter().find(|row| row["name"] == run.name()).unwrap();
    assert_eq!((&one["status"], &one["method"]), (&"finished".into(), &"switchlora".into()));
    assert_eq!((one["step"].as_u64(), one["steps"].as_u64()), (Some(6), Some(6)));
    assert_eq!(one["tokens"].as_u64(), Some(6 * 4 * 32));
    let show = json(&place.ok("show one --json"));
    for key in ["name", "status", "step", "tokens", "loss", "eval", "best"] {
        assert_eq!(show[key], one[key], "{key}");
    }
    assert!(place.ok("ls").lines().count() >= 3);
    assert!(place.ok("show one").contains("6 of 6 updates"));
}

// ---- a live run ----

#[test]
fn a_run_is_paused_saved_resumed_and_stopped_by_ctl_without_a_change_to_its_bits() {
    let place = Place::new();
    let more = "--iters 3000 --checkpoint-every 0 --eval-every 5000 --switchlora-interval0 10";
    let mut live = place.start("run", more);
    live.wait_for_step(5);
    let run = place.find("run");
    let name = run.name();
    let events = std::thread::spawn(move || live.end());

    let said = place.ok("ctl run pause");
    assert!(said.starts_with(&format!("{name}: paused at step ")), "{said}");
    assert_eq!(status(&run), Status::Paused);
    assert!(place.ok("ls").contains("paused"));
    let steps = || read_log(run.events()).unwrap().events.last().unwrap().step;
    let paused_at = steps();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(steps(), paused_at, "a paused run does nothing");
    assert_eq!(place.ok("ctl run pause"), format!("{name} is already paused\n"));
    let said = place.ok("ctl run checkpoint");
    assert_eq!(said, format!("{name}: wrote checkpoints/step-{paused_at:08}\n"));
    assert!(run.checkpoint(paused_at).is_dir());
    assert!(loss(&place, "run") > 0.0, "a live run can be evaluated");
    let said = place.ok("ctl run resume");
    assert_eq!(said, format!("{name}: goes on at step {paused_at}\n"));
    assert_eq!(place.ok("ctl run resume"), format!("{name} is not paused\n"));
    let said = place.ok("ctl run stop");
    assert!(said.starts_with(&format!("{name}: stop at step ")), "{said}");

    let (_, output) = events.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "no usable GPU was found: training on the CPU\n");
    assert_eq!(status(&run), Status::Stopped);
    let stopped_at = steps();
    assert_eq!(newest_checkpoint(&run), run.checkpoint(stopped_at));
    assert!(!run.model().exists());
    place.assert_fails(
        "ctl run pause",
        1,
        &format!(
            "error: run {name} is stopped, so it cannot pause\n  \
             try: go on with `fullrank resume {name}`\n"
        ),
    );
    place.ok("resume run --ui none");
    assert_eq!(status(&run), Status::Finished);
    assert_same_run(&place.train("straight", more), &run);
}

#[test]
fn a_paused_run_still_obeys_signals() {
    let place = Place::new();
    let mut live = place.start("run", "--iters 100000 --checkpoint-every 0");
    live.wait_for_step(3);
    place.ok("ctl run pause");
    live.signal("TERM");
    let (_, output) = live.end();
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(status(&place.find("run")), Status::Interrupted);
}

// ---- curves for other tools ----

#[test]
fn an_export_may_be_named_with_a_slash_at_its_end() {
    let place = Place::new();
    place.train("run", "--iters 2");
    for (format, file) in [("hf", "model.safetensors"), ("gguf", "")] {
        let line = format!("export run --format {format} --to out-{format}/");
        assert_eq!(place.ok(&line).trim(), format!("out-{format}"));
        assert!(place.path(&format!("out-{format}")).join(file).exists());
    }
    let refused = place.run("export run --format hf --dtype q8_0 --to other");
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--dtype is for --format gguf"), "{}", stderr(&refused));
    assert!(!place.path("other").exists());
}

#[test]
fn curves_are_written_as_event_files_of_tensorboard() {
    let place = Place::new();
    let run = place.train("run", "--iters 6 --eval-every 3");
    let file = place.ok("export run --format tensorboard");
    let bytes = fs::read(place.path(file.trim())).unwrap();
    let payloads = fullrank::report::tfevents::payloads(&bytes).unwrap();
    let tagged = |tag: &str| {
        payloads.iter().filter(|p| p.windows(tag.len()).any(|w| w == tag.as_bytes())).count()
    };
    assert_eq!((tagged("brain.Event:2"), tagged("train/loss"), tagged("val/loss")), (1, 6, 3));
    assert!(run.path().join("tensorboard").is_dir());
    assert_eq!(place.ok("export run --format tensorboard"), file, "a second export replaces it");
    place.ok("export run --format tensorboard --to curves");
    assert!(place.path("curves").is_dir());
    for choice in ["--best", "--step 3", "--force", "--adapter there"] {
        let flag = choice.split(' ').next().unwrap();
        place.assert_fails(
            &format!("export run --format tensorboard --to other {choice}"),
            2,
            &format!(
                "error: {flag} is for networks, and --format tensorboard writes the curves of a whole run\n  \
                 try: leave it out, or take another --format\n"
            ),
        );
    }
    assert!(!place.path("other").exists());
}

// ---- views and pipes ----

#[test]
fn every_line_of_the_json_view_is_an_event_of_the_log() {
    let place = Place::new();
    let output = place.run(&format!("{} --ui json", Place::train_line("run", "--iters 6")));
    assert_eq!(stderr(&output), "no usable GPU was found: training on the CPU\n");
    let log = fs::read_to_string(place.find("run").events()).unwrap();
    assert_eq!(stdout(&output), log);
    for line in log.lines() {
        assert_eq!(json(line)["v"], 1);
    }
}

#[test]
fn no_view_prints_nothing_and_lines_go_to_stderr_alone() {
    let place = Place::new();
    let output = place.run(&format!("{} --ui none", Place::train_line("quiet", "--iters 4")));
    assert_eq!((stdout(&output), stderr(&output)), (String::new(), String::new()));
    for ui in ["line", "auto"] {
        let output = place.run(&format!("{} --ui {ui}", Place::train_line(ui, "--iters 4")));
        assert_eq!(stdout(&output), "", "{ui}");
        assert!(stderr(&output).contains("\nfinished after 4 updates\n"), "{ui}");
        assert!(!stderr(&output).contains('\u{1b}'), "no colours in a pipe: {ui}");
    }
}

#[test]
fn a_reader_that_leaves_does_not_disturb() {
    let place = Place::new();
    let straight = place.train("straight", "--iters 40");
    // The reader of a run's events goes after the first: the run goes on.
    let line = format!("{} --ui json", Place::train_line("run", "--iters 40"));
    let mut child = place.command(&line).spawn().unwrap();
    let mut byte = [0];
    let mut reader = child.stdout.take().unwrap();
    reader.read_exact(&mut byte).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "no usable GPU was found: training on the CPU\n");
    assert_same_run(&straight, &place.find("run"));
    // The reader of a result goes before it comes: quiet, and no failure.
    for line in ["ls", "show run", "eval run", "generate run --max-tokens 50", "ls --json"] {
        let mut child = place.command(line).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)), "{line}");
    }
}

// ---- going on by itself ----

#[test]
fn resume_auto_goes_on_with_the_unfinished_run_of_the_same_configuration() {
    let place = Place::new();
    let more = "--iters 400 --checkpoint-every 50 --resume auto";
    let count = || place.ok("ls").lines().count() - 1;
    let run = place.killed("run", more, None, common::is_step(60));
    let before = count();
    // Another configuration is another run, and leaves this one alone.
    place.train("other", "--iters 4 --resume auto");
    assert_eq!(count(), before + 1);
    assert_eq!(status(&run), Status::Crashed);
    // The same configuration goes on, whatever name it is given now.
    place.ok(&format!("{} --ui none", Place::train_line("ignored", more)));
    assert_eq!(count(), before + 1);
    assert_eq!(status(&run), Status::Finished);
    let resumes = read_log(run.events()).unwrap().events;
    assert!(resumes.iter().any(|event| matches!(event.body, Body::Resume(_))));
    // Now that it is finished, the same line starts anew.
    place.ok(&format!("{} --ui none", Place::train_line("anew", more)));
    assert_eq!(count(), before + 2);
    assert_same_run(&run, &place.find("anew"));
}

#[test]
fn the_configuration_of_a_run_starts_its_twin() {
    let place = Place::new();
    let run = place.train("run", "--iters 8 --switchlora-warm-start 3 --switchlora-interval0 10");
    let config = run.config().display().to_string();
    place.ok(&format!("train --config {config} --name twin --ui none"));
    let twin = place.find("twin");
    assert_same_run(&run, &twin);
    assert_eq!(fs::read(run.config()).unwrap(), fs::read(twin.config()).unwrap());
}

// ---- numbers that are none ----

#[test]
fn a_run_that_diverges_says_so_and_keeps_the_checkpoints_from_before() {
    let place = Place::new();
    // The first update has a rate of 0, the second one destroys the weights.
    let more = "--iters 40 --warmup-steps 2 --learning-rate 1e30 --checkpoint-every 1";
    let output = place.run(&format!("{} --ui none", Place::train_line("run", more)));
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(stdout(&output), "");
    assert_eq!(
        stderr(&output),
        "error: training diverged: 3 of 5 updates were not finite (loss NaN, gradient norm NaN)\n  \
         try: lower --learning-rate, or clip harder with --max-grad-norm; the newest checkpoint may be from \
         before it\n"
    );
    let run = place.find("run");
    assert_eq!(status(&run), Status::Diverged);
    assert!(!run.model().exists());
    let checkpoint = run.checkpoint(1).display().to_string();
    assert!(loss(&place, &checkpoint).is_finite());
    assert!(json(&place.ok("eval run --json"))["loss"].is_null(), "no number");
    for line in fs::read_to_string(run.events()).unwrap().lines() {
        json(line);
    }
    json(&place.ok("show run --json"));
    assert!(place.ok("ls").contains("diverged"));
    // Going on is the same once more, as everything is reproducible.
    let output = place.run("resume run --ui none");
    assert_eq!(output.status.code(), Some(3));
}

/// A skipped update changes neither weights nor moments nor the schedule, and a resumed run skips the same.
#[test]
fn checkpoints_wait_until_an_update_was_applied() {
    let place = Place::new();
    let more = "--iters 40 --warmup-steps 2 --learning-rate 1e30 --checkpoint-every 3";
    let output = place.run(&format!("{} --ui none", Place::train_line("run", more)));
    assert_eq!(output.status.code(), Some(3));
    let run = place.find("run");
    wait_until("the lock", || !run.is_locked().unwrap());
    assert!(run.list_checkpoints().unwrap().is_empty(), "updates 3, 4 and 5 were skipped");
}

#[test]
fn the_cache_of_tokens_may_be_missing_damaged_or_out_of_reach() {
    let place = Place::new();
    let first = place.train("first", "--iters 4");
    let cached =
        || fs::read_dir(place.path("cache/fullrank/tokens")).unwrap().next().unwrap().unwrap();
    fs::write(cached().path(), "damaged").unwrap();
    let output = place.run(&format!("{} --ui none", Place::train_line("second", "--iters 4")));
    assert!(output.status.success());
    assert!(stderr(&output).contains("writing it again"), "{}", stderr(&output));
    fs::remove_dir_all(place.path("cache")).unwrap();
    fs::write(place.path("cache"), "a file").unwrap();
    let output = place.run(&format!("{} --ui none", Place::train_line("third", "--iters 4")));
    assert!(output.status.success());
    assert!(stderr(&output).contains("tokens stay in memory"), "{}", stderr(&output));
    for name in ["second", "third"] {
        let run = place.find(name);
        assert_same_run(&first, &run);
        assert_same_files(&first.model(), &run.model(), &[]);
    }
}
