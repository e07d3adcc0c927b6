//! Row data from the file to the loss: packing changes nothing, masks and means are right, and the program trains,
//! resumes, evaluates and reports on every kind of row.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use crate::common::{Place, assert_same_run, is_step, newest_checkpoint, read_json, stderr};
use crate::devices;
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::kernels::Vector;
use fullrank::kernels::loss::IGNORED;
use fullrank::model::backward::GradientSink;
use fullrank::model::config::preset;
use fullrank::model::{Batch, Gradients, Model};
use fullrank::random::stream;
use fullrank::runlog::{Body, Eval, RunDir, Step, read_log};
use serde_json::{Value, json};

// ---- packing and masks, in the network ----

const VOCABULARY: usize = 50;

fn model(device: &Device) -> Model {
    let mut config = preset("demo").unwrap().config(VOCABULARY);
    config.hidden_size = 24;
    config.intermediate_size = 40;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.head_dim = 6;
    config.max_position_embeddings = 128;
    let result = Model::build(config, device, |name, shape| {
        let len = shape.iter().product();
        let noise = stream(5, name, "test", 0).normal_vec(len, 0.3);
        let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
        Ok::<_, std::convert::Infallible>(
            noise.into_iter().map(|v| v + centre).collect::<Vec<f32>>(),
        )
    });
    result.unwrap()
}

/// Sum of the token losses and the gradients of `scale` times it, over some batches.
fn gradients(
    model: &mut Model,
    batches: &[Batch],
    scale: f32,
    recompute: bool,
) -> (f64, BTreeMap<String, Vec<f32>>) {
    let mut gradients = Gradients::default();
    let device = model.device().clone();
    let mut loss = Vector::zeros([1], &device, Category::Activations);
    for (index, batch) in batches.iter().enumerate() {
        let mut keep = |_: &mut _, _, grad| Some(grad);
        let mut sink = GradientSink::new(&mut gradients, index + 1 == batches.len(), &mut keep);
        loss = model.forward_backward(batch, loss, scale, recompute, &mut sink);
    }
    let named = gradients
        .ids()
        .into_iter()
        .map(|id| (model.params.get(id).name.clone(), gradients.get(id).unwrap().to_host()));
    (f64::from(loss.to_host()[0]), named.collect())
}

/// Two blocks of 70 positions with documents of these lengths; a third of the targets is ignored.
const LENGTHS: [&[usize]; 2] = [&[1, 33, 2, 34], &[70]];
const SEQ_LEN: usize = 70;

#[test]
fn a_packed_block_has_the_loss_and_gradients_of_its_rows_one_by_one() {
    for device in devices::all() {
        let mut draws = stream(9, "packed", "test", 0);
        let (mut inputs, mut targets, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
        let mut alone = Vec::new();
        for lengths in LENGTHS {
            let mut first = 0;
            for &len in lengths {
                let row: Vec<i32> =
                    (0..len).map(|_| draws.below(VOCABULARY as u64) as i32).collect();
                let wanted: Vec<i32> = (0..len)
                    .map(|i| {
                        let id = draws.below(VOCABULARY as u64) as i32;
                        if i % 3 == 1 { IGNORED } else { id }
                    })
                    .collect();
                alone.push(Batch::new(&row, &wanted, len, &device));
                inputs.extend(row);
                targets.extend(wanted);
                bounds.extend((0..len).flat_map(|_| [first as i32, (first + len) as i32]));
                first += len;
            }
        }
        let packed = Batch::packed(&inputs, &targets, Some(&bounds), SEQ_LEN, &device);
        let counted: usize = alone.iter().map(|batch| batch.counted).sum();
        assert_eq!(packed.counted, counted);
        let scale = 1.0 / counted as f32;
        let mut model = model(&device);
        let (right_loss, right) = gradients(&mut model, &alone, scale, false);
        for recompute in [false, true] {
            let (loss, grads) =
                gradients(&mut model, std::slice::from_ref(&packed), scale, recompute);
            let what = format!("{}, recompute {recompute}", device.name());
            assert!((loss - right_loss).abs() < 2e-6 * right_loss, "{what}: {loss} {right_loss}");
            assert_eq!(grads.len(), right.len());
            for (name, right) in &right {
                let largest = right.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
                assert!(largest > 0.0, "{name}: nothing to compare with");
                for (got, right) in grads[name].iter().zip(right) {
                    let error = (got - right).abs() / largest;
                    assert!(error < 2e-5, "{what}: {name}: {got} {right}");
                }
            }
        }
    }
}

#[test]
fn nothing_of_a_document_reaches_another() {
    for device in devices::all() {
        let model = model(&device);
        let bounds: Vec<i32> =
            (0..40).flat_map(|i| if i < 19 { [0, 19] } else { [19, 40] }).collect();
        let mut inputs: Vec<i32> = (0..40).map(|i| i * 7 % 50).collect();
        let targets = inputs.clone();
        let losses = |inputs: &[i32]| {
            let batch = Batch::packed(inputs, &targets, Some(&bounds), 40, &device);
            model.token_losses(&batch).to_host()
        };
        let before = losses(&inputs);
        inputs[3] = 49;
        let after = losses(&inputs);
        assert_ne!(before[3..19], after[3..19]);
        assert_eq!(before[19..], after[19..], "{}", device.name());
    }
}

// ---- the program ----

/// 60 rows of one kind.
fn rows(kind: &str) -> String {
    let mut out = String::new();
    for i in 0..60 {
        let (question, answer) = (format!("What is {i}?"), format!("It is {}.", i + 1));
        let row = match kind {
            "text" => json!({"text": format!("{question} {answer}")}),
            "completion" => json!({"prompt": question, "completion": format!(" {answer}")}),
            "lists" => json!({"prompt": [{"role": "user", "content": question}],
                              "completion": [{"role": "assistant", "content": answer}]}),
            "messages" => json!({"messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer}]}),
            "sharegpt" => json!({"conversations": [
                {"from": "human", "value": question},
                {"from": "gpt", "value": answer}]}),
            _ => json!({"instruction": question, "input": "", "output": answer}),
        };
        writeln!(out, "{row}").unwrap();
    }
    out
}

/// A place with `rows.jsonl` of a kind.
fn place(kind: &str) -> Place {
    let place = Place::new();
    fs::write(place.path("rows.jsonl"), rows(kind)).unwrap();
    place
}

const ROWS: &str = "--data rows.jsonl --chat-template chatml --max-seq-length 96 --iters 4 \
                    --method lora --rank 4";

fn steps(run: &RunDir) -> Vec<Step> {
    let events = read_log(run.events()).unwrap().events.into_iter();
    events.filter_map(|e| if let Body::Step(step) = e.body { Some(step) } else { None }).collect()
}

fn evaluations(run: &RunDir) -> Vec<Eval> {
    let events = read_log(run.events()).unwrap().events.into_iter();
    events.filter_map(|e| if let Body::Eval(eval) = e.body { Some(eval) } else { None }).collect()
}

fn facts(run: &RunDir, split: &str) -> Value {
    read_json(run.facts())["data"][split]["rows"].clone()
}

#[test]
fn every_kind_of_row_is_trained_on_and_only_its_answers_count() {
    for kind in ["text", "completion", "lists", "messages", "sharegpt", "alpaca"] {
        let place = place(kind);
        let run = place.train("a", ROWS);
        let (train, valid) = (facts(&run, "train"), facts(&run, "valid"));
        assert_eq!(train["rows"].as_u64().unwrap() + valid["rows"].as_u64().unwrap(), 60, "{kind}");
        let name = if kind == "lists" { "completion" } else { kind };
        assert_eq!(train["kinds"], json!({name: 60}));
        // Three validation rows end in "It is 58.", "It is 59.", "It is 60.", and what ends them.
        let answer = "It is 58.".len() as u64;
        let expected = match kind {
            "text" => "What is 57? It is 58.".len() as u64,
            // The bytes have no token that ends a message but the end of text; a line break follows it.
            _ => answer + 2,
        };
        assert_eq!(valid["counted_tokens"], 3 * expected, "{kind}");
        let eval = &evaluations(&run)[0];
        assert_eq!(eval.tokens, 3 * expected, "{kind}");
        assert!(steps(&run).iter().all(|step| step.loss.is_finite() && step.loss > 0.0));
    }
}

#[test]
fn packing_changes_blocks_and_not_the_loss() {
    let place = place("messages");
    let rows = format!("{ROWS} --max-seq-length 256 --eval-batches 0");
    let packed = place.train("packed", &rows);
    let single = place.train("single", &format!("{rows} --packing false"));
    let blocks = |run: &RunDir| read_json(run.facts())["data"]["train"]["blocks"].as_u64().unwrap();
    assert!(blocks(&packed) * 2 < blocks(&single), "{} {}", blocks(&packed), blocks(&single));
    assert_eq!(blocks(&single), 57);
    // Before the first update, on all validation rows.
    let (a, b) = (&evaluations(&packed)[0], &evaluations(&single)[0]);
    assert_eq!(a.tokens, b.tokens);
    assert!((a.loss - b.loss).abs() < 1e-5, "{} {}", a.loss, b.loss);
}

#[test]
fn accumulated_micro_batches_weigh_by_the_targets_that_count() {
    let place = place("text");
    // Rows of very different lengths, one to a block.
    let row = |i: usize| json!({"text": "ab ".repeat(1 + i * i % 30)});
    let text: String = (0..40).map(|i| row(i).to_string() + "\n").collect();
    fs::write(place.path("rows.jsonl"), text).unwrap();
    let line = "--data rows.jsonl --packing false --max-seq-length 96 --iters 1 --method full";
    let whole = place.train("whole", &format!("{line} --batch-size 4"));
    let parts = place.train("parts", &format!("{line} --batch-size 1 --grad-accumulation-steps 4"));
    let (whole, parts) = (&steps(&whole)[0], &steps(&parts)[0]);
    assert_eq!(whole.tokens, parts.tokens);
    assert!((whole.loss - parts.loss).abs() < 1e-5, "{} {}", whole.loss, parts.loss);
    let (a, b) = (whole.grad_norm, parts.grad_norm);
    assert!((a - b).abs() < 1e-4 * a, "{a} {b}");
}

#[test]
fn a_run_on_rows_resumes_to_the_bit() {
    let place = place("messages");
    let line = format!("{ROWS} --iters 40 --checkpoint-every 5 --steps-per-report 1");
    let whole = place.train("whole", &line);
    let killed = place.killed("killed", &line, None, is_step(23));
    place.ok("resume killed --ui none");
    assert_same_run(&whole, &killed);
    assert!(newest_checkpoint(&killed).ends_with("step-00000040"));
    // Other rows are refused.
    let other = rows("messages").replace("It is 9.", "It is 10.");
    fs::write(place.path("rows.jsonl"), other).unwrap();
    let output = place.run("resume killed --extend 50 --ui none");
    assert!(stderr(&output).contains("is not the one that"), "{}", stderr(&output));
}

#[test]
fn a_folder_has_its_files_and_a_test_of_its_own() {
    let place = place("messages");
    let folder = place.path("chats");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("train.jsonl"), rows("messages")).unwrap();
    fs::write(folder.join("valid.jsonl"), rows("alpaca")).unwrap();
    let two: String = rows("completion").lines().take(2).map(|row| row.to_owned() + "\n").collect();
    fs::write(folder.join("test.jsonl"), two).unwrap();
    let run = place.train("a", &format!("{ROWS} --data chats --eval-batches 0"));
    assert_eq!(facts(&run, "train")["rows"], 60);
    assert_eq!(facts(&run, "valid")["kinds"], json!({"alpaca": 60}));
    let own: Value = serde_json::from_str(&place.ok("eval a --json")).unwrap();
    let last = evaluations(&run).pop().unwrap();
    // The run counts what the assistant says alone.
    assert!((own["completion_loss"].as_f64().unwrap() - last.loss).abs() < 1e-5, "{own} {last:?}");
    assert!(own["tokens"].as_u64().unwrap() > own["completion_tokens"].as_u64().unwrap());
    let test: Value = serde_json::from_str(&place.ok("eval a --data chats --json")).unwrap();
    assert_eq!(test["completion_tokens"], " It is 1.".len() * 2 + 2);
    let said = place.ok("eval a --data chats");
    assert!(said.contains("completions ") && said.contains("over their 20 tokens alone"), "{said}");
}

#[test]
fn bad_rows_are_counted_shown_and_stop_a_strict_run() {
    let place = place("messages");
    let mut text = rows("messages");
    text.insert_str(0, "{\"text\": 3}\nnothing\n");
    text.push_str("{\"messages\": []}");
    fs::write(place.path("rows.jsonl"), text).unwrap();
    let run = place.train("a", ROWS);
    assert_eq!(facts(&run, "train")["bad_rows"], 3);
    let log = fs::read_to_string(run.events()).unwrap();
    assert!(
        log.contains("3 of 63 rows cannot be used")
            && log.contains("rows.jsonl, line 2 is not JSON")
    );
    assert!(log.contains("line 63 has no message in \\\"messages\\\""), "{log}");
    place.assert_fails(
        &Place::train_line("b", &format!("{ROWS} --strict")),
        1,
        "error: rows.jsonl: line 1 has a number as \"text\", expected a text\n  try: mend the row, or leave \
         out --strict to pass over rows that cannot be used\n",
    );
}

#[test]
fn long_rows_are_cut_and_rows_without_an_answer_left_out_aloud() {
    let place = place("completion");
    let mut text = rows("completion");
    for _ in 0..3 {
        writeln!(text, "{}", json!({"prompt": "a".repeat(200), "completion": "b"})).unwrap();
        writeln!(text, "{}", json!({"prompt": "a", "completion": "b".repeat(300)})).unwrap();
    }
    text.insert_str(0, &format!("{}\n", json!({"prompt": "a".repeat(96), "completion": "b"})));
    fs::write(place.path("rows.jsonl"), text).unwrap();
    let page = place.ok(&format!("{} --dry-run", Place::train_line("a", ROWS)));
    assert!(page.contains("chat_template = \"chatml\""), "{page}");
    assert!(page.contains("rows.jsonl: 2 rows are left out"), "{page}");
    assert!(page.contains("the longest has 302"), "{page}");
    assert!(page.contains("targets count ("), "{page}");
    assert!(page.contains("method lora, rank 4"), "{page}");
    assert!(!place.path("runs").exists(), "a dry run makes no run");
}

#[test]
fn chats_without_a_template_say_what_to_do() {
    let place = place("alpaca");
    place.assert_fails(
        &Place::train_line("a", "--data rows.jsonl"),
        2,
        "error: the data have chats, and the model brings no chat template\n  try: give --chat-template \
         chatml for a plain one, or --chat-template FILE\n",
    );
    fs::write(place.path("t.jinja"), "{% for m in messages %}\n{{ nothing(m) }}{% endfor %}")
        .unwrap();
    let output = place.run(&Place::train_line("a", "--data rows.jsonl --chat-template t.jinja"));
    let said = stderr(&output);
    assert!(
        said.contains("none of its 60 rows can be used; line 1 does not fit the template"),
        "{said}"
    );
    assert!(said.contains("line 2"), "{said}");
    place.assert_fails(
        &Place::train_line("a", "--data none.json"),
        2,
        "error: cannot read none.json: No such file or directory (os error 2)\n  try: check the path\n",
    );
}
