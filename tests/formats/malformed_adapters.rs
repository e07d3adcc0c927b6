//! Adapters that are not what they should be: an error that says what is wrong, never a panic, never an adapter.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // helpers of tests may stop

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::fuzz;
use fullrank::formats::peft::{AdapterLayer, BaseName, Module, PeftAdapter, write};
use fullrank::formats::safetensors::{SafetensorsFile, TensorValues, write_safetensors};
use fullrank::random::stream;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tensors of a file by name: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";
const Q0: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// The linear layers of a network of two blocks.
fn network() -> Vec<Module> {
    let parts = [
        ("self_attn.q_proj", 8, 8),
        ("self_attn.k_proj", 4, 8),
        ("self_attn.v_proj", 4, 8),
        ("self_attn.o_proj", 8, 8),
        ("mlp.gate_proj", 12, 8),
        ("mlp.up_proj", 12, 8),
        ("mlp.down_proj", 8, 12),
    ];
    let module = |block: usize| {
        parts.iter().map(move |&(name, rows, cols)| Module {
            name: format!("model.layers.{block}.{name}"),
            rows,
            cols,
        })
    };
    (0..2).flat_map(module).collect()
}

/// A good adapter on disk, of rank 2.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new(has_lengths: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layer = |module: Module| {
            let values = |part: &str, len| stream(1, &module.name, part, 0).normal_vec(len, 1.0);
            AdapterLayer {
                a: values("a", 2 * module.cols),
                b: values("b", module.rows * 2),
                rank: 2,
                scale: 2.0,
                magnitude: has_lengths.then(|| values("m", module.rows)),
                module,
            }
        };
        let layers: Vec<AdapterLayer> = network().into_iter().map(layer).collect();
        write(folder.path(), &layers, &network(), &"base".into(), false).unwrap();
        let place = Self { folder };
        assert_eq!(place.read().unwrap().layers, layers, "the good one is read");
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn read(&self) -> fullrank::error::Result<PeftAdapter> {
        PeftAdapter::read(self.path(), &network())
    }

    fn config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path().join(CONFIG)).unwrap()).unwrap()
    }

    fn set_config(&self, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join(CONFIG), bytes).unwrap();
    }

    /// Writes the tensors anew after a change to their names, shapes and values.
    fn change_weights(&self, change: impl Fn(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) {
        let path = self.path().join(WEIGHTS);
        let mut tensors = BTreeMap::new();
        let file = SafetensorsFile::open(&path).unwrap();
        for name in file.names() {
            let tensor = file.read_f32(name).unwrap();
            tensors.insert(name.to_owned(), (tensor.shape, tensor.values));
        }
        change(&mut tensors);
        let list: Vec<_> = tensors
            .iter()
            .map(|(name, (shape, values))| (name.as_str(), &shape[..], TensorValues::F32(values)))
            .collect();
        write_safetensors(path, &BTreeMap::new(), &list).unwrap();
    }

    /// The error must name the file or the folder, the fault, and a remedy.
    fn assert_refused(&self, what: &str, fault: &str) {
        let Err(error) = self.read() else { panic!("{what}: it was read") };
        let text = error.to_string();
        assert!(text.contains(fault), "{what}: {text}");
        assert!(text.contains(&self.path().display().to_string()), "{what} names no file: {text}");
        assert!(!error.remedy().is_empty(), "{what}");
    }
}

#[test]
fn fields_with_impossible_values_are_refused_by_name() {
    let cases: Vec<(&str, Value, &str)> = vec![
        ("peft_type", json!("IA3"), "peft_type is IA3"),
        ("peft_type", json!("ADALORA"), "peft_type is ADALORA"),
        ("peft_type", Value::Null, "peft_type is missing"),
        ("peft_type", json!(3), "peft_type is 3, expected a text"),
        ("r", json!(0), "r is 0, expected a whole number"),
        ("r", json!(-4), "r is -4"),
        ("r", json!(2.5), "r is 2.5"),
        ("r", json!("2"), "r is \"2\""),
        ("r", json!(18_446_744_073_709_551_615_u64), "r is 18446744073709551615"),
        ("r", json!(3), "expected [3, 8], file has [2, 8]"),
        ("lora_alpha", json!(0), "lora_alpha is 0"),
        ("lora_alpha", json!(-1), "lora_alpha is -1"),
        ("lora_alpha", json!("16"), "lora_alpha is \"16\""),
        ("lora_dropout", json!(1.5), "lora_dropout is 1.5"),
        ("lora_dropout", json!("none"), "lora_dropout is \"none\""),
        ("bias", json!("all"), "bias is all"),
        ("bias", json!("lora_only"), "bias is lora_only"),
        ("lora_bias", json!(true), "lora_bias is true"),
        ("fan_in_fan_out", json!(true), "fan_in_fan_out is true"),
        ("use_rslora", json!("yes"), "use_rslora is \"yes\""),
        ("use_dora", json!(1), "use_dora is 1"),
        ("use_dora", json!(true), "has no tensor"),
        ("use_qalora", json!(true), "use_qalora is true"),
        ("use_bdlora", json!(true), "use_bdlora is true"),
        ("modules_to_save", json!(["embed_tokens"]), "modules_to_save is set"),
        ("layer_replication", json!([[0, 1]]), "layer_replication is set"),
        ("alora_invocation_tokens", json!([1, 2]), "alora_invocation_tokens is set"),
        ("target_parameters", json!(["weight"]), "target_parameters is set"),
        ("trainable_token_indices", json!([0]), "trainable_token_indices is set"),
        ("arrow_config", json!({"top_k": 2}), "arrow_config is set"),
        ("init_lora_weights", json!("pissa"), "init_lora_weights is pissa"),
        ("init_lora_weights", json!("pissa_niter_16"), "init_lora_weights is pissa_niter_16"),
        ("init_lora_weights", json!("olora"), "init_lora_weights is olora"),
        ("init_lora_weights", json!("corda"), "init_lora_weights is corda"),
        ("init_lora_weights", json!("loftq"), "init_lora_weights is loftq"),
        ("init_lora_weights", json!(7), "init_lora_weights is 7"),
        ("target_modules", Value::Null, "target_modules is missing"),
        ("target_modules", json!([]), "names no linear layer"),
        ("target_modules", json!(["c_attn"]), "names no linear layer"),
        ("target_modules", json!(["lm_head"]), "names no linear layer"),
        ("target_modules", json!(["q_proj", 3]), "target_modules is a list"),
        ("target_modules", json!({"q": 1}), "target_modules is an object"),
        ("target_modules", json!("(q_proj"), "not a usable regular expression"),
        ("target_modules", json!("x".repeat(50_000)), "not a usable regular expression"),
        ("target_modules", json!("(".repeat(9_000)), "not a usable regular expression"),
        ("target_modules", json!(["q_proj"]), "belongs to no module of target_modules"),
        ("exclude_modules", json!(["q_proj"]), "belongs to no module of target_modules"),
        ("exclude_modules", json!("[a-"), "not a usable regular expression"),
        ("layers_to_transform", json!([0]), "belongs to no module of target_modules"),
        ("layers_to_transform", json!([7]), "names no linear layer"),
        ("layers_to_transform", json!(["0"]), "layers_to_transform is"),
        ("layers_to_transform", json!("all"), "layers_to_transform is"),
        ("layers_pattern", json!(4), "layers_pattern is 4"),
        ("rank_pattern", json!([1]), "rank_pattern is a list"),
        ("rank_pattern", json!({"q_proj": 0}), "rank_pattern.q_proj is 0"),
        ("rank_pattern", json!({"q_proj": 4}), "expected [4, 8], file has [2, 8]"),
        ("rank_pattern", json!({"*": 2}), "rank_pattern is not a usable regular expression"),
        ("alpha_pattern", json!({"q_proj": "x"}), "alpha_pattern.q_proj is \"x\""),
        ("alpha_pattern", json!({"q_proj": -2}), "alpha_pattern.q_proj is -2"),
        ("base_model_name_or_path", json!(["a"]), "base_model_name_or_path is a list"),
    ];
    let place = Place::new(false);
    let good = place.config();
    for (key, value, fault) in cases {
        let mut config = good.clone();
        config[key] = value;
        place.set_config(serde_json::to_vec(&config).unwrap());
        let shown = config[key].to_string();
        let shown: String = shown.chars().take(60).collect();
        place.assert_refused(&format!("{key} = {shown}"), fault);
    }
}

#[test]
fn no_blocks_are_all_blocks_as_in_peft() {
    let place = Place::new(false);
    let mut config = place.config();
    config["layers_to_transform"] = json!([]);
    place.set_config(serde_json::to_vec(&config).unwrap());
    assert_eq!(place.read().unwrap().layers.len(), 14);
    config["target_modules"] = json!(".*_proj");
    place.set_config(serde_json::to_vec(&config).unwrap());
    place.assert_refused("no blocks with a pattern", "does not go with target_modules");
}

#[test]
fn the_revision_of_the_base_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let layers = Place::new(false).read().unwrap().layers;
    let base = BaseName { name: "org/name".into(), revision: Some("v2".into()) };
    write(folder.path(), &layers, &network(), &base, false).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(folder.path().join(CONFIG)).unwrap()).unwrap();
    assert_eq!(
        (&config["base_model_name_or_path"], &config["revision"]),
        (&json!("org/name"), &json!("v2"))
    );
}

#[test]
fn a_configuration_that_is_no_configuration_is_refused() {
    let place = Place::new(false);
    let good = fs::read(place.path().join(CONFIG)).unwrap();
    let deep = "[".repeat(100_000);
    let nested = format!("{{\"peft_type\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let cases: [(&str, &[u8], &str); 10] = [
        ("empty", b"", "not valid JSON"),
        ("cut short", &good[..good.len() / 2], "not valid JSON"),
        ("a list", b"[]", "not a JSON object"),
        ("a number", b"7", "not a JSON object"),
        ("null", b"null", "not a JSON object"),
        ("bad UTF-8", b"{\"peft_type\": \"\xff\xfe\"}", "not valid JSON"),
        ("bytes", b"\x00\x01\x02", "not valid JSON"),
        ("nested without end", deep.as_bytes(), "not valid JSON"),
        ("nested deeply", nested.as_bytes(), "not valid JSON"),
        ("no field", b"{}", "peft_type is missing"),
    ];
    for (what, bytes, fault) in cases {
        place.set_config(bytes);
        place.assert_refused(what, fault);
    }
    fs::remove_file(place.path().join(CONFIG)).unwrap();
    place.assert_refused("no configuration", "has no adapter_config.json");
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let a = format!("{Q0}.lora_A.weight");
    let b = format!("{Q0}.lora_B.weight");
    let set = |name: &str, shape: &[usize]| {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        move |tensors: &mut Tensors| {
            let values = vec![0.5; shape.iter().product()];
            tensors.insert(name.clone(), (shape.clone(), values));
        }
    };
    let value = |name: &str, value: f32| {
        let name = name.to_owned();
        move |tensors: &mut Tensors| tensors.get_mut(&name).unwrap().1[3] = value
    };
    let cases: Vec<(&str, Box<dyn Fn(&mut Tensors)>, &str)> = vec![
        ("no A", Box::new(|t| drop(t.remove(&format!("{Q0}.lora_A.weight")))), "lora_A.weight"),
        ("no B", Box::new(|t| drop(t.remove(&format!("{Q0}.lora_B.weight")))), "lora_B.weight"),
        ("nothing", Box::new(BTreeMap::clear), "has no tensor"),
        ("A turned", Box::new(set(&a, &[8, 2])), "expected [2, 8], file has [8, 2]"),
        ("B turned", Box::new(set(&b, &[2, 8])), "expected [8, 2], file has [2, 8]"),
        ("A of another rank", Box::new(set(&a, &[4, 8])), "expected [2, 8], file has [4, 8]"),
        ("A flat", Box::new(set(&a, &[16])), "expected [2, 8], file has [16]"),
        ("A of three axes", Box::new(set(&a, &[1, 2, 8])), "file has [1, 2, 8]"),
        ("A empty", Box::new(set(&a, &[0, 8])), "file has [0, 8]"),
        ("NaN in A", Box::new(value(&a, f32::NAN)), "holds NaN"),
        ("infinity in B", Box::new(value(&b, f32::INFINITY)), "holds inf"),
        ("minus infinity in B", Box::new(value(&b, f32::NEG_INFINITY)), "holds -inf"),
        (
            "an unknown layer",
            Box::new(set(
                "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight",
                &[2, 8],
            )),
            "no such linear layer",
        ),
        (
            "the head",
            Box::new(set("base_model.model.lm_head.lora_A.weight", &[2, 8])),
            "no such linear layer",
        ),
        (
            "a saved module",
            Box::new(set("base_model.model.model.embed_tokens.weight", &[4, 8])),
            "no part of a LoRA",
        ),
        (
            "an embedding's adapter",
            Box::new(set("base_model.model.model.embed_tokens.lora_embedding_A", &[2, 8])),
            "no part of a LoRA",
        ),
        ("a bias", Box::new(set(&format!("{Q0}.lora_B.bias"), &[8])), "no part of a LoRA"),
        (
            "an adapter's name in it",
            Box::new(set(&format!("{Q0}.lora_A.default.weight"), &[2, 8])),
            "no part of a LoRA",
        ),
        (
            "no prefix",
            Box::new(set("model.layers.0.self_attn.q_proj.lora_A.weight", &[2, 8])),
            "does not begin with base_model.model.",
        ),
        (
            "lengths without DoRA",
            Box::new(set(&format!("{Q0}.lora_magnitude_vector"), &[8])),
            "use_dora is false",
        ),
    ];
    for (what, change, fault) in cases {
        let place = Place::new(false);
        place.change_weights(change);
        place.assert_refused(what, fault);
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let name = format!("{Q0}.lora_magnitude_vector");
    let place = Place::new(true);
    place.change_weights(|tensors| drop(tensors.remove(&name)));
    place.assert_refused("a length is missing", "lora_magnitude_vector");
    let place = Place::new(true);
    place.change_weights(|tensors| {
        tensors.insert(name.clone(), (vec![7], vec![1.0; 7]));
    });
    place.assert_refused("lengths of another size", "expected [8], file has [7]");
    let place = Place::new(true);
    place.change_weights(|tensors| {
        let lengths = tensors[&name].clone();
        tensors.insert(format!("{name}.weight"), lengths);
    });
    place.assert_refused("lengths twice", "is there twice");
    // The older spelling alone is read.
    let place = Place::new(true);
    place.change_weights(|tensors| {
        let lengths = tensors.remove(&name).unwrap();
        tensors.insert(format!("{name}.weight"), lengths);
    });
    assert!(place.read().is_ok());
}

#[test]
fn weight_files_that_are_none_are_refused() {
    let place = Place::new(false);
    let path = place.path().join(WEIGHTS);
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        place.assert_refused(&format!("cut to {length} bytes"), WEIGHTS);
    }
    let mut absurd = whole.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &absurd).unwrap();
    place.assert_refused("an absurd header length", "claims a header of");
    let mut integers = whole.clone();
    let text = String::from_utf8_lossy(&whole[8..2000]).into_owned();
    let at = 8 + text.find("F32").unwrap();
    integers[at..at + 3].copy_from_slice(b"I32");
    fs::write(&path, &integers).unwrap();
    place.assert_refused("whole numbers", "is I32");
    fs::write(&path, b"\x80\x02}q\x00.").unwrap();
    place.assert_refused("a pickle", WEIGHTS);
    fs::remove_file(&path).unwrap();
    place.assert_refused("no weights", "has no adapter_model.safetensors");
    fs::write(place.path().join("adapter_model.bin"), b"").unwrap();
    place.assert_refused("only a pickled file", "pickled adapter_model.bin");
    fs::remove_file(place.path().join("adapter_model.bin")).unwrap();
    fs::write(place.path().join("adapters.safetensors"), b"").unwrap();
    place.assert_refused("mlx-lm's form", "mlx-lm");
    fs::create_dir(&path).unwrap();
    place.assert_refused("a folder in the place of the file", WEIGHTS);
    let gone = PeftAdapter::read(Path::new("/nowhere/at/all"), &network()).unwrap_err();
    assert!(gone.to_string().contains("there is no /nowhere/at/all"), "{gone}");
}

/// Bytes changed at random: whatever comes of it, no panic; and what is read has finite values of the right sizes.
#[test]
fn random_damage_is_an_error_or_a_whole_adapter() {
    for round in fuzz::rounds("adapters, 1600 cases a round") {
        damage_at_random(round);
    }
}

fn damage_at_random(round: u64) {
    let mut random = stream(7, "damage", "test", round);
    let mut below = |n: usize| (random.uniform() * n as f32) as usize % n.max(1);
    for has_lengths in [false, true] {
        let place = Place::new(has_lengths);
        let (mut refused, mut read) = (0, 0);
        for file in [WEIGHTS, CONFIG] {
            let path = place.path().join(file);
            let whole = fs::read(&path).unwrap();
            for _ in 0..400 {
                let mut bytes = whole.clone();
                // Mostly where the structure is.
                let reach = if file == WEIGHTS { 2_500.min(bytes.len()) } else { bytes.len() };
                for _ in 0..=below(3) {
                    let at = below(reach);
                    match below(4) {
                        0 => bytes[at] ^= 1 << below(8),
                        1 => bytes[at] = below(256) as u8,
                        2 => drop(bytes.remove(at)),
                        _ => bytes.insert(at, b"\"{}[]:,0-e\\\xff"[below(12)]),
                    }
                }
                fs::write(&path, &bytes).unwrap();
                match place.read() {
                    Err(_) => refused += 1,
                    Ok(adapter) => {
                        read += 1;
                        for layer in adapter.layers {
                            assert_eq!(layer.a.len(), layer.rank * layer.module.cols);
                            assert!(layer.a.iter().chain(&layer.b).all(|v| v.is_finite()));
                        }
                    }
                }
            }
            fs::write(&path, &whole).unwrap();
        }
        assert!(refused > 300 && read > 0, "{refused} refused, {read} read");
    }
}

#[test]
fn no_adapter_with_a_value_that_is_not_finite_is_written() {
    for (part, fault) in [(0, "A of"), (1, "B of"), (2, "magnitude of")] {
        let folder = tempfile::tempdir().unwrap();
        let module = network().remove(0);
        let mut layer = AdapterLayer {
            a: vec![1.0; 16],
            b: vec![1.0; 16],
            rank: 2,
            scale: 1.0,
            magnitude: Some(vec![1.0; 8]),
            module,
        };
        match part {
            0 => layer.a[5] = f32::NAN,
            1 => layer.b[5] = f32::INFINITY,
            _ => layer.magnitude.as_mut().unwrap()[5] = f32::NAN,
        }
        let error = write(folder.path(), &[layer], &network(), &"base".into(), false).unwrap_err();
        assert!(error.to_string().contains(fault), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was written");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(write(folder.path(), &[], &network(), &"base".into(), false).is_err());
}
