//! LoRA: the dense weight is frozen, `s·B·A` is trained beside it. Source: arXiv:2106.09685.
//!
//! In pre-training it is the baseline that fails: the update has at most rank `2r` over the whole run. `base = none` drops the dense
//! weight altogether (the "Low-Rank" row of GaLore's tables). Evaluation never merges into `W`, so `W`
//! keeps its bits for the whole run.

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::model::{Linear, LinearId, Model};

use super::factors::{self, FactorInit};
use super::{Context, Export, Method, MethodState, StateReader, resolved};

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
            let compensate = fresh
                && self.has_base
                && matches!(self.init, FactorInit::BothKaiming | FactorInit::SwitchLora);
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

    fn export(&self, model: &Model) -> Export {
        // An adapter holds the factors alone: exact only where nothing else was trained.
        let trains_rest = model.non_targets().iter().any(|&id| model.params.is_trainable(id));
        if self.has_base && !trains_rest { Export::MergedOrAdapter } else { Export::Merged }
    }
}
