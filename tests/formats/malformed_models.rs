//! Model folders that are broken or hostile: every one gives an error that says what is wrong and what to do, none a
//! panic, and none takes memory that the files do not have.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // helpers of tests may stop

use std::fs;
use std::path::{Path, PathBuf};

use crate::fuzz;
use fullrank::device::Device;
use fullrank::error::{Error, Result};
use fullrank::formats::hf_checkpoint::HfCheckpoint;
use fullrank::formats::hf_config::HfConfig;
use fullrank::formats::hub::{self, HubId};
use fullrank::formats::tokenizer::Tokenizer;
use fullrank::model::Model;
use fullrank::run::export::{write_model, write_model_in_shards};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// No message is longer: a hostile name or number must not fill the screen.
const LONGEST_MESSAGE: usize = 1_800; // bytes; some characters have two

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models")
}

/// The files of a model in memory.
struct Files {
    config: Value,
    weights: Vec<u8>,
}

impl Files {
    fn of(name: &str) -> Self {
        let folder = root().join(name);
        Self {
            config: serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap(),
            weights: fs::read(folder.join("model.safetensors")).unwrap(),
        }
    }

    /// The header of the weights, and what comes after it.
    fn header(&self) -> (Value, &[u8]) {
        let length = u64::from_le_bytes(self.weights[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&self.weights[8..8 + length]).unwrap();
        (header, &self.weights[8 + length..])
    }
}

fn folder(config: &[u8], weights: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("model.safetensors"), weights).unwrap();
    folder
}

fn load(config: &[u8], weights: &[u8]) -> Result<()> {
    Model::load(folder(config, weights).path(), &Device::cpu()).map(drop)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

#[track_caller]
fn check(case: &str, error: &Error) {
    let message = error.to_string();
    assert!(!message.is_empty() && message.len() < LONGEST_MESSAGE, "{case}: {message}");
    assert!(!error.remedy().is_empty(), "{case}");
}

#[track_caller]
fn refused(case: &str, result: Result<()>) {
    match result {
        Ok(()) => panic!("{case} was accepted"),
        Err(error) => check(case, &error),
    }
}

/// Values that do not belong where they are put.
fn hostile() -> Vec<Value> {
    let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(3),
        json!(0.5),
        json!(1e300),
        json!(u64::MAX),
        json!(1u64 << 40),
        json!(""),
        json!("x"),
        json!("\u{0}"),
        json!("é".repeat(5_000)),
        json!([]),
        json!([null]),
        json!({}),
        json!({"a": 1}),
        nested(100),
    ]
}

/// Every value inside, as the path that leads to it.
fn paths(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    walk(inner, &format!("{at}/{key}"), found);
                }
            }
            Value::Array(list) => {
                for (i, inner) in list.iter().enumerate() {
                    walk(inner, &format!("{at}/{i}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

/// Whether a network of another shape, or none at all, must come of any other value of this field.
fn decides_the_shape(field: &str) -> bool {
    let fields = [
        "/hidden_size",
        "/intermediate_size",
        "/num_attention_heads",
        "/num_key_value_heads",
        "/head_dim",
        "/vocab_size",
        "/num_hidden_layers",
        "/model_type",
    ];
    fields.contains(&field)
}

#[test]
fn a_configuration_with_any_value_replaced_is_read_or_refused_and_never_a_panic() {
    let (mut refusals, mut cases) = (0, 0);
    for name in ["llama_bias", "qwen3", "mistral"] {
        let files = Files::of(name);
        let data: Vec<u8> = files.weights.clone();
        for path in paths(&files.config) {
            for value in hostile() {
                let mut config = files.config.clone();
                let place = config.pointer_mut(&path).unwrap();
                let before = std::mem::replace(place, value.clone());
                let case = format!(
                    "{name}{path} = {}",
                    value.to_string().chars().take(40).collect::<String>()
                );
                let result = load(config.to_string().as_bytes(), &data);
                cases += 1;
                refusals += usize::from(result.is_err());
                // Without head_dim or with fewer layers the weights may still fit.
                let may_fit = before == value || value.is_null() || path == "/num_hidden_layers";
                if decides_the_shape(&path) && !may_fit {
                    refused(&case, result);
                } else if let Err(error) = result {
                    check(&case, &error);
                }
            }
        }
    }
    println!("{cases} configurations, {refusals} refused");
    assert!(cases > 1_000 && refusals > 400, "{cases} cases, {refusals} refused");
}

#[test]
fn a_header_with_any_value_replaced_is_refused() {
    let files = Files::of("qwen2");
    let config = files.config.to_string();
    let (header, data) = files.header();
    assert!(load(config.as_bytes(), &with_header(&header.to_string(), data)).is_ok());
    let mut cases = 0;
    for path in paths(&header) {
        for value in hostile() {
            let mut changed = header.clone();
            let before = std::mem::replace(changed.pointer_mut(&path).unwrap(), value.clone());
            let is_text_of_metadata = path.starts_with("/__metadata__") && value.is_string();
            let is_no_metadata = path == "/__metadata__" && (value == json!({}) || value.is_null());
            if before == value || is_text_of_metadata || is_no_metadata {
                continue;
            }
            let case =
                format!("{path} = {}", value.to_string().chars().take(40).collect::<String>());
            refused(&case, load(config.as_bytes(), &with_header(&changed.to_string(), data)));
            cases += 1;
        }
    }
    assert!(cases > 1_000, "{cases}");
}

#[test]
fn headers_of_every_other_kind_of_damage_are_refused() {
    let files = Files::of("qwen2");
    let config = files.config.to_string();
    let (header, data) = files.header();
    let name = "model.norm.weight";
    let change = |edit: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        edit(&mut header);
        header.to_string()
    };
    let offsets = |begin: u64, end: u64| change(&|h| h[name]["data_offsets"] = json!([begin, end]));
    let mut cases = vec![
        ("overlap", offsets(0, 72)),
        ("behind the end", offsets(data.len() as u64, data.len() as u64 + 72)),
        ("backwards", offsets(72, 0)),
        ("end of all numbers", offsets(u64::MAX - 72, u64::MAX)),
        ("wraps around", offsets(u64::MAX, 71)),
        ("missing tensor", change(&|h| drop(h.as_object_mut().unwrap().remove(name)))),
        ("another name", {
            let text = header.to_string();
            text.replace("model.norm.weight", "model.norm.weights")
        }),
        ("twice", header.to_string().replacen('{', &format!("{{\"{name}\":{{}},"), 1)),
        ("huge shape", change(&|h| h[name]["shape"] = json!([u64::MAX, u64::MAX]))),
        ("zero in shape", change(&|h| h[name]["shape"] = json!([0, 18]))),
        ("many dimensions", change(&|h| h[name]["shape"] = json!(vec![1; 100_000]))),
        (
            "transposed",
            change(&|h| {
                h["model.layers.0.mlp.down_proj.weight"]["shape"] = json!([26, 18]);
            }),
        ),
        ("no list", "{".repeat(50_000)),
        ("deep", format!("{{\"{name}\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000))),
        ("deep metadata", format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000))),
        ("long name", format!("{{\"{}\":{{}}}}", "n".repeat(1_000_000))),
        ("empty", String::new()),
        ("spaces", " ".repeat(64)),
        ("null", "null".to_owned()),
        ("text", "\"text\"".to_owned()),
        ("a list", "[]".to_owned()),
        ("nothing", "{}".to_owned()),
        ("not closed", header.to_string().trim_end_matches('}').to_owned()),
        ("rest", format!("{header}}}")),
    ];
    for dtype in ["F8_E4M3", "f32", "F16", "BF16", "F64", "I32", "U8", "BOOL", "", "F32 "] {
        cases.push(("data type", change(&|h| h[name]["dtype"] = json!(dtype))));
    }
    for (case, header) in &cases {
        refused(case, load(config.as_bytes(), &with_header(header, data)));
    }
    for length in [0, 1, 7, 100, 1 << 20, 100_000_000, 100_000_001, 1 << 40, u64::MAX - 8, u64::MAX]
    {
        let mut bytes = files.weights.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        refused(&format!("header of {length} bytes"), load(config.as_bytes(), &bytes));
    }
    for length in (0..files.weights.len()).step_by(97) {
        refused(&format!("cut at {length}"), load(config.as_bytes(), &files.weights[..length]));
    }
    let longer = [&files.weights[..], &[0; 4]].concat();
    refused("longer", load(config.as_bytes(), &longer));
}

#[test]
fn broken_indexes_and_shards_are_refused() {
    const INDEX: &str = "model.safetensors.index.json";
    let place = tempfile::tempdir().unwrap();
    let whole = place.path().join("whole");
    let model = Model::load(&root().join("qwen3"), &Device::cpu()).unwrap();
    write_model_in_shards(&whole, &model, &Tokenizer::bytes().unwrap(), 4_000).unwrap();
    let index: Value = serde_json::from_slice(&fs::read(whole.join(INDEX)).unwrap()).unwrap();
    let files = fs::read_dir(&whole).unwrap().map(|entry| entry.unwrap().path());
    let shards: Vec<PathBuf> =
        files.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    assert!(shards.len() > 2);
    let text = fs::read_to_string(whole.join(INDEX)).unwrap();
    let load = || Model::load(&whole, &Device::cpu()).map(drop);
    load().unwrap();

    // The index: every value replaced, and texts that are none.
    for path in paths(&index) {
        if path.starts_with("/metadata") {
            continue; // not read: the files themselves say how long they are
        }
        for value in hostile() {
            let mut changed = index.clone();
            *changed.pointer_mut(&path).unwrap() = value.clone();
            fs::write(whole.join(INDEX), changed.to_string()).unwrap();
            refused(&format!("{path} = {value}"), load());
        }
    }
    let deep = format!("{{\"weight_map\":{}", "{\"a\":".repeat(100_000));
    for name in ["../x", "/etc/passwd", "a/b", "..", ".", "C:\\x", "\u{0}", "model.safetensors"] {
        let mut changed = index.clone();
        changed["weight_map"]["model.norm.weight"] = json!(name);
        fs::write(whole.join(INDEX), changed.to_string()).unwrap();
        refused(name, load());
    }
    for (case, broken) in [
        ("cut", &text.as_bytes()[..text.len() / 2]),
        ("no text", b"{\"weight_map\": {\"\xFF\": 1}}"),
        ("empty", b""),
        ("deep", deep.as_bytes()),
    ] {
        fs::write(whole.join(INDEX), broken).unwrap();
        refused(case, load());
    }
    fs::write(whole.join(INDEX), &text).unwrap();
    load().unwrap();

    // The files: each missing, empty, cut, a folder, another one.
    for (number, shard) in shards.iter().enumerate() {
        let bytes = fs::read(shard).unwrap();
        fs::remove_file(shard).unwrap();
        refused("missing", load());
        fs::create_dir(shard).unwrap();
        refused("a folder", load());
        fs::remove_dir(shard).unwrap();
        for (case, content) in [("empty", &[][..]), ("cut", &bytes[..bytes.len() - 1])] {
            fs::write(shard, content).unwrap();
            refused(case, load());
        }
        fs::copy(&shards[(number + 1) % shards.len()], shard).unwrap();
        refused("another file", load());
        fs::write(shard, bytes).unwrap();
    }
    load().unwrap();
}

#[test]
fn texts_that_are_no_configuration_are_refused() {
    let files = Files::of("qwen2");
    let text = files.config.to_string();
    for length in 0..text.len() {
        refused(&format!("cut at {length}"), load(&text.as_bytes()[..length], &files.weights));
    }
    let cases: [(&str, Vec<u8>); 8] = [
        (
            "no UTF-8",
            text.replace("qwen2", "qw\u{1}")
                .into_bytes()
                .iter()
                .map(|b| if *b == 1 { 0xFF } else { *b })
                .collect(),
        ),
        ("two objects", format!("{text}{text}").into_bytes()),
        ("deep", "[".repeat(1_000_000).into_bytes()),
        ("deep objects", "{\"a\":".repeat(1_000_000).into_bytes()),
        ("long line", format!("{{\"model_type\": \"{}\"}}", "x".repeat(10_000_000)).into_bytes()),
        ("NaN", text.replace("\"silu\"", "NaN").into_bytes()),
        ("comment", format!("// {text}").into_bytes()),
        ("utf-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
    ];
    for (case, bytes) in cases {
        refused(case, load(&bytes, &files.weights));
    }
}

#[test]
fn a_context_that_only_the_configuration_claims_takes_no_memory() {
    let mut files = Files::of("qwen2");
    files.config["max_position_embeddings"] = json!(1 << 24);
    files.config["head_dim"] = json!(6);
    assert!(load(files.config.to_string().as_bytes(), &files.weights).is_ok());
    for (context, head_dim) in [(1 << 24, 16), (1 << 24, 1 << 20)] {
        files.config["max_position_embeddings"] = json!(context);
        files.config["head_dim"] = json!(head_dim);
        refused("context", load(files.config.to_string().as_bytes(), &files.weights));
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_by_the_commands_that_use_them() {
    let place = tempfile::tempdir().unwrap();
    let mut files = Files::of("qwen2");
    let length = files.weights.len();
    files.weights[length - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let model = folder(files.config.to_string().as_bytes(), &files.weights);
    Tokenizer::bytes().unwrap().save(model.path()).unwrap();
    let Err(error) =
        fullrank::run::open::open(&model.path().display().to_string(), place.path(), Some("cpu"))
    else {
        panic!("weights of NaN were opened")
    };
    check("not finite", &error);
}

#[test]
fn tokenizer_files_that_are_broken_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    let model = Model::load(&root().join("qwen2"), &Device::cpu()).unwrap();
    write_model(&source, &model, &Tokenizer::bytes().unwrap()).unwrap();
    let good = fs::read(source.join("tokenizer.json")).unwrap();
    let broken: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("cut", &good[..good.len() / 2]),
        ("no text", b"\xFF\xFE{}"),
        ("another object", b"{}"),
        ("a list", b"[]"),
    ];
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let whole = fs::read(source.join(file)).unwrap();
        for (case, bytes) in broken {
            if file == "tokenizer_config.json" && case == "another object" {
                continue; // every field of it is optional
            }
            fs::write(source.join(file), bytes).unwrap();
            refused(&format!("{file} {case}"), Tokenizer::from_file(&source).map(drop));
        }
        fs::write(source.join(file), whole).unwrap();
    }
    assert!(Tokenizer::from_file(&source).is_ok());
}

/// One random edit of a text of JSON or of a whole file.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)
}

fn edited(bytes: &[u8], edits: &[(prop::sample::Index, u8)], below: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let below = below.min(bytes.len());
    for (at, value) in edits {
        let at = at.index(below);
        bytes[at] = *value;
    }
    bytes
}

/// Usual number of random cases of each kind.
const FEW: u32 = 64;

#[test]
fn random_changes_of_a_header_never_panic() {
    let files = Files::of("qwen2");
    let (_, data) = files.header();
    let begin = files.weights.len() - data.len();
    let config = files.config.to_string();
    fuzz::each("header", FEW, &edits(), |changes| {
        let weights = edited(&files.weights, &changes, begin);
        if let Err(error) = load(config.as_bytes(), &weights) {
            check("header", &error);
        }
        Ok(())
    });
}

#[test]
fn random_changes_of_a_configuration_never_panic() {
    let files = Files::of("qwen3");
    let config = files.config.to_string();
    fuzz::each("configuration", FEW, &edits(), |changes| {
        let config = edited(config.as_bytes(), &changes, usize::MAX);
        if let Err(error) = load(&config, &files.weights) {
            check("configuration", &error);
        }
        Ok(())
    });
}

#[test]
fn random_changes_of_an_index_never_panic() {
    let files = Files::of("qwen2");
    let (header, _) = files.header();
    let names = header.as_object().unwrap().keys().filter(|name| !name.starts_with("__"));
    let map: serde_json::Map<String, Value> =
        names.map(|name| (name.clone(), json!("weights.safetensors"))).collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights.safetensors"), &files.weights).unwrap();
    let path = folder.path().join("model.safetensors.index.json");
    fuzz::each("index", FEW, &edits(), |changes| {
        fs::write(&path, edited(index.as_bytes(), &changes, usize::MAX)).unwrap();
        if let Err(error) = HfCheckpoint::open(folder.path()) {
            check("index", &error);
        }
        Ok(())
    });
}

#[test]
fn random_objects_are_no_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fuzz::each("objects", FEW, &json_value(), |value| {
        fs::write(&path, value.to_string()).unwrap();
        prop_assert!(HfConfig::read(&path).is_err());
        Ok(())
    });
}

#[test]
fn random_texts_are_no_path_out_of_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    fuzz::each("names", FEW, &"[a-z./@~\\\\-]{0,24}", |text| {
        if let Some(id) = HubId::parse(&text) {
            let result = hub::find_in(cache.path(), id);
            prop_assert!(result.is_err());
            prop_assert!(!text.contains("..") || Path::new(&text).components().count() == 2);
        }
        Ok(())
    });
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{0,16}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
