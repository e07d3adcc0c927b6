//! `config.json` of LLaMA-family checkpoints, as transformers 4 and 5 write it, and back.
//!
//! Everything that would change the network's arithmetic is either understood or refused by name;
//! a field that is silently ignored would give a model that runs and is wrong.

mod family;

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::atomic::write_atomically;
use super::json::{Fields, read_object};
use crate::error::{Error, Result};

pub use self::family::{Family, Variant};

/// No size of a model comes near this; products of two of them still fit in 64 bits.
const MAX_SIZE: usize = 1 << 24;
const MAX_LAYERS: usize = 10_000;
/// A cosine and a sine for each position and each pair of a head: 512 MiB, a context of a million with heads of 128.
const MAX_ANGLES: usize = 1 << 27;

/// Defaults of transformers for fields that old files leave out.
const DEFAULT_RMS_NORM_EPS: f64 = 1e-6;
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
const DEFAULT_INITIALIZER_RANGE: f64 = 0.02;

/// The shape of a LLaMA-family network.
#[derive(Debug, Clone, PartialEq)]
pub struct HfConfig {
    /// The architecture, with its biases and norms.
    pub variant: Variant,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Size of one head; even; not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// The epsilon inside RMS normalisation.
    pub rms_norm_eps: f64,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The context length that the checkpoint was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Token that begins a text, where there is one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up short rows, where there is one.
    pub pad_token_id: Option<u32>,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

/// Rotary position embedding: base and scaling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rope {
    /// The base θ of the angles' wavelengths.
    pub theta: f64,
    /// How the angles are stretched for long contexts.
    pub kind: RopeKind,
}

/// How rotary angles are stretched for long contexts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum RopeKind {
    /// Not at all.
    Default,
    /// All positions divided by `factor`.
    Linear {
        /// The divisor of the positions.
        factor: f64,
    },
    /// Long wavelengths divided by `factor`, short ones kept, in between interpolated.
    Llama3 {
        /// The divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context length before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
}

impl HfConfig {
    /// Reads and checks a `config.json`.
    ///
    /// Errors: [`Error::Io`] if it cannot be read, [`Error::File`] with the field's name if a value
    /// is missing, impossible or not supported.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_object(path, &read_object(path)?)
    }

    /// Reads and checks the object of a `config.json`; `path` is for messages.
    pub fn from_object(path: &Path, object: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(path, object);
        let variant = Variant::read(&fields)?;

        let hidden_size = fields.required_count("hidden_size", MAX_SIZE)?;
        let num_attention_heads = fields.required_count("num_attention_heads", MAX_SIZE)?;
        let num_key_value_heads = match fields.count("num_key_value_heads", MAX_SIZE)? {
            Some(heads) => heads,
            None if variant.family.needs_kv_heads() => {
                return Err(fields.missing("num_key_value_heads"));
            }
            None => num_attention_heads,
        };
        let wrong = |what: String| {
            Error::file(path, what, "use the config.json that belongs to the checkpoint")
        };
        let head_dim = fields.count("head_dim", MAX_SIZE)?;
        let head_dim = match head_dim.or(variant.family.default_head_dim()) {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                return Err(wrong(format!(
                    "hidden_size {hidden_size} is not a multiple of num_attention_heads \
                     {num_attention_heads}, and head_dim is not given"
                )));
            }
        };
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(wrong(format!(
                "num_attention_heads {num_attention_heads} is not a multiple of \
                 num_key_value_heads {num_key_value_heads}"
            )));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(wrong(format!(
                "head_dim {head_dim} is odd; rotary embedding turns pairs of numbers"
            )));
        }

        let vocab_size = fields.required_count("vocab_size", MAX_SIZE)?;
        let max_position_embeddings = fields
            .count("max_position_embeddings", MAX_SIZE)?
            .unwrap_or_else(|| variant.family.default_context());
        check_angles("max_position_embeddings", max_position_embeddings, head_dim)
            .map_err(&wrong)?;
        let config = Self {
            variant,
            hidden_size,
            intermediate_size: fields.required_count("intermediate_size", MAX_SIZE)?,
            num_hidden_layers: fields.required_count("num_hidden_layers", MAX_LAYERS)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(DEFAULT_RMS_NORM_EPS),
            vocab_size,
            max_position_embeddings,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?,
            rope: read_rope(&fields)?,
            bos_token_id: fields.id("bos_token_id")?,
            eos_token_ids: fields.ids("eos_token_id")?,
            pad_token_id: padding(&fields)?,
            initializer_range: fields
                .positive("initializer_range")?
                .unwrap_or(DEFAULT_INITIALIZER_RANGE),
        };
        let ids = config.bos_token_id.iter().chain(&config.eos_token_ids);
        if let Some(id) = ids.copied().find(|id| *id as usize >= vocab_size) {
            return Err(wrong(format!(
                "a bos or eos token has the id {id}, vocab_size is {vocab_size}"
            )));
        }
        Ok(config)
    }

    /// The content of a `config.json` in the style of transformers 4, which 5 reads too.
    ///
    /// `dtype` is the type of the weights beside it: `float32`, `bfloat16`.
    pub fn to_json(&self, dtype: &str) -> Value {
        let mut config = json!({
            "architectures": [self.variant.family.class()],
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "dtype": dtype,
            "eos_token_id": self.eos_json(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": self.variant.family.model_type(),
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": self.rope.kind.to_json(),
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let Value::Object(config) = &mut config {
            config.extend(self.variant.fields(self.num_hidden_layers));
        }
        config
    }

    /// Writes `config.json` and `generation_config.json` into a folder.
    pub fn write(&self, folder: impl AsRef<Path>, dtype: &str) -> Result<()> {
        let folder = folder.as_ref();
        let generation = json!({
            "_from_model_config": true,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_json(),
            "pad_token_id": self.pad_token_id,
        });
        for (name, value) in
            [("config.json", self.to_json(dtype)), ("generation_config.json", generation)]
        {
            write_atomically(folder.join(name), format!("{value:#}\n").as_bytes())?;
        }
        Ok(())
    }

    /// One id stands alone, several are a list, none is `null`.
    fn eos_json(&self) -> Value {
        match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        }
    }
}

impl RopeKind {
    /// The value of `rope_scaling`. Both spellings of the kind are written, as transformers before
    /// 4.43 knows only `type`.
    fn to_json(self) -> Value {
        match self {
            Self::Default => Value::Null,
            Self::Linear { factor } => {
                json!({"factor": factor, "rope_type": "linear", "type": "linear"})
            }
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "factor": factor,
                "high_freq_factor": high_freq_factor,
                "low_freq_factor": low_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
                "rope_type": "llama3",
            }),
        }
    }
}

/// Reads the rotary settings in either form.
///
/// As transformers 5 does: a `rope_scaling` that is not null wins over `rope_parameters`, and a
/// `rope_theta` inside wins over one at the top.
fn read_rope(fields: &Fields) -> Result<Rope> {
    let top_theta = fields.positive("rope_theta")?;
    let scaling = match fields.object("rope_scaling", "rope_scaling.")? {
        Some(scaling) => Some(scaling),
        None => fields.object("rope_parameters", "rope_parameters.")?,
    };
    let Some(scaling) = scaling else {
        let theta = top_theta.unwrap_or(DEFAULT_ROPE_THETA);
        return Ok(Rope { theta, kind: RopeKind::Default });
    };
    let theta = scaling.positive("rope_theta")?.or(top_theta).unwrap_or(DEFAULT_ROPE_THETA);
    if let Some(share) = scaling.positive("partial_rotary_factor")?.filter(|share| *share != 1.0) {
        let what = format!("partial_rotary_factor {share} is not supported; supported: 1.0");
        return Err(fields.unsupported(what, "use a checkpoint that turns whole heads"));
    }
    let name = match scaling.text("rope_type")? {
        Some(name) => Some(name),
        None => scaling.text("type")?,
    };
    let kind = match name.unwrap_or("default") {
        "default" => RopeKind::Default,
        "linear" => RopeKind::Linear { factor: scaling.required_positive("factor")? },
        "llama3" => read_llama3(fields, &scaling)?,
        other => {
            let what = format!(
                "rope type \"{other}\" is not supported; supported: \"default\", \"linear\", \
                 \"llama3\""
            );
            return Err(fields.unsupported(what, "use a checkpoint with one of these"));
        }
    };
    Ok(Rope { theta, kind })
}

fn read_llama3(fields: &Fields, scaling: &Fields) -> Result<RopeKind> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = match scaling.count(ORIGINAL, MAX_SIZE)? {
        Some(original) => original,
        // transformers 5 may keep it beside the other sizes.
        None => fields.count(ORIGINAL, MAX_SIZE)?.ok_or_else(|| scaling.missing(ORIGINAL))?,
    };
    let low_freq_factor = scaling.required_positive("low_freq_factor")?;
    let high_freq_factor = scaling.required_positive("high_freq_factor")?;
    if high_freq_factor <= low_freq_factor {
        let what = format!(
            "high_freq_factor {high_freq_factor} is not above low_freq_factor {low_freq_factor}"
        );
        return Err(fields.unsupported(what, "use the config.json that belongs to the checkpoint"));
    }
    Ok(RopeKind::Llama3 {
        factor: scaling.required_positive("factor")?,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings: original,
    })
}

/// The padding token; some files say −1 for none.
fn padding(fields: &Fields) -> Result<Option<u32>> {
    match fields.get("pad_token_id").and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        _ => fields.id("pad_token_id"),
    }
}

/// Refuses a context, of the field `name`, whose tables of rotary angles would not fit.
///
/// Errors: what is wrong, as a sentence.
pub(super) fn check_angles(
    name: &str,
    positions: usize,
    head_dim: usize,
) -> std::result::Result<(), String> {
    let angles = positions.saturating_mul(head_dim);
    if angles <= MAX_ANGLES {
        return Ok(());
    }
    Err(format!(
        "{name} {positions} with heads of {head_dim} would need tables of rotary angles of {} MiB, at most {} MiB are \
         made",
        angles >> 18,
        MAX_ANGLES >> 18
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: Value) -> Result<HfConfig> {
        let mut object = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
        });
        if let (Some(object), Value::Object(change)) = (object.as_object_mut(), change) {
            object.extend(change);
        }
        HfConfig::from_object(Path::new("config.json"), object.as_object().unwrap())
    }

    #[test]
    fn absent_fields_take_the_values_of_transformers() {
        let config = parse(json!({})).unwrap();
        assert_eq!(config.num_key_value_heads, 4);
        assert_eq!(config.head_dim, 16);
        assert_eq!(config.rms_norm_eps, 1e-6);
        assert_eq!(config.rope, Rope { theta: 10_000.0, kind: RopeKind::Default });
        assert!(!config.tie_word_embeddings);
        assert!(config.eos_token_ids.is_empty());
    }

    #[test]
    fn both_forms_of_rope_are_read() {
        let old =
            parse(json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}));
        let new = parse(json!({
            "rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
        }));
        assert_eq!(old.unwrap().rope, new.unwrap().rope);
    }

    #[test]
    fn eos_may_be_a_list() {
        assert_eq!(parse(json!({"eos_token_id": [1, 2]})).unwrap().eos_token_ids, [1, 2]);
        assert_eq!(parse(json!({"eos_token_id": 3})).unwrap().eos_token_ids, [3]);
    }

    #[test]
    fn every_family_is_read_with_its_biases_and_norms_and_written_back() {
        const LAYERS: [&str; 3] = ["self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj"];
        let cases = [
            (json!({"model_type": "llama"}), [false; 3], false, 16),
            (json!({"attention_bias": true, "mlp_bias": true}), [true; 3], false, 16),
            (json!({"model_type": "mistral", "sliding_window": null}), [false; 3], false, 16),
            (
                json!({"model_type": "mistral", "max_position_embeddings": 4096}),
                [false; 3],
                false,
                16,
            ),
            (json!({"model_type": "qwen2"}), [true, false, false], false, 16),
            (json!({"model_type": "qwen3"}), [false; 3], true, 128),
            (
                json!({"model_type": "qwen3", "attention_bias": true, "head_dim": 8}),
                [true, true, false],
                true,
                8,
            ),
        ];
        let folder = tempfile::tempdir().unwrap();
        for (mut change, biases, has_head_norms, head_dim) in cases {
            change["num_key_value_heads"] = json!(2);
            let config = parse(change).unwrap();
            assert_eq!(LAYERS.map(|layer| config.variant.has_bias(layer)), biases, "{config:?}");
            assert_eq!(config.variant.has_head_norms(), has_head_norms);
            assert_eq!(config.head_dim, head_dim);
            config.write(folder.path(), "float32").unwrap();
            assert_eq!(HfConfig::read(folder.path().join("config.json")).unwrap(), config);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let kinds = [
            RopeKind::Default,
            RopeKind::Linear { factor: 4.0 },
            RopeKind::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            },
        ];
        let folder = tempfile::tempdir().unwrap();
        for kind in kinds {
            let mut config = parse(json!({
                "num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": true,
                "bos_token_id": 0, "eos_token_id": [0, 7], "rms_norm_eps": 1e-5,
            }))
            .unwrap();
            config.rope.kind = kind;
            config.write(folder.path(), "float32").unwrap();
            assert_eq!(HfConfig::read(folder.path().join("config.json")).unwrap(), config);
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_what_is_supported() {
        let cases = [
            (json!({"model_type": "gemma"}), "model_type \"gemma\""),
            (json!({"hidden_act": "gelu"}), "hidden_act \"gelu\""),
            (json!({"attention_bias": 1}), "attention_bias is 1"),
            (json!({"mlp_bias": "yes"}), "mlp_bias is \"yes\""),
            (
                json!({"model_type": "mistral", "num_key_value_heads": 4, "max_position_embeddings": 8192}),
                "sliding_window of 4096",
            ),
            (json!({"model_type": "qwen2"}), "num_key_value_heads is missing"),
            (
                json!({"model_type": "qwen3", "num_key_value_heads": 4, "use_sliding_window": true, "sliding_window": 512, "max_window_layers": 1}),
                "sliding_window of 512",
            ),
            (
                json!({"layer_types": ["full_attention", "chunked_attention"]}),
                "layer_types has \"chunked_attention\"",
            ),
            (json!({"dual_chunk_attention_config": {}}), "dual_chunk_attention_config"),
            (json!({"rope_scaling": {"rope_type": "yarn", "factor": 2}}), "\"yarn\""),
            (json!({"quantization_config": {}}), "quantization_config"),
            (json!({"hidden_size": 0}), "hidden_size is 0"),
            (json!({"hidden_size": -4}), "hidden_size is -4"),
            (json!({"hidden_size": 65}), "65 is not a multiple of num_attention_heads 4"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads 3"),
            (json!({"head_dim": 7}), "head_dim 7 is odd"),
            (json!({"rms_norm_eps": "small"}), "rms_norm_eps is \"small\""),
            (json!({"eos_token_id": 100}), "id 100, vocab_size is 100"),
            (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor is missing"),
        ];
        for (change, wanted) in cases {
            let error = parse(change).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
            assert!(!error.remedy().is_empty());
        }
    }
}
