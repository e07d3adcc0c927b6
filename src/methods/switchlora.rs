//! SwitchLoRA: a LoRA pair trained from scratch, whose vectors are exchanged one by one with a pool, so
//! that the sum of updates spans the full space. Source: arXiv:2406.06564 and the authors' code; where
//! they differ, see the settings `rate` and `decay_frozen` and `docs/decisions.md`.
//!
//! Before each update every layer draws how many vectors to switch (`schedule`), exchanges them on both
//! sides (`layer`), zeroes the moments and counters of their partners, and holds those partners for
//! some updates. The function of the layer does not change.

use serde_json::{Value, json};

use crate::config::{Ranks, RunConfig};
use crate::error::{Error, Result};
use crate::kernels::Vector;
use crate::model::config::TargetLayer;
use crate::model::{Gradients, Linear, LinearId, Model};
use crate::runlog::{Alert, Body, Coverage, Level, Phase, Switch};

use super::factors;
use super::footprint::{self, Footprint};
use super::warm_start::WarmStart;
use super::{
    Context, Export, Method, MethodState, ScheduleIndex, StateReader, adamw_all, resolved,
};

mod history;
pub mod layer;
pub mod pool;
pub mod schedule;
mod side;

use layer::{Layer, Pending, Rules};
pub use schedule::{Rate, Selection};
use schedule::{coverage, suggest_interval};

/// SwitchLoRA on all target layers.
#[derive(Debug)]
pub struct SwitchLora {
    ranks: Ranks,
    alpha: f64,
    rate: Rate,
    rules: Rules,
    warm_start: WarmStart,
    /// Empty during the warm start.
    layers: Vec<Layer>,
    /// Corrections whose norms are still on the device.
    pending: Vec<Pending>,
}

impl SwitchLora {
    /// Settings from a resolved configuration.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let table = &config.switchlora;
        let selection = Selection::from_name(&table.selection).ok_or_else(|| {
            Error::config(
                format!("switchlora.selection = {}: no such selection", table.selection),
                "use contiguous or random",
            )
        })?;
        Ok(Self {
            ranks: resolved(config.train.ranks(), "train.rank")?,
            alpha: resolved(config.train.alpha, "train.alpha")?,
            rate: Rate {
                interval0: table.interval0,
                ratio: table.ratio,
                is_authors_form: table.rate == "code",
            },
            rules: Rules {
                selection,
                freeze: table.freeze,
                counts_frozen_steps: table.count_frozen_steps,
                decay_frozen: table.decay_frozen,
                pools_on_host: table.pools == "host",
            },
            warm_start: WarmStart::new(
                table.warm_start,
                table.warm_start_learning_rate,
                "switchlora.warm_start_learning_rate",
            )?,
            layers: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// Freezes the dense weights and puts factors and pools on every target layer.
    fn wrap(&mut self, cx: &mut Context<'_>) {
        for index in 0..cx.model.linears().len() {
            let linear = cx.model.linears()[index].clone();
            let rank = factors::layer_rank(&linear, self.ranks, cx.events);
            let scale = (self.alpha / rank as f64) as f32;
            let (layer, change) =
                Layer::fresh(cx.model, LinearId(index), rank, scale, cx.seed, cx.t, &self.rules);
            if layer.is_fixed() {
                let reason = format!(
                    "{}: rank {rank} leaves nothing to switch (the layer is {} x {}); it trains as plain LoRA",
                    linear.name, linear.rows, linear.cols
                );
                cx.events.push(Phase { name: "method-disabled".into(), detail: reason }.into());
            }
            cx.events.push(factors::init_event(&cx.model.params, &linear, layer.adapter(), change));
            self.layers.push(layer);
        }
        factors::freeze_targets(cx.model);
        self.predict_coverage(cx);
    }

    /// Tells how much of the pools this run will reach, and an interval that would reach all of them.
    fn predict_coverage(&self, cx: &mut Context<'_>) {
        let total = self.warm_start.rest(cx.total);
        let reach = |layer: &Layer| {
            let switches = self.rate.expected_total(total, layer.rank());
            coverage(layer.candidates(), layer.rank(), switches, self.rules.selection)
        };
        let switching = self.layers.iter().filter(|layer| !layer.is_fixed());
        let Some(least) = switching.min_by(|a, b| reach(a).total_cmp(&reach(b))) else { return };
        let (candidates, rank) = (least.candidates(), least.rank());
        let what = format!(
            "switching every {} updates reaches {:.0} % of the candidate vectors in {total} updates",
            self.rate.interval0,
            100.0 * reach(least)
        );
        let suggested = suggest_interval(&self.rate, candidates, rank, total, self.rules.freeze);
        let remedy = match suggested {
            Some(interval) => format!("--switchlora-interval0 {interval} would reach more of them"),
            None => String::new(),
        };
        cx.events.push(Alert { level: Level::Info, what, remedy }.into());
    }
}

impl Method for SwitchLora {
    fn name(&self) -> &'static str {
        "switchlora"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if self.warm_start.is_over(cx.t) {
            self.wrap(cx);
        } else {
            self.warm_start.announce(cx);
        }
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, state: &dyn StateReader) -> Result<()> {
        let Some(entries) = state.json().get("layers").and_then(Value::as_array) else {
            return Err(state.mismatch("the SwitchLoRA state has no list of layers".into()));
        };
        let is_wrapped = self.warm_start.is_over(cx.t);
        let expected = if is_wrapped { cx.model.linears().len() } else { 0 };
        if entries.len() != expected {
            return Err(state.mismatch(format!(
                "the SwitchLoRA state has {} layers, the model needs {expected}",
                entries.len()
            )));
        }
        for (index, entry) in entries.iter().enumerate() {
            let rank = factors::restored_rank(&cx.model.linears()[index], self.ranks);
            let scale = (self.alpha / rank as f64) as f32;
            let id = LinearId(index);
            let rules = &self.rules;
            let layer = Layer::restore(cx.model, id, rank, scale, cx.t, rules, entry, state)?;
            self.layers.push(layer);
        }
        if is_wrapped {
            factors::freeze_targets(cx.model);
        }
        Ok(())
    }

    fn state(&self, cx: &Context<'_>) -> MethodState {
        let mut state = MethodState::default();
        let mut entries = Vec::new();
        for layer in &self.layers {
            entries.push(layer.to_json());
            state.tensors.extend(layer.pools());
            state.steps.extend(layer.steps(cx.t));
        }
        state.json = json!({ "layers": entries });
        state
    }

    fn retune(&mut self, config: &RunConfig) {
        self.rate.interval0 = config.switchlora.interval0;
        self.rules.freeze = config.switchlora.freeze;
    }

    fn schedule_index(&self, t: u64, total: u64) -> ScheduleIndex {
        self.warm_start.schedule_index(t, total)
    }

    fn before_update(&mut self, cx: &mut Context<'_>, _grads: &mut Gradients) {
        let (u, total) = (self.warm_start.since(cx.t), self.warm_start.rest(cx.total));
        for layer in &mut self.layers {
            let wanted = layer.draw_count(&self.rate, u, total, cx.seed, cx.t);
            if wanted > 0 {
                let pending = layer.switch(cx, wanted, &self.rules);
                self.pending.push(pending);
            }
        }
    }

    fn update(
        &mut self,
        cx: &mut Context<'_>,
        mut grads: Gradients,
        clip: &Vector,
        learning_rate: f64,
    ) {
        for layer in &mut self.layers {
            layer.update(cx, &mut grads, clip, learning_rate, &self.rules);
        }
        adamw_all(cx, &mut grads, clip, learning_rate);
    }

    fn after_update(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if self.warm_start.ends_with(cx.t) {
            self.warm_start.finish(cx);
            self.wrap(cx);
        }
        Ok(())
    }

    fn monitor(&mut self, cx: &mut Context<'_>) {
        if !self.pending.is_empty() {
            let l = Pending::finish(&std::mem::take(&mut self.pending));
            cx.events.push(Body::Switch(Switch { l }));
        }
    }

    /// Each switch adds a vector to those of the start and of now, on either side; a warm start can change everything.
    fn rank_ceiling(&self, _model: &Model, linear: &Linear, _t: u64) -> usize {
        let layer = self.layers.iter().find(|layer| layer.name() == linear.name);
        match layer {
            Some(layer) if self.warm_start.updates == 0 => {
                let switches = usize::try_from(layer.switches()).unwrap_or(usize::MAX);
                switches.saturating_add(2 * layer.rank()).min(linear.max_rank())
            }
            _ => linear.max_rank(),
        }
    }

    fn coverage(&self, id: LinearId, t: u64) -> Option<Coverage> {
        self.layers.get(id.0).filter(|layer| !layer.is_fixed()).map(|layer| layer.coverage(t))
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// What a layer needs once the factors are made: a pair with two counters per vector on each side, and the pools,
/// where it can switch at all.
pub fn footprint(config: &RunConfig, layer: &TargetLayer) -> Footprint {
    let adapter = Footprint::adapter(layer, config);
    let candidates = pool::numbers(config, layer);
    let (pools, host) =
        if config.switchlora.pools == "host" { (0, candidates) } else { (candidates, 0) };
    let counters = 4 * footprint::rank(config, layer) as u128;
    Footprint { optimizer: adapter.optimizer + counters, pools, host, ..adapter }
}
