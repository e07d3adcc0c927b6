//! `tojson` as transformers gives it to templates: `json.dumps` of Python to the letter, so that a model reads tools
//! and messages in the form that it was tuned on. No escapes for HTML: chats are not web pages.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::MAX_OUTPUT_BYTES;

/// Levels of lists and objects in a value that a template prints as JSON.
const MAX_DEPTH: usize = 64;

fn wrong(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::BadSerialization, what)
}

/// The filter, with the options of transformers: `indent`, `separators`, `sort_keys`, `ensure_ascii`.
///
/// Errors: a value that JSON does not have, one that is too large or too deep, an option of another type.
pub(super) fn tojson(value: &Value, options: &Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (between, colon) = match separators.as_deref() {
        Some([between, colon]) => (between.clone(), colon.clone()),
        Some(_) => return Err(wrong("`separators` of tojson are two texts")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        out: String::new(),
        indent,
        between,
        colon,
        sorts_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        is_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(Value::from_safe_string(writer.out))
}

struct Writer {
    out: String,
    /// Blanks of a level, where each entry has a line of its own.
    indent: Option<usize>,
    between: String,
    colon: String,
    sorts_keys: bool,
    is_ascii: bool,
}

impl Writer {
    fn push(&mut self, text: &str) -> Result<(), Error> {
        self.room(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn room(&self, bytes: usize) -> Result<(), Error> {
        match self.out.len().checked_add(bytes) {
            Some(size) if size <= MAX_OUTPUT_BYTES => Ok(()),
            _ => Err(wrong("the value is larger than 64 MiB as JSON")),
        }
    }

    /// A new line at a level, where entries have lines of their own.
    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = self.indent {
            let blanks = indent.saturating_mul(depth);
            self.room(blanks.saturating_add(1))?;
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', blanks));
        }
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(wrong("the value is nested too deeply for JSON"));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.push(&scalar(value)?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.push("[")?;
                for (index, item) in items.iter().enumerate() {
                    self.entry(index, depth)?;
                    self.value(item, depth + 1)?;
                }
                self.end(items.is_empty(), depth, "]")
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorts_keys {
                    keys.sort();
                }
                self.push("{")?;
                for (index, key) in keys.iter().enumerate() {
                    self.entry(index, depth)?;
                    match key.as_str() {
                        Some(text) => self.text(text)?,
                        None => self.text(&scalar(key)?)?,
                    }
                    let colon = self.colon.clone();
                    self.push(&colon)?;
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.end(keys.is_empty(), depth, "}")
            }
            ValueKind::Undefined => Err(wrong("an undefined value has no JSON")),
            kind => Err(wrong(format!("a value of kind {kind} has no JSON"))),
        }
    }

    /// What stands before an entry of a list or an object.
    fn entry(&mut self, index: usize, depth: usize) -> Result<(), Error> {
        if index > 0 {
            let between = self.between.clone();
            self.push(&between)?;
        }
        self.line(depth + 1)
    }

    fn end(&mut self, is_empty: bool, depth: usize, bracket: &str) -> Result<(), Error> {
        if !is_empty {
            self.line(depth)?;
        }
        self.push(bracket)
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.is_ascii || quoted.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return self.push(&quoted);
        }
        let mut escaped = String::with_capacity(quoted.len());
        for c in quoted.chars() {
            if (' '..='~').contains(&c) {
                escaped.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
        self.push(&escaped)
    }
}

/// What is neither text nor list nor object; also as a key.
fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => Ok(python_float(f64::try_from(value.clone())?)),
        kind => Err(wrong(format!("a value of kind {kind} is no key of JSON"))),
    }
}

/// A number as Python's `repr` writes it: the fewest digits that read back, an exponent below -4 and from 16 on.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => {
            let point = if value.fract() == 0.0 { ".0" } else { "" };
            format!("{value}{point}")
        }
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::formats::chat::ChatTemplate;

    fn render(source: &str) -> crate::error::Result<String> {
        ChatTemplate::new(source, None, None)?.render(&[], false)
    }

    /// The right sides are what jinja2 3.1 writes with the `tojson` of transformers.
    #[test]
    fn json_is_what_python_dumps() {
        for (source, right) in [
            (
                "{{ {'b': 1, 'a': [true, none, 1.0, -0.5]} | tojson }}",
                r#"{"b": 1, "a": [true, null, 1.0, -0.5]}"#,
            ),
            (
                "{{ [1e16, 1.5e-7, 123456789.25, 0.0001, 1e15] | tojson }}",
                "[1e+16, 1.5e-07, 123456789.25, 0.0001, 1000000000000000.0]",
            ),
            (
                "{{ {true: 1, none: 2, 3: 4, 1.5: 5} | tojson }}",
                r#"{"true": 1, "null": 2, "3": 4, "1.5": 5}"#,
            ),
            (
                "{{ {'b': {'z': [], 'y': {}}, 'a': (1, 2)} | tojson(indent=2) }}",
                "{\n  \"b\": {\n    \"z\": [],\n    \"y\": {}\n  },\n  \"a\": [\n    1,\n    2\n  ]\n}",
            ),
            (
                "{{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true) }}",
                r#"{"a": {"c": 2, "d": 1}, "b": 1}"#,
            ),
            ("{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':')) }}", r#"{"b":1,"a":[1,2]}"#),
            ("{{ 'naïve <b> 𝄞\\n' | tojson }}", "\"naïve <b> 𝄞\\n\""),
            ("{{ 'naïve 𝄞' | tojson(ensure_ascii=true) }}", "\"na\\u00efve \\ud834\\udd1e\""),
            ("{{ [] | tojson(indent=4) }}{{ {} | tojson(indent=none) }}", "[]{}"),
        ] {
            assert_eq!(render(source).unwrap(), right, "{source}");
        }
    }

    #[test]
    fn what_json_does_not_have_is_an_error() {
        for source in [
            "{{ nothing | tojson }}",
            "{{ {(1, 2): 3} | tojson }}",
            "{{ 1 | tojson(separators=[',']) }}",
            "{{ 1 | tojson(default=1) }}",
            "{{ [[1]] | tojson(indent=99999999999) }}",
        ] {
            assert!(render(source).is_err(), "{source}");
        }
    }
}
