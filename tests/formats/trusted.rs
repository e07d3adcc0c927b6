//! What trusted programs wrote: tokenizers, configurations and weights of the golden cases.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fullrank::formats::hf_checkpoint::HfCheckpoint;
use fullrank::formats::hf_config::{HfConfig, RopeKind};
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::formats::tokenizer::Tokenizer;
use serde_json::Value;

use crate::golden;

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
