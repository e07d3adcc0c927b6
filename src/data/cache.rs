//! The tokens of a corpus, kept on disk so that the second run starts at once.
//!
//! The file's name is a hash over the texts, the tokenizer and the version of this format, so a
//! change of any of them is another file. A file has 64 bytes of header (magic, version, width of
//! an id, count, blake3 of the ids) and then the ids. One that is not intact is written again.
//! Where the folder cannot be written, the tokens stay in memory.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::pieces::{PieceError, Pieces};
use super::text::Document;
use super::tokens::{Tokens, append_ids, id_bytes};
use crate::error::{Error, Result};
use crate::formats::atomic::AtomicFile;
use crate::formats::tokenizer::Tokenizer;

const MAGIC: &[u8; 8] = b"FRTOKENS";
/// Changes with the layout, and with anything that makes other tokens of the same text.
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 64;

/// Pieces that are encoded at a time by all threads together.
const PIECES_AT_A_TIME: usize = 16;

/// Where the tokens of corpora are kept.
#[derive(Debug, Clone)]
pub struct TokenCache {
    folder: Option<PathBuf>,
}

/// Tokens with what they were made of.
#[derive(Debug)]
pub struct CachedTokens {
    /// The tokens of all documents, each ended by the end-of-text token.
    pub tokens: Tokens,
    /// Bytes of text.
    pub bytes: u64,
    /// blake3 of the text in hexadecimal; of several documents, blake3 over their hashes in order.
    pub hash: String,
}

impl TokenCache {
    /// The user's cache: `$XDG_CACHE_HOME/fullrank/tokens`, else `~/.cache/fullrank/tokens` (on
    /// Windows `%LOCALAPPDATA%\fullrank\tokens`); memory if there is no such place.
    pub fn of_user() -> Self {
        // The XDG rules say that a relative path is to be ignored.
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("LOCALAPPDATA").filter(|_| cfg!(windows)))
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        Self { folder: base.map(|base| base.join("fullrank").join("tokens")) }
    }

    /// A cache in a folder of its own, made when it is needed.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// No cache: tokens stay in memory.
    pub fn in_memory() -> Self {
        Self { folder: None }
    }

    /// The tokens of some documents, from the cache or made now.
    ///
    /// Errors: those of reading the documents; never those of the cache.
    pub fn tokens(&self, documents: &[Document], tokenizer: &Tokenizer) -> Result<CachedTokens> {
        let hashes = hash_documents(documents)?;
        let bytes = documents.iter().map(Document::bytes).sum();
        let mut texts = Texts { documents, hashes: &hashes.each, tokenizer };
        let tokens = self.store(&key(&hashes.all, tokenizer), &mut texts)?;
        Ok(CachedTokens { tokens, bytes, hash: hashes.all.to_hex().to_string() })
    }

    /// The ids of a source, kept under a key that stands for all that decides them.
    pub(super) fn store(&self, key: &str, source: &mut dyn Source) -> Result<Tokens> {
        match &self.folder {
            None => in_memory(source),
            Some(folder) => in_cache(source, folder, &folder.join(format!("{key}.bin"))),
        }
    }

    /// Where the tokens are kept, unless they stay in memory.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }
}

/// Hashes of some documents.
pub(super) struct Hashes {
    /// One for each.
    pub each: Vec<blake3::Hash>,
    /// That of the only one; of several, blake3 over their hashes in order.
    pub all: blake3::Hash,
}

pub(super) fn hash_documents(documents: &[Document]) -> Result<Hashes> {
    let each = documents.iter().map(hash_document).collect::<Result<Vec<_>>>()?;
    let all = match each.as_slice() {
        [only] => *only,
        several => {
            let mut hasher = blake3::Hasher::new();
            for hash in several {
                hasher.update(hash.as_bytes());
            }
            hasher.finalize()
        }
    };
    Ok(Hashes { each, all })
}

/// The name of a cache file: everything that decides its content.
fn key(text_hash: &blake3::Hash, tokenizer: &Tokenizer) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(MAGIC);
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(tokenizer.hash().as_bytes());
    hasher.update(&tokenizer.eos().to_le_bytes());
    hasher.update(text_hash.as_bytes());
    hasher.finalize().to_hex().to_string()
}

fn hash_document(document: &Document) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut reader = document.open()?;
    io::copy(&mut reader, &mut hasher).map_err(Error::io("read", document.path()))?;
    Ok(hasher.finalize())
}

/// Why tokens could not be made: the texts are wrong, or the cache's file cannot be written.
pub(super) enum BuildError {
    Text(Error),
    Cache(Error),
}

impl From<Error> for BuildError {
    fn from(error: Error) -> Self {
        Self::Text(error)
    }
}

/// What takes ids as they are made.
pub(super) type Sink<'a> = dyn FnMut(&[u32]) -> Result<(), BuildError> + 'a;

/// What can be turned into ids.
pub(super) trait Source {
    /// Bytes of a stored id.
    fn width(&self) -> usize;
    /// Bytes that are read.
    fn bytes(&self) -> u64;
    /// Makes the ids from the beginning, in order.
    fn tokenize(&mut self, sink: &mut Sink<'_>) -> Result<(), BuildError>;
}

fn in_memory(source: &mut dyn Source) -> Result<Tokens> {
    let mut bytes = Vec::new();
    let width = source.width();
    let made = source.tokenize(&mut |ids| {
        append_ids(&mut bytes, ids, width);
        Ok(())
    });
    match made {
        Ok(()) => Ok(Tokens::from_bytes(bytes, width)),
        Err(BuildError::Text(error) | BuildError::Cache(error)) => Err(error),
    }
}

/// Opens the cache's file, or writes it; falls back to memory.
fn in_cache(source: &mut dyn Source, folder: &Path, path: &Path) -> Result<Tokens> {
    match open_intact(path, source.width()) {
        Ok(Some(tokens)) => return Ok(tokens),
        Ok(None) => {}
        Err(reason) => {
            tracing::warn!("token cache {}: {reason}; writing it again", path.display());
        }
    }
    match write(source, folder, path) {
        Ok(tokens) => Ok(tokens),
        Err(BuildError::Text(error)) => Err(error),
        Err(BuildError::Cache(error)) => {
            let why = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string);
            let folder = folder.display();
            // The same words for each part of a corpus, so that they are said once.
            tracing::warn!("tokens stay in memory, as nothing can be kept in {folder}: {why}");
            in_memory(source)
        }
    }
}

/// Writes the cache's file and opens it.
fn write(source: &mut dyn Source, folder: &Path, path: &Path) -> Result<Tokens, BuildError> {
    let failed = |e| BuildError::Cache(Error::io("write", path)(e));
    let (bytes, width) = (source.bytes(), source.width());
    tracing::info!("encoding {bytes} bytes of text once; the tokens are kept for later runs");
    fs::create_dir_all(folder).map_err(failed)?;
    let mut file = AtomicFile::create(path).map_err(BuildError::Cache)?;
    file.file().write_all(&[0; HEADER_BYTES]).map_err(failed)?;

    let mut hasher = blake3::Hasher::new();
    let mut count = 0_u64;
    let mut bytes = Vec::new();
    source.tokenize(&mut |ids| {
        bytes.clear();
        append_ids(&mut bytes, ids, width);
        hasher.update(&bytes);
        count += ids.len() as u64;
        file.file().write_all(&bytes).map_err(failed)
    })?;

    let header = header(width, count, &hasher.finalize());
    file.file().seek(SeekFrom::Start(0)).map_err(failed)?;
    file.file().write_all(&header).map_err(failed)?;
    file.commit().map_err(BuildError::Cache)?;
    if let Ok(Some(tokens)) = open_intact(path, width) {
        Ok(tokens)
    } else {
        Err(failed(io::Error::other("the file is not what was just written")))
    }
}

/// The documents that are to become tokens.
struct Texts<'a> {
    documents: &'a [Document],
    hashes: &'a [blake3::Hash],
    tokenizer: &'a Tokenizer,
}

impl Source for Texts<'_> {
    fn width(&self) -> usize {
        id_bytes(self.tokenizer.vocab_size())
    }

    fn bytes(&self) -> u64 {
        self.documents.iter().map(Document::bytes).sum()
    }

    /// Encodes all documents in order, each followed by the end-of-text token; threads share the
    /// pieces of a document, and the ids come in the order of the text.
    fn tokenize(&mut self, sink: &mut Sink<'_>) -> Result<(), BuildError> {
        for (document, hash) in self.documents.iter().zip(self.hashes) {
            let mut hasher = blake3::Hasher::new();
            let reader = HashingReader { reader: document.open()?, hasher: &mut hasher };
            let mut pieces = Pieces::new(reader);
            let mut is_first = true;
            loop {
                let mut batch = Vec::with_capacity(PIECES_AT_A_TIME);
                while batch.len() < PIECES_AT_A_TIME {
                    match pieces.next_piece() {
                        Ok(Some(piece)) => batch.push(piece),
                        Ok(None) => break,
                        Err(error) => return Err(BuildError::Text(piece_error(document, error))),
                    }
                }
                if batch.is_empty() {
                    break;
                }
                let encode = |(index, piece): (usize, &String)| match index {
                    0 if is_first => self.tokenizer.encode(piece),
                    _ => self.tokenizer.encode_rest(piece),
                };
                let encoded: Vec<Result<Vec<u32>>> =
                    batch.par_iter().enumerate().map(encode).collect();
                is_first = false;
                for ids in encoded {
                    sink(&ids?)?;
                }
            }
            if hasher.finalize() != *hash {
                return Err(BuildError::Text(changed(document)));
            }
            sink(&[self.tokenizer.eos()])?;
        }
        Ok(())
    }
}

/// A document is not the one that the key was made of.
pub(super) fn changed(document: &Document) -> Error {
    Error::file(
        document.path(),
        "changed while it was being read",
        "start again when nothing writes to the file",
    )
}

/// Hashes what passes through, to see that the text is still the one that the key was made of.
pub(super) struct HashingReader<'a, R> {
    pub reader: R,
    pub hasher: &'a mut blake3::Hasher,
}

impl<R: Read> Read for HashingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

fn piece_error(document: &Document, error: PieceError) -> Error {
    match error {
        PieceError::Io(error) => Error::io("read", document.path())(error),
        PieceError::NotUtf8 { offset, line } => Error::file(
            document.path(),
            format!("is not UTF-8 text: wrong byte at offset {offset}, line {line}"),
            "convert it to UTF-8, for example with iconv, or leave it out if it is not text",
        ),
    }
}

fn header(width: usize, count: u64, hash: &blake3::Hash) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(width as u32).to_le_bytes());
    header[16..24].copy_from_slice(&count.to_le_bytes());
    header[32..].copy_from_slice(hash.as_bytes());
    header
}

/// Opens a cache file and checks all of it. `None` if there is none; a text if it is not intact.
fn open_intact(path: &Path, width: usize) -> Result<Option<Tokens>, String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let file_bytes = file.metadata().map_err(|e| e.to_string())?.len();
    let Some(data_bytes) = file_bytes.checked_sub(HEADER_BYTES as u64) else {
        return Err(format!("it has {file_bytes} bytes, the header alone has {HEADER_BYTES}"));
    };
    let mut found = [0; HEADER_BYTES];
    file.read_exact(&mut found).map_err(|e| e.to_string())?;
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut file, &mut hasher).map_err(|e| e.to_string())?;
    let count = data_bytes / width as u64;
    if found != header(width, count, &hasher.finalize()) || data_bytes % width as u64 != 0 {
        return Err(format!("its header does not fit its {file_bytes} bytes"));
    }
    let count = usize::try_from(count).map_err(|e| e.to_string())?;
    Ok(Some(Tokens::from_file(file, path, HEADER_BYTES as u64, width, count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(folder: &Path, name: &str, text: &[u8]) -> Document {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        Document::File { path, bytes: text.len() as u64 }
    }

    fn ids(tokens: &Tokens) -> Vec<i32> {
        let mut ids = Vec::new();
        tokens.read(0, tokens.len(), &mut ids).unwrap();
        ids
    }

    /// The only file in the cache's folder.
    fn cache_file(folder: &Path) -> PathBuf {
        let files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn documents_end_with_the_end_of_text_token() {
        let folder = tempfile::tempdir().unwrap();
        let documents = [document(folder.path(), "a", b"ab"), document(folder.path(), "b", b"c")];
        let tokenizer = Tokenizer::bytes().unwrap();
        let made = TokenCache::in_memory().tokens(&documents, &tokenizer).unwrap();
        assert_eq!(ids(&made.tokens), [98, 99, 0, 100, 0]);
        assert_eq!(made.bytes, 3);
    }

    #[test]
    fn the_cache_gives_the_same_tokens_as_memory() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let text = "It is a truth universally acknowledged.\n".repeat(20_000);
        let documents = [document(folder.path(), "a", text.as_bytes())];
        for tokenizer in [Tokenizer::bytes().unwrap(), Tokenizer::builtin().unwrap()] {
            let memory = TokenCache::in_memory().tokens(&documents, &tokenizer).unwrap();
            for _ in 0..2 {
                let cached = TokenCache::in_folder(&cache).tokens(&documents, &tokenizer).unwrap();
                assert_eq!(ids(&cached.tokens), ids(&memory.tokens));
                assert_eq!(cached.hash, blake3::hash(text.as_bytes()).to_hex().to_string());
            }
        }
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 2);
    }

    #[test]
    fn a_damaged_cache_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache_folder = folder.path().join("cache");
        let documents = [document(folder.path(), "a", b"some text")];
        let tokenizer = Tokenizer::bytes().unwrap();
        let cache = TokenCache::in_folder(&cache_folder);
        let expected = ids(&cache.tokens(&documents, &tokenizer).unwrap().tokens);
        let path = cache_file(&cache_folder);
        let good = fs::read(&path).unwrap();
        let mut damaged: Vec<Vec<u8>> =
            [0, 1, 63, 64, 65, good.len() - 1].map(|length| good[..length].to_vec()).to_vec();
        for at in [0, 8, 12, 16, 32, 64, good.len() - 1] {
            let mut copy = good.clone();
            copy[at] ^= 1;
            damaged.push(copy);
        }
        damaged.push([good.as_slice(), b"x"].concat());
        for bytes in damaged {
            fs::write(&path, bytes).unwrap();
            assert_eq!(ids(&cache.tokens(&documents, &tokenizer).unwrap().tokens), expected);
            assert_eq!(fs::read(cache_file(&cache_folder)).unwrap(), good);
        }
    }

    #[test]
    fn an_unusable_folder_leaves_the_tokens_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let documents = [document(folder.path(), "a", b"abc")];
        let file = folder.path().join("a");
        let cache = TokenCache::in_folder(file.join("tokens"));
        let made = cache.tokens(&documents, &Tokenizer::bytes().unwrap()).unwrap();
        assert_eq!(ids(&made.tokens), [98, 99, 100, 0]);
    }

    #[test]
    fn a_wrong_byte_is_an_error_and_leaves_no_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache_folder = folder.path().join("cache");
        let documents = [document(folder.path(), "latin1.txt", b"first\nna\xEFve")];
        let error = TokenCache::in_folder(&cache_folder)
            .tokens(&documents, &Tokenizer::bytes().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("latin1.txt: is not UTF-8 text: wrong byte at offset 8, line 2"));
        assert_eq!(fs::read_dir(&cache_folder).unwrap().count(), 0);
    }
}
