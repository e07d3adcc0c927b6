//! Gradients in a low-rank subspace: projectors of the target layers, their refresh, and Adam's direction
//! in the subspace. Shared by the methods that keep `W` dense and project its gradient.
//!
//! A layer `m × n` is projected on its smaller side, a square one on the right, as the authors' code
//! does. A projector is `r` orthonormal rows on either side, `P [r, C]`: left `R = P·G [r, n]` and back
//! `Pᵀ·R`, right `R = G·Pᵀ [m, r]` and back `R·P`. Source: GaLore (arXiv:2403.03507).

use std::collections::BTreeMap;
use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::config::{ProjectionSettings, Ranks, RunConfig};
use crate::device::Device;
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::matmul::{Layout, matmul, matmul_add};
use crate::kernels::scaling::{Along, scale};
use crate::kernels::update::{AdamForm, adamw, guard};
use crate::kernels::{Matrix, Vector};
use crate::linalg::orthonormal::overlap;
use crate::linalg::spectrum::Spectrum;
use crate::linalg::subspace::{self, Decomposition, Side};
use crate::model::config::TargetLayer;
use crate::model::{Gradients, Linear, ParamId};
use crate::optim::adamw::Moments;
use crate::random::stream;
use crate::runlog::{Phase, Rank, Subspace};

use super::factors::{layer_rank, restored_rank};
use super::footprint::{self, Footprint};
use super::spectra::told;
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
    /// The share of the gradient's squared norm that may stay outside; the rank is then the smallest that keeps the
    /// rest, at each refresh anew. None: the rank is fixed.
    pub residual: Option<f64>,
}

impl Rules {
    /// From resolved settings.
    pub fn new(settings: &ProjectionSettings<'_>) -> Result<Self> {
        let unknown = |key: &str, value: &str, words: &str| {
            Error::config(format!("{key} = {value}: no such choice"), format!("use {words}"))
        };
        let residual = settings.residual;
        Ok(Self {
            gap: super::resolved(settings.gap, "update_proj_gap")?.max(1),
            residual,
            carry: match settings.carry {
                "keep" if residual.is_some() => {
                    // Moments of another rank cannot be read in the new coordinates.
                    return Err(unknown(
                        "carry",
                        "keep with a rank that changes",
                        "rotate or reset",
                    ));
                }
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
    /// Of the projector in use.
    rank: usize,
    /// What the rank may be at most.
    most: usize,
    /// `[r, C]`; None before the first refresh, and always where the rank is full.
    projector: Option<Matrix>,
}

/// A subspace that was found on the host, not yet in use.
#[derive(Debug)]
pub struct Found {
    vectors: Vec<f32>,
    energy: f64,
    /// Of the gradient, where the decomposition finds all of it.
    spectrum: Option<Spectrum>,
    ms: f64,
}

impl Layer {
    /// A layer without a projector yet; `rank`, at most `min(m, n)`, is what it has or may have at most. None for one
    /// without dense weight.
    pub fn new(linear: &Linear, rank: usize) -> Option<Self> {
        let weight = linear.weight?;
        let (name, rows, cols) = (linear.name.clone(), linear.rows, linear.cols);
        Some(Self { name, weight, rows, cols, rank, most: rank, projector: None })
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

    /// Whether the rank is or may be full. Then nothing is projected: Adam in another basis is not Adam.
    pub fn is_whole(&self) -> bool {
        self.most >= self.len()
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

    /// Puts a projector in place, `[r, C]`; the rank is its own.
    pub fn set_projector(&mut self, rows: Vec<f32>, device: &Device) {
        let shape = [rows.len() / self.len(), self.len()];
        self.rank = shape[0];
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
        let (side, most) = (self.side(), self.most);
        let found = match rules.residual {
            Some(share) => subspace::sufficient(grad, shape, side, (most, share), way, &mut random),
            None => subspace::leading(grad, shape, side, most, way, &mut random),
        };
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let spectrum = found.squares.map(|squares| Spectrum::of_squares(&squares, shape));
        Found { vectors: found.vectors, energy: found.energy, spectrum, ms }
    }

    /// Puts a new subspace in use and carries the moments over.
    pub fn install(&mut self, cx: &mut LayerContext<'_>, found: Found, carry: Carry) {
        let device = cx.optimizer.device().clone();
        let old = self.projector.take();
        let rank_before = old.as_ref().map(|old| old.shape()[0] as u64);
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
        let Found { energy, spectrum, ms, .. } = found;
        if let Some(spectrum) = spectrum {
            let full = self.rows.min(self.cols) as u64;
            let (layer, matrix) = (layer.clone(), "gradient".into());
            cx.events.push(told(&spectrum, Rank { layer, matrix, full, ..Rank::default() }).into());
        }
        let (side, overlap) = (side.into(), shared);
        let event = Subspace { layer, side, rank, rank_before, energy, overlap, ms };
        cx.events.push(event.into());
    }

    /// Moments in the coordinates that `turn [r, r_old]` leads to.
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
        let tamed = cx.optimizer.tames(self.weight).then(|| {
            let copy = projected.duplicate(cx.optimizer.device(), Category::Activations);
            cx.optimizer.tame(self.weight, copy, clip, &exp_avg_sq)
        });
        let projected = tamed.as_ref().unwrap_or(projected);
        // A parameter of zeros at rate 1 ends at −N.
        let mut hyper = cx.optimizer.hyper(1.0);
        hyper.weight_decay = 0.0;
        let zeros = Matrix::zeros(shape, cx.optimizer.device(), Category::Activations);
        let (descent, exp_avg, exp_avg_sq) =
            adamw(zeros, projected, clip, exp_avg, exp_avg_sq, hyper, step);
        cx.optimizer.put(self.weight, Moments { exp_avg, exp_avg_sq, step });
        (descent, step)
    }

    /// Applies the gradient: `W −= η·α·(N projected back)`, where the rank is full AdamW with `η·α`. There is a
    /// projector for this gradient already. A factor `clip [1]` below 0 leaves everything but the counter as it is.
    pub fn apply(&self, alpha: f64, cx: &mut LayerContext<'_>, grad: Matrix, clip: &Vector) {
        if self.is_whole() {
            let rate = cx.learning_rate * alpha;
            cx.optimizer.update(cx.params, self.weight, grad, clip, rate);
            return;
        }
        let projected = self.project(&grad);
        drop(grad);
        let (descent, _) = self.descent(cx, &projected, clip);
        let rate = (cx.learning_rate * alpha) as f32;
        self.change_weight(cx, clip, |w| self.add_back(w, rate, &descent));
    }

    /// Changes the weight, with weight decay before or after as Adam's form says. At learning rate 0 it keeps its
    /// bits; where `clip [1]` is below 0 it does not decay.
    pub fn change_weight(
        &self,
        cx: &mut LayerContext<'_>,
        clip: &Vector,
        change: impl FnOnce(Matrix) -> Matrix,
    ) {
        let hyper = cx.optimizer.hyper(cx.learning_rate);
        if cx.learning_rate == 0.0 {
            return;
        }
        let keep = (1.0 - hyper.learning_rate * hyper.weight_decay) as f32;
        let decay = |w: Matrix| match hyper.weight_decay {
            0.0 => w,
            _ => scale(w, &guard(clip, keep, 1.0), Along::All),
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
        let ranks = state.json().get("ranks");
        let device = cx.model.device().clone();
        for linear in cx.model.linears() {
            let rank = restored_rank(linear, self.ranks);
            let Some(mut layer) = Layer::new(linear, rank) else { continue };
            if names.iter().any(|name| name.as_str() == Some(&layer.name)) {
                if self.rules.residual.is_some() {
                    let saved = ranks.and_then(|ranks| ranks.get(&layer.name)?.as_u64());
                    layer.rank = match saved {
                        Some(saved) if (1..=rank as u64).contains(&saved) => saved as usize,
                        _ => {
                            let name = &layer.name;
                            let what = format!("no rank of {name} from 1 to {rank} in the state");
                            return Err(state.mismatch(what));
                        }
                    };
                }
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
        if self.rules.residual.is_some() {
            let in_use = self.layers.iter().filter(|layer| layer.projector.is_some());
            let ranks: BTreeMap<&str, usize> =
                in_use.map(|layer| (&*layer.name, layer.rank)).collect();
            state.json["ranks"] = json!(ranks);
        }
        state
    }

    /// The largest rank of a sum of `t` updates that lie in the subspaces: that of one for every refresh so far.
    pub fn rank_ceiling(&self, linear: &Linear, t: u64) -> usize {
        let refreshes = usize::try_from(t.div_ceil(self.rules.gap)).unwrap_or(usize::MAX);
        let rank = restored_rank(linear, self.ranks);
        refreshes.saturating_mul(rank).min(linear.max_rank())
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

    /// Applies the gradients of all projected layers, `alpha` times the learning rate.
    pub fn update(
        &self,
        cx: &mut LayerContext<'_>,
        grads: &mut Gradients,
        alpha: f64,
        clip: &Vector,
    ) {
        for layer in &self.layers {
            if let Some(grad) = grads.take(layer.weight) {
                layer.apply(alpha, cx, grad, clip);
            }
        }
    }

    /// Refreshes one layer if it is due; false where it is and the gradient is not finite, which `guard` says
    /// ([`super::Method::on_layer_gradient`]) and which only a layer that is read anyway may wait for.
    pub fn refresh_one(
        &mut self,
        cx: &mut LayerContext<'_>,
        index: usize,
        grad: &Matrix,
        guard: &Vector,
    ) -> bool {
        let layer = &mut self.layers[index];
        if layer.is_due(&self.rules, cx.t) {
            if guard.to_host()[0] < 0.0 {
                return false;
            }
            let found = layer.find(&grad.to_host(), &self.rules, cx.seed, cx.t);
            layer.install(cx, found, self.rules.carry);
        }
        true
    }
}

/// What a projected layer needs: the weight and its gradient in full, a projector, moments of the projected shape, and
/// during its update the projected gradient beside Adam's direction.
pub fn footprint(config: &RunConfig, layer: &TargetLayer, carry: &str) -> Footprint {
    let dense = Footprint::dense(layer);
    let (rank, short) = (footprint::rank(config, layer), layer.max_rank());
    if rank >= short {
        // AdamW without a projection.
        return dense;
    }
    let (rank, short) = (rank as u128, short as u128);
    let long = layer.rows.max(layer.cols) as u128;
    // Turning the moments holds both subspaces and the turned ones beside the old.
    let turned = if carry == "rotate" { rank * short + 2 * rank * rank } else { 0 };
    // SPAM clips a copy of the projected gradient.
    let clipped = if config.uses_spam() { rank * long } else { 0 };
    Footprint {
        optimizer: rank * (short + 2 * long),
        update_scratch: 2 * rank * long + turned + clipped,
        ..dense
    }
}
