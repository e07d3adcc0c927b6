//! The optimizer against `AdamW` written for one number in f64.

use crate::fixture::device;
use fullrank::device::memory::Category;
use fullrank::kernels::update::{AdamForm, AdamW};
use fullrank::kernels::{Matrix, Vector};
use fullrank::model::{Params, Role};
use fullrank::optim::Optimizer;
use fullrank::random::stream;

const HYPER: AdamW = AdamW {
    learning_rate: 0.0,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.1,
    form: AdamForm::Torch,
};

/// One number's state, updated as in methods 1.4.
#[derive(Clone, Copy)]
struct Scalar {
    theta: f64,
    m: f64,
    v: f64,
}

impl Scalar {
    fn update(&mut self, g: f64, hyper: AdamW, eta: f64, k: i32) {
        let AdamW { beta1, beta2, eps, weight_decay, form, .. } = hyper;
        self.m = beta1 * self.m + (1.0 - beta1) * g;
        self.v = beta2 * self.v + (1.0 - beta2) * g * g;
        let (c1, c2) = (1.0 - beta1.powi(k), 1.0 - beta2.powi(k));
        match form {
            AdamForm::Torch => {
                self.theta *= 1.0 - eta * weight_decay;
                self.theta -= eta * (self.m / c1) / ((self.v / c2).sqrt() + eps);
            }
            AdamForm::Reference => {
                self.theta -= eta * (c2.sqrt() / c1) * self.m / (self.v.sqrt() + eps);
                self.theta *= 1.0 - eta * weight_decay;
            }
        }
    }
}

/// Gradients of very different sizes, some of them zero.
fn gradient(t: u64, len: usize) -> Vec<f32> {
    let mut random = stream(1, "gradient", "adamw", t);
    (0..len)
        .map(|i| {
            let size = 10f64.powi(-(i as i32 % 7));
            if i % 11 == 3 { 0.0 } else { (random.normal() * size) as f32 }
        })
        .collect()
}

#[test]
fn a_hundred_updates_agree_with_a_scalar_adamw_in_double_precision() {
    let (shape, device) = ([7, 33], device());
    let len = shape[0] * shape[1];
    for (form, beta2, eps) in [
        (AdamForm::Torch, 0.999, 1e-8),
        (AdamForm::Torch, 0.95, 1e-6),
        (AdamForm::Reference, 0.999, 1e-6),
    ] {
        let hyper = AdamW { form, beta2, eps, ..HYPER };
        let start = stream(2, "start", "adamw", 0).normal_vec(len, 0.1);
        let upload = |values| Matrix::from_host(values, shape, &device, Category::Weights);
        let one = Vector::from_host(vec![1.0], [1], &device, Category::Activations);
        let mut params = Params::default();
        let id = params.add("w", shape.to_vec(), Role::Network, upload(start.clone()), true);
        let mut optimizer = Optimizer::new(hyper, &device);
        let mut oracle: Vec<Scalar> =
            start.iter().map(|&v| Scalar { theta: f64::from(v), m: 0.0, v: 0.0 }).collect();
        for t in 0..100u64 {
            let eta = 2e-3 * (1.0 + (t as f64 / 10.0).sin());
            let grad = gradient(t, len);
            optimizer.update(&mut params, id, upload(grad.clone()), &one, eta);
            for (scalar, g) in oracle.iter_mut().zip(grad) {
                scalar.update(f64::from(g), hyper, eta, t as i32 + 1);
            }
            for (i, (ours, right)) in
                params.value(id).to_host().into_iter().zip(&oracle).enumerate()
            {
                let difference = (f64::from(ours) - right.theta).abs();
                assert!(difference <= 1e-6, "{form:?}, update {t}, number {i}: {difference:e}");
            }
        }
        let (_, moments) = optimizer.iter().next().unwrap();
        assert_eq!(moments.step, 100);
    }
}
