//! Models of transformers in fullrank and the other way round, compared by their logits.
//!
//! Needs Python with torch, transformers and safetensors: `FULLRANK_PYTHON`, else `python3`. Without them it is
//! skipped and says so; with `FULLRANK_REQUIRE_PYTHON=1` that is a failure.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // helpers of tests may stop; a skip is said

#[allow(dead_code)] // the golden cases use all of it
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::parity;
use fullrank::device::Device;
use fullrank::formats::tokenizer::Tokenizer;
use fullrank::model::Model;
use fullrank::run::export::{write_model, write_model_in_shards};
use serde_json::Value;

/// Largest difference of logits beside the largest logit: both sides round in f32, in another order.
const TOLERANCE: f64 = 2e-5;

/// A Python that has the packages.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("FULLRANK_PYTHON").map_or("python3".into(), PathBuf::from);
    let works = Command::new(&python)
        .args(["-c", "import torch, transformers, safetensors"])
        .output()
        .is_ok_and(|output| output.status.success());
    if works {
        return Some(python);
    }
    let is_required = std::env::var("FULLRANK_REQUIRE_PYTHON").is_ok_and(|value| value == "1");
    assert!(!is_required, "{} has no torch, transformers and safetensors", python.display());
    eprintln!(
        "SKIPPED: {} has no torch, transformers and safetensors; nothing was compared with transformers",
        python.display()
    );
    None
}

/// Runs a script of `tests/interop` and gives what its last line says.
fn run(python: &Path, script: &str, arguments: &[&Path]) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(script);
    let mut command = Command::new(python);
    command
        .arg(path)
        .args(arguments)
        .env("HF_HUB_OFFLINE", "1")
        .env("TRANSFORMERS_VERBOSITY", "error");
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {told}");
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn models_go_from_transformers_to_fullrank_and_back() {
    let Some(python) = python() else { return };
    let place = tempfile::tempdir().unwrap();
    let made = place.path().join("made");
    let mut arguments = vec![made.as_path(), Path::new("--seed"), Path::new("7")];
    let names = run(&python, "make_models.py", &arguments);
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert_eq!(names.len(), 5);
    // Its own tokenizer is no part of what the scripts make.
    let tokenizer = Tokenizer::bytes().unwrap();
    let out = place.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut pairs = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let folder = made.join(name);
        parity::llama::check(&folder, &Device::cpu());
        let model = Model::load(&folder, &Device::cpu()).unwrap();
        let target = out.join(name);
        if number % 2 == 0 {
            write_model(&target, &model, &tokenizer).unwrap();
        } else {
            write_model_in_shards(&target, &model, &tokenizer, 5_000).unwrap();
        }
        pairs.extend([target, folder.join("expected.safetensors")]);
    }
    arguments = pairs.iter().map(PathBuf::as_path).collect();
    let results = run(&python, "check_models.py", &arguments);
    let results = results.as_array().unwrap();
    assert_eq!(results.len(), names.len());
    for (name, result) in names.iter().zip(results) {
        eprintln!("{name}: {result}");
        let number = |key: &str| result[key].as_f64().unwrap();
        assert!(number("difference") <= TOLERANCE * number("largest"), "{name}: {result}");
    }
}

/// A model of any size with the numbers of transformers beside it, as `convert_gguf.py` makes it.
#[test]
fn a_real_model_has_the_logits_of_transformers() {
    let Some(folder) = std::env::var_os("FULLRANK_MODEL_DIR").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED: FULLRANK_MODEL_DIR names no model; tests/interop/convert_gguf.py makes one"
        );
        return;
    };
    parity::llama::check(&folder, &Device::cpu());
    eprintln!("{}: logits and loss agree", folder.display());
}

#[test]
fn golden_models_with_their_tokenizer_are_read_by_transformers() {
    let Some(python) = python() else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let tokenizer = Tokenizer::from_file(golden.join("smollm2-tokenizer")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let mut pairs = Vec::new();
    for name in ["llama_mha", "llama_gqa_tied", "llama_rope_llama3"] {
        let model = Model::load(&golden.join(name), &Device::cpu()).unwrap();
        let target = place.path().join(name);
        write_model(&target, &model, &tokenizer).unwrap();
        pairs.extend([target, golden.join(name).join("expected.safetensors")]);
    }
    let arguments: Vec<&Path> = pairs.iter().map(PathBuf::as_path).collect();
    for result in run(&python, "check_models.py", &arguments).as_array().unwrap() {
        eprintln!("{result}");
        let number = |key: &str| result[key].as_f64().unwrap();
        assert!(number("difference") <= TOLERANCE * number("largest"), "{result}");
        assert_eq!(result["model"], "LlamaForCausalLM");
        // The template went along.
        assert!(result["chat"].as_str().unwrap().contains("Hello"), "{result}");
    }
}
