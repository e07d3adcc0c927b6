//! Broken safetensors files.

use std::collections::BTreeMap;
use std::fs;

use fullrank::error::{Error, Result};
use fullrank::formats::safetensors::{SafetensorsFile, TensorValues, write_safetensors};
use proptest::prelude::*;

use crate::{check_error, fuzz};

fn safetensors_bytes(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    bytes
}

fn open_bytes(bytes: &[u8]) -> Result<SafetensorsFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    SafetensorsFile::open(&path)
}

/// A small intact file with two tensors and a text of metadata.
pub fn intact() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("intact.safetensors");
    let metadata = BTreeMap::from([("kind".to_owned(), "small".to_owned())]);
    let tensors: [(&str, &[usize], TensorValues); 2] = [
        ("w", &[2, 3], TensorValues::F32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("ids", &[3], TensorValues::I32(&[7, 8, 9])),
    ];
    write_safetensors(&path, &metadata, &tensors).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn broken_safetensors_headers_are_refused() {
    let one = |entry: &str| format!("{{\"x\":{entry}}}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: [(&str, String, usize, &str); 24] = [
        ("no JSON", "not json".into(), 0, "not valid safetensors JSON"),
        ("empty header", String::new(), 0, "not valid safetensors JSON"),
        ("a list", "[]".into(), 0, "not valid safetensors JSON"),
        ("a half object", "{\"x\":{".into(), 0, "not valid safetensors JSON"),
        ("text behind", "{} {}".into(), 0, "not valid safetensors JSON"),
        ("deep nesting", deep.clone(), 0, "not valid safetensors JSON"),
        ("deep inside", one(&deep), 0, "not valid safetensors JSON"),
        ("no dtype", one(r#"{"shape":[1],"data_offsets":[0,4]}"#), 4, "missing field `dtype`"),
        ("no shape", one(r#"{"dtype":"F32","data_offsets":[0,4]}"#), 4, "missing field `shape`"),
        ("no offsets", one(r#"{"dtype":"F32","shape":[1]}"#), 4, "missing field `data_offsets`"),
        ("null entry", one("null"), 0, "not valid safetensors JSON"),
        (
            "unknown dtype",
            one(r#"{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}"#),
            4,
            "tensor x has the data type F8_E4M3",
        ),
        (
            "dtype in small letters",
            one(r#"{"dtype":"f32","shape":[1],"data_offsets":[0,4]}"#),
            4,
            "tensor x has the data type f32",
        ),
        (
            "negative size",
            one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#),
            4,
            "not valid safetensors JSON",
        ),
        (
            "fractional size",
            one(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}"#),
            4,
            "not valid safetensors JSON",
        ),
        (
            "shape too large to count",
            one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#),
            0,
            "too large to count",
        ),
        (
            "wrong bytes for the shape",
            one(r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}"#),
            12,
            "needs 16 bytes, the header gives it 12",
        ),
        (
            "offsets backwards",
            one(r#"{"dtype":"F32","shape":[0],"data_offsets":[4,0]}"#),
            4,
            "before it begins",
        ),
        (
            "three offsets",
            one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}"#),
            8,
            "not valid safetensors JSON",
        ),
        (
            "beyond the file",
            one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#),
            4,
            "the file has only 4",
        ),
        (
            "overlap",
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#
                .into(),
            6,
            "tensor b begins at byte 2, inside",
        ),
        (
            "hole",
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                "b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#
                .into(),
            6,
            "bytes 2 to 4 of the data",
        ),
        (
            "data behind the last tensor",
            one(r#"{"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#),
            9,
            "cover 2 bytes, the file has 9",
        ),
        ("metadata not text", r#"{"__metadata__":{"step":7}}"#.into(), 0, "expected a string"),
    ];
    for (case, header, data_bytes, wanted) in cases {
        let error = open_bytes(&safetensors_bytes(&header, data_bytes)).unwrap_err();
        check_error(case, &error, wanted);
    }
}

#[test]
fn absurd_header_lengths_are_refused_before_anything_is_allocated() {
    for (length, wanted) in [
        (u64::MAX, "at most 100000000 are allowed"),
        (1 << 62, "at most 100000000 are allowed"),
        (100_000_001, "at most 100000000 are allowed"),
        (100_000_000, "the file has only 4 after"),
        (5, "the file has only 4 after"),
    ] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}  ");
        check_error(&length.to_string(), &open_bytes(&bytes).unwrap_err(), wanted);
    }
    let mut not_text = 4_u64.to_le_bytes().to_vec();
    not_text.extend_from_slice(&[b'{', 0xFF, 0xFE, b'}']);
    check_error("no text", &open_bytes(&not_text).unwrap_err(), "the header is not text");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = intact();
    assert!(open_bytes(&whole).is_ok());
    for length in 0..whole.len() {
        let error = open_bytes(&whole[..length]).unwrap_err();
        check_error(&format!("cut at {length}"), &error, "model.safetensors: ");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = SafetensorsFile::open(folder.path()).unwrap_err();
    check_error("folder", &error, "is not a file");
    let error = SafetensorsFile::open(folder.path().join("none.safetensors")).unwrap_err();
    check_error("missing", &error, "none.safetensors");
    assert!(matches!(error, Error::Io { .. }));
}

#[test]
fn changed_bytes_never_panic() {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let strategy =
        (prop::collection::vec(change, 1..8), prop::option::of(any::<prop::sample::Index>()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = intact();
    fuzz::each("safetensors", 256, &strategy, |(changes, cut)| {
        let mut bytes = whole.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        fs::write(&path, &bytes).unwrap();
        match SafetensorsFile::open(&path) {
            Err(error) => check_error("changed", &error, "model.safetensors"),
            Ok(file) => {
                for name in file.names() {
                    let _ = file.read_f32(name);
                    let _ = file.read_i64(name);
                }
            }
        }
        Ok(())
    });
}
