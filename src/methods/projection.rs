//! Gradients in a low-rank subspace: projectors of the target layers, their refresh, and Adam's direction
//! in the subspace. Shared by the methods that keep `W` dense and project its gradient.
//!
//! A layer `m × n` is projected on its smaller side, a square one on the right, as the authors' code
//! does. A projector is `r` orthonormal rows on either side, `P [r, C]`: left `R = P·G [r, n]` and back
//! `Pᵀ·R`, right `R = G·Pᵀ [m, r]` and back `R·P`. Source: GaLore (arXiv:2403.03507).

use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::config::{ProjectionSettings, Ranks};
use crate::device::Device;
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::matmul::{Layout, matmul, matmul_add};
use crate::kernels::scaling::{Along, scale};
use crate::kernels::update::{AdamForm, adamw};
use crate::kernels::{Matrix, Vector};
use crate::linalg::orthonormal::overlap;
use crate::linalg::subspace::{self, Decomposition, Side};
use crate::model::{Gradients, Linear, ParamId};
use crate::optim::adamw::Moments;
use crate::random::stream;
use crate::runlog::{Phase, Subspace};

use super::factors::{layer_rank, restored_rank};
use super::{Context, LayerContext, MethodState, NamedTensor, StateReader};

/// Sides up to this size are decomposed exactly where nothing else is asked for.
const LARGEST_EXACT: usize = 1024;

/// What becomes of Adam's moments when the subspace changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carry {
    /// They stay as they are, now read in the new coordinates (the authors' choice).
    Keep,
    /// They are expressed in the new coordinates: `M` by the change of basis, `V` by its squared entries,
    /// which keep it positive.
    Rotate,
    /// They start again from zero, with a counter of zero.
    Reset,
}

/// When and how subspaces are found.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Updates between two refreshes.
    pub gap: u64,
    /// What becomes of the moments.
    pub carry: Carry,
    /// The decomposition; None chooses by size.
    pub decomposition: Option<Decomposition>,
}

impl Rules {
    /// From resolved settings.
    pub fn new(settings: &ProjectionSettings<'_>) -> Result<Self> {
        let unknown = |key: &str, value: &str, words: &str| {
            Error::config(format!("{key} = {value}: no such choice"), format!("use {words}"))
        };
        Ok(Self {
            gap: super::resolved(settings.gap, "update_proj_gap")?.max(1),
            carry: match settings.carry {
                "keep" => Carry::Keep,
                "rotate" => Carry::Rotate,
                "reset" => Carry::Reset,
                other => return Err(unknown("carry", other, "keep, rotate or reset")),
            },
            decomposition: match settings.decomposition {
                "auto" => None,
                "exact" => Some(Decomposition::Exact),
                "randomised" => Some(Decomposition::Randomised),
                other => return Err(unknown("decomposition", other, "auto, exact or randomised")),
            },
        })
    }
}

/// A target layer whose gradient is projected.
#[derive(Debug)]
pub struct Layer {
    name: String,
    weight: ParamId,
    rows: usize,
    cols: usize,
    rank: usize,
    /// `[r, C]`; None before the first refresh, and always where the rank is full.
    projector: Option<Matrix>,
}

/// A subspace that was found on the host, not yet in use.
#[derive(Debug)]
pub struct Found {
    vectors: Vec<f32>,
    energy: f64,
    ms: f64,
}

impl Layer {
    /// A layer without a projector yet; `rank` is at most `min(m, n)`. None for one without dense weight.
    pub fn new(linear: &Linear, rank: usize) -> Option<Self> {
        let weight = linear.weight?;
        let (name, rows, cols) = (linear.name.clone(), linear.rows, linear.cols);
        Some(Self { name, weight, rows, cols, rank, projector: None })
    }

    /// The module path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dense weight.
    pub fn weight(&self) -> ParamId {
        self.weight
    }

    /// The side that is projected: the smaller one, the right one of a square.
    pub fn side(&self) -> Side {
        if self.rows < self.cols { Side::Left } else { Side::Right }
    }

    /// Length of a projector's vectors, `C`.
    fn len(&self) -> usize {
        self.rows.min(self.cols)
    }

    /// Whether the rank is full. Then nothing is projected: Adam in another basis is not Adam.
    pub fn is_whole(&self) -> bool {
        self.rank >= self.len()
    }

    /// The shape of a projected gradient and of the moments.
    pub fn projected_shape(&self) -> [usize; 2] {
        match self.side() {
            _ if self.is_whole() => [self.rows, self.cols],
            Side::Left => [self.rank, self.cols],
            Side::Right => [self.rows, self.rank],
        }
    }

    /// The projector's rows on the host, `[r, C]`.
    pub fn projector(&self) -> Option<Vec<f32>> {
        self.projector.as_ref().map(Matrix::to_host)
    }

    /// Puts a projector in place, `[r, C]`.
    pub fn set_projector(&mut self, rows: Vec<f32>, device: &Device) {
        let shape = [self.rank, self.len()];
        self.projector = Some(Matrix::from_host(rows, shape, device, Category::Optimizer));
    }

    fn is_due(&self, rules: &Rules, t: u64) -> bool {
        !self.is_whole() && (t.is_multiple_of(rules.gap) || self.projector.is_none())
    }

    /// The leading subspace of a gradient; host work alone, so layers can be done at once.
    pub fn find(&self, grad: &[f32], rules: &Rules, seed: u64, t: u64) -> Found {
        let start = Instant::now();
        let by_size = if self.len() <= LARGEST_EXACT {
            Decomposition::Exact
        } else {
            Decomposition::Randomised
        };
        let way = rules.decomposition.unwrap_or(by_size);
        let mut stream = stream(seed, &self.name, "projector", t);
        let mut random = |len: usize| (0..len).map(|_| stream.normal()).collect();
        let shape = [self.rows, self.cols];
        let found = subspace::leading(grad, shape, self.side(), self.rank, way, &mut random);
        let ms = start.elapsed().as_secs_f64() * 1e3;
        Found { vectors: found.vectors, energy: found.energy, ms }
    }

    /// Puts a new subspace in use and carries the moments over.
    pub fn install(&mut self, cx: &mut LayerContext<'_>, found: Found, carry: Carry) {
        let device = cx.optimizer.device().clone();
        let old = self.projector.take();
        let before = old.as_ref().map(Matrix::to_host);
        let shared = before.map(|before| overlap(&before, &found.vectors, self.len()));
        self.set_projector(found.vectors, &device);
        if let (Some(old), Some(new)) = (old, &self.projector)
            && cx.optimizer.has(self.weight)
        {
            match carry {
                Carry::Keep => {}
                Carry::Reset => cx.optimizer.forget(self.weight),
                Carry::Rotate => {
                    let turn = matmul(Layout::Nt, new, &old);
                    let moments = cx.optimizer.take_shaped(self.weight, self.projected_shape());
                    cx.optimizer.put(self.weight, self.rotated(&turn, &moments, &device));
                }
            }
        }
        let side = if self.side() == Side::Left { "left" } else { "right" };
        let (layer, rank) = (self.name.clone(), self.rank as u64);
        let Found { energy, ms, .. } = found;
        let event = Subspace { layer, side: side.into(), rank, energy, overlap: shared, ms };
        cx.events.push(event.into());
    }

    /// Moments in the coordinates that `turn [r, r]` leads to.
    fn rotated(&self, turn: &Matrix, moments: &Moments, device: &Device) -> Moments {
        let squares = turn.to_host().into_iter().map(|v| v * v).collect();
        let squares = Matrix::from_host(squares, turn.shape(), device, Category::Activations);
        let rotate = |turn: &Matrix, x: &Matrix| match self.side() {
            Side::Left => matmul(Layout::Nn, turn, x),
            Side::Right => matmul(Layout::Nt, x, turn),
        };
        Moments {
            exp_avg: rotate(turn, &moments.exp_avg).labelled(Category::Optimizer),
            exp_avg_sq: rotate(&squares, &moments.exp_avg_sq).labelled(Category::Optimizer),
            step: moments.step,
        }
    }

    fn installed(&self) -> &Matrix {
        match &self.projector {
            Some(projector) => projector,
            None => unreachable!("{} is refreshed before its first update", self.name),
        }
    }

    /// `R = P·G` or `G·Pᵀ`.
    pub fn project(&self, grad: &Matrix) -> Matrix {
        match self.side() {
            Side::Left => matmul(Layout::Nn, self.installed(), grad),
            Side::Right => matmul(Layout::Nt, grad, self.installed()),
        }
    }

    /// `target += rate·(R projected back)`, in place.
    pub fn add_back(&self, target: Matrix, rate: f32, projected: &Matrix) -> Matrix {
        match self.side() {
            Side::Left => matmul_add(target, rate, Layout::Tn, self.installed(), projected),
            Side::Right => matmul_add(target, rate, Layout::Nn, projected, self.installed()),
        }
    }

    /// Adam on the projected gradient times `clip [1]`: the negative direction `−N`, with its bias corrections, and
    /// the counter after this update.
    pub fn descent(
        &self,
        cx: &mut LayerContext<'_>,
        projected: &Matrix,
        clip: &Vector,
    ) -> (Matrix, u32) {
        let shape = self.projected_shape();
        let Moments { exp_avg, exp_avg_sq, step } = cx.optimizer.take_shaped(self.weight, shape);
        let step = step + 1;
        // A parameter of zeros at rate 1 ends at −N.
        let mut hyper = cx.optimizer.hyper(1.0);
        hyper.weight_decay = 0.0;
        let zeros = Matrix::zeros(shape, cx.optimizer.device(), Category::Activations);
        let (descent, exp_avg, exp_avg_sq) =
            adamw(zeros, projected, clip, exp_avg, exp_avg_sq, hyper, step);
        cx.optimizer.put(self.weight, Moments { exp_avg, exp_avg_sq, step });
        (descent, step)
    }

    /// Changes the weight, with weight decay before or after as Adam's form says. At learning rate 0 it keeps its
    /// bits.
    pub fn change_weight(&self, cx: &mut LayerContext<'_>, change: impl FnOnce(Matrix) -> Matrix) {
        let hyper = cx.optimizer.hyper(cx.learning_rate);
        if cx.learning_rate == 0.0 {
            return;
        }
        let keep = (1.0 - hyper.learning_rate * hyper.weight_decay) as f32;
        let device = cx.optimizer.device();
        let decay = |w: Matrix| {
            if hyper.weight_decay == 0.0 {
                return w;
            }
            let keep = Vector::filled(keep, [1], device, Category::Activations);
            scale(w, &keep, Along::All)
        };
        cx.params.update(self.weight, |w| match hyper.form {
            AdamForm::Torch => change(decay(w)),
            AdamForm::Reference => decay(change(w)),
        });
    }
}

/// All projected layers of a model.
#[derive(Debug)]
pub struct Projection {
    /// When and how subspaces are found.
    pub rules: Rules,
    /// In the model's order.
    pub layers: Vec<Layer>,
    ranks: Ranks,
}

impl Projection {
    /// Without layers; [`Projection::prepare`] makes them.
    pub fn new(rules: Rules, ranks: Ranks) -> Self {
        Self { rules, layers: Vec::new(), ranks }
    }

    /// Makes the layers of a fresh run, and tells which of them the rank leaves nothing to do.
    pub fn prepare(&mut self, cx: &mut Context<'_>) {
        for linear in cx.model.linears() {
            let rank = layer_rank(linear, self.ranks, cx.events);
            let Some(layer) = Layer::new(linear, rank) else { continue };
            if layer.is_whole() {
                let detail = format!(
                    "{}: rank {rank} is the layer's full rank ({} x {}); it trains by AdamW without a projection",
                    layer.name, layer.rows, layer.cols
                );
                cx.events.push(Phase { name: "method-disabled".into(), detail }.into());
            }
            self.layers.push(layer);
        }
    }

    /// Rebuilds the layers with their projectors.
    pub fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        let Some(names) = state.json().get("projectors").and_then(Value::as_array) else {
            return Err(state.mismatch("the state has no list of projectors".into()));
        };
        let device = cx.model.device().clone();
        for linear in cx.model.linears() {
            let rank = restored_rank(linear, self.ranks);
            let Some(mut layer) = Layer::new(linear, rank) else { continue };
            if names.iter().any(|name| name.as_str() == Some(&layer.name)) {
                let shape = [layer.rank, layer.len()];
                let rows = state.tensor(&format!("{}.projector", layer.name), &shape)?;
                layer.set_projector(rows, &device);
            }
            self.layers.push(layer);
        }
        Ok(())
    }

    /// The projectors for a checkpoint. A refresh draws by update number, so nothing else is needed.
    pub fn state(&self) -> MethodState {
        let mut state = MethodState::default();
        let mut names = Vec::new();
        for layer in &self.layers {
            if let Some(projector) = &layer.projector {
                let name = format!("{}.projector", layer.name);
                state.tensors.push(NamedTensor { name, value: projector.clone() });
                names.push(layer.name.clone());
            }
        }
        state.json = json!({ "projectors": names });
        state
    }

    /// The shape of a parameter's moments, where it is not the parameter's own.
    pub fn moment_shape(&self, id: ParamId) -> Option<[usize; 2]> {
        self.layers.iter().find(|layer| layer.weight == id).map(Layer::projected_shape)
    }

    /// Refreshes the layers that are due and have a gradient. As many as there are threads are decomposed at once;
    /// the bits do not depend on how many.
    pub fn refresh(&mut self, cx: &mut LayerContext<'_>, grads: &Gradients) {
        let Rules { carry, .. } = self.rules;
        let (rules, seed, t) = (self.rules, cx.seed, cx.t);
        let mut due: Vec<(&mut Layer, &Matrix)> = self
            .layers
            .iter_mut()
            .filter(|layer| layer.is_due(&rules, t))
            .filter_map(|layer| grads.get(layer.weight).map(|grad| (layer, grad)))
            .collect();
        for group in due.chunks_mut(rayon::current_num_threads().max(1)) {
            let host: Vec<Vec<f32>> = group.iter().map(|(_, grad)| grad.to_host()).collect();
            let layers: Vec<&Layer> = group.iter().map(|(layer, _)| &**layer).collect();
            let found: Vec<Found> = layers
                .par_iter()
                .zip(&host)
                .map(|(layer, grad)| layer.find(grad, &rules, seed, t))
                .collect();
            for ((layer, _), found) in group.iter_mut().zip(found) {
                layer.install(cx, found, carry);
            }
        }
    }

    /// Refreshes one layer if it is due.
    pub fn refresh_one(&mut self, cx: &mut LayerContext<'_>, index: usize, grad: &Matrix) {
        let layer = &mut self.layers[index];
        if layer.is_due(&self.rules, cx.t) {
            let found = layer.find(&grad.to_host(), &self.rules, cx.seed, cx.t);
            layer.install(cx, found, self.rules.carry);
        }
    }
}
