//! What the updates of a run cost, as far as its files tell: operations for the axis of them, and the memory that the
//! same run would take at full rank.

use std::path::Path;

use crate::config::RunConfig;
use crate::formats::hf_config::HfConfig;
use crate::report::History;
use crate::report::flop::{self, Shape};
use crate::run::estimate::peak_bytes;
use crate::runlog::{Body, Event, Run, Step};
use crate::series::Clock;
use crate::series::clock::WarmStart;

/// Shape and settings of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    shape: Shape,
    config: toml::Table,
}

impl Cost {
    /// Reads it from the run's facts and configuration; `None` where they do not tell the network's shape.
    pub fn read(facts: &serde_json::Value, config: &toml::Table) -> Option<Self> {
        Some(Self { shape: Shape::read(facts, config)?, config: config.clone() })
    }

    /// Tells a clock what tokens cost in a run. A method whose cost is not known leaves the axis out.
    pub(super) fn put_in(&self, run: &Run, clock: &mut Clock) {
        let per_token = |step: u64| {
            let update =
                Step { loss: 0.0, lr: 0.0, grad_norm: 0.0, tokens: 0, active_s: 0.0, tok_s: 0.0 };
            let told = [Body::from(run.clone()), update.into()];
            let events = told.into_iter().map(|body| Event { seq: 0, ts: 0, step, body });
            let mut history = History::of(events.collect());
            history.config.clone_from(&self.config);
            let updates = flop::of_updates(&history, &self.shape)?;
            Some(updates.first()? / run.tokens_per_step.max(1) as f64)
        };
        let (Some(first), Some(usual)) = (per_token(1), per_token(u64::MAX)) else { return };
        let warm_start = self.config.get(&run.method).and_then(|table| table.get("warm_start"));
        let updates = warm_start.and_then(toml::Value::as_integer).unwrap_or(0).max(0);
        clock.flop_per_token = usual;
        clock.warm_start = WarmStart {
            tokens: updates as f64 * run.tokens_per_step as f64,
            flop_per_token: first,
        };
    }
}

/// The high-water mark that is predicted for the same batches through the same network with every weight trained by
/// AdamW, in f32; `None` where the files do not tell network and settings.
pub fn full_rank_bytes(facts: &serde_json::Value, config: &toml::Table) -> Option<u64> {
    let shape = facts.get("model")?.as_object()?;
    let shape = HfConfig::from_object(Path::new("facts.json"), shape).ok()?;
    let mut config = RunConfig::layered(config, Path::new("run.toml"), &[]).ok()?;
    config.train.method = "full".into();
    config.train.train_non_targets = None;
    config.model.base_storage = "f32".into();
    let on_gpu = facts.get("device")?.as_str()? != "cpu";
    Some(peak_bytes(&config, &shape, on_gpu).ok()?.total())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{Axis, Moment};
    use serde_json::json;

    #[test]
    fn full_rank_takes_weights_gradients_and_two_moments() {
        let mut facts = json!({"device": "cpu", "model": {
            "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
            "intermediate_size": 172, "num_hidden_layers": 2, "vocab_size": 512,
            "max_position_embeddings": 32, "tie_word_embeddings": false,
        }});
        let config = |more: &str| -> toml::Table {
            let text = "[data]\nmax_seq_length = 32\n[train]\nmethod = \"lora\"\nrank = 4\nbatch_size = 2\n";
            format!("{text}{more}").parse().unwrap()
        };
        let bytes = |facts: &_, more: &str| full_rank_bytes(facts, &config(more)).unwrap();
        let parameters: u64 = 2 * 512 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 172 + 2 * 64) + 64;
        let held = 4 * 4 * parameters;
        let all = bytes(&facts, "");
        assert!((held..2 * held).contains(&all), "{all} beside {held} without activations");
        assert_eq!(bytes(&facts, "train_non_targets = false\n"), all);
        assert_eq!(bytes(&facts, "[model]\nbase_storage = \"nf4\"\n"), all);
        assert!(bytes(&facts, "grad_checkpoint = true\n") < all);
        facts["model"]["hidden_size"] = json!(0);
        assert_eq!(full_rank_bytes(&facts, &config("")), None);
        assert_eq!(full_rank_bytes(&json!({}), &config("")), None);
    }

    #[test]
    fn a_warm_start_costs_otherwise_than_what_follows() {
        let facts = json!({"model": {
            "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
            "intermediate_size": 172, "num_hidden_layers": 2, "vocab_size": 512,
        }});
        let config = "[data]\nmax_seq_length = 32\n[relora]\nwarm_start = 10\n".parse().unwrap();
        let cost = Cost::read(&facts, &config).unwrap();
        let run = |method: &str| Run {
            method: method.into(),
            rank: Some(4),
            tokens_per_step: 100,
            ..Run::default()
        };
        let place = |method: &str, step: u64| {
            let mut clock = Clock::default();
            cost.put_in(&run(method), &mut clock);
            clock.place(Moment { step, tokens: 100 * step, ..Moment::default() }, Axis::Flop)
        };
        let (full, lora) = (place("full", 1), place("lora", 1));
        assert!(lora < full, "{lora} {full}");
        assert_eq!(place("relora", 1), full);
        assert!((place("relora", 15) / (10.0 * full + 5.0 * lora) - 1.0).abs() < 1e-12);
        assert!(place("new-method", 1).is_nan());
        assert_eq!(Cost::read(&json!({}), &config), None);
    }
}
