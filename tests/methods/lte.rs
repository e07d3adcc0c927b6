//! LTE: what a merge does to the network and to its heads.

use faer::Mat;

use fullrank::run::engine::Engine;
use fullrank::runlog::{Body, MergeLayer};

use super::fixture::{
    LINEARS, all_effective, assert_same, batch, config, device, engine, logits, lte,
    parameter_bits, relative_difference, set, snapshot, step, train, wide,
};

/// `W_eff` of every layer as a head has it.
pub fn effective_of_head(engine: &mut Engine, head: usize) -> Vec<Vec<f64>> {
    engine.model.as_replica(head, |model| all_effective(model))
}

pub fn logits_of_head(engine: &mut Engine, head: usize) -> Vec<f64> {
    engine.model.as_replica(head, |model| logits(model, 0))
}

fn weights(engine: &Engine) -> Vec<Vec<f64>> {
    let linears = engine.model.linears().iter();
    linears.map(|linear| wide(&engine.model, linear.weight.unwrap())).collect()
}

/// The hook after the update that a merge is due at, without the update.
fn merge_now(engine: &mut Engine, at: u64) {
    engine.t = at;
    engine.with_method(|method, cx| method.after_update(cx)).unwrap();
}

fn merges(engine: &mut Engine) -> Vec<(u64, Vec<MergeLayer>)> {
    engine.read_late_events();
    let late = engine.late_events.iter().filter_map(|(t, event)| match event {
        Body::Merge(merge) => Some((*t, merge.l.clone())),
        _ => None,
    });
    late.collect()
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn the_network_and_every_head_start_from_the_function_of_full_rank() {
    let expected = logits(&engine(&config("full")).model, 0);
    for scale in ["code", "paper"] {
        let mut config = lte(3, 4);
        config.lte.init_scale = scale.into();
        let mut engine = engine(&config);
        assert_eq!(logits(&engine.model, 0), expected, "the network itself has no adapter");
        for head in 0..3 {
            assert_eq!(logits_of_head(&mut engine, head), expected, "B of head {head} is zero");
        }
    }
}

// Invariant 1.
#[test]
fn one_head_follows_plain_lora_however_often_it_is_merged() {
    for merge_every in [0, 1, 3] {
        let mut exploring = config("lora");
        exploring.train.max_grad_norm = Some(0.5);
        // Smooth in the gradient: rounding must not decide the sign of a step.
        exploring.train.adam_eps = 1e-3;
        let mut plain = exploring.clone();
        exploring.train.method = "lte".into();
        (exploring.lte.heads, exploring.lte.merge_every) = (1, merge_every);
        plain.lora.init = Some("standard".into());
        let (mut exploring, mut plain) = (engine(&exploring), engine(&plain));
        for linear in plain.model.linears().to_vec() {
            let own = exploring.model.params.find(&format!("{}.lora_A.0", linear.name)).unwrap();
            let a = exploring.model.params.value(own).to_host();
            set(&mut plain.model, linear.adapter.unwrap().a, a);
        }
        let start = all_effective(&plain.model);
        for t in 0..8 {
            let (inputs, targets) = super::fixture::tokens(2, t);
            let ours = exploring.model.batches(&inputs, &targets, super::fixture::SEQ_LEN);
            let theirs = plain.model.batches(&inputs, &targets, super::fixture::SEQ_LEN);
            let (ours, theirs) = (exploring.step(&ours).unwrap(), plain.step(&theirs).unwrap());
            assert!((ours.loss / theirs.loss - 1.0).abs() < 1e-5, "loss at {t}");
        }
        let pairs =
            effective_of_head(&mut exploring, 0).into_iter().zip(all_effective(&plain.model));
        for ((ours, theirs), start) in pairs.zip(start) {
            let change = |x: Vec<f64>| x.iter().zip(&start).map(|(x, s)| x - s).collect::<Vec<_>>();
            let difference = relative_difference(&change(ours), &change(theirs));
            assert!(difference < 2e-3, "every {merge_every}: changes differ by {difference:e}");
        }
        let own = exploring.model.replicas()[0].non_targets.clone();
        for (own, theirs) in own.into_iter().zip(plain.model.non_targets()) {
            let (own, theirs) = (wide(&exploring.model, own), wide(&plain.model, theirs));
            assert!(relative_difference(&own, &theirs) < 1e-4);
        }
    }
}

// Invariant 2, and the numbers of the event.
#[test]
fn a_merge_is_the_mean_of_the_heads_and_leaves_each_with_the_function_of_the_network() {
    for reset in ["none", "keep", "clear"] {
        let mut config = lte(3, 1000);
        config.lte.reset = reset.into();
        let mut engine = engine(&config);
        train(&mut engine, 5);
        let before = weights(&engine);
        for round in 1..3 {
            let old = weights(&engine);
            let heads: Vec<_> = (0..3).map(|head| effective_of_head(&mut engine, head)).collect();
            let gains: Vec<_> = engine.model.non_targets();
            let replicas = engine.model.replicas().to_vec();
            let mean_of = |engine: &Engine, place: usize| -> Vec<f64> {
                let all = replicas.iter().map(|r| wide(&engine.model, r.non_targets[place]));
                let sum = all.reduce(|a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect());
                sum.unwrap().iter().map(|v| v / 3.0).collect()
            };
            let means: Vec<_> = (0..gains.len()).map(|place| mean_of(&engine, place)).collect();
            merge_now(&mut engine, 1000 * round);
            let (_, told) = merges(&mut engine).pop().unwrap();
            assert_eq!(told.len(), LINEARS);
            for (layer, new) in weights(&engine).iter().enumerate() {
                let mean: Vec<f64> = (0..new.len())
                    .map(|i| heads.iter().map(|head| head[layer][i]).sum::<f64>() / 3.0)
                    .collect();
                assert!(relative_difference(new, &mean) < 1e-6, "{reset}, layer {layer}");
                let change = |x: &[f64]| -> Vec<f64> {
                    x.iter().zip(&old[layer]).map(|(x, old)| x - old).collect()
                };
                let deltas: Vec<_> = heads.iter().map(|head| change(&head[layer])).collect();
                let norms: Vec<f64> = deltas.iter().map(|d| norm(d)).collect();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let cosine = [(0, 1), (0, 2), (1, 2)]
                    .map(|(i, j)| dot(&deltas[i], &deltas[j]) / (norms[i] * norms[j]))
                    .iter()
                    .sum::<f64>()
                    / 3.0;
                let told = &told[layer];
                for (told, norm) in told.head_norms.iter().zip(&norms) {
                    assert!((told.0 / norm - 1.0).abs() < 1e-3, "{told:?} for {norm}");
                }
                let average = norm(&change(&mean));
                assert!((told.dw_norm / average - 1.0).abs() < 1e-3, "{told:?}");
                assert!((told.cosine.unwrap() - cosine).abs() < 1e-3, "{told:?} for {cosine}");
                let agreement = average / (norms.iter().sum::<f64>() / 3.0);
                assert!((told.agreement.unwrap() / agreement - 1.0).abs() < 1e-3, "{told:?}");
            }
            for (id, mean) in gains.iter().zip(&means) {
                assert!(relative_difference(&wide(&engine.model, *id), mean) < 1e-6);
            }
            let expected = logits(&engine.model, 0);
            for head in 0..3 {
                let difference = relative_difference(&logits_of_head(&mut engine, head), &expected);
                assert!(difference <= 1e-5, "{reset}, head {head}: {difference:e}");
            }
            engine.t = 5;
            train(&mut engine, 3);
        }
        assert_ne!(weights(&engine), before);
    }
}

// Invariant 4.
#[test]
fn without_merges_the_network_stays_what_it_was() {
    let mut config = lte(3, 0);
    config.train.weight_decay = 0.1;
    let mut engine = engine(&config);
    let names: Vec<String> =
        engine.model.params.iter().map(|(_, param)| param.name.clone()).collect();
    let own = |name: &str| name.contains(".lora_") || name.contains(".replica.");
    let shared = |engine: &Engine| {
        let mut bits = parameter_bits(&engine.model);
        bits.retain(|name, _| !own(name));
        bits
    };
    let (start, outputs) = (shared(&engine), logits(&engine.model, 0));
    assert_eq!(start.len() + 3 * (2 * LINEARS + 7), names.len());
    train(&mut engine, 12);
    assert_same("shared", &shared(&engine), &start);
    assert_eq!(logits(&engine.model, 0), outputs);
    for head in 0..3 {
        let moved = relative_difference(&logits_of_head(&mut engine, head), &outputs);
        assert!(moved > 1e-2, "head {head} has learned: {moved:e}");
    }
}

// Invariant 5.
#[test]
fn one_merge_has_at_most_the_rank_of_all_heads_and_of_what_they_take_off() {
    const HEADS: usize = 2;
    let mut config = lte(HEADS, 6);
    config.train.rank = Some(1);
    let mut engine = engine(&config);
    for bound in [HEADS, 2 * HEADS] {
        train(&mut engine, 5);
        let old = weights(&engine);
        let mean: Vec<Vec<f64>> = {
            let heads: Vec<_> =
                (0..HEADS).map(|head| effective_of_head(&mut engine, head)).collect();
            let layers = 0..LINEARS;
            layers
                .map(|l| {
                    let entries = 0..old[l].len();
                    entries.map(|i| heads.iter().map(|h| h[l][i]).sum::<f64>()).collect()
                })
                .collect()
        };
        for (layer, linear) in engine.model.linears().iter().enumerate() {
            let change = Mat::from_fn(linear.rows, linear.cols, |i, j| {
                let place = i * linear.cols + j;
                mean[layer][place] / HEADS as f64 - old[layer][place]
            });
            let values: Vec<f64> = change.singular_values().unwrap();
            assert!(values[bound] < 1e-12 * values[0], "{}: {values:?}", linear.name);
            assert!(values[bound - 1] > 1e-6 * values[0], "{}: {values:?}", linear.name);
        }
        train(&mut engine, 1);
        assert_eq!(merges(&mut engine).last().unwrap().0, engine.t, "and then it is merged");
    }
}

#[test]
fn heads_that_begin_anew_have_new_factors_and_keep_or_lose_their_moments() {
    for reset in ["keep", "clear"] {
        let mut config = lte(2, 4);
        config.lte.reset = reset.into();
        let mut engine = engine(&config);
        train(&mut engine, 3);
        let old = parameter_bits(&engine.model);
        train(&mut engine, 1);
        assert!(engine.model.replicas().iter().all(|r| r.adapters[0].merged.is_none()));
        let new = parameter_bits(&engine.model);
        for (name, bits) in &new {
            if name.contains(".lora_A.") {
                assert_ne!(*bits, old[name], "{name} is drawn anew");
            }
            if name.contains(".lora_B.") {
                assert!(bits.iter().all(|&bits| bits == 0), "{name} is zero");
            }
        }
        let adapter = engine.model.replicas()[1].adapters[0];
        let embedding = engine.model.replicas()[1].non_targets[0];
        assert_eq!(engine.optimizer.has(adapter.a), reset == "keep");
        assert_eq!(engine.optimizer.has(adapter.b), reset == "keep");
        assert!(engine.optimizer.has(embedding), "what is averaged keeps its moments");
        let told = engine.events.iter().find_map(|event| match event {
            Body::Reset(reset) => Some(reset.clone()),
            _ => None,
        });
        let told = told.unwrap();
        assert_eq!((told.mode.as_str(), told.counters), (reset, reset == "clear"));
        train(&mut engine, 4);
    }
}

#[test]
fn the_moments_of_heads_that_go_on_are_not_touched_by_a_merge() {
    let mut engine = engine(&lte(2, 1000));
    train(&mut engine, 3);
    let bits = |engine: &mut Engine| {
        let mut all = snapshot(engine);
        all.retain(|name, _| name.contains(".exp_avg") || name.contains(".step"));
        all
    };
    let before = bits(&mut engine);
    let factors = |engine: &Engine| {
        let mut all = parameter_bits(&engine.model);
        all.retain(|name, _| name.contains(".lora_"));
        all
    };
    let own = factors(&engine);
    merge_now(&mut engine, 1000);
    assert_same("moments", &bits(&mut engine), &before);
    assert_same("factors", &factors(&engine), &own);
}

#[test]
fn recomputed_activations_give_the_bits_of_kept_ones() {
    let mut config = lte(3, 2);
    let mut kept = engine(&config);
    config.train.grad_checkpoint = true;
    let mut recomputed = engine(&config);
    for _ in 0..5 {
        assert_eq!(step(&mut recomputed), step(&mut kept));
    }
    assert_same("lte", &snapshot(&mut recomputed), &snapshot(&mut kept));
}

#[test]
fn an_update_that_is_skipped_moves_no_head() {
    let mut engine = engine(&lte(2, 2));
    train(&mut engine, 3);
    let embedding = engine.model.replicas()[1].non_targets[0];
    let good = engine.model.params.value(embedding).to_host();
    let mut bad = good.clone();
    bad.fill(f32::NAN);
    set(&mut engine.model, embedding, bad);
    let before = snapshot(&mut engine);
    let batches = super::fixture::batches(&engine.model, 3);
    assert!(!engine.step(&batches).unwrap().is_applied);
    assert_same("skipped", &snapshot(&mut engine), &before);
    set(&mut engine.model, embedding, good);
    train(&mut engine, 3);
}

#[test]
fn the_loss_of_every_head_falls() {
    let mut config = lte(2, 5);
    config.train.adam_eps = 1e-8;
    let mut engine = engine(&config);
    let same = super::fixture::batches(&engine.model, 0);
    let first = engine.step(&same).unwrap().loss;
    let mut last = first;
    for _ in 0..29 {
        last = engine.step(&same).unwrap().loss;
    }
    assert!(last < 0.7 * first, "{first} to {last}");
    // And so does that of the network, which was merged.
    let whole = batch(0);
    let losses = engine.model.token_losses(&whole).to_host();
    assert!(losses.iter().all(|loss| loss.is_finite()));
    device().check().unwrap();
}
