//! Runs on disk with known content, for the tests of the commands.

use std::path::Path;

use crate::runlog::{
    Body, Ckpt, End, EndStatus, Eval, Mem, Phase, Run, RunDir, RunWriter, Sample, Step, Switch,
    SwitchLayer,
};

/// When the first event of these runs was written.
pub const START: i64 = 1_795_284_011_000;
/// When the last event of a finished run was written.
pub const END: i64 = START + 62_000;

/// The events of a run of 30 updates, one every two seconds, each with its time and step.
pub fn events(method: &str, steps: u64) -> Vec<(i64, u64, Body)> {
    let run = Run {
        name: "demo".into(),
        method: method.into(),
        model: "demo".into(),
        data: "five novels by Jane Austen".into(),
        device: "CPU, 2 threads".into(),
        version: "0.1.0".into(),
        pid: 4242,
        seed: 42,
        steps,
        max_s: None,
        tokens_per_step: 2048,
        train_tokens: 1_002_003,
        val_tokens: 120_034,
        params: 3_212_288,
        trained_params: 1_064_960,
        rank: Some(64),
        unigram_ppl: Some(431.2),
        layers: vec!["model.layers.0.self_attn.q_proj".into()],
    };
    let eval = |loss: f64| Body::from(Eval { loss, ppl: loss.exp(), tokens: 120_000 });
    let mut events = vec![
        (START, 0, run.into()),
        (START + 500, 0, Phase { name: "train".into(), detail: String::new() }.into()),
        (START + 900, 0, eval(8.3)),
    ];
    for step in 1..=30_u64 {
        let ts = START + 1000 + 2000 * step as i64;
        let update = Step {
            loss: 5.0 - 0.005 * step as f64,
            lr: 0.001 / step as f64,
            grad_norm: 1.25,
            tokens: 2048 * step,
            active_s: 2.0 * step as f64,
            tok_s: 1024.0,
        };
        events.push((ts, step, update.into()));
        if step % 10 == 0 {
            let switch = SwitchLayer { k: 2, wanted: 2, dw_norm: 0.1, ..SwitchLayer::default() };
            events.push((ts + 1, step, Switch { l: vec![switch] }.into()));
            events.push((ts + 2, step, eval(5.9 - 0.05 * step as f64)));
        }
        if step == 20 {
            let path = format!("checkpoints/step-{step:08}");
            let ckpt = Ckpt { path, bytes: 41_000_000, ms: 123.0, is_best: true };
            events.push((ts + 3, step, ckpt.into()));
            let mem = Mem { peak_bytes: 536_870_912, ..Mem::default() };
            events.push((ts + 4, step, mem.into()));
        }
    }
    events
}

/// A run that went to its end.
pub fn finished(out: &Path, name: &str) -> RunDir {
    let mut events = events("switchlora", 30);
    let sample = Sample {
        prompt: "It is a truth".into(),
        text: " universally acknowledged,\nthat a single man".into(),
    };
    events.push((END - 1000, 30, sample.into()));
    events.push((END, 30, End { status: EndStatus::Finished, what: String::new() }.into()));
    let run = write(out, name, events);
    let checkpoint = run.checkpoint(20);
    std::fs::create_dir_all(&checkpoint).unwrap();
    std::fs::write(checkpoint.join("state.json"), vec![b' '; 2048]).unwrap();
    run
}

/// A run whose log stops after ten updates of a thousand.
pub fn crashed(out: &Path, name: &str) -> RunDir {
    let mut events = events("lora", 1000);
    events.retain(|(_, step, _)| *step <= 10);
    write(out, name, events)
}

fn write(out: &Path, name: &str, events: Vec<(i64, u64, Body)>) -> RunDir {
    let run = RunDir::at(out.join(name));
    std::fs::create_dir_all(run.path()).unwrap();
    let config = "[model]\nname = \"demo\"\n\n[train]\niters = 30\nmethod = \"switchlora\"\n\n\
                  [switchlora]\ninterval0 = 10\n";
    std::fs::write(run.config(), config).unwrap();
    std::fs::write(run.facts(), r#"{"data":"blake3:ab12","host":{"cpus":2}}"#).unwrap();
    let mut writer = RunWriter::open(run.events()).unwrap();
    for (ts, step, body) in events {
        writer.emit_at(ts, step, body).unwrap();
    }
    run
}
