//! Causal grouped-query attention with online softmax; no `T×T` matrix is kept.
use super::{Matrix, Vector};

/// Sizes of one attention call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences in the batch.
    pub batch: usize,
    /// Query rows per sequence.
    pub queries: usize,
    /// Key and value rows per sequence; the last query sees all of them (`keys - queries` is the offset).
    pub keys: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
}

/// `o = softmax(q·kᵀ/√D, causal)·v`. `q [batch·queries, heads·D]`, `k`, `v [≥ batch·keys, kv_heads·D]`
/// → `(o [batch·queries, heads·D], lse [batch·heads·queries])`, `lse` the log of the softmax' sum.
/// (`k`, `v` may have more rows than `batch·keys` only when `batch = 1`: a cache with room left.)
pub fn attention(q: &Matrix, k: &Matrix, v: &Matrix, shape: AttentionShape) -> (Matrix, Vector) {
    unimplemented!()
}

/// Gradients of [`attention`] (needs `queries == keys`): `(dq, dk, dv)`, shapes of `q`, `k`, `v`.
pub fn attention_backward(
    d_out: &Matrix,
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    out: &Matrix,
    lse: &Vector,
    shape: AttentionShape,
) -> (Matrix, Matrix, Matrix) {
    unimplemented!()
}

/// Copies the rows of `rows` into `cache` from row `at` on, in place.
pub fn copy_rows(cache: Matrix, rows: &Matrix, at: usize) -> Matrix {
    unimplemented!()
}
