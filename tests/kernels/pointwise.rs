//! SwiGLU and embeddings.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::embedding::{embedding, embedding_grad};
use fullrank::kernels::reference;
use fullrank::kernels::swiglu::{swiglu, swiglu_backward};
use fullrank::kernels::{Indices, Matrix};

use crate::forms::{Values, assert_close, in_every_form, wide};
use crate::norm::ROW_SIZES;

#[test]
fn swiglu_matches_the_reference_forward_and_backward() {
    in_every_form(|device| {
        let mut values = Values(7);
        for shape in ROW_SIZES {
            let gate = values.matrix(device, shape);
            let up = values.matrix(device, shape);
            let dh = values.matrix(device, shape);
            let h = swiglu(&gate, &up);
            let right = reference::swiglu(&wide(&gate), &wide(&up));
            assert_close("h", &h, &right);
            let (d_gate, d_up) = reference::swiglu_backward(&wide(&dh), &wide(&gate), &wide(&up));
            let got = swiglu_backward(dh, gate, up);
            assert_close("d_gate", &got.0, &d_gate);
            assert_close("d_up", &got.1, &d_up);
            assert_eq!(got.2.to_host(), h.to_host(), "the forward result again");
        }
    });
}

#[test]
fn swiglu_stays_finite_at_extreme_gates() {
    in_every_form(|device| {
        let gate = vec![-1e4, -100.0, -88.0, 0.0, 88.0, 100.0, 1e4];
        let gate = Matrix::from_host(gate, [1, 7], device, Activations);
        let up = Matrix::from_host(vec![1.0; 7], [1, 7], device, Activations);
        let h = swiglu(&gate, &up).to_host();
        assert_eq!(h[3..], [0.0, 88.0, 100.0, 1e4]);
        assert!(h[..3].iter().all(|x| x.abs() < 1e-30), "{h:?}");
    });
}

#[test]
fn embeddings_and_their_gradient_match_the_reference() {
    in_every_form(|device| {
        let mut values = Values(8);
        for (tokens, rows, width) in [(1, 1, 1), (50, 7, 3), (300, 40, 33), (1000, 3, 256)] {
            let table = values.matrix(device, [rows, width]);
            let ids: Vec<i32> = (0..tokens).map(|_| values.below(rows) as i32).collect();
            let mut order: Vec<i32> = (0..tokens as i32).collect();
            order.sort_by_key(|&t| (ids[t as usize], t));
            let on_device = Indices::from_host(&ids, device, Activations);
            let order = Indices::from_host(&order, device, Activations);
            let x = embedding(&on_device, &table);
            assert_close("rows", &x, &reference::embedding(&ids, &wide(&table), width));
            let dx = values.matrix(device, [tokens, width]);
            let right = reference::embedding_grad(&ids, &wide(&dx), rows, width);
            let start = wide(&table);
            let got = embedding_grad(table, &dx, &on_device, &order);
            let sum: Vec<f64> = start.iter().zip(&right).map(|(a, b)| a + b).collect();
            assert_close("gradient", &got, &sum);
        }
    });
}
