//! Text generation: a KV cache and sampling from the logits on the host.

use std::cmp::Ordering;

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
    /// Only tokens with at least this share of the most likely one's probability; 0 means all.
    pub min_p: f32,
    /// Divides the positive logits of tokens that are in the text already, and multiplies the negative ones; 1 changes
    /// nothing. Source: CTRL, arXiv:1909.05858, in the form of transformers.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 0, top_p: 0.95, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };
}

/// A sequence being generated: keys and values of what came before.
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Model,
    /// Per block: keys and values `[reserved, kv_heads·D]`.
    cache: Vec<(Option<Matrix>, Option<Matrix>)>,
    len: usize,
    /// Rows of each cache.
    reserved: usize,
    capacity: usize,
}

/// Rows by which a cache grows at least.
const CACHE_STEP: usize = 256;

impl<'a> Decoder<'a> {
    /// An empty sequence of at most `capacity` tokens, and at most the model's context. The cache grows with the text.
    pub fn new(model: &'a Model, capacity: usize) -> Self {
        let capacity = capacity.min(model.config.max_position_embeddings);
        let cache = (0..model.blocks.len()).map(|_| (None, None)).collect();
        Self { model, cache, len: 0, reserved: 0, capacity }
    }

    /// Tokens that were fed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was fed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more tokens fit.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Forgets all but the first `len` tokens.
    pub fn rewind(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for `more` tokens in the caches.
    fn reserve(&mut self, more: usize) {
        let needed = self.len + more;
        if needed <= self.reserved {
            return;
        }
        let rows = needed.max(2 * self.reserved).next_multiple_of(CACHE_STEP).min(self.capacity);
        let model = self.model;
        let width = model.config.num_key_value_heads * model.config.head_dim;
        for (keys, values) in &mut self.cache {
            for slot in [keys, values] {
                let larger = Matrix::zeros([rows, width], &model.device, Category::Activations);
                // One after the other, so that there is never more than one layer's cache twice.
                *slot = Some(match slot.take() {
                    Some(old) => copy_rows(larger, &old, 0),
                    None => larger,
                });
            }
        }
        self.reserved = rows;
    }

    /// Feeds tokens (at least one, at most [`Decoder::room`]) and returns the logits after the last, `[V]`.
    pub fn feed(&mut self, tokens: &[i32]) -> Vec<f32> {
        assert!(!tokens.is_empty() && tokens.len() <= self.room(), "tokens fit the context");
        self.reserve(tokens.len());
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

/// Lowers the logits of tokens that are in the text already: see [`Sampling::repetition_penalty`].
pub fn penalise(logits: &mut [f32], text: &[i32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen: Vec<i32> = text.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = usize::try_from(id).ok().and_then(|id| logits.get_mut(id)) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// Sorts as many of the likeliest tokens to the front as reach `goal` together, and returns their weights. A sort of a
/// whole vocabulary for each token would take a tenth of a small model's time.
fn likeliest(
    order: &mut [usize],
    likelier: impl Fn(&usize, &usize) -> Ordering + Copy,
    weight: impl Fn(usize) -> f64,
    goal: f64,
) -> Vec<f64> {
    let (mut weights, mut sum) = (Vec::new(), 0.0);
    while weights.len() < order.len() && sum <= goal {
        let done = weights.len();
        let rest = &mut order[done..];
        let next = rest.len().min(64.max(4 * done));
        if next < rest.len() {
            rest.select_nth_unstable_by(next - 1, likelier);
        }
        rest[..next].sort_unstable_by(likelier);
        for &token in &rest[..next] {
            weights.push(weight(token));
            sum += weight(token);
        }
    }
    weights
}

/// Chooses a token id from logits. Tokens tied in probability are ordered by id.
pub fn sample(logits: &[f32], sampling: Sampling, random: &mut Stream) -> i32 {
    let likelier = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    let numbers = || (0..logits.len()).filter(|&i| !logits[i].is_nan());
    let Some(best) = numbers().min_by(likelier) else { return 0 };
    if sampling.temperature <= 0.0 {
        return best as i32;
    }
    let temperature = f64::from(sampling.temperature);
    let peak = f64::from(logits[best]);
    let weight = |i: usize| ((f64::from(logits[i]) - peak) / temperature).exp();
    // The likeliest has the weight 1.
    let least = f64::from(sampling.min_p);
    let mut order: Vec<usize> = numbers().filter(|&i| weight(i) >= least || i == best).collect();
    if sampling.top_k > 0 && sampling.top_k < order.len() {
        order.select_nth_unstable_by(sampling.top_k - 1, likelier);
        order.truncate(sampling.top_k);
    }
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    let drawn = f64::from(random.uniform());
    let share = f64::from(sampling.top_p);
    let goal = if share < 1.0 { share * total } else { drawn * total };
    let mut weights = likeliest(&mut order, likelier, weight, goal);
    if share < 1.0 {
        let mut kept = 0.0;
        let cut = weights.iter().position(|w| {
            kept += w;
            kept >= goal
        });
        weights.truncate(cut.map_or(weights.len(), |last| last + 1));
    }
    let mut left = drawn * if share < 1.0 { weights.iter().sum() } else { total };
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
        let greedy = |logits: &[f32]| sample(logits, Sampling::GREEDY, &mut stream(0, "", "", 0));
        assert_eq!(greedy(&[0.1, 3.0, 2.0]), 1);
        assert_eq!(greedy(&[f32::NAN, 3.0, 3.0]), 1);
        assert_eq!(greedy(&[f32::NAN]), 0);
    }

    #[test]
    fn top_k_and_top_p_leave_only_likely_tokens() {
        let logits = [0.0, 4.0, 3.9, -2.0];
        let mut random = stream(1, "", "", 0);
        let all = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        for sampling in [
            Sampling { top_k: 2, ..all },
            Sampling { top_p: 0.9, ..all },
            Sampling { min_p: 0.5, ..all },
        ] {
            let mut seen = [0; 4];
            for _ in 0..500 {
                seen[sample(&logits, sampling, &mut random) as usize] += 1;
            }
            assert!(seen[0] == 0 && seen[3] == 0 && seen[1] > 150 && seen[2] > 150, "{seen:?}");
        }
    }

    #[test]
    fn draws_have_the_probabilities_of_the_logits() {
        let logits: Vec<f32> = (0..300).map(|i| ((i * 7919 % 300) as f32).ln()).collect();
        let mut random = stream(3, "", "", 0);
        let all = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        let draws = 60_000;
        let mut seen = vec![0.0; 300];
        for _ in 0..draws {
            seen[sample(&logits, all, &mut random) as usize] += 1.0;
        }
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        for (quarter, counts) in seen.chunks(75).enumerate() {
            let part = &logits[quarter * 75..][..75];
            let wanted: f64 = part.iter().map(|&l| f64::from(l).exp()).sum::<f64>() / total;
            let found = counts.iter().sum::<f64>() / f64::from(draws);
            assert!((found - wanted).abs() < 0.01, "{found} {wanted}");
        }
    }

    #[test]
    fn a_penalty_lowers_what_is_in_the_text_once() {
        let mut logits = [2.0, -2.0, 2.0];
        penalise(&mut logits, &[0, 1, 0, 99, -1], 2.0);
        assert_eq!(logits, [1.0, -4.0, 2.0]);
    }
}
