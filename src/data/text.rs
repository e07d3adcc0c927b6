//! Where text comes from: the built-in novels, a file, or a folder of files.
//!
//! # Which text validates
//!
//! - Built in: *Persuasion*; the five other novels are trained on.
//! - A folder with `valid.txt` (or `valid.md`): that file.
//! - Otherwise: a share of the tokens at the end, at least one block.
//!
//! In a folder, all `.txt` and `.md` files below it are documents, sorted by path; hidden files and
//! folders, and links to folders, are passed over. If `train.txt` is in it, that file alone is
//! trained on; `test.txt` never is.
//!
//! A `.jsonl` file holds rows instead of a text, and so does a folder with `train.jsonl` or without any
//! text but a README or licence: there `train.jsonl`, `valid.jsonl` and `test.jsonl` are what they say.
//! A folder with both is refused, unless a file named `train` says which.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The built-in novels that are trained on, by name and text.
const NOVELS: [(&str, &str); 5] = [
    ("emma.txt", include_str!("../../assets/corpus/emma.txt")),
    ("mansfield-park.txt", include_str!("../../assets/corpus/mansfield-park.txt")),
    ("northanger-abbey.txt", include_str!("../../assets/corpus/northanger-abbey.txt")),
    ("pride-and-prejudice.txt", include_str!("../../assets/corpus/pride-and-prejudice.txt")),
    ("sense-and-sensibility.txt", include_str!("../../assets/corpus/sense-and-sensibility.txt")),
];
const HELD_OUT: (&str, &str) =
    ("persuasion.txt", include_str!("../../assets/corpus/persuasion.txt"));

/// What the documents hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Running text.
    Text,
    /// A JSON object a line.
    Rows,
}

impl Format {
    fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["txt", "md"],
            Self::Rows => &["jsonl"],
        }
    }
}

/// Whether a path ends in one of some extensions.
fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|found| extensions.iter().any(|e| found.eq_ignore_ascii_case(e)))
}

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A text in the binary.
    Builtin {
        /// Its file name in `assets/corpus`.
        name: &'static str,
        /// The text.
        text: &'static str,
    },
    /// A file, read when it is needed.
    File {
        /// Its path.
        path: PathBuf,
        /// Its length when it was found.
        bytes: u64,
    },
}

impl Document {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Builtin { text, .. } => text.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    /// The path for messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Builtin { name, .. } => Path::new(name),
            Self::File { path, .. } => path,
        }
    }

    /// Opens the text for reading from its start.
    pub fn open(&self) -> Result<Box<dyn Read>> {
        match self {
            Self::Builtin { text, .. } => Ok(Box::new(text.as_bytes())),
            Self::File { path, .. } => {
                Ok(Box::new(File::open(path).map_err(Error::io("read", path))?))
            }
        }
    }
}

/// The text that validates.
#[derive(Debug, Clone, PartialEq)]
pub enum Validation {
    /// Documents of its own.
    Documents(Vec<Document>),
    /// This share of the training tokens, at their end, at least one block; above 0, below 1.
    ShareAtEnd(f64),
}

/// The texts of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Corpus {
    /// What the user calls it: `builtin` or the path.
    pub source: String,
    /// What its documents hold.
    pub format: Format,
    /// The texts that are trained on, in order.
    pub train: Vec<Document>,
    /// The text that validates.
    pub validation: Validation,
    /// Rows that are kept for a test after all training, if there are any.
    pub test: Option<Document>,
}

impl Corpus {
    /// The five novels, with *Persuasion* to validate.
    pub fn builtin() -> Self {
        let document = |(name, text)| Document::Builtin { name, text };
        Self {
            source: "builtin".to_owned(),
            format: Format::Text,
            train: NOVELS.map(document).to_vec(),
            validation: Validation::Documents(vec![document(HELD_OUT)]),
            test: None,
        }
    }

    /// The corpus that a user names: `builtin`, a text file, or a folder.
    ///
    /// `valid_fraction` is the share held out at the end where nothing else validates.
    /// Errors: [`Error::Config`] for an impossible share, else as [`Corpus::from_path`].
    pub fn open(source: &str, valid_fraction: f64) -> Result<Self> {
        if source == "builtin" {
            return Ok(Self::builtin());
        }
        Self::from_path(Path::new(source), valid_fraction)
    }

    /// The corpus of a file of text or rows, or of a folder of such files.
    ///
    /// Errors: [`Error::File`] or [`Error::Io`] for what is missing, empty or no text.
    pub fn from_path(path: &Path, valid_fraction: f64) -> Result<Self> {
        if !(valid_fraction > 0.0 && valid_fraction < 1.0) {
            return Err(Error::config(
                format!("valid-fraction is {valid_fraction}, expected above 0 and below 1"),
                "0.05 holds out the last twentieth",
            ));
        }
        let metadata = fs::metadata(path).map_err(Error::named("read", path))?;
        let Folder { format, train, valid, test } = if metadata.is_dir() {
            folder_documents(path)?
        } else if metadata.is_file() {
            let document = Document::File { path: path.to_path_buf(), bytes: metadata.len() };
            Folder { format: file_format(path)?, train: vec![document], valid: None, test: None }
        } else {
            return Err(Error::file(
                path,
                "is neither a file nor a folder",
                "give a text file or a folder of .txt and .md files",
            ));
        };
        let validation = match valid {
            Some(document) => Validation::Documents(keep_texts(path, vec![document])?),
            None => Validation::ShareAtEnd(valid_fraction),
        };
        let train = keep_texts(path, train)?;
        Ok(Self { source: path.display().to_string(), format, train, validation, test })
    }
}

/// Leaves out empty files; nothing but empty files is an error.
fn keep_texts(path: &Path, documents: Vec<Document>) -> Result<Vec<Document>> {
    let only = documents.first().map(|document| document.path().to_path_buf());
    let mut kept = Vec::with_capacity(documents.len());
    let mut empty = Vec::new();
    for document in documents {
        if document.bytes() == 0 { &mut empty } else { &mut kept }.push(document);
    }
    if kept.is_empty() {
        let path = only.as_deref().unwrap_or(path);
        return Err(Error::file(path, "is empty (0 bytes)", "give a file with text in it"));
    }
    for document in empty {
        tracing::warn!("{} is empty and is left out", document.path().display());
    }
    Ok(kept)
}

/// What a single file holds, by its name.
fn file_format(path: &Path) -> Result<Format> {
    if has_extension(path, Format::Rows.extensions()) {
        return Ok(Format::Rows);
    }
    if has_extension(path, &["json"]) {
        return Err(Error::file(
            path,
            "is a JSON document, not rows or text",
            "write one object a line into a .jsonl file, for example with \
             `jq -c '.[]' data.json > data.jsonl`",
        ));
    }
    Ok(Format::Text)
}

/// The documents of a folder.
struct Folder {
    format: Format,
    /// Those to train on.
    train: Vec<Document>,
    /// The one that validates.
    valid: Option<Document>,
    /// The one that nothing sees before the end.
    test: Option<Document>,
}

fn folder_documents(folder: &Path) -> Result<Folder> {
    let (mut texts, mut rows) = (Vec::new(), Vec::new());
    collect(folder, Format::Text, &mut texts)?;
    collect(folder, Format::Rows, &mut rows)?;
    let format = folder_format(folder, &texts, &rows)?;
    let mut found = if format == Format::Rows { rows } else { texts };
    // By components, so that the order is the same wherever the folder lies and on every system.
    found.sort_by(|a, b| a.path().components().cmp(b.path().components()));
    if found.is_empty() {
        return Err(Error::file(
            folder,
            "has no .txt, .md or .jsonl file in it (hidden files do not count)",
            "put text files into the folder, or name one file",
        ));
    }

    let is_named = |document: &Document, stem: &str| {
        document.path().parent() == Some(folder)
            && document.path().file_stem().is_some_and(|found| found == stem)
    };
    let named = |stem: &str| found.iter().find(|document| is_named(document, stem)).cloned();
    let (valid, test) = (named("valid"), named("test"));
    found.retain(|document| !is_named(document, "valid") && !is_named(document, "test"));
    if let Some(train) = found.iter().find(|document| is_named(document, "train")).cloned() {
        found = vec![train];
    }
    if found.is_empty() {
        return Err(Error::file(
            folder,
            "has text to validate or test and none to train on",
            "add train.txt or train.jsonl, or other .txt, .md or .jsonl files",
        ));
    }
    let test = test.filter(|document| format == Format::Rows && document.bytes() > 0);
    Ok(Folder { format, train: found, valid, test })
}

/// Which of a folder's files are its data. What only tells of data (a README, a licence) is no text to train on where
/// there are rows.
///
/// Errors: texts and rows, and no file named `train` that says which.
fn folder_format(folder: &Path, texts: &[Document], rows: &[Document]) -> Result<Format> {
    if rows.is_empty() {
        return Ok(Format::Text);
    }
    if folder.join("train.jsonl").is_file() {
        return Ok(Format::Rows);
    }
    let Some(text) = texts.iter().find(|text| !tells_of_data(text.path())) else {
        return Ok(Format::Rows);
    };
    if ["train.txt", "train.md"].iter().any(|name| folder.join(name).is_file()) {
        return Ok(Format::Text);
    }
    let row = rows.first().map_or(folder, Document::path);
    Err(Error::file(
        folder,
        format!("has rows ({}) and texts ({})", row.display(), text.path().display()),
        "name one file, move one kind away, or call what to train on train.jsonl or train.txt",
    ))
}

fn tells_of_data(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    ["readme", "license", "licence", "notice", "changelog"]
        .iter()
        .any(|name| stem.eq_ignore_ascii_case(name))
}

/// Adds the files of a format below a folder, in no particular order.
fn collect(folder: &Path, format: Format, found: &mut Vec<Document>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // The type without following links: a link to a folder could lead round in a circle.
        if entry.file_type().map_err(Error::io("read", &path))?.is_dir() {
            collect(&path, format, found)?;
            continue;
        }
        if !has_extension(&path, format.extensions()) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(Error::io("read", &path))?;
        if metadata.is_file() {
            found.push(Document::File { path, bytes: metadata.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(documents: &[Document], folder: &Path) -> Vec<String> {
        documents
            .iter()
            .map(|document| {
                let path = document.path().strip_prefix(folder).unwrap();
                path.to_str().unwrap().replace('\\', "/")
            })
            .collect()
    }

    fn folder_with(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        folder
    }

    #[test]
    fn the_builtin_corpus_holds_out_persuasion() {
        let corpus = Corpus::builtin();
        assert_eq!(corpus.train.len(), 5);
        assert_eq!(corpus.train.iter().map(Document::bytes).sum::<u64>(), 3_558_175);
        let Validation::Documents(valid) = corpus.validation else { panic!("documents") };
        assert_eq!(valid[0].path(), Path::new("persuasion.txt"));
        assert!(!corpus.train.contains(&valid[0]));
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_paths() {
        let folder =
            folder_with(&["b.txt", "a/z.md", "a/b/c.TXT", ".hidden.txt", ".git/x.txt", "c.rs"]);
        let corpus = Corpus::from_path(folder.path(), 0.1).unwrap();
        assert_eq!(names(&corpus.train, folder.path()), ["a/b/c.TXT", "a/z.md", "b.txt"]);
        assert_eq!(corpus.validation, Validation::ShareAtEnd(0.1));
    }

    #[test]
    fn files_named_valid_and_train_are_what_they_say() {
        let folder = folder_with(&["valid.txt", "test.txt", "a.txt", "sub/valid.txt"]);
        let corpus = Corpus::from_path(folder.path(), 0.1).unwrap();
        assert_eq!(names(&corpus.train, folder.path()), ["a.txt", "sub/valid.txt"]);
        let Validation::Documents(valid) = &corpus.validation else { panic!("documents") };
        assert_eq!(names(valid, folder.path()), ["valid.txt"]);

        fs::write(folder.path().join("train.md"), "text").unwrap();
        let corpus = Corpus::from_path(folder.path(), 0.1).unwrap();
        assert_eq!(names(&corpus.train, folder.path()), ["train.md"]);
    }

    #[test]
    fn a_folder_with_only_text_to_validate_is_an_error() {
        let folder = folder_with(&["valid.txt"]);
        let error = Corpus::from_path(folder.path(), 0.1).unwrap_err();
        assert!(error.to_string().contains("none to train on"), "{error}");
    }

    #[test]
    fn an_empty_file_among_others_is_left_out_and_alone_is_an_error() {
        let folder = folder_with(&["a.txt"]);
        let empty = folder.path().join("empty.txt");
        fs::write(&empty, "").unwrap();
        assert_eq!(Corpus::from_path(folder.path(), 0.1).unwrap().train.len(), 1);
        let error = Corpus::from_path(&empty, 0.1).unwrap_err();
        assert!(error.to_string().ends_with("empty.txt: is empty (0 bytes)"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_to_folders_do_not_lead_round_in_circles() {
        let folder = folder_with(&["a.txt"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
        assert_eq!(Corpus::from_path(folder.path(), 0.1).unwrap().train.len(), 1);
    }

    #[test]
    fn a_folder_of_rows_has_its_files_by_name() {
        let folder = folder_with(&["train.jsonl", "valid.jsonl", "test.jsonl", "notes.md"]);
        let corpus = Corpus::from_path(folder.path(), 0.1).unwrap();
        assert_eq!(corpus.format, Format::Rows);
        assert_eq!(names(&corpus.train, folder.path()), ["train.jsonl"]);
        assert_eq!(corpus.test.unwrap().path(), folder.path().join("test.jsonl"));
        let Validation::Documents(valid) = corpus.validation else { panic!("documents") };
        assert_eq!(names(&valid, folder.path()), ["valid.jsonl"]);

        let folder = folder_with(&["a.jsonl", "sub/b.jsonl"]);
        let corpus = Corpus::from_path(folder.path(), 0.1).unwrap();
        assert_eq!(names(&corpus.train, folder.path()), ["a.jsonl", "sub/b.jsonl"]);
    }

    #[test]
    fn rows_win_over_a_readme_and_other_texts_beside_them_are_an_error() {
        let folder = folder_with(&["train-00000.jsonl", "README.md", "sub/license.txt"]);
        let corpus = Corpus::from_path(folder.path(), 0.1).unwrap();
        assert_eq!(
            (corpus.format, names(&corpus.train, folder.path())),
            (Format::Rows, vec!["train-00000.jsonl".into()])
        );
        let folder = folder_with(&["a.jsonl", "a.txt"]);
        let error = Corpus::from_path(folder.path(), 0.1).unwrap_err().to_string();
        assert!(error.contains("a.jsonl") && error.contains("a.txt"), "{error}");
        fs::write(folder.path().join("train.txt"), "text").unwrap();
        assert_eq!(Corpus::from_path(folder.path(), 0.1).unwrap().format, Format::Text);
        let folder = folder_with(&["README.md"]);
        assert_eq!(Corpus::from_path(folder.path(), 0.1).unwrap().format, Format::Text);
    }

    #[test]
    fn a_json_document_is_not_taken_for_text() {
        let folder = folder_with(&["a.json"]);
        let error = Corpus::from_path(&folder.path().join("a.json"), 0.1).unwrap_err();
        assert!(error.to_string().ends_with("is a JSON document, not rows or text"), "{error}");
    }
}
