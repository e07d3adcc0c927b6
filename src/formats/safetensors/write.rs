//! Writing safetensors files: the layout first, then the tensors one by one in any order.
//!
//! A tensor is given when it is at hand and need not be kept, so a checkpoint is written with one
//! tensor in memory at a time. The file appears under its name only when it is complete.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::Dtype;
use super::header::LENGTH_BYTES;
use crate::error::{Error, Result};
use crate::formats::atomic::AtomicFile;

/// The values of one tensor, by data type.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum TensorValues<'a> {
    F64(&'a [f64]),
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    U8(&'a [u8]),
}

impl TensorValues<'_> {
    /// The data type in the file.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F64(_) => Dtype::F64,
            Self::F32(_) => Dtype::F32,
            Self::F16(_) => Dtype::F16,
            Self::BF16(_) => Dtype::BF16,
            Self::I64(_) => Dtype::I64,
            Self::I32(_) => Dtype::I32,
            Self::U8(_) => Dtype::U8,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::BF16(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::U8(values) => values.len(),
        }
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::F64(values) => values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
            Self::F32(values) => values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
            Self::F16(values) => values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
            Self::BF16(values) => values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
            Self::I64(values) => values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
            Self::I32(values) => values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
            Self::U8(values) => out.write_all(values),
        }
    }
}

/// What a file will hold under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// The tensor's name; not `__metadata__`, and given once.
    pub name: String,
    /// Its data type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// A tensor's place in the file that is being written.
#[derive(Debug)]
struct Place {
    dtype: Dtype,
    count: usize,
    begin: u64,
    is_written: bool,
}

/// A safetensors file that is being written; dropped before [`SafetensorsWriter::finish`], it
/// leaves no trace.
#[derive(Debug)]
pub struct SafetensorsWriter {
    file: AtomicFile,
    places: BTreeMap<String, Place>,
    data_begin: u64,
}

impl SafetensorsWriter {
    /// Lays the file out and writes its header under a temporary name beside `path`.
    ///
    /// `format: pt` is always added to `metadata`, because transformers before 5 refuses files
    /// without it.
    pub fn create(
        path: impl AsRef<Path>,
        metadata: &BTreeMap<String, String>,
        plan: &[TensorPlan],
    ) -> Result<Self> {
        let mut texts = metadata.clone();
        texts.insert("format".to_owned(), "pt".to_owned());
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!(texts));

        // Wide elements first, so that every tensor begins at a multiple of its element's size and
        // other readers can map it; the order is otherwise the caller's.
        let mut order: Vec<&TensorPlan> = plan.iter().collect();
        order.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bytes()));

        let mut places = BTreeMap::new();
        let mut begin = 0_u64;
        for TensorPlan { name, dtype, shape } in order {
            assert_ne!(name, "__metadata__", "this name is taken by the format");
            let count: usize = shape.iter().product();
            let end = begin + (count * dtype.bytes()) as u64;
            let place = Place { dtype: *dtype, count, begin, is_written: false };
            let previous = places.insert(name.clone(), place);
            assert!(previous.is_none(), "tensor {name} is planned once");
            header.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}),
            );
            begin = end;
        }

        let mut text = Value::Object(header).to_string();
        // Spaces up to a multiple of eight keep the data aligned.
        let padding = text.len().next_multiple_of(8) - text.len();
        text.extend(std::iter::repeat_n(' ', padding));

        let mut file = AtomicFile::create(path)?;
        let length = (text.len() as u64).to_le_bytes();
        let written =
            file.file().write_all(&length).and_then(|()| file.file().write_all(text.as_bytes()));
        written.map_err(Error::io("write", file.target()))?;
        Ok(Self { file, places, data_begin: LENGTH_BYTES + text.len() as u64 })
    }

    /// Writes one of the planned tensors; data type and count are as planned.
    pub fn write(&mut self, name: &str, values: TensorValues<'_>) -> Result<()> {
        let place = self.places.get_mut(name);
        assert!(place.is_some(), "tensor {name} is planned");
        let Some(place) = place else { return Ok(()) };
        assert_eq!(values.dtype(), place.dtype, "tensor {name} has the planned data type");
        assert_eq!(values.len(), place.count, "tensor {name} has the planned number of elements");
        place.is_written = true;
        let offset = self.data_begin + place.begin;
        write_at(self.file.file(), offset, values).map_err(Error::io("write", self.file.target()))
    }

    /// Brings the file to the disk and gives it its name; every planned tensor has been written.
    pub fn finish(self) -> Result<()> {
        for (name, place) in &self.places {
            assert!(place.is_written, "tensor {name} was planned and not written");
        }
        self.file.commit()
    }
}

fn write_at(file: &mut std::fs::File, offset: u64, values: TensorValues<'_>) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    values.write_to(&mut out)?;
    out.flush()
}

/// Writes a whole file from tensors that are all at hand: name, shape, values.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    metadata: &BTreeMap<String, String>,
    tensors: &[(&str, &[usize], TensorValues<'_>)],
) -> Result<()> {
    let plan: Vec<TensorPlan> = tensors
        .iter()
        .map(|(name, shape, values)| TensorPlan {
            name: (*name).to_owned(),
            dtype: values.dtype(),
            shape: shape.to_vec(),
        })
        .collect();
    let mut writer = SafetensorsWriter::create(path, metadata, &plan)?;
    for (name, _, values) in tensors {
        writer.write(name, *values)?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_unfinished_file_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        write_safetensors(&path, &BTreeMap::new(), &[("x", &[1], TensorValues::F32(&[1.0]))])
            .unwrap();
        let before = fs::read(&path).unwrap();
        let plan = [TensorPlan { name: "x".to_owned(), dtype: Dtype::F32, shape: vec![1_000_000] }];
        let writer = SafetensorsWriter::create(&path, &BTreeMap::new(), &plan).unwrap();
        drop(writer);
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_order_of_writing_does_not_change_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let plan = ["a", "b"].map(|name| TensorPlan {
            name: name.to_owned(),
            dtype: Dtype::I32,
            shape: vec![2],
        });
        let write = |file: &str, order: [&str; 2]| {
            let path = folder.path().join(file);
            let mut writer = SafetensorsWriter::create(&path, &BTreeMap::new(), &plan).unwrap();
            for name in order {
                let values = if name == "a" { [1, 2] } else { [3, 4] };
                writer.write(name, TensorValues::I32(&values)).unwrap();
            }
            writer.finish().unwrap();
            fs::read(path).unwrap()
        };
        assert_eq!(write("ab", ["a", "b"]), write("ba", ["b", "a"]));
    }

    #[test]
    #[should_panic(expected = "tensor x was planned and not written")]
    fn a_forgotten_tensor_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let plan = [TensorPlan { name: "x".to_owned(), dtype: Dtype::F32, shape: vec![1] }];
        let path = folder.path().join("m.safetensors");
        let _ = SafetensorsWriter::create(path, &BTreeMap::new(), &plan).unwrap().finish();
    }
}
