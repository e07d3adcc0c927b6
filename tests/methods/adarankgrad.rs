//! `AdaRankGrad`: the rank of each refresh and what becomes of the moments.

use faer::Mat;
use fullrank::config::RunConfig;
use fullrank::device::memory::Category;
use fullrank::kernels::Matrix;
use fullrank::model::{Gradients, ParamId};
use fullrank::random::stream;
use fullrank::run::engine::Engine;
use fullrank::runlog::Subspace;

use super::fixture::{
    batch, config, device, engine, gradients, method_state, product, snapshot, train, transposed,
    wide,
};
use super::galore::{assert_resumes, refreshes};

fn with_residual(residual: f64, most: usize) -> RunConfig {
    let mut config = config("adarankgrad");
    config.train.rank = Some(most);
    config.adarankgrad.residual = residual;
    config
}

/// `|X|²` and `|X − the part in the span of the projector|²` for a gradient.
fn energies(engine: &mut Engine, layer: usize, grad: &[f64]) -> (f64, f64, usize) {
    let linear = engine.model.linears()[layer].clone();
    let name = format!("{}.projector", linear.name);
    let tensors = method_state(engine).tensors;
    let projector = &tensors.iter().find(|tensor| tensor.name == name).unwrap().value;
    let [r, len] = projector.shape();
    let p: Vec<f64> = projector.to_host().into_iter().map(f64::from).collect();
    let span = product(&transposed(&p, r, len), &p, len, r, len);
    let inside = if linear.rows < linear.cols {
        product(&span, grad, len, len, linear.cols)
    } else {
        product(grad, &span, linear.rows, len, len)
    };
    let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>();
    let total = squares(&mut grad.iter().copied());
    (total, squares(&mut grad.iter().zip(inside).map(|(g, i)| g - i)), r)
}

/// The refresh of update 0 on these gradients.
fn refreshed(
    config: &RunConfig,
    set: impl Fn(&Engine, ParamId, Matrix) -> Matrix,
) -> (Engine, Gradients) {
    let mut engine = engine(config);
    let mut grads = gradients(&mut engine.model, &batch(0));
    for linear in engine.model.linears().to_vec() {
        let id = linear.weight.unwrap();
        let grad = grads.take(id).unwrap();
        let grad = set(&engine, id, grad);
        grads.put(id, grad);
    }
    engine.with_method(|method, cx| method.before_update(cx, &mut grads));
    (engine, grads)
}

#[test]
fn the_rank_is_the_smallest_that_leaves_no_more_than_the_residual_outside() {
    for share in [0.5, 0.2, 0.05, 0.01] {
        let (mut engine, grads) = refreshed(&with_residual(share, 7), |_, _, grad| grad);
        let events = refreshes(&engine);
        let mut below = 0;
        for (layer, event) in events.iter().enumerate() {
            let linear = engine.model.linears()[layer].clone();
            let grad: Vec<f64> = grads
                .get(linear.weight.unwrap())
                .unwrap()
                .to_host()
                .into_iter()
                .map(f64::from)
                .collect();
            let (total, outside, r) = energies(&mut engine, layer, &grad);
            assert_eq!(event.rank, r as u64);
            assert!(
                (1.0 - event.energy - outside / total).abs() < 1e-5,
                "{event:?} {outside} {total}"
            );
            let matrix = Mat::from_fn(linear.rows, linear.cols, |i, j| grad[i * linear.cols + j]);
            let values = matrix.singular_values().unwrap();
            let tail = |k: usize| values[k..].iter().map(|v| v * v).sum::<f64>() / total;
            if r < 7 {
                below += 1;
                assert!(outside <= share * total * (1.0 + 1e-6), "{event:?}");
            }
            assert!(r == 1 || tail(r - 1) > share * (1.0 - 1e-6), "{r} is not the smallest");
        }
        assert!(below > 0 || share < 0.05, "the residual decides somewhere at {share}");
    }
}

#[test]
fn a_gradient_of_exact_rank_k_gets_rank_k() {
    for k in [1, 3, 5] {
        let (engine, _) = refreshed(&with_residual(1e-9, 7), |engine, id, grad| {
            let [m, n] = grad.shape();
            let name = &engine.model.params.get(id).name;
            let b: Vec<f64> = (0..m * k)
                .map({
                    let mut random = stream(1, name, "b", k as u64);
                    move |_| random.normal()
                })
                .collect();
            let mut random = stream(1, name, "a", k as u64);
            let a: Vec<f64> = (0..k * n).map(|_| random.normal()).collect();
            let values = product(&b, &a, m, k, n).into_iter().map(|v| v as f32).collect();
            Matrix::from_host(values, [m, n], &device(), Category::Gradients)
        });
        assert!(refreshes(&engine).iter().all(|event| event.rank == k as u64), "rank {k}");
    }
}

#[test]
fn a_gradient_of_zeros_gets_one_direction() {
    let (engine, _) = refreshed(&with_residual(0.1, 5), |_, _, grad| {
        Matrix::zeros(grad.shape(), &device(), Category::Gradients)
    });
    for Subspace { rank, energy, .. } in refreshes(&engine) {
        assert_eq!((rank, energy), (1, 0.0));
    }
}

#[test]
fn without_a_residual_it_is_galore_with_turned_moments_to_the_bit() {
    let mut galore = config("galore");
    galore.galore.carry = "rotate".into();
    let (mut ours, mut other) = (engine(&with_residual(0.0, 4)), engine(&galore));
    train(&mut ours, 12);
    train(&mut other, 12);
    let (mut ours, other) = (snapshot(&mut ours), snapshot(&mut other));
    assert_ne!(ours["state.json"], other["state.json"], "the ranks");
    ours.insert("state.json".into(), other["state.json"].clone());
    super::fixture::assert_same("residual 0", &ours, &other);
}

#[test]
fn moments_take_the_shape_of_each_new_subspace_and_stay_positive() {
    let mut engine = engine(&with_residual(0.15, 7));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        train(&mut engine, 5);
        for linear in engine.model.linears().to_vec() {
            let id = linear.weight.unwrap();
            let (_, moments) = engine.optimizer.iter().find(|(other, _)| *other == id).unwrap();
            let short = linear.rows < linear.cols;
            let [m, n] = moments.exp_avg.shape();
            let (r, long) = if short { (m, n) } else { (n, m) };
            assert_eq!(long, linear.rows.max(linear.cols).max(16), "{}", linear.name);
            assert!(moments.exp_avg_sq.to_host().iter().all(|&v| v >= 0.0));
            assert_eq!(moments.step, engine.t as u32, "the counter goes on");
            seen.insert(r);
        }
    }
    assert!(seen.len() > 1, "ranks differ: {seen:?}");
    let changed = refreshes(&engine)
        .iter()
        .filter(|event| event.rank_before.is_some_and(|before| before != event.rank))
        .count();
    assert!(changed > 0, "some rank changes at a refresh");
    let layer = wide(&engine.model, engine.model.linears()[0].weight.unwrap());
    assert!(layer.iter().all(|value| value.is_finite()));
}

#[test]
fn adarankgrad_resumes_to_the_bit_before_at_and_after_a_refresh() {
    for carry in ["rotate", "reset"] {
        let mut config = with_residual(0.15, 7);
        config.adarankgrad.carry = carry.into();
        config.train.max_grad_norm = Some(0.5);
        config.train.weight_decay = 0.01;
        assert_resumes(carry, &config, &[0, 4, 5, 6, 10, 11]);
    }
}
