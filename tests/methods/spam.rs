//! SPAM: resets, spikes and masks against the plain formula, and with every method.

use std::f64::consts::PI;

use fullrank::config::RunConfig;
use fullrank::device::memory::Category;
use fullrank::kernels::spikes::Mask;
use fullrank::kernels::update::{AdamForm, AdamW};
use fullrank::kernels::{Matrix, Vector};
use fullrank::model::Model;
use fullrank::optim::Optimizer;
use fullrank::optim::spam::Rules;
use fullrank::random::stream;
use fullrank::run::engine::Engine;
use fullrank::runlog::{Body, Limiter, Reset};

use super::fixture::{
    assert_same, busy_switchlora, config, device, engine, lte, relora, shape, snapshot, step,
    train, wide,
};

const HYPER: AdamW = AdamW {
    learning_rate: 0.0,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.0,
    form: AdamForm::Torch,
};

/// SPAM as `methods.md` 10.6 writes it, in f64, of one entry. `k` counts on over a reset.
#[derive(Clone, Copy, Default)]
struct Scalar {
    theta: f64,
    m: f64,
    v: f64,
}

impl Scalar {
    fn update(&mut self, mut g: f64, t: u64, eta: f64, rules: &Rules) -> bool {
        let since = t % rules.reset_every;
        let mut factor = 1.0;
        if t >= rules.reset_every {
            if since == 0 {
                (self.m, self.v) = (0.0, 0.0);
            }
            if since <= rules.warmup {
                let turn = PI * since as f64 / (rules.warmup + 1) as f64;
                factor = 1.0 - 0.99 * (1.0 + turn.cos()) / 2.0;
            }
        }
        let mut is_spike = false;
        if t >= 20 && since >= 20 && self.v > 0.0 && g * g > rules.threshold * self.v {
            g = g.signum() * (rules.threshold * self.v).sqrt();
            is_spike = true;
        }
        let k = t as i32 + 1;
        self.m += (1.0 - HYPER.beta1) * (g - self.m);
        self.v = HYPER.beta2 * self.v + (1.0 - HYPER.beta2) * g * g;
        let m = self.m / (1.0 - HYPER.beta1.powi(k));
        let v = self.v / (1.0 - HYPER.beta2.powi(k));
        self.theta -= factor * eta * m / (v.sqrt() + HYPER.eps);
        is_spike
    }
}

#[test]
fn resets_spikes_and_masks_are_those_of_the_plain_formula() {
    for density in [1.0, 0.4] {
        let rules = Rules { reset_every: 30, warmup: 9, threshold: 4.0, density, seed: 3 };
        let device = device();
        let mut model = Model::init(shape(), 0, &device);
        let linear = model.linears()[6].clone();
        let id = linear.weight.unwrap();
        let mut optimizer = Optimizer::new(HYPER, &device).with_spam(Some(rules));
        let start = wide(&model, id);
        let mut oracle: Vec<Scalar> =
            start.iter().map(|&theta| Scalar { theta, ..Scalar::default() }).collect();
        // The clip factor counts before the comparison.
        let clip = Vector::from_host(vec![0.5], [1], &device, Category::Activations);
        let (mut spikes, mut told) = (0, 0);
        for t in 0..100 {
            let mut random = stream(1, "gradient", "spam", t);
            // One entry in twenty is thirty times as large.
            let draw = |_| {
                let size = if random.uniform() < 0.05 { 60.0 } else { 2.0 };
                size * random.symmetric(1.0)
            };
            let grad: Vec<f32> = start.iter().map(draw).collect();
            let reset = optimizer.begin_update(&model, t);
            assert_eq!(reset, (t > 0 && t % 30 == 0).then_some(t / 30), "at {t}");
            let eta = 2e-3;
            let shape = [linear.rows, linear.cols];
            let on = Matrix::from_host(grad.clone(), shape, &device, Category::Gradients);
            let rate = eta * optimizer.step_factor(t);
            optimizer.update(&mut model.params, id, on, &clip, rate);
            let told_now = optimizer.read_spikes();
            told += told_now.map_or(0, |(count, _)| count);
            assert!(told_now.is_none_or(|(_, largest)| largest > rules.threshold));
            let name = &model.params.get(id).name;
            let key = stream(rules.seed, name, "spam mask", t / 30).next_u32();
            let mask = Mask { key, density };
            for (place, (entry, g)) in oracle.iter_mut().zip(&grad).enumerate() {
                let is_kept = density == 1.0 || mask.keeps(place);
                let g = if is_kept { 0.5 * f64::from(*g) } else { 0.0 };
                spikes += u64::from(entry.update(g, t, eta, &rules));
            }
        }
        assert_eq!(told, spikes, "spikes that were counted, density {density}");
        assert!(spikes > 200, "{spikes}");
        for (ours, entry) in wide(&model, id).iter().zip(&oracle) {
            assert!((ours - entry.theta).abs() < 1e-6, "{ours} for {}", entry.theta);
        }
    }
}

/// Every kind of moments: of weights, factors, vectors with counters, projections, heads.
pub fn cases() -> Vec<(&'static str, RunConfig)> {
    let mut per_layer = config("galore");
    per_layer.galore.per_layer = true;
    vec![
        ("full", config("full")),
        ("spam", config("spam")),
        ("lora", config("lora")),
        ("switchlora", busy_switchlora()),
        ("relora", relora(4, 40)),
        ("galore", config("galore")),
        ("galore per layer", per_layer),
        ("fira", config("fira")),
        ("lte", lte(2, 4)),
    ]
}

fn with_spam(mut config: RunConfig, reset_every: u64, threshold: f64) -> RunConfig {
    config.spam.enabled = true;
    config.spam.reset_every = Some(reset_every);
    config.spam.warmup_steps = Some(5);
    config.spam.threshold = threshold;
    config
}

#[test]
fn a_spam_that_never_resets_and_never_clips_changes_no_bit_of_any_method() {
    for (name, config) in cases().into_iter().filter(|(name, _)| *name != "spam") {
        let mut ours = engine(&with_spam(config.clone(), 1000, f64::INFINITY));
        let mut plain = engine(&config);
        train(&mut ours, 24);
        train(&mut plain, 24);
        assert_same(name, &snapshot(&mut ours), &snapshot(&mut plain));
    }
}

fn resets(engine: &Engine) -> Vec<Reset> {
    let of = |event: &Body| match event {
        Body::Reset(reset) if reset.mode == "zero" => Some(reset.clone()),
        _ => None,
    };
    engine.events.iter().filter_map(of).collect()
}

#[test]
fn a_reset_empties_all_moments_keeps_the_counters_and_cuts_the_step() {
    for (name, config) in cases() {
        let mut engine = engine(&with_spam(config, 25, 5000.0));
        train(&mut engine, 25);
        assert!(resets(&engine).is_empty(), "{name}");
        let before = snapshot(&mut engine);
        let rate = engine.settings.learning_rate;
        if name != "relora" {
            assert!((engine.learning_rate() / rate - 0.01).abs() < 1e-9, "{name}");
        }
        step(&mut engine);
        let told = resets(&engine);
        assert_eq!(told.len(), 1, "{name}");
        assert_eq!((told[0].count, told[0].m_zeroed, told[0].counters), (1, 1.0, false));
        // One update later the second moment is that of one gradient: its counter says 26.
        let after = snapshot(&mut engine);
        for (key, moment) in before.iter().filter(|(key, _)| key.ends_with(".exp_avg_sq")) {
            let sum =
                |bits: &[u32]| bits.iter().map(|&b| f64::from(f32::from_bits(b))).sum::<f64>();
            // A projection may have been refreshed, and switches empty moments themselves.
            let is_changed = name.starts_with("galore") || name == "fira";
            if is_changed || (name == "switchlora" && key.contains(".lora_")) {
                continue;
            }
            assert!(sum(&after[key]) < 0.6 * sum(moment), "{name}: {key}");
            let counter = key.replace(".exp_avg_sq", ".step");
            let grown = after[&counter].iter().zip(&before[&counter]);
            let is_whole = grown.clone().all(|(after, before)| *after == before + 1);
            assert!(is_whole || name == "switchlora", "{name}: {counter}");
        }
    }
}

fn limits(engine: &mut Engine) -> Vec<(u64, Limiter)> {
    engine.read_late_events();
    let late = engine.late_events.iter().filter_map(|(t, event)| match event {
        Body::Limiter(limiter) if limiter.spikes.is_some() => Some((*t, limiter.clone())),
        _ => None,
    });
    late.collect()
}

#[test]
fn clipped_spikes_are_told_with_the_update_they_belong_to() {
    for (name, config) in cases() {
        let mut engine = engine(&with_spam(config, 1000, 3.0));
        train(&mut engine, 24);
        let told = limits(&mut engine);
        let updates: Vec<u64> = told.iter().map(|(t, _)| *t).collect();
        assert_eq!(updates, [21, 22, 23, 24], "{name}: updates with index 20 and more");
        for (t, limiter) in told {
            assert!(limiter.l.is_empty() && limiter.spikes.unwrap() > 0, "{name} at {t}");
            assert!(limiter.largest.unwrap() > 3.0, "{name} at {t}: {limiter:?}");
        }
    }
}

#[test]
fn a_sparse_spam_trains_its_share_of_each_target_and_all_of_the_rest() {
    let mut config = with_spam(config("spam"), 25, 5000.0);
    config.spam.density = 0.25;
    let mut engine = engine(&config);
    let model = &engine.model;
    let ids: Vec<_> = model.linears().iter().map(|linear| linear.weight.unwrap()).collect();
    let values = |engine: &Engine| -> Vec<Vec<f64>> {
        ids.iter().map(|&id| wide(&engine.model, id)).collect()
    };
    let moved = |a: &[Vec<f64>], b: &[Vec<f64>]| -> Vec<bool> {
        a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a != b).collect()
    };
    let start = values(&engine);
    let norm = engine.model.non_targets()[1];
    let gain = wide(&engine.model, norm);
    train(&mut engine, 25);
    let middle = values(&engine);
    train(&mut engine, 20);
    let end = values(&engine);
    let (first, second) = (moved(&start, &middle), moved(&middle, &end));
    let share = |of: &dyn Fn(usize) -> bool| {
        (0..first.len()).filter(|&i| of(i)).count() as f64 / first.len() as f64
    };
    assert!((share(&|i| first[i]) - 0.25).abs() < 0.03, "{}", share(&|i| first[i]));
    assert!((share(&|i| second[i]) - 0.25).abs() < 0.03, "{}", share(&|i| second[i]));
    let both = share(&|i| first[i] && second[i]);
    assert!((both - 0.0625).abs() < 0.02, "drawn anew: {both}");
    let after = wide(&engine.model, norm);
    assert!(gain.iter().zip(&after).all(|(a, b)| a != b), "norms are no targets");
}
