//! AdamW's state: two moments and a counter for every trained parameter.

use std::collections::BTreeMap;

use crate::device::Device;
use crate::device::memory::Category;
use crate::kernels::update::{AdamForm, AdamW, adamw};
use crate::kernels::{Matrix, Vector};
use crate::model::{Model, ParamId, Params};

use super::spam::{self, Spam};

/// The moments of one parameter, in its shape or that of its projected gradient.
#[derive(Debug)]
pub struct Moments {
    /// Running mean of the gradient.
    pub exp_avg: Matrix,
    /// Running mean of its square.
    pub exp_avg_sq: Matrix,
    /// Updates so far. Parameters with a counter per vector keep theirs in the method.
    pub step: u32,
}

impl Moments {
    /// Moments of zero and a counter of zero.
    pub fn zeros(shape: [usize; 2], device: &Device) -> Self {
        let zeros = || Matrix::zeros(shape, device, Category::Optimizer);
        Self { exp_avg: zeros(), exp_avg_sq: zeros(), step: 0 }
    }
}

/// AdamW over all trained parameters.
#[derive(Debug)]
pub struct Optimizer {
    device: Device,
    hyper: AdamW,
    moments: BTreeMap<ParamId, Moments>,
    spam: Option<Spam>,
}

impl Optimizer {
    /// An optimizer without state; `hyper.learning_rate` is replaced at every update.
    pub fn new(hyper: AdamW, device: &Device) -> Self {
        Self { device: device.clone(), hyper, moments: BTreeMap::new(), spam: None }
    }

    /// The same with SPAM before Adam.
    #[must_use]
    pub fn with_spam(mut self, rules: Option<spam::Rules>) -> Self {
        self.spam = rules.map(Spam::new);
        self
    }

    /// What the learning rate of the update with index `t` is multiplied by.
    pub fn step_factor(&self, t: u64) -> f64 {
        self.spam.as_ref().map_or(1.0, |spam| spam.rules().factor(t))
    }

    /// Comes before any gradient of the update with index `t` is used. Where the moments begin anew now it gives the number
    /// of such resets; counters go on.
    pub fn begin_update(&mut self, model: &Model, t: u64) -> Option<u64> {
        let spam = self.spam.as_mut()?;
        spam.begin_update(model, t);
        let rules = *spam.rules();
        if !rules.resets_at(t) {
            return None;
        }
        for moments in self.moments.values_mut() {
            for moment in [&mut moments.exp_avg, &mut moments.exp_avg_sq] {
                let zeros = |shape| Matrix::zeros(shape, &self.device, Category::Optimizer);
                let shape = moment.shape();
                // The old one goes before the new one comes: gradients take memory too now.
                *moment = zeros([1, 1]);
                *moment = zeros(shape);
            }
        }
        Some(rules.resets(t))
    }

    /// Whether [`Optimizer::tame`] would change this parameter's gradient now.
    pub fn tames(&self, id: ParamId) -> bool {
        self.spam.as_ref().is_some_and(|spam| spam.acts_on(id))
    }

    /// What Adam may see of a gradient: of spikes only as much as their own second moments, from before this update, let
    /// through. For methods that call Adam themselves; [`Optimizer::update`] does it.
    pub fn tame(
        &mut self,
        id: ParamId,
        grad: Matrix,
        clip: &Vector,
        exp_avg_sq: &Matrix,
    ) -> Matrix {
        match &mut self.spam {
            Some(spam) => spam.tame(&self.device, id, grad, clip, exp_avg_sq),
            None => grad,
        }
    }

    /// Spikes clipped in the last update: how many, and the largest square over its second moment. Waits for the device.
    pub fn read_spikes(&mut self) -> Option<(u64, f64)> {
        self.spam.as_mut()?.read()
    }

    /// Takes other hyper-parameters from the next update on.
    pub fn set_hyper(&mut self, hyper: AdamW) {
        self.hyper = hyper;
    }

    /// The hyper-parameters with this update's learning rate.
    pub fn hyper(&self, learning_rate: f64) -> AdamW {
        AdamW { learning_rate, ..self.hyper }
    }

    /// One update of one parameter with a counter of its own; `clip [1]` multiplies the gradient, which is used up.
    pub fn update(
        &mut self,
        params: &mut Params,
        id: ParamId,
        grad: Matrix,
        clip: &Vector,
        learning_rate: f64,
    ) {
        let Moments { exp_avg, exp_avg_sq, step } = self.take(params, id);
        let grad = self.tame(id, grad, clip, &exp_avg_sq);
        let step = step + 1;
        let hyper = self.hyper(learning_rate);
        let (param, exp_avg, exp_avg_sq) =
            adamw(params.take(id), &grad, clip, exp_avg, exp_avg_sq, hyper, step);
        params.set(id, param);
        self.put(id, Moments { exp_avg, exp_avg_sq, step });
    }

    /// Takes a parameter's moments out for an operation in place, zeros if it has none yet.
    pub fn take(&mut self, params: &Params, id: ParamId) -> Moments {
        self.moments
            .remove(&id)
            .unwrap_or_else(|| Moments::zeros(params.value(id).shape(), &self.device))
    }

    /// The same for moments in a shape of their own, such as those of a projected gradient.
    pub fn take_shaped(&mut self, id: ParamId, shape: [usize; 2]) -> Moments {
        self.moments.remove(&id).unwrap_or_else(|| Moments::zeros(shape, &self.device))
    }

    /// Whether a parameter has moments.
    pub fn has(&self, id: ParamId) -> bool {
        self.moments.contains_key(&id)
    }

    /// One parameter's counter; None where it has no moments yet.
    pub fn step(&self, id: ParamId) -> Option<u32> {
        self.moments.get(&id).map(|moments| moments.step)
    }

    /// Sets a counter back to what [`Optimizer::step`] said, after an update that the device left out. The moments are
    /// as they were then: zeros where there were none.
    pub fn set_step(&mut self, id: ParamId, step: Option<u32>) {
        match step {
            Some(step) => {
                if let Some(moments) = self.moments.get_mut(&id) {
                    moments.step = step;
                }
            }
            None => self.forget(id),
        }
    }

    /// Forgets one parameter's moments and counter.
    pub fn forget(&mut self, id: ParamId) {
        self.moments.remove(&id);
    }

    /// Where the moments are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Puts a parameter's moments back.
    pub fn put(&mut self, id: ParamId, moments: Moments) {
        self.moments.insert(id, moments);
    }

    /// Forgets all moments and counters.
    pub fn clear(&mut self) {
        self.moments.clear();
    }

    /// All moments, by parameter.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Moments)> {
        self.moments.iter().map(|(&id, moments)| (id, moments))
    }
}

/// The form of a configuration name.
pub fn form_from_name(name: &str) -> Option<AdamForm> {
    match name {
        "torch" => Some(AdamForm::Torch),
        "reference" => Some(AdamForm::Reference),
        _ => None,
    }
}
