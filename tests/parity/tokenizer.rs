//! A real tokenizer: ids and texts of the tokenizers library.

use fullrank::device::Device;
use fullrank::formats::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::Path;

pub fn check(path: &Path, _: &Device) {
    let tokenizer = Tokenizer::from_file(path.join("tokenizer.json")).unwrap();
    let text = std::fs::read_to_string(path.join("cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let cases = cases.as_array().or_else(|| cases["cases"].as_array()).unwrap().clone();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded"].as_str().unwrap());
    }
}
