//! Bounds for chat templates, which are programs from the network: how often they go round, how long their texts get.
//!
//! The template's source gets a call of a function after every tag that gives names values (loops, macros, blocks of
//! calls, `set`, `with`), with those values, and after every tag that text follows, with its length. The function
//! counts, and measures (`budget`). The calls are put where they change no white space and no line's number. Filters
//! that make much of little look first (`filters`), and both sides of a `*` must be numbers, or one written out.
//!
//! Hence a value is measured before a second operation can enlarge it, but for the few of one tag.

mod budget;
mod filters;
mod objects;

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::value::{Rest, Value};
use minijinja::{Environment, Error, ErrorKind};

pub(super) use budget::begin;
use budget::{fits, made, measure, round};

/// The name of the function; a template that uses it itself only shortens its own time.
const FUNCTION: &str = "fullrank_tick";
/// Operators of one tag: as many values may live at once before one is measured.
const MAX_OPERATORS: usize = 256;
/// Commas of one tag: minijinja stops the program at a call with 65,536 arguments.
const MAX_COMMAS: usize = 1 << 15;

/// Gives an environment the function that counts, and filters within bounds.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_function(FUNCTION, |written: usize, values: Rest<Value>| {
        round(1)?;
        made(written)?;
        values.iter().try_for_each(|value| fits(Some(measure(value)?)))
    });
    budget::install(environment);
    filters::install(environment);
    objects::install(environment);
}

/// The source with its calls.
///
/// Errors: a tag with more operators than any template has, or a product of what cannot be told.
pub(super) fn with_ticks(source: &str) -> Result<String, Error> {
    let mut ticked = Ticked::default();
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        ticked.write(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map(|end| end + 2),
            Some(b'{') => end_of(tag, "}}"),
            Some(b'%') => end_of(tag, "%}"),
            _ => Some(1),
        };
        // What does not end is an error, which the template's own parser tells better.
        let (tag, after) = tag.split_at(end.unwrap_or(tag.len()));
        rest = after;
        let statement = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}"));
        let Some(statement) = statement else {
            match tag {
                "{" => ticked.write(tag),
                tag if tag.starts_with("{#") => ticked.segment.push_str(tag),
                tag => ticked.segment.push_str(&objects::ordered(&guarded(tag)?)),
            }
            continue;
        };
        if keyword(statement) == "raw" {
            let (raw, after) = rest.split_at(end_of_raw(rest));
            ticked.write(tag);
            ticked.write(raw);
            rest = after;
            continue;
        }
        ticked.finish();
        // Marks of transformers for what the assistant says, which Jinja itself does not know.
        match keyword(statement) {
            "generation" => ticked.out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => ticked.out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => ticked.out.push_str(&objects::ordered(&guarded(tag)?)),
        }
        ticked.after(statement);
    }
    ticked.write(rest);
    ticked.finish();
    Ok(ticked.out)
}

/// What is written of a source, up to the last statement and from there.
#[derive(Default)]
struct Ticked<'a> {
    out: String,
    /// The call that belongs behind the last statement: whether it is needed, its values, its closing mark.
    call: Option<(bool, Vec<&'a str>, Option<char>)>,
    /// The names of blocks that are set and not yet ended.
    blocks: Vec<Vec<&'a str>>,
    /// What stands behind the last statement, and how much of it is text.
    segment: String,
    text: usize,
}

impl<'a> Ticked<'a> {
    fn write(&mut self, text: &str) {
        self.segment.push_str(text);
        self.text += text.len();
    }

    /// Notes what to call behind a statement.
    fn after(&mut self, statement: &'a str) {
        let mut names = names(statement);
        let mut is_needed = matches!(keyword(statement), "for" | "macro" | "call" | "set" | "with");
        match keyword(statement) {
            "set" if !is_assignment(statement) => {
                self.blocks.push(std::mem::take(&mut names));
                is_needed = false;
            }
            "endset" => {
                names = self.blocks.pop().unwrap_or_default();
                is_needed = true;
            }
            _ => {}
        }
        let close = statement.chars().next_back().filter(|c| "-+".contains(*c));
        self.call = Some((is_needed, names, close));
    }

    /// Writes the call behind the last statement, with the text that is known now to follow it.
    fn finish(&mut self) {
        let text = std::mem::take(&mut self.text);
        if let Some((is_needed, names, close)) = self.call.take()
            && (is_needed || text > 0)
        {
            let close = close.map_or_else(String::new, String::from);
            let mut values = text.to_string();
            for name in names {
                values.push_str(", ");
                values.push_str(name);
            }
            let _ = write!(self.out, "{{% set fullrank_ = {FUNCTION}({values}) {close}%}}");
        }
        self.out.push_str(&std::mem::take(&mut self.segment));
    }
}

/// The characters outside texts, with their places.
fn unquoted(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    let mut is_escaped = false;
    text.char_indices().filter(move |(_, c)| match quote {
        Some(open) => {
            if is_escaped {
                is_escaped = false;
            } else if *c == '\\' {
                is_escaped = true;
            } else if *c == open {
                quote = None;
            }
            false
        }
        None if "\"'".contains(*c) => {
            quote = Some(*c);
            false
        }
        None => true,
    })
}

/// The end of a tag, behind its mark; marks in texts do not count, nor those that close objects.
fn end_of(tag: &str, mark: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in unquoted(tag).skip(2) {
        match c {
            _ if depth == 0 && tag[at..].starts_with(mark) => return Some(at + mark.len()),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Where a raw part ends, behind its closing tag.
fn end_of_raw(text: &str) -> usize {
    let mut tags = text.match_indices("{%").map(|(at, _)| at);
    tags.find(|at| keyword(&text[at + 2..]) == "endraw")
        .and_then(|at| Some(at + text[at..].find("%}")? + 2))
        .unwrap_or(text.len())
}

/// The end of what a bracket at the beginning opens, behind its closing bracket.
fn end_of_bracket(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in unquoted(text) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 1 => return Some(at + 1),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// A tag with its products guarded: `a * b` repeats a text or a list as often as the other side says, so both
/// sides must be numbers, or the right one written out.
fn guarded(tag: &str) -> Result<Cow<'_, str>, Error> {
    let refused = |what: &str| Error::new(ErrorKind::SyntaxError, what.to_owned());
    let outside: Vec<(usize, char)> = unquoted(tag).collect();
    if outside.iter().filter(|(_, c)| "~+*|".contains(*c)).count() > MAX_OPERATORS {
        return Err(refused("the template has a tag with more than 256 operators"));
    }
    if outside.iter().filter(|(_, c)| *c == ',').count() > MAX_COMMAS {
        return Err(refused("the template has a tag with more than 32,768 commas"));
    }
    let is_star = |at: usize| tag.as_bytes().get(at) == Some(&b'*');
    let products: Vec<usize> = outside
        .iter()
        .filter(|(at, c)| *c == '*' && !is_star(at + 1) && !(*at > 0 && is_star(at - 1)))
        // `f(*list)`
        .filter(|(at, _)| !tag[..*at].trim_end().ends_with(['(', ',']))
        .map(|(at, _)| *at)
        .collect();
    if products.is_empty() {
        return Ok(Cow::Borrowed(tag));
    }
    let mut inserts = Vec::new();
    for at in &products {
        let (start, end) = operand(tag, at + 1).ok_or_else(|| {
            refused("the template multiplies by what cannot be told to be a number")
        })?;
        let times = tag[start..end].parse::<usize>().ok().filter(|_| products.len() == 1);
        let left = tag[..*at].trim_end().len();
        if let Some(times) = times {
            inserts.push((left, format!("|{}({times})", filters::REPEATED)));
        } else {
            inserts.push((left, format!("|{}", filters::NUMBER)));
            inserts.push((end, format!("|{}", filters::NUMBER)));
        }
    }
    inserts.sort_by_key(|(at, _)| *at);
    let mut out = String::with_capacity(tag.len() * 2);
    let mut from = 0;
    for (at, text) in inserts {
        out.push_str(&tag[from..at]);
        out.push_str(&text);
        from = at;
    }
    Ok(Cow::Owned(out + &tag[from..]))
}

/// Where the operand behind a place starts and ends: a number, a name or brackets, with what is taken of it.
fn operand(tag: &str, from: usize) -> Option<(usize, usize)> {
    let start = tag.len() - tag[from..].trim_start().len();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let word = |from: usize| tag[from..].find(|c| !is_name(c)).map_or(tag.len(), |end| from + end);
    let mut end = match tag[start..].chars().next()? {
        '(' => start + end_of_bracket(&tag[start..])?,
        c if is_name(c) => word(start),
        _ => return None,
    };
    loop {
        end = match tag[end..].chars().next() {
            Some('.') => word(end + 1),
            Some('(' | '[') => end + end_of_bracket(&tag[end..])?,
            _ => return Some((start, end)),
        };
    }
}

/// The first word of a statement, and what follows it.
fn split_keyword(statement: &str) -> (&str, &str) {
    let statement = statement.trim_start_matches(['-', '+']).trim_start();
    let end = statement.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(statement.len());
    statement.split_at(end)
}

/// The first word of a statement.
fn keyword(statement: &str) -> &str {
    split_keyword(statement).0
}

/// What stands before the `=` of `set a = …`, `set a, (b, c) = …`, `set a.b = …`; of `set a` and `set a | filter`,
/// which open a block, all of the names.
fn set_names(rest: &str) -> (&str, bool) {
    let is_name = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.,()".contains(c);
    let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
    (&rest[..end], rest[end..].starts_with('='))
}

fn is_assignment(statement: &str) -> bool {
    set_names(split_keyword(statement).1).1
}

/// The names to which a statement gives values.
fn names(statement: &str) -> Vec<&str> {
    let words = |text| {
        let is_name = |c: char| c.is_alphanumeric() || "_.".contains(c);
        str::split(text, move |c| !is_name(c))
            .filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'))
    };
    let (keyword, rest) = split_keyword(statement);
    let brackets = |text| {
        let text: &str = text;
        let end = end_of_bracket(text).filter(|_| text.starts_with('('))?;
        text.get(1..end - 1)
    };
    let parameters = match keyword {
        "set" => return words(set_names(rest).0).collect(),
        "for" => return words(rest).take_while(|word| *word != "in").collect(),
        "macro" => rest.find('(').and_then(|at| brackets(&rest[at..])),
        "call" => brackets(rest.trim_start()),
        "with" => Some(rest),
        _ => None,
    };
    let Some(parameters) = parameters else { return Vec::new() };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut from = Some(0);
    for (at, c) in unquoted(parameters).chain([(parameters.len(), ',')]) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' | '=' if depth == 0 => {
                // Behind the `=` stands the value.
                if let Some(from) = from.take() {
                    names.extend(words(&parameters[from..at]));
                }
                if c == ',' {
                    from = Some(at + 1);
                }
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_stand_behind_what_goes_round() {
        let tick = |source: &str| {
            with_ticks(source).unwrap().replace("fullrank_ = fullrank_tick", "_ = t")
        };
        assert_eq!(tick("a{b}{{ '{%' }}{# {% for #}"), "a{b}{{ '{%' }}{# {% for #}");
        assert_eq!(
            tick("{% for x in y %}\n{% endfor %}"),
            "{% for x in y %}{% set _ = t(1, x) %}\n{% endfor %}"
        );
        assert_eq!(tick("{%- for x in '%}' -%} "), "{%- for x in '%}' -%}{% set _ = t(1, x) -%} ");
        assert_eq!(
            tick("{% set a.b = 1 %}{% set c %}{{ d }}ef{% endset %}"),
            "{% set a.b = 1 %}{% set _ = t(0, a.b) %}{% set c %}{% set _ = t(2) %}{{ d }}ef{% endset %}{% set _ = t(0, c) %}"
        );
        assert_eq!(
            tick("{% macro f(a, b=g(1, '='), c=2) %}{% with (d, e) = [a, b], g = {'h': c} %}"),
            "{% macro f(a, b=g(1, '='), c=2) %}{% set _ = t(0, a, b, c) %}\
             {% with (d, e) = [a, b], g = fullrank_object(['h', c]) %}{% set _ = t(0, d, e, g) %}"
        );
        assert_eq!(tick("{% call(a) f(b) %}"), "{% call(a) f(b) %}{% set _ = t(0, a) %}");
        assert_eq!(
            tick("{% for a, (b, c) in d.e %}"),
            "{% for a, (b, c) in d.e %}{% set _ = t(0, a, b, c) %}"
        );
        assert_eq!(tick("{% raw %}{% for %}{% endraw %}"), "{% raw %}{% for %}{% endraw %}");
        assert_eq!(tick("{% if x %}{% for"), "{% if x %}{% for");
        assert_eq!(
            tick("{%- generation %}a{% endgeneration -%}"),
            "{%- if true %}{% set _ = t(1) %}a{% endif -%}"
        );
        assert_eq!(
            tick("{{ {'a': {'b': 1}} }}}} c"),
            "{{ fullrank_object(['a', fullrank_object(['b', 1])]) }}}} c"
        );
    }

    pub(super) fn render(source: &str) -> Result<String, Error> {
        let mut environment = Environment::new();
        install(&mut environment);
        environment.add_template_owned("t", with_ticks(source)?)?;
        begin(source.len());
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
        assert!(render(doubled).unwrap_err().to_string().contains("a text of more than"));
        assert_eq!(render("{% for a in range(3) %}{{ a }}{% endfor %}").unwrap(), "012");
    }

    #[test]
    fn a_call_with_more_arguments_than_there_can_be_is_refused() {
        let source = format!("{{{{ range({}) }}}}", "1,".repeat(70_000));
        assert!(render(&source).unwrap_err().to_string().contains("commas"));
        let list = format!("{{{{ [{}] | length }}}}", "1,".repeat(9_000));
        assert_eq!(render(&list).unwrap(), "9000");
    }

    #[test]
    fn products_of_numbers_and_of_what_is_written_out_are_left() {
        assert_eq!(render("{{ '=' * 20 }}{{ [1] * 2 }}").unwrap(), "=".repeat(20) + "[1, 1]");
        let source = "{% set a = {'b': [3]} %}{{ (a.b[0] + 1) * a['b'][0] * 2 ** 2 - 1 * (1 + 1) }}{{ 'a * b' }}";
        assert_eq!(render(source).unwrap(), "46a * b");
        assert_eq!(render("{% macro f(a) %}{{ a * 2 }}{% endmacro %}{{ f(*[4]) }}").unwrap(), "8");
    }

    #[test]
    fn texts_that_would_fill_the_memory_are_not_made() {
        let kib = "x".repeat(1024);
        let set = format!("{{% set x = '{kib}' %}}");
        let by_macro = "{% macro f(x, n) %}{% if n %}{{ f(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ f('abcd', 40) }}";
        let sources = [
            format!("{{% set x %}}{kib}{{% endset %}}")
                + &"{% set x %}{{x}}{{x}}{% endset %}".repeat(20),
            set.clone() + &"{% set x | upper %}{{x}}{{x}}{% endset %}".repeat(20),
            set.clone() + &"{% with x = x ~ x %}".repeat(20) + &"{% endwith %}".repeat(20),
            set.clone() + &"{% for x in [x ~ x] %}".repeat(20) + &"{% endfor %}".repeat(20),
            set.clone() + &"{% set x = [x[0] ~ x[0]] if x is not string else [x] %}".repeat(20),
            set.clone() + &"{% set x = [x, x] %}".repeat(40) + "{{ x | string | length }}",
            set.clone() + &"{% set (x, y) = (x ~ x, 1) %}".repeat(20),
            set.clone() + "{% set y %}{% for a in range(99999) %}{{ x }}{% endfor %}{% endset %}",
            format!("{{% set y %}}{{% for a in range(99999) %}}{kib}{{% endfor %}}{{% endset %}}"),
            format!(
                "{{% set y %}}{{% for a in range(99999) %}}{{% raw %}}{kib}{{% endraw %}}{{% endfor %}}{{% endset %}}"
            ),
            format!(
                "{{% filter upper %}}{{% for a in range(99999) %}}{{% if a %}}{kib}{{% endif %}}{{% endfor %}}{{% endfilter %}}"
            ),
            set.clone() + "{% set y = " + &["x"; 300].join("~") + " %}",
            by_macro.into(),
            "{{ 'a\nb' | indent(800000000) }}".into(),
            "{{ 'a\nb' | indent(width=800000000) }}".into(),
            "{% filter indent(800000000) %}a\nb{% endfilter %}".into(),
            "{{ '%500000000d' | format(1) }}".into(),
            "{{ '%*d' | format(500000000, 1) }}".into(),
            "{{ '{:500000000}'.format(1) }}".into(),
            "{{ '{0:>99999}'.format(1) }}".replace("{0:>99999}", &"{0:>99999}".repeat(100)),
            set.clone() + "{{ range(99999) | join(x) }}{{ range(99999) | join(d=x) }}",
            set.clone() + "{{ x.join(range(99999)) }}",
            set.clone() + "{% set x = x * 100 %}{{ x | replace('x', x) }}",
            set.clone() + "{% set x = x * 100 %}{{ x.replace('x', x) }}",
            set.clone() + "{% set x = x * 100 %}{{ x.replace('', x) }}",
            set.clone() + &"{% set x = x | pprint %}".repeat(40),
            "{{ ('a' * 90000000) | length }}".into(),
            "{{ ((0,) * 90000000) | length }}".into(),
            "{{ ([0] * 90000000) | list | length }}".into(),
            "{% set n = 90000000 %}{{ ('a' * n) | length }}{{ (n * 'a') | length }}".into(),
            "{{ (90000000 * 'a') | length }}".into(),
            "{{ ('a' * 999 * 999 * 90) | length }}".into(),
            "{{ [1] | batch(90000000, 0) | length }}".into(),
            "{{ [1] | slice(90000000) | length }}".into(),
            "{% set ns = namespace() %}{% set ns.a = ns %}".into(),
        ];
        for source in sources {
            let shown: String = source.replace(&kib, "<KiB>").chars().take(120).collect();
            let error = render(&source).map(|text| text.len()).expect_err(&shown).to_string();
            assert!(error.contains("the template"), "{shown}: {error}");
        }
    }

    #[test]
    fn what_the_filters_do_is_as_before() {
        let source = "{{ 'a\nb' | indent }}|{{ 'a\nb' | indent(1, true) }}|{{ 'a\nb' | indent(width=2, first=true) }}|\
            {{ 'aXb' | replace('X', '--') }}|{{ [1, 'b'] | join(', ') }}|{{ [{'a': 1}, {'a': 2}] | join('+', attribute='a') }}|\
            {{ 'abc' | join(d='.') }}|{{ '%5.1f|%s' | format(1.25, 'x') }}|{{ '{:>4}{a}'.format(7, a=8) }}|\
            {{ [1, 2, 3] | batch(2, 0) }}|{{ [1, 2, 3] | slice(2) }}|{{ 1 | string }}{{ 'x' | string }}|{{ '-'.join(['a', 'b']) }}";
        assert_eq!(
            render(source).unwrap(),
            "a\n    b| a\n b|  a\n  b|a--b|1, b|1+2|a.b.c|  1.2|x|   78|[[1, 2], [3, 0]]|[[1, 2], [3]]|1x|a-b"
        );
    }
}
