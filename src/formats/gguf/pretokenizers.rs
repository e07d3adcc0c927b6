//! The ways of cutting a text before byte-level BPE: GGUF says a name, `tokenizer.json` the rules.
//!
//! Source: the names and rules of llama.cpp's vocabulary; the rules in the form of the `tokenizers` crate.

use serde_json::{Value, json};

/// One rule; all apply in turn, each to what the one before left in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Every digit is a piece of its own.
    Digits,
    /// What the expression matches is a piece, and so is what lies between.
    Split(&'static str),
    /// GPT-2's own expression.
    Gpt2,
}

/// A way of cutting.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// Its names in GGUF files; the first is the one that is written.
    pub names: &'static [&'static str],
    /// A piece that is a token needs no merges.
    pub ignores_merges: bool,
    /// Whether a text begins with the first token where the file does not say.
    pub adds_bos: bool,
    steps: &'static [Step],
}

impl PreTokenizer {
    /// The name that is written.
    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

static ALL: [PreTokenizer; 5] = [
    PreTokenizer {
        names: &["gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-code", "roberta-bpe", "gigachat"],
        ignores_merges: false,
        adds_bos: false,
        steps: &[Step::Gpt2],
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        ignores_merges: false,
        adds_bos: false,
        steps: &[Step::Digits, Step::Gpt2],
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        ignores_merges: true,
        adds_bos: true,
        steps: &[Step::Split(LLAMA3)],
    },
    PreTokenizer {
        names: &["qwen2", "stablelm2", "megrez"],
        ignores_merges: false,
        adds_bos: false,
        steps: &[Step::Split(QWEN2)],
    },
    PreTokenizer {
        names: &["default"],
        ignores_merges: false,
        adds_bos: false,
        steps: &[
            Step::Split(r"[\p{P}\$\+<=>\^~\|]+"),
            Step::Split(GPT2),
            Step::Split(r"\p{N}+"),
            Step::Split("[0-9][0-9][0-9]"),
        ],
    },
];

/// Finds a way of cutting by one of its names.
pub(super) fn named(name: &str) -> Option<&'static PreTokenizer> {
    ALL.iter().find(|pre| pre.names.contains(&name))
}

/// The names that are known, for messages.
pub(super) fn known_names() -> String {
    ALL.iter().flat_map(|pre| pre.names).copied().collect::<Vec<_>>().join(", ")
}

/// The `pre_tokenizer` of a `tokenizer.json`.
pub(super) fn to_json(pre: &PreTokenizer) -> Value {
    let byte_level = |use_regex: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": use_regex,
        })
    };
    let mut steps: Vec<Value> = Vec::new();
    for step in pre.steps {
        steps.push(match step {
            Step::Digits => json!({"type": "Digits", "individual_digits": true}),
            Step::Split(pattern) => json!({
                "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                "invert": false,
            }),
            Step::Gpt2 => byte_level(true),
        });
    }
    if pre.steps.last() != Some(&Step::Gpt2) {
        steps.push(byte_level(false));
    }
    match steps.as_slice() {
        [only] => only.clone(),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    }
}

/// The way of cutting that a `pre_tokenizer` of a `tokenizer.json` describes, if it has a name.
pub(super) fn of_json(value: &Value) -> Option<&'static PreTokenizer> {
    let parts: Vec<&Value> = match value.get("pretokenizers") {
        Some(Value::Array(parts)) => parts.iter().collect(),
        _ => vec![value],
    };
    let mut steps: Vec<Found> = Vec::new();
    for part in parts {
        let flag = |key: &str, absent: bool| part.get(key).map_or(Some(absent), Value::as_bool);
        match part.get("type").and_then(Value::as_str)? {
            "Digits" if flag("individual_digits", false)? => steps.push(Found::Digits),
            "ByteLevel" if !flag("add_prefix_space", true)? => {
                if flag("use_regex", true)? {
                    steps.push(Found::Gpt2);
                }
            }
            "Split" if !flag("invert", false)? && part.get("behavior")? == "Isolated" => {
                steps.push(Found::Split(part.get("pattern")?.get("Regex")?.as_str()?.to_owned()));
            }
            _ => return None,
        }
    }
    let is_same = |(found, step): (&Found, &Step)| match (found, step) {
        (Found::Digits, Step::Digits) | (Found::Gpt2, Step::Gpt2) => true,
        (Found::Split(pattern), Step::Split(known)) => {
            pattern == known || pattern == &spelled_out(known)
        }
        _ => false,
    };
    ALL.iter()
        .find(|pre| pre.steps.len() == steps.len() && steps.iter().zip(pre.steps).all(is_same))
}

/// A step of a file.
#[derive(Debug)]
enum Found {
    Digits,
    Split(String),
    Gpt2,
}

/// The contractions without the flag that ignores case, as some files have them.
fn spelled_out(pattern: &str) -> String {
    pattern.replace(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_cutting_is_recognised_again() {
        for pre in &ALL {
            let found = of_json(&to_json(pre)).unwrap();
            assert_eq!(found.name(), pre.name());
        }
    }

    #[test]
    fn rules_without_a_name_are_not_taken_for_another() {
        for rules in [
            json!({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}),
            json!({"type": "Whitespace"}),
            json!({"type": "Digits", "individual_digits": true}),
            json!(null),
        ] {
            assert!(of_json(&rules).is_none(), "{rules}");
        }
    }
}
