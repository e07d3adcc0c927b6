//! A tiny network, random tokens, and the whole state of an engine in a form that can be compared.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use fullrank::config::{InRankTable, RunConfig};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::kernels::{Matrix, Vector};
use fullrank::linalg::svd::svd;
use fullrank::methods::{Export, MethodState, given};
use fullrank::model::backward::GradientSink;
use fullrank::model::config::{Rope, RopeKind, Variant};
use fullrank::model::{Batch, Gradients, Linear, Model, ModelConfig, ParamId};
use fullrank::random::stream;
use fullrank::run::adapter::of_method;
use fullrank::run::engine::{Engine, Outcome};
use fullrank::run::setup;
use fullrank::runlog::SwitchLayer;
use serde_json::Value;

pub const SEQ_LEN: usize = 12;
pub const LINEARS: usize = 14;
/// The batches that a method sees before the run are numbered from here.
pub const AHEAD: u64 = 1_000;

/// Where these tests compute: the CPU backend with a ledger of its own, or the device that
/// `FULLRANK_TEST_DEVICE` names, opened once.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    match std::env::var("FULLRANK_TEST_DEVICE") {
        Ok(name) => DEVICE.get_or_init(|| Device::open(&name, None).unwrap()).clone(),
        Err(_) => Device::cpu(),
    }
}

/// Two blocks with grouped keys: layers 16 x 16, 8 x 16, 40 x 16 and 16 x 40.
pub fn shape() -> ModelConfig {
    ModelConfig {
        variant: Variant::default(),
        hidden_size: 16,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 4,
        rms_norm_eps: 1e-6,
        vocab_size: 50,
        max_position_embeddings: 64,
        tie_word_embeddings: false,
        rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
        initializer_range: 0.02,
    }
}

/// A configuration with every value set: rank 4, constant rate, no clipping.
pub fn config(method: &str) -> RunConfig {
    let mut config = RunConfig::default();
    config.train.method = method.into();
    config.train.rank = Some(4);
    config.galore.update_proj_gap = Some(5);
    config.fira.update_proj_gap = Some(5);
    config.adarankgrad.update_proj_gap = Some(5);
    config.switchlora.warm_start_learning_rate = Some(1e-3);
    config.relora.warm_start_learning_rate = Some(1e-3);
    config.inrank = InRankTable {
        start_rank: 1,
        buffer: Some(2),
        ratio: 0.9,
        first_check: Some(4),
        gap: Some(3),
        truncate_at: Some(16),
    };
    config.train.alpha = Some(match method {
        "lora" | "rslora" | "lora-plus" | "pissa" | "dora" => 8.0,
        "lora-ga" => 4.0,
        _ => 1.0,
    });
    config.train.batch_size = Some(3);
    config.lora_ga.gamma = Some(16.0);
    config.lora_ga.sequences = 8;
    config.train.iters = Some(100);
    config.train.learning_rate = Some(0.01);
    config.train.lr_schedule = Some("constant".into());
    config.train.warmup_steps = Some(0);
    config.train.max_grad_norm = Some(0.0);
    config.train.seed = 7;
    config
}

/// SwitchLoRA that switches in nearly every update and keeps that pace, with short freezes.
pub fn busy_switchlora() -> RunConfig {
    let mut config = config("switchlora");
    config.switchlora.interval0 = 6.0;
    config.switchlora.ratio = 100.0;
    config.switchlora.freeze = 3;
    config
}

/// ReLoRA with `warm` full-rank updates and cycles of `cycle`, re-warm 2, in a run of three cycles.
pub fn relora(warm: u64, cycle: u64) -> RunConfig {
    let mut config = config("relora");
    config.train.alpha = Some(8.0);
    config.train.iters = Some(warm + 3 * cycle);
    config.train.lr_schedule = Some("cosine_restarts".into());
    config.relora.warm_start = Some(warm);
    config.relora.cycle = Some(cycle);
    config.relora.warmup_steps = Some(2);
    config.relora.rewarm_steps = Some(2);
    config.relora.prune_ratio = 0.9;
    config
}

/// LTE with `heads` and a merge every `merge_every` updates.
pub fn lte(heads: usize, merge_every: u64) -> RunConfig {
    let mut config = config("lte");
    config.train.alpha = Some(8.0);
    config.lte.heads = heads;
    config.lte.merge_every = merge_every;
    config
}

/// An engine at the start of a run, the method prepared.
pub fn engine(config: &RunConfig) -> Engine {
    engine_of(config, shape())
}

pub fn engine_of(config: &RunConfig, shape: ModelConfig) -> Engine {
    let model = Model::init(shape, config.train.seed, &device());
    let mut engine = setup::engine(config, model).unwrap();
    let mut draw = AHEAD;
    let mut ahead = || {
        draw += 1;
        Ok(batch(draw))
    };
    engine.prepare(&mut ahead).unwrap();
    engine
}

/// Inputs and targets of random sequences; `draw` numbers them.
pub fn tokens(rows: usize, draw: u64) -> (Vec<i32>, Vec<i32>) {
    let mut random = stream(11, "batch", "test", draw);
    let mut ids = || (0..rows * SEQ_LEN).map(|_| random.below(50) as i32).collect::<Vec<_>>();
    (ids(), ids())
}

/// Random sequences; `draw` numbers the batch.
pub fn batch_of(rows: usize, draw: u64, device: &Device) -> Batch {
    let (inputs, targets) = tokens(rows, draw);
    Batch::new(&inputs, &targets, SEQ_LEN, device)
}

/// What an engine trains on in one update: a batch, or two sequences for each replica.
pub fn batches(model: &Model, draw: u64) -> Vec<Batch> {
    let rows = if model.replicas().is_empty() { 3 } else { 2 * model.replicas().len() };
    let (inputs, targets) = tokens(rows, draw);
    model.batches(&inputs, &targets, SEQ_LEN)
}

pub fn batch(draw: u64) -> Batch {
    batch_of(3, draw, &device())
}

/// The update that comes next, on the batch that belongs to it.
pub fn step(engine: &mut Engine) -> Outcome {
    let batches = batches(&engine.model, engine.t);
    let outcome = engine.step(&batches).unwrap();
    assert!(outcome.is_applied, "the update is applied");
    outcome
}

pub fn train(engine: &mut Engine, updates: u64) {
    for _ in 0..updates {
        step(engine);
    }
}

/// What the method keeps besides parameters and moments.
pub fn method_state(engine: &mut Engine) -> MethodState {
    engine.with_method(|method, cx| method.state(cx))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Everything that decides how a run goes on, bit by bit: weights, factors, moments, counters, pools,
/// pointers, slots, freezes, `t`.
pub fn snapshot(engine: &mut Engine) -> BTreeMap<String, Vec<u32>> {
    let state = method_state(engine);
    let mut all = parameter_bits(&engine.model);
    for (id, moments) in engine.optimizer.iter() {
        let name = &engine.model.params.get(id).name;
        all.insert(format!("{name}.exp_avg"), bits(&moments.exp_avg.to_host()));
        all.insert(format!("{name}.exp_avg_sq"), bits(&moments.exp_avg_sq.to_host()));
        // Where the method counts for each vector this counter is unused.
        if !state.steps.iter().any(|(other, _)| *other == id) {
            all.insert(format!("{name}.step"), vec![moments.step]);
        }
    }
    for (id, steps) in state.steps {
        let name = &engine.model.params.get(id).name;
        all.insert(format!("{name}.step"), steps.into_iter().map(i32::cast_unsigned).collect());
    }
    for tensor in state.tensors {
        all.insert(tensor.name, bits(&tensor.value.to_host()));
    }
    let json = state.json.to_string().bytes().map(u32::from).collect();
    all.insert("state.json".into(), json);
    all.insert("t".into(), vec![engine.t as u32]);
    all
}

pub fn parameter_bits(model: &Model) -> BTreeMap<String, Vec<u32>> {
    let params = model.params.iter();
    params.map(|(id, param)| (param.name.clone(), bits(&model.params.host_values(&[id])))).collect()
}

/// Names what differs instead of printing all bits.
#[track_caller]
pub fn assert_same(
    what: &str,
    ours: &BTreeMap<String, Vec<u32>>,
    theirs: &BTreeMap<String, Vec<u32>>,
) {
    let keys = |map: &BTreeMap<String, Vec<u32>>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(ours), keys(theirs), "{what}: the same parts");
    let differing: Vec<_> = ours.keys().filter(|&key| ours[key] != theirs[key]).collect();
    assert!(differing.is_empty(), "{what}: these differ: {differing:?}");
}

/// `W + s·(B·A − B₀·A₀)` of a layer in f64, row-major, from the stored f32 values.
pub fn effective(model: &Model, linear: &Linear) -> Vec<f64> {
    let (m, n) = (linear.rows, linear.cols);
    let mut sum = match linear.weight {
        Some(id) => wide(model, id),
        None => vec![0.0; m * n],
    };
    if let Some(adapter) = linear.adapter {
        let mut add = |factor: f64, a, b| {
            let (a, b) = (wide(model, a), wide(model, b));
            let product = product(&b, &a, m, a.len() / n, n);
            sum.iter_mut().zip(product).for_each(|(sum, term)| *sum += factor * term);
        };
        let scale = f64::from(adapter.scale);
        add(scale, adapter.a, adapter.b);
        if let Some((a, b)) = adapter.merged {
            add(-scale, a, b);
        }
    }
    sum
}

/// `effective` of every layer.
pub fn all_effective(model: &Model) -> Vec<Vec<f64>> {
    model.linears().iter().map(|linear| effective(model, linear)).collect()
}

/// The tolerance of a merge in f32, entry by entry: `8·EPS·(|W| + |s|·|B||A|)`.
pub fn merge_tolerance(w: &[f64], b: &[f64], a: &[f64], scale: f64, rank: usize) -> Vec<f64> {
    let (m, n) = (b.len() / rank, a.len() / rank);
    let magnitude = |x: &[f64]| x.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let product = product(&magnitude(b), &magnitude(a), m, rank, n);
    let sum = w.iter().zip(product).map(|(w, p)| w.abs() + scale.abs() * p);
    sum.map(|sum| 8.0 * f64::from(f32::EPSILON) * sum).collect()
}

/// `merge_tolerance` of every layer.
pub fn tolerances(model: &Model) -> Vec<Vec<f64>> {
    let of = |linear: &Linear| {
        let adapter = linear.adapter.unwrap();
        let (a, b) = (wide(model, adapter.a), wide(model, adapter.b));
        let w = wide(model, linear.weight.unwrap());
        let rank = a.len() / linear.cols;
        merge_tolerance(&w, &b, &a, f64::from(adapter.scale), rank)
    };
    model.linears().iter().map(of).collect()
}

/// A parameter's values as f64.
pub fn wide(model: &Model, id: ParamId) -> Vec<f64> {
    model.params.value(id).to_host().into_iter().map(f64::from).collect()
}

/// `x [m, k] · y [k, n]`.
pub fn product(x: &[f64], y: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                out[i * n + j] += x[i * k + l] * y[l * n + j];
            }
        }
    }
    out
}

/// The transpose of `x [m, n]`.
pub fn transposed(x: &[f64], m: usize, n: usize) -> Vec<f64> {
    (0..n).flat_map(|j| (0..m).map(move |i| x[i * n + j])).collect()
}

/// `max|x − y| / max|y|`.
pub fn relative_difference(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    let largest = y.iter().fold(0f64, |m, v| m.max(v.abs()));
    x.iter().zip(y).fold(0f64, |m, (x, y)| m.max((x - y).abs())) / largest
}

pub fn logits(model: &Model, draw: u64) -> Vec<f64> {
    model.logits(&batch(draw)).to_host().into_iter().map(f64::from).collect()
}

/// Gradients of the mean loss, without an update.
pub fn gradients(model: &mut Model, batch: &Batch) -> Gradients {
    let mut gradients = Gradients::default();
    let mut keep = |_: &mut _, _, grad| Some(grad);
    let mut sink = GradientSink::new(&mut gradients, true, &mut keep);
    let zero = Vector::from_host(vec![0.0], [1], &device(), Category::Activations);
    model.forward_backward(batch, zero, 1.0 / batch.counted as f32, false, &mut sink);
    gradients
}

pub fn set(model: &mut Model, id: ParamId, values: Vec<f32>) {
    let shape = model.params.value(id).shape();
    let value = Matrix::from_host(values, shape, &device(), Category::Weights);
    model.params.set(id, value);
}

/// One side of one SwitchLoRA layer as a checkpoint tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    pub slots: Vec<usize>,
    pub pointer: usize,
    pub frozen_until: Vec<u64>,
    /// Pool rows; empty where the layer never switches.
    pub pool: Vec<Vec<f32>>,
    /// The active vectors: rows of A, columns of B.
    pub active: Vec<Vec<f32>>,
    /// Adam counters.
    pub steps: Vec<i32>,
    pub exp_avg: Vec<Vec<f32>>,
    pub exp_avg_sq: Vec<Vec<f32>>,
}

/// Sides A and B of every layer.
pub fn sides(engine: &mut Engine) -> Vec<[Side; 2]> {
    let state = method_state(engine);
    let moments: BTreeMap<_, _> = engine.optimizer.iter().collect();
    let entries = state.json["layers"].as_array().unwrap();
    let linears = engine.model.linears();
    entries
        .iter()
        .zip(linears)
        .map(|(entry, linear)| {
            let adapter = linear.adapter.unwrap();
            [("a", adapter.a), ("b", adapter.b)].map(|(key, id)| {
                let list = |field: &str| -> Vec<u64> {
                    entry[key][field].as_array().unwrap().iter().filter_map(Value::as_u64).collect()
                };
                let name = format!("{}.pool_{key}", linear.name);
                let pool = state.tensors.iter().find(|tensor| tensor.name == name);
                let vectors = |matrix: &Matrix| {
                    let [rows, columns] = matrix.shape();
                    let values = matrix.to_host();
                    match key {
                        "a" => values.chunks(columns).map(<[f32]>::to_vec).collect(),
                        _ => (0..columns)
                            .map(|j| (0..rows).map(|i| values[i * columns + j]).collect())
                            .collect::<Vec<Vec<f32>>>(),
                    }
                };
                let moment = |pick: fn(&fullrank::optim::adamw::Moments) -> &Matrix| {
                    moments.get(&id).map_or_else(Vec::new, |moments| vectors(pick(moments)))
                };
                Side {
                    slots: list("slots").into_iter().map(|slot| slot as usize).collect(),
                    pointer: entry[key]["pointer"].as_u64().unwrap() as usize,
                    frozen_until: list("frozen_until"),
                    pool: pool.map_or_else(Vec::new, |pool| {
                        pool.value
                            .to_host()
                            .chunks(pool.value.shape()[1])
                            .map(<[f32]>::to_vec)
                            .collect()
                    }),
                    active: vectors(engine.model.params.value(id)),
                    steps: state.steps.iter().find(|(other, _)| *other == id).unwrap().1.clone(),
                    exp_avg: moment(|moments| &moments.exp_avg),
                    exp_avg_sq: moment(|moments| &moments.exp_avg_sq),
                }
            })
        })
        .collect()
}

/// Only the switches of update `t`, without training: the counts of each layer.
pub fn switch_once(engine: &mut Engine) -> Vec<SwitchLayer> {
    engine.events.clear();
    engine.with_method(|method, cx| {
        method.before_update(cx, &mut Gradients::default());
        method.monitor(cx);
    });
    engine.t += 1;
    switches(engine)
}

/// The switches among the events so far.
pub fn switches(engine: &Engine) -> Vec<SwitchLayer> {
    let late = engine.late_events.iter().map(|(_, event)| event);
    let switches = late.chain(&engine.events).filter_map(|event| match event {
        fullrank::runlog::Body::Switch(switch) => Some(switch.l.clone()),
        _ => None,
    });
    switches.flatten().collect()
}

/// Moves all factors a little, as training would.
pub fn disturb(engine: &mut Engine) {
    let t = engine.t;
    for linear in engine.model.linears().to_vec() {
        let adapter = linear.adapter.unwrap();
        for id in [adapter.a, adapter.b] {
            let name = engine.model.params.get(id).name.clone();
            let mut random = stream(5, &name, "disturb", t);
            let values = engine.model.params.value(id).to_host();
            let moved = values.into_iter().map(|v| v + 0.1 * random.normal() as f32).collect();
            set(&mut engine.model, id, moved);
        }
    }
}

/// Indices `pointer, pointer + 1, …` up to the next pointer, around the ring.
pub fn passed(from: usize, to: usize, rank: usize) -> Vec<usize> {
    (0..(to + rank - from) % rank).map(|j| (from + j) % rank).collect()
}

/// The singular values of `[m, n]`.
pub fn svd_values(values: &[f64], m: usize, n: usize) -> Vec<f64> {
    svd(values, m, n).unwrap().s
}

/// After some updates of nothing but the method's own parameters, its plain adapters put the weights that the run
/// began with to the trained function; with the rest trained too it says that they would not.
pub fn assert_exports_as_an_adapter(config: &RunConfig, rank: usize) {
    let mut config = config.clone();
    config.train.train_non_targets = Some(false);
    let mut engine = engine(&config);
    train(&mut engine, 12);
    assert_eq!(engine.method.export(&engine.model), Export::MergedOrAdapter);
    let mut base = Model::init(shape(), config.train.seed, &device());
    let before = logits(&base, 3);
    let (layers, _) = of_method(engine.method.as_ref(), &engine.model).unwrap();
    assert_eq!(layers.len(), engine.model.linears().len());
    for layer in &layers {
        assert!(layer.rank <= rank, "{}: rank {}", layer.module.name, layer.rank);
    }
    given::attach(&mut base, &layers);
    let trained = logits(&engine.model, 3);
    assert!(relative_difference(&before, &trained) > 1e-3, "it was trained");
    let difference = relative_difference(&logits(&base, 3), &trained);
    assert!(difference <= 1e-5, "rank {rank}: {difference:e}");
    config.train.train_non_targets = Some(true);
    let engine = self::engine(&config);
    assert_eq!(engine.method.export(&engine.model), Export::Merged);
}
