//! One method's training steps with every time of them, for scripts that set them beside other programs
//! (`benches/beside_torch.sh`), and the operations of a step one by one. `fullrank bench` compares with stock burn.
//!
//! ```text
//! cargo bench --bench step -- --method full --rounds 20   # JSON
//! cargo bench --bench step -- --operations                # where a step's time goes, operation by operation
//! ```
//!
//! On a busy machine the processor time of a step with `--threads 1` is what can still be compared. For a profile
//! by function: `perf record -g` on the binary that `cargo bench --bench step --no-run` names, with `--method full`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its result")]

mod operations;

use clap::Parser;
use fullrank::bench::Shape;
use fullrank::bench::steps::{Contestant, Lane, race, resident_peak};
use fullrank::error::{Error, Result};
use serde_json::json;

#[derive(Debug, Parser)]
struct Options {
    /// The method.
    #[arg(long, default_value = "full")]
    method: String,
    /// Timed steps.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Worker threads; 0: all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Where it computes.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Time the operations of a step one by one instead, on the CPU.
    #[arg(long)]
    operations: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
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
    let threads = rayon::ThreadPoolBuilder::new().num_threads(options.threads);
    if let Err(error) = threads.build_global() {
        return Err(Error::config(format!("--threads {}: {error}", options.threads), "try fewer"));
    }
    let shape = Shape::default();
    if options.operations {
        operations::run(&shape.model(), shape.batch, shape.seq, shape.rank, options.rounds);
        return Ok(());
    }
    let ours = Contestant::Ours(options.method.clone());
    let mut lanes = [Lane::start(ours, &shape, &options.device)?];
    race(&mut lanes, Some(options.rounds), &mut |_| ())?;
    let [lane] = lanes;
    let record = json!({
        "tokens": shape.tokens(),
        "steps": [{
            "method": options.method,
            "step_s": lane.seconds,
            "cpu_s": lane.cpu_seconds,
            "last_loss": lane.last_loss,
            "rss_bytes": resident_peak(),
        }],
    });
    println!("{record}");
    Ok(())
}
