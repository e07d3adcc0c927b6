//! LTE, LoRA-the-Explorer: heads of low rank, each on its slice of every batch with moments of its own, whose
//! average goes into `W` every few updates. Source: arXiv:2402.16828 and the authors' code; where we leave either,
//! see `docs/decisions.md`. Experimental: the paper has no language model.
//!
//! A head is a [`Replica`] of the network: its adapters and, where they are trained, its own embedding, norms and
//! head. The network itself stays what it was at the last merge, and that is what is evaluated and exported.
//! Without a reset a head trains on after a merge, less what it has contributed: `W x + s(B A x − B₀ A₀ x)`.
//!
//! With `mhlora` the heads see all data and are never merged: one adapter with the heads' factors side by side.

use std::ops::Range;

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::config::{Ranks, RunConfig};
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::update::{add_sum_squares, clip_factor};
use crate::kernels::{Matrix, Vector};
use crate::linalg::orthonormal::orthonormalise;
use crate::model::config::TargetLayer;
use crate::model::{Adapter, Gradients, Linear, LinearId, Model, ParamId, Replica, Role};
use crate::random::stream;
use crate::runlog::{Alert, Level, Merge, Reset};

use super::footprint::{self, Footprint};
use super::{
    Context, Export, Method, MethodState, StateReader, adamw_all, effective, factors, resolved,
};

pub mod merge;

use merge::LayerMerge;

/// How all heads on the same data add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mhlora {
    /// `s/H·Σ B·A`, as in the paper.
    Mean,
    /// `s·Σ B·A`, as in the authors' code.
    Sum,
}

/// What becomes of the heads at a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    /// They go on.
    None,
    /// New factors, the moments go on.
    Keep,
    /// New factors, new moments and counters.
    Clear,
}

/// LTE on all target layers.
#[derive(Debug)]
pub struct Lte {
    heads: usize,
    ranks: Ranks,
    alpha: f64,
    is_paper_scale: bool,
    /// Updates from merge to merge; 0: none.
    merge_every: u64,
    restart: Restart,
    mhlora: Option<Mhlora>,
    /// The last merge, until its numbers are read.
    pending: Option<(u64, Vec<LayerMerge>)>,
}

impl Lte {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let table = &config.lte;
        let unknown = |key: &str, value: &str| {
            Error::config(
                format!("lte.{key} = {value}: no such value"),
                "see `fullrank train --help`",
            )
        };
        let restart = match table.reset.as_str() {
            "none" => Restart::None,
            "keep" => Restart::Keep,
            "clear" => Restart::Clear,
            other => return Err(unknown("reset", other)),
        };
        let mhlora = match table.mhlora.as_str() {
            "off" => None,
            "mean" => Some(Mhlora::Mean),
            "sum" => Some(Mhlora::Sum),
            other => return Err(unknown("mhlora", other)),
        };
        Ok(Self {
            heads: table.heads.max(1),
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            is_paper_scale: table.init_scale == "paper",
            merge_every: if mhlora.is_some() { 0 } else { table.merge_every },
            restart,
            mhlora,
            pending: None,
        })
    }

    /// Merges that `t` updates have seen.
    fn merges(&self, t: u64) -> u64 {
        t.checked_div(self.merge_every).unwrap_or(0)
    }

    /// A of one head `[r, n]`; draw 0 is the start of a run.
    fn draw_a(&self, linear: &Linear, rank: usize, head: usize, seed: u64, draw: u64) -> Vec<f32> {
        let inputs = linear.cols as f64;
        let length = if self.is_paper_scale { rank as f64 / inputs } else { inputs / rank as f64 };
        semi_orthogonal(linear, rank, head, seed, draw, length.sqrt())
    }

    /// A of all heads of all layers, by layer and head.
    fn draw_all(&self, cx: &Context<'_>, draw: u64) -> Vec<Vec<Vec<f32>>> {
        let (linears, seed) = (cx.model.linears(), cx.seed);
        let of = |linear: &Linear| {
            let rank = factors::restored_rank(linear, self.ranks);
            (0..self.heads).map(|head| self.draw_a(linear, rank, head, seed, draw)).collect()
        };
        linears.par_iter().map(of).collect()
    }

    /// Puts the heads on the network, with `drawn` values of A or, for a checkpoint's to be loaded into, zeros.
    fn wrap(&self, cx: &mut Context<'_>, drawn: Option<&[Vec<Vec<f32>>]>) {
        let mut adapters = vec![Vec::new(); self.heads];
        for index in 0..cx.model.linears().len() {
            let linear = cx.model.linears()[index].clone();
            let mut unheard = Vec::new();
            let events = if drawn.is_some() { &mut *cx.events } else { &mut unheard };
            let rank = factors::layer_rank(&linear, self.ranks, events);
            let scale = (self.alpha / rank as f64) as f32;
            let values = |head: usize| match drawn {
                Some(drawn) => drawn[index][head].clone(),
                None => vec![0.0; rank * linear.cols],
            };
            let adapter = if let Some(mhlora) = self.mhlora {
                let a: Vec<f32> = (0..self.heads).flat_map(values).collect();
                let rank = rank * self.heads;
                let scale = match mhlora {
                    Mhlora::Mean => scale / self.heads as f32,
                    Mhlora::Sum => scale,
                };
                let pair = (a, vec![0.0; linear.rows * rank]);
                factors::attach(cx.model, LinearId(index), rank, scale, pair, false).0
            } else {
                for (head, adapters) in adapters.iter_mut().enumerate() {
                    adapters.push(add_head(cx.model, &linear, head, rank, scale, values(head)));
                }
                adapters[0][index]
            };
            if drawn.is_some() {
                cx.events.push(factors::init_event(&cx.model.params, &linear, adapter, 0.0));
            }
        }
        factors::freeze_targets(cx.model);
        if self.mhlora.is_none() {
            let replicas = adapters.into_iter().enumerate().map(|(head, adapters)| Replica {
                adapters,
                non_targets: own_non_targets(cx.model, head),
            });
            let replicas: Vec<_> = replicas.collect();
            for id in cx.model.non_targets() {
                cx.model.params.set_trainable(id, false);
            }
            cx.model.set_replicas(replicas);
        }
    }

    /// The columns of each head's B on a layer, one after the other.
    fn columns(&self, model: &Model, id: LinearId) -> Vec<Vec<f64>> {
        let host = |b: ParamId| model.params.value(b).to_host();
        let linear = &model.linears()[id.0];
        let columns = |b: &[f32], width: usize, which: Range<usize>| -> Vec<f64> {
            which.flat_map(|k| b[k..].iter().step_by(width).map(|&v| f64::from(v))).collect()
        };
        if let Some(adapter) = linear.adapter.filter(|_| self.mhlora.is_some()) {
            // Side by side in one.
            let b = host(adapter.b);
            let width = b.len() / linear.rows.max(1);
            let rank = width / self.heads;
            let head = |head: usize| columns(&b, width, head * rank..(head + 1) * rank);
            return (0..self.heads).map(head).collect();
        }
        let own = model.replicas().iter().map(|replica| host(replica.adapters[id.0].b));
        own.map(|b| (b.len() / linear.rows.max(1), b))
            .map(|(width, b)| columns(&b, width, 0..width))
            .collect()
    }

    /// Averages the heads into the network; then they go on, or begin anew.
    fn merge(&mut self, cx: &mut Context<'_>, count: u64) {
        let layers = cx.model.linears().len();
        let merged = (0..layers).map(|index| merge::merge_layer(cx.model, LinearId(index)));
        self.pending = Some((count, merged.collect()));
        merge::average_non_targets(cx.model);
        if self.restart == Restart::None {
            merge::remember(cx.model);
        } else {
            self.begin_anew(cx, count);
        }
    }

    fn begin_anew(&self, cx: &mut Context<'_>, count: u64) {
        let device = cx.model.device().clone();
        let drawn = self.draw_all(cx, count);
        let is_cleared = self.restart == Restart::Clear;
        let replicas = cx.model.replicas().to_vec();
        for (head, replica) in replicas.iter().enumerate() {
            for (adapter, drawn) in replica.adapters.iter().zip(&drawn) {
                let params = &mut cx.model.params;
                let shape = params.value(adapter.a).shape();
                let a = Matrix::from_host(drawn[head].clone(), shape, &device, Category::Adapters);
                params.set(adapter.a, a);
                let shape = params.value(adapter.b).shape();
                params.set(adapter.b, Matrix::zeros(shape, &device, Category::Adapters));
                if is_cleared {
                    cx.optimizer.forget(adapter.a);
                    cx.optimizer.forget(adapter.b);
                }
            }
        }
        let share = if is_cleared { 1.0 } else { 0.0 };
        let mode = if is_cleared { "clear" } else { "keep" };
        cx.events.push(
            Reset {
                count,
                mode: mode.into(),
                m_zeroed: share,
                v_zeroed: share,
                counters: is_cleared,
            }
            .into(),
        );
    }
}

/// `rank` orthogonal rows of a given length, in a random direction of its own for each head and draw.
fn semi_orthogonal(
    linear: &Linear,
    rank: usize,
    head: usize,
    seed: u64,
    draw: u64,
    length: f64,
) -> Vec<f32> {
    let mut random = stream(seed, &factor_name(linear, 'A', head), "lora_A", draw);
    let mut normals = |len: usize| (0..len).map(|_| random.normal()).collect::<Vec<f64>>();
    let mut rows = normals(rank * linear.cols);
    orthonormalise(&mut rows, linear.cols, &mut normals);
    rows.into_iter().map(|value| (value * length) as f32).collect()
}

fn factor_name(linear: &Linear, factor: char, head: usize) -> String {
    format!("{}.lora_{factor}.{head}", linear.name)
}

/// A pair of factors as parameters; B is zero.
fn add_head(
    model: &mut Model,
    linear: &Linear,
    head: usize,
    rank: usize,
    scale: f32,
    a: Vec<f32>,
) -> Adapter {
    let device = model.device().clone();
    let (a_shape, b_shape) = ([rank, linear.cols], [linear.rows, rank]);
    let a = Matrix::from_host(a, a_shape, &device, Category::Adapters);
    let b = Matrix::zeros(b_shape, &device, Category::Adapters);
    let mut add = |factor, shape: [usize; 2], value| {
        let name = factor_name(linear, factor, head);
        model.params.add(name, shape.to_vec(), Role::Factor, value, true)
    };
    Adapter { a: add('A', a_shape, a), b: add('B', b_shape, b), scale, merged: None }
}

/// The embedding, norms and head that a head trains: copies of the network's, or these where they are frozen.
fn own_non_targets(model: &mut Model, head: usize) -> Vec<ParamId> {
    let device = model.device().clone();
    let copy = |model: &mut Model, id| {
        let param = model.params.get(id);
        if !param.trainable {
            return id;
        }
        let (name, shape) = (format!("{}.replica.{head}", param.name), param.shape.clone());
        let value = param.value().duplicate(&device, Category::Adapters);
        model.params.add(name, shape, Role::Factor, value, true)
    };
    model.non_targets().into_iter().map(|id| copy(model, id)).collect()
}

impl Method for Lte {
    fn name(&self) -> &'static str {
        "lte"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let drawn = self.draw_all(cx, 0);
        self.wrap(cx, Some(&drawn));
        let last = self.merges(cx.total) * self.merge_every;
        if self.mhlora.is_none() && last < cx.total {
            let what = format!(
                "the last {} of {} updates come after the last merge: they do not show in evaluations and exports",
                cx.total - last,
                cx.total
            );
            let remedy = "make --iters a multiple of --lte-merge-every".into();
            cx.events.push(Alert { level: Level::Info, what, remedy }.into());
        }
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        let expected = self.merges(cx.t);
        let saved = state.json().get("merges").and_then(Value::as_u64);
        if saved != Some(expected) {
            let saved = saved.map_or("no number of".into(), |saved| saved.to_string());
            return Err(state.mismatch(format!(
                "the LTE state has {saved} merges; one every {} updates gives {expected}",
                self.merge_every
            )));
        }
        self.wrap(cx, None);
        if expected > 0 && self.restart == Restart::None {
            // In the shapes that the checkpoint fills.
            merge::remember(cx.model);
        }
        Ok(())
    }

    fn state(&self, cx: &Context<'_>) -> MethodState {
        MethodState { json: json!({ "merges": self.merges(cx.t) }), ..MethodState::default() }
    }

    /// Every head by itself: the norm that is clipped is that of its own gradient.
    fn update(
        &mut self,
        cx: &mut Context<'_>,
        mut grads: Gradients,
        clip: &Vector,
        learning_rate: f64,
    ) {
        for index in 0..cx.model.replicas().len() {
            let ids: Vec<ParamId> = cx.model.replicas()[index].parameters().collect();
            let own_clip = (cx.max_grad_norm > 0.0).then(|| {
                let zero = Vector::zeros([1], cx.model.device(), Category::Activations);
                let own = ids.iter().filter_map(|&id| grads.get(id));
                clip_factor(&own.fold(zero, add_sum_squares), cx.max_grad_norm)
            });
            for id in ids {
                let Some(grad) = grads.take(id) else { continue };
                let clip = own_clip.as_ref().unwrap_or(clip);
                cx.optimizer.update(&mut cx.model.params, id, grad, clip, learning_rate);
            }
        }
        // With heads on the same data their adapters, and all else.
        adamw_all(cx, &mut grads, clip, learning_rate);
    }

    fn after_update(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if self.merge_every > 0 && cx.t.is_multiple_of(self.merge_every) {
            let count = self.merges(cx.t);
            self.merge(cx, count);
        }
        Ok(())
    }

    fn monitor(&mut self, cx: &mut Context<'_>) {
        if let Some((count, layers)) = self.pending.take() {
            let l = merge::read(&layers);
            cx.events.push(Merge { count, l }.into());
        }
    }

    /// Between merges with the mean of what the heads have learned since the last one.
    fn effective_weight(&self, model: &Model, linear: &Linear) -> Vec<f64> {
        let mut values = effective::weight(model, linear);
        let place = model.linears().iter().position(|other| other.name == linear.name);
        let (Some(place), replicas) = (place, model.replicas()) else { return values };
        for replica in replicas {
            let delta = merge::delta(&model.params, &replica.adapters[place]).to_host();
            for (value, delta) in values.iter_mut().zip(delta) {
                *value += f64::from(delta) / replicas.len() as f64;
            }
        }
        values
    }

    /// The heads' ranks together for each merge, those since the last one included.
    fn rank_ceiling(&self, _model: &Model, linear: &Linear, t: u64) -> usize {
        let rank = self.heads * factors::restored_rank(linear, self.ranks);
        // Without a reset a change is the difference of two products.
        let parts = if self.restart == Restart::None && self.merges(t) > 0 { 2 } else { 1 };
        let merges = usize::try_from(self.merges(t) + 1).unwrap_or(usize::MAX);
        rank.saturating_mul(parts).saturating_mul(merges).min(linear.max_rank())
    }

    fn head_distance(&self, model: &Model, id: LinearId) -> Option<f64> {
        merge::head_distance(&self.columns(model, id), model.linears()[id.0].rows)
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// Factors and moments of every head, with what is merged already where heads go on; the gradient is that of one.
/// Heads on the same data are one adapter with their factors side by side.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    let rank = footprint::rank(config, layer);
    let heads = config.replicas();
    if heads == 0 {
        return Footprint::pair(layer, config, config.lte.heads.max(1) * rank);
    }
    let iters = config.train.iters.unwrap_or(u64::MAX);
    let merges = (1..=iters).contains(&config.lte.merge_every);
    let copies = if merges && config.lte.reset == "none" { 2 } else { 1 };
    let pair = Footprint::pair(layer, config, rank);
    Footprint {
        factors: heads as u128 * copies * pair.factors,
        optimizer: heads as u128 * pair.optimizer,
        // What a head adds, the mean, and the sum of directions.
        merge_scratch: if merges { 3 * layer.len() } else { 0 },
        ..pair
    }
}
