//! Checkpoints that are damaged and disks that refuse: what is wrong is named, and nothing is lost.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::type_complexity)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{
    Place, assert_failure, assert_same_run, is_saved, newest_checkpoint, read_json, status, stderr,
    stdout, write_json,
};
use fullrank::runlog::status::Status;
use fullrank::runlog::{Body, RunDir, read_log};
use serde_json::{Value, json};

// ---- checkpoints ----

/// A killed run with checkpoints at 4 and 8 of 12 updates, beside one that was never stopped.
fn with_checkpoints(place: &Place) -> (RunDir, RunDir) {
    let more = "--iters 12 --checkpoint-every 4";
    let straight = place.train("straight", more);
    (straight, place.killed("run", more, Some(8), is_saved(8)))
}

/// Writes the hash of a changed file into its checkpoint's `state.json`.
fn accept(checkpoint: &Path, file: &str) {
    let path = checkpoint.join("state.json");
    let mut state = read_json(&path);
    let hash = blake3::hash(&fs::read(checkpoint.join(file)).unwrap());
    state["files"][file] = hash.to_hex().to_string().into();
    write_json(path, &state);
}

/// Changes the JSON header of a safetensors file; the length stays.
fn edit_header(path: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("{from} is not in {}", path.display()));
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_note() {
    let damages: [(&str, fn(&Path)); 5] = [
        ("a bit", |checkpoint| {
            let path = checkpoint.join("optim.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("cut short", |checkpoint| {
            let path = checkpoint.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a file is gone", |checkpoint| {
            fs::remove_file(checkpoint.join("method.safetensors")).unwrap();
        }),
        ("no state", |checkpoint| fs::remove_file(checkpoint.join("state.json")).unwrap()),
        ("half a state", |checkpoint| {
            let path = checkpoint.join("state.json");
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let place = Place::new();
        let (straight, run) = with_checkpoints(&place);
        damage(&run.checkpoint(8));
        let output = place.run("resume run --ui line");
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let notes: Vec<String> = stderr(&output)
            .lines()
            .filter(|line| line.starts_with("warning"))
            .map(ToOwned::to_owned)
            .collect();
        assert_eq!(notes.len(), 1, "{name}: {notes:?}");
        assert!(notes[0].starts_with("warning skipped a damaged checkpoint: "), "{notes:?}");
        assert!(notes[0].contains("step-00000008"), "{notes:?}");
        let events = read_log(run.events()).unwrap().events;
        let from = events.iter().find_map(|event| match &event.body {
            Body::Resume(resume) => resume.from_step,
            _ => None,
        });
        assert_eq!(from, Some(4), "{name}");
        assert_same_run(&straight, &run);
    }
}

#[test]
fn who_opens_a_run_hears_of_a_damaged_checkpoint_and_no_other_is_called_the_best() {
    let place = Place::new();
    let (_, run) = with_checkpoints(&place);
    fs::write(run.checkpoint(8).join("model.safetensors"), "x").unwrap();
    for command in ["eval run --batches 1", "generate run --max-tokens 2", "export run"] {
        let output = place.run(command);
        let said = stderr(&output);
        assert!(output.status.success(), "{command}: {said}");
        assert!(said.contains("warning skipped a damaged checkpoint: "), "{command}: {said}");
        assert!(said.contains("step-00000008/model.safetensors"), "{command}: {said}");
        let output = place.run(&format!("{command} --best"));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("is its best stands in the newest, which is damaged"), "{said}");
        assert!(said.contains("choose one with --step N"), "{said}");
    }
}

#[test]
fn a_damaged_checkpoint_does_not_push_out_good_ones() {
    let place = Place::new();
    let more = "--iters 12 --checkpoint-every 4 --keep-checkpoints 1 --eval-every 50";
    let run = place.killed("run", more, Some(4), is_saved(4));
    // As if a later one had been saved and damaged: it stands above whatever the resumed run saves.
    fs::create_dir_all(run.checkpoint(1_000)).unwrap();
    place.ok("resume run --ui none");
    assert!(run.checkpoint(12).is_dir(), "the one just saved is kept");
    assert!(!run.checkpoint(8).exists(), "and the ones before it go");
}

#[test]
fn without_any_intact_checkpoint_nothing_is_guessed() {
    let place = Place::new();
    let (_, run) = with_checkpoints(&place);
    for checkpoint in run.list_checkpoints().unwrap() {
        fs::write(checkpoint.path.join("model.safetensors"), "x").unwrap();
    }
    let folder = run.checkpoint(8).strip_prefix(place.path("")).unwrap().display().to_string();
    let expected = format!(
        "error: none of 2 checkpoints is intact; the newest: {folder}/model.safetensors: the content is \
         not what was saved (the hash differs)\n  try: bring its files back from a copy; a run without \
         any checkpoint folder starts anew\n"
    );
    for command in ["resume", "eval", "generate"] {
        place.assert_fails(&format!("{command} run"), 1, &expected);
    }
}

#[test]
fn a_tensor_of_another_shape_in_a_checkpoint_is_named_with_both_shapes() {
    let place = Place::new();
    let (_, run) = with_checkpoints(&place);
    let checkpoint = run.checkpoint(8);
    let folder = checkpoint.strip_prefix(place.path("")).unwrap().display().to_string();
    let remedy = "try: use the configuration that belongs to these weights, or the weights that belong to \
                  this configuration";
    let name = "model.layers.0.mlp.gate_proj";
    for (file, tensor, from, to) in [
        ("model.safetensors", ".weight", "[64, 32]", "[32, 64]"),
        ("method.safetensors", ".lora_A", "[8, 32]", "[32, 8]"),
        ("method.safetensors", ".pool_b", "[32, 64]", "[64, 32]"),
        ("optim.safetensors", ".lora_A.exp_avg", "[8, 32]", "[32, 8]"),
    ] {
        let path = checkpoint.join(file);
        let before = (fs::read(&path).unwrap(), fs::read(checkpoint.join("state.json")).unwrap());
        let header = |shape: &str| {
            let shape = shape.replace(' ', "");
            format!("\"{name}{tensor}\":{{\"dtype\":\"F32\",\"shape\":{shape}")
        };
        edit_header(&path, &header(from), &header(to));
        accept(&checkpoint, file);
        let expected = format!(
            "error: {folder}/{file}: tensor {name}{tensor}: expected {from}, file has {to}\n  {remedy}\n"
        );
        place.assert_fails("resume run", 1, &expected);
        fs::write(path, before.0).unwrap();
        fs::write(checkpoint.join("state.json"), before.1).unwrap();
    }
    place.ok("resume run --ui none");
}

#[test]
fn a_tensor_missing_in_a_checkpoint_is_named() {
    let place = Place::new();
    let (_, run) = with_checkpoints(&place);
    let checkpoint = run.checkpoint(8);
    let folder = checkpoint.strip_prefix(place.path("")).unwrap().display().to_string();
    for (file, from, to) in [
        ("model.safetensors", "model.norm.weight", "model.form.weight"),
        (
            "method.safetensors",
            "model.layers.1.mlp.up_proj.lora_B",
            "model.layers.1.mlp.up_proj.lora_C",
        ),
        (
            "method.safetensors",
            "model.layers.1.mlp.up_proj.pool_a",
            "model.layers.1.mlp.up_proj.pool_c",
        ),
        ("optim.safetensors", "model.norm.weight.exp_avg_sq", "model.form.weight.exp_avg_sq"),
        ("optim.safetensors", "model.norm.weight.step", "model.form.weight.step"),
    ] {
        let path = checkpoint.join(file);
        let before = (fs::read(&path).unwrap(), fs::read(checkpoint.join("state.json")).unwrap());
        edit_header(&path, &format!("\"{from}\""), &format!("\"{to}\""));
        accept(&checkpoint, file);
        let output = place.run("resume run");
        let text = stderr(&output);
        let what = format!("error: {folder}/{file}: has no tensor {from} among its ");
        assert!(text.starts_with(&what), "{text}");
        assert!(
            text.ends_with("\n  try: use the weights that belong to this configuration\n"),
            "{text}"
        );
        assert_eq!((text.lines().count(), output.status.code()), (2, Some(1)), "{text}");
        fs::write(path, before.0).unwrap();
        fs::write(checkpoint.join("state.json"), before.1).unwrap();
    }
    place.ok("resume run --ui none");
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_never_a_panic() {
    let place = Place::new();
    let (_, run) = with_checkpoints(&place);
    let path = run.checkpoint(8).join("state.json");
    let good = read_json(&path);
    let spoilt: [(&str, fn(&mut Value)); 8] = [
        ("layers", |state| state["method"]["layers"] = json!([])),
        ("slot", |state| state["method"]["layers"][0]["a"]["slots"][0] = json!(32)),
        ("twice", |state| {
            let slot = state["method"]["layers"][0]["b"]["slots"][1].clone();
            state["method"]["layers"][0]["b"]["slots"][0] = slot;
        }),
        ("pointer", |state| state["method"]["layers"][2]["a"]["pointer"] = json!(8)),
        ("moments", |state| state["moments"][0] = json!("nothing")),
        ("position", |state| state["progress"]["position"]["blocks"] = json!(7)),
        ("index", |state| state["progress"]["position"]["index"] = json!(u64::MAX)),
        ("method", |state| state["method"] = Value::Null),
    ];
    for (name, spoil) in spoilt {
        let mut state = good.clone();
        spoil(&mut state);
        write_json(&path, &state);
        let output = place.run("resume run --ui none");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.starts_with("error: "), "{name}: {text}");
        assert_eq!(text.lines().count(), 2, "{name}: {text}");
    }
    write_json(&path, &good);
    place.ok("resume run --ui none");
}

// ---- the disk ----

/// Runs a line under a shell that sets limits first.
fn limited(place: &Place, limits: &str, line: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_fullrank");
    let script = format!("{limits}; exec {program} {line}");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .current_dir(place.path(""))
        .env("XDG_CACHE_HOME", place.path("cache"))
        .env_remove("FULLRANK_LOG")
        .env("NODEVICE_SELECT", "1")
        .stdin(Stdio::null());
    command.output().unwrap()
}

/// The last checkpoint that was written whole stays, and resuming gives the bits of a disk that was never full.
fn assert_goes_on(place: &Place, run: &RunDir, straight: &RunDir, saved: u64) {
    assert_eq!(newest_checkpoint(run), run.checkpoint(saved));
    let entries = fs::read_dir(run.checkpoints()).unwrap().count();
    assert_eq!(entries, run.list_checkpoints().unwrap().len(), "nothing half written is left");
    place.ok(&format!("resume {} --ui none", run.path().display()));
    assert_same_run(straight, run);
}

/// A limit on the size of files acts like a disk that is full at that size.
#[test]
fn a_disk_that_refuses_a_checkpoint_costs_only_that_checkpoint() {
    let place = Place::new();
    let more = "--method lora --iters 12 --checkpoint-every 4";
    let straight = place.train("straight", more);
    let run = place.killed("run", more, Some(4), is_saved(4));
    // The event log stays below this many blocks of 512 bytes, the weights do not.
    let output = limited(&place, "ulimit -f 100; trap '' XFSZ", "resume run --ui none");
    let folder = run.path().strip_prefix(place.path("")).unwrap().display();
    let text = stderr(&output);
    let expected = format!(
        "error: cannot write {folder}/checkpoints/.step-00000008.partial/model.safetensors\n  \
         why: File too large (os error 27)\n  \
         try: check the path and the disk; what was saved before is intact\n"
    );
    assert_failure(&output, 1, &expected, &text);
    assert_eq!(status(&run), Status::Failed);
    assert_goes_on(&place, &run, &straight, 4);
}

/// A small file system of its own, where this process may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: &Place, size: &str) -> Option<Self> {
        let path = place.path("disk");
        fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "none"]).arg(&path).stderr(Stdio::null());
        let is_mounted = mount.status().is_ok_and(|status| status.success());
        if !is_mounted {
            println!("SKIPPED: a small disk needs the right to mount one");
        }
        is_mounted.then_some(Self(path))
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_the_run_and_loses_nothing() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(&place, "800k") else { return };
    let more = "--method full --iters 12 --checkpoint-every 4";
    let straight = place.train("straight", more);
    let output = place.run(&format!("{} --out disk --ui none", Place::train_line("full", more)));
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(1)));
    let text = stderr(&output);
    assert!(text.starts_with("error: cannot write disk/"), "{text}");
    assert!(
        text.ends_with(
            "\n  why: No space left on device (os error 28)\n  try: free some disk space, or choose \
             another place with --out; what was saved before is intact\n"
        ),
        "{text}"
    );
    let run = fullrank::runlog::find(&disk.0, "full").unwrap();
    disk.remount("size=8m");
    assert_goes_on(&place, &run, &straight, 4);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::new();
    let line = Place::train_line("no", "--iters 2 --out text.txt/runs");
    place.assert_fails(
        &line,
        2,
        "error: --out text.txt/runs cannot be a folder: PLACE/text.txt is a file\n  \
         try: choose another place with --out\n",
    );
    let Some(disk) = SmallDisk::mount(&place, "8m") else { return };
    let more = "--iters 200 --checkpoint-every 20 --eval-every 5";
    let straight = place.train("straight", more);
    let mut live = place.start("run", &format!("{more} --out disk"));
    live.wait_for_step(25);
    live.kill();
    let run = fullrank::runlog::find(&disk.0, "run").unwrap();
    disk.remount("ro");
    let refused = |what: &str| {
        format!(
            "error: cannot {what}\n  why: Read-only file system (os error 30)\n  \
             try: choose a place you may write to, with --out\n"
        )
    };
    let line = Place::train_line("no", "--iters 2 --out disk");
    place.assert_fails(&line, 1, &refused("write to PLACE/disk"));
    let folder = run.path().strip_prefix(place.path("")).unwrap().display();
    place.assert_fails("resume run --out disk", 1, &refused(&format!("open {folder}/run.lock")));
    place.ok("eval run --out disk --batches 2");
    place.ok("ls --out disk");
    place.ok("show run --out disk");
    disk.remount("rw");
    place.ok("resume run --out disk --ui none");
    assert_same_run(&straight, &run);
}
