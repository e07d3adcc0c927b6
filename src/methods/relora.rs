//! ReLoRA: train a LoRA pair for a cycle, merge it into `W`, begin a new pair, so that the sum of low-rank
//! updates becomes high-rank. Source: arXiv:2307.05695 and the authors' code; where we leave either, see
//! `docs/decisions.md`.
//!
//! Three things make it work: a full-rank warm start, moments that are cut back at each restart (`prune`), and
//! a learning rate that is 0 at the restart and warms up again (`Schedule::CosineRestarts`). Adam's counters
//! go on over a restart; the re-warm absorbs the steps, up to 6.5 times too large, that this would give.
//!
//! When a restart comes is decided by `t` alone, so a checkpoint needs only factors and moments.

use serde_json::{Value, json};

use crate::config::{Ranks, RunConfig};
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::Matrix;
use crate::kernels::matmul::{Layout, matmul_add, matmul_scaled};
use crate::model::config::TargetLayer;
use crate::model::{Linear, LinearId, Model, ParamId};
use crate::optim::adamw::Moments;
use crate::random::stream;
use crate::runlog::{Alert, Level, Merge, MergeLayer, Reset};

use super::factors::{self, FactorInit};
use super::footprint::{self, Footprint};
use super::warm_start::WarmStart;
use super::{Base, Context, Export, Method, MethodState, ScheduleIndex, StateReader, resolved};

pub mod prune;

use prune::Prune;

/// ReLoRA on all target layers.
#[derive(Debug)]
pub struct Relora {
    ranks: Ranks,
    alpha: f64,
    warm_start: WarmStart,
    /// Warm-up of the first cycle.
    warmup: u64,
    /// Updates from one restart to the next.
    cycle: u64,
    prune: Prune,
}

impl Relora {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let table = &config.relora;
        let prune = Prune::from_names(&table.reset, table.prune_ratio, &table.masks);
        let prune = prune.ok_or_else(|| {
            Error::config(
                format!("relora.reset = {}: no such reset", table.reset),
                "use magnitude, random or zero",
            )
        })?;
        Ok(Self {
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            warm_start: WarmStart::new(
                resolved(table.warm_start, "relora.warm_start")?,
                table.warm_start_learning_rate,
                "relora.warm_start_learning_rate",
            )?,
            warmup: resolved(table.warmup_steps, "relora.warmup_steps")?,
            cycle: resolved(table.cycle, "relora.cycle")?,
            prune,
        })
    }

    /// Puts factors on every target layer and freezes the dense weights.
    fn wrap(
        &self,
        cx: &mut Context<'_>,
        values: impl Fn(&Linear, usize) -> (Vec<f32>, Vec<f32>),
        fresh: bool,
    ) {
        for index in 0..cx.model.linears().len() {
            let linear = cx.model.linears()[index].clone();
            let rank = if fresh {
                factors::layer_rank(&linear, self.ranks, cx.events)
            } else {
                factors::restored_rank(&linear, self.ranks)
            };
            let scale = (self.alpha / rank as f64) as f32;
            let pair = values(&linear, rank);
            let (adapter, change) =
                factors::attach(cx.model, LinearId(index), rank, scale, pair, false);
            if fresh {
                cx.events.push(factors::init_event(&cx.model.params, &linear, adapter, change));
            }
        }
        factors::freeze_targets(cx.model);
    }

    fn wrap_fresh(&self, cx: &mut Context<'_>) {
        // A random and B zero: with both at zero, as the authors' code wraps, no factor would get a gradient.
        let seed = cx.seed;
        self.wrap(cx, |linear, rank| factors::draw(linear, rank, FactorInit::Standard, seed), true);
    }

    /// Restarts that `t` updates have seen: one after every update whose rate was 0, but the first.
    fn restarts(&self, t: u64) -> u64 {
        self.warm_start.since(t).saturating_sub(1) / self.cycle
    }

    /// Merges all layers, draws new factors and cuts back their moments.
    fn restart(&self, cx: &mut Context<'_>, count: u64) -> Result<()> {
        let mut merged = Vec::new();
        let mut moments = Vec::new();
        for index in 0..cx.model.linears().len() {
            let linear = cx.model.linears()[index].clone();
            let Some(adapter) = linear.adapter else { continue };
            let rank = cx.model.params.value(adapter.a).shape()[0];
            let new_a = factors::draw_a(&linear, rank, cx.seed, count);
            let (dw_norm, error) = merge(cx.model, &linear, new_a)?;
            let (layer, error) = (index as u32, Some(error));
            merged.push(MergeLayer { layer, dw_norm, error, ..MergeLayer::default() });
            moments.extend([adapter.a, adapter.b]);
        }
        cx.events.push(Merge { count, l: merged }.into());
        let reset = self.reset(cx, &moments, count);
        cx.events.push(reset.into());
        Ok(())
    }

    /// Cuts back the moments of the factors; counters and all other moments stay.
    fn reset(&self, cx: &mut Context<'_>, factors: &[ParamId], count: u64) -> Reset {
        let device = cx.model.device().clone();
        let (mut m_zeros, mut v_zeros, mut entries) = (0, 0, 0);
        for &id in factors {
            let name = cx.model.params.get(id).name.clone();
            let Moments { exp_avg, exp_avg_sq, step } = cx.optimizer.take(&cx.model.params, id);
            let shape = exp_avg.shape();
            let (mut m, mut v) = (exp_avg.to_host(), exp_avg_sq.to_host());
            drop((exp_avg, exp_avg_sq));
            let open = |moment: &str| stream(cx.seed, &name, &format!("reset {moment}"), count);
            self.prune.apply(&mut m, &mut v, open);
            let zeros = |values: &[f32]| values.iter().filter(|&&value| value == 0.0).count();
            (m_zeros, v_zeros) = (m_zeros + zeros(&m), v_zeros + zeros(&v));
            entries += m.len();
            let upload = |values| Matrix::from_host(values, shape, &device, Category::Optimizer);
            let moments = Moments { exp_avg: upload(m), exp_avg_sq: upload(v), step };
            cx.optimizer.put(id, moments);
        }
        let share = |zeros: usize| zeros as f64 / entries.max(1) as f64;
        Reset {
            count,
            mode: self.prune.name().into(),
            m_zeroed: share(m_zeros),
            v_zeroed: share(v_zeros),
            counters: false,
        }
    }
}

/// `W += s·B·A`, then A from `new_a` `[r, n]` and `B = 0`: the layer computes what it did.
///
/// A weight in few bits is encoded anew from f32 values in host memory, to which the product was added: what is below a
/// level is not lost, and the layer computes what it did but for the new codes.
///
/// Gives the Frobenius norm of what was added and `max|W_new − (W + s·B·A)|`, the rounding of the sum in f32.
///
/// Errors: a value that a weight in few bits cannot hold.
pub fn merge(model: &mut Model, linear: &Linear, new_a: Vec<f32>) -> Result<(f64, f64)> {
    let (Some(weight), Some(adapter)) = (linear.weight, linear.adapter) else {
        return Ok((0.0, 0.0));
    };
    let device = model.device().clone();
    let params = &mut model.params;
    let before = params.host_values(&[weight]);
    let (a, b) = (params.value(adapter.a), params.value(adapter.b));
    let (a_shape, b_shape) = (a.shape(), b.shape());
    let added = matmul_scaled(adapter.scale, Layout::Nn, b, a).to_host();
    let is_packed = params.get(weight).is_packed();
    let w = if is_packed {
        let shape = [linear.rows, linear.cols];
        Matrix::from_host(before.clone(), shape, &device, Category::Activations)
    } else {
        params.take(weight)
    };
    let (a, b) = (params.value(adapter.a), params.value(adapter.b));
    let w = matmul_add(w, adapter.scale, Layout::Nn, b, a);
    let after = w.to_host();
    if is_packed {
        drop(w);
        model.set_packed(linear, after.clone())?;
    } else {
        params.set(weight, w);
    }
    let params = &mut model.params;
    params.set(adapter.a, Matrix::from_host(new_a, a_shape, &device, Category::Adapters));
    params.set(adapter.b, Matrix::zeros(b_shape, &device, Category::Adapters));

    let (mut squares, mut error) = (0.0, 0f64);
    for ((before, added), after) in before.into_iter().zip(added).zip(after) {
        let added = f64::from(added);
        squares += added * added;
        error = error.max((f64::from(after) - (f64::from(before) + added)).abs());
    }
    Ok((f64::sqrt(squares), error))
}

impl Method for Relora {
    fn name(&self) -> &'static str {
        "relora"
    }

    fn base(&self) -> Base {
        Base::Merged
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if self.warm_start.updates < cx.total / 10 {
            let what = format!(
                "a full-rank warm start of {} updates is below a tenth of the run's {}",
                self.warm_start.updates, cx.total
            );
            let remedy =
                "most of ReLoRA's gain comes from it; --relora-warm-start N makes it longer".into();
            cx.events.push(Alert { level: Level::Info, what, remedy }.into());
        }
        if self.warm_start.is_over(cx.t) {
            self.wrap_fresh(cx);
        } else {
            self.warm_start.announce(cx);
        }
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        let expected = self.restarts(cx.t);
        let saved = state.json().get("restarts").and_then(Value::as_u64);
        if saved != Some(expected) {
            let saved = saved.map_or("no number of".into(), |saved| saved.to_string());
            return Err(state.mismatch(format!(
                "the ReLoRA state has {saved} restarts; cycles of {} updates after a warm start of {} give \
                 {expected}",
                self.cycle, self.warm_start.updates
            )));
        }
        if self.warm_start.is_over(cx.t) {
            self.wrap(cx, factors::blank, false);
        }
        Ok(())
    }

    fn state(&self, cx: &Context<'_>) -> MethodState {
        MethodState { json: json!({ "restarts": self.restarts(cx.t) }), ..MethodState::default() }
    }

    fn schedule_index(&self, t: u64, total: u64) -> ScheduleIndex {
        let index = self.warm_start.schedule_index(t, total);
        if self.warm_start.is_over(t) {
            return ScheduleIndex { warmup: Some(self.warmup), ..index };
        }
        index
    }

    /// The restart comes right after the update whose rate was exactly 0: nothing that was learned at a rate
    /// above 0 meets the cut moments, and the first update of the new pair is the first of the re-warm.
    fn after_update(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if self.warm_start.ends_with(cx.t) {
            self.warm_start.finish(cx);
            self.wrap_fresh(cx);
        } else {
            let (before, now) = (self.restarts(cx.t.saturating_sub(1)), self.restarts(cx.t));
            if now > before {
                self.restart(cx, now)?;
            }
        }
        Ok(())
    }

    /// A cycle adds the rank of a pair; a warm start can change everything.
    fn rank_ceiling(&self, _model: &Model, linear: &Linear, t: u64) -> usize {
        if self.warm_start.updates > 0 {
            return linear.max_rank();
        }
        let cycles = usize::try_from(self.restarts(t) + 1).unwrap_or(usize::MAX);
        cycles.saturating_mul(factors::restored_rank(linear, self.ranks)).min(linear.max_rank())
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// What a layer needs once the factors are made: a pair, and at a merge the product in full. Beside a weight in few bits
/// its f32 values are kept on the host.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    let master = if footprint::is_packed(config) { layer.len() } else { 0 };
    Footprint {
        merge_scratch: layer.len(),
        host: master,
        host_weight: master,
        ..Footprint::adapter(layer, config)
    }
}

/// Before the first update with factors, where weights are stored in few bits.
pub fn start_footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    Footprint { host_weight: 0, ..footprint(config, layer).before_packing(layer) }
}
