//! GGUF files written here are read back as they were.

use std::fs;
use std::path::Path;

use fullrank::formats::gguf::{Format, GgufModel, GgufWriter, ModelInfo};
use fullrank::formats::hf_config::{Family, HfConfig, Rope, RopeKind, Variant};
use fullrank::formats::tokenizer::Tokenizer;

use crate::golden;

fn small_config() -> HfConfig {
    HfConfig {
        variant: Variant { family: Family::Llama, attention_bias: false, mlp_bias: false },
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        vocab_size: 260,
        max_position_embeddings: 64,
        tie_word_embeddings: true,
        rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
        bos_token_id: None,
        eos_token_ids: vec![0],
        pad_token_id: None,
        initializer_range: 0.02,
    }
}

fn values(name: &str, len: usize) -> Vec<f32> {
    let mut stream = fullrank::random::stream(1, name, "test", 0);
    stream.normal_vec(len, 1.0).into_iter().map(|x| half::f16::from_f32(x).to_f32()).collect()
}

fn write(
    path: &Path,
    config: &HfConfig,
    tokenizer: &Tokenizer,
    format: Format,
) -> Vec<(String, Vec<usize>)> {
    let info =
        ModelInfo { name: "small", config, tokenizer, chat_template: Some("{{ bos_token }}") };
    let mut writer = GgufWriter::create(path, info, format).unwrap();
    let mut all = Vec::new();
    while let Some((name, shape)) = writer.next() {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        writer.write_next(&values(&name, shape.iter().product())).unwrap();
        all.push((name, shape));
    }
    writer.finish().unwrap();
    all
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    let llama3 = RopeKind::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32,
    };
    for (kind, tied, tokenizer) in [
        (RopeKind::Default, true, Tokenizer::bytes().unwrap()),
        (RopeKind::Linear { factor: 4.0 }, false, Tokenizer::bytes().unwrap()),
        (llama3, true, Tokenizer::builtin().unwrap()),
    ] {
        let mut config = small_config();
        config.rope.kind = kind;
        config.tie_word_embeddings = tied;
        config.vocab_size = tokenizer.vocab_size() + 3;
        config.bos_token_id = tokenizer.bos();
        for format in [Format::F32, Format::F16, Format::Q8_0] {
            let tensors = write(&path, &config, &tokenizer, format);
            let model = GgufModel::open(&path).unwrap();
            assert_eq!(model.config(), &config);
            for (name, shape) in tensors.iter().filter(|(name, _)| name != "rope_freqs.weight") {
                let read = model.read_expected(name, shape).unwrap();
                let written = values(name, read.len());
                if format == Format::Q8_0 && shape.len() == 2 {
                    for (a, b) in read.iter().zip(&written) {
                        assert!((a - b).abs() < 0.03, "{name}: {a} {b}");
                    }
                } else {
                    assert_eq!(read, written, "{name}");
                }
            }
            let again = model.tokenizer().unwrap();
            for text in ["", "It is 1813, isn't it?\n\n  naïve – 東京 🦀", "<|endoftext|>ab"]
            {
                assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap());
            }
            assert_eq!((again.bos(), again.eos()), (tokenizer.bos(), tokenizer.eos()));
            assert!(again.chat_template().unwrap().is_some());
        }
    }
}

#[test]
fn what_a_file_cannot_express_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    let (config, tokenizer) = (small_config(), Tokenizer::bytes().unwrap());
    let info =
        ModelInfo { name: "small", config: &config, tokenizer: &tokenizer, chat_template: None };
    let mut writer = GgufWriter::create(&path, info, Format::F16).unwrap();
    let (_, shape) = writer.next().unwrap();
    let mut large = vec![0.0; shape.iter().product()];
    large[3] = 1e6;
    let error = writer.write_next(&large).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight holds 1000000, which F16"), "{error}");
    drop(writer);
    let mut other = small_config();
    other.variant.family = Family::Qwen3;
    let info = ModelInfo { config: &other, ..info };
    let error = GgufWriter::create(&path, info, Format::F16).unwrap_err().to_string();
    assert!(error.contains("qwen3"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The tokenizer of a real model through a file and back.
#[test]
fn a_real_tokenizer_goes_through_a_file_with_its_template() {
    let golden = golden();
    let tokenizer = Tokenizer::from_file(golden.join("smollm2-tokenizer")).unwrap();
    let template = tokenizer.chat_template().unwrap().unwrap();
    let mut config = small_config();
    config.vocab_size = tokenizer.vocab_size();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    let info = ModelInfo {
        name: "small",
        config: &config,
        tokenizer: &tokenizer,
        chat_template: Some(template.source()),
    };
    let mut writer = GgufWriter::create(&path, info, Format::Q8_0).unwrap();
    while let Some((_, shape)) = writer.next() {
        let zeros = vec![0.0; shape.iter().product()];
        writer.write_next(&zeros).unwrap();
    }
    writer.finish().unwrap();
    let model = GgufModel::open(&path).unwrap();
    let again = model.tokenizer().unwrap();
    let cases: serde_json::Value =
        serde_json::from_slice(&fs::read(golden.join("smollm2-tokenizer/cases.json")).unwrap())
            .unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() >= 30);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let wanted: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(again.encode(text).unwrap(), wanted, "{text:?}");
    }
    assert_eq!((again.bos(), again.eos()), (Some(1), 2));
    assert_eq!(again.chat_template().unwrap().unwrap().source(), template.source());
}
