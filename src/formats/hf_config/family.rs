//! The architectures of the LLaMA family that are read, what each adds to LLaMA, and the refusal of all others.
//!
//! Source: the modelling code of transformers, which decides by `model_type` which biases and norms there are.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::json::Fields;
use super::MAX_SIZE;
use crate::error::Result;

/// An architecture of the LLaMA family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Family {
    /// LLaMA 1 to 3, SmolLM, SmolLM2, TinyLlama.
    #[default]
    Llama,
    /// Mistral without a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: a norm on every head of q and k, heads of a size of their own.
    Qwen3,
}

/// An architecture with its optional biases; the default is plain LLaMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Variant {
    /// The architecture.
    pub family: Family,
    /// Whether the projections of the attention have biases: q, k, v and o; in Qwen2 always, and without o.
    pub attention_bias: bool,
    /// Whether the projections of the feed-forward part have biases.
    pub mlp_bias: bool,
}

/// All families with their `model_type`.
const FAMILIES: [(Family, &str); 4] = [
    (Family::Llama, "llama"),
    (Family::Mistral, "mistral"),
    (Family::Qwen2, "qwen2"),
    (Family::Qwen3, "qwen3"),
];

/// What the refusals of other architectures say.
const SUPPORTED: &str = "\"llama\" (also SmolLM, SmolLM2, TinyLlama), \"mistral\" without sliding window, \"qwen2\", \"qwen3\"";

const REMEDY: &str = "use an unquantised checkpoint of one of these: LLaMA, SmolLM, SmolLM2, TinyLlama, Mistral without sliding \
     window, Qwen2, Qwen3";

/// Fields that change the arithmetic wherever they are set, and that none of the families has here.
const FOREIGN: [&str; 4] = [
    "dual_chunk_attention_config",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "num_local_experts",
];

impl Family {
    /// `model_type` of `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class of transformers.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The head size of a file that has no `head_dim`, where it is not `hidden_size / num_attention_heads`.
    pub(super) fn default_head_dim(self) -> Option<usize> {
        (self == Self::Qwen3).then_some(128)
    }

    /// The context of a file that does not say it, as in transformers.
    pub(super) fn default_context(self) -> usize {
        match self {
            Self::Llama => 2048,
            Self::Mistral => 131_072,
            Self::Qwen2 | Self::Qwen3 => 32_768,
        }
    }

    /// Whether a file must say `num_key_value_heads`. In LLaMA it is the number of heads by default; for the others
    /// transformers takes a number that has nothing to do with the other sizes.
    pub(super) fn needs_kv_heads(self) -> bool {
        self != Self::Llama
    }
}

impl Variant {
    /// Whether a linear layer has a bias; `module` is its name within the block, as in `self_attn.q_proj`.
    pub fn has_bias(&self, module: &str) -> bool {
        match module {
            "self_attn.o_proj" => self.attention_bias && self.family != Family::Qwen2,
            _ if module.starts_with("self_attn.") => self.attention_bias,
            _ => self.mlp_bias,
        }
    }

    /// Whether every head of q and k goes through a norm, whose gain has the size of a head.
    pub fn has_head_norms(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// Reads the architecture and refuses what would need other arithmetic than this program has.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        let family = match fields.text("model_type")? {
            Some(name) => match FAMILIES.iter().find(|(_, known)| *known == name) {
                Some((family, _)) => *family,
                None => {
                    let what =
                        format!("model_type \"{name}\" is not supported; supported: {SUPPORTED}");
                    return Err(fields.unsupported(what, REMEDY));
                }
            },
            None => return Err(fields.missing("model_type")),
        };
        if let Some(activation) = fields.text("hidden_act")?.filter(|name| *name != "silu") {
            let what = format!("hidden_act \"{activation}\" is not supported; supported: \"silu\"");
            return Err(fields.unsupported(what, REMEDY));
        }
        if fields.get("quantization_config").is_some() {
            let what = "quantization_config: quantised weights are not supported".to_owned();
            return Err(fields.unsupported(what, "use the unquantised checkpoint (f32, f16, bf16)"));
        }
        if let Some(name) = FOREIGN.iter().find(|name| fields.get(name).is_some()) {
            return Err(fields.unsupported(format!("{name} is not supported"), REMEDY));
        }
        refuse_windows(fields, family)?;
        let (attention_bias, mlp_bias) = (fields.flag("attention_bias")?, fields.flag("mlp_bias")?);
        Ok(match family {
            Family::Llama => Self { family, attention_bias, mlp_bias },
            // Neither has a switch for them.
            Family::Mistral => Self { family, attention_bias: false, mlp_bias: false },
            Family::Qwen2 => Self { family, attention_bias: true, mlp_bias: false },
            Family::Qwen3 => Self { family, attention_bias, mlp_bias: false },
        })
    }

    /// What the family's `config.json` has beside the fields that all have.
    pub(super) fn fields(&self, layers: usize) -> Map<String, Value> {
        let fields = match self.family {
            Family::Llama => json!({
                "attention_bias": self.attention_bias,
                "mlp_bias": self.mlp_bias,
                "pretraining_tp": 1,
            }),
            Family::Mistral => json!({"sliding_window": null}),
            Family::Qwen2 => json!({
                "max_window_layers": layers, "sliding_window": null, "use_sliding_window": false,
            }),
            Family::Qwen3 => json!({
                "attention_bias": self.attention_bias,
                "max_window_layers": layers, "sliding_window": null, "use_sliding_window": false,
            }),
        };
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

/// Refuses attention that sees only a window, unless the window is no shorter than the context.
fn refuse_windows(fields: &Fields<'_>, family: Family) -> Result<()> {
    const WINDOW: &str =
        "use a checkpoint whose attention sees the whole context, such as Mistral from v0.2 on";
    let context = fields
        .count("max_position_embeddings", MAX_SIZE)?
        .unwrap_or_else(|| family.default_context());
    let window = match family {
        Family::Llama => None,
        // Without the field transformers takes 4096; `null` says that there is none.
        Family::Mistral if !fields.has("sliding_window") => Some(4096),
        Family::Mistral => fields.count("sliding_window", usize::MAX)?,
        Family::Qwen2 | Family::Qwen3 if fields.flag("use_sliding_window")? => {
            // The first `max_window_layers` blocks see everything.
            let whole = fields.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28);
            let layers = fields.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
            let window = fields.count("sliding_window", usize::MAX)?.unwrap_or(4096);
            (whole < layers).then_some(window)
        }
        Family::Qwen2 | Family::Qwen3 => None,
    };
    if let Some(window) = window.filter(|window| *window < context) {
        let what = format!(
            "a sliding_window of {window} tokens in a context of {context} is not supported; supported: none"
        );
        return Err(fields.unsupported(what, WINDOW));
    }
    match fields.get("layer_types") {
        None => Ok(()),
        Some(Value::Array(kinds)) => match kinds.iter().find(|kind| *kind != "full_attention") {
            Some(_) if window.is_some() => Ok(()), // a window as long as the context
            Some(kind) => {
                let what = format!("layer_types has {kind}; supported: \"full_attention\"");
                Err(fields.unsupported(what, WINDOW))
            }
            None => Ok(()),
        },
        Some(other) => Err(fields.wrong("layer_types", other, "a list")),
    }
}
