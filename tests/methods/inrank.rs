//! `InRank`: ranks that grow with the spectrum, and the cut at the end.

use faer::Mat;
use fullrank::config::RunConfig;
use fullrank::model::LinearId;
use fullrank::run::engine::Engine;
use fullrank::runlog::{Body, Subspace};

use super::fixture::{
    assert_same, batch, config, effective, engine, engine_of, logits, method_state, parameter_bits,
    relative_difference, set, shape, snapshot, step, train, wide,
};
use super::galore::assert_resumes;

/// Ranks from 1, at most 8 or half the layer's, a buffer of 2; checks after updates 4, 7, 10, 13; cut after 16.
fn inrank() -> RunConfig {
    let mut config = config("inrank");
    config.train.rank = Some(8);
    config
}

/// Rank and vectors of every layer.
fn ranks(engine: &mut Engine) -> Vec<(u64, u64)> {
    let json = method_state(engine).json;
    let layers = json["layers"].as_array().unwrap().iter();
    layers.map(|l| (l["rank"].as_u64().unwrap(), l["vectors"].as_u64().unwrap())).collect()
}

fn growths(engine: &Engine) -> Vec<Subspace> {
    let events = engine.events.iter().filter_map(|event| match event {
        Body::Subspace(subspace) => Some(subspace.clone()),
        _ => None,
    });
    events.collect()
}

/// Shapes of the factors of every layer.
fn vectors(engine: &Engine) -> Vec<u64> {
    let model = &engine.model;
    let of = |linear: &fullrank::model::Linear| {
        let adapter = linear.adapter.unwrap();
        let (a, b) = (model.params.value(adapter.a).shape(), model.params.value(adapter.b).shape());
        assert_eq!((a[1], b[0], a[0]), (linear.cols, linear.rows, b[1]), "{}", linear.name);
        a[0] as u64
    };
    model.linears().iter().map(of).collect()
}

/// Makes a layer's spectrum `values` followed by zeros, so that the next check is foreseeable.
fn set_spectrum(engine: &mut Engine, layer: usize, values: &[f32]) {
    let linear = engine.model.linears()[layer].clone();
    let adapter = linear.adapter.unwrap();
    let r = engine.model.params.value(adapter.a).shape()[0];
    let mut a = vec![0.0; r * linear.cols];
    let mut b = vec![0.0; linear.rows * r];
    for (k, &value) in values.iter().enumerate() {
        a[k * linear.cols + k] = value;
        b[k * r + k] = 1.0;
    }
    set(&mut engine.model, adapter.a, a);
    set(&mut engine.model, adapter.b, b);
}

#[test]
fn layers_start_without_a_dense_weight_at_the_start_rank_with_the_buffer() {
    let mut engine = engine(&inrank());
    assert!(engine.model.linears().iter().all(|linear| linear.weight.is_none()));
    // Half of 8 is the most of the keys' and values' layers; 1 + 2 are less than that.
    assert!(ranks(&mut engine).iter().all(|&(rank, vectors)| (rank, vectors) == (1, 3)));
    assert_eq!(vectors(&engine), vec![3; engine.model.linears().len()]);
    let clamps = engine.events.iter().filter(|event| matches!(event, Body::Clamp(_))).count();
    assert_eq!(clamps, 4, "keys and values of two blocks may not have more than 4");
}

#[test]
fn an_output_has_the_variance_of_a_dense_layers() {
    let mut wider = shape();
    (wider.hidden_size, wider.intermediate_size, wider.head_dim) = (128, 192, 32);
    let mut config = inrank();
    config.train.rank = Some(64);
    config.inrank.buffer = Some(30);
    let ours = engine_of(&config, wider.clone());
    let dense = engine_of(&super::fixture::config("full"), wider);
    for (linear, other) in ours.model.linears().iter().zip(dense.model.linears()) {
        let mean_square = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let product = effective(&ours.model, linear);
        let weight = wide(&dense.model, other.weight.unwrap());
        let ratio = mean_square(&product) / mean_square(&weight);
        assert!((0.8..1.25).contains(&ratio), "{}: {ratio}", linear.name);
    }
}

#[test]
fn ranks_never_shrink_grow_by_the_buffer_at_most_and_stay_below_the_most() {
    let mut engine = engine(&inrank());
    let mut before = ranks(&mut engine);
    let mut has_grown = false;
    for t in 1..16 {
        engine.events.clear();
        train(&mut engine, 1);
        let now = ranks(&mut engine);
        let is_check = [4, 7, 10, 13].contains(&t);
        for ((linear, &(old, had)), &(new, has)) in
            engine.model.linears().iter().zip(&before).zip(&now)
        {
            let most = (linear.max_rank() / 2).min(8) as u64;
            assert!(old <= new && new <= old + 2 && new <= most, "{}: {old} to {new}", linear.name);
            assert_eq!(has, (new + 2).min(most).max(had), "{}", linear.name);
            assert!(is_check || (old, had) == (new, has), "only at checks");
        }
        let grown = before.iter().zip(&now).filter(|(old, new)| new.0 > old.0).count();
        let told = growths(&engine);
        assert_eq!(told.len(), grown);
        assert!(told.iter().all(|event| event.rank_before.unwrap() < event.rank));
        assert!(told.iter().all(|event| event.energy > 0.0 && event.energy <= 1.0 + 1e-12));
        assert_eq!(vectors(&engine), now.iter().map(|&(_, has)| has).collect::<Vec<_>>());
        has_grown |= grown > 0;
        before = now;
    }
    assert!(has_grown, "some rank grows");
}

#[test]
fn a_check_follows_the_spectrum_of_the_product() {
    for (spectrum, rank) in
        [([9.0, 0.1, 0.1], 1), ([9.0, 9.0, 0.1], 2), ([2.0, 2.0, 2.0], 3), ([9.0, 8.0, 7.0], 3)]
    {
        let mut engine = engine(&inrank());
        for layer in 0..engine.model.linears().len() {
            set_spectrum(&mut engine, layer, &spectrum);
        }
        engine.t = 4;
        engine.with_method(|method, cx| method.after_update(cx)).unwrap();
        for (linear, (found, _)) in engine.model.linears().to_vec().iter().zip(ranks(&mut engine)) {
            assert_eq!(found, rank, "{} with {spectrum:?}", linear.name);
        }
    }
}

#[test]
fn growth_leaves_the_function_and_the_old_vectors_as_they_are() {
    let mut engine = engine(&inrank());
    train(&mut engine, 3);
    let before = snapshot(&mut engine);
    let (had, output) = (vectors(&engine), logits(&engine.model, 9));
    engine.t = 4;
    engine.with_method(|method, cx| method.after_update(cx)).unwrap();
    let now = vectors(&engine);
    assert!(now.iter().zip(&had).any(|(now, had)| now > had), "vectors came in");
    assert!(relative_difference(&logits(&engine.model, 9), &output) < 1e-6);
    let after = snapshot(&mut engine);
    for ((linear, &had), &now) in engine.model.linears().iter().zip(&had).zip(&now) {
        let (had, now, n) = (had as usize, now as usize, linear.cols);
        for (suffix, new_a) in [("", true), (".exp_avg", false), (".exp_avg_sq", false)] {
            let (a, b) = (
                format!("{}.lora_A{suffix}", linear.name),
                format!("{}.lora_B{suffix}", linear.name),
            );
            assert_eq!(after[&a][..had * n], before[&a][..], "{a}");
            assert_eq!(
                after[&a][had * n..].iter().any(|&bits| bits != 0),
                new_a && now > had,
                "{a}"
            );
            for (old, new) in before[&b].chunks(had).zip(after[&b].chunks(now)) {
                assert_eq!(&new[..had], old, "{b}");
                assert!(new[had..].iter().all(|&bits| bits == 0), "{b}: new columns are zero");
            }
        }
        // The old vectors have counted the three updates and the one that was set, the new ones start.
        let expected: Vec<u32> = (0..now).map(|i| if i < had { 4 } else { 0 }).collect();
        assert_eq!(after[&format!("{}.lora_A.step", linear.name)], expected);
        assert_eq!(after[&format!("{}.lora_B.step", linear.name)], expected);
    }
}

#[test]
fn new_vectors_take_steps_of_the_size_that_adam_begins_with() {
    let mut engine = engine(&inrank());
    train(&mut engine, 3);
    let had = vectors(&engine);
    train(&mut engine, 1);
    let now = vectors(&engine);
    let layer = (0..had.len()).find(|&i| now[i] > had[i]).unwrap();
    train(&mut engine, 1);
    let linear = engine.model.linears()[layer].clone();
    let b = engine.model.params.value(linear.adapter.unwrap().b).to_host();
    // At its first step Adam moves every entry by the rate (less where the gradient is not far above epsilon); with
    // an old counter it would be more than three times that.
    let rows = b.chunks(now[layer] as usize);
    let steps: Vec<f32> =
        rows.flat_map(|row| &row[had[layer] as usize..]).map(|step| step.abs()).collect();
    assert!(steps.iter().all(|&step| step > 0.005 && step < 0.010_01), "{steps:?}");
}

#[test]
fn at_the_end_of_the_search_layers_are_their_best_approximation_of_their_rank() {
    let mut engine = engine(&inrank());
    train(&mut engine, 15);
    // The last update before the cut, without it.
    let mut uncut = inrank();
    uncut.inrank.truncate_at = Some(90);
    uncut.inrank.first_check = Some(4);
    let mut other = super::fixture::engine(&uncut);
    train(&mut other, 16);
    // Checks of the other end after 13 as well.
    let before = ranks(&mut engine);
    train(&mut engine, 1);
    let after = ranks(&mut engine);
    for (layer, ((rank, vectors), (old, _))) in after.iter().zip(&before).enumerate() {
        assert_eq!((rank, vectors), (old, old), "no buffer is left");
        let linear = engine.model.linears()[layer].clone();
        let (m, n) = (linear.rows, linear.cols);
        let (cut, whole) = (effective(&engine.model, &linear), {
            let linear = other.model.linears()[layer].clone();
            effective(&other.model, &linear)
        });
        let matrix = |x: &[f64]| Mat::from_fn(m, n, |i, j| x[i * n + j]);
        let values = matrix(&whole).singular_values().unwrap();
        let best: f64 = values[*rank as usize..].iter().map(|v| v * v).sum::<f64>().sqrt();
        let error = cut.iter().zip(&whole).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
        let total: f64 = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        assert!((error - best).abs() < 1e-5 * total, "{}: {error} {best}", linear.name);
    }
    let phases = engine.events.iter().filter(|event| matches!(event, Body::Phase(_))).count();
    assert_eq!(phases, 1);
    let mut is_cut = false;
    for (linear, (rank, vectors)) in engine.model.linears().iter().zip(&before) {
        let adapter = linear.adapter.unwrap();
        let has = engine.optimizer.has(adapter.a) || engine.optimizer.has(adapter.b);
        // A layer that has grown to its most has no buffer to lose and keeps its moments.
        assert_eq!(has, rank == vectors, "{}", linear.name);
        is_cut |= rank < vectors;
    }
    assert!(is_cut, "some layer has a buffer");
    // It trains on, and ranks stay.
    let loss = step(&mut engine).loss;
    train(&mut engine, 12);
    assert!(loss.is_finite());
    assert_eq!(ranks(&mut engine), after);
}

#[test]
fn inrank_learns_a_batch() {
    let mut config = inrank();
    config.train.learning_rate = Some(0.02);
    let mut engine = engine(&config);
    let start = engine.step(&[batch(0)]).unwrap().loss;
    let mut last = start;
    for _ in 0..30 {
        last = engine.step(&[batch(0)]).unwrap().loss;
    }
    assert!(last < start - 0.5, "{start} {last}");
}

#[test]
fn inrank_resumes_to_the_bit_around_growths_and_the_cut() {
    let mut config = inrank();
    config.train.max_grad_norm = Some(0.5);
    config.train.weight_decay = 0.01;
    assert_resumes("inrank", &config, &[0, 3, 4, 5, 7, 9, 15, 16, 17]);
}

#[test]
fn a_layer_at_its_most_from_the_start_is_plain_low_rank_training_until_the_cut() {
    // No check ever finds a vector to add, so two runs with other rules are the same.
    let mut one = inrank();
    one.train.rank = Some(3);
    let mut two = one.clone();
    one.inrank.gap = Some(1);
    two.inrank.first_check = Some(90);
    let (mut one, mut two) = (engine(&one), engine(&two));
    train(&mut one, 12);
    train(&mut two, 12);
    assert_same("factors", &parameter_bits(&one.model), &parameter_bits(&two.model));
    assert_eq!(one.model.linears()[LinearId(0).0].name, two.model.linears()[0].name);
}
