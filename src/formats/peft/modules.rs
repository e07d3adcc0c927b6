//! Which modules a list or a pattern of PEFT means.

use tokenizers::utils::SysRegex;

/// Longer patterns are no module names.
const MAX_PATTERN_CHARS: usize = 10_000;

/// `target_modules` or `exclude_modules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modules {
    /// Every linear layer but the head.
    AllLinear,
    /// Names; a module's path equals one or ends with a dot and one.
    Names(Vec<String>),
    /// A regular expression that the whole path must match.
    Pattern(String),
}

impl Modules {
    /// Whether a module is meant. `Err`: the pattern is no regular expression.
    pub fn contains(&self, module: &str) -> Result<bool, String> {
        match self {
            Self::AllLinear => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| is_path_end(module, name))),
            Self::Pattern(pattern) => matches(&format!(r"\A(?:{pattern})\z"), module),
        }
    }
}

/// Whether `name` is the path of a module or its end after a dot.
pub(crate) fn is_path_end(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a key of `rank_pattern` or `alpha_pattern` means a module: the end of its path, or with `^` its beginning.
/// Both are regular expressions.
pub(super) fn is_pattern_of(key: &str, module: &str) -> Result<bool, String> {
    if key == module {
        return Ok(true);
    }
    let anchored = match key.strip_prefix('^') {
        Some(rest) => format!(r"\A(?:{rest})"),
        None => format!(r"\A(?:.*\.)?(?:{key})\z"),
    };
    matches(&anchored, module)
}

/// The engine gives up on patterns that would take too long, which counts as no match.
fn matches(pattern: &str, text: &str) -> Result<bool, String> {
    if pattern.chars().count() > MAX_PATTERN_CHARS {
        return Err(format!("the pattern is longer than {MAX_PATTERN_CHARS} characters"));
    }
    let regex = SysRegex::new(pattern).map_err(|error| error.to_string())?;
    Ok(regex.find_iter(text).next().is_some())
}

/// The shortest names that mean exactly `chosen` among all modules: the last parts of their paths where every block
/// has the same ones, else whole paths.
pub fn target_names<'a>(all: impl Iterator<Item = &'a str>, chosen: &[String]) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let mut names: Vec<String> = Vec::new();
    for path in chosen {
        let name = last(path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let meant = all.filter(|path| names.contains(&last(path))).count();
    if meant == chosen.len() { names } else { chosen.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q3: &str = "model.layers.3.self_attn.q_proj";

    fn names(list: &[&str]) -> Modules {
        Modules::Names(list.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn a_name_is_a_whole_path_or_its_end_after_a_dot() {
        for name in ["q_proj", "self_attn.q_proj", "layers.3.self_attn.q_proj", Q3] {
            assert_eq!(names(&[name]).contains(Q3), Ok(true), "{name}");
        }
        for name in ["proj", "_proj", "k_proj", "odel.layers.3.self_attn.q_proj", "self_attn", ""] {
            assert_eq!(names(&[name]).contains(Q3), Ok(false), "{name}");
        }
    }

    #[test]
    fn a_pattern_matches_whole_paths() {
        let is_meant = |pattern: &str| Modules::Pattern(pattern.into()).contains(Q3);
        assert_eq!(is_meant(r".*\.(q|v)_proj"), Ok(true));
        assert_eq!(is_meant(r".*layers\.[0-3]\..*q_proj"), Ok(true));
        assert_eq!(is_meant(r"model|.*q_proj"), Ok(true), "the alternatives are bracketed");
        assert_eq!(is_meant("q_proj"), Ok(false));
        assert_eq!(is_meant(".*q_pro"), Ok(false));
        assert!(is_meant("(q_proj").is_err());
        assert!(is_meant(&"a".repeat(20_000)).is_err());
    }

    #[test]
    fn a_pattern_that_would_never_end_is_given_up() {
        let hostile = Modules::Pattern(r"(?:(?:[a-z.0-9_]+)+)+\1?!".into());
        let _ = hostile.contains(&format!("{Q3}{}", "a".repeat(200)));
    }

    #[test]
    fn keys_of_rank_patterns_mean_ends_and_with_a_caret_beginnings() {
        assert_eq!(is_pattern_of("q_proj", Q3), Ok(true));
        assert_eq!(is_pattern_of(r"layers\.\d+\.self_attn\.q_proj", Q3), Ok(true));
        assert_eq!(is_pattern_of(r"^model\.layers\.3\.", Q3), Ok(true));
        assert_eq!(is_pattern_of(r"^layers", Q3), Ok(false));
        assert_eq!(is_pattern_of("proj", Q3), Ok(false));
        assert!(is_pattern_of("*", Q3).is_err());
    }

    #[test]
    fn names_are_short_where_all_blocks_agree() {
        let all = ["b.0.q", "b.0.k", "b.1.q", "b.1.k"];
        let of = |chosen: &[&str]| {
            target_names(all.iter().copied(), &chosen.iter().map(|&s| s.into()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["b.0.q", "b.1.q"]), ["q"]);
        assert_eq!(of(&all), ["q", "k"]);
        assert_eq!(of(&["b.1.q"]), ["b.1.q"]);
    }
}
