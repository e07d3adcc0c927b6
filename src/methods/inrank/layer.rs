//! One layer: factors and moments that grow and are cut, with a counter for each vector.

use crate::device::Device;
use crate::kernels::Matrix;
use crate::linalg::factored::product_svd;
use crate::linalg::orthonormal::RandomVectors;
use crate::model::{Adapter, Linear, ParamId, Params};
use crate::runlog::{Body, Clamp, Subspace};

use super::{
    Axis, Category, Context, Gradients, Moments, ProductSvd, Vector, VectorCounters, adamw_vectors,
    most_vectors, stream,
};
use crate::config::Ranks;

/// A layer without dense weight whose rank grows.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) name: String,
    adapter: Adapter,
    rows: usize,
    cols: usize,
    /// Without the buffer.
    pub(super) rank: usize,
    /// Most vectors, with the buffer.
    pub(super) most: usize,
    /// The update index at which each vector's counter was zero: row `i` of `A` and column `i` of `B` are one vector.
    since: Vec<i32>,
    /// The same on the device, by rows of `A` and by columns of `B`; nothing is ever held.
    counters: [VectorCounters; 2],
}

/// The most vectors of a layer, with an event where that is less than configured.
pub(super) fn clamped(linear: &Linear, ranks: Ranks, events: &mut Vec<Body>) -> usize {
    let wanted = ranks.at(linear.block, linear.blocks);
    let most = most_vectors(linear.rows, linear.cols, wanted);
    if most < wanted {
        let reason = format!("half the full rank of a layer of {} x {}", linear.rows, linear.cols);
        let (layer, rank, wanted) = (linear.name.clone(), most as u64, wanted as u64);
        events.push(Clamp { layer, wanted, rank, reason }.into());
    }
    most
}

/// `A ~ U(±1/√n)` and `B` uniform with the bound at which an entry of `s·B·A` has the variance of the dense weight it
/// stands for, `initializer_range²`.
pub(super) fn draw(
    initializer_range: f64,
    linear: &Linear,
    vectors: usize,
    scale: f64,
    seed: u64,
) -> (Vec<f32>, Vec<f32>) {
    let n = linear.cols as f64;
    // r·var(b)·var(a)·s² = σ² with var(a) = 1/(3n); a uniform's bound is √3 of its deviation.
    let bound = 3.0 * initializer_range * (n / vectors as f64).sqrt() / scale;
    let a = new_rows(linear.cols, &linear.name, vectors, seed, 0);
    let len = linear.rows * vectors;
    (a, stream(seed, &linear.name, "lora_B", 0).symmetric_vec(len, bound as f32))
}

/// Rows of `A` that come in after `t` updates.
fn new_rows(cols: usize, name: &str, count: usize, seed: u64, t: u64) -> Vec<f32> {
    stream(seed, name, "lora_A", t).symmetric_vec(count * cols, 1.0 / (cols as f32).sqrt())
}

/// `[rows, r]` with `more` columns of zeros on the right.
fn widened(values: &[f32], rows: usize, more: usize) -> Vec<f32> {
    let width = values.len() / rows;
    let zeros = std::iter::repeat_n(0.0, more);
    values.chunks_exact(width).flat_map(|row| row.iter().copied().chain(zeros.clone())).collect()
}

/// `[r, cols]` with `more` rows of zeros below.
fn lengthened(mut values: Vec<f32>, cols: usize, more: usize) -> Vec<f32> {
    values.resize(values.len() + more * cols, 0.0);
    values
}

impl Layer {
    pub(super) fn new(
        linear: &Linear,
        adapter: Adapter,
        [rank, most]: [usize; 2],
        since: Vec<i32>,
        device: &Device,
    ) -> Self {
        Self {
            name: linear.name.clone(),
            adapter,
            rows: linear.rows,
            cols: linear.cols,
            rank,
            most,
            counters: counters(&since, device),
            since,
        }
    }

    /// Vectors that are trained: the rank and the buffer.
    pub(super) fn vectors(&self) -> usize {
        self.since.len()
    }

    /// Counters of both factors after `t` updates.
    pub(super) fn steps(&self, t: u64) -> [(ParamId, Vec<i32>); 2] {
        let steps: Vec<i32> = self.since.iter().map(|&since| t as i32 - since).collect();
        [(self.adapter.a, steps.clone()), (self.adapter.b, steps)]
    }

    /// `(B, A)` on the host.
    pub(super) fn factors(&self, params: &Params) -> (Vec<f32>, Vec<f32>) {
        (params.value(self.adapter.b).to_host(), params.value(self.adapter.a).to_host())
    }

    pub(super) fn decompose(
        &self,
        (b, a): &(Vec<f32>, Vec<f32>),
        random: &mut RandomVectors<'_>,
    ) -> Option<ProductSvd> {
        product_svd(b, a, self.vectors(), random)
    }

    /// What a change of the rank leaves: the share of the product's squared norm that the first `rank` values have.
    pub(super) fn event(&self, rank: usize, before: usize, values: &[f64]) -> Body {
        let squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let total = squares(values);
        let energy = if total > 0.0 { squares(&values[..rank]) / total } else { 0.0 };
        Subspace {
            layer: self.name.clone(),
            side: "both".into(),
            rank: rank as u64,
            rank_before: Some(before as u64),
            energy,
            ..Subspace::default()
        }
        .into()
    }

    fn count_from(&mut self, since: Vec<i32>, device: &Device) {
        self.counters = counters(&since, device);
        self.since = since;
    }

    /// Takes in new vectors until there are `vectors`: rows of `A` from their own stream, columns of `B` of zeros.
    pub(super) fn extend(&mut self, cx: &mut Context<'_>, vectors: usize) {
        let more = vectors.saturating_sub(self.vectors());
        if more == 0 {
            return;
        }
        let (b, mut a) = self.factors(&cx.model.params);
        a.extend(new_rows(self.cols, &self.name, more, cx.seed, cx.t));
        let b = widened(&b, self.rows, more);
        self.replace(cx, a, b);

        let device = cx.model.device().clone();
        let Adapter { a, b, .. } = self.adapter;
        for (id, shape) in [(a, [vectors, self.cols]), (b, [self.rows, vectors])] {
            if !cx.optimizer.has(id) {
                continue;
            }
            let Moments { exp_avg, exp_avg_sq, step } = cx.optimizer.take_shaped(id, shape);
            let larger = |x: &Matrix| {
                let values = x.to_host();
                let values = if id == a {
                    lengthened(values, self.cols, more)
                } else {
                    widened(&values, self.rows, more)
                };
                Matrix::from_host(values, shape, &device, Category::Optimizer)
            };
            let (exp_avg, exp_avg_sq) = (larger(&exp_avg), larger(&exp_avg_sq));
            cx.optimizer.put(id, Moments { exp_avg, exp_avg_sq, step });
        }
        let mut since = self.since.clone();
        since.resize(vectors, cx.t as i32);
        self.count_from(since, &device);
    }

    /// Cuts the product to the rank: `B = U·√σ`, `A = √σ·V`. Moments and counters start again.
    pub(super) fn cut(&mut self, cx: &mut Context<'_>, found: &ProductSvd) {
        let rank = self.rank;
        let roots: Vec<f64> = found.values[..rank].iter().map(|value| value.sqrt()).collect();
        let scaled = |vectors: &[f64], len: usize, entry: usize| {
            let j = entry / len;
            (vectors[entry] * roots[j]) as f32
        };
        let a = (0..rank * self.cols).map(|i| scaled(&found.right, self.cols, i)).collect();
        let b = (0..self.rows * rank)
            .map(|i| scaled(&found.left, self.rows, i % rank * self.rows + i / rank))
            .collect();
        self.replace(cx, a, b);
        cx.optimizer.forget(self.adapter.a);
        cx.optimizer.forget(self.adapter.b);
        let device = cx.model.device().clone();
        self.count_from(vec![cx.t as i32; rank], &device);
    }

    fn replace(&self, cx: &mut Context<'_>, a: Vec<f32>, b: Vec<f32>) {
        let device = cx.model.device().clone();
        let vectors = a.len() / self.cols;
        let upload = |values, shape: [usize; 2]| {
            Matrix::from_host(values, shape, &device, Category::Adapters)
        };
        cx.model.params.replace(self.adapter.a, upload(a, [vectors, self.cols]));
        cx.model.params.replace(self.adapter.b, upload(b, [self.rows, vectors]));
    }

    /// AdamW on both factors with a counter for each vector.
    pub(super) fn update(
        &self,
        cx: &mut Context<'_>,
        grads: &mut Gradients,
        clip: &Vector,
        learning_rate: f64,
    ) {
        let Context { model, optimizer, t, .. } = cx;
        let hyper = optimizer.hyper(learning_rate);
        for (id, counters) in [self.adapter.a, self.adapter.b].into_iter().zip(&self.counters) {
            let Some(grad) = grads.take(id) else { continue };
            let Moments { exp_avg, exp_avg_sq, step } = optimizer.take(&model.params, id);
            let param = model.params.take(id);
            let (param, exp_avg, exp_avg_sq) = adamw_vectors(
                param, &grad, clip, exp_avg, exp_avg_sq, hyper, *t as u32, counters, false,
            );
            model.params.set(id, param);
            optimizer.put(id, Moments { exp_avg, exp_avg_sq, step });
        }
    }
}

fn counters(since: &[i32], device: &Device) -> [VectorCounters; 2] {
    let never = vec![0; since.len()];
    [Axis::Rows, Axis::Columns].map(|axis| VectorCounters::new(axis, since, &never, device))
}
