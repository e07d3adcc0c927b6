//! An embedding and a head that are too large for one binding and lie in two parts.

use crate::device::memory::Category::Activations;
use crate::kernels::parts::{
    PartGrads, cross_entropy_of, embedding_of, logits_of, token_losses_of,
};
use crate::kernels::{Matrix, Vector};

use super::probe::{Operand, Probe, dot, ids};

/// Rows of each part.
const PART: usize = 1500;
const WIDTH: usize = 128;
const TOKENS: usize = 64;

/// A table in two parts, and what goes through it.
struct Case {
    parts: [Operand; 2],
    hidden: Operand,
    targets: Vec<i32>,
}

impl Case {
    fn new(probe: &mut Probe<'_>) -> Self {
        probe.shape(format!("{TOKENS} tokens, {WIDTH} to 2 x {PART}"));
        let parts = [1, 2].map(|seed| Operand::new(seed, [PART, WIDTH], 0.5));
        let mut targets = ids(4, TOKENS, 2 * PART);
        // The rows at which one part ends and the other begins.
        (targets[0], targets[1]) = (PART as i32 - 1, PART as i32);
        Self { parts, hidden: Operand::new(3, [TOKENS, WIDTH], 1.0), targets }
    }

    fn row(&self, id: usize) -> Vec<f64> {
        self.parts[id / PART].row(id % PART)
    }

    fn logits(&self, token: usize) -> Vec<f64> {
        let hidden = self.hidden.row(token);
        (0..2 * PART).map(|id| dot(&hidden, &self.row(id))).collect()
    }

    /// The loss of a token and its gradient by the logits.
    fn loss(&self, token: usize) -> (f64, Vec<f64>) {
        let mut logits = self.logits(token);
        let target = self.targets[token] as usize;
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
        let loss = lse - logits[target];
        for logit in &mut logits {
            *logit = (*logit - lse).exp();
        }
        logits[target] -= 1.0;
        (loss, logits)
    }

    fn on(&self, probe: &Probe<'_>) -> ([Matrix; 2], Matrix) {
        (self.parts.each_ref().map(|part| part.on(probe.device)), self.hidden.on(probe.device))
    }
}

pub fn embedding_rows(probe: &mut Probe<'_>) {
    let case = Case::new(probe);
    let ([a, b], _) = case.on(probe);
    let on = probe.indices(&case.targets);
    let device = probe.device;
    let got = probe.timed(|| embedding_of(&on, &[&a, &b], device));
    probe.compare_rows("row", &got, |at| case.row(case.targets[at] as usize));
}

pub fn put_columns(probe: &mut Probe<'_>) {
    let case = Case::new(probe);
    let ([a, b], hidden) = case.on(probe);
    let device = probe.device;
    let got = probe.timed(|| logits_of(&hidden, &[&a, &b], device));
    probe.compare_rows("logits", &got, |token| case.logits(token));
}

pub fn logit_losses(probe: &mut Probe<'_>) {
    let case = Case::new(probe);
    let ([a, b], hidden) = case.on(probe);
    let (targets, device) = (probe.indices(&case.targets), probe.device);
    let losses = probe.timed(|| token_losses_of(&hidden, &[&a, &b], &targets, device));
    probe.compare_entries("loss", &losses, |token| case.loss(token).0);
}

fn cross_entropy(probe: &mut Probe<'_>, case: &Case) -> PartGrads {
    let ([a, b], hidden) = case.on(probe);
    let (targets, device) = (probe.indices(&case.targets), probe.device);
    let zero = Vector::zeros([1], device, Activations);
    probe.timed(|| cross_entropy_of(zero, &hidden, &[&a, &b], &targets, 1.0, None, device))
}

pub fn add_losses(probe: &mut Probe<'_>) {
    let case = Case::new(probe);
    let grads = cross_entropy(probe, &case);
    let sum: f64 = (0..TOKENS).map(|token| case.loss(token).0).sum();
    probe.compare("sum of the losses", &grads.loss_sum.to_host(), &[sum]);
}

pub fn take_columns(probe: &mut Probe<'_>) {
    let case = Case::new(probe);
    let grads = cross_entropy(probe, &case);
    probe.compare_rows("gradient of the hidden states", &grads.d_hidden, |token| {
        let mut right = vec![0.0; WIDTH];
        for (id, d) in case.loss(token).1.into_iter().enumerate() {
            right.iter_mut().zip(case.row(id)).for_each(|(right, w)| *right += d * w);
        }
        right
    });
}
