//! Fira: Adam in a low-rank subspace of the gradient, plus what lies outside the subspace as a scaled plain gradient
//! step whose norm may only grow slowly. Source: arXiv:2410.01623 and the authors' package fira 1.0.2.
//!
//! Paper and package differ (`fira.form`). Paper: the whole projected part is taken out of the residual and `α`
//! multiplies both terms. Released: only `α` times that part is taken out, the residual is not
//! multiplied, and the limiter sees norms without Adam's bias correction. Every published number comes
//! from the released form, which is the default.

use serde_json::{Value, json};

use crate::config::{ProjectionSettings, RunConfig};
use crate::device::Device;
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::scaling::{Along, Limited, add_scaled, limit_growth, norm_ratios, scale};
use crate::kernels::update::{AdamW, add_sum_squares};
use crate::kernels::{Matrix, Vector};
use crate::linalg::subspace::Side;
use crate::model::config::TargetLayer;
use crate::model::{Gradients, Model, ParamId};
use crate::runlog::Limiter;

use super::footprint::Footprint;
use super::projection::{self, Layer, Projection, Rules};
use super::{
    Context, Export, LayerContext, Method, MethodState, NamedTensor, StateReader, adamw_all,
    resolved,
};

/// How the residual is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// By Adam's factor of each column of the projected gradient (each row on the right side).
    Column,
    /// By Adam's factor of the whole projected gradient.
    Matrix,
    /// Not at all: a plain gradient step (an ablation).
    None,
}

/// How a layer's residual becomes part of its update.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Multiplies the projected-back update.
    pub alpha: f64,
    /// Whether as in the authors' package, rather than as in the paper.
    pub is_released: bool,
    /// How the residual is scaled.
    pub scaling: Scaling,
    /// Most growth of the residual's norm from one update to the next; infinite: no limit.
    pub gamma: f64,
}

/// What one layer's residual did in one update, still on the device.
#[derive(Debug)]
pub struct Residual {
    /// The scaling factors, with Adam's bias corrections.
    pub phi: Option<Vector>,
    /// The released form's factors and norms are these times `unit`, which takes the corrections out.
    pub unit: f64,
    /// The limiter's factor, the norm after it, and the growth before it.
    pub limited: Limited,
}

/// Fira on all target layers.
#[derive(Debug)]
pub struct Fira {
    projection: Projection,
    terms: Terms,
    /// The residual's norm of each layer's last update, `[1]`, 0 where there is none yet.
    previous: Vec<Vector>,
    /// Growth and factor of each layer, until they are read.
    pending: Vec<(usize, Vector, Vector)>,
}

impl Fira {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let table = &config.fira;
        let scaling = match table.scaling.as_str() {
            "column" => Scaling::Column,
            "matrix" => Scaling::Matrix,
            "none" => Scaling::None,
            other => {
                return Err(Error::config(
                    format!("fira.scaling = {other}: no such scaling"),
                    "use column, matrix or none",
                ));
            }
        };
        let rules = Rules::new(&ProjectionSettings::from(table))?;
        Ok(Self {
            projection: Projection::new(rules, resolved(config.train.ranks(), "train.rank")?),
            terms: Terms {
                alpha: resolved(config.train.alpha, "train.alpha")?,
                is_released: table.form == "released",
                scaling,
                gamma: table.gamma,
            },
            previous: Vec::new(),
            pending: Vec::new(),
        })
    }

    fn forget_norms(&mut self, device: &Device) {
        let unset = |_: &Layer| Vector::zeros([1], device, Category::Optimizer);
        self.previous = self.projection.layers.iter().map(unset).collect();
    }
}

/// Applies one layer's gradient, which is used up: `W −= η·(α·(N projected back) + residual)`. `previous [1]` is the norm
/// of the residual before, 0 if there is none; the caller keeps the new one.
pub fn apply(
    layer: &Layer,
    terms: &Terms,
    cx: &mut LayerContext<'_>,
    grad: Matrix,
    clip: &Vector,
    previous: &Vector,
) -> Residual {
    let device = cx.optimizer.device().clone();
    let one = Vector::filled(1.0, [1], &device, Category::Activations);
    let grad = scale(grad, clip, Along::All);
    let projected = layer.project(&grad);
    let (descent, step) = layer.descent(cx, &projected, &one);
    // What the released form leaves out of its factors and norms.
    let is_corrected = terms.is_released && terms.scaling != Scaling::None;
    let unit = if is_corrected { 1.0 / correction(cx.optimizer.hyper(1.0), step) } else { 1.0 };
    let taken_out = if terms.is_released { terms.alpha } else { 1.0 };

    let residual = layer.add_back(grad, -taken_out as f32, &projected);
    let (residual, phi) = scaled_residual(layer, terms.scaling, residual, &descent, &projected);
    drop(projected);
    let zero = Vector::zeros([1], &device, Category::Activations);
    let squares = add_sum_squares(zero, &residual);
    let limited = limit_growth(&squares, previous, terms.gamma, unit);

    let rate = cx.learning_rate;
    let residual_rate = if terms.is_released { rate } else { rate * terms.alpha };
    layer.change_weight(cx, &one, |w| {
        let w = layer.add_back(w, (rate * terms.alpha) as f32, &descent);
        add_scaled(w, -residual_rate as f32, &limited.factor, &residual)
    });
    Residual { phi, unit, limited }
}

/// Adam's bias corrections as one factor of the step: `√(1 − β₂ᵏ) / (1 − β₁ᵏ)`.
fn correction(hyper: AdamW, step: u32) -> f64 {
    let power = i32::try_from(step).unwrap_or(i32::MAX);
    (1.0 - hyper.beta2.powi(power)).sqrt() / (1.0 - hyper.beta1.powi(power))
}

/// The residual times `|N|/(|R| + 1e-8)`, of each vector across the rank or of the whole, in place.
fn scaled_residual(
    layer: &Layer,
    scaling: Scaling,
    residual: Matrix,
    descent: &Matrix,
    projected: &Matrix,
) -> (Matrix, Option<Vector>) {
    // The axis that survives the projection.
    let along = match (scaling, layer.side()) {
        (Scaling::None, _) => return (residual, None),
        (Scaling::Matrix, _) => Along::All,
        (Scaling::Column, Side::Left) => Along::Columns,
        (Scaling::Column, Side::Right) => Along::Rows,
    };
    let phi = norm_ratios(descent, projected, along);
    (scale(residual, &phi, along), Some(phi))
}

impl Method for Fira {
    fn name(&self) -> &'static str {
        "fira"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        self.projection.prepare(cx);
        self.forget_norms(cx.model.device());
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        self.projection.restore(cx, state)?;
        if state.json().get("residuals").and_then(Value::as_bool) != Some(true) {
            return Err(state.mismatch("the state has no norms of residuals".into()));
        }
        let device = cx.model.device().clone();
        for layer in &self.projection.layers {
            let norm = state.tensor(&format!("{}.residual_norm", layer.name()), &[1, 1])?;
            self.previous.push(Vector::from_host(norm, [1], &device, Category::Optimizer));
        }
        Ok(())
    }

    fn state(&self, cx: &Context<'_>) -> MethodState {
        let mut state = self.projection.state();
        for (layer, norm) in self.projection.layers.iter().zip(&self.previous) {
            let name = format!("{}.residual_norm", layer.name());
            let (norm, device) = (norm.to_host(), cx.model.device());
            let value = Matrix::from_host(norm, [1, 1], device, Category::Optimizer);
            state.tensors.push(NamedTensor { name, value });
        }
        if let Value::Object(fields) = &mut state.json {
            fields.insert("residuals".into(), json!(true));
        }
        state
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
        for (index, layer) in self.projection.layers.iter().enumerate() {
            let Some(grad) = grads.take(layer.weight()) else { continue };
            if layer.is_whole() {
                // No residual: AdamW, and no norm to remember.
                let rate = learning_rate * self.terms.alpha;
                cx.optimizer.update(&mut cx.model.params, layer.weight(), grad, clip, rate);
                continue;
            }
            let mut layer_cx = cx.for_layers(learning_rate);
            let previous = &self.previous[index];
            let done = apply(layer, &self.terms, &mut layer_cx, grad, clip, previous);
            let Limited { factor, norm, ratio } = done.limited;
            self.previous[index] = norm.labelled(Category::Optimizer);
            self.pending.push((index, ratio, factor));
        }
        adamw_all(cx, &mut grads, clip, learning_rate);
    }

    fn monitor(&mut self, cx: &mut Context<'_>) {
        let pending = std::mem::take(&mut self.pending);
        let numbers: Vec<&Vector> =
            pending.iter().flat_map(|(_, ratio, factor)| [ratio, factor]).collect();
        let numbers: Vec<f64> =
            Vector::all_to_host(&numbers).into_iter().flatten().map(f64::from).collect();
        let fired = pending.iter().zip(numbers.as_chunks().0).filter_map(
            |(&(index, ..), &[ratio, factor])| {
                (factor < 1.0).then_some((index as u64, ratio, factor))
            },
        );
        let l: Vec<_> = fired.collect();
        if !l.is_empty() {
            cx.events.push(Limiter { l, ..Limiter::default() }.into());
        }
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// What a layer needs: as projected; the residual takes the place of the gradient.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    projection::footprint(config, layer, &config.fira.carry)
}
