//! JSON objects read field by field, with errors that name the file, the field and the value.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// No JSON file of a checkpoint comes near this; a larger one is something else.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a whole file of at most 256 MiB.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::file(
            path,
            format!("larger than {MAX_BYTES} bytes, which no file of this kind is"),
            "check that this is the right file",
        ));
    }
    Ok(bytes)
}

/// Reads a JSON object from a file.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = read_bytes(path)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Error::file(
            path,
            format!("holds {}, not a JSON object", kind(&other)),
            "check that this is the right file",
        )),
        Err(e) => Err(Error::file(
            path,
            format!("is not valid JSON: {e}"),
            "download or export the file again",
        )),
    }
}

/// The fields of one JSON object of a file.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// What stands before a field's name in messages: empty, or `rope_scaling.` and the like.
    prefix: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, object: &'a Map<String, Value>) -> Self {
        Self { path, prefix: "", object }
    }

    /// The value of a field; an explicit `null` counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there, be it as `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// The object in a field, whose own fields are called `prefix` + name in messages.
    pub(crate) fn object(&self, name: &str, prefix: &'a str) -> Result<Option<Fields<'a>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { path: self.path, prefix, object })),
            Some(other) => Err(self.wrong(name, other, "an object")),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, other, "a text")),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, other, "true or false")),
        }
    }

    /// A whole number from 1 to `max`.
    pub(crate) fn count(&self, name: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=max).contains(&n) => Ok(Some(n)),
            _ => Err(self.wrong(name, value, &format!("a whole number from 1 to {max}"))),
        }
    }

    /// As [`Fields::count`], for a field that must be there.
    pub(crate) fn required_count(&self, name: &str, max: usize) -> Result<usize> {
        self.count(name, max)?.ok_or_else(|| self.missing(name))
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            _ => Err(self.wrong(name, value, "a finite number above zero")),
        }
    }

    /// As [`Fields::positive`], for a field that must be there.
    pub(crate) fn required_positive(&self, name: &str) -> Result<f64> {
        self.positive(name)?.ok_or_else(|| self.missing(name))
    }

    /// A token id.
    pub(crate) fn id(&self, name: &str) -> Result<Option<u32>> {
        self.get(name).map(|value| self.as_id(name, value)).transpose()
    }

    /// One token id or a list of them; absent is an empty list.
    pub(crate) fn ids(&self, name: &str) -> Result<Vec<u32>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(|id| self.as_id(name, id)).collect(),
            Some(id) => Ok(vec![self.as_id(name, id)?]),
        }
    }

    fn as_id(&self, name: &str, value: &Value) -> Result<u32> {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| self.wrong(name, value, "a token id"))
    }

    /// The error for a field that must be there and is not.
    pub(crate) fn missing(&self, name: &str) -> Error {
        Error::file(
            self.path,
            format!("the field {}{name} is missing", self.prefix),
            "use the complete file that belongs to the checkpoint",
        )
    }

    /// The error for a field with a value that cannot be.
    pub(crate) fn wrong(&self, name: &str, found: &Value, wanted: &str) -> Error {
        Error::file(
            self.path,
            format!("{}{name} is {}, expected {wanted}", self.prefix, brief(found)),
            "correct the field, or use the file that belongs to the checkpoint",
        )
    }

    /// The error for something well formed that this program does not do.
    pub(crate) fn unsupported(&self, what: String, remedy: &str) -> Error {
        Error::file(self.path, what, remedy)
    }
}

/// A value as it can stand in a message: whole if short, else its kind.
fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        Value::String(text) if text.chars().count() > 60 => {
            format!("\"{}…\"", text.chars().take(60).collect::<String>())
        }
        other => other.to_string(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
