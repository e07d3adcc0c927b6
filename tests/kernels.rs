//! Every operation against its plain reference at awkward sizes, in both forms (CPU kernels and default
//! bodies), with the same bits for any number of threads, and with in-place targets checked.
//!
//! Tolerances are relative to the largest value of a result: f32 sums of a few hundred terms in another
//! order differ by some 1e-6, so 2e-5 leaves room without hiding a wrong term.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)] // a test may panic

use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward, copy_rows};
use fullrank::kernels::embedding::{embedding, embedding_grad};
use fullrank::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use fullrank::kernels::loss::{HeadGrad, IGNORED, cross_entropy, token_losses};
use fullrank::kernels::lowrank::{Exchange, switch_columns, switch_rows, zero_columns, zero_rows};
use fullrank::kernels::matmul::{Layout, matmul, matmul_add};
use fullrank::kernels::norm::{add_rms_norm, rms_norm, rms_norm_apply, rms_norm_backward};
use fullrank::kernels::ops::with_default_bodies;
use fullrank::kernels::pool;
use fullrank::kernels::reference;
use fullrank::kernels::rope::{Rotation, rope};
use fullrank::kernels::scaling::{Along, add_scaled, limit_growth, norm_ratios, scale};
use fullrank::kernels::swiglu::{swiglu, swiglu_backward};
use fullrank::kernels::update::{
    AdamForm, AdamW, Axis, VectorCounters, adamw, adamw_vectors, add_sum_squares, clip_factor,
};
use fullrank::kernels::{Indices, Matrix, Vector};

const TOLERANCE: f64 = 2e-5;

/// Reproducible test values in about -1.7..1.7 (xorshift, uniform).
struct Values(u64);

impl Values {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 3.4
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }

    fn matrix(&mut self, device: &Device, shape: [usize; 2]) -> Matrix {
        Matrix::from_host(self.vec(shape[0] * shape[1]), shape, device, Activations)
    }

    fn below(&mut self, n: usize) -> usize {
        (((self.next() / 3.4 + 0.5) * n as f32) as usize).min(n - 1)
    }
}

fn wide<const D: usize>(x: &fullrank::kernels::Array<D>) -> Vec<f64> {
    x.to_host().into_iter().map(f64::from).collect()
}

fn vector(values: Vec<f32>, device: &Device) -> Vector {
    let n = values.len();
    Vector::from_host(values, [n], device, Activations)
}

#[track_caller]
fn assert_close<const D: usize>(what: &str, got: &fullrank::kernels::Array<D>, right: &[f64]) {
    assert_near(what, &wide(got), right, TOLERANCE);
}

#[track_caller]
fn assert_near(what: &str, got: &[f64], right: &[f64], tolerance: f64) {
    assert_eq!(got.len(), right.len(), "{what}: number of values");
    let largest = right.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    for (i, (got, right)) in got.iter().zip(right).enumerate() {
        let error = (got - right).abs() / largest;
        assert!(error <= tolerance, "{what}: value {i} is {got}, not {right} ({error:e})");
    }
}

/// Runs a check with the CPU kernels, once more in storage full of NaN, and with the default bodies.
fn in_both_forms(check: impl Fn(&Device)) {
    let device = Device::cpu();
    check(&device);
    pool::poison();
    check(&device);
    with_default_bodies(|| check(&device));
}

/// Runs `run` in pools of 1, 2 and 3 threads and compares the bits of what it returns.
fn assert_same_bits_for_any_number_of_threads(run: impl Fn() -> Vec<Vec<f32>> + Sync) {
    let mut results = (1..=3).map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        pool.install(&run).into_iter().map(bits).collect::<Vec<_>>()
    });
    let first = results.next().unwrap();
    for (i, other) in results.enumerate() {
        assert!(first == other, "{} threads give other bits than 1", i + 2);
    }
}

const MATMUL_SIZES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 7, 5),
    (5, 1, 300),
    (3, 2, 1),
    (17, 31, 13),
    (129, 127, 65),
    (128, 128, 64),
    (257, 130, 70),
    (1100, 33, 9),
];

#[test]
fn products_match_the_reference_in_every_layout() {
    in_both_forms(|device| {
        let mut values = Values(1);
        for (m, n, k) in MATMUL_SIZES {
            for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
                let a_shape = if layout == Layout::Tn { [k, m] } else { [m, k] };
                let b_shape = if layout == Layout::Nt { [n, k] } else { [k, n] };
                let a = values.matrix(device, a_shape);
                let b = values.matrix(device, b_shape);
                let right = reference::matmul(layout, &wide(&a), &wide(&b), (m, n, k));
                let what = format!("{layout:?} {m}x{n}x{k}");
                assert_close(&what, &matmul(layout, &a, &b), &right);
                let c = values.matrix(device, [m, n]);
                let sum: Vec<f64> = wide(&c).iter().zip(&right).map(|(c, x)| c - 0.5 * x).collect();
                assert_close(&what, &matmul_add(c, -0.5, layout, &a, &b), &sum);
            }
        }
    });
}

#[test]
fn a_lora_linear_layer_matches_the_reference_forward_and_backward() {
    in_both_forms(|device| {
        let mut values = Values(2);
        let sizes = [(1, 5, 3, 1), (7, 33, 17, 4), (130, 40, 65, 8), (300, 64, 48, 16)];
        for (t, n, m, r) in sizes {
            for dense in [true, false] {
                let x = values.matrix(device, [t, n]);
                let w = values.matrix(device, [m, n]);
                let a = values.matrix(device, [r, n]);
                let b = values.matrix(device, [m, r]);
                let dy = values.matrix(device, [t, m]);
                let (s, what) = (0.75, format!("{t} {n} {m} {r} dense {dense}"));
                let dense = dense.then_some(&w);
                // W + s·B·A in f64, and everything from it.
                let ba = reference::matmul(Layout::Nn, &wide(&b), &wide(&a), (m, n, r));
                let full: Vec<f64> = ba
                    .iter()
                    .zip(wide(&w))
                    .map(|(ba, w)| f64::from(s) * ba + if dense.is_some() { w } else { 0.0 })
                    .collect();
                let (y, h) = lora_linear(&x, dense, &a, &b, s);
                let right = reference::matmul(Layout::Nt, &wide(&x), &full, (t, m, n));
                assert_close(&what, &y, &right);

                let acc = values.matrix(device, [t, n]);
                let start = wide(&acc);
                let dx = reference::matmul(Layout::Nn, &wide(&dy), &full, (t, n, m));
                let (fresh, g) = lora_input_grad(None, &dy, dense, &a, &b, s);
                assert_close(&what, &fresh, &dx);
                let (added, _) = lora_input_grad(Some(acc), &dy, dense, &a, &b, s);
                let sum: Vec<f64> = start.iter().zip(&dx).map(|(x, y)| x + y).collect();
                assert_close(&what, &added, &sum);

                // dA = s·(dy·B)ᵀ·x and dB = s·dyᵀ·(x·Aᵀ).
                let dyb = reference::matmul(Layout::Nn, &wide(&dy), &wide(&b), (t, r, m));
                let xa = reference::matmul(Layout::Nt, &wide(&x), &wide(&a), (t, r, n));
                let scaled = |x: Vec<f64>| x.iter().map(|x| f64::from(s) * x).collect::<Vec<_>>();
                let d_a = scaled(reference::matmul(Layout::Tn, &dyb, &wide(&x), (r, n, t)));
                let d_b = scaled(reference::matmul(Layout::Tn, &wide(&dy), &xa, (m, r, t)));
                let grads = lora_factor_grads(None, &x, &dy, &h, &g, s);
                assert_close(&what, &grads.0, &d_a);
                assert_close(&what, &grads.1, &d_b);
                let twice = lora_factor_grads(Some(grads), &x, &dy, &h, &g, s);
                let doubled: Vec<f64> = d_a.iter().map(|x| 2.0 * x).collect();
                assert_close(&what, &twice.0, &doubled);
            }
        }
    });
}

const ROW_SIZES: [[usize; 2]; 6] = [[1, 1], [3, 5], [65, 31], [64, 256], [200, 33], [2, 20_000]];

#[test]
fn norms_match_the_reference_forward_and_backward() {
    in_both_forms(|device| {
        let mut values = Values(3);
        for shape in ROW_SIZES {
            let [tokens, width] = shape;
            let what = format!("{shape:?}");
            let x = values.matrix(device, shape);
            let delta = values.matrix(device, shape);
            let gain = values.matrix(device, [1, width]);
            let dy = values.matrix(device, shape);
            let (y, rstd) = rms_norm(&x, &gain, 1e-5);
            let (right, right_rstd) = reference::rms_norm(&wide(&x), &wide(&gain), 1e-5);
            assert_close(&what, &y, &right);
            assert_close(&what, &rstd, &right_rstd);
            assert_eq!(rms_norm_apply(&x, &gain, &rstd).to_host(), y.to_host());

            let sum: Vec<f64> = wide(&x).iter().zip(wide(&delta)).map(|(x, d)| x + d).collect();
            let (right_y, _) = reference::rms_norm(&sum, &wide(&gain), 1e-5);
            let (got_sum, y, got_rstd) = add_rms_norm(&x, delta, &gain, 1e-5);
            assert_close(&what, &got_sum, &sum);
            assert_close(&what, &y, &right_y);
            assert_eq!(got_rstd.len(), tokens);

            let residual = values.matrix(device, shape);
            let acc = values.matrix(device, [1, width]);
            let (start, start_gain) = (wide(&residual), wide(&acc));
            let (dx, d_gain) =
                reference::rms_norm_backward(&wide(&dy), &wide(&x), &wide(&gain), &right_rstd);
            let (got, got_gain) = rms_norm_backward(residual, &dy, &x, &gain, &rstd, Some(acc));
            let sum = |a: &[f64], b: &[f64]| -> Vec<f64> {
                a.iter().zip(b).map(|(a, b)| a + b).collect()
            };
            assert_close(&what, &got, &sum(&start, &dx));
            assert_close(&what, &got_gain.unwrap(), &sum(&start_gain, &d_gain));
        }
    });
}

#[test]
fn rope_matches_the_reference_and_turns_back() {
    in_both_forms(|device| {
        let mut values = Values(4);
        for (tokens, heads, half) in [(1, 1, 1), (5, 3, 4), (65, 2, 33), (300, 4, 32)] {
            let width = heads * 2 * half;
            let angles = values.vec(400 * half);
            let table = |f: fn(f32) -> f32| {
                let values = angles.iter().map(|&x| f(x)).collect();
                Matrix::from_host(values, [400, half], device, Activations)
            };
            let (cos, sin) = (table(f32::cos), table(f32::sin));
            let ids: Vec<i32> = (0..tokens).map(|t| ((t * 7) % 400) as i32).collect();
            let positions = Indices::from_host(&ids, device, Activations);
            let x = values.matrix(device, [tokens, width]);
            let start = wide(&x);
            let right = reference::rope(&start, width, &ids, &wide(&cos), &wide(&sin), half, 1.0);
            let y = rope(x, &positions, &cos, &sin, Rotation::Forward);
            assert_close("forward", &y, &right);
            let back = rope(y, &positions, &cos, &sin, Rotation::Backward);
            assert_close("there and back", &back, &start);
        }
    });
}

fn attention_shapes() -> Vec<AttentionShape> {
    let shape = |batch, queries, keys, heads, kv_heads, head_dim| AttentionShape {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        head_dim,
    };
    vec![
        shape(1, 1, 1, 1, 1, 1),
        shape(2, 5, 5, 3, 1, 4),
        shape(1, 63, 63, 2, 2, 8),
        shape(2, 64, 64, 4, 2, 16),
        shape(1, 65, 65, 6, 2, 12),
        shape(1, 200, 200, 2, 1, 32),
    ]
}

#[test]
fn attention_matches_the_reference_forward_and_backward() {
    in_both_forms(|device| {
        let mut values = Values(5);
        for s in attention_shapes() {
            let tokens = s.batch * s.queries;
            let q = values.matrix(device, [tokens, s.heads * s.head_dim]);
            let k = values.matrix(device, [tokens, s.kv_heads * s.head_dim]);
            let v = values.matrix(device, [tokens, s.kv_heads * s.head_dim]);
            let d_out = values.matrix(device, [tokens, s.heads * s.head_dim]);
            let (right, right_lse) = reference::attention(&wide(&q), &wide(&k), &wide(&v), s);
            let (out, lse) = attention(&q, &k, &v, s);
            assert_close(&format!("{s:?}"), &out, &right);
            assert_close(&format!("{s:?}"), &lse, &right_lse);
            let (dq, dk, dv) =
                reference::attention_backward(&wide(&d_out), &wide(&q), &wide(&k), &wide(&v), s);
            let got = attention_backward(&d_out, &q, &k, &v, &out, &lse, s);
            assert_close(&format!("dq {s:?}"), &got.0, &dq);
            assert_close(&format!("dk {s:?}"), &got.1, &dk);
            assert_close(&format!("dv {s:?}"), &got.2, &dv);
        }
    });
}

#[test]
fn attention_over_a_cache_equals_the_last_rows_of_the_whole() {
    in_both_forms(|device| {
        let mut values = Values(6);
        let whole =
            AttentionShape { batch: 1, queries: 70, keys: 70, heads: 4, kv_heads: 2, head_dim: 8 };
        let q = values.matrix(device, [70, 32]);
        let k = values.matrix(device, [70, 16]);
        let v = values.matrix(device, [70, 16]);
        let (out, _) = attention(&q, &k, &v, whole);
        for queries in [1, 3, 69] {
            let room = |x: &Matrix| {
                let cache = Matrix::zeros([90, 16], device, Activations);
                copy_rows(cache, x, 0)
            };
            let last = q.to_host()[(70 - queries) * 32..].to_vec();
            let q = Matrix::from_host(last, [queries, 32], device, Activations);
            let shape = AttentionShape { queries, ..whole };
            let (got, _) = attention(&q, &room(&k), &room(&v), shape);
            assert_close("cache", &got, &wide(&out)[(70 - queries) * 32..]);
        }
    });
}

#[test]
fn rows_are_copied_to_their_place_in_a_cache() {
    in_both_forms(|device| {
        let cache = Matrix::zeros([5, 2], device, Activations);
        let rows = Matrix::from_host(vec![1.0, 2.0, 3.0, 4.0], [2, 2], device, Activations);
        let right = [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0];
        assert_eq!(copy_rows(cache, &rows, 2).to_host(), right);
    });
}

#[test]
fn swiglu_matches_the_reference_forward_and_backward() {
    in_both_forms(|device| {
        let mut values = Values(7);
        for shape in ROW_SIZES {
            let gate = values.matrix(device, shape);
            let up = values.matrix(device, shape);
            let dh = values.matrix(device, shape);
            let h = swiglu(&gate, &up);
            let right = reference::swiglu(&wide(&gate), &wide(&up));
            assert_close("h", &h, &right);
            let (d_gate, d_up) = reference::swiglu_backward(&wide(&dh), &wide(&gate), &wide(&up));
            let got = swiglu_backward(dh, gate, up);
            assert_close("d_gate", &got.0, &d_gate);
            assert_close("d_up", &got.1, &d_up);
            assert_eq!(got.2.to_host(), h.to_host(), "the forward result again");
        }
    });
}

#[test]
fn swiglu_stays_finite_at_extreme_gates() {
    in_both_forms(|device| {
        let gate = vec![-1e4, -100.0, -88.0, 0.0, 88.0, 100.0, 1e4];
        let gate = Matrix::from_host(gate, [1, 7], device, Activations);
        let up = Matrix::from_host(vec![1.0; 7], [1, 7], device, Activations);
        let h = swiglu(&gate, &up).to_host();
        assert_eq!(h[3..], [0.0, 88.0, 100.0, 1e4]);
        assert!(h[..3].iter().all(|x| x.abs() < 1e-30), "{h:?}");
    });
}

#[test]
fn embeddings_and_their_gradient_match_the_reference() {
    in_both_forms(|device| {
        let mut values = Values(8);
        for (tokens, rows, width) in [(1, 1, 1), (50, 7, 3), (300, 40, 33), (1000, 3, 256)] {
            let table = values.matrix(device, [rows, width]);
            let ids: Vec<i32> = (0..tokens).map(|_| values.below(rows) as i32).collect();
            let mut order: Vec<i32> = (0..tokens as i32).collect();
            order.sort_by_key(|&t| (ids[t as usize], t));
            let on_device = Indices::from_host(&ids, device, Activations);
            let order = Indices::from_host(&order, device, Activations);
            let x = embedding(&on_device, &table);
            assert_close("rows", &x, &reference::embedding(&ids, &wide(&table), width));
            let dx = values.matrix(device, [tokens, width]);
            let right = reference::embedding_grad(&ids, &wide(&dx), rows, width);
            let start = wide(&table);
            let got = embedding_grad(table, &dx, &on_device, &order);
            let sum: Vec<f64> = start.iter().zip(&right).map(|(a, b)| a + b).collect();
            assert_close("gradient", &got, &sum);
        }
    });
}

#[test]
fn cross_entropy_matches_the_reference_and_skips_ignored_targets() {
    in_both_forms(|device| {
        let mut values = Values(9);
        let sizes = [(1, 1, 1), (5, 7, 3), (33, 130, 17), (1100, 65, 9), (40, 70_000, 4)];
        for (tokens, vocabulary, width) in sizes {
            let hidden = values.matrix(device, [tokens, width]);
            let head = values.matrix(device, [vocabulary, width]);
            let targets: Vec<i32> = (0..tokens)
                .map(|t| if t % 5 == 3 { IGNORED } else { values.below(vocabulary) as i32 })
                .collect();
            let on_device = Indices::from_host(&targets, device, Activations);
            let (losses, d_hidden, d_head) =
                reference::cross_entropy(&wide(&hidden), &wide(&head), &targets, width);
            let what = format!("{tokens} {vocabulary} {width}");
            let got = token_losses(&hidden, &head, &on_device);
            assert_close(&what, &got, &losses);

            let scale = 0.25;
            let scaled = |x: &[f64]| x.iter().map(|x| scale * x).collect::<Vec<_>>();
            let acc = Matrix::zeros([vocabulary, width], device, Activations);
            let got = cross_entropy(
                vector(vec![1.5], device),
                &hidden,
                &head,
                &on_device,
                scale as f32,
                HeadGrad::Into(acc),
            );
            let sum = 1.5 + losses.iter().sum::<f64>();
            assert_close(&what, &got.loss_sum, &[sum]);
            assert_close(&what, &got.d_hidden, &scaled(&d_hidden));
            assert_close(&what, &got.d_head.unwrap(), &scaled(&d_head));

            let zero = vector(vec![0.0], device);
            let got = cross_entropy(zero, &hidden, &head, &on_device, 1.0, HeadGrad::Skip);
            assert!(got.d_head.is_none());
            assert_close(&what, &got.d_hidden, &d_hidden);
        }
    });
}

#[test]
fn cross_entropy_stays_finite_at_large_logits() {
    in_both_forms(|device| {
        let hidden = Matrix::from_host(vec![1e4, -1e4], [2, 1], device, Activations);
        let head = Matrix::from_host(vec![1.0, 0.0, -1.0], [3, 1], device, Activations);
        let targets = Indices::from_host(&[0, 0], device, Activations);
        assert_close("losses", &token_losses(&hidden, &head, &targets), &[0.0, 2e4]);
    });
}

fn hyper(form: AdamForm) -> AdamW {
    AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, form }
}

#[test]
fn adamw_matches_the_reference_over_steps_in_both_forms_of_epsilon() {
    in_both_forms(|device| {
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
    in_both_forms(|device| {
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
    in_both_forms(|device| {
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
    in_both_forms(|device| {
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
fn switching_rows_and_columns_matches_the_reference_and_keeps_the_output() {
    in_both_forms(|device| {
        let mut values = Values(13);
        let (m, n, r, c) = (33, 21, 6, 10);
        let exchange =
            Exchange { vectors: &[5, 0, 2], from: &[9, 0, 3], to: &[1, 3, 7], scale: 0.5 };
        let nothing = Exchange { vectors: &[], from: &[], to: &[], scale: 0.5 };
        let w = values.matrix(device, [m, n]);
        let a = values.matrix(device, [r, n]);
        let b = values.matrix(device, [m, r]);
        let effective = |w: &Matrix, a: &Matrix, b: &Matrix| -> Vec<f64> {
            let ba = reference::matmul(Layout::Nn, &wide(b), &wide(a), (m, n, r));
            ba.iter().zip(wide(w)).map(|(ba, w)| w + 0.5 * ba).collect()
        };
        let before = effective(&w, &a, &b);

        let pool = values.matrix(device, [c, n]);
        let (mut rw, mut ra, mut rp) = (wide(&w), wide(&a), wide(&pool));
        let norm = reference::switch_rows(&mut rw, &mut ra, &wide(&b), &mut rp, n, &exchange);
        let (w, a, pool, got) = switch_rows(w, a, &b, pool, &exchange);
        assert_close("w", &w, &rw);
        assert_eq!(wide(&a), ra, "rows come in exactly");
        assert_eq!(wide(&pool), rp, "rows go back exactly");
        assert_near("norm", &wide(&got), &[norm], 1e-4);
        assert_near("output", &effective(&w, &a, &b), &before, 1e-5);

        // Columns: the same exchange on the transposed problem.
        let pool_b = values.matrix(device, [c, m]);
        let mut tw = reference::transpose(&wide(&w), n);
        let mut tb = reference::transpose(&wide(&b), r);
        let mut tp = wide(&pool_b);
        let ta = reference::transpose(&wide(&a), n);
        let norm = reference::switch_rows(&mut tw, &mut tb, &ta, &mut tp, m, &exchange);
        let (w, b, pool_b, got) = switch_columns(w, &a, b, pool_b, &exchange);
        assert_close("w", &w, &reference::transpose(&tw, m));
        assert_eq!(wide(&b), reference::transpose(&tb, m), "columns come in exactly");
        assert_eq!(wide(&pool_b), tp, "columns go back exactly");
        assert_near("norm", &wide(&got), &[norm], 1e-4);
        assert_near("output", &effective(&w, &a, &b), &before, 1e-5);

        let values = w.to_host();
        let (w, _, _, norm) = switch_rows(w, a, &b, pool, &nothing);
        assert_eq!((w.to_host(), norm.to_host()), (values, vec![0.0]), "nothing to switch");
    });
}

#[test]
fn rows_and_columns_are_zeroed_and_no_others() {
    in_both_forms(|device| {
        let ones = || Matrix::from_host(vec![1.0; 6], [2, 3], device, Activations);
        assert_eq!(zero_rows(ones(), &[1]).to_host(), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(zero_columns(ones(), &[2, 0]).to_host(), [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(zero_rows(ones(), &[]).to_host(), [1.0; 6]);
        assert_eq!(zero_columns(ones(), &[]).to_host(), [1.0; 6]);
    });
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    assert_same_bits_for_any_number_of_threads(|| {
        let device = &Device::cpu();
        let mut values = Values(14);
        let mut results = Vec::new();
        for (layout, a, b) in [
            (Layout::Nn, [700, 300], [300, 130]),
            (Layout::Nt, [700, 300], [130, 300]),
            (Layout::Tn, [1500, 70], [1500, 260]),
        ] {
            let (a, b) = (values.matrix(device, a), values.matrix(device, b));
            results.push(matmul(layout, &a, &b).to_host());
        }
        let x = values.matrix(device, [500, 96]);
        let dy = values.matrix(device, [500, 96]);
        let gain = values.matrix(device, [1, 96]);
        let (w, a, b) = (
            values.matrix(device, [96, 96]),
            values.matrix(device, [8, 96]),
            values.matrix(device, [96, 8]),
        );
        let (y, h) = lora_linear(&x, Some(&w), &a, &b, 2.0);
        let (dx, g) = lora_input_grad(None, &dy, Some(&w), &a, &b, 2.0);
        let (d_a, d_b) = lora_factor_grads(None, &x, &dy, &h, &g, 2.0);
        results.extend([&y, &h, &dx, &g, &d_a, &d_b].map(Matrix::to_host));

        let (y, rstd) = rms_norm(&x, &gain, 1e-6);
        let acc = Matrix::zeros([1, 96], device, Activations);
        let (dx, d_gain) = rms_norm_backward(y, &dy, &x, &gain, &rstd, Some(acc));
        results.extend([dx.to_host(), d_gain.unwrap().to_host()]);

        let s = AttentionShape {
            batch: 2,
            queries: 250,
            keys: 250,
            heads: 6,
            kv_heads: 2,
            head_dim: 16,
        };
        let (k, v) = (values.matrix(device, [500, 32]), values.matrix(device, [500, 32]));
        let (out, lse) = attention(&x, &k, &v, s);
        let grads = attention_backward(&dy, &x, &k, &v, &out, &lse, s);
        results.extend([&out, &grads.0, &grads.1, &grads.2].map(Matrix::to_host));

        let head = values.matrix(device, [3000, 96]);
        let ids: Vec<i32> = (0..500).map(|_| values.below(3000) as i32).collect();
        let targets = Indices::from_host(&ids, device, Activations);
        let acc = Matrix::zeros([3000, 96], device, Activations);
        let zero = vector(vec![0.0], device);
        let loss = cross_entropy(zero, &x, &head, &targets, 1.0, HeadGrad::Into(acc));
        results.extend([loss.loss_sum.to_host(), loss.d_hidden.to_host()]);
        let d_head = loss.d_head.unwrap();
        results.push(d_head.to_host());
        results.push(add_sum_squares(vector(vec![0.0], device), &d_head).to_host());
        let mut order: Vec<i32> = (0..500).collect();
        order.sort_by_key(|&t| (ids[t as usize], t));
        let order = Indices::from_host(&order, device, Activations);
        results.push(embedding_grad(d_head, &x, &targets, &order).to_host());
        results.push(swiglu(&x, &dy).to_host());
        results
    });
}

#[test]
#[should_panic(expected = "matmul_add works in place and needs the only handle")]
fn an_aliased_target_is_an_error_and_not_a_silent_copy() {
    let device = &Device::cpu();
    let c = Matrix::zeros([2, 2], device, Activations);
    let _other = c.clone();
    let a = Matrix::zeros([2, 2], device, Activations);
    let _ = matmul_add(c, 1.0, Layout::Nn, &a, &a);
}

#[test]
fn the_ledger_keeps_the_label_of_an_array_through_operations_in_place() {
    use fullrank::device::memory::Category;
    let device = Device::cpu();
    let w = Matrix::zeros([4, 8], &device, Category::Weights);
    let a = Matrix::zeros([4, 4], &device, Category::Activations);
    let b = Matrix::zeros([4, 8], &device, Category::Activations);
    let w = matmul_add(w, 1.0, Layout::Nn, &a, &b);
    let reading = device.ledger().read();
    assert_eq!(reading.now[Category::Weights as usize], 4 * w.len() as u64);
    assert_eq!(reading.total(), 4 * (32 + 16 + 32));
}

#[test]
fn scaling_and_norm_ratios_agree_with_plain_loops() {
    in_both_forms(|device| {
        let mut values = Values(77);
        for [m, n] in [[1, 1], [3, 5], [130, 257], [1, 20_001]] {
            let (x, y) = (values.matrix(device, [m, n]), values.matrix(device, [m, n]));
            let (wx, wy) = (wide(&x), wide(&y));
            for along in [Along::All, Along::Rows, Along::Columns] {
                let (count, index): (usize, fn(usize, usize) -> usize) = match along {
                    Along::All => (1, |_, _| 0),
                    Along::Rows => (m, |k, n| k / n),
                    Along::Columns => (n, |k, n| k % n),
                };
                let factors = vector(values.vec(count), device);
                let of = wide(&factors);
                let got = scale(x.duplicate(device, Activations), &factors, along);
                let expected: Vec<f64> =
                    wx.iter().enumerate().map(|(k, v)| v * of[index(k, n)]).collect();
                assert_near("scale", &wide(&got), &expected, TOLERANCE);
                let norms = |x: &[f64]| {
                    let mut sums = vec![0.0; count];
                    for (k, v) in x.iter().enumerate() {
                        sums[index(k, n)] += v * v;
                    }
                    sums
                };
                let expected: Vec<f64> = norms(&wx)
                    .iter()
                    .zip(norms(&wy))
                    .map(|(x, y)| x.sqrt() / (y.sqrt() + 1e-8))
                    .collect();
                assert_near("ratios", &wide(&norm_ratios(&x, &y, along)), &expected, TOLERANCE);
            }
            let factor = vector(vec![0.5], device);
            let got = add_scaled(x.duplicate(device, Activations), -3.0, &factor, &y);
            let expected: Vec<f64> = wx.iter().zip(&wy).map(|(x, y)| x - 1.5 * y).collect();
            assert_near("sum", &wide(&got), &expected, TOLERANCE);
        }
    });
}

#[test]
fn growth_is_limited_only_beyond_gamma_and_a_zero_norm_is_not_kept() {
    in_both_forms(|device| {
        let limit = |squares: f32, previous: f32| {
            let (now, before) = (vector(vec![squares], device), vector(vec![previous], device));
            let limited = limit_growth(&now, &before, 1.01, 2.0);
            [limited.factor, limited.norm, limited.ratio].map(|x| x.to_host()[0])
        };
        assert_eq!(limit(4.0, 0.0), [1.0, 4.0, 0.0], "nothing to compare with");
        let [factor, norm, ratio] = limit(4.0, 2.0);
        assert!((ratio - 2.0).abs() < 1e-6 && (factor - 0.505).abs() < 1e-6);
        assert!((norm - 2.02).abs() < 1e-5);
        let [factor, norm, _] = limit(1.0, 2.0);
        assert_eq!((factor, norm), (1.0, 2.0), "below the limit nothing changes");
        assert_eq!(limit(0.0, 3.0)[1], 3.0, "zero is not remembered");
    });
}
