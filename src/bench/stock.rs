//! The same network written as a burn user writes it: burn's modules, burn's autodiff, burn's AdamW.
//!
//! It is the baseline of the step benchmark and the oracle of the explicit backward pass. It is not tuned
//! and shares no code with the crate: parameters come in by name, results go out by name.
use std::collections::BTreeMap;

use burn::module::{LoraAdapter, Module, Param, Reparameterizer};
use burn::nn::{Embedding, Linear, RmsNorm};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{Bool, Device as BurnDevice, Gradients, Int, Tensor, TensorData};

use crate::device::Device;
use crate::model::{Model, ModelConfig};

/// Gradients by the crate's parameter names, row-major in the crate's shapes.
pub type NamedGradients = BTreeMap<String, Vec<f32>>;

/// A LLaMA in burn's own operations.
#[derive(Module, Debug)]
pub struct StockLlama {
    embed: Embedding,
    blocks: Vec<StockBlock>,
    norm: RmsNorm,
    /// None: tied to the embedding.
    head: Option<Linear>,
    /// `[1, 1, positions, D/2]`
    cos: Tensor<4>,
    sin: Tensor<4>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

#[derive(Module, Debug)]
struct StockBlock {
    input_norm: RmsNorm,
    q: Linear,
    k: Linear,
    /// Norms of the heads, where the architecture has them.
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    v: Linear,
    o: Linear,
    post_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Token ids and targets on a device.
#[derive(Debug, Clone)]
pub struct StockBatch {
    /// `[B, T]`
    inputs: Tensor<2, Int>,
    /// `[B·T]`, 0 where ignored
    targets: Tensor<1, Int>,
    /// `[B·T]`, 1 where the target counts; None where all do
    weights: Option<Tensor<1>>,
    counted: usize,
}

impl StockBatch {
    /// Uploads ids; a negative target is ignored.
    pub fn new(inputs: &[i32], targets: &[i32], seq_len: usize, device: &Device) -> Self {
        let device = &with_autodiff(device);
        let shape = [inputs.len() / seq_len, seq_len];
        let counted = targets.iter().filter(|&&target| target >= 0).count();
        let weights: Vec<f32> = targets.iter().map(|&t| if t >= 0 { 1.0 } else { 0.0 }).collect();
        let clean: Vec<i32> = targets.iter().map(|&t| t.max(0)).collect();
        Self {
            inputs: Tensor::from_data(TensorData::new(inputs.to_vec(), shape), device),
            targets: Tensor::from_data(TensorData::new(clean, [targets.len()]), device),
            weights: (counted < targets.len())
                .then(|| Tensor::from_data(TensorData::new(weights, [targets.len()]), device)),
            counted,
        }
    }
}

/// The device with burn's tape.
fn with_autodiff(device: &Device) -> BurnDevice {
    device.tensor_device().clone().autodiff()
}

/// Attaches one given adapter to the weight of a linear layer and freezes the weight.
struct Attach(Option<LoraAdapter>);

impl Reparameterizer for Attach {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        _path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        (param.set_require_grad(false), self.0.take())
    }
}

/// Reads parameters of the crate's model into burn's layouts.
struct Source<'a> {
    model: &'a Model,
    device: &'a BurnDevice,
}

impl Source<'_> {
    fn matrix(&self, name: &str) -> Option<Tensor<2>> {
        let id = self.model.params.find(name)?;
        let value = self.model.params.value(id);
        Some(Tensor::from_data(TensorData::new(value.to_host(), value.shape()), self.device))
    }

    fn required(&self, name: &str) -> Tensor<2> {
        self.matrix(name).unwrap_or_else(|| unreachable!("the model has no parameter {name}"))
    }

    /// burn keeps a weight as `[inputs, outputs]`.
    fn transposed(&self, name: &str) -> Param<Tensor<2>> {
        Param::from_data(self.required(name).transpose().into_data(), self.device)
    }

    /// A row as a vector.
    fn vector(&self, name: &str) -> Option<Param<Tensor<1>>> {
        let row = self.matrix(name)?;
        Some(Param::from_data(row.flatten::<1>(0, 1).into_data(), self.device))
    }

    fn optional_norm(&self, name: &str) -> Option<RmsNorm> {
        Some(RmsNorm { gamma: self.vector(name)?, epsilon: self.model.config.rms_norm_eps })
    }

    fn norm(&self, name: &str) -> RmsNorm {
        self.optional_norm(name)
            .unwrap_or_else(|| unreachable!("the model has no parameter {name}"))
    }

    fn linear(&self, name: &str) -> Linear {
        let bias = self.vector(&format!("{name}.bias"));
        let linear = Linear { weight: self.transposed(&format!("{name}.weight")), bias: None };
        let ours = self.model.linears().iter().find(|ours| ours.name == name);
        let Some(adapter) = ours.and_then(|ours| ours.adapter) else {
            return Linear { bias, ..linear };
        };
        let adapter = LoraAdapter {
            a: self.transposed(&format!("{name}.lora_A")),
            b: self.transposed(&format!("{name}.lora_B")),
            scale: f64::from(adapter.scale),
        };
        // The bias comes after: attaching freezes all there is.
        Linear { bias, ..linear.apply_reparameterization(Attach(Some(adapter))) }
    }
}

impl StockLlama {
    /// A copy of a model with all its adapters on a device.
    pub fn from_model(model: &Model, device: &Device) -> Self {
        let device = &with_autodiff(device);
        let source = Source { model, device };
        let config = &model.config;
        let block = |layer: usize| {
            let path = format!("model.layers.{layer}");
            let linear = |module: &str| source.linear(&format!("{path}.{module}"));
            let norm = |module: &str| source.norm(&format!("{path}.{module}.weight"));
            StockBlock {
                input_norm: norm("input_layernorm"),
                q: linear("self_attn.q_proj"),
                k: linear("self_attn.k_proj"),
                q_norm: source.optional_norm(&format!("{path}.self_attn.q_norm.weight")),
                k_norm: source.optional_norm(&format!("{path}.self_attn.k_norm.weight")),
                v: linear("self_attn.v_proj"),
                o: linear("self_attn.o_proj"),
                post_norm: norm("post_attention_layernorm"),
                gate: linear("mlp.gate_proj"),
                up: linear("mlp.up_proj"),
                down: linear("mlp.down_proj"),
            }
        };
        let (cos, sin) = rope_tables(config, device);
        let embed = source.required("model.embed_tokens.weight").into_data();
        Self {
            embed: Embedding { weight: Param::from_data(embed, device) },
            blocks: (0..config.num_hidden_layers).map(block).collect(),
            norm: source.norm("model.norm.weight"),
            head: (!config.tie_word_embeddings).then(|| source.linear("lm_head")),
            cos,
            sin,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// Mean loss over the targets that count, `[1]`.
    pub fn loss(&self, batch: &StockBatch) -> Tensor<1> {
        let [b, t] = batch.inputs.dims();
        let device = batch.inputs.device();
        let causal = Tensor::<2, Bool>::tril_mask([t, t], 0, &device).reshape([1, 1, t, t]);
        let mut x = self.embed.forward(batch.inputs.clone());
        for block in &self.blocks {
            let delta = self.attention(block, block.input_norm.forward(x.clone()), &causal);
            x = x + delta;
            let y = block.post_norm.forward(x.clone());
            let inner = silu(block.gate.forward(y.clone())) * block.up.forward(y);
            x = x + block.down.forward(inner);
        }
        let x = self.norm.forward(x);
        let logits = match &self.head {
            Some(head) => head.forward(x),
            None => x.matmul(self.embed.weight.val().transpose().unsqueeze()),
        };
        let vocabulary = logits.dims()[2];
        let log_probs = log_softmax(logits.reshape([b * t, vocabulary]), 1);
        let chosen = log_probs.gather(1, batch.targets.clone().reshape([b * t, 1]));
        match &batch.weights {
            None => chosen.mean().neg(),
            Some(weights) => {
                let sum = (chosen.reshape([b * t]) * weights.clone()).sum();
                sum.neg() / batch.counted as f64
            }
        }
    }

    /// `x [B, T, C]` → `[B, T, C]`
    fn attention(&self, block: &StockBlock, x: Tensor<3>, causal: &Tensor<4, Bool>) -> Tensor<3> {
        let [b, t, _] = x.dims();
        let by_head =
            |y: Tensor<3>, heads: usize| y.reshape([b, t, heads, self.head_dim]).swap_dims(1, 2);
        let shared = |y: Tensor<4>| {
            let group = self.heads / self.kv_heads;
            if group == 1 {
                return y;
            }
            let y = y.unsqueeze_dim::<5>(2).repeat_dim(2, group);
            y.reshape([b, self.heads, t, self.head_dim])
        };
        let normed = |norm: &Option<RmsNorm>, y: Tensor<4>| match norm {
            Some(norm) => norm.forward(y),
            None => y,
        };
        let q = normed(&block.q_norm, by_head(block.q.forward(x.clone()), self.heads));
        let k = normed(&block.k_norm, by_head(block.k.forward(x.clone()), self.kv_heads));
        let (q, k) = (self.rotate(q), shared(self.rotate(k)));
        let v = shared(by_head(block.v.forward(x), self.kv_heads));
        let scores = q.matmul(k.transpose()) / (self.head_dim as f64).sqrt();
        let scores =
            scores.mask_fill(causal.clone().expand([b, self.heads, t, t]), f32::NEG_INFINITY);
        let mixed = softmax(scores, 3).matmul(v);
        block.o.forward(mixed.swap_dims(1, 2).reshape([b, t, self.heads * self.head_dim]))
    }

    /// Rotates the two halves of each head by the position's angles.
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, t, d] = x.dims();
        let half = d / 2;
        let cos = self.cos.clone().narrow(2, 0, t);
        let sin = self.sin.clone().narrow(2, 0, t);
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let low = first.clone() * cos.clone() - second.clone() * sin.clone();
        let high = second * cos + first * sin;
        Tensor::cat(vec![low, high], 3)
    }

    /// Loss and the gradient of everything that is trained.
    pub fn gradients(&self, batch: &StockBatch) -> (f64, NamedGradients) {
        let loss = self.loss(batch);
        let grads = loss.backward();
        let mut named = NamedGradients::new();
        let mut matrix = |name: String, param: &Param<Tensor<2>>, is_transposed: bool| {
            if let Some(grad) = param.base().grad(&grads) {
                let grad = if is_transposed { grad.transpose() } else { grad };
                named.insert(name, host(grad));
            }
        };
        matrix("model.embed_tokens.weight".into(), &self.embed.weight, false);
        for (name, linear) in self.named_linears() {
            matrix(format!("{name}.weight"), &linear.weight, true);
            if let Some(adapter) = linear.weight.adapter() {
                matrix(format!("{name}.lora_A"), &adapter.a, true);
                matrix(format!("{name}.lora_B"), &adapter.b, true);
            }
        }
        for (name, norm) in self.named_norms() {
            insert_vector(&mut named, format!("{name}.weight"), &norm.gamma, &grads);
        }
        for (name, linear) in self.named_linears() {
            if let Some(bias) = &linear.bias {
                insert_vector(&mut named, format!("{name}.bias"), bias, &grads);
            }
        }
        (f64::from(host(loss)[0]), named)
    }

    fn named_linears(&self) -> Vec<(String, &Linear)> {
        let blocks = self.blocks.iter().enumerate().flat_map(|(layer, block)| {
            let modules = [
                ("self_attn.q_proj", &block.q),
                ("self_attn.k_proj", &block.k),
                ("self_attn.v_proj", &block.v),
                ("self_attn.o_proj", &block.o),
                ("mlp.gate_proj", &block.gate),
                ("mlp.up_proj", &block.up),
                ("mlp.down_proj", &block.down),
            ];
            modules.map(|(module, linear)| (format!("model.layers.{layer}.{module}"), linear))
        });
        blocks.chain(self.head.as_ref().map(|head| ("lm_head".into(), head))).collect()
    }

    fn named_norms(&self) -> Vec<(String, &RmsNorm)> {
        let blocks = self.blocks.iter().enumerate().flat_map(|(layer, block)| {
            let norms = [
                ("input_layernorm", Some(&block.input_norm)),
                ("post_attention_layernorm", Some(&block.post_norm)),
                ("self_attn.q_norm", block.q_norm.as_ref()),
                ("self_attn.k_norm", block.k_norm.as_ref()),
            ];
            norms.into_iter().filter_map(move |(module, norm)| {
                Some((format!("model.layers.{layer}.{module}"), norm?))
            })
        });
        blocks.chain([("model.norm".into(), &self.norm)]).collect()
    }
}

fn insert_vector(
    named: &mut NamedGradients,
    name: String,
    vector: &Param<Tensor<1>>,
    grads: &Gradients,
) {
    if let Some(grad) = vector.base().grad(grads) {
        named.insert(name, host(grad));
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let values = tensor.into_data().try_to_vec();
    values.unwrap_or_else(|error| unreachable!("the oracle computes in f32: {error:?}"))
}

/// Cosines and sines of the plain rotary embedding, in f64 until the end.
fn rope_tables(config: &ModelConfig, device: &BurnDevice) -> (Tensor<4>, Tensor<4>) {
    let half = config.head_dim / 2;
    let positions = config.max_position_embeddings;
    let angles: Vec<f64> = (0..positions * half)
        .map(|i| {
            let exponent = (2 * (i % half)) as f64 / config.head_dim as f64;
            (i / half) as f64 / config.rope.theta.powf(exponent)
        })
        .collect();
    let table = |values: Vec<f32>| {
        Tensor::from_data(TensorData::new(values, [1, 1, positions, half]), device)
    };
    let map = |f: fn(f64) -> f64| angles.iter().map(|&angle| f(angle) as f32).collect();
    (table(map(f64::cos)), table(map(f64::sin)))
}

/// A model with burn's AdamW on everything that is trained.
pub struct StockTrainer {
    /// Taken out while the optimizer holds it, so that nothing else shares its tensors.
    model: Option<StockLlama>,
    optimizer: ModuleOptimizer,
}

impl StockTrainer {
    /// AdamW as torch has it: eps outside the root, decay decoupled (here none).
    pub fn new(model: StockLlama) -> Self {
        let config = AdamWConfig::new()
            .with_beta_1(0.9)
            .with_beta_2(0.999)
            .with_epsilon(1e-8)
            .with_weight_decay(0.0);
        Self { model: Some(model), optimizer: config.init() }
    }

    /// One update; the loss before it.
    pub fn step(&mut self, batch: &StockBatch, learning_rate: f64) -> f64 {
        let Some(model) = self.model.take() else { unreachable!("the optimizer gives it back") };
        let loss = model.loss(batch);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimizer.step(learning_rate, model, grads));
        f64::from(host(loss)[0])
    }
}
