//! Whole runs on a wgpu adapter: the bits repeat, a killed run goes on to the bits of one that was not, the
//! losses are those of the CPU backend, and nothing grows.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests may stop

use crate::common::{Place, assert_same_run, is_step, status};
use crate::devices;
use fullrank::config::RunConfig;
use fullrank::device::Device;
use fullrank::run::session::Session;
use fullrank::runlog::status::Status;
use fullrank::runlog::{Action, Body, Command, Event, EventSink, RunDir, read_log};

const METHODS: &[&str] = fullrank::methods::NAMES;

fn losses(run: &RunDir) -> Vec<f64> {
    let events = read_log(run.events()).unwrap().events;
    let losses = events.iter().filter_map(|event| match &event.body {
        Body::Step(step) => Some(step.loss),
        _ => None,
    });
    losses.collect()
}

#[test]
fn two_runs_on_one_adapter_give_the_same_bits() {
    if devices::adapter().is_none() {
        return;
    }
    let place = Place::new();
    for method in METHODS {
        let more = format!("--device software --method {method} --iters 12");
        let first = place.train(&format!("{method}-first"), &more);
        assert_eq!(losses(&first).len(), 12);
        assert_same_run(&first, &place.train(&format!("{method}-again"), &more));
    }
}

#[test]
fn a_killed_run_goes_on_to_the_bits_of_one_that_was_not() {
    if devices::adapter().is_none() {
        return;
    }
    let place = Place::new();
    let switching = "--switchlora-interval0 10 --switchlora-ratio 1 --switchlora-freeze 5";
    for (method, settings) in [
        ("switchlora", switching),
        ("full", "--weight-decay 0.1"),
        ("relora", "--relora-warm-start 6 --relora-cycle 6"),
        ("galore", ""),
    ] {
        let more = format!(
            "--device software --method {method} --iters 24 --checkpoint-every 4 {settings}"
        );
        let straight = place.train(&format!("{method}-straight"), &more);
        let name = format!("{method}-killed");
        let run = place.killed(&name, &more, None, is_step(10));
        let mut live = place.start_resume(&name, "");
        live.wait_for_step(15);
        live.kill();
        // On a busy machine a late kill may come after the end.
        if status(&run) != Status::Finished {
            place.ok(&format!("resume {name} --ui none"));
        }
        assert_same_run(&straight, &run);
    }
}

/// Asks a run to stop after an update.
struct StopAfter(u64, RunDir);

impl EventSink for StopAfter {
    fn on_event(&mut self, event: &Event) {
        if matches!(event.body, Body::Step(_)) && event.step == self.0 {
            Command::new(Action::Stop).send(&self.1).unwrap();
        }
    }
}

/// The demo's first 30 updates, at the tolerance of the golden training runs.
#[test]
fn the_demo_has_the_losses_of_the_cpu_backend() {
    if devices::adapter().is_none() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let train = |device: &str| {
        let mut config = RunConfig::default();
        config.train.device = device.into();
        config.train.eval_every = Some(1000);
        config.train.eval_batches = 1;
        let session = Session::create(config, place.path(), Some(device)).unwrap();
        let run = session.dir().clone();
        session.train(&mut StopAfter(30, run.clone())).unwrap();
        losses(&run)
    };
    let (cpu, gpu) = (train("cpu"), train("software"));
    assert_eq!(cpu.len(), 30);
    for (step, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        let difference = (cpu - gpu).abs() / cpu;
        assert!(difference <= 2e-5, "step {step}: {cpu} on the CPU, {gpu} on the GPU");
    }
}

/// Device memory held by tensors and by the allocator's pools after 100 updates is that after 500.
#[test]
fn nothing_grows_over_500_updates() {
    if devices::adapter().is_none() {
        return;
    }
    let place = Place::new();
    let more = "--device software --iters 500 --steps-per-report 1 --eval-every 1000 \
                --checkpoint-every 1000 --switchlora-interval0 10 --switchlora-ratio 1";
    let run = place.train("long", more);
    let events = read_log(run.events()).unwrap().events;
    let at = |wanted: u64| {
        let found = events.iter().find_map(|event| match &event.body {
            Body::Mem(mem) if event.step == wanted => Some(mem.clone()),
            _ => None,
        });
        found.unwrap()
    };
    let resident = |wanted: u64| {
        let found = events.iter().find_map(|event| match &event.body {
            Body::Sys(sys) if event.step == wanted => sys.rss_bytes,
            _ => None,
        });
        found.unwrap()
    };
    let (mut early, mut late) = (at(100), at(499));
    // Norms of switches that the next update reads: a few bytes, as many as there were switches.
    for mem in [&mut early, &mut late] {
        assert!(mem.bytes.remove("activations").unwrap() < 1024);
    }
    assert_eq!(early.bytes, late.bytes, "what the engine holds between updates");
    assert_eq!(early.peak_bytes, late.peak_bytes, "the high-water mark");
    // A software adapter's memory is the process's own: this holds the allocator's pools as well.
    let (early, late) = (resident(100), resident(499));
    assert!(late < early + early / 20 + (8 << 20), "resident memory grew from {early} to {late}");
}

#[test]
fn the_cpu_backend_stays_the_choice_of_auto_beside_a_software_adapter() {
    let device = Device::open("auto", None).unwrap();
    let is_software =
        device.gpu().is_some_and(|gpu| gpu.kind == fullrank::device::adapter::Kind::Software);
    assert!(!is_software, "{}", device.name());
}
