//! AdamW, norms of gradients, clipping.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::reference;
use fullrank::kernels::update::{
    AdamForm, AdamW, Axis, VectorCounters, adamw, adamw_vectors, add_sum_squares, clip_factor,
};
use fullrank::kernels::{Indices, Matrix};

use crate::forms::{Values, assert_close, assert_near, in_every_form, vector, wide};
use crate::norm::ROW_SIZES;

fn hyper(form: AdamForm) -> AdamW {
    AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, form }
}

#[test]
fn adamw_matches_the_reference_over_steps_in_every_form_of_epsilon() {
    in_every_form(|device| {
        for form in [AdamForm::Torch, AdamForm::Reference] {
            let mut values = Values(10);
            let shape = [37, 29];
            let n = shape[0] * shape[1];
            let zeros = || Matrix::zeros(shape, device, Activations);
            let mut state = (values.matrix(device, shape), zeros(), zeros());
            let mut right: Vec<(f64, f64, f64)> =
                wide(&state.0).into_iter().map(|p| (p, 0.0, 0.0)).collect();
            for step in 1..=12 {
                let size = 10f32.powi(-(step as i32) / 2);
                let grad: Vec<f32> = values.vec(n).iter().map(|g| g * size).collect();
                let grad = Matrix::from_host(grad, shape, device, Activations);
                let factor = vector(vec![0.5], device);
                state = adamw(state.0, &grad, &factor, state.1, state.2, hyper(form), step);
                for (right, grad) in right.iter_mut().zip(wide(&grad)) {
                    *right = reference::adamw(*right, 0.5 * grad, hyper(form), step);
                }
            }
            let column = |f: fn(&(f64, f64, f64)) -> f64| right.iter().map(f).collect::<Vec<_>>();
            assert_near("param", &wide(&state.0), &column(|x| x.0), 2e-6);
            assert_near("exp_avg", &wide(&state.1), &column(|x| x.1), 2e-6);
            assert_near("exp_avg_sq", &wide(&state.2), &column(|x| x.2), 2e-6);
        }
    });
}

#[test]
fn at_learning_rate_zero_adamw_keeps_the_bits_of_the_weights() {
    in_every_form(|device| {
        let weights = vec![-0.0, 0.0, 1.5, -3.0, f32::MIN_POSITIVE];
        let param = Matrix::from_host(weights.clone(), [1, 5], device, Activations);
        let grad = Matrix::from_host(vec![-1.0, 2.0, 0.0, 1.0, 3.0], [1, 5], device, Activations);
        let zeros = || Matrix::zeros([1, 5], device, Activations);
        let still = AdamW { learning_rate: 0.0, weight_decay: 0.0, ..hyper(AdamForm::Torch) };
        let one = vector(vec![1.0], device);
        let (param, exp_avg, _) = adamw(param, &grad, &one, zeros(), zeros(), still, 1);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&param.to_host()), bits(&weights));
        assert_eq!(exp_avg.to_host()[1], 0.2, "the moments go on");
    });
}

#[test]
fn adamw_with_counters_matches_the_reference_vector_by_vector() {
    in_every_form(|device| {
        for (axis, decay_frozen) in
            [(Axis::Rows, true), (Axis::Rows, false), (Axis::Columns, true), (Axis::Columns, false)]
        {
            let mut values = Values(11);
            let [m, n] = [9, 35];
            let vectors = if axis == Axis::Rows { m } else { n };
            let t = 20;
            let since: Vec<i32> = (0..vectors).map(|i| (i * 5 % 21) as i32).collect();
            let frozen: Vec<i32> = (0..vectors).map(|i| if i % 3 == 1 { 25 } else { 20 }).collect();
            let param = values.matrix(device, [m, n]);
            let grad = values.matrix(device, [m, n]);
            let exp_avg = values.matrix(device, [m, n]);
            let squares = values.vec(m * n).iter().map(|x| x * x).collect();
            let exp_avg_sq = Matrix::from_host(squares, [m, n], device, Activations);
            let start = param.to_host();
            let mut right = (vec![], vec![], vec![]);
            for (i, grad) in wide(&grad).into_iter().enumerate() {
                let vector = if axis == Axis::Rows { i / n } else { i % n };
                let is_frozen = frozen[vector] > t;
                let state = (wide(&param)[i], wide(&exp_avg)[i], wide(&exp_avg_sq)[i]);
                let grad = if is_frozen { 0.0 } else { 0.5 * grad };
                let step = (t + 1 - since[vector]) as u32;
                let (p, a, s) = reference::adamw(state, grad, hyper(AdamForm::Torch), step);
                right.0.push(if is_frozen && !decay_frozen { state.0 } else { p });
                right.1.push(a);
                right.2.push(s);
            }
            let counters = VectorCounters {
                axis,
                since: &Indices::from_host(&since, device, Activations),
                frozen_until: &Indices::from_host(&frozen, device, Activations),
                decay_frozen,
            };
            let factor = vector(vec![0.5], device);
            let form = hyper(AdamForm::Torch);
            let got = adamw_vectors(
                param, &grad, &factor, exp_avg, exp_avg_sq, form, t as u32, &counters,
            );
            assert_near("param", &wide(&got.0), &right.0, 2e-6);
            assert_near("exp_avg", &wide(&got.1), &right.1, 2e-6);
            assert_near("exp_avg_sq", &wide(&got.2), &right.2, 2e-6);
            for (i, (old, new)) in start.iter().zip(got.0.to_host()).enumerate() {
                let vector = if axis == Axis::Rows { i / n } else { i % n };
                if frozen[vector] > t && !decay_frozen {
                    assert_eq!(old.to_bits(), new.to_bits(), "a frozen vector keeps its bits");
                }
            }
        }
    });
}

#[test]
fn norms_of_gradients_and_the_clip_factor_are_right() {
    in_every_form(|device| {
        let mut values = Values(12);
        for shape in ROW_SIZES {
            let x = values.matrix(device, shape);
            let right = 2.0 + wide(&x).iter().map(|x| x * x).sum::<f64>();
            let got = add_sum_squares(vector(vec![2.0], device), &x);
            assert_close("sum of squares", &got, &[right]);
        }
        let sum = vector(vec![16.0], device);
        assert_eq!(clip_factor(&sum, 0.0).to_host(), [1.0]);
        assert_eq!(clip_factor(&sum, 5.0).to_host(), [1.0]);
        assert_close("clipped", &clip_factor(&sum, 2.0), &[2.0 / (4.0 + 1e-6)]);
    });
}
