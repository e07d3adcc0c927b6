//! Text generation: a KV cache and sampling from the logits on the host.

use crate::device::memory::Category;
use crate::kernels::attention::{attention, copy_rows};
use crate::kernels::norm::{add_residual, add_rms_norm, rms_norm};
use crate::kernels::rope::{Rotation, rope};
use crate::kernels::swiglu::swiglu;
use crate::kernels::{Indices, Matrix};
use crate::random::Stream;

use super::llama::{DOWN, GATE, K, Model, O, Q, UP, V};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Only the `k` most likely tokens; 0 means all.
    pub top_k: usize,
    /// Only the smallest set of tokens that has this probability together; 1 means all.
    pub top_p: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 0, top_p: 0.95 }
    }
}

/// A sequence being generated: keys and values of what came before.
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Model,
    /// Per block: keys and values `[capacity, kv_heads·D]`.
    cache: Vec<(Option<Matrix>, Option<Matrix>)>,
    len: usize,
    capacity: usize,
}

impl<'a> Decoder<'a> {
    /// An empty sequence with room for `capacity` tokens, at most the model's context.
    pub fn new(model: &'a Model, capacity: usize) -> Self {
        let capacity = capacity.min(model.config.max_position_embeddings);
        let width = model.config.num_key_value_heads * model.config.head_dim;
        let empty = || Some(Matrix::zeros([capacity, width], &model.device, Category::Activations));
        let cache = (0..model.blocks.len()).map(|_| (empty(), empty())).collect();
        Self { model, cache, len: 0, capacity }
    }

    /// How many more tokens fit.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Feeds tokens (at least one, at most [`Decoder::room`]) and returns the logits after the last, `[V]`.
    pub fn feed(&mut self, tokens: &[i32]) -> Vec<f32> {
        assert!(!tokens.is_empty() && tokens.len() <= self.room(), "tokens fit the context");
        let model = self.model;
        let upload =
            |values: &[i32]| Indices::from_host(values, &model.device, Category::Activations);
        let positions: Vec<i32> = (self.len..self.len + tokens.len()).map(|p| p as i32).collect();
        let positions = upload(&positions);
        let mut x = model.embedded(&upload(tokens));
        for index in 0..model.blocks.len() {
            x = self.block(index, &x, &positions);
        }
        self.len += tokens.len();
        let (normed, _) = rms_norm(&x, model.params.value(model.final_norm), model.eps());
        let width = model.config.hidden_size;
        let last = normed.to_host().split_off((tokens.len() - 1) * width);
        let last = Matrix::from_host(last, [1, width], &model.device, Category::Activations);
        model.logits_of(&last).to_host()
    }

    fn block(&mut self, index: usize, x: &Matrix, positions: &Indices) -> Matrix {
        let model = self.model;
        let block = &model.blocks[index];
        let project =
            |place, input: &Matrix| model.linear(block, place).forward(&model.params, input).0;
        let rotate = |y| rope(y, positions, &model.cos, &model.sin, Rotation::Forward);
        let gain = |id| model.params.value(id);

        let (normed, _) = rms_norm(x, gain(block.input_norm), model.eps());
        let (q, _) = model.normed_heads(block.q_norm, project(Q, &normed));
        let (k, _) = model.normed_heads(block.k_norm, project(K, &normed));
        let (q, k) = (rotate(q), rotate(k));
        let (keys, values) = &mut self.cache[index];
        let keys = append(keys, &k, self.len);
        let values = append(values, &project(V, &normed), self.len);
        let queries = positions.len();
        let shape = model.attention_shape(1, queries, self.len + queries);
        let (attended, _) = attention(&q, keys, values, shape);
        let delta = project(O, &attended);
        let (middle, normed, _) = add_rms_norm(x, delta, gain(block.post_norm), model.eps());
        let inner = swiglu(&project(GATE, &normed), &project(UP, &normed));
        add_residual(&middle, project(DOWN, &inner))
    }
}

/// Writes rows into a cache in place and lends the cache.
fn append<'c>(slot: &'c mut Option<Matrix>, rows: &Matrix, at: usize) -> &'c Matrix {
    let cache = match slot.take() {
        Some(cache) => copy_rows(cache, rows, at),
        None => unreachable!("a cache is put back after every write"),
    };
    slot.insert(cache)
}

/// Chooses a token id from logits. Tokens tied in probability are ordered by id.
pub fn sample(logits: &[f32], sampling: Sampling, random: &mut Stream) -> i32 {
    let mut order: Vec<usize> = (0..logits.len()).filter(|&i| !logits[i].is_nan()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let Some(&best) = order.first() else { return 0 };
    if sampling.temperature <= 0.0 {
        return best as i32;
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let temperature = f64::from(sampling.temperature);
    let peak = f64::from(logits[best]);
    let mut weights: Vec<f64> =
        order.iter().map(|&i| ((f64::from(logits[i]) - peak) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0.0;
    let share = f64::from(sampling.top_p) * total;
    let cut = weights.iter().position(|w| {
        kept += w;
        kept >= share
    });
    weights.truncate(cut.map_or(weights.len(), |last| last + 1));
    let mut left = f64::from(random.uniform()) * weights.iter().sum::<f64>();
    for (&token, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return token as i32;
        }
    }
    order[weights.len() - 1] as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn temperature_zero_takes_the_most_likely_token() {
        let sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };
        assert_eq!(sample(&[0.1, 3.0, 2.0], sampling, &mut stream(0, "", "", 0)), 1);
    }

    #[test]
    fn top_k_and_top_p_leave_only_likely_tokens() {
        let logits = [0.0, 4.0, 3.9, -2.0];
        let mut random = stream(1, "", "", 0);
        for sampling in [
            Sampling { temperature: 1.0, top_k: 2, top_p: 1.0 },
            Sampling { temperature: 1.0, top_k: 0, top_p: 0.9 },
        ] {
            let mut seen = [0; 4];
            for _ in 0..500 {
                seen[sample(&logits, sampling, &mut random) as usize] += 1;
            }
            assert!(seen[0] == 0 && seen[3] == 0 && seen[1] > 150 && seen[2] > 150, "{seen:?}");
        }
    }
}
