//! InRank: every target layer is `s·B·A` from the start, at a low rank that grows as the spectrum of the product asks
//! for it. Source: arXiv:2306.11250 and the authors' repository.
//!
//! A layer trains its rank and a buffer of vectors beyond it, which show where the rank has to grow. Only those exist:
//! factors and moments change their shape when the rank does. Vectors that come in start with `b = 0`, so the layer
//! computes what it did, and with counters of their own, so that their first steps are not blown up. At
//! `truncate_at` the layers are cut to their ranks by an SVD and training goes on without buffers; the moments, which
//! belong to other coordinates, start again with their counters.

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::config::{InRankTable, Ranks, RunConfig};
use crate::device::memory::Category;
use crate::error::Result;
use crate::kernels::Vector;
use crate::kernels::update::{Axis, VectorCounters, adamw_vectors};
use crate::linalg::factored::ProductSvd;
use crate::model::config::TargetLayer;
use crate::model::{Gradients, Linear, LinearId, Model};
use crate::optim::adamw::Moments;
use crate::random::stream;
use crate::runlog::Phase;

use super::footprint::{self, Footprint};
use super::{
    Context, Export, Method, MethodState, StateReader, adamw_all, effective, factors, resolved,
};

mod layer;
mod spectrum;

use layer::Layer;
pub use spectrum::grown_rank;

/// InRank on all target layers.
#[derive(Debug)]
pub struct InRank {
    ranks: Ranks,
    scale: f32,
    rules: Rules,
    /// Of the dense weights that the first products stand for.
    initializer_range: f64,
    layers: Vec<Layer>,
}

/// When and how far ranks grow.
#[derive(Debug, Clone, Copy)]
struct Rules {
    start_rank: usize,
    buffer: usize,
    ratio: f64,
    first_check: u64,
    gap: u64,
    truncate_at: u64,
}

impl Rules {
    fn new(table: &InRankTable) -> Result<Self> {
        Ok(Self {
            start_rank: table.start_rank,
            buffer: resolved(table.buffer, "inrank.buffer")?,
            ratio: table.ratio,
            first_check: resolved(table.first_check, "inrank.first_check")?,
            gap: resolved(table.gap, "inrank.gap")?.max(1),
            truncate_at: resolved(table.truncate_at, "inrank.truncate_at")?,
        })
    }

    /// Whether ranks may grow after `t` updates.
    fn is_check(&self, t: u64) -> bool {
        t > 0
            && t < self.truncate_at
            && t >= self.first_check
            && (t - self.first_check).is_multiple_of(self.gap)
    }
}

/// The most vectors a layer `m × n` ever has: half its full rank, and what is configured.
pub fn most_vectors(rows: usize, cols: usize, rank: usize) -> usize {
    (rows.min(cols) / 2).min(rank).max(1)
}

impl InRank {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        Ok(Self {
            ranks: resolved(config.train.ranks(), "train.rank")?,
            scale: resolved(config.train.alpha, "train.alpha")? as f32,
            rules: Rules::new(&config.inrank)?,
            initializer_range: 0.0,
            layers: Vec::new(),
        })
    }

    /// Decomposes the products of all layers, as many at once as there are threads.
    fn decomposed(&self, cx: &Context<'_>) -> Vec<Option<ProductSvd>> {
        let (seed, t) = (cx.seed, cx.t);
        let mut all = Vec::new();
        for group in self.layers.chunks(rayon::current_num_threads().max(1)) {
            let host: Vec<_> = group.iter().map(|layer| layer.factors(&cx.model.params)).collect();
            let found = group.par_iter().zip(&host).map(|(layer, factors)| {
                let mut stream = stream(seed, &layer.name, "basis", t);
                layer.decompose(factors, &mut |len| (0..len).map(|_| stream.normal()).collect())
            });
            all.extend(found.collect::<Vec<_>>());
        }
        all
    }

    fn most(&self, linear: &Linear) -> usize {
        most_vectors(linear.rows, linear.cols, self.ranks.at(linear.block, linear.blocks))
    }

    /// The factors that a layer starts with.
    fn first_factors(&self, linear: &Linear, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let most = self.most(linear);
        let vectors = (self.rules.start_rank.min(most) + self.rules.buffer).min(most);
        layer::draw(self.initializer_range, linear, vectors, f64::from(self.scale), seed)
    }

    fn check_ranks(&mut self, cx: &mut Context<'_>) {
        let found = self.decomposed(cx);
        let Rules { buffer, ratio, .. } = self.rules;
        for (layer, found) in self.layers.iter_mut().zip(found) {
            // Without a decomposition (factors that are not finite are never checked) the rank stays.
            let Some(found) = found else { continue };
            let rank = grown_rank(&found.values, layer.rank, ratio).min(layer.most);
            if rank > layer.rank {
                cx.events.push(layer.event(rank, layer.rank, &found.values));
                layer.rank = rank;
            }
            layer.extend(cx, (rank + buffer).min(layer.most));
        }
    }

    fn truncate(&mut self, cx: &mut Context<'_>) {
        let found = self.decomposed(cx);
        for (layer, found) in self.layers.iter_mut().zip(found) {
            let vectors = layer.vectors();
            if let Some(found) = found.filter(|_| layer.rank < vectors) {
                cx.events.push(layer.event(layer.rank, vectors, &found.values));
                layer.cut(cx, &found);
            }
        }
        let ranks = || self.layers.iter().map(|layer| layer.rank);
        let detail = format!(
            "every layer is cut to its rank ({} to {}) and keeps it; moments start again",
            ranks().min().unwrap_or(0),
            ranks().max().unwrap_or(0)
        );
        cx.events.push(Phase { name: "ranks-fixed".into(), detail }.into());
    }
}

impl Method for InRank {
    fn name(&self) -> &'static str {
        "inrank"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        self.initializer_range = cx.model.config.initializer_range;
        for index in 0..cx.model.linears().len() {
            let linear = cx.model.linears()[index].clone();
            let most = layer::clamped(&linear, self.ranks, cx.events);
            let rank = self.rules.start_rank.min(most);
            let vectors = (rank + self.rules.buffer).min(most);
            let pair = self.first_factors(&linear, cx.seed);
            cx.model.drop_weight(LinearId(index));
            let (adapter, _) =
                factors::attach(cx.model, LinearId(index), vectors, self.scale, pair, false);
            cx.events.push(factors::init_event(&cx.model.params, &linear, adapter, 0.0));
            let since = vec![cx.t as i32; vectors];
            self.layers.push(Layer::new(&linear, adapter, [rank, most], since, cx.model.device()));
        }
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        self.initializer_range = cx.model.config.initializer_range;
        let entries = state.json().get("layers").and_then(Value::as_array);
        let entries = entries.filter(|entries| entries.len() == cx.model.linears().len());
        let Some(entries) = entries else {
            return Err(state.mismatch("the InRank state has not one entry for each layer".into()));
        };
        for (index, entry) in entries.iter().enumerate() {
            let linear = cx.model.linears()[index].clone();
            let most = self.most(&linear);
            let number = |key: &str| entry.get(key).and_then(Value::as_u64).map(|n| n as usize);
            let saved = number("rank").zip(number("vectors"));
            let is_sound = |&(rank, vectors): &(usize, usize)| {
                (1..=vectors).contains(&rank) && vectors <= most
            };
            let Some((rank, vectors)) = saved.filter(is_sound) else {
                let what =
                    format!("{}: no ranks that fit --rank {}", linear.name, self.ranks.most());
                return Err(state.mismatch(what));
            };
            let pair = factors::blank(&linear, vectors);
            cx.model.drop_weight(LinearId(index));
            let (adapter, _) =
                factors::attach(cx.model, LinearId(index), vectors, self.scale, pair, false);
            let steps = state.steps(&cx.model.params.get(adapter.a).name, vectors)?;
            let since = steps.iter().map(|&step| cx.t as i32 - step).collect();
            self.layers.push(Layer::new(&linear, adapter, [rank, most], since, cx.model.device()));
        }
        Ok(())
    }

    fn state(&self, cx: &Context<'_>) -> MethodState {
        let entry = |layer: &Layer| json!({ "rank": layer.rank, "vectors": layer.vectors() });
        let entries: Vec<Value> = self.layers.iter().map(entry).collect();
        let steps = self.layers.iter().flat_map(|layer| layer.steps(cx.t)).collect();
        MethodState { json: json!({ "layers": entries }), steps, ..MethodState::default() }
    }

    fn update(
        &mut self,
        cx: &mut Context<'_>,
        mut grads: Gradients,
        clip: &Vector,
        learning_rate: f64,
    ) {
        for layer in &self.layers {
            layer.update(cx, &mut grads, clip, learning_rate);
        }
        adamw_all(cx, &mut grads, clip, learning_rate);
    }

    fn after_update(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if cx.t == self.rules.truncate_at {
            self.truncate(cx);
        } else if self.rules.is_check(cx.t) {
            self.check_ranks(cx);
        }
        Ok(())
    }

    fn start_weight(&self, linear: &Linear, seed: u64, _base: Vec<f64>) -> Vec<f64> {
        let (a, b) = self.first_factors(linear, seed);
        let product =
            effective::scaled(effective::wide(&b), effective::wide(&a), self.scale, linear);
        let mut start = vec![0.0; linear.rows * linear.cols];
        product.add_to(&mut start);
        start
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// Factors at the most that a layer may have, with a counter and a freeze for each vector on both sides.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    let most = most_vectors(layer.rows, layer.cols, footprint::rank(config, layer));
    let factors = layer.factor_len(most);
    Footprint {
        factors,
        trained: factors,
        optimizer: 2 * factors + 4 * most as u128,
        trace_per_token: most as u128,
        ..Footprint::default()
    }
}
