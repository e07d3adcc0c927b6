//! Frozen weights in few bits: every method that allows them computes with what the codes mean, and loses nothing on the
//! way.

use fullrank::config::RunConfig;
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::kernels::Matrix;
use fullrank::kernels::packed::{Codes, Format, Packing};
use fullrank::model::params::encode;
use fullrank::model::{LinearId, Model, PackAtLoad};
use fullrank::random::stream;
use fullrank::run::engine::Engine;
use fullrank::run::export::merged_weight;
use fullrank::run::{checkpoint, setup};

use super::fixture::{
    AHEAD, LINEARS, assert_same, batch, config, device, engine, gradients, logits,
    relative_difference, relora, shape, snapshot, train,
};

const FORMS: [&str; 3] = ["f16", "q8", "nf4"];

fn stored(mut config: RunConfig, form: &str) -> RunConfig {
    config.model.base_storage = form.into();
    config
}

fn packed_layers(model: &Model) -> usize {
    let weights = model.linears().iter().filter_map(|linear| linear.weight);
    weights.filter(|&id| model.params.get(id).is_packed()).count()
}

/// An engine in f32 on the weights that another has in few bits, with the values of its factors.
fn twin(packed: &Engine, config: &RunConfig) -> Engine {
    let mut plain = config.clone();
    plain.model.base_storage = "f32".into();
    let model = Model::build(shape(), &device(), |name, _| {
        let id = packed.model.params.find(name).unwrap();
        Ok::<_, std::convert::Infallible>(packed.model.params.used_values(id))
    });
    let mut twin = setup::engine(&plain, model.unwrap()).unwrap();
    let mut draw = AHEAD;
    twin.prepare(&mut || {
        draw += 1;
        Ok(batch(draw))
    })
    .unwrap();
    for (id, param) in packed.model.params.iter().filter(|(_, param)| !param.is_packed()) {
        let (value, place) = (param.value(), twin.model.params.find(&param.name).unwrap());
        assert_eq!(place, id);
        let copy = Matrix::from_host(value.to_host(), value.shape(), &device(), Category::Weights);
        twin.model.params.set(place, copy);
    }
    for linear in packed.model.linears() {
        // The twin's own start was taken off its weights.
        let (id, shape) = (linear.weight.unwrap(), [linear.rows, linear.cols]);
        let values = packed.model.params.used_values(id);
        let value = Matrix::from_host(values, shape, &device(), Category::Weights);
        twin.model.params.set(id, value);
    }
    twin.model.refresh_magnitudes();
    twin
}

/// Gives every B random values: with zeros, A has no gradient.
fn fill_b(model: &mut Model) {
    for adapter in model.linears().to_vec().iter().filter_map(|linear| linear.adapter) {
        let (shape, name) = {
            let param = model.params.get(adapter.b);
            (param.sizes(), param.name.clone())
        };
        let values = stream(3, &name, "test", 0).normal_vec(shape[0] * shape[1], 0.1);
        let value = Matrix::from_host(values, shape, &device(), Category::Adapters);
        model.params.set(adapter.b, value);
    }
    model.refresh_magnitudes();
}

fn methods() -> Vec<(String, RunConfig)> {
    let mut all: Vec<(String, RunConfig)> =
        ["lora", "rslora", "lora-plus", "lora-ga", "pissa", "dora"]
            .map(|method| (method.to_owned(), config(method)))
            .into();
    let mut compensated = config("lora");
    compensated.lora.init = Some("both_kaiming".into());
    all.push(("lora with a start that is taken off".into(), compensated));
    all.push(("relora".into(), relora(0, 8)));
    all
}

#[test]
fn a_run_equals_one_on_the_decoded_weights_in_f32() {
    for form in FORMS {
        for (what, config) in methods() {
            let config = stored(config, form);
            let mut packed = engine(&config);
            assert_eq!(packed_layers(&packed.model), LINEARS, "{what} {form}");
            fill_b(&mut packed.model);
            let mut plain = twin(&packed, &config);
            let difference =
                relative_difference(&logits(&packed.model, 3), &logits(&plain.model, 3));
            assert!(difference < 1e-5, "{what} {form}: {difference:e} at the start");
            let (mut of_packed, mut of_plain) =
                (gradients(&mut packed.model, &batch(1)), gradients(&mut plain.model, &batch(1)));
            let ids: Vec<_> = packed
                .model
                .params
                .ids()
                .into_iter()
                .filter(|&id| packed.model.params.is_trainable(id))
                .collect();
            assert!(ids.len() >= 2 * LINEARS, "{what}: factors have gradients");
            for id in ids {
                let wide = |grad: Option<Matrix>| -> Vec<f64> {
                    grad.unwrap().to_host().into_iter().map(f64::from).collect()
                };
                let (got, right) = (wide(of_packed.take(id)), wide(of_plain.take(id)));
                let difference = relative_difference(&got, &right);
                let name = &packed.model.params.get(id).name;
                assert!(difference < 1e-4, "{what} {form} {name}: {difference:e}");
            }
            // Shorter than a cycle: a merge would change the codes.
            train(&mut packed, 6);
            train(&mut plain, 6);
            let difference =
                relative_difference(&logits(&packed.model, 3), &logits(&plain.model, 3));
            assert!(difference < 1e-3, "{what} {form}: {difference:e} after updates");
        }
    }
}

#[test]
fn the_rounding_is_there_and_is_small() {
    let plain = engine(&config("lora"));
    for (form, least, most) in [("f16", 1e-6, 1e-3), ("q8", 1e-4, 2e-2), ("nf4", 1e-3, 0.3)] {
        let packed = engine(&stored(config("lora"), form));
        let difference = relative_difference(&logits(&packed.model, 3), &logits(&plain.model, 3));
        assert!((least..most).contains(&difference), "{form}: {difference:e}");
    }
}

fn reopened(config: &RunConfig, engine: &mut Engine) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let progress = checkpoint::Progress { t: engine.t, ..Default::default() };
    let path = checkpoint::save(folder.path(), engine, &progress).unwrap();
    let saved = checkpoint::Checkpoint::open(&path).unwrap();
    let mut other = setup::resumed_engine(config, &saved, &device()).unwrap();
    saved.restore(&mut other, true).unwrap();
    // Read in f32 and packed afterwards gives the same.
    let mut third = setup::engine(config, saved.load_model(&device()).unwrap()).unwrap();
    saved.restore(&mut third, true).unwrap();
    assert_same("packed after reading", &snapshot(&mut third), &snapshot(&mut other));
    other
}

fn codes(model: &Model) -> Vec<Vec<u32>> {
    let weights = model.linears().iter().filter_map(|linear| linear.weight);
    weights.map(|id| model.params.used_values(id).iter().map(|v| v.to_bits()).collect()).collect()
}

#[test]
fn every_method_resumes_to_the_bit_from_few_bits() {
    for form in FORMS {
        for (what, config) in methods() {
            let mut config = stored(config, form);
            config.train.max_grad_norm = Some(0.5);
            let mut run = engine(&config);
            for stop in [0, 5, 11] {
                while run.t < stop {
                    train(&mut run, 1);
                }
                let mut other = reopened(&config, &mut run);
                let label = format!("{what} {form} at {stop}");
                assert_eq!(packed_layers(&other.model), LINEARS, "{label}");
                assert!(codes(&other.model) == codes(&run.model), "{label}: the same codes");
                assert_same(&label, &snapshot(&mut other), &snapshot(&mut run));
                train(&mut run, 5);
                train(&mut other, 5);
                assert_same(&format!("{label} and on"), &snapshot(&mut other), &snapshot(&mut run));
            }
        }
    }
}

#[test]
fn merges_into_the_f32_values_lose_no_small_change() {
    // Cycles whose change is far below a level.
    let mut config = stored(relora(0, 4), "nf4");
    config.train.learning_rate = Some(1e-4);
    let mut run = engine(&config);
    let linear = run.model.linears()[0].clone();
    let id = linear.weight.unwrap();
    let start: Vec<f32> = run.model.params.host_values(&[id]);
    let mut added = vec![0.0f64; start.len()];
    let mut merges = 0;
    while run.t < 12 {
        let before = run.method.effective_weight(&run.model, &linear);
        let master = run.model.params.host_values(&[id]);
        train(&mut run, 1);
        let after = run.model.params.host_values(&[id]);
        if after != master {
            merges += 1;
            let moved = after.iter().zip(&master).map(|(a, b)| f64::from(*a) - f64::from(*b));
            added.iter_mut().zip(moved).for_each(|(sum, moved)| *sum += moved);
            // The merge itself leaves W + s·B·A alone but for the update before it, whose rate is 0.
            let difference = relative_difference(
                &after.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(),
                &before,
            );
            assert!(difference < 1e-6, "{difference:e}");
        }
    }
    assert!(merges >= 2, "{merges} merges");
    let largest = added.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    assert!(largest > 0.0, "something was merged");
    let scale = start.iter().fold(0f32, |most, v| most.max(v.abs()));
    assert!(
        largest < 0.07 * f64::from(scale),
        "all of it below half a level: {largest} of {scale}"
    );
    // What products use are the codes of those values.
    let now = run.model.params.host_values(&[id]);
    let packing = Packing { format: Format::Nf4, rows: linear.rows, cols: linear.cols };
    let right = Codes::encode(&now, packing).unwrap().decode();
    assert_eq!(run.model.params.used_values(id), right);
}

#[test]
fn a_warm_start_trains_in_f32_and_packs_when_it_ends() {
    let config = stored(relora(5, 4), "q8");
    let mut run = engine(&config);
    train(&mut run, 4);
    assert_eq!(packed_layers(&run.model), 0, "all is trained");
    train(&mut run, 1);
    assert_eq!(packed_layers(&run.model), LINEARS);
    let mut other = reopened(&config, &mut run);
    train(&mut run, 9);
    train(&mut other, 9);
    assert_same("relora after a warm start", &snapshot(&mut other), &snapshot(&mut run));
}

#[test]
fn layers_that_are_trained_stay_in_f32() {
    let mut config = stored(config("lora"), "nf4");
    config.train.target_modules = Some("q_proj,down_proj".into());
    assert_eq!(packed_layers(&engine(&config).model), 4, "the others are trained");
    config.train.train_non_targets = Some(false);
    let mut run = engine(&config);
    assert_eq!(packed_layers(&run.model), LINEARS, "the others are frozen, too");
    train(&mut run, 3);
    let mut other = reopened(&config, &mut run);
    train(&mut run, 3);
    train(&mut other, 3);
    assert_same("some layers", &snapshot(&mut other), &snapshot(&mut run));
}

#[test]
fn the_ledger_has_words_and_scales_as_weights_and_nothing_else_of_them() {
    let on = |form: &str| {
        let device = Device::cpu();
        let mut config = config("lora");
        config.model.base_storage = form.into();
        let model = setup::random_model(&config, &shape(), &device).unwrap();
        let engine = setup::engine(&config, model).unwrap();
        let reading = device.ledger().read();
        drop(engine);
        (reading.now[Category::Weights as usize], reading.peak)
    };
    let (plain, _) = on("f32");
    let sizes: Vec<(usize, usize)> =
        engine(&config("full")).model.linears().iter().map(|l| (l.rows, l.cols)).collect();
    let dense: u64 = sizes.iter().map(|(m, n)| 4 * (m * n) as u64).sum();
    for (form, format) in [("f16", Format::F16), ("q8", Format::Q8), ("nf4", Format::Nf4)] {
        let (weights, peak) = on(form);
        let packed: u128 = sizes.iter().map(|&(m, n)| 4 * format.numbers(m, n)).sum();
        assert_eq!(weights, plain - dense + packed as u64, "{form}");
        assert_eq!(peak, weights, "{form}: never in f32 on the device");
    }
}

#[test]
fn a_merged_weight_is_that_of_the_decoded_base() {
    for (what, config) in methods() {
        let mut run = engine(&stored(config, "nf4"));
        train(&mut run, 5);
        for linear in run.model.linears() {
            let merged: Vec<f64> =
                merged_weight(&run.model, linear).into_iter().map(f64::from).collect();
            let x: Vec<f32> = (0..linear.cols).map(|i| (i as f32 * 0.37).sin()).collect();
            let on_device =
                Matrix::from_host(x.clone(), [1, linear.cols], &device(), Category::Activations);
            let (y, _) = linear.forward(&run.model.params, &on_device);
            let y: Vec<f64> = y.to_host().into_iter().map(f64::from).collect();
            let right: Vec<f64> = merged
                .chunks(linear.cols)
                .map(|row| row.iter().zip(&x).map(|(w, x)| w * f64::from(*x)).sum())
                .collect();
            let difference = relative_difference(&y, &right);
            assert!(difference < 1e-5, "{what} {}: {difference:e}", linear.name);
        }
    }
}

#[test]
fn weights_that_have_no_code_are_refused_by_name() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let model = |bad: f32| {
        let mut model = Model::init(shape(), 7, &device());
        let id = model.params.find(name).unwrap();
        let mut values = model.params.value(id).to_host();
        values[3 * 16 + 5] = bad;
        let value = Matrix::from_host(values, [40, 16], &device(), Category::Weights);
        model.params.set(id, value);
        model
    };
    for (form, bad) in [("nf4", f32::NAN), ("q8", f32::INFINITY), ("f16", 1e5)] {
        let error = setup::engine(&stored(config("lora"), form), model(bad)).err().unwrap();
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("row 3, column 5"), "{text}");
    }
    // Also as the weights are read.
    let pack = PackAtLoad::layers(Format::Nf4, config("lora").train.targets());
    let error = pack.initial(name, &[1, 2], vec![0.0, f32::NAN]).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
    assert!(encode(name, &[0.0, 1.0], Packing { format: Format::Nf4, rows: 1, cols: 2 }).is_ok());
}

#[test]
fn methods_that_change_their_weights_refuse_few_bits_and_say_what_to_use() {
    for method in
        ["full", "spam", "switchlora", "galore", "fira", "adarankgrad", "lte", "sltrain", "inrank"]
    {
        let config = stored(config(method), "nf4");
        let text = config.check().unwrap_err().to_string();
        assert!(text.contains("nf4") && text.contains(method), "{text}");
        let error = setup::engine(&config, Model::init(shape(), 7, &device())).err().unwrap();
        assert!(error.to_string().contains(method), "{error}");
    }
    let mut none = stored(config("lora"), "q8");
    none.lora.base = "none".into();
    assert!(none.check().unwrap_err().to_string().contains("lora.base"));
    assert!(setup::engine(&none, Model::init(shape(), 7, &device())).is_err());
    let wrong = stored(config("lora"), "nf3");
    assert!(wrong.check().unwrap_err().to_string().contains("nf4"), "the nearest is named");
    for (what, config) in methods() {
        stored(config, "nf4").check().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn rank_metrics_see_the_change_and_not_the_rounding() {
    // Where they are told the change as a product: its inner size, not that of a matrix of full rank.
    for method in ["lora", "lora-ga", "pissa"] {
        let mut run = engine(&stored(config(method), "nf4"));
        train(&mut run, 3);
        for index in 0..LINEARS {
            let linear = run.model.linears()[LinearId(index).0].clone();
            let product = run.method.change_as_product(&run.model, &linear, run.seed).unwrap();
            assert!(product.inner() <= 8, "{method}: {}", product.inner());
        }
    }
}
