//! Reading safetensors files, tensor by tensor, without holding the whole file.
//!
//! The header is checked completely when a file is opened (`header.rs`); after that, tensors are
//! read by position in small pieces, so the only large allocation is the result. `write.rs` holds
//! the other direction.

mod header;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};

use self::header::{Entry, Header, LENGTH_BYTES, MAX_HEADER_BYTES};
use super::positioned::read_exact_at;
use crate::error::{Error, Result};

pub use self::header::Dtype;
pub use self::write::{SafetensorsWriter, TensorPlan, TensorValues, write_safetensors};

/// Bytes that are read and converted at a time; a multiple of every element's size.
const PIECE_BYTES: usize = 1 << 20;

/// What to do about a file that is not as it should be.
const DAMAGED: &str = "download or export the file again; it is damaged or not a safetensors file";

/// A tensor on the host: row-major f32.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, as many as the product of `shape`.
    pub values: Vec<f32>,
}

/// An open safetensors file with a checked header.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    header: Header,
    /// Where the data begin in the file.
    data_begin: u64,
}

impl SafetensorsFile {
    /// Opens a file and checks its header against its length.
    ///
    /// Errors: [`Error::Io`] if it cannot be read, [`Error::File`] for everything wrong inside.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let wrong = |what: String| Error::file(&path, what, DAMAGED);
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        let metadata = file.metadata().map_err(Error::io("read", &path))?;
        if !metadata.is_file() {
            return Err(Error::file(&path, "is not a file", "name the .safetensors file itself"));
        }
        let file_bytes = metadata.len();
        if file_bytes < LENGTH_BYTES {
            return Err(wrong(format!(
                "has {file_bytes} bytes, too short for a safetensors file (cut short?)"
            )));
        }
        let mut length = [0; LENGTH_BYTES as usize];
        read_exact_at(&file, &mut length, 0).map_err(Error::io("read", &path))?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(wrong(format!(
                "claims a header of {header_bytes} bytes, at most {MAX_HEADER_BYTES} are allowed"
            )));
        }
        let data_bytes = file_bytes.checked_sub(LENGTH_BYTES + header_bytes).ok_or_else(|| {
            wrong(format!(
                "claims a header of {header_bytes} bytes, the file has only {} after its \
                     length (cut short?)",
                file_bytes - LENGTH_BYTES
            ))
        })?;
        let mut json = vec![0; header_bytes as usize];
        read_exact_at(&file, &mut json, LENGTH_BYTES).map_err(Error::io("read", &path))?;
        let header = Header::parse(&json, data_bytes).map_err(wrong)?;
        Ok(Self { path, file, header, data_begin: LENGTH_BYTES + header_bytes })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.entries.keys().map(String::as_str)
    }

    /// Whether the file has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.header.entries.contains_key(name)
    }

    /// The free texts of `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// A tensor's shape.
    ///
    /// Errors: [`Error::File`] if there is no tensor of this name.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.shape)
    }

    /// A tensor's data type.
    ///
    /// Errors: [`Error::File`] if there is no tensor of this name.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        Ok(self.entry(name)?.dtype)
    }

    /// Reads a tensor of F32, F16, BF16 or F64 as f32.
    ///
    /// F16 and BF16 are widened exactly; F64 is rounded to the nearest.
    pub fn read_f32(&self, name: &str) -> Result<HostTensor> {
        let entry = self.entry(name)?;
        let values = match entry.dtype {
            Dtype::F32 => self.elements(entry, f32::from_le_bytes)?,
            Dtype::F16 => self.elements(entry, |b| f16::from_le_bytes(b).to_f32())?,
            Dtype::BF16 => self.elements(entry, |b| bf16::from_le_bytes(b).to_f32())?,
            Dtype::F64 => self.elements(entry, |b| f64::from_le_bytes(b) as f32)?,
            _ => return Err(self.wrong_dtype(name, entry, "F32, F16, BF16 or F64")),
        };
        Ok(HostTensor { shape: entry.shape.clone(), values })
    }

    /// As [`SafetensorsFile::read_f32`], for a tensor whose shape is known beforehand.
    ///
    /// Errors: also [`Error::Shape`], before anything is read.
    pub fn read_expected(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let found = self.shape(name)?;
        if found != shape {
            return Err(Error::Shape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: found.to_vec(),
            });
        }
        self.read_f32(name)
    }

    /// Reads a tensor of F64 or F32 as f64.
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>> {
        let entry = self.entry(name)?;
        match entry.dtype {
            Dtype::F64 => self.elements(entry, f64::from_le_bytes),
            Dtype::F32 => self.elements(entry, |b| f64::from(f32::from_le_bytes(b))),
            _ => Err(self.wrong_dtype(name, entry, "F64 or F32")),
        }
    }

    /// Reads a tensor of I64, I32, U8 or BOOL as i64.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let entry = self.entry(name)?;
        match entry.dtype {
            Dtype::I64 => self.elements(entry, i64::from_le_bytes),
            Dtype::I32 => self.elements(entry, |b| i64::from(i32::from_le_bytes(b))),
            Dtype::U8 | Dtype::BOOL => self.elements(entry, |b: [u8; 1]| i64::from(b[0])),
            _ => Err(self.wrong_dtype(name, entry, "I64, I32, U8 or BOOL")),
        }
    }

    /// Reads a tensor of I32 or I64 as i32.
    ///
    /// Errors: also [`Error::File`] if a value does not fit.
    pub fn read_i32(&self, name: &str) -> Result<Vec<i32>> {
        let entry = self.entry(name)?;
        if entry.dtype == Dtype::I32 {
            return self.elements(entry, i32::from_le_bytes);
        }
        let wide = self.read_i64(name)?;
        wide.into_iter()
            .map(|value| {
                i32::try_from(value).map_err(|_| {
                    let what = format!("tensor {name} holds {value}, which is no 32-bit number");
                    Error::file(&self.path, what, "use the file that belongs to this program")
                })
            })
            .collect()
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.header.entries.get(name).ok_or_else(|| {
            Error::file(
                &self.path,
                format!("has no tensor {name} among its {}", self.header.entries.len()),
                "use the weights that belong to this configuration",
            )
        })
    }

    fn wrong_dtype(&self, name: &str, entry: &Entry, wanted: &str) -> Error {
        Error::file(
            &self.path,
            format!("tensor {name} is {}, expected {wanted}", entry.dtype),
            "convert the file to one of these types",
        )
    }

    /// Reads a tensor in pieces and converts each element from its `N` bytes.
    fn elements<T, const N: usize>(
        &self,
        entry: &Entry,
        convert: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        assert_eq!(entry.dtype.bytes(), N, "the conversion fits the data type");
        let mut values = Vec::new();
        // The header was checked against the length of the file, so this is no more than the file
        // holds; a sparse file can still claim more than there is memory.
        values.try_reserve_exact(entry.count).map_err(|_| {
            Error::file(
                &self.path,
                format!("a tensor of {} elements does not fit in memory", entry.count),
                "free some memory, or use a smaller model",
            )
        })?;
        let total_bytes = entry.count * N;
        let mut piece = vec![0; total_bytes.min(PIECE_BYTES)];
        let mut done_bytes = 0;
        while done_bytes < total_bytes {
            let length = (total_bytes - done_bytes).min(PIECE_BYTES);
            let piece = &mut piece[..length];
            let offset = self.data_begin + entry.begin + done_bytes as u64;
            read_exact_at(&self.file, piece, offset).map_err(Error::io("read", &self.path))?;
            let (elements, _) = piece.as_chunks::<N>();
            values.extend(elements.iter().map(|bytes| convert(*bytes)));
            done_bytes += length;
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(folder: &Path) -> PathBuf {
        let path = folder.join("sample.safetensors");
        let half_values = [f16::from_f32(0.5), f16::from_f32(-2.0)];
        let brain_values = [bf16::from_f32(3.0), bf16::from_f32(f32::INFINITY)];
        write_safetensors(
            &path,
            &BTreeMap::from([("step".to_owned(), "7".to_owned())]),
            &[
                ("w", &[2, 2], TensorValues::F32(&[1.0, -0.0, f32::MIN_POSITIVE, 4.5])),
                ("h", &[2], TensorValues::F16(&half_values)),
                ("b", &[1, 2], TensorValues::BF16(&brain_values)),
                ("i", &[3], TensorValues::I32(&[-1, 0, i32::MAX])),
                ("l", &[1], TensorValues::I64(&[1 << 40])),
                ("d", &[], TensorValues::F64(&[0.1])),
                ("empty", &[0, 5], TensorValues::F32(&[])),
            ],
        )
        .unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read_back_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        let file = SafetensorsFile::open(sample(folder.path())).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["b", "d", "empty", "h", "i", "l", "w"]);
        let w = file.read_expected("w", &[2, 2]).unwrap();
        let bits: Vec<u32> = w.values.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [1.0, -0.0, f32::MIN_POSITIVE, 4.5].map(f32::to_bits));
        assert_eq!(file.read_f32("h").unwrap().values, [0.5, -2.0]);
        assert_eq!(file.read_f32("b").unwrap().values, [3.0, f32::INFINITY]);
        assert_eq!(file.read_i32("i").unwrap(), [-1, 0, i32::MAX]);
        assert_eq!(file.read_i64("l").unwrap(), [1 << 40]);
        assert_eq!(file.read_f64("d").unwrap(), [0.1]);
        assert_eq!(
            file.read_f32("empty").unwrap(),
            HostTensor { shape: vec![0, 5], values: vec![] }
        );
        assert_eq!(file.metadata()["format"], "pt");
        assert_eq!(file.metadata()["step"], "7");
        assert_eq!(file.dtype("b").unwrap(), Dtype::BF16);
    }

    #[test]
    fn the_reference_crate_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = std::fs::read(sample(folder.path())).unwrap();
        let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), 7);
        let w = theirs.tensor("w").unwrap();
        assert_eq!(w.shape(), [2, 2]);
        assert_eq!(&w.data()[..4], 1.0_f32.to_le_bytes());
        // Data begin at a multiple of eight and every tensor at a multiple of its element.
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
    }

    #[test]
    fn a_tensor_longer_than_a_piece_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.safetensors");
        let values: Vec<f32> = (0..PIECE_BYTES / 2 + 3).map(|i| i as f32).collect();
        let shape = [values.len()];
        write_safetensors(&path, &BTreeMap::new(), &[("x", &shape, TensorValues::F32(&values))])
            .unwrap();
        assert_eq!(SafetensorsFile::open(&path).unwrap().read_f32("x").unwrap().values, values);
    }

    #[test]
    fn a_wrong_shape_is_told_with_both() {
        let folder = tempfile::tempdir().unwrap();
        let file = SafetensorsFile::open(sample(folder.path())).unwrap();
        let error = file.read_expected("w", &[4]).unwrap_err();
        assert!(error.to_string().ends_with("tensor w: expected [4], file has [2, 2]"), "{error}");
    }

    #[test]
    fn a_missing_tensor_and_a_wrong_type_are_told_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = SafetensorsFile::open(sample(folder.path())).unwrap();
        assert!(file.read_f32("nothing").unwrap_err().to_string().contains("no tensor nothing"));
        assert!(file.read_f32("i").unwrap_err().to_string().contains("tensor i is I32"));
        assert!(file.read_i32("l").unwrap_err().to_string().contains("1099511627776"));
    }

    #[test]
    fn a_file_cut_short_after_it_was_opened_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = sample(folder.path());
        let file = SafetensorsFile::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert!(matches!(file.read_f32("w"), Err(Error::Io { .. })));
    }
}
