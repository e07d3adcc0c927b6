//! Broken configurations, indexes, tokenizers and texts.

use std::fs;
use std::path::Path;

use fullrank::data::cache::TokenCache;
use fullrank::data::{Corpus, Dataset};
use fullrank::formats::hf_checkpoint::HfCheckpoint;
use fullrank::formats::hf_config::HfConfig;
use fullrank::formats::tokenizer::Tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::check_error;
use crate::safetensors::intact;

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
    let good = include_str!("../../assets/tokenizer-4096.json");
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
