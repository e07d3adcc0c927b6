//! Rotary embedding, attention and its cache.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::attention::{
    AttentionShape, attention, attention_backward, attention_backward_within, attention_within,
    copy_rows,
};
use fullrank::kernels::reference;
use fullrank::kernels::rope::{Rotation, rope};
use fullrank::kernels::{Indices, Matrix};

use crate::forms::{Values, assert_close, in_every_form, wide};

#[test]
fn rope_matches_the_reference_and_turns_back() {
    in_every_form(|device| {
        let mut values = Values(4);
        for (tokens, heads, half) in [(1, 1, 1), (5, 3, 4), (65, 2, 33), (300, 4, 32)] {
            let width = heads * 2 * half;
            let angles = values.vec(400 * half);
            let table = |f: fn(f32) -> f32| {
                let values = angles.iter().map(|&x| f(x)).collect();
                Matrix::from_host(values, [400, half], device, Activations)
            };
            let (cos, sin) = (table(f32::cos), table(f32::sin));
            let ids: Vec<i32> = (0..tokens).map(|t| ((t * 7) % 400) as i32).collect();
            let positions = Indices::from_host(&ids, device, Activations);
            let x = values.matrix(device, [tokens, width]);
            let start = wide(&x);
            let right = reference::rope(&start, width, &ids, &wide(&cos), &wide(&sin), half, 1.0);
            let y = rope(x, &positions, &cos, &sin, Rotation::Forward);
            assert_close("forward", &y, &right);
            let back = rope(y, &positions, &cos, &sin, Rotation::Backward);
            assert_close("there and back", &back, &start);
        }
    });
}

fn attention_shapes() -> Vec<AttentionShape> {
    let shape = |batch, queries, keys, heads, kv_heads, head_dim| AttentionShape {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        head_dim,
    };
    vec![
        shape(1, 1, 1, 1, 1, 1),
        shape(2, 5, 5, 3, 1, 4),
        shape(1, 63, 63, 2, 2, 8),
        shape(2, 64, 64, 4, 2, 16),
        shape(1, 65, 65, 6, 2, 12),
        shape(1, 200, 200, 2, 1, 32),
        shape(2, 128, 128, 4, 2, 64),
        shape(1, 37, 37, 2, 1, 7),
        shape(2, 33, 33, 2, 2, 50),
        shape(1, 40, 40, 3, 1, 100),
        shape(1, 34, 34, 1, 1, 160),
    ]
}

#[test]
fn attention_matches_the_reference_forward_and_backward() {
    in_every_form(|device| {
        let mut values = Values(5);
        for s in attention_shapes() {
            let tokens = s.batch * s.queries;
            let q = values.matrix(device, [tokens, s.heads * s.head_dim]);
            let k = values.matrix(device, [tokens, s.kv_heads * s.head_dim]);
            let v = values.matrix(device, [tokens, s.kv_heads * s.head_dim]);
            let d_out = values.matrix(device, [tokens, s.heads * s.head_dim]);
            let (right, right_lse) = reference::attention(&wide(&q), &wide(&k), &wide(&v), s);
            let (out, lse) = attention(&q, &k, &v, s);
            assert_close(&format!("{s:?}"), &out, &right);
            assert_close(&format!("{s:?}"), &lse, &right_lse);
            let (dq, dk, dv) =
                reference::attention_backward(&wide(&d_out), &wide(&q), &wide(&k), &wide(&v), s);
            let got = attention_backward(&d_out, &q, &k, &v, &out, &lse, s);
            assert_close(&format!("dq {s:?}"), &got.0, &dq);
            assert_close(&format!("dk {s:?}"), &got.1, &dk);
            assert_close(&format!("dv {s:?}"), &got.2, &dv);
        }
    });
}

#[test]
fn attention_over_a_cache_equals_the_last_rows_of_the_whole() {
    in_every_form(|device| {
        let mut values = Values(6);
        let whole =
            AttentionShape { batch: 1, queries: 70, keys: 70, heads: 4, kv_heads: 2, head_dim: 8 };
        let q = values.matrix(device, [70, 32]);
        let k = values.matrix(device, [70, 16]);
        let v = values.matrix(device, [70, 16]);
        let (out, _) = attention(&q, &k, &v, whole);
        for queries in [1, 3, 69] {
            let room = |x: &Matrix| {
                let cache = Matrix::zeros([90, 16], device, Activations);
                copy_rows(cache, x, 0)
            };
            let last = q.to_host()[(70 - queries) * 32..].to_vec();
            let q = Matrix::from_host(last, [queries, 32], device, Activations);
            let shape = AttentionShape { queries, ..whole };
            let (got, _) = attention(&q, &room(&k), &room(&v), shape);
            assert_close("cache", &got, &wide(&out)[(70 - queries) * 32..]);
        }
    });
}

#[test]
fn rows_are_copied_to_their_place_in_a_cache() {
    in_every_form(|device| {
        let cache = Matrix::zeros([5, 2], device, Activations);
        let rows = Matrix::from_host(vec![1.0, 2.0, 3.0, 4.0], [2, 2], device, Activations);
        let right = [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0];
        assert_eq!(copy_rows(cache, &rows, 2).to_host(), right);
    });
}

/// Cuts each sequence into documents of at most `longest` positions: their bounds for each position, and
/// `(first row of the batch, rows)` of each.
fn cut(values: &mut Values, s: AttentionShape, longest: usize) -> (Vec<i32>, Vec<(usize, usize)>) {
    let (mut bounds, mut documents) = (Vec::new(), Vec::new());
    for sequence in 0..s.batch {
        let mut first = 0;
        while first < s.queries {
            let len = (values.below(longest) + 1).min(s.queries - first);
            bounds.extend((0..len).flat_map(|_| [first as i32, (first + len) as i32]));
            documents.push((sequence * s.queries + first, len));
            first += len;
        }
    }
    (bounds, documents)
}

#[test]
fn attention_inside_documents_is_that_of_each_document_alone() {
    in_every_form(|device| {
        let mut values = Values(7);
        let longest = [1, 3, 9, 7, 40, 90, 50, 1, 5, 17, 34];
        for (s, longest) in attention_shapes().into_iter().zip(longest) {
            let tokens = s.batch * s.queries;
            let (width, kv_width) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
            let q = values.matrix(device, [tokens, width]);
            let k = values.matrix(device, [tokens, kv_width]);
            let v = values.matrix(device, [tokens, kv_width]);
            let d_out = values.matrix(device, [tokens, width]);
            let (bounds, documents) = cut(&mut values, s, longest);
            let bounds = Indices::from_host(&bounds, device, Activations);
            let (mut right, mut right_lse) = (Vec::new(), vec![0.0; s.batch * s.heads * s.queries]);
            let mut right_grads: [Vec<f64>; 3] = Default::default();
            for (first, rows) in documents {
                let part = |x: &Matrix, width: usize| {
                    wide(x)[first * width..(first + rows) * width].to_vec()
                };
                let alone = AttentionShape { batch: 1, queries: rows, keys: rows, ..s };
                let (q, k, v) = (part(&q, width), part(&k, kv_width), part(&v, kv_width));
                let (out, lse) = reference::attention(&q, &k, &v, alone);
                right.extend(out);
                let (sequence, row) = (first / s.queries, first % s.queries);
                for (head, lse) in lse.chunks(rows).enumerate() {
                    let at = (sequence * s.heads + head) * s.queries + row;
                    right_lse[at..at + rows].copy_from_slice(lse);
                }
                let d_out = part(&d_out, width);
                let (dq, dk, dv) = reference::attention_backward(&d_out, &q, &k, &v, alone);
                for (all, grad) in right_grads.iter_mut().zip([dq, dk, dv]) {
                    all.extend(grad);
                }
            }
            let (out, lse) = attention_within(&q, &k, &v, Some(&bounds), s);
            assert_close(&format!("documents of {longest}, {s:?}"), &out, &right);
            assert_close(&format!("lse of {longest}, {s:?}"), &lse, &right_lse);
            let (dq, dk, dv) =
                attention_backward_within(&d_out, &q, &k, &v, &out, &lse, Some(&bounds), s);
            let grads = ["dq", "dk", "dv"].into_iter().zip([dq, dk, dv]).zip(&right_grads);
            for ((name, grad), right) in grads {
                // A document of one position has only itself to see: the gradient of its scores is 0.
                let is_nothing = longest == 1 && name != "dv";
                if is_nothing {
                    assert!(grad.to_host().iter().all(|x| x.abs() < 1e-5), "{name} {s:?}");
                } else {
                    assert_close(&format!("{name} of {longest}, {s:?}"), &grad, right);
                }
            }
        }
    });
}

#[test]
fn one_document_to_a_sequence_has_the_bits_of_none() {
    in_every_form(|device| {
        let mut values = Values(8);
        let s =
            AttentionShape { batch: 2, queries: 70, keys: 70, heads: 4, kv_heads: 2, head_dim: 8 };
        let q = values.matrix(device, [140, 32]);
        let [k, v] = [0, 1].map(|_| values.matrix(device, [140, 16]));
        let bounds = Indices::from_host(&[0, 70].repeat(140), device, Activations);
        let (plain, _) = attention(&q, &k, &v, s);
        let (within, _) = attention_within(&q, &k, &v, Some(&bounds), s);
        assert_eq!(plain.to_host(), within.to_host());
    });
}
