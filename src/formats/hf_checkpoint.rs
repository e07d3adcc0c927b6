//! The weights of a Hugging Face checkpoint: one safetensors file, or several with an index.
//!
//! All files are opened and compared with the index before the first tensor is read, so a missing
//! or mixed-up file is found at once.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::json::{Fields, read_object};
use super::safetensors::{Dtype, HostTensor, SafetensorsFile};
use crate::error::{Error, Result};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The open weight files of one checkpoint folder.
#[derive(Debug)]
pub struct HfCheckpoint {
    folder: PathBuf,
    files: Vec<SafetensorsFile>,
    /// For each tensor the position of its file in `files`.
    file_of: BTreeMap<String, usize>,
}

impl HfCheckpoint {
    /// Opens `model.safetensors`, or every file named in `model.safetensors.index.json`.
    ///
    /// Errors: [`Error::File`] if neither is there, a file of the index is missing, or a tensor is
    /// not in the file that the index names.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        if folder.join(SINGLE).exists() {
            return Self::open_single(folder);
        }
        if folder.join(INDEX).exists() {
            return Self::open_sharded(folder);
        }
        if !folder.is_dir() {
            let what = if folder.exists() { "is not a folder" } else { "does not exist" };
            return Err(Error::file(
                folder,
                what,
                format!("give the folder that holds config.json and {SINGLE}"),
            ));
        }
        let (what, remedy) = if folder.join("pytorch_model.bin").exists()
            || folder.join("pytorch_model.bin.index.json").exists()
        {
            (
                format!("has no {SINGLE}, only pickled PyTorch weights, which are not read"),
                "convert them with save_pretrained(…, safe_serialization=True)".to_owned(),
            )
        } else {
            (
                format!("has neither {SINGLE} nor {INDEX}"),
                format!("give the folder that holds config.json and {SINGLE}"),
            )
        };
        Err(Error::file(folder, what, remedy))
    }

    fn open_single(folder: &Path) -> Result<Self> {
        let file = SafetensorsFile::open(folder.join(SINGLE))?;
        let file_of = file.names().map(|name| (name.to_owned(), 0)).collect();
        Ok(Self { folder: folder.to_path_buf(), files: vec![file], file_of })
    }

    fn open_sharded(folder: &Path) -> Result<Self> {
        let index = folder.join(INDEX);
        let object = read_object(&index)?;
        let fields = Fields::new(&index, &object);
        let weight_map = match fields.get("weight_map") {
            Some(Value::Object(map)) => map,
            Some(other) => return Err(fields.wrong("weight_map", other, "an object")),
            None => return Err(fields.missing("weight_map")),
        };

        let mut files: Vec<SafetensorsFile> = Vec::new();
        let mut position_of: BTreeMap<&str, usize> = BTreeMap::new();
        let mut file_of = BTreeMap::new();
        for (tensor, file_name) in weight_map {
            let Value::String(file_name) = file_name else {
                return Err(fields.wrong(tensor, file_name, "the name of a file"));
            };
            let position = if let Some(position) = position_of.get(file_name.as_str()) {
                *position
            } else {
                files.push(open_shard(&index, folder, tensor, file_name)?);
                position_of.insert(file_name, files.len() - 1);
                files.len() - 1
            };
            if !files[position].contains(tensor) {
                return Err(Error::file(
                    &index,
                    format!("says that tensor {tensor} is in {file_name}, which does not have it"),
                    "download the index and all its files from the same revision",
                ));
            }
            file_of.insert(tensor.clone(), position);
        }
        Ok(Self { folder: folder.to_path_buf(), files, file_of })
    }

    /// The checkpoint's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file_of.keys().map(String::as_str)
    }

    /// Whether the checkpoint has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.file_of.contains_key(name)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        self.file(name)?.shape(name)
    }

    /// A tensor's data type.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        self.file(name)?.dtype(name)
    }

    /// Reads a tensor as f32.
    pub fn read_f32(&self, name: &str) -> Result<HostTensor> {
        self.file(name)?.read_f32(name)
    }

    /// Reads a tensor as f32 whose shape is known beforehand.
    ///
    /// Errors: [`Error::Shape`] with both shapes, before anything is read.
    pub fn read_expected(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        self.file(name)?.read_expected(name, shape)
    }

    fn file(&self, name: &str) -> Result<&SafetensorsFile> {
        match self.file_of.get(name) {
            Some(position) => Ok(&self.files[*position]),
            None => Err(Error::file(
                &self.folder,
                format!("the checkpoint has no tensor {name} among its {}", self.file_of.len()),
                "use the weights that belong to this configuration",
            )),
        }
    }
}

/// Opens one file of an index; its name must stay inside the folder.
fn open_shard(
    index: &Path,
    folder: &Path,
    tensor: &str,
    file_name: &str,
) -> Result<SafetensorsFile> {
    let mut parts = Path::new(file_name).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(Error::file(
            index,
            format!("tensor {tensor} is in \"{file_name}\", which is not a plain file name"),
            "download the index again; its files lie beside it",
        ));
    }
    let path = folder.join(file_name);
    if !path.exists() {
        return Err(Error::file(
            index,
            format!("tensor {tensor} is in {file_name}, which is missing"),
            format!("download {file_name} into {}", folder.display()),
        ));
    }
    SafetensorsFile::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::safetensors::{TensorValues, write_safetensors};
    use std::fs;

    fn shard(folder: &Path, file: &str, tensor: &str) {
        write_safetensors(
            folder.join(file),
            &BTreeMap::new(),
            &[(tensor, &[2], TensorValues::F32(&[1.0, 2.0]))],
        )
        .unwrap();
    }

    fn index(folder: &Path, text: &str) {
        fs::write(folder.join(INDEX), text).unwrap();
    }

    #[test]
    fn tensors_are_found_across_files() {
        let folder = tempfile::tempdir().unwrap();
        shard(folder.path(), "one.safetensors", "a");
        shard(folder.path(), "two.safetensors", "b");
        index(folder.path(), r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#);
        let checkpoint = HfCheckpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(checkpoint.read_expected("b", &[2]).unwrap().values, [1.0, 2.0]);
        assert!(
            checkpoint.read_f32("c").unwrap_err().to_string().contains("no tensor c among its 2")
        );
    }

    #[test]
    fn a_missing_file_is_told_with_tensor_and_file() {
        let folder = tempfile::tempdir().unwrap();
        index(folder.path(), r#"{"weight_map":{"a":"one.safetensors"}}"#);
        let error = HfCheckpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tensor a is in one.safetensors, which is missing"), "{error}");
    }

    #[test]
    fn a_tensor_that_is_not_where_the_index_says_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        shard(folder.path(), "one.safetensors", "a");
        index(folder.path(), r#"{"weight_map":{"b":"one.safetensors"}}"#);
        let error = HfCheckpoint::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("tensor b is in one.safetensors, which does not have it"),
            "{error}"
        );
    }

    #[test]
    fn an_index_cannot_point_outside_its_folder() {
        for name in ["../one.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""] {
            let folder = tempfile::tempdir().unwrap();
            index(folder.path(), &format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#));
            let error = HfCheckpoint::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("not a plain file name"), "{error}");
        }
    }

    #[test]
    fn a_folder_without_weights_says_what_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let error = HfCheckpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("has neither model.safetensors nor"), "{error}");
        fs::write(folder.path().join("pytorch_model.bin"), b"").unwrap();
        let error = HfCheckpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("pickled"), "{error}");
    }
}
