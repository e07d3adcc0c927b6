//! LoRA's own invariants: exact gradients, a frozen weight that keeps its bits, merging.

use std::path::Path;

use fullrank::config::RunConfig;
use fullrank::data::{Corpus, Dataset, cache::TokenCache};
use fullrank::formats::tokenizer::Tokenizer;
use fullrank::kernels::Matrix;
use fullrank::model::generate::Sampling;
use fullrank::model::{LinearId, Model, ParamId};
use fullrank::random::stream;
use fullrank::run::engine::Engine;
use fullrank::run::eval::evaluate;
use fullrank::run::export::{merged_weight, write_model};
use fullrank::run::generate::continue_text;

use super::fixture::{
    all_effective, assert_same, batch, busy_switchlora, config, device, effective, engine,
    engine_of, gradients, logits, parameter_bits, product, relative_difference, relora, set, shape,
    snapshot, train, transposed, wide,
};

const INITS: [&str; 4] = ["standard", "both_kaiming", "gaussian", "switchlora"];

fn lora(init: &str, base: &str) -> RunConfig {
    let mut config = config("lora");
    config.lora.init = Some(init.into());
    config.lora.base = base.into();
    config
}

fn values(grad: Option<&Matrix>) -> Vec<f64> {
    grad.unwrap().to_host().into_iter().map(f64::from).collect()
}

/// A model without adapters whose weights are the effective ones of `model`, all of them trained.
fn dense_twin(model: &Model) -> Model {
    let mut twin = Model::init(model.config.clone(), 0, &device());
    for (id, param) in model.params.iter() {
        if let Some(same) = twin.params.find(&param.name) {
            set(&mut twin, same, model.params.value(id).to_host());
        }
    }
    for linear in model.linears() {
        let weight = twin.params.find(&format!("{}.weight", linear.name)).unwrap();
        set(&mut twin, weight, merged_weight(model, linear));
    }
    twin
}

// Section 1.1: dA = s·Bᵀ·G and dB = s·G·Aᵀ, with G the gradient of the dense weight. G comes from the same
// backward pass where there is a dense weight to ask for it, else from a second network with merged weights.
#[test]
fn factor_gradients_are_those_of_the_dense_weight_times_the_other_factor() {
    for (init, base, updates) in [
        ("standard", "dense", 0),
        ("standard", "dense", 8),
        ("both_kaiming", "dense", 3),
        ("switchlora", "dense", 3),
        ("both_kaiming", "none", 3),
    ] {
        let mut engine = engine(&lora(init, base));
        train(&mut engine, updates);
        let batch = batch(500);
        let weights: Vec<_> = engine.model.linears().iter().map(|linear| linear.weight).collect();
        for weight in weights.iter().flatten() {
            engine.model.params.set_trainable(*weight, true);
        }
        let ours = gradients(&mut engine.model, &batch);
        // The second network rounds a whole pass of its own, the same pass only these products.
        let limit = if base == "dense" { 2e-6 } else { 2e-5 };
        let mut twin = dense_twin(&engine.model);
        let of_twin = gradients(&mut twin, &batch);
        for (place, linear) in engine.model.linears().iter().enumerate() {
            let adapter = linear.adapter.unwrap();
            let (m, n) = (linear.rows, linear.cols);
            let (a, b) = (wide(&engine.model, adapter.a), wide(&engine.model, adapter.b));
            let rank = a.len() / n;
            let scaled = |x: Vec<f64>| -> Vec<f64> {
                x.into_iter().map(|v| f64::from(adapter.scale) * v).collect()
            };
            let g = match linear.weight {
                Some(weight) => values(ours.get(weight)),
                None => values(of_twin.get(twin.linears()[place].weight.unwrap())),
            };
            let (da, db) = (values(ours.get(adapter.a)), values(ours.get(adapter.b)));
            let right_db = scaled(product(&g, &transposed(&a, rank, n), m, n, rank));
            let difference = relative_difference(&db, &right_db);
            assert!(difference < limit, "{init}, {}: dB differs by {difference:e}", linear.name);
            if updates == 0 {
                assert!(da.iter().all(|&v| v == 0.0), "dA is zero while B is");
            } else {
                let right_da = scaled(product(&transposed(&b, m, rank), &g, rank, m, n));
                let difference = relative_difference(&da, &right_da);
                assert!(
                    difference < limit,
                    "{init}, {}: dA differs by {difference:e}",
                    linear.name
                );
            }
        }
    }
}

// Section 3: one step of gradient descent from B = 0 changes W_eff by −η·s²·G·AᵀA.
#[test]
fn the_first_plain_step_changes_the_weight_by_the_projected_gradient() {
    for init in ["standard", "gaussian"] {
        let mut engine = engine(&lora(init, "dense"));
        let before = all_effective(&engine.model);
        let batch = batch(0);
        let dense = gradients(&mut dense_twin(&engine.model), &batch);
        let grads = gradients(&mut engine.model, &batch);
        let eta = 0.5;
        let descend = |model: &mut Model, id: ParamId| {
            let grad = values(grads.get(id));
            let moved =
                wide(model, id).iter().zip(grad).map(|(v, g)| (v - eta * g) as f32).collect();
            set(model, id, moved);
        };
        for linear in engine.model.linears().to_vec() {
            let adapter = linear.adapter.unwrap();
            descend(&mut engine.model, adapter.a);
            descend(&mut engine.model, adapter.b);
        }
        for (place, linear) in engine.model.linears().iter().enumerate() {
            let adapter = linear.adapter.unwrap();
            let (m, n) = (linear.rows, linear.cols);
            let a = wide(&engine.model, adapter.a);
            let rank = a.len() / n;
            let g = values(dense.get(linear.weight.unwrap()));
            let projected = product(&g, &transposed(&a, rank, n), m, n, rank);
            let s = f64::from(adapter.scale);
            let expected: Vec<f64> =
                product(&projected, &a, m, rank, n).iter().map(|v| -eta * s * s * v).collect();
            let after = effective(&engine.model, linear);
            let change: Vec<f64> = after.iter().zip(&before[place]).map(|(x, y)| x - y).collect();
            let difference = relative_difference(&change, &expected);
            assert!(difference < 2e-5, "{init}, {}: {difference:e}", linear.name);
        }
    }
}

// Section 3: W bit-identical throughout, and everything else that is trained does move.
#[test]
fn the_dense_weight_keeps_its_bits_for_the_whole_run() {
    for init in INITS {
        let mut engine = engine(&lora(init, "dense"));
        let start = parameter_bits(&engine.model);
        train(&mut engine, 10);
        let end = parameter_bits(&engine.model);
        for (id, param) in engine.model.params.iter() {
            let is_target = engine.model.linears().iter().any(|linear| linear.weight == Some(id));
            let is_same = start[&param.name] == end[&param.name];
            assert_eq!(is_same, is_target, "{init}: {}", param.name);
        }
    }
}

fn reloaded(model: &Model, tokenizer: &Tokenizer, folder: &Path) -> Model {
    let folder = folder.join("model");
    write_model(&folder, model, tokenizer).unwrap();
    Model::load(&folder, &device()).unwrap()
}

// Section 3: merged and unmerged logits agree; the same for SwitchLoRA and for `base = none`.
#[test]
fn the_exported_model_has_the_logits_of_the_trained_one() {
    let tokenizer = Tokenizer::bytes().unwrap();
    let mut cases: Vec<(String, RunConfig)> =
        INITS.map(|init| (init.to_owned(), lora(init, "dense"))).into();
    cases.push(("no base".into(), lora("both_kaiming", "none")));
    cases.push(("full".into(), config("full")));
    cases.push(("switchlora".into(), busy_switchlora()));
    cases.push(("relora".into(), relora(3, 5)));
    for (name, config) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = engine(&config);
        train(&mut engine, 15);
        let before = snapshot(&mut engine);
        let merged = reloaded(&engine.model, &tokenizer, folder.path());
        let difference = relative_difference(&logits(&merged, 3), &logits(&engine.model, 3));
        assert!(difference <= 1e-5, "{name}: {difference:e}");
        assert!(merged.linears().iter().all(|linear| linear.adapter.is_none()));
        for (ours, linear) in all_effective(&engine.model).iter().zip(merged.linears()) {
            assert!(relative_difference(&effective(&merged, linear), ours) < 1e-6, "{name}");
        }
        assert_same(&name, &snapshot(&mut engine), &before);
    }
}

// Section 3, `base = none`: the factors carry the layer alone.
#[test]
fn without_a_base_only_the_factors_are_left() {
    let mut engine = engine(&lora("both_kaiming", "none"));
    for (place, linear) in engine.model.linears().iter().enumerate() {
        assert!(linear.weight.is_none());
        let name = format!("{}.weight", linear.name);
        assert!(engine.model.params.find(&name).is_none(), "{name}");
        let adapter = linear.adapter.unwrap();
        let (a, b) = (engine.model.params.value(adapter.a), engine.model.params.value(adapter.b));
        assert_eq!(
            (a.shape()[1], b.shape()[0]),
            (linear.cols, linear.rows),
            "{:?}",
            LinearId(place)
        );
    }
    let start = all_effective(&engine.model);
    assert!(start.iter().flatten().any(|&v| v != 0.0));
    let first = engine.step(&[batch(0)]).unwrap().loss;
    let mut last = first;
    for _ in 0..60 {
        last = engine.step(&[batch(0)]).unwrap().loss;
    }
    assert!(last < 0.7 * first, "it trains: {first} to {last}");
    assert_ne!(start, all_effective(&engine.model));
}

/// Evaluation, a text sample and an export, as the trainer does them.
fn look_at(engine: &Engine, dataset: &Dataset, tokenizer: &Tokenizer) {
    let blocks = dataset.validation().unwrap();
    let evaluation = evaluate(&engine.model, &blocks, 2, 3).unwrap();
    assert!(evaluation.loss.is_finite() && evaluation.tokens > 0);
    let mut text = String::new();
    let mut emit = |piece: &str| {
        text.push_str(piece);
        Ok(())
    };
    let random = stream(0, "sample", "test", 0);
    let sampling = Sampling::default();
    continue_text(&engine.model, tokenizer, "It was", 8, sampling, random, &mut emit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"), &engine.model, tokenizer).unwrap();
}

// Section 3 and bug B5: evaluation merges nothing and changes nothing.
#[test]
fn looking_at_the_model_changes_no_bit_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    std::fs::write(&file, "It was a bright cold day, and the clocks were striking.\n".repeat(60))
        .unwrap();
    let tokenizer = Tokenizer::bytes().unwrap();
    let corpus = Corpus::open(&file.display().to_string(), 0.2).unwrap();
    let dataset = Dataset::prepare(&corpus, &tokenizer, 16, &TokenCache::in_memory()).unwrap();
    for (name, config) in [
        ("full", config("full")),
        ("lora", lora("switchlora", "dense")),
        ("switchlora", busy_switchlora()),
        ("relora", relora(2, 2)),
    ] {
        let mut shape = shape();
        shape.vocab_size = tokenizer.vocab_size();
        let (mut watched, mut left_alone) =
            (engine_of(&config, shape.clone()), engine_of(&config, shape));
        for _ in 0..6 {
            look_at(&watched, &dataset, &tokenizer);
            train(&mut watched, 1);
            train(&mut left_alone, 1);
        }
        assert_same(name, &snapshot(&mut watched), &snapshot(&mut left_alone));
    }
}
