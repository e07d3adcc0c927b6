//! Numbers in the log. JSON has no NaN and no infinity, and a diverging run produces both, so the
//! non-finite ones are written as the strings `"nan"`, `"inf"` and `"-inf"`.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// An `f64` that survives JSON. Fields use it through `#[serde(with = "number")]`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// The JSON value of a number, for events that are carried as raw JSON.
pub fn to_value(number: f64) -> serde_json::Value {
    number_name(number).map_or_else(|| number.into(), serde_json::Value::from)
}

fn number_name(number: f64) -> Option<&'static str> {
    if number.is_nan() {
        Some("nan")
    } else if number == f64::INFINITY {
        Some("inf")
    } else if number == f64::NEG_INFINITY {
        Some("-inf")
    } else {
        None
    }
}

/// Writes a number, or the name of a non-finite one.
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde calls
pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match number_name(*number) {
        Some(name) => serializer.serialize_str(name),
        None => serializer.serialize_f64(*number),
    }
}

/// Reads a number, the name of a non-finite one, or `null` as NaN.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    deserializer.deserialize_any(NumberVisitor)
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number, \"nan\", \"inf\" or \"-inf\"")
    }

    fn visit_f64<E>(self, number: f64) -> Result<f64, E> {
        Ok(number)
    }

    fn visit_u64<E>(self, number: u64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_i64<E>(self, number: i64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_unit<E>(self) -> Result<f64, E> {
        Ok(f64::NAN)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<f64, E> {
        match name {
            "nan" => Ok(f64::NAN),
            "inf" => Ok(f64::INFINITY),
            "-inf" => Ok(f64::NEG_INFINITY),
            _ => Err(E::invalid_value(de::Unexpected::Str(name), &self)),
        }
    }
}

/// The same for numbers that may be absent: `#[serde(with = "number::option")]`.
pub mod option {
    use super::{Deserialize, Deserializer, Number, Serialize, Serializer};

    /// Writes the number, or `null`.
    #[allow(clippy::ref_option)] // the signature that serde calls
    pub fn serialize<S: Serializer>(number: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        number.map(Number).serialize(s)
    }

    /// Reads the number; `null` is absent.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Number>::deserialize(d)?.map(|number| number.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_numbers_are_written_as_words_and_read_back() {
        for (number, text) in [
            (f64::NAN, "\"nan\""),
            (f64::INFINITY, "\"inf\""),
            (f64::NEG_INFINITY, "\"-inf\""),
            (0.1, "0.1"),
            (-3.0, "-3.0"),
        ] {
            assert_eq!(serde_json::to_string(&Number(number)).unwrap(), text);
            assert_eq!(to_value(number).to_string(), text);
            let back: Number = serde_json::from_str(text).unwrap();
            assert!(back.0 == number || (back.0.is_nan() && number.is_nan()));
        }
        assert!(serde_json::from_str::<Number>("\"many\"").is_err());
        assert_eq!(serde_json::from_str::<Number>("7").unwrap().0, 7.0);
    }
}
