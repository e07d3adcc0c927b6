//! Whole training steps: each method beside stock burn, in one process, turn by turn.
//!
//! ```text
//! cargo bench --bench step                              # full, lora, switchlora and stock burn
//! cargo bench --bench step -- --contestants full --rounds 20 --json
//! cargo bench --bench step -- --operations              # where a step's time goes, operation by operation
//! ```
//!
//! Other jobs on the machine slow a step down and never speed it up: compare the best steps, and the
//! medians only of a quiet machine. On a busy one the processor time of a step with `--threads 1` is what
//! can still be compared. For a profile by function: `perf record -g` on the binary that
//! `cargo bench --bench step --no-run` names, with `--contestants full`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its table")]

mod operations;
#[allow(dead_code, reason = "gradients by name are for the tests")]
mod stock;

use std::time::Instant;

use burn::tensor::Device as BurnDevice;
use clap::{Parser, ValueEnum};
use fullrank::config::RunConfig;
use fullrank::device::Device;
use fullrank::error::{Error, Result};
use fullrank::model::config::{Rope, RopeKind};
use fullrank::model::{Batch, Model, ModelConfig};
use fullrank::optim::Schedule;
use fullrank::random::stream;
use fullrank::run::engine::{Engine, Settings};
use fullrank::run::setup;
use serde_json::json;
use stock::{StockBatch, StockLlama, StockTrainer};

const SEED: u64 = 0;
const LEARNING_RATE: f64 = 1e-3;

#[derive(Debug, Parser)]
struct Options {
    /// Who runs, in this order within a round.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "full,stock-full,lora,stock-lora,switchlora"
    )]
    contestants: Vec<Contestant>,
    /// Timed steps of each contestant.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Steps of each contestant that do not count.
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// Worker threads; 0: all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[arg(long, default_value_t = 256)]
    dim: usize,
    #[arg(long, default_value_t = 6)]
    layers: usize,
    #[arg(long, default_value_t = 4)]
    heads: usize,
    #[arg(long, default_value_t = 688)]
    ffn: usize,
    #[arg(long, default_value_t = 4096)]
    vocab: usize,
    #[arg(long, default_value_t = 256)]
    seq: usize,
    #[arg(long, default_value_t = 8)]
    batch: usize,
    #[arg(long, default_value_t = 64)]
    rank: usize,
    /// Time the operations of a step one by one instead.
    #[arg(long)]
    operations: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn shape(&self) -> ModelConfig {
        ModelConfig {
            hidden_size: self.dim,
            intermediate_size: self.ffn,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.heads,
            head_dim: self.dim / self.heads,
            rms_norm_eps: 1e-6,
            vocab_size: self.vocab,
            max_position_embeddings: self.seq,
            tie_word_embeddings: false,
            rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
            initializer_range: 0.02,
        }
    }

    /// Random ids, the same at every step; each predicts the next.
    fn tokens(&self) -> (Vec<i32>, Vec<i32>) {
        let mut draws = stream(SEED, "tokens", "bench", 0);
        let ids: Vec<i32> = (0..self.batch * (self.seq + 1))
            .map(|_| draws.below(self.vocab as u64) as i32)
            .collect();
        let rows = || ids.chunks(self.seq + 1);
        let inputs = rows().flat_map(|row| &row[..self.seq]).copied().collect();
        (inputs, rows().flat_map(|row| &row[1..]).copied().collect())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Contestant {
    /// Full rank.
    Full,
    /// LoRA on all linear layers, the rest trained as well.
    Lora,
    /// SwitchLoRA, the rest trained as well.
    Switchlora,
    /// The same network in burn's operations, autodiff and AdamW.
    StockFull,
    /// The same with burn's own LoRA.
    StockLora,
}

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lora => "lora",
            Self::Switchlora => "switchlora",
            Self::StockFull => "stock full",
            Self::StockLora => "stock apply_lora",
        }
    }

    /// What its speed is set beside.
    fn stock(self) -> Option<Self> {
        match self {
            Self::Full => Some(Self::StockFull),
            Self::Lora => Some(Self::StockLora),
            Self::Switchlora | Self::StockFull | Self::StockLora => None,
        }
    }

    fn start(self, options: &Options) -> Result<Runner> {
        Ok(match self {
            Self::Full | Self::Lora | Self::Switchlora => {
                let engine = engine(self.name(), options)?;
                let (inputs, targets) = options.tokens();
                let batch = vec![Batch::new(&inputs, &targets, options.seq, engine.model.device())];
                Runner::Ours { engine: Box::new(engine), batch }
            }
            Self::StockFull | Self::StockLora => {
                let method = if self == Self::StockFull { "full" } else { "lora" };
                let device = BurnDevice::flex().autodiff();
                let model = StockLlama::from_model(&engine(method, options)?.model, &device);
                let (inputs, targets) = options.tokens();
                let batch = StockBatch::new(&inputs, &targets, options.seq, &device);
                Runner::Stock {
                    trainer: Box::new(StockTrainer::new(model)),
                    batch: Box::new(batch),
                }
            }
        })
    }
}

enum Runner {
    Ours { engine: Box<Engine>, batch: Vec<Batch> },
    Stock { trainer: Box<StockTrainer>, batch: Box<StockBatch> },
}

impl Runner {
    /// One update; the loss before it.
    fn step(&mut self) -> Result<f64> {
        Ok(match self {
            Self::Ours { engine, batch } => {
                engine.events.clear();
                engine.step(batch)?.loss
            }
            Self::Stock { trainer, batch } => trainer.step(batch, LEARNING_RATE),
        })
    }

    /// The ledger's high-water mark since the start; stock burn has none.
    fn ledger_peak(&self) -> Option<u64> {
        match self {
            Self::Ours { engine, .. } => Some(engine.model.device().ledger().read().peak),
            Self::Stock { .. } => None,
        }
    }
}

/// An engine that does per update exactly what the stock trainer does: no clipping, a constant rate.
fn engine(method: &str, options: &Options) -> Result<Engine> {
    let mut config = RunConfig::default();
    config.train.method = method.into();
    config.train.rank = Some(options.rank);
    config.train.alpha = Some(if method == "switchlora" { 1.0 } else { options.rank as f64 });
    config.train.seed = SEED;
    config.train.iters = Some(1_000);
    let model = Model::init(options.shape(), SEED, &Device::cpu());
    let mut engine = setup::engine(&config, model)?;
    engine.settings = Settings {
        learning_rate: LEARNING_RATE,
        schedule: Schedule::Constant,
        warmup: 0,
        min_ratio: 0.0,
        max_grad_norm: 0.0,
        recompute: false,
    };
    engine.with_method(|method, cx| method.prepare(cx))?;
    Ok(engine)
}

/// Times of one contestant.
struct Lane {
    contestant: Contestant,
    runner: Runner,
    seconds: Vec<f64>,
    /// Processor time of the same steps, all threads together.
    cpu_seconds: Vec<f64>,
    last_loss: f64,
}

impl Lane {
    fn best(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn median(&self) -> f64 {
        median(&self.seconds)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

fn main() -> std::process::ExitCode {
    match run(&Options::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}\n  {}", error.remedy());
            error.exit_code().into()
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.rounds == 0 {
        return Err(Error::config("--rounds 0 times nothing", "give at least 1"));
    }
    let threads = rayon::ThreadPoolBuilder::new().num_threads(options.threads);
    if let Err(error) = threads.build_global() {
        return Err(Error::config(format!("--threads {}: {error}", options.threads), "try fewer"));
    }
    if options.operations {
        operations::run(&options.shape(), options.batch, options.seq, options.rank, options.rounds);
        return Ok(());
    }
    let load_before = load();
    let start = |&contestant: &Contestant| {
        let runner = contestant.start(options)?;
        Ok(Lane {
            contestant,
            runner,
            seconds: Vec::new(),
            cpu_seconds: Vec::new(),
            last_loss: f64::NAN,
        })
    };
    let mut lanes = options.contestants.iter().map(start).collect::<Result<Vec<_>>>()?;
    for round in 0..options.warmup + options.rounds {
        for lane in &mut lanes {
            let (begin, cpu_begin) = (Instant::now(), cpu_time());
            lane.last_loss = lane.runner.step()?;
            if round >= options.warmup {
                lane.seconds.push(begin.elapsed().as_secs_f64());
                lane.cpu_seconds.push(cpu_time() - cpu_begin);
            }
        }
    }
    if options.json {
        println!("{}", report(options, &lanes, load_before));
    } else {
        print_table(options, &lanes, load_before);
    }
    Ok(())
}

fn print_table(options: &Options, lanes: &[Lane], load_before: f64) {
    let tokens = (options.batch * options.seq) as f64;
    println!(
        "dim {} layers {} heads {} ffn {} vocab {} seq {} batch {} rank {}, {} threads, {} rounds, load {load_before} to {}",
        options.dim,
        options.layers,
        options.heads,
        options.ffn,
        options.vocab,
        options.seq,
        options.batch,
        options.rank,
        rayon::current_num_threads(),
        options.rounds,
        load()
    );
    println!(
        "{:<18}{:>12}{:>12}{:>10}{:>10}{:>14}{:>9}{:>12}{:>10}",
        "",
        "best tok/s",
        "median",
        "best s",
        "median s",
        "median cpu s",
        "x stock",
        "ledger MiB",
        "loss"
    );
    for lane in lanes {
        let ratio = stock_of(lane, lanes)
            .map_or("-".into(), |stock| format!("{:.2}", stock.best() / lane.best()));
        let ledger =
            lane.runner.ledger_peak().map_or("-".into(), |bytes| format!("{:.1}", mib(bytes)));
        println!(
            "{:<18}{:>12.0}{:>12.0}{:>10.4}{:>10.4}{:>14.2}{:>9}{:>12}{:>10.5}",
            lane.contestant.name(),
            tokens / lane.best(),
            tokens / lane.median(),
            lane.best(),
            lane.median(),
            median(&lane.cpu_seconds),
            ratio,
            ledger,
            lane.last_loss
        );
    }
    if let (true, Some(bytes)) = (lanes.len() == 1, resident_peak()) {
        println!("largest resident size of the process: {:.1} MiB", mib(bytes));
    }
}

fn report(options: &Options, lanes: &[Lane], load_before: f64) -> serde_json::Value {
    let tokens = (options.batch * options.seq) as f64;
    let steps: Vec<_> = lanes
        .iter()
        .map(|lane| {
            let stock = stock_of(lane, lanes);
            json!({
                "method": lane.contestant.name(),
                "tokens_per_s": tokens / lane.median(),
                "best_tokens_per_s": tokens / lane.best(),
                "step_s": lane.seconds,
                "cpu_s": lane.cpu_seconds,
                "last_loss": lane.last_loss,
                "stock": stock.map(|stock| stock.contestant.name()),
                "stock_tokens_per_s": stock.map(|stock| tokens / stock.median()),
                "ratio": stock.map(|stock| stock.median() / lane.median()),
                "best_ratio": stock.map(|stock| stock.best() / lane.best()),
                "ledger_peak_bytes": lane.runner.ledger_peak(),
                // Of the whole process, so it says something about a contestant alone only.
                "rss_bytes": if lanes.len() == 1 { resident_peak() } else { None },
            })
        })
        .collect();
    json!({
        "device": "cpu",
        "threads": rayon::current_num_threads(),
        "shape": {
            "dim": options.dim, "layers": options.layers, "heads": options.heads, "ffn": options.ffn,
            "vocab": options.vocab, "seq": options.seq, "batch": options.batch, "rank": options.rank,
        },
        "load_before": load_before,
        "load_after": load(),
        "steps": steps,
    })
}

fn stock_of<'a>(lane: &Lane, lanes: &'a [Lane]) -> Option<&'a Lane> {
    let stock = lane.contestant.stock()?;
    lanes.iter().find(|other| other.contestant == stock)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Jobs waiting for a core, mean of the last minute; NaN where the system does not tell.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
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
fn resident_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}
