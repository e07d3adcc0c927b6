//! A linear layer of the network: a dense weight, a low-rank adapter, or both; or an adapter with a sparse part.

use crate::kernels::bias::{add_bias, bias_grad};
use crate::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use crate::kernels::magnitude::{magnitude_grad, scale_columns};
use crate::kernels::matmul::{Layout, matmul, matmul_add, matmul_scaled};
use crate::kernels::packed::{Weight, packed_lora_input_grad, packed_lora_linear, packed_matmul};
use crate::kernels::sparse::{gather, scatter_add};
use crate::kernels::{Indices, Matrix};

use super::backward::GradientSink;
use super::magnitude::Magnitude;
use super::params::{ParamId, Params};

/// Index of a linear layer in the model, in the order `q k v o gate up down` per block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinearId(pub usize);

/// A low-rank pair on a linear layer: `s·B·A`, or `s·(B·A − B₀·A₀)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adapter {
    /// `A [r, n]`.
    pub a: ParamId,
    /// `B [m, r]`.
    pub b: ParamId,
    /// `s`.
    pub scale: f32,
    /// `A₀ [r, n]`, `B₀ [m, r]`: the part `s·B₀·A₀` of the product that is in the dense weight already and is taken
    /// off the adapter; frozen.
    pub merged: Option<(ParamId, ParamId)>,
}

/// Values at fixed places of a linear layer's weight: `Sp`.
#[derive(Debug, Clone)]
pub struct Sparse {
    /// `[1, k]`.
    pub values: ParamId,
    /// Flat indices `row·n + column`, ascending, one for each value.
    pub places: Indices,
}

/// `y = x·W_effᵀ (+ bias)` with `W_eff = W + s·(B·A − B₀·A₀)`, either part alone, or `Sp + s·B·A`.
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
    /// The sparse part, in the place of `W` beside an adapter.
    pub sparse: Option<Sparse>,
    /// Trained lengths of the rows of both together, where a method has put them.
    pub magnitude: Option<Magnitude>,
    /// `[1, m]`, added to the output after everything else, where the architecture has one.
    pub bias: Option<ParamId>,
}

/// What a layer's backward pass needs of its forward pass besides the input.
#[derive(Debug, Default)]
pub struct LinearTrace {
    /// `x·Aᵀ [T, r]` of an adapter.
    h: Option<Matrix>,
    /// The output `[T, m]` before trained lengths.
    z: Option<Matrix>,
}

/// What the input gradient leaves for the gradients of the parameters.
#[derive(Debug)]
pub struct OutputGrad {
    /// `s·dz·B [T, r]` of an adapter.
    g: Option<Matrix>,
    /// The gradient of the output before trained lengths, where there are some; else it is that of the output.
    dz: Option<Matrix>,
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

    /// `x [T, n]` → `y [T, m]` and what the backward pass needs.
    pub fn forward(&self, params: &Params, x: &Matrix) -> (Matrix, LinearTrace) {
        let (z, h) = self.product(params, x);
        let (y, trace) = match &self.magnitude {
            Some(magnitude) => {
                (scale_columns(&z, &magnitude.factor), LinearTrace { h, z: Some(z) })
            }
            None => (z, LinearTrace { h, z: None }),
        };
        match self.bias {
            Some(bias) => (add_bias(y, params.value(bias)), trace),
            None => (y, trace),
        }
    }

    /// `x·W_effᵀ [T, m]` and `x·Aᵀ [T, r]`, without trained lengths.
    fn product(&self, params: &Params, x: &Matrix) -> (Matrix, Option<Matrix>) {
        if let Some(weight) = self.materialised(params) {
            return (matmul(Layout::Nt, x, &weight), None);
        }
        let weight = self.weight.map(|id| params.weight(id));
        match (&self.adapter, weight) {
            (Some(adapter), weight) => {
                let (a, b) = (params.value(adapter.a), params.value(adapter.b));
                let (y, h) = match weight {
                    Some(Weight::Packed(w)) => packed_lora_linear(x, w, a, b, adapter.scale),
                    Some(Weight::Dense(w)) => lora_linear(x, Some(w), a, b, adapter.scale),
                    None => lora_linear(x, None, a, b, adapter.scale),
                };
                (take_merged_off(params, adapter, y, x), Some(h))
            }
            (None, Some(Weight::Dense(weight))) => (matmul(Layout::Nt, x, weight), None),
            (None, Some(Weight::Packed(weight))) => {
                (packed_matmul(None, Layout::Nt, x, weight), None)
            }
            (None, None) => unreachable!("layer {} has neither weight nor adapter", self.name),
        }
    }

    /// Input gradient `dx [T, n]` from `dy [T, m]`, added to `acc` if given, and what [`Linear::weight_grad`] needs.
    pub fn input_grad(
        &self,
        params: &Params,
        acc: Option<Matrix>,
        dy: &Matrix,
    ) -> (Matrix, OutputGrad) {
        let materialised = self.materialised(params);
        let weight = match &materialised {
            Some(weight) => Some(Weight::Dense(weight)),
            None => self.weight.map(|id| params.weight(id)),
        };
        let dz = self.magnitude.as_ref().map(|magnitude| scale_columns(dy, &magnitude.factor));
        let dy = dz.as_ref().unwrap_or(dy);
        match (&self.adapter, weight) {
            (Some(adapter), weight) if materialised.is_none() => {
                let (a, b) = (params.value(adapter.a), params.value(adapter.b));
                let scale = adapter.scale;
                let (dx, g) = match weight {
                    Some(Weight::Packed(w)) => packed_lora_input_grad(acc, dy, w, a, b, scale),
                    Some(Weight::Dense(w)) => lora_input_grad(acc, dy, Some(w), a, b, scale),
                    None => lora_input_grad(acc, dy, None, a, b, scale),
                };
                let dx = match adapter.merged {
                    Some((a, b)) => {
                        let (a, b) = (params.value(a), params.value(b));
                        lora_input_grad(Some(dx), dy, None, a, b, -scale).0
                    }
                    None => dx,
                };
                (dx, OutputGrad { g: Some(g), dz })
            }
            (_, Some(Weight::Packed(weight))) => {
                (packed_matmul(acc, Layout::Nn, dy, weight), OutputGrad { g: None, dz })
            }
            (_, Some(Weight::Dense(weight))) => {
                let dx = match acc {
                    Some(acc) => matmul_add(acc, 1.0, Layout::Nn, dy, weight),
                    None => matmul(Layout::Nn, dy, weight),
                };
                (dx, OutputGrad { g: None, dz })
            }
            (_, None) => unreachable!("layer {} has neither weight nor adapter", self.name),
        }
    }

    /// Gradients of whatever is trained in this layer, handed to the sink. `x` is the layer's input, `dy` the
    /// gradient of its output.
    pub fn weight_grad(
        &self,
        params: &mut Params,
        sink: &mut GradientSink<'_>,
        x: &Matrix,
        dy: &Matrix,
        trace: LinearTrace,
        output: OutputGrad,
    ) {
        // By value, so that both are freed with this call.
        let (LinearTrace { h, z }, OutputGrad { g, dz }) = (trace, output);
        if let Some(bias) = self.bias.filter(|&id| params.is_trainable(id)) {
            let acc = sink.zeroed_or_accumulated(params, bias);
            sink.deliver(params, bias, bias_grad(acc, dy));
        }
        if let (Some(magnitude), Some(z)) = (&self.magnitude, &z)
            && params.is_trainable(magnitude.id)
        {
            let acc = sink.accumulated(magnitude.id).unwrap_or_else(|| magnitude.zero_grad());
            let grad = magnitude_grad(acc, dy, z, &magnitude.length);
            sink.deliver(params, magnitude.id, grad);
        }
        let dy = dz.as_ref().unwrap_or(dy);
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
        if let (Some(adapter), Some(h), Some(g)) = (&self.adapter, &h, &g)
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

/// `y − s·(x·A₀ᵀ)·B₀ᵀ`, in place.
fn take_merged_off(params: &Params, adapter: &Adapter, y: Matrix, x: &Matrix) -> Matrix {
    let Some((a, b)) = adapter.merged else { return y };
    let h = matmul(Layout::Nt, x, params.value(a));
    matmul_add(y, -adapter.scale, Layout::Nt, &h, params.value(b))
}
