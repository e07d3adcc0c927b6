//! Fira: what the residual, its scaling and its limiter promise.

use fullrank::device::memory::Category;
use fullrank::kernels::update::{AdamForm, AdamW};
use fullrank::kernels::{Matrix, Vector};
use fullrank::methods::LayerContext;
use fullrank::methods::fira::{Scaling, Terms, apply};
use fullrank::methods::projection::{Carry, Layer, Rules};
use fullrank::model::{Linear, Params, Role};
use fullrank::optim::Optimizer;
use fullrank::random::stream;
use fullrank::runlog::Body;

use super::fixture::{config, device, engine, method_state, parameter_bits, train};
use super::galore::assert_resumes;

const RATE: f64 = 0.5;

/// A layer with a projector of its first gradient.
struct Bench {
    params: Params,
    optimizer: Optimizer,
    layer: Layer,
    previous: Vector,
    t: u64,
}

impl Bench {
    fn new(shape: [usize; 2]) -> Self {
        let device = device();
        let hyper = AdamW {
            learning_rate: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            form: AdamForm::Torch,
        };
        let mut params = Params::default();
        let zeros = Matrix::zeros(shape, &device, Category::Weights);
        let id = params.add("W", shape.to_vec(), Role::Network, zeros, true);
        let linear = Linear {
            name: "layer".into(),
            rows: shape[0],
            cols: shape[1],
            weight: Some(id),
            adapter: None,
            sparse: None,
            block: 0,
            blocks: 1,
            magnitude: None,
            bias: None,
        };
        let mut layer = Layer::new(&linear, 3).unwrap();
        let rules = Rules { gap: 1, carry: Carry::Keep, decomposition: None, residual: None };
        let found = layer.find(&grad(shape, 0, 1.0).to_host(), &rules, 0, 0);
        let mut optimizer = Optimizer::new(hyper, &device);
        let mut events = Vec::new();
        let mut cx = LayerContext {
            params: &mut params,
            optimizer: &mut optimizer,
            seed: 0,
            t: 0,
            learning_rate: RATE,
            events: &mut events,
        };
        layer.install(&mut cx, found, Carry::Keep);
        let previous = Vector::zeros([1], &device, Category::Optimizer);
        Self { params, optimizer, layer, previous, t: 0 }
    }

    fn with<R>(
        &mut self,
        run: impl FnOnce(&Layer, &mut LayerContext<'_>, &Vector, &Vector) -> R,
    ) -> R {
        let one = Vector::from_host(vec![1.0], [1], &device(), Category::Activations);
        let mut events = Vec::new();
        let mut cx = LayerContext {
            params: &mut self.params,
            optimizer: &mut self.optimizer,
            seed: 0,
            t: self.t,
            learning_rate: RATE,
            events: &mut events,
        };
        self.t += 1;
        run(&self.layer, &mut cx, &one, &self.previous)
    }

    /// One update; gives the limiter's factor and the norm after it.
    fn step(&mut self, terms: &Terms, grad: Matrix) -> (f32, f32) {
        let done =
            self.with(|layer, cx, one, previous| apply(layer, terms, cx, grad, one, previous));
        let norm = done.limited.norm.to_host()[0];
        self.previous = done.limited.norm;
        (done.limited.factor.to_host()[0], norm)
    }

    fn weight(&self) -> Vec<f32> {
        self.params.value(self.layer.weight()).to_host()
    }
}

fn grad(shape: [usize; 2], draw: u64, size: f64) -> Matrix {
    let values = stream(3, "grad", "test", draw).normal_vec(shape[0] * shape[1], size);
    Matrix::from_host(values, shape, &device(), Category::Gradients)
}

fn terms(is_released: bool) -> Terms {
    Terms { alpha: 0.25, is_released, scaling: Scaling::Column, gamma: 1.01 }
}

const SHAPES: [[usize; 2]; 3] = [[7, 12], [12, 7], [9, 9]];

// Invariant 1.
#[test]
fn the_limiter_bounds_the_growth_of_the_residual_and_leaves_the_first_alone() {
    for shape in SHAPES {
        for is_released in [false, true] {
            let mut bench = Bench::new(shape);
            let (first, mut before) = bench.step(&terms(is_released), grad(shape, 0, 1.0));
            assert_eq!(first, 1.0, "the first update is not limited");
            let mut fired = 0;
            for draw in 1..12 {
                let size = if draw == 6 { 30.0 } else { 1.0 };
                let (factor, norm) = bench.step(&terms(is_released), grad(shape, draw, size));
                assert!(f64::from(norm) <= 1.01 * (f64::from(before) + 1e-8) * 1.000_001);
                fired += i32::from(factor < 1.0);
                before = norm;
            }
            assert!(fired > 0, "the spike is limited");
        }
    }
}

// Invariant 2, and 3: without its residual Fira is GaLore.
#[test]
fn the_papers_step_is_that_of_galore_plus_a_residual_outside_the_subspace() {
    for shape in SHAPES {
        let (mut ours, mut plain) = (Bench::new(shape), Bench::new(shape));
        ours.step(&terms(false), grad(shape, 1, 1.0));
        plain.with(|layer, cx, one, _| layer.apply(0.25, cx, grad(shape, 1, 1.0), one));
        let difference: Vec<f32> =
            ours.weight().iter().zip(plain.weight()).map(|(a, b)| a - b).collect();
        let largest = difference.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest > 1e-3, "there is a residual");
        let difference = Matrix::from_host(difference, shape, &device(), Category::Activations);
        let inside = ours.layer.project(&difference).to_host();
        assert!(inside.iter().all(|v| v.abs() < 1e-5 * largest.max(1.0)), "{shape:?}: {inside:?}");
    }
}

// Invariant 3, with nothing outside the subspace: the residual is zero and what is left is GaLore.
#[test]
fn a_gradient_inside_the_subspace_takes_the_step_of_galore() {
    for shape in SHAPES {
        let (mut ours, mut plain) = (Bench::new(shape), Bench::new(shape));
        let inside = |bench: &Bench| {
            let zeros = Matrix::zeros(shape, &device(), Category::Activations);
            let projected = bench.layer.project(&grad(shape, 1, 1.0));
            bench.layer.add_back(zeros, 1.0, &projected)
        };
        let grad = inside(&ours);
        ours.step(&terms(false), grad);
        let grad = inside(&plain);
        plain.with(|layer, cx, one, _| layer.apply(0.25, cx, grad, one));
        let largest = plain.weight().iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest > 0.0);
        for (ours, plain) in ours.weight().iter().zip(plain.weight()) {
            assert!((ours - plain).abs() <= 1e-5 * largest, "{shape:?}: {ours} {plain}");
        }
    }
}

// Invariant 3, with the residual's factor forced to 0: a limit of 0 leaves nothing of it, in either form.
#[test]
fn a_residual_forced_to_nothing_leaves_the_steps_of_galore_to_the_bit() {
    for shape in SHAPES {
        for is_released in [false, true] {
            let (mut ours, mut plain) = (Bench::new(shape), Bench::new(shape));
            ours.previous = Vector::filled(1.0, [1], &device(), Category::Optimizer);
            let nothing = Terms { gamma: 0.0, ..terms(is_released) };
            for draw in 1..6 {
                let (factor, norm) = ours.step(&nothing, grad(shape, draw, 1.0));
                assert_eq!((factor, norm), (0.0, 1.0), "the norm of before stays");
                plain.with(|layer, cx, one, _| layer.apply(0.25, cx, grad(shape, draw, 1.0), one));
                assert_eq!(bits(&ours.weight()), bits(&plain.weight()), "{shape:?}, update {draw}");
            }
            assert!(ours.weight().iter().any(|w| w.abs() > 0.1), "and it moves");
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    // A zero may have either sign.
    values.iter().map(|value| (value + 0.0).to_bits()).collect()
}

// Invariant 4, for the residual: with factors of 1 it is the gradient less its projection, whatever the rank.
#[test]
fn an_unscaled_residual_and_the_projected_part_add_up_to_the_gradient() {
    for shape in SHAPES {
        let mut bench = Bench::new(shape);
        let terms =
            Terms { alpha: 1.0, is_released: false, scaling: Scaling::None, gamma: f64::INFINITY };
        let mut plain = Bench::new(shape);
        bench.step(&terms, grad(shape, 1, 1.0));
        plain.with(|layer, cx, one, _| layer.apply(1.0, cx, grad(shape, 1, 1.0), one));
        let projected = bench.layer.project(&grad(shape, 1, 1.0));
        let zeros = Matrix::zeros(shape, &device(), Category::Activations);
        let back = bench.layer.add_back(zeros, 1.0, &projected).to_host();
        let parts = bench.weight().into_iter().zip(plain.weight()).zip(back);
        for (((ours, plain), back), grad) in parts.zip(grad(shape, 1, 1.0).to_host()) {
            let whole = (plain - ours) / RATE as f32 + back;
            assert!((whole - grad).abs() < 1e-5, "{whole} {grad}");
        }
    }
}

// 6.4: a norm of zero would hold the residual near zero for thousands of updates.
#[test]
fn a_zero_gradient_is_not_remembered_as_a_norm() {
    let shape = [7, 12];
    let mut bench = Bench::new(shape);
    bench.step(&terms(true), grad(shape, 0, 0.0));
    assert_eq!(bench.previous.to_host(), [0.0], "still unset");
    assert!(bench.weight().iter().all(|&w| w == 0.0));
    let (factor, norm) = bench.step(&terms(true), grad(shape, 1, 1.0));
    assert!(factor == 1.0 && norm > 0.0);
    let (_, after) = bench.step(&terms(true), grad(shape, 1, 0.0));
    // The moments are not zero, but a gradient of zero has no residual.
    assert_eq!(after, norm, "what was remembered stays");
}

// Invariant 3.
#[test]
fn full_rank_is_adamw_with_the_rate_times_alpha_to_the_bit() {
    let mut config_fira = config("fira");
    config_fira.train.rank = Some(16);
    config_fira.train.alpha = Some(1.0);
    let (mut ours, mut full) = (engine(&config_fira), engine(&config("full")));
    train(&mut ours, 8);
    train(&mut full, 8);
    assert_eq!(parameter_bits(&ours.model), parameter_bits(&full.model));
}

// Invariant 5.
#[test]
fn the_state_is_that_of_galore_plus_one_number_for_each_layer() {
    let (mut ours, mut other) = (engine(&config("fira")), engine(&config("galore")));
    train(&mut ours, 2);
    train(&mut other, 2);
    let numbers = |engine: &mut fullrank::run::engine::Engine| -> usize {
        let moments: usize = engine.optimizer.iter().map(|(_, m)| 2 * m.exp_avg.len()).sum();
        let tensors = method_state(engine).tensors;
        moments + tensors.iter().map(|tensor| tensor.value.len()).sum::<usize>()
    };
    let layers = ours.model.linears().len();
    assert_eq!(numbers(&mut ours), numbers(&mut other) + layers);
}

#[test]
fn every_form_and_scaling_trains_and_tells_when_it_limits() {
    for (form, scaling) in
        [("released", "column"), ("paper", "column"), ("released", "matrix"), ("paper", "none")]
    {
        let mut config = config("fira");
        config.train.alpha = Some(0.25);
        config.fira.form = form.into();
        config.fira.scaling = scaling.into();
        let mut engine = engine(&config);
        train(&mut engine, 12);
        let fired: Vec<u64> = (engine.late_events.iter())
            .filter_map(|(t, event)| matches!(event, Body::Limiter(_)).then_some(*t))
            .collect();
        // The last update's is not read yet.
        assert!(fired.iter().all(|t| (1..12).contains(t)) && fired.is_sorted());
        assert!(!fired.is_empty(), "{form} {scaling}: random batches make norms grow");
    }
}

#[test]
fn fira_resumes_to_the_bit_between_refreshes_and_at_one() {
    for form in ["released", "paper"] {
        let mut config = config("fira");
        config.fira.form = form.into();
        config.train.max_grad_norm = Some(0.5);
        config.train.weight_decay = 0.01;
        assert_resumes(form, &config, &[0, 3, 5]);
    }
}
