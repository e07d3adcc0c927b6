//! Runs with frozen weights in few bits, whole: trained, killed, resumed to the bit, evaluated, exported, continued from
//! their adapter, and as large as `estimate` says, on the CPU backend and on a wgpu adapter.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use crate::common::{Place, assert_same_run, is_step, read_json, status, stderr};
use crate::devices;
use fullrank::runlog::status::Status;
use fullrank::runlog::{Body, RunDir, read_log};
use serde_json::Value;

const SMALL: &str = "--data text.txt --max-seq-length 32 --batch-size 4 --eval-batches 2 --sample-tokens 4 \
                     --iters 12 --checkpoint-every 4 --steps-per-report 1 --learning-rate 0.01";
/// Merges after 5 and 9: between two checkpoints, and before the kill.
const RELORA: &str = "--relora-warm-start 0 --relora-cycle 4";
const FORMS: [&str; 3] = ["f16", "q8", "nf4"];

/// A place with a small trained model in `base`, whose rows end in a short block of codes.
fn place() -> Place {
    let place = Place::new();
    let run = place.train("base", "--method full --iters 12 --learning-rate 0.01");
    fs::rename(run.model(), place.path("base")).unwrap();
    place
}

/// What is the same in a training and in its estimate.
fn settings(device: &str, form: &str, method: &str) -> String {
    let more = if method == "relora" { RELORA } else { "" };
    format!("--model base {SMALL} --device {device} --base-storage {form} --method {method} {more}")
}

fn run(place: &Place, line: &str, name: &str) -> RunDir {
    place.ok(&format!("train {line} --name {name} --ui none"));
    place.find(name)
}

/// A run that was killed after update 6 and goes on. A kill that came too late is tried again.
fn killed(place: &Place, line: &str, name: &str) -> RunDir {
    for _ in 0..20 {
        let mut live = place.spawn(&format!("train {line} --name {name}"));
        live.wait_for(is_step(6));
        live.kill();
        let run = place.find(name);
        if status(&run) == Status::Crashed {
            place.ok(&format!("resume {name} --ui none"));
            return run;
        }
        place.ok(&format!("rm {name}"));
    }
    panic!("{name} cannot be killed in time");
}

fn bodies(run: &RunDir) -> impl Iterator<Item = Body> {
    read_log(run.events()).unwrap().events.into_iter().map(|event| event.body)
}

/// The losses of the evaluations.
fn told(run: &RunDir) -> Vec<f64> {
    bodies(run)
        .filter_map(|body| if let Body::Eval(eval) = body { Some(eval.loss) } else { None })
        .collect()
}

fn json(place: &Place, line: &str) -> Value {
    serde_json::from_str(&place.ok(line)).unwrap()
}

/// The loss on two batches of the text, some of which is what was trained on.
fn loss(place: &Place, line: &str) -> f64 {
    let line = format!("eval {line} --data text.txt --batches 2 --max-seq-length 32 --json");
    json(place, &line)["loss"].as_f64().unwrap()
}

fn greedy(place: &Place, line: &str) -> String {
    place.ok(&format!("generate {line} --prompt Emma --max-tokens 12 --temperature 0"))
}

fn assert_near(a: f64, b: f64, share: f64, what: &str) {
    assert!((a / b - 1.0).abs() <= share, "{what}: {a} and {b}");
}

/// The prediction is the one of `estimate`, and the ledger's high-water mark within a tenth of it.
fn assert_estimated(place: &Place, run: &RunDir, line: &str) {
    let mems =
        bodies(run).filter_map(|body| if let Body::Mem(mem) = body { Some(mem) } else { None });
    let (peak, predicted) =
        mems.map(|mem| (mem.peak_bytes, mem.predicted_bytes.unwrap())).max().unwrap();
    let answer = json(place, &format!("estimate {line} --json"));
    assert_eq!(answer["methods"][0]["peak_bytes"], predicted, "{line}");
    assert_near(peak as f64, predicted as f64, 0.1, &format!("bytes of {line}"));
}

/// Exports and gives the folder, and what was said of the base.
fn export(place: &Place, line: &str) -> (PathBuf, String) {
    let output = place.run(&format!("export {line}"));
    assert!(output.status.success(), "{line}: {}", stderr(&output));
    let folder = String::from_utf8(output.stdout.clone()).unwrap();
    (place.path(folder.trim()), stderr(&output))
}

/// How far an adapter is from its run where the base is in f32.
fn rounding(form: &str) -> f64 {
    match form {
        "f16" => 1e-3,
        "q8" => 1e-2,
        _ => 0.2,
    }
}

/// What comes out of a run is the network that was trained. What is read from files is read on the CPU backend.
fn assert_comes_out(place: &Place, run: &RunDir, device: &str, form: &str, method: &str) {
    let name = run.name();
    let what = format!("{method} in {form} on {device}");
    let last = told(run).pop().unwrap();
    let own = json(place, &format!("eval {name} --batches 2 --device {device} --json"));
    assert_near(own["loss"].as_f64().unwrap(), last, 1e-6, &what);
    let of_run = loss(place, &format!("{name} --device cpu"));

    let (merged, said) = export(place, &format!("{name} --to {name}-merged"));
    assert!(said.contains(&format!("the base in {form} decodes to")), "{what}: {said}");
    let merged = merged.display();
    assert_near(loss(place, &format!("{merged} --device cpu")), of_run, 1e-5, &what);
    let text = greedy(place, &format!("{name} --device {device}"));
    assert_eq!(text, greedy(place, &format!("{merged} --device cpu")), "{what}");
    // The run's own export, written at its end.
    let own = run.model();
    assert_near(loss(place, &format!("{} --device cpu", own.display())), of_run, 1e-5, &what);

    let peft = format!("{name} --format peft --to {name}-adapter");
    if method == "relora" {
        assert!(stderr(&place.run(&format!("export {peft}"))).contains("not one low-rank pair"));
        return;
    }
    let (adapter, said) = export(place, &peft);
    assert!(said.contains(&format!("trained beside a base in {form}")), "{what}: {said}");
    assert_eq!(read_json(adapter.join("adapter_config.json"))["peft_type"], "LORA");
    let adapter = adapter.display();
    let beside = loss(place, &format!("--model base --adapter {adapter} --device cpu"));
    assert_near(beside, of_run, rounding(form), &format!("{what}, base in f32"));
    if method == "lora" {
        // Trained on beside the same codes, it starts from where it was.
        let line = settings(device, form, method).replace("--iters 12", "--iters 1");
        let line = format!("{line} --adapter {name}-adapter");
        let on = self::run(place, &line, &format!("{name}-on"));
        assert_near(told(&on)[0], last, 1e-6, &format!("{what}, trained on"));
    }
}

/// Trains with and without a kill; the bits must be the same.
fn assert_survives(place: &Place, device: &str, form: &str, method: &str) -> RunDir {
    let line = settings(device, form, method);
    let straight = run(place, &line, &format!("{method}-{form}"));
    assert_same_run(&straight, &killed(place, &line, &format!("{method}-{form}-killed")));
    assert_estimated(place, &straight, &line);
    straight
}

#[test]
fn lora_in_few_bits_is_a_whole_run() {
    let place = place();
    for form in FORMS {
        let run = assert_survives(&place, "cpu", form, "lora");
        assert_comes_out(&place, &run, "cpu", form, "lora");
    }
}

#[test]
fn relora_in_few_bits_is_a_whole_run() {
    let place = place();
    for form in FORMS {
        let run = assert_survives(&place, "cpu", form, "relora");
        let merges = bodies(&run).filter(|body| matches!(body, Body::Merge(_))).count();
        assert!(merges >= 2, "{form}: {merges} merges");
        assert_comes_out(&place, &run, "cpu", form, "relora");
    }
}

#[test]
fn dora_and_pissa_in_few_bits_are_whole_runs() {
    let place = place();
    for (form, method) in [("f16", "pissa"), ("q8", "dora"), ("nf4", "pissa"), ("nf4", "dora")] {
        let run = assert_survives(&place, "cpu", form, method);
        assert_comes_out(&place, &run, "cpu", form, method);
    }
}

#[test]
fn a_software_adapter_has_the_same_runs_in_few_bits() {
    if devices::adapter().is_none() {
        return;
    }
    let place = place();
    for (form, method) in [("f16", "dora"), ("q8", "relora"), ("nf4", "lora")] {
        let run = assert_survives(&place, "software", form, method);
        assert_comes_out(&place, &run, "software", form, method);
        // The CPU backend rounds sums elsewhere and trains to nearly the same.
        let line = settings("cpu", form, method);
        let on_cpu = self::run(&place, &line, &format!("{method}-{form}-cpu"));
        let (a, b) = (told(&on_cpu).pop().unwrap(), told(&run).pop().unwrap());
        assert_near(a, b, 1e-3, &format!("{method} in {form} on both devices"));
    }
}
