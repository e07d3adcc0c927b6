//! A linear layer of the network: a dense weight, a low-rank adapter, or both.

use crate::kernels::Matrix;
use crate::kernels::lora::{lora_factor_grads, lora_input_grad, lora_linear};
use crate::kernels::magnitude::{magnitude_grad, scale_columns};
use crate::kernels::matmul::{Layout, matmul, matmul_add};

use super::backward::GradientSink;
use super::magnitude::Magnitude;
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
    /// Trained lengths of the rows of both together, where a method has put them.
    pub magnitude: Option<Magnitude>,
}

/// What a layer's backward pass needs of its forward pass besides the input.
#[derive(Debug, Default)]
pub(super) struct LinearTrace {
    /// `x·Aᵀ [T, r]` of an adapter.
    h: Option<Matrix>,
    /// The output `[T, m]` before trained lengths.
    z: Option<Matrix>,
}

/// What the input gradient leaves for the gradients of the parameters.
#[derive(Debug)]
pub(super) struct OutputGrad {
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

    /// `x [T, n]` → `y [T, m]` and what the backward pass needs.
    pub(super) fn forward(&self, params: &Params, x: &Matrix) -> (Matrix, LinearTrace) {
        let (z, h) = self.product(params, x);
        match &self.magnitude {
            Some(magnitude) => {
                (scale_columns(&z, &magnitude.factor), LinearTrace { h, z: Some(z) })
            }
            None => (z, LinearTrace { h, z: None }),
        }
    }

    /// `x·W_effᵀ [T, m]` and `x·Aᵀ [T, r]`, without trained lengths.
    fn product(&self, params: &Params, x: &Matrix) -> (Matrix, Option<Matrix>) {
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

    /// Input gradient `dx [T, n]` from `dy [T, m]`, added to `acc` if given, and what [`Linear::weight_grad`] needs.
    pub(super) fn input_grad(
        &self,
        params: &Params,
        acc: Option<Matrix>,
        dy: &Matrix,
    ) -> (Matrix, OutputGrad) {
        let weight = self.weight.map(|id| params.value(id));
        let dz = self.magnitude.as_ref().map(|magnitude| scale_columns(dy, &magnitude.factor));
        let dy = dz.as_ref().unwrap_or(dy);
        match (&self.adapter, weight) {
            (Some(adapter), weight) => {
                let (a, b) = (params.value(adapter.a), params.value(adapter.b));
                let (dx, g) = lora_input_grad(acc, dy, weight, a, b, adapter.scale);
                (dx, OutputGrad { g: Some(g), dz })
            }
            (None, Some(weight)) => {
                let dx = match acc {
                    Some(acc) => matmul_add(acc, 1.0, Layout::Nn, dy, weight),
                    None => matmul(Layout::Nn, dy, weight),
                };
                (dx, OutputGrad { g: None, dz })
            }
            (None, None) => unreachable!("layer {} has neither weight nor adapter", self.name),
        }
    }

    /// Gradients of whatever is trained in this layer, handed to the sink. `x` is the layer's input, `dy` the
    /// gradient of its output.
    pub(super) fn weight_grad(
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
        if let (Some(adapter), Some(h), Some(g)) = (&self.adapter, &h, &g)
            && params.is_trainable(adapter.a)
        {
            let acc = sink.accumulated(adapter.a).zip(sink.accumulated(adapter.b));
            let (da, db) = lora_factor_grads(acc, x, dy, h, g, adapter.scale);
            sink.deliver(params, adapter.a, da);
            sink.deliver(params, adapter.b, db);
        }
    }
}
