//! One update: micro-batches forward and backward, the finite check, clipping, the method's hooks.

use crate::device::memory::Category;
use crate::kernels::Vector;
use crate::kernels::update::{add_sum_squares, clip_factor};
use crate::methods::{Context, Disposition, Method, NextBatch};
use crate::model::backward::GradientSink;
use crate::model::{Batch, Gradients, Model};
use crate::optim::schedule::Span;
use crate::optim::{Optimizer, Schedule};
use crate::runlog::Body;

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
    /// False: something was not finite, and weights, moments, counters and draws are as before.
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
            events: &mut self.events,
        };
        hook(self.method.as_mut(), &mut cx)
    }

    /// Prepares the method for a fresh run. `next_batch` gives the run's first micro-batches to a method that
    /// looks at them; it must leave the data position of the training as it is.
    pub fn prepare(&mut self, next_batch: &mut NextBatch<'_>) -> crate::error::Result<()> {
        self.with_method(|method, cx| {
            method.look_ahead(cx, next_batch)?;
            method.prepare(cx)
        })
    }

    /// The learning rate of the next update.
    pub fn learning_rate(&self) -> f64 {
        let Settings { schedule, warmup, min_ratio, learning_rate, .. } = self.settings;
        let index = self.method.schedule_index(self.t, self.total);
        // A short phase gets a shorter warm-up.
        let warmup = if index.total < self.total { warmup.min(index.total / 2) } else { warmup };
        let span = Span { warmup, total: index.total, min_ratio };
        let schedule = index.schedule.unwrap_or(schedule);
        index.peak.unwrap_or(learning_rate) * schedule.factor(index.t, span)
    }

    /// One update from its micro-batches; the gradient is the mean over micro-batches of their means.
    pub fn step(&mut self, micro_batches: &[Batch]) -> crate::error::Result<Outcome> {
        let device = self.model.device().clone();
        let zero = || Vector::zeros([1], &device, Category::Activations);
        let mut gradients = Gradients::default();
        let mut loss_sum = zero();
        let counted: usize = micro_batches.iter().map(|batch| batch.counted).sum();
        for (index, batch) in micro_batches.iter().enumerate() {
            let is_last = index + 1 == micro_batches.len();
            let scale = 1.0 / (batch.counted.max(1) * micro_batches.len()) as f64;
            let method = &mut self.method;
            let consumes = method.consumes_gradients();
            let mut hook = |_: &mut _, id, grad| {
                if !consumes {
                    return Some(grad);
                }
                match method.on_layer_gradient(id, grad) {
                    Disposition::Keep(grad) => Some(grad),
                    Disposition::Consumed => None,
                }
            };
            let mut sink = GradientSink::new(&mut gradients, is_last, &mut hook);
            loss_sum = self.model.forward_backward(
                batch,
                loss_sum,
                scale as f32,
                self.settings.recompute,
                &mut sink,
            );
        }

        let mut sum_squares = zero();
        for id in gradients.ids() {
            if let Some(grad) = gradients.get(id) {
                sum_squares = add_sum_squares(sum_squares, grad);
            }
        }
        let read = |x: &Vector| f64::from(x.to_host()[0]);
        let loss = read(&loss_sum) / counted.max(1) as f64;
        let grad_norm = read(&sum_squares).sqrt();
        let learning_rate = self.learning_rate();
        let is_applied = loss.is_finite() && grad_norm.is_finite();
        if is_applied {
            let clip = clip_factor(&sum_squares, self.settings.max_grad_norm);
            self.with_method(|method, cx| {
                method.before_update(cx, &mut gradients);
                method.update(cx, gradients, &clip, learning_rate);
            });
            self.t += 1;
            self.with_method(|method, cx| {
                method.after_update(cx)?;
                method.monitor(cx);
                Ok::<_, crate::error::Error>(())
            })?;
        }
        Ok(Outcome { loss, grad_norm, learning_rate, is_applied })
    }
}
