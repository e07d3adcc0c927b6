//! LoRA: the dense weight is frozen, `s·B·A` is trained beside it. Source: arXiv:2106.09685.
//!
//! In pre-training it is the baseline that fails: the update has at most rank `2r` over the whole run. `base = none` drops the dense
//! weight altogether (the "Low-Rank" row of GaLore's tables). Evaluation never merges into `W`, so `W`
//! keeps its bits for the whole run.

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::linalg::spectrum::Product;
use crate::model::config::TargetLayer;
use crate::model::{Linear, LinearId, Model};

use super::factors::{self, FactorInit};
use super::footprint::Footprint;
use super::{Context, Export, Method, MethodState, StateReader, effective, resolved};

/// Plain LoRA on all target layers.
#[derive(Debug)]
pub struct Lora {
    rank: usize,
    alpha: f64,
    init: FactorInit,
    has_base: bool,
}

impl Lora {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let init = FactorInit::from_name(&config.lora.init).ok_or_else(|| {
            Error::config(
                format!("lora.init = {}: no such initialisation", config.lora.init),
                "use standard, both_kaiming, gaussian or switchlora",
            )
        })?;
        Ok(Self {
            rank: resolved(config.train.rank, "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            init,
            has_base: config.lora.base != "none",
        })
    }

    /// Whether `B` is zero at the start.
    fn starts_at_zero(&self) -> bool {
        matches!(self.init, FactorInit::Standard | FactorInit::Gaussian)
    }

    /// `s·B·A` as it is drawn for a fresh run.
    fn start_product(&self, linear: &Linear, seed: u64) -> Product {
        let rank = self.rank.min(linear.max_rank());
        let scale = (self.alpha / rank as f64) as f32;
        let (a, b) = factors::draw(linear, rank, self.init, seed);
        effective::scaled(effective::wide(&b), effective::wide(&a), scale, linear)
    }

    fn attach(
        &self,
        cx: &mut Context<'_>,
        values: impl Fn(&Linear, usize) -> (Vec<f32>, Vec<f32>),
        fresh: bool,
    ) {
        for index in 0..cx.model.linears().len() {
            let linear = cx.model.linears()[index].clone();
            let rank = if fresh {
                factors::layer_rank(&linear, self.rank, cx.events)
            } else {
                self.rank.min(linear.max_rank())
            };
            let id = LinearId(index);
            if !self.has_base {
                cx.model.drop_weight(id);
            }
            let compensate = fresh && self.has_base && !self.starts_at_zero();
            let scale = (self.alpha / rank as f64) as f32;
            let pair = values(&linear, rank);
            let (adapter, change) = factors::attach(cx.model, id, rank, scale, pair, compensate);
            if fresh {
                cx.events.push(factors::init_event(&cx.model.params, &linear, adapter, change));
            }
        }
        factors::freeze_targets(cx.model);
    }
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let (init, seed) = (self.init, cx.seed);
        self.attach(cx, |linear, rank| factors::draw(linear, rank, init, seed), true);
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, _state: &dyn StateReader) -> Result<()> {
        self.attach(cx, factors::blank, false);
        Ok(())
    }

    fn state(&self, _cx: &Context<'_>) -> MethodState {
        MethodState::default()
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
        if self.starts_at_zero() {
            return Some(now);
        }
        Some(effective::difference(now, &self.start_product(linear, seed)))
    }

    /// The rank of `B·A`, and of the first `B·A` where that is not zero.
    fn rank_ceiling(&self, _model: &Model, linear: &Linear, _t: u64) -> usize {
        let pairs = if self.starts_at_zero() { 1 } else { 2 };
        (pairs * self.rank.min(linear.max_rank())).min(linear.max_rank())
    }

    fn export(&self, model: &Model) -> Export {
        // An adapter holds the factors alone: exact only where nothing else was trained.
        let trains_rest = model.non_targets().iter().any(|&id| model.params.is_trainable(id));
        if self.has_base && !trains_rest { Export::MergedOrAdapter } else { Export::Merged }
    }
}

/// What a layer needs: the frozen weight, unless there is none, and a trained pair.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    let adapter = Footprint::adapter(layer, config);
    if config.lora.base == "none" { Footprint { weight: 0, ..adapter } } else { adapter }
}
