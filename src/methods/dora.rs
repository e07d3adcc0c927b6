//! DoRA: LoRA with a trained length for each output, so that direction and length of a weight's rows learn apart.
//! Source: arXiv:2402.09353, in PEFT's form.
//!
//! `y = magnitude ⊙ (W + s·B·A)·x / |W + s·B·A|`, with the lengths of the rows as constants in the backward pass. They
//! change with the factors only, so they are computed once after an update; the network itself has the formula
//! (`model::magnitude`), as evaluation and generation need it too.

use std::path::PathBuf;

use crate::config::{Ranks, RunConfig, Targets};
use crate::error::Result;
use crate::model::config::TargetLayer;
use crate::model::{Adapter, Linear, LinearId, Model};

use super::factors::{self, FactorInit};
use super::footprint::{self, Footprint};
use super::{
    Base, Context, Export, Method, MethodState, PlainAdapter, StateReader, given, resolved,
};

/// DoRA on all target layers.
#[derive(Debug)]
pub struct Dora {
    ranks: Ranks,
    alpha: f64,
    targets: Targets,
    /// The adapter to go on with.
    given: Option<PathBuf>,
}

impl Dora {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        Ok(Self {
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            targets: config.train.targets(),
            given: config.model.adapter.as_ref().map(PathBuf::from),
        })
    }

    fn attach(
        &self,
        model: &mut Model,
        id: LinearId,
        rank: usize,
        pair: (Vec<f32>, Vec<f32>),
    ) -> (Linear, f64) {
        let scale = (self.alpha / rank as f64) as f32;
        let (_, change) = factors::attach(model, id, rank, scale, pair, false);
        model.add_magnitude(id);
        (model.linears()[id.0].clone(), change)
    }
}

impl Method for Dora {
    fn name(&self) -> &'static str {
        "dora"
    }

    fn base(&self) -> Base {
        Base::Frozen
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if let Some(folder) = &self.given {
            return given::prepare(cx, folder);
        }
        for (id, linear) in factors::targets(cx.model, &self.targets) {
            let rank = factors::layer_rank(&linear, self.ranks, cx.events);
            let pair = factors::draw(&linear, rank, FactorInit::Standard, cx.seed);
            let (linear, change) = self.attach(cx.model, id, rank, pair);
            if let Some(adapter) = linear.adapter {
                cx.events.push(factors::init_event(&cx.model.params, &linear, adapter, change));
            }
        }
        factors::freeze_adapted(cx.model);
        cx.model.refresh_magnitudes();
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        if self.given.is_some() {
            return given::restore(cx, state, true);
        }
        for (id, linear) in factors::targets(cx.model, &self.targets) {
            let rank = factors::restored_rank(&linear, self.ranks);
            self.attach(cx.model, id, rank, factors::blank(&linear, rank));
        }
        factors::freeze_adapted(cx.model);
        Ok(())
    }

    fn restored(&mut self, cx: &mut Context<'_>) {
        cx.model.refresh_magnitudes();
    }

    fn state(&self, cx: &Context<'_>) -> MethodState {
        if self.given.is_some() { given::state(cx.model) } else { MethodState::default() }
    }

    fn after_update(&mut self, cx: &mut Context<'_>) -> Result<()> {
        cx.model.refresh_magnitudes();
        Ok(())
    }

    fn export(&self, model: &Model) -> Export {
        Export::of_frozen_base(model)
    }

    /// The pair with its trained lengths.
    fn plain_adapter(&self, model: &Model, id: LinearId) -> Option<PlainAdapter> {
        let linear = &model.linears()[id.0];
        let Adapter { a, b, scale, .. } = linear.adapter?;
        let magnitude = linear.magnitude.as_ref()?.id;
        let rank = model.params.value(a).shape()[0];
        let [a, b, magnitude] = [a, b, magnitude].map(|id| model.params.value(id).to_host());
        let magnitude = Some(magnitude);
        Some(PlainAdapter { a, b, rank, scale, is_rank_stabilised: false, magnitude })
    }
}

/// A pair of factors and the trained lengths; beside these the lengths of the weight's rows, of the whole rows, and
/// the factors from them.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    if !footprint::is_target(config, layer) {
        return Footprint::untargeted(layer, config);
    }
    let adapter = Footprint::adapter(layer, config);
    let lengths = layer.rows as u128;
    let trained = adapter.trained + lengths;
    Footprint {
        factors: trained + 3 * lengths,
        trained,
        optimizer: 2 * trained,
        outputs_per_token: lengths,
        ..adapter
    }
}
