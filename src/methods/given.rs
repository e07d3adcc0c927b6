//! An adapter that was made elsewhere, put on a network: to be trained on, evaluated or merged.

use std::path::Path;

use serde_json::{Value, json};

use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::formats::peft::{AdapterLayer, Module, PeftAdapter};
use crate::kernels::Matrix;
use crate::model::{LinearId, Model};

use super::{Context, MethodState, StateReader, factors};

/// The linear layers of a network, as adapters know them.
pub fn modules(model: &Model) -> Vec<Module> {
    let module = |linear: &crate::model::Linear| Module {
        name: linear.name.clone(),
        rows: linear.rows,
        cols: linear.cols,
    };
    model.linears().iter().map(module).collect()
}

/// Puts an adapter that was read for this network on it, lengths included, and freezes the weights below it.
pub fn attach(model: &mut Model, layers: &[AdapterLayer]) {
    for layer in layers {
        let place = model.linears().iter().position(|linear| linear.name == layer.module.name);
        let Some(id) = place.map(LinearId) else { continue };
        let pair = (layer.a.clone(), layer.b.clone());
        factors::attach(model, id, layer.rank, layer.scale, pair, false);
        if let Some(lengths) = &layer.magnitude {
            set_magnitude(model, id, lengths.clone());
        }
    }
    factors::freeze_adapted(model);
    model.refresh_magnitudes();
}

fn set_magnitude(model: &mut Model, id: LinearId, lengths: Vec<f32>) {
    model.add_magnitude(id);
    let device = model.device().clone();
    if let Some(param) = model.linears()[id.0].magnitude.as_ref().map(|magnitude| magnitude.id) {
        let shape = [1, lengths.len()];
        let value = Matrix::from_host(lengths, shape, &device, Category::Adapters);
        model.params.set(param, value);
    }
}

/// A method's start from the adapter in a folder.
pub(super) fn prepare(cx: &mut Context<'_>, folder: &Path) -> Result<()> {
    let adapter = PeftAdapter::read(folder, &modules(cx.model))?;
    attach(cx.model, &adapter.layers);
    for linear in cx.model.linears() {
        if let Some(adapter) = linear.adapter {
            cx.events.push(factors::init_event(&cx.model.params, linear, adapter, 0.0));
        }
    }
    Ok(())
}

/// What a checkpoint must know of it: rank and scale of each layer, as the folder may be gone when the run resumes.
pub(super) fn state(model: &Model) -> MethodState {
    let layer = |linear: &crate::model::Linear| match linear.adapter {
        Some(adapter) => json!([model.params.value(adapter.a).shape()[0], adapter.scale]),
        None => Value::Null,
    };
    let layers: Vec<Value> = model.linears().iter().map(layer).collect();
    MethodState { json: json!({ "layers": layers }), ..MethodState::default() }
}

/// The structure of a checkpoint; the values follow.
pub(super) fn restore(
    cx: &mut Context<'_>,
    state: &dyn StateReader,
    has_magnitudes: bool,
) -> Result<()> {
    let linears = cx.model.linears().to_vec();
    let wrong = || -> Error { state.mismatch("the ranks of the adapter are not readable".into()) };
    let layers = state.json()["layers"].as_array().filter(|layers| layers.len() == linears.len());
    for (index, (linear, layer)) in linears.iter().zip(layers.ok_or_else(wrong)?).enumerate() {
        if layer.is_null() {
            continue;
        }
        let rank = layer[0].as_u64().and_then(|rank| usize::try_from(rank).ok());
        let rank = rank.filter(|rank| (1..=1 << 20).contains(rank)).ok_or_else(wrong)?;
        let scale = layer[1].as_f64().ok_or_else(wrong)? as f32;
        let blank = factors::blank(linear, rank);
        factors::attach(cx.model, LinearId(index), rank, scale, blank, false);
        if has_magnitudes {
            cx.model.add_magnitude(LinearId(index));
        }
    }
    factors::freeze_adapted(cx.model);
    Ok(())
}
