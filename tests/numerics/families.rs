//! The architectures beside plain LLaMA: Qwen2, Qwen3, Mistral and biases, against transformers, through every method,
//! and out again to the bit.
//!
//! `tests/models` was made by `tests/interop/make_models.py`.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests may stop

#[allow(dead_code)] // the golden cases use all of it
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{self, Place};
use crate::{devices, parity};
use fullrank::device::Device;
use fullrank::formats::hf_checkpoint::HfCheckpoint;
use fullrank::formats::hf_config::HfConfig;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::formats::tokenizer::Tokenizer;
use fullrank::model::config::{Family, Variant, preset};
use fullrank::model::generate::Decoder;
use fullrank::model::{Batch, Model};
use fullrank::run::export::{write_model, write_model_in_shards};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn folders(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(parent)).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut all: Vec<PathBuf> = entries.filter(|path| name(path).starts_with(prefix)).collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

fn models() -> Vec<PathBuf> {
    folders("tests/models", "")
}

#[test]
fn every_family_has_the_logits_losses_and_gradients_of_transformers() {
    let families: Vec<_> = models()
        .iter()
        .map(|model| HfConfig::read(model.join("config.json")).unwrap().variant.family)
        .collect();
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
        assert!(families.contains(&family), "{family:?}");
    }
    for model in models() {
        for device in devices::all() {
            eprintln!("{} on {}", model.display(), device.name());
            parity::llama::check(&model, &device);
            device.check().unwrap();
        }
    }
}

#[test]
fn token_by_token_gives_the_logits_of_the_whole_text() {
    for folder in models() {
        let model = Model::load(&folder, &Device::cpu()).unwrap();
        let ids: Vec<i32> = (0..24).map(|i| (i * 7 + 3) % model.config.vocab_size as i32).collect();
        let whole = model.logits(&Batch::new(&ids, &ids, ids.len(), model.device())).to_host();
        let mut decoder = Decoder::new(&model, ids.len());
        let first = decoder.feed(&ids[..5]);
        let rows = whole.chunks(model.config.vocab_size);
        let largest = whole.iter().fold(0f32, |max, v| max.max(v.abs()));
        let near = |at: usize, logits: &[f32]| {
            let row = rows.clone().nth(at).unwrap();
            let worst = row.iter().zip(logits).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
            assert!(worst < 2e-5 * largest, "{}: position {at}: {worst}", folder.display());
        };
        near(4, &first);
        for (at, id) in ids.iter().enumerate().skip(5) {
            near(at, &decoder.feed(&[*id]));
        }
    }
}

/// Bits of all tensors, by name.
fn bits(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let checkpoint = HfCheckpoint::open(folder).unwrap();
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    let tensors = names.into_iter().map(|name| {
        let tensor = checkpoint.read_f32(&name).unwrap();
        (name, (tensor.shape, tensor.values.into_iter().map(f32::to_bits).collect()))
    });
    tensors.collect()
}

#[test]
fn what_comes_in_goes_out_bit_for_bit() {
    let tokenizer = Tokenizer::bytes().unwrap();
    for folder in models().into_iter().chain(folders("tests/golden", "llama_")) {
        let before = bits(&folder);
        let config = HfConfig::read(folder.join("config.json")).unwrap();
        let mut all = vec![Device::cpu()];
        all.extend(devices::gpus().first().cloned());
        for device in all {
            let model = Model::load(&folder, &device).unwrap();
            let place = tempfile::tempdir().unwrap();
            for (name, max_bytes) in [("one", u64::MAX), ("many", 4_000)] {
                let out = place.path().join(name);
                write_model_in_shards(&out, &model, &tokenizer, max_bytes).unwrap();
                assert!(before == bits(&out), "{} {name}", folder.display());
                assert_eq!(HfConfig::read(out.join("config.json")).unwrap(), config);
                assert_eq!(out.join("model.safetensors").exists(), name == "one");
                // And once more from what was written.
                assert!(before == bits_of_reloaded(&out, &device, &tokenizer, place.path()));
            }
            let file = SafetensorsFile::open(place.path().join("one/model.safetensors")).unwrap();
            assert_eq!(file.metadata()["format"], "pt");
            assert_eq!(file.contains("lm_head.weight"), !config.tie_word_embeddings);
        }
    }
}

fn bits_of_reloaded(
    folder: &Path,
    device: &Device,
    tokenizer: &Tokenizer,
    place: &Path,
) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let again = place.join("again");
    write_model(&again, &Model::load(folder, device).unwrap(), tokenizer).unwrap();
    bits(&again)
}

/// A model of an architecture with 257 tokens, with values that are not those of a fresh network.
fn write_fresh(folder: &Path, variant: Variant) {
    let mut config = preset("demo").unwrap().config(257);
    config.hidden_size = 32;
    config.intermediate_size = 64;
    config.num_hidden_layers = 2;
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 12);
    config.max_position_embeddings = 64;
    config.variant = variant;
    let result = Model::build(config, &Device::cpu(), |name, shape| {
        let len = shape.iter().product();
        let noise = fullrank::random::stream(3, name, "test", 0).normal_vec(len, 0.1);
        let is_gain = shape.len() == 1 && !name.ends_with("bias");
        let centre = if is_gain { 1.0 } else { 0.0 };
        Ok::<_, std::convert::Infallible>(
            noise.into_iter().map(|v| v + centre).collect::<Vec<f32>>(),
        )
    });
    write_model(folder, &result.unwrap(), &Tokenizer::bytes().unwrap()).unwrap();
}

const QWEN2: Variant = Variant { family: Family::Qwen2, attention_bias: true, mlp_bias: false };
const QWEN3: Variant = Variant { family: Family::Qwen3, attention_bias: true, mlp_bias: false };

/// Biases and norms of heads: what no other test of the methods has.
fn is_extra(name: &str) -> bool {
    name.ends_with("bias") || name.contains("q_norm") || name.contains("k_norm")
}

#[test]
fn every_method_trains_them_and_leaves_alone_what_is_frozen() {
    let place = Place::new();
    write_fresh(&place.path("qwen2"), QWEN2);
    write_fresh(&place.path("qwen3"), QWEN3);
    let methods = [
        ("full", true, ""),
        ("galore", true, "--rank 4"),
        ("fira", true, "--rank 4"),
        ("adarankgrad", true, "--rank 4"),
        ("spam", true, ""),
        ("switchlora", true, "--rank 4"),
        ("relora", true, "--rank 4"),
        ("lora", true, "--rank 4"),
        ("lte", true, "--rank 4 --lte-merge-every 2"),
        ("rslora", false, "--rank 4"),
        ("lora-plus", false, "--rank 4"),
        ("lora-ga", false, "--rank 4"),
        ("pissa", false, "--rank 4"),
        ("dora", false, "--rank 4"),
        ("lte", false, "--rank 4 --lte-merge-every 2"),
    ];
    for (number, (method, trains_rest, more)) in methods.into_iter().enumerate() {
        let model = ["qwen3", "qwen2"][number % 2];
        let name = format!("{method}{number}");
        place.ok(&format!(
            "train --model {model} --data text.txt --method {method} --train-non-targets {trains_rest} --iters 4 \
             --batch-size 4 --max-seq-length 32 --eval-batches 2 --sample-tokens 4 --name {name} --ui none {more}"
        ));
        let run = place.find(&name);
        let (before, after) = (bits(&place.path(model)), bits(&run.model()));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{name}");
        let extra: Vec<_> = before.keys().filter(|name| is_extra(name)).collect();
        assert!(extra.len() >= 6, "{extra:?}");
        for tensor in extra {
            assert_eq!(before[tensor] != after[tensor], trains_rest, "{name}: {tensor}");
        }
        let target = "model.layers.1.self_attn.k_proj.weight";
        assert_ne!(before[target], after[target], "{name}");
        // The checkpoint has them too.
        place.ok(&format!("eval {name} --batches 2"));
    }
}

#[test]
fn a_resumed_run_has_the_bits_of_one_that_never_stopped() {
    let place = Place::new();
    write_fresh(&place.path("qwen3"), QWEN3);
    let line = |name: &str, iters: u32, more: &str| {
        format!(
            "train --model qwen3 --data text.txt --method full --iters {iters} --lr-schedule constant --warmup-steps 0 \
             --batch-size 4 --max-seq-length 32 --eval-batches 2 --sample-tokens 4 --name {name} --ui none {more}"
        )
    };
    place.ok(&line("straight", 6, ""));
    place.ok(&line("stopped", 3, ""));
    place.ok("resume stopped --extend 6 --ui none");
    let model = |name: &str| bits(&place.find(name).model());
    assert!(model("straight") == model("stopped"));
}

#[test]
fn a_fresh_network_begins_with_biases_of_zero_and_gains_of_one() {
    let mut config = preset("demo").unwrap().config(64);
    config.variant = QWEN3;
    let model = Model::init(config, 5, &Device::cpu());
    let of = |name: &str| model.params.value(model.params.find(name).unwrap()).to_host();
    assert!(of("model.layers.0.self_attn.q_proj.bias").iter().all(|&v| v == 0.0));
    assert!(of("model.layers.0.self_attn.q_norm.weight").iter().all(|&v| v == 1.0));
}

#[test]
fn a_model_in_the_hugging_face_cache_is_used_by_its_id() {
    let place = Place::new();
    let snapshot = place.path("hub/models--org--tiny/snapshots/0123abcd");
    fs::create_dir_all(place.path("hub/models--org--tiny/refs")).unwrap();
    fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    fs::write(place.path("hub/models--org--tiny/refs/main"), "0123abcd").unwrap();
    write_fresh(&snapshot, QWEN2);
    let run = |line: &str| {
        let output = place.command(line).env("HF_HUB_CACHE", place.path("hub")).output().unwrap();
        assert!(output.status.success(), "{line}: {}", common::stderr(&output));
        common::stdout(&output)
    };
    let by_id = run("eval org/tiny --data text.txt --batches 2 --json");
    let by_folder = run(&format!("eval {} --data text.txt --batches 2 --json", snapshot.display()));
    assert_eq!(by_id, by_folder);
    run(
        "train --model org/tiny --data text.txt --method lora --rank 2 --iters 2 --batch-size 2 --max-seq-length 32 \
         --eval-batches 1 --sample-tokens 2 --name byid --ui none",
    );
    // The run knows the commit, so it can be resumed although the variable is gone.
    place.ok("eval byid --batches 1");
    let output =
        place.command("eval org/none").env("HF_HUB_CACHE", place.path("hub")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = common::stderr(&output);
    assert!(
        told.contains("hub/models--org--none") && told.contains("hf download org/none"),
        "{told}"
    );
}

#[test]
fn everything_that_belongs_to_the_tokenizer_is_handed_on() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    write_fresh(&source, QWEN2);
    let files = [
        ("special_tokens_map.json", "{\"eos_token\": \"<|endoftext|>\"}"),
        ("chat_template.jinja", "{% for message in messages %}{{ message.content }}{% endfor %}"),
        ("generation_config.json", "{\"eos_token_id\": [0, 5], \"temperature\": 0.7}"),
    ];
    for (name, text) in files {
        fs::write(source.join(name), text).unwrap();
    }
    let model = Model::load(&source, &Device::cpu()).unwrap();
    let tokenizer = Tokenizer::from_file(&source).unwrap();
    let out = place.path().join("out");
    write_model(&out, &model, &tokenizer).unwrap();
    for (name, text) in files {
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), text, "{name}");
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(source.join(name)).unwrap());
    }
}
