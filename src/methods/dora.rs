//! DoRA: LoRA with a trained length for each output, so that direction and length of a weight's rows learn apart.
//! Source: arXiv:2402.09353, in PEFT's form.
//!
//! `y = magnitude ⊙ (W + s·B·A)·x / |W + s·B·A|`, with the lengths of the rows as constants in the backward pass. They
//! change with the factors only, so they are computed once after an update; the network itself has the formula
//! (`model::magnitude`), as evaluation and generation need it too.

use crate::config::{Ranks, RunConfig};
use crate::error::Result;
use crate::model::config::TargetLayer;
use crate::model::{Linear, LinearId, Model};

use super::factors::{self, FactorInit};
use super::footprint::Footprint;
use super::{Context, Export, Method, MethodState, StateReader, resolved};

/// DoRA on all target layers.
#[derive(Debug)]
pub struct Dora {
    ranks: Ranks,
    alpha: f64,
}

impl Dora {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        Ok(Self {
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
        })
    }

    fn attach(
        &self,
        model: &mut Model,
        place: usize,
        rank: usize,
        pair: (Vec<f32>, Vec<f32>),
    ) -> (Linear, f64) {
        let scale = (self.alpha / rank as f64) as f32;
        let (_, change) = factors::attach(model, LinearId(place), rank, scale, pair, false);
        model.add_magnitude(LinearId(place));
        (model.linears()[place].clone(), change)
    }
}

impl Method for Dora {
    fn name(&self) -> &'static str {
        "dora"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        for (place, linear) in cx.model.linears().to_vec().iter().enumerate() {
            let rank = factors::layer_rank(linear, self.ranks, cx.events);
            let pair = factors::draw(linear, rank, FactorInit::Standard, cx.seed);
            let (linear, change) = self.attach(cx.model, place, rank, pair);
            if let Some(adapter) = linear.adapter {
                cx.events.push(factors::init_event(&cx.model.params, &linear, adapter, change));
            }
        }
        factors::freeze_targets(cx.model);
        cx.model.refresh_magnitudes();
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, _state: &dyn StateReader) -> Result<()> {
        for (place, linear) in cx.model.linears().to_vec().iter().enumerate() {
            let rank = factors::restored_rank(linear, self.ranks);
            self.attach(cx.model, place, rank, factors::blank(linear, rank));
        }
        factors::freeze_targets(cx.model);
        Ok(())
    }

    fn restored(&mut self, cx: &mut Context<'_>) {
        cx.model.refresh_magnitudes();
    }

    fn state(&self, _cx: &Context<'_>) -> MethodState {
        MethodState::default()
    }

    fn after_update(&mut self, cx: &mut Context<'_>) -> Result<()> {
        cx.model.refresh_magnitudes();
        Ok(())
    }

    /// A plain adapter has no lengths.
    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// A pair of factors and the trained lengths; beside these the lengths of the weight's rows, of the whole rows, and
/// the factors from them.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
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
