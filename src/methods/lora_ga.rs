//! LoRA-GA: LoRA whose factors start from the singular vectors of the full gradient, so that the first
//! step of `s·B·A` is the best step of rank `2r`. Source: arXiv:2407.05000 and the authors' code.
//!
//! Before a fresh run `look_ahead` estimates the gradient on the run's first batches; `prepare` decomposes
//! it, sets A and B, and takes `s·B·A` off the dense weight, so that the function does not change. From
//! there on it is LoRA with `s = alpha/√r` (the authors' fork uses `alpha/r` unless told otherwise). A run
//! that resumes estimates nothing: its checkpoint holds the factors and where they started.

use rayon::prelude::*;
use serde_json::json;

use crate::config::{Ranks, RunConfig, Targets};
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::Matrix;
use crate::kernels::matmul::{Layout, matmul};
use crate::linalg::spectrum::Product;
use crate::linalg::svd::Svd;
use crate::model::config::TargetLayer;
use crate::model::{Linear, LinearId, Model};
use crate::runlog::{Body, Clamp, Phase};

use super::factors;
use super::footprint::{self, Footprint};
use super::singular::Decomposition;
use super::starts::Starts;
use super::{
    Base, Context, Export, Method, MethodState, NextBatch, PlainAdapter, StateReader, resolved,
    singular,
};

pub mod gradient;
pub mod start;

use start::{Direction, Length};

/// LoRA-GA on all target layers.
#[derive(Debug)]
pub struct LoraGa {
    ranks: Ranks,
    alpha: f64,
    /// Micro-batches of the estimate.
    batches: usize,
    recompute: bool,
    direction: Direction,
    length: Length,
    clips_product: bool,
    /// Mean gradients between `look_ahead` and `prepare`, by layer.
    gradients: Vec<Vec<f32>>,
    starts: Starts,
    targets: Targets,
}

/// What a layer's decomposed gradient says.
struct Decomposed {
    svd: Svd,
    grad_norm: f64,
    /// Share of the squared norm that the leading `2r` triplets hold, in (0, 1].
    energy: f64,
}

impl LoraGa {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let table = &config.lora_ga;
        let wrong = |key: &str, value: &str, words: &str| {
            Error::config(
                format!("lora-ga.{key} = {value}: no such choice"),
                format!("use {words}"),
            )
        };
        let gamma = resolved(table.gamma, "lora-ga.gamma")?;
        Ok(Self {
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            batches: table.sequences.div_ceil(config.train.batch_size.unwrap_or(1).max(1)).max(1),
            recompute: config.train.grad_checkpoint,
            direction: Direction::from_name(&table.direction).ok_or_else(|| {
                wrong("direction", &table.direction, "ArB2r, A2rBr, ArBr or random")
            })?,
            length: Length::from_name(&table.scale, gamma)
                .ok_or_else(|| wrong("scale", &table.scale, "stable, gd, unit or weight"))?,
            clips_product: table.norm_clip,
            gradients: Vec::new(),
            starts: Starts::default(),
            targets: config.train.targets(),
        })
    }

    /// The rank of a layer: A and B need `r` singular directions each.
    fn layer_rank(&self, linear: &Linear) -> Result<usize> {
        let most = linear.max_rank() / 2;
        if most == 0 {
            return Err(Error::config(
                format!(
                    "{} is {} x {}; lora-ga needs at least 2 on both sides",
                    linear.name, linear.rows, linear.cols
                ),
                "use a wider model, or --method lora",
            ));
        }
        Ok(self.wanted(linear).min(most))
    }

    fn wanted(&self, linear: &Linear) -> usize {
        self.ranks.at(linear.block, linear.blocks)
    }

    fn scale(&self, rank: usize) -> f32 {
        (self.alpha / (rank as f64).sqrt()) as f32
    }

    /// Decomposes every layer's gradient, layers in parallel; each gradient is freed when it is done.
    fn decompose(&mut self, linears: &[(LinearId, Linear)], seed: u64) -> Result<Vec<Decomposed>> {
        let gradients = std::mem::take(&mut self.gradients);
        let ranks: Vec<usize> =
            linears.iter().map(|(_, linear)| self.layer_rank(linear)).collect::<Result<_>>()?;
        let layers = gradients.into_par_iter().zip(linears).zip(ranks);
        layers
            .map(|((gradient, (_, linear)), rank)| {
                let wide: Vec<f64> = gradient.iter().map(|&value| f64::from(value)).collect();
                drop(gradient);
                let shape = [linear.rows, linear.cols];
                let total: f64 = wide.iter().map(|value| value * value).sum();
                singular::leading(&wide, shape, 2 * rank, Decomposition::Auto, seed, &linear.name)
                    .filter(|_| total.is_finite())
                    .map(|mut svd| {
                        // No vector meets its own partner in B·A.
                        singular::fix_own_signs(&mut svd);
                        let held: f64 = svd.s.iter().map(|s| s * s).sum();
                        let energy = if total > 0.0 { (held / total).min(1.0) } else { 1.0 };
                        Decomposed { svd, grad_norm: total.sqrt(), energy }
                    })
                    .ok_or_else(|| Error::Diverged {
                        what: format!("the gradient of {} is not finite", linear.name),
                        remedy: "check the weights of the model".into(),
                    })
            })
            .collect()
    }

    /// The starting factors of a layer.
    fn start(
        &self,
        model: &Model,
        linear: &Linear,
        svd: &Svd,
        rank: usize,
        seed: u64,
    ) -> Result<[Vec<f32>; 2]> {
        let (scale, shape) = (self.scale(rank), [linear.rows, linear.cols]);
        let weight: Vec<f32> = match (self.length, self.clips_product, linear.weight) {
            (Length::Weight, ..) | (_, true, _) => {
                linear.weight.map(|id| model.params.value(id).to_host()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let mut is_finite = true;
        let c = self.length.of(linear.rows, f64::from(scale), || {
            let wide: Vec<f64> = weight.iter().map(|&value| f64::from(value)).collect();
            let leading =
                singular::leading(&wide, shape, rank, Decomposition::Auto, seed, &linear.name);
            is_finite = leading.is_some();
            leading.map(|svd| svd.s).unwrap_or_default()
        });
        if !is_finite {
            return Err(Error::Diverged {
                what: format!("the weight of {} is not finite", linear.name),
                remedy: "check the weights of the model".into(),
            });
        }
        let places = self.direction.places(rank, seed, &linear.name);
        let [mut a, mut b] = start::factors(svd, &places, c);
        if self.clips_product {
            let device = model.device();
            let upload = |values: &[f32], shape| {
                Matrix::from_host(values.to_vec(), shape, device, Category::Activations)
            };
            let (left, right) = (upload(&b, [linear.rows, rank]), upload(&a, [rank, linear.cols]));
            let product = largest(&matmul(Layout::Nn, &left, &right).to_host()) * scale;
            let ratio = largest(&weight) / product;
            if ratio < 1.0 {
                // The product shrinks by the ratio, each factor by its root.
                a.iter_mut().chain(&mut b).for_each(|value| *value *= ratio.sqrt());
            }
        }
        Ok([a, b])
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

impl Method for LoraGa {
    fn name(&self) -> &'static str {
        "lora-ga"
    }

    fn base(&self) -> Base {
        Base::ChangedAtStart
    }

    fn look_ahead(&mut self, cx: &mut Context<'_>, next_batch: &mut NextBatch<'_>) -> Result<()> {
        let (targets, batches) = (&self.targets, self.batches);
        self.gradients =
            gradient::estimate(cx.model, targets, batches, self.recompute, next_batch)?;
        Ok(())
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let layers = factors::targets(cx.model, &self.targets);
        if self.gradients.len() != layers.len() {
            return Err(Error::run(
                "lora-ga has no gradient to start from",
                "prepare it with batches of the run (Engine::prepare)",
            ));
        }
        let decomposed = self.decompose(&layers, cx.seed)?;
        let mean = |of: &dyn Fn(&Decomposed) -> f64| {
            decomposed.iter().map(of).sum::<f64>() / decomposed.len().max(1) as f64
        };
        let detail = format!(
            "{} batches; mean over layers: norm {:.3e}, {:.0} % of the energy in the top 2r",
            self.batches,
            mean(&|layer| layer.grad_norm),
            100.0 * mean(&|layer| layer.energy)
        );
        cx.events.push(Phase { name: "gradient-estimate".into(), detail }.into());
        for ((id, linear), layer) in layers.iter().zip(decomposed) {
            let rank = self.layer_rank(linear)?;
            let wanted = self.wanted(linear);
            if rank < wanted {
                cx.events.push(clamped(linear, wanted, rank));
            }
            let [a, b] = self.start(cx.model, linear, &layer.svd, rank, cx.seed)?;
            let pair = (a.clone(), b.clone());
            let (adapter, change) =
                factors::attach(cx.model, *id, rank, self.scale(rank), pair, true);
            let mut event = factors::init_event(&cx.model.params, linear, adapter, change);
            if let Body::Init(init) = &mut event {
                init.grad_norm = Some(layer.grad_norm);
                init.energy = Some(layer.energy);
            }
            cx.events.push(event);
            self.starts.keep(*id, [a, b], rank, cx.model.device());
        }
        factors::freeze_adapted(cx.model);
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        for (id, linear) in factors::targets(cx.model, &self.targets) {
            let rank = self.layer_rank(&linear)?;
            let device = cx.model.device().clone();
            self.starts.restore(state, id, &linear, rank, &device)?;
            let blank = factors::blank(&linear, rank);
            factors::attach(cx.model, id, rank, self.scale(rank), blank, false);
        }
        factors::freeze_adapted(cx.model);
        Ok(())
    }

    /// A₀ and B₀, which an adapter of the original weight needs.
    fn state(&self, cx: &Context<'_>) -> MethodState {
        let tensors = self.starts.tensors(cx.model);
        MethodState { tensors, json: json!({ "batches": self.batches }), steps: Vec::new() }
    }

    /// The rank of `B·A`, and of the first `B·A`.
    fn rank_ceiling(&self, _model: &Model, linear: &Linear, _t: u64) -> usize {
        (2 * factors::restored_rank(linear, self.ranks)).min(linear.max_rank())
    }

    /// Beside a weight in few bits, whose rounding is no change that was trained.
    fn change_as_product(&self, model: &Model, linear: &Linear, _seed: u64) -> Option<Product> {
        self.starts.change_beside_packed(model, linear)
    }

    fn export(&self, model: &Model) -> Export {
        Export::of_frozen_base(model)
    }

    fn plain_adapter(&self, model: &Model, id: LinearId) -> Option<PlainAdapter> {
        self.starts.plain_adapter(model, id)
    }
}

fn clamped(linear: &Linear, wanted: usize, rank: usize) -> Body {
    let reason = format!(
        "the layer is {} x {}, and A and B take {rank} singular vectors each",
        linear.rows, linear.cols
    );
    Clamp { layer: linear.name.clone(), wanted: wanted as u64, rank: rank as u64, reason }.into()
}

/// Its look at the gradient before the run: the network alone, each gradient freed as soon as it is complete.
pub fn estimate_footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    let weight = layer.len();
    if !footprint::is_target(config, layer) {
        return Footprint { weight, ..Footprint::default() };
    }
    Footprint { weight, trained: weight, is_consumed: true, ..Footprint::default() }
}

/// Factors of at most half the full rank, with a copy of where they started.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    if !footprint::is_target(config, layer) {
        return Footprint::untargeted(layer, config);
    }
    let rank = footprint::rank(config, layer).min(layer.max_rank() / 2);
    Footprint::pair(layer, config, rank).with_start()
}

/// Between the look at the gradient and the first update, where weights are stored in few bits.
pub fn start_footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    footprint(config, layer).before_packing(layer)
}
