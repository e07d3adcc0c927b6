//! Learning-rate factors of transformers and of the authors' codes.

use fullrank::device::Device;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::optim::Schedule;
use fullrank::optim::schedule::Span;
use serde_json::Value;
use std::path::Path;

pub fn check(path: &Path, _: &Device) {
    let file = SafetensorsFile::open(path).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    for name in names {
        let settings: Value = serde_json::from_str(&file.metadata()[&name]).unwrap();
        let int = |key: &str| settings[key].as_u64().unwrap_or(0);
        let float = |key: &str| settings[key].as_f64().unwrap_or(0.0);
        let total = file.metadata()["num_training_steps"].parse().unwrap();
        let span = |warmup| Span { warmup, total, min_ratio: float("min_lr_ratio") };
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
        let (schedule, span) = match kind {
            "jagged_cosine" => (
                Schedule::CosineRestarts {
                    cycle: int("restart_every"),
                    rewarm: int("restart_warmup_steps"),
                    adjust: int("adjust_step"),
                },
                span(int("first_warmup_steps")),
            ),
            "cyclic_cosine" => (
                Schedule::CyclicCosine { cycle: int("cycle_length") },
                span(int("num_warmup_steps")),
            ),
            "hf_cosine" => (Schedule::Cosine, span(int("num_warmup_steps"))),
            "hf_linear" => (Schedule::Linear, span(int("num_warmup_steps"))),
            "cosine_floor" => (Schedule::CosineFloor, span(int("num_warmup_steps"))),
            other => panic!("schedule {other} is not known"),
        };
        for (t, theirs) in file.read_f64(&name).unwrap().into_iter().enumerate() {
            let ours = schedule.factor(t as u64, span);
            assert!((ours - theirs).abs() <= 1e-12, "{name} at {t}: {ours} against {theirs}");
        }
    }
}
