//! SLTrain: every target layer is `s·B·A + Sp` from the start, without a dense weight. `Sp` has values at a fixed random
//! set of places and is trained with the factors. Source: arXiv:2406.02214 and the authors' repository.
//!
//! The places are a function of seed, layer and density, so a checkpoint holds only their hash, which a resume with
//! other ones does not match.

use serde_json::{Value, json};

use crate::config::{Ranks, RunConfig};
use crate::device::memory::Category;
use crate::error::{Error, Result};
use crate::kernels::{Indices, Matrix};
use crate::model::config::TargetLayer;
use crate::model::{Linear, LinearId, Model, Role, Sparse};
use crate::random::stream;

use super::factors::{self, FactorInit};
use super::footprint::{self, Footprint};
use super::{Context, Export, Method, MethodState, StateReader, resolved};

/// SLTrain on all target layers.
#[derive(Debug)]
pub struct SlTrain {
    ranks: Ranks,
    alpha: f64,
    density: f64,
    /// Of each layer's places, in the model's order.
    hashes: Vec<String>,
}

/// Values of the sparse part of a layer `m × n`: the share `density` of its entries, at least one.
pub fn entries(rows: usize, cols: usize, density: f64) -> usize {
    let all = rows * cols;
    ((all as f64 * density).round() as usize).clamp(1, all.max(1))
}

/// The places of a layer's sparse part: flat indices `row·n + column`, distinct, uniformly drawn, ascending.
///
/// Errors: a layer with more entries than an index can name.
pub fn places(linear: &Linear, density: f64, seed: u64) -> Result<Vec<i32>> {
    let (m, n) = (linear.rows, linear.cols);
    if m * n > i32::MAX as usize {
        return Err(Error::config(
            format!("{} has {m} x {n} entries, SLTrain can address {}", linear.name, i32::MAX),
            "use a smaller model, or another --method",
        ));
    }
    let mut random = stream(seed, &linear.name, "places", 0);
    let mut is_taken = vec![false; m * n];
    // Floyd's sampling: as many draws as places, every set equally likely.
    for last in m * n - entries(m, n, density)..m * n {
        let place = random.below(last as u64 + 1) as usize;
        let chosen = if is_taken[place] { last } else { place };
        is_taken[chosen] = true;
    }
    let taken = is_taken.into_iter().enumerate().filter(|&(_, is_taken)| is_taken);
    Ok(taken.map(|(place, _)| place as i32).collect())
}

/// The sparse values of a fresh layer, `U(±1/√n)`.
fn first_values(linear: &Linear, count: usize, seed: u64) -> Vec<f32> {
    let bound = 1.0 / (linear.cols as f32).sqrt();
    stream(seed, &linear.name, "sparse", 0).symmetric_vec(count, bound)
}

fn hash(places: &[i32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for place in places {
        hasher.update(&place.to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

impl SlTrain {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        Ok(Self {
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            density: config.sltrain.density,
            hashes: Vec::new(),
        })
    }

    /// Puts factors and sparse values on every target layer in the place of its weight.
    fn attach(&mut self, cx: &mut Context<'_>, fresh: bool) -> Result<()> {
        for index in 0..cx.model.linears().len() {
            let (linear, id) = (cx.model.linears()[index].clone(), LinearId(index));
            let places = places(&linear, self.density, cx.seed)?;
            self.hashes.push(hash(&places));
            let rank = if fresh {
                factors::layer_rank(&linear, self.ranks, cx.events)
            } else {
                factors::restored_rank(&linear, self.ranks)
            };
            let pair = if fresh {
                factors::draw(&linear, rank, FactorInit::Standard, cx.seed)
            } else {
                factors::blank(&linear, rank)
            };
            cx.model.drop_weight(id);
            let scale = (self.alpha / rank as f64) as f32;
            let (adapter, _) = factors::attach(cx.model, id, rank, scale, pair, false);

            let values = if fresh {
                first_values(&linear, places.len(), cx.seed)
            } else {
                vec![0.0; places.len()]
            };
            let (device, shape) = (cx.model.device().clone(), [1, places.len()]);
            let values = Matrix::from_host(values, shape, &device, Category::Adapters);
            let name = format!("{}.sparse", linear.name);
            let values = cx.model.params.add(name, shape.to_vec(), Role::Factor, values, true);
            let places = Indices::from_host(&places, &device, Category::Adapters);
            cx.model.linear_mut(id).sparse = Some(Sparse { values, places });
            if fresh {
                // There was no function to keep.
                cx.events.push(factors::init_event(&cx.model.params, &linear, adapter, 0.0));
            }
        }
        Ok(())
    }
}

impl Method for SlTrain {
    fn name(&self) -> &'static str {
        "sltrain"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        self.attach(cx, true)
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        self.attach(cx, false)?;
        let saved = state.json().get("places").and_then(Value::as_array);
        let saved: Option<Vec<&str>> =
            saved.map(|all| all.iter().filter_map(Value::as_str).collect());
        if saved.is_some_and(|saved| saved == self.hashes) {
            return Ok(());
        }
        Err(state.mismatch(format!(
            "its sparse parts have other places than seed {} and sltrain.density {} give",
            cx.seed, self.density
        )))
    }

    fn state(&self, _cx: &Context<'_>) -> MethodState {
        MethodState { json: json!({ "places": self.hashes }), ..MethodState::default() }
    }

    /// `B` is zero at the start, so only the sparse values are there.
    fn start_weight(&self, linear: &Linear, seed: u64, base: Vec<f64>) -> Vec<f64> {
        let Ok(places) = places(linear, self.density, seed) else { return base };
        let mut start = vec![0.0; linear.rows * linear.cols];
        for (value, place) in first_values(linear, places.len(), seed).into_iter().zip(places) {
            start[place as usize] = f64::from(value);
        }
        start
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// Factors and sparse values, with the places of these; a product makes their dense sum.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    let sparse = entries(layer.rows, layer.cols, config.sltrain.density) as u128;
    let trained = layer.factor_len(footprint::rank(config, layer)) + sparse;
    Footprint {
        factors: trained + sparse,
        trained,
        optimizer: 2 * trained,
        product_scratch: layer.len(),
        ..Footprint::default()
    }
}
