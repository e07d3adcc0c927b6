//! The predicted high-water mark of memory against the ledger's, for every method, with and without
//! recomputation.
#![allow(clippy::unwrap_used)] // helpers of tests may unwrap

mod devices;

use fullrank::config::RunConfig;
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::model::{Batch, Model, ModelConfig};
use fullrank::run::estimate::peak_bytes;
use fullrank::run::plan::{ModelSource, resolve};
use fullrank::run::setup;

struct Case {
    method: &'static str,
    change: fn(&mut RunConfig),
}

const CASES: [Case; 31] = [
    Case { method: "full", change: |_| {} },
    Case { method: "lora", change: |_| {} },
    Case { method: "switchlora", change: |_| {} },
    Case { method: "full", change: |c| c.model.tie_word_embeddings = Some(true) },
    Case { method: "lora", change: |c| c.lora.base = "none".into() },
    Case { method: "lora", change: |c| c.train.rank = Some(64) },
    Case { method: "switchlora", change: |c| c.train.grad_accumulation_steps = 3 },
    Case { method: "switchlora", change: |c| c.switchlora.warm_start = 2 },
    Case { method: "relora", change: |_| {} },
    // Too short for a peak of its own: the four updates see a merge.
    Case {
        method: "relora",
        change: |c| (c.relora.warm_start, c.relora.cycle) = (Some(0), Some(2)),
    },
    Case { method: "lora", change: |c| c.train.train_non_targets = Some(false) },
    Case { method: "full", change: |c| c.data.max_seq_length = Some(16) },
    Case { method: "galore", change: |_| {} },
    Case { method: "galore", change: |c| c.galore.per_layer = true },
    Case {
        method: "galore",
        change: |c| {
            c.galore.per_layer = true;
            c.data.max_seq_length = Some(16);
        },
    },
    Case { method: "galore", change: |c| c.train.rank = Some(64) },
    Case { method: "fira", change: |_| {} },
    Case { method: "fira", change: |c| c.data.max_seq_length = Some(16) },
    Case { method: "lora-ga", change: |_| {} },
    // The peak is in the estimate of the gradient.
    Case { method: "lora-ga", change: |c| c.train.train_non_targets = Some(false) },
    Case { method: "rslora", change: |_| {} },
    Case { method: "lora-plus", change: |_| {} },
    Case { method: "pissa", change: |_| {} },
    Case { method: "dora", change: |_| {} },
    Case { method: "dora", change: |c| c.data.max_seq_length = Some(16) },
    Case { method: "dora", change: |c| c.train.train_non_targets = Some(false) },
    // Ranks by depth.
    Case { method: "lora", change: rank_from_4_to_60 },
    Case { method: "switchlora", change: rank_from_4_to_60 },
    Case { method: "galore", change: rank_from_4_to_60 },
    Case { method: "fira", change: rank_from_4_to_60 },
    Case { method: "lora-ga", change: rank_from_4_to_60 },
];

fn rank_from_4_to_60(config: &mut RunConfig) {
    (config.train.rank_first, config.train.rank_last) = (Some(4), Some(60));
}

fn config(case: &Case, recompute: bool) -> RunConfig {
    let mut config = RunConfig::default();
    config.train.method = case.method.into();
    config.model.model = "9M".into();
    config.model.hidden_size = Some(64);
    config.model.intermediate_size = Some(172);
    config.model.num_hidden_layers = Some(3);
    config.model.num_key_value_heads = Some(2);
    config.data.tokenizer = Some("builtin".into());
    config.data.max_seq_length = Some(96);
    config.train.batch_size = Some(4);
    config.train.iters = Some(6);
    config.train.grad_checkpoint = recompute;
    (case.change)(&mut config);
    config
}

/// Runs four updates and gives the ledger's high-water mark.
fn measure(config: &RunConfig, shape: &ModelConfig, device: &Device) -> u64 {
    let model = Model::init(shape.clone(), 0, device);
    let mut engine = setup::engine(config, model).unwrap();
    let (rows, seq_len) = (config.train.batch_size.unwrap(), config.data.max_seq_length.unwrap());
    let mut ahead = || {
        let ids: Vec<i32> = (0..rows * seq_len).map(|i| i as i32 * 5 % 4096).collect();
        Ok(Batch::new(&ids, &ids, seq_len, device))
    };
    device.ledger().reset_peak();
    engine.with_method(|method, cx| method.look_ahead(cx, &mut ahead)).unwrap();
    let peak_ahead = device.ledger().read().peak;
    engine.with_method(|method, cx| method.prepare(cx)).unwrap();
    device.ledger().reset_peak();
    for update in 0..4 {
        let batches: Vec<Batch> = (0..config.train.grad_accumulation_steps)
            .map(|_| {
                let ids: Vec<i32> =
                    (0..rows * seq_len).map(|i| (i as i32 * 7 + update) % 4096).collect();
                Batch::new(&ids, &ids, seq_len, device)
            })
            .collect();
        assert!(engine.step(&batches).unwrap().is_applied);
    }
    // Norms of switches are read one update late.
    engine.read_late_events();
    let reading = device.ledger().read();
    assert_eq!(reading.now[Category::Gradients as usize], 0, "gradients are freed by the update");
    assert_eq!(
        reading.now[Category::Activations as usize],
        0,
        "activations are freed by the update"
    );
    reading.peak.max(peak_ahead)
}

#[test]
fn the_ledger_peaks_within_a_tenth_of_the_prediction() {
    for case in &CASES {
        for recompute in [false, true] {
            let mut config = config(case, recompute);
            let source = ModelSource::find(&config.model.model).unwrap();
            let tokenizer = source.tokenizer(&config).unwrap();
            let shape = source.model_config(&config, &tokenizer).unwrap();
            resolve(&mut config, &source, &shape).unwrap();
            // One tiling is enough: what an engine holds does not depend on it.
            let gpu = devices::gpus().first().cloned();
            for device in [Some(Device::cpu()), gpu].into_iter().flatten() {
                let measured = measure(&config, &shape, &device);
                let predicted = peak_bytes(&config, &shape, device.gpu().is_some()).total();
                let ratio = predicted as f64 / measured as f64;
                assert!(
                    (0.9..=1.1).contains(&ratio),
                    "{} on {}, recompute {recompute}: predicted {predicted}, measured {measured} bytes",
                    case.method,
                    device.name()
                );
            }
        }
    }
}

#[test]
fn static_memory_is_that_of_the_table() {
    // Decimal MB of weights, gradients and AdamW's moments in f32 at vocabulary 32,100.
    use fullrank::model::config::{PAPER_VOCAB, factor_len, non_target_len, preset, target_len};
    for (name, rank, full, lora, saved) in [
        ("9M", 16, 144.0, 137.0, 7.2),
        ("60M", 128, 931.0, 787.0, 26.3),
        ("350M", 256, 5_891.0, 4_176.0, 49.6),
        ("1.3B", 512, 21_432.0, 14_587.0, 54.5),
    ] {
        let shape = preset(name).unwrap().config(PAPER_VOCAB);
        let (targets, rest) = (target_len(&shape) as f64, non_target_len(&shape) as f64);
        let factors = factor_len(&shape, rank) as f64;
        let full_mb = 16.0 * (targets + rest) / 1e6;
        let lora_mb = 4.0 * (targets + 4.0 * (factors + rest)) / 1e6;
        let communication = 100.0 * (1.0 - (factors + rest) / (targets + rest));
        assert!((full_mb - full).abs() < 0.51, "{name} full rank: {full_mb}");
        assert!((lora_mb - lora).abs() < 0.51, "{name} LoRA: {lora_mb}");
        assert!((communication - saved).abs() < 0.051, "{name} communication: {communication}");
    }
}
