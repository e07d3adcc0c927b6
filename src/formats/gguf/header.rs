//! The header of a GGUF file: metadata and the list of tensors, read with every length checked first.
//!
//! Nothing in a header is believed: a count or length is compared with what is left of the file before
//! memory is taken for it, strings must be UTF-8, and tensors must lie inside the file, apart from each
//! other. Source: the GGUF specification of the ggml project, versions 2 and 3 (little-endian).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::blocks::Format;
use crate::error::{Error, Result};

/// What to do about a file that is not as it should be.
pub(super) const DAMAGED: &str =
    "download or convert the file again; it is damaged or not a GGUF file";

/// The first four bytes.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written.
pub(super) const VERSION: u32 = 3;
/// Where the data begin and each tensor begins, unless the file says otherwise.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
/// The key that says otherwise.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
/// No alignment that anyone uses comes near this: 64 KiB.
const MAX_ALIGNMENT: u64 = 1 << 16;
/// Metadata of real files stays below 30 MB (a vocabulary of 262,144 with its merges): 128 MiB.
const MAX_HEADER_BYTES: u64 = 128 << 20;
/// Entries of metadata; real files have about 40.
const MAX_ENTRIES: u64 = 1 << 16;
/// Tensors; the largest models have some thousands.
const MAX_TENSORS: u64 = 1 << 20;
/// Bytes of a key, as the specification says.
const MAX_KEY_BYTES: u64 = (1 << 16) - 1;
/// Bytes of a tensor's name: the specification says 64, with room for tools that write longer ones.
const MAX_NAME_BYTES: u64 = 1024;
/// Sizes of a tensor, as the specification says.
const MAX_DIMENSIONS: u32 = 4;
/// Lists within lists. None are known to be in use.
const MAX_DEPTH: usize = 4;

/// The kinds of metadata values, by their number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    List = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::List,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// Bytes of a value; of texts and lists the fewest that one takes.
    fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::Text | Self::U64 | Self::I64 | Self::F64 => 8,
            Self::List => 12,
        }
    }
}

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    /// A list of numbers, as their bytes: a list of small ones must not grow in memory.
    Numbers(Kind, Vec<u8>),
    /// A list of lists, read over: nothing of a model is one.
    Nested,
}

impl Value {
    /// The value as it can stand in a message.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::Unsigned(n) => n.to_string(),
            Self::Signed(n) => n.to_string(),
            Self::Float(x) => x.to_string(),
            Self::Bool(flag) => flag.to_string(),
            Self::Text(text) if text.chars().count() > 60 => {
                format!("\"{}…\"", text.chars().take(60).collect::<String>())
            }
            Self::Text(text) => format!("\"{text}\""),
            Self::Texts(_) => "a list of texts".into(),
            Self::Numbers(..) => "a list of numbers".into(),
            Self::Nested => "a list of lists".into(),
        }
    }
}

/// One tensor's place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub format: Format,
    /// Sizes, outermost first: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// First byte, from the beginning of the file.
    pub begin: u64,
    pub bytes: u64,
}

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Entry>,
}

impl Header {
    /// Reads the header of a file of `file_bytes` bytes from its beginning.
    ///
    /// Errors: [`Error::Io`] if the source fails, [`Error::File`] for everything wrong inside.
    pub(super) fn read(path: &Path, source: impl Read, file_bytes: u64) -> Result<Self> {
        let mut input = Input { path, source, position: 0, end: file_bytes };
        let magic: [u8; 4] = input.take("the first bytes")?;
        if magic != MAGIC {
            return Err(input.wrong(format!("begins with {magic:?}, not with \"GGUF\"")));
        }
        let version = input.u32("the version")?;
        if !matches!(version, 2 | 3) {
            let what = match version.swap_bytes() {
                2 | 3 => "is big-endian; supported: little-endian".to_owned(),
                _ => format!("is of GGUF version {version}; supported: 2 and 3"),
            };
            return Err(Error::file(path, what, "convert the model again with a current tool"));
        }
        let tensor_count = input.count("tensors", MAX_TENSORS, 8 + 4 + 8 + 4 + 8)?;
        let entry_count = input.count("entries of metadata", MAX_ENTRIES, 8 + 4 + 1)?;

        let mut metadata = BTreeMap::new();
        for _ in 0..entry_count {
            let key = input.text("a key of the metadata", MAX_KEY_BYTES)?;
            let kind = input.kind(&key)?;
            let value = input.value(&key, kind)?;
            if metadata.contains_key(&key) {
                return Err(input.wrong(format!("has the metadata {key} twice")));
            }
            metadata.insert(key, value);
        }
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(n) => {
                *n
            }
            Some(other) => {
                return Err(input.wrong(format!(
                    "{ALIGNMENT_KEY} is {}, expected a power of two from 8 to {MAX_ALIGNMENT}",
                    other.brief()
                )));
            }
        };

        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let (name, entry) = input.tensor(alignment)?;
            if tensors.contains_key(&name) {
                return Err(input.wrong(format!("has the tensor {name} twice")));
            }
            tensors.insert(name, entry);
        }
        let data_begin = input.position.next_multiple_of(alignment);
        place(&mut tensors, data_begin, file_bytes).map_err(|what| input.wrong(what))?;
        Ok(Self { metadata, tensors })
    }
}

/// Makes the offsets count from the beginning of the file, and checks that all tensors are inside and apart.
fn place(
    tensors: &mut BTreeMap<String, Entry>,
    data_begin: u64,
    file_bytes: u64,
) -> Result<(), String> {
    for (name, entry) in tensors.iter_mut() {
        let begin = data_begin.checked_add(entry.begin);
        let end = begin.and_then(|begin| begin.checked_add(entry.bytes));
        match (begin, end) {
            (Some(begin), Some(end)) if end <= file_bytes => entry.begin = begin,
            _ => {
                return Err(format!(
                    "tensor {name} takes {} bytes at {} of the data, which reaches beyond the file \
                     of {file_bytes} bytes (cut short?)",
                    entry.bytes, entry.begin
                ));
            }
        }
    }
    let mut places: Vec<(&String, &Entry)> = tensors.iter().collect();
    places.sort_by_key(|(_, entry)| entry.begin);
    for pair in places.windows(2) {
        let [(first, a), (second, b)] = [pair[0], pair[1]];
        if a.begin + a.bytes > b.begin {
            return Err(format!("the tensors {first} and {second} overlap"));
        }
    }
    Ok(())
}

/// The source with the place in it.
struct Input<'a, R> {
    path: &'a Path,
    source: R,
    position: u64,
    end: u64,
}

impl<R: Read> Input<'_, R> {
    fn wrong(&self, what: String) -> Error {
        Error::file(self.path, what, DAMAGED)
    }

    fn left(&self) -> u64 {
        self.end.min(MAX_HEADER_BYTES) - self.position
    }

    /// The next `len` bytes, which `what` needs.
    fn bytes(&mut self, len: u64, what: &str) -> Result<Vec<u8>> {
        if len > self.left() {
            return Err(self.too_long(len, what));
        }
        let mut bytes = vec![0; len as usize];
        self.source.read_exact(&mut bytes).map_err(Error::io("read", self.path))?;
        self.position += len;
        Ok(bytes)
    }

    fn too_long(&self, len: u64, what: &str) -> Error {
        if self.position + len.min(self.end) <= self.end && len <= self.end {
            self.wrong(format!("has a header of more than {MAX_HEADER_BYTES} bytes at {what}"))
        } else {
            self.wrong(format!(
                "{what} takes {len} bytes at {}, the file has only {} (cut short?)",
                self.position, self.end
            ))
        }
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        if N as u64 > self.left() {
            return Err(self.too_long(N as u64, what));
        }
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(Error::io("read", self.path))?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.take(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// A number of things of which each takes at least `least_bytes`.
    fn count(&mut self, what: &str, most: u64, least_bytes: u64) -> Result<u64> {
        let count = self.u64(what)?;
        let fits = count.checked_mul(least_bytes).is_some_and(|bytes| bytes <= self.left());
        if count <= most && !fits && self.end <= MAX_HEADER_BYTES {
            return Err(self.wrong(format!(
                "claims {count} {what}, but ends at byte {} inside them (cut short?)",
                self.end
            )));
        }
        if count > most || !fits {
            return Err(self.wrong(format!(
                "claims {count} {what}; at most {most} are allowed, and the file has {} bytes",
                self.end
            )));
        }
        Ok(count)
    }

    fn text(&mut self, what: &str, most: u64) -> Result<String> {
        let len = self.u64(what)?;
        if len > most {
            return Err(self.wrong(format!("{what} has {len} bytes, at most {most} are allowed")));
        }
        String::from_utf8(self.bytes(len, what)?)
            .map_err(|error| self.wrong(format!("{what} is not UTF-8: {}", error.utf8_error())))
    }

    fn kind(&mut self, key: &str) -> Result<Kind> {
        let number = self.u32(key)?;
        Kind::from_number(number)
            .ok_or_else(|| self.wrong(format!("{key} is of kind {number}, which does not exist")))
    }

    fn value(&mut self, key: &str, kind: Kind) -> Result<Value> {
        Ok(match kind {
            Kind::U8 => Value::Unsigned(u64::from(u8::from_le_bytes(self.take(key)?))),
            Kind::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(self.take(key)?))),
            Kind::U32 => Value::Unsigned(u64::from(self.u32(key)?)),
            Kind::U64 => Value::Unsigned(self.u64(key)?),
            Kind::I8 => Value::Signed(i64::from(i8::from_le_bytes(self.take(key)?))),
            Kind::I16 => Value::Signed(i64::from(i16::from_le_bytes(self.take(key)?))),
            Kind::I32 => Value::Signed(i64::from(i32::from_le_bytes(self.take(key)?))),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.take(key)?)),
            Kind::F32 => Value::Float(shortest(f32::from_le_bytes(self.take(key)?))),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.take(key)?)),
            Kind::Bool => match self.take::<1>(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(self.wrong(format!("{key} is {other}, expected 0 or 1")));
                }
            },
            Kind::Text => Value::Text(self.text(key, MAX_HEADER_BYTES)?),
            Kind::List => self.list(key, 0)?,
        })
    }

    fn list(&mut self, key: &str, depth: usize) -> Result<Value> {
        if depth == MAX_DEPTH {
            return Err(self.wrong(format!("{key} has lists nested more than {MAX_DEPTH} deep")));
        }
        let kind = self.kind(key)?;
        let count = self.count(key, MAX_HEADER_BYTES, kind.bytes())?;
        match kind {
            Kind::Text => {
                let mut texts = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    texts.push(self.text(key, MAX_HEADER_BYTES)?);
                }
                Ok(Value::Texts(texts))
            }
            Kind::List => {
                for _ in 0..count {
                    self.list(key, depth + 1)?;
                }
                Ok(Value::Nested)
            }
            kind => Ok(Value::Numbers(kind, self.bytes(count * kind.bytes(), key)?)),
        }
    }

    /// A tensor's name and entry; `begin` counts from the beginning of the data.
    fn tensor(&mut self, alignment: u64) -> Result<(String, Entry)> {
        let name = self.text("a tensor's name", MAX_NAME_BYTES)?;
        let dimensions = self.u32(&name)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(self.wrong(format!(
                "tensor {name} has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}"
            )));
        }
        let mut sizes = Vec::new();
        for _ in 0..dimensions {
            sizes.push(self.u64(&name)?);
        }
        let number = self.u32(&name)?;
        let Some(format) = Format::from_number(number) else {
            return Err(Error::file(
                self.path,
                format!(
                    "tensor {name} is in the format {}, which is not supported; supported: {}",
                    Format::name_of(number),
                    Format::supported()
                ),
                "take the model's F16, BF16 or Q8_0 file",
            ));
        };
        let elements = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        let (block, block_bytes) = format.block();
        let bytes = elements
            .filter(|&n| n > 0 && sizes[0].is_multiple_of(block))
            .and_then(|n| (n / block).checked_mul(block_bytes));
        let Some(bytes) = bytes else {
            return Err(self.wrong(format!(
                "tensor {name} has the sizes {sizes:?}, which {} in blocks of {block} cannot have",
                format.name()
            )));
        };
        let begin = self.u64(&name)?;
        if !begin.is_multiple_of(alignment) {
            return Err(self.wrong(format!(
                "tensor {name} begins at {begin}, expected a multiple of {alignment}"
            )));
        }
        let shape = sizes.iter().rev().map(|&size| size as usize).collect();
        Ok((name, Entry { format, shape, begin, bytes }))
    }
}

/// The number that was meant by an f32: its shortest decimal form, as 1e-5 for 9.99999975e-6. As an f32 it
/// is the same.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers_are_read_as_they_were_meant() {
        assert_eq!(shortest(1e-5), 1e-5);
        assert_eq!(shortest(500_000.0), 500_000.0);
        assert!(shortest(f32::NAN).is_nan());
        assert_eq!(shortest(f32::INFINITY), f64::INFINITY);
    }

    #[test]
    fn kinds_have_the_numbers_of_the_specification() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as u32 as usize, number);
        }
        assert_eq!(Kind::from_number(13), None);
    }
}
