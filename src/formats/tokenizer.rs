//! Tokenizers: text to ids and back, through the `tokenizers` crate and its `tokenizer.json`.
//!
//! The file's bytes are kept as they came, so that a run can hand on exactly the tokenizer that it
//! used, and its hash says which one that was.

use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::atomic::write_atomically;
use super::chat::{self, ChatTemplate};
use super::json::{Fields, read_bytes, read_object};
use crate::error::{Error, Result};

mod byte_level;
mod stream;

use byte_level::byte_level_json;
pub use stream::StreamDecoder;

const FILE: &str = "tokenizer.json";
const CONFIG_FILE: &str = "tokenizer_config.json";
const BUILTIN_NAME: &str = "built-in tokenizer";
const END_OF_TEXT: &str = "<|endoftext|>";

/// Files that belong to a tokenizer and are handed on with it: special tokens, the chat template, the forms of older
/// tokenizers, and what ends a text in chats.
const COMPANIONS: [&str; 8] = [
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// As in `hf_config`: an embedding of more rows is no model, and ids stay far from 31 bits.
const MAX_VOCAB_SIZE: usize = 1 << 24;

/// Names that end a text, tried in this order where `tokenizer_config.json` names none.
const EOS_NAMES: [&str; 7] =
    [END_OF_TEXT, "</s>", "<|end_of_text|>", "<|im_end|>", "<eos>", "[EOS]", "[SEP]"];

/// Names that begin a text, likewise.
const BOS_NAMES: [&str; 7] =
    ["<s>", "<|begin_of_text|>", "<|im_start|>", "<bos>", "[BOS]", "[CLS]", END_OF_TEXT];

/// A tokenizer with the bytes of its file and its special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Box<tokenizers::Tokenizer>,
    /// `tokenizer.json` as it was read.
    json: Vec<u8>,
    /// `tokenizer_config.json` as it was read, where there is one.
    config: Option<Vec<u8>>,
    /// What lay beside it, by name, as it was read.
    companions: Vec<(&'static str, Vec<u8>)>,
    vocab_size: usize,
    bos: Option<u32>,
    eos: u32,
    hash: String,
    prefix: Option<Prefix>,
}

/// How a tokenizer's names of tokens write a space.
const SPACES: [&str; 2] = ["▁", "Ġ"];

/// When a tokenizer puts a space before a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    /// Before every text (the normaliser `Prepend`).
    Always,
    /// Where there is none (the pre-tokenizers `Metaspace`, and `ByteLevel` with `add_prefix_space`).
    BeforeNone,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, given itself or as the folder that holds it, and the special tokens
    /// from `tokenizer_config.json` beside it, where that exists.
    ///
    /// Errors: [`Error::Io`], or [`Error::File`] if a file is not what it should be or no token
    /// ends a text.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let mut path = path.as_ref().to_path_buf();
        if path.is_dir() {
            path.push(FILE);
        }
        let config_path = path.with_file_name(CONFIG_FILE);
        let config = if config_path.exists() {
            let object = read_object(&config_path)?;
            Some((read_bytes(&config_path)?, object))
        } else {
            None
        };
        let tokenizer = Self::new(
            &path,
            read_bytes(&path)?,
            config.map(|(bytes, object)| (config_path.as_path(), bytes, object)),
        )?;
        let mut companions = Vec::new();
        for name in COMPANIONS {
            let path = path.with_file_name(name);
            if path.is_file() {
                companions.push((name, read_bytes(&path)?));
            }
        }
        Ok(Self { companions, ..tokenizer })
    }

    /// The tokenizer in the binary: byte-level BPE of 4,096 entries, made for the built-in texts.
    pub fn builtin() -> Result<Self> {
        let bytes = include_bytes!("../../assets/tokenizer-4096.json");
        Self::new(Path::new(BUILTIN_NAME), bytes.to_vec(), None)
    }

    /// One token a byte: id 0 ends a text, byte b has the id b + 1; 257 entries.
    pub fn bytes() -> Result<Self> {
        Self::new(Path::new("byte tokenizer"), byte_level_json().to_string().into_bytes(), None)
    }

    /// A tokenizer from the contents of both files, which another file holds in another form; `path` is that
    /// file, for messages.
    pub(super) fn from_parts(
        path: &Path,
        json: Vec<u8>,
        config: Map<String, Value>,
    ) -> Result<Self> {
        let bytes = format!("{:#}\n", Value::Object(config.clone())).into_bytes();
        Self::new(path, json, Some((path, bytes, config)))
    }

    fn new(
        path: &Path,
        json: Vec<u8>,
        config: Option<(&Path, Vec<u8>, Map<String, Value>)>,
    ) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(&json).map_err(|e| {
            Error::file(
                path,
                format!("is not a tokenizer that can be read: {e}"),
                "use the tokenizer.json of a Hugging Face model, downloaded completely",
            )
        })?;
        // Many files carry the settings of the last call; we cut and fill texts ourselves.
        inner.with_truncation(None).map_err(|e| wrong_call(path, &e))?;
        inner.with_padding(None);

        // Ids may have gaps, so the largest counts, not the number of entries.
        let vocab_size =
            inner.get_vocab(true).values().max().map_or(0, |largest| *largest as usize + 1);
        if vocab_size > MAX_VOCAB_SIZE {
            return Err(Error::file(
                path,
                format!("has the id {}, at most {} is allowed", vocab_size - 1, MAX_VOCAB_SIZE - 1),
                "use the tokenizer.json of a Hugging Face model, downloaded completely",
            ));
        }
        let named = |key: &str| match &config {
            Some((path, _, object)) => special_token(path, object, key, &inner),
            None => Ok(None),
        };
        let common = |names: &[&str]| names.iter().find_map(|name| inner.token_to_id(name));
        let bos = named("bos_token")?.or_else(|| common(&BOS_NAMES));
        let eos = named("eos_token")?.or_else(|| common(&EOS_NAMES)).ok_or_else(|| {
            Error::file(
                path,
                "has no token that ends a text",
                format!("put a {CONFIG_FILE} with \"eos_token\" beside it"),
            )
        })?;
        let hash = blake3::hash(&json).to_hex().to_string();
        let config = config.map(|(_, bytes, _)| bytes);
        Ok(Self {
            prefix: Self::find_prefix(&inner),
            inner: Box::new(inner),
            json,
            config,
            companions: Vec::new(),
            vocab_size,
            bos,
            eos,
            hash,
        })
    }

    /// The ids of a text; special tokens written in it are recognised, none is added.
    ///
    /// Errors: [`Error::Config`] for a text that the vocabulary cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| cannot_express(&e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text that goes on from another, which ends in a letter or digit: without the space that some
    /// tokenizers put before every text.
    ///
    /// Errors: as [`Tokenizer::encode`].
    pub fn encode_rest(&self, text: &str) -> Result<Vec<u32>> {
        let Some(prefix) = self.prefix else { return self.encode(text) };
        match text.strip_prefix(' ') {
            // The space that is put before the rest is the one that is left out here.
            Some(rest) if prefix == Prefix::Always && !rest.is_empty() => self.encode(rest),
            Some(_) => self.encode(text),
            None => {
                let mut ids = self.encode(text)?;
                let is_space = |id: &u32| {
                    self.name_of(*id).is_some_and(|name| SPACES.iter().any(|space| name == *space))
                };
                if ids.len() > 1 && ids.first().is_some_and(is_space) {
                    ids.remove(0);
                }
                Ok(ids)
            }
        }
    }

    /// Whether a space is put before every text, found by what becomes of a letter.
    fn find_prefix(inner: &tokenizers::Tokenizer) -> Option<Prefix> {
        let ids = |text| inner.encode_fast(text, false).ok().map(|e| e.get_ids().to_vec());
        let letter = ids("a")?;
        let name = letter.first().and_then(|id| inner.id_to_token(*id))?;
        SPACES.iter().any(|space| name.starts_with(space)).then(|| {
            if ids(" a").as_ref() == Some(&letter) { Prefix::BeforeNone } else { Prefix::Always }
        })
    }

    /// The ids of a text, each with the bytes of the text that it stands for; none of them for a special token
    /// that is added because the tokenizer's own rules say so (a begin of text, mostly), which `with_special` asks for.
    ///
    /// Errors: as [`Tokenizer::encode`].
    pub fn encode_with_places(
        &self,
        text: &str,
        with_special: bool,
    ) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = self.inner.encode(text, with_special).map_err(|e| cannot_express(&e))?;
        let places = encoding.get_offsets().iter().map(|(begin, end)| *begin..*end);
        Ok(encoding.get_ids().iter().copied().zip(places).collect())
    }

    /// The id of a token, where the vocabulary has it.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The name of a token, where there is one of this id.
    pub fn name_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The text of ids, special tokens included; bytes that are not UTF-8 become U+FFFD.
    ///
    /// Errors: [`Error::Config`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|e| cannot_decode(&e))
    }

    /// Turns ids into text one at a time.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that begins a text, where there is one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, and stands between documents.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Whether the tokenizer's own rule puts the beginning token before a text. [`Tokenizer::encode`] does not.
    pub fn adds_bos(&self) -> bool {
        let ruled = self.inner.encode_fast("", true).ok();
        self.bos.is_some() && ruled.and_then(|e| e.get_ids().first().copied()) == self.bos
    }

    /// The chat template that came with the tokenizer: in `chat_template.jinja` beside it, or in its configuration.
    ///
    /// Errors: [`Error::File`] or [`Error::Config`] for a template that cannot be read.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let config = self.config_object();
        let fields = Fields::new(Path::new(CONFIG_FILE), &config);
        let source = match self.companion("chat_template.jinja") {
            Some(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            None => chat::configured(fields)?,
        };
        let Some(source) = source else { return Ok(None) };
        let token = |key| chat::token_text(&fields, key);
        let (bos, eos) = (token("bos_token")?, token("eos_token")?);
        // Where nothing says which token ends a text, this is the one that was found.
        let eos = eos.or_else(|| self.name_of(self.eos));
        ChatTemplate::new(&source, bos.as_deref(), eos.as_deref()).map(Some)
    }

    /// Takes a chat template in the place of its own.
    pub fn set_chat_template(&mut self, source: &str) {
        const NAME: &str = "chat_template.jinja";
        self.companions.retain(|(name, _)| *name != NAME);
        self.companions.push((NAME, source.as_bytes().to_vec()));
    }

    /// The ids that end a text besides [`Tokenizer::eos`], as a `generation_config.json` beside the tokenizer says.
    ///
    /// Errors: [`Error::File`] for a file that is not what it should be.
    pub fn generation_ends(&self) -> Result<Vec<u32>> {
        let path = Path::new("generation_config.json");
        let Some(bytes) = self.companion("generation_config.json") else { return Ok(Vec::new()) };
        let object: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| {
            Error::file(path, format!("is not a JSON object: {error}"), "download it again")
        })?;
        Fields::new(path, &object).ids("eos_token_id")
    }

    /// The bytes of `tokenizer.json`.
    pub(super) fn json(&self) -> &[u8] {
        &self.json
    }

    /// The object of `tokenizer_config.json`; empty where there is none.
    pub(super) fn config_object(&self) -> Map<String, Value> {
        let bytes = self.config.as_deref().unwrap_or_default();
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// blake3 of `tokenizer.json`, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// A file that lay beside `tokenizer.json`, such as `chat_template.jinja` or `generation_config.json`.
    pub fn companion(&self, name: &str) -> Option<&[u8]> {
        let found = self.companions.iter().find(|(own, _)| *own == name);
        found.map(|(_, bytes)| bytes.as_slice())
    }

    /// Writes `tokenizer.json` (the bytes that were read), `tokenizer_config.json` and what lay beside them into a
    /// folder. A `generation_config.json` takes the place of one that is there.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        write_atomically(folder.join(FILE), &self.json)?;
        let config = self.config.clone().unwrap_or_else(|| self.config_json());
        write_atomically(folder.join(CONFIG_FILE), &config)?;
        for (name, bytes) in &self.companions {
            write_atomically(folder.join(name), bytes)?;
        }
        Ok(())
    }

    /// A `tokenizer_config.json` for a tokenizer that came without one.
    fn config_json(&self) -> Vec<u8> {
        let name = |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id));
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name(self.bos),
            "eos_token": name(Some(self.eos)),
            "add_prefix_space": false,
            "clean_up_tokenization_spaces": false,
        });
        format!("{config:#}\n").into_bytes()
    }
}

/// The id of a special token that `tokenizer_config.json` names, as a text or as an object with
/// `content`.
fn special_token(
    path: &Path,
    object: &Map<String, Value>,
    key: &str,
    tokenizer: &tokenizers::Tokenizer,
) -> Result<Option<u32>> {
    let fields = Fields::new(path, object);
    let name = match fields.get(key) {
        None => return Ok(None),
        Some(Value::String(name)) => name,
        Some(value) => match value.get("content") {
            Some(Value::String(name)) => name,
            _ => return Err(fields.wrong(key, value, "a text or an object with \"content\"")),
        },
    };
    match tokenizer.token_to_id(name) {
        Some(id) => Ok(Some(id)),
        None => Err(Error::file(
            path,
            format!("{key} is \"{name}\", which the tokenizer does not have"),
            "use the tokenizer.json and tokenizer_config.json of the same model",
        )),
    }
}

fn cannot_express(e: &tokenizers::Error) -> Error {
    Error::config(
        format!("the tokenizer cannot express the text: {e}"),
        "use a byte-level tokenizer, for example the built-in one",
    )
}

fn cannot_decode(e: &tokenizers::Error) -> Error {
    Error::config(
        format!("the tokenizer cannot turn ids into text: {e}"),
        "use the tokenizer that belongs to the model",
    )
}

fn wrong_call(path: &Path, e: &tokenizers::Error) -> Error {
    Error::file(path, format!("cannot be set up: {e}"), "use another tokenizer.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const TEXTS: [&str; 6] = [
        "",
        " ",
        "It is a truth universally acknowledged,\n\tthat  a single man",
        "£20,000 – naïve café, 東京 🦀👩‍👩‍👧 \u{0}\u{7f}",
        "one\r\ntwo\n\n\n",
        "<|endoftext|>",
    ];

    #[test]
    fn the_builtin_tokenizer_gives_back_every_text() {
        let tokenizer = Tokenizer::builtin().unwrap();
        assert_eq!(tokenizer.vocab_size(), 4096);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), 0));
        for text in TEXTS {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
        assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [0]);
    }

    #[test]
    fn the_byte_tokenizer_gives_one_id_a_byte() {
        let tokenizer = Tokenizer::bytes().unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.eos()), (257, 0));
        for text in &TEXTS[..5] {
            let ids = tokenizer.encode(text).unwrap();
            let bytes: Vec<u32> = text.bytes().map(|b| u32::from(b) + 1).collect();
            assert_eq!(ids, bytes, "{text}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), *text);
        }
    }

    #[test]
    fn a_stream_shows_the_same_text_and_never_half_a_character() {
        for tokenizer in [Tokenizer::builtin().unwrap(), Tokenizer::bytes().unwrap()] {
            for text in TEXTS {
                let mut stream = tokenizer.stream();
                let mut shown = String::new();
                for id in tokenizer.encode(text).unwrap() {
                    let piece = stream.push(id).unwrap();
                    assert!(!piece.contains(char::REPLACEMENT_CHARACTER), "{text}: {piece}");
                    shown += &piece;
                }
                shown += &stream.finish().unwrap();
                assert_eq!(shown, text);
            }
        }
    }

    #[test]
    fn a_stream_of_bytes_that_are_no_text_does_not_wait_forever() {
        let tokenizer = Tokenizer::bytes().unwrap();
        let mut stream = tokenizer.stream();
        let mut shown = String::new();
        for _ in 0..100 {
            shown += &stream.push(0x80 + 1).unwrap();
        }
        let length = shown.chars().count();
        assert!((92..=100).contains(&length), "{length}");
        shown += &stream.push(u32::from(b'a') + 1).unwrap();
        assert!(shown.ends_with("\u{FFFD}a"), "{shown}");
        assert_eq!(shown.chars().count(), 101);
    }

    #[test]
    fn an_unfinished_character_at_the_end_is_shown_as_replaced() {
        let tokenizer = Tokenizer::bytes().unwrap();
        let mut stream = tokenizer.stream();
        assert_eq!(stream.push(0xE2 + 1).unwrap(), "");
        assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::builtin().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let again = Tokenizer::from_file(folder.path()).unwrap();
        assert_eq!(again.hash(), tokenizer.hash());
        assert_eq!((again.bos(), again.eos()), (tokenizer.bos(), tokenizer.eos()));
        let other = tempfile::tempdir().unwrap();
        again.save(other.path()).unwrap();
        for file in [FILE, CONFIG_FILE] {
            assert_eq!(
                fs::read(folder.path().join(file)).unwrap(),
                fs::read(other.path().join(file)).unwrap()
            );
        }
    }

    #[test]
    fn special_tokens_come_from_the_configuration_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut json = byte_level_json();
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": 257, "content": "<end>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }));
        fs::write(&path, json.to_string()).unwrap();
        assert_eq!(Tokenizer::from_file(&path).unwrap().eos(), 0);
        let config = folder.path().join(CONFIG_FILE);
        fs::write(&config, r#"{"eos_token": {"content": "<end>"}, "bos_token": null}"#).unwrap();
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        assert_eq!((tokenizer.eos(), tokenizer.vocab_size()), (257, 258));
        fs::write(&config, r#"{"eos_token": "<stop>"}"#).unwrap();
        let error = Tokenizer::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("eos_token is \"<stop>\""), "{error}");
    }

    #[test]
    fn settings_that_cut_texts_are_switched_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut json = byte_level_json();
        json["truncation"] = json!({
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
        });
        fs::write(&path, json.to_string()).unwrap();
        assert_eq!(Tokenizer::from_file(&path).unwrap().encode("abcdef").unwrap().len(), 6);
    }
}
