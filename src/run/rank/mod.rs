//! Rank metrics of a run: how much of the full space the change of the weights has reached.
//!
//! A measurement reads weights and computes on the host; it changes nothing, so a run has the same bits with and
//! without it. It takes at most a share of the training time: layers that do not fit are left out, always
//! the same ones first, so that the curves of the others have no gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::error::Result;
use crate::linalg::spectrum::{Form, Product, Spectrum};
use crate::methods::effective;
use crate::methods::spectra::told;
use crate::model::{Linear, LinearId, ModelConfig};
use crate::runlog::{Alert, Body, Level, Log, Rank};

use super::engine::Engine;
use super::plan::ModelSource;

mod reference;

use reference::Reference;
pub use reference::Seal;

/// Matrices whose smaller side is larger than this go by their Gram matrix.
const LARGEST_EXACT: usize = 512;
/// Seconds for one multiplication of the decompositions before any was timed.
const FIRST_GUESS_S: f64 = 5e-9;

/// The part of a run's progress that its rank metrics need.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RankProgress {
    /// Seconds that measurements have taken.
    pub spent_s: f64,
    /// By layer: what changes are counted from.
    pub references: BTreeMap<String, Seal>,
}

/// What can be measured of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantity {
    /// The effective weight less that of the reference.
    Change,
    /// What the factors add now.
    Adapter,
    /// The effective weight.
    Weight,
}

impl Quantity {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "change" => Some(Self::Change),
            "adapter" => Some(Self::Adapter),
            "weight" => Some(Self::Weight),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Adapter => "adapter",
            Self::Weight => "weight",
        }
    }
}

/// A matrix on the host whose singular values are wanted.
enum Subject {
    Dense(Vec<f64>),
    Product(Product),
}

/// One measurement to do, with what its event says besides the spectrum.
struct Job {
    subject: Subject,
    shape: [usize; 2],
    reference_norm: Option<f64>,
    event: Rank,
    /// What reading and preparing the matrix took.
    prepared_s: f64,
}

/// Measures ranks at intervals.
#[derive(Debug)]
pub struct RankMonitor {
    every: u64,
    budget: f64,
    quantities: Vec<Quantity>,
    /// Whether the spectra are kept that methods find of gradients.
    keeps_gradients: bool,
    /// In the order in which the budget is given to them.
    layers: Vec<LinearId>,
    reference: Reference,
    seconds_per_multiplication: f64,
    has_told: bool,
}

impl RankMonitor {
    /// From a resolved configuration, for a network of this shape and origin; `folder` is the run's.
    pub fn new(
        config: &RunConfig,
        shape: &ModelConfig,
        source: &ModelSource,
        folder: &Path,
    ) -> Self {
        let table = &config.rank;
        Self {
            every: table.every.unwrap_or(0),
            budget: table.budget,
            quantities: table.matrices().filter_map(Quantity::from_name).collect(),
            keeps_gradients: table.matrices().any(|name| name == "gradient"),
            layers: layers(shape.num_hidden_layers, table.layers == "all"),
            reference: Reference::new(config, shape, source, folder),
            seconds_per_multiplication: FIRST_GUESS_S,
            has_told: false,
        }
    }

    /// Whether to measure after this many attempts.
    pub fn is_due(&self, attempts: u64, is_last: bool) -> bool {
        self.every > 0 && (is_last || attempts.is_multiple_of(self.every))
    }

    /// Whether an event of the method belongs into the log: all but the spectra of gradients of layers that are not
    /// measured. A method that decomposes a gradient has them for nothing.
    pub fn wants(&self, engine: &Engine, body: &Body) -> bool {
        let Body::Rank(rank) = body else { return true };
        let name = |id: &LinearId| engine.model.linears()[id.0].name == rank.layer;
        self.every > 0 && self.keeps_gradients && self.layers.iter().any(name)
    }

    /// Keeps what later changes are counted from, where this is the update for it.
    pub fn keep_reference(&self, engine: &Engine) -> Result<()> {
        if self.every > 0 { self.reference.keep(engine) } else { Ok(()) }
    }

    /// Measures now, as much as the budget allows after `active_s` seconds of training, and gives the events. Without
    /// `active_s` somebody asked for it: all layers are measured, and it does not count.
    pub fn measure(
        &mut self,
        engine: &Engine,
        progress: &mut RankProgress,
        active_s: Option<f64>,
    ) -> Vec<Body> {
        let mut events = Vec::new();
        let allowed_s = match active_s {
            Some(active_s) => self.budget * active_s - progress.spent_s,
            None => f64::INFINITY,
        };
        let start = Instant::now();
        let at_once = rayon::current_num_threads().max(1);
        let mut measured = 0;
        let layers = self.layers.clone();
        for group in layers.chunks(at_once) {
            let cost = group.iter().map(|&id| self.cost(&engine.model.linears()[id.0]));
            let expected_s = self.seconds_per_multiplication * cost.fold(0.0, f64::max);
            if start.elapsed().as_secs_f64() + expected_s > allowed_s {
                break;
            }
            let jobs = group.iter().flat_map(|&id| self.jobs(engine, id, progress, &mut events));
            let jobs: Vec<Job> = jobs.collect();
            events.extend(self.run(jobs));
            measured += group.len();
        }
        if active_s.is_some() {
            progress.spent_s += start.elapsed().as_secs_f64();
        }
        if measured < layers.len() && !self.has_told {
            self.has_told = true;
            events.push(self.left_out(measured, layers.len()));
        }
        events
    }

    /// A message and no alert: it depends on the machine's speed, and nothing is wrong.
    fn left_out(&self, measured: usize, wanted: usize) -> Body {
        let msg = format!(
            "rank metrics: {measured} of {wanted} layers measured, the others would take more than {} % of the \
             training time; --rank-budget gives them more",
            100.0 * self.budget
        );
        Log { level: Level::Info, msg }.into()
    }

    /// Multiplications for all that is measured of a layer, about.
    fn cost(&self, linear: &Linear) -> f64 {
        let full = linear.rows as f64 * linear.cols as f64 * linear.max_rank() as f64;
        full * self.quantities.len() as f64
    }

    /// Reads a layer. A reference that is not there any more is told once and its changes left out.
    fn jobs(
        &mut self,
        engine: &Engine,
        id: LinearId,
        progress: &mut RankProgress,
        events: &mut Vec<Body>,
    ) -> Vec<Job> {
        let linear = &engine.model.linears()[id.0];
        let mut jobs: Vec<Job> = Vec::new();
        for quantity in self.quantities.clone() {
            let start = Instant::now();
            let (model, method) = (&engine.model, &engine.method);
            let found = match quantity {
                Quantity::Weight => {
                    Some((Subject::Dense(method.effective_weight(model, linear)), None))
                }
                Quantity::Adapter => effective::adapter(model, linear)
                    .map(|product| (Subject::Product(product), None)),
                Quantity::Change if !self.reference.exists(engine.t) => None,
                Quantity::Change => match self.change(engine, linear, progress) {
                    Ok((subject, norm)) => Some((subject, Some(norm))),
                    Err(error) => {
                        self.quantities.retain(|&quantity| quantity != Quantity::Change);
                        let what = format!("rank metrics stop measuring changes: {error}");
                        events.push(Alert { level: Level::Warn, what, ..Alert::default() }.into());
                        None
                    }
                },
            };
            let Some((subject, reference_norm)) = found else { continue };
            let full = linear.max_rank();
            let ceiling = match (quantity, &subject) {
                (Quantity::Change, _) if self.reference.is_start() => {
                    Some(method.rank_ceiling(model, linear, engine.t))
                }
                (Quantity::Adapter, Subject::Product(product)) => Some(product.inner().min(full)),
                _ => None,
            };
            let is_first = jobs.is_empty();
            let event = Rank {
                layer: linear.name.clone(),
                matrix: quantity.name().into(),
                reference: reference_norm.map(|_| self.reference.name().into()),
                full: full as u64,
                ceiling: ceiling.map(|ceiling| ceiling as u64),
                coverage: if is_first { method.coverage(id, engine.t) } else { None },
                head_distance: if is_first { method.head_distance(model, id) } else { None },
                ..Rank::default()
            };
            let prepared_s = start.elapsed().as_secs_f64();
            let shape = [linear.rows, linear.cols];
            jobs.push(Job { subject, shape, reference_norm, event, prepared_s });
        }
        jobs
    }

    /// The change of a layer since the reference, and the norm of the reference.
    fn change(
        &self,
        engine: &Engine,
        linear: &Linear,
        progress: &mut RankProgress,
    ) -> Result<(Subject, f64)> {
        let (model, method) = (&engine.model, &engine.method);
        let seal = progress.references.get(&linear.name);
        let product = self
            .reference
            .is_start()
            .then(|| method.change_as_product(model, linear, engine.seed))
            .flatten();
        if let (Some(product), Some(seal)) = (&product, seal) {
            return Ok((Subject::Product(product.clone()), seal.norm));
        }
        let (reference, seal) = self.reference.read(engine, linear, seal)?;
        let norm = seal.norm;
        progress.references.insert(linear.name.clone(), seal);
        if let Some(product) = product {
            return Ok((Subject::Product(product), norm));
        }
        let mut change = method.effective_weight(model, linear);
        for (now, before) in change.iter_mut().zip(reference) {
            *now -= before;
        }
        Ok((Subject::Dense(change), norm))
    }

    /// Decomposes matrices side by side, each on one thread, and learns how long that takes.
    fn run(&mut self, jobs: Vec<Job>) -> Vec<Body> {
        let done: Vec<(Option<Rank>, f64)> = jobs.into_par_iter().map(Job::run).collect();
        let slowest = done.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        if slowest > 0.0 {
            self.seconds_per_multiplication = slowest;
        }
        done.into_iter().filter_map(|(rank, _)| rank).map(Body::from).collect()
    }
}

impl Job {
    /// The event, where all entries are finite, and the seconds a multiplication of a dense decomposition took.
    fn run(self) -> (Option<Rank>, f64) {
        let start = Instant::now();
        let [rows, cols] = self.shape;
        let full = rows.min(cols);
        let spectrum = match self.subject {
            Subject::Product(product) if 2 * product.inner() < full => of_product(&product),
            Subject::Product(product) => {
                let mut dense = vec![0.0; rows * cols];
                product.add_to(&mut dense);
                of_dense(&dense, self.shape)
            }
            Subject::Dense(values) => of_dense(&values, self.shape),
        };
        let Some(spectrum) = spectrum else { return (None, 0.0) };
        let seconds = self.prepared_s + start.elapsed().as_secs_f64();
        let rate = match spectrum.form() {
            Form::Factors => 0.0,
            Form::Exact | Form::Gram => seconds / (rows as f64 * cols as f64 * full as f64),
        };
        let relative = self.reference_norm.map(|norm| spectrum.norm() / norm);
        let event = told(&spectrum, Rank { relative, ms: 1e3 * seconds, ..self.event });
        (Some(event), rate)
    }
}

fn of_dense(values: &[f64], shape: [usize; 2]) -> Option<Spectrum> {
    if !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    if shape[0].min(shape[1]) > LARGEST_EXACT {
        return Spectrum::gram(values, shape);
    }
    Spectrum::exact(values, shape)
}

fn of_product(product: &Product) -> Option<Spectrum> {
    let is_finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
    (is_finite(&product.left) && is_finite(&product.right))
        .then(|| Spectrum::of_product(product))
        .flatten()
}

/// Target layers in the order of their worth: the middle block first, then the last and the first, or all.
fn layers(blocks: usize, all: bool) -> Vec<LinearId> {
    /// Target layers of a block.
    const PER_BLOCK: usize = 7;
    let mut order = vec![blocks / 2, blocks.saturating_sub(1), 0];
    if all {
        order.extend(0..blocks);
    }
    let mut seen = BTreeSet::new();
    order.retain(|&block| block < blocks && seen.insert(block));
    let of_block = |block| (0..PER_BLOCK).map(move |place| LinearId(block * PER_BLOCK + place));
    order.into_iter().flat_map(of_block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_the_middle_and_the_last_block_are_sampled() {
        let blocks = |blocks, all| {
            let places: Vec<usize> = layers(blocks, all).iter().map(|id| id.0 / 7).collect();
            let mut distinct = places.clone();
            distinct.dedup();
            assert_eq!(places.len(), 7 * distinct.len(), "all seven layers of a block");
            distinct
        };
        assert_eq!(blocks(1, false), [0]);
        assert_eq!(blocks(2, false), [1, 0]);
        assert_eq!(blocks(12, false), [6, 11, 0]);
        assert_eq!(blocks(4, true), [2, 3, 0, 1]);
    }
}
