//! Writing GGUF files: the header with metadata and places first, then the tensors in their order.
//!
//! The values are given under Hugging Face names; one tensor is in memory at a time. The file appears
//! under its name when it is complete.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::super::atomic::AtomicFile;
use super::super::hf_config::{Family, HfConfig, RopeKind, Variant};
use super::super::tokenizer::Tokenizer;
use super::blocks::Format;
use super::config::{ARCHITECTURE, gguf_name, rotated_heads, rows_to_pairs};
use super::header::{DEFAULT_ALIGNMENT, Kind, MAGIC, VERSION};
use super::tokenizer::CHAT_TEMPLATE;
use super::{rope, vocabulary};
use crate::error::{Error, Result};

/// A value of the metadata to write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Text(String),
    U32(u32),
    F32(f32),
    Bool(bool),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let kind = |out: &mut Vec<u8>, kind: Kind| out.extend((kind as u32).to_le_bytes());
        let list = |out: &mut Vec<u8>, of: Kind, len: usize| {
            kind(out, Kind::List);
            kind(out, of);
            out.extend((len as u64).to_le_bytes());
        };
        match self {
            Self::Text(value) => {
                kind(out, Kind::Text);
                text(out, value);
            }
            Self::U32(value) => {
                kind(out, Kind::U32);
                out.extend(value.to_le_bytes());
            }
            Self::F32(value) => {
                kind(out, Kind::F32);
                out.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                kind(out, Kind::Bool);
                out.push(u8::from(*value));
            }
            Self::Texts(values) => {
                list(out, Kind::Text, values.len());
                for value in values {
                    text(out, value);
                }
            }
            Self::I32s(values) => {
                list(out, Kind::I32, values.len());
                for value in values {
                    out.extend(value.to_le_bytes());
                }
            }
            Self::F32s(values) => {
                list(out, Kind::F32, values.len());
                for value in values {
                    out.extend(value.to_le_bytes());
                }
            }
        }
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

/// What a file is made of besides the tensors.
#[derive(Debug, Clone, Copy)]
pub struct ModelInfo<'a> {
    /// The model's name for people.
    pub name: &'a str,
    /// The network's shape.
    pub config: &'a HfConfig,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its chat template, where it has one.
    pub chat_template: Option<&'a str>,
}

/// A tensor in the order of the file.
#[derive(Debug)]
struct Place {
    /// Its Hugging Face name; of the angles' divisors, which that does not have, GGUF's.
    name: String,
    shape: Vec<usize>,
    format: Format,
}

/// A GGUF file that is being written; dropped before [`GgufWriter::finish`], it leaves no trace.
#[derive(Debug)]
pub struct GgufWriter {
    file: AtomicFile,
    config: HfConfig,
    places: Vec<Place>,
    written: usize,
}

impl GgufWriter {
    /// Writes the header of a file whose matrices are in `format` (F32, F16 or `Q8_0`). Vectors are F32, and
    /// matrices whose rows do not fill blocks F16.
    ///
    /// Errors: a tokenizer that llama.cpp has no form of; [`Error::Io`].
    pub fn create(path: impl AsRef<Path>, info: ModelInfo, format: Format) -> Result<Self> {
        refuse_other_families(info.config)?;
        let mut entries = model_entries(info, format);
        let (tokens, rows) = (info.tokenizer.vocab_size(), info.config.vocab_size);
        if tokens > rows {
            return Err(Error::config(
                format!("the tokenizer has {tokens} entries, the model's vocabulary {rows}"),
                "use the tokenizer that belongs to the model",
            ));
        }
        let of_tokenizer = vocabulary::entries(info.tokenizer, info.config.vocab_size)?;
        entries.extend(of_tokenizer.into_iter().map(|(key, entry)| (key.to_owned(), entry)));
        if let Some(template) = info.chat_template {
            entries.push((CHAT_TEMPLATE.into(), Entry::Text(template.into())));
        }
        let places = places(info.config, format);
        let mut head = Vec::new();
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend((places.len() as u64).to_le_bytes());
        head.extend((entries.len() as u64).to_le_bytes());
        for (key, entry) in &entries {
            text(&mut head, key);
            entry.write(&mut head);
        }
        let mut begin = 0u64;
        for place in &places {
            text(&mut head, &gguf_name(&place.name).unwrap_or_else(|| place.name.clone()));
            head.extend((place.shape.len() as u32).to_le_bytes());
            for size in place.shape.iter().rev() {
                head.extend((*size as u64).to_le_bytes());
            }
            head.extend(place.format.number().to_le_bytes());
            head.extend(begin.to_le_bytes());
            begin = (begin + place.bytes()).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        head.resize(head.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
        let mut file = AtomicFile::create(path)?;
        let target = file.target().to_path_buf();
        file.file().write_all(&head).map_err(Error::io("write", target))?;
        let mut writer = Self { file, config: info.config.clone(), places, written: 0 };
        if let Some(factors) = rope::factors(info.config) {
            writer.write_next(&factors)?;
        }
        Ok(writer)
    }

    /// The Hugging Face name and shape of the tensor to write next; `None` when all are written.
    pub fn next(&self) -> Option<(&str, &[usize])> {
        self.places.get(self.written).map(|place| (place.name.as_str(), place.shape.as_slice()))
    }

    /// Writes the values of the tensor that [`GgufWriter::next`] names, `[out, in]` as Hugging Face has it.
    ///
    /// Errors: [`Error::Config`] for a value that the format cannot hold.
    pub fn write_next(&mut self, values: &[f32]) -> Result<()> {
        let Some(place) = self.places.get(self.written) else {
            return Err(Error::config(
                "more tensors than planned",
                "this is an error of the program",
            ));
        };
        assert_eq!(values.len(), place.shape.iter().product::<usize>(), "size of {}", place.name);
        let turned;
        let values = match rotated_heads(&place.name, &self.config) {
            Some(heads) => {
                turned = rows_to_pairs(values, heads, self.config.head_dim, place.shape[1]);
                turned.as_slice()
            }
            None => values,
        };
        let mut bytes = Vec::with_capacity(place.bytes() as usize);
        place.format.encode(values, &mut bytes).map_err(|value| {
            Error::config(
                format!(
                    "tensor {} holds {value}, which {} cannot express",
                    place.name,
                    place.format.name()
                ),
                "export the Hugging Face form (--format hf), or a checkpoint from before the weights grew so",
            )
        })?;
        bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
        let target = self.file.target().to_path_buf();
        let mut out = BufWriter::new(self.file.file());
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(Error::io("write", target))?;
        self.written += 1;
        Ok(())
    }

    /// Gives the file its name. Panics if a tensor is missing.
    pub fn finish(self) -> Result<()> {
        assert_eq!(self.written, self.places.len(), "all tensors are written");
        self.file.commit()
    }
}

impl Place {
    fn bytes(&self) -> u64 {
        let (block, block_bytes) = self.format.block();
        self.shape.iter().product::<usize>() as u64 / block * block_bytes
    }
}

/// Only what the `llama` architecture of GGUF computes can be written as it.
fn refuse_other_families(config: &HfConfig) -> Result<()> {
    let Variant { family, attention_bias, mlp_bias } = config.variant;
    let is_plain = matches!(family, Family::Llama | Family::Mistral);
    if is_plain && !attention_bias && !mlp_bias {
        return Ok(());
    }
    let what = if is_plain { " with biases" } else { "" };
    Err(Error::config(
        format!(
            "a {} model{what} cannot be written as GGUF; LLaMA and Mistral can",
            family.model_type()
        ),
        "export the Hugging Face form (--format hf), which llama.cpp's own converter reads",
    ))
}

fn places(config: &HfConfig, format: Format) -> Vec<Place> {
    let mut places = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let (block, _) = format.block();
        let format = match shape {
            [_, width] if (*width as u64).is_multiple_of(block) => format,
            [_, _] => Format::F16,
            _ => Format::F32,
        };
        places.push(Place { name, shape: shape.to_vec(), format });
    };
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    if matches!(config.rope.kind, RopeKind::Llama3 { .. }) {
        add(rope::FACTORS.into(), &[config.head_dim / 2]);
    }
    add("model.embed_tokens.weight".into(), &[config.vocab_size, hidden]);
    add("model.norm.weight".into(), &[hidden]);
    if !config.tie_word_embeddings {
        add("lm_head.weight".into(), &[config.vocab_size, hidden]);
    }
    for layer in 0..config.num_hidden_layers {
        let mut add = |module: &str, shape: &[usize]| {
            add(format!("model.layers.{layer}.{module}.weight"), shape);
        };
        add("input_layernorm", &[hidden]);
        add("self_attn.q_proj", &[queries, hidden]);
        add("self_attn.k_proj", &[keys, hidden]);
        add("self_attn.v_proj", &[keys, hidden]);
        add("self_attn.o_proj", &[hidden, queries]);
        add("post_attention_layernorm", &[hidden]);
        add("mlp.gate_proj", &[inner, hidden]);
        add("mlp.up_proj", &[inner, hidden]);
        add("mlp.down_proj", &[hidden, inner]);
    }
    places
}

fn model_entries(info: ModelInfo, format: Format) -> Vec<(String, Entry)> {
    let config = info.config;
    let size = |n: usize| Entry::U32(n as u32);
    let mut entries = vec![
        ("general.architecture".to_owned(), Entry::Text(ARCHITECTURE.into())),
        ("general.type".to_owned(), Entry::Text("model".into())),
        ("general.name".to_owned(), Entry::Text(info.name.into())),
        ("general.file_type".to_owned(), Entry::U32(file_type(format))),
        ("general.quantization_version".to_owned(), Entry::U32(2)),
    ];
    let mut add = |key: &str, entry: Entry| entries.push((format!("{ARCHITECTURE}.{key}"), entry));
    add("vocab_size", size(config.vocab_size));
    add("context_length", size(config.max_position_embeddings));
    add("embedding_length", size(config.hidden_size));
    add("block_count", size(config.num_hidden_layers));
    add("feed_forward_length", size(config.intermediate_size));
    add("attention.head_count", size(config.num_attention_heads));
    add("attention.head_count_kv", size(config.num_key_value_heads));
    add("attention.key_length", size(config.head_dim));
    add("attention.value_length", size(config.head_dim));
    add("attention.layer_norm_rms_epsilon", Entry::F32(config.rms_norm_eps as f32));
    add("rope.dimension_count", size(config.head_dim));
    add("rope.freq_base", Entry::F32(config.rope.theta as f32));
    match config.rope.kind {
        RopeKind::Default => {}
        RopeKind::Linear { factor } => {
            add("rope.scaling.type", Entry::Text("linear".into()));
            add("rope.scaling.factor", Entry::F32(factor as f32));
        }
        // The stretching itself is in the divisors; this only names the context that they are for.
        RopeKind::Llama3 { original_max_position_embeddings, .. } => {
            entries.push((rope::ORIGINAL_CONTEXT.into(), size(original_max_position_embeddings)));
        }
    }
    entries
}

/// The number by which llama.cpp names a whole file.
fn file_type(format: Format) -> u32 {
    match format {
        Format::F16 => 1,
        Format::Q8_0 => 7,
        _ => 0,
    }
}
