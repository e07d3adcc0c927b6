//! LoRA: the dense weight is frozen, `s·B·A` is trained beside it. Source: arXiv:2106.09685.
//!
//! In pre-training it is the baseline that fails: the update has at most rank `2r` over the whole run. `base = none` drops the dense
//! weight altogether (the "Low-Rank" row of GaLore's tables). Evaluation never merges into `W`, so `W`
//! keeps its bits for the whole run.
//!
//! Two relatives differ in one number each: rsLoRA (arXiv:2312.03732) has the scale `alpha/√r`, LoRA+
//! (arXiv:2402.12354) a learning rate of `B` that is a multiple of that of `A`.

use std::path::PathBuf;

use crate::config::{Ranks, RunConfig, Targets};
use crate::error::{Error, Result};
use crate::kernels::Vector;
use crate::linalg::spectrum::Product;
use crate::model::config::TargetLayer;
use crate::model::{Adapter, Gradients, Linear, LinearId, Model};

use super::factors::{self, FactorInit, restored_rank};
use super::footprint::{self, Footprint};
use super::{
    Base, Context, Export, Method, MethodState, PlainAdapter, StateReader, adamw_all, effective,
    given, resolved,
};

/// LoRA on all target layers.
#[derive(Debug)]
pub struct Lora {
    name: &'static str,
    /// `s = alpha/√r` instead of `alpha/r`.
    is_rank_stabilised: bool,
    /// Learning rate of `B` as a multiple of that of `A`.
    b_rate_ratio: f64,
    ranks: Ranks,
    alpha: f64,
    init: FactorInit,
    has_base: bool,
    targets: Targets,
    /// The adapter to go on with.
    given: Option<PathBuf>,
}

impl Lora {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let init = FactorInit::from_name(config.lora.start()).ok_or_else(|| {
            Error::config(
                format!("lora.init = {}: no such initialisation", config.lora.start()),
                "use standard, both_kaiming, gaussian or switchlora",
            )
        })?;
        let (name, is_rank_stabilised, b_rate_ratio) = match config.train.method.as_str() {
            "rslora" => ("rslora", true, 1.0),
            "lora-plus" => ("lora-plus", false, config.lora_plus.ratio),
            _ => ("lora", false, 1.0),
        };
        Ok(Self {
            name,
            is_rank_stabilised,
            b_rate_ratio,
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            init,
            has_base: config.lora.base != "none",
            targets: config.train.targets(),
            given: config.model.adapter.as_ref().map(PathBuf::from),
        })
    }

    /// Whether the start of the factors is taken off the dense weight, as their product is not zero.
    fn is_compensated(&self) -> bool {
        compensates(self.init)
    }

    fn scale(&self, rank: usize) -> f32 {
        let divisor = if self.is_rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        (self.alpha / divisor) as f32
    }

    /// `s·B·A` as it is drawn for a fresh run.
    fn start_product(&self, linear: &Linear, seed: u64) -> Product {
        let rank = restored_rank(linear, self.ranks);
        let (a, b) = factors::draw(linear, rank, self.init, seed);
        effective::scaled(effective::wide(&b), effective::wide(&a), self.scale(rank), linear)
    }

    fn attach(
        &self,
        cx: &mut Context<'_>,
        values: impl Fn(&Linear, usize) -> (Vec<f32>, Vec<f32>),
        fresh: bool,
    ) {
        for (id, linear) in factors::targets(cx.model, &self.targets) {
            let rank = if fresh {
                factors::layer_rank(&linear, self.ranks, cx.events)
            } else {
                factors::restored_rank(&linear, self.ranks)
            };
            if !self.has_base {
                cx.model.drop_weight(id);
            }
            let compensate = fresh && self.has_base && self.is_compensated();
            let scale = self.scale(rank);
            let pair = values(&linear, rank);
            let (adapter, change) = factors::attach(cx.model, id, rank, scale, pair, compensate);
            if fresh {
                cx.events.push(factors::init_event(&cx.model.params, &linear, adapter, change));
            }
        }
        factors::freeze_adapted(cx.model);
    }
}

fn compensates(init: FactorInit) -> bool {
    matches!(init, FactorInit::BothKaiming | FactorInit::SwitchLora)
}

/// Whether a configuration's start of the factors is taken off the weights.
pub fn is_compensated(config: &RunConfig) -> bool {
    FactorInit::from_name(config.lora.start()).is_some_and(compensates)
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        self.name
    }

    fn base(&self) -> Base {
        match (self.has_base, self.is_compensated()) {
            (false, _) => Base::Changing,
            (true, false) => Base::Frozen,
            (true, true) => Base::ChangedAtStart,
        }
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if let Some(folder) = &self.given {
            return given::prepare(cx, folder);
        }
        let (init, seed) = (self.init, cx.seed);
        self.attach(cx, |linear, rank| factors::draw(linear, rank, init, seed), true);
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        if self.given.is_some() {
            return given::restore(cx, state, false);
        }
        self.attach(cx, factors::blank, false);
        Ok(())
    }

    fn state(&self, cx: &Context<'_>) -> MethodState {
        if self.given.is_some() { given::state(cx.model) } else { MethodState::default() }
    }

    /// Without dense weight the layer starts as the product of its first factors.
    fn start_weight(&self, linear: &Linear, seed: u64, base: Vec<f64>) -> Vec<f64> {
        if self.has_base {
            return base;
        }
        let mut start = vec![0.0; linear.rows * linear.cols];
        self.start_product(linear, seed).add_to(&mut start);
        start
    }

    /// `s·(B·A − B₀·A₀)`: `W` is frozen from the compensation on.
    fn change_as_product(&self, model: &Model, linear: &Linear, seed: u64) -> Option<Product> {
        let now = effective::adapter(model, linear)?;
        if !self.is_compensated() {
            return Some(now);
        }
        Some(effective::difference(now, &self.start_product(linear, seed)))
    }

    /// The rank of `B·A`, and of the first `B·A` where that is not zero.
    fn rank_ceiling(&self, model: &Model, linear: &Linear, _t: u64) -> usize {
        if self.given.is_some() {
            let rank = linear.adapter.map(|adapter| model.params.value(adapter.a).shape()[0]);
            return rank.unwrap_or(0).min(linear.max_rank());
        }
        let pairs = if self.is_compensated() { 2 } else { 1 };
        (pairs * restored_rank(linear, self.ranks)).min(linear.max_rank())
    }

    fn update(
        &mut self,
        cx: &mut Context<'_>,
        mut grads: Gradients,
        clip: &Vector,
        learning_rate: f64,
    ) {
        let adapters = cx.model.linears().iter().filter_map(|linear| linear.adapter);
        let b_rate = self.b_rate_ratio * learning_rate;
        for id in adapters.map(|adapter| adapter.b).collect::<Vec<_>>() {
            if let Some(grad) = grads.take(id) {
                cx.optimizer.update(&mut cx.model.params, id, grad, clip, b_rate);
            }
        }
        adamw_all(cx, &mut grads, clip, learning_rate);
    }

    fn export(&self, model: &Model) -> Export {
        if self.has_base && !self.is_compensated() {
            Export::of_frozen_base(model)
        } else {
            Export::Merged
        }
    }

    fn plain_adapter(&self, model: &Model, id: LinearId) -> Option<PlainAdapter> {
        if self.export(model) == Export::Merged {
            return None;
        }
        let Adapter { a, b, scale, .. } = model.linears()[id.0].adapter?;
        let rank = model.params.value(a).shape()[0];
        let [a, b] = [a, b].map(|id| model.params.value(id).to_host());
        let is_rank_stabilised = self.is_rank_stabilised;
        Some(PlainAdapter { a, b, rank, scale, is_rank_stabilised, magnitude: None })
    }
}

/// What a layer needs: the frozen weight, unless there is none, and a trained pair.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    if !footprint::is_target(config, layer) {
        return Footprint::untargeted(layer, config);
    }
    let adapter = Footprint::adapter(layer, config);
    if config.lora.base == "none" { Footprint { weight: 0, ..adapter } } else { adapter }
}

/// Before the first update, where the start of the factors is taken off weights that are stored in few bits.
pub fn start_footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    footprint(config, layer).before_packing(layer)
}
