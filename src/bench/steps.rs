//! Whole training steps: each method beside stock burn, turn by turn.
//!
//! Every contestant has a device of its own, so that ledger and pools are its own as well.

use std::time::Instant;

use crate::config::RunConfig;
use crate::config::settings::METHODS;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::kernels::ceiling::{ProgramTime, pool_bytes, profiled};
use crate::model::{Batch, Model};
use crate::optim::Schedule;
use crate::run::engine::{Engine, Settings};
use crate::run::estimate::peak_bytes;
use crate::run::plan::{ModelSource, resolve};
use crate::run::setup;

use super::stock::{StockBatch, StockLlama, StockTrainer};
use super::{Options, SEED, Shape};

const LEARNING_RATE: f64 = 1e-3;
/// Turns without `--rounds`, if there is time.
const ROUNDS: usize = 7;
/// Seconds for the timed turns without `--rounds`; at least one turn is made.
const SECONDS: f64 = 100.0;
/// A first turn that takes longer is the only one that does not count.
const SLOW_S: f64 = 8.0;

/// Who is timed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contestant {
    /// A method of ours.
    Ours(String),
    /// The same network in burn's operations, autodiff and AdamW.
    StockFull,
    /// The same with burn's own LoRA.
    StockLora,
}

impl Contestant {
    /// Its name in tables and JSON; those of stock burn say which.
    pub fn name(&self) -> &str {
        match self {
            Self::Ours(method) => method,
            Self::StockFull => "full",
            Self::StockLora => "apply_lora",
        }
    }

    /// What stands beside a method.
    fn stock(&self) -> Option<Self> {
        match self {
            Self::Ours(method) if method == "full" => Some(Self::StockFull),
            Self::Ours(method) if method == "lora" => Some(Self::StockLora),
            _ => None,
        }
    }
}

enum Runner {
    Ours { engine: Box<Engine>, batch: Vec<Batch> },
    Stock { trainer: Box<StockTrainer>, batch: Box<StockBatch> },
}

/// A contestant at work, and its times.
pub struct Lane {
    /// Who it is.
    pub contestant: Contestant,
    /// Seconds of each timed step.
    pub seconds: Vec<f64>,
    /// Processor time of the same steps, all threads together.
    pub cpu_seconds: Vec<f64>,
    /// The loss before the last step.
    pub last_loss: f64,
    /// The high-water mark that was predicted for the ledger; stock burn has none.
    pub predicted_bytes: Option<u64>,
    device: Device,
    runner: Runner,
}

impl Lane {
    /// Builds the network on a device of its own.
    pub fn start(contestant: Contestant, shape: &Shape, device: &str) -> Result<Self> {
        let device = Device::open(device, None)?;
        let (inputs, targets) = shape.batch();
        let (runner, predicted_bytes) = match &contestant {
            Contestant::Ours(method) => {
                let (engine, predicted) = engine(method, shape, &device)?;
                let batch = engine.model.batches(&inputs, &targets, shape.seq);
                (Runner::Ours { engine: Box::new(engine), batch }, Some(predicted))
            }
            Contestant::StockFull | Contestant::StockLora => {
                let is_full = contestant == Contestant::StockFull;
                let (engine, _) =
                    engine(if is_full { "full" } else { "lora" }, shape, &Device::cpu())?;
                let model = StockLlama::from_model(&engine.model, &device);
                let batch = StockBatch::new(&inputs, &targets, shape.seq, &device);
                let trainer = Box::new(StockTrainer::new(model));
                (Runner::Stock { trainer, batch: Box::new(batch) }, None)
            }
        };
        Ok(Self {
            contestant,
            seconds: Vec::new(),
            cpu_seconds: Vec::new(),
            last_loss: f64::NAN,
            predicted_bytes,
            device,
            runner,
        })
    }

    /// One update, from an idle device to an idle device; timed if it counts.
    pub fn step(&mut self, counts: bool) -> Result<()> {
        let (begin, cpu_begin) = (Instant::now(), cpu_time());
        self.last_loss = match &mut self.runner {
            Runner::Ours { engine, batch } => {
                engine.events.clear();
                engine.step(batch)?.loss
            }
            Runner::Stock { trainer, batch } => trainer.step(batch, LEARNING_RATE),
        };
        self.device.wait();
        if counts {
            self.seconds.push(begin.elapsed().as_secs_f64());
            self.cpu_seconds.push(cpu_time() - cpu_begin);
        }
        self.device.check()
    }

    /// The programs of `updates` updates; none of stock burn's and none on the CPU.
    fn profile(&mut self, updates: usize) -> Result<Vec<ProgramTime>> {
        let device = self.device.clone();
        let (result, programs) =
            profiled(&device, || (0..updates).try_for_each(|_| self.step(false)));
        result.map(|()| programs)
    }

    /// The shortest step.
    pub fn best(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The ledger's high-water mark since the start; stock burn has none.
    fn ledger_peak(&self) -> Option<u64> {
        let is_ours = matches!(self.runner, Runner::Ours { .. });
        is_ours.then(|| self.device.ledger().read().peak)
    }
}

/// An engine that does per update exactly what the stock trainer does (no clipping, a constant rate), and the memory
/// that is predicted for it.
fn engine(method: &str, shape: &Shape, device: &Device) -> Result<(Engine, u64)> {
    if !METHODS.contains(&method) {
        return Err(Error::config(
            format!("--methods names `{method}`, which is no method"),
            format!("use some of {}", METHODS.join(",")),
        ));
    }
    let mut config = RunConfig::default();
    config.train.method = method.into();
    config.train.rank = Some(shape.rank);
    if method == "lora" || method == "relora" {
        config.train.alpha = Some(shape.rank as f64);
    }
    config.train.seed = SEED;
    config.train.iters = Some(1_000);
    config.train.batch_size = Some(shape.batch);
    config.data.max_seq_length = Some(shape.seq);
    config.relora.warm_start = Some(0);
    resolve(&mut config, &ModelSource::find("demo")?, &shape.model())?;
    let predicted = peak_bytes(&config, &shape.model(), device.gpu().is_some())?.total();
    let mut engine = setup::engine(&config, Model::init(shape.model(), SEED, device))?;
    engine.settings = Settings {
        learning_rate: LEARNING_RATE,
        schedule: Schedule::Constant,
        warmup: 0,
        min_ratio: 0.0,
        max_grad_norm: 0.0,
        recompute: false,
    };
    let (inputs, targets) = shape.batch();
    engine.prepare(&mut || Ok(Batch::new(&inputs, &targets, shape.seq, device)))?;
    Ok((engine, predicted))
}

/// A method's row.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    /// The method.
    pub method: String,
    /// By the median step.
    pub tokens_per_s: f64,
    /// By the best step.
    pub best_tokens_per_s: f64,
    /// Which stock burn stands beside it.
    pub stock: Option<String>,
    /// Its speed, by the median step.
    pub stock_tokens_per_s: Option<f64>,
    /// Its speed, by the best step.
    pub best_stock_tokens_per_s: Option<f64>,
    /// The ledger's high-water mark.
    pub ledger_peak_bytes: Option<u64>,
    /// What `estimate` predicted for it.
    pub predicted_bytes: Option<u64>,
    /// What the pools took from the driver; none on the CPU.
    pub pool_bytes: Option<u64>,
    /// Largest resident size of the process, where it ran one method and nothing else.
    pub rss_bytes: Option<u64>,
    /// Timed steps.
    pub rounds: usize,
    /// Updates that were profiled.
    pub profiled: Option<usize>,
    /// Their programs.
    pub programs: Vec<ProgramTime>,
}

impl StepRow {
    /// How many times as fast as stock burn, by medians.
    pub fn ratio(&self) -> Option<f64> {
        self.stock_tokens_per_s.map(|stock| self.tokens_per_s / stock)
    }

    /// The same by best steps.
    pub fn best_ratio(&self) -> Option<f64> {
        self.best_stock_tokens_per_s.map(|stock| self.best_tokens_per_s / stock)
    }
}

/// Times the methods and what stands beside them.
pub(super) fn measure(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<Vec<StepRow>> {
    let mut contestants = Vec::new();
    for method in &options.methods {
        let ours = Contestant::Ours(method.clone());
        let stock = ours.stock().filter(|_| options.with_stock);
        contestants.push(ours);
        contestants.extend(stock);
    }
    let mut lanes = Vec::new();
    if options.profiled > 0 && Device::open(&options.device, None)?.gpu().is_none() {
        return Err(Error::config(
            "--profile times the programs of a GPU, and the CPU backend has none",
            "use another --device; `cargo bench --bench step -- --operations` times the operations of the CPU backend",
        ));
    }
    for contestant in contestants {
        lanes.push(Lane::start(contestant, &options.shape, &options.device)?);
    }
    race(&mut lanes, options.rounds, tell)?;
    let mut programs = Vec::new();
    for lane in &mut lanes {
        programs.push(lane.profile(options.profiled)?);
    }
    let is_alone = lanes.len() == 1 && !options.with_kernels;
    let tokens = options.shape.tokens() as f64;
    let row = |(lane, programs): (&Lane, Vec<ProgramTime>)| {
        let Contestant::Ours(method) = &lane.contestant else { return None };
        let stock = lane.contestant.stock();
        let stock = stock.and_then(|stock| lanes.iter().find(|other| other.contestant == stock));
        Some(StepRow {
            method: method.clone(),
            tokens_per_s: tokens / median(&lane.seconds),
            best_tokens_per_s: tokens / lane.best(),
            stock: stock.map(|stock| stock.contestant.name().to_owned()),
            stock_tokens_per_s: stock.map(|stock| tokens / median(&stock.seconds)),
            best_stock_tokens_per_s: stock.map(|stock| tokens / stock.best()),
            ledger_peak_bytes: lane.ledger_peak(),
            predicted_bytes: lane.predicted_bytes,
            pool_bytes: pool_bytes(&lane.device),
            rss_bytes: if is_alone { resident_peak() } else { None },
            rounds: lane.seconds.len(),
            profiled: Some(options.profiled).filter(|updates| *updates > 0),
            programs,
        })
    };
    Ok(lanes.iter().zip(programs).filter_map(row).collect())
}

/// Lets the lanes step in turns: first some that do not count, then `rounds` that do, or as many as there is time for.
pub fn race(lanes: &mut [Lane], rounds: Option<usize>, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let turn = |lanes: &mut [Lane], counts: bool| -> Result<f64> {
        let begin = Instant::now();
        for lane in lanes.iter_mut() {
            lane.step(counts)?;
        }
        Ok(begin.elapsed().as_secs_f64())
    };
    let first = turn(lanes, false)?;
    tell(&format!("steps: {} contestants, first turn {first:.1} s", lanes.len()));
    if first < SLOW_S {
        turn(lanes, false)?;
    }
    let begin = Instant::now();
    for round in 1..=rounds.unwrap_or(ROUNDS) {
        let took = turn(lanes, true)?;
        let last =
            |lane: &Lane| lane.seconds.last().map(|s| format!("{} {s:.2}", lane.contestant.name()));
        let parts: Vec<String> = lanes.iter().filter_map(last).collect();
        tell(&format!("steps: turn {round}, {took:.1} s: {}", parts.join(", ")));
        let is_over = begin.elapsed().as_secs_f64() + took > SECONDS;
        if rounds.is_none() && is_over {
            break;
        }
    }
    Ok(())
}

/// The middle value, or the mean of the two in the middle; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Processor time of this process in seconds, to a hundredth; NaN where the system does not tell.
fn cpu_time() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: state first, user and system time at places 12 and 13 from there.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    if ticks.len() == 2 { (ticks[0] + ticks[1]) / 100.0 } else { f64::NAN }
}

/// Largest resident size of this process so far, where the system tells.
pub fn resident_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn an_unknown_method_is_a_wrong_setting() {
        let lane = Lane::start(Contestant::Ours("lorra".into()), &Shape::default(), "cpu");
        assert_eq!(lane.err().map(|error| error.exit_code()), Some(2));
    }
}
