//! Every backward pass, judged two ways besides the plain references of `kernels/`: by finite
//! differences of the f64 reference forward, and by burn's autodiff of stock burn operations.
//!
//! The loss is always `Σ r·op(x)` with random `r`, so a backward that forgets or misplaces the incoming
//! gradient fails. Both forms of each operation (CPU kernels, default bodies) are checked.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)] // a test may panic

use burn::tensor::{Int, Tensor, TensorData, activation};
use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward};
use fullrank::kernels::embedding::embedding_grad;
use fullrank::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use fullrank::kernels::loss::{HeadGrad, IGNORED, cross_entropy};
use fullrank::kernels::matmul::{Layout, matmul};
use fullrank::kernels::norm::{rms_norm, rms_norm_backward};
use fullrank::kernels::ops::with_default_bodies;
use fullrank::kernels::reference;
use fullrank::kernels::rope::{Rotation, rope};
use fullrank::kernels::swiglu::swiglu_backward;
use fullrank::kernels::{Indices, Matrix, Vector};

/// Of f32 gradients against f64 differences or f32 autodiff, relative to the largest.
const TOLERANCE: f64 = 5e-5;
/// Step of the central differences in f64: truncation and rounding errors both stay below 1e-8.
const STEP: f64 = 1e-5;

/// Reproducible test values (xorshift, uniform in -1..1).
struct Values(u64);

impl Values {
    fn vec(&mut self, n: usize) -> Vec<f32> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            ((self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 2.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn matrix(&mut self, device: &Device, shape: [usize; 2]) -> Matrix {
        Matrix::from_host(self.vec(shape[0] * shape[1]), shape, device, Activations)
    }
}

fn wide(x: &Matrix) -> Vec<f64> {
    x.to_host().into_iter().map(f64::from).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[track_caller]
fn assert_near(what: &str, got: &[f64], right: &[f64]) {
    assert_eq!(got.len(), right.len(), "{what}: number of values");
    let largest = right.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    for (i, (got, right)) in got.iter().zip(right).enumerate() {
        let error = (got - right).abs() / largest;
        assert!(error <= TOLERANCE, "{what}: value {i} is {got}, not {right} ({error:e})");
    }
}

fn in_both_forms(check: impl Fn(&Device)) {
    let device = Device::cpu();
    check(&device);
    with_default_bodies(|| check(&device));
}

/// Central differences of `loss` at `x`.
fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = loss(&x);
            x[i] = at - STEP;
            let below = loss(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// A leaf of burn's autodiff with the values of a matrix.
fn leaf(x: &Matrix) -> Tensor<2> {
    fixed(x).require_grad()
}

fn fixed(x: &Matrix) -> Tensor<2> {
    let device = burn::tensor::Device::flex().autodiff();
    Tensor::from_data(TensorData::new(x.to_host(), x.shape()), &device)
}

fn ids_tensor(ids: &[i32]) -> Tensor<1, Int> {
    let device = burn::tensor::Device::flex().autodiff();
    let data = TensorData::new(ids.to_vec(), [ids.len()]);
    Tensor::from_data(data, (&device, burn::tensor::DType::I32))
}

/// Gradients of `Σ r·y` with respect to the leaves, from burn's autodiff.
fn autodiff<const N: usize>(
    y: Tensor<2>,
    r: Option<&Matrix>,
    leaves: [&Tensor<2>; N],
) -> [Vec<f64>; N] {
    let loss = match r {
        Some(r) => (y * fixed(r)).sum(),
        None => y.sum(),
    };
    let grads = loss.backward();
    leaves.map(|leaf| {
        let data = leaf.grad(&grads).expect("a leaf of the loss").into_data();
        data.as_slice::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect()
    })
}

#[test]
fn product_gradients_are_right() {
    in_both_forms(|device| {
        let mut values = Values(21);
        let (t, n, m) = (5, 7, 4);
        let (x, w) = (values.matrix(device, [t, n]), values.matrix(device, [m, n]));
        let r = values.matrix(device, [t, m]);
        // y = x·Wᵀ: dx = dy·W, dW = dyᵀ·x.
        let dx = wide(&matmul(Layout::Nn, &r, &w));
        let dw = wide(&matmul(Layout::Tn, &r, &x));
        let loss =
            |x: &[f64], w: &[f64]| dot(&reference::matmul(Layout::Nt, x, w, (t, m, n)), &wide(&r));
        assert_near("dx", &dx, &differences(&wide(&x), |x| loss(x, &wide(&w))));
        assert_near("dW", &dw, &differences(&wide(&w), |w| loss(&wide(&x), w)));
        let (ax, aw) = (leaf(&x), leaf(&w));
        let y = ax.clone().matmul(aw.clone().transpose());
        let [right_x, right_w] = autodiff(y, Some(&r), [&ax, &aw]);
        assert_near("dx", &dx, &right_x);
        assert_near("dW", &dw, &right_w);
    });
}

#[test]
fn lora_gradients_are_right() {
    in_both_forms(|device| {
        let mut values = Values(22);
        let (t, n, m, k, s) = (150, 24, 20, 6, 0.5f32);
        let x = values.matrix(device, [t, n]);
        let w = values.matrix(device, [m, n]);
        let (a, b) = (values.matrix(device, [k, n]), values.matrix(device, [m, k]));
        let r = values.matrix(device, [t, m]);
        let (y, h) = lora_linear(&x, Some(&w), &a, &b, s);
        let (dx, g) = lora_input_grad(None, &r, Some(&w), &a, &b, s);
        let (da, db) = lora_factor_grads(None, &x, &r, &h, &g, s);
        let (ax, aa, ab) = (leaf(&x), leaf(&a), leaf(&b));
        let thin = ax.clone().matmul(aa.clone().transpose()).matmul(ab.clone().transpose());
        let right = ax.clone().matmul(fixed(&w).transpose()) + thin * s;
        let right_y: Vec<f64> =
            right.to_data().as_slice::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect();
        let [rx, ra, rb] = autodiff(right, Some(&r), [&ax, &aa, &ab]);
        assert_near("y", &wide(&y), &right_y);
        assert_near("dx", &wide(&dx), &rx);
        assert_near("dA", &wide(&da), &ra);
        assert_near("dB", &wide(&db), &rb);

        let forward = |a: &[f64], b: &[f64]| {
            let h = reference::matmul(Layout::Nt, &wide(&x), a, (t, k, n));
            let low = reference::matmul(Layout::Nt, &h, b, (t, m, k));
            f64::from(s) * dot(&low, &wide(&r))
        };
        assert_near("dA", &wide(&da), &differences(&wide(&a), |a| forward(a, &wide(&b))));
        assert_near("dB", &wide(&db), &differences(&wide(&b), |b| forward(&wide(&a), b)));
    });
}

#[test]
fn norm_gradients_are_right() {
    in_both_forms(|device| {
        let mut values = Values(23);
        let (t, c, eps) = (6, 10, 1e-5);
        let (x, gain) = (values.matrix(device, [t, c]), values.matrix(device, [1, c]));
        let r = values.matrix(device, [t, c]);
        let (_, rstd) = rms_norm(&x, &gain, eps);
        let zeros = |shape| Matrix::zeros(shape, device, Activations);
        let (dx, d_gain) =
            rms_norm_backward(zeros([t, c]), &r, &x, &gain, &rstd, Some(zeros([1, c])));
        let (dx, d_gain) = (wide(&dx), wide(&d_gain.unwrap()));
        let loss = |x: &[f64], gain: &[f64]| {
            dot(&reference::rms_norm(x, gain, f64::from(eps)).0, &wide(&r))
        };
        assert_near("dx", &dx, &differences(&wide(&x), |x| loss(x, &wide(&gain))));
        assert_near("gain", &d_gain, &differences(&wide(&gain), |gain| loss(&wide(&x), gain)));
        let (ax, again) = (leaf(&x), leaf(&gain));
        let mean = (ax.clone() * ax.clone()).mean_dim(1);
        let y = ax.clone() / (mean + eps).sqrt() * again.clone();
        let [rx, rg] = autodiff(y, Some(&r), [&ax, &again]);
        assert_near("dx", &dx, &rx);
        assert_near("gain", &d_gain, &rg);
    });
}

#[test]
fn rope_gradients_are_right() {
    in_both_forms(|device| {
        let mut values = Values(24);
        let (t, heads, half) = (7, 3, 4);
        let width = heads * 2 * half;
        let angles = values.vec(t * half);
        let table = |f: fn(f32) -> f32| {
            let values = angles.iter().map(|&x| f(3.0 * x)).collect();
            Matrix::from_host(values, [t, half], device, Activations)
        };
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let ids: Vec<i32> = (0..t as i32).rev().collect();
        let positions = Indices::from_host(&ids, device, Activations);
        let (x, r) = (values.matrix(device, [t, width]), values.matrix(device, [t, width]));
        let right = differences(&wide(&x), |x| {
            dot(&reference::rope(x, width, &ids, &wide(&cos), &wide(&sin), half, 1.0), &wide(&r))
        });
        let ax = leaf(&x);
        let y = stock_rope(ax.clone().reshape([1, t, heads, 2 * half]), &ids, &cos, &sin);
        let [auto] = autodiff(y.reshape([t, width]), Some(&r), [&ax]);
        let dx = wide(&rope(r, &positions, &cos, &sin, Rotation::Backward));
        assert_near("dx", &dx, &right);
        assert_near("dx", &dx, &auto);
    });
}

/// Rotates `[B, T, H, D]` with stock operations.
fn stock_rope(x: Tensor<4>, ids: &[i32], cos: &Matrix, sin: &Matrix) -> Tensor<4> {
    let [_, t, _, d] = x.dims();
    let pick = |table: &Matrix| fixed(table).select(0, ids_tensor(ids)).reshape([1, t, 1, d / 2]);
    let (cos, sin) = (pick(cos), pick(sin));
    let low = x.clone().narrow(3, 0, d / 2);
    let high = x.narrow(3, d / 2, d / 2);
    let new_low = low.clone() * cos.clone() - high.clone() * sin.clone();
    Tensor::cat(vec![new_low, high * cos + low * sin], 3)
}

#[test]
fn attention_gradients_are_right_with_shared_key_heads() {
    in_both_forms(|device| {
        for (batch, time, heads, kv_heads, head_dim) in [(2, 9, 4, 2, 6), (1, 70, 3, 1, 8)] {
            let s = AttentionShape { batch, queries: time, keys: time, heads, kv_heads, head_dim };
            let mut values = Values(25);
            let t = batch * time;
            let q = values.matrix(device, [t, heads * head_dim]);
            let k = values.matrix(device, [t, kv_heads * head_dim]);
            let v = values.matrix(device, [t, kv_heads * head_dim]);
            let r = values.matrix(device, [t, heads * head_dim]);
            let (out, lse) = attention(&q, &k, &v, s);
            let (dq, dk, dv) = attention_backward(&r, &q, &k, &v, &out, &lse, s);

            let (aq, ak, av) = (leaf(&q), leaf(&k), leaf(&v));
            let y = stock_attention(&aq, &ak, &av, s);
            let [rq, rk, rv] = autodiff(y, Some(&r), [&aq, &ak, &av]);
            assert_near("dq", &wide(&dq), &rq);
            assert_near("dk", &wide(&dk), &rk);
            assert_near("dv", &wide(&dv), &rv);
            if time > 20 {
                continue; // differences cost the square of the size
            }
            let (q, k, v, r) = (wide(&q), wide(&k), wide(&v), wide(&r));
            let loss =
                |q: &[f64], k: &[f64], v: &[f64]| dot(&reference::attention(q, k, v, s).0, &r);
            assert_near("dq", &wide(&dq), &differences(&q, |q| loss(q, &k, &v)));
            assert_near("dk", &wide(&dk), &differences(&k, |k| loss(&q, k, &v)));
            assert_near("dv", &wide(&dv), &differences(&v, |v| loss(&q, &k, v)));
        }
    });
}

/// Causal attention in stock operations, key heads repeated.
fn stock_attention(q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>, s: AttentionShape) -> Tensor<2> {
    let split = |x: &Tensor<2>, heads: usize| {
        x.clone().reshape([s.batch, s.queries, heads, s.head_dim]).swap_dims(1, 2)
    };
    let repeat = |x: Tensor<4>| {
        let shape = [s.batch, s.kv_heads, s.heads / s.kv_heads, s.keys, s.head_dim];
        x.reshape([s.batch, s.kv_heads, 1, s.keys, s.head_dim])
            .expand(shape)
            .reshape([s.batch, s.heads, s.keys, s.head_dim])
    };
    let (q, k, v) = (split(q, s.heads), repeat(split(k, s.kv_heads)), repeat(split(v, s.kv_heads)));
    let mask: Vec<f32> = (0..s.queries)
        .flat_map(|i| (0..s.keys).map(move |j| if j <= i { 0.0 } else { -1e30 }))
        .collect();
    let mask = TensorData::new(mask, [1, 1, s.queries, s.keys]);
    let mask = Tensor::<4>::from_data(mask, &burn::tensor::Device::flex().autodiff());
    let scores = q.matmul(k.transpose()) / (s.head_dim as f32).sqrt() + mask;
    let out = activation::softmax(scores, 3).matmul(v);
    out.swap_dims(1, 2).reshape([s.batch * s.queries, s.heads * s.head_dim])
}

#[test]
fn swiglu_gradients_are_right() {
    in_both_forms(|device| {
        let mut values = Values(26);
        let shape = [5, 9];
        let (gate, up) = (values.matrix(device, shape), values.matrix(device, shape));
        let r = values.matrix(device, shape);
        let (g, u, w) = (wide(&gate), wide(&up), wide(&r));
        let right_gate = differences(&g, |g| dot(&reference::swiglu(g, &u), &w));
        let right_up = differences(&u, |u| dot(&reference::swiglu(&g, u), &w));
        let (ag, au) = (leaf(&gate), leaf(&up));
        let y = activation::silu(ag.clone()) * au.clone();
        let [auto_gate, auto_up] = autodiff(y, Some(&r), [&ag, &au]);
        let (d_gate, d_up, _) = swiglu_backward(r, gate, up);
        for (right_gate, right_up) in [(right_gate, right_up), (auto_gate, auto_up)] {
            assert_near("d_gate", &wide(&d_gate), &right_gate);
            assert_near("d_up", &wide(&d_up), &right_up);
        }
    });
}

#[test]
fn embedding_gradients_are_right() {
    in_both_forms(|device| {
        let mut values = Values(27);
        let (rows, c) = (6, 5);
        let ids = [3, 0, 3, 5, 3, 0, 1];
        let order = Indices::from_host(&[1, 5, 6, 0, 2, 4, 3], device, Activations);
        let table = values.matrix(device, [rows, c]);
        let r = values.matrix(device, [ids.len(), c]);
        let on_device = Indices::from_host(&ids, device, Activations);
        let zeros = Matrix::zeros([rows, c], device, Activations);
        let got = wide(&embedding_grad(zeros, &r, &on_device, &order));
        let loss = |table: &[f64]| dot(&reference::embedding(&ids, table, c), &wide(&r));
        assert_near("table", &got, &differences(&wide(&table), loss));
        let at = leaf(&table);
        let [auto] = autodiff(at.clone().select(0, ids_tensor(&ids)), Some(&r), [&at]);
        assert_near("table", &got, &auto);
    });
}

#[test]
fn cross_entropy_gradients_are_right() {
    in_both_forms(|device| {
        let mut values = Values(28);
        let (t, vocabulary, c, scale) = (6, 11, 5, 0.25f32);
        let hidden = values.matrix(device, [t, c]);
        let head = values.matrix(device, [vocabulary, c]);
        let targets = [4, 0, IGNORED, 10, 4, 7];
        let on_device = Indices::from_host(&targets, device, Activations);
        let zero = Vector::zeros([1], device, Activations);
        let acc = Matrix::zeros([vocabulary, c], device, Activations);
        let got = cross_entropy(zero, &hidden, &head, &on_device, scale, HeadGrad::Into(acc));
        let (d_hidden, d_head) = (wide(&got.d_hidden), wide(&got.d_head.unwrap()));

        let loss = |hidden: &[f64], head: &[f64]| {
            let (losses, ..) = reference::cross_entropy(hidden, head, &targets, c);
            f64::from(scale) * losses.iter().sum::<f64>()
        };
        let (h, w) = (wide(&hidden), wide(&head));
        assert_near("d_hidden", &d_hidden, &differences(&h, |h| loss(h, &w)));
        assert_near("d_head", &d_head, &differences(&w, |w| loss(&h, w)));

        let (ah, aw) = (leaf(&hidden), leaf(&head));
        let logits = ah.clone().matmul(aw.clone().transpose());
        let log_p = activation::log_softmax(logits, 1);
        let safe: Vec<i32> = targets.iter().map(|&id| id.max(0)).collect();
        let picked = log_p.gather(1, ids_tensor(&safe).reshape([t, 1]));
        let counts: Vec<f32> =
            targets.iter().map(|&id| if id == IGNORED { 0.0 } else { -scale }).collect();
        let counts = Matrix::from_host(counts, [t, 1], device, Activations);
        let [rh, rw] = autodiff(picked, Some(&counts), [&ah, &aw]);
        assert_near("d_hidden", &d_hidden, &rh);
        assert_near("d_head", &d_head, &rw);
    });
}
