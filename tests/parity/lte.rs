//! The authors' LTE: heads on slices of a batch, merges with and without a reset, multi-head LoRA, replicas.

use std::path::Path;

use super::{assert_close, model_with_layer, number, values};
use fullrank::config::RunConfig;
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::Matrix;
use fullrank::model::backward::GradientSink;
use fullrank::model::{Gradients, LinearId, Model, ParamId};
use fullrank::run::engine::Engine;
use fullrank::run::setup;

const TOLERANCE: f64 = 3e-6;

struct Case<'a> {
    file: SafetensorsFile,
    device: &'a Device,
    engine: Engine,
    layer: LinearId,
    heads: usize,
    rank: usize,
}

impl<'a> Case<'a> {
    fn new(path: &Path, device: &'a Device, change: impl Fn(&mut RunConfig)) -> Self {
        let file = SafetensorsFile::open(path).unwrap();
        let size = |key: &str| number(&file, key) as usize;
        let (m, n) = (size("out_features"), size("in_features"));
        let (heads, rank) = (size("num_heads"), size("rank"));
        let (model, layer) = model_with_layer(m, n, device);
        let mut config = RunConfig::default();
        config.train.method = "lte".into();
        config.train.rank = Some(rank);
        config.train.alpha = Some(number(&file, "lora_alpha"));
        config.train.iters = Some(4);
        config.lte.heads = heads;
        config.lte.merge_every = 1;
        change(&mut config);
        let mut engine = setup::engine(&config, model).unwrap();
        engine.with_method(|method, cx| method.prepare(cx)).unwrap();
        let weight = engine.model.linears()[layer.0].weight.unwrap();
        let mut case = Self { file, device, engine, layer, heads, rank };
        case.set(weight, case.values("W"));
        case
    }

    fn values(&self, name: &str) -> Vec<f32> {
        values(&self.file, name)
    }

    fn set(&mut self, id: ParamId, values: Vec<f32>) {
        let params = &mut self.engine.model.params;
        let shape = params.value(id).shape();
        params.set(id, Matrix::from_host(values, shape, self.device, Category::Adapters));
    }

    fn add(&mut self, id: ParamId, terms: &[f32]) {
        let old = self.engine.model.params.value(id).to_host();
        self.set(id, old.iter().zip(terms).map(|(old, term)| old + term).collect());
    }

    /// The part of a tensor `[H, ...]` that belongs to a head.
    fn of_head(&self, name: &str, head: usize) -> Vec<f32> {
        let all = self.values(name);
        let len = all.len() / self.heads;
        all[head * len..][..len].to_vec()
    }

    fn factors(&self, head: usize) -> (ParamId, ParamId) {
        let adapter = self.engine.model.replicas()[head].adapters[self.layer.0];
        (adapter.a, adapter.b)
    }

    fn set_factors(&mut self, suffix: &str) {
        for head in 0..self.heads {
            let (a, b) = self.factors(head);
            self.set(a, self.of_head(&format!("A{suffix}"), head));
            self.set(b, self.of_head(&format!("B{suffix}"), head));
        }
    }

    /// Outputs and gradients of all heads, each on its slice.
    fn check_heads(&mut self, tag: &str, x: &str, dy: &str) {
        for head in 0..self.heads {
            let linear = &self.engine.model.linears()[self.layer.0];
            let (m, n) = (linear.rows, linear.cols);
            let matrix = |values: Vec<f32>, width: usize| {
                let shape = [values.len() / width, width];
                Matrix::from_host(values, shape, self.device, Category::Activations)
            };
            let (x, dy) = (matrix(self.of_head(x, head), n), matrix(self.of_head(dy, head), m));
            let layer = self.layer;
            let mut grads = Gradients::default();
            let (y, dx) = self.engine.model.as_replica(head, |model: &mut Model| {
                let linear = model.linears()[layer.0].clone();
                let (y, h) = linear.forward(&model.params, &x);
                let (dx, g) = linear.input_grad(&model.params, None, &dy);
                let mut keep = |_: &mut _, _, grad| Some(grad);
                let mut sink = GradientSink::new(&mut grads, true, &mut keep);
                linear.weight_grad(&mut model.params, &mut sink, &x, &dy, h, g);
                (y.to_host(), dx.to_host())
            });
            let close = |what: &str, ours: &[f32]| {
                let name = format!("{tag}.{what}");
                assert_close(&name, ours, &self.of_head(&name, head), TOLERANCE);
            };
            close("y", &self.with_bias(y));
            close("grad_x", &dx);
            let (a, b) = self.factors(head);
            close("grad_A", &grads.get(a).unwrap().to_host());
            close("grad_B", &grads.get(b).unwrap().to_host());
        }
    }

    fn with_bias(&self, mut y: Vec<f32>) -> Vec<f32> {
        if self.file.metadata()["bias"] == "true" {
            let bias = self.values("bias");
            for row in y.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(&bias).for_each(|(y, bias)| *y += bias);
            }
        }
        y
    }

    /// The layer as the network itself has it.
    fn output(&self, x: &str) -> Vec<f32> {
        let linear = &self.engine.model.linears()[self.layer.0];
        let values = self.values(x);
        let shape = [values.len() / linear.cols, linear.cols];
        let x = Matrix::from_host(values, shape, self.device, Category::Activations);
        self.with_bias(linear.forward(&self.engine.model.params, &x).0.to_host())
    }

    fn merge(&mut self) {
        self.engine.t += 1;
        self.engine.with_method(|method, cx| method.after_update(cx)).unwrap();
        self.engine.read_late_events();
    }

    fn check_weight(&self, name: &str) {
        let weight = self.engine.model.linears()[self.layer.0].weight.unwrap();
        let ours = self.engine.model.params.value(weight).to_host();
        assert_close(name, &ours, &self.values(name), TOLERANCE);
    }
}

pub fn check(path: &Path, device: &Device) {
    check_without_reset(Case::new(path, device, |_| {}));
    check_with_reset(Case::new(path, device, |config| config.lte.reset = "keep".into()));
    check_multi_head(Case::new(path, device, |config| config.lte.mhlora = "sum".into()));
}

fn check_without_reset(mut case: Case<'_>) {
    case.set_factors("");
    case.check_heads("fwd1", "x1", "dy1");
    // The mean of the replicas: their case has a LayerNorm, two of our norms take its weight and its bias.
    let n = case.engine.model.config.hidden_size;
    let norms = [1, 2]; // places in `Model::non_targets`
    for head in 0..case.heads {
        let own = case.engine.model.replicas()[head].non_targets.clone();
        let init = case.of_head("replica.init", head);
        for (norm, values) in norms.iter().zip(init.chunks(n)) {
            case.set(own[*norm], values.to_vec());
        }
    }
    case.merge();
    case.check_weight("resetless.W_merge1");
    let shared = case.engine.model.non_targets();
    for (norm, name) in norms.iter().zip(["replica.merged_weight", "replica.merged_bias"]) {
        let ours = case.engine.model.params.value(shared[*norm]).to_host();
        assert_close(name, &ours, &case.values(name), TOLERANCE);
        for head in 0..case.heads {
            let own = case.engine.model.replicas()[head].non_targets[*norm];
            assert_eq!(case.engine.model.params.value(own).to_host(), ours);
        }
    }
    case.check_heads("resetless.fwd2", "x2", "dy2");
    for head in 0..case.heads {
        let (a, b) = case.factors(head);
        case.add(a, &case.of_head("dA", head));
        case.add(b, &case.of_head("dB", head));
    }
    case.check_heads("resetless.fwd3", "x3", "dy3");
    case.merge();
    case.check_weight("resetless.W_merge2");
    assert_close(
        "resetless.eval_y",
        &case.output("x1"),
        &case.values("resetless.eval_y"),
        TOLERANCE,
    );
}

fn check_with_reset(mut case: Case<'_>) {
    case.set_factors("");
    case.merge();
    case.check_weight("reset.W_merge1");
    case.set_factors("_after_reset");
    case.check_heads("reset.fwd2", "x2", "dy2");
    case.merge();
    case.check_weight("reset.W_merge2");
}

fn check_multi_head(mut case: Case<'_>) {
    let adapter = case.engine.model.linears()[case.layer.0].adapter.unwrap();
    case.set(adapter.a, case.values("A"));
    // `[H, m, r]` to `[m, H·r]`.
    let (theirs, rank, heads) = (case.values("B"), case.rank, case.heads);
    let m = theirs.len() / (rank * heads);
    let entry =
        |row: usize, column: usize| theirs[((column / rank) * m + row) * rank + column % rank];
    let columns = rank * heads;
    let stacked = (0..m).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let stacked: Vec<f32> = stacked.map(|(row, column)| entry(row, column)).collect();
    case.set(adapter.b, stacked);
    assert_close("mhlora.y", &case.output("x1"), &case.values("mhlora.y"), TOLERANCE);
}
