//! `SentencePiece` vocabularies (`llama`: LLaMA 1 and 2, `TinyLlama`, Mistral) as BPE with merges.
//!
//! `SentencePiece` merges the neighbours whose joint piece has the highest score. A BPE does the same when
//! its merges are all ways of cutting a piece in two pieces, in the order of the pieces' scores. Source:
//! the conversion of transformers, whose fast tokenizers give the ids of `SentencePiece` that way.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::metadata::Metadata;
use super::tokenizer::{
    ADD_BOS, ADD_SPACE, SCORES, Vocabulary, added_tokens, kind, post_processor, vocab,
};
use crate::error::Result;

/// Stands for a space in pieces.
const SPACE: &str = "\u{2581}";
/// A piece is a word at most. Longer ones would make the search for merges quadratic in the file's size.
const MAX_PIECE_BYTES: usize = 128;

/// The `tokenizer.json` of a `SentencePiece` vocabulary.
pub(super) fn read(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Value> {
    let scores = match metadata.floats(SCORES)? {
        Some(scores) if scores.len() == vocabulary.tokens.len() => scores,
        Some(scores) => {
            let what =
                format!("has {} tokens and {} scores", vocabulary.tokens.len(), scores.len());
            return Err(metadata.wrong_file(what));
        }
        None => return Err(metadata.missing(SCORES)),
    };
    let position = |wanted| vocabulary.kinds.iter().position(|kind| *kind == wanted);
    let unknown = position(kind::UNKNOWN).map(|id| vocabulary.tokens[id].as_str());
    let known: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
    let missing = (0..=255u8).map(byte_piece).find(|piece| !known.contains(piece.as_str()));
    if let Some(piece) = missing {
        let what =
            format!("the SentencePiece vocabulary has no {piece}: it cannot express all texts");
        return Err(metadata.unsupported(what, "use the Hugging Face folder of the model"));
    }
    let adds_space = metadata.flag(ADD_SPACE)?.unwrap_or(true);
    let adds_bos = metadata.flag(ADD_BOS)?.unwrap_or(true);
    let mut normalizers = vec![json!({
        "type": "Replace", "pattern": {"String": " "}, "content": SPACE,
    })];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if adds_space {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(metadata, vocabulary)?,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": post_processor(metadata, adds_bos)?,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocab(vocabulary),
            "merges": merges(vocabulary, &scores),
        },
    }))
}

/// The piece that stands for a byte which no other piece has.
pub(super) fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// All ways of making a piece of two, best pieces first; ways of one piece by the ids of its parts.
fn merges(vocabulary: &Vocabulary, scores: &[f32]) -> Vec<Value> {
    let is_piece = |id: usize| {
        matches!(vocabulary.kinds[id], kind::NORMAL | kind::USER_DEFINED | kind::UNUSED)
    };
    let id_of: HashMap<&str, usize> = (vocabulary.tokens.iter().enumerate())
        .filter(|(id, _)| is_piece(*id))
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut found: Vec<(f32, usize, usize, usize)> = Vec::new();
    for (&piece, &id) in &id_of {
        if piece.len() > MAX_PIECE_BYTES || vocabulary.kinds[id] != kind::NORMAL {
            continue;
        }
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(&left), Some(&right)) = (id_of.get(left), id_of.get(right)) {
                found.push((scores[id], id, left, right));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let text = |id: usize| vocabulary.tokens[id].as_str();
    found.into_iter().map(|(_, _, left, right)| json!([text(left), text(right)])).collect()
}
