//! The full gradient of every target layer over a few batches, on the host. On the device there is
//! never more than one layer's gradient: each is moved off and freed as soon as the backward pass has it.

use std::collections::BTreeMap;

use crate::config::Targets;
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::{Matrix, Vector};
use crate::methods::NextBatch;
use crate::model::backward::GradientSink;
use crate::model::{Gradients, Model, ParamId};

/// Mean over `batches` micro-batches of the gradient of the mean loss, for the dense weight of every layer among
/// `targets` in their order, `[m, n]` row-major. What is trained is as before afterwards; weights do not change.
///
/// Errors: from the data; a loss that is not finite.
pub fn estimate(
    model: &mut Model,
    targets: &Targets,
    batches: usize,
    recompute: bool,
    next_batch: &mut NextBatch<'_>,
) -> Result<Vec<Vec<f32>>> {
    let chosen = model.linears().iter().filter(|linear| targets.contains(&linear.name));
    let targets: Vec<ParamId> = chosen.filter_map(|linear| linear.weight).collect();
    let ids = model.params.ids();
    let trained: Vec<bool> = ids.iter().map(|&id| model.params.is_trainable(id)).collect();
    // Only what is needed: no gradient of the embedding, the head or a norm is computed.
    for &id in &ids {
        model.params.set_trainable(id, targets.contains(&id));
    }
    let sums = sum(model, batches, recompute, next_batch);
    for (&id, trained) in ids.iter().zip(trained) {
        model.params.set_trainable(id, trained);
    }
    let mut sums = sums?;
    let mean = |mut sum: Vec<f32>| {
        for value in &mut sum {
            *value /= batches as f32;
        }
        sum
    };
    Ok(targets.iter().filter_map(|id| sums.remove(id)).map(mean).collect())
}

fn sum(
    model: &mut Model,
    batches: usize,
    recompute: bool,
    next_batch: &mut NextBatch<'_>,
) -> Result<BTreeMap<ParamId, Vec<f32>>> {
    let device = model.device().clone();
    let mut sums: BTreeMap<ParamId, Vec<f32>> = BTreeMap::new();
    for index in 0..batches {
        let batch = next_batch()?;
        let mut to_host = |_: &mut _, id: ParamId, grad: Matrix| {
            let grad = grad.to_host();
            match sums.get_mut(&id) {
                Some(sum) => sum.iter_mut().zip(grad).for_each(|(sum, value)| *sum += value),
                None => {
                    sums.insert(id, grad);
                }
            }
            None
        };
        let mut kept = Gradients::default();
        // Every micro-batch counts as the last one, so that its gradients are handed out at once.
        let mut sink = GradientSink::new(&mut kept, true, &mut to_host);
        let loss = Vector::zeros([1], &device, Category::Activations);
        let scale = 1.0 / batch.counted.max(1) as f32;
        let loss = model.forward_backward(&batch, loss, scale, recompute, &mut sink).to_host();
        if let Some(loss) = loss.first().filter(|loss| !loss.is_finite()) {
            return Err(Error::Diverged {
                what: format!("the loss of batch {} of the gradient estimate is {loss}", index + 1),
                remedy: "check the weights of the model; another method would fail on them too"
                    .into(),
            });
        }
    }
    Ok(sums)
}
