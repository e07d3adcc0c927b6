//! The loss of a LLaMA with plain loops in f64: nothing but the formulas, to be differentiated numerically.

use std::collections::BTreeMap;

use fullrank::model::{Model, ModelConfig};

/// Values of all parameters in f64, by name.
pub type Values = BTreeMap<String, Vec<f64>>;

/// A network in f64.
pub struct Oracle {
    config: ModelConfig,
    /// Can be nudged by a test.
    pub values: Values,
    /// Scale of the adapter of a layer, by the layer's name.
    scales: BTreeMap<String, f64>,
    /// Lengths of the rows of `W + s·B·A` of a layer with trained lengths, as the model had them: constants.
    lengths: BTreeMap<String, Vec<f64>>,
}

impl Oracle {
    /// The values of a model with all its adapters.
    pub fn from_model(model: &Model) -> Self {
        let values = model.params.iter().map(|(_, param)| {
            let values = param.value().to_host().into_iter().map(f64::from).collect();
            (param.name.clone(), values)
        });
        let scales = model
            .linears()
            .iter()
            .filter_map(|linear| Some((linear.name.clone(), f64::from(linear.adapter?.scale))));
        let mut oracle = Self {
            config: model.config.clone(),
            values: values.collect(),
            scales: scales.collect(),
            lengths: BTreeMap::new(),
        };
        for linear in model.linears().iter().filter(|linear| linear.magnitude.is_some()) {
            // The columns of the layer's product with the unit vectors.
            let unit = |i| (0..linear.cols).map(|j| f64::from(u8::from(i == j))).collect();
            let columns = oracle.low_rank_linear(
                &linear.name,
                &(0..linear.cols).map(unit).collect::<Vec<Vec<f64>>>(),
            );
            let square = |row: usize| columns.iter().map(|column| column[row].powi(2)).sum::<f64>();
            let lengths = (0..linear.rows).map(|row| square(row).sqrt()).collect();
            oracle.lengths.insert(linear.name.clone(), lengths);
        }
        oracle
    }

    /// Mean loss over the targets that count (those not negative).
    pub fn loss(&self, inputs: &[i32], targets: &[i32], seq_len: usize) -> f64 {
        let rows = inputs.chunks(seq_len).zip(targets.chunks(seq_len));
        let sum: f64 = rows.map(|(inputs, targets)| self.sequence_loss(inputs, targets)).sum();
        sum / targets.iter().filter(|&&target| target >= 0).count() as f64
    }

    fn sequence_loss(&self, inputs: &[i32], targets: &[i32]) -> f64 {
        let hidden = self.config.hidden_size;
        let table = &self.values["model.embed_tokens.weight"];
        let mut x: Vec<Vec<f64>> = inputs
            .iter()
            .map(|&id| table[id as usize * hidden..(id as usize + 1) * hidden].to_vec())
            .collect();
        for layer in 0..self.config.num_hidden_layers {
            let path = format!("model.layers.{layer}");
            let y = self.norm(&format!("{path}.input_layernorm"), &x);
            add(&mut x, &self.attention(&format!("{path}.self_attn"), &y));
            let y = self.norm(&format!("{path}.post_attention_layernorm"), &x);
            let gate = self.linear(&format!("{path}.mlp.gate_proj"), &y);
            let up = self.linear(&format!("{path}.mlp.up_proj"), &y);
            let inner: Vec<Vec<f64>> = gate
                .iter()
                .zip(&up)
                .map(|(g, u)| g.iter().zip(u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect())
                .collect();
            add(&mut x, &self.linear(&format!("{path}.mlp.down_proj"), &inner));
        }
        let x = self.norm("model.norm", &x);
        let head = if self.config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        let logits = self.linear(head, &x);
        let counted = logits.iter().zip(targets).filter(|(_, target)| **target >= 0);
        counted.map(|(row, &target)| log_sum_exp(row) - row[target as usize]).sum()
    }

    fn norm(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let gain = &self.values[&format!("{name}.weight")];
        x.iter()
            .map(|row| {
                let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
                let scale = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
                row.iter().zip(gain).map(|(v, g)| v * scale * g).collect()
            })
            .collect()
    }

    /// `x·Wᵀ + s·(x·Aᵀ)·Bᵀ`, times `magnitude / length` by output where the layer has trained lengths.
    fn linear(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut y = self.low_rank_linear(name, x);
        let bias = self.values.get(&format!("{name}.bias"));
        if let Some(lengths) = self.lengths.get(name) {
            let magnitudes = &self.values[&format!("{name}.lora_magnitude_vector")];
            for row in &mut y {
                for ((y, magnitude), length) in row.iter_mut().zip(magnitudes).zip(lengths) {
                    *y *= magnitude / length;
                }
            }
        }
        for row in &mut y {
            row.iter_mut().zip(bias.into_iter().flatten()).for_each(|(y, bias)| *y += bias);
        }
        y
    }

    fn low_rank_linear(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut y = product(x, &self.values[&format!("{name}.weight")]);
        if let Some(scale) = self.scales.get(name) {
            let h = product(x, &self.values[&format!("{name}.lora_A")]);
            let mut low_rank = product(&h, &self.values[&format!("{name}.lora_B")]);
            low_rank.iter_mut().flatten().for_each(|v| *v *= scale);
            add(&mut y, &low_rank);
        }
        y
    }

    fn attention(&self, path: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let ModelConfig { head_dim, num_attention_heads: heads, .. } = self.config;
        let group = heads / self.config.num_key_value_heads;
        let heads_of = |kind: char| {
            let y = self.linear(&format!("{path}.{kind}_proj"), x);
            self.rotate(self.norm_heads(&format!("{path}.{kind}_norm"), y))
        };
        let (q, k) = (heads_of('q'), heads_of('k'));
        let v = self.linear(&format!("{path}.v_proj"), x);
        let mut mixed = vec![vec![0.0; heads * head_dim]; x.len()];
        for head in 0..heads {
            let (own, shared) = (head * head_dim, head / group * head_dim);
            for t in 0..x.len() {
                let scores: Vec<f64> = (0..=t)
                    .map(|s| {
                        let dot: f64 =
                            (0..head_dim).map(|d| q[t][own + d] * k[s][shared + d]).sum();
                        dot / (head_dim as f64).sqrt()
                    })
                    .collect();
                let total = log_sum_exp(&scores);
                for (s, score) in scores.iter().enumerate() {
                    let weight = (score - total).exp();
                    for d in 0..head_dim {
                        mixed[t][own + d] += weight * v[s][shared + d];
                    }
                }
            }
        }
        self.linear(&format!("{path}.o_proj"), &mixed)
    }

    /// Every head through the norm of this name, where there is one.
    fn norm_heads(&self, name: &str, x: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        if !self.values.contains_key(&format!("{name}.weight")) {
            return x;
        }
        let heads = |row: Vec<f64>| {
            let heads: Vec<Vec<f64>> =
                row.chunks(self.config.head_dim).map(<[f64]>::to_vec).collect();
            self.norm(name, &heads).concat()
        };
        x.into_iter().map(heads).collect()
    }

    /// Rotates the two halves of each head; row `t` is position `t`.
    fn rotate(&self, mut x: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let head_dim = self.config.head_dim;
        let half = head_dim / 2;
        for (t, row) in x.iter_mut().enumerate() {
            for head in row.chunks_mut(head_dim) {
                for i in 0..half {
                    let exponent = (2 * i) as f64 / head_dim as f64;
                    let (sin, cos) = (t as f64 / self.config.rope.theta.powf(exponent)).sin_cos();
                    let (a, b) = (head[i], head[half + i]);
                    head[i] = a * cos - b * sin;
                    head[half + i] = b * cos + a * sin;
                }
            }
        }
        x
    }
}

/// `x·Wᵀ` for a row-major `W [outputs, inputs]`.
fn product(x: &[Vec<f64>], weight: &[f64]) -> Vec<Vec<f64>> {
    x.iter()
        .map(|row| {
            let outputs = weight.chunks(row.len());
            outputs.map(|w| w.iter().zip(row).map(|(w, v)| w * v).sum()).collect()
        })
        .collect()
}

fn add(x: &mut [Vec<f64>], y: &[Vec<f64>]) {
    x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
}

fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
}
