//! The forward pass: embedding, blocks of attention and SwiGLU with RMSNorm before each, final norm.

use crate::device::Device;
use crate::device::memory::Category;
use crate::kernels::attention::{AttentionShape, attention_within};
use crate::kernels::norm::{add_residual, add_rms_norm, rms_norm};
use crate::kernels::parts::{embedding_of, logits_of, token_losses_of};
use crate::kernels::rope::{Rotation, rope};
use crate::kernels::swiglu::swiglu;
use crate::kernels::{Indices, Matrix, Vector};
use crate::random;

use super::base::{BaseStorage, Initial};
use super::config::{ModelConfig, RopeKind, block_linears};
use super::linear::{Linear, LinearId, LinearTrace};
use super::params::{ParamId, Params, Role, part_name};
use super::replica::Replica;

/// One block: two norm gains, seven linear layers, and in some architectures norms on the heads of q and k.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub input_norm: ParamId,
    pub post_norm: ParamId,
    pub q_norm: Option<ParamId>,
    pub k_norm: Option<ParamId>,
    first_linear: usize,
}

/// Places of the linear layers within a block.
pub(super) const Q: usize = 0;
pub(super) const K: usize = 1;
pub(super) const V: usize = 2;
pub(super) const O: usize = 3;
pub(super) const GATE: usize = 4;
pub(super) const UP: usize = 5;
pub(super) const DOWN: usize = 6;

/// A LLaMA-family network on a device.
#[derive(Debug)]
pub struct Model {
    /// Its shape.
    pub config: ModelConfig,
    /// Its parameters, the network's own and those that methods add.
    pub params: Params,
    pub(super) device: Device,
    /// The embedding; in several parts, each the rows after the one before, where it is larger than the device binds.
    pub(super) embed: Vec<ParamId>,
    pub(super) blocks: Vec<Block>,
    pub(super) linears: Vec<Linear>,
    pub(super) final_norm: ParamId,
    /// As the embedding; `None`: tied to it.
    pub(super) head: Option<Vec<ParamId>>,
    pub(super) cos: Matrix,
    pub(super) sin: Matrix,
    /// Names of weights that were taken away.
    removed: Vec<String>,
    pub(super) base_storage: Option<BaseStorage>,
    pub(super) replicas: Vec<Replica>,
}

// What the data leave out of the loss is what the loss leaves out.
const _: () = assert!(crate::data::IGNORED == crate::kernels::loss::IGNORED);

/// A batch of token sequences on the device.
#[derive(Debug)]
pub struct Batch {
    /// Sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub seq_len: usize,
    /// Targets that count in the loss.
    pub counted: usize,
    /// The replica that trains on it; `None`: the network itself.
    pub replica: Option<usize>,
    pub(super) inputs: Indices,
    pub(super) targets: Indices,
    /// Of each token in its document, which is its sequence where that has only one.
    pub(super) positions: Indices,
    /// Where the document of each token begins and ends in its sequence, if some sequence has more than one.
    pub(super) documents: Option<Indices>,
    /// Positions sorted by (input id, position): the order of the embedding's gradient.
    pub(super) order: Indices,
}

impl Batch {
    /// Uploads `batch · seq_len` input ids and targets (ids, or [`crate::kernels::loss::IGNORED`]).
    pub fn new(inputs: &[i32], targets: &[i32], seq_len: usize, device: &Device) -> Self {
        Self::packed(inputs, targets, None, seq_len, device)
    }

    /// A batch of loaded blocks.
    pub fn of(batch: &crate::data::Batch, device: &Device) -> Self {
        Self::packed(&batch.inputs, &batch.targets, batch.bounds(), batch.seq_len, device)
    }

    /// [`Batch::new`] with several documents in a sequence: `documents` has, for each token, where in its sequence
    /// its document begins and where it ends. No token sees another document.
    ///
    /// Positions begin anew with each document. Rotary embedding makes scores depend on distances alone, so this
    /// changes nothing but rounding; it makes a document's angles those that it has alone, and keeps them small.
    pub fn packed(
        inputs: &[i32],
        targets: &[i32],
        documents: Option<&[i32]>,
        seq_len: usize,
        device: &Device,
    ) -> Self {
        assert_eq!(inputs.len(), targets.len(), "one target per input");
        assert_eq!(inputs.len() % seq_len, 0, "whole sequences");
        let begin = |i: usize| documents.map_or(0, |documents| documents[2 * i]);
        let positions: Vec<i32> =
            (0..inputs.len()).map(|i| (i % seq_len) as i32 - begin(i)).collect();
        let mut order: Vec<i32> = (0..inputs.len() as i32).collect();
        order.sort_by_key(|&position| (inputs[position as usize], position));
        let upload = |values: &[i32]| Indices::from_host(values, device, Category::Activations);
        Self {
            batch: inputs.len() / seq_len,
            seq_len,
            counted: targets.iter().filter(|&&target| target >= 0).count(),
            replica: None,
            inputs: upload(inputs),
            targets: upload(targets),
            positions: upload(&positions),
            documents: documents.map(upload),
            order: upload(&order),
        }
    }
}

/// What a block's backward pass needs of its forward pass.
pub(super) struct BlockTrace {
    /// Input of the block.
    pub x: Matrix,
    pub rstd_input: Vector,
    /// After the heads' norms and rotation.
    pub q: Matrix,
    pub k: Matrix,
    /// What the norms of the heads read, where there are some.
    pub q_norm: Option<HeadNormTrace>,
    pub k_norm: Option<HeadNormTrace>,
    pub v: Matrix,
    pub attended: Matrix,
    pub lse: Vector,
    /// Residual stream between attention and MLP.
    pub middle: Matrix,
    pub rstd_post: Vector,
    pub gate: Matrix,
    pub up: Matrix,
    /// What each linear layer kept.
    pub linears: [LinearTrace; 7],
}

/// What the backward pass of a norm on heads needs of its forward pass.
pub(super) struct HeadNormTrace {
    /// A head in a row: `[T·heads, D]`.
    pub x: Matrix,
    pub rstd: Vector,
}

/// The values that a parameter of a fresh network starts with: 0 for a bias, 1 for a norm gain, else normal ones of
/// standard deviation `std`.
pub fn initial_values(name: &str, shape: &[usize], std: f64, seed: u64) -> Vec<f32> {
    let len = shape.iter().product();
    match shape {
        [_] if name.rsplit('.').next() == Some("bias") => vec![0.0; len],
        [_] => vec![1.0; len],
        _ => random::stream(seed, name, "init", 0).normal_vec(len, std),
    }
}

impl Model {
    /// A network with `value(name, shape)` for every parameter, all of them trainable but weights in few bits.
    pub fn build<V: Into<Initial>, E>(
        config: ModelConfig,
        device: &Device,
        mut value: impl FnMut(&str, &[usize]) -> Result<V, E>,
    ) -> Result<Self, E> {
        let mut params = Params::default();
        let upload = |params: &mut Params, name: String, shape: Vec<usize>, values| {
            let rows = if shape.len() == 1 { [1, shape[0]] } else { [shape[0], shape[1]] };
            let matrix = Matrix::from_host(values, rows, device, Category::Weights);
            params.add(name, shape, Role::Network, matrix, true)
        };
        let hidden = config.hidden_size;
        let table = vec![config.vocab_size, hidden];
        let add_table = |params: &mut Params, name: &str, values: Vec<f32>| {
            let rows = rows_of_a_part(&config, device);
            if rows >= config.vocab_size {
                return vec![upload(params, name.to_owned(), table.clone(), values)];
            }
            let parts = values.chunks(rows * hidden).enumerate().map(|(number, values)| {
                let name = part_name(name, number * rows);
                upload(params, name, vec![values.len() / hidden, hidden], values.to_vec())
            });
            parts.collect()
        };
        let name = "model.embed_tokens.weight";
        let embed = add_table(&mut params, name, value(name, &table)?.into().dense(name));
        let mut add = |params: &mut Params, name: String, shape: Vec<usize>| {
            Ok(match value(&name, &shape)?.into() {
                Initial::Dense(values) => upload(params, name, shape, values),
                Initial::Packed(codes) => params.add_packed(name, &codes, device),
            })
        };
        let (mut blocks, mut linears) = (Vec::new(), Vec::new());
        for layer in 0..config.num_hidden_layers {
            let path = format!("model.layers.{layer}");
            let first_linear = linears.len();
            for (module, rows, cols) in block_linears(&config) {
                let name = format!("{path}.{module}");
                let weight = add(&mut params, format!("{name}.weight"), vec![rows, cols])?;
                let bias = if config.variant.has_bias(module) {
                    Some(add(&mut params, format!("{name}.bias"), vec![rows])?)
                } else {
                    None
                };
                linears.push(Linear {
                    name,
                    block: layer,
                    blocks: config.num_hidden_layers,
                    rows,
                    cols,
                    weight: Some(weight),
                    adapter: None,
                    sparse: None,
                    magnitude: None,
                    bias,
                });
            }
            let input_norm =
                add(&mut params, format!("{path}.input_layernorm.weight"), vec![hidden])?;
            let post_norm =
                add(&mut params, format!("{path}.post_attention_layernorm.weight"), vec![hidden])?;
            let mut head_norm = |name: &str| {
                let name = format!("{path}.self_attn.{name}.weight");
                add(&mut params, name, vec![config.head_dim])
            };
            let (q_norm, k_norm) = if config.variant.has_head_norms() {
                (Some(head_norm("q_norm")?), Some(head_norm("k_norm")?))
            } else {
                (None, None)
            };
            blocks.push(Block { input_norm, post_norm, q_norm, k_norm, first_linear });
        }
        let final_norm = add(&mut params, "model.norm.weight".into(), vec![hidden])?;
        let head = if config.tie_word_embeddings {
            None
        } else {
            let name = "lm_head.weight";
            Some(add_table(&mut params, name, value(name, &table)?.into().dense(name)))
        };
        let (cos, sin) = rope_tables(&config, device);
        Ok(Self {
            config,
            params,
            device: device.clone(),
            embed,
            blocks,
            linears,
            final_norm,
            head,
            cos,
            sin,
            removed: Vec::new(),
            base_storage: None,
            replicas: Vec::new(),
        })
    }

    /// A fresh network: weights `N(0, initializer_range)`, norm gains 1, each from its own random stream.
    pub fn init(config: ModelConfig, seed: u64, device: &Device) -> Self {
        let std = config.initializer_range;
        let result = Self::build(config, device, |name, shape| {
            Ok::<_, std::convert::Infallible>(initial_values(name, shape, std, seed))
        });
        match result {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    /// Drops everything that takes memory of the device. The network cannot be used any more; another one takes its
    /// place.
    pub fn unload(&mut self) {
        self.params = Params::default();
        self.blocks.clear();
        self.linears.clear();
        self.replicas.clear();
    }

    /// The device the network lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All linear layers of the blocks: the targets of every low-rank method.
    pub fn linears(&self) -> &[Linear] {
        &self.linears
    }

    /// Changes a linear layer: puts an adapter on it, takes its weight away.
    pub fn linear_mut(&mut self, id: LinearId) -> &mut Linear {
        &mut self.linears[id.0]
    }

    /// Takes a linear layer's dense weight away; an adapter must carry the layer from then on.
    pub fn drop_weight(&mut self, id: LinearId) {
        if let Some(weight) = self.linears[id.0].weight.take() {
            self.removed.push(self.params.get(weight).name.clone());
            self.params.remove(weight);
        }
    }

    /// Names of the weights that were taken away.
    pub fn removed_parameters(&self) -> Vec<String> {
        self.removed.clone()
    }

    /// Parameters that are no method's target: embedding, norm gains, head, norms of heads, biases.
    pub fn non_targets(&self) -> Vec<ParamId> {
        let norms = self.blocks.iter().flat_map(|b| [b.input_norm, b.post_norm]);
        let head_norms = self.blocks.iter().flat_map(|b| [b.q_norm, b.k_norm]).flatten();
        let biases = self.linears.iter().filter_map(|linear| linear.bias);
        let plain = self.embed.iter().copied().chain(norms).chain([self.final_norm]);
        let head = self.head.iter().flatten().copied();
        plain.chain(head).chain(head_norms).chain(biases).collect()
    }

    /// Logits `[batch·seq_len, V]` of a whole batch. For tests and small inputs: training never builds them.
    pub fn logits(&self, batch: &Batch) -> Matrix {
        self.logits_of(&self.hidden_states(batch))
    }

    /// Logits `[T, V]` of normed hidden states `[T, C]`.
    pub(super) fn logits_of(&self, hidden: &Matrix) -> Matrix {
        logits_of(hidden, &self.values(self.head_ids()), &self.device)
    }

    /// Rows of the embedding, `[T, C]`.
    pub(super) fn embedded(&self, ids: &Indices) -> Matrix {
        embedding_of(ids, &self.values(&self.embed), &self.device)
    }

    /// Loss of every token, `[batch·seq_len]`, 0 where the target is ignored.
    pub fn token_losses(&self, batch: &Batch) -> Vector {
        let head = self.values(self.head_ids());
        token_losses_of(&self.hidden_states(batch), &head, &batch.targets, &self.device)
    }

    fn hidden_states(&self, batch: &Batch) -> Matrix {
        let mut x = self.embedded(&batch.inputs);
        for index in 0..self.blocks.len() {
            x = self.block_forward(index, x, batch).0;
        }
        rms_norm(&x, self.params.value(self.final_norm), self.eps()).0
    }

    /// The parameters of the head; those of the embedding where they are tied.
    pub(super) fn head_ids(&self) -> &[ParamId] {
        self.head.as_deref().unwrap_or(&self.embed)
    }

    pub(super) fn values(&self, ids: &[ParamId]) -> Vec<&Matrix> {
        ids.iter().map(|&id| self.params.value(id)).collect()
    }

    pub(super) fn eps(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }

    pub(super) fn linear(&self, block: &Block, place: usize) -> &Linear {
        &self.linears[block.first_linear + place]
    }

    pub(super) fn attention_shape(
        &self,
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> AttentionShape {
        AttentionShape {
            batch,
            queries,
            keys,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }

    /// Every head of `x [T, heads·D]` through RMSNorm with one gain `[1, D]`, where the architecture has that.
    pub(super) fn normed_heads(
        &self,
        gain: Option<ParamId>,
        x: Matrix,
    ) -> (Matrix, Option<HeadNormTrace>) {
        let Some(gain) = gain else { return (x, None) };
        let (shape, head_dim) = (x.shape(), self.config.head_dim);
        let x = x.reshaped([shape[0] * (shape[1] / head_dim), head_dim]);
        let (y, rstd) = rms_norm(&x, self.params.value(gain), self.eps());
        (y.reshaped(shape), Some(HeadNormTrace { x, rstd }))
    }

    /// One block on `x [T, C]`: the output and what the backward pass needs.
    pub(super) fn block_forward(
        &self,
        index: usize,
        x: Matrix,
        batch: &Batch,
    ) -> (Matrix, BlockTrace) {
        let block = &self.blocks[index];
        let mut linears: [LinearTrace; 7] = Default::default();
        let mut project = |place: usize, input: &Matrix| {
            let (y, trace) = self.linear(block, place).forward(&self.params, input);
            linears[place] = trace;
            y
        };
        let rotate = |y| rope(y, &batch.positions, &self.cos, &self.sin, Rotation::Forward);

        let (normed, rstd_input) = rms_norm(&x, self.params.value(block.input_norm), self.eps());
        let (q, q_norm) = self.normed_heads(block.q_norm, project(Q, &normed));
        let (k, k_norm) = self.normed_heads(block.k_norm, project(K, &normed));
        let (q, k) = (rotate(q), rotate(k));
        let v = project(V, &normed);
        drop(normed);
        let shape = self.attention_shape(batch.batch, batch.seq_len, batch.seq_len);
        let (attended, lse) = attention_within(&q, &k, &v, batch.documents.as_ref(), shape);
        let delta = project(O, &attended);
        let post_gain = self.params.value(block.post_norm);
        let (middle, normed, rstd_post) = add_rms_norm(&x, delta, post_gain, self.eps());
        let gate = project(GATE, &normed);
        let up = project(UP, &normed);
        drop(normed);
        let output = project(DOWN, &swiglu(&gate, &up));
        let output = add_residual(&middle, output);
        let trace = BlockTrace {
            x,
            rstd_input,
            q,
            k,
            q_norm,
            k_norm,
            v,
            attended,
            lse,
            middle,
            rstd_post,
            gate,
            up,
            linears,
        };
        (output, trace)
    }
}

/// Rows of each part of a table, so that no part is larger than the device binds, and all are about as large.
fn rows_of_a_part(config: &ModelConfig, device: &Device) -> usize {
    let Some(limit) = device.binding_limit() else { return config.vocab_size };
    let most = (limit / (4 * config.hidden_size as u64)).max(1);
    let parts = (config.vocab_size as u64).div_ceil(most).max(1);
    config.vocab_size.div_ceil(parts as usize)
}

/// Cosines and sines `[max_positions, D/2]`, with the arithmetic of transformers: frequencies and angles in
/// f32, so that long positions have the same rounding.
fn rope_tables(config: &ModelConfig, device: &Device) -> (Matrix, Matrix) {
    let half = config.head_dim / 2;
    let positions = config.max_position_embeddings;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| {
            let exponent = (2 * i) as f32 / config.head_dim as f32;
            let base = 1.0 / (config.rope.theta as f32).powf(exponent);
            scaled_frequency(base, &config.rope.kind)
        })
        .collect();
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for position in 0..positions {
        for frequency in &frequencies {
            let angle = f64::from(position as f32 * frequency);
            cos.push(angle.cos() as f32);
            sin.push(angle.sin() as f32);
        }
    }
    let table = |values| Matrix::from_host(values, [positions, half], device, Category::Weights);
    (table(cos), table(sin))
}

fn scaled_frequency(frequency: f32, kind: &RopeKind) -> f32 {
    match *kind {
        RopeKind::Default => frequency,
        RopeKind::Linear { factor } => frequency / factor as f32,
        RopeKind::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => {
            let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequency);
            let original = original as f64;
            if wavelength < original / high_freq_factor {
                frequency
            } else if wavelength > original / low_freq_factor {
                frequency / factor as f32
            } else {
                let smooth = (original / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                let frequency = f64::from(frequency);
                ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scaling_divides_every_frequency_by_its_factor() {
        for frequency in [1.0, 0.1, 1e-4] {
            let scaled = scaled_frequency(frequency, &RopeKind::Linear { factor: 4.0 });
            assert_eq!(scaled, frequency / 4.0);
            assert_eq!(scaled_frequency(frequency, &RopeKind::Default), frequency);
        }
    }

    #[test]
    fn llama3_scaling_keeps_high_frequencies_and_divides_low_ones() {
        let kind = RopeKind::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        assert_eq!(scaled_frequency(1.0, &kind), 1.0);
        assert_eq!(scaled_frequency(1e-5, &kind), 1e-5 / 8.0);
        let middle = scaled_frequency(0.002, &kind); // a wavelength of 3142, between 2048 and 8192
        assert!(middle > 0.002 / 8.0 && middle < 0.002, "{middle}");
    }
}
