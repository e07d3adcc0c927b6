//! The header of a safetensors file: eight bytes of length, then JSON, then the data.
//!
//! Parsed and validated here by hand, so that a hostile or broken file gives an error that names
//! the tensor, and never a panic or an allocation larger than the file.
//! Source: the format's description at github.com/huggingface/safetensors.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Bytes in front of the JSON: its length, little endian.
pub(super) const LENGTH_BYTES: u64 = 8;

/// The limit of the reference implementation; a real header of 10,000 tensors has about 2 MB.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// No tensor of a model has more than four.
const MAX_DIMENSIONS: usize = 16;

/// Data types of tensors in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, clippy::upper_case_acronyms)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    BOOL,
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::BOOL => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where one tensor lies and how it is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the data.
    pub begin: u64,
    /// Elements; the product of the shape.
    pub count: usize,
}

/// A validated header.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: BTreeMap<String, String>,
    pub entries: BTreeMap<String, Entry>,
}

/// A tensor's description as it stands in the JSON, before any check.
#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The JSON in the order of the file; names that appear twice are refused.
struct RawHeader {
    metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, RawEntry>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut metadata = None;
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if metadata.replace(map.next_value()?).is_some() {
                            return Err(A::Error::custom("__metadata__ appears twice"));
                        }
                    } else {
                        let entry: RawEntry = map.next_value()?;
                        if entries.contains_key(&name) {
                            return Err(A::Error::custom(format!("tensor {name} appears twice")));
                        }
                        entries.insert(name, entry);
                    }
                }
                Ok(RawHeader { metadata: metadata.unwrap_or_default(), entries })
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

impl Header {
    /// Parses the JSON of a header whose file has `data_bytes` bytes of data.
    ///
    /// Errors: what is wrong, with the tensor's name and both numbers.
    pub fn parse(json: &[u8], data_bytes: u64) -> Result<Self, String> {
        let text = std::str::from_utf8(json).map_err(|e| format!("the header is not text: {e}"))?;
        let raw: RawHeader = serde_json::from_str(text)
            .map_err(|e| format!("the header is not valid safetensors JSON: {e}"))?;

        let mut spans = Vec::with_capacity(raw.entries.len());
        let mut entries = BTreeMap::new();
        for (name, raw) in raw.entries {
            let (entry, end) = check_entry(&name, &raw, data_bytes)?;
            spans.push((entry.begin, end, name.clone()));
            entries.insert(name, entry);
        }

        spans.sort_unstable();
        let mut covered = 0;
        for (begin, end, name) in spans {
            if begin < covered {
                return Err(format!(
                    "tensor {name} begins at byte {begin}, inside the tensor before it, which \
                     ends at {covered}"
                ));
            }
            if begin > covered {
                return Err(format!(
                    "bytes {covered} to {begin} of the data, before tensor {name}, belong to no \
                     tensor"
                ));
            }
            covered = end;
        }
        if covered != data_bytes {
            return Err(format!(
                "the tensors cover {covered} bytes, the file has {data_bytes} bytes of data"
            ));
        }
        Ok(Self { metadata: raw.metadata, entries })
    }
}

/// Checks one tensor against itself and the size of the data; returns it with its end.
fn check_entry(name: &str, raw: &RawEntry, data_bytes: u64) -> Result<(Entry, u64), String> {
    let dtype = Dtype::deserialize(
        serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&raw.dtype),
    )
    .map_err(|_| {
        format!(
            "tensor {name} has the data type {}; known are F64, F32, F16, BF16, whole numbers and \
             BOOL",
            raw.dtype
        )
    })?;
    let [begin, end] = raw.data_offsets;
    if begin > end {
        return Err(format!("tensor {name} ends at byte {end} before it begins at {begin}"));
    }
    if end > data_bytes {
        return Err(format!(
            "tensor {name} ends at byte {end} of the data, the file has only {data_bytes} (cut \
             short?)"
        ));
    }
    if raw.shape.len() > MAX_DIMENSIONS {
        let count = raw.shape.len();
        return Err(format!(
            "tensor {name} has {count} dimensions, at most {MAX_DIMENSIONS} are read"
        ));
    }
    let too_large = || format!("tensor {name}: the shape {:?} is too large to count", raw.shape);
    let mut shape = Vec::with_capacity(raw.shape.len());
    let mut bytes = dtype.bytes() as u64;
    for &size in &raw.shape {
        bytes = bytes.checked_mul(size).ok_or_else(too_large)?;
        shape.push(usize::try_from(size).map_err(|_| too_large())?);
    }
    if bytes != end - begin {
        return Err(format!(
            "tensor {name} {shape:?} of {dtype} needs {bytes} bytes, the header gives it {}",
            end - begin
        ));
    }
    let count = usize::try_from(bytes).map_err(|_| too_large())? / dtype.bytes();
    Ok((Entry { dtype, shape, begin, count }, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, data_bytes: u64) -> Result<Header, String> {
        Header::parse(json.as_bytes(), data_bytes)
    }

    #[test]
    fn a_plain_header_is_read() {
        let header = parse(
            r#"{"__metadata__":{"format":"pt"},
                "b":{"dtype":"I64","shape":[1],"data_offsets":[12,20]},
                "a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},
                "none":{"dtype":"F32","shape":[0,7],"data_offsets":[12,12]}}"#,
            20,
        )
        .unwrap();
        assert_eq!(header.metadata["format"], "pt");
        assert_eq!(header.entries["a"].shape, [2, 3]);
        assert_eq!(header.entries["b"].begin, 12);
        assert_eq!(header.entries["none"].count, 0);
    }

    #[test]
    fn a_scalar_has_one_element() {
        let header = parse(r#"{"x":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}"#, 8).unwrap();
        assert_eq!(header.entries["x"].count, 1);
    }

    #[test]
    fn a_name_that_appears_twice_is_refused() {
        let entry = r#""x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        let error = parse(&format!("{{{entry},{entry}}}"), 0).unwrap_err();
        assert!(error.contains("tensor x appears twice"), "{error}");
    }

    #[test]
    fn an_overflowing_shape_is_refused_even_when_a_zero_follows() {
        let json =
            r#"{"x":{"dtype":"F32","shape":[18446744073709551615,9,0],"data_offsets":[0,0]}}"#;
        assert!(parse(json, 0).unwrap_err().contains("too large"));
    }
}
