//! Milliseconds of the sequence operations on a wgpu adapter at the reference shape (batch 8, 256 tokens, 4
//! heads of 64, width 256, ffn 688, vocabulary 4096): `cargo bench --bench gpu_sequence [FILTER]`. Takes the
//! software adapter, or what `FULLRANK_BENCH_DEVICE` names. Times are minima over repetitions.
#![allow(missing_docs, clippy::print_stdout, clippy::expect_used)]

use std::time::Instant;

use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward};
use fullrank::kernels::embedding::{embedding, embedding_grad};
use fullrank::kernels::loss::{HeadGrad, cross_entropy, token_losses};
use fullrank::kernels::norm::{
    add_residual, add_rms_norm, rms_norm, rms_norm_apply, rms_norm_backward,
};
use fullrank::kernels::rope::{Rotation, rope};
use fullrank::kernels::swiglu::{swiglu, swiglu_backward};
use fullrank::kernels::{Indices, Matrix, Vector};

const TOKENS: usize = 2048;
const WIDTH: usize = 256;
const FFN: usize = 688;
const VOCABULARY: usize = 4096;
const REPETITIONS: usize = 3;
const RUNS: usize = 3;

struct Bench {
    device: Device,
    filter: String,
}

impl Bench {
    fn matrix(&self, shape: [usize; 2]) -> Matrix {
        let values = (0..shape[0] * shape[1]).map(|i| (i as f32 * 0.7).sin()).collect();
        Matrix::from_host(values, shape, &self.device, Activations)
    }

    /// Waits for the device: a read comes after all that was queued before.
    fn wait(&self) {
        Vector::zeros([1], &self.device, Activations).to_host();
    }

    /// Prints one line. `bytes` counts each operand read or written once.
    fn line(&self, name: &str, bytes: f64, mut run: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        run();
        self.wait();
        let (mut best, mut best_cpu) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..REPETITIONS {
            let (start, cpu) = (Instant::now(), cpu_seconds());
            for _ in 0..RUNS {
                run();
            }
            self.wait();
            best = best.min(start.elapsed().as_secs_f64() / RUNS as f64);
            best_cpu = best_cpu.min((cpu_seconds() - cpu) / RUNS as f64);
        }
        let rate = bytes / best / 1e9;
        println!(
            "{name:<24} {:9.3} ms  {rate:7.2} GB/s {:9.3} ms of CPU",
            best * 1e3,
            best_cpu * 1e3
        );
    }
}

/// CPU time of all threads so far, which other processes on the machine disturb less; 0 where there is no
/// `/proc`.
fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let line = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        line.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

fn main() {
    let choice = std::env::var("FULLRANK_BENCH_DEVICE").unwrap_or_else(|_| "software".into());
    let device = Device::open(&choice, None).expect("an adapter");
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let bench = Bench { device, filter };
    rows(&bench);
    attentions(&bench);
    tokens(&bench);
}

fn rows(bench: &Bench) {
    let shape = [TOKENS, WIDTH];
    let (x, dy, gain) = (bench.matrix(shape), bench.matrix(shape), bench.matrix([1, WIDTH]));
    let bytes = (TOKENS * WIDTH * 4) as f64;
    let (_, rstd) = rms_norm(&x, &gain, 1e-5);
    let mut sum = Some(bench.matrix(shape));
    bench.line("add_residual", 3.0 * bytes, || sum = sum.take().map(|sum| add_residual(&x, sum)));
    bench.line("rms_norm", 2.0 * bytes, || drop(rms_norm(&x, &gain, 1e-5)));
    bench.line("add_rms_norm", 4.0 * bytes, || {
        sum = sum.take().map(|sum| add_rms_norm(&x, sum, &gain, 1e-5).0);
    });
    bench.line("rms_norm_apply", 2.0 * bytes, || drop(rms_norm_apply(&x, &gain, &rstd)));
    bench.line("rms_norm_backward", 4.0 * bytes, || {
        sum = sum.take().map(|sum| rms_norm_backward(sum, &dy, &x, &gain, &rstd, None).0);
    });
    let mut acc = Some(bench.matrix([1, WIDTH]));
    bench.line("rms_norm_backward gain", 6.0 * bytes, || {
        let (new, grad) =
            rms_norm_backward(sum.take().expect("a sum"), &dy, &x, &gain, &rstd, acc.take());
        (sum, acc) = (Some(new), grad);
    });
    let ids: Vec<i32> = (0..TOKENS).map(|t| (t % 256) as i32).collect();
    let positions = Indices::from_host(&ids, &bench.device, Activations);
    let (cos, sin) = (bench.matrix([256, 32]), bench.matrix([256, 32]));
    bench.line("rope", 2.0 * bytes, || {
        sum = sum.take().map(|sum| rope(sum, &positions, &cos, &sin, Rotation::Forward));
    });
    let bytes = (TOKENS * FFN * 4) as f64;
    let (gate, up) = (bench.matrix([TOKENS, FFN]), bench.matrix([TOKENS, FFN]));
    bench.line("swiglu", 3.0 * bytes, || drop(swiglu(&gate, &up)));
    let mut all = Some((bench.matrix([TOKENS, FFN]), gate, up));
    bench.line("swiglu_backward", 6.0 * bytes, || {
        let (dh, gate, up) = all.take().expect("operands");
        let (gate, up, dh) = swiglu_backward(dh, gate, up);
        all = Some((dh, gate, up));
    });
}

fn attentions(bench: &Bench) {
    let shape =
        AttentionShape { batch: 8, queries: 256, keys: 256, heads: 4, kv_heads: 4, head_dim: 64 };
    let bytes = (TOKENS * WIDTH * 4) as f64;
    let [q, k, v, d_out] = [(); 4].map(|()| bench.matrix([TOKENS, WIDTH]));
    let (out, lse) = attention(&q, &k, &v, shape);
    bench.line("attention", 4.0 * bytes, || drop(attention(&q, &k, &v, shape)));
    bench.line("attention_backward", 8.0 * bytes, || {
        drop(attention_backward(&d_out, &q, &k, &v, &out, &lse, shape));
    });
}

fn tokens(bench: &Bench) {
    let table = bench.matrix([VOCABULARY, WIDTH]);
    let ids: Vec<i32> = (0..TOKENS).map(|t| ((t * t * 31) % 1000) as i32).collect();
    let mut order: Vec<i32> = (0..TOKENS as i32).collect();
    order.sort_by_key(|&t| (ids[t as usize], t));
    let on_device = Indices::from_host(&ids, &bench.device, Activations);
    let order = Indices::from_host(&order, &bench.device, Activations);
    let bytes = (TOKENS * WIDTH * 4) as f64;
    bench.line("embedding", 2.0 * bytes, || drop(embedding(&on_device, &table)));
    let dx = bench.matrix([TOKENS, WIDTH]);
    let mut acc = Some(bench.matrix([VOCABULARY, WIDTH]));
    bench.line("embedding_grad", 3.0 * bytes, || {
        acc = acc.take().map(|acc| embedding_grad(acc, &dx, &on_device, &order));
    });
    let logits = (TOKENS * VOCABULARY * 4) as f64;
    bench.line("token_losses", logits, || drop(token_losses(&dx, &table, &on_device)));
    bench.line("cross_entropy", 3.0 * logits, || {
        let zero = Vector::zeros([1], &bench.device, Activations);
        let into = HeadGrad::Into(acc.take().expect("a gradient"));
        acc = cross_entropy(zero, &dx, &table, &on_device, 1.0, into).d_head;
    });
}
