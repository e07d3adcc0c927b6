//! What holds for every operation: bits, targets in place, labels.

use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward};
use fullrank::kernels::embedding::embedding_grad;
use fullrank::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use fullrank::kernels::loss::{HeadGrad, cross_entropy};
use fullrank::kernels::matmul::{Layout, matmul, matmul_add};
use fullrank::kernels::norm::{rms_norm, rms_norm_backward};
use fullrank::kernels::swiglu::swiglu;
use fullrank::kernels::update::add_sum_squares;
use fullrank::kernels::{Indices, Matrix};

use crate::forms::{Values, assert_same_bits_for_any_number_of_threads, vector};

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    assert_same_bits_for_any_number_of_threads(|| {
        let device = &Device::cpu();
        let mut values = Values(14);
        let mut results = Vec::new();
        for (layout, a, b) in [
            (Layout::Nn, [700, 300], [300, 130]),
            (Layout::Nt, [700, 300], [130, 300]),
            (Layout::Tn, [1500, 70], [1500, 260]),
        ] {
            let (a, b) = (values.matrix(device, a), values.matrix(device, b));
            results.push(matmul(layout, &a, &b).to_host());
        }
        let x = values.matrix(device, [500, 96]);
        let dy = values.matrix(device, [500, 96]);
        let gain = values.matrix(device, [1, 96]);
        let (w, a, b) = (
            values.matrix(device, [96, 96]),
            values.matrix(device, [8, 96]),
            values.matrix(device, [96, 8]),
        );
        let (y, h) = lora_linear(&x, Some(&w), &a, &b, 2.0);
        let (dx, g) = lora_input_grad(None, &dy, Some(&w), &a, &b, 2.0);
        let (d_a, d_b) = lora_factor_grads(None, &x, &dy, &h, &g, 2.0);
        results.extend([&y, &h, &dx, &g, &d_a, &d_b].map(Matrix::to_host));

        let (y, rstd) = rms_norm(&x, &gain, 1e-6);
        let acc = Matrix::zeros([1, 96], device, Activations);
        let (dx, d_gain) = rms_norm_backward(y, &dy, &x, &gain, &rstd, Some(acc));
        results.extend([dx.to_host(), d_gain.unwrap().to_host()]);

        let s = AttentionShape {
            batch: 2,
            queries: 250,
            keys: 250,
            heads: 6,
            kv_heads: 2,
            head_dim: 16,
        };
        let (k, v) = (values.matrix(device, [500, 32]), values.matrix(device, [500, 32]));
        let (out, lse) = attention(&x, &k, &v, s);
        let grads = attention_backward(&dy, &x, &k, &v, &out, &lse, s);
        results.extend([&out, &grads.0, &grads.1, &grads.2].map(Matrix::to_host));

        let head = values.matrix(device, [3000, 96]);
        let ids: Vec<i32> = (0..500).map(|_| values.below(3000) as i32).collect();
        let targets = Indices::from_host(&ids, device, Activations);
        let acc = Matrix::zeros([3000, 96], device, Activations);
        let zero = vector(vec![0.0], device);
        let loss = cross_entropy(zero, &x, &head, &targets, 1.0, HeadGrad::Into(acc));
        results.extend([loss.loss_sum.to_host(), loss.d_hidden.to_host()]);
        let d_head = loss.d_head.unwrap();
        results.push(d_head.to_host());
        results.push(add_sum_squares(vector(vec![0.0], device), &d_head).to_host());
        let mut order: Vec<i32> = (0..500).collect();
        order.sort_by_key(|&t| (ids[t as usize], t));
        let order = Indices::from_host(&order, device, Activations);
        results.push(embedding_grad(d_head, &x, &targets, &order).to_host());
        results.push(swiglu(&x, &dy).to_host());
        results
    });
}

#[test]
#[should_panic(expected = "matmul_add works in place and needs the only handle")]
fn an_aliased_target_is_an_error_and_not_a_silent_copy() {
    let device = &Device::cpu();
    let c = Matrix::zeros([2, 2], device, Activations);
    let _other = c.clone();
    let a = Matrix::zeros([2, 2], device, Activations);
    let _ = matmul_add(c, 1.0, Layout::Nn, &a, &a);
}

#[test]
fn the_ledger_keeps_the_label_of_an_array_through_operations_in_place() {
    use fullrank::device::memory::Category;
    let device = Device::cpu();
    let w = Matrix::zeros([4, 8], &device, Category::Weights);
    let a = Matrix::zeros([4, 4], &device, Category::Activations);
    let b = Matrix::zeros([4, 8], &device, Category::Activations);
    let w = matmul_add(w, 1.0, Layout::Nn, &a, &b);
    let reading = device.ledger().read();
    assert_eq!(reading.now[Category::Weights as usize], 4 * w.len() as u64);
    assert_eq!(reading.total(), 4 * (32 + 16 + 32));
}
