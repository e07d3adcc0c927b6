//! An embedding and a head above what a device binds at once: they are cut by rows, and nothing else can tell.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests may stop

use std::collections::BTreeMap;
use std::path::Path;

use crate::devices;
use fullrank::config::RunConfig;
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::hf_checkpoint::HfCheckpoint;
use fullrank::formats::tokenizer::Tokenizer;
use fullrank::kernels::Vector;
use fullrank::model::backward::GradientSink;
use fullrank::model::config::preset;
use fullrank::model::generate::Decoder;
use fullrank::model::{Batch, Gradients, Model, ModelConfig, Role};
use fullrank::run::checkpoint::{self, Checkpoint, Progress};
use fullrank::run::engine::Engine;
use fullrank::run::export::write_model;
use fullrank::run::setup;

const SEQ_LEN: usize = 16;

fn shape(is_tied: bool) -> ModelConfig {
    let mut config = preset("demo").unwrap().config(101);
    (config.hidden_size, config.intermediate_size, config.num_hidden_layers) = (16, 24, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (2, 2, 8);
    config.max_position_embeddings = 32;
    config.initializer_range = 0.2;
    config.tie_word_embeddings = is_tied;
    config
}

/// Cuts 101 rows of 64 bytes into 4 parts.
fn cut(device: &Device) -> Device {
    device.with_new_ledger().with_binding_limit(64 * 26)
}

fn all_devices() -> Vec<Device> {
    let mut all = vec![Device::cpu()];
    all.extend(devices::gpus().first().cloned());
    all
}

fn ids(seed: i32) -> (Vec<i32>, Vec<i32>) {
    let ids = |more: i32| (0..3 * SEQ_LEN as i32).map(move |i| (i * 37 + seed * 11 + more) % 101);
    (ids(0).collect(), ids(5).map(|id| if id % 7 == 0 { -100 } else { id }).collect())
}

/// Loss and gradients, as files would have them.
fn gradients(model: &mut Model) -> (f32, BTreeMap<String, Vec<f32>>) {
    let (inputs, targets) = ids(1);
    let batch = Batch::new(&inputs, &targets, SEQ_LEN, model.device());
    let mut gradients = Gradients::default();
    let mut keep = |_: &mut _, _, grad| Some(grad);
    let mut sink = GradientSink::new(&mut gradients, true, &mut keep);
    let zero = Vector::zeros([1], &model.device().clone(), Category::Activations);
    let loss = model.forward_backward(&batch, zero, 0.1, false, &mut sink).to_host()[0];
    let of = |whole: fullrank::model::Whole| {
        let values = whole.parts.iter().flat_map(|&id| gradients.get(id).unwrap().to_host());
        (whole.name, values.collect())
    };
    (loss, model.params.wholes(Role::Network).into_iter().map(of).collect())
}

#[track_caller]
fn assert_near(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let largest = b.iter().fold(1e-20f32, |max, v| max.max(v.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 2e-5 * largest, "{what}[{i}]: {a} and {b}");
    }
}

#[test]
fn a_network_with_cut_tables_computes_what_a_whole_one_does() {
    for device in all_devices() {
        for is_tied in [false, true] {
            let mut whole = Model::init(shape(is_tied), 3, &device.with_new_ledger());
            let mut parts = Model::init(shape(is_tied), 3, &cut(&device));
            assert_eq!(whole.params.parts_of("model.embed_tokens.weight").len(), 1);
            assert_eq!(parts.params.parts_of("model.embed_tokens.weight").len(), 4);
            let heads = if is_tied { 0 } else { 4 };
            assert_eq!(parts.params.parts_of("lm_head.weight").len(), heads);
            let (inputs, targets) = ids(2);
            let batch = |model: &Model| Batch::new(&inputs, &targets, SEQ_LEN, model.device());
            let of = |model: &Model| {
                let batch = batch(model);
                (model.logits(&batch).to_host(), model.token_losses(&batch).to_host())
            };
            let ((a, a_losses), (b, b_losses)) = (of(&parts), of(&whole));
            assert_near("logits", &a, &b);
            assert_near("losses", &a_losses, &b_losses);
            let next = |model: &Model| Decoder::new(model, 16).feed(&inputs[..7]);
            assert_near("next token", &next(&parts), &next(&whole));
            let ((a_loss, a), (b_loss, b)) = (gradients(&mut parts), gradients(&mut whole));
            assert_near("loss", &[a_loss], &[b_loss]);
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
            for (name, a) in &a {
                assert_near(name, a, &b[name]);
            }
        }
        device.check().unwrap();
    }
}

fn bits(folder: &Path) -> BTreeMap<String, Vec<u32>> {
    let checkpoint = HfCheckpoint::open(folder).unwrap();
    let values = |name: &str| checkpoint.read_f32(name).unwrap().values;
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    let bits = |name: &str| values(name).into_iter().map(f32::to_bits).collect();
    names.into_iter().map(|name| (name.clone(), bits(&name))).collect()
}

#[test]
fn a_model_goes_through_cut_tables_bit_for_bit() {
    let place = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::bytes().unwrap();
    for device in all_devices() {
        let whole = place.path().join("whole");
        write_model(&whole, &Model::init(shape(false), 4, &Device::cpu()), &tokenizer).unwrap();
        let again = place.path().join("again");
        let model = Model::load(&whole, &cut(&device)).unwrap();
        write_model(&again, &model, &tokenizer).unwrap();
        assert!(bits(&whole) == bits(&again));
    }
}

fn config(method: &str) -> RunConfig {
    let mut config = RunConfig::default();
    config.train.method = method.into();
    config.train.rank = Some(4);
    config.train.alpha = Some(8.0);
    config.train.iters = Some(20);
    config.train.learning_rate = Some(1e-2);
    config.train.lr_schedule = Some("constant".into());
    config.train.warmup_steps = Some(0);
    config.train.max_grad_norm = Some(1.0);
    config.train.train_non_targets = Some(true);
    (config.lte.heads, config.lte.merge_every) = (3, 2);
    config.galore.update_proj_gap = Some(2);
    config
}

fn engine(method: &str, device: &Device) -> Engine {
    let mut engine = setup::engine(&config(method), Model::init(shape(true), 5, device)).unwrap();
    engine.with_method(|method, cx| method.prepare(cx)).unwrap();
    engine
}

fn steps(engine: &mut Engine, from: i32, to: i32) -> Vec<f64> {
    let mut losses = Vec::new();
    for update in from..to {
        let (inputs, targets) = ids(update);
        let batches = engine.model.batches(&inputs, &targets, SEQ_LEN);
        let outcome = engine.step(&batches).unwrap();
        assert!(outcome.is_applied);
        losses.push(outcome.loss);
    }
    losses
}

#[test]
fn training_with_cut_tables_follows_training_with_whole_ones() {
    for method in ["full", "lora", "galore", "spam"] {
        for device in all_devices() {
            let mut whole = engine(method, &device.with_new_ledger());
            let mut parts = engine(method, &cut(&device));
            let (a, b) = (steps(&mut parts, 0, 6), steps(&mut whole, 0, 6));
            assert!(b[5] < b[0], "{method}: {b:?}");
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() < 2e-4 * b, "{method} on {}: {a} and {b}", device.name());
            }
        }
    }
    // One with copies of everything for each head.
    let mut parts = engine("lte", &cut(&Device::cpu()));
    let losses = steps(&mut parts, 0, 6);
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
}

#[test]
fn a_checkpoint_goes_between_devices_that_cut_and_that_do_not() {
    let place = tempfile::tempdir().unwrap();
    let (cpu, cut) = (Device::cpu(), cut(&Device::cpu()));
    for (number, (from, to)) in [(&cpu, &cut), (&cut, &cpu), (&cut, &cut)].into_iter().enumerate() {
        let mut first = engine("full", from);
        steps(&mut first, 0, 3);
        let progress = Progress { t: 3, ..Progress::default() };
        let parent = place.path().join(number.to_string());
        let folder = checkpoint::save(&parent, &mut first, &progress).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let model = checkpoint.load_model(to).unwrap();
        let mut second = setup::engine(&config("full"), model).unwrap();
        checkpoint.restore(&mut second, true).unwrap();
        let again = checkpoint::save(&parent.join("again"), &mut second, &progress).unwrap();
        for file in ["model.safetensors", "optim.safetensors"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert!(read(&folder) == read(&again), "{file}, case {number}");
        }
        let (a, b) = (steps(&mut first, 3, 6), steps(&mut second, 3, 6));
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-4 * b, "{a} and {b}");
        }
    }
}

/// On an adapter whose limit is 128 MiB, as WebGPU promises no more, with a table of 137 MiB.
#[test]
fn a_table_above_the_limit_of_the_device_is_trained_on_it() {
    let Some(gpu) = devices::gpus().first() else { return };
    let mut config = shape(true);
    (config.hidden_size, config.vocab_size, config.head_dim) = (256, 140_000, 128);
    let bytes = 4 * (config.hidden_size * config.vocab_size) as u64;
    let limit = 128 << 20;
    let device =
        gpu.with_new_ledger().with_binding_limit(gpu.gpu().unwrap().max_binding.min(limit));
    assert!(bytes > device.binding_limit().unwrap());
    let mut model = Model::init(config.clone(), 1, &device);
    assert_eq!(model.params.parts_of("model.embed_tokens.weight").len(), 2);
    let inputs: Vec<i32> = (0..8).map(|i| i * 19_997).collect();
    let pass = |model: &mut Model| {
        let batch = Batch::new(&inputs, &inputs, 8, model.device());
        let mut gradients = Gradients::default();
        let mut keep = |_: &mut _, _, grad| Some(grad);
        let mut sink = GradientSink::new(&mut gradients, true, &mut keep);
        let zero = Vector::zeros([1], &model.device().clone(), Category::Activations);
        let loss = model.forward_backward(&batch, zero, 0.125, false, &mut sink).to_host()[0];
        let parts = model.params.parts_of("model.embed_tokens.weight");
        let grad: Vec<f32> =
            parts.iter().flat_map(|&id| gradients.get(id).unwrap().to_host()).collect();
        (loss, grad)
    };
    let (loss, grad) = pass(&mut model);
    device.check().unwrap();
    drop(model);
    let (right, right_grad) = pass(&mut Model::init(config, 1, &Device::cpu()));
    eprintln!("{}: loss {loss}, on the CPU {right}", device.name());
    assert!((loss - right).abs() < 2e-5 * right, "{loss} and {right}");
    assert_near("the gradient of the table", &grad, &right_grad);
}
