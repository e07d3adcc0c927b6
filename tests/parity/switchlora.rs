//! The authors' SwitchLoRA: state after every step, given gradients and the draws of how many to switch.

use super::{assert_close, model_with_layer, number, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::error::{Error, Result};
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::update::{AdamForm, AdamW};
use fullrank::kernels::{Matrix, Vector};
use fullrank::methods::factors::switchlora_bounds;
use fullrank::methods::switchlora::layer::{Layer, Pending, Rules};
use fullrank::methods::switchlora::{Rate, Selection};
use fullrank::methods::{Context, StateReader};
use fullrank::model::Gradients;
use fullrank::optim::Optimizer;
use serde_json::{Value, json};
use std::path::Path;

/// The authors' rate of switching and bounds of the initialisation.
pub fn check_schedule(path: &Path, _: &Device) {
    let file = SafetensorsFile::open(path).unwrap();
    for set in 0..number(&file, "sets") as usize {
        let read = |name: &str| file.read_f64(&format!("set{set}.{name}")).unwrap();
        let [interval0, ratio, total, rank] = read("params")[..] else { panic!("four params") };
        let rate = Rate { interval0, ratio, is_authors_form: true };
        let steps = file.read_i64(&format!("set{set}.step")).unwrap();
        let floors = file.read_i64(&format!("set{set}.floor")).unwrap();
        for ((step, theirs), floor) in steps.into_iter().zip(read("expected")).zip(floors) {
            let ours = rate.expected(step as u64, total as u64, rank as usize);
            let error = (ours - theirs).abs();
            assert!(error <= 1e-12 * theirs.max(1.0), "set {set} step {step}: {ours}, {theirs}");
            assert_eq!(ours.floor() as i64, floor);
        }
    }
    for row in file.read_f64("init_bounds").unwrap().chunks(7) {
        let (a, b) = switchlora_bounds(row[0] as usize, row[1] as usize, row[2] as usize);
        assert!((a - row[3]).abs() < 1e-12 && (b - row[4]).abs() < 1e-12, "{row:?}: {a}, {b}");
        // "origin_lora": A Kaiming-uniform, B zero.
        assert!((1.0 / row[1].sqrt() - row[5]).abs() < 1e-12 && row[6] == 0.0, "{row:?}");
    }
}

/// Initial pools and counters for `Layer::restore`.
struct Start<'a>(&'a SafetensorsFile);

impl StateReader for Start<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let key = if name.ends_with("pool_a") { "init.candidates_A" } else { "init.candidates_B" };
        Ok(self.0.read_expected(key, shape)?.values)
    }
    fn steps(&self, _: &str, len: usize) -> Result<Vec<i32>> {
        Ok(vec![0; len])
    }
    fn json(&self) -> &Value {
        &Value::Null
    }
    fn mismatch(&self, what: String) -> Error {
        Error::file(self.0.path(), what, "")
    }
}

pub fn check(path: &Path, device: &Device) {
    for pools_on_host in [false, true] {
        check_with(path, device, pools_on_host);
    }
}

fn check_with(path: &Path, device: &Device, pools_on_host: bool) {
    let file = SafetensorsFile::open(path).unwrap();
    let get = |key| number(&file, key);
    let (m, n, rank) = (get("m_out") as usize, get("n_in") as usize, get("rank") as usize);
    let (mut model, id) = model_with_layer(m, n, device);
    let ints = |name: &str| file.read_i32(name).unwrap();
    let side = |letter: &str| {
        // Nothing of the history bears on what is compared.
        let visited = "0".repeat(m.min(n).div_ceil(4));
        json!({
            "slots": ints(&format!("init.selected_{letter}")),
            "pointer": ints(&format!("init.next_{letter}"))[0],
            "frozen_until": vec![0; rank],
            "history": { "visited": visited, "came": vec![0; rank], "lifetimes": [] },
        })
    };
    let entry = json!({ "a": side("A"), "b": side("B") });
    let scale = get("scaling") as f32;
    let rules = Rules {
        selection: Selection::Contiguous,
        freeze: get("adam_warm_step") as u64,
        counts_frozen_steps: true,
        decay_frozen: true,
        pools_on_host,
    };
    let mut layer =
        Layer::restore(&mut model, id, rank, scale, 0, &rules, &entry, &Start(&file)).unwrap();
    let adapter = layer.adapter();
    let weight = model.linears()[id.0].weight.unwrap();
    let upload = |values, shape| Matrix::from_host(values, shape, device, Category::Weights);
    model.params.set(adapter.a, upload(values(&file, "init.A"), [rank, n]));
    model.params.set(adapter.b, upload(values(&file, "init.B"), [m, rank]));
    model.params.set(weight, upload(values(&file, "init.W"), [m, n]));

    let hyper = AdamW {
        learning_rate: 0.0,
        beta1: get("beta1"),
        beta2: get("beta2"),
        eps: get("eps"),
        weight_decay: get("weight_decay"),
        form: AdamForm::Torch,
    };
    let mut optimizer = Optimizer::new(hyper, device);
    let one = Vector::from_host(vec![1.0], [1], device, Category::Activations);
    let (requested, replaced) = (ints("requested"), ints("replaced"));
    let step_of = |name: &str, step: usize| -> Vec<f32> {
        let all = values(&file, name);
        let len = all.len() / requested.len();
        all[step * len..(step + 1) * len].to_vec()
    };
    let ints_of = |name: &str, step: usize| -> Vec<i32> {
        let all = ints(name);
        let len = all.len() / requested.len();
        all[step * len..(step + 1) * len].to_vec()
    };
    let mut events = Vec::new();
    for (step, &wanted) in requested.iter().enumerate() {
        let mut cx = Context {
            model: &mut model,
            optimizer: &mut optimizer,
            seed: 0,
            t: step as u64,
            total: requested.len() as u64,
            max_grad_norm: 0.0,
            events: &mut events,
        };
        let pending = layer.switch(&mut cx, wanted as usize, &rules);
        let done = Pending::finish(&[pending]).remove(0);
        assert_eq!(done.k as i32, replaced[step], "vectors replaced in step {step}");
        let mut grads = Gradients::default();
        grads.put(adapter.a, upload(step_of("grad_A", step), [rank, n]));
        grads.put(adapter.b, upload(step_of("grad_B", step), [m, rank]));
        layer.update(&mut cx, &mut grads, &one, get("lr"), &rules);

        let t = step as u64 + 1;
        let at = |what: &str| format!("{what} after step {step}");
        let state = layer.to_json();
        let pools = layer.pools();
        let steps = layer.steps(t);
        let moments: std::collections::BTreeMap<_, _> = optimizer.iter().collect();
        for (index, (letter, key, param)) in
            [("A", "a", adapter.a), ("B", "b", adapter.b)].into_iter().enumerate()
        {
            let close = |what: &str, ours: &[f32]| {
                // The tolerance is relative to the largest entry over all steps.
                let name = what.to_owned();
                let all = values(&file, &name);
                let largest = all.iter().fold(0f32, |m, v| m.max(v.abs()));
                let mut theirs = step_of(&name, step);
                let mut ours = ours.to_vec();
                theirs.push(largest);
                ours.push(largest);
                assert_close(&at(&name), &ours, &theirs, 2e-5);
            };
            close(letter, &model.params.value(param).to_host());
            close(&format!("candidates_{letter}"), &pools[index].value.to_host());
            close(&format!("exp_avg_{letter}"), &moments[&param].exp_avg.to_host());
            close(&format!("exp_avg_sq_{letter}"), &moments[&param].exp_avg_sq.to_host());
            let list = |field: &str| -> Vec<i32> {
                let list = state[key][field].as_array().unwrap();
                list.iter().map(|v| v.as_i64().unwrap() as i32).collect()
            };
            let same = |what: &str, ours: Vec<i32>| {
                let name = format!("{what}_{letter}");
                assert_eq!(ours, ints_of(&name, step), "{}", at(&name));
            };
            same("selected", list("slots"));
            same("next", vec![state[key]["pointer"].as_i64().unwrap() as i32]);
            same("freeze", list("frozen_until").iter().map(|u| (u - t as i32).max(0)).collect());
            let counters: Vec<f32> = steps[index].1.iter().map(|&k| k as f32).collect();
            assert_eq!(counters, step_of(&format!("step_{letter}"), step), "{}", at("step"));
            if letter == "A" {
                close("W", &model.params.value(weight).to_host());
            }
        }
    }
}
