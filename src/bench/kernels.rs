//! Each operation alone at the sizes of a step, beside burn's stock operations for the same result where
//! they have a plain form.
//!
//! Counted are the multiplications and additions that the result needs (an exponential or a root counts as one), and
//! the bytes of every operand read or written once.

mod packed;

use std::time::Instant;

use burn::tensor::{Tensor, TensorData, activation};

use crate::device::Device;
use crate::device::memory::Category::Activations;
use crate::error::Result;
use crate::kernels::attention::{AttentionShape, attention, attention_backward};
use crate::kernels::ceiling::timed;
use crate::kernels::embedding::{embedding, embedding_grad};
use crate::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use crate::kernels::loss::{HeadGrad, cross_entropy};
use crate::kernels::matmul::{Layout, matmul};
use crate::kernels::norm::{add_rms_norm, rms_norm, rms_norm_backward};
use crate::kernels::rope::{Rotation, rope};
use crate::kernels::swiglu::{swiglu, swiglu_backward};
use crate::kernels::switch::{Exchange, Switch, Switched, switch};
use crate::kernels::update::{AdamForm, AdamW, adamw, add_sum_squares};
use crate::kernels::{Indices, Matrix, Vector};
use crate::model::config::block_linears;

use super::{Options, Shape};

/// Repetitions without `--rounds`, if there is time.
const ROUNDS: usize = 20;
/// Seconds for the repetitions of one operation without `--rounds`; at least one is made.
const SECONDS: f64 = 1.5;

/// One operation's row.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelRow {
    /// The operation.
    pub name: &'static str,
    /// Its sizes.
    pub shape: String,
    /// Multiplications and additions.
    pub flop: f64,
    /// Bytes that must be moved at least.
    pub bytes: f64,
    /// The best time.
    pub seconds: f64,
    /// The best time of stock burn.
    pub stock_seconds: Option<f64>,
}

impl KernelRow {
    /// 10⁹ operations a second.
    pub fn gflops(&self) -> f64 {
        self.flop / self.seconds / 1e9
    }

    /// The same of stock burn.
    pub fn stock_gflops(&self) -> Option<f64> {
        self.stock_seconds.map(|seconds| self.flop / seconds / 1e9)
    }
}

/// Times some operations.
type Part<'a> = fn(&mut Table<'a>);

/// Times every operation.
pub(super) fn measure<'a>(
    device: &'a Device,
    options: &Options,
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<KernelRow>> {
    let shape = options.shape;
    let mut table = Table {
        device,
        shape,
        rounds: options.rounds,
        with_stock: options.with_stock,
        rows: Vec::new(),
    };
    let parts: [(&str, Part<'a>); 7] = [
        ("products", Table::products),
        ("weights in few bits", Table::packed),
        ("LoRA", Table::lora),
        ("rows", Table::rows),
        ("attention", Table::attention),
        ("both ends", Table::ends),
        ("updates", Table::updates),
    ];
    for (name, part) in parts {
        tell(&format!("kernels: {name}"));
        part(&mut table);
        device.check()?;
    }
    Ok(table.rows)
}

struct Table<'a> {
    device: &'a Device,
    shape: Shape,
    rounds: Option<usize>,
    with_stock: bool,
    rows: Vec<KernelRow>,
}

/// Operations and bytes of a call.
#[derive(Clone, Copy)]
struct Cost {
    flop: f64,
    bytes: f64,
}

impl Cost {
    /// Of an operation that reads or writes so many f32 and computes so much.
    fn new(flop: usize, numbers: usize) -> Self {
        Self { flop: flop as f64, bytes: 4.0 * numbers as f64 }
    }
}

/// Runs an operation in place on what `slot` holds.
fn in_place<T>(slot: &mut Option<T>, run: impl FnOnce(T) -> T) {
    *slot = slot.take().map(run);
}

impl Table<'_> {
    /// Times ours and stock's in turns, after one turn that does not count.
    fn row(
        &mut self,
        (name, shape): (&'static str, String),
        cost: Cost,
        mut ours: impl FnMut(),
        stock: Option<&mut dyn FnMut()>,
    ) {
        let mut stock = stock.filter(|_| self.with_stock);
        let mut turn = || {
            let ((), ours) = timed(self.device, &mut ours);
            let stock = stock.as_mut().map(|stock| timed(self.device, stock).1);
            (ours, stock)
        };
        turn();
        let begin = Instant::now();
        let (mut seconds, mut stock_seconds) = (f64::INFINITY, None::<f64>);
        for round in 1.. {
            let (ours, stock) = turn();
            seconds = seconds.min(ours);
            stock_seconds = stock.map(|s| stock_seconds.map_or(s, |best| best.min(s)));
            let is_over = round >= ROUNDS || begin.elapsed().as_secs_f64() > SECONDS;
            if self.rounds.map_or(is_over, |rounds| round >= rounds) {
                break;
            }
        }
        let Cost { flop, bytes } = cost;
        self.rows.push(KernelRow { name, shape, flop, bytes, seconds, stock_seconds });
    }

    fn host(shape: [usize; 2]) -> Vec<f32> {
        (0..shape[0] * shape[1]).map(|i| (i as f32 * 0.7).sin()).collect()
    }

    fn matrix(&self, shape: [usize; 2]) -> Matrix {
        Matrix::from_host(Self::host(shape), shape, self.device, Activations)
    }

    fn indices(&self, values: &[i32]) -> Indices {
        Indices::from_host(values, self.device, Activations)
    }

    fn stock<const D: usize>(&self, shape: [usize; 2], as_shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(Self::host(shape), as_shape);
        Tensor::from_data(data, self.device.tensor_device())
    }

    fn products(&mut self) {
        let tokens = self.shape.tokens();
        let mut sizes: Vec<[usize; 2]> =
            block_linears(&self.shape.model()).iter().map(|&(_, m, n)| [m, n]).collect();
        sizes.push([self.shape.vocab, self.shape.dim]);
        sizes.sort_unstable();
        sizes.dedup();
        for [m, n] in sizes {
            let calls = [
                ("linear y", Layout::Nt, [tokens, n], [m, n]),
                ("linear dx", Layout::Nn, [tokens, m], [m, n]),
                ("linear dW", Layout::Tn, [tokens, m], [tokens, n]),
            ];
            for (name, layout, a_shape, b_shape) in calls {
                let (a, b) = (self.matrix(a_shape), self.matrix(b_shape));
                let (x, y) = (self.stock(a_shape, a_shape), self.stock(b_shape, b_shape));
                let mut stock = || {
                    let (x, y): (Tensor<2>, Tensor<2>) = (x.clone(), y.clone());
                    let x = if layout == Layout::Tn { x.transpose() } else { x };
                    let y = if layout == Layout::Nt { y.transpose() } else { y };
                    drop(x.matmul(y));
                };
                let cost = Cost::new(2 * tokens * m * n, tokens * (m + n) + m * n);
                let label = (name, format!("{tokens} x {n} -> {m}"));
                self.row(label, cost, || drop(matmul(layout, &a, &b)), Some(&mut stock));
            }
        }
    }

    fn lora(&mut self) {
        let Shape { dim: n, ffn: m, .. } = self.shape;
        let (tokens, rank) = (self.shape.tokens(), self.shape.rank);
        let sizes = [[tokens, n], [tokens, m], [m, n], [rank, n], [m, rank]];
        let [x, dy, w, a, b] = sizes.map(|shape| self.matrix(shape));
        let [sx, _, sw, sa, sb] = sizes.map(|shape| self.stock::<2>(shape, shape));
        let (h, g) = (self.matrix([tokens, rank]), self.matrix([tokens, rank]));
        let label = |name| (name, format!("{tokens} x {n} -> {m}, rank {rank}"));
        let thin = 2 * tokens * rank * (m + n);
        let factors = rank * (m + n) + tokens * rank;
        let cost = || Cost::new(2 * tokens * m * n + thin, tokens * (m + n) + m * n + factors);
        let mut stock = || {
            let low = sx.clone().matmul(sa.clone().transpose()).matmul(sb.clone().transpose());
            drop(sx.clone().matmul(sw.clone().transpose()) + low * 0.5);
        };
        let run = || drop(lora_linear(&x, Some(&w), &a, &b, 0.5));
        self.row(label("lora y"), cost(), run, Some(&mut stock));
        let run = || drop(lora_input_grad(None, &dy, Some(&w), &a, &b, 0.5));
        self.row(label("lora dx"), cost(), run, None);
        let run = || drop(lora_factor_grads(None, &x, &dy, &h, &g, 0.5));
        let cost = Cost::new(thin, tokens * (m + n + 2 * rank) + rank * (m + n));
        self.row(label("lora dA dB"), cost, run, None);
    }

    fn rows(&mut self) {
        let (tokens, width) = (self.shape.tokens(), self.shape.dim);
        let shape = [tokens, width];
        let size = tokens * width;
        let label = |name| (name, format!("{tokens} x {width}"));
        let (x, dy, gain) = (self.matrix(shape), self.matrix(shape), self.matrix([1, width]));
        let (sx, sgain) = (self.stock(shape, shape), self.stock([1, width], [1, width]));
        let mut stock = || {
            let x: Tensor<2> = sx.clone();
            let mean = (x.clone() * x.clone()).mean_dim(1);
            drop(x * (mean + 1e-5).sqrt().recip() * sgain.clone());
        };
        let run = || drop(rms_norm(&x, &gain, 1e-5));
        self.row(label("rms_norm"), Cost::new(4 * size, 2 * size), run, Some(&mut stock));
        let mut sum = Some(self.matrix(shape));
        let run = || in_place(&mut sum, |sum| add_rms_norm(&x, sum, &gain, 1e-5).0);
        self.row(label("add_rms_norm"), Cost::new(5 * size, 4 * size), run, None);
        let (_, rstd) = rms_norm(&x, &gain, 1e-5);
        let mut state = Some((self.matrix(shape), self.matrix([1, width])));
        let run = || {
            in_place(&mut state, |(dx, acc)| {
                let (dx, acc) = rms_norm_backward(dx, &dy, &x, &gain, &rstd, Some(acc));
                (dx, acc.unwrap_or_else(|| unreachable!("it was given")))
            });
        };
        self.row(label("rms_norm_backward"), Cost::new(10 * size, 4 * size), run, None);

        let (seq, half) = (self.shape.seq, width / self.shape.heads / 2);
        let (cos, sin) = (self.matrix([seq, half]), self.matrix([seq, half]));
        let positions: Vec<i32> = (0..tokens).map(|token| (token % seq) as i32).collect();
        let positions = self.indices(&positions);
        let mut slot = Some(self.matrix(shape));
        let run = || in_place(&mut slot, |x| rope(x, &positions, &cos, &sin, Rotation::Forward));
        self.row(label("rope"), Cost::new(3 * size, 2 * size), run, None);

        let shape = [tokens, self.shape.ffn];
        let size = shape[0] * shape[1];
        let label = |name| (name, format!("{} x {}", shape[0], shape[1]));
        let (gate, up) = (self.matrix(shape), self.matrix(shape));
        let (sgate, sup) = (self.stock(shape, shape), self.stock(shape, shape));
        let mut stock = || drop(activation::silu::<2>(sgate.clone()) * sup.clone());
        let run = || drop(swiglu(&gate, &up));
        self.row(label("swiglu"), Cost::new(5 * size, 3 * size), run, Some(&mut stock));
        let mut slot = Some((self.matrix(shape), gate, up));
        let run = || {
            in_place(&mut slot, |(dh, gate, up)| {
                let (d_gate, d_up, h) = swiglu_backward(dh, gate, up);
                (h, d_gate, d_up)
            });
        };
        self.row(label("swiglu_backward"), Cost::new(12 * size, 6 * size), run, None);
    }

    fn attention(&mut self) {
        let Shape { batch, seq, heads, dim, .. } = self.shape;
        let (tokens, head_dim) = (self.shape.tokens(), dim / heads);
        let shape =
            AttentionShape { batch, queries: seq, keys: seq, heads, kv_heads: heads, head_dim };
        let size = [tokens, dim];
        let [q, k, v, d_out] = [(); 4].map(|()| self.matrix(size));
        let (out, lse) = attention(&q, &k, &v, shape);
        // One product over the pairs that the causal mask leaves: two of them forward, five backward.
        let product = batch * dim * seq * (seq + 1);
        let [sq, sk, sv] =
            [(); 3].map(|()| self.stock(size, [batch, seq, heads, head_dim]).swap_dims(1, 2));
        let mut stock = || {
            let scores = sq.clone().matmul(sk.clone().transpose()) / (head_dim as f64).sqrt();
            let weights: Tensor<4> = activation::softmax(scores, 3);
            drop(weights.matmul(sv.clone()));
        };
        let label = |name| (name, format!("{batch} x {seq}, {heads} heads of {head_dim}"));
        let run = || drop(attention(&q, &k, &v, shape));
        let numbers = tokens * dim;
        self.row(label("attention"), Cost::new(2 * product, 4 * numbers), run, Some(&mut stock));
        let run = || drop(attention_backward(&d_out, &q, &k, &v, &out, &lse, shape));
        self.row(label("attention_backward"), Cost::new(5 * product, 8 * numbers), run, None);
    }

    fn ends(&mut self) {
        let (tokens, width, vocabulary) = (self.shape.tokens(), self.shape.dim, self.shape.vocab);
        let (hidden, head) = (self.matrix([tokens, width]), self.matrix([vocabulary, width]));
        let ids: Vec<i32> = (0..tokens).map(|token| (token * 37 % vocabulary) as i32).collect();
        let mut order: Vec<i32> = (0..tokens as i32).collect();
        order.sort_by_key(|&token| (ids[token as usize], token));
        let (targets, order) = (self.indices(&ids), self.indices(&order));
        let device = self.device;
        let zero = || Vector::zeros([1], device, Activations);
        let sh: Tensor<2> = self.stock([tokens, width], [tokens, width]);
        let sw: Tensor<2> = self.stock([vocabulary, width], [vocabulary, width]);
        let mut stock = || {
            let logits = sh.clone().matmul(sw.clone().transpose());
            let p = activation::softmax(logits, 1);
            drop(p.clone().matmul(sw.clone()));
            drop(p.transpose().matmul(sh.clone()));
        };
        let mut d_head = Some(self.matrix([vocabulary, width]));
        let run = || {
            in_place(&mut d_head, |d_head| {
                let grad = HeadGrad::Into(d_head);
                let loss = cross_entropy(zero(), &hidden, &head, &targets, 1e-3, grad);
                loss.d_head.unwrap_or_else(|| unreachable!("it was given"))
            });
        };
        let label = |name| (name, format!("{tokens} x {width} -> {vocabulary}"));
        let product = 2 * tokens * width * vocabulary;
        let numbers = 2 * tokens * width + 3 * vocabulary * width;
        let cost = Cost::new(3 * product, numbers);
        self.row(label("cross_entropy"), cost, run, Some(&mut stock));
        let size = tokens * width;
        let run = || drop(embedding(&targets, &head));
        self.row(label("embedding"), Cost::new(0, 2 * size), run, None);
        let mut acc = Some(self.matrix([vocabulary, width]));
        let run = || in_place(&mut acc, |acc| embedding_grad(acc, &hidden, &targets, &order));
        self.row(label("embedding_grad"), Cost::new(size, 3 * size), run, None);
    }

    fn updates(&mut self) {
        let Shape { dim, ffn, vocab, rank, .. } = self.shape;
        let hyper = AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            form: AdamForm::Torch,
        };
        let one = Vector::from_host(vec![1.0], [1], self.device, Activations);
        for shape in [[vocab, dim], [ffn, dim], [rank, ffn]] {
            let size = shape[0] * shape[1];
            let label = |name| (name, format!("{} x {}", shape[0], shape[1]));
            let grad = self.matrix(shape);
            let zeros = || Matrix::zeros(shape, self.device, Activations);
            let mut state = Some((self.matrix(shape), zeros(), zeros()));
            let run = || in_place(&mut state, |s| adamw(s.0, &grad, &one, s.1, s.2, hyper, 3));
            let [sp, sg, sm, sv]: [Tensor<2>; 4] = [(); 4].map(|()| self.stock(shape, shape));
            let mut stock = || {
                let m = sm.clone() * 0.9 + sg.clone() * 0.1;
                let v = sv.clone() * 0.999 + sg.clone() * sg.clone() * 0.001;
                drop(sp.clone() * 0.999_99 - m / (v.sqrt() * 20.0 + 1e-8) * 1e-3);
            };
            self.row(label("adamw"), Cost::new(12 * size, 7 * size), run, Some(&mut stock));
            let mut acc = Some(Vector::zeros([1], self.device, Activations));
            let run = || in_place(&mut acc, |acc| add_sum_squares(acc, &grad));
            let mut stock = || drop((sg.clone() * sg.clone()).sum());
            let cost = Cost::new(2 * size, size);
            self.row(label("add_sum_squares"), cost, run, Some(&mut stock));
        }
        let rank = rank.min(dim).min(ffn);
        // A pool has more rows than a factor, and both have two to exchange.
        let pool = dim.min(ffn);
        if rank < 2 || pool < 4 {
            return;
        }
        let mut state = Some((
            self.matrix([ffn, dim]),
            self.matrix([rank, dim]),
            self.matrix([ffn, rank]),
            [self.matrix([pool, dim]), self.matrix([pool, ffn])],
        ));
        let exchange = |vectors| Exchange { vectors, from: &[0], to: &[2] };
        let plan = Switch { a: exchange(&[0]), b: exchange(&[1]), scale: 1e-3 };
        let run = || {
            in_place(&mut state, |(w, a, b, pools)| {
                let Switched { w, a, b, pools, .. } = switch(w, a, b, pools, &plan);
                (w, a, b, pools)
            });
        };
        let size = ffn * dim;
        let label = ("switch", format!("1 and 1 of {rank} of {ffn} x {dim}"));
        self.row(label, Cost::new(4 * size, 2 * size), run, None);
    }
}
