//! Low-rank factors on the target layers: their initialisations and how they are attached. Shared by
//! all adapter methods.

use crate::config::{Ranks, Targets};
use crate::device::memory::Category;
use crate::kernels::Matrix;
use crate::kernels::matmul::{Layout, matmul_add};
use crate::model::{Adapter, Linear, LinearId, Model, Params, Role};
use crate::random::stream;
use crate::runlog::{Body, Clamp, Init};

/// How A and B start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorInit {
    /// `A ~ U(±1/√n)`, `B = 0` (LoRA).
    Standard,
    /// `A ~ U(±1/√n)`, `B ~ U(±1/√r)` (ReLoRA's paper, for runs without restarts).
    BothKaiming,
    /// `A ~ N(0, 1/r)`, `B = 0`.
    Gaussian,
    /// Bounds of SwitchLoRA: `s·B·A` has the variance of a dense layer when `s = 1/r`.
    SwitchLora,
}

impl FactorInit {
    /// The init of a configuration name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "standard" => Some(Self::Standard),
            "both_kaiming" => Some(Self::BothKaiming),
            "gaussian" => Some(Self::Gaussian),
            "switchlora" => Some(Self::SwitchLora),
            _ => None,
        }
    }
}

/// Bounds `(A, B)` of SwitchLoRA's uniform initialisation for a layer `m × n` at rank `r`.
///
/// `std_B = (r/√(mn))^¼·√g`, `std_A = (√m·r/(n√n))^¼·√g`, `g = 1/√3`, bound `√3·std`: then an entry of
/// `B·A/r` has variance `1/(3n)`, that of a Kaiming-uniform layer. Source: SwitchLoRA (arXiv:2406.06564)
/// and its code.
pub fn switchlora_bounds(m: usize, n: usize, r: usize) -> (f64, f64) {
    let (m, n, r) = (m as f64, n as f64, r as f64);
    let gain = 1.0 / 3f64.sqrt();
    let std_b = (r / (m * n).sqrt()).powf(0.25) * gain.sqrt();
    let std_a = (m.sqrt() * r / (n * n.sqrt())).powf(0.25) * gain.sqrt();
    (3f64.sqrt() * std_a, 3f64.sqrt() * std_b)
}

/// The rank a layer gets: the one asked for at its depth, at most `min(m, n)`, with an event where that is less.
pub fn layer_rank(linear: &Linear, ranks: Ranks, events: &mut Vec<Body>) -> usize {
    let wanted = ranks.at(linear.block, linear.blocks);
    let rank = restored_rank(linear, ranks);
    if rank < wanted {
        let reason = format!("the layer is {} x {}", linear.rows, linear.cols);
        events.push(
            Clamp { layer: linear.name.clone(), wanted: wanted as u64, rank: rank as u64, reason }
                .into(),
        );
    }
    rank
}

/// The rank that [`layer_rank`] gave a layer, for a run that resumes.
pub fn restored_rank(linear: &Linear, ranks: Ranks) -> usize {
    ranks.at(linear.block, linear.blocks).min(linear.max_rank())
}

/// One candidate vector of SwitchLoRA, by its row in the pool. Drawn by row, so that plain LoRA with the
/// same initialisation gets the very same active vectors without making the pool.
pub fn candidate(
    seed: u64,
    layer: &str,
    pool: &str,
    row: usize,
    len: usize,
    bound: f64,
) -> Vec<f32> {
    stream(seed, layer, pool, row as u64).symmetric_vec(len, bound as f32)
}

/// The pool rows that are active at the start with contiguous selection: the last `r` of `C`, those of B
/// rotated by half.
pub fn first_slots(max_rank: usize, rank: usize) -> (Vec<usize>, Vec<usize>) {
    let offset = max_rank - rank;
    let a = (0..rank).map(|i| offset + i).collect();
    let b = (0..rank).map(|i| offset + (i + rank - rank / 2) % rank).collect();
    (a, b)
}

/// Values of A `[r, n]`, Kaiming-uniform `±1/√n`. Draw 0 is the start of a run; a method that makes A anew
/// counts on.
pub fn draw_a(linear: &Linear, rank: usize, seed: u64, draw: u64) -> Vec<f32> {
    let bound = 1.0 / (linear.cols as f32).sqrt();
    stream(seed, &linear.name, "lora_A", draw).symmetric_vec(rank * linear.cols, bound)
}

/// Values of A `[r, n]` and B `[m, r]` for an initialisation.
pub fn draw(linear: &Linear, rank: usize, init: FactorInit, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let (m, n) = (linear.rows, linear.cols);
    match init {
        FactorInit::Standard => (draw_a(linear, rank, seed, 0), vec![0.0; m * rank]),
        FactorInit::BothKaiming => {
            let bound = 1.0 / (rank as f32).sqrt();
            let b = stream(seed, &linear.name, "lora_B", 0).symmetric_vec(m * rank, bound);
            (draw_a(linear, rank, seed, 0), b)
        }
        FactorInit::Gaussian => {
            let std = 1.0 / rank as f64;
            let a = stream(seed, &linear.name, "lora_A", 0).normal_vec(rank * n, std);
            (a, vec![0.0; m * rank])
        }
        FactorInit::SwitchLora => {
            let (bound_a, bound_b) = switchlora_bounds(m, n, rank);
            let (slots_a, slots_b) = first_slots(linear.max_rank(), rank);
            let rows = |pool, slots: &[usize], len, bound| -> Vec<Vec<f32>> {
                slots
                    .iter()
                    .map(|&slot| candidate(seed, &linear.name, pool, slot, len, bound))
                    .collect()
            };
            let a = rows("pool_a", &slots_a, n, bound_a).concat();
            let b = columns(&rows("pool_b", &slots_b, m, bound_b), m);
            (a, b)
        }
    }
}

/// Zeros in the shapes of A and B, to be filled from a checkpoint.
pub fn blank(linear: &Linear, rank: usize) -> (Vec<f32>, Vec<f32>) {
    (vec![0.0; rank * linear.cols], vec![0.0; linear.rows * rank])
}

/// Row-major `[m, r]` from its `r` columns.
pub fn columns(vectors: &[Vec<f32>], m: usize) -> Vec<f32> {
    (0..m).flat_map(|row| vectors.iter().map(move |vector| vector[row])).collect()
}

/// Puts a low-rank pair on a layer as parameters `<layer>.lora_A` and `.lora_B`. With `compensate` the
/// dense weight becomes `W − s·B·A`, so that the layer computes what it did; the largest rounding error of
/// that, `max|W' + s·B·A − W|`, is the second result.
pub fn attach(
    model: &mut Model,
    id: LinearId,
    rank: usize,
    scale: f32,
    (a, b): (Vec<f32>, Vec<f32>),
    compensate: bool,
) -> (Adapter, f64) {
    let device = model.device().clone();
    let (name, rows, cols, weight) = {
        let linear = &model.linears()[id.0];
        (linear.name.clone(), linear.rows, linear.cols, linear.weight)
    };
    let upload = |values, shape| Matrix::from_host(values, shape, &device, Category::Adapters);
    let (a, b) = (upload(a, [rank, cols]), upload(b, [rows, rank]));
    let mut max_change = 0.0;
    if let (true, Some(weight)) = (compensate, weight) {
        let before = model.params.value(weight).to_host();
        model.params.update(weight, |w| matmul_add(w, -scale, Layout::Nn, &b, &a));
        let shifted = model.params.value(weight).duplicate(&device, Category::Activations);
        let after = matmul_add(shifted, scale, Layout::Nn, &b, &a).to_host();
        max_change = largest_difference(&before, &after);
    }
    let params = &mut model.params;
    let a = params.add(format!("{name}.lora_A"), vec![rank, cols], Role::Factor, a, true);
    let b = params.add(format!("{name}.lora_B"), vec![rows, rank], Role::Factor, b, true);
    let adapter = Adapter { a, b, scale, merged: None };
    model.linear_mut(id).adapter = Some(adapter);
    (adapter, max_change)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// Freezes the dense weights of the layers that have an adapter; the others go with embedding, head and norms.
pub fn freeze_adapted(model: &mut Model) {
    let adapted = model.linears().iter().filter(|linear| linear.adapter.is_some());
    let weights: Vec<_> = adapted.filter_map(|linear| linear.weight).collect();
    for id in weights {
        model.params.set_trainable(id, false);
    }
}

/// The layers among `model`'s that get an adapter, with their ids.
pub fn targets(model: &Model, targets: &Targets) -> Vec<(LinearId, Linear)> {
    let layers = model.linears().iter().enumerate();
    let chosen = layers.filter(|(_, linear)| targets.contains(&linear.name));
    chosen.map(|(index, linear)| (LinearId(index), linear.clone())).collect()
}

/// Freezes the dense weights of all target layers; everything else stays as it is.
pub fn freeze_targets(model: &mut Model) {
    let weights: Vec<_> = model.linears().iter().filter_map(|linear| linear.weight).collect();
    for id in weights {
        model.params.set_trainable(id, false);
    }
}

/// The `init` event of a layer.
pub fn init_event(params: &Params, linear: &Linear, adapter: Adapter, max_change: f64) -> Body {
    let std = |id| {
        let values = params.value(id).to_host();
        let sum: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        (sum / values.len() as f64).sqrt()
    };
    Init {
        layer: Some(linear.name.clone()),
        rank: params.value(adapter.a).shape()[0] as u64,
        scale: f64::from(adapter.scale),
        std_a: std(adapter.a),
        std_b: std(adapter.b),
        max_change,
        ..Init::default()
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switchlora_bounds_are_those_of_the_worked_examples() {
        for (m, n, std_b, std_a) in
            [(512, 512, 0.537, 0.537), (1376, 512, 0.475, 0.608), (512, 1376, 0.475, 0.371)]
        {
            let (a, b) = switchlora_bounds(m, n, 128);
            assert!((a / 3f64.sqrt() - std_a).abs() < 6e-4, "A at {m}x{n}: {a}");
            assert!((b / 3f64.sqrt() - std_b).abs() < 6e-4, "B at {m}x{n}: {b}");
        }
    }

    #[test]
    fn the_first_slots_are_the_last_of_the_pool_and_those_of_b_are_rotated_by_half() {
        assert_eq!(first_slots(10, 4), (vec![6, 7, 8, 9], vec![8, 9, 6, 7]));
        assert_eq!(first_slots(5, 3), (vec![2, 3, 4], vec![4, 2, 3]));
    }
}
