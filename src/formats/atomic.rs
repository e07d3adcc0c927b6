//! Files that appear whole or not at all: written beside their place, synced, renamed.
//!
//! A crash, a full disk or an error in between leaves what was there before.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Tells apart the temporary files of one process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A file under a temporary name, which takes its final name in [`AtomicFile::commit`].
///
/// Dropped before that, it removes itself.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    is_committed: bool,
}

impl AtomicFile {
    /// Creates the temporary file beside `target`; the folder must exist.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref().to_path_buf();
        let temporary = temporary_name(&target).ok_or_else(|| {
            Error::file(&target, "this is not the name of a file", "name a file, not a folder")
        })?;
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(Error::io("create", &target))?;
        Ok(Self { file, temporary, target, is_committed: false })
    }

    /// The open file, positioned where the last write ended.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The name that the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Brings the content to the disk and gives the file its name, replacing what has that name.
    pub fn commit(mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.target))?;
        fs::rename(&self.temporary, &self.target).map_err(Error::io("write", &self.target))?;
        self.is_committed = true;
        match self.target.parent() {
            Some(folder) => sync_folder(folder),
            None => Ok(()),
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.is_committed {
            // Nothing more can be done about a temporary file that will not go away.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a small file whole: `bytes` appear under `path`, or what was there stays.
pub fn write_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let mut file = AtomicFile::create(path)?;
    file.file().write_all(bytes).map_err(Error::io("write", path))?;
    file.commit()
}

/// Makes the names in a folder survive a loss of power (after a rename into it).
pub fn sync_folder(folder: impl AsRef<Path>) -> Result<()> {
    let folder = match folder.as_ref() {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    sync_folder_handle(folder).map_err(Error::io("write", folder))
}

#[cfg(unix)]
fn sync_folder_handle(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network and FUSE file systems cannot sync a folder; the file itself is safe.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other,
    }
}

/// Windows has no handle to sync a folder with; its file systems log the rename themselves.
#[cfg(not(unix))]
fn sync_folder_handle(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// `model.safetensors` becomes `.model.safetensors.PID-N.tmp` in the same folder: hidden, so that a
/// reader of the folder does not take it for a finished file.
fn temporary_name(target: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(target.file_name()?);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{number}.tmp", std::process::id()));
    Some(target.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_committed_file_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomically(&path, b"old").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[test]
    fn an_uncommitted_file_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomically(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.file().write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[test]
    fn a_failed_rename_removes_the_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"kept").unwrap();
        assert!(matches!(write_atomically(&path, b"x"), Err(Error::Io { .. })));
        assert_eq!(names(folder.path()), ["taken"]);
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
    }

    #[test]
    fn a_missing_folder_is_an_error_with_the_wanted_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomically(folder.path().join("no/a.txt"), b"x").unwrap_err();
        assert!(error.to_string().contains("no/a.txt:"), "{error}");
    }
}
