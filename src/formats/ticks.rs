//! Bounds for chat templates, which are programs from the network: how often they go round, how long their texts get.
//!
//! The template's source gets a call of a function after every tag that opens a loop, a macro or a block of calls, and
//! after every tag that sets a variable, with what was set. The function counts, and measures. The calls are put where
//! they change no white space and no line's number.

use std::cell::Cell;

use minijinja::value::{Rest, Value};
use minijinja::{Environment, Error, ErrorKind};

/// Rounds of all loops and calls of macros together. A chat of 100,000 messages needs a tenth.
const MAX_ROUNDS: u32 = 2_000_000;
/// Bytes of a text, entries of a list.
const MAX_LEN: usize = 64 << 20;

/// The name of the function; a template that uses it itself only shortens its own time.
const FUNCTION: &str = "fullrank_tick";

thread_local! {
    static ROUNDS: Cell<u32> = const { Cell::new(0) };
}

/// Starts to count for a template that runs on this thread.
pub(super) fn begin() {
    ROUNDS.set(MAX_ROUNDS);
}

/// Gives an environment the function that counts.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_function(FUNCTION, |values: Rest<Value>| {
        let wrong = |what: &str| Error::new(ErrorKind::InvalidOperation, what.to_owned());
        let left = ROUNDS.get().checked_sub(1);
        ROUNDS.set(left.ok_or_else(|| wrong("the template goes round without end"))?);
        let is_long = |value: &Value| value.len().is_some_and(|len| len > MAX_LEN);
        if values.iter().any(is_long) {
            return Err(wrong("the template makes a text of more than 64 MiB"));
        }
        Ok(())
    });
}

/// The source with its calls.
pub(super) fn with_ticks(source: &str) -> String {
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map(|end| end + 2),
            Some(b'{') => end_of(tag, "}}"),
            Some(b'%') => end_of(tag, "%}"),
            _ => Some(1),
        };
        // What does not end is an error, which the template's own parser tells better.
        let (tag, after) = tag.split_at(end.unwrap_or(tag.len()));
        out.push_str(tag);
        rest = after;
        if let Some(statement) = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")) {
            if let Some(arguments) = counted(statement) {
                let close = statement.chars().next_back().filter(|c| "-+".contains(*c));
                let close = close.map_or_else(String::new, String::from);
                out.push_str(&format!("{{% set fullrank_ = {FUNCTION}({arguments}) {close}%}}"));
            } else if keyword(statement) == "raw" {
                let end = rest.find("endraw").unwrap_or(rest.len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
    }
    out + rest
}

/// The end of a tag, behind its mark; marks in texts do not count.
fn end_of(tag: &str, mark: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) => quote = (c != open).then_some(open),
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag[at..].starts_with(mark) => return Some(at + mark.len()),
            None => {}
        }
    }
    None
}

/// The first word of a statement.
fn keyword(statement: &str) -> &str {
    let statement = statement.trim_start_matches(['-', '+']).trim_start();
    statement.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("")
}

/// What to hand to the function behind a statement; `None`: the statement goes round nothing.
fn counted(statement: &str) -> Option<&str> {
    match keyword(statement) {
        "for" | "macro" | "call" => Some(""),
        "set" => {
            // `set a = …`, `set a, b = …`, `set a.b = …`; `set a` without a value opens a block.
            let (names, _) = statement.split_once('=')?;
            let names =
                names.trim_start_matches(['-', '+']).trim_start().strip_prefix("set")?.trim();
            let is_name = |c: char| c.is_alphanumeric() || "_., ".contains(c);
            names.chars().all(is_name).then_some(names)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_stand_behind_what_goes_round() {
        let tick = |source: &str| with_ticks(source).replace("fullrank_ = fullrank_tick", "_ = t");
        assert_eq!(tick("a{b}{{ '{%' }}{# {% for #}"), "a{b}{{ '{%' }}{# {% for #}");
        assert_eq!(
            tick("{% for x in y %}\n{% endfor %}"),
            "{% for x in y %}{% set _ = t() %}\n{% endfor %}"
        );
        assert_eq!(tick("{%- for x in '%}' -%} "), "{%- for x in '%}' -%}{% set _ = t() -%} ");
        assert_eq!(
            tick("{% set a.b = 1 %}{% set c %}"),
            "{% set a.b = 1 %}{% set _ = t(a.b) %}{% set c %}"
        );
        assert_eq!(tick("{% raw %}{% for %}{% endraw %}"), "{% raw %}{% for %}{% endraw %}");
        assert_eq!(tick("{% if x %}{% for"), "{% if x %}{% for");
    }

    fn render(source: &str) -> Result<String, Error> {
        let mut environment = Environment::new();
        install(&mut environment);
        environment.add_template_owned("t", with_ticks(source))?;
        begin();
        environment.get_template("t")?.render(())
    }

    #[test]
    fn templates_that_would_not_end_are_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert!(render(nested).unwrap_err().to_string().contains("without end"));
        let list =
            "{% for a in [1, 2, 3, 4, 5, 6, 7, 8] %}".repeat(12) + &"{% endfor %}".repeat(12);
        assert!(render(&list).unwrap_err().to_string().contains("without end"));
        let calls = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}";
        assert!(render(calls).unwrap_err().to_string().contains("without end"));
        let doubled = "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
        assert!(render(doubled).unwrap_err().to_string().contains("64 MiB"));
        assert_eq!(render("{% for a in range(3) %}{{ a }}{% endfor %}").unwrap(), "012");
    }
}
