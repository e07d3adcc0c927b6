//! The predicted high-water mark of memory against the ledger's, for every method, with and without
//! recomputation.
#![allow(clippy::unwrap_used)] // helpers of tests may unwrap

mod devices;

use std::sync::Mutex;

use fullrank::config::RunConfig;
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::tokenizer::Tokenizer;
use fullrank::model::config::{Family, PAPER_VOCAB, Variant, preset};
use fullrank::model::{Batch, ModelConfig};
use fullrank::run::estimate::{Description, Fits, describe, peak_bytes};
use fullrank::run::plan::{ModelSource, resolve};
use fullrank::run::setup;

struct Case {
    method: &'static str,
    change: fn(&mut RunConfig),
}

const CASES: [Case; 54] = [
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
    // No residual allowed: the ranks are the most they may be, which is what is predicted.
    Case { method: "adarankgrad", change: |c| c.adarankgrad.residual = 0.0 },
    Case {
        method: "adarankgrad",
        change: |c| {
            c.adarankgrad.residual = 0.0;
            c.adarankgrad.update_proj_gap = Some(2);
            c.data.max_seq_length = Some(16);
        },
    },
    Case { method: "sltrain", change: |_| {} },
    Case {
        method: "sltrain",
        change: |c| {
            c.sltrain.density = 0.3;
            c.data.max_seq_length = Some(16);
        },
    },
    Case { method: "sltrain", change: |c| c.train.grad_accumulation_steps = 3 },
    // A buffer beyond the most vectors that layers may have.
    Case { method: "inrank", change: |c| c.inrank.buffer = Some(64) },
    Case {
        method: "inrank",
        change: |c| {
            c.inrank.buffer = Some(64);
            c.data.max_seq_length = Some(16);
        },
    },
    // With what the heads take off, without, and without any merge.
    Case { method: "lte", change: |c| c.lte.merge_every = 2 },
    Case { method: "lte", change: |c| (c.lte.merge_every, c.lte.reset) = (2, "clear".into()) },
    Case {
        method: "lte",
        change: |c| (c.lte.heads, c.lte.merge_every, c.data.max_seq_length) = (2, 0, Some(24)),
    },
    Case {
        method: "lte",
        change: |c| (c.lte.merge_every, c.train.train_non_targets) = (2, Some(false)),
    },
    Case { method: "lte", change: |c| c.lte.mhlora = "sum".into() },
    Case { method: "spam", change: |c| c.spam.density = 0.5 },
    Case { method: "switchlora", change: |c| c.spam.enabled = true },
    Case { method: "galore", change: |c| c.spam.enabled = true },
    // Frozen weights in few bits: read so, or packed when the start has changed them.
    Case { method: "lora", change: |c| c.model.base_storage = "q8".into() },
    Case { method: "lora", change: in_nf4 },
    Case { method: "rslora", change: |c| c.model.base_storage = "f16".into() },
    Case { method: "dora", change: in_nf4 },
    Case { method: "lora-ga", change: in_nf4 },
    // The peak is at the start, in f32.
    Case { method: "pissa", change: in_nf4 },
    Case {
        method: "lora",
        change: |c| {
            in_nf4(c);
            c.lora.init = Some("both_kaiming".into());
        },
    },
    Case {
        method: "relora",
        change: |c| {
            in_nf4(c);
            (c.relora.warm_start, c.relora.cycle) = (Some(0), Some(2));
        },
    },
];

fn in_nf4(config: &mut RunConfig) {
    config.model.base_storage = "nf4".into();
    config.model.intermediate_size = Some(700);
    config.data.max_seq_length = Some(16);
    config.train.batch_size = Some(2);
    config.train.train_non_targets = Some(false);
}

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
    device.ledger().reset_peak();
    let model = setup::random_model(config, shape, device).unwrap();
    let mut engine = setup::engine(config, model).unwrap();
    let (rows, seq_len) = (config.train.batch_size.unwrap(), config.data.max_seq_length.unwrap());
    let mut ahead = || {
        let ids: Vec<i32> = (0..rows * seq_len).map(|i| i as i32 * 5 % 4096).collect();
        Ok(Batch::new(&ids, &ids, seq_len, device))
    };
    // With weights in few bits the start is foreseen, too: it may be the largest part of the run.
    let is_packed = config.model.base_storage != "f32";
    if !is_packed {
        device.ledger().reset_peak();
    }
    engine.with_method(|method, cx| method.look_ahead(cx, &mut ahead)).unwrap();
    let mut peak_ahead = device.ledger().read().peak;
    engine.with_method(|method, cx| method.prepare(cx)).unwrap();
    engine.model.pack_frozen().unwrap();
    if is_packed {
        peak_ahead = device.ledger().read().peak;
    }
    device.ledger().reset_peak();
    for update in 0..4 {
        let batches: Vec<Batch> = (0..config.train.grad_accumulation_steps)
            .flat_map(|_| {
                let ids: Vec<i32> =
                    (0..rows * seq_len).map(|i| (i as i32 * 7 + update) % 4096).collect();
                engine.model.batches(&ids, &ids, seq_len)
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

/// Compares the prediction with the ledger of a few updates, with a change of the shape.
fn assert_predicted(case: &Case, recompute: bool, change: impl Fn(&mut ModelConfig)) {
    let mut config = config(case, recompute);
    let source = ModelSource::find(&config.model.model).unwrap();
    let tokenizer = source.tokenizer(&config).unwrap();
    let mut shape = source.model_config(&config, &tokenizer).unwrap();
    change(&mut shape);
    resolve(&mut config, &source, &shape).unwrap();
    // One tiling is enough: what an engine holds does not depend on it.
    let gpu = devices::gpus().first().cloned();
    for device in [Some(Device::cpu()), gpu].into_iter().flatten() {
        let measured = measure(&config, &shape, &device);
        let predicted = peak_bytes(&config, &shape, device.gpu().is_some()).unwrap().total();
        let ratio = predicted as f64 / measured as f64;
        assert!(
            (0.9..=1.1).contains(&ratio),
            "{} on {}, recompute {recompute}, {:?}: predicted {predicted}, measured {measured} bytes",
            case.method,
            device.name(),
            shape.variant
        );
    }
}

/// The GPUs of the tests, and so their ledgers, are shared: one test at a time.
static LEDGERS: Mutex<()> = Mutex::new(());

#[test]
fn the_ledger_peaks_within_a_tenth_of_the_prediction() {
    let _alone = LEDGERS.lock();
    for case in &CASES {
        for recompute in [false, true] {
            assert_predicted(case, recompute, |_| ());
        }
    }
}

#[test]
fn biases_and_norms_of_heads_are_in_the_prediction() {
    let _alone = LEDGERS.lock();
    let variants = [
        Variant { family: Family::Llama, attention_bias: true, mlp_bias: true },
        Variant { family: Family::Qwen3, attention_bias: true, mlp_bias: false },
    ];
    for variant in variants {
        for (method, recompute) in [("full", false), ("full", true), ("lora", false), ("lte", true)]
        {
            let case = Case { method, change: |config| config.lte.merge_every = 2 };
            assert_predicted(&case, recompute, |shape| {
                shape.variant = variant;
                shape.head_dim = 48;
            });
        }
    }
}

/// What `estimate` tells of a method on a preset at the papers' vocabulary.
fn told(preset: &str, method: &str, rank: usize, more: impl Fn(&mut RunConfig)) -> Description {
    let mut config = RunConfig::default();
    config.train.method = method.into();
    config.model.model = preset.into();
    config.train.rank = Some(rank);
    config.relora.warm_start = Some(0);
    more(&mut config);
    let source = ModelSource::find(preset).unwrap();
    let mut shape = source.model_config(&config, &Tokenizer::builtin().unwrap()).unwrap();
    shape.vocab_size = PAPER_VOCAB;
    resolve(&mut config, &source, &shape).unwrap();
    describe(&config, &shape, false).unwrap()
}

/// Bytes of the rotation tables, which no table of a paper counts.
fn rotation_bytes(preset_name: &str) -> f64 {
    let shape = preset(preset_name).unwrap().config(PAPER_VOCAB);
    4.0 * (shape.max_position_embeddings * shape.head_dim) as f64
}

#[test]
fn trained_parameters_are_those_of_the_table() {
    // Millions at vocabulary 32,100: all, then at ranks 16 32 64 128 256 512 (0: not in the table).
    const TABLE: [(&str, f64, [f64; 6]); 10] = [
        ("9M", 9.02, [8.4, 8.5, 8.8, 0.0, 0.0, 0.0]),
        ("20M", 19.60, [16.7, 17.1, 17.7, 18.9, 0.0, 0.0]),
        ("35M", 35.27, [25.4, 26.1, 27.5, 30.3, 0.0, 0.0]),
        ("60M", 58.18, [34.1, 35.4, 37.9, 42.9, 52.9, 0.0]),
        ("71M", 70.68, [34.8, 36.6, 40.4, 47.8, 62.8, 0.0]),
        ("130M", 134.26, [52.1, 54.9, 60.5, 71.7, 94.2, 0.0]),
        ("250M", 247.52, [55.5, 61.7, 74.1, 98.9, 148.4, 0.0]),
        ("350M", 368.17, [73.3, 80.7, 95.7, 125.6, 185.4, 305.1]),
        ("1.3B", 1339.49, [146.5, 161.5, 191.3, 251.1, 370.7, 609.7]),
        ("7B", 6739.23, [303.2, 343.2, 423.1, 583.0, 902.9, 1542.5]),
    ];
    let rounded = |count: u64, digits: i32| {
        let unit = 10f64.powi(digits);
        (count as f64 / 1e6 * unit).round() / unit
    };
    for (name, all, row) in TABLE {
        let full = told(name, "full", 16, |_| {});
        assert_eq!(rounded(full.trained_parameters, 2), all, "{name}");
        assert_eq!((full.trained_parameters, full.rank), (full.parameters, None), "{name}");
        for (rank, expected) in [16, 32, 64, 128, 256, 512].into_iter().zip(row) {
            if expected == 0.0 {
                continue;
            }
            for method in ["lora", "switchlora", "relora"] {
                let of = told(name, method, rank, |_| {});
                let found = rounded(of.trained_parameters, 1);
                assert_eq!(found, expected, "{name}, {method} at rank {rank}");
                assert_eq!(of.sent_bytes_per_update, 4 * of.trained_parameters, "{name}");
            }
            for method in ["galore", "fira"] {
                let of = told(name, method, rank, |_| {});
                assert_eq!(of.trained_parameters, full.parameters, "{name}, {method} sends all");
                assert_eq!(of.sent_saved_share, 0.0);
            }
        }
    }
    // Exactly, by hand: 2·32,100·2048 + 49·2048 others, and 24·(4·4096 + 3·7509)·512 in the factors.
    let of = told("1.3B", "switchlora", 512, |_| {});
    assert_eq!(of.trained_parameters, 131_581_952 + 24 * 512 * (4 * 4096 + 3 * 7509));
}

#[test]
fn static_memory_and_what_is_sent_are_those_of_the_table() {
    // Decimal MB of weights, gradients and AdamW's moments in f32 at vocabulary 32,100: full rank, LoRA, GaLore,
    // SwitchLoRA's pools; then the share that is not sent, in %.
    for (name, rank, full, lora, galore, pools, saved) in [
        ("9M", 16, 144.0, 137.0, 139.0, 5.0, 7.2),
        ("20M", 64, 314.0, 296.0, 296.0, 20.0, 9.8),
        ("35M", 96, 564.0, 504.0, 507.0, 67.0, 18.2),
        ("60M", 128, 931.0, 787.0, 794.0, 160.0, 26.3),
        ("130M", 256, 2_148.0, 1_846.0, 1_761.0, 538.0, 29.9),
        ("350M", 256, 5_891.0, 4_176.0, 4_253.0, 1_914.0, 49.6),
        ("1.3B", 512, 21_432.0, 14_587.0, 14_889.0, 7_650.0, 54.5),
    ] {
        let mb = |bytes: u64| (bytes as f64 - rotation_bytes(name)) / 1e6;
        let of = |method| told(name, method, rank, |_| {});
        for (method, expected) in
            [("full", full), ("lora", lora), ("relora", lora), ("galore", galore), ("fira", galore)]
        {
            let found = mb(of(method).static_bytes);
            assert!((found - expected).abs() < 0.51, "{name} {method}: {found}");
        }
        // A counter for each row of A and column of B, and when its freeze ends.
        let (lora, switchlora) = (of("lora"), of("switchlora"));
        let shape = preset(name).unwrap().config(PAPER_VOCAB);
        let counters = 16 * 7 * (shape.num_hidden_layers * rank) as u64;
        assert_eq!(switchlora.static_bytes, lora.static_bytes + counters, "{name}");
        let percent = 100.0 * switchlora.sent_saved_share;
        assert!((percent - saved).abs() < 0.051, "{name} communication: {percent}");
        // Pools wait on the device, or on the host.
        let on_host = told(name, "switchlora", rank, |c| c.switchlora.pools = "host".into());
        assert_eq!((switchlora.host_bytes, on_host.device_pool_bytes), (0, 0));
        assert_eq!(on_host.host_bytes, switchlora.device_pool_bytes);
        assert_eq!(on_host.peak_bytes, switchlora.peak_bytes - on_host.host_bytes);
        let found = on_host.host_bytes as f64 / 1e6;
        assert!((found - pools).abs() < 0.51, "{name} pools: {found}");
    }
}

#[test]
fn what_fits_a_budget_is_the_largest_that_does() {
    let told = |rank: usize, rows: usize| {
        told("60M", "lora", rank, |c| {
            c.train.batch_size = Some(rows);
            c.train.memory_budget = Some(1.0);
        })
    };
    let of = told(64, 2);
    let fits = of.fits.unwrap();
    assert_eq!(fits.budget_bytes, 1 << 30);
    let (rank, rows) = (fits.largest_rank.unwrap(), fits.largest_batch_size.unwrap());
    assert!(told(rank, 2).peak_bytes <= 1 << 30, "rank {rank} fits");
    assert!(rank == 512 || told(rank + 1, 2).peak_bytes > 1 << 30, "no larger than {rank} fits");
    assert!(told(64, rows).peak_bytes <= 1 << 30, "{rows} sequences fit");
    assert!(told(64, rows + 1).peak_bytes > 1 << 30, "no more than {rows} fit");
    assert!(of.recomputed_peak_bytes < of.peak_bytes);
    let tight = super_tight();
    assert_eq!((tight.largest_rank, tight.largest_batch_size), (None, None));
}

fn super_tight() -> Fits {
    told("60M", "lora", 64, |c| c.train.memory_budget = Some(0.1)).fits.unwrap()
}
