//! A linear layer of the network: a dense weight, a low-rank adapter, or both.

use crate::kernels::Matrix;
use crate::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use crate::kernels::matmul::{Layout, matmul, matmul_add};

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

/// `y = x·W_effᵀ` with `W_eff = W + s·B·A`, or either part alone.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Module path, as in Hugging Face names: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// The block it stands in, from 0.
    pub block: usize,
    /// Blocks of the network.
    pub blocks: usize,
    /// Outputs `m`.
    pub rows: usize,
    /// Inputs `n`.
    pub cols: usize,
    /// `W [m, n]`; None when the product of the factors stands alone.
    pub weight: Option<ParamId>,
    /// The low-rank pair, where a method has put one.
    pub adapter: Option<Adapter>,
}

impl Linear {
    /// `min(m, n)`: the largest rank this layer can have.
    pub fn max_rank(&self) -> usize {
        self.rows.min(self.cols)
    }

    /// `x [T, n]` → `(y [T, m], h = x·Aᵀ [T, r])`; `h` is what the backward pass needs of an adapter.
    pub(super) fn forward(&self, params: &Params, x: &Matrix) -> (Matrix, Option<Matrix>) {
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
        let weight = self.weight.map(|id| params.value(id));
        match (&self.adapter, weight) {
            (Some(adapter), weight) => {
                let (a, b) = (params.value(adapter.a), params.value(adapter.b));
                let (dx, g) = lora_input_grad(acc, dy, weight, a, b, adapter.scale);
                (dx, Some(g))
            }
            (None, Some(weight)) => {
                let dx = match acc {
                    Some(acc) => matmul_add(acc, 1.0, Layout::Nn, dy, weight),
                    None => matmul(Layout::Nn, dy, weight),
                };
                (dx, None)
            }
            (None, None) => unreachable!("layer {} has neither weight nor adapter", self.name),
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
        if let (Some(adapter), Some(h), Some(g)) = (&self.adapter, h, g)
            && params.is_trainable(adapter.a)
        {
            let acc = sink.accumulated(adapter.a).zip(sink.accumulated(adapter.b));
            let (da, db) = lora_factor_grads(acc, x, dy, h, g, adapter.scale);
            sink.deliver(params, adapter.a, da);
            sink.deliver(params, adapter.b, db);
        }
    }
}
