//! Speed of each operation at the reference shape (width 256, ffn 688, vocabulary 4096, 2048 tokens,
//! rank 64), beside stock burn where it has a plain counterpart: `cargo bench --bench kernels [FILTER]`.
//!
//! Times are minima over repetitions: on a shared machine the minimum is the one that says something
//! about the code. Bytes count each operand read or written once.
#![allow(missing_docs, clippy::print_stdout)]

use std::time::Instant;

use burn::tensor::{Tensor, TensorData, activation};
use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward};
use fullrank::kernels::embedding::{embedding, embedding_grad};
use fullrank::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use fullrank::kernels::loss::{HeadGrad, cross_entropy};
use fullrank::kernels::lowrank::{Exchange, switch_rows};
use fullrank::kernels::matmul::{Layout, matmul, matmul_add};
use fullrank::kernels::norm::{add_rms_norm, rms_norm, rms_norm_backward};
use fullrank::kernels::rope::{Rotation, rope};
use fullrank::kernels::swiglu::{swiglu, swiglu_backward};
use fullrank::kernels::update::{
    AdamForm, AdamW, Axis, VectorCounters, adamw, adamw_vectors, add_sum_squares,
};
use fullrank::kernels::{Indices, Matrix, Vector};

const TOKENS: usize = 2048;
const WIDTH: usize = 256;
const FFN: usize = 688;
const VOCABULARY: usize = 4096;
const RANK: usize = 64;
const REPETITIONS: usize = 30;

struct Bench {
    device: Device,
    filter: String,
}

impl Bench {
    fn matrix(&self, shape: [usize; 2]) -> Matrix {
        let values = (0..shape[0] * shape[1]).map(|i| (i as f32 * 0.7).sin()).collect();
        Matrix::from_host(values, shape, &self.device, Activations)
    }

    fn stock(&self, shape: [usize; 2]) -> Tensor<2> {
        let values = self.matrix(shape).to_host();
        Tensor::from_data(TensorData::new(values, shape), &burn::tensor::Device::flex())
    }

    /// Prints one line: `flop` per run gives GFLOP/s, `bytes` GB/s.
    fn line(
        &self,
        name: &str,
        flop: f64,
        bytes: f64,
        ours: impl FnMut(),
        stock: Option<&mut dyn FnMut()>,
    ) {
        if !name.contains(&self.filter) {
            return;
        }
        let seconds = minimum(ours);
        let rate = |seconds: f64| {
            if flop > 0.0 {
                format!("{:7.1} GFLOP/s", flop / seconds / 1e9)
            } else {
                format!("{:7.1} GB/s   ", bytes / seconds / 1e9)
            }
        };
        let stock = stock.map(minimum);
        let stock = stock.map_or(String::new(), |s| {
            format!("stock {:9.3} ms {} x{:.1}", s * 1e3, rate(s), s / seconds)
        });
        println!("{name:34} {:9.3} ms {} {stock}", seconds * 1e3, rate(seconds));
    }
}

fn minimum(mut run: impl FnMut()) -> f64 {
    (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Runs an operation in place on what `slot` holds.
fn in_place<T>(slot: &mut Option<T>, run: impl FnOnce(T) -> T) {
    *slot = slot.take().map(run);
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let bench = Bench { device: Device::cpu(), filter };
    products(&bench);
    lora(&bench);
    rows(&bench);
    attention_lines(&bench);
    loss_and_embedding(&bench);
    updates(&bench);
}

fn products(bench: &Bench) {
    let shapes = [
        (TOKENS, WIDTH, WIDTH),
        (TOKENS, FFN, WIDTH),
        (TOKENS, WIDTH, FFN),
        (FFN, WIDTH, TOKENS),
        (WIDTH, WIDTH, TOKENS),
        (RANK, WIDTH, TOKENS),
        (FFN, RANK, TOKENS),
        (TOKENS, RANK, WIDTH),
    ];
    for (m, n, k) in shapes {
        for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
            let a_shape = if layout == Layout::Tn { [k, m] } else { [m, k] };
            let b_shape = if layout == Layout::Nt { [n, k] } else { [k, n] };
            let (a, b) = (bench.matrix(a_shape), bench.matrix(b_shape));
            let (x, y) = (bench.stock(a_shape), bench.stock(b_shape));
            let mut stock = || {
                let (x, y) = (x.clone(), y.clone());
                let x = if layout == Layout::Tn { x.transpose() } else { x };
                let y = if layout == Layout::Nt { y.transpose() } else { y };
                let _ = x.matmul(y);
            };
            let flop = 2.0 * (m * n * k) as f64;
            let name = format!("matmul {m}x{n}x{k} {layout:?}");
            bench.line(&name, flop, 0.0, || drop(matmul(layout, &a, &b)), Some(&mut stock));
            let mut c = Some(bench.matrix([m, n]));
            let name = format!("matmul_add {m}x{n}x{k} {layout:?}");
            let run = || in_place(&mut c, |c| matmul_add(c, 1e-6, layout, &a, &b));
            bench.line(&name, flop, 0.0, run, None);
        }
    }
}

fn lora(bench: &Bench) {
    for (m, n) in [(WIDTH, WIDTH), (FFN, WIDTH), (WIDTH, FFN)] {
        let x = bench.matrix([TOKENS, n]);
        let dy = bench.matrix([TOKENS, m]);
        let w = bench.matrix([m, n]);
        let (a, b) = (bench.matrix([RANK, n]), bench.matrix([m, RANK]));
        let thin = 2.0 * (TOKENS * RANK * (m + n)) as f64;
        let flop = 2.0 * (TOKENS * m * n) as f64 + thin;
        let name = |what: &str| format!("{what} {n}->{m} r{RANK}");
        let run = || drop(lora_linear(&x, Some(&w), &a, &b, 1.0));
        bench.line(&name("lora_linear"), flop, 0.0, run, None);
        let run = || drop(lora_input_grad(None, &dy, Some(&w), &a, &b, 1.0));
        bench.line(&name("lora_input_grad"), flop, 0.0, run, None);
        let (h, g) = (bench.matrix([TOKENS, RANK]), bench.matrix([TOKENS, RANK]));
        let run = || drop(lora_factor_grads(None, &x, &dy, &h, &g, 1.0));
        bench.line(&name("lora_factor_grads"), thin, 0.0, run, None);
    }
}

fn rows(bench: &Bench) {
    let shape = [TOKENS, WIDTH];
    let size = 4.0 * (TOKENS * WIDTH) as f64;
    let (x, dy, gain) = (bench.matrix(shape), bench.matrix(shape), bench.matrix([1, WIDTH]));
    let (sx, sgain) = (bench.stock(shape), bench.stock([1, WIDTH]));
    let mut stock = || {
        let mean = (sx.clone() * sx.clone()).mean_dim(1);
        let _ = sx.clone() * (mean + 1e-5).sqrt().recip() * sgain.clone();
    };
    bench.line("rms_norm", 0.0, 2.0 * size, || drop(rms_norm(&x, &gain, 1e-5)), Some(&mut stock));
    let mut sum = Some(bench.matrix(shape));
    let run = || in_place(&mut sum, |sum| add_rms_norm(&x, sum, &gain, 1e-5).0);
    bench.line("add_rms_norm", 0.0, 4.0 * size, run, None);
    let (_, rstd) = rms_norm(&x, &gain, 1e-5);
    let mut state = Some((bench.matrix(shape), bench.matrix([1, WIDTH])));
    let run = || {
        in_place(&mut state, |(dx, acc)| {
            let (dx, acc) = rms_norm_backward(dx, &dy, &x, &gain, &rstd, Some(acc));
            (dx, acc.unwrap_or_else(|| unreachable!("it was given")))
        });
    };
    bench.line("rms_norm_backward", 0.0, 4.0 * size, run, None);

    let (cos, sin) = (bench.matrix([256, 32]), bench.matrix([256, 32]));
    let positions: Vec<i32> = (0..TOKENS as i32).map(|t| t % 256).collect();
    let positions = Indices::from_host(&positions, &bench.device, Activations);
    let mut slot = Some(bench.matrix(shape));
    let run = || in_place(&mut slot, |x| rope(x, &positions, &cos, &sin, Rotation::Forward));
    bench.line("rope", 0.0, 2.0 * size, run, None);

    let shape = [TOKENS, FFN];
    let size = 4.0 * (TOKENS * FFN) as f64;
    let (gate, up) = (bench.matrix(shape), bench.matrix(shape));
    let (sgate, sup) = (bench.stock(shape), bench.stock(shape));
    let mut stock = || drop(activation::silu(sgate.clone()) * sup.clone());
    bench.line("swiglu", 0.0, 3.0 * size, || drop(swiglu(&gate, &up)), Some(&mut stock));
    let mut slot = Some((bench.matrix(shape), gate, up));
    let run = || {
        in_place(&mut slot, |(dh, gate, up)| {
            let (d_gate, d_up, h) = swiglu_backward(dh, gate, up);
            (h, d_gate, d_up)
        });
    };
    bench.line("swiglu_backward", 0.0, 6.0 * size, run, None);
}

fn attention_lines(bench: &Bench) {
    for (batch, time) in [(8, 256), (2, 1024)] {
        let shape = AttentionShape {
            batch,
            queries: time,
            keys: time,
            heads: 4,
            kv_heads: 4,
            head_dim: 64,
        };
        let new = || bench.matrix([TOKENS, WIDTH]);
        let (q, k, v, d_out) = (new(), new(), new(), new());
        let (out, lse) = attention(&q, &k, &v, shape);
        // Two products forward and five backward, of which causality needs half.
        let product = (batch * time * time * WIDTH) as f64;
        let heads = |x: &Matrix| {
            let data = TensorData::new(x.to_host(), [batch, time, 4, 64]);
            Tensor::<4>::from_data(data, &burn::tensor::Device::flex()).swap_dims(1, 2)
        };
        let (sq, sk, sv) = (heads(&q), heads(&k), heads(&v));
        let mut stock = || {
            let scores = sq.clone().matmul(sk.clone().transpose()) / 8.0;
            let _ = activation::softmax(scores, 3).matmul(sv.clone());
        };
        let name = format!("attention B{batch} T{time}");
        bench.line(
            &name,
            2.0 * product,
            0.0,
            || drop(attention(&q, &k, &v, shape)),
            Some(&mut stock),
        );
        let run = || drop(attention_backward(&d_out, &q, &k, &v, &out, &lse, shape));
        bench.line(&format!("attention_backward B{batch} T{time}"), 5.0 * product, 0.0, run, None);
    }
}

fn loss_and_embedding(bench: &Bench) {
    let hidden = bench.matrix([TOKENS, WIDTH]);
    let head = bench.matrix([VOCABULARY, WIDTH]);
    let ids: Vec<i32> = (0..TOKENS).map(|t| (t * 37 % VOCABULARY) as i32).collect();
    let mut order: Vec<i32> = (0..TOKENS as i32).collect();
    order.sort_by_key(|&t| (ids[t as usize], t));
    let targets = Indices::from_host(&ids, &bench.device, Activations);
    let order = Indices::from_host(&order, &bench.device, Activations);
    let zero = || Vector::zeros([1], &bench.device, Activations);
    let product = 2.0 * (TOKENS * WIDTH * VOCABULARY) as f64;
    let (sh, sw) = (bench.stock([TOKENS, WIDTH]), bench.stock([VOCABULARY, WIDTH]));
    let mut stock = || {
        let logits = sh.clone().matmul(sw.clone().transpose());
        let p = activation::softmax(logits, 1);
        let _ = p.clone().matmul(sw.clone());
        let _ = p.transpose().matmul(sh.clone());
    };
    let mut d_head = Some(bench.matrix([VOCABULARY, WIDTH]));
    let run = || {
        in_place(&mut d_head, |d_head| {
            let grad = HeadGrad::Into(d_head);
            let loss = cross_entropy(zero(), &hidden, &head, &targets, 1e-3, grad);
            loss.d_head.unwrap_or_else(|| unreachable!("it was given"))
        });
    };
    bench.line("cross_entropy", 3.0 * product, 0.0, run, Some(&mut stock));
    let run = || drop(cross_entropy(zero(), &hidden, &head, &targets, 1e-3, HeadGrad::Skip));
    bench.line("cross_entropy, frozen head", 2.0 * product, 0.0, run, None);
    let size = 4.0 * (TOKENS * WIDTH) as f64;
    bench.line("embedding", 0.0, 2.0 * size, || drop(embedding(&targets, &head)), None);
    let mut acc = Some(bench.matrix([VOCABULARY, WIDTH]));
    let run = || in_place(&mut acc, |acc| embedding_grad(acc, &hidden, &targets, &order));
    bench.line("embedding_grad", 0.0, 3.0 * size, run, None);
}

fn updates(bench: &Bench) {
    let hyper = AdamW {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        form: AdamForm::Torch,
    };
    let one = Vector::from_host(vec![1.0], [1], &bench.device, Activations);
    for shape in [[VOCABULARY, WIDTH], [FFN, WIDTH], [RANK, FFN]] {
        let size = 4.0 * (shape[0] * shape[1]) as f64;
        let grad = bench.matrix(shape);
        let zeros = || Matrix::zeros(shape, &bench.device, Activations);
        let mut state = Some((bench.matrix(shape), zeros(), zeros()));
        let run = || in_place(&mut state, |s| adamw(s.0, &grad, &one, s.1, s.2, hyper, 3));
        bench.line(&format!("adamw {shape:?}"), 0.0, 7.0 * size, run, None);
        let mut acc = Some(Vector::zeros([1], &bench.device, Activations));
        let run = || in_place(&mut acc, |acc| add_sum_squares(acc, &grad));
        bench.line(&format!("add_sum_squares {shape:?}"), 0.0, size, run, None);
    }
    for (axis, shape) in [(Axis::Rows, [RANK, FFN]), (Axis::Columns, [FFN, RANK])] {
        let indices = |value: i32| Indices::from_host(&[value; RANK], &bench.device, Activations);
        let (since, frozen_until) = (indices(0), indices(0));
        let counters =
            VectorCounters { axis, since: &since, frozen_until: &frozen_until, decay_frozen: true };
        let grad = bench.matrix(shape);
        let zeros = || Matrix::zeros(shape, &bench.device, Activations);
        let mut state = Some((bench.matrix(shape), zeros(), zeros()));
        let run = || {
            in_place(&mut state, |s| {
                adamw_vectors(s.0, &grad, &one, s.1, s.2, hyper, 3, &counters)
            });
        };
        let bytes = 28.0 * (shape[0] * shape[1]) as f64;
        bench.line(&format!("adamw_vectors {axis:?} {shape:?}"), 0.0, bytes, run, None);
    }
    let b = bench.matrix([FFN, RANK]);
    let mut state = Some((
        bench.matrix([FFN, WIDTH]),
        bench.matrix([RANK, WIDTH]),
        bench.matrix([WIDTH, WIDTH]),
    ));
    let exchange = Exchange { vectors: &[3, 4], from: &[0, 1], to: &[2, 3], scale: 1e-3 };
    let run = || {
        in_place(&mut state, |(w, a, pool)| {
            let (w, a, pool, _) = switch_rows(w, a, &b, pool, &exchange);
            (w, a, pool)
        });
    };
    bench.line("switch_rows, 2 of 64", 0.0, 8.0 * (FFN * WIDTH) as f64, run, None);
}
