//! GaLore: `W` stays dense and trainable, but Adam runs on a projection of its gradient on the leading singular
//! directions, refreshed every few updates, and the step is projected back. Source: arXiv:2403.03507 and the
//! authors' package galore-torch.
//!
//! With per-layer updates each gradient is applied during the backward pass and freed before the next
//! is computed.

use crate::config::{ProjectionSettings, RunConfig};
use crate::error::Result;
use crate::kernels::{Matrix, Vector};
use crate::model::config::TargetLayer;
use crate::model::{Gradients, Linear, Model, ParamId};

use super::footprint::Footprint;
use super::projection::{self, Projection, Rules};
use super::{
    Context, Disposition, Export, LayerContext, Method, MethodState, StateReader, adamw_all,
    resolved,
};

/// GaLore on all target layers.
#[derive(Debug)]
pub struct GaLore {
    projection: Projection,
    alpha: f64,
    is_per_layer: bool,
    decays: bool,
}

impl GaLore {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let rules = Rules::new(&ProjectionSettings::from(&config.galore))?;
        Ok(Self {
            projection: Projection::new(rules, resolved(config.train.ranks(), "train.rank")?),
            alpha: resolved(config.train.alpha, "train.alpha")?,
            is_per_layer: config.galore.per_layer,
            decays: config.train.weight_decay > 0.0,
        })
    }
}

impl Method for GaLore {
    fn name(&self) -> &'static str {
        "galore"
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

    fn consumes_gradients(&self) -> bool {
        self.is_per_layer
    }

    fn on_layer_gradient(
        &mut self,
        cx: &mut LayerContext<'_>,
        id: ParamId,
        grad: Matrix,
        guard: &Vector,
    ) -> Disposition {
        match self.projection.layers.iter().position(|layer| layer.weight() == id) {
            Some(index) => {
                if self.projection.refresh_one(cx, index, &grad, guard) {
                    self.projection.layers[index].apply(self.alpha, cx, grad, guard);
                }
            }
            None => cx.optimizer.update(cx.params, id, grad, guard, cx.learning_rate),
        }
        Disposition::Consumed
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

    /// A refresh adds a subspace, unless weight decay shrinks the weight in all directions.
    fn rank_ceiling(&self, _model: &Model, linear: &Linear, t: u64) -> usize {
        if self.decays {
            return linear.max_rank();
        }
        self.projection.rank_ceiling(linear, t)
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// What a layer needs: as projected, with a gradient that per-layer updates free at once.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    let is_consumed = config.galore.per_layer;
    Footprint { is_consumed, ..projection::footprint(config, layer, &config.galore.carry) }
}
