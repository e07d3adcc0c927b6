//! The operations of a step, each alone at the step's sizes: how often a step runs it, how long it takes,
//! and its arithmetic speed. The sums are what a step costs when its operations do not disturb each other.

use std::time::Instant;

use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward};
use fullrank::kernels::embedding::{embedding, embedding_grad};
use fullrank::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use fullrank::kernels::loss::{HeadGrad, cross_entropy};
use fullrank::kernels::matmul::{Layout, matmul};
use fullrank::kernels::norm::{
    add_residual, add_rms_norm, rms_norm, rms_norm_apply, rms_norm_backward,
};
use fullrank::kernels::rope::{Rotation, rope};
use fullrank::kernels::swiglu::{swiglu, swiglu_backward};
use fullrank::kernels::update::{AdamForm, AdamW, adamw, add_sum_squares};
use fullrank::kernels::{Indices, Matrix, Vector};
use fullrank::model::ModelConfig;
use fullrank::model::config::block_linears;
use fullrank::random::stream;

/// Which steps run an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Both,
    Full,
    Lora,
}

struct Row {
    name: &'static str,
    shape: String,
    step: Step,
    /// Calls in a step.
    count: usize,
    /// The best call.
    seconds: f64,
    /// Multiplications and additions of a call; 0 where bandwidth is what counts.
    flop: f64,
    /// Bytes that a call must move at least; 0 where arithmetic is what counts.
    bytes: f64,
}

struct Table {
    device: Device,
    rounds: usize,
    rows: Vec<Row>,
}

/// Prints the table of a step of `batch` sequences of `seq` tokens.
pub fn run(config: &ModelConfig, batch: usize, seq: usize, rank: usize, rounds: usize) {
    let mut table = Table { device: Device::cpu(), rounds, rows: Vec::new() };
    table.linears(config, batch * seq, rank);
    table.attention(config, batch, seq);
    table.norms(config, batch * seq);
    table.mlp(config, batch * seq);
    table.ends(config, batch * seq);
    table.updates(config, rank);
    table.print();
}

impl Table {
    /// Times `run` on what `make` makes; neither `make` nor the end of the result is timed.
    fn time<I, O>(
        &mut self,
        (name, step, count): (&'static str, Step, usize),
        shape: String,
        (flop, bytes): (f64, f64),
        make: impl Fn() -> I,
        run: impl Fn(I) -> O,
    ) {
        let mut seconds = f64::INFINITY;
        for _ in 0..=self.rounds {
            let input = make();
            let begin = Instant::now();
            let output = run(input);
            seconds = seconds.min(begin.elapsed().as_secs_f64());
            drop(output);
        }
        self.rows.push(Row { name, shape, step, count, seconds, flop, bytes });
    }

    fn matrix(&self, rows: usize, columns: usize) -> Matrix {
        matrix(&self.device, rows, columns)
    }

    fn indices(&self, values: &[i32]) -> Indices {
        Indices::from_host(values, &self.device, Category::Activations)
    }

    fn one(&self, value: f32) -> Vector {
        Vector::from_host(vec![value], [1], &self.device, Category::Activations)
    }

    fn linears(&mut self, config: &ModelConfig, tokens: usize, rank: usize) {
        let mut shapes: Vec<(usize, usize, usize)> = Vec::new();
        for (_, m, n) in block_linears(config) {
            match shapes.iter_mut().find(|shape| (shape.0, shape.1) == (m, n)) {
                Some(shape) => shape.2 += config.num_hidden_layers,
                None => shapes.push((m, n, config.num_hidden_layers)),
            }
        }
        for (m, n, count) in shapes {
            let r = rank.min(m).min(n);
            let (x, dy, w) = (self.matrix(tokens, n), self.matrix(tokens, m), self.matrix(m, n));
            let (a, b) = (self.matrix(r, n), self.matrix(m, r));
            let (h, g) = (self.matrix(tokens, r), self.matrix(tokens, r));
            let shape = format!("[{tokens},{n}] x [{m},{n}]");
            let dense = 2.0 * (tokens * m * n) as f64;
            let thin = 2.0 * (tokens * r * (m + n)) as f64;
            let full = |name| (name, Step::Full, count);
            let lora = |name| (name, Step::Lora, count);
            let none = || ();
            self.time(full("linear y"), shape.clone(), (dense, 0.0), none, |()| {
                matmul(Layout::Nt, &x, &w)
            });
            self.time(full("linear dx"), shape.clone(), (dense, 0.0), none, |()| {
                matmul(Layout::Nn, &dy, &w)
            });
            self.time(full("linear dW"), shape.clone(), (dense, 0.0), none, |()| {
                matmul(Layout::Tn, &dy, &x)
            });
            self.time(lora("lora y"), shape.clone(), (dense + thin, 0.0), none, |()| {
                lora_linear(&x, Some(&w), &a, &b, 0.5)
            });
            self.time(lora("lora dx"), shape.clone(), (dense + thin, 0.0), none, |()| {
                lora_input_grad(None, &dy, Some(&w), &a, &b, 0.5)
            });
            self.time(lora("lora dA dB"), shape, (thin, 0.0), none, |()| {
                lora_factor_grads(None, &x, &dy, &h, &g, 0.5)
            });
        }
    }

    fn attention(&mut self, config: &ModelConfig, batch: usize, seq: usize) {
        let layers = config.num_hidden_layers;
        let (heads, kv_heads, head_dim) =
            (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let tokens = batch * seq;
        let (q, k) =
            (self.matrix(tokens, heads * head_dim), self.matrix(tokens, kv_heads * head_dim));
        let v = self.matrix(tokens, kv_heads * head_dim);
        let shape = AttentionShape { batch, queries: seq, keys: seq, heads, kv_heads, head_dim };
        let label = format!("B{batch} T{seq} H{heads} D{head_dim}");
        // Two products forward and five backward, over the pairs that the causal mask leaves.
        let product = 2.0 * (batch * heads * head_dim) as f64 * (seq * (seq + 1) / 2) as f64;
        let forward = ("attention", Step::Both, layers);
        self.time(
            forward,
            label.clone(),
            (2.0 * product, 0.0),
            || (),
            |()| attention(&q, &k, &v, shape),
        );
        let (out, lse) = attention(&q, &k, &v, shape);
        let dy = self.matrix(tokens, heads * head_dim);
        let backward = ("attention backward", Step::Both, layers);
        self.time(
            backward,
            label,
            (5.0 * product, 0.0),
            || (),
            |()| attention_backward(&dy, &q, &k, &v, &out, &lse, shape),
        );

        let positions: Vec<i32> = (0..tokens).map(|i| (i % seq) as i32).collect();
        let positions = self.indices(&positions);
        let (cos, sin) = (self.matrix(seq, head_dim / 2), self.matrix(seq, head_dim / 2));
        let device = self.device.clone();
        let width = heads * head_dim;
        let make = || matrix(&device, tokens, width);
        let moved = moved(2 * tokens * width);
        self.time(
            ("rope", Step::Both, 4 * layers),
            format!("[{tokens},{width}]"),
            moved,
            make,
            |x| rope(x, &positions, &cos, &sin, Rotation::Forward),
        );
    }

    fn norms(&mut self, config: &ModelConfig, tokens: usize) {
        let (layers, width) = (config.num_hidden_layers, config.hidden_size);
        let size = tokens * width;
        let (x, dy, gain) =
            (self.matrix(tokens, width), self.matrix(tokens, width), self.matrix(1, width));
        let device = self.device.clone();
        let make = || matrix(&device, tokens, width);
        let shape = format!("[{tokens},{width}]");
        let eps = 1e-6;
        let both = |name, count| (name, Step::Both, count);
        self.time(
            both("rms_norm", layers + 1),
            shape.clone(),
            moved(2 * size),
            || (),
            |()| rms_norm(&x, &gain, eps),
        );
        self.time(both("add_rms_norm", layers), shape.clone(), moved(4 * size), make, |delta| {
            add_rms_norm(&x, delta, &gain, eps)
        });
        self.time(both("add_residual", layers), shape.clone(), moved(3 * size), make, |delta| {
            add_residual(&x, delta)
        });
        let (_, rstd) = rms_norm(&x, &gain, eps);
        self.time(
            both("rms_norm_apply", 2 * layers),
            shape.clone(),
            moved(2 * size),
            || (),
            |()| rms_norm_apply(&x, &gain, &rstd),
        );
        let make = || (matrix(&device, tokens, width), matrix(&device, 1, width));
        let backward = both("rms_norm_backward", 2 * layers + 1);
        self.time(backward, shape, moved(4 * size), make, |(bypass, acc)| {
            rms_norm_backward(bypass, &dy, &x, &gain, &rstd, Some(acc))
        });
    }

    fn mlp(&mut self, config: &ModelConfig, tokens: usize) {
        let (layers, width) = (config.num_hidden_layers, config.intermediate_size);
        let (gate, up) = (self.matrix(tokens, width), self.matrix(tokens, width));
        let device = self.device.clone();
        let shape = format!("[{tokens},{width}]");
        let size = tokens * width;
        self.time(
            ("swiglu", Step::Both, layers),
            shape.clone(),
            moved(3 * size),
            || (),
            |()| swiglu(&gate, &up),
        );
        let make = || {
            let fresh = || matrix(&device, tokens, width);
            (fresh(), fresh(), fresh())
        };
        let backward = ("swiglu_backward", Step::Both, layers);
        self.time(backward, shape, moved(6 * size), make, |(dh, gate, up)| {
            swiglu_backward(dh, gate, up)
        });
    }

    fn ends(&mut self, config: &ModelConfig, tokens: usize) {
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let mut draws = stream(0, "ids", "bench", 0);
        let ids: Vec<i32> = (0..tokens).map(|_| draws.below(vocab as u64) as i32).collect();
        let mut order: Vec<i32> = (0..tokens as i32).collect();
        order.sort_by_key(|&position| (ids[position as usize], position));
        let (ids, order) = (self.indices(&ids), self.indices(&order));
        let (table, hidden) = (self.matrix(vocab, width), self.matrix(tokens, width));
        let device = self.device.clone();
        let one = |name| (name, Step::Both, 1);
        let shape = format!("[{tokens},{width}] x [{vocab},{width}]");
        // Logits, their gradient times the head, and the head's gradient.
        let flop = 6.0 * (tokens * vocab * width) as f64;
        let zero = self.one(0.0);
        let make =
            || (zero.duplicate(&device, Category::Activations), matrix(&device, vocab, width));
        self.time(one("cross_entropy"), shape.clone(), (flop, 0.0), make, |(loss, acc)| {
            cross_entropy(loss, &hidden, &table, &ids, 1e-3, HeadGrad::Into(acc))
        });
        self.time(
            one("embedding"),
            shape.clone(),
            moved(2 * tokens * width),
            || (),
            |()| embedding(&ids, &table),
        );
        let make = || matrix(&device, vocab, width);
        self.time(one("embedding_grad"), shape, moved(3 * tokens * width), make, |acc| {
            embedding_grad(acc, &hidden, &ids, &order)
        });
    }

    fn updates(&mut self, config: &ModelConfig, rank: usize) {
        let layers = config.num_hidden_layers;
        let mut tensors = vec![(Step::Both, 2, config.vocab_size, config.hidden_size)];
        for (_, m, n) in block_linears(config) {
            let r = rank.min(m).min(n);
            tensors.extend([
                (Step::Full, layers, m, n),
                (Step::Lora, layers, r, n),
                (Step::Lora, layers, m, r),
            ]);
        }
        let mut merged: Vec<(Step, usize, usize, usize)> = Vec::new();
        for (step, count, m, n) in tensors {
            match merged.iter_mut().find(|other| (other.0, other.2, other.3) == (step, m, n)) {
                Some(other) => other.1 += count,
                None => merged.push((step, count, m, n)),
            }
        }
        let hyper = AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            form: AdamForm::Torch,
        };
        let (clip, device) = (self.one(1.0), self.device.clone());
        for (step, count, m, n) in merged {
            let grad = self.matrix(m, n);
            let shape = format!("[{m},{n}]");
            let make = || {
                let zeros = || Matrix::zeros([m, n], &device, Category::Optimizer);
                (matrix(&device, m, n), zeros(), zeros())
            };
            self.time(
                ("adamw", step, count),
                shape.clone(),
                moved(7 * m * n),
                make,
                |(p, m, v)| adamw(p, &grad, &clip, m, v, hyper, 1),
            );
            let zero = self.one(0.0);
            let make = || zero.duplicate(&device, Category::Activations);
            self.time(("sum of squares", step, count), shape, moved(m * n), make, |acc| {
                add_sum_squares(acc, &grad)
            });
        }
    }

    #[allow(clippy::print_stdout, reason = "a benchmark prints its table")]
    fn print(&self) {
        println!(
            "{:<20}{:<28}{:>6}{:>7}{:>11}{:>12}{:>9}{:>9}",
            "operation", "shape", "step", "calls", "ms a call", "ms a step", "GFLOP/s", "GB/s"
        );
        for row in &self.rows {
            let rate = |amount: f64| match amount {
                0.0 => "-".into(),
                _ => format!("{:.1}", amount / row.seconds / 1e9),
            };
            let step = match row.step {
                Step::Both => "both",
                Step::Full => "full",
                Step::Lora => "lora",
            };
            println!(
                "{:<20}{:<28}{step:>6}{:>7}{:>11.3}{:>12.2}{:>9}{:>9}",
                row.name,
                row.shape,
                row.count,
                row.seconds * 1e3,
                row.seconds * 1e3 * row.count as f64,
                rate(row.flop),
                rate(row.bytes)
            );
        }
        for (step, name) in [(Step::Full, "full"), (Step::Lora, "lora")] {
            let rows = self.rows.iter().filter(|row| row.step == step || row.step == Step::Both);
            let seconds: f64 = rows.map(|row| row.seconds * row.count as f64).sum();
            println!("sum of a {name} step: {:.1} ms", seconds * 1e3);
        }
    }
}

fn matrix(device: &Device, rows: usize, columns: usize) -> Matrix {
    let values = stream(0, "operand", "bench", 0).symmetric_vec(rows * columns, 0.1);
    Matrix::from_host(values, [rows, columns], device, Category::Activations)
}

/// An operation that moves so many f32.
fn moved(elements: usize) -> (f64, f64) {
    (0.0, 4.0 * elements as f64)
}
