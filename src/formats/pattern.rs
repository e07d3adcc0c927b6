//! Regular expressions that users type, in upper or lower case alike.
//!
//! They are those of the `tokenizers` crate, which brings an engine for the rules of its own files.

use std::fmt;
use std::sync::Arc;

use tokenizers::utils::SysRegex;

/// A regular expression that was read.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Arc<SysRegex>,
}

impl Pattern {
    /// Reads one.
    ///
    /// Errors: in words, what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let regex = SysRegex::new(&format!("(?i){text}"))
            .map_err(|error| format!("/{text}/ is no regular expression: {error}"))?;
        Ok(Self { text: text.to_owned(), regex: Arc::new(regex) })
    }

    /// Whether it matches somewhere in a text. An expression that gives up on a text does not.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.find_iter(text).next().is_some()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "/{}/", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_anywhere_in_any_case_and_a_wrong_one_is_named() {
        let pattern = Pattern::parse("^swl-r(64|128)-s[0-9]$").unwrap();
        assert!(pattern.matches("SWL-r128-s1") && !pattern.matches("swl-r32-s1"));
        assert!(Pattern::parse("b|c").unwrap().matches("abd"));
        assert!(Pattern::parse("").unwrap().matches("anything"));
        let error = Pattern::parse("(a").unwrap_err();
        assert!(error.contains("/(a/ is no regular expression"), "{error}");
        // An engine that went through all ways to fail would take for ever.
        assert!(!Pattern::parse("(a|aa)+$").unwrap().matches(&format!("{}b", "a".repeat(200))));
        assert!(!Pattern::parse("(?=(a+)+$)x").unwrap().matches(&"a".repeat(60)));
    }
}
