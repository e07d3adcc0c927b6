//! Where factors started, for methods whose start is not zero and was taken off the weight: with it, a finished run is
//! a plain adapter of the weight that it began with.

use std::collections::BTreeMap;

use crate::device::Device;
use crate::device::memory::Category;
use crate::error::Result;
use crate::kernels::Matrix;
use crate::linalg::spectrum::Product;
use crate::model::{Linear, LinearId, Model};

use super::{NamedTensor, PlainAdapter, StateReader, effective};

/// `A₀ [r, n]` and `B₀ [m, r]` of the layers with an adapter, in host memory: no update needs them.
#[derive(Debug, Default)]
pub struct Starts(BTreeMap<LinearId, [Matrix; 2]>);

/// Names of A₀ and B₀ in a checkpoint.
fn names(layer: &str) -> [String; 2] {
    [format!("{layer}.lora_A0"), format!("{layer}.lora_B0")]
}

impl Starts {
    /// Keeps the start of a layer. On the CPU backend its bytes stand in the run's ledger.
    pub fn keep(&mut self, id: LinearId, [a, b]: [Vec<f32>; 2], rank: usize, device: &Device) {
        let host = if device.gpu().is_some() { Device::cpu() } else { device.clone() };
        let (cols, rows) = (a.len() / rank, b.len() / rank);
        let keep = |values, shape| Matrix::from_host(values, shape, &host, Category::Adapters);
        self.0.insert(id, [keep(a, [rank, cols]), keep(b, [rows, rank])]);
    }

    /// Reads the start of a layer from a checkpoint.
    pub fn restore(
        &mut self,
        state: &dyn StateReader,
        id: LinearId,
        linear: &Linear,
        rank: usize,
        device: &Device,
    ) -> Result<()> {
        let [a, b] = names(&linear.name);
        let pair =
            [state.tensor(&a, &[rank, linear.cols])?, state.tensor(&b, &[linear.rows, rank])?];
        self.keep(id, pair, rank, device);
        Ok(())
    }

    /// What a checkpoint holds of them.
    pub fn tensors(&self, model: &Model) -> Vec<NamedTensor> {
        let name = |id: &LinearId| names(&model.linears()[id.0].name);
        let named = self.0.iter().flat_map(|(id, pair)| name(id).into_iter().zip(pair));
        named.map(|(name, value)| NamedTensor { name, value: value.clone() }).collect()
    }

    /// `s·(B·A − B₀·A₀)` of a layer whose weight is in few bits: there the weight itself is off by the rounding of its
    /// codes, which no difference of weights could tell from the change.
    pub fn change_beside_packed(&self, model: &Model, linear: &Linear) -> Option<Product> {
        let is_packed = linear.weight.is_some_and(|id| model.params.get(id).is_packed());
        let place = model.linears().iter().position(|other| other.name == linear.name);
        let [a, b] = self.0.get(&LinearId(place.filter(|_| is_packed)?))?;
        let scale = linear.adapter?.scale;
        let wide = |matrix: &Matrix| effective::wide(&matrix.to_host());
        let start = effective::scaled(wide(b), wide(a), scale, linear);
        Some(effective::difference(effective::adapter(model, linear)?, &start))
    }

    /// The adapter of rank `2r` on the original weight that computes what the trained one does on the
    /// compensated weight.
    pub fn plain_adapter(&self, model: &Model, id: LinearId) -> Option<PlainAdapter> {
        let adapter = model.linears()[id.0].adapter?;
        let [a0, b0] = self.0.get(&id)?;
        let rank = a0.shape()[0];
        let trained = [adapter.a, adapter.b].map(|id| model.params.value(id).to_host());
        let start = [a0.to_host(), b0.to_host()];
        let is_untouched = trained == start;
        let [a, mut b] = difference([&trained[0], &trained[1]], [&start[0], &start[1]], rank);
        if is_untouched {
            // The two halves take each other off; plain zeros say so to whoever looks.
            b.fill(0.0);
        }
        // The scale is the trained pair's and stays; with twice the rank it is no rule's any more.
        Some(PlainAdapter {
            a,
            b,
            rank: 2 * rank,
            scale: adapter.scale,
            is_rank_stabilised: false,
            magnitude: None,
        })
    }
}

/// `A' [2r, n]` = `[A ; −A₀]` and `B' [m, 2r]` = `[B, B₀]`, so that with the same scale
/// `s·B'·A' = s·(B·A − B₀·A₀)`. Arguments: the trained pair, the starting pair.
///
/// Source: LoRA-GA (arXiv:2407.05000) and PiSSA (arXiv:2404.02948), their conversions to LoRA.
pub fn difference([a, b]: [&[f32]; 2], [a0, b0]: [&[f32]; 2], rank: usize) -> [Vec<f32>; 2] {
    let wide_a = a.iter().copied().chain(a0.iter().map(|value| -value)).collect();
    let rows = b.chunks(rank).zip(b0.chunks(rank));
    let wide_b = rows.flat_map(|(b, b0)| b.iter().chain(b0).copied()).collect();
    [wide_a, wide_b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_has_twice_the_rank_and_starts_at_zero() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, -1.0, 2.0, 0.5]);
        let [wide_a, wide_b] = difference([&a, &b], [&a, &b], 2);
        assert_eq!(wide_a[6..], a.map(|v| -v));
        assert_eq!(wide_b, [1.0, -1.0, 1.0, -1.0, 2.0, 0.5, 2.0, 0.5]);
        for i in 0..2 {
            for j in 0..3 {
                let sum: f32 = (0..4).map(|l| wide_b[i * 4 + l] * wide_a[l * 3 + j]).sum();
                assert_eq!(sum, 0.0);
            }
        }
    }
}
