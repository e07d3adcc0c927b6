//! Filters and methods whose result can be much larger than what they get, with a look at its size before it is made.
//!
//! What they do is minijinja's; here they are only kept within the bounds of `budget`.

use minijinja::value::{Kwargs, Rest, StringInput, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, filters};

use super::budget::{fits, made, measure, text_of, wrong};

/// Parts that `batch` and `slice` may make, or fill one with.
const MAX_PARTS: usize = 1 << 16;
/// Multiplies: refuses what is no number, as texts and lists would be repeated.
pub(super) const NUMBER: &str = "fullrank_number";
/// As [`NUMBER`] for what stands before a known number, which may be a text of that many times its size.
pub(super) const REPEATED: &str = "fullrank_repeated";

/// Puts the filters into the place of minijinja's own.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_filter("indent", indent);
    environment.add_filter("replace", replace);
    environment.add_filter("join", join);
    environment.add_filter("format", format);
    environment.add_filter("batch", batch);
    environment.add_filter("slice", slice);
    environment.add_filter("string", string);
    environment.add_filter("pprint", |value: &Value| text_of(format_args!("{value:#?}")));
    environment.add_filter(NUMBER, |value: Value| {
        if value.is_number() {
            Ok(value)
        } else {
            Err(wrong("the template multiplies by no number"))
        }
    });
    environment.add_filter(REPEATED, |value: Value, times: usize| {
        if !value.is_number() {
            fits(measure(&value)?.checked_mul(times))?;
        }
        Ok::<_, Error>(value)
    });
    // It prints everything that the template has.
    environment.remove_global("debug");
    environment.set_unknown_method_callback(method);
}

/// Checks and counts a text that is about to be made.
fn expect(bytes: Option<usize>) -> Result<(), Error> {
    fits(bytes)?;
    made(bytes.unwrap_or_default())
}

fn indent(
    value: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    const WIDTH: usize = 4;
    let named: Option<usize> = kwargs.peek("width")?;
    let text = value.as_str();
    let lines = text.split('\n').count();
    let added = width.or(named).unwrap_or(WIDTH).checked_mul(lines);
    expect(added.and_then(|added| added.checked_add(text.len())))?;
    filters::indent(value, width, first, blank, kwargs)
}

fn replace(
    state: &mut State,
    value: StringInput<'_>,
    from: StringInput<'_>,
    to: StringInput<'_>,
) -> Result<Value, Error> {
    expect(replaced(value.as_str(), from.as_str(), to.as_str()))?;
    filters::replace(state, value, from, to)
}

/// The bytes of a text with other parts, at most.
fn replaced(text: &str, from: &str, to: &str) -> Option<usize> {
    text.matches(from).count().checked_mul(to.len())?.checked_add(text.len())
}

fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let named: Option<StringInput<'_>> = kwargs.peek("d")?;
    let between = joiner.as_ref().or(named.as_ref()).map_or(0, |text| text.as_str().len());
    expect(joined(value, between)?)?;
    drop(named);
    filters::join(state, value, joiner, attribute, kwargs)
}

/// The bytes of a list's entries with `between` bytes after each.
fn joined(value: &Value, between: usize) -> Result<Option<usize>, Error> {
    let size = measure(value)?;
    let entries = value.as_str().map(|text| text.chars().count()).or(value.len()).unwrap_or(size);
    Ok(entries.checked_mul(between).and_then(|between| between.checked_add(size)))
}

fn format(state: &mut State, text: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let values: Vec<&Value> = args.iter().map(|value| &**value).collect();
    expect(formatted(text.as_str().unwrap_or_default(), &values)?)?;
    drop(values);
    filters::format(state, text, args)
}

/// The bytes of a text with values in its fields, at most: any field may have the largest, and all widths.
fn formatted(text: &str, args: &[&Value]) -> Result<Option<usize>, Error> {
    let is_open = |field: &str| {
        let named = field.strip_prefix('(').and_then(|field| field.split_once(')'));
        let field = named.map_or(field, |(_, rest)| rest);
        field
            .trim_start_matches(|c: char| "-+ #.".contains(c) || c.is_ascii_digit())
            .starts_with('*')
    };
    if text.split('%').skip(1).any(is_open) {
        return Err(wrong("the template formats with a width that is not in its text"));
    }
    let mut largest = 64;
    for value in args {
        largest = largest.max(measure(value)?);
    }
    let fields = text.bytes().filter(|byte| b"%{".contains(byte)).count();
    let runs = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    let mut widths = runs.map(|run| run.parse::<usize>().ok());
    // A number that a field is filled with may have marks between its digits, and a filler four bytes.
    let widths = widths.try_fold(0_usize, |sum, width| sum.checked_add(width?.checked_mul(4)?));
    let values = fields.checked_mul(largest);
    Ok(widths
        .zip(values)
        .and_then(|(widths, values)| widths.checked_add(values)?.checked_add(text.len())))
}

fn parts(count: usize) -> Result<usize, Error> {
    if count > MAX_PARTS {
        return Err(wrong(format!(
            "the template makes {count} parts, at most {MAX_PARTS} are made"
        )));
    }
    Ok(count)
}

fn batch(state: &State, value: Value, count: usize, fill: Option<Value>) -> Result<Value, Error> {
    filters::batch(state, value, parts(count)?, fill)
}

fn slice(state: &State, value: Value, count: usize, fill: Option<Value>) -> Result<Value, Error> {
    filters::slice(state, value, parts(count)?, fill)
}

fn string(state: &State, value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Undefined => filters::string(state, value),
        _ => text_of(format_args!("{value}")).map(Value::from),
    }
}

/// The methods of Python's texts, lists and objects.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str();
    let text_at = |index: usize| args.get(index).and_then(Value::as_str);
    match (name, text) {
        ("replace", Some(text)) => {
            if let (Some(from), Some(to)) = (text_at(0), text_at(1)) {
                expect(replaced(text, from, to))?;
            }
        }
        ("join", Some(between)) => {
            if let Some(list) = args.first() {
                expect(joined(list, between.len())?)?;
            }
        }
        ("format", Some(text)) => {
            expect(formatted(text, &args.iter().collect::<Vec<_>>())?)?;
        }
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}
