//! GGUF files that are not what they should be: always an error that names the file, never a panic, and never memory
//! for more than the file holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::Path;

use crate::fuzz;
use fullrank::formats::gguf::GgufModel;
use proptest::prelude::*;

const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// The bytes of a GGUF file, piece by piece.
#[derive(Default, Clone)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(mut self, x: u32) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn u64(mut self, x: u64) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    fn head(version: u32, tensors: u64, entries: u64) -> Self {
        Self::default().raw(b"GGUF").u32(version).u64(tensors).u64(entries)
    }
}

/// One entry of metadata.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    Bytes::default().text(key).u32(kind).raw(value).0
}

fn text_entry(key: &str, value: &str) -> Vec<u8> {
    entry(key, TEXT, &Bytes::default().text(value).0)
}

fn number_entry(key: &str, value: u32) -> Vec<u8> {
    entry(key, U32, &value.to_le_bytes())
}

fn texts_entry(key: &str, values: &[&str]) -> Vec<u8> {
    let head = Bytes::default().u32(TEXT).u64(values.len() as u64);
    entry(key, LIST, &values.iter().fold(head, |bytes, text| bytes.text(text)).0)
}

/// The metadata of a model of one block with hidden size 4, two heads, and a vocabulary of the bytes a and b.
fn metadata() -> Vec<(&'static str, Vec<u8>)> {
    let number = |key: &'static str, value| (key, number_entry(key, value));
    let text = |key: &'static str, value| (key, text_entry(key, value));
    let eps = 1e-5f32.to_le_bytes();
    vec![
        text("general.architecture", "llama"),
        number("llama.block_count", 1),
        number("llama.context_length", 16),
        number("llama.embedding_length", 4),
        number("llama.feed_forward_length", 4),
        number("llama.attention.head_count", 2),
        (
            "llama.attention.layer_norm_rms_epsilon",
            entry("llama.attention.layer_norm_rms_epsilon", F32, &eps),
        ),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "gpt-2"),
        (
            "tokenizer.ggml.tokens",
            texts_entry("tokenizer.ggml.tokens", &["<|endoftext|>", "a", "b", "ab"]),
        ),
        ("tokenizer.ggml.merges", texts_entry("tokenizer.ggml.merges", &["a b"])),
        number("tokenizer.ggml.eos_token_id", 0),
    ]
}

#[derive(Clone)]
struct Tensor {
    name: String,
    sizes: Vec<u64>,
    format: u32,
    offset: u64,
}

fn tensors() -> Vec<Tensor> {
    let mut offset = 0;
    let mut add = |name: &str, sizes: &[u64]| {
        let tensor = Tensor { name: name.into(), sizes: sizes.to_vec(), format: 0, offset };
        offset += (sizes.iter().product::<u64>() * 4).next_multiple_of(32);
        tensor
    };
    vec![
        add("token_embd.weight", &[4, 4]),
        add("output_norm.weight", &[4]),
        add("blk.0.attn_norm.weight", &[4]),
        add("blk.0.ffn_norm.weight", &[4]),
        add("blk.0.attn_q.weight", &[4, 4]),
        add("blk.0.attn_k.weight", &[4, 4]),
        add("blk.0.attn_v.weight", &[4, 4]),
        add("blk.0.attn_output.weight", &[4, 4]),
        add("blk.0.ffn_gate.weight", &[4, 4]),
        add("blk.0.ffn_up.weight", &[4, 4]),
        add("blk.0.ffn_down.weight", &[4, 4]),
    ]
}

fn file(entries: &[(&str, Vec<u8>)], tensors: &[Tensor]) -> Vec<u8> {
    let mut bytes = Bytes::head(3, tensors.len() as u64, entries.len() as u64);
    for (_, entry) in entries {
        bytes = bytes.raw(entry);
    }
    for tensor in tensors {
        bytes = bytes.text(&tensor.name).u32(tensor.sizes.len() as u32);
        bytes = tensor.sizes.iter().fold(bytes, |bytes, &size| bytes.u64(size));
        bytes = bytes.u32(tensor.format).u64(tensor.offset);
    }
    let mut bytes = bytes.0;
    bytes.resize(bytes.len().next_multiple_of(32) + 11 * 64, 0);
    bytes
}

/// Reads everything that a file has: shape, tokenizer, template, all tensors.
fn read_all(path: &Path) -> fullrank::error::Result<()> {
    let model = GgufModel::open(path)?;
    let config = model.config().clone();
    let tokenizer = model.tokenizer()?;
    tokenizer.encode("ab ba 12 <|endoftext|>")?;
    tokenizer.chat_template()?;
    let hidden = config.hidden_size;
    model.read_expected("model.embed_tokens.weight", &[config.vocab_size, hidden])?;
    model.read_expected("model.norm.weight", &[hidden])?;
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let inner = config.intermediate_size;
    for layer in 0..config.num_hidden_layers {
        let name = |module: &str| format!("model.layers.{layer}.{module}.weight");
        model.read_expected(&name("self_attn.q_proj"), &[queries, hidden])?;
        model.read_expected(&name("self_attn.k_proj"), &[keys, hidden])?;
        model.read_expected(&name("mlp.down_proj"), &[hidden, inner])?;
    }
    Ok(())
}

fn read_bytes(bytes: &[u8]) -> fullrank::error::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    read_all(&path)
}

/// The message of the error that a file gives.
fn refusal(bytes: &[u8]) -> String {
    match read_bytes(bytes) {
        Ok(()) => panic!("a malformed file was read"),
        Err(error) => {
            assert!(!error.remedy().is_empty());
            error.to_string()
        }
    }
}

#[test]
fn the_file_that_all_cases_change_is_good() {
    read_bytes(&file(&metadata(), &tensors())).unwrap();
}

#[test]
fn every_cut_file_is_refused() {
    let whole = file(&metadata(), &tensors());
    for len in 0..whole.len() - 640 {
        let message = refusal(&whole[..len]);
        assert!(message.contains("model.gguf"), "{len}: {message}");
    }
}

#[test]
fn heads_that_claim_too_much_are_refused_before_memory_is_taken() {
    let one = |entry: Vec<u8>| Bytes::head(3, 0, 1).raw(&entry).raw(&[0; 64]).0;
    let list = |of: u32, count: u64| entry("key", LIST, &Bytes::default().u32(of).u64(count).0);
    let deep = {
        let nested = (0..9).fold(Bytes::default(), |bytes, _| bytes.u32(LIST).u64(1));
        entry("key", LIST, &nested.0)
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGML".to_vec(), "not with \"GGUF\""),
        (Bytes::head(1, 0, 0).0, "version 1; supported: 2 and 3"),
        (Bytes::head(4, 0, 0).0, "version 4"),
        (Bytes::head(3u32.swap_bytes(), 0, 0).0, "big-endian"),
        (Bytes::head(3, u64::MAX, 0).0, "tensors"),
        (Bytes::head(3, 1 << 19, 0).0, "tensors"),
        (Bytes::head(3, 0, u64::MAX).0, "entries of metadata"),
        (Bytes::head(3, 0, 60_000).0, "entries of metadata"),
        (one(Bytes::default().u64(u64::MAX).0), "a key of the metadata"),
        (one(Bytes::default().u64(65_535).0), "cut short?"),
        (one(entry("key", 13, &[0; 8])), "kind 13"),
        (one(entry("key", u32::MAX, &[0; 8])), "which does not exist"),
        (one(entry("key", TEXT, &u64::MAX.to_le_bytes())), "key has"),
        (one(entry("key", TEXT, &(1u64 << 27).to_le_bytes())), "takes 134217728 bytes"),
        (one(entry("key", TEXT, &Bytes::default().u64(2).raw(&[0xC3, 0x28]).0)), "not UTF-8"),
        (one(Bytes::default().u64(2).raw(&[0xFF, 0xFE]).u32(U32).u32(1).0), "not UTF-8"),
        (one(entry("key", BOOL, &[2])), "expected 0 or 1"),
        (one(list(TEXT, u64::MAX)), "claims 18446744073709551615"),
        (one(list(TEXT, 1 << 24)), "claims 16777216"),
        (one(list(0, 1 << 26)), "claims 67108864"),
        (one(list(12, u64::MAX / 8 + 1)), "claims"),
        (one(list(77, 1)), "kind 77"),
        (one(deep), "nested more than"),
    ];
    for (bytes, wanted) in cases {
        let message = refusal(&bytes);
        assert!(message.contains(wanted), "expected {wanted:?} in {message}");
    }
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    type Change = fn(&mut Vec<Tensor>);
    let cases: [(Change, &str); 18] = [
        (|t| t[0].sizes = vec![], "0 dimensions"),
        (|t| t[0].sizes = vec![1; 5], "5 dimensions"),
        (|t| t[0].sizes = vec![4, 0], "cannot have"),
        (|t| t[0].sizes = vec![u64::MAX, 2], "cannot have"),
        (|t| t[0].sizes = vec![1 << 40, 1 << 30], "cannot have"),
        (|t| t[0].sizes = vec![1 << 40], "beyond the file"),
        (|t| t[0].format = 2, "Q4_0 in blocks of 32"),
        (|t| t[0].format = 12, "Q4_K, which is not supported; supported: F32"),
        (|t| t[0].format = 4, "number 4"),
        (|t| t[0].format = u32::MAX, "not supported"),
        (|t| t[1].offset = 1, "a multiple of 32"),
        (|t| t[1].offset = 0, "overlap"),
        (|t| t[1].offset = 1 << 40, "beyond the file"),
        (|t| t[1].offset = u64::MAX - 31, "beyond the file"),
        (|t| t[1].name = t[0].name.clone(), "twice"),
        (|t| t[1].name = "x".repeat(2000), "at most 1024"),
        (|t| t[1].name = "blk.0.attn_q.bias".into(), "blk.0.attn_q.bias"),
        (|t| t[1].name = "blk.1.attn_q.weight".into(), "blk.1.attn_q.weight"),
    ];
    for (change, wanted) in cases {
        let mut tensors = tensors();
        change(&mut tensors);
        let message = refusal(&file(&metadata(), &tensors));
        assert!(message.contains(wanted), "expected {wanted:?} in {message}");
    }
    let mut missing = tensors();
    missing.remove(4);
    assert!(refusal(&file(&metadata(), &missing)).contains("no tensor for"));
    let mut narrow = tensors();
    narrow[10].sizes = vec![4, 2];
    assert!(refusal(&file(&metadata(), &narrow)).contains("expected [4, 4], file has [2, 4]"));
}

#[test]
fn metadata_that_cannot_be_is_refused_by_name() {
    let number = number_entry;
    let text = text_entry;
    let list = texts_entry;
    let float = |key: &str, x: f32| entry(key, F32, &x.to_le_bytes());
    let kinds = |values: &[i32]| {
        let head = Bytes::default().u32(I32).u64(values.len() as u64);
        let all = values.iter().fold(head, |bytes, x| bytes.raw(&x.to_le_bytes()));
        entry("tokenizer.ggml.token_type", LIST, &all.0)
    };
    let eps = "llama.attention.layer_norm_rms_epsilon";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "general.architecture",
            text("general.architecture", "gemma3"),
            "\"gemma3\" is not supported",
        ),
        ("general.architecture", number("general.architecture", 3), "expected a text"),
        ("general.alignment", number("general.alignment", 0), "expected a power of two"),
        ("general.alignment", number("general.alignment", 33), "expected a power of two"),
        ("general.alignment", number("general.alignment", 1 << 31), "expected a power of two"),
        ("general.alignment", text("general.alignment", "x"), "expected a power of two"),
        ("split.count", number("split.count", 4), "several files"),
        ("llama.expert_count", number("llama.expert_count", 8), "mixture of experts"),
        ("llama.block_count", number("llama.block_count", 0), "llama.block_count is 0"),
        ("llama.block_count", number("llama.block_count", 2), "no tensor for model.layers.1"),
        ("llama.block_count", number("llama.block_count", u32::MAX), "at most 10000"),
        ("llama.context_length", number("llama.context_length", u32::MAX), "at most"),
        ("llama.embedding_length", text("llama.embedding_length", "4"), "a whole number"),
        ("llama.embedding_length", number("llama.embedding_length", 8), "expected [4, 8]"),
        (
            "llama.attention.head_count",
            number("llama.attention.head_count", 3),
            "not a multiple of 3",
        ),
        ("llama.attention.head_count", number("llama.attention.head_count", 4), "an even size"),
        (
            "llama.attention.head_count_kv",
            number("llama.attention.head_count_kv", 3),
            "do not divide",
        ),
        (
            "llama.attention.value_length",
            number("llama.attention.value_length", 7),
            "the size of a head, 2",
        ),
        (
            "llama.rope.dimension_count",
            number("llama.rope.dimension_count", 1),
            "the size of a head",
        ),
        (
            "llama.rope.scaling.type",
            text("llama.rope.scaling.type", "yarn"),
            "\"yarn\" is not supported",
        ),
        (
            "llama.rope.freq_base",
            float("llama.rope.freq_base", f32::NAN),
            "a finite number above zero",
        ),
        ("llama.rope.freq_base", float("llama.rope.freq_base", -1.0), "a finite number above zero"),
        (eps, float(eps, f32::INFINITY), "a finite number above zero"),
        (
            "tokenizer.ggml.model",
            text("tokenizer.ggml.model", "t5"),
            "tokenizer \"t5\" is not supported",
        ),
        ("tokenizer.ggml.model", text("tokenizer.ggml.model", "llama"), "scores is missing"),
        ("tokenizer.ggml.pre", text("tokenizer.ggml.pre", "bloom"), "\"bloom\" is not supported"),
        ("tokenizer.ggml.tokens", number("tokenizer.ggml.tokens", 1), "a list of texts"),
        ("tokenizer.ggml.tokens", list("tokenizer.ggml.tokens", &["a", "a"]), "twice"),
        ("tokenizer.ggml.tokens", list("tokenizer.ggml.tokens", &["a", ""]), "is empty"),
        ("tokenizer.ggml.tokens", list("tokenizer.ggml.tokens", &[]), "out of vocabulary"),
        ("tokenizer.ggml.token_type", kinds(&[1, 1]), "4 tokens and 2 kinds"),
        ("tokenizer.ggml.merges", list("tokenizer.ggml.merges", &["ab"]), "not two tokens"),
        ("tokenizer.ggml.merges", list("tokenizer.ggml.merges", &["a c"]), "out of vocabulary"),
        ("tokenizer.ggml.eos_token_id", number("tokenizer.ggml.eos_token_id", 4), "at most 3"),
        (
            "tokenizer.chat_template",
            text("tokenizer.chat_template", "{% for"),
            "chat template, line 1",
        ),
    ];
    for (key, entry, wanted) in cases {
        let mut entries = metadata();
        entries.retain(|(own, _)| *own != key);
        entries.push((key, entry));
        let message = refusal(&file(&entries, &tensors()));
        assert!(message.contains(wanted), "{key}: expected {wanted:?} in {message}");
    }
    let mut twice = metadata();
    twice.push(twice[1].clone());
    assert!(refusal(&file(&twice, &tensors())).contains("llama.block_count twice"));
}

#[test]
fn a_context_whose_rotary_tables_would_fill_the_memory_is_refused() {
    let with = |context| {
        let mut entries = metadata();
        entries.retain(|(own, _)| *own != "llama.context_length");
        for (key, value) in [
            ("llama.context_length", context),
            ("llama.attention.key_length", 64),
            ("llama.attention.value_length", 64),
        ] {
            entries.push((key, number_entry(key, value)));
        }
        refusal(&file(&entries, &tensors()))
    };
    let message = with(1 << 22);
    assert!(message.contains("rotary angles of 1024 MiB, at most 512 MiB"), "{message}");
    // Heads of 64 do not fit the tensors, which is looked at later.
    let message = with(1 << 21);
    assert!(!message.contains("rotary"), "{message}");
}

#[test]
fn missing_metadata_is_named() {
    let all = metadata();
    let without = |key: &str| {
        let rest: Vec<_> = all.iter().filter(|(own, _)| *own != key).cloned().collect();
        read_bytes(&file(&rest, &tensors()))
    };
    // Files from before this key are read by llama.cpp's default rules.
    let optional = ["tokenizer.ggml.pre", "tokenizer.ggml.eos_token_id"];
    for (key, _) in all.iter().filter(|(key, _)| !optional.contains(key)) {
        let message = without(key).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains("missing"), "{key}: {message}");
    }
    without("tokenizer.ggml.pre").unwrap();
}

/// Random damage to a good file: bytes changed, cut out, doubled. Reading ends, with a value or an error.
#[test]
fn damage_anywhere_gives_an_error_or_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let good = file(&metadata(), &tensors());
    let header = good.len() - 640;
    let change = (0..header, any::<u8>(), 0..4u8, 1..16usize, any::<u64>());
    fuzz::each("GGUF", 600, &proptest::collection::vec(change, 1..4), |changes| {
        let mut bytes = good.clone();
        for (at, byte, how, len, number) in changes {
            let at = at.min(bytes.len() - 1);
            let end = (at + len).min(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let number = number.to_le_bytes();
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number[..end - at]);
                }
            }
        }
        fs::write(&path, &bytes).unwrap();
        let _ = read_all(&path);
        Ok(())
    });
}
