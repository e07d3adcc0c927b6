//! `devices`, `doctor` and `bench`: what they print, and that a wrong kernel is found. Nothing here
//! depends on how long something took.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests may unwrap; a skip is said

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fullrank::device::Device;
use fullrank::doctor::{examine_with_fault, verdict};
use serde_json::Value;

fn fullrank(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fullrank"));
    command.args(line.split_whitespace()).env_remove("FULLRANK_LOG").stdin(Stdio::null());
    command.output().unwrap()
}

/// Runs a line that must succeed and print one JSON value.
fn json(line: &str) -> Value {
    let output = fullrank(line);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}`: {told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The device to test: `software` if there is such an adapter. It must be there with `FULLRANK_REQUIRE_GPU=1`.
fn software() -> Option<Value> {
    let found = json("devices --json");
    let software =
        found["devices"].as_array().unwrap().iter().find(|row| row["kind"] == "software").cloned();
    let is_required = std::env::var("FULLRANK_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(software.is_some() || !is_required, "FULLRANK_REQUIRE_GPU=1, and no adapter: {found}");
    if software.is_none() {
        eprintln!("SKIPPED: no software adapter, the tools were tried on the CPU alone");
    }
    software
}

/// The operations of the trait; `recycle` computes nothing.
fn operations() -> BTreeSet<String> {
    let source = include_str!("../../src/kernels/ops.rs");
    let body = source.split("pub trait TrainOps").nth(1).unwrap();
    let names = body.lines().filter_map(|line| line.trim().strip_prefix("fn "));
    let names = names.map(|line| line.split(['(', '<']).next().unwrap().to_owned());
    let operations: BTreeSet<String> = names.filter(|name| name != "recycle").collect();
    assert!(operations.len() > 25, "{operations:?}");
    operations
}

#[test]
fn devices_lists_what_there_is_and_what_auto_takes() {
    let found = json("devices --json");
    assert_eq!(keys(&found), ["auto", "devices"].into());
    for (number, row) in found["devices"].as_array().unwrap().iter().enumerate() {
        assert_eq!(row["device"], format!("gpu:{number}"));
        assert!(row["max_binding_bytes"].as_u64().unwrap() >= 128 << 20, "{row}");
    }
    if let Some(software) = software() {
        assert!(software["name"].as_str().unwrap().contains("llvmpipe"), "{software}");
        assert_eq!(software["unusable_because"], Value::Null);
    }
    let text = String::from_utf8(fullrank("devices").stdout).unwrap();
    assert!(text.contains("--device auto takes "), "{text}");
}

/// Every operation of the trait has a check, and what ran on this device is right.
fn assert_examined(device: &str) {
    let report = json(&format!("doctor --device {device} --json"));
    assert_eq!(report["ok"], true);
    let one = &report["devices"][0];
    let findings = one["findings"].as_array().unwrap();
    // On a busy machine the time may be over before the end.
    let named: BTreeSet<String> = findings
        .iter()
        .map(|finding| &finding["name"])
        .chain(one["left_out"].as_array().unwrap())
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    let missing: Vec<_> = operations().difference(&named).cloned().collect();
    assert!(missing.is_empty(), "doctor does not test {missing:?}");
    assert!(!findings.is_empty());
    for finding in findings {
        assert_eq!(finding["trouble"], Value::Null, "{finding}");
        assert!(!finding["shape"].as_str().unwrap().is_empty(), "{finding}");
    }
}

#[test]
fn doctor_tests_every_operation_on_the_cpu() {
    assert_examined("cpu");
}

#[test]
fn doctor_tests_every_operation_on_a_software_adapter() {
    if software().is_some() {
        assert_examined("software");
    }
}

#[test]
fn doctor_finds_a_wrong_value() {
    let begin = Instant::now();
    let mut is_over = || begin.elapsed() > Duration::from_secs(20);
    let mut told = Vec::new();
    let report =
        examine_with_fault(&Device::cpu(), &mut is_over, Some("add_residual"), &mut |finding| {
            told.push((finding.name, finding.trouble.clone()));
        });
    let wrong: Vec<_> = told.iter().filter(|(_, trouble)| trouble.is_some()).collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(wrong[0].0, "add_residual");
    let trouble = wrong[0].1.as_ref().unwrap();
    assert!(trouble.contains("expected") && trouble.contains("got"), "{trouble}");
    let error = verdict(&[report]).unwrap_err();
    assert_eq!(error.to_string(), "wrong results: add_residual on cpu");
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn doctor_on_a_device_that_is_not_there_says_so() {
    let output = fullrank("doctor --device gpu:99");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no gpu:99"));
    assert_eq!(fullrank("doctor --device gpx").status.code(), Some(2));
}

const TINY: &str =
    "--dim 16 --layers 1 --heads 2 --ffn 24 --vocab 32 --seq 8 --batch 2 --rank 4 --rounds 1";

fn assert_measured(device: &str, has_pools: bool) {
    let report = json(&format!("bench --json --device {device} {TINY}"));
    assert_eq!(keys(&report), ["device", "kernels", "steps"].into());
    let kernels = report["kernels"].as_array().unwrap();
    assert!(kernels.len() > 15);
    for row in kernels {
        assert_eq!(keys(row), ["name", "shape", "gflops", "stock_gflops"].into());
        assert!(row["gflops"].as_f64().unwrap() >= 0.0, "{row}");
    }
    let steps = report["steps"].as_array().unwrap();
    let stock: Vec<_> =
        steps.iter().map(|row| (row["method"].as_str().unwrap(), row["stock"].as_str())).collect();
    let expected = [("full", Some("full")), ("lora", Some("apply_lora")), ("switchlora", None)];
    assert_eq!(stock, expected);
    for row in steps {
        let expected = [
            "method",
            "tokens_per_s",
            "stock",
            "stock_tokens_per_s",
            "ratio",
            "ledger_peak_bytes",
            "predicted_bytes",
            "pool_bytes",
            "rss_bytes",
        ];
        assert_eq!(keys(row), expected.into());
        assert!(row["tokens_per_s"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["ratio"].is_null(), row["stock"].is_null(), "{row}");
        assert_eq!(row["pool_bytes"].is_u64(), has_pools, "{row}");
        let (peak, predicted) =
            (row["ledger_peak_bytes"].as_f64().unwrap(), row["predicted_bytes"].as_f64().unwrap());
        // `tests/memory.rs` compares them exactly, at sizes where a few bytes are nothing.
        assert!((peak / predicted - 1.0).abs() < 0.1, "{row}");
    }
}

#[test]
fn bench_prints_the_documented_object() {
    assert_measured("cpu", false);
    if software().is_some() {
        assert_measured("software", true);
    }
}

#[test]
fn bench_measures_the_half_that_is_asked_for() {
    let report = json(&format!("bench --json --device cpu --no-stock --kernels-only {TINY}"));
    assert_eq!(report["steps"].as_array().unwrap().len(), 0);
    assert!(report["kernels"].as_array().unwrap().iter().all(|row| row["stock_gflops"].is_null()));
    let report =
        json(&format!("bench --json --device cpu --no-stock --steps-only --methods fira {TINY}"));
    assert_eq!(report["kernels"].as_array().unwrap().len(), 0);
    assert_eq!(report["steps"][0]["method"], "fira");
    assert!(report["steps"][0]["rss_bytes"].as_u64() > Some(0));
    assert_eq!(fullrank("bench --steps-only --methods lorra --device cpu").status.code(), Some(2));
    assert_eq!(fullrank("bench --dim 15").status.code(), Some(2));
}

#[test]
fn bench_times_each_program_of_an_update() {
    let output = fullrank("bench --device cpu --steps-only --profile 1");
    assert_eq!(output.status.code(), Some(2));
    if software().is_none() {
        return;
    }
    let report = json(&format!(
        "bench --json --device software --no-stock --steps-only --rounds 1 --profile 2 --methods switchlora {TINY}"
    ));
    let programs = report["steps"][0]["programs"].as_array().unwrap();
    let launches = |name: &str| {
        let program = programs.iter().find(|program| program["name"] == name);
        program.and_then(|program| program["launches"].as_f64()).unwrap_or(0.0)
    };
    assert_eq!(launches("pair"), 1.0);
    // For both sides of the seven layers in each block.
    assert_eq!(launches("vector_factors"), 14.0 * launches("attention_direct"));
    assert!(programs.iter().all(|program| program["seconds"].as_f64() > Some(0.0)));
}
