//! AdaRankGrad: Adam in a low-rank subspace of the gradient whose rank is chosen anew at each refresh, as the
//! smallest that keeps a set share of the gradient's energy. Source: arXiv:2410.17881.
//!
//! The configured rank is the most that a layer may have. The moments are turned into each new subspace, the second
//! by the squared entries of the change of basis: the published form, by the entries themselves, can make it
//! negative.

use crate::config::{ProjectionSettings, RunConfig};
use crate::error::Result;
use crate::kernels::Vector;
use crate::model::config::TargetLayer;
use crate::model::{Gradients, Model, ParamId};

use super::footprint::Footprint;
use super::projection::{self, Projection, Rules};
use super::{Context, Export, Method, MethodState, StateReader, adamw_all, resolved};

/// AdaRankGrad on all target layers.
#[derive(Debug)]
pub struct AdaRankGrad {
    projection: Projection,
    alpha: f64,
}

impl AdaRankGrad {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let rules = Rules::new(&ProjectionSettings::from(&config.adarankgrad))?;
        Ok(Self {
            projection: Projection::new(rules, resolved(config.train.ranks(), "train.rank")?),
            alpha: resolved(config.train.alpha, "train.alpha")?,
        })
    }
}

impl Method for AdaRankGrad {
    fn name(&self) -> &'static str {
        "adarankgrad"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        self.projection.prepare(cx);
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        self.projection.restore(cx, state)
    }

    fn state(&self, _cx: &Context<'_>) -> MethodState {
        self.projection.state()
    }

    fn moment_shape(&self, id: ParamId) -> Option<[usize; 2]> {
        self.projection.moment_shape(id)
    }

    fn before_update(&mut self, cx: &mut Context<'_>, grads: &mut Gradients) {
        self.projection.refresh(&mut cx.for_layers(0.0), grads);
    }

    fn update(
        &mut self,
        cx: &mut Context<'_>,
        mut grads: Gradients,
        clip: &Vector,
        learning_rate: f64,
    ) {
        self.projection.update(&mut cx.for_layers(learning_rate), &mut grads, self.alpha, clip);
        adamw_all(cx, &mut grads, clip, learning_rate);
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// As with a fixed rank, at the most that a layer may have.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    projection::footprint(config, layer, &config.adarankgrad.carry)
}
