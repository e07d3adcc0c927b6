//! PiSSA's invariants (section 10.4).

use fullrank::linalg::svd::svd;
use fullrank::model::Model;
use fullrank::run::setup;
use fullrank::runlog::Body;

use super::fixture::{
    all_effective, assert_exports_as_an_adapter, assert_same, batch, config, device, effective,
    engine, logits, parameter_bits, product, relative_difference, shape, snapshot, step,
    tolerances, wide,
};

#[test]
fn the_start_leaves_the_function_as_it_was() {
    let full = engine(&config("full"));
    for decomposition in ["auto", "exact", "randomised"] {
        for rank in [1, 4, 8, 16] {
            let mut config = config("pissa");
            config.train.rank = Some(rank);
            config.pissa.decomposition = decomposition.into();
            let engine = engine(&config);
            let difference =
                relative_difference(&logits(&engine.model, 0), &logits(&full.model, 0));
            assert!(difference <= 1e-5, "{decomposition}, rank {rank}: {difference:e}");
            let (weights, allowed) = (all_effective(&full.model), tolerances(&engine.model));
            for ((linear, base), allowed) in
                engine.model.linears().iter().zip(&weights).zip(&allowed)
            {
                for ((ours, base), allowed) in
                    effective(&engine.model, linear).iter().zip(base).zip(allowed)
                {
                    assert!((ours - base).abs() <= *allowed, "{}: {ours}", linear.name);
                }
            }
        }
    }
}

#[test]
fn the_product_is_the_best_approximation_of_the_weight_and_the_residual_has_the_rest() {
    let full = engine(&config("full"));
    for rank in [1, 3, 8] {
        let mut config = config("pissa");
        config.train.rank = Some(rank);
        let engine = engine(&config);
        for (linear, weight) in engine.model.linears().iter().zip(all_effective(&full.model)) {
            let (m, n) = (linear.rows, linear.cols);
            let svd = svd(&weight, m, n).unwrap();
            let entry =
                |i: usize, j: usize| (0..rank).map(|l| svd.s[l] * svd.u[l][i] * svd.v[l][j]).sum();
            let best: Vec<f64> = (0..m * n).map(|at| entry(at / n, at % n)).collect();
            let adapter = linear.adapter.unwrap();
            let (a, b) = (wide(&engine.model, adapter.a), wide(&engine.model, adapter.b));
            let scale = f64::from(adapter.scale);
            let ours: Vec<f64> =
                product(&b, &a, m, rank, n).iter().map(|value| scale * value).collect();
            let difference = relative_difference(&ours, &best);
            assert!(difference < 1e-5, "{}, rank {rank}: {difference:e}", linear.name);
            // The residual keeps the singular values from r + 1 on.
            let residual = wide(&engine.model, linear.weight.unwrap());
            let left = super::fixture::svd_values(&residual, m, n);
            for (ours, expected) in left.iter().zip(&svd.s[rank..]) {
                assert!((ours - expected).abs() < 1e-5 * svd.s[0], "{}: {ours}", linear.name);
            }
            // Both factors have the same length in every direction.
            for l in 0..rank {
                let a_norm: f64 = a[l * n..(l + 1) * n].iter().map(|v| v * v).sum();
                let b_norm: f64 = (0..m).map(|i| b[i * rank + l].powi(2)).sum();
                let expected = svd.s[l] / scale;
                assert!((a_norm / expected - 1.0).abs() < 1e-5, "{}", linear.name);
                assert!((b_norm / expected - 1.0).abs() < 1e-5, "{}", linear.name);
            }
        }
    }
}

#[test]
fn an_adapter_of_twice_the_rank_on_the_original_weight_is_the_trained_model() {
    for rank in [1, 4] {
        let mut config = config("pissa");
        config.train.rank = Some(rank);
        assert_exports_as_an_adapter(&config, 2 * rank);
    }
}

#[test]
fn the_log_tells_how_much_of_each_weight_is_trained() {
    let engine = engine(&config("pissa"));
    let shares: Vec<f64> = engine
        .events
        .iter()
        .filter_map(|event| match event {
            Body::Init(init) => Some(init.energy.unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(shares.len(), engine.model.linears().len());
    assert!(shares.iter().all(|&share| share > 0.1 && share < 1.0), "{shares:?}");
}

#[test]
fn it_trains_with_a_frozen_residual_and_the_same_start_twice() {
    let mut engine = engine(&config("pissa"));
    let mut again = super::fixture::engine(&config("pissa"));
    assert_same("two starts", &snapshot(&mut engine), &snapshot(&mut again));
    let start = parameter_bits(&engine.model);
    let first = engine.step(&[batch(0)]).unwrap().loss;
    let mut last = first;
    for _ in 0..30 {
        last = engine.step(&[batch(0)]).unwrap().loss;
    }
    assert!(last < 0.8 * first, "{first} to {last}");
    let end = parameter_bits(&engine.model);
    for linear in engine.model.linears() {
        let weight = format!("{}.weight", linear.name);
        assert_eq!(start[&weight], end[&weight]);
    }
    step(&mut engine);
}

#[test]
fn a_weight_that_is_not_finite_is_an_error() {
    let mut model = Model::init(shape(), 7, &device());
    let id = model.linears()[3].weight.unwrap();
    let mut values = model.params.value(id).to_host();
    values[5] = f32::NAN;
    let sizes = model.params.value(id).shape();
    let category = fullrank::device::memory::Category::Weights;
    let value = fullrank::kernels::Matrix::from_host(values, sizes, &device(), category);
    model.params.set(id, value);
    let mut engine = setup::engine(&config("pissa"), model).unwrap();
    let error = engine.with_method(|method, cx| method.prepare(cx)).unwrap_err();
    assert!(error.to_string().contains("o_proj is not finite"), "{error}");
}
