#![allow(clippy::unwrap_used)] // tests may

use super::*;
use crate::runlog::{Eval, Resume, Run, Step, Subspace, Switch, SwitchLayer};

struct Told {
    run: RunModel,
    seq: u64,
}

impl Told {
    fn new() -> Self {
        let mut told = Self { run: RunModel::new(None), seq: 0 };
        told.emit(0, Run { steps: 100, ..Run::default() });
        told
    }

    fn emit(&mut self, step: u64, body: impl Into<Body>) {
        self.seq += 1;
        let ts = 1000 + 100 * self.seq as i64;
        self.run.apply(&Event { seq: self.seq, ts, step, body: body.into() });
    }

    fn update(&mut self, step: u64, loss: f64) {
        let (tokens, active_s) = (10 * step, step as f64);
        self.emit(step, Step { loss, lr: 0.1, grad_norm: 1.0, tokens, active_s, tok_s: 10.0 });
    }

    fn eval(&mut self, step: u64, loss: f64) {
        self.emit(step, Eval { loss, ppl: loss.exp(), tokens: 9 });
    }
}

#[test]
fn updates_that_are_made_again_stay_as_an_old_branch() {
    let mut told = Told::new();
    told.eval(0, 5.0);
    for step in 1..=6 {
        told.update(step, step as f64);
    }
    told.emit(5, Subspace::default());
    told.eval(6, 4.0);
    told.emit(4, Run { steps: 100, ..Run::default() });
    told.emit(4, Resume { from_step: Some(4), ..Resume::default() });
    assert_eq!((told.run.now().step, told.run.now().tokens), (4, 40));
    for step in 5..=8 {
        told.update(step, 10.0 * step as f64);
    }
    let losses = |table: &Table| table.column("loss").unwrap().values().to_vec();
    assert_eq!(losses(&told.run.steps), [1.0, 2.0, 3.0, 4.0, 50.0, 60.0, 70.0, 80.0]);
    assert_eq!(losses(&told.run.undone[0].steps), [4.0, 5.0, 6.0]);
    assert_eq!(losses(&told.run.evals), [5.0]);
    assert_eq!(told.run.undone(Metric::ValLoss).map(losses).collect::<Vec<_>>(), [[5.0, 4.0]]);
    assert!(told.run.markers.iter().all(|marker| marker.kind != MarkerKind::Subspace));
    assert!(told.run.subspaces.is_empty());
}

#[test]
fn what_is_told_late_stands_where_it_happened() {
    let mut told = Told::new();
    (1..=5).for_each(|step| told.update(step, 1.0));
    let row = SwitchLayer { layer: 0, k: 2, wanted: 2, ..SwitchLayer::default() };
    told.emit(3, Switch { l: vec![row] });
    told.emit(3, Subspace::default());
    assert_eq!(told.run.now().step, 5);
    let at = told.run.subspaces[0].at;
    assert_eq!((at.step, at.tokens, at.active_s), (3, 30, 3.0));
    told.eval(5, 2.0);
    assert_eq!(told.run.evals.clock.at(0, Axis::Tokens), 50.0);
}

#[test]
fn an_evaluation_that_is_made_again_counts_once() {
    let mut told = Told::new();
    told.eval(0, 5.0);
    told.update(1, 1.0);
    told.eval(1, 4.0);
    told.eval(1, 3.0);
    assert_eq!(told.run.evals.column("loss").unwrap().values(), [5.0, 3.0]);
    assert_eq!(told.run.tokens_to(4.0), Some(5.0));
    assert_eq!(told.run.tokens_to(6.0), Some(0.0));
    assert_eq!(told.run.tokens_to(2.9), None);
}

#[test]
fn a_live_run_that_says_nothing_for_long_seems_to_hang() {
    let mut told = Told::new();
    for step in 1..=20 {
        told.update(step, 2.0);
    }
    told.run.status = Status::Live;
    let heard = 1000 + 100 * told.seq as i64;
    let after = |run: &RunModel, s: i64| run.stalled_s(heard + 1000 * s);
    assert_eq!(after(&told.run, 19), None, "updates take a second of training");
    assert_eq!(after(&told.run, 30), None);
    assert_eq!(after(&told.run, 31), Some(31.0));
    let mut quiet = told.run.clone();
    quiet.status = Status::Finished;
    assert_eq!(after(&quiet, 500), None);
    let mut slow = Told { run: told.run.clone(), seq: told.seq + 400 };
    slow.eval(20, 2.0);
    let heard = 1000 + 100 * slow.seq as i64;
    assert_eq!(slow.run.stalled_s(heard + 60_000), None, "it was silent for 40 s before");
    assert_eq!(slow.run.stalled_s(heard + 90_000), Some(90.0));
    slow.emit(20, crate::runlog::Pause::default());
    assert_eq!(slow.run.stalled_s(heard + 900_000), None, "a run that waits does not hang");
}
