//! `--alert-policy rollback`: a run that goes wrong goes back to a sound checkpoint by itself, with the bits of a run that a
//! user resumed there with half the learning rate, and every reader of its log shows what counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests may stop

use std::path::Path;

use fullrank::config::RunConfig;
use fullrank::report::series::History;
use fullrank::run::commands::Signals;
use fullrank::run::session::Session;
use fullrank::run::trainer::{Trainer, Turn};
use fullrank::runlog::control::Command;
use fullrank::runlog::status::Status;
use fullrank::runlog::{
    Action, Body, Cmd, Event, Resume, Rollback, RunDir, Summary, effective, find_comparison,
    read_log,
};
use fullrank::series::Axis;
use fullrank::tui::source;
use serde_json::Value;

use crate::common::{self, Place, assert_same_run, status};

const ITERS: u64 = 30;
const RATE: f64 = 0.02;

/// A run of 30 updates with a checkpoint at every fifth.
fn config(place: &Place, method: &str) -> RunConfig {
    let mut config = RunConfig::default();
    config.data.data = place.path("text.txt").display().to_string();
    config.data.tokenizer = Some("bytes".into());
    config.data.max_seq_length = Some(16);
    config.model.hidden_size = Some(32);
    config.model.num_hidden_layers = Some(2);
    config.model.num_attention_heads = Some(2);
    config.model.intermediate_size = Some(64);
    config.train.method = method.into();
    config.train.batch_size = Some(4);
    config.train.iters = Some(ITERS);
    config.train.learning_rate = Some(RATE);
    config.train.eval_every = Some(4);
    config.train.eval_batches = 1;
    config.train.sample_tokens = 2;
    config.train.checkpoint_every = Some(5);
    config.train.keep_checkpoints = 100;
    config.train.device = "cpu".into();
    config.train.alert_policy = "rollback".into();
    config.switchlora.interval0 = 10.0;
    config
}

fn create(place: &Place, config: RunConfig, name: &str) -> Session {
    Session::create(config, &place.path("runs"), Some(name)).unwrap()
}

fn start(session: Session) -> Trainer<'static> {
    session.start(Box::new(Vec::<Event>::new()), Signals::listen(|_| ()).unwrap()).unwrap()
}

/// Breaks the next update as a fault of the machine does: it leaves weights that are not finite, the update after it is
/// skipped.
fn poison(trainer: &mut Trainer<'_>) {
    trainer.engine.settings.learning_rate = f64::NAN;
}

/// Takes turns until so many updates were attempted.
fn train_to(trainer: &mut Trainer<'_>, attempts: u64) {
    while trainer.progress.attempts < attempts {
        assert_eq!(trainer.turn().unwrap(), Turn::Going);
    }
}

/// Takes turns until the run has gone back.
fn until_back(trainer: &mut Trainer<'_>) {
    let mut before = trainer.progress.attempts;
    loop {
        assert_eq!(trainer.turn().unwrap(), Turn::Going);
        if trainer.progress.attempts < before {
            return;
        }
        before = trainer.progress.attempts;
    }
}

fn events(run: &RunDir) -> Vec<Event> {
    read_log(run.events()).unwrap().events
}

fn rollbacks(run: &RunDir) -> Vec<(u64, Rollback)> {
    let told = events(run).into_iter().filter_map(|event| match event.body {
        Body::Resume(Resume { from_step: Some(step), rollback: Some(rollback), .. }) => {
            Some((step, rollback))
        }
        _ => None,
    });
    told.collect()
}

fn messages(run: &RunDir) -> Vec<String> {
    let told = events(run).into_iter().filter_map(|event| match event.body {
        Body::Log(log) => Some(log.msg),
        _ => None,
    });
    told.collect()
}

fn changes(run: &RunDir) -> Vec<Cmd> {
    let told = events(run).into_iter().filter_map(|event| match event.body {
        Body::Cmd(cmd) if cmd.set.is_some() => Some(cmd),
        _ => None,
    });
    told.collect()
}

fn saved(run: &RunDir) -> Vec<u64> {
    run.list_checkpoints().unwrap().into_iter().map(|checkpoint| checkpoint.step).collect()
}

/// Trains with a fault in update 18; gone back to update 15 is where this leaves it.
fn gone_back(place: &Place, method: &str, name: &str) -> (RunDir, Trainer<'static>) {
    let session = create(place, config(place, method), name);
    let run = session.dir().clone();
    let mut trainer = start(session);
    train_to(&mut trainer, 17);
    let peak = |trainer: &Trainer<'_>| trainer.engine.model.device().ledger().read().peak;
    let before = peak(&trainer);
    poison(&mut trainer);
    until_back(&mut trainer);
    assert_eq!((trainer.engine.t, trainer.progress.attempts), (15, 15), "{method}");
    assert_eq!(peak(&trainer), before, "{method}: never two engines at once");
    (run, trainer)
}

/// What a user does by hand: the run is killed, resumed from the checkpoint of update 15, and its rate is set at once.
fn by_hand(place: &Place, method: &str, name: &str) -> RunDir {
    let session = create(place, config(place, method), name);
    let run = session.dir().clone();
    let mut trainer = start(session);
    train_to(&mut trainer, 17);
    drop(trainer);
    assert_eq!(status(&run), Status::Crashed);
    let session = Session::resume(run.clone(), None, None, None).unwrap();
    let (key, value) = ("learning_rate".to_owned(), Value::from(RATE / 2.0));
    Command::new(Action::Set { key, value }).send(&run).unwrap();
    start(session).run().unwrap();
    run
}

#[test]
fn a_run_that_went_back_has_the_bits_of_one_that_a_user_took_back() {
    let place = Place::new();
    for method in ["full", "switchlora", "galore", "relora", "lte"] {
        let (run, mut trainer) = gone_back(&place, method, &format!("{method}-itself"));
        trainer.run().unwrap();
        drop(trainer);
        assert_eq!(status(&run), Status::Finished);
        assert_same_run(&by_hand(&place, method, &format!("{method}-hand")), &run);
        // Killed right after it went back, and killed an update later.
        for later in [0, 1] {
            let name = format!("{method}-killed-{later}");
            let (killed, mut trainer) = gone_back(&place, method, &name);
            train_to(&mut trainer, 15 + later);
            drop(trainer);
            assert_eq!(status(&killed), Status::Crashed);
            let session = Session::resume(killed.clone(), None, None, None).unwrap();
            start(session).run().unwrap();
            assert_same_run(&run, &killed);
        }
    }
}

#[test]
fn what_a_run_did_when_it_went_back_is_told_and_readers_show_what_counts() {
    let place = Place::new();
    let (run, mut trainer) = gone_back(&place, "lora", "run");
    assert_eq!(saved(&run), [5, 10, 15]);
    assert_eq!(status(&run), Status::Live);
    trainer.run().unwrap();
    drop(trainer);
    assert_eq!(saved(&run), [5, 10, 15, 20, 25, 30]);

    let what = "an update was skipped: loss is not finite";
    let rollback = Rollback {
        count: 1,
        from: 18,
        checkpoint: "checkpoints/step-00000015".into(),
        what: what.into(),
    };
    assert_eq!(rollbacks(&run), [(15, rollback)]);
    let said = format!(
        "went back from update 18 to 15 (checkpoints/step-00000015), 1 of at most 3 times: {what}; the learning rate: \
         0.02 -> 0.01"
    );
    assert!(messages(&run).contains(&said), "{:#?}", messages(&run));
    let set = &changes(&run)[0];
    assert_eq!(
        (set.attempts, set.ok, set.cmd.as_str()),
        (15, true, "set train.learning_rate=0.01")
    );

    // Each update once, and none of those that are void.
    let all: Vec<u64> = (1..=ITERS).collect();
    let counted = effective(events(&run));
    let steps = counted.iter().filter(|event| matches!(event.body, Body::Step(_)));
    assert_eq!(steps.map(|event| event.step).collect::<Vec<_>>(), all);
    let summary = Summary::of(&run).unwrap();
    assert_eq!((summary.rollbacks, summary.resumes, summary.skipped), (1, 0, 0));
    assert_eq!(summary.step, ITERS);
    let history = History::read(&run).unwrap();
    assert_eq!(history.points.iter().map(|point| point.step).collect::<Vec<_>>(), all);
    assert!(history.points.iter().all(|point| point.loss.is_finite() && point.lr.is_finite()));
    let model = source::load(&run).unwrap().model;
    assert_eq!(model.steps.len() as u64, ITERS);
    assert_eq!(model.steps.clock.at(29, Axis::Step), 30.0);
    assert_eq!(model.undone.len(), 1, "the older branch is kept to be drawn dim");
    assert_eq!(model.undone[0].steps.len(), 4, "from where it left the other one");

    let name = run.name();
    let shown = place.ok(&format!("show {name}"));
    assert!(shown.contains("1 rollback"), "{shown}");
    let record: Value = serde_json::from_str(&place.ok("ls --json")).unwrap();
    assert_eq!(record[0]["rollbacks"], 1);
    let frame = place.ok(&format!("watch {name} --once --view logs --size 160x40"));
    assert!(frame.contains("went back from update 18 to 15"), "{frame}");
}

#[test]
fn a_rate_that_was_set_in_the_part_that_is_void_is_halved_and_other_changes_come_again() {
    let place = Place::new();
    let session = create(&place, config(&place, "full"), "run");
    let run = session.dir().clone();
    let mut trainer = start(session);
    train_to(&mut trainer, 12);
    let set = |key: &str, value: f64| {
        let (key, value) = (key.to_owned(), Value::from(value));
        Command::new(Action::Set { key, value }).send(&run).unwrap();
    };
    set("learning_rate", 0.032);
    set("max_grad_norm", 0.5);
    train_to(&mut trainer, 13);
    assert_eq!(trainer.config.train.learning_rate, Some(0.032));
    poison(&mut trainer);
    until_back(&mut trainer);
    assert_eq!(trainer.engine.t, 10);
    assert_eq!(trainer.config.train.learning_rate, Some(0.016), "half of the rate of the trouble");
    assert_eq!(trainer.config.train.max_grad_norm, Some(1.0), "as it was then");
    train_to(&mut trainer, 11);
    drop(trainer);
    let mut trainer = start(Session::resume(run.clone(), None, None, None).unwrap());
    train_to(&mut trainer, 14);
    assert_eq!(trainer.config.train.learning_rate, Some(0.016));
    assert_eq!(trainer.config.train.max_grad_norm, Some(0.5), "again, at its place");
}

#[test]
fn trouble_that_comes_again_takes_older_checkpoints_and_the_fourth_stops_the_run() {
    let place = Place::new();
    let session = create(&place, config(&place, "full"), "run");
    let run = session.dir().clone();
    let mut trainer = start(session);
    let mut targets = Vec::new();
    for _ in 0..3 {
        train_to(&mut trainer, 17);
        poison(&mut trainer);
        until_back(&mut trainer);
        targets.push(trainer.engine.t);
    }
    // 15 is tried, then counts as unsound; it is made anew on the way from 10.
    assert_eq!(targets, [15, 10, 15]);
    train_to(&mut trainer, 17);
    poison(&mut trainer);
    loop {
        match trainer.turn().unwrap() {
            Turn::Over => break,
            turn => assert_eq!(turn, Turn::Going),
        }
    }
    drop(trainer);
    assert_eq!(status(&run), Status::Stopped);
    let summary = Summary::of(&run).unwrap();
    assert_eq!(summary.end_text, "alert: an update was skipped: loss is not finite");
    assert_eq!(summary.rollbacks, 3);
    let last = messages(&run).pop().unwrap();
    assert!(last.starts_with("the run does not go back, it has done so 3 times already"), "{last}");
    let rates: Vec<String> = changes(&run).into_iter().map(|cmd| cmd.set.unwrap().to).collect();
    assert_eq!(rates, ["0.01", "0.005", "0.0025"]);
    assert_eq!(saved(&run), [5, 10, 15], "weights that went wrong are not kept");
    // Another process counts on.
    let mut trainer = start(Session::resume(run.clone(), None, None, None).unwrap());
    train_to(&mut trainer, 17);
    poison(&mut trainer);
    while trainer.turn().unwrap() != Turn::Over {}
    drop(trainer);
    assert_eq!(rollbacks(&run).len(), 3);
    start(Session::resume(run.clone(), None, None, None).unwrap()).run().unwrap();
    assert_eq!(status(&run), Status::Finished);
}

#[test]
fn a_run_without_a_sound_checkpoint_says_so_and_stops() {
    let place = Place::new();
    let session = create(&place, config(&place, "full"), "run");
    let run = session.dir().clone();
    let mut trainer = start(session);
    train_to(&mut trainer, 2);
    poison(&mut trainer);
    while trainer.turn().unwrap() != Turn::Over {}
    drop(trainer);
    assert_eq!((status(&run), saved(&run)), (Status::Stopped, vec![3]));
    let last = messages(&run).pop().unwrap();
    assert!(last.contains("it has no checkpoint from before the trouble"), "{last}");
    assert_eq!(rollbacks(&run), []);
}

/// Trains until update 20 has left weights that cannot be used, which a checkpoint has kept, and the run has gone back.
fn gone_back_over_a_sick_checkpoint(trainer: &mut Trainer<'_>, run: &RunDir) -> u64 {
    train_to(trainer, 19);
    poison(trainer);
    train_to(trainer, 20);
    assert!(saved(run).contains(&20), "{:?}", saved(run));
    until_back(trainer);
    assert!(saved(run).iter().all(|step| *step <= trainer.engine.t), "{:?}", saved(run));
    trainer.engine.t
}

#[test]
fn checkpoints_of_sick_weights_and_damaged_ones_are_passed_over() {
    let place = Place::new();
    let session = create(&place, config(&place, "full"), "run");
    let run = session.dir().clone();
    let mut trainer = start(session);
    train_to(&mut trainer, 17);
    std::fs::write(run.checkpoint(15).join("model.safetensors"), "damaged").unwrap();
    assert_eq!(gone_back_over_a_sick_checkpoint(&mut trainer, &run), 10);
    assert!(messages(&run).iter().any(|msg| msg.starts_with("skipped a damaged checkpoint")));
    assert_eq!(saved(&run), [5, 10]);
}

#[test]
fn the_best_checkpoint_stays() {
    let place = Place::new();
    let mut wanted = config(&place, "full");
    wanted.train.save_best = Some(true);
    wanted.train.keep_checkpoints = 1;
    let session = create(&place, wanted, "run");
    let run = session.dir().clone();
    let mut trainer = start(session);
    train_to(&mut trainer, 18);
    let best = trainer.progress.best.unwrap();
    assert!(best.step > 0, "{best:?}");
    let target = gone_back_over_a_sick_checkpoint(&mut trainer, &run);
    assert_eq!(target, best.step, "15 made room for 20");
    assert_eq!(trainer.progress.best, Some(best));
    assert!(run.checkpoint(best.step).is_dir());
    trainer.run().unwrap();
    place.ok(&format!("eval {} --best", run.name()));
}

#[test]
fn other_policies_leave_the_run_where_it_is() {
    let place = Place::new();
    let mut wanted = config(&place, "full");
    wanted.train.alert_policy = "log".into();
    let session = create(&place, wanted, "run");
    let run = session.dir().clone();
    let mut trainer = start(session);
    train_to(&mut trainer, 17);
    trainer.engine.settings.learning_rate = f64::NAN;
    train_to(&mut trainer, 19);
    assert_eq!((trainer.engine.t, rollbacks(&run).len()), (18, 0));
}

fn wait_for_step(run: &Path, step: u64) {
    let run = RunDir::at(run);
    common::wait_until("the member trains", || {
        run.events().is_file() && Summary::of(&run).unwrap().step >= step
    });
}

#[test]
fn a_member_of_a_comparison_goes_back_without_harm_to_the_others() {
    let place = Place::new();
    let more = "--iters 400 --checkpoint-every 5 --keep-checkpoints 100 --eval-every 50 --alert-policy rollback";
    let line = Place::train_line("x", more).replacen("train ", "compare ", 1);
    let line = format!("{line} --methods full,lora --ui none");
    let child = place.command(&line).spawn().unwrap();
    common::wait_until("the comparison", || {
        find_comparison(place.path("runs"), "x").is_ok_and(|found| found.is_some())
    });
    let compared = find_comparison(place.path("runs"), "x").unwrap().unwrap();
    let [full, lora] = ["full", "lora"].map(|name| compared.member(name));
    wait_for_step(lora.path(), 12);
    // Half of it is as bad: the member goes back three times and stops.
    place.ok(&format!("ctl {} set lr=1e30", lora.path().display()));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", common::stderr(&output));
    assert_eq!((status(&full), status(&lora)), (Status::Finished, Status::Stopped));
    assert_eq!((rollbacks(&full).len(), rollbacks(&lora).len()), (0, 3));
    assert_same_run(&place.train("alone", &format!("{more} --method full")), &full);
}
