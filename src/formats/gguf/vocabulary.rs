//! A tokenizer as the metadata of a GGUF file: the other direction of `tokenizer.rs` and `spm.rs`.
//!
//! llama.cpp knows two kinds of BPE: byte-level with a named way of cutting, and SentencePiece's with
//! scores. What is neither is refused, because it would give other ids there.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::super::tokenizer::Tokenizer;
use super::tokenizer::{
    ADD_BOS, ADD_SPACE, BOS, EOS, MERGES, MODEL, PAD, PRE, SCORES, TOKENS, TYPES, UNKNOWN, kind,
};
use super::write::Entry;
use super::{pretokenizers, spm};
use crate::error::{Error, Result};

/// The entries of metadata for a tokenizer and a model with `rows` rows of the embedding.
///
/// Errors: [`Error::Config`] for a tokenizer that llama.cpp has no form of.
pub(super) fn entries(tokenizer: &Tokenizer, rows: usize) -> Result<Vec<(&'static str, Entry)>> {
    let json: Value = serde_json::from_slice(tokenizer.json())
        .map_err(|error| unsupported(&format!("its file is not JSON: {error}")))?;
    let model = json.get("model").and_then(Value::as_object).unwrap_or(&EMPTY);
    if model.get("type").and_then(Value::as_str) != Some("BPE") {
        let kind = model.get("type").and_then(Value::as_str).unwrap_or("of no kind");
        return Err(unsupported(&format!("it is {kind}, not BPE")));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty()) {
            return Err(unsupported(&format!("it has a {key}")));
        }
    }
    let is_spm = model.get("byte_fallback").and_then(Value::as_bool) == Some(true);
    let merges = merges(model)?;
    let (tokens, kinds) = tokens(&json, model, tokenizer.vocab_size().max(rows), is_spm);
    let mut entries = if is_spm {
        spm_entries(&json, &tokens, &merges)?
    } else {
        let pre = pre_tokenizer(&json, model, merges.is_empty())?;
        vec![
            (MODEL, Entry::Text("gpt2".into())),
            (PRE, Entry::Text(pre.into())),
            (MERGES, Entry::Texts(merges.iter().map(|(a, b)| format!("{a} {b}")).collect())),
        ]
    };
    let id_of = |name: &str| tokens.iter().position(|token| token == name).map(|id| id as u32);
    let config = tokenizer.config_object();
    let configured = |key: &str| {
        let value = config.get(key)?;
        id_of(value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?)
    };
    entries.push((TOKENS, Entry::Texts(tokens.clone())));
    entries.push((TYPES, Entry::I32s(kinds)));
    entries.extend(tokenizer.bos().map(|id| (BOS, Entry::U32(id))));
    entries.push((EOS, Entry::U32(tokenizer.eos())));
    entries.extend(configured("unk_token").map(|id| (UNKNOWN, Entry::U32(id))));
    entries.extend(configured("pad_token").map(|id| (PAD, Entry::U32(id))));
    entries.push((ADD_BOS, Entry::Bool(tokenizer.adds_bos())));
    Ok(entries)
}

static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

fn unsupported(why: &str) -> Error {
    Error::config(
        format!("the tokenizer cannot be written as GGUF: {why}"),
        "export the Hugging Face form (--format hf), which keeps any tokenizer",
    )
}

/// The merges in order, which files hold as `"a b"` or as `["a", "b"]`.
fn merges(model: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let list = model.get("merges").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let pairs = list.iter().map(|merge| match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
            _ => None,
        },
        _ => None,
    });
    pairs
        .map(|pair| match pair {
            Some((a, b)) if !a.contains(' ') && !b.contains(' ') => {
                Ok((a.to_owned(), b.to_owned()))
            }
            _ => Err(unsupported("a merge is not a pair of tokens without spaces")),
        })
        .collect()
}

/// The name of the way of cutting. Without merges there is nothing that a cut could keep apart.
fn pre_tokenizer(json: &Value, model: &Map<String, Value>, is_free: bool) -> Result<&'static str> {
    let normalizer = json.get("normalizer").filter(|value| !value.is_null());
    // llama.cpp normalises nothing; its own converter passes over NFC likewise.
    if let Some(other) = normalizer.filter(|value| value["type"] != "NFC") {
        let name = other["type"].as_str().unwrap_or("unknown");
        return Err(unsupported(&format!("it changes texts first ({name})")));
    }
    let found = pretokenizers::of_json(json.get("pre_tokenizer").unwrap_or(&Value::Null));
    match found {
        _ if is_free => Ok("gpt-2"),
        Some(pre) => {
            let ignores = model.get("ignore_merges").and_then(Value::as_bool) == Some(true);
            if ignores != pre.ignores_merges {
                return Err(unsupported("its ignore_merges is not that of its kind in llama.cpp"));
            }
            Ok(pre.name())
        }
        None => Err(unsupported(&format!(
            "it cuts texts in a way that has no name there; known are {}",
            pretokenizers::known_names()
        ))),
    }
}

/// All tokens by id, with their kinds; rows of the embedding without a token get a name of their own.
fn tokens(
    json: &Value,
    model: &Map<String, Value>,
    count: usize,
    is_spm: bool,
) -> (Vec<String>, Vec<i32>) {
    let mut by_id: BTreeMap<usize, (&str, i64)> = BTreeMap::new();
    let id = |value: &Value| value.as_u64().and_then(|id| usize::try_from(id).ok());
    let unknown = model.get("unk_token").and_then(Value::as_str);
    for (token, value) in model.get("vocab").and_then(Value::as_object).unwrap_or(&EMPTY) {
        let is_byte = is_spm && token.len() == 6 && token.starts_with("<0x");
        let kind = match token {
            _ if is_byte => kind::BYTE,
            token if Some(token.as_str()) == unknown => kind::UNKNOWN,
            _ => kind::NORMAL,
        };
        by_id.extend(id(value).map(|id| (id, (token.as_str(), kind))));
    }
    for added in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        if let (Some(id), Some(content)) = (id(&added["id"]), added["content"].as_str()) {
            let kind = match added["special"].as_bool() {
                _ if Some(content) == unknown => kind::UNKNOWN,
                Some(true) => kind::CONTROL,
                _ => kind::USER_DEFINED,
            };
            by_id.insert(id, (content, kind));
        }
    }
    (0..count)
        .map(|id| match by_id.get(&id) {
            Some((token, kind)) => ((*token).to_owned(), *kind as i32),
            None => (format!("[PAD{id}]"), kind::UNUSED as i32),
        })
        .unzip()
}

/// SentencePiece: a piece's score is the place of the first merge that makes it, counted down.
fn spm_entries(
    json: &Value,
    tokens: &[String],
    merges: &[(String, String)],
) -> Result<Vec<(&'static str, Entry)>> {
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (place, (left, right)) in merges.iter().enumerate() {
        rank.entry(format!("{left}{right}")).or_insert(place);
    }
    let last = merges.len();
    let score = |token: &String| -(rank.get(token).copied().unwrap_or(last) as f32);
    let scores = tokens.iter().map(score).collect();
    let missing = (0..=255u8).map(spm::byte_piece).find(|piece| !tokens.contains(piece));
    if let Some(piece) = missing {
        return Err(unsupported(&format!("its vocabulary has no {piece}")));
    }
    Ok(vec![
        (MODEL, Entry::Text("llama".into())),
        (PRE, Entry::Text("default".into())),
        (SCORES, Entry::F32s(scores)),
        (ADD_SPACE, Entry::Bool(adds_space(json)?)),
    ])
}

/// Whether a text gets a space before it; other rules than the two usual forms are refused.
fn adds_space(json: &Value) -> Result<bool> {
    let normalizer = &json["normalizer"];
    let steps: Vec<&Value> = match normalizer["normalizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None if normalizer.is_null() => Vec::new(),
        None => vec![normalizer],
    };
    let kinds: Vec<&str> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
    let pre = &json["pre_tokenizer"];
    match (kinds.as_slice(), pre["type"].as_str()) {
        (["Prepend", "Replace"], None) => Ok(true),
        (["Replace"], None) => Ok(false),
        ([], Some("Metaspace")) if pre["split"].as_bool() != Some(true) => {
            Ok(pre["prepend_scheme"].as_str() != Some("never"))
        }
        _ => Err(unsupported("it changes or cuts texts in a way that SentencePiece does not")),
    }
}
