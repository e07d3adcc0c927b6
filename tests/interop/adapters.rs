//! Adapters between PEFT itself and this crate, where `FULLRANK_PYTHON` (default `python3`) has torch, transformers and
//! peft; elsewhere a visible skip. Those that PEFT makes have the same logits here, alone and merged; those that are
//! written here have the same logits there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // helpers of tests may stop; a skip is said

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use fullrank::config::RunConfig;
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::hf_config::HfConfig;
use fullrank::formats::peft::{PeftAdapter, write};
use fullrank::formats::safetensors::{SafetensorsFile, TensorValues, write_safetensors};
use fullrank::kernels::Matrix;
use fullrank::methods::given;
use fullrank::model::{Batch, LinearId, Model};
use fullrank::run::adapter::of_method;
use fullrank::run::export::merged_weight;
use fullrank::run::plan::{self, ModelSource};
use fullrank::run::setup;
use serde_json::Value;

const SCRIPT: &str = "tests/interop/adapters.py";
/// As the golden cases of adapters, times two for the longer chains.
const TOLERANCE: f64 = 4e-5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn base() -> PathBuf {
    root().join("tests/golden/llama_mha")
}

/// A Python that has the packages.
fn python() -> Option<String> {
    let python = std::env::var("FULLRANK_PYTHON").unwrap_or_else(|_| "python3".into());
    let probe = Command::new(&python).args(["-c", "import torch, transformers, peft"]).output();
    if probe.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(
        std::env::var_os("FULLRANK_PYTHON").is_none(),
        "FULLRANK_PYTHON={python} has not torch, transformers and peft"
    );
    eprintln!(
        "SKIPPED: {python} has not torch, transformers and peft; adapters were not tried there"
    );
    None
}

fn run(python: &str, arguments: &[&str]) -> String {
    let output = Command::new(python)
        .arg(SCRIPT)
        .args(arguments)
        .current_dir(root())
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whole sequences of ids; the targets do not matter to logits.
fn batch(ids: &[i64], seq_len: usize, model: &Model) -> Batch {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    Batch::new(&ids, &ids, seq_len, model.device())
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let pairs = || ours.iter().zip(theirs);
    let difference = pairs().map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let largest = theirs.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
    assert!(difference <= TOLERANCE * largest, "{what}: {difference:e} of {largest:e}");
}

#[test]
fn adapters_that_peft_makes_have_its_logits_here() {
    let Some(python) = python() else { return };
    let place = tempfile::tempdir().unwrap();
    run(&python, &["make", &base().display().to_string(), &place.path().display().to_string()]);
    let mut kinds: Vec<PathBuf> =
        std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    kinds.sort();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    for folder in kinds {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
        let mut model = Model::load(&base(), &Device::cpu()).unwrap();
        let adapter = PeftAdapter::read(&folder, &given::modules(&model)).unwrap();
        eprintln!("interop: {name}: {}, {} layers", adapter.config.kind(), adapter.layers.len());
        given::attach(&mut model, &adapter.layers);
        let seq_len = expected.shape("input_ids").unwrap()[1];
        let batch = batch(&expected.read_i64("input_ids").unwrap(), seq_len, &model);
        let values = |name: &str| expected.read_f32(name).unwrap().values;
        assert_close(&name, &model.logits(&batch).to_host(), &values("logits"));
        for (place, linear) in model.linears().to_vec().iter().enumerate() {
            let merged = merged_weight(&model, linear);
            let shape = [linear.rows, linear.cols];
            let value = Matrix::from_host(merged, shape, model.device(), Category::Weights);
            model.params.set(linear.weight.unwrap(), value);
            let linear = model.linear_mut(LinearId(place));
            (linear.adapter, linear.magnitude) = (None, None);
        }
        assert_close(&name, &model.logits(&batch).to_host(), &values("merged_logits"));
    }
}

/// Trains a few updates and writes the adapter with what the trained network computes.
fn train_and_write(method: &str, change: impl Fn(&mut RunConfig), folder: &Path) {
    let mut config = RunConfig::default();
    config.model.model = base().display().to_string();
    config.train.method = method.into();
    config.train.rank = Some(3);
    config.train.alpha = Some(5.0);
    config.train.learning_rate = Some(0.02);
    config.train.lr_schedule = Some("constant".into());
    config.train.batch_size = Some(2);
    config.data.max_seq_length = Some(12);
    config.lora_ga.sequences = 4;
    change(&mut config);
    let shape = HfConfig::read(base().join("config.json")).unwrap();
    plan::resolve(&mut config, &ModelSource::Directory(base()), &shape).unwrap();
    let model = Model::load(&base(), &Device::cpu()).unwrap();
    let ids = |index: i64| -> Vec<i64> { (0..24).map(|i| (7 * i + 3 * index) % 160).collect() };
    let next = |index: i64, model: &Model| batch(&ids(index), 12, model);
    let (ahead, mut count) = (Model::load(&base(), &Device::cpu()).unwrap(), 0);
    let mut engine = setup::engine(&config, model).unwrap();
    let mut look = || {
        count += 1;
        Ok(next(count, &ahead))
    };
    engine.prepare(&mut look).unwrap();
    for index in 0..8 {
        let batch = next(index, &engine.model);
        assert!(engine.step(&[batch]).unwrap().is_applied);
    }
    let (layers, use_rslora) = of_method(engine.method.as_ref(), &engine.model).unwrap();
    let network = given::modules(&engine.model);
    std::fs::create_dir_all(folder).unwrap();
    write(folder, &layers, &network, &config.model.model.as_str().into(), use_rslora).unwrap();
    let ids = ids(100);
    let logits = engine.model.logits(&batch(&ids, 12, &engine.model)).to_host();
    write_safetensors(
        folder.join("expected.safetensors"),
        &BTreeMap::new(),
        &[
            ("input_ids", &[2, 12], TensorValues::I64(&ids)),
            ("logits", &[2, 12, 160], TensorValues::F32(&logits)),
        ],
    )
    .unwrap();
}

#[test]
fn adapters_that_are_written_here_have_the_same_logits_in_peft() {
    let Some(python) = python() else { return };
    let place = tempfile::tempdir().unwrap();
    let mut arguments = vec!["check".to_owned(), base().display().to_string()];
    let mut add = |name: &str, method: &str, change: &dyn Fn(&mut RunConfig)| {
        let folder = place.path().join(name);
        train_and_write(method, change, &folder);
        arguments.push(folder.display().to_string());
        arguments.push(folder.join("expected.safetensors").display().to_string());
    };
    for method in ["lora", "rslora", "lora-plus", "dora", "lora-ga", "pissa"] {
        add(method, method, &|_| {});
        add(&format!("{method}-some"), method, &|config| {
            config.train.target_modules = Some("q_proj,down_proj".into());
        });
        add(&format!("{method}-ranks"), method, &|config| {
            config.train.rank = None;
            (config.train.rank_first, config.train.rank_last) = (Some(2), Some(6));
        });
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let results: Vec<Value> = serde_json::from_str(&run(&python, &arguments)).unwrap();
    assert_eq!(results.len(), 18);
    for (folder, result) in arguments[2..].chunks(2).zip(results) {
        let number = |key: &str| result[key].as_f64().unwrap();
        let (difference, largest) = (number("difference"), number("largest"));
        eprintln!("interop: {}: {difference:e} of {largest:e}", folder[0]);
        assert!(difference <= TOLERANCE * largest, "{}: {result}", folder[0]);
        assert!(number("change") > 1e-3 * largest, "{}: it was trained: {result}", folder[0]);
    }
}
