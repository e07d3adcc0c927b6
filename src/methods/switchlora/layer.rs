//! One layer of SwitchLoRA: its factors, pools, pointers, freezes and counters, and one switch.
//!
//! Freezes and counters are kept as functions of the update index `t`: vector `i` is frozen while
//! `t < frozen_until[i]`, and its Adam counter in update `t` is `t + 1 − since[i]`. Both change only
//! when a vector is switched, so nothing is sent to the device in an update without a switch.

use serde_json::{Value, json};

use crate::device::Device;
use crate::device::memory::Category;
use crate::error::Result;
use crate::kernels::lowrank::{Exchange, switch_columns, switch_rows, zero_columns, zero_rows};
use crate::kernels::update::{Axis, VectorCounters, adamw_vectors};
use crate::kernels::{Indices, Matrix, Vector};
use crate::methods::factors::{self, candidate, first_slots, switchlora_bounds};
use crate::methods::{Context, NamedTensor, StateReader};
use crate::model::{Adapter, Gradients, Linear, LinearId, Model, ParamId};
use crate::optim::adamw::Moments;
use crate::random::stream;
use crate::runlog::SwitchLayer;

use super::schedule::{Rate, Selection};

/// What decides a switch besides the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Which candidates come in.
    pub selection: Selection,
    /// Updates for which a switched vector's partner is held; 0: only its moments are cleared.
    pub freeze: u64,
    /// Whether counters advance during a freeze.
    pub counts_frozen_steps: bool,
    /// Whether weight decay acts during a freeze.
    pub decay_frozen: bool,
}

/// Factor A by rows or factor B by columns: the same bookkeeping for both.
#[derive(Debug)]
struct Side {
    axis: Axis,
    /// Name of the pool's tensor and of its random streams.
    pool_name: &'static str,
    param: ParamId,
    /// `[C, n]` for A, `[C, m]` for B: a candidate a row, whichever the axis.
    pool: Option<Matrix>,
    /// Pool row of each active vector.
    slots: Vec<usize>,
    /// The next vector to switch.
    pointer: usize,
    frozen_until: Vec<i32>,
    since: Vec<i32>,
    device_frozen_until: Indices,
    device_since: Indices,
}

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
    squared_norms: Vec<Vector>,
}

impl Pending {
    /// The event with the norm read back.
    pub fn finish(self) -> SwitchLayer {
        let squares = self.squared_norms.iter().flat_map(Vector::to_host).map(f64::from);
        // The A-side and B-side corrections are added one after the other; their norms are combined as
        // if orthogonal, which is what the log promises ("norm of the two corrections").
        // From +0: an empty `sum` is −0.
        SwitchLayer { dw_norm: squares.fold(0.0, |sum, x| sum + x).sqrt(), ..self.event }
    }
}

impl Side {
    fn new(
        axis: Axis,
        param: ParamId,
        pool: Option<Matrix>,
        slots: Vec<usize>,
        pointer: usize,
        (since, frozen_until): (Vec<i32>, Vec<i32>),
        device: &Device,
    ) -> Self {
        let upload = |values: &[i32]| Indices::from_host(values, device, Category::Optimizer);
        Self {
            axis,
            pool_name: match axis {
                Axis::Rows => "pool_a",
                Axis::Columns => "pool_b",
            },
            param,
            pool,
            slots,
            pointer,
            device_since: upload(&since),
            device_frozen_until: upload(&frozen_until),
            since,
            frozen_until,
        }
    }

    /// Name of the random stream for the candidates that come in.
    fn slots_purpose(&self) -> &'static str {
        match self.axis {
            Axis::Rows => "slots a",
            Axis::Columns => "slots b",
        }
    }

    fn frozen_count(&self, t: u64) -> usize {
        self.frozen_until.iter().filter(|&&until| i64::from(until) > t as i64).count()
    }

    /// Pool rows for `k` incoming vectors.
    fn destinations(
        &self,
        k: usize,
        candidates: usize,
        selection: Selection,
        random: impl FnOnce() -> crate::random::Stream,
    ) -> Vec<usize> {
        let rank = self.slots.len();
        match selection {
            Selection::Contiguous => {
                let newest = self.slots[(self.pointer + rank - 1) % rank];
                (1..=k).map(|j| (newest + j) % candidates).collect()
            }
            Selection::Random => {
                let spare: Vec<usize> =
                    (0..candidates).filter(|slot| !self.slots.contains(slot)).collect();
                let drawn = random().distinct(spare.len(), k);
                drawn.into_iter().map(|i| spare[i]).collect()
            }
        }
    }

    /// Holds the given vectors from update `t` on and starts their counters anew.
    fn restart(&mut self, vectors: &[usize], t: u64, rules: &Rules, device: &Device) {
        for &i in vectors {
            let until = (t + rules.freeze) as i32;
            self.frozen_until[i] = until;
            self.since[i] = if rules.counts_frozen_steps { t as i32 } else { until };
        }
        let upload = |values: &[i32]| Indices::from_host(values, device, Category::Optimizer);
        self.device_since = upload(&self.since);
        self.device_frozen_until = upload(&self.frozen_until);
    }

    fn zero_moments(&self, cx: &mut Context<'_>, vectors: &[usize]) {
        let zero = |x| match self.axis {
            Axis::Rows => zero_rows(x, vectors),
            Axis::Columns => zero_columns(x, vectors),
        };
        let Moments { exp_avg, exp_avg_sq, step } = cx.optimizer.take(&cx.model.params, self.param);
        let moments = Moments { exp_avg: zero(exp_avg), exp_avg_sq: zero(exp_avg_sq), step };
        cx.optimizer.put(self.param, moments);
    }

    fn update(
        &self,
        cx: &mut Context<'_>,
        grad: &Matrix,
        clip: &Vector,
        learning_rate: f64,
        rules: &Rules,
    ) {
        let Moments { exp_avg, exp_avg_sq, step } = cx.optimizer.take(&cx.model.params, self.param);
        let counters = VectorCounters {
            axis: self.axis,
            since: &self.device_since,
            frozen_until: &self.device_frozen_until,
            decay_frozen: rules.decay_frozen,
        };
        let (param, exp_avg, exp_avg_sq) = adamw_vectors(
            cx.model.params.take(self.param),
            grad,
            clip,
            exp_avg,
            exp_avg_sq,
            cx.optimizer.hyper(learning_rate),
            cx.t as u32,
            &counters,
        );
        cx.model.params.set(self.param, param);
        cx.optimizer.put(self.param, Moments { exp_avg, exp_avg_sq, step });
    }

    fn to_json(&self) -> Value {
        json!({ "slots": self.slots, "pointer": self.pointer, "frozen_until": self.frozen_until })
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
                let slots =
                    |side| stream(seed, &linear.name, side, 0).distinct(candidates, rank);
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
        let counters = || (vec![t as i32; rank], vec![0; rank]);
        let layer = Self::assemble(
            model,
            &linear,
            id,
            adapter,
            pools,
            [(slots_a, 0, counters()), (slots_b, rank / 2, counters())],
        );
        (layer, change)
    }

    fn assemble(
        model: &Model,
        linear: &Linear,
        id: LinearId,
        adapter: Adapter,
        pools: (Vec<f32>, Vec<f32>),
        [a, b]: [(Vec<usize>, usize, (Vec<i32>, Vec<i32>)); 2],
    ) -> Self {
        let device = model.device();
        let candidates = linear.max_rank();
        let rank = a.0.len();
        // Without spare candidates nothing is ever switched: no pool then.
        let pool = |values, len| {
            (!is_fixed(candidates, rank)).then(|| {
                Matrix::from_host(values, [candidates, len], device, Category::Pools)
            })
        };
        let (pool_a, pool_b) = (pool(pools.0, linear.cols), pool(pools.1, linear.rows));
        Self {
            id,
            name: linear.name.clone(),
            rank,
            candidates,
            scale: adapter.scale,
            a: Side::new(Axis::Rows, adapter.a, pool_a, a.0, a.1, a.2, device),
            b: Side::new(Axis::Columns, adapter.b, pool_b, b.0, b.1, b.2, device),
        }
    }

    /// A layer from a checkpoint after `t` updates; factor values are loaded by the caller.
    pub fn restore(
        model: &mut Model,
        id: LinearId,
        rank: usize,
        scale: f32,
        t: u64,
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
        let side = |key: &str, parameter: &str| {
            let name = format!("{}.{parameter}", linear.name);
            let entry = &entry[key];
            let list = |field: &str| -> Option<Vec<i64>> {
                entry.get(field)?.as_array()?.iter().map(Value::as_i64).collect()
            };
            let wrong = || {
                state.mismatch(format!(
                    "{name}: slots, pointer or freezes do not fit rank {rank} of {candidates} candidates"
                ))
            };
            let slots = list("slots").ok_or_else(wrong)?;
            let frozen = list("frozen_until").ok_or_else(wrong)?;
            let pointer = entry.get("pointer").and_then(Value::as_u64).ok_or_else(wrong)?;
            let distinct: std::collections::BTreeSet<_> = slots.iter().collect();
            let is_sound = slots.len() == rank
                && distinct.len() == rank
                && slots.iter().all(|&slot| (0..candidates as i64).contains(&slot))
                && frozen.len() == rank
                && (pointer as usize) < rank;
            if !is_sound {
                return Err(wrong());
            }
            let since = state.steps(&name, rank)?.iter().map(|&k| t as i32 - k).collect();
            let slots = slots.into_iter().map(|slot| slot as usize).collect();
            let frozen = frozen.into_iter().map(|until| until as i32).collect();
            Ok((slots, pointer as usize, (since, frozen)))
        };
        let sides = [side("a", "lora_A")?, side("b", "lora_B")?];
        let blank = factors::blank(&linear, rank);
        let (adapter, _) = factors::attach(model, id, rank, scale, blank, false);
        Ok(Self::assemble(model, &linear, id, adapter, pools, sides))
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
        Adapter { a: self.a.param, b: self.b.param, scale: self.scale }
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

    /// Switches up to `wanted` vectors on each side, A first. The function of the layer stays the same.
    ///
    /// Fewer are switched where the vectors ahead of a pointer are still frozen (a vector and its partner
    /// must never be frozen together) or where the pool has fewer spare candidates. Source: methods 2.4 of
    /// the paper's procedure; all leaving vectors are saved before any is read (the authors' code mixes
    /// the two up when destinations overlap).
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
        let mut squared_norms = Vec::new();
        if k > 0 {
            let (to_a, norm_a) = self.exchange(cx, Axis::Rows, k, rules);
            let (to_b, norm_b) = self.exchange(cx, Axis::Columns, k, rules);
            squared_norms = vec![norm_a, norm_b];
            event.slot_a = to_a[0] as u32;
            event.slot_b = to_b[0] as u32;
            if rules.selection == Selection::Random {
                event.slots_a = to_a.iter().map(|&slot| slot as u32).collect();
                event.slots_b = to_b.iter().map(|&slot| slot as u32).collect();
            }
        }
        Pending { event, squared_norms }
    }

    /// Switches the next `k` vectors of one side and restarts their partners.
    fn exchange(
        &mut self,
        cx: &mut Context<'_>,
        axis: Axis,
        k: usize,
        rules: &Rules,
    ) -> (Vec<usize>, Vector) {
        let (side, partner) = match axis {
            Axis::Rows => (&mut self.a, &mut self.b),
            Axis::Columns => (&mut self.b, &mut self.a),
        };
        let vectors: Vec<usize> = (0..k).map(|j| (side.pointer + j) % self.rank).collect();
        let to = side.destinations(k, self.candidates, rules.selection, || {
            stream(cx.seed, &self.name, side.slots_purpose(), cx.t)
        });
        let from: Vec<usize> = vectors.iter().map(|&i| side.slots[i]).collect();
        let exchange = Exchange { vectors: &vectors, from: &from, to: &to, scale: self.scale };

        let weight = cx.model.linears()[self.id.0].weight;
        let (Some(weight), Some(pool)) = (weight, side.pool.take()) else {
            unreachable!("a layer that switches has a dense weight and a pool")
        };
        let params = &mut cx.model.params;
        let (w, vector) = (params.take(weight), params.take(side.param));
        let other = params.value(partner.param);
        let (w, vector, pool, norm) = match axis {
            Axis::Rows => switch_rows(w, vector, other, pool, &exchange),
            Axis::Columns => switch_columns(w, other, vector, pool, &exchange),
        };
        params.set(weight, w);
        params.set(side.param, vector);
        side.pool = Some(pool);

        for (&i, &slot) in vectors.iter().zip(&to) {
            side.slots[i] = slot;
        }
        side.pointer = (side.pointer + k) % self.rank;
        let device = cx.model.device().clone();
        partner.restart(&vectors, cx.t, rules, &device);
        partner.zero_moments(cx, &vectors);
        (to, norm)
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
                side.update(cx, &grad, clip, learning_rate, rules);
            }
        }
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
                    shape: pool.shape().to_vec(),
                    values: pool.to_host(),
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

fn is_fixed(candidates: usize, rank: usize) -> bool {
    rank < 2 || candidates <= rank
}
