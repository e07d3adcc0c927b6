//! Rotary embedding, attention and its cache.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward, copy_rows};
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
