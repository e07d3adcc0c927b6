//! One layer under SwitchLoRA: how it is made and restored, and one switch of vectors on both sides.

use serde_json::{Value, json};

use crate::error::Result;
use crate::kernels::Vector;
use crate::kernels::switch::{Switch, Switched, switch};
use crate::kernels::update::Axis;
use crate::methods::factors::{self, candidate, first_slots, switchlora_bounds};
use crate::methods::{Context, NamedTensor, StateReader};
use crate::model::{Adapter, Gradients, Linear, LinearId, Model, ParamId};
use crate::random::stream;
use crate::runlog::{Coverage, SwitchLayer};

use super::pool::Pool;
use super::schedule::{Rate, Selection};
pub use super::side::Rules;
use super::side::{Moves, Side, SideState};

/// One target layer under SwitchLoRA.
#[derive(Debug)]
pub struct Layer {
    id: LinearId,
    name: String,
    rank: usize,
    /// `C = min(m, n)`: candidates per pool.
    candidates: usize,
    scale: f32,
    a: Side,
    b: Side,
}

/// A switch that is done but whose norm is still on the device.
#[derive(Debug)]
pub struct Pending {
    event: SwitchLayer,
    squared_norm: Option<Vector>,
}

impl Pending {
    /// The events of these switches with their norms, read back together.
    pub fn finish(all: &[Self]) -> Vec<SwitchLayer> {
        let norms: Vec<&Vector> =
            all.iter().filter_map(|pending| pending.squared_norm.as_ref()).collect();
        let mut squares = Vector::all_to_host(&norms).into_iter().flatten().map(f64::from);
        let finished = all.iter().map(|Self { event, squared_norm }| {
            let squares = squared_norm.as_ref().and_then(|_| squares.next()).unwrap_or(0.0);
            SwitchLayer { dw_norm: squares.sqrt(), ..event.clone() }
        });
        finished.collect()
    }
}

impl Layer {
    /// A layer with freshly drawn pools: active vectors in their first slots, `W` compensated, counters that
    /// begin after `t` updates (a full-rank warm start comes before). The second result is the largest
    /// rounding error of the compensation.
    pub fn fresh(
        model: &mut Model,
        id: LinearId,
        rank: usize,
        scale: f32,
        seed: u64,
        t: u64,
        rules: &Rules,
    ) -> (Self, f64) {
        let linear = model.linears()[id.0].clone();
        let candidates = linear.max_rank();
        let (bound_a, bound_b) = switchlora_bounds(linear.rows, linear.cols, rank);
        let draw = |pool, len, bound| -> Vec<Vec<f32>> {
            (0..candidates)
                .map(|row| candidate(seed, &linear.name, pool, row, len, bound))
                .collect()
        };
        let pool_a = draw("pool_a", linear.cols, bound_a);
        let pool_b = draw("pool_b", linear.rows, bound_b);
        let (slots_a, slots_b) = match rules.selection {
            Selection::Contiguous => first_slots(candidates, rank),
            Selection::Random => {
                let slots = |side| stream(seed, &linear.name, side, 0).distinct(candidates, rank);
                (slots("first slots a"), slots("first slots b"))
            }
        };
        let pick = |pool: &[Vec<f32>], slots: &[usize]| -> Vec<Vec<f32>> {
            slots.iter().map(|&slot| pool[slot].clone()).collect()
        };
        let a = pick(&pool_a, &slots_a).concat();
        let b = factors::columns(&pick(&pool_b, &slots_b), linear.rows);
        let (adapter, change) = factors::attach(model, id, rank, scale, (a, b), true);
        let pools = (pool_a.concat(), pool_b.concat());
        let layer = Self::assemble(
            model,
            &linear,
            id,
            adapter,
            pools,
            [
                SideState::fresh(slots_a, candidates, 0, t),
                SideState::fresh(slots_b, candidates, rank / 2, t),
            ],
            rules,
        );
        (layer, change)
    }

    fn assemble(
        model: &Model,
        linear: &Linear,
        id: LinearId,
        adapter: Adapter,
        pools: (Vec<f32>, Vec<f32>),
        [a, b]: [SideState; 2],
        rules: &Rules,
    ) -> Self {
        let device = model.device();
        let candidates = linear.max_rank();
        let rank = a.slots.len();
        // Without spare candidates nothing is ever switched: no pool then.
        let pool = |values, len| {
            (!is_fixed(candidates, rank))
                .then(|| Pool::new(values, len, rules.pools_on_host, device))
        };
        let (pool_a, pool_b) = (pool(pools.0, linear.cols), pool(pools.1, linear.rows));
        Self {
            id,
            name: linear.name.clone(),
            rank,
            candidates,
            scale: adapter.scale,
            a: Side::new(Axis::Rows, adapter.a, pool_a, a, device),
            b: Side::new(Axis::Columns, adapter.b, pool_b, b, device),
        }
    }

    /// A layer from a checkpoint after `t` updates; factor values are loaded by the caller.
    pub fn restore(
        model: &mut Model,
        id: LinearId,
        rank: usize,
        scale: f32,
        t: u64,
        rules: &Rules,
        entry: &Value,
        state: &dyn StateReader,
    ) -> Result<Self> {
        let linear = model.linears()[id.0].clone();
        let candidates = linear.max_rank();
        let pool = |name: &str, len: usize| {
            if is_fixed(candidates, rank) {
                return Ok(Vec::new());
            }
            state.tensor(&format!("{}.{name}", linear.name), &[candidates, len])
        };
        let pools = (pool("pool_a", linear.cols)?, pool("pool_b", linear.rows)?);
        let side = |key: &str, factor: &str| {
            let parameter = format!("{}.{factor}", linear.name);
            SideState::read(&entry[key], &parameter, rank, candidates, t, state)
        };
        let sides = [side("a", "lora_A")?, side("b", "lora_B")?];
        let blank = factors::blank(&linear, rank);
        let (adapter, _) = factors::attach(model, id, rank, scale, blank, false);
        Ok(Self::assemble(model, &linear, id, adapter, pools, sides, rules))
    }

    /// The module path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The layer's place in the model.
    pub fn id(&self) -> LinearId {
        self.id
    }

    /// Vectors on each side.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Candidates per pool, the active ones included.
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// The factors as parameters.
    pub fn adapter(&self) -> Adapter {
        Adapter { a: self.a.param, b: self.b.param, scale: self.scale, merged: None }
    }

    /// Whether the layer can never switch: no spare candidates, or a rank of 1 (both pointers coincide).
    pub fn is_fixed(&self) -> bool {
        is_fixed(self.candidates, self.rank)
    }

    /// How many vectors to switch in this update: the expected number, its fraction by one random draw.
    /// `u` counts updates since the factors were made, `t` since the start of the run.
    pub fn draw_count(&self, rate: &Rate, u: u64, total: u64, seed: u64, t: u64) -> usize {
        if self.is_fixed() {
            return 0;
        }
        let expected = rate.expected(u, total, self.rank);
        let whole = expected.floor();
        let draw = f64::from(stream(seed, &self.name, "switch", t).uniform());
        whole as usize + usize::from(draw < expected - whole)
    }

    /// Switches up to `wanted` vectors on each side. The function of the layer stays the same.
    ///
    /// Fewer are switched where the vectors ahead of a pointer are still frozen (a vector and its partner
    /// must never be frozen together) or where the pool has fewer spare candidates; so no index is switched
    /// on both sides at once. Source: methods 2.4 of the paper's procedure; all leaving vectors are saved
    /// before any is read (the authors' code mixes the two up when destinations overlap).
    pub fn switch(&mut self, cx: &mut Context<'_>, wanted: usize, rules: &Rules) -> Pending {
        let (rank, t) = (self.rank, cx.t);
        let ahead = |from: usize, to: usize| (to + rank - from) % rank;
        let gap_a = ahead(self.a.pointer, self.b.pointer).saturating_sub(self.a.frozen_count(t));
        let gap_b = ahead(self.b.pointer, self.a.pointer).saturating_sub(self.b.frozen_count(t));
        let k = wanted.min(gap_a).min(gap_b).min(self.candidates - rank);
        let mut event = SwitchLayer {
            layer: self.id.0 as u32,
            k: k as u32,
            wanted: wanted as u32,
            ptr_a: self.a.pointer as u32,
            ptr_b: self.b.pointer as u32,
            ..SwitchLayer::default()
        };
        let mut squared_norm = None;
        if k > 0 {
            let moves_a = self.a.moves(k, self.candidates, rules, &self.name, cx);
            let moves_b = self.b.moves(k, self.candidates, rules, &self.name, cx);
            event.slot_a = moves_a.to[0] as u32;
            event.slot_b = moves_b.to[0] as u32;
            if rules.selection == Selection::Random {
                event.slots_a = moves_a.to.iter().map(|&slot| slot as u32).collect();
                event.slots_b = moves_b.to.iter().map(|&slot| slot as u32).collect();
            }
            squared_norm = Some(self.exchange(cx, [&moves_a, &moves_b]));
            self.b.restart(cx, &moves_a.vectors, rules);
            self.a.restart(cx, &moves_b.vectors, rules);
            self.a.install(&moves_a, t);
            self.b.install(&moves_b, t);
        }
        Pending { event, squared_norm }
    }

    /// Exchanges the vectors of both sides and corrects the dense weight. Gives the squared norm of the correction.
    fn exchange(&mut self, cx: &mut Context<'_>, moves: [&Moves; 2]) -> Vector {
        let weight = cx.model.linears()[self.id.0].weight;
        let (Some(weight), Some(pool_a), Some(pool_b)) =
            (weight, self.a.pool.take(), self.b.pool.take())
        else {
            unreachable!("a layer that switches has a dense weight and pools")
        };
        let device = cx.model.device().clone();
        let (pool_a, lender_a) = pool_a.lend(moves[0], &device);
        let (pool_b, lender_b) = pool_b.lend(moves[1], &device);
        let plan = Switch {
            a: lender_a.exchange(moves[0]),
            b: lender_b.exchange(moves[1]),
            scale: self.scale,
        };
        let params = &mut cx.model.params;
        let [w, a, b] = [weight, self.a.param, self.b.param].map(|id| params.take(id));
        let Switched { w, a, b, pools: [pool_a, pool_b], squared_norm } =
            switch(w, a, b, [pool_a, pool_b], &plan);
        params.set(weight, w);
        params.set(self.a.param, a);
        params.set(self.b.param, b);
        self.a.pool = Some(lender_a.take_back(pool_a));
        self.b.pool = Some(lender_b.take_back(pool_b));
        squared_norm
    }

    /// AdamW on both factors with a counter per vector.
    pub fn update(
        &mut self,
        cx: &mut Context<'_>,
        grads: &mut Gradients,
        clip: &Vector,
        learning_rate: f64,
        rules: &Rules,
    ) {
        for side in [&self.a, &self.b] {
            if let Some(grad) = grads.take(side.param) {
                side.update(cx, grad, clip, learning_rate, rules);
            }
        }
    }

    /// How many of the candidates have been active, after `t` updates.
    pub fn coverage(&self, t: u64) -> Coverage {
        Coverage {
            candidates: self.candidates as u64,
            a: self.a.history.coverage(t),
            b: self.b.history.coverage(t),
        }
    }

    /// Vectors that have been exchanged so far, both sides together.
    pub fn switches(&self) -> u64 {
        self.a.history.departures() + self.b.history.departures()
    }

    /// Pointers, slots and freezes for `state.json`.
    pub fn to_json(&self) -> Value {
        json!({ "a": self.a.to_json(), "b": self.b.to_json() })
    }

    /// The pools as tensors of a checkpoint.
    pub fn pools(&self) -> Vec<NamedTensor> {
        let sides = [&self.a, &self.b].into_iter();
        sides
            .filter_map(|side| {
                let pool = side.pool.as_ref()?;
                Some(NamedTensor {
                    name: format!("{}.{}", self.name, side.pool_name),
                    value: pool.snapshot(),
                })
            })
            .collect()
    }

    /// Adam counters per vector after `t` updates.
    pub fn steps(&self, t: u64) -> Vec<(ParamId, Vec<i32>)> {
        let steps = |side: &Side| side.since.iter().map(|&since| t as i32 - since).collect();
        vec![(self.a.param, steps(&self.a)), (self.b.param, steps(&self.b))]
    }
}

/// Whether nothing can be switched: no spare candidates, or a rank of 1.
pub(super) fn is_fixed(candidates: usize, rank: usize) -> bool {
    rank < 2 || candidates <= rank
}
