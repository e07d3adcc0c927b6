//! A run as `TensorBoard` event files.
//!
//! The file is a chain of records: length (u64), masked CRC-32C of the length, payload, masked CRC-32C of the payload,
//! all little-endian. A payload is one protobuf message `Event` with `wall_time`, `step` and scalars; the first names the
//! file's version. Only scalars are written, so the few protobuf fields are put together here.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::atomic::AtomicFile;
use crate::runlog::{Body, Event, RunDir, effective, read_log};

/// What `TensorBoard` masks a checksum with.
const MASK: u32 = 0xa282_ead8;
/// Wire types of protobuf.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Writes the scalars of a run into a file in `folder` and returns its path: losses, learning rate, gradient norm, speed,
/// memory, the ranks of layers and the number of vectors switched. Updates that a resume made void are left out.
///
/// Errors: the log or the folder cannot be read or written.
pub fn export(run: &RunDir, folder: &Path) -> Result<PathBuf> {
    let events = effective(read_log(run.events())?.events);
    let start = events.first().map_or(0, |event| event.ts);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    // TensorBoard takes files with `tfevents` in their names, in the order of the number after it.
    let path =
        folder.join(format!("events.out.tfevents.{:010}.{}", start / 1000, run.short_name()));
    let mut file = AtomicFile::create(&path)?;
    let mut bytes = record(&version(seconds(start)));
    for event in &events {
        for (tag, value) in scalars(event) {
            bytes.extend(record(&scalar(seconds(event.ts), event.step, &tag, value)));
        }
    }
    file.file().write_all(&bytes).map_err(Error::io("write", &path))?;
    file.commit()?;
    Ok(path)
}

fn seconds(ts_ms: i64) -> f64 {
    ts_ms as f64 / 1000.0
}

/// The scalars of an event with their tags.
fn scalars(event: &Event) -> Vec<(String, f64)> {
    let named =
        |pairs: &[(&str, f64)]| pairs.iter().map(|(tag, v)| ((*tag).to_owned(), *v)).collect();
    match &event.body {
        Body::Step(step) => named(&[
            ("train/loss", step.loss),
            ("train/learning_rate", step.lr),
            ("train/grad_norm", step.grad_norm),
            ("train/tokens", step.tokens as f64),
            ("train/tokens_per_second", step.tok_s),
        ]),
        Body::Eval(eval) => named(&[("val/loss", eval.loss), ("val/perplexity", eval.ppl)]),
        Body::Mem(mem) => named(&[("memory/peak_bytes", mem.peak_bytes as f64)]),
        Body::Switch(switch) => {
            let vectors: u64 = switch.l.iter().map(|layer| 2 * u64::from(layer.k)).sum();
            named(&[("switch/vectors", vectors as f64)])
        }
        Body::Rank(rank) => {
            let tag = |what: &str| format!("rank/{what}/{}/{}", rank.matrix, rank.layer);
            vec![(tag("effective"), rank.effective), (tag("stable"), rank.stable)]
        }
        _ => Vec::new(),
    }
}

/// A payload with its frame.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(payload.len() + 16);
    bytes.extend(length);
    bytes.extend(masked(&length).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(masked(payload).to_le_bytes());
    bytes
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(MASK)
}

/// `Event { wall_time = 1, file_version = 3 }`.
fn version(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    nested(&mut event, 3, b"brain.Event:2");
    event
}

/// `Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, simple_value = 2 } } }`.
fn scalar(wall_time: f64, step: u64, tag: &str, value: f64) -> Vec<u8> {
    let mut inner = Vec::new();
    nested(&mut inner, 1, tag.as_bytes());
    key(&mut inner, 2, FIXED32);
    inner.extend((value as f32).to_le_bytes());
    let mut summary = Vec::new();
    nested(&mut summary, 1, &inner);
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    nested(&mut event, 5, &summary);
    event
}

fn key(out: &mut Vec<u8>, field: u8, wire: u8) {
    out.push(field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    key(out, field, FIXED64);
    out.extend(value.to_le_bytes());
}

fn nested(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    key(out, field, BYTES);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Splits a file into its payloads, checking every checksum: what a reader does.
///
/// Errors: a record is cut short or damaged.
pub fn payloads(mut bytes: &[u8]) -> io::Result<Vec<&[u8]>> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(12).ok_or_else(|| damaged("a cut head"))?;
        let (length, sum) = head.split_at(8);
        if masked(length).to_le_bytes() != sum {
            return Err(damaged("a head's checksum"));
        }
        let length = length.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let length = usize::try_from(length).map_err(|_| damaged("a length"))?;
        let (payload, rest) =
            rest.split_at_checked(length).ok_or_else(|| damaged("a cut record"))?;
        let (sum, rest) = rest.split_at_checked(4).ok_or_else(|| damaged("a cut checksum"))?;
        if masked(payload).to_le_bytes() != sum {
            return Err(damaged("a record's checksum"));
        }
        found.push(payload);
        bytes = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_bytes_that_tensorboard_reads() {
        let bytes = record(&version(1.5));
        assert_eq!(bytes[..8], 24_u64.to_le_bytes());
        let payload = &bytes[12..36];
        assert_eq!(payload[0], 0x09);
        assert_eq!(payload[1..9], 1.5_f64.to_le_bytes());
        assert_eq!(&payload[9..11], [0x1a, 13]);
        assert_eq!(&payload[11..], b"brain.Event:2");
        assert_eq!(payloads(&bytes).unwrap(), [payload]);
    }

    #[test]
    fn a_scalar_is_a_summary_in_an_event() {
        let event = scalar(2.0, 300, "val/loss", 0.5);
        let inner = [&[0x0a, 8][..], b"val/loss", &[0x15], &0.5_f32.to_le_bytes()].concat();
        let summary = [&[0x0a, inner.len() as u8][..], &inner].concat();
        let expected = [
            &[0x09][..],
            &2.0_f64.to_le_bytes(),
            &[0x10, 0xac, 0x02],
            &[0x2a, summary.len() as u8],
            &summary,
        ];
        assert_eq!(event, expected.concat());
    }

    #[test]
    fn damage_is_found() {
        let mut bytes = record(b"abc");
        assert!(payloads(&bytes[..bytes.len() - 1]).is_err());
        bytes[12] ^= 1;
        assert!(payloads(&bytes).is_err());
    }
}
