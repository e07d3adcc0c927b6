//! From metadata and tensor names to the shape and the names of Hugging Face, and the order of rows.

use std::path::Path;

use super::super::hf_config::{Family, HfConfig, Rope, RopeKind, Variant, check_angles};
use super::header::{Header, Value};
use super::metadata::Metadata;
use super::tokenizer;
use crate::error::Result;

/// The architecture that is read and written.
pub(super) const ARCHITECTURE: &str = "llama";
const MAX_SIZE: usize = 1 << 24;
const MAX_LAYERS: usize = 10_000;
const CONTEXT: &str = "llama.context_length";
const ANOTHER_MODEL: &str =
    "use a model of the llama architecture (LLaMA, SmolLM2, TinyLlama, Mistral)";
/// What the `llama` architecture of GGUF is here.
const PLAIN: Variant = Variant { family: Family::Llama, attention_bias: false, mlp_bias: false };
/// Where a file does not say, as llama.cpp takes it.
const DEFAULT_THETA: f64 = 10_000.0;

/// Tensors of a block: Hugging Face's name in `model.layers.N`, GGUF's in `blk.N`.
const BLOCK_TENSORS: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The tensors outside the blocks.
const OTHER_TENSORS: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// GGUF's name of a Hugging Face tensor.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    if let Some((_, own)) = OTHER_TENSORS.iter().find(|(hf, _)| *hf == name) {
        return Some((*own).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let module = rest.strip_suffix(".weight")?;
    let (_, own) = BLOCK_TENSORS.iter().find(|(hf, _)| *hf == module)?;
    Some(format!("blk.{layer}.{own}.weight"))
}

/// The Hugging Face name of a GGUF tensor, if the network has it.
pub(super) fn hf_name(name: &str, config: &HfConfig) -> Option<String> {
    if let Some((hf, _)) = OTHER_TENSORS.iter().find(|(_, own)| *own == name) {
        return Some((*hf).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let index: usize = layer.parse().ok().filter(|n| *n < config.num_hidden_layers)?;
    let own = rest.strip_suffix(".weight")?;
    let (hf, _) = BLOCK_TENSORS.iter().find(|(_, short)| *short == own)?;
    // Only the usual spelling of the number is a name.
    (index.to_string() == layer).then(|| format!("model.layers.{layer}.{hf}.weight"))
}

/// The heads of a tensor whose rows GGUF stores in the interleaved order; by its Hugging Face name.
pub(super) fn rotated_heads(name: &str, config: &HfConfig) -> Option<usize> {
    if name.ends_with(".self_attn.q_proj.weight") {
        Some(config.num_attention_heads)
    } else if name.ends_with(".self_attn.k_proj.weight") {
        Some(config.num_key_value_heads)
    } else {
        None
    }
}

/// From GGUF's rows to Hugging Face's: of a head's `D` rows, rows `2i` and `2i+1` become rows `i` and
/// `i + D/2`, because llama.cpp turns neighbours and Hugging Face halves.
pub(super) fn rows_to_halves(values: &[f32], heads: usize, head: usize, width: usize) -> Vec<f32> {
    moved_rows(values, heads, head, width, |row| row % 2 * (head / 2) + row / 2)
}

/// The reverse of [`rows_to_halves`].
pub(super) fn rows_to_pairs(values: &[f32], heads: usize, head: usize, width: usize) -> Vec<f32> {
    moved_rows(values, heads, head, width, |row| row % (head / 2) * 2 + row / (head / 2))
}

/// Moves row `r` of each head to `place(r)`.
fn moved_rows(
    values: &[f32],
    heads: usize,
    head: usize,
    width: usize,
    place: impl Fn(usize) -> usize,
) -> Vec<f32> {
    debug_assert_eq!(values.len(), heads * head * width);
    let mut moved = vec![0.0; values.len()];
    for (index, row) in values.chunks_exact(width).enumerate() {
        let target = index / head * head + place(index % head);
        moved[target * width..][..width].copy_from_slice(row);
    }
    moved
}

/// The shape of the network in a file, without the angles' divisors, which are a tensor.
pub(super) fn read(path: &Path, header: &Header) -> Result<HfConfig> {
    let metadata = Metadata::new(path, &header.metadata);
    match metadata.text("general.architecture")? {
        Some(ARCHITECTURE) => {}
        Some(other) => {
            let what =
                format!("architecture \"{other}\" is not supported; supported: \"{ARCHITECTURE}\"");
            return Err(metadata.unsupported(what, ANOTHER_MODEL));
        }
        None => return Err(metadata.missing("general.architecture")),
    }
    if metadata.number("split.count", MAX_SIZE)?.unwrap_or(0) > 1 {
        let what = "is one part of a model in several files, which is not supported".to_owned();
        return Err(metadata.unsupported(what, "join the parts with llama-gguf-split --merge"));
    }
    if metadata.number("llama.expert_count", MAX_SIZE)?.unwrap_or(0) > 0 {
        let what = "is a mixture of experts, which is not supported".to_owned();
        return Err(metadata.unsupported(what, ANOTHER_MODEL));
    }
    let heads = single(&metadata, "llama.attention.head_count")?
        .ok_or_else(|| metadata.missing("llama.attention.head_count"))?;
    let kv_heads = single(&metadata, "llama.attention.head_count_kv")?.unwrap_or(heads);
    let intermediate = single(&metadata, "llama.feed_forward_length")?
        .ok_or_else(|| metadata.missing("llama.feed_forward_length"))?;
    let hidden = metadata.required_count("llama.embedding_length", MAX_SIZE)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(metadata.wrong_file(format!(
            "{kv_heads} key and value heads do not divide the {heads} query heads"
        )));
    }
    let head_dim = head_size(&metadata, hidden, heads)?;
    let embedding = header.tensors.get("token_embd.weight").map(|entry| entry.shape.as_slice());
    let vocab_size = match embedding {
        Some([rows, _]) if *rows <= MAX_SIZE => *rows,
        _ => return Err(metadata.wrong_file("has no matrix token_embd.weight".into())),
    };
    let special = |key| metadata.number(key, vocab_size - 1).map(|id| id.map(|id| id as u32));
    let mut eos_token_ids: Vec<u32> = Vec::new();
    for key in [tokenizer::EOS, tokenizer::EOT, tokenizer::EOM] {
        eos_token_ids.extend(special(key)?.filter(|id| !eos_token_ids.contains(id)));
    }
    let context = metadata.required_count(CONTEXT, MAX_SIZE)?;
    check_angles(CONTEXT, context, head_dim).map_err(|what| metadata.wrong_file(what))?;
    Ok(HfConfig {
        variant: PLAIN,
        hidden_size: hidden,
        intermediate_size: intermediate,
        num_hidden_layers: metadata.required_count("llama.block_count", MAX_LAYERS)?,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        rms_norm_eps: metadata
            .positive("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| metadata.missing("llama.attention.layer_norm_rms_epsilon"))?,
        vocab_size,
        max_position_embeddings: context,
        tie_word_embeddings: !header.tensors.contains_key("output.weight"),
        rope: read_rope(&metadata)?,
        bos_token_id: special(tokenizer::BOS)?,
        eos_token_ids,
        pad_token_id: special(tokenizer::PAD)?,
        initializer_range: 0.02,
    })
}

/// A size that some files give for each block: all the same, or refused.
fn single(metadata: &Metadata, key: &str) -> Result<Option<usize>> {
    match metadata.get(key) {
        Some(Value::Numbers(..)) => {
            let sizes = metadata.integers(key)?.unwrap_or_default();
            match sizes.first() {
                Some(&first)
                    if (1..=MAX_SIZE as i64).contains(&first)
                        && sizes.iter().all(|size| *size == first) =>
                {
                    Ok(Some(first as usize))
                }
                _ => {
                    let what = format!("{key} differs from block to block, which is not supported");
                    Err(metadata.unsupported(what, ANOTHER_MODEL))
                }
            }
        }
        _ => metadata.count(key, MAX_SIZE),
    }
}

fn head_size(metadata: &Metadata, hidden: usize, heads: usize) -> Result<usize> {
    let named = |key: &str| metadata.count(key, MAX_SIZE);
    let size = match named("llama.attention.key_length")? {
        Some(size) => size,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let what =
                format!("llama.embedding_length {hidden} is not a multiple of {heads} heads");
            return Err(metadata.wrong_file(what));
        }
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(other) = named(key)?.filter(|other| *other != size) {
            let what = format!("{key} is {other}, supported: the size of a head, {size}");
            return Err(metadata.unsupported(what, ANOTHER_MODEL));
        }
    }
    if !size.is_multiple_of(2) {
        return Err(metadata.wrong_file(format!("heads of size {size}: expected an even size")));
    }
    Ok(size)
}

fn read_rope(metadata: &Metadata) -> Result<Rope> {
    let theta = metadata.positive("llama.rope.freq_base")?.unwrap_or(DEFAULT_THETA);
    let factor = match metadata.positive("llama.rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // The name in old files.
        None => metadata.positive("llama.rope.scale_linear")?,
    };
    let kind = match (metadata.text("llama.rope.scaling.type")?, factor) {
        (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) => RopeKind::Default,
        (None | Some("linear"), Some(factor)) => RopeKind::Linear { factor },
        (Some(other), _) => {
            let what = format!(
                "llama.rope.scaling.type \"{other}\" is not supported; supported: \"none\", \"linear\""
            );
            return Err(metadata.unsupported(what, ANOTHER_MODEL));
        }
    };
    Ok(Rope { theta, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let config = HfConfig {
            variant: PLAIN,
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 4,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            head_dim: 4,
            rms_norm_eps: 1e-5,
            vocab_size: 10,
            max_position_embeddings: 16,
            tie_word_embeddings: false,
            rope: Rope { theta: DEFAULT_THETA, kind: RopeKind::Default },
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            initializer_range: 0.02,
        };
        for (hf, own) in [
            ("lm_head.weight", "output.weight"),
            ("model.layers.3.self_attn.o_proj.weight", "blk.3.attn_output.weight"),
            ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
        ] {
            assert_eq!(gguf_name(hf).as_deref(), Some(own));
            assert_eq!(hf_name(own, &config).as_deref(), Some(hf));
        }
        for wrong in ["blk.4.attn_q.weight", "blk.03.attn_q.weight", "blk.0.attn_q.bias", "blk"] {
            assert_eq!(hf_name(wrong, &config), None, "{wrong}");
        }
    }

    #[test]
    fn rows_of_a_head_go_from_pairs_to_halves_and_back() {
        let pairs: Vec<f32> = [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0].repeat(2);
        let halves = rows_to_halves(&pairs, 2, 8, 1);
        assert_eq!(halves, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0].repeat(2));
        assert_eq!(rows_to_pairs(&halves, 2, 8, 1), pairs);
    }
}
