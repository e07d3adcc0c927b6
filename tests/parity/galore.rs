//! galore-torch and fira: one layer's weight and moments after every step, given the gradients and projectors; and
//! the span of our own projector.

use super::{assert_close, number, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::update::{AdamForm, AdamW};
use fullrank::kernels::{Matrix, Vector};
use fullrank::linalg::subspace::{Decomposition, Side};
use fullrank::methods::projection::{Carry, Layer, Rules};
use fullrank::methods::{LayerContext, fira};
use fullrank::model::{Linear, Params, Role};
use fullrank::optim::Optimizer;
use std::path::Path;

/// A layer of the case with its optimizer.
struct Case {
    file: SafetensorsFile,
    device: Device,
    params: Params,
    optimizer: Optimizer,
    layer: Layer,
    steps: usize,
}

impl Case {
    fn open(path: &Path, device: &Device) -> Self {
        let file = SafetensorsFile::open(path).unwrap();
        let init = file.read_f32("W.init").unwrap();
        let [m, n] = init.shape[..] else { panic!("W.init is a matrix") };
        let mut params = Params::default();
        let value = Matrix::from_host(init.values, [m, n], device, Category::Weights);
        let id = params.add("W", vec![m, n], Role::Network, value, true);
        let linear = Linear {
            name: "layer".into(),
            rows: m,
            cols: n,
            weight: Some(id),
            adapter: None,
            sparse: None,
            block: 0,
            blocks: 1,
            magnitude: None,
            bias: None,
        };
        let layer = Layer::new(&linear, number(&file, "rank") as usize).unwrap();
        let hyper = AdamW {
            learning_rate: 0.0,
            beta1: number(&file, "beta1"),
            beta2: number(&file, "beta2"),
            eps: number(&file, "eps"),
            weight_decay: number(&file, "weight_decay"),
            form: AdamForm::Reference,
        };
        let optimizer = Optimizer::new(hyper, device);
        let steps = number(&file, "steps") as usize;
        Self { file, device: device.clone(), params, optimizer, layer, steps }
    }

    fn at(&self, name: &str, step: usize) -> Vec<f32> {
        let all = values(&self.file, name);
        let len = all.len() / self.steps;
        all[step * len..(step + 1) * len].to_vec()
    }

    /// The stored projector as rows of `C` entries.
    fn projector(&self, step: usize) -> Vec<f32> {
        let stored = self.at("projector", step);
        let rank = number(&self.file, "rank") as usize;
        match self.layer.side() {
            Side::Right => stored,
            Side::Left => {
                let rows = stored.len() / rank;
                (0..rank)
                    .flat_map(|j| (0..rows).map(move |i| (i, j)))
                    .map(|(i, j)| stored[i * rank + j])
                    .collect()
            }
        }
    }

    /// Our own projector of this step's gradient spans what theirs does.
    fn check_span(&self, step: usize, grad: &Matrix) {
        for decomposition in [Decomposition::Exact, Decomposition::Randomised] {
            let way = Some(decomposition);
            let rules = Rules { gap: 1, carry: Carry::Keep, decomposition: way, residual: None };
            let (mut params, mut optimizer) =
                (Params::default(), Optimizer::new(self.optimizer.hyper(0.0), &self.device));
            let mut events = Vec::new();
            let shape = grad.shape();
            let linear = Linear {
                name: "layer".into(),
                rows: shape[0],
                cols: shape[1],
                weight: Some(self.layer.weight()),
                adapter: None,
                sparse: None,
                block: 0,
                blocks: 1,
                magnitude: None,
                bias: None,
            };
            let mut own = Layer::new(&linear, number(&self.file, "rank") as usize).unwrap();
            let found = own.find(&grad.to_host(), &rules, 0, 0);
            let mut cx = LayerContext {
                params: &mut params,
                optimizer: &mut optimizer,
                seed: 0,
                t: 0,
                learning_rate: 0.0,
                events: &mut events,
            };
            own.install(&mut cx, found, Carry::Keep);
            let len = shape[0].min(shape[1]);
            let span = |rows: &[f32]| -> Vec<f32> {
                let entry = |i: usize, j: usize| {
                    rows.chunks(len).map(|row| f64::from(row[i]) * f64::from(row[j])).sum::<f64>()
                };
                (0..len * len).map(|k| entry(k / len, k % len) as f32).collect()
            };
            let (ours, theirs) = (span(&own.projector().unwrap()), span(&self.projector(step)));
            let what = format!("P Pᵀ of step {step}, {decomposition:?}");
            // Small random gradients have no gap, which is what the power iterations need.
            let tolerance = if decomposition == Decomposition::Exact { 5e-5 } else { 2e-2 };
            assert_close(&what, &ours, &theirs, tolerance);
        }
    }

    /// Applies every gradient and compares; `apply` is the method.
    fn replay(
        mut self,
        mut apply: impl FnMut(&Layer, &mut LayerContext<'_>, usize, Matrix, &Vector),
    ) {
        let shape = self.params.value(self.layer.weight()).shape();
        let gap = number(&self.file, "update_proj_gap") as usize;
        let one = Vector::from_host(vec![1.0], [1], &self.device, Category::Activations);
        let (mut w, mut exp_avg, mut exp_avg_sq) = (Vec::new(), Vec::new(), Vec::new());
        for step in 0..self.steps {
            let grad =
                Matrix::from_host(self.at("grad", step), shape, &self.device, Category::Gradients);
            if step % gap == 0 {
                self.check_span(step, &grad);
            }
            let projector = self.projector(step);
            self.layer.set_projector(projector, &self.device);
            let mut events = Vec::new();
            let mut cx = LayerContext {
                params: &mut self.params,
                optimizer: &mut self.optimizer,
                seed: 0,
                t: step as u64,
                learning_rate: number(&self.file, "lr"),
                events: &mut events,
            };
            apply(&self.layer, &mut cx, step, grad, &one);
            let (_, moments) = self.optimizer.iter().next().unwrap();
            exp_avg.extend(moments.exp_avg.to_host());
            exp_avg_sq.extend(moments.exp_avg_sq.to_host());
            w.extend(self.params.value(self.layer.weight()).to_host());
        }
        for (name, ours) in [("W", w), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)] {
            assert_close(name, &ours, &values(&self.file, name), 3e-6);
        }
    }
}

/// The authors' GaLore.
pub fn check(path: &Path, device: &Device) {
    let case = Case::open(path, device);
    let alpha = number(&case.file, "scale");
    case.replay(|layer, cx, _, grad, one| layer.apply(alpha, cx, grad, one));
}

/// The authors' Fira.
pub fn check_fira(path: &Path, device: &Device) {
    let case = Case::open(path, device);
    let terms = fira::Terms {
        alpha: number(&case.file, "alpha"),
        is_released: true,
        scaling: fira::Scaling::Column,
        gamma: number(&case.file, "limiter_gamma"),
    };
    let file = SafetensorsFile::open(path).unwrap();
    let mut previous = Vector::zeros([1], &case.device, Category::Optimizer);
    let fired = file.read_i32("limiter_fired").unwrap();
    let (mut phi, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
    case.replay(|layer, cx, step, grad, one| {
        let done = fira::apply(layer, &terms, cx, grad, one, &previous);
        let factors = done.phi.unwrap().to_host();
        phi.extend(factors.iter().map(|&v| (f64::from(v) * done.unit) as f32));
        let factor = done.limited.factor.to_host()[0];
        assert_eq!(i32::from(factor < 1.0), fired[step], "limiter in step {step}");
        let norm = done.limited.norm.to_host()[0];
        after.push(norm);
        before.push(norm / factor);
        previous = done.limited.norm;
    });
    for (name, ours) in
        [("scaling_factor", phi), ("residual_norm_before", before), ("residual_norm_after", after)]
    {
        assert_close(name, &ours, &values(&file, name), 3e-6);
    }
}
