//! LTE: heads side by side. What they share, what each has of its own, and multi-head LoRA.

use fullrank::config::RunConfig;
use fullrank::model::config::PRESETS;
use fullrank::run::engine::Engine;
use fullrank::run::plan::{ModelSource, resolve};

use super::fixture::{
    LINEARS, SEQ_LEN, all_effective, engine, logits, lte, parameter_bits, relative_difference, set,
    step, tokens, train, wide,
};
use super::lte::effective_of_head;

/// Gives every head the factors of the first.
fn copy_first_head(engine: &mut Engine) {
    let replicas = engine.model.replicas().to_vec();
    for other in &replicas[1..] {
        for (first, other) in replicas[0].adapters.iter().zip(&other.adapters) {
            for (from, to) in [(first.a, other.a), (first.b, other.b)] {
                let values = engine.model.params.value(from).to_host();
                set(&mut engine.model, to, values);
            }
        }
    }
}

fn step_on(engine: &mut Engine, (inputs, targets): &(Vec<i32>, Vec<i32>)) {
    let batches = engine.model.batches(inputs, targets, SEQ_LEN);
    assert!(engine.step(&batches).unwrap().is_applied);
}

fn bits_of_head(engine: &Engine, head: usize) -> Vec<Vec<f32>> {
    let ids = engine.model.replicas()[head].parameters().collect::<Vec<_>>();
    ids.into_iter().map(|id| engine.model.params.value(id).to_host()).collect()
}

// Invariant 3.
#[test]
fn heads_with_one_start_and_the_same_data_stay_one_head() {
    let one = {
        let mut config = lte(1, 3);
        config.train.max_grad_norm = Some(0.5);
        config.train.adam_eps = 1e-3;
        config
    };
    let mut three = one.clone();
    three.lte.heads = 3;
    let (mut one, mut three) = (engine(&one), engine(&three));
    copy_first_head(&mut three);
    for t in 0..8 {
        let (inputs, targets) = tokens(2, t);
        step_on(&mut three, &(inputs.repeat(3), targets.repeat(3)));
        step_on(&mut one, &(inputs, targets));
        let first = bits_of_head(&three, 0);
        assert!(first == bits_of_head(&three, 1) && first == bits_of_head(&three, 2), "at {t}");
    }
    let pairs = all_effective(&one.model).into_iter().zip(all_effective(&three.model));
    for (one, three) in pairs {
        assert!(relative_difference(&three, &one) < 1e-5);
    }
    let pairs = effective_of_head(&mut one, 0).into_iter().zip(effective_of_head(&mut three, 2));
    for (one, three) in pairs {
        assert!(relative_difference(&three, &one) < 1e-5);
    }
}

// Invariant 4.
#[test]
fn the_order_of_the_heads_does_not_matter() {
    let config = lte(3, 3);
    let (mut ahead, mut back) = (engine(&config), engine(&config));
    let turned: Vec<Vec<f32>> = (0..3).flat_map(|head| bits_of_head(&ahead, 2 - head)).collect();
    let replicas = back.model.replicas().to_vec();
    let ids = replicas.iter().flat_map(|replica| replica.parameters().collect::<Vec<_>>());
    for (id, values) in ids.zip(turned) {
        set(&mut back.model, id, values);
    }
    for t in 0..7 {
        let (inputs, targets) = tokens(6, t);
        let turn = |ids: &[i32]| ids.rchunks(2 * SEQ_LEN).flatten().copied().collect::<Vec<_>>();
        step_on(&mut back, &(turn(&inputs), turn(&targets)));
        step_on(&mut ahead, &(inputs, targets));
    }
    for (ahead, back) in all_effective(&ahead.model).iter().zip(all_effective(&back.model)) {
        assert!(relative_difference(&back, ahead) < 1e-4);
    }
    let (ahead, back) = (logits(&ahead.model, 0), logits(&back.model, 0));
    assert!(relative_difference(&back, &ahead) < 1e-4);
}

// Section 8.3: the gradient and the clip factor of a head are those of its own mean.
#[test]
fn what_one_head_does_does_not_depend_on_the_data_of_another() {
    for accumulates in [false, true] {
        let mut config = lte(2, 0);
        config.train.max_grad_norm = Some(0.05);
        let run = |draw: u64| {
            let mut engine = engine(&config);
            for t in 0..4 {
                let (own, other) = (tokens(2, t), tokens(2, t + draw));
                let both = ([other.0, own.0].concat(), [other.1, own.1].concat());
                let mut batches = engine.model.batches(&both.0, &both.1, SEQ_LEN);
                if accumulates {
                    let (own, other) = (tokens(2, t + 50), tokens(2, t + 2 * draw));
                    let both = ([other.0, own.0].concat(), [other.1, own.1].concat());
                    batches.extend(engine.model.batches(&both.0, &both.1, SEQ_LEN));
                }
                engine.step(&batches).unwrap();
            }
            engine
        };
        let (one, two) = (run(100), run(200));
        assert_ne!(bits_of_head(&one, 0), bits_of_head(&two, 0));
        assert_eq!(bits_of_head(&one, 1), bits_of_head(&two, 1), "accumulates: {accumulates}");
    }
}

// A head on its slice is a head alone: its loss is the mean over the slice, micro-batches included.
#[test]
fn a_head_trains_as_it_would_alone() {
    let mut two = lte(2, 0);
    two.train.max_grad_norm = Some(0.05);
    let mut one = two.clone();
    one.lte.heads = 1;
    let (mut one, mut two) = (engine(&one), engine(&two));
    for t in 0..4 {
        let parts = [tokens(2, t), tokens(2, t + 50)];
        let others = [tokens(2, t + 100), tokens(2, t + 150)];
        let alone = parts.iter().flat_map(|(i, o)| one.model.batches(i, o, SEQ_LEN));
        let alone: Vec<_> = alone.collect();
        let pairs = parts.iter().zip(&others);
        let both = pairs.flat_map(|((i, o), (other_i, other_o))| {
            let inputs = [i.as_slice(), other_i].concat();
            two.model.batches(&inputs, &[o.as_slice(), other_o].concat(), SEQ_LEN)
        });
        let both: Vec<_> = both.collect();
        one.step(&alone).unwrap();
        two.step(&both).unwrap();
        assert_eq!(bits_of_head(&one, 0), bits_of_head(&two, 0), "after {} updates", t + 1);
    }
}

// Section 8.3: A is semi-orthogonal with rows of norm √(n/r), or √(r/n).
#[test]
fn the_rows_of_a_begin_orthogonal_and_differ_between_heads() {
    for (scale, factor) in [("code", 1.0), ("paper", -1.0)] {
        let mut config = lte(2, 4);
        config.lte.init_scale = scale.into();
        let engine = engine(&config);
        let (first, second) = (&engine.model.replicas()[0], &engine.model.replicas()[1]);
        for (index, linear) in engine.model.linears().iter().enumerate() {
            let n = linear.cols;
            let a = wide(&engine.model, first.adapters[index].a);
            let rank = a.len() / n;
            let square = (n as f64 / rank as f64).powf(factor);
            for i in 0..rank {
                for j in 0..rank {
                    let rows = a[i * n..][..n].iter().zip(&a[j * n..][..n]);
                    let product = rows.map(|(x, y)| x * y).sum::<f64>();
                    let wanted = if i == j { square } else { 0.0 };
                    assert!((product - wanted).abs() < 1e-5 * square, "{scale}: {product}");
                }
            }
            assert_ne!(a, wide(&engine.model, second.adapters[index].a));
        }
    }
}

// Invariant 6.
#[test]
fn a_batch_that_the_heads_cannot_share_is_a_configuration_error() {
    let mut config = lte(3, 10);
    config.train.batch_size = Some(8);
    let error = config.check().unwrap_err().to_string();
    assert!(error.contains('8') && error.contains('3'), "{error}");
    config.train.batch_size = Some(9);
    assert!(config.check().is_ok());
    // Also the preset's own size, which is known only with the model.
    config.train.batch_size = None;
    config.lte.heads = 7;
    let preset = &PRESETS[0];
    let shape = preset.config(50);
    config.train.rank = None;
    assert!(config.check().is_ok());
    let error = resolve(&mut config, &ModelSource::Preset(preset), &shape).unwrap_err();
    assert!(error.to_string().contains("7 heads"), "{error}");
    // Heads on the same data share nothing.
    config.lte.mhlora = "mean".into();
    assert!(resolve(&mut config, &ModelSource::Preset(preset), &shape).is_ok());
}

#[test]
fn the_heads_together_have_the_hidden_size_as_rank_by_default() {
    let preset = &PRESETS[0];
    let shape = preset.config(50);
    for heads in [1, 2, 4] {
        let mut config = RunConfig::default();
        config.train.method = "lte".into();
        config.lte.heads = heads;
        resolve(&mut config, &ModelSource::Preset(preset), &shape).unwrap();
        let rank = config.train.rank.unwrap();
        assert_eq!(rank, shape.hidden_size / heads);
        assert_eq!(config.train.alpha, Some(LTE_SCALE * rank as f64));
    }
}

/// What `s` is for language models where nothing is said.
const LTE_SCALE: f64 = 1.0;

fn mhlora(form: &str, heads: usize) -> RunConfig {
    let mut config = lte(heads, 2);
    config.lte.mhlora = form.into();
    config
}

// Section 8.3: the same input for all heads, s/H or s.
#[test]
fn multi_head_lora_is_the_mean_or_the_sum_of_its_heads_and_never_merges() {
    for (form, divisor) in [("mean", 3.0), ("sum", 1.0)] {
        let mut engine = engine(&mhlora(form, 3));
        assert!(engine.model.replicas().is_empty());
        let start = parameter_bits(&engine.model);
        let separate = super::fixture::engine(&lte(3, 0));
        train(&mut engine, 5);
        for (index, linear) in engine.model.linears().to_vec().iter().enumerate() {
            let adapter = linear.adapter.unwrap();
            let own = &separate.model.replicas()[0].adapters[index];
            let rank = separate.model.params.value(own.a).shape()[0];
            assert_eq!(engine.model.params.value(adapter.a).shape(), [3 * rank, linear.cols]);
            assert_eq!(adapter.scale, own.scale / divisor, "{form}");
            let weight = &engine.model.params.get(linear.weight.unwrap()).name;
            assert_eq!(parameter_bits(&engine.model)[weight], start[weight], "W is frozen");
        }
        assert!(engine.events.iter().all(|e| !matches!(e, fullrank::runlog::Body::Merge(_))));
    }
}

#[test]
fn multi_head_lora_of_one_head_is_lora_from_the_same_start() {
    let mut ours = engine(&mhlora("mean", 1));
    let mut plain = super::fixture::config("lora");
    plain.train.alpha = Some(8.0);
    let mut plain = engine(&plain);
    for (linear, own) in plain.model.linears().to_vec().iter().zip(ours.model.linears().to_vec()) {
        let a = ours.model.params.value(own.adapter.unwrap().a).to_host();
        set(&mut plain.model, linear.adapter.unwrap().a, a);
    }
    for _ in 0..6 {
        assert_eq!(step(&mut ours), step(&mut plain));
    }
    assert_eq!(parameter_bits(&ours.model), parameter_bits(&plain.model));
    assert_eq!(ours.model.linears().len(), LINEARS);
}

#[test]
fn heads_that_are_one_have_no_distance_and_heads_of_their_own_have_one() {
    use fullrank::model::LinearId;
    let distance = |engine: &Engine| engine.method.head_distance(&engine.model, LinearId(2));
    let mut three = engine(&lte(3, 4));
    assert_eq!(distance(&three), None, "B is zero");
    train(&mut three, 3);
    let rank = three.model.params.value(three.model.replicas()[0].adapters[2].b).shape()[1];
    let apart = distance(&three).unwrap();
    assert!(apart > 0.1 && apart <= (rank as f64).sqrt() + 1e-9, "{apart} at rank {rank}");
    copy_first_head(&mut three);
    assert!(distance(&three).unwrap() < 1e-6);
    let mut one = engine(&lte(1, 4));
    train(&mut one, 3);
    assert_eq!(distance(&one), None, "a head alone");
    // Side by side in one adapter.
    let mut config = lte(3, 0);
    config.lte.mhlora = "sum".into();
    let mut side_by_side = engine(&config);
    assert_eq!(distance(&side_by_side), None);
    train(&mut side_by_side, 3);
    let apart = distance(&side_by_side).unwrap();
    assert!(apart > 0.0 && apart <= (rank as f64).sqrt() + 1e-9, "{apart} at rank {rank}");
}
