//! `fullrank estimate` as a user sees it.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common::Place;
use fullrank::methods::NAMES;
use fullrank::runlog::{Body, RunDir, read_log};
use serde_json::Value;

fn json(place: &Place, line: &str) -> Value {
    serde_json::from_str(&place.ok(&format!("estimate {line} --json"))).unwrap()
}

#[test]
fn the_largest_preset_is_estimated_for_all_methods_without_being_made() {
    let place = Place::new();
    let page = json(&place, "--model 7B --methods all --vocab-size 32100 --rank 512 --device cpu");
    let methods = page["methods"].as_array().unwrap();
    assert_eq!(methods.len(), NAMES.len());
    for (answer, name) in methods.iter().zip(NAMES) {
        let bytes = |key: &str| answer[key].as_u64().unwrap();
        assert_eq!(answer["method"], *name);
        assert_eq!(bytes("parameters"), 6_739_234_816);
        assert_eq!(answer["measured"], Value::Null, "no figure that was not measured");
        assert!(bytes("recomputed_peak_bytes") <= bytes("peak_bytes"), "{name}");
        assert!(
            bytes("static_bytes") + bytes("device_pool_bytes") <= bytes("peak_bytes"),
            "{name}"
        );
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn one_method_is_a_list_and_several_are_a_table() {
    let place = Place::new();
    let paper = "--model 1.3B --rank 512 --vocab-size 32100 --device cpu";
    let list = place.ok(&format!("estimate {paper} --method switchlora"));
    for part in [
        "model  1.3B: 24 blocks of width 2,048, vocabulary 32,100, f32\n",
        "method switchlora, rank 512\n",
        "609.72 M of 1339.49 M (45.5 %)",
        "54.5 %",
        "not measured",
    ] {
        assert!(list.contains(part), "`{part}` is missing in\n{list}");
    }
    assert!(!list.contains("largest"), "no budget was given:\n{list}");
    let table = place.ok(&format!("estimate {paper} --methods full,lora --memory-budget 16"));
    let lines: Vec<&str> = table.lines().skip(3).take(3).collect();
    assert!(lines[0].starts_with("method") && lines[0].contains("largest batch"), "{table}");
    assert!(lines[1].starts_with("full ") && lines[2].starts_with("lora "), "{table}");
}

#[test]
fn the_peak_and_what_fits_are_those_of_the_configuration() {
    let place = Place::new();
    let line =
        "--model 60M --vocab-size 32100 --method lora --rank 64 --device cpu --memory-budget 1";
    let one = |more: &str| json(&place, &format!("{line} {more}"))["methods"][0].clone();
    let bytes = |of: &Value, key: &str| of[key].as_u64().unwrap();
    let (kept, recomputed) = (one(""), one("--grad-checkpoint"));
    for form in ["kept", "recomputed"] {
        for part in ["activation_bytes", "peak_bytes"] {
            let key = format!("{form}_{part}");
            assert_eq!(kept[&key], recomputed[&key], "both show both");
        }
    }
    assert_eq!(kept["peak_bytes"], kept["kept_peak_bytes"]);
    assert_eq!(recomputed["peak_bytes"], recomputed["recomputed_peak_bytes"]);
    assert_eq!(recomputed["activation_bytes"], recomputed["recomputed_activation_bytes"]);
    assert!(bytes(&recomputed, "peak_bytes") < bytes(&kept, "peak_bytes"));
    // The largest batch fits with the configuration's own peak, and one more does not.
    for (of, more) in [(&kept, ""), (&recomputed, "--grad-checkpoint")] {
        let most = of["fits"]["largest_batch_size"].as_u64().unwrap();
        for (rows, fits) in [(most, true), (most + 1, false)] {
            let of = one(&format!("{more} --batch-size {rows}"));
            assert_eq!(bytes(&of, "peak_bytes") <= 1 << 30, fits, "{rows} {more}: {of}");
        }
    }
    let most = |of: &Value| of["fits"]["largest_batch_size"].as_u64().unwrap();
    assert!(most(&recomputed) > most(&kept));
    let list = place.ok(&format!("estimate {line} --grad-checkpoint"));
    for part in ["backend, activations recomputed\n", "the peak without --grad-checkpoint"] {
        assert!(list.contains(part), "`{part}` is missing in\n{list}");
    }
    let table = place.ok("estimate --model 60M --vocab-size 32100 --methods full,lora --device cpu --grad-checkpoint");
    assert!(table.contains("kept is the peak without --grad-checkpoint"), "{table}");
}

#[test]
fn a_run_with_a_warm_start_tells_what_is_trained_after_it() {
    let place = Place::new();
    let tiny = "--tokenizer bytes --hidden-size 32 --num-hidden-layers 2 --num-attention-heads 2 \
                --intermediate-size 64 --max-seq-length 32 --batch-size 4 --device cpu";
    let told = |run: &RunDir| -> Vec<u64> {
        let events = read_log(run.events()).unwrap().events.into_iter();
        events
            .filter_map(|event| match event.body {
                Body::Run(run) => Some(run.trained_params),
                _ => None,
            })
            .collect()
    };
    for method in ["--method relora --iters 8", "--switchlora-warm-start 2 --iters 4"] {
        let page = json(&place, &format!("{tiny} {method}"));
        let expected = page["methods"][0]["trained_parameters"].as_u64().unwrap();
        let run = place.train("warm", method);
        assert_eq!(told(&run), [expected], "{method}");
        assert!(expected < page["methods"][0]["parameters"].as_u64().unwrap());
        if method.contains("switchlora") {
            // The factors are there by then, and are counted.
            place.ok("resume warm --extend 6 --ui none");
            assert_eq!(told(&run), [expected; 2]);
        }
        place.ok("rm warm");
    }
}

#[test]
fn a_measurement_runs_updates_and_says_so() {
    let place = Place::new();
    let tiny = "--model demo --hidden-size 32 --num-hidden-layers 1 --num-attention-heads 2 \
                --intermediate-size 64 --max-seq-length 16 --batch-size 2 --device cpu";
    let page = json(&place, &format!("{tiny} --methods switchlora,relora --measure"));
    for answer in page["methods"].as_array().unwrap() {
        let measured = &answer["measured"];
        assert!(measured["seconds_per_update"].as_f64().unwrap() > 0.0, "{answer}");
        let (peak, predicted) = (measured["peak_bytes"].as_f64(), answer["peak_bytes"].as_f64());
        let ratio = peak.unwrap() / predicted.unwrap();
        assert!(ratio < 1.1, "{answer}");
    }
}

#[test]
fn what_cannot_be_estimated_is_refused() {
    let place = Place::new();
    place.assert_fails(
        "estimate --methods full,nothing --device cpu",
        2,
        "error: --methods names `nothing`, which is no method\n  try: this version has full, lora, \
         switchlora, relora, galore, fira, lora-ga, rslora, lora-plus, pissa, dora, lte, spam, sltrain, \
         adarankgrad and inrank\n",
    );
}
