//! Products with a matrix in few bits.

use crate::kernels::Matrix;
use crate::kernels::matmul::Layout;
use crate::kernels::packed::{
    Codes, Format, Packed, Packing, packed_lora_input_grad, packed_lora_linear,
};

use super::probe::{Operand, Probe, dot};

const INPUTS: usize = 1000;
const OUTPUTS: usize = 1376;
const RANK: usize = 16;
const FORMATS: [Format; 3] = [Format::F16, Format::Q8, Format::Nf4];

/// `a · Bᵀ` or `a · B` of one row.
fn times(layout: Layout, a: &[f64], b: &[f64]) -> Vec<f64> {
    if layout == Layout::Nt {
        return b.chunks_exact(a.len()).map(|row| dot(a, row)).collect();
    }
    let columns = b.len() / a.len();
    let mut sums = vec![0.0; columns];
    for (a, row) in a.iter().zip(b.chunks_exact(columns)) {
        sums.iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b);
    }
    sums
}

/// Both products of a layer with an adapter beside a weight in each form.
pub fn packed_product(probe: &mut Probe<'_>) {
    let tokens = if probe.is_slow() { 256 } else { 2048 };
    probe.shape(format!("{tokens} tokens, {INPUTS} to {OUTPUTS}, rank {RANK}, f16, q8 and nf4"));
    let w = Operand::new(3, [OUTPUTS, INPUTS], 1.0).host();
    let (x, dy) = (Operand::new(1, [tokens, INPUTS], 1.0), Operand::new(2, [tokens, OUTPUTS], 1.0));
    let (a, b) = (Operand::new(4, [RANK, INPUTS], 1.0), Operand::new(5, [OUTPUTS, RANK], 1.0));
    let device = probe.device;
    let on = |operand: &Operand| -> Matrix { operand.on(device) };
    let (x_on, dy_on, a_on, b_on) = (on(&x), on(&dy), on(&a), on(&b));
    for format in FORMATS {
        let packing = Packing { format, rows: OUTPUTS, cols: INPUTS };
        let Ok(codes) = Codes::encode(&w, packing) else {
            unreachable!("numbers in -1..1 have codes")
        };
        let dense: Vec<f64> = codes.decode().into_iter().map(f64::from).collect();
        let packed = Packed::from_host(&codes, device);
        let (y, _) = probe.timed(|| packed_lora_linear(&x_on, &packed, &a_on, &b_on, 0.5));
        let (dx, _) =
            probe.timed(|| packed_lora_input_grad(None, &dy_on, &packed, &a_on, &b_on, 0.5));
        let (wide_a, wide_b) = (a.wide(), b.wide());
        let both = |layout: Layout, row: &[f64], [first, second]: [&[f64]; 2]| -> Vec<f64> {
            let low = times(layout, &times(layout, row, first), second);
            let dense = times(layout, row, &dense);
            dense.into_iter().zip(low).map(|(dense, low)| dense + 0.5 * low).collect()
        };
        probe.compare_rows(&format!("y, {}", format.name()), &y, |row| {
            both(Layout::Nt, &x.row(row), [&wide_a, &wide_b])
        });
        probe.compare_rows(&format!("dx, {}", format.name()), &dx, |row| {
            both(Layout::Nn, &dy.row(row), [&wide_b, &wide_a])
        });
    }
}
