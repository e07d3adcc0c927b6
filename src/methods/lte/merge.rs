//! The merge of LTE's heads: the mean of what each has learned goes into `W`, the mean of their other parameters
//! into the network's. What the `merge` event tells is computed on the device and read late.

use crate::device::Device;
use crate::device::memory::Category;
use crate::kernels::matmul::{Layout, matmul_add, matmul_scaled};
use crate::kernels::scaling::{add_scaled, limit_growth};
use crate::kernels::update::add_sum_squares;
use crate::kernels::{Matrix, Vector};
use crate::linalg::orthonormal::distance;
use crate::model::{Adapter, LinearId, Model, Params, Role};
use crate::runlog::MergeLayer;
use crate::runlog::number::Number;

/// Brings a change to this norm before its direction is taken; a smaller change counts for its own, lesser norm.
const LEAST: f64 = 1e-12;

/// Squared norms of one layer's merge, each `[1]`, still on the device.
#[derive(Debug)]
pub struct LayerMerge {
    layer: LinearId,
    /// Of what each head has learned since the last merge.
    heads: Vec<Vector>,
    /// Of their mean, which went into `W`.
    mean: Vector,
    /// Of the sum of their directions.
    directions: Vector,
}

/// What a head has learned that is not in `W` yet, `s·(B·A − B₀·A₀) [m, n]`.
pub fn delta(params: &Params, adapter: &Adapter) -> Matrix {
    let (a, b) = (params.value(adapter.a), params.value(adapter.b));
    let delta = matmul_scaled(adapter.scale, Layout::Nn, b, a);
    match adapter.merged {
        Some((a, b)) => {
            matmul_add(delta, -adapter.scale, Layout::Nn, params.value(b), params.value(a))
        }
        None => delta,
    }
}

/// `W += mean_h D_h` for one layer, `D_h` by [`delta`].
pub fn merge_layer(model: &mut Model, id: LinearId) -> LayerMerge {
    let device = model.device().clone();
    let linear = &model.linears()[id.0];
    let (shape, weight) = ([linear.rows, linear.cols], linear.weight);
    let adapters: Vec<Adapter> = model.replicas().iter().map(|r| r.adapters[id.0]).collect();
    let blank = || Matrix::zeros(shape, &device, Category::Activations);
    let one = ones(&device);
    let (mut mean, mut directions, mut heads) = (blank(), blank(), Vec::new());
    for adapter in &adapters {
        let delta = delta(&model.params, adapter);
        let squares = squares(&delta, &device);
        let unit = limit_growth(&squares, &one, LEAST, 1.0).factor;
        directions = add_scaled(directions, (1.0 / LEAST) as f32, &unit, &delta);
        mean = add_scaled(mean, 1.0 / adapters.len() as f32, &one, &delta);
        heads.push(squares);
    }
    let numbers = LayerMerge {
        layer: id,
        heads,
        mean: squares(&mean, &device),
        directions: squares(&directions, &device),
    };
    drop(directions);
    if let Some(weight) = weight {
        model.params.update(weight, |w| add_scaled(w, 1.0, &one, &mean));
    }
    numbers
}

fn ones(device: &Device) -> Vector {
    Vector::filled(1.0, [1], device, Category::Activations)
}

fn squares(x: &Matrix, device: &Device) -> Vector {
    add_sum_squares(Vector::zeros([1], device, Category::Activations), x)
}

/// Gives the network the mean of its replicas' embeddings, norms and heads, and each replica a copy.
pub fn average_non_targets(model: &mut Model) {
    let device = model.device().clone();
    let one = ones(&device);
    for (place, shared) in model.non_targets().into_iter().enumerate() {
        let own: Vec<_> = model.replicas().iter().map(|r| r.non_targets[place]).collect();
        if own.contains(&shared) {
            continue; // frozen
        }
        let params = &mut model.params;
        let shape = params.value(shared).shape();
        let zero = Matrix::zeros(shape, &device, Category::Weights);
        let rate = 1.0 / own.len() as f32;
        let mean = own.iter().fold(zero, |sum, &id| add_scaled(sum, rate, &one, params.value(id)));
        for id in own {
            params.set(id, mean.duplicate(&device, Category::Adapters));
        }
        params.set(shared, mean);
    }
}

/// Keeps the factors as they are now: what they give is in `W`.
pub fn remember(model: &mut Model) {
    let device = model.device().clone();
    let mut replicas = model.replicas().to_vec();
    for (head, replica) in replicas.iter_mut().enumerate() {
        for (index, adapter) in replica.adapters.iter_mut().enumerate() {
            let layer = model.linears()[index].name.clone();
            let params = &mut model.params;
            let copy =
                |params: &Params, id| params.value(id).duplicate(&device, Category::Adapters);
            let (a, b) = (copy(params, adapter.a), copy(params, adapter.b));
            if let Some((old_a, old_b)) = adapter.merged {
                params.set(old_a, a);
                params.set(old_b, b);
                continue;
            }
            let mut add = |factor: char, value: Matrix| {
                let (name, shape) = (format!("{layer}.merged_{factor}.{head}"), value.shape());
                params.add(name, shape.to_vec(), Role::Factor, value, false)
            };
            adapter.merged = Some((add('A', a), add('B', b)));
        }
    }
    model.set_replicas(replicas);
}

/// The mean distance between the spans of two heads' vectors of `len` entries; `None` with one head, or where one has
/// learned nothing yet.
pub fn head_distance(heads: &[Vec<f64>], len: usize) -> Option<f64> {
    let pairs =
        heads.iter().enumerate().flat_map(|(at, a)| heads[at + 1..].iter().map(move |b| (a, b)));
    let distances: Option<Vec<f64>> = pairs.map(|(a, b)| distance(a, b, len)).collect();
    let distances = distances.filter(|distances| !distances.is_empty())?;
    Some(distances.iter().sum::<f64>() / distances.len() as f64)
}

/// Reads the numbers of a merge. Waits for the device.
pub fn read(layers: &[LayerMerge]) -> Vec<MergeLayer> {
    let all: Vec<&Vector> = layers
        .iter()
        .flat_map(|layer| layer.heads.iter().chain([&layer.mean, &layer.directions]))
        .collect();
    let mut numbers = Vector::all_to_host(&all).into_iter().flatten().map(f64::from);
    let mut read = |layer: &LayerMerge| {
        let head_norms: Vec<f64> =
            numbers.by_ref().take(layer.heads.len()).map(f64::sqrt).collect();
        let dw_norm = numbers.next().unwrap_or(f64::NAN).sqrt();
        let directions = numbers.next().unwrap_or(f64::NAN);
        let heads = head_norms.len() as f64;
        let mean_norm = head_norms.iter().sum::<f64>() / heads;
        // |Σ u|² = H + 2·Σ_{i<j} u_i·u_j of directions u.
        let cosine = (heads > 1.0).then(|| (directions - heads) / (heads * (heads - 1.0)));
        MergeLayer {
            layer: layer.layer.0 as u32,
            dw_norm,
            error: None,
            cosine: cosine.filter(|_| mean_norm > 0.0),
            agreement: (mean_norm > 0.0).then(|| dw_norm / mean_norm),
            head_norms: head_norms.into_iter().map(Number).collect(),
        }
    };
    layers.iter().map(&mut read).collect()
}
