//! Trains the members of a comparison in one process: by turns, one update each, or one after the other.
//!
//! A member is a run like any other, so it has the bits of that run alone: nothing of it depends on whose turn was
//! before. The clock of a member runs in its own turns only.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use crate::config::RunConfig;
use crate::device::Device;
use crate::device::memory::machine_bytes;
use crate::error::{Error, Result};
use crate::formats::atomic::write_atomically;
use crate::report::text;
use crate::run::commands::Signals;
use crate::run::session::{Session, open_device};
use crate::run::trainer::{Trainer, Turn};
use crate::run::{estimate, setup};
use crate::runlog::compare::{CompareDir, Member, Plan};
use crate::runlog::status::LastWord;
use crate::runlog::summary::RunState;
use crate::runlog::{
    End, EndStatus, Event, EventSink, Phase, Run, RunDir, RunWriter, Status, Summary,
};

use super::plan::config_of;

/// Members that train by turns may fill this share of the machine's memory; the rest is for the system and for what
/// no ledger counts.
const MEMORY_SHARE: f64 = 0.75;
/// How often paused members look for commands.
const PAUSE_POLL: Duration = Duration::from_millis(50);

/// Who is told what the members do.
pub trait Observer {
    /// The member of this number does something from here on.
    fn on_turn(&mut self, member: usize);
    /// It says something.
    fn on_event(&mut self, member: usize, event: &Event);
    /// Something about the comparison as a whole, in a sentence.
    fn on_note(&mut self, note: &str);
}

/// How a member stands at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: Status,
    /// The cause, where it did not finish.
    pub cause: String,
}

/// What the training came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Every member, in the order of the plan. One that was never begun is `Crashed`, without a cause.
    pub members: Vec<Ending>,
    /// The signal that stopped it.
    pub signal: Option<i32>,
}

impl Outcome {
    /// Members that did not end well; one that was stopped by a command did.
    pub fn failed(&self) -> impl Iterator<Item = &Ending> {
        let is_bad =
            |ending: &&Ending| !matches!(ending.status, Status::Finished | Status::Stopped);
        self.members.iter().filter(is_bad)
    }
}

/// A member that trains.
struct Live<'a> {
    member: usize,
    trainer: Trainer<'a>,
    is_paused: bool,
}

/// Hands the events of one member on.
struct Sink<'a, 'o> {
    member: usize,
    observer: &'a RefCell<&'o mut dyn Observer>,
}

impl EventSink for Sink<'_, '_> {
    fn on_event(&mut self, event: &Event) {
        self.observer.borrow_mut().on_event(self.member, event);
    }
}

/// Trains every member that is not done: missing ones from their start, interrupted ones from their newest
/// checkpoint. The caller holds the comparison's lock. A member that fails is recorded in its log and stops no other.
///
/// Errors: what concerns all members: signals, the log of a failure that cannot be written.
pub fn train(
    dir: &CompareDir,
    plan: &Plan,
    signals: &Signals,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let observer = RefCell::new(observer);
    let mut queue = VecDeque::new();
    let mut spent_s = 0.0;
    for (number, member) in plan.members.iter().enumerate() {
        let summary = Summary::of(&dir.member(&member.name))?;
        match summary.last_word {
            LastWord::Ended(EndStatus::Finished | EndStatus::Diverged) => {
                spent_s += summary.active_s;
            }
            _ => queue.push_back(number),
        }
    }
    let by_turns = !plan.sequential && fit_together(dir, plan, &queue, &observer);
    let width = if by_turns { usize::MAX } else { 1 };
    let total_s = plan.max_minutes.map(|minutes| minutes * 60.0);
    let share_minutes = plan.max_minutes.map(|minutes| minutes / plan.members.len() as f64);
    let mut devices = Devices { is_shared: !by_turns, free: None };
    let mut live: Vec<Live<'_>> = Vec::new();
    loop {
        while live.len() < width
            && signals.seen().is_none()
            && let Some(number) = queue.pop_front()
        {
            let member = &plan.members[number];
            let run = dir.member(&member.name);
            observer.borrow_mut().on_turn(number);
            let sink = Box::new(Sink { member: number, observer: &observer });
            let config = config_of(dir, plan, member)?;
            match begin(&run, &config, sink, signals, &mut devices) {
                Ok(mut trainer) => {
                    trainer.shares_device = by_turns;
                    if !by_turns {
                        trainer.config.train.max_minutes = share_minutes;
                        trainer.base.train.max_minutes = share_minutes;
                    }
                    live.push(Live { member: number, trainer, is_paused: false });
                }
                Err(error) => record_failure(&run, member, &config, &error)?,
            }
        }
        if live.is_empty() {
            break;
        }
        let active_s: f64 = live.iter().map(|live| live.trainer.progress.active_s).sum();
        if let Some(limit_s) = total_s.filter(|limit_s| by_turns && spent_s + active_s >= *limit_s)
        {
            end_all(live, limit_s / 60.0, &observer);
            break;
        }
        round(&mut live, &mut spent_s, &observer, &mut devices);
        if live.iter().all(|live| live.is_paused) && !live.is_empty() {
            std::thread::sleep(PAUSE_POLL);
        }
    }
    Ok(Outcome { members: endings(dir, plan)?, signal: signals.seen() })
}

/// One turn of each member that is not ahead of another; those that are over leave.
fn round(
    live: &mut Vec<Live<'_>>,
    spent_s: &mut f64,
    observer: &RefCell<&mut dyn Observer>,
    devices: &mut Devices,
) {
    let attempts = |live: &Live<'_>| live.trainer.progress.attempts;
    let least = live.iter().filter(|live| !live.is_paused).map(attempts).min();
    let mut number = 0;
    while number < live.len() {
        let member = &mut live[number];
        if !member.is_paused && least.is_some_and(|least| attempts(member) > least) {
            number += 1;
            continue;
        }
        observer.borrow_mut().on_turn(member.member);
        match member.trainer.turn() {
            Ok(Turn::Going) => member.is_paused = false,
            Ok(Turn::Paused) => member.is_paused = true,
            // The cause of a bad end stands in the member's log.
            Ok(Turn::Over) | Err(_) => {
                *spent_s += member.trainer.progress.active_s;
                devices.take_back(&live.remove(number));
                continue;
            }
        }
        number += 1;
    }
}

/// The time of all members together is up.
fn end_all(live: Vec<Live<'_>>, minutes: f64, observer: &RefCell<&mut dyn Observer>) {
    for mut live in live {
        observer.borrow_mut().on_turn(live.member);
        if let Err(error) = live.trainer.end_in_time(minutes) {
            tracing::error!("{}: {error}", live.trainer.dir.name());
        }
    }
}

/// Devices for members. By turns each has its own: what breaks one leaves the others alone. One after the other they
/// use the same, so that what a driver keeps is not kept for each.
struct Devices {
    is_shared: bool,
    free: Option<(String, Device)>,
}

impl Devices {
    fn open(&mut self, config: &RunConfig) -> Result<Device> {
        match self.free.take() {
            Some((choice, device)) if choice == config.train.device => Ok(device.with_new_ledger()),
            _ => open_device(config),
        }
    }

    fn take_back(&mut self, live: &Live<'_>) {
        let device = live.trainer.engine.model.device();
        if self.is_shared && device.check().is_ok() {
            self.free = Some((live.trainer.config.train.device.clone(), device.clone()));
        }
    }
}

/// A member ready for its first turn: new, or as its newest checkpoint left it.
fn begin<'a>(
    run: &RunDir,
    config: &RunConfig,
    sink: Box<dyn EventSink + 'a>,
    signals: &Signals,
    devices: &mut Devices,
) -> Result<Trainer<'a>> {
    let open = |config: &RunConfig| devices.open(config);
    // `facts.json` is the last file that a new run writes before it trains.
    let session = if run.facts().is_file() {
        Session::resume_on(run.clone(), None, None, None, open)?
    } else {
        fs::create_dir_all(run.path()).map_err(Error::io("create", run.path()))?;
        Session::create_in(config.clone(), run.clone(), open)?
    };
    session.start(sink, signals.clone())
}

/// Puts a failure before the first turn into the member's log, unless it stands there already.
fn record_failure(run: &RunDir, member: &Member, config: &RunConfig, error: &Error) -> Result<()> {
    let what = error.to_string();
    tracing::error!("{}: {what}; {}", member.name, error.remedy());
    if run.is_locked()? {
        // Another process trains it and writes its log.
        return Ok(());
    }
    let known = Summary::of(run)?;
    if known.last_word == LastWord::Ended(EndStatus::Failed) && known.end_text == what {
        return Ok(());
    }
    fs::create_dir_all(run.path()).map_err(Error::io("create", run.path()))?;
    if !run.config().is_file() {
        write_atomically(run.config(), config.to_toml()?.as_bytes())?;
    }
    let mut log = RunWriter::open(run.events())?;
    let train = &config.train;
    if known.run == Run::default() {
        log.emit(
            0,
            Run {
                name: member.name.clone(),
                method: train.method.clone(),
                model: config.model.model.clone(),
                seed: train.seed,
                ..Run::default()
            },
        )?;
    }
    log.emit(known.step, Phase { name: "prepare".into(), detail: String::new() })?;
    log.emit(known.step, End { status: EndStatus::Failed, what })?;
    log.sync()
}

/// How every member stands.
fn endings(dir: &CompareDir, plan: &Plan) -> Result<Vec<Ending>> {
    let ending = |member: &Member| {
        let RunState { status, summary, .. } = RunState::of(&dir.member(&member.name))?;
        let cause = if status == Status::Finished { String::new() } else { summary.end_text };
        Ok(Ending { name: member.name.clone(), status, cause })
    };
    plan.members.iter().map(ending).collect()
}

/// Whether the members that are left fit into memory together, by what is predicted.
fn fit_together(
    dir: &CompareDir,
    plan: &Plan,
    queue: &VecDeque<usize>,
    observer: &RefCell<&mut dyn Observer>,
) -> bool {
    let mut needed = 0_u64;
    let mut budget: Option<f64> = None;
    for &number in queue {
        // One that cannot be resolved fails when its turn comes, and needs nothing.
        let Ok(mut config) = config_of(dir, plan, &plan.members[number]) else { continue };
        let Ok((_, _, shape)) = setup::resolve(&mut config) else { continue };
        let peak = |on_gpu| estimate::peak_bytes(&config, &shape, on_gpu);
        let bytes = |on_gpu| peak(on_gpu).map_or(0, |estimate| estimate.total());
        // Which device another choice comes to is known when it is opened.
        let on_gpu = if config.train.device == "cpu" { 0 } else { bytes(true) };
        needed = needed.saturating_add(bytes(false).max(on_gpu));
        budget = config.train.memory_budget;
    }
    let gib = f64::from(1 << 30);
    let has = match (budget, machine_bytes()) {
        (Some(budget), _) => budget * gib,
        (None, Some(bytes)) => MEMORY_SHARE * bytes as f64,
        (None, None) => return true,
    };
    if needed as f64 <= has || queue.len() < 2 {
        return true;
    }
    observer.borrow_mut().on_note(&format!(
        "all members together need about {}, there are {}: one after the other",
        text::bytes(needed),
        text::bytes(has as u64)
    ));
    false
}
