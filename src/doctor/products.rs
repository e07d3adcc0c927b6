//! Matrix products and the LoRA layer.

use crate::kernels::lora;
use crate::kernels::matmul::{self, Layout};

use super::probe::{Operand, Probe, dot};

const INPUTS: usize = 1024;
const OUTPUTS: usize = 1024;
const RANK: usize = 64;

/// A product with the operands as they are stored.
struct Product {
    layout: Layout,
    a: Operand,
    b: Operand,
}

impl Product {
    fn new(layout: Layout, [m, n, k]: [usize; 3]) -> Self {
        let a = if layout == Layout::Tn { [k, m] } else { [m, k] };
        let b = if layout == Layout::Nt { [n, k] } else { [k, n] };
        Self { layout, a: Operand::new(1, a, 1.0), b: Operand::new(2, b, 1.0) }
    }

    /// A row of the product; `b` has its values.
    fn row(&self, row: usize, b: &[f64]) -> Vec<f64> {
        let a = if self.layout == Layout::Tn { self.a.column(row) } else { self.a.row(row) };
        if self.layout == Layout::Nt { times_rows(&a, b) } else { times_columns(&a, b) }
    }
}

/// `a · Bᵀ` of rows that are as long as `a`.
fn times_rows(a: &[f64], b: &[f64]) -> Vec<f64> {
    b.chunks_exact(a.len()).map(|row| dot(a, row)).collect()
}

/// `a · B` of as many rows as `a` is long.
fn times_columns(a: &[f64], b: &[f64]) -> Vec<f64> {
    let columns = b.len() / a.len();
    let mut sums = vec![0.0; columns];
    for (a, row) in a.iter().zip(b.chunks_exact(columns)) {
        sums.iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b);
    }
    sums
}

fn sum(a: Vec<f64>, b: &[f64], scale: f64) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, b)| a + scale * b).collect()
}

const LAYOUTS: [(Layout, &str); 3] =
    [(Layout::Nn, "A·B"), (Layout::Nt, "A·Bᵀ"), (Layout::Tn, "Aᵀ·B")];

/// Rows of the tall operand.
fn tokens(probe: &Probe<'_>) -> usize {
    if probe.is_slow() { 512 } else { 2048 }
}

pub fn matmul(probe: &mut Probe<'_>) {
    let tokens = tokens(probe);
    probe.shape(format!("{tokens} x {OUTPUTS} x {INPUTS} and 5461 x 63 x 333, three layouts"));
    for sizes in [[tokens, OUTPUTS, INPUTS], [5461, 63, 333]] {
        for (layout, name) in LAYOUTS {
            let product = Product::new(layout, sizes);
            let (a, b) = (product.a.on(probe.device), product.b.on(probe.device));
            let c = probe.timed(|| matmul::matmul(layout, &a, &b));
            let b = product.b.wide();
            probe.compare_rows(name, &c, |row| product.row(row, &b));
        }
    }
}

pub fn matmul_add(probe: &mut Probe<'_>) {
    let tokens = tokens(probe);
    let sizes = [INPUTS, OUTPUTS, tokens];
    probe.shape(format!("{INPUTS} x {OUTPUTS} x {tokens}, three layouts"));
    for (layout, name) in LAYOUTS {
        let product = Product::new(layout, sizes);
        let c = Operand::new(3, [INPUTS, OUTPUTS], 5.0);
        let (a, b) = (product.a.on(probe.device), product.b.on(probe.device));
        let target = c.on(probe.device);
        let got = probe.timed(|| matmul::matmul_add(target, 0.5, layout, &a, &b));
        let b = product.b.wide();
        probe.compare_rows(name, &got, |row| sum(c.row(row), &product.row(row, &b), 0.5));
    }
}

struct Layer {
    x: Operand,
    dy: Operand,
    w: Operand,
    a: Operand,
    b: Operand,
}

impl Layer {
    fn new(probe: &mut Probe<'_>) -> Self {
        let tokens = tokens(probe);
        probe.shape(format!("{tokens} tokens, {INPUTS} to {OUTPUTS}, rank {RANK}"));
        Self {
            x: Operand::new(1, [tokens, INPUTS], 1.0),
            dy: Operand::new(2, [tokens, OUTPUTS], 1.0),
            w: Operand::new(3, [OUTPUTS, INPUTS], 1.0),
            a: Operand::new(4, [RANK, INPUTS], 1.0),
            b: Operand::new(5, [OUTPUTS, RANK], 1.0),
        }
    }
}

pub fn lora_linear(probe: &mut Probe<'_>) {
    let layer = Layer::new(probe);
    let [x, w, a, b] = [layer.x, layer.w, layer.a, layer.b].map(|operand| operand.on(probe.device));
    let (y, h) = probe.timed(|| lora::lora_linear(&x, Some(&w), &a, &b, 0.5));
    let [w, a, b] = [layer.w, layer.a, layer.b].map(|operand| operand.wide());
    let thin = |row: usize| times_rows(&layer.x.row(row), &a);
    probe.compare_rows("x·Aᵀ", &h, thin);
    probe.compare_rows("y", &y, |row| {
        sum(times_rows(&layer.x.row(row), &w), &times_rows(&thin(row), &b), 0.5)
    });
}

pub fn lora_input_grad(probe: &mut Probe<'_>) {
    let layer = Layer::new(probe);
    let [x, dy, w, a, b] =
        [layer.x, layer.dy, layer.w, layer.a, layer.b].map(|operand| operand.on(probe.device));
    let (dx, g) = probe.timed(|| lora::lora_input_grad(None, &dy, Some(&w), &a, &b, 0.5));
    let h = matmul::matmul(Layout::Nt, &x, &a);
    let (d_a, d_b) = probe.timed(|| lora::lora_factor_grads(None, &x, &dy, &h, &g, 0.5));
    let [w, a, b] = [layer.w, layer.a, layer.b].map(|operand| operand.wide());
    let thin = |row: usize| -> Vec<f64> {
        times_columns(&layer.dy.row(row), &b).into_iter().map(|g| 0.5 * g).collect()
    };
    probe.compare_rows("s·dy·B", &g, thin);
    probe.compare_rows("dx", &dx, |row| {
        sum(times_columns(&layer.dy.row(row), &w), &times_columns(&thin(row), &a), 1.0)
    });
    // The factors' gradients sum over every token, so their inputs are taken as they are.
    let wide = |x: Vec<f32>| -> Vec<f64> { x.into_iter().map(f64::from).collect() };
    let (h, g) = (wide(h.to_host()), wide(g.to_host()));
    let x = layer.x.wide();
    let column = |values: &[f64], width: usize, column: usize| -> Vec<f64> {
        values.iter().skip(column).step_by(width).copied().collect()
    };
    probe.compare_rows("dA", &d_a, |row| times_columns(&column(&g, RANK, row), &x));
    probe.compare_rows("dB", &d_b, |row| {
        times_columns(&layer.dy.column(row), &h).into_iter().map(|value| 0.5 * value).collect()
    });
}
