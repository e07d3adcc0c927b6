//! One update: micro-batches forward and backward, the finite check, clipping, the method's hooks.

use crate::config::RunConfig;
use crate::device::memory::Category;
use crate::kernels::Vector;
use crate::kernels::update::{add_sum_squares, clip_factor, guard, read_back};
use crate::methods::{self, Context, Disposition, LayerContext, Method, NextBatch};
use crate::model::backward::GradientSink;
use crate::model::{Batch, Gradients, Model, ParamId, Params};
use crate::optim::schedule::Span;
use crate::optim::{Optimizer, Schedule};
use crate::runlog::{Body, Limiter, Reset};

use super::{plan, setup};

/// Settings of the update that may change while a run is live.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the schedule.
    pub schedule: Schedule,
    /// Warm-up updates.
    pub warmup: u64,
    /// Lowest factor of schedules with a floor.
    pub min_ratio: f64,
    /// Global gradient-norm clip; 0: none.
    pub max_grad_norm: f64,
    /// Recompute activations in the backward pass.
    pub recompute: bool,
}

/// What one attempt at an update did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Mean loss over the tokens that count.
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// The learning rate used.
    pub learning_rate: f64,
    /// False: something was not finite, and weights, moments, counters and draws are as before. Only a method that
    /// consumes gradients may have applied those of layers above the first that was not finite.
    pub is_applied: bool,
}

/// The network, its optimizer and the method, with the count of completed updates.
pub struct Engine {
    /// The network.
    pub model: Model,
    /// Moments.
    pub optimizer: Optimizer,
    /// The training method.
    pub method: Box<dyn Method>,
    /// Settings of the update.
    pub settings: Settings,
    /// Seed of every draw.
    pub seed: u64,
    /// Completed updates.
    pub t: u64,
    /// Updates of the whole run.
    pub total: u64,
    /// What the method told since the last look.
    pub events: Vec<Body>,
    /// What it told of earlier updates, whose numbers had to wait for the device: with the updates they tell of.
    pub late_events: Vec<(u64, Body)>,
}

impl Engine {
    /// Runs a hook of the method.
    pub fn with_method<R>(
        &mut self,
        hook: impl FnOnce(&mut dyn Method, &mut Context<'_>) -> R,
    ) -> R {
        let mut cx = Context {
            model: &mut self.model,
            optimizer: &mut self.optimizer,
            seed: self.seed,
            t: self.t,
            total: self.total,
            max_grad_norm: self.settings.max_grad_norm,
            events: &mut self.events,
        };
        hook(self.method.as_mut(), &mut cx)
    }

    /// Takes in what the method still has to tell of the last update. Waits for the device.
    pub fn read_late_events(&mut self) {
        let own = std::mem::take(&mut self.events);
        self.with_method(|method, cx| method.monitor(cx));
        if let Some((spikes, largest)) = self.optimizer.read_spikes() {
            let (spikes, largest) = (Some(spikes), Some(largest));
            self.events.push(Limiter { spikes, largest, ..Limiter::default() }.into());
        }
        let late = std::mem::replace(&mut self.events, own);
        let t = self.t;
        self.late_events.extend(late.into_iter().map(|body| (t, body)));
    }

    /// Takes over the settings that may change while a run trains.
    pub fn retune(&mut self, config: &RunConfig) -> crate::error::Result<()> {
        self.settings = plan::settings(config)?;
        self.optimizer.set_hyper(setup::hyper(config)?);
        self.method.retune(config);
        Ok(())
    }

    /// Frees the device: drops network, moments and the method's tensors. A checkpoint brings another engine back.
    pub fn unload(&mut self, config: &RunConfig) -> crate::error::Result<()> {
        self.method = methods::create(config)?;
        self.optimizer.clear();
        self.model.unload();
        self.model.device().release_unused();
        Ok(())
    }

    /// Prepares the method for a fresh run. `next_batch` gives the run's first micro-batches to a method that
    /// looks at them; it must leave the data position of the training as it is.
    pub fn prepare(&mut self, next_batch: &mut NextBatch<'_>) -> crate::error::Result<()> {
        self.with_method(|method, cx| {
            method.look_ahead(cx, next_batch)?;
            method.prepare(cx)
        })?;
        self.model.pack_frozen()
    }

    /// Moments that begin anew, and what the optimizer does to this update's gradients. Where gradients are used up
    /// during the backward pass it comes before that, else only when the update is sure to be applied.
    fn begin_update(&mut self) {
        if let Some(count) = self.optimizer.begin_update(&self.model, self.t) {
            self.events.push(
                Reset { count, mode: "zero".into(), m_zeroed: 1.0, v_zeroed: 1.0, counters: false }
                    .into(),
            );
        }
    }

    /// The learning rate of the next update.
    pub fn learning_rate(&self) -> f64 {
        let Settings { schedule, warmup, min_ratio, learning_rate, .. } = self.settings;
        let index = self.method.schedule_index(self.t, self.total);
        let warmup = match index.warmup {
            Some(own) => own,
            // A short phase gets a shorter warm-up.
            None if index.total < self.total => warmup.min(index.total / 2),
            None => warmup,
        };
        let span = Span { warmup, total: index.total, min_ratio };
        let schedule = index.schedule.unwrap_or(schedule);
        let rate = index.peak.unwrap_or(learning_rate) * schedule.factor(index.t, span);
        rate * self.optimizer.step_factor(self.t)
    }

    /// One update from its micro-batches; the gradient is that of the mean over all targets that count, however many of
    /// them a micro-batch has. Slices of one micro-batch that belong to different replicas are no parts of one mean:
    /// each replica has the mean over its own.
    pub fn step(&mut self, micro_batches: &[Batch]) -> crate::error::Result<Outcome> {
        let device = self.model.device().clone();
        let zero = || Vector::zeros([1], &device, Category::Activations);
        let mut gradients = Gradients::default();
        let (mut loss_sum, mut sum_squares) = (zero(), zero());
        let learning_rate = self.learning_rate();
        if self.method.consumes_gradients() {
            self.read_late_events();
            self.begin_update();
        }
        let counted: usize = micro_batches.iter().map(|batch| batch.counted).sum();
        let Self { model, method, optimizer, events, seed, t, settings, .. } = &mut *self;
        let mut consumed = method.consumes_gradients().then(zero);
        // Of gradients that were used up at once: the counter before, and whether the device applied them.
        let mut guarded: Vec<(ParamId, Option<u32>, Vector)> = Vec::new();
        for (index, batch) in micro_batches.iter().enumerate() {
            let same = |other: &&Batch| other.replica == batch.replica;
            let is_last = !micro_batches[index + 1..].iter().any(|other| same(&other));
            let targets: usize = micro_batches.iter().filter(same).map(|other| other.counted).sum();
            let scale = 1.0 / targets.max(1) as f64;
            let mut hook = |params: &mut Params, id, grad| {
                let Some(sum) = consumed.take() else { return Some(grad) };
                let sum = add_sum_squares(sum, &grad);
                // From the first gradient that is not finite on, no layer is applied; only the device knows.
                let is_finite = guard(&sum, 1.0, -1.0);
                consumed = Some(sum);
                guarded.push((id, optimizer.step(id), is_finite.clone()));
                let (seed, t) = (*seed, *t);
                let mut cx = LayerContext { params, optimizer, seed, t, learning_rate, events };
                match method.on_layer_gradient(&mut cx, id, grad, &is_finite) {
                    Disposition::Keep(grad) => Some(grad),
                    Disposition::Consumed => None,
                }
            };
            let mut sink = GradientSink::new(&mut gradients, is_last, &mut hook);
            loss_sum = model.forward_backward(
                batch,
                loss_sum,
                scale as f32,
                settings.recompute,
                &mut sink,
            );
        }
        // What the method used up is in this sum already.
        let is_consumed = consumed.is_some();
        if let Some(sum) = consumed {
            sum_squares = sum;
        }

        for id in gradients.ids().into_iter().filter(|_| !is_consumed) {
            if let Some(grad) = gradients.get(id) {
                sum_squares = add_sum_squares(sum_squares, grad);
            }
        }
        let (loss_sum, squared_norm) = read_back(&loss_sum, &sum_squares);
        // What failed on the device before this point shows here, not as numbers.
        device.check()?;
        if !is_consumed {
            // The device has nothing left to do now, so this wait is short.
            self.read_late_events();
        }
        let loss = loss_sum / counted.max(1) as f64;
        let grad_norm = squared_norm.sqrt();
        let is_applied = loss.is_finite() && grad_norm.is_finite();
        if is_applied {
            if !is_consumed {
                self.begin_update();
            }
            let clip = clip_factor(&sum_squares, self.settings.max_grad_norm);
            self.with_method(|method, cx| {
                method.before_update(cx, &mut gradients);
                method.update(cx, gradients, &clip, learning_rate);
            });
            self.t += 1;
            self.with_method(|method, cx| method.after_update(cx))?;
            // What a warm start trained is frozen when it ends.
            self.model.pack_frozen()?;
        } else {
            let guards: Vec<&Vector> = guarded.iter().map(|(.., guard)| guard).collect();
            let read = Vector::all_to_host(&guards);
            for ((id, step, _), guard) in guarded.iter().zip(read) {
                // Also where the guard could not be read: then the run is over anyway.
                if guard[0] < 0.0 {
                    self.optimizer.set_step(*id, *step);
                }
            }
        }
        Ok(Outcome { loss, grad_norm, learning_rate, is_applied })
    }
}
