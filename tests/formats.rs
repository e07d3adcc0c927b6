//! Files of other tools: those that trusted programs wrote are read exactly, and broken ones give
//! an error that says what is wrong and what to do, never a panic.

// clippy.toml allows this in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use fullrank::data::cache::TokenCache;
use fullrank::data::{Corpus, Dataset};
use fullrank::error::{Error, Result};
use fullrank::formats::hf_checkpoint::HfCheckpoint;
use fullrank::formats::hf_config::{HfConfig, RopeKind};
use fullrank::formats::safetensors::{SafetensorsFile, TensorValues, write_safetensors};
use fullrank::formats::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The folder of golden cases: `GOLDEN_DIR`, else the one in the repository.
fn golden() -> PathBuf {
    env::var_os("GOLDEN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from)
}

fn golden_models() -> Vec<PathBuf> {
    let mut models: Vec<PathBuf> = fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("llama_"))
        .collect();
    models.sort();
    assert!(models.len() >= 4, "{models:?}");
    models
}

fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

// ---- what trusted programs wrote ----

#[test]
fn golden_tokenizer_cases_agree_exactly() {
    let folder = golden().join("smollm2-tokenizer");
    let tokenizer = Tokenizer::from_file(&folder).unwrap();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    let end = tokenizer.encode("<|im_end|>").unwrap();
    assert_eq!(end, [tokenizer.eos()], "eos as tokenizer_config.json says");
    let cases = read_json(folder.join("cases.json"));
    let cases = cases["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded"], "{text:?}");
        let mut stream = tokenizer.stream();
        let mut shown = String::new();
        for id in ids {
            shown += &stream.push(id).unwrap();
        }
        shown += &stream.finish().unwrap();
        assert_eq!(shown, case["decoded"], "{text:?}");
    }
}

#[test]
fn golden_configurations_survive_writing_and_reading() {
    let folder = tempfile::tempdir().unwrap();
    for model in golden_models() {
        let config = HfConfig::read(model.join("config.json")).unwrap();
        config.write(folder.path(), "float32").unwrap();
        assert_eq!(HfConfig::read(folder.path().join("config.json")).unwrap(), config);

        // Every field of ours is one that transformers wrote with the same value.
        let theirs = read_json(model.join("config.json"));
        let ours = read_json(folder.path().join("config.json"));
        for (name, value) in ours.as_object().unwrap() {
            let expected = match name.as_str() {
                "dtype" | "torch_dtype" => continue,
                "rope_theta" => theirs.get(name).unwrap_or(&theirs["rope_parameters"][name]),
                name => &theirs[name],
            };
            assert_eq!(value, expected, "{}: {name}", model.display());
        }
        let generation = read_json(folder.path().join("generation_config.json"));
        assert_eq!(generation["eos_token_id"], theirs["eos_token_id"]);
    }
}

#[test]
fn golden_rope_settings_are_read_in_both_forms() {
    let read = |name: &str| HfConfig::read(golden().join(name).join("config.json")).unwrap().rope;
    assert_eq!(read("llama_mha").theta, 10_000.0);
    assert_eq!(read("llama_gqa_tied"), read("llama_bf16_sharded"));
    let kind = RopeKind::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32,
    };
    assert_eq!(read("llama_rope_llama3").kind, kind);
}

#[test]
fn golden_weights_have_the_shapes_of_their_configuration() {
    for model in golden_models() {
        let config = HfConfig::read(model.join("config.json")).unwrap();
        let weights = HfCheckpoint::open(&model).unwrap();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        expected.insert("model.embed_tokens.weight".into(), vec![config.vocab_size, hidden]);
        expected.insert("model.norm.weight".into(), vec![hidden]);
        if !config.tie_word_embeddings {
            expected.insert("lm_head.weight".into(), vec![config.vocab_size, hidden]);
        }
        for layer in 0..config.num_hidden_layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![queries, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, queries]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ] {
                expected.insert(format!("model.layers.{layer}.{name}.weight"), shape);
            }
        }
        assert_eq!(weights.names().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, shape) in &expected {
            let tensor = weights.read_expected(name, shape).unwrap();
            assert!(tensor.values.iter().all(|value| value.is_finite()), "{name}");
        }
        let file = SafetensorsFile::open(model.join("expected.safetensors")).unwrap();
        assert!(file.read_i64("input_ids").unwrap().iter().all(|id| *id >= 0));
    }
}

#[test]
fn golden_bf16_files_hold_the_tied_model_rounded() {
    let exact = HfCheckpoint::open(golden().join("llama_gqa_tied")).unwrap();
    let rounded = HfCheckpoint::open(golden().join("llama_bf16_sharded")).unwrap();
    for name in exact.names() {
        let (a, b) = (exact.read_f32(name).unwrap(), rounded.read_f32(name).unwrap());
        assert_eq!(a.shape, b.shape);
        for (a, b) in a.values.iter().zip(&b.values) {
            assert_eq!(half::bf16::from_f32(*a).to_f32(), *b, "{name}");
        }
    }
}

#[test]
fn the_committed_tokenizer_is_byte_level_and_gives_back_the_unseen_novel() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let json = read_json(assets.join("tokenizer-4096.json"));
    assert_eq!(json["model"]["type"], "BPE");
    assert_eq!(json["pre_tokenizer"]["type"], "ByteLevel");
    assert_eq!(json["decoder"]["type"], "ByteLevel");
    assert_eq!(json["model"]["vocab"].as_object().unwrap().len(), 4096);
    assert_eq!(json["model"]["merges"].as_array().unwrap().len(), 4096 - 256 - 1);
    assert_eq!(json["model"]["vocab"]["<|endoftext|>"], 0);

    let tokenizer = Tokenizer::builtin().unwrap();
    let novel = fs::read_to_string(assets.join("corpus/persuasion.txt")).unwrap();
    let ids = tokenizer.encode(&novel).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), novel);
    let bytes_a_token = novel.len() as f64 / ids.len() as f64;
    assert!(bytes_a_token > 3.5, "{bytes_a_token}");
}

// ---- broken files ----

/// Every error names its file or setting, and says what to do.
fn check_error(case: &str, error: &Error, wanted: &str) {
    let message = error.to_string();
    assert!(message.contains(wanted), "{case}: \"{message}\" lacks \"{wanted}\"");
    assert!(!error.remedy().is_empty(), "{case}");
    assert!(message.len() < 500, "{case}: {message}");
}

fn safetensors_bytes(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    bytes
}

fn open_bytes(bytes: &[u8]) -> Result<SafetensorsFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    SafetensorsFile::open(&path)
}

/// A small intact file with two tensors and a text of metadata.
fn intact() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("intact.safetensors");
    let metadata = BTreeMap::from([("kind".to_owned(), "small".to_owned())]);
    let tensors: [(&str, &[usize], TensorValues); 2] = [
        ("w", &[2, 3], TensorValues::F32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("ids", &[3], TensorValues::I32(&[7, 8, 9])),
    ];
    write_safetensors(&path, &metadata, &tensors).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn broken_safetensors_headers_are_refused() {
    let one = |entry: &str| format!("{{\"x\":{entry}}}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: [(&str, String, usize, &str); 24] = [
        ("no JSON", "not json".into(), 0, "not valid safetensors JSON"),
        ("empty header", String::new(), 0, "not valid safetensors JSON"),
        ("a list", "[]".into(), 0, "not valid safetensors JSON"),
        ("a half object", "{\"x\":{".into(), 0, "not valid safetensors JSON"),
        ("text behind", "{} {}".into(), 0, "not valid safetensors JSON"),
        ("deep nesting", deep.clone(), 0, "not valid safetensors JSON"),
        ("deep inside", one(&deep), 0, "not valid safetensors JSON"),
        ("no dtype", one(r#"{"shape":[1],"data_offsets":[0,4]}"#), 4, "missing field `dtype`"),
        ("no shape", one(r#"{"dtype":"F32","data_offsets":[0,4]}"#), 4, "missing field `shape`"),
        ("no offsets", one(r#"{"dtype":"F32","shape":[1]}"#), 4, "missing field `data_offsets`"),
        ("null entry", one("null"), 0, "not valid safetensors JSON"),
        (
            "unknown dtype",
            one(r#"{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}"#),
            4,
            "tensor x has the data type F8_E4M3",
        ),
        (
            "dtype in small letters",
            one(r#"{"dtype":"f32","shape":[1],"data_offsets":[0,4]}"#),
            4,
            "tensor x has the data type f32",
        ),
        (
            "negative size",
            one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#),
            4,
            "not valid safetensors JSON",
        ),
        (
            "fractional size",
            one(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}"#),
            4,
            "not valid safetensors JSON",
        ),
        (
            "shape too large to count",
            one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#),
            0,
            "too large to count",
        ),
        (
            "wrong bytes for the shape",
            one(r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}"#),
            12,
            "needs 16 bytes, the header gives it 12",
        ),
        (
            "offsets backwards",
            one(r#"{"dtype":"F32","shape":[0],"data_offsets":[4,0]}"#),
            4,
            "before it begins",
        ),
        (
            "three offsets",
            one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}"#),
            8,
            "not valid safetensors JSON",
        ),
        (
            "beyond the file",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#),
            4,
            "the file has only 4",
        ),
        (
            "overlap",
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#
                .into(),
            6,
            "tensor b begins at byte 2, inside",
        ),
        (
            "hole",
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                "b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#
                .into(),
            6,
            "bytes 2 to 4 of the data",
        ),
        (
            "data behind the last tensor",
            one(r#"{"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#),
            9,
            "cover 2 bytes, the file has 9",
        ),
        ("metadata not text", r#"{"__metadata__":{"step":7}}"#.into(), 0, "expected a string"),
    ];
    for (case, header, data_bytes, wanted) in cases {
        let error = open_bytes(&safetensors_bytes(&header, data_bytes)).unwrap_err();
        check_error(case, &error, wanted);
    }
}

#[test]
fn absurd_header_lengths_are_refused_before_anything_is_allocated() {
    for (length, wanted) in [
        (u64::MAX, "at most 100000000 are allowed"),
        (1 << 62, "at most 100000000 are allowed"),
        (100_000_001, "at most 100000000 are allowed"),
        (100_000_000, "the file has only 4 after"),
        (5, "the file has only 4 after"),
    ] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}  ");
        check_error(&length.to_string(), &open_bytes(&bytes).unwrap_err(), wanted);
    }
    let mut not_text = 4_u64.to_le_bytes().to_vec();
    not_text.extend_from_slice(&[b'{', 0xFF, 0xFE, b'}']);
    check_error("no text", &open_bytes(&not_text).unwrap_err(), "the header is not text");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = intact();
    assert!(open_bytes(&whole).is_ok());
    for length in 0..whole.len() {
        let error = open_bytes(&whole[..length]).unwrap_err();
        check_error(&format!("cut at {length}"), &error, "model.safetensors: ");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = SafetensorsFile::open(folder.path()).unwrap_err();
    check_error("folder", &error, "is not a file");
    let error = SafetensorsFile::open(folder.path().join("none.safetensors")).unwrap_err();
    check_error("missing", &error, "none.safetensors");
    assert!(matches!(error, Error::Io { .. }));
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = intact();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, &bytes).unwrap();
        match SafetensorsFile::open(&path) {
            Err(error) => check_error("changed", &error, "model.safetensors"),
            Ok(file) => {
                for name in file.names() {
                    let _ = file.read_f32(name);
                    let _ = file.read_i64(name);
                }
            }
        }
    }
}

/// A folder with one file in it.
fn folder_with(name: &str, content: impl AsRef<[u8]>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), content).unwrap();
    folder
}

#[test]
fn broken_configurations_are_refused() {
    let base = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
    });
    let with = |name: &str, value: Value| {
        let mut config = base.clone();
        config[name] = value;
        config.to_string()
    };
    let without = |name: &str| {
        let mut config = base.clone();
        config.as_object_mut().unwrap().remove(name);
        config.to_string()
    };
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let llama3 = |name: &str, value: Value| {
        let mut scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        });
        scaling[name] = value;
        with("rope_scaling", scaling)
    };
    let cases = [
        ("empty", String::new(), "is not valid JSON"),
        ("cut", base.to_string()[..40].to_owned(), "is not valid JSON"),
        ("deep", deep, "is not valid JSON"),
        ("a list", "[1]".to_owned(), "holds a list, not a JSON object"),
        ("no model_type", without("model_type"), "model_type is missing"),
        ("other model", with("model_type", json!("gpt2")), "\"gpt2\" is not supported"),
        ("no hidden_size", without("hidden_size"), "hidden_size is missing"),
        ("no vocab_size", without("vocab_size"), "vocab_size is missing"),
        ("null", with("num_hidden_layers", json!(null)), "num_hidden_layers is missing"),
        ("zero layers", with("num_hidden_layers", json!(0)), "num_hidden_layers is 0"),
        ("zero heads", with("num_attention_heads", json!(0)), "num_attention_heads is 0"),
        ("zero kv heads", with("num_key_value_heads", json!(0)), "num_key_value_heads is 0"),
        ("kv above", with("num_key_value_heads", json!(8)), "not a multiple of num_key_value"),
        ("text", with("hidden_size", json!("64")), "hidden_size is \"64\""),
        ("fraction", with("hidden_size", json!(64.5)), "hidden_size is 64.5"),
        ("huge", with("vocab_size", json!(u64::MAX)), "vocab_size is 18446744073709551615"),
        ("huge layers", with("num_hidden_layers", json!(10_001)), "num_hidden_layers is 10001"),
        ("eps zero", with("rms_norm_eps", json!(0.0)), "rms_norm_eps is 0.0"),
        ("theta negative", with("rope_theta", json!(-1.0)), "rope_theta is -1.0"),
        ("rope a list", with("rope_scaling", json!([1])), "rope_scaling is a list"),
        ("rope a number", with("rope_parameters", json!(1)), "rope_parameters is 1"),
        ("dynamic", with("rope_scaling", json!({"type": "dynamic"})), "\"dynamic\" is not"),
        ("longrope", with("rope_parameters", json!({"rope_type": "longrope"})), "\"longrope\""),
        ("llama3 factor", llama3("factor", json!(null)), "rope_scaling.factor is missing"),
        ("llama3 order", llama3("high_freq_factor", json!(0.5)), "is not above low_freq_factor"),
        (
            "llama3 length",
            llama3("original_max_position_embeddings", json!(0)),
            "rope_scaling.original_max_position_embeddings is 0",
        ),
        ("flag", with("tie_word_embeddings", json!(1)), "tie_word_embeddings is 1"),
        ("eos", with("eos_token_id", json!([1, -2])), "eos_token_id is -2"),
        ("bos", with("bos_token_id", json!(100)), "id 100, vocab_size is 100"),
        ("partial", with("rope_parameters", json!({"partial_rotary_factor": 0.5})), "0.5"),
    ];
    for (case, text, wanted) in cases {
        let folder = folder_with("config.json", text);
        let error = HfConfig::read(folder.path().join("config.json")).unwrap_err();
        check_error(case, &error, wanted);
    }
    let not_text = folder_with("config.json", b"{\"model_type\": \"\xFF\"}");
    let error = HfConfig::read(not_text.path().join("config.json")).unwrap_err();
    check_error("no text", &error, "is not valid JSON");
}

#[test]
fn broken_indexes_are_refused() {
    const INDEX: &str = "model.safetensors.index.json";
    let cases = [
        ("empty", "", "is not valid JSON"),
        ("no map", "{}", "weight_map is missing"),
        ("map a list", r#"{"weight_map":[]}"#, "weight_map is a list"),
        ("a number", r#"{"weight_map":{"w":1}}"#, "w is 1, expected the name of a file"),
        ("missing file", r#"{"weight_map":{"w":"a.safetensors"}}"#, "which is missing"),
        ("outside", r#"{"weight_map":{"w":"../a.safetensors"}}"#, "not a plain file name"),
        ("broken file", r#"{"weight_map":{"w":"broken.safetensors"}}"#, "broken.safetensors"),
        ("mixed up", r#"{"weight_map":{"v":"good.safetensors"}}"#, "does not have it"),
    ];
    for (case, text, wanted) in cases {
        let folder = folder_with(INDEX, text);
        fs::write(folder.path().join("broken.safetensors"), b"short").unwrap();
        fs::write(folder.path().join("good.safetensors"), intact()).unwrap();
        check_error(case, &HfCheckpoint::open(folder.path()).unwrap_err(), wanted);
    }
    let folder = folder_with("other.txt", "x");
    check_error("no weights", &HfCheckpoint::open(folder.path()).unwrap_err(), "has neither");
    let path = folder.path().join("other.txt");
    check_error("a file", &HfCheckpoint::open(path).unwrap_err(), "is not a folder");
    let path = folder.path().join("none");
    check_error("nothing", &HfCheckpoint::open(path).unwrap_err(), "does not exist");
}

#[test]
fn broken_tokenizers_are_refused() {
    let good = include_str!("../assets/tokenizer-4096.json");
    let change = |edit: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_str(good).unwrap();
        edit(&mut json);
        json.to_string()
    };
    let cases = [
        ("empty", String::new()),
        ("no JSON", "hello".to_owned()),
        ("empty object", "{}".to_owned()),
        ("cut", good[..good.len() / 2].to_owned()),
        ("deep", format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))),
        ("no model", change(&|json| json["model"] = json!(null))),
        ("unknown model", change(&|json| json["model"]["type"] = json!("Magic"))),
        ("no vocab", change(&|json| json["model"]["vocab"] = json!([]))),
        ("negative id", change(&|json| json["model"]["vocab"]["!"] = json!(-1))),
        ("huge id", change(&|json| json["model"]["vocab"]["!"] = json!(u64::MAX))),
        ("merge of nothing", change(&|json| json["model"]["merges"][0] = json!(["q", "no"]))),
        ("merges of one", change(&|json| json["model"]["merges"][0] = json!(["q"]))),
        ("unknown decoder", change(&|json| json["decoder"] = json!({"type": "Magic"}))),
        ("bad pattern", {
            change(&|json| {
                json["pre_tokenizer"] = json!({
                    "type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated",
                    "invert": false,
                });
            })
        }),
    ];
    for (case, text) in cases {
        let folder = folder_with("tokenizer.json", text);
        let error = Tokenizer::from_file(folder.path()).unwrap_err();
        check_error(case, &error, "tokenizer.json: is not a tokenizer that can be read");
    }
    let plain = change(&|json| {
        json["added_tokens"] = json!([]);
        json["model"]["vocab"].as_object_mut().unwrap().remove("<|endoftext|>");
    });
    let folder = folder_with("tokenizer.json", plain);
    check_error("no end", &Tokenizer::from_file(folder.path()).unwrap_err(), "ends a text");

    let far = change(&|json| json["model"]["vocab"]["zz"] = json!(4_000_000_000_u32));
    let folder = folder_with("tokenizer.json", far);
    let error = Tokenizer::from_file(folder.path()).unwrap_err();
    check_error("far id", &error, "has the id 4000000000, at most 16777215 is allowed");

    let folder = folder_with("tokenizer.json", good);
    let config = folder.path().join("tokenizer_config.json");
    for (case, text, wanted) in [
        ("no JSON", "{", "is not valid JSON"),
        ("a number", r#"{"eos_token": 0}"#, "eos_token is 0"),
        ("an empty object", r#"{"eos_token": {}}"#, "eos_token is an object"),
        ("unknown", r#"{"bos_token": "<go>"}"#, "bos_token is \"<go>\""),
    ] {
        fs::write(&config, text).unwrap();
        check_error(case, &Tokenizer::from_file(folder.path()).unwrap_err(), wanted);
    }
    let none = folder.path().join("none.json");
    check_error("missing", &Tokenizer::from_file(none).unwrap_err(), "none.json");
}

#[test]
fn broken_texts_are_refused() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let prepare = |path: &Path| {
        let corpus = Corpus::open(path.to_str().unwrap(), 0.05)?;
        Dataset::prepare(&corpus, &tokenizer, 8, &TokenCache::in_memory())
    };
    let good = "some words to train on, more than two blocks";
    assert!(prepare(&folder_with("a.txt", good).path().join("a.txt")).is_ok());

    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16 = [&[0xFF, 0xFE][..], &utf16].concat();
    let latin1 = [b"one\ntwo\ncaf".as_slice(), b"\xE9 ole"].concat();
    let cut = "two\nlines \u{20AC}".as_bytes()[..12].to_vec();
    for (case, bytes, wanted) in [
        ("empty", vec![], "is empty (0 bytes)"),
        ("one byte", vec![b'x'], "has 2 tokens; a block of 8 to train on and one to validate"),
        ("short", b"exactly 16 bytes".to_vec(), "has 17 tokens"),
        ("UTF-16", utf16, "wrong byte at offset 0, line 1"),
        ("Latin-1", latin1, "wrong byte at offset 11, line 3"),
        ("cut inside a character", cut, "wrong byte at offset 10, line 2"),
        ("binary", intact(), "is not UTF-8 text"),
    ] {
        let folder = folder_with("a.txt", bytes);
        check_error(case, &prepare(&folder.path().join("a.txt")).unwrap_err(), wanted);
        if case != "empty" {
            check_error(case, &prepare(folder.path()).unwrap_err(), wanted);
        }
    }

    let folder = folder_with("a.rs", good);
    check_error(
        "no texts",
        &prepare(folder.path()).unwrap_err(),
        "has no .txt, .md or .jsonl file",
    );
    let none = folder.path().join("none.txt");
    check_error("missing", &prepare(&none).unwrap_err(), "none.txt");
    for share in [0.0, 1.0, -0.5, f64::NAN] {
        let error = Corpus::from_path(folder.path(), share).unwrap_err();
        check_error("share", &error, "valid-fraction is");
    }
}
