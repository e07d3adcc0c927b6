//! GaLore: `W` stays dense and trainable, but Adam runs on a projection of its gradient on the leading singular
//! directions, refreshed every few updates, and the step is projected back. Source: arXiv:2403.03507 and the
//! authors' package galore-torch.
//!
//! With per-layer updates each gradient is applied during the backward pass and freed before the next
//! is computed.

use crate::config::{ProjectionSettings, RunConfig};
use crate::device::memory::Category;
use crate::error::Result;
use crate::kernels::{Matrix, Vector};
use crate::model::{Gradients, Model, ParamId};

use super::projection::{Layer, Projection, Rules};
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
}

impl GaLore {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let rules = Rules::new(&ProjectionSettings::from(&config.galore))?;
        Ok(Self {
            projection: Projection::new(rules, resolved(config.train.ranks(), "train.rank")?),
            alpha: resolved(config.train.alpha, "train.alpha")?,
            is_per_layer: config.galore.per_layer,
        })
    }
}

/// Applies one layer's gradient: `W −= η·α·(N projected back)`, where the rank is full AdamW with `η·α`.
/// The layer has a projector for this gradient already.
pub fn apply(layer: &Layer, alpha: f64, cx: &mut LayerContext<'_>, grad: Matrix, clip: &Vector) {
    if layer.is_whole() {
        let rate = cx.learning_rate * alpha;
        cx.optimizer.update(cx.params, layer.weight(), &grad, clip, rate);
        return;
    }
    let projected = layer.project(&grad);
    drop(grad);
    let (descent, _) = layer.descent(cx, &projected, clip);
    let rate = (cx.learning_rate * alpha) as f32;
    layer.change_weight(cx, |w| layer.add_back(w, rate, &descent));
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
    ) -> Disposition {
        let one = Vector::filled(1.0, [1], cx.optimizer.device(), Category::Activations);
        match self.projection.layers.iter().position(|layer| layer.weight() == id) {
            Some(index) => {
                self.projection.refresh_one(cx, index, &grad);
                apply(&self.projection.layers[index], self.alpha, cx, grad, &one);
            }
            None => cx.optimizer.update(cx.params, id, &grad, &one, cx.learning_rate),
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
        for layer in &self.projection.layers {
            if let Some(grad) = grads.take(layer.weight()) {
                apply(layer, self.alpha, &mut cx.for_layers(learning_rate), grad, clip);
            }
        }
        adamw_all(cx, &mut grads, clip, learning_rate);
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}
