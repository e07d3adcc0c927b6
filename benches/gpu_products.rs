//! Matrix products on the GPU beside burn's on the same device, at the shapes of a training step (2048 tokens,
//! width 256, ffn 688, vocabulary 4096, rank 64), turn by turn in one process:
//!
//! ```text
//! cargo bench --bench gpu_products                # the first GPU, or a software adapter
//! cargo bench --bench gpu_products -- gpu:0 TN    # a device as in `--device`, and a part of the names
//! ```
//!
//! Times are minima: other jobs only ever slow a product down.
#![allow(missing_docs, clippy::print_stdout)]

use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::error::Result;
use fullrank::kernels::Matrix;
use fullrank::kernels::lora::{lora_input_grad, lora_linear};
use fullrank::kernels::matmul::{Layout, matmul};

const TOKENS: usize = 2048;
const ROUNDS: usize = 7;

/// `(M, N, K)`.
const NT: [(usize, usize, usize); 8] = [
    (TOKENS, 256, 256),
    (TOKENS, 688, 256),
    (TOKENS, 256, 688),
    (TOKENS, 4096, 256),
    (TOKENS, 64, 256),
    (TOKENS, 64, 688),
    (TOKENS, 256, 64),
    (TOKENS, 688, 64),
];
const NN: [(usize, usize, usize); 8] = [
    (TOKENS, 256, 256),
    (TOKENS, 256, 688),
    (TOKENS, 688, 256),
    (TOKENS, 256, 4096),
    (TOKENS, 64, 256),
    (TOKENS, 64, 688),
    (TOKENS, 256, 64),
    (TOKENS, 688, 64),
];
const TN: [(usize, usize, usize); 8] = [
    (256, 256, TOKENS),
    (688, 256, TOKENS),
    (256, 688, TOKENS),
    (4096, 256, TOKENS),
    (64, 256, TOKENS),
    (256, 64, TOKENS),
    (64, 688, TOKENS),
    (688, 64, TOKENS),
];

fn main() -> Result<()> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let choice = arguments.iter().find(|a| *a == "software" || a.starts_with("gpu"));
    let filter = arguments.iter().find(|a| Some(*a) != choice).cloned().unwrap_or_default();
    let device = match choice {
        Some(choice) => Device::open(choice, None)?,
        None => Device::open("gpu", None).or_else(|_| Device::open("software", None))?,
    };
    println!("{}: GFLOP/s of ours and burn's, and their ratio", device.name());
    let bench = Bench { device, filter };
    let mut ratios = Vec::new();
    for (layout, shapes) in [(Layout::Nt, NT), (Layout::Nn, NN), (Layout::Tn, TN)] {
        for shape in shapes {
            ratios.extend(bench.product(layout, shape));
        }
    }
    for (outputs, inputs) in [(256, 256), (688, 256), (256, 688)] {
        bench.lora(outputs, inputs);
    }
    if !ratios.is_empty() {
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let mean = (ratios.iter().map(|x: &f64| x.ln()).sum::<f64>() / ratios.len() as f64).exp();
        println!("ratios: least {least:.2}, geometric mean {mean:.2}");
    }
    Ok(())
}

struct Bench {
    device: Device,
    filter: String,
}

impl Bench {
    fn values(shape: [usize; 2]) -> Vec<f32> {
        (0..shape[0] * shape[1]).map(|i| (i as f32 * 0.7).sin()).collect()
    }

    fn matrix(&self, shape: [usize; 2]) -> Matrix {
        Matrix::from_host(Self::values(shape), shape, &self.device, Activations)
    }

    fn product(&self, layout: Layout, (m, n, k): (usize, usize, usize)) -> Option<f64> {
        let name = format!("{layout:?} {m}x{n}x{k}");
        if !name.to_lowercase().contains(&self.filter.to_lowercase()) {
            return None;
        }
        let a_shape = if layout == Layout::Tn { [k, m] } else { [m, k] };
        let b_shape = if layout == Layout::Nt { [n, k] } else { [k, n] };
        let (a, b) = (self.matrix(a_shape), self.matrix(b_shape));
        let device = self.device.tensor_device();
        let stock = |shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(Self::values(shape), shape), device)
        };
        let (x, y) = (stock(a_shape), stock(b_shape));
        let mut ours = || drop(matmul(layout, &a, &b));
        let mut stock = || {
            let (x, y) = (x.clone(), y.clone());
            let x = if layout == Layout::Tn { x.transpose() } else { x };
            let y = if layout == Layout::Nt { y.transpose() } else { y };
            drop(x.matmul(y));
        };
        let [ours, stock] = self.times([&mut ours, &mut stock]);
        let rate = |seconds: f64| 2.0 * (m * n * k) as f64 / seconds / 1e9;
        println!("{name:18} {:7.1} {:7.1}  x{:.2}", rate(ours), rate(stock), stock / ours);
        Some(stock / ours)
    }

    /// The LoRA layer beside its products one by one.
    fn lora(&self, outputs: usize, inputs: usize) {
        let rank = 64;
        let name = format!("lora {inputs}->{outputs}");
        if !name.contains(&self.filter) {
            return;
        }
        let (x, dy) = (self.matrix([TOKENS, inputs]), self.matrix([TOKENS, outputs]));
        let w = self.matrix([outputs, inputs]);
        let (a, b) = (self.matrix([rank, inputs]), self.matrix([outputs, rank]));
        let mut forward = || drop(lora_linear(&x, Some(&w), &a, &b, 1.0));
        let mut parts = || {
            let h = matmul(Layout::Nt, &x, &a);
            drop((matmul(Layout::Nt, &x, &w), matmul(Layout::Nt, &h, &b)));
        };
        let mut backward = || drop(lora_input_grad(None, &dy, Some(&w), &a, &b, 1.0));
        let [forward, parts, backward] = self.times([&mut forward, &mut parts, &mut backward]);
        let flop = 2.0 * (TOKENS * (inputs * outputs + rank * (inputs + outputs))) as f64;
        let rate = |seconds: f64| flop / seconds / 1e9;
        println!(
            "{name:18} forward {:.1}, backward {:.1}, three products {:.1} (without their sum)",
            rate(forward),
            rate(backward),
            rate(parts)
        );
    }

    /// The least time of each, taken in turn. The first round compiles and does not count.
    fn times<const N: usize>(&self, mut runs: [&mut dyn FnMut(); N]) -> [f64; N] {
        let mut least = [f64::INFINITY; N];
        for round in 0..=ROUNDS {
            for (run, least) in runs.iter_mut().zip(&mut least) {
                self.wait();
                let start = Instant::now();
                run();
                self.wait();
                if round > 0 {
                    *least = least.min(start.elapsed().as_secs_f64());
                }
            }
        }
        least
    }

    fn wait(&self) {
        if let Err(error) = self.device.tensor_device().sync() {
            unreachable!("{error}");
        }
    }
}
