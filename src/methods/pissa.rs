//! PiSSA: LoRA whose factors start from the leading singular triplets of the weight itself, so that the principal part
//! is trained and the residual is frozen. Source: arXiv:2404.02948 and the authors' code.
//!
//! `B = U_r·√(S_r/s)`, `A = √(S_r/s)·V_rᵀ`, `W ← W − s·B·A`: the function does not change. Where a singular value is 0 both
//! vectors are, and that part of the factors never learns; weights from training have none.

use rayon::prelude::*;
use serde_json::json;

use crate::config::{Ranks, RunConfig, Targets};
use crate::error::{Error, Result};
use crate::linalg::spectrum::Product;
use crate::linalg::svd::Svd;
use crate::model::config::TargetLayer;
use crate::model::{Linear, LinearId, Model};
use crate::runlog::{Body, Phase};

use super::factors::{self, columns};
use super::footprint::{self, Footprint};
use super::singular::{self, Decomposition};
use super::starts::Starts;
use super::{Base, Context, Export, Method, MethodState, PlainAdapter, StateReader, resolved};

/// PiSSA on all target layers.
#[derive(Debug)]
pub struct Pissa {
    ranks: Ranks,
    alpha: f64,
    decomposition: Decomposition,
    starts: Starts,
    targets: Targets,
}

/// The principal part of a layer's weight.
struct Principal {
    svd: Svd,
    /// Share of the weight's squared norm that it holds, in (0, 1].
    energy: f64,
}

impl Pissa {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let name = &config.pissa.decomposition;
        Ok(Self {
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            decomposition: Decomposition::from_name(name).ok_or_else(|| {
                Error::config(
                    format!("pissa.decomposition = {name}: no such choice"),
                    "use auto, exact or randomised",
                )
            })?,
            starts: Starts::default(),
            targets: config.train.targets(),
        })
    }

    fn scale(&self, rank: usize) -> f64 {
        self.alpha / rank as f64
    }

    /// Decomposes every layer's weight, layers in parallel.
    fn decompose(
        &self,
        model: &Model,
        linears: &[(LinearId, Linear)],
        ranks: &[usize],
        seed: u64,
    ) -> Result<Vec<Principal>> {
        let host = |linear: &Linear| {
            linear.weight.map(|id| model.params.value(id).to_host()).unwrap_or_default()
        };
        let weights: Vec<Vec<f32>> = linears.iter().map(|(_, linear)| host(linear)).collect();
        let layers = weights.into_par_iter().zip(linears).zip(ranks);
        layers
            .map(|((weight, (_, linear)), &rank)| {
                let wide: Vec<f64> = weight.iter().map(|&value| f64::from(value)).collect();
                drop(weight);
                let (way, shape) = (self.decomposition, [linear.rows, linear.cols]);
                let total: f64 = wide.iter().map(|value| value * value).sum();
                let found = singular::leading(&wide, shape, rank, way, seed, &linear.name);
                let Some(mut svd) = found.filter(|_| total.is_finite()) else {
                    return Err(Error::Diverged {
                        what: format!("the weight of {} is not finite", linear.name),
                        remedy: "check the weights of the model".into(),
                    });
                };
                singular::fix_pair_signs(&mut svd);
                let held: f64 = svd.s.iter().map(|s| s * s).sum();
                let energy = if total > 0.0 { (held / total).min(1.0) } else { 1.0 };
                Ok(Principal { svd, energy })
            })
            .collect()
    }
}

/// The starting factors: `A [r, n]` and `B [m, r]`.
pub fn start(svd: &Svd, scale: f64) -> [Vec<f32>; 2] {
    let vectors = |from: &[Vec<f64>]| -> Vec<Vec<f32>> {
        let lengths = svd.s.iter().map(|s| (s / scale).sqrt());
        let scaled = from.iter().zip(lengths);
        scaled.map(|(vector, c)| vector.iter().map(|v| (c * v) as f32).collect()).collect()
    };
    let outputs = svd.u.first().map_or(0, Vec::len);
    [vectors(&svd.v).concat(), columns(&vectors(&svd.u), outputs)]
}

impl Method for Pissa {
    fn name(&self) -> &'static str {
        "pissa"
    }

    fn base(&self) -> Base {
        Base::ChangedAtStart
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let layers = factors::targets(cx.model, &self.targets);
        let ranks: Vec<usize> = layers
            .iter()
            .map(|(_, linear)| factors::layer_rank(linear, self.ranks, cx.events))
            .collect();
        let principal = self.decompose(cx.model, &layers, &ranks, cx.seed)?;
        let mean =
            principal.iter().map(|part| part.energy).sum::<f64>() / principal.len().max(1) as f64;
        let detail =
            format!("mean over layers: {:.0} % of the weight's energy is trained", 100.0 * mean);
        cx.events.push(Phase { name: "principal-parts".into(), detail }.into());
        for (((id, linear), rank), part) in layers.iter().zip(ranks).zip(principal) {
            let scale = self.scale(rank);
            let [a, b] = start(&part.svd, scale);
            let pair = (a.clone(), b.clone());
            let (adapter, change) = factors::attach(cx.model, *id, rank, scale as f32, pair, true);
            let mut event = factors::init_event(&cx.model.params, linear, adapter, change);
            if let Body::Init(init) = &mut event {
                init.energy = Some(part.energy);
            }
            cx.events.push(event);
            self.starts.keep(*id, [a, b], rank, cx.model.device());
        }
        factors::freeze_adapted(cx.model);
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        let device = cx.model.device().clone();
        for (id, linear) in factors::targets(cx.model, &self.targets) {
            let rank = factors::restored_rank(&linear, self.ranks);
            self.starts.restore(state, id, &linear, rank, &device)?;
            let (blank, scale) = (factors::blank(&linear, rank), self.scale(rank) as f32);
            factors::attach(cx.model, id, rank, scale, blank, false);
        }
        factors::freeze_adapted(cx.model);
        Ok(())
    }

    /// A₀ and B₀, which an adapter of the original weight needs.
    fn state(&self, cx: &Context<'_>) -> MethodState {
        let tensors = self.starts.tensors(cx.model);
        MethodState { tensors, json: json!({}), steps: Vec::new() }
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

/// A pair of factors, with a copy of where they started.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    if !footprint::is_target(config, layer) {
        return Footprint::untargeted(layer, config);
    }
    Footprint::adapter(layer, config).with_start()
}

/// Before the first update, where weights are stored in few bits.
pub fn start_footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    footprint(config, layer).before_packing(layer)
}
