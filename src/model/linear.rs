//! A linear layer of the network: a dense weight, a low-rank adapter, or both; or an adapter with a sparse part.

use crate::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use crate::kernels::matmul::{Layout, matmul, matmul_add, matmul_scaled};
use crate::kernels::sparse::{gather, scatter_add};
use crate::kernels::{Indices, Matrix};

use super::backward::GradientSink;
use super::params::{ParamId, Params};

/// Index of a linear layer in the model, in the order `q k v o gate up down` per block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinearId(pub usize);

/// A low-rank pair on a linear layer: `s·B·A`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adapter {
    /// `A [r, n]`.
    pub a: ParamId,
    /// `B [m, r]`.
    pub b: ParamId,
    /// `s`.
    pub scale: f32,
}

/// Values at fixed places of a linear layer's weight: `Sp`.
#[derive(Debug, Clone)]
pub struct Sparse {
    /// `[1, k]`.
    pub values: ParamId,
    /// Flat indices `row·n + column`, ascending, one for each value.
    pub places: Indices,
}

/// `y = x·W_effᵀ` with `W_eff = W + s·B·A`, either part alone, or `Sp + s·B·A`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Module path, as in Hugging Face names: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Outputs `m`.
    pub rows: usize,
    /// Inputs `n`.
    pub cols: usize,
    /// `W [m, n]`; None when the product of the factors stands alone.
    pub weight: Option<ParamId>,
    /// The low-rank pair, where a method has put one.
    pub adapter: Option<Adapter>,
    /// The sparse part, in the place of `W` beside an adapter.
    pub sparse: Option<Sparse>,
}

impl Linear {
    /// `min(m, n)`: the largest rank this layer can have.
    pub fn max_rank(&self) -> usize {
        self.rows.min(self.cols)
    }

    /// `Sp + s·B·A [m, n]`, made anew for each product: it lives no longer than that.
    fn materialised(&self, params: &Params) -> Option<Matrix> {
        let (sparse, adapter) = (self.sparse.as_ref()?, self.adapter?);
        let (a, b) = (params.value(adapter.a), params.value(adapter.b));
        let low_rank = matmul_scaled(adapter.scale, Layout::Nn, b, a);
        Some(scatter_add(low_rank, &sparse.places, params.value(sparse.values)))
    }

    /// `x [T, n]` → `(y [T, m], h = x·Aᵀ [T, r])`; `h` is what the backward pass needs of an adapter.
    pub(super) fn forward(&self, params: &Params, x: &Matrix) -> (Matrix, Option<Matrix>) {
        if let Some(weight) = self.materialised(params) {
            return (matmul(Layout::Nt, x, &weight), None);
        }
        let weight = self.weight.map(|id| params.value(id));
        match (&self.adapter, weight) {
            (Some(adapter), weight) => {
                let (a, b) = (params.value(adapter.a), params.value(adapter.b));
                let (y, h) = lora_linear(x, weight, a, b, adapter.scale);
                (y, Some(h))
            }
            (None, Some(weight)) => (matmul(Layout::Nt, x, weight), None),
            (None, None) => unreachable!("layer {} has neither weight nor adapter", self.name),
        }
    }

    /// Input gradient `dx [T, n]` from `dy [T, m]`, added to `acc` if given; with an adapter also
    /// `g = s·dy·B`, which [`Linear::weight_grad`] needs.
    pub(super) fn input_grad(
        &self,
        params: &Params,
        acc: Option<Matrix>,
        dy: &Matrix,
    ) -> (Matrix, Option<Matrix>) {
        let materialised = self.materialised(params);
        let weight = materialised.as_ref().or_else(|| self.weight.map(|id| params.value(id)));
        match (&self.adapter, weight) {
            (Some(adapter), weight) if materialised.is_none() => {
                let (a, b) = (params.value(adapter.a), params.value(adapter.b));
                let (dx, g) = lora_input_grad(acc, dy, weight, a, b, adapter.scale);
                (dx, Some(g))
            }
            (_, Some(weight)) => {
                let dx = match acc {
                    Some(acc) => matmul_add(acc, 1.0, Layout::Nn, dy, weight),
                    None => matmul(Layout::Nn, dy, weight),
                };
                (dx, None)
            }
            (_, None) => unreachable!("layer {} has neither weight nor adapter", self.name),
        }
    }

    /// Gradients of whatever is trained in this layer, handed to the sink. `x` is the layer's input,
    /// `h` from the forward pass, `g` from [`Linear::input_grad`].
    pub(super) fn weight_grad(
        &self,
        params: &mut Params,
        sink: &mut GradientSink<'_>,
        x: &Matrix,
        dy: &Matrix,
        h: Option<&Matrix>,
        g: Option<&Matrix>,
    ) {
        if let Some(weight) = self.weight.filter(|&id| params.is_trainable(id)) {
            let grad = match sink.accumulated(weight) {
                Some(acc) => matmul_add(acc, 1.0, Layout::Tn, dy, x),
                None => matmul(Layout::Tn, dy, x),
            };
            sink.deliver(params, weight, grad);
        }
        if let (Some(sparse), Some(adapter)) = (&self.sparse, self.adapter) {
            let grads = Self::sparse_grads(params, sink, sparse, adapter, x, dy);
            for (id, grad) in [adapter.a, adapter.b, sparse.values].into_iter().zip(grads) {
                sink.deliver(params, id, grad);
            }
            return;
        }
        if let (Some(adapter), Some(h), Some(g)) = (&self.adapter, h, g)
            && params.is_trainable(adapter.a)
        {
            let acc = sink.accumulated(adapter.a).zip(sink.accumulated(adapter.b));
            let (da, db) = lora_factor_grads(acc, x, dy, h, g, adapter.scale);
            sink.deliver(params, adapter.a, da);
            sink.deliver(params, adapter.b, db);
        }
    }

    /// Gradients of `A`, `B` and the values from that of `W_eff`, `G = dyᵀ·x`: `s·Bᵀ·G`, `s·G·Aᵀ`, and `G` at the
    /// places. `G` is as large as `W_eff` was a moment before, and with more tokens than `m·n/(m + n)` its products
    /// with the factors cost less than the thin products of the layer's input and output would.
    fn sparse_grads(
        params: &Params,
        sink: &mut GradientSink<'_>,
        sparse: &Sparse,
        adapter: Adapter,
        x: &Matrix,
        dy: &Matrix,
    ) -> [Matrix; 3] {
        let grad = matmul(Layout::Tn, dy, x);
        let (a, b) = (params.value(adapter.a), params.value(adapter.b));
        let scale = adapter.scale;
        let d_a = match sink.accumulated(adapter.a) {
            Some(acc) => matmul_add(acc, scale, Layout::Tn, b, &grad),
            None => matmul_scaled(scale, Layout::Tn, b, &grad),
        };
        let d_b = match sink.accumulated(adapter.b) {
            Some(acc) => matmul_add(acc, scale, Layout::Nt, &grad, a),
            None => matmul_scaled(scale, Layout::Nt, &grad, a),
        };
        let d_values = gather(sink.accumulated(sparse.values), &grad, &sparse.places);
        [d_a, d_b, d_values]
    }
}
