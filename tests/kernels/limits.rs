//! Every kernel on tensors that nearly fill a binding of 128 MiB, in both tilings.
//!
//! The tensors repeat a few rows, so each row of a result must have the bits of the same row in a small one,
//! which the other tests judge.

use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward, copy_rows};
use fullrank::kernels::embedding::{embedding, embedding_grad};
use fullrank::kernels::norm::{
    add_residual, add_rms_norm, rms_norm, rms_norm_apply, rms_norm_backward,
};
use fullrank::kernels::rope::{Rotation, rope};
use fullrank::kernels::scaling::{Along, add_scaled, norm_ratios, scale};
use fullrank::kernels::swiglu::{swiglu, swiglu_backward};
use fullrank::kernels::switch::{Exchange, Switch, Switched, restart, switch};
use fullrank::kernels::update::{
    AdamForm, AdamW, Axis, VectorCounters, adamw, adamw_vectors, add_sum_squares,
};
use fullrank::kernels::{Array, Indices, Matrix};

use crate::forms::{Values, assert_near, on_gpus_once, vector, wide};

/// 134,184,960 of 134,217,728 bytes.
const ROWS: usize = 8190;
const WIDTH: usize = 4096;
/// The rows that repeat; a divisor of `ROWS`.
const PERIOD: usize = 6;

/// A matrix of the rows over and over.
fn repeated(rows: &Matrix, device: &Device) -> Matrix {
    let values = rows.to_host();
    let times = ROWS * WIDTH / values.len();
    Matrix::from_host(values.repeat(times), [ROWS, WIDTH], device, Activations)
}

#[track_caller]
fn assert_repeats<const D: usize>(what: &str, large: &Array<D>, small: &Array<D>) {
    let (large, small) = (large.to_host(), small.to_host());
    let is_same = |part: &[f32]| part.iter().zip(&small).all(|(x, y)| x.to_bits() == y.to_bits());
    let wrong = large.chunks(small.len()).position(|part| !is_same(part));
    assert!(wrong.is_none(), "{what}: repetition {wrong:?} differs");
}

/// Runs an operation on small tensors and on their repetitions.
fn check<const D: usize>(
    what: &str,
    inputs: &[&Matrix],
    device: &Device,
    run: impl Fn(Vec<Matrix>) -> Vec<Array<D>>,
) {
    let small = run(inputs.iter().map(|x| x.duplicate(device, Activations)).collect());
    let large = run(inputs.iter().map(|x| repeated(x, device)).collect());
    for (large, small) in large.iter().zip(&small) {
        assert_repeats(what, large, small);
    }
}

#[test]
fn rows_and_elements_near_the_binding_limit() {
    on_gpus_once(|device| {
        let mut values = Values(31);
        let [x, y, z] = [(); 3].map(|()| values.matrix(device, [PERIOD, WIDTH]));
        let gain = values.matrix(device, [1, WIDTH]);
        check("rms_norm", &[&x], device, |t| vec![rms_norm(&t[0], &gain, 1e-5).0]);
        check("rstd", &[&x], device, |t| vec![rms_norm(&t[0], &gain, 1e-5).1]);
        check("rms_norm_apply", &[&x], device, |t| {
            let (_, rstd) = rms_norm(&t[0], &gain, 1e-5);
            vec![rms_norm_apply(&t[0], &gain, &rstd)]
        });
        check("add_residual", &[&x, &y], device, |mut t| {
            vec![add_residual(&t.remove(0), t.remove(0))]
        });
        check("add_rms_norm", &[&x, &y], device, |mut t| {
            let (sum, y, _) = add_rms_norm(&t.remove(0), t.remove(0), &gain, 1e-5);
            vec![sum, y]
        });
        check("rms_norm_backward", &[&x, &y, &z], device, |mut t| {
            let (_, rstd) = rms_norm(&t[1], &gain, 1e-5);
            vec![rms_norm_backward(t.remove(0), &t[1], &t[0], &gain, &rstd, None).0]
        });
        check("swiglu", &[&x, &y], device, |t| vec![swiglu(&t[0], &t[1])]);
        check("swiglu_backward", &[&x, &y, &z], device, |mut t| {
            let (a, b, c) = swiglu_backward(t.remove(0), t.remove(0), t.remove(0));
            vec![a, b, c]
        });
        let half = vector(vec![0.5], device);
        check("scale", &[&x], device, |mut t| vec![scale(t.remove(0), &half, Along::All)]);
        check("add_scaled", &[&x, &y], device, |mut t| {
            vec![add_scaled(t.remove(0), 0.3, &half, &t[0])]
        });
        // Its sums are cut by the number of rows, so the last bits may differ.
        let ratios = |x: &Matrix, y: &Matrix| wide(&norm_ratios(x, y, Along::Rows));
        let (small, large) = (ratios(&x, &y), ratios(&repeated(&x, device), &repeated(&y, device)));
        assert_near("norm_ratios", &large, &small.repeat(ROWS / PERIOD), 1e-6);
        let zero = vector(vec![0.0], device);
        let squares = add_sum_squares(zero, &repeated(&x, device)).to_host();
        let right: f64 = x.to_host().iter().map(|&x| f64::from(x).powi(2)).sum();
        let times = (ROWS / PERIOD) as f64;
        assert_near("sum of squares", &[f64::from(squares[0])], &[times * right], 1e-6);
    });
}

#[test]
fn updates_near_the_binding_limit() {
    on_gpus_once(|device| {
        let mut values = Values(32);
        let [p, g, m] = [(); 3].map(|()| values.matrix(device, [PERIOD, WIDTH]));
        let squares: Vec<f32> = values.vec(PERIOD * WIDTH).iter().map(|x| x * x).collect();
        let v = Matrix::from_host(squares, [PERIOD, WIDTH], device, Activations);
        let one = vector(vec![1.0], device);
        let form = AdamForm::Torch;
        let hyper = AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            form,
        };
        check("adamw", &[&p, &g, &m, &v], device, |mut t| {
            let (v, m, g) = (t.remove(3), t.remove(2), t.remove(1));
            let (p, m, v) = adamw(t.remove(0), &g, &one, m, v, hyper, 3);
            vec![p, m, v]
        });
        check("adamw_vectors", &[&p, &g, &m, &v], device, |mut t| {
            let ages: Vec<i32> = (0..WIDTH as i32).map(|i| i % 5).collect();
            let counters = VectorCounters::new(Axis::Columns, &ages, &vec![0; WIDTH], device);
            let (v, m, g) = (t.remove(3), t.remove(2), t.remove(1));
            let (p, m, v) = adamw_vectors(t.remove(0), &g, &one, m, v, hyper, 9, &counters, false);
            vec![p, m, v]
        });
        check("restart", &[&p, &v], device, |mut t| {
            let none = vec![0; WIDTH];
            let mut counters = VectorCounters::new(Axis::Columns, &none, &none, device);
            let squares = t.remove(1);
            let (m, v) = restart(t.remove(0), squares, &mut counters, &[0, WIDTH - 1], 1, 2);
            vec![m, v]
        });
        let none = vec![0; ROWS];
        let mut counters = VectorCounters::new(Axis::Rows, &none, &none, device);
        let (x, y) = (repeated(&p, device), repeated(&p, device));
        let zeroed = restart(x, y, &mut counters, &[0, ROWS - 1], 1, 2).0.to_host();
        let (first, last) = (&zeroed[..WIDTH], &zeroed[(ROWS - 1) * WIDTH..]);
        assert!(first.iter().chain(last).all(|&x| x == 0.0));
        assert_eq!(zeroed[WIDTH], p.to_host()[WIDTH]);
    });
}

#[test]
fn switches_near_the_binding_limit_keep_the_layer() {
    on_gpus_once(|device| {
        let mut values = Values(33);
        let row = values.matrix(device, [PERIOD, WIDTH]);
        let [w0, a0, b0] = [
            repeated(&row, device),
            values.matrix(device, [2, WIDTH]),
            values.matrix(device, [ROWS, 2]),
        ];
        let places: Vec<(usize, usize)> =
            [(0, 0), (0, WIDTH - 1), (ROWS - 1, 0), (ROWS - 1, WIDTH - 1)]
                .into_iter()
                .chain((0..500).map(|_| (values.below(ROWS), values.below(WIDTH))))
                .collect();
        let effective = |w: &Matrix, a: &Matrix, b: &Matrix| -> Vec<f64> {
            let (w, a, b) = (w.to_host(), a.to_host(), b.to_host());
            let at = |&(i, j): &(usize, usize)| {
                let product: f64 =
                    (0..2).map(|r| f64::from(b[i * 2 + r]) * f64::from(a[r * WIDTH + j])).sum();
                f64::from(w[i * WIDTH + j]) + 0.5 * product
            };
            places.iter().map(at).collect()
        };
        let right = effective(&w0, &a0, &b0);
        let exchange = |vectors| Exchange { vectors, from: &[0], to: &[2] };
        let plan = Switch { a: exchange(&[1]), b: exchange(&[0]), scale: 0.5 };
        let pools = [values.matrix(device, [3, WIDTH]), values.matrix(device, [3, ROWS])];
        let Switched { w, a, b, .. } = switch(w0, a0, b0, pools, &plan);
        assert_near("output", &effective(&w, &a, &b), &right, 1e-6);
    });
}

#[test]
fn sequences_near_the_binding_limit() {
    on_gpus_once(|device| {
        let mut values = Values(34);
        // The rows of one sequence of 63, 130 times.
        let seq = 63;
        let [q, k, v, d] = [(); 4].map(|()| values.matrix(device, [seq, WIDTH]));
        let shape = |batch| AttentionShape {
            batch,
            queries: seq,
            keys: seq,
            heads: 64,
            kv_heads: 64,
            head_dim: 64,
        };
        check("attention", &[&q, &k, &v, &d], device, |t| {
            let shape = shape(t[0].shape()[0] / seq);
            let (out, lse) = attention(&t[0], &t[1], &t[2], shape);
            let (dq, dk, dv) = attention_backward(&t[3], &t[0], &t[1], &t[2], &out, &lse, shape);
            vec![out, dq, dk, dv]
        });
        let angles = values.matrix(device, [seq, 32]);
        check("rope", &[&q], device, |mut t| {
            let rows = t[0].shape()[0];
            let positions: Vec<i32> = (0..rows).map(|row| (row % seq) as i32).collect();
            let positions = Indices::from_host(&positions, device, Activations);
            vec![rope(t.remove(0), &positions, &angles, &angles, Rotation::Forward)]
        });
        let table = repeated(&q, device);
        let ids: Vec<i32> = vec![(ROWS - 1) as i32, 0, 5, (ROWS - 1) as i32];
        let order = Indices::from_host(&[1, 2, 0, 3], device, Activations);
        let ids = Indices::from_host(&ids, device, Activations);
        let rows = embedding(&ids, &table);
        let source = q.to_host();
        assert_eq!(rows.to_host()[..WIDTH], source[(seq - 1) * WIDTH..]);
        let before = table.to_host();
        let sum = embedding_grad(table, &rows, &ids, &order).to_host();
        let changed = (0..ROWS).filter(|row| {
            let range = row * WIDTH..(row + 1) * WIDTH;
            sum[range.clone()] != before[range]
        });
        assert_eq!(changed.collect::<Vec<_>>(), [0, 5, ROWS - 1]);
        assert_eq!(
            sum[(ROWS - 1) * WIDTH],
            (before[(ROWS - 1) * WIDTH] + rows.to_host()[0]) + rows.to_host()[0]
        );
        let cache = Matrix::zeros([ROWS, WIDTH], device, Activations);
        let cache = copy_rows(cache, &rows, ROWS - 4).to_host();
        assert_eq!(cache[(ROWS - 4) * WIDTH..], rows.to_host());
        assert!(cache[..(ROWS - 4) * WIDTH].iter().all(|&x| x == 0.0));
    });
}
