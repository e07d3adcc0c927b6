//! Products with a matrix in few bits: those of what it decodes to.

use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::Matrix;
use fullrank::kernels::magnitude::magnitude_factor;
use fullrank::kernels::matmul::Layout;
use fullrank::kernels::packed::{
    Codes, Format, Packed, Packing, Weight, packed_lora_input_grad, packed_lora_linear,
    packed_matmul,
};
use fullrank::kernels::reference;

use crate::forms::{
    Values, assert_close, assert_same_bits_for_any_number_of_threads, in_every_form, on_gpus_once,
    vector, wide,
};

const FORMATS: [Format; 3] = [Format::F16, Format::Q8, Format::Nf4];

/// A random matrix in few bits, and what it decodes to.
fn packed(
    values: &mut Values,
    device: &Device,
    format: Format,
    [rows, cols]: [usize; 2],
) -> (Packed, Vec<f64>) {
    let dense = values.vec(rows * cols);
    let codes = Codes::encode(&dense, Packing { format, rows, cols }).unwrap();
    let decoded = codes.decode();
    assert!(decoded != dense || rows * cols < 4, "it was rounded");
    (Packed::from_host(&codes, device), decoded.into_iter().map(f64::from).collect())
}

/// On a GPU fewer: every form is a program of its own there, which a software adapter takes seconds to compile.
fn sizes(device: &Device) -> &'static [[usize; 4]] {
    if device.gpu().is_some() {
        &[[1, 1, 1, 1], [33, 7, 131, 3], [130, 66, 200, 34]]
    } else {
        &SIZES
    }
}

fn sum(a: &[f64], scale: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + scale * b).collect()
}

/// Tokens, outputs, inputs, rank: 1, odd, rows that end in a short block, around the tiles, many.
const SIZES: [[usize; 4]; 10] = [
    [1, 1, 1, 1],
    [3, 5, 7, 2],
    [2, 64, 63, 1],
    [17, 65, 64, 4],
    [20, 34, 66, 6],
    [33, 7, 130, 3],
    [64, 128, 192, 8],
    [130, 66, 200, 33],
    [1, 100, 576, 5],
    [2, 6, 4200, 3],
];

#[test]
fn products_are_those_with_what_the_codes_mean() {
    in_every_form(|device| {
        let mut values = Values(61);
        for format in FORMATS {
            for &[tokens, outputs, inputs, _] in sizes(device) {
                let what = format!("{format:?} {tokens} x {outputs} x {inputs}");
                let (w, dense) = packed(&mut values, device, format, [outputs, inputs]);
                let x = values.matrix(device, [tokens, inputs]);
                let dy = values.matrix(device, [tokens, outputs]);
                let (y, dx) = (
                    reference::matmul(Layout::Nt, &wide(&x), &dense, (tokens, outputs, inputs)),
                    reference::matmul(Layout::Nn, &wide(&dy), &dense, (tokens, inputs, outputs)),
                );
                assert_close(&what, &packed_matmul(None, Layout::Nt, &x, &w), &y);
                assert_close(&what, &packed_matmul(None, Layout::Nn, &dy, &w), &dx);
                // On a GPU this is the program of the next test without its thin product.
                if device.gpu().is_none() {
                    let acc = values.matrix(device, [tokens, inputs]);
                    let right = sum(&wide(&acc), 1.0, &dx);
                    assert_close(&what, &packed_matmul(Some(acc), Layout::Nn, &dy, &w), &right);
                }
            }
        }
    });
}

#[test]
fn a_layer_with_an_adapter_gives_both_parts_in_one_pass() {
    in_every_form(|device| {
        let mut values = Values(62);
        for format in FORMATS {
            for &[tokens, outputs, inputs, rank] in sizes(device) {
                let what = format!("{format:?} {tokens} x {outputs} x {inputs}, rank {rank}");
                let (w, dense) = packed(&mut values, device, format, [outputs, inputs]);
                let x = values.matrix(device, [tokens, inputs]);
                let dy = values.matrix(device, [tokens, outputs]);
                let a = values.matrix(device, [rank, inputs]);
                let b = values.matrix(device, [outputs, rank]);
                let (wa, wb, scale) = (wide(&a), wide(&b), 0.7f32);
                let h = reference::matmul(Layout::Nt, &wide(&x), &wa, (tokens, rank, inputs));
                let y = reference::matmul(Layout::Nt, &wide(&x), &dense, (tokens, outputs, inputs));
                let low = reference::matmul(Layout::Nt, &h, &wb, (tokens, outputs, rank));
                let (got, got_h) = packed_lora_linear(&x, &w, &a, &b, scale);
                assert_close(&what, &got_h, &h);
                assert_close(&what, &got, &sum(&y, f64::from(scale), &low));

                let g = reference::matmul(Layout::Nn, &wide(&dy), &wb, (tokens, rank, outputs));
                let g = sum(&vec![0.0; g.len()], f64::from(scale), &g);
                let dx =
                    reference::matmul(Layout::Nn, &wide(&dy), &dense, (tokens, inputs, outputs));
                let low = reference::matmul(Layout::Nn, &g, &wa, (tokens, inputs, rank));
                let right = sum(&dx, 1.0, &low);
                let (got, got_g) = packed_lora_input_grad(None, &dy, &w, &a, &b, scale);
                assert_close(&what, &got_g, &g);
                assert_close(&what, &got, &right);
                let acc = values.matrix(device, [tokens, inputs]);
                let right = sum(&wide(&acc), 1.0, &right);
                let (got, _) = packed_lora_input_grad(Some(acc), &dy, &w, &a, &b, scale);
                assert_close(&what, &got, &right);
            }
        }
    });
}

#[test]
fn a_long_row_and_a_tall_matrix_are_summed_in_parts() {
    // Longer than one launch sums on software, and cut into parts where there are few tiles.
    let check = |device: &Device| {
        let mut values = Values(63);
        for format in FORMATS {
            for (outputs, inputs) in [(3, 9000), (9000, 3)] {
                let what = format!("{format:?} {outputs} x {inputs}");
                let (w, dense) = packed(&mut values, device, format, [outputs, inputs]);
                let (x, dy) =
                    (values.matrix(device, [5, inputs]), values.matrix(device, [5, outputs]));
                let y = reference::matmul(Layout::Nt, &wide(&x), &dense, (5, outputs, inputs));
                let dx = reference::matmul(Layout::Nn, &wide(&dy), &dense, (5, inputs, outputs));
                assert_close(&what, &packed_matmul(None, Layout::Nt, &x, &w), &y);
                assert_close(&what, &packed_matmul(None, Layout::Nn, &dy, &w), &dx);
            }
        }
    };
    check(&Device::cpu());
    on_gpus_once(check);
}

#[test]
fn zeros_stay_zeros_and_codes_come_back_from_the_device() {
    in_every_form(|device| {
        for format in FORMATS {
            let mut dense = vec![0.0; 6 * 100];
            dense[130] = -3.0;
            let codes = Codes::encode(&dense, Packing { format, rows: 6, cols: 100 }).unwrap();
            let w = Packed::from_host(&codes, device);
            assert_eq!((w.shape(), w.format()), ([6, 100], format));
            assert_eq!(w.to_host(), codes);
            let x = Matrix::from_host(vec![1.0; 100], [1, 100], device, Activations);
            let y = packed_matmul(None, Layout::Nt, &x, &w).to_host();
            assert_eq!(y, [0.0, -3.0, 0.0, 0.0, 0.0, 0.0]);
        }
    });
}

#[test]
fn lengths_of_rows_are_those_of_what_the_codes_mean() {
    in_every_form(|device| {
        let mut values = Values(64);
        for (format, [outputs, inputs, rank]) in
            [(Format::Q8, [1, 1, 1]), (Format::Nf4, [33, 65, 4]), (Format::F16, [20, 130, 7])]
        {
            let (w, dense) = packed(&mut values, device, format, [outputs, inputs]);
            let narrow: Vec<f32> = dense.iter().map(|&value| value as f32).collect();
            let plain = Matrix::from_host(narrow, [outputs, inputs], device, Activations);
            let a = values.matrix(device, [rank, inputs]);
            let b = values.matrix(device, [outputs, rank]);
            let magnitude = values.matrix(device, [1, outputs]);
            let squares = dense.chunks(inputs).map(|row| row.iter().map(|w| w * w).sum::<f64>());
            let squares = vector(squares.map(|square| square as f32).collect(), device);
            let of = |w| magnitude_factor(&magnitude, &squares, w, &a, &b, 0.3);
            let (length, factor) = of(Weight::Packed(&w));
            let (right_length, right_factor) = of(Weight::Dense(&plain));
            assert_close("length", &length, &wide(&right_length));
            assert_close("factor", &factor, &wide(&right_factor));
        }
    });
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    assert_same_bits_for_any_number_of_threads(|| {
        let device = Device::cpu();
        let mut values = Values(65);
        let (w, _) = packed(&mut values, &device, Format::Nf4, [200, 333]);
        let x = values.matrix(&device, [1500, 333]);
        let dy = values.matrix(&device, [1500, 200]);
        vec![
            packed_matmul(None, Layout::Nt, &x, &w).to_host(),
            packed_matmul(None, Layout::Nn, &dy, &w).to_host(),
        ]
    });
}
