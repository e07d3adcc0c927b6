//! AdamW, norms of gradients, clipping.

use fullrank::device::adapter::{Adapter, Kind};
use fullrank::device::gpu::Tiling;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::launch;
use fullrank::kernels::reference;
use fullrank::kernels::update::{
    AdamForm, AdamW, Axis, VectorCounters, adamw, adamw_vectors, add_sum_squares, clip_factor,
    guard, read_back,
};
use fullrank::kernels::{Array, Matrix, Vector};

use crate::forms::{Values, assert_close, assert_near, in_every_form, on_gpus, vector, wide};
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
            let counters = VectorCounters::new(axis, &since, &frozen, device);
            let factor = vector(vec![0.5], device);
            let form = hyper(AdamForm::Torch);
            let got = adamw_vectors(
                param,
                &grad,
                &factor,
                exp_avg,
                exp_avg_sq,
                form,
                t as u32,
                &counters,
                decay_frozen,
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
fn a_number_that_is_not_finite_guards_an_update_which_then_changes_nothing() {
    in_every_form(|device| {
        for (number, right) in [
            (0.0, 1.0),
            (3e38, 1.0),
            (f32::INFINITY, -1.0),
            (f32::NEG_INFINITY, -1.0),
            (f32::NAN, -1.0),
            (-f32::NAN, -1.0),
            (-1.0, -1.0),
        ] {
            assert_eq!(
                guard(&vector(vec![number], device), 1.0, -1.0).to_host(),
                [right],
                "{number}"
            );
        }
        let hyper = AdamW {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.5,
            form: AdamForm::Torch,
        };
        let mut values = Values(91);
        for shape in [[1, 1], [7, 9], [33, 40]] {
            let state = [(); 3].map(|()| values.matrix(device, shape));
            let before = state.each_ref().map(Matrix::to_host);
            let [p, m, v] = state;
            let grad =
                Matrix::from_host(vec![f32::NAN; shape[0] * shape[1]], shape, device, Activations);
            let off = vector(vec![-1.0], device);
            let (p, m, v) = adamw(p, &grad, &off, m, v, hyper, 3);
            assert_eq!([p, m, v].map(|x| x.to_host()), before);
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

#[test]
fn adamw_takes_any_size_and_keeps_its_bits() {
    in_every_form(|device| {
        for shape in [[1, 1], [1, 63], [3, 20_000], [1, 65_537], [513, 36]] {
            let mut values = Values(21);
            let [param, grad, exp_avg] = [(); 3].map(|()| values.matrix(device, shape));
            let squares = values.vec(shape[0] * shape[1]).iter().map(|x| x * x).collect();
            let exp_avg_sq = Matrix::from_host(squares, shape, device, Activations);
            let (p, g, m, v) = (wide(&param), wide(&grad), wide(&exp_avg), wide(&exp_avg_sq));
            let right: Vec<(f64, f64, f64)> = (0..p.len())
                .map(|i| {
                    reference::adamw((p[i], m[i], v[i]), 0.25 * g[i], hyper(AdamForm::Torch), 7)
                })
                .collect();
            let update = || {
                let copy = |x: &Matrix| x.duplicate(device, Activations);
                let state = [&param, &exp_avg, &exp_avg_sq].map(copy);
                let [param, exp_avg, exp_avg_sq] = state;
                let quarter = vector(vec![0.25], device);
                let form = hyper(AdamForm::Torch);
                adamw(param, &grad, &quarter, exp_avg, exp_avg_sq, form, 7)
            };
            let (got, again) = (update(), update());
            let column = |f: fn(&(f64, f64, f64)) -> f64| right.iter().map(f).collect::<Vec<_>>();
            assert_near("param", &wide(&got.0), &column(|x| x.0), 2e-6);
            assert_near("exp_avg", &wide(&got.1), &column(|x| x.1), 2e-6);
            assert_near("exp_avg_sq", &wide(&got.2), &column(|x| x.2), 2e-6);
            for (x, y) in [(got.0, again.0), (got.1, again.1), (got.2, again.2)] {
                assert_eq!(bits(&x), bits(&y), "{shape:?}: the same bits twice");
            }
        }
    });
}

#[test]
fn several_vectors_are_read_at_once() {
    in_every_form(|device| {
        let [x, y] = [vec![1.0, 2.0], vec![3.0]].map(|values| vector(values, device));
        let filled = Vector::filled(-0.5, [3], device, Activations);
        let all = Vector::all_to_host(&[&x, &y, &filled, &x]);
        assert_eq!(all, [vec![1.0, 2.0], vec![3.0], vec![-0.5; 3], vec![1.0, 2.0]]);
        assert!(Vector::all_to_host(&[]).is_empty());
    });
}

#[test]
fn work_that_the_driver_dropped_is_a_lost_device() {
    let all = Adapter::all();
    let Some(adapter) = all.iter().find(|a| a.kind == Kind::Software).or(all.first()) else {
        return;
    };
    let device = &adapter.open(Some(Tiling::Direct)).unwrap();
    let ones = vector(vec![1.0; 10], device);
    let mut sum = vector(vec![0.0], device);
    for round in 1..=3 {
        launch::fill_queue();
        sum = add_sum_squares(sum, &ones);
        assert_eq!(read_back(&sum, &sum), (f64::from(10 * round), f64::from(10 * round)));
    }
    // Another test's thread may take the full queue over, so more than one try.
    let is_counted = (0..20).any(|_| {
        let hand_over = || {
            launch::fill_queue();
            drop(add_sum_squares(vector(vec![0.0], device), &ones));
        };
        launch::recorded(hand_over).iter().any(|launch| launch.name == "count")
    });
    assert!(is_counted);
    assert_eq!(read_back(&sum, &sum), (30.0, 30.0));
    device.check().unwrap();
    launch::miscount();
    assert!(read_back(&sum, &sum).0.is_nan(), "nothing is trained on what may be half done");
    let error = device.check().unwrap_err().to_string();
    assert!(error.contains("dropped queued work (it is at "), "{error}");
}

fn bits<const D: usize>(x: &Array<D>) -> Vec<u32> {
    x.to_host().into_iter().map(f32::to_bits).collect()
}

/// The bias corrections of a vector are made from its counter, on a GPU in f32: they must hold from
/// the first step, where `1 - beta2` cancels most, to steps where nothing is left to correct.
#[test]
fn bias_corrections_hold_for_counters_of_any_age() {
    in_every_form(|device| {
        for (axis, form) in [
            (Axis::Rows, AdamForm::Torch),
            (Axis::Columns, AdamForm::Torch),
            (Axis::Rows, AdamForm::Reference),
        ] {
            let ages = [1, 2, 3, 7, 10, 99, 100, 1000, 4095, 5000, 100_000, 150_000];
            let t = 150_000;
            let since: Vec<i32> = ages.iter().map(|age| t + 1 - age).collect();
            let shape = if axis == Axis::Rows { [ages.len(), 1] } else { [1, ages.len()] };
            let fill = |x: f32| Matrix::from_host(vec![x; ages.len()], shape, device, Activations);
            let hyper = AdamW { weight_decay: 0.0, eps: 0.0, learning_rate: 1.0, ..hyper(form) };
            let counters = VectorCounters::new(axis, &since, &[0; 12], device);
            let one = vector(vec![1.0], device);
            let grad = fill(0.5);
            let got = adamw_vectors(
                fill(0.0),
                &grad,
                &one,
                fill(0.25),
                fill(0.125),
                hyper,
                t as u32,
                &counters,
                false,
            );
            for (&age, got) in ages.iter().zip(wide(&got.0)) {
                let (right, ..) = reference::adamw((0.0, 0.25, 0.125), 0.5, hyper, age as u32);
                assert!((got / right - 1.0).abs() < 2e-6, "age {age}: {got}, not {right}");
            }
        }
    });
}

#[test]
fn counters_of_wide_matrices_and_frozen_gradients_that_are_not_numbers() {
    in_every_form(|device| {
        for (axis, shape) in
            [(Axis::Rows, [3, 1000]), (Axis::Columns, [70, 100]), (Axis::Columns, [5, 67])]
        {
            let mut values = Values(22);
            let [m, n] = shape;
            let vectors = if axis == Axis::Rows { m } else { n };
            let of = |i: usize| if axis == Axis::Rows { i / n } else { i % n };
            let frozen: Vec<i32> = (0..vectors).map(|i| if i % 2 == 1 { 9 } else { 0 }).collect();
            let grad: Vec<f32> = (0..m * n)
                .map(|i| if frozen[of(i)] > 0 { f32::NAN } else { values.next() })
                .collect();
            let grad = Matrix::from_host(grad, shape, device, Activations);
            let [param, exp_avg] = [(); 2].map(|()| values.matrix(device, shape));
            let ones = Matrix::from_host(vec![1.0; m * n], shape, device, Activations);
            let (p, g, a) = (wide(&param), wide(&grad), wide(&exp_avg));
            let counters = VectorCounters::new(axis, &vec![2; vectors], &frozen, device);
            let one = vector(vec![1.0], device);
            let form = hyper(AdamForm::Torch);
            let got = adamw_vectors(param, &grad, &one, exp_avg, ones, form, 5, &counters, true);
            let right: Vec<f64> = (0..m * n)
                .map(|i| {
                    let grad = if frozen[of(i)] > 0 { 0.0 } else { g[i] };
                    reference::adamw((p[i], a[i], 1.0), grad, form, 4).0
                })
                .collect();
            // Default bodies multiply before they mask, which is the same here: NaN is replaced, not multiplied.
            assert_near("param", &wide(&got.0), &right, 2e-6);
        }
    });
}

#[test]
fn sums_of_squares_hold_at_every_cut_and_have_the_same_bits_twice() {
    on_gpus(|device| {
        let mut values = Values(23);
        for n in [1, 255, 256, 257, 4096, 4097, 65_535, 65_536, 65_536 * 4 + 1, 1_500_003] {
            let x = values.matrix(device, [1, n]);
            let right = 2.0 + wide(&x).iter().map(|x| x * x).sum::<f64>();
            let sum = || add_sum_squares(vector(vec![2.0], device), &x);
            let got = sum();
            assert_near(&format!("{n} squares"), &wide(&got), &[right], 1e-6);
            assert_eq!(bits(&got), bits(&sum()), "{n}: the same bits twice");
        }
    });
}

#[test]
fn an_update_reads_two_numbers_and_a_copy_keeps_bits() {
    in_every_form(|device| {
        let read = read_back(&vector(vec![1.5], device), &vector(vec![f32::INFINITY], device));
        assert_eq!(read, (1.5, f64::INFINITY));
        let odd = [f32::NAN, -0.0, f32::MIN_POSITIVE / 4.0, f32::NEG_INFINITY, 1.0];
        for n in [5, 4, 1000] {
            let x = vector(odd.iter().copied().cycle().take(n).collect(), device);
            let copy = x.duplicate(device, Activations);
            assert_eq!(bits(&copy), bits(&x));
        }
    });
}
