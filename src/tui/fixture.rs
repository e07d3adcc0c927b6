//! Runs made from invented events, for the tests of views: the same on every machine and at every time.

use std::path::PathBuf;

use ratatui::buffer::Buffer;

use crate::runlog::body::{
    Alert, Body, Ckpt, Cmd, End, EndStatus, Eval, Level, Log, Mem, Phase, Run, Sample, Skip, Step,
    Subspace, Sys, Time,
};
use crate::runlog::summary::{RunRecord, RunState};
use crate::runlog::{
    Coverage, Event, Merge, MergeLayer, Rank, Reset, RunDir, SideCoverage, Status, Switch,
    SwitchLayer,
};

use super::app::App;
use super::model::{Preview, RunModel};
use super::theme::Theme;

/// When the first run begins: 2026-11-21 13:02:11 UTC.
pub const START_MS: i64 = 1_795_266_131_000;
/// Blocks of the invented network.
pub const BLOCKS: u32 = 4;
/// Updates of a run.
pub const STEPS: u64 = 400;
/// Tokens of an update.
pub const TOKENS: u64 = 8192;
/// Rank of all low-rank methods.
pub const RANK: u64 = 16;

const KINDS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];
/// Updates between two measurements of ranks.
const RANK_EVERY: u64 = 50;

/// Names of the target layers.
pub fn layers() -> Vec<String> {
    let of_block =
        |block: u32| KINDS.iter().map(move |kind| format!("model.layers.{block}.{kind}.weight"));
    (0..BLOCKS).flat_map(of_block).collect()
}

/// Noise between −1 and 1 that depends on its two numbers alone.
fn noise(a: u64, b: u64) -> f64 {
    let mut x = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    (x % 20_001) as f64 / 10_000.0 - 1.0
}

/// The loss that a method is to have after some updates.
fn loss(method: &str, step: u64) -> f64 {
    let end = match method {
        "full" => 3.3,
        "switchlora" => 3.35,
        "galore" => 3.45,
        "relora" => 3.6,
        _ => 4.1,
    };
    end + 5.6 * (-(step as f64) / 60.0).exp() - 0.0004 * step as f64
}

/// What a method is to cost: seconds of an update, bytes, trained parameters.
fn cost(method: &str) -> (f64, u64, u64) {
    match method {
        "full" => (0.34, 5_900 << 20, 58_100_000),
        "galore" => (0.40, 3_400 << 20, 58_100_000),
        "relora" => (0.253, 3_200 << 20, 16_400_000),
        "lora" => (0.244, 2_900 << 20, 16_400_000),
        _ => (0.249, 3_100 << 20, 16_400_000),
    }
}

struct Teller {
    events: Vec<Event>,
    step: u64,
    ts: i64,
}

impl Teller {
    fn tell(&mut self, body: impl Into<Body>) {
        let seq = self.events.len() as u64 + 1;
        self.events.push(Event { seq, ts: self.ts, step: self.step, body: body.into() });
    }
}

/// The events of a run of `steps` updates; planned are [`STEPS`]. It has an `end` if it made them all.
pub fn events(method: &str, seed: u64, steps: u64) -> Vec<Event> {
    let (step_s, peak_bytes, trained_params) = cost(method);
    let key = seed + method.bytes().map(u64::from).sum::<u64>();
    let mut told = Teller { events: Vec::new(), step: 0, ts: START_MS };
    told.tell(Run {
        name: format!("{method}-s{seed}"),
        method: method.into(),
        model: "llama-60m".into(),
        data: "c4-mini".into(),
        device: "CPU · 2 threads".into(),
        version: "0.1.0".into(),
        pid: 4242,
        seed,
        steps: STEPS,
        tokens_per_step: TOKENS,
        train_tokens: 2_000_000,
        val_tokens: 40_000,
        params: 58_100_000,
        trained_params,
        rank: (method != "full").then_some(RANK),
        unigram_ppl: Some(1100.0),
        layers: layers(),
        ..Run::default()
    });
    told.tell(Phase { name: "prepare".into(), detail: String::new() });
    let msg = format!("{} layers get factors of rank {RANK}", layers().len());
    told.tell(Log { level: Level::Info, msg });
    told.tell(Phase { name: "train".into(), detail: String::new() });
    told.tell(Eval { loss: 8.9, ppl: 8.9_f64.exp(), tokens: 40_000 });
    for step in 1..=steps {
        told.step = step;
        told.ts = START_MS + (step as f64 * step_s * 1000.0) as i64;
        let is_spike = step == 311;
        told.tell(Step {
            loss: loss(method, step) + 0.05 * noise(key, step) + f64::from(u8::from(is_spike)),
            lr: 1e-3 * (step as f64 / 40.0).min(1.0) * (1.0 - 0.8 * step as f64 / STEPS as f64),
            grad_norm: 0.8 + 0.3 * noise(key + 1, step) + 13.0 * f64::from(u8::from(is_spike)),
            tokens: step * TOKENS,
            active_s: step as f64 * step_s,
            tok_s: TOKENS as f64 / step_s * (1.0 + 0.03 * noise(key + 2, step)),
        });
        acts(&mut told, method, key);
        measurements(&mut told, method, key, peak_bytes, step_s);
        if is_spike {
            let what = "grad norm 14.1 is 17 times its usual size".to_owned();
            told.tell(Alert { level: Level::Warn, what, remedy: "lower max_grad_norm".into() });
            let reason = "the loss is not finite".to_owned();
            told.tell(Skip { reason, loss: Some(f64::NAN), grad_norm: None });
        }
    }
    if steps == STEPS {
        told.tell(End { status: EndStatus::Finished, what: String::new() });
    }
    told.events
}

/// What a method does between updates.
fn acts(told: &mut Teller, method: &str, key: u64) {
    let (step, count) = (told.step, layers().len());
    match method {
        "switchlora" => {
            let rate = 6.0 * (-(step as f64) / 120.0).exp();
            let mut switch = Switch::default();
            for layer in 0..count as u32 {
                let k = (rate + 0.9 * noise(key + u64::from(layer), step)).max(0.0) as u32;
                if k > 0 {
                    let at = |offset: u64| ((step * 3 + u64::from(layer) + offset) % RANK) as u32;
                    switch.l.push(SwitchLayer {
                        layer,
                        k,
                        wanted: k + u32::from(step.is_multiple_of(97)),
                        ptr_a: at(0),
                        slot_a: at(1) + 16,
                        ptr_b: at(5),
                        slot_b: at(7) + 16,
                        dw_norm: 0.01 * f64::from(k),
                        ..SwitchLayer::default()
                    });
                }
            }
            if !switch.l.is_empty() {
                told.tell(switch);
            }
        }
        "relora" if step > 1 && step % 100 == 1 => {
            let merged = |layer: usize| MergeLayer {
                layer: layer as u32,
                dw_norm: 0.4 + 0.1 * noise(key, layer as u64),
                error: Some(0.0),
                ..MergeLayer::default()
            };
            told.tell(Merge { count: step / 100, l: (0..count).map(merged).collect() });
            told.tell(Reset {
                count: step / 100,
                mode: "magnitude".into(),
                m_zeroed: 0.99,
                v_zeroed: 0.99,
                counters: false,
            });
        }
        "galore" if step % 50 == 1 => {
            for (place, layer) in layers().into_iter().enumerate() {
                told.tell(Subspace {
                    layer,
                    side: "right".into(),
                    rank: RANK,
                    rank_before: (step > 1).then_some(RANK),
                    energy: 0.7 + 0.1 * noise(key, step + place as u64),
                    overlap: (step > 1).then(|| 0.6 + 0.2 * noise(key + 1, step + place as u64)),
                    ms: 1.5,
                });
            }
        }
        _ => {}
    }
}

fn measurements(told: &mut Teller, method: &str, key: u64, peak_bytes: u64, step_s: f64) {
    let step = told.step;
    if step.is_multiple_of(25) {
        let loss = loss(method, step) + 0.05 + 0.01 * noise(key + 3, step);
        told.tell(Eval { loss, ppl: loss.exp(), tokens: 40_000 });
        let shares = [("weights", 0.36), ("adapters", 0.15), ("gradients", 0.04)];
        let more = [("moments", 0.08), ("activations", 0.30), ("logits", 0.07)];
        let bytes = shares.into_iter().chain(more);
        told.tell(Mem {
            bytes: bytes.map(|(n, s)| (n.into(), (s * peak_bytes as f64) as u64)).collect(),
            peak_bytes,
            predicted_bytes: Some(peak_bytes + (40 << 20)),
        });
        let parts = [("data", 0.01), ("forward", 0.29), ("backward", 0.52), ("update", 0.18)];
        let ms = parts.into_iter().map(|(n, s)| (n.into(), s * step_s * 1000.0)).collect();
        told.tell(Time { ms });
        told.tell(Sys {
            rss_bytes: Some(1_900 << 20),
            cpu_cores: Some(1.9),
            disk_free_bytes: Some(120 << 30),
            battery_percent: None,
        });
    }
    if step.is_multiple_of(RANK_EVERY) || step == 1 {
        ranks(told, method, key);
    }
    if step.is_multiple_of(100) {
        told.tell(Ckpt {
            path: format!("checkpoints/step-{step:08}"),
            bytes: 229 << 20,
            ms: 412.0,
            is_best: true,
        });
        let text = " was wide and the people who lived near the bank had built a small bridge";
        told.tell(Sample { prompt: "The river".into(), text: format!("{text} ({step}).") });
    }
    if step == 250 {
        told.tell(Cmd {
            id: "7".into(),
            cmd: "set learning_rate=0.0005".into(),
            ok: true,
            what: "from the next update on".into(),
            ..Cmd::default()
        });
    }
}

fn ranks(told: &mut Teller, method: &str, key: u64) {
    let step = told.step;
    let full = 64_u64;
    // How many directions a method's change has, and how that grows.
    let (most, cap) = match method {
        "full" => (0.62, None),
        "switchlora" => (0.53, Some(full)),
        "galore" => (0.50, None),
        "relora" => (0.38, Some(RANK * (1 + step / 100))),
        _ => (0.11, Some(RANK)),
    };
    for (place, layer) in layers().into_iter().enumerate() {
        let jitter = 0.05 * noise(key, place as u64);
        let grown = 1.0 - (-(step as f64) / 120.0).exp();
        let width = (full as f64 * (most + jitter) * grown).max(1.0);
        for matrix in ["change", "weight"] {
            let width = if matrix == "weight" { full as f64 * 0.8 } else { width };
            let places = (0..full).map(|i| (i, (-(i as f64) / width).exp() * 2.0));
            let coverage = (method == "switchlora" && matrix == "change").then(|| {
                let visited = (16 + step / 8 + place as u64).min(full);
                let side = |less: u64| SideCoverage {
                    visited: visited - less,
                    ages: vec![3, 2, 5, 6],
                    lifetimes: vec![1, 4, 9],
                };
                Coverage { candidates: full, a: side(1), b: side(0) }
            });
            told.tell(Rank {
                layer: layer.clone(),
                matrix: matrix.into(),
                reference: (matrix == "change").then(|| "start".into()),
                form: "gram".into(),
                full,
                ceiling: cap.map(|cap| cap.min(full)).filter(|_| matrix == "change"),
                effective: width,
                energy_effective: width * 0.8,
                stable: width * 0.4,
                numerical: (width * 1.6).min(full as f64) as u64,
                strict: None,
                above_tenth: width as u64,
                energy90: (width * 1.1) as u64,
                energy99: (width * 1.3).min(full as f64) as u64,
                tail: 0.2,
                norm: 3.0,
                relative: Some(0.1),
                sigma: places.collect(),
                coverage,
                head_distance: None,
                ms: 0.4,
            });
        }
    }
}

/// The folder that a run of the fixture is said to have.
pub fn folder(method: &str, seed: u64) -> PathBuf {
    PathBuf::from(format!("runs/20261121-130211-{method}-s{seed}"))
}

/// A run that made `steps` updates, told by [`events`].
pub fn run_of(method: &str, seed: u64, steps: u64) -> RunModel {
    let mut run = RunModel::new(Some(folder(method, seed)));
    for event in events(method, seed, steps) {
        run.apply(&event);
    }
    run.status = if steps == STEPS { Status::Finished } else { Status::Live };
    run.config = config(method, seed);
    run.full_rank_bytes = Some((5_900 + 40) << 20);
    for table in [&mut run.steps, &mut run.evals] {
        table.clock.flop_per_token = if method == "full" { 3.5e8 } else { 2.6e8 };
    }
    run
}

/// A finished run of a method.
pub fn run(method: &str) -> RunModel {
    run_of(method, 1, STEPS)
}

/// The settings of a run, as `run.toml` has them.
pub fn config(method: &str, seed: u64) -> std::collections::BTreeMap<String, String> {
    let rate = if method == "full" { "0.001" } else { "0.02" };
    let mut all: Vec<(&str, String)> = vec![
        ("model.model", "llama-60m".into()),
        ("data.data", "c4-mini".into()),
        ("data.max_seq_length", "256".into()),
        ("train.method", method.into()),
        ("train.seed", seed.to_string()),
        ("train.iters", STEPS.to_string()),
        ("train.batch_size", "8".into()),
        ("train.grad_accumulation_steps", "4".into()),
        ("train.learning_rate", rate.into()),
        ("train.lr_schedule", "cosine".into()),
        ("train.warmup_steps", "40".into()),
    ];
    if method != "full" {
        all.push(("train.rank", RANK.to_string()));
    }
    if method == "switchlora" {
        all.push(("switchlora.interval0", "40".into()));
        all.push(("switchlora.freeze", "5".into()));
    }
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The row of a browser for a run.
pub fn record(run: &RunModel, status: Status) -> RunRecord {
    let dir = RunDir::at(run.dir.clone().unwrap_or_default());
    RunState { run: dir, status, summary: run.summary.clone() }.record()
}

/// An app with a live `SwitchLoRA` run and finished ones of four other methods, and a folder with more.
pub fn app(theme: Theme) -> App {
    let mut runs = vec![run_of("switchlora", 1, 312)];
    runs.extend(["full", "galore", "relora", "lora"].map(run));
    let mut app = App::new(runs, theme);
    app.own = Some(0);
    app.now_ms = START_MS + 80_000;
    let mut records: Vec<RunRecord> = app.runs.iter().map(|run| record(run, run.status)).collect();
    for (method, seed, steps, status) in [
        ("switchlora", 2, 120, Status::Stopped),
        ("lora", 2, 40, Status::Diverged),
        ("lte", 1, 284, Status::Crashed),
    ] {
        let run = run_of(method, seed, steps);
        records.push(record(&run, status));
        app.list.previews.insert(folder(method, seed), Preview::of(&run));
    }
    for (age, record) in records.iter_mut().enumerate() {
        let earlier = 3_600_000 * age as i64;
        record.started = record.started.map(|ts| ts - earlier);
        record.updated = record.updated.map(|ts| ts - earlier);
    }
    app.browser = records;
    app
}

/// A drawn part of a screen as lines of text, without spaces at their ends.
pub fn text(buffer: &Buffer) -> String {
    let row = |y| {
        let row = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol());
        row.collect::<String>().trim_end().to_owned()
    };
    (0..buffer.area.height).map(row).collect::<Vec<_>>().join("\n")
}

/// Compares a picture with the one that is kept.
pub fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../tests/snapshots/tui");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixture_tells_what_each_method_does() {
        let app = app(Theme::default());
        assert_eq!(app.runs.len(), 5);
        assert!(app.runs[0].switches.total > 1000, "{}", app.runs[0].switches.total);
        assert!(app.runs[1].switches.layers.is_empty());
        assert_eq!(app.runs[1].evals.len(), 17);
        assert!(app.runs.iter().all(|run| !run.ranks.is_empty()));
        assert_eq!(app.browser.len(), 8);
        assert_eq!(events("lora", 1, 50), events("lora", 1, 50));
    }
}
