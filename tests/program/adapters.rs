//! Adapters through the commands: trained on a model folder, exported, evaluated, merged, trained on; which layers have
//! them; what is exported merged alone; and the end of a run by its validation loss.

#![allow(clippy::unwrap_used)] // helpers of tests may unwrap

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{self, Place, read_json, stderr, write_json};
use fullrank::config::RunConfig;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::runlog::{Body, EndStatus, RunDir, read_log};
use serde_json::Value;

/// How two evaluations of one function may differ in f32.
const CLOSE: f64 = 3e-6;
const SMALL: &str =
    "--data text.txt --max-seq-length 32 --batch-size 4 --eval-batches 2 --sample-tokens 4";

/// A place with a small trained model in `base`.
fn place() -> Place {
    let place = Place::new();
    let run = place.train("base", "--method full --iters 12 --learning-rate 0.01");
    fs::rename(run.model(), place.path("base")).unwrap();
    place
}

/// Fine-tunes the base.
fn tune(place: &Place, name: &str, more: &str) -> RunDir {
    place.ok(&format!("train --model base {SMALL} --name {name} --ui none {more}"));
    place.find(name)
}

fn loss(place: &Place, line: &str) -> f64 {
    let text =
        place.ok(&format!("eval {line} --data text.txt --batches 3 --max-seq-length 32 --json"));
    serde_json::from_str::<Value>(&text).unwrap()["loss"].as_f64().unwrap()
}

fn assert_close(a: f64, b: f64, what: &str) {
    assert!((a / b - 1.0).abs() < CLOSE, "{what}: {a} and {b}");
}

/// Exports and gives the folder that was printed.
fn export(place: &Place, line: &str) -> PathBuf {
    let text = place.ok(&format!("export {line}"));
    assert_eq!(text.lines().count(), 1, "{text}");
    place.path(text.trim())
}

fn values(folder: &Path, file: &str) -> Vec<(String, Vec<u32>)> {
    let file = SafetensorsFile::open(folder.join(file)).unwrap();
    let bits =
        |name: &str| file.read_f32(name).unwrap().values.iter().map(|v| v.to_bits()).collect();
    file.names().map(|name| (name.to_owned(), bits(name))).collect()
}

fn events(run: &RunDir) -> Vec<fullrank::runlog::Event> {
    read_log(run.events()).unwrap().events
}

fn evals(run: &RunDir) -> Vec<(u64, f64)> {
    let of = |event: fullrank::runlog::Event| match event.body {
        Body::Eval(eval) => Some((event.step, eval.loss)),
        _ => None,
    };
    events(run).into_iter().filter_map(of).collect()
}

#[test]
fn an_adapter_of_every_kind_goes_out_comes_back_and_is_merged() {
    let place = place();
    let of_base = loss(&place, "base");
    for (method, rank, flag) in [
        ("lora", 8, None),
        ("rslora", 8, Some("use_rslora")),
        ("lora-plus", 8, None),
        ("dora", 8, Some("use_dora")),
        ("lora-ga", 16, None),
        ("pissa", 16, None),
    ] {
        let run =
            tune(&place, method, &format!("--method {method} --iters 12 --learning-rate 0.01"));
        let of_run = loss(&place, method);
        let moved = (of_run / of_base - 1.0).abs();
        assert!(moved > 1e-4, "{method} did nothing: {of_base} to {of_run}");
        let adapter = export(&place, &format!("{method} --format peft"));
        assert!(adapter.starts_with(place.path("runs")), "{}", adapter.display());
        let adapter = adapter.display();

        let config = read_json(PathBuf::from(adapter.to_string()).join("adapter_config.json"));
        assert_eq!(config["r"], rank, "{method}");
        for name in ["use_rslora", "use_dora"] {
            assert_eq!(config[name], flag == Some(name), "{method} {name}");
        }
        for (key, value) in [
            ("peft_type", Value::from("LORA")),
            ("task_type", "CAUSAL_LM".into()),
            ("bias", "none".into()),
            ("inference_mode", true.into()),
            ("fan_in_fan_out", false.into()),
            ("init_lora_weights", true.into()),
            ("modules_to_save", Value::Null),
            ("layers_to_transform", Value::Null),
            ("layers_pattern", Value::Null),
            ("revision", Value::Null),
        ] {
            assert_eq!(config.get(key), Some(&value), "{method} {key}");
        }
        if rank == 8 {
            assert_eq!(config["lora_alpha"], 16, "{method}: alpha as it was set");
        }
        assert_eq!(config["target_modules"].as_array().unwrap().len(), 7);
        assert!(config["base_model_name_or_path"].as_str().unwrap().ends_with("base"));

        // The same function: the run, base and adapter, both ways of merging.
        let beside = loss(&place, &format!("--model base --adapter {adapter}"));
        assert_close(beside, of_run, &format!("{method}: base with adapter"));
        let merged =
            export(&place, &format!("--model base --adapter {adapter} --merge --to m-{method}"));
        assert_close(loss(&place, &merged.display().to_string()), of_run, method);
        let merged = export(&place, &format!("{method} --to n-{method}"));
        assert_close(loss(&place, &merged.display().to_string()), of_run, method);
        let text = place.ok(&format!(
            "generate --model base --adapter {adapter} --prompt Emma --max-tokens 4 --temperature 0"
        ));
        assert!(text.starts_with("Emma"), "{text}");

        // Only adapters were trained.
        let checkpoint = common::newest_checkpoint(&run);
        if !matches!(method, "lora-ga" | "pissa") {
            let now = values(&checkpoint, "model.safetensors");
            assert_eq!(now, values(&place.path("base"), "model.safetensors"), "{method}");
        }
    }
}

#[test]
fn an_adapter_is_trained_on_with_its_own_ranks_and_resumes_without_its_folder() {
    let place = place();
    for method in ["lora", "rslora", "dora"] {
        let first = format!("{method}-first");
        tune(
            &place,
            &first,
            &format!(
                "--method {method} --iters 6 --learning-rate 0.01 --rank-first 2 --rank-last 5 --alpha 6"
            ),
        );
        let adapter = export(&place, &format!("{first} --format peft --to {first}-adapter"));
        let config = read_json(adapter.join("adapter_config.json"));
        assert_eq!(config["rank_pattern"].as_object().unwrap().len(), 7, "{config}");
        let of_adapter = loss(&place, &format!("base --adapter {first}-adapter"));

        let more = format!(
            "--method {method} --adapter {first}-adapter --learning-rate 0.01 --iters 8 --checkpoint-every 4"
        );
        let second = format!("{method}-second");
        let run = tune(&place, &second, &more);
        let settings = RunConfig::read(&run.config()).unwrap();
        assert_eq!((settings.train.rank, settings.train.alpha), (Some(5), Some(6.0)));
        let whole = loss(&place, &second);
        assert!(whole < of_adapter, "{method}: {of_adapter} to {whole}");
        let same = tune(&place, &format!("{second}-b"), &more);
        // Back to its middle, without the adapter's folder.
        fs::rename(&adapter, place.path("elsewhere")).unwrap();
        fs::remove_dir_all(common::newest_checkpoint(&same)).unwrap();
        place.ok(&format!("resume {second}-b --ui none"));
        for file in ["model.safetensors", "method.safetensors", "optim.safetensors"] {
            let of = |run: &RunDir| fs::read(common::newest_checkpoint(run).join(file)).unwrap();
            assert!(of(&same) == of(&run), "{method}: {file} after the resume");
        }
        fs::remove_dir_all(place.path("elsewhere")).unwrap();
    }
}

#[test]
fn a_given_adapter_must_agree_with_everything_else_that_is_given() {
    let place = place();
    tune(&place, "plain", "--method lora --iters 4 --learning-rate 0.01 --rank 4");
    export(&place, "plain --format peft --to given");
    let train = format!("train --model base {SMALL} --adapter given");
    for (more, code, fault) in [
        ("--method rslora", 2, "the adapter given is LoRA, the method is rslora"),
        ("--method dora", 2, "the adapter given is LoRA, the method is dora"),
        ("--method switchlora", 2, "cannot go on with the adapter given"),
        ("--method lora --rank 8", 2, "train.rank is 8, the adapter given has 4"),
        ("--method lora --alpha 8", 2, "train.alpha is 8, the adapter given has 16"),
        ("--method lora --target-modules q_proj", 2, "train.target_modules is q_proj"),
        ("--method lora --rank-first 4", 2, "do not go with an adapter"),
        ("--method lora --lora-init gaussian", 2, "do not go with an adapter"),
        ("--method lora --model demo", 2, "is a preset with random weights"),
        ("--method lora --adapter nowhere", 2, "there is no "),
    ] {
        let output = place.run(&format!("{train} {more}"));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "`{more}`: {said}");
        assert!(said.starts_with("error: ") && said.contains(fault), "`{more}`: {said}");
    }
    for (line, fault) in [
        ("eval plain --adapter given", "plain is a run"),
        ("eval base --best", "is a model folder"),
        ("eval plain --step 99", "has no checkpoint of step 99"),
        ("export base --format peft --to x", "is a model without an adapter"),
        ("export base --adapter given --format peft", "give one with --to DIR"),
        ("export plain --format peft --to base", "is there already"),
        ("export nothing", "nothing"),
        ("eval given", "given: is a PEFT adapter without its base"),
        ("train --model given --method lora", "given: is a PEFT adapter without its base"),
    ] {
        let said = stderr(&place.run(line));
        assert!(said.starts_with("error: ") && said.contains(fault), "`{line}`: {said}");
    }
    assert!(!place.path("x").exists());
    // The very same settings are no contradiction.
    tune(
        &place,
        "again",
        "--method lora-plus --adapter given --iters 2 --rank 4 --alpha 16 --target-modules all-linear",
    );
}

#[test]
fn methods_that_change_the_weights_at_full_rank_export_merged_models_alone() {
    let place = place();
    for method in ["full", "switchlora", "relora", "galore", "fira", "lte", "adarankgrad", "spam"] {
        tune(&place, method, &format!("--method {method} --iters 6"));
        let said = stderr(&place.run(&format!("export {method} --format peft")));
        assert!(said.contains("not one low-rank pair for each layer"), "{method}: {said}");
        assert!(said.contains("--format hf"), "{method}: {said}");
        let merged = export(&place, method);
        assert_close(loss(&place, &merged.display().to_string()), loss(&place, method), method);
    }
    // Adapters beside trained norms are no adapter either.
    tune(&place, "beside", "--method lora --iters 2 --train-non-targets");
    let said = stderr(&place.run("export beside --format mlx"));
    assert!(said.contains("trained embedding, head and norms"), "{said}");
    // And a preset's random start is no base.
    place.train("preset", "--method lora --iters 4 --train-non-targets false");
    let said = stderr(&place.run("export preset --format peft"));
    assert!(said.contains("which no file holds"), "{said}");
}

#[test]
fn an_adapter_that_changes_nothing_wants_force_and_says_so() {
    let place = place();
    tune(&place, "still", "--method lora --iters 2 --learning-rate 0");
    let output = place.run("export still --format peft");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("lora_B is zero in all 14 layers"), "{said}");
    let output = place.run("export still --format peft --force --to still-adapter");
    assert!(
        output.status.success() && stderr(&output).contains("warning: lora_B is zero in 14 of 14")
    );
    let of_base = loss(&place, "base");
    assert_eq!(loss(&place, "base --adapter still-adapter"), of_base, "it changes nothing");
    // Also where the factors of the adapter are a difference.
    tune(&place, "still-ga", "--method lora-ga --iters 2 --learning-rate 0");
    let said = stderr(&place.run("export still-ga --format mlx"));
    assert!(said.contains("lora_B is zero in all 14 layers"), "{said}");
}

#[test]
fn the_form_of_mlx_has_the_same_product() {
    let place = place();
    tune(&place, "tuned", "--method lora --iters 6 --learning-rate 0.01 --rank 4");
    let peft = export(&place, "tuned --format peft --to p");
    let mlx = export(&place, "--model base --adapter p --format mlx --to m");
    let config = read_json(mlx.join("adapter_config.json"));
    assert_eq!((&config["fine_tune_type"], &config["num_layers"]), (&"lora".into(), &2.into()));
    assert_eq!(config["lora_parameters"]["rank"], 4);
    assert_eq!(config["lora_parameters"]["scale"], 4.0);
    assert_eq!(config["lora_parameters"]["keys"].as_array().unwrap().len(), 7);
    let theirs = SafetensorsFile::open(mlx.join("adapters.safetensors")).unwrap();
    let ours = SafetensorsFile::open(peft.join("adapter_model.safetensors")).unwrap();
    let layer = "model.layers.1.mlp.down_proj";
    let a = theirs.read_f32(&format!("{layer}.lora_a")).unwrap();
    let ours_a = ours.read_f32(&format!("base_model.model.{layer}.lora_A.weight")).unwrap();
    assert_eq!(a.shape, [64, 4]);
    for (i, row) in ours_a.values.chunks(64).enumerate() {
        for (j, value) in row.iter().enumerate() {
            assert_eq!(a.values[j * 4 + i], *value);
        }
    }
}

#[test]
fn the_form_of_gguf_has_the_adapter_in_it() {
    let place = place();
    tune(&place, "tuned", "--method lora --iters 6 --learning-rate 0.01");
    let of_run = loss(&place, "tuned");
    let file = export(&place, "tuned --format gguf --dtype f32");
    assert!(file.extension().is_some_and(|ending| ending == "gguf"), "{}", file.display());
    assert_close(loss(&place, &file.display().to_string()), of_run, "f32");
    let file = export(&place, "tuned --format gguf --to half.gguf");
    let of_half = loss(&place, &file.display().to_string());
    assert!((of_half / of_run - 1.0).abs() < 1e-3, "f16: {of_half} and {of_run}");
    let said = stderr(&place.run("export tuned --format gguf --to half.gguf"));
    assert!(said.contains("half.gguf: is there already"), "{said}");
}

#[test]
fn chosen_layers_alone_get_adapters_and_the_rest_is_frozen() {
    let place = place();
    for method in ["lora", "rslora", "lora-plus", "dora", "lora-ga", "pissa"] {
        let run = tune(
            &place,
            method,
            &format!(
                "--method {method} --iters 6 --learning-rate 0.01 --target-modules q_proj,layers.1.mlp.up_proj"
            ),
        );
        let checkpoint = common::newest_checkpoint(&run);
        let factors = values(&checkpoint, "method.safetensors");
        let layers: std::collections::BTreeSet<&str> =
            factors.iter().map(|(name, _)| name.rsplit_once('.').unwrap().0).collect();
        let chosen = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.mlp.up_proj",
            "model.layers.1.self_attn.q_proj",
        ];
        assert_eq!(layers.into_iter().collect::<Vec<_>>(), chosen, "{method}");
        let before = values(&place.path("base"), "model.safetensors");
        let now = values(&checkpoint, "model.safetensors");
        for (before, now) in before.iter().zip(&now) {
            let is_chosen = chosen.iter().any(|layer| before.0 == format!("{layer}.weight"));
            // LoRA-GA and PiSSA take their start off the weight.
            if !(is_chosen && matches!(method, "lora-ga" | "pissa")) {
                assert!(before == now, "{method}: {} changed", before.0);
            }
        }
        let adapter = export(&place, &format!("{method} --format peft --to a-{method}"));
        let config = read_json(adapter.join("adapter_config.json"));
        assert_eq!(config["target_modules"].as_array().unwrap().len(), 3, "{config}");
        let beside = loss(&place, &format!("base --adapter a-{method}"));
        assert_close(beside, loss(&place, method), method);
        // What was predicted is what was held.
        let (mut peak, mut predicted, mut trained) = (0, 0, 0);
        for event in events(&run) {
            match event.body {
                Body::Mem(mem) => {
                    (peak, predicted) = (mem.peak_bytes, mem.predicted_bytes.unwrap());
                }
                Body::Run(run) => trained = run.trained_params,
                _ => {}
            }
        }
        let ratio = peak as f64 / predicted as f64;
        assert!((0.9..1.1).contains(&ratio), "{method}: peak {peak}, predicted {predicted}");
        let lengths = if method == "dora" { 32 + 64 + 32 } else { 0 };
        assert_eq!(trained, 8 * (64 + 64 + 96) + lengths, "{method}");
    }
    for (names, fault) in [
        ("lm_head", "names `lm_head`, which is no linear layer of a block"),
        ("q_proj,,v_proj", "with an empty name"),
    ] {
        let line = format!("train --model base {SMALL} --method lora --target-modules {names}");
        let said = stderr(&place.run(&line));
        assert!(said.contains(fault), "{said}");
    }
    let said = stderr(
        &place.run(&format!("train --model base {SMALL} --method galore --target-modules q_proj")),
    );
    assert!(said.contains("does not go with method galore"), "{said}");
}

#[test]
fn a_model_folder_is_fine_tuned_with_defaults_of_its_own() {
    let place = place();
    for (method, rank, alpha, rate) in [
        ("lora", 8, 16.0, 2e-4),
        ("rslora", 8, 16.0, 1e-4),
        ("lora-plus", 8, 16.0, 5e-5),
        ("dora", 8, 16.0, 1e-4),
        ("lora-ga", 8, 16.0, 1e-4),
        ("pissa", 8, 16.0, 1e-4),
        ("switchlora", 8, 1.0, 4e-4),
        ("full", 8, 32.0, 2e-5),
    ] {
        let run = tune(&place, method, &format!("--method {method} --iters 1"));
        let train = RunConfig::read(&run.config()).unwrap().train;
        assert_eq!(train.rank, Some(rank), "{method}");
        assert_eq!(train.alpha, Some(alpha), "{method}");
        assert_eq!(train.learning_rate, Some(rate), "{method}");
        assert_eq!(train.train_non_targets, Some(method == "full"), "{method}");
        assert_eq!(train.save_best, Some(true), "{method}");
    }
    // A warm start is full-rank training, at its rate.
    let rates = |run: &RunDir| {
        let config = RunConfig::read(&run.config()).unwrap();
        let tables = (config.relora.warm_start_learning_rate, config.train.learning_rate);
        (tables, config.switchlora.warm_start_learning_rate)
    };
    let run = tune(&place, "relora", "--method relora --iters 8");
    assert_eq!(rates(&run), ((Some(2e-5), Some(2e-4)), Some(2e-5)));
    let run = tune(&place, "warm", "--iters 4 --switchlora-warm-start 2");
    assert_eq!(rates(&run), ((Some(2e-5), Some(4e-4)), Some(2e-5)));
    let more = "--method relora --iters 8 --relora-warm-start-learning-rate 3e-5";
    assert_eq!(rates(&tune(&place, "given", more)), ((Some(3e-5), Some(2e-4)), Some(2e-5)));
    let scratch = place.train("scratch", "--method relora --iters 8");
    assert_eq!(rates(&scratch), ((Some(1e-3), Some(2e-3)), Some(1e-3)));

    let preset = place.train("preset", "--method lora --iters 1");
    let train = RunConfig::read(&preset.config()).unwrap().train;
    assert_eq!((train.alpha, train.learning_rate), (Some(32.0), Some(2e-3)));
    assert_eq!(train.save_best, Some(false));
}

#[test]
fn a_run_ends_early_when_its_validation_loss_no_longer_falls() {
    let place = place();
    // Nothing moves, so no evaluation is better than the one before the first update.
    let line = format!(
        "train --model base {SMALL} --name still --method lora --iters 40 --learning-rate 0 --eval-every 2 \
         --early-stop 3 --ui line"
    );
    let output = place.run(&line);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("no lower validation loss in 3 evaluations"), "{said}");
    let run = place.find("still");
    let found = evals(&run);
    assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 2, 4, 6]);
    let all = events(&run);
    assert!(
        all.iter()
            .any(|event| matches!(&event.body, Body::Phase(phase) if phase.name == "early-stop"))
    );
    let Some(Body::End(end)) = all.last().map(|event| event.body.clone()) else {
        panic!("no end");
    };
    assert_eq!(end.status, EndStatus::Finished);
    assert!(end.what.contains("no lower validation loss in 3 evaluations"), "{}", end.what);
    assert!(run.model().join("model.safetensors").is_file(), "the result is exported");
    assert_eq!(common::newest_checkpoint(&run), run.checkpoint(6));

    // One that learns goes to its end.
    let run = tune(
        &place,
        "learns",
        "--method lora --iters 12 --learning-rate 0.003 --eval-every 3 --early-stop 2 --keep-checkpoints 1",
    );
    let found = evals(&run);
    assert_eq!(found.last().unwrap().0, 12, "{found:?}");
    assert!(found.windows(2).all(|pair| pair[1].1 < pair[0].1), "{found:?}");
    // Every best evaluation was followed by a checkpoint.
    let saved: Vec<u64> = events(&run)
        .iter()
        .filter_map(|event| matches!(event.body, Body::Ckpt(_)).then_some(event.step))
        .collect();
    assert_eq!(saved, [3, 6, 9, 12]);
}

#[test]
fn the_best_checkpoint_is_kept_and_taken_when_asked_for() {
    let place = place();
    // A text so short that it is learnt by heart: what was held out gets worse from the middle on.
    let text = fs::read(place.path("text.txt")).unwrap();
    fs::write(place.path("short.txt"), &text[..2_000]).unwrap();
    let more = "--data short.txt --valid-fraction 0.3 --method full --iters 160 --learning-rate 0.01 \
                --lr-schedule constant --eval-every 8 --checkpoint-every 160 --keep-checkpoints 1";
    let run = tune(&place, "ruined", more);
    let found = evals(&run);
    let best = found.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(best.0 > 0 && best.0 < 160, "{found:?}");
    let steps: Vec<u64> = run.list_checkpoints().unwrap().iter().map(|found| found.step).collect();
    assert_eq!(steps, [best.0, 160], "the best and the newest: {found:?}");
    let of_best = loss(&place, "ruined --best");
    assert_eq!(of_best, loss(&place, &format!("ruined --step {}", best.0)));
    assert_ne!(of_best, loss(&place, "ruined"));
    let merged = export(&place, "ruined --best");
    assert!(merged.ends_with(format!("hf-step-{:08}", best.0)), "{}", merged.display());
    assert_close(loss(&place, &merged.display().to_string()), of_best, "the export of the best");
    place.ok("generate ruined --best --prompt Emma --max-tokens 2");
    // Where the best was not saved, that is said.
    let state = common::newest_checkpoint(&run).join("state.json");
    let mut changed = read_json(&state);
    changed["progress"]["best"]["step"] = 5.into();
    write_json(&state, &changed);
    let said = stderr(&place.run("eval ruined --best"));
    assert!(said.contains("was that of step 5, which was not saved"), "{said}");
    assert!(said.contains(&format!("steps {}, 160", best.0)), "{said}");
}
