//! The tokenizer of single bytes.

use serde_json::{Map, Value, json};

use super::END_OF_TEXT;

/// `tokenizer.json` of the byte tokenizer: a byte-level BPE without merges.
pub(super) fn byte_level_json() -> Value {
    let mut vocab = Map::new();
    vocab.insert(END_OF_TEXT.to_owned(), json!(0));
    for byte in 0..=255_u8 {
        vocab.insert(byte_level_char(byte).to_string(), json!(u32::from(byte) + 1));
    }
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": 0, "content": END_OF_TEXT, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": [],
        },
    })
}

/// The printable character that stands for a byte in byte-level vocabularies: itself where it is
/// visible in Latin-1, else the next free one from U+0100 on.
/// Source: GPT-2's `bytes_to_unicode`.
fn byte_level_char(byte: u8) -> char {
    let is_visible = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|b| !is_visible(*b)).count() as u32;
    char::from_u32(0x100 + hidden_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}
