//! Models in the local cache of the Hugging Face hub, found by their id and without a network.
//!
//! Source: the layout that `huggingface_hub`, hf-hub and llama.cpp share: `models--ORG--NAME/refs/main` holds a
//! commit, and `snapshots/COMMIT/` links to the files.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A commit or the name of a branch; no file of the cache has more.
const MAX_REF_BYTES: usize = 256;

/// A model's id with the revision asked for, as in `HuggingFaceTB/SmolLM2-135M@main`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubId<'a> {
    organisation: &'a str,
    name: &'a str,
    revision: &'a str,
}

impl<'a> HubId<'a> {
    /// Reads `ORG/NAME` or `ORG/NAME@REVISION`; none if it cannot be an id.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (organisation, name) = id.split_once('/')?;
        let is_part = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty()
                && part.len() <= 96
                && part.chars().all(plain)
                && !part.starts_with('.')
        };
        let is_revision = revision.split('/').all(is_part);
        (is_part(organisation) && is_part(name) && is_revision).then_some(Self {
            organisation,
            name,
            revision,
        })
    }

    fn folder_name(&self) -> String {
        format!("models--{}--{}", self.organisation, self.name)
    }
}

/// The folder of the cache: `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `huggingface/hub` in `$XDG_CACHE_HOME` or
/// `~/.cache`.
///
/// Errors: [`Error::Config`] where none of these is known.
pub fn cache_folder() -> Result<PathBuf> {
    cache_folder_of(|name| std::env::var_os(name).filter(|value| !value.is_empty())).ok_or_else(|| {
        Error::config(
            "the cache of the Hugging Face hub is not known: neither HF_HUB_CACHE, HF_HOME nor HOME is set",
            "set HF_HUB_CACHE to its folder, or give --model the model's own folder",
        )
    })
}

fn cache_folder_of(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = variable("HOME").or_else(|| variable("USERPROFILE")).map(PathBuf::from);
    let expanded = |value: OsString| {
        let path = PathBuf::from(value);
        match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path,
        }
    };
    if let Some(folder) = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")) {
        return Some(expanded(folder));
    }
    let of_huggingface = match (variable("HF_HOME"), variable("XDG_CACHE_HOME")) {
        (Some(folder), _) => expanded(folder),
        (None, Some(folder)) => expanded(folder).join("huggingface"),
        (None, None) => home?.join(".cache").join("huggingface"),
    };
    Some(of_huggingface.join("hub"))
}

/// The folder with a model's files, in the user's cache.
///
/// Errors: [`Error::Config`] that names the folder looked at and how to get the model; [`Error::File`] for a cache
/// that is not as it should be.
pub fn find(id: HubId<'_>) -> Result<PathBuf> {
    find_in(&cache_folder()?, id)
}

/// The same in a given cache.
pub fn find_in(cache: &Path, id: HubId<'_>) -> Result<PathBuf> {
    let HubId { organisation, name, revision } = id;
    let folder = cache.join(id.folder_name());
    let download = || {
        let revision =
            if revision == "main" { String::new() } else { format!(" --revision {revision}") };
        format!(
            "download it once with `hf download {organisation}/{name}{revision}`, set HF_HUB_CACHE or HF_HOME if it \
             is elsewhere, or give --model a folder"
        )
    };
    if !folder.is_dir() {
        let what = format!(
            "model {organisation}/{name} is neither a preset, nor a folder here, nor in the Hugging Face cache: there is no {}",
            folder.display()
        );
        return Err(Error::config(what, download()));
    }
    let snapshots = folder.join("snapshots");
    let commit = match read_ref(&folder.join("refs").join(revision))? {
        Some(commit) => commit,
        // A revision may be a commit itself.
        None if snapshots.join(revision).is_dir() => revision.to_owned(),
        None => {
            let all = names(&snapshots)?;
            let (has, remedy) = if all.is_empty() {
                ("no snapshot at all".to_owned(), download())
            } else {
                let first = &all[0];
                let remedy = format!(
                    "name one of them, as in {organisation}/{name}@{first}, or {}",
                    download()
                );
                (format!("the snapshots {}", all.join(", ")), remedy)
            };
            let what = format!("has no revision {revision}, but {has}");
            return Err(Error::file(&folder, what, remedy));
        }
    };
    let snapshot = snapshots.join(&commit);
    if !snapshot.join("config.json").is_file() {
        let what = if snapshot.is_dir() {
            "the snapshot has no config.json: it was downloaded only in part, or is no model"
        } else {
            "the snapshot that refs names does not exist"
        };
        return Err(Error::file(snapshot, what, download()));
    }
    Ok(snapshot)
}

/// The commit that a file of `refs` holds; none if there is no such file.
fn read_ref(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read(path).map_err(Error::io("read", path))?;
    let commit = std::str::from_utf8(&text).map(str::trim).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if commit.is_empty() || commit.len() > MAX_REF_BYTES || !commit.chars().all(is_plain) {
        let remedy = "remove the model from the cache and download it again";
        return Err(Error::file(path, "holds no commit", remedy));
    }
    Ok(Some(commit.to_owned()))
}

/// Names in a folder, sorted; none where it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let get = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| OsString::from(v.1));
        cache_folder_of(get)
    }

    #[test]
    fn the_cache_is_where_the_variables_say_in_their_order() {
        let all =
            [("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/c"), ("HOME", "/d")];
        let expected = ["/a", "/b/hub", "/c/huggingface/hub", "/d/.cache/huggingface/hub"];
        for (from, expected) in expected.iter().enumerate() {
            assert_eq!(folder_of(&all[from..]).unwrap(), Path::new(expected));
        }
        let tilde = [("HF_HOME", "~/hf"), ("HOME", "/d")];
        assert_eq!(folder_of(&tilde).unwrap(), Path::new("/d/hf/hub"));
        assert_eq!(folder_of(&[]), None);
    }

    #[test]
    fn an_id_is_two_plain_names_and_perhaps_a_revision() {
        for id in ["a/b", "HuggingFaceTB/SmolLM2-135M", "a/b@main", "a/b.c@refs/pr/1"] {
            assert!(HubId::parse(id).is_some(), "{id}");
        }
        for text in ["a", "a/b/c", "/a/b", "../a", "a/..", "a/b@", "a/b@../..", "a b/c", "", "/"] {
            assert!(HubId::parse(text).is_none(), "{text}");
        }
    }

    fn cache_with(reference: Option<&str>, commit: &str, has_config: bool) -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--name");
        let snapshot = folder.join("snapshots").join(commit);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(folder.join("refs")).unwrap();
        if let Some(reference) = reference {
            fs::write(folder.join("refs/main"), reference).unwrap();
        }
        if has_config {
            fs::write(snapshot.join("config.json"), "{}").unwrap();
        }
        cache
    }

    fn find_main(cache: &tempfile::TempDir, text: &str) -> Result<PathBuf> {
        find_in(cache.path(), HubId::parse(text).unwrap())
    }

    #[test]
    fn a_model_is_found_by_its_id_and_by_its_commit() {
        let cache = cache_with(Some("abc123\n"), "abc123", true);
        let expected = cache.path().join("models--org--name/snapshots/abc123");
        assert_eq!(find_main(&cache, "org/name").unwrap(), expected);
        assert_eq!(find_main(&cache, "org/name@abc123").unwrap(), expected);
    }

    #[test]
    fn a_model_that_is_not_there_is_told_with_the_folder_and_the_way_to_get_it() {
        let cache = cache_with(Some("abc123"), "abc123", true);
        let error = find_main(&cache, "org/other").unwrap_err();
        let folder = cache.path().join("models--org--other");
        assert!(error.to_string().contains(&folder.display().to_string()), "{error}");
        assert!(error.remedy().contains("hf download org/other`"), "{}", error.remedy());
        let error = find_main(&cache, "org/name@v2").unwrap_err();
        assert!(error.to_string().contains("no revision v2, but the snapshots abc123"), "{error}");
        assert!(error.remedy().contains("org/name@abc123"), "{}", error.remedy());
    }

    #[test]
    fn a_damaged_cache_is_an_error() {
        for (reference, commit, has_config, wanted) in [
            (Some("../../etc"), "abc", true, "holds no commit"),
            (Some(""), "abc", true, "holds no commit"),
            (Some("def"), "abc", true, "does not exist"),
            (Some("abc"), "abc", false, "no config.json"),
            (None, "abc", true, "no revision main"),
        ] {
            let cache = cache_with(reference, commit, has_config);
            let error = find_main(&cache, "org/name").unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
        let cache = cache_with(Some("abc"), "abc", true);
        fs::write(cache.path().join("models--org--name/refs/main"), [0xff, 0xfe]).unwrap();
        let error = find_main(&cache, "org/name").unwrap_err();
        assert!(error.to_string().contains("holds no commit"), "{error}");
    }
}
