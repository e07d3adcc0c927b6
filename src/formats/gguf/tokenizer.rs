//! The tokenizer in a GGUF file as a `tokenizer.json`.
//!
//! Byte-level BPE (`gpt2`: tokens, merges and the name of the way of cutting) is turned into the same
//! rules for the `tokenizers` crate; `spm.rs` does the same for SentencePiece (`llama`). Other kinds are
//! refused by name: an approximation would train on other ids than the model knows.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::super::tokenizer::Tokenizer;
use super::metadata::Metadata;
use super::{pretokenizers, spm};
use crate::error::Result;

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
/// Ends a turn of a chat.
pub(super) const EOT: &str = "tokenizer.ggml.eot_token_id";
/// Ends a message.
pub(super) const EOM: &str = "tokenizer.ggml.eom_token_id";
pub(super) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
pub(super) const PAD: &str = "tokenizer.ggml.padding_token_id";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
pub(super) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Kinds of tokens.
pub(super) mod kind {
    pub const NORMAL: i64 = 1;
    pub const UNKNOWN: i64 = 2;
    pub const CONTROL: i64 = 3;
    pub const USER_DEFINED: i64 = 4;
    pub const UNUSED: i64 = 5;
    pub const BYTE: i64 = 6;
}

const CONVERT: &str = "use the Hugging Face folder of the model, which has its tokenizer.json";

/// The vocabulary of a file.
pub(super) struct Vocabulary<'a> {
    pub tokens: &'a [String],
    pub kinds: Vec<i64>,
}

/// The tokenizer of a file.
pub(super) fn read(metadata: &Metadata) -> Result<Tokenizer> {
    let vocabulary = vocabulary(metadata)?;
    let json = match metadata.text(MODEL)? {
        Some("gpt2") => byte_level(metadata, &vocabulary)?,
        Some("llama") => spm::read(metadata, &vocabulary)?,
        Some(other) => {
            let what = format!(
                "tokenizer \"{other}\" is not supported; supported: \"gpt2\" (byte-level BPE), \
                 \"llama\" (SentencePiece)"
            );
            return Err(metadata.unsupported(what, CONVERT));
        }
        None => return Err(metadata.missing(MODEL)),
    };
    Tokenizer::from_parts(metadata.path(), json.to_string().into_bytes(), config(metadata)?)
}

fn vocabulary<'a>(metadata: &Metadata<'a>) -> Result<Vocabulary<'a>> {
    let tokens = metadata.texts(TOKENS)?.ok_or_else(|| metadata.missing(TOKENS))?;
    let mut seen = HashSet::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if token.is_empty() {
            return Err(metadata.wrong_file(format!("{TOKENS}: token {id} is empty")));
        }
        if !seen.insert(token.as_str()) {
            return Err(metadata.wrong_file(format!("{TOKENS}: {token:?} is there twice")));
        }
    }
    let kinds = match metadata.integers(TYPES)? {
        Some(kinds) if kinds.len() == tokens.len() => kinds,
        Some(kinds) => {
            let what = format!("has {} tokens and {} kinds of tokens", tokens.len(), kinds.len());
            return Err(metadata.wrong_file(what));
        }
        None => vec![kind::NORMAL; tokens.len()],
    };
    Ok(Vocabulary { tokens, kinds })
}

/// The text of the special token in this key, if it is set.
pub(super) fn special_text(metadata: &Metadata, key: &str) -> Result<Option<String>> {
    let Some(tokens) = metadata.texts(TOKENS)? else { return Ok(None) };
    let id = metadata.number(key, tokens.len().saturating_sub(1))?;
    Ok(id.and_then(|id| tokens.get(id).cloned()))
}

fn byte_level(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Value> {
    // Files from before the key, which llama.cpp reads by its default rules.
    let name = metadata.text(PRE)?.unwrap_or("default");
    let Some(pre) = pretokenizers::named(name) else {
        let what = format!(
            "{PRE} \"{name}\" is not supported; supported: {}",
            pretokenizers::known_names()
        );
        return Err(metadata.unsupported(what, CONVERT));
    };
    let merges = metadata.texts(MERGES)?.ok_or_else(|| metadata.missing(MERGES))?;
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                pairs.push(json!([left, right]));
            }
            _ => {
                let what = format!("{MERGES}: {merge:?} is not two tokens with a space between");
                return Err(metadata.wrong_file(what));
            }
        }
    }
    let adds_bos = metadata.flag(ADD_BOS)?.unwrap_or(pre.adds_bos);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(metadata, vocabulary)?,
        "normalizer": null,
        "pre_tokenizer": pretokenizers::to_json(pre),
        "post_processor": post_processor(metadata, adds_bos)?,
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignores_merges, "vocab": vocab(vocabulary), "merges": pairs,
        },
    }))
}

pub(super) fn vocab(vocabulary: &Vocabulary) -> Map<String, Value> {
    let tokens = vocabulary.tokens.iter().enumerate();
    tokens.map(|(id, token)| (token.clone(), json!(id))).collect()
}

/// Tokens that are recognised as they stand in a text: those of control, and those that users defined.
pub(super) fn added_tokens(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Vec<Value>> {
    let last = vocabulary.tokens.len().saturating_sub(1);
    let mut special: Vec<usize> = Vec::new();
    for key in [BOS, EOS, EOT, EOM] {
        special.extend(metadata.number(key, last)?);
    }
    let tokens = vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate();
    let added = tokens.filter_map(|(id, (token, &kind))| {
        let is_special = kind == kind::CONTROL || special.contains(&id);
        (is_special || kind == kind::USER_DEFINED).then(|| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": is_special,
            })
        })
    });
    Ok(added.collect())
}

/// The rule that puts the first token before a text.
pub(super) fn post_processor(metadata: &Metadata, adds_bos: bool) -> Result<Value> {
    let Some(bos) = special_text(metadata, BOS)?.filter(|_| adds_bos) else {
        return Ok(Value::Null);
    };
    let id = metadata.number(BOS, usize::MAX)?;
    let first = json!({"SpecialToken": {"id": bos, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [first, text("A")],
        "pair": [first, text("A"), first, text("B")],
        "special_tokens": { bos.clone(): {"id": bos, "ids": [id], "tokens": [bos]} },
    }))
}

/// A `tokenizer_config.json`.
fn config(metadata: &Metadata) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    for (key, id) in
        [("bos_token", BOS), ("eos_token", EOS), ("unk_token", UNKNOWN), ("pad_token", PAD)]
    {
        if let Some(text) = special_text(metadata, id)? {
            config.insert(key.into(), json!(text));
        }
    }
    config.insert("add_prefix_space".into(), json!(false));
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    if let Some(template) = metadata.text(CHAT_TEMPLATE)? {
        config.insert("chat_template".into(), json!(template));
    }
    Ok(config)
}
