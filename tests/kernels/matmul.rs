//! Matrix products and the LoRA linear layer.

use fullrank::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use fullrank::kernels::matmul::{Layout, matmul, matmul_add};
use fullrank::kernels::reference;

use crate::forms::{
    TOLERANCE, Values, assert_close, assert_near, in_every_form, on_gpus_once, wide,
};

/// Around the tiles of every form, which have 8 to 128 rows; even ones for pairs and odd ones; long rows and a
/// long inner size, which is cut into parts.
const MATMUL_SIZES: [(usize, usize, usize); 20] = [
    (1, 1, 1),
    (1, 7, 5),
    (5, 1, 300),
    (3, 2, 1),
    (17, 31, 13),
    (129, 127, 65),
    (128, 128, 64),
    (257, 130, 70),
    (1100, 33, 9),
    (2, 2, 2),
    (16, 64, 6),
    (18, 66, 20),
    (34, 62, 7),
    (63, 65, 64),
    (64, 63, 33),
    (65, 64, 129),
    (127, 130, 34),
    (1, 20_000, 3),
    (32_770, 2, 4),
    (2, 4, 70_000),
];

#[test]
fn products_match_the_reference_in_every_layout() {
    in_every_form(|device| {
        let mut values = Values(1);
        for (m, n, k) in MATMUL_SIZES {
            for layout in [Layout::Nn, Layout::Nt, Layout::Tn] {
                let a_shape = if layout == Layout::Tn { [k, m] } else { [m, k] };
                let b_shape = if layout == Layout::Nt { [n, k] } else { [k, n] };
                let a = values.matrix(device, a_shape);
                let b = values.matrix(device, b_shape);
                let right = reference::matmul(layout, &wide(&a), &wide(&b), (m, n, k));
                let what = format!("{layout:?} {m}x{n}x{k}");
                assert_close(&what, &matmul(layout, &a, &b), &right);
                let c = values.matrix(device, [m, n]);
                let sum: Vec<f64> = wide(&c).iter().zip(&right).map(|(c, x)| c - 0.5 * x).collect();
                assert_close(&what, &matmul_add(c, -0.5, layout, &a, &b), &sum);
            }
        }
    });
}

/// A target of nearly 128 MiB, the largest binding that every device has.
#[test]
fn a_product_may_be_as_large_as_a_binding() {
    on_gpus_once(|device| {
        for (m, n, k) in [(8191, 4095, 3), (8190, 4096, 4)] {
            let mut values = Values(3);
            let (a, b) = (values.matrix(device, [m, k]), values.matrix(device, [k, n]));
            let product = matmul(Layout::Nn, &a, &b).to_host();
            let (a, b) = (wide(&a), wide(&b));
            let corners = [(0, 0), (0, n - 1), (m - 1, 0), (m - 1, n - 1)];
            let samples = (0..10_000).map(|_| (values.below(m), values.below(n)));
            let places: Vec<(usize, usize)> = corners.into_iter().chain(samples).collect();
            let got: Vec<f64> =
                places.iter().map(|(row, column)| f64::from(product[row * n + column])).collect();
            let right: Vec<f64> = places
                .iter()
                .map(|(row, column)| (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum())
                .collect();
            assert_near(&format!("{m}x{n}x{k}"), &got, &right, TOLERANCE);
        }
    });
}

#[test]
fn a_lora_linear_layer_matches_the_reference_forward_and_backward() {
    in_every_form(|device| {
        let mut values = Values(2);
        let sizes = [
            (1, 5, 3, 1),
            (7, 33, 17, 4),
            (10, 34, 18, 2),
            (130, 40, 65, 8),
            (65, 66, 130, 6),
            (300, 64, 48, 16),
            (2, 6, 32_770, 2),
        ];
        for (t, n, m, r) in sizes {
            for dense in [true, false] {
                let x = values.matrix(device, [t, n]);
                let w = values.matrix(device, [m, n]);
                let a = values.matrix(device, [r, n]);
                let b = values.matrix(device, [m, r]);
                let dy = values.matrix(device, [t, m]);
                let (s, what) = (0.75, format!("{t} {n} {m} {r} dense {dense}"));
                let dense = dense.then_some(&w);
                // W + s·B·A in f64, and everything from it.
                let ba = reference::matmul(Layout::Nn, &wide(&b), &wide(&a), (m, n, r));
                let full: Vec<f64> = ba
                    .iter()
                    .zip(wide(&w))
                    .map(|(ba, w)| f64::from(s) * ba + if dense.is_some() { w } else { 0.0 })
                    .collect();
                let (y, h) = lora_linear(&x, dense, &a, &b, s);
                let right = reference::matmul(Layout::Nt, &wide(&x), &full, (t, m, n));
                assert_close(&what, &y, &right);

                let acc = values.matrix(device, [t, n]);
                let start = wide(&acc);
                let dx = reference::matmul(Layout::Nn, &wide(&dy), &full, (t, n, m));
                let (fresh, g) = lora_input_grad(None, &dy, dense, &a, &b, s);
                assert_close(&what, &fresh, &dx);
                let (added, _) = lora_input_grad(Some(acc), &dy, dense, &a, &b, s);
                let sum: Vec<f64> = start.iter().zip(&dx).map(|(x, y)| x + y).collect();
                assert_close(&what, &added, &sum);

                // dA = s·(dy·B)ᵀ·x and dB = s·dyᵀ·(x·Aᵀ).
                let dyb = reference::matmul(Layout::Nn, &wide(&dy), &wide(&b), (t, r, m));
                let xa = reference::matmul(Layout::Nt, &wide(&x), &wide(&a), (t, r, n));
                let scaled = |x: Vec<f64>| x.iter().map(|x| f64::from(s) * x).collect::<Vec<_>>();
                let d_a = scaled(reference::matmul(Layout::Tn, &dyb, &wide(&x), (r, n, t)));
                let d_b = scaled(reference::matmul(Layout::Tn, &wide(&dy), &xa, (m, r, t)));
                let grads = lora_factor_grads(None, &x, &dy, &h, &g, s);
                assert_close(&what, &grads.0, &d_a);
                assert_close(&what, &grads.1, &d_b);
                let twice = lora_factor_grads(Some(grads), &x, &dy, &h, &g, s);
                let doubled: Vec<f64> = d_a.iter().map(|x| 2.0 * x).collect();
                assert_close(&what, &twice.0, &doubled);
            }
        }
    });
}
