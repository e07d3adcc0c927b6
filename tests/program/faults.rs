//! Faults of a device: named, with the right exit code, the last checkpoint intact, and the run goes on after
//! them to the bits it would have had.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests may stop

use std::path::Path;

use crate::common::{self, Place, assert_same_run, newest_checkpoint};
use crate::devices;
use fullrank::config::RunConfig;
use fullrank::device::fault::Fault;
use fullrank::device::gpu::Gpu;
use fullrank::error::{Error, Result};
use fullrank::kernels::launch::{Sabotage, sabotage};
use fullrank::run::session::Session;
use fullrank::runlog::{Body, Event, EventSink, RunDir, read_log};

/// A run of 12 updates on the software adapter with a checkpoint at every third.
fn config(place: &Place) -> RunConfig {
    let mut config = RunConfig::default();
    config.data.data = place.path("text.txt").display().to_string();
    config.data.tokenizer = Some("bytes".into());
    config.data.max_seq_length = Some(16);
    config.model.hidden_size = Some(32);
    config.model.num_hidden_layers = Some(2);
    config.model.num_attention_heads = Some(2);
    config.model.intermediate_size = Some(64);
    config.train.batch_size = Some(2);
    config.train.eval_batches = 1;
    config.train.sample_tokens = 2;
    config.train.checkpoint_every = Some(3);
    config.train.device = "software".into();
    config
}

/// Calls a function after the update with a given number, once.
struct After<F: FnMut()> {
    step: u64,
    action: Option<F>,
    events: Vec<Event>,
}

impl<F: FnMut()> EventSink for After<F> {
    fn on_event(&mut self, event: &Event) {
        if matches!(event.body, Body::Step(_))
            && event.step == self.step
            && let Some(mut action) = self.action.take()
        {
            action();
        }
        self.events.push(event.clone());
    }
}

/// Trains with `harm` done after update 7.
fn train_with_harm(
    place: &Place,
    name: &str,
    iters: u64,
    harm: impl Fn(&Gpu),
) -> (RunDir, Result<()>, Vec<Event>) {
    let mut config = config(place);
    config.train.iters = Some(iters);
    let session = Session::create(config, &place.path("runs"), Some(name)).unwrap();
    let (dir, gpu) = (session.dir().clone(), session.device().gpu().unwrap().clone());
    let mut sink = After { step: 7, action: Some(|| harm(&gpu)), events: Vec::new() };
    let result = session.train(&mut sink);
    (dir, result, sink.events)
}

/// The run failed for this reason with the checkpoint of update 6 whole; resumed it ends like `straight`.
fn assert_survived(run: &RunDir, result: Result<()>, reason: &str, straight: &RunDir) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error}");
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains(reason), "{error}");
    assert!(!error.remedy().is_empty());
    assert!(newest_checkpoint(run).ends_with("step-00000006"));
    let ended = |event: &Event| matches!(&event.body, Body::End(end) if end.what.contains(reason));
    assert!(read_log(run.events()).unwrap().events.iter().any(ended), "the log says why");
    let session = Session::resume(run.clone(), None, None, None).unwrap();
    session.train(&mut Vec::new()).unwrap();
    assert_same_run(straight, run);
}

#[test]
fn a_lost_device_and_a_refused_kernel_end_the_run_and_it_can_be_resumed() {
    if devices::adapter().is_none() {
        return;
    }
    let place = Place::new();
    let (straight, result, _) = train_with_harm(&place, "straight", 12, |_| ());
    result.unwrap();

    let (run, result, _) = train_with_harm(&place, "lost", 12, Gpu::destroy);
    assert_survived(&run, result, "the device was lost", &straight);

    let broken = |_: &Gpu| sabotage("rms_norm", Sabotage::Broken);
    let (run, result, _) = train_with_harm(&place, "broken", 12, broken);
    assert_survived(&run, result, "rms_norm", &straight);
}

/// The driver's refusal is what its handler of errors is told, which no test can have on every machine.
#[test]
fn a_device_without_memory_ends_the_run_and_it_can_be_resumed() {
    if devices::adapter().is_none() {
        return;
    }
    let place = Place::new();
    let (straight, result, _) = train_with_harm(&place, "straight", 12, |_| ());
    result.unwrap();
    let refuse = |gpu: &Gpu| gpu.faults.record(Fault::OutOfMemory("no more buffers".into()));
    let (run, result, events) = train_with_harm(&place, "full", 12, refuse);
    let cause = "the device is out of memory: no more buffers";
    let is_told = |event: &Event| match &event.body {
        Body::Alert(alert) => {
            alert.what.contains(cause) && alert.remedy.contains("--grad-checkpoint")
        }
        _ => false,
    };
    assert!(events.iter().any(is_told));
    let frame = place.ok("watch full --once --size 140x30");
    assert!(frame.contains("FAILED") && frame.contains(cause), "{frame}");
    let shown = place.ok("show full");
    assert!(shown.contains(&format!("failed: {cause}")), "{shown}");
    assert_survived(&run, result, cause, &straight);
}

#[test]
fn a_nan_out_of_a_kernel_skips_the_update_and_leaves_the_weights_alone() {
    if devices::adapter().is_none() {
        return;
    }
    let place = Place::new();
    let harm = |_: &Gpu| sabotage("swiglu_backward", Sabotage::Nan(0));
    let (run, result, events) = train_with_harm(&place, "nan", 30, harm);
    result.unwrap();
    let skips: Vec<&Event> = events.iter().filter(|e| matches!(e.body, Body::Skip(_))).collect();
    assert_eq!(skips.len(), 1, "one update is skipped");
    assert_eq!(skips[0].step, 7, "after update 7");
    let losses = events.iter().filter_map(|event| match &event.body {
        Body::Step(step) => Some(step.loss),
        _ => None,
    });
    assert!(losses.clone().all(f64::is_finite));
    assert_eq!(losses.count(), 29, "the others are applied");
    assert!(newest_checkpoint(&run).exists());
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_written() {
    if devices::adapter().is_none() {
        return;
    }
    let place = Place::new();
    let refused = |line: &str, reason: &str| {
        let output = place.run(&Place::train_line("refused", line));
        let stderr = common::stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
        assert!(stderr.contains("\n  try: "), "{stderr}");
        assert!(!Path::new(&place.path("runs")).exists(), "no run is made");
    };
    refused(
        "--device software --batch-size 20000 --intermediate-size 256",
        "an activation of the MLP needs 625 MiB in one buffer",
    );
    refused("--device software --batch-size 2100", "a micro-batch has 67200 tokens");
    refused("--device software --memory-budget 0.0001", "the budget is 0 MiB");
    refused("--device gpu:99", "there is no gpu:99");
}
