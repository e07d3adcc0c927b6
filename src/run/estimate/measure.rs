//! The time of an update, from a few real ones on random tokens: a network of random weights is made on the
//! device and trained for a moment. Nothing of it is kept.

use std::time::Instant;

use serde::Serialize;

use crate::config::RunConfig;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{Batch, ModelConfig};
use crate::random::stream;
use crate::run::setup;

/// Updates before those that are timed: the first ones compile programs and fill pools of memory.
const WARM_UP: usize = 2;
/// Updates that are timed.
const TIMED: usize = 5;

/// What a short measurement found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Where.
    pub device: String,
    /// Updates that were timed.
    pub updates: usize,
    /// Seconds of the median one.
    pub seconds_per_update: f64,
    /// Tokens trained on in a second, by that.
    pub tokens_per_s: f64,
    /// The memory ledger's high-water mark.
    pub peak_bytes: u64,
}

/// Runs updates of a resolved configuration's method on random tokens, without its warm start.
///
/// Errors: the method's own, a device that fails, a loss that is not finite.
pub fn measure(config: &RunConfig, shape: &ModelConfig, device: &Device) -> Result<Measured> {
    let mut config = config.clone();
    config.skip_warm_start();
    let model = setup::random_model(&config, shape, device)?;
    let mut engine = setup::engine(&config, model)?;
    engine.with_method(|method, cx| method.prepare(cx))?;
    engine.model.pack_frozen()?;
    let train = &config.train;
    let (rows, seq_len) = (train.batch_size.unwrap_or(1), config.data.max_seq_length.unwrap_or(1));
    let mut random = stream(train.seed, "estimate", "tokens", 0);
    let vocab = shape.vocab_size as u64;
    let mut ids =
        || -> Vec<i32> { (0..rows * seq_len).map(|_| random.below(vocab) as i32).collect() };
    let mut batch = || Batch::new(&ids(), &ids(), seq_len, device);
    let mut seconds = Vec::new();
    for update in 0..WARM_UP + TIMED {
        let batches: Vec<Batch> = (0..train.grad_accumulation_steps).map(|_| batch()).collect();
        let start = Instant::now();
        let outcome = engine.step(&batches)?;
        device.wait();
        if update >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
        }
        engine.events.clear();
        if !outcome.is_applied {
            return Err(Error::Diverged {
                what: format!("update {update} of the measurement had loss {}", outcome.loss),
                remedy: "lower --learning-rate".into(),
            });
        }
    }
    device.check()?;
    seconds.sort_by(f64::total_cmp);
    let median = seconds[TIMED / 2];
    let tokens = rows * seq_len * train.grad_accumulation_steps;
    Ok(Measured {
        device: device.name().to_owned(),
        updates: TIMED,
        seconds_per_update: median,
        tokens_per_s: tokens as f64 / median.max(1e-9),
        peak_bytes: device.ledger().read().peak,
    })
}
