//! Training methods behind one trait: what is trained, what happens to gradients, and what is done to
//! the weights before and after an update. The trainer calls the hooks and names no method; a method
//! never names another, shared parts stand in `factors`, `warm_start` and `projection`.

use serde_json::Value;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::kernels::{Matrix, Vector};
use crate::linalg::spectrum::Product;
use crate::model::{Batch, Gradients, Linear, LinearId, Model, ParamId, Params};
use crate::optim::{Optimizer, Schedule};
use crate::runlog::{Body, Coverage};

pub mod adarankgrad;
pub mod dora;
pub mod effective;
pub mod factors;
pub mod fira;
pub mod footprint;
pub mod full;
pub mod galore;
pub mod given;
pub mod inrank;
pub mod lora;
pub mod lora_ga;
pub mod lte;
pub mod pissa;
pub mod projection;
pub mod relora;
pub mod singular;
pub mod sltrain;
pub mod spectra;
pub mod starts;
pub mod switchlora;
pub mod warm_start;

use footprint::PhaseFootprint;

/// What a hook may see and change.
pub struct Context<'a> {
    /// The network with its parameters.
    pub model: &'a mut Model,
    /// Moments of trained parameters.
    pub optimizer: &'a mut Optimizer,
    /// Seed of every random draw.
    pub seed: u64,
    /// Completed updates `t`.
    pub t: u64,
    /// Updates of the whole run `T`.
    pub total: u64,
    /// The gradient norm that is clipped to; 0: none. For methods that clip parts of the gradient by themselves.
    pub max_grad_norm: f64,
    /// What the method tells the world; the trainer writes it to the log.
    pub events: &'a mut Vec<Body>,
}

impl Context<'_> {
    /// The part of it that an update of single layers needs.
    pub fn for_layers(&mut self, learning_rate: f64) -> LayerContext<'_> {
        LayerContext {
            params: &mut self.model.params,
            optimizer: self.optimizer,
            seed: self.seed,
            t: self.t,
            learning_rate,
            events: self.events,
        }
    }
}

/// What a hook may see and change while the backward pass has the network.
pub struct LayerContext<'a> {
    /// All parameters.
    pub params: &'a mut Params,
    /// Moments of trained parameters.
    pub optimizer: &'a mut Optimizer,
    /// Seed of every random draw.
    pub seed: u64,
    /// Completed updates `t`.
    pub t: u64,
    /// The learning rate of this update.
    pub learning_rate: f64,
    /// What the method tells the world.
    pub events: &'a mut Vec<Body>,
}
/// Gives the next micro-batch of the run's own data, for [`Method::look_ahead`].
pub type NextBatch<'a> = dyn FnMut() -> Result<Batch> + 'a;

/// What happens to a layer's finished gradient.
#[expect(clippy::large_enum_variant, reason = "moved once per gradient, never stored")]
pub enum Disposition {
    /// Keep it for the update.
    Keep(Matrix),
    /// The method used it up (projected, accumulated or applied it); its memory is free.
    Consumed,
}

/// A method's part of a checkpoint besides parameters and moments.
#[derive(Debug, Default)]
pub struct MethodState {
    /// Tensors of `method.safetensors`, beside the factors.
    pub tensors: Vec<NamedTensor>,
    /// Pointers, slots and counters for `state.json`.
    pub json: Value,
    /// Counters per vector, which replace the optimizer's `<parameter>.step`.
    pub steps: Vec<(ParamId, Vec<i32>)>,
}

/// A tensor for a checkpoint.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    /// `<layer>.pool_a` and the like.
    pub name: String,
    /// The method's own storage, not a copy: all pools at once can be larger than the weights.
    pub value: Matrix,
}

/// Where a method reads its state from when a run resumes.
pub trait StateReader {
    /// A tensor of `method.safetensors`, with its shape checked.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;
    /// Counters per vector of a parameter.
    fn steps(&self, parameter: &str, len: usize) -> Result<Vec<i32>>;
    /// The method's part of `state.json`.
    fn json(&self) -> &Value;
    /// The error for a state that does not fit, naming the checkpoint.
    fn mismatch(&self, what: String) -> Error;
}

/// A finished training result: how the trained function can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// Merge the factors into the weights.
    Merged,
    /// A plain adapter of the weights that the run began with ([`Method::plain_adapter`]) is exact too.
    MergedOrAdapter,
}

impl Export {
    /// Of a method that leaves the dense weights frozen: an adapter holds the factors alone, so it is exact only
    /// where nothing else was trained.
    fn of_frozen_base(model: &Model) -> Self {
        let trains_rest = model.non_targets().iter().any(|&id| model.params.is_trainable(id));
        if trains_rest { Self::Merged } else { Self::MergedOrAdapter }
    }
}

/// What a method does with the dense weights of the layers that it adapts, which decides whether they can be stored in few
/// bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Trains them, changes them often, or has none.
    Changing,
    /// Leaves them as they were read.
    Frozen,
    /// Changes them once, before the first update.
    ChangedAtStart,
    /// Merges into them now and then, and leaves them alone in between.
    Merged,
}

/// A low-rank pair on the weight that a run began with: `W + s·B·A` is the trained layer.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainAdapter {
    /// `A [r, n]`, row-major.
    pub a: Vec<f32>,
    /// `B [m, r]`, row-major.
    pub b: Vec<f32>,
    /// `r`.
    pub rank: usize,
    /// `s`.
    pub scale: f32,
    /// Whether `s` is `alpha/√r` by the method's rule; else it is `alpha/r`.
    pub is_rank_stabilised: bool,
    /// Trained lengths of the rows `[m]`, where the layer has them.
    pub magnitude: Option<Vec<f32>>,
}

/// Learning-rate index of an update within a schedule that a method may restart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleIndex {
    /// Update index within the phase.
    pub t: u64,
    /// Updates of the phase.
    pub total: u64,
    /// The peak rate of the phase, where it differs from the run's.
    pub peak: Option<f64>,
    /// The schedule of the phase, where it differs from the run's.
    pub schedule: Option<Schedule>,
    /// The warm-up of the phase, where it differs from the run's.
    pub warmup: Option<u64>,
}

impl ScheduleIndex {
    /// Place `t` of `total` with the run's own schedule and rate.
    pub fn new(t: u64, total: u64) -> Self {
        Self { t, total, peak: None, schedule: None, warmup: None }
    }
}

/// A training method. Hooks run in the order of `methods.md` 1.3.
pub trait Method {
    /// The name on the command line and in logs.
    fn name(&self) -> &'static str;

    /// What becomes of the dense weights of its layers.
    fn base(&self) -> Base {
        Base::Changing
    }

    /// Before [`Method::prepare`] of a fresh run: looks at the batches that the run begins with. Training
    /// sees the same batches again; a run that resumes does not look. Weights must not change.
    fn look_ahead(&mut self, _cx: &mut Context<'_>, _next_batch: &mut NextBatch<'_>) -> Result<()> {
        Ok(())
    }

    /// Makes the factors of a fresh run and says what is trained.
    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()>;

    /// Rebuilds the structure and state of a checkpoint; factor values are loaded afterwards.
    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()>;

    /// After [`Method::restore`], when the factors have their values.
    fn restored(&mut self, _cx: &mut Context<'_>) {}

    /// Takes over the settings that may change while a run trains ([`crate::config::live::LIVE`]).
    fn retune(&mut self, _config: &RunConfig) {}

    /// What a checkpoint must hold besides parameters and moments.
    fn state(&self, cx: &Context<'_>) -> MethodState;

    /// Which place of which schedule the next update has.
    fn schedule_index(&self, t: u64, total: u64) -> ScheduleIndex {
        ScheduleIndex::new(t, total)
    }

    /// The shape of a parameter's moments where it is not the parameter's own; asked after
    /// [`Method::restore`].
    fn moment_shape(&self, _id: ParamId) -> Option<[usize; 2]> {
        None
    }

    /// Called during the backward pass as soon as a gradient is complete. Only methods that say so in
    /// [`Method::consumes_gradients`] are asked. `guard [1]`, on the device, is 1 where this gradient and all before it
    /// are finite, and below 0 where they are not: then nothing may change but counters, which the caller sets back. As
    /// the factor of an update it does just that.
    fn on_layer_gradient(
        &mut self,
        _cx: &mut LayerContext<'_>,
        _id: ParamId,
        grad: Matrix,
        _guard: &Vector,
    ) -> Disposition {
        Disposition::Keep(grad)
    }

    /// Whether [`Method::on_layer_gradient`] does anything. Clipping by the global norm and accumulation are off then.
    fn consumes_gradients(&self) -> bool {
        false
    }

    /// Between clipping and the optimizer: switches, refreshes, masks.
    fn before_update(&mut self, _cx: &mut Context<'_>, _grads: &mut Gradients) {}

    /// Applies the gradients. The default is AdamW on every parameter that has one.
    fn update(
        &mut self,
        cx: &mut Context<'_>,
        mut grads: Gradients,
        clip: &Vector,
        learning_rate: f64,
    ) {
        adamw_all(cx, &mut grads, clip, learning_rate);
    }

    /// After the update and the counters: merges, restarts, averages. `cx.t` counts the update.
    fn after_update(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Events whose numbers were still on the device when their update ended. Called before the next update, when the
    /// host has waited for the device anyway, and before a checkpoint; `cx.t` still counts the update they tell of.
    fn monitor(&mut self, _cx: &mut Context<'_>) {}

    /// The weight that a target layer applies now, row-major `[m, n]` on the host: `W + s·B·A`, unless the method's layers
    /// compute something else. For rank metrics: it must change nothing.
    fn effective_weight(&self, model: &Model, linear: &Linear) -> Vec<f64> {
        effective::weight(model, linear)
    }

    /// What [`Method::effective_weight`] was at the start of the run. `base` is the layer's dense weight as it was
    /// initialised or loaded, which it is for every method that keeps a dense weight; one that does not makes it from
    /// its own draws.
    fn start_weight(&self, _linear: &Linear, _seed: u64, base: Vec<f64>) -> Vec<f64> {
        base
    }

    /// The change of [`Method::effective_weight`] since the start as a product, where it is one by construction: then
    /// its rank costs little. `None`: it has to be measured on the matrix.
    fn change_as_product(&self, _model: &Model, _linear: &Linear, _seed: u64) -> Option<Product> {
        None
    }

    /// The largest rank that the change of a layer's effective weight since the start can have after `t` updates:
    /// `min(m, n)` where the method sets no limit.
    fn rank_ceiling(&self, _model: &Model, linear: &Linear, _t: u64) -> usize {
        linear.max_rank()
    }

    /// How much of its candidate vectors a layer has used after `t` updates, where the method has such.
    fn coverage(&self, _id: LinearId, _t: u64) -> Option<Coverage> {
        None
    }

    /// How far the subspaces of two heads of a layer are apart ([`Rank::head_distance`](crate::runlog::Rank)), where the
    /// method has several heads and they have learned something.
    fn head_distance(&self, _model: &Model, _id: LinearId) -> Option<f64> {
        None
    }

    /// How the result can be written.
    fn export(&self, model: &Model) -> Export;

    /// A layer's adapter for the weight that the run began with; `None` where [`Method::export`] rules it out.
    fn plain_adapter(&self, _model: &Model, _id: LinearId) -> Option<PlainAdapter> {
        None
    }
}

/// AdamW on every parameter that still has a gradient, with a counter per parameter.
fn adamw_all(cx: &mut Context<'_>, grads: &mut Gradients, clip: &Vector, learning_rate: f64) {
    for id in grads.ids() {
        if let Some(grad) = grads.take(id) {
            cx.optimizer.update(&mut cx.model.params, id, grad, clip, learning_rate);
        }
    }
}

/// A setting that resolving the configuration has filled in.
fn resolved<T: Copy>(value: Option<T>, key: &str) -> Result<T> {
    value.ok_or_else(|| Error::config(format!("{key} is not set"), format!("set {key}")))
}

/// The names of the methods in this version.
pub const NAMES: &[&str] = crate::config::settings::METHODS;

/// Makes the method that a configuration names, with its settings resolved for the model.
pub fn create(config: &RunConfig) -> Result<Box<dyn Method>> {
    Ok(match config.train.method.as_str() {
        // SPAM is the optimizer's; alone it goes with full rank.
        "full" | "spam" => Box::new(full::Full),
        "lora" | "rslora" | "lora-plus" => Box::new(lora::Lora::new(config)?),
        "lora-ga" => Box::new(lora_ga::LoraGa::new(config)?),
        "pissa" => Box::new(pissa::Pissa::new(config)?),
        "dora" => Box::new(dora::Dora::new(config)?),
        "switchlora" => Box::new(switchlora::SwitchLora::new(config)?),
        "relora" => Box::new(relora::Relora::new(config)?),
        "galore" => Box::new(galore::GaLore::new(config)?),
        "fira" => Box::new(fira::Fira::new(config)?),
        "lte" => Box::new(lte::Lte::new(config)?),
        "adarankgrad" => Box::new(adarankgrad::AdaRankGrad::new(config)?),
        "sltrain" => Box::new(sltrain::SlTrain::new(config)?),
        "inrank" => Box::new(inrank::InRank::new(config)?),
        other => return Err(unknown(other)),
    })
}

/// The parts of a run of the configured method, in order, each with its footprint of a layer; the predicted peak is
/// that of the largest.
///
/// Errors: `Error::Config` where there is no such method.
pub fn phases(config: &RunConfig) -> Result<Vec<PhaseFootprint>> {
    // Weights that are changed before they are brought into few bits are in f32 until then.
    let packing = |start: PhaseFootprint, rest: Vec<PhaseFootprint>| {
        if footprint::is_packed(config) { [vec![start], rest].concat() } else { rest }
    };
    Ok(match config.train.method.as_str() {
        "full" | "spam" => vec![full::footprint],
        "lora" | "rslora" | "lora-plus" if lora::is_compensated(config) => {
            packing(lora::start_footprint, vec![lora::footprint])
        }
        "lora" | "rslora" | "lora-plus" => vec![lora::footprint],
        "lora-ga" => {
            let training = vec![lora_ga::footprint as PhaseFootprint];
            [
                vec![lora_ga::estimate_footprint as PhaseFootprint],
                packing(lora_ga::start_footprint, training),
            ]
            .concat()
        }
        "pissa" => packing(pissa::start_footprint, vec![pissa::footprint]),
        "dora" => vec![dora::footprint],
        "lte" => vec![lte::footprint],
        "switchlora" => after_warm_start(config, switchlora::footprint),
        "relora" => packing(relora::start_footprint, after_warm_start(config, relora::footprint)),
        "galore" => vec![galore::footprint],
        "fira" => vec![fira::footprint],
        "adarankgrad" => vec![adarankgrad::footprint],
        "sltrain" => vec![sltrain::footprint],
        "inrank" => vec![inrank::footprint],
        other => return Err(unknown(other)),
    })
}

/// Everything is trained while a warm start lasts.
fn after_warm_start(config: &RunConfig, footprint: PhaseFootprint) -> Vec<PhaseFootprint> {
    if config.warm_start() == 0 { vec![footprint] } else { vec![full::footprint, footprint] }
}

fn unknown(method: &str) -> Error {
    Error::config(
        format!("method {method} is not in this version"),
        format!("use one of: {}", NAMES.join(", ")),
    )
}
