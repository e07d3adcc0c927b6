//! Objects that a template writes out keep their order, as in Python; minijinja itself sorts their keys.
//!
//! `{'b': 1, 'a': 2}` becomes `fullrank_object(['b', 1, 'a', 2])`, which takes no more lines.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, Value};
use minijinja::{Environment, Error};

use super::budget::wrong;
use super::unquoted;

/// The name of the function.
const FUNCTION: &str = "fullrank_object";

/// Gives an environment the function.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_function(FUNCTION, |entries: Vec<Value>| {
        let mut object = Ordered::default();
        for pair in entries.chunks(2) {
            let [key, value] = pair else {
                return Err(wrong("the template writes an object with a key and no value"));
            };
            object.insert(key, value);
        }
        Ok::<_, Error>(Value::from_object(object))
    });
}

/// An object with its entries in the order in which they came; of a key that comes twice the later value, as in Python.
#[derive(Debug, Default)]
struct Ordered {
    entries: Vec<(Value, Value)>,
    places: BTreeMap<Value, usize>,
}

impl Ordered {
    fn insert(&mut self, key: &Value, value: &Value) {
        if let Some(&place) = self.places.get(key) {
            self.entries[place].1 = value.clone();
        } else {
            self.places.insert(key.clone(), self.entries.len());
            self.entries.push((key.clone(), value.clone()));
        }
    }
}

impl Object for Ordered {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.places.get(key).map(|&place| self.entries[place].1.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.entries.iter().map(|(key, _)| key.clone()).collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// A bracket that is open.
struct Open {
    bracket: char,
    /// Of an object: behind its last comma, or behind the colon after it.
    is_value: bool,
    /// Where its last entry begins.
    from: usize,
}

/// A tag with its objects as calls. One whose objects are not whole is left to the template's own parser, which tells
/// what is wrong.
pub(super) fn ordered(tag: &str) -> Cow<'_, str> {
    if !tag.get(2..).is_some_and(|inside| inside.contains('{')) {
        return Cow::Borrowed(tag);
    }
    replacements(tag).map_or(Cow::Borrowed(tag), |mut replacements| {
        replacements.sort_by_key(|(at, _)| *at);
        let mut out = String::with_capacity(tag.len() * 2);
        let mut from = 0;
        for (at, text) in replacements {
            out.push_str(&tag[from..at]);
            out.push_str(text);
            from = at + 1;
        }
        Cow::Owned(out + &tag[from..])
    })
}

/// What stands in the place of which character; nothing where brackets do not fit together.
fn replacements(tag: &str) -> Option<Vec<(usize, &'static str)>> {
    const OPEN: &str = "fullrank_object([";
    debug_assert!(OPEN.starts_with(FUNCTION));
    let end = tag.len().checked_sub(2)?;
    let mut open: Vec<Open> = Vec::new();
    let mut found = Vec::new();
    for (at, c) in unquoted(tag).filter(|(at, _)| (2..end).contains(at)) {
        match c {
            '(' | '[' | '{' => {
                open.push(Open { bracket: c, is_value: false, from: at + 1 });
                if c == '{' {
                    found.push((at, OPEN));
                }
            }
            ')' | ']' | '}' => {
                let Open { bracket, is_value, from } = open.pop()?;
                if !matches!((bracket, c), ('(', ')') | ('[', ']') | ('{', '}')) {
                    return None;
                }
                if c == '}' {
                    // Nothing, or a comma alone, may stand behind the last entry.
                    if !is_value && !tag[from..at].trim().is_empty() {
                        return None;
                    }
                    found.push((at, "])"));
                }
            }
            ':' | ',' => {
                if let Some(object) = open.last_mut().filter(|open| open.bracket == '{') {
                    if object.is_value == (c == ':') {
                        return None;
                    }
                    object.is_value = c == ':';
                    object.from = at + 1;
                    if c == ':' {
                        found.push((at, ","));
                    }
                }
            }
            _ => {}
        }
    }
    open.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::super::tests::render;
    use super::*;

    #[test]
    fn objects_become_calls_and_nothing_else_does() {
        for (tag, right) in [
            (
                "{{ {'b': x[1:2], 'a': {}} }}",
                "{{ fullrank_object(['b', x[1:2], 'a', fullrank_object([])]) }}",
            ),
            ("{% set a = {\n'}': '{', } -%}", "{% set a = fullrank_object([\n'}', '{', ]) -%}"),
            (
                "{% if a == {1: f({2: 3})} %}",
                "{% if a == fullrank_object([1, f(fullrank_object([2, 3]))]) %}",
            ),
        ] {
            assert_eq!(ordered(tag), right);
        }
        for tag in [
            "{{ 'a: {b}' }}",
            "{{ x[1:2] }}",
            "{{ {1, 2} }}",
            "{{ {1: 2: 3} }}",
            "{{ {1: 2, 3} }}",
            "{{ {1: (2} ) }}",
            "{{ {1: 2 }}",
            "{{ 1 } }}",
        ] {
            assert_eq!(ordered(tag), tag);
        }
    }

    #[test]
    fn objects_keep_their_order_and_are_objects_in_every_way() {
        for (source, right) in [
            ("{{ {'b': 1, 'a': 2} }}", "{'b': 1, 'a': 2}"),
            (
                "{% for k, v in {'z': 1, 'y': 2, 'x': 3}.items() %}{{ k }}{{ v }} {% endfor %}",
                "z1 y2 x3 ",
            ),
            ("{% for k in {'z': 1, 'y': 2} %}{{ k }}{% endfor %}", "zy"),
            ("{{ {'b': 1, 'a': 2, 'b': 3} }}", "{'b': 3, 'a': 2}"),
            (
                "{{ {'b': 1, 'a': 2} | list | join }}{{ {'b': 1, 'a': 2} | items | list }}",
                "ba[('b', 1), ('a', 2)]",
            ),
            ("{{ {'b': 1, 'a': 2} | dictsort }}", "[('a', 2), ('b', 1)]"),
            (
                "{% set d = {'b': 1, 'items': 2} %}{{ d.b }}{{ d['items'] }}{{ d.get('c', 7) }}{{ d | length }}",
                "1272",
            ),
            (
                "{{ {'b': 1, 'a': 2} == {'a': 2, 'b': 1} }}{{ {} == {} }}{{ {'a': 1} == {'a': 2} }}",
                "TrueTrueFalse",
            ),
            (
                "{{ 'b' in {'b': 1} }}{{ 'c' in {'b': 1} }}{{ 'yes' if {} else 'no' }}{{ {} is mapping }}",
                "TrueFalsenoTrue",
            ),
            (
                "{% macro f(b, a, c={'d': 4}) %}{{ b }}{{ a }}{{ c.d }}{% endmacro %}{{ f(**{'a': 1, 'b': 2}) }}",
                "214",
            ),
            ("{% set ns = namespace(x={'b': 1}) %}{% set ns.x = {'c': ns.x} %}{{ ns.x.c.b }}", "1"),
            ("{{ {1: 'a'}[1] }}{{ {'a': {'b': {'c': 5}}}.a.b.c }}{{ ({'a': 3}).a * 2 }}", "a56"),
        ] {
            assert_eq!(render(source).unwrap(), right, "{source}");
        }
    }

    #[test]
    fn an_object_that_is_not_whole_is_an_error_of_the_parser() {
        for source in
            ["{{ {1, 2} }}", "{{ {1: } }}", "{{ {: 1} }}", "{{ {'a': 1 'b': 2} }}", "{{ {,} }}"]
        {
            assert!(render(source).is_err(), "{source}");
        }
    }
}
