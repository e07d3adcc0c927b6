//! Metadata read key by key, with errors that name the file, the key and the value.

use std::collections::BTreeMap;
use std::path::Path;

use super::header::{DAMAGED, Kind, Value};
use crate::error::{Error, Result};

/// The metadata of one file.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    path: &'a Path,
    values: &'a BTreeMap<String, Value>,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(path: &'a Path, values: &'a BTreeMap<String, Value>) -> Self {
        Self { path, values }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a text")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    /// A whole number from 0 to `most`, of whichever width and sign.
    pub(super) fn number(&self, key: &str, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = match value {
            Value::Unsigned(n) => usize::try_from(*n).ok(),
            Value::Signed(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        match number.filter(|n| *n <= most) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, value, &format!("a whole number of at most {most}"))),
        }
    }

    /// As [`Metadata::number`], from 1.
    pub(super) fn count(&self, key: &str, most: usize) -> Result<Option<usize>> {
        match (self.number(key, most)?, self.get(key)) {
            (Some(0), Some(value)) => {
                Err(self.wrong(key, value, &format!("a whole number from 1 to {most}")))
            }
            (number, _) => Ok(number),
        }
    }

    pub(super) fn required_count(&self, key: &str, most: usize) -> Result<usize> {
        self.count(key, most)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() && *x > 0.0 => Ok(Some(*x)),
            Some(other) => Err(self.wrong(key, other, "a finite number above zero")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&'a [String]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(other) => Err(self.wrong(key, other, "a list of texts")),
        }
    }

    /// A list of i32 or u32.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Numbers(Kind::I32, bytes)) => {
                Ok(Some(chunks(bytes).map(|b| i64::from(i32::from_le_bytes(*b))).collect()))
            }
            Some(Value::Numbers(Kind::U32, bytes)) => {
                Ok(Some(chunks(bytes).map(|b| i64::from(u32::from_le_bytes(*b))).collect()))
            }
            Some(other) => Err(self.wrong(key, other, "a list of whole numbers")),
        }
    }

    /// A list of f32.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Numbers(Kind::F32, bytes)) => {
                Ok(Some(chunks(bytes).map(|b| f32::from_le_bytes(*b)).collect()))
            }
            Some(other) => Err(self.wrong(key, other, "a list of numbers")),
        }
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        self.wrong_file(format!("the metadata {key} is missing"))
    }

    pub(super) fn wrong(&self, key: &str, found: &Value, wanted: &str) -> Error {
        self.wrong_file(format!("{key} is {}, expected {wanted}", found.brief()))
    }

    pub(super) fn wrong_file(&self, what: String) -> Error {
        Error::file(self.path, what, DAMAGED)
    }

    pub(super) fn unsupported(&self, what: String, remedy: &str) -> Error {
        Error::file(self.path, what, remedy)
    }
}

fn chunks(bytes: &[u8]) -> std::slice::Iter<'_, [u8; 4]> {
    bytes.as_chunks::<4>().0.iter()
}
