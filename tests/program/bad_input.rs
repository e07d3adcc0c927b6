//! Whatever is wrong with what a user gives: one line of what, one of what to do, an exit code that says
//! whose fault it is, and nothing lost.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::type_complexity)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Place, assert_same_run, is_step, read_json, status, stderr, write_json};
use fullrank::runlog::status::Status;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Training must fail like this, and must not leave the folder of a run behind.
fn assert_no_run(place: &Place, more: &str, code: i32, expected: &str) {
    place.assert_fails(&Place::train_line("no", more), code, expected);
    assert!(!place.path("runs").exists(), "`{more}` made a run");
}

// ---- data ----

#[test]
fn data_that_are_missing_empty_or_too_short_are_named() {
    let place = Place::new();
    assert_no_run(
        &place,
        "--data none.txt",
        2,
        "error: cannot read none.txt: No such file or directory (os error 2)\n  \
         try: check the path\n",
    );
    fs::write(place.path("empty.txt"), "").unwrap();
    assert_no_run(
        &place,
        "--data empty.txt",
        1,
        "error: empty.txt: is empty (0 bytes)\n  try: give a file with text in it\n",
    );
    fs::write(
        place.path("short.txt"),
        "Sixty-four bytes make sixty-five tokens with the separator here.",
    )
    .unwrap();
    assert_no_run(
        &place,
        "--data short.txt",
        1,
        "error: short.txt: the text has 65 tokens; a block of 32 to train on and one to validate need \
         66\n  try: give more text, or a smaller --max-seq-length\n",
    );
    fs::create_dir(place.path("folder")).unwrap();
    assert_no_run(
        &place,
        "--data folder",
        1,
        "error: folder: has no .txt, .md or .jsonl file in it (hidden files do not count)\n  \
         try: put text files into the folder, or name one file\n",
    );
}

#[test]
fn text_that_is_not_utf8_is_named_with_its_place() {
    let place = Place::new();
    fs::write(place.path("latin.txt"), b"one line\nna\xefve").unwrap();
    assert_no_run(
        &place,
        "--data latin.txt",
        1,
        "error: latin.txt: is not UTF-8 text: wrong byte at offset 11, line 2\n  \
         try: convert it to UTF-8, for example with iconv, or leave it out if it is not text\n",
    );
}

// ---- settings that need the model ----

#[test]
fn a_rank_above_the_hidden_size_says_both() {
    assert_no_run(
        &Place::new(),
        "--rank 33",
        2,
        "error: train.rank = 33 is above the model's hidden size 32\n  \
         try: use a rank of at most 32; a quarter of it is a good start\n",
    );
}

#[test]
fn heads_that_do_not_divide_the_hidden_size_or_are_odd_say_so() {
    let place = Place::new();
    for heads in [3, 32] {
        let expected = format!(
            "error: model.hidden_size 32 with {heads} heads: a head needs an even size\n  \
             try: choose a hidden size that is an even multiple of the number of heads\n"
        );
        assert_no_run(&place, &format!("--num-attention-heads {heads}"), 2, &expected);
    }
    assert_no_run(
        &place,
        "--num-attention-heads 4 --num-key-value-heads 3",
        2,
        "error: model.num_key_value_heads 3 does not divide the 4 heads\n  \
         try: choose a divisor of num_attention_heads\n",
    );
}

#[test]
fn a_run_that_cannot_fit_the_memory_is_refused_before_it_begins() {
    let place = Place::new();
    for more in [
        "--hidden-size 16000000",
        "--hidden-size 16777216 --intermediate-size 16777216 --num-hidden-layers 10000",
        "--batch-size 1048576 --max-seq-length 16777216",
    ] {
        let output = place.run(&Place::train_line("no", more));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "`{more}`: {said}");
        assert!(said.starts_with("error: this run needs about "), "`{more}`: {said}");
        assert!(said.contains(" GiB of memory, the machine has "), "`{more}`: {said}");
        assert!(!place.path("runs").exists(), "`{more}` made a run");
    }
}

#[test]
fn another_tokenizer_than_the_run_was_trained_with_is_refused() {
    let place = Place::new();
    place.train("first", "--tokenizer bytes --iters 1");
    let model = place.find("first").model();
    let data = "--data text.txt --max-seq-length 16 --batch-size 2 --ui none";
    place.ok(&format!(
        "train --model {} {data} --method lora --iters 1 --name second",
        model.display()
    ));
    let run = place.find("second").name();
    // Its ids reach beyond the embedding of 257 rows.
    let larger = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tokenizer-4096.json");
    fs::copy(larger, model.join("tokenizer.json")).unwrap();
    let expected = format!(
        "error: the tokenizer is not the one that {run} began with\n  try: bring the old tokenizer.json \
         back; one is in the run's model/ if it has finished\n"
    );
    place.assert_fails("generate second", 1, &expected);
    place.assert_fails("eval second", 1, &expected);
}

#[test]
fn a_run_whose_model_cannot_be_loaded_has_failed_and_not_crashed() {
    let place = Place::new();
    place.train("good", "--iters 1");
    let model = place.find("good").model();
    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 100]).unwrap();
    let line = format!("train --model {} --data text.txt --max-seq-length 16", model.display());
    assert_eq!(place.run(&format!("{line} --name bad")).status.code(), Some(1));
    assert_eq!(status(&place.find("bad")), Status::Failed);
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_of_the_model_says_both() {
    let place = Place::new();
    let model = golden("llama_mha");
    let line = format!("train --model {} --tokenizer builtin --data text.txt", model.display());
    place.assert_fails(
        &line,
        2,
        "error: the tokenizer has 4096 entries, the model's vocabulary 160\n  try: use the model's own \
         tokenizer (leave out --tokenizer), or a larger model vocabulary\n",
    );
    let expected = format!(
        "error: {}: the folder has no tokenizer.json\n  try: put the model's own tokenizer.json into it; \
         `train` also takes --tokenizer PATH\n",
        model.display()
    );
    place.assert_fails(&format!("train --model {} --data text.txt", model.display()), 1, &expected);
    place.assert_fails(&format!("eval {}", model.display()), 1, &expected);
    assert!(!place.path("runs").exists());
}

#[test]
fn a_model_that_is_no_model_says_what_is_wrong() {
    let place = Place::new();
    place.assert_fails(
        "train --model 61M",
        2,
        "error: model 61M: no such preset or folder\n  try: use one of demo, 9M, 20M, 35M, 40M, 60M, 71M, \
         100M, 130M, 250M, 350M, 1.3B, 3B, 7B, a Hugging Face directory, a GGUF file, or the id of a model in the Hugging Face \
         cache (ORG/NAME)\n",
    );
    fs::create_dir(place.path("folder")).unwrap();
    place.assert_fails(
        "train --model folder",
        1,
        "error: folder: the folder has no config.json\n  \
         try: name a Hugging Face directory of a LLaMA model, or a file *.gguf\n",
    );
    // A model directory whose weights are cut short, then of another shape.
    place.train("good", "--iters 1");
    let model = place.find("good").model();
    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 100]).unwrap();
    let output = place.run(&format!("eval {}", model.display()));
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.starts_with(&format!("error: {}: ", weights.display())), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    fs::write(&weights, &whole).unwrap();
    let mut config = read_json(model.join("config.json"));
    config["intermediate_size"] = 65.into();
    write_json(model.join("config.json"), &config);
    let expected = format!(
        "error: {}: tensor model.layers.0.mlp.gate_proj.weight: expected [65, 32], file has [64, 32]\n  \
         try: use the configuration that belongs to these weights, or the weights that belong to this \
         configuration\n",
        weights.display()
    );
    place.assert_fails(&format!("eval {}", model.display()), 1, &expected);
}

// ---- runs that cannot do what is asked ----

#[test]
fn a_run_that_does_not_exist_gets_the_nearest_names() {
    let place = Place::new();
    for command in ["resume", "eval", "generate", "show"] {
        place.assert_fails(
            &format!("{command} demo"),
            2,
            "error: no runs in runs\n  \
             try: start one with `fullrank train`, or name the runs' folder with --out\n",
        );
    }
    let run = place.train("austen", "--iters 1");
    for command in ["resume", "eval", "generate", "show"] {
        let expected = format!(
            "error: no run \"asten\" in runs\n  try: the nearest name is {}; `fullrank ls` lists all\n",
            run.name()
        );
        place.assert_fails(&format!("{command} asten"), 2, &expected);
    }
}

#[test]
fn a_finished_run_says_how_it_can_be_made_longer() {
    let place = Place::new();
    let run = place.train("done", "--iters 4");
    let name = run.name();
    let expected = format!(
        "error: {name} has done all its 4 updates\n  \
         try: make it longer with `fullrank resume {name} --extend ITERS`\n"
    );
    place.assert_fails("resume done", 1, &expected);
    for iters in [3, 4] {
        let expected = format!(
            "error: --extend {iters} is not longer than the run's 4 updates\n  \
             try: give the new total, above 4\n"
        );
        place.assert_fails(&format!("resume done --extend {iters}"), 2, &expected);
    }
    // From elsewhere the proposed command must work as it stands.
    let folder = run.path().display();
    let expected = format!(
        "error: {name} has done all its 4 updates\n  \
         try: make it longer with `fullrank resume {folder} --extend ITERS`\n"
    );
    place.assert_fails(&format!("resume {folder}"), 1, &expected);
}

#[test]
fn a_live_run_is_not_taken_from_its_process() {
    let place = Place::new();
    let mut live = place.start("live", "--iters 100000");
    live.wait_for_step(2);
    let name = place.find("live").name();
    let expected = format!(
        "error: run {name} is live in another process\n  try: look at it with `fullrank show {name}`, or \
         end it with `fullrank ctl {name} stop`\n"
    );
    place.assert_fails("resume live", 1, &expected);
    live.wait_for_step(4);
    live.kill();
}

#[test]
fn a_run_whose_data_changed_is_not_resumed_and_stays_as_it_was() {
    let place = Place::new();
    let straight = place.train("straight", "--iters 12 --checkpoint-every 4");
    let run = place.killed("run", "--iters 12 --checkpoint-every 4", None, is_step(5));
    let text = fs::read(place.path("text.txt")).unwrap();
    let config = fs::read(run.config()).unwrap();
    fs::write(place.path("text.txt"), &text[1..]).unwrap();
    let expected = format!(
        "error: the text to train on (data PLACE/text.txt) is not the one that {} began with\n  \
         try: bring the old one back, or start a new run\n",
        run.name()
    );
    place.assert_fails("resume run", 1, &expected);
    place.assert_fails("resume run --extend 20", 1, &expected);
    assert_eq!(fs::read(run.config()).unwrap(), config, "a refused --extend changes nothing");
    fs::remove_file(place.path("text.txt")).unwrap();
    place.assert_fails(
        "resume run",
        2,
        "error: cannot read PLACE/text.txt: No such file or directory (os error 2)\n  \
         try: check the path\n",
    );
    fs::write(place.path("text.txt"), text).unwrap();
    place.ok("resume run --ui none");
    assert_same_run(&straight, &run);
}

#[test]
fn a_run_without_a_checkpoint_says_how_to_get_one() {
    let place = Place::new();
    let mut live = place.start("run", "--iters 100000 --checkpoint-every 0");
    live.wait_for_step(2);
    let name = place.find("run").name();
    let what = format!("error: run {name} has no checkpoint yet\n");
    for command in ["eval run", "generate run"] {
        let expected =
            format!("{what}  try: ask it for one with `fullrank ctl {name} checkpoint`\n");
        place.assert_fails(command, 1, &expected);
    }
    live.kill();
    let expected = format!("{what}  try: train it on with `fullrank resume {name}`\n");
    place.assert_fails("eval run", 1, &expected);
}

#[test]
fn what_is_there_and_is_no_model_is_called_what_it_is() {
    let place = Place::new();
    let run = place.train("one", "--iters 1");
    fs::write(place.path("chats.jsonl"), "{}").unwrap();
    fs::create_dir_all(place.path("base")).unwrap();
    fs::write(place.path("base/config.json"), "{}").unwrap();
    fs::create_dir_all(place.path("empty")).unwrap();
    fs::write(place.path("m.bin"), "x").unwrap();
    let result = format!("runs/{}/model", run.name());
    let cases = [
        (
            "chats.jsonl",
            "chats.jsonl is a file, and no GGUF file: no model",
            "text and rows go to --data chats.jsonl",
        ),
        (
            "m.bin",
            "m.bin is a file, and no GGUF file: no model",
            "name the folder with config.json, or a file *.gguf",
        ),
        (
            "base/config.json",
            "base/config.json is a file, and no GGUF file: no model",
            "name its folder: base",
        ),
        (
            "runs",
            "runs is a folder of runs, not a model",
            "name a run: `latest --out runs`; `fullrank ls --out runs` lists them",
        ),
    ];
    for (path, what, remedy) in cases {
        let expected = format!("error: {what}\n  try: {remedy}\n");
        for command in ["eval", "generate", "train --model"] {
            place.assert_fails(&format!("{command} {path}"), 2, &expected);
        }
    }
    let expected = "error: empty: the folder has no config.json\n  \
                    try: name a Hugging Face directory of a LLaMA model, or a file *.gguf\n";
    for command in ["eval", "generate", "train --model"] {
        place.assert_fails(&format!("{command} empty"), 1, expected);
    }
    let expected = format!(
        "error: runs/{} is a run, not a model folder\n  try: name its result: {result}\n",
        run.name()
    );
    place.assert_fails(&format!("train --model runs/{}", run.name()), 2, &expected);
}

#[test]
fn a_place_where_no_run_can_be_kept_is_refused_at_once() {
    let place = Place::new();
    fs::write(place.path("file"), "x").unwrap();
    for out in ["file", "file/runs"] {
        let expected = format!(
            "error: --out {out} cannot be a folder: PLACE/file is a file\n  \
             try: choose another place with --out\n"
        );
        place.assert_fails(
            &format!("train --iters 1 --out {out} --data text.txt --device cpu"),
            2,
            &expected,
        );
    }
    assert!(!place.path("cache").exists(), "nothing was read yet");
}
