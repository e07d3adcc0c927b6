//! The start of a run: every method that keeps a dense weight begins with the same function.

use std::collections::BTreeMap;

use fullrank::config::RunConfig;
use fullrank::run::engine::Engine;
use fullrank::runlog::Body;

use super::fixture::{
    LINEARS, all_effective, assert_same, config, effective, engine, engine_of, logits,
    parameter_bits, relative_difference, relora, shape, sides, switches, tolerances, train, wide,
};

fn lora(init: &str) -> RunConfig {
    let mut config = config("lora");
    config.lora.init = Some(init.into());
    config
}

/// Every way to begin with a dense weight.
fn starts() -> Vec<(String, RunConfig)> {
    let inits = ["standard", "both_kaiming", "gaussian", "switchlora"];
    let mut all: Vec<_> =
        inits.into_iter().map(|init| (format!("lora {init}"), lora(init))).collect();
    all.push(("relora".into(), relora(0, 100)));
    for selection in ["contiguous", "random"] {
        let mut config = config("switchlora");
        config.switchlora.selection = selection.into();
        all.push((format!("switchlora {selection}"), config));
    }
    for method in ["lora-ga", "rslora", "lora-plus", "pissa", "dora"] {
        all.push((method.into(), config(method)));
    }
    all
}

// Section 1.6, LoRA's first invariant (section 3), and half of SwitchLoRA's invariant 3.
#[test]
fn all_methods_start_from_the_same_function_for_the_same_seed() {
    let full = engine(&config("full"));
    let (weights, expected) = (all_effective(&full.model), logits(&full.model, 0));
    for (name, config) in starts() {
        let engine = engine(&config);
        let ours = logits(&engine.model, 0);
        let difference = relative_difference(&ours, &expected);
        assert!(difference <= 1e-5, "{name}: logits differ by {difference:e}");
        let tolerances = tolerances(&engine.model);
        for ((linear, base), allowed) in
            engine.model.linears().iter().zip(&weights).zip(&tolerances)
        {
            let ours = effective(&engine.model, linear);
            for ((ours, base), allowed) in ours.iter().zip(base).zip(allowed) {
                let difference = (ours - base).abs();
                assert!(difference <= *allowed, "{name}, {}: {ours} for {base}", linear.name);
            }
        }
        for (id, param) in full.model.params.iter() {
            let is_target = full.model.linears().iter().any(|linear| linear.weight == Some(id));
            if !is_target {
                let ours = engine.model.params.find(&param.name).unwrap();
                let same = engine.model.params.value(ours).to_host() == param.value().to_host();
                assert!(same, "{name}: {} starts as without the method", param.name);
            }
        }
    }
}

#[test]
fn another_seed_is_another_start() {
    for method in ["full", "lora", "switchlora"] {
        let start = |seed| {
            let mut config = config(method);
            config.train.seed = seed;
            parameter_bits(&engine(&config).model)
        };
        assert_same(method, &start(1), &start(1));
        let (one, two) = (start(1), start(2));
        let is_fixed = |name: &str| name.ends_with("norm.weight") || name.ends_with("lora_B");
        assert!(one.iter().all(|(name, bits)| is_fixed(name) || two[name] != *bits), "{method}");
    }
}

#[test]
fn a_zero_factor_leaves_the_dense_weight_untouched() {
    let full = parameter_bits(&engine(&config("full")).model);
    for init in ["standard", "gaussian"] {
        let ours = parameter_bits(&engine(&lora(init)).model);
        for (name, bits) in &full {
            assert_eq!(ours[name], *bits, "{init}: {name}");
        }
    }
}

// Invariant 3: each entry of s·B·A has variance 1/(3n), whatever m and r.
#[test]
fn the_product_of_the_factors_has_the_variance_of_a_dense_layer() {
    for rank in [2, 5, 8] {
        let mut ratios: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
        for seed in 0..60 {
            let mut config = config("switchlora");
            config.train.rank = Some(rank);
            config.train.seed = seed;
            let model = engine(&config).model;
            for linear in model.linears() {
                let weight = wide(&model, linear.weight.unwrap());
                let whole = effective(&model, linear);
                let product = whole.iter().zip(weight).map(|(whole, weight)| whole - weight);
                let mean_square = product.map(|v| v * v).sum::<f64>() / whole.len() as f64;
                let ratio = mean_square * 3.0 * linear.cols as f64;
                ratios.entry((linear.rows, linear.cols)).or_default().push(ratio);
            }
        }
        for (shape, ratios) in ratios {
            let count = ratios.len() as f64;
            let mean = ratios.iter().sum::<f64>() / count;
            let variance = ratios.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (count - 1.0);
            let sigma = (variance / count).sqrt();
            assert!(sigma < 0.05, "enough samples: {sigma}");
            assert!((mean - 1.0).abs() < 4.0 * sigma, "{shape:?} at {rank}: {mean} ± {sigma}");
        }
    }
}

fn clamps(engine: &Engine) -> Vec<(String, u64, u64)> {
    let of = |event: &Body| match event {
        Body::Clamp(clamp) => Some((clamp.layer.clone(), clamp.wanted, clamp.rank)),
        _ => None,
    };
    engine.events.iter().filter_map(of).collect()
}

fn disabled(engine: &Engine) -> Vec<String> {
    let of = |event: &Body| match event {
        Body::Phase(phase) if phase.name == "method-disabled" => Some(phase.detail.clone()),
        _ => None,
    };
    engine.events.iter().filter_map(of).collect()
}

// Section 1.2: the rank is clamped per layer and said once.
#[test]
fn a_rank_above_a_layers_size_is_clamped_with_an_event() {
    for method in ["lora", "switchlora"] {
        let mut config = config(method);
        config.train.rank = Some(12);
        let mut engine = engine(&config);
        let small: Vec<_> = (0..2)
            .flat_map(|block| ["k_proj", "v_proj"].map(|name| (block, name)))
            .map(|(block, name)| (format!("model.layers.{block}.self_attn.{name}"), 12, 8))
            .collect();
        assert_eq!(clamps(&engine), small, "{method}");
        for linear in engine.model.linears() {
            let adapter = linear.adapter.unwrap();
            let rank = engine.model.params.value(adapter.a).shape()[0];
            assert_eq!(rank, if linear.rows == 8 { 8 } else { 12 }, "{}", linear.name);
            let alpha = config.train.alpha.unwrap();
            assert_eq!(adapter.scale, (alpha / rank as f64) as f32, "alpha over the rank used");
        }
        train(&mut engine, 3);
        assert_eq!(clamps(&engine).len(), 4, "{method}: once");
    }
}

// Section 1.9: rank 1, and layers without spare candidates.
#[test]
fn switching_is_disabled_with_an_event_where_it_cannot_work() {
    for (rank, expected) in [(1, LINEARS), (8, 4), (12, 4), (16, LINEARS), (4, 0)] {
        let mut config = config("switchlora");
        config.train.rank = Some(rank);
        config.switchlora.interval0 = 2.0;
        config.switchlora.freeze = 1;
        let mut engine = engine(&config);
        let reasons = disabled(&engine);
        assert_eq!(reasons.len(), expected, "rank {rank}: {reasons:?}");
        train(&mut engine, 6);
        let fixed: Vec<_> = sides(&mut engine).iter().map(|[a, _]| a.pool.is_empty()).collect();
        assert_eq!(fixed.iter().filter(|&&fixed| fixed).count(), expected, "no pool is kept");
        let done = switches(&engine);
        assert!(done.iter().all(|switch| !fixed[switch.layer as usize]), "rank {rank}");
        assert_eq!(done.is_empty(), expected == LINEARS, "rank {rank}: {} switches", done.len());
    }
}

// A layer that cannot switch is plain LoRA with the same start, bit for bit.
#[test]
fn a_layer_that_cannot_switch_trains_as_plain_lora() {
    let mut switching = config("switchlora");
    let mut plain = lora("switchlora");
    for config in [&mut switching, &mut plain] {
        config.train.rank = Some(1);
        config.train.alpha = Some(1.0);
        config.switchlora.interval0 = 1.0;
    }
    let (mut switching, mut plain) = (engine(&switching), engine(&plain));
    train(&mut switching, 6);
    train(&mut plain, 6);
    assert_same("rank 1", &parameter_bits(&switching.model), &parameter_bits(&plain.model));
}

#[test]
fn a_tied_head_starts_from_the_same_function_too() {
    let mut tied = shape();
    tied.tie_word_embeddings = true;
    let expected = logits(&engine_of(&config("full"), tied.clone()).model, 0);
    for (name, config) in starts() {
        let ours = logits(&engine_of(&config, tied.clone()).model, 0);
        assert!(relative_difference(&ours, &expected) <= 1e-5, "{name}");
    }
}
