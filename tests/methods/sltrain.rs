//! `SLTrain`: factors and a sparse part in the place of the dense weight.

use fullrank::config::RunConfig;
use fullrank::device::memory::Category;
use fullrank::kernels::Vector;
use fullrank::methods::sltrain::entries;
use fullrank::model::backward::GradientSink;
use fullrank::model::config::{block_linears, factor_len, non_target_len, preset};
use fullrank::model::{Gradients, ParamId};
use fullrank::run::checkpoint::{Checkpoint, Progress, save};
use fullrank::run::engine::Engine;
use fullrank::run::export::merged_weight;
use fullrank::run::setup;

use super::fixture::{
    SEQ_LEN, batch, batch_of, config, device, effective, engine, gradients, logits, product,
    relative_difference, set, train, transposed, wide,
};
use super::galore::assert_resumes;

fn sltrain(density: f64) -> RunConfig {
    let mut config = config("sltrain");
    config.train.alpha = Some(8.0);
    config.sltrain.density = density;
    config
}

fn places(engine: &Engine) -> Vec<Vec<i32>> {
    let linears = engine.model.linears();
    linears.iter().map(|linear| linear.sparse.as_ref().unwrap().places.to_host()).collect()
}

/// `Sp + s·B·A` of a layer in f64.
fn whole(engine: &Engine, layer: usize) -> Vec<f64> {
    let linear = &engine.model.linears()[layer];
    let mut sum = effective(&engine.model, linear);
    let sparse = linear.sparse.as_ref().unwrap();
    for (place, value) in
        sparse.places.to_host().into_iter().zip(wide(&engine.model, sparse.values))
    {
        sum[place as usize] += value;
    }
    sum
}

#[test]
fn layers_start_as_kaiming_values_at_random_places_beside_factors_of_zero() {
    let engine = engine(&sltrain(0.25));
    let all = places(&engine);
    for (linear, places) in engine.model.linears().iter().zip(&all) {
        let (m, n) = (linear.rows, linear.cols);
        assert_eq!(places.len(), m * n / 4, "{}", linear.name);
        assert!(places.is_sorted_by(|a, b| a < b), "ascending and distinct");
        assert!(places[0] >= 0 && (places[places.len() - 1] as usize) < m * n);
        assert!(linear.weight.is_none(), "there is no dense weight");
        let (adapter, sparse) = (linear.adapter.unwrap(), linear.sparse.as_ref().unwrap());
        let bound = 1.0 / (n as f64).sqrt();
        for id in [adapter.a, sparse.values] {
            let values = wide(&engine.model, id);
            assert!(values.iter().all(|value| value.abs() <= bound * 1.000_001));
            let mean_square = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
            let ratio = mean_square / (bound * bound / 3.0);
            assert!((0.6..1.5).contains(&ratio), "{}: variance {ratio} times", linear.name);
        }
        assert!(wide(&engine.model, adapter.b).iter().all(|&value| value == 0.0));
    }
    // Every row and column of the first layer is hit, and layers differ.
    let rows: std::collections::BTreeSet<i32> = all[0].iter().map(|place| place / 16).collect();
    let columns: std::collections::BTreeSet<i32> = all[0].iter().map(|place| place % 16).collect();
    assert!(rows.len() > 12 && columns.len() > 12);
    assert_ne!(all[0], all[3]);
    assert_eq!(
        places(&super::fixture::engine(&sltrain(0.25))),
        all,
        "the same seed, the same places"
    );
    let mut other = sltrain(0.25);
    other.train.seed = 8;
    assert_ne!(places(&super::fixture::engine(&other)), all);
}

/// Puts values into the factors, which start at zero in part.
fn disturb(engine: &mut Engine) {
    super::fixture::disturb(engine);
}

#[test]
fn the_network_computes_with_the_sum_of_its_parts_and_the_export_is_that_sum() {
    let mut ours = engine(&sltrain(0.3));
    disturb(&mut ours);
    let mut dense = engine(&config("full"));
    for layer in 0..ours.model.linears().len() {
        let sum = whole(&ours, layer);
        let merged = merged_weight(&ours.model, &ours.model.linears()[layer].clone());
        let merged_wide: Vec<f64> = merged.iter().copied().map(f64::from).collect();
        assert!(relative_difference(&merged_wide, &sum) < 1e-6);
        let id = dense.model.linears()[layer].weight.unwrap();
        set(&mut dense.model, id, merged);
    }
    assert!(relative_difference(&logits(&ours.model, 1), &logits(&dense.model, 1)) < 1e-5);
}

#[test]
fn gradients_are_those_of_the_dense_weight_through_each_part() {
    let mut ours = engine(&sltrain(0.3));
    disturb(&mut ours);
    let mut dense = engine(&config("full"));
    for layer in 0..ours.model.linears().len() {
        let id = dense.model.linears()[layer].weight.unwrap();
        let merged = merged_weight(&ours.model, &ours.model.linears()[layer].clone());
        set(&mut dense.model, id, merged);
    }
    let batch = batch(3);
    let grads = gradients(&mut ours.model, &batch);
    let of_dense = gradients(&mut dense.model, &batch);
    let read = |grads: &Gradients, id: ParamId| -> Vec<f64> {
        grads.get(id).unwrap().to_host().into_iter().map(f64::from).collect()
    };
    for (ours_linear, linear) in ours.model.linears().iter().zip(dense.model.linears()) {
        let (m, n) = (linear.rows, linear.cols);
        let g = read(&of_dense, linear.weight.unwrap());
        let (adapter, sparse) =
            (ours_linear.adapter.unwrap(), ours_linear.sparse.as_ref().unwrap());
        let (a, b) = (wide(&ours.model, adapter.a), wide(&ours.model, adapter.b));
        let (r, s) = (a.len() / n, f64::from(adapter.scale));
        let scaled = |x: Vec<f64>| x.into_iter().map(|v| s * v).collect::<Vec<_>>();
        let d_a = scaled(product(&transposed(&b, m, r), &g, r, m, n));
        let d_b = scaled(product(&g, &transposed(&a, r, n), m, n, r));
        let d_values: Vec<f64> =
            sparse.places.to_host().into_iter().map(|place| g[place as usize]).collect();
        for (id, expected) in [(adapter.a, d_a), (adapter.b, d_b), (sparse.values, d_values)] {
            let difference = relative_difference(&read(&grads, id), &expected);
            assert!(difference < 2e-5, "{}: {difference:e}", ours.model.params.get(id).name);
        }
    }
}

#[test]
fn gradients_of_micro_batches_add_up() {
    let mut engine = engine(&sltrain(0.3));
    disturb(&mut engine);
    let batches = [batch_of(2, 5, &device()), batch_of(2, 6, &device())];
    let mut sum = Gradients::default();
    let mut keep = |_: &mut _, _, grad| Some(grad);
    for (index, batch) in batches.iter().enumerate() {
        let mut sink = GradientSink::new(&mut sum, index == 1, &mut keep);
        let zero = Vector::from_host(vec![0.0], [1], &device(), Category::Activations);
        let scale = 1.0 / (2 * SEQ_LEN) as f32;
        engine.model.forward_backward(batch, zero, scale, false, &mut sink);
    }
    let parts = batches.each_ref().map(|batch| gradients(&mut engine.model, batch));
    for linear in engine.model.linears() {
        let adapter = linear.adapter.unwrap();
        for id in [adapter.a, adapter.b, linear.sparse.as_ref().unwrap().values] {
            let read = |grads: &Gradients| -> Vec<f64> {
                grads.get(id).unwrap().to_host().into_iter().map(f64::from).collect()
            };
            let [one, two] = parts.each_ref().map(read);
            let expected: Vec<f64> = one.iter().zip(two).map(|(x, y)| x + y).collect();
            assert!(relative_difference(&read(&sum), &expected) < 1e-5);
        }
    }
}

#[test]
fn with_every_place_and_factors_of_zero_it_is_full_rank_training_to_the_bit() {
    let (mut ours, mut full) = (engine(&sltrain(1.0)), engine(&config("full")));
    let pairs: Vec<_> =
        ours.model.linears().to_vec().into_iter().zip(full.model.linears().to_vec()).collect();
    for (linear, dense) in &pairs {
        let values = full.model.params.value(dense.weight.unwrap()).to_host();
        let sparse = linear.sparse.as_ref().unwrap();
        assert_eq!(sparse.places.len(), values.len());
        set(&mut ours.model, sparse.values, values);
        let a = linear.adapter.unwrap().a;
        let zeros = vec![0.0; ours.model.params.value(a).len()];
        set(&mut ours.model, a, zeros);
    }
    train(&mut ours, 6);
    train(&mut full, 6);
    for (linear, dense) in &pairs {
        let values = ours.model.params.value(linear.sparse.as_ref().unwrap().values).to_host();
        let weight = full.model.params.value(dense.weight.unwrap()).to_host();
        assert!(values == weight, "{}", linear.name);
    }
    let embed = |engine: &Engine| {
        let id = engine.model.params.find("model.embed_tokens.weight").unwrap();
        engine.model.params.value(id).to_host()
    };
    assert!(embed(&ours) == embed(&full));
}

#[test]
fn places_stay_and_every_part_learns() {
    let mut engine = engine(&sltrain(0.1));
    let (before, start) = (places(&engine), engine.step(&[batch(0)]).unwrap().loss);
    let values = |engine: &Engine| -> Vec<Vec<f64>> {
        let linears = engine.model.linears().iter();
        linears
            .flat_map(|linear| {
                let adapter = linear.adapter.unwrap();
                [adapter.a, adapter.b, linear.sparse.as_ref().unwrap().values]
            })
            .map(|id| wide(&engine.model, id))
            .collect()
    };
    let first = values(&engine);
    let mut last = start;
    for _ in 0..30 {
        last = engine.step(&[batch(0)]).unwrap().loss;
    }
    assert!(last < start - 0.5, "one batch is learnt: {start} {last}");
    assert_eq!(places(&engine), before);
    assert!(values(&engine).iter().zip(first).all(|(now, before)| *now != before));
}

// methods.md 12.1 and 10.7.
#[test]
fn it_holds_and_trains_as_many_numbers_as_the_tables_say() {
    let mut engine = engine(&sltrain(0.25));
    train(&mut engine, 1);
    let linears = engine.model.linears();
    let (mut factors, mut values) = (0, 0);
    for linear in linears {
        factors += 4 * (linear.rows + linear.cols);
        values += linear.rows * linear.cols / 4;
    }
    let rest: usize =
        engine.model.non_targets().iter().map(|&id| engine.model.params.value(id).len()).sum();
    assert_eq!(engine.model.params.trainable_len(), factors + values + rest);
    let moments: usize = engine.optimizer.iter().map(|(_, m)| 2 * m.exp_avg.len()).sum();
    assert_eq!(moments, 2 * (factors + values + rest));
    if engine.model.device().gpu().is_none() {
        let held = engine.model.device().ledger().read().now[Category::Adapters as usize];
        assert_eq!(held as usize, 4 * (factors + 2 * values), "a place beside each value");
    }
    for (name, rank, millions) in
        [("60M", 128, 43.5), ("130M", 256, 96.6), ("350M", 256, 194.0), ("1.3B", 512, 646.0)]
    {
        let shape = preset(name).unwrap().config(32_000);
        let block: usize = block_linears(&shape).iter().map(|&(_, m, n)| entries(m, n, 0.03)).sum();
        let all =
            non_target_len(&shape) + factor_len(&shape, rank) + shape.num_hidden_layers * block;
        let error = (all as f64 / 1e6 / millions - 1.0).abs();
        assert!(error < 2e-3, "{name}: {all} parameters, the table has {millions} million");
    }
}

#[test]
fn sltrain_resumes_to_the_bit() {
    let mut config = sltrain(0.1);
    config.train.max_grad_norm = Some(0.5);
    config.train.weight_decay = 0.01;
    assert_resumes("sltrain", &config, &[0, 1, 5]);
}

#[test]
fn a_checkpoint_with_other_places_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = engine(&sltrain(0.1));
    train(&mut run, 1);
    let progress = Progress { t: run.t, ..Progress::default() };
    let path = save(folder.path(), &mut run, &progress).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let restored = |config: &RunConfig| {
        let model = checkpoint.load_model(&device()).unwrap();
        checkpoint.restore(&mut setup::engine(config, model).unwrap(), true)
    };
    assert!(restored(&sltrain(0.1)).is_ok());
    let error = restored(&sltrain(0.2)).unwrap_err().to_string();
    assert!(error.contains("other places") && error.contains("0.2"), "{error}");
    let mut seed = sltrain(0.1);
    seed.train.seed = 8;
    assert!(restored(&seed).is_err());
}
