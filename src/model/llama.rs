//! The forward pass: embedding, blocks of attention and SwiGLU with RMSNorm before each, final norm.

use crate::device::Device;
use crate::device::memory::Category;
use crate::kernels::attention::{AttentionShape, attention};
use crate::kernels::embedding::embedding;
use crate::kernels::loss::token_losses;
use crate::kernels::matmul::{Layout, matmul};
use crate::kernels::norm::{add_residual, add_rms_norm, rms_norm};
use crate::kernels::rope::{Rotation, rope};
use crate::kernels::swiglu::swiglu;
use crate::kernels::{Indices, Matrix, Vector};
use crate::random;

use super::config::{ModelConfig, RopeKind, block_linears};
use super::linear::{Linear, LinearId, LinearTrace};
use super::params::{ParamId, Params, Role};
use super::replica::Replica;

/// One block: two norm gains and seven linear layers.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub input_norm: ParamId,
    pub post_norm: ParamId,
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
    pub(super) embed: ParamId,
    pub(super) blocks: Vec<Block>,
    pub(super) linears: Vec<Linear>,
    pub(super) final_norm: ParamId,
    /// `None`: tied to the embedding.
    pub(super) head: Option<ParamId>,
    pub(super) cos: Matrix,
    pub(super) sin: Matrix,
    /// Names of weights that were taken away.
    removed: Vec<String>,
    pub(super) replicas: Vec<Replica>,
}

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
    pub(super) positions: Indices,
    /// Positions sorted by (input id, position): the order of the embedding's gradient.
    pub(super) order: Indices,
}

impl Batch {
    /// Uploads `batch · seq_len` input ids and targets (ids, or [`crate::kernels::loss::IGNORED`]).
    pub fn new(inputs: &[i32], targets: &[i32], seq_len: usize, device: &Device) -> Self {
        assert_eq!(inputs.len(), targets.len(), "one target per input");
        assert_eq!(inputs.len() % seq_len, 0, "whole sequences");
        let positions: Vec<i32> = (0..inputs.len()).map(|i| (i % seq_len) as i32).collect();
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
            order: upload(&order),
        }
    }
}

/// What a block's backward pass needs of its forward pass.
pub(super) struct BlockTrace {
    /// Input of the block.
    pub x: Matrix,
    pub rstd_input: Vector,
    /// After rotation.
    pub q: Matrix,
    pub k: Matrix,
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

/// The values that a parameter of a fresh network starts with: 1 for a norm gain, else normal ones of standard deviation
/// `std`.
pub fn initial_values(name: &str, shape: &[usize], std: f64, seed: u64) -> Vec<f32> {
    let len = shape.iter().product();
    match shape {
        [_] => vec![1.0; len],
        _ => random::stream(seed, name, "init", 0).normal_vec(len, std),
    }
}

impl Model {
    /// A network with `value(name, shape)` for every parameter, all of them trainable.
    pub fn build<E>(
        config: ModelConfig,
        device: &Device,
        mut value: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut params = Params::default();
        let mut add = |params: &mut Params, name: String, shape: Vec<usize>| {
            let values = value(&name, &shape)?;
            let rows = if shape.len() == 1 { [1, shape[0]] } else { [shape[0], shape[1]] };
            let matrix = Matrix::from_host(values, rows, device, Category::Weights);
            Ok(params.add(name, shape, Role::Network, matrix, true))
        };
        let hidden = config.hidden_size;
        let table = vec![config.vocab_size, hidden];
        let embed = add(&mut params, "model.embed_tokens.weight".into(), table.clone())?;
        let (mut blocks, mut linears) = (Vec::new(), Vec::new());
        for layer in 0..config.num_hidden_layers {
            let path = format!("model.layers.{layer}");
            let first_linear = linears.len();
            for (module, rows, cols) in block_linears(&config) {
                let name = format!("{path}.{module}");
                let weight = add(&mut params, format!("{name}.weight"), vec![rows, cols])?;
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
                });
            }
            let input_norm =
                add(&mut params, format!("{path}.input_layernorm.weight"), vec![hidden])?;
            let post_norm =
                add(&mut params, format!("{path}.post_attention_layernorm.weight"), vec![hidden])?;
            blocks.push(Block { input_norm, post_norm, first_linear });
        }
        let final_norm = add(&mut params, "model.norm.weight".into(), vec![hidden])?;
        let head = if config.tie_word_embeddings {
            None
        } else {
            Some(add(&mut params, "lm_head.weight".into(), table)?)
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

    /// Parameters that are no method's target: embedding, head, norm gains.
    pub fn non_targets(&self) -> Vec<ParamId> {
        let norms = self.blocks.iter().flat_map(|b| [b.input_norm, b.post_norm]);
        std::iter::once(self.embed).chain(norms).chain([self.final_norm]).chain(self.head).collect()
    }

    /// Logits `[batch·seq_len, V]` of a whole batch. For tests and small inputs: training never builds them.
    pub fn logits(&self, batch: &Batch) -> Matrix {
        matmul(Layout::Nt, &self.hidden_states(batch), self.head_weight())
    }

    /// Loss of every token, `[batch·seq_len]`, 0 where the target is ignored.
    pub fn token_losses(&self, batch: &Batch) -> Vector {
        token_losses(&self.hidden_states(batch), self.head_weight(), &batch.targets)
    }

    fn hidden_states(&self, batch: &Batch) -> Matrix {
        let mut x = embedding(&batch.inputs, self.params.value(self.embed));
        for index in 0..self.blocks.len() {
            x = self.block_forward(index, x, batch).0;
        }
        rms_norm(&x, self.params.value(self.final_norm), self.eps()).0
    }

    pub(super) fn head_weight(&self) -> &Matrix {
        self.params.value(self.head.unwrap_or(self.embed))
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
        let q = rotate(project(Q, &normed));
        let k = rotate(project(K, &normed));
        let v = project(V, &normed);
        drop(normed);
        let shape = self.attention_shape(batch.batch, batch.seq_len, batch.seq_len);
        let (attended, lse) = attention(&q, &k, &v, shape);
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
