//! From a command to a run on disk: makes the folder or opens it, takes the lock, and trains.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::config::{RunConfig, has_rank};
use crate::data::{Loader, ValidationBlocks};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::write_atomically;
use crate::formats::tokenizer::Tokenizer;
use crate::model::{Batch, Role};
use crate::runlog::status::LastWord;
use crate::runlog::summary::RunState;
use crate::runlog::{
    ControlReader, End, EndStatus, EventSink, Level, Log, Resume, Run, RunDir, RunLock, RunWriter,
    Status, Summary, check_out, read_log,
};

use super::checkpoint::{self, Checkpoint, Progress};
use super::commands::Signals;
use super::engine::Engine;
use super::estimate;
use super::rank::RankMonitor;
use super::setup::{self, Prepared};
use super::trainer::{Repeats, Rollbacks, Stage, Trainer, time_limit_s};

/// A run that is about to train.
pub struct Session {
    prepared: Prepared,
    dir: RunDir,
    lock: RunLock,
    /// Commands from the moment on at which this process had the lock.
    control: ControlReader,
    device: Device,
    /// The checkpoint to go on from.
    checkpoint: Option<Checkpoint>,
    is_resumed: bool,
    is_extended: bool,
    notes: Vec<(Level, String)>,
}

/// The device a configuration asks for.
///
/// Errors: there is no such device, or its driver refuses.
pub fn open_device(config: &RunConfig) -> Result<Device> {
    Device::open(&config.train.device, None)
}

/// Runs `work` in a pool of the given number of threads; 0: one for each core.
///
/// Errors: what `work` returns, or that the pool could not be made.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| {
        Error::config(format!("train.threads = {threads}: {error}"), "use fewer threads")
    })?;
    pool.install(work)
}

impl Session {
    /// A new run in a folder of its own below `out`.
    pub fn create(config: RunConfig, out: &Path, name: Option<&str>) -> Result<Self> {
        check_out(out)?;
        let prepared = setup::prepare(config)?;
        let device = open_device(&prepared.config)?;
        estimate::check_fits_device(&prepared.config, &prepared.shape, &device)?;
        let default_name = format!("{}-{}", prepared.config.train.method, model_name(&prepared));
        let dir = RunDir::create(out, name.unwrap_or(&default_name))?;
        Self::open_new(prepared, device, dir)
    }

    /// A new run in a folder that is there and has no run yet, on a device that `open` gives.
    pub fn create_in(
        config: RunConfig,
        dir: RunDir,
        open: impl FnOnce(&RunConfig) -> Result<Device>,
    ) -> Result<Self> {
        let prepared = setup::prepare(config)?;
        let device = open(&prepared.config)?;
        estimate::check_fits_device(&prepared.config, &prepared.shape, &device)?;
        Self::open_new(prepared, device, dir)
    }

    fn open_new(prepared: Prepared, device: Device, dir: RunDir) -> Result<Self> {
        let lock = dir.lock()?;
        let control = ControlReader::open(&dir)?;
        write_atomically(dir.config(), prepared.config.to_toml()?.as_bytes())?;
        write_facts(&dir, &prepared, &device)?;
        let notes = prepared.unusual_start().into_iter().chain(prepared.dataset.notes.clone());
        let notes = notes.map(|note| (Level::Warn, note)).collect();
        Ok(Self {
            prepared,
            dir,
            lock,
            control,
            device,
            checkpoint: None,
            is_resumed: false,
            is_extended: false,
            notes,
        })
    }

    /// An existing run, from its newest intact checkpoint; from its start if it has none. `extend` makes the
    /// run longer, which also stretches its schedules.
    ///
    /// Errors: a live or finished run; data or tokenizer that are no longer what the run began with.
    pub fn resume(
        dir: RunDir,
        extend: Option<u64>,
        threads: Option<usize>,
        device: Option<&str>,
    ) -> Result<Self> {
        Self::resume_on(dir, extend, threads, device, open_device)
    }

    /// As [`resume`](Self::resume), on a device that `open` gives.
    pub fn resume_on(
        dir: RunDir,
        extend: Option<u64>,
        threads: Option<usize>,
        device: Option<&str>,
        open: impl FnOnce(&RunConfig) -> Result<Device>,
    ) -> Result<Self> {
        let lock = dir.lock()?;
        let control = ControlReader::open(&dir)?;
        checkpoint::tidy(&dir.checkpoints())?;
        let mut config = RunConfig::read(&dir.config())?;
        let mut notes = Vec::new();
        let folders: Vec<_> = dir.list_checkpoints()?.into_iter().map(|c| c.path).collect();
        let (checkpoint, damaged) = Checkpoint::newest_intact(&folders)?;
        notes.extend(damaged.iter().map(|error| (Level::Warn, checkpoint::skipped(error))));
        let attempts = checkpoint.as_ref().map_or(0, |c| c.progress().attempts);
        let total = config.train.iters.unwrap_or(0);
        if let Some(iters) = extend {
            if iters <= total.max(attempts) {
                return Err(Error::config(
                    format!("--extend {iters} is not longer than the run's {total} updates"),
                    format!("give the new total, above {total}"),
                ));
            }
            notes.push((Level::Info, format!("extended from {total} to {iters} updates")));
            config.train.iters = Some(iters);
        } else if let Some(what) = all_done(&config, checkpoint.as_ref())
            && has_finished(&dir)?
        {
            return Err(Error::run(
                format!("{} {what}", dir.name()),
                format!(
                    "make it longer with `fullrank resume {} --extend ITERS`",
                    dir.as_argument()
                ),
            ));
        }
        let mut prepared = setup::prepare(config)?;
        check_facts(&dir, &prepared)?;
        let extended = extend.map(|_| prepared.config.to_toml()).transpose()?;
        if let Some(threads) = threads {
            prepared.config.train.threads = threads;
        }
        if let Some(device) = device {
            device.clone_into(&mut prepared.config.train.device);
            prepared.config.check()?;
        }
        let device = open(&prepared.config)?;
        estimate::check_fits_device(&prepared.config, &prepared.shape, &device)?;
        let before = device_of(&dir)?;
        if before != device.name() {
            let note = format!(
                "the run began on {before} and goes on on {}: the bits may differ in the last digits",
                device.name()
            );
            notes.push((Level::Warn, note));
        }
        if let Some(text) = extended {
            // Only now: a resume that was refused must leave the run as it was.
            write_atomically(dir.config(), text.as_bytes())?;
        }
        Ok(Self {
            prepared,
            dir,
            lock,
            control,
            device,
            checkpoint,
            is_resumed: true,
            is_extended: extend.is_some(),
            notes,
        })
    }

    /// The run's folder.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Where it will train.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The resolved configuration.
    pub fn config(&self) -> &RunConfig {
        &self.prepared.config
    }

    /// Trains to the end, or to a signal.
    pub fn train(self, sink: &mut dyn EventSink) -> Result<()> {
        self.train_until(Signals::listen(|_| {})?, sink)
    }

    /// Trains to the end, or to a signal that `signals` has seen.
    pub fn train_until(self, signals: Signals, sink: &mut dyn EventSink) -> Result<()> {
        self.start(Box::new(sink), signals)?.run()
    }

    /// Makes everything that training needs; the trainer does it turn by turn.
    ///
    /// Errors: also recorded in the run's log.
    pub fn start<'a>(
        self,
        mut sink: Box<dyn EventSink + 'a>,
        signals: Signals,
    ) -> Result<Trainer<'a>> {
        let mut log = RunWriter::open(self.dir.events())?;
        let begun = match self.begin() {
            Ok(begun) => begun,
            Err(error) => {
                // The first error is the one to report; the log may be what failed.
                let step = self.checkpoint.as_ref().map_or(0, |c| c.progress().t);
                let what = error.to_string();
                let _ = log.emit(step, End { status: EndStatus::Failed, what });
                let _ = log.sync();
                return Err(error);
            }
        };
        let Begun { config, engine, progress, repeats, rollbacks, loader, valid, predicted_bytes } =
            begun;
        let Self { prepared, dir, lock, control, device, is_resumed, is_extended, notes, .. } =
            self;

        let run = run_event(&prepared, &dir, &device, &engine, &progress)?;
        sink.on_event(&log.emit(engine.t, run)?);
        if is_resumed {
            let (from_step, from_seq) = (Some(engine.t), Some(progress.event_seq));
            let resume = Resume { from_step, from_seq, rollback: None };
            sink.on_event(&log.emit(engine.t, resume)?);
        }
        for (level, msg) in notes {
            sink.on_event(&log.emit(engine.t, Log { level, msg })?);
        }
        let rank = RankMonitor::new(&config, &prepared.shape, &prepared.source, dir.path());
        Ok(Trainer {
            config,
            base: prepared.config,
            dir,
            lock,
            log,
            sink,
            engine,
            loader,
            valid,
            tokenizer: prepared.tokenizer,
            progress,
            rank,
            control,
            repeats,
            rollbacks,
            signals,
            predicted_bytes,
            stage: Stage::new(is_extended),
            shares_device: false,
        })
    }

    /// What the first update starts from.
    fn begin(&self) -> Result<Begun> {
        let Self { prepared, checkpoint, device, .. } = self;
        let (mut engine, progress) = begin(prepared, checkpoint.as_ref(), device)?;
        let config = progress.tuned(&prepared.config)?;
        engine.retune(&config)?;
        let told = if self.is_resumed { read_log(self.dir.events())?.events } else { Vec::new() };
        let (repeats, rollbacks) = (Repeats::of(&told, &progress), Rollbacks::of(&told));
        let mut loader = loader(prepared)?;
        if let Some(position) = progress.position {
            loader.seek(position)?;
        }
        let valid = prepared.dataset.validation()?;
        let predicted_bytes =
            estimate::peak_bytes(&config, &prepared.shape, device.gpu().is_some())?.total();
        Ok(Begun { config, engine, progress, repeats, rollbacks, loader, valid, predicted_bytes })
    }
}

/// A run brought to the place from which it trains.
struct Begun {
    /// With what was changed in flight.
    config: RunConfig,
    engine: Engine,
    progress: Progress,
    repeats: Repeats,
    rollbacks: Rollbacks,
    loader: Loader,
    valid: ValidationBlocks,
    predicted_bytes: u64,
}

/// The newest run below `out` that has the same resolved configuration and is not done: what
/// `train --resume auto` goes on with.
pub fn unfinished(config: &RunConfig, out: &Path) -> Result<Option<RunDir>> {
    if !out.is_dir() {
        return Ok(None);
    }
    let prepared = setup::prepare(config.clone())?;
    let mut runs = crate::runlog::list(out)?;
    runs.sort_by_key(|run| std::cmp::Reverse(run.name()));
    for run in runs {
        let status = RunState::of(&run)?.status;
        let is_open = matches!(
            status,
            Status::Crashed | Status::Interrupted | Status::Stopped | Status::Failed
        );
        if is_open && RunConfig::read(&run.config()).is_ok_and(|c| c == prepared.config) {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

/// The engine at the run's start, or as its checkpoint left it.
fn begin(
    prepared: &Prepared,
    checkpoint: Option<&Checkpoint>,
    device: &Device,
) -> Result<(Engine, Progress)> {
    let config = &prepared.config;
    if let Some(checkpoint) = checkpoint {
        let mut engine = setup::resumed_engine(config, checkpoint, device)?;
        checkpoint.restore(&mut engine, true)?;
        return Ok((engine, checkpoint.progress().clone()));
    }
    let mut engine = setup::engine(config, prepared.fresh_model(device)?)?;
    // A loader of its own, so that training begins with the first batch all the same.
    let mut ahead = loader(prepared)?;
    engine.prepare(&mut || {
        let batch = ahead.next_batch(config.train.batch_size.unwrap_or(1))?;
        Ok(Batch::of(&batch, device))
    })?;
    Ok((engine, Progress::default()))
}

/// The run's training data in its order.
fn loader(prepared: &Prepared) -> Result<Loader> {
    let config = &prepared.config;
    prepared.dataset.loader(config.data.data_seed.unwrap_or(config.train.seed))
}

fn model_name(prepared: &Prepared) -> String {
    let name = &prepared.config.model.model;
    Path::new(name).file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned())
}

/// What a run has done where its last checkpoint leaves nothing to do.
fn all_done(config: &RunConfig, checkpoint: Option<&Checkpoint>) -> Option<String> {
    let progress = checkpoint?.progress();
    let total = config.train.iters.unwrap_or(0);
    if progress.attempts >= total {
        return Some(format!("has done all its {total} updates"));
    }
    let patience = config.train.early_stop?;
    (progress.evals_since_best >= patience).then(|| {
        format!(
            "stopped early after {} of {total} updates: {} evaluations without a lower validation loss",
            progress.attempts, progress.evals_since_best
        )
    })
}

/// Whether the run has done everything, export included. A run that was killed after its last checkpoint has
/// not; its status comes from its log alone, as the caller holds the lock.
fn has_finished(dir: &RunDir) -> Result<bool> {
    Ok(Summary::of(dir)?.last_word == LastWord::Ended(EndStatus::Finished))
}

fn run_event(
    prepared: &Prepared,
    dir: &RunDir,
    device: &Device,
    engine: &Engine,
    progress: &Progress,
) -> Result<Run> {
    let (train, facts) = (&prepared.config.train, &prepared.dataset.facts);
    let params = &engine.model.params;
    let network = params.iter().filter(|(_, p)| p.role == Role::Network);
    let batch = train.batch_size.unwrap_or(1) * train.grad_accumulation_steps;
    // In a warm start everything is trained; a run is known by what comes after it.
    let trained_params = if engine.t < prepared.config.warm_start() {
        estimate::trained_parameters(&prepared.config, &prepared.shape)?
    } else {
        params.trainable_len() as u64
    };
    Ok(Run {
        name: dir.short_name(),
        method: train.method.clone(),
        model: prepared.config.model.model.clone(),
        data: facts.source.clone(),
        device: device.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        seed: train.seed,
        steps: engine.total,
        max_s: time_limit_s(train.max_minutes, progress),
        tokens_per_step: (batch * prepared.dataset.seq_len) as u64,
        train_tokens: facts.train.tokens as u64,
        val_tokens: facts.valid.tokens as u64,
        params: network.map(|(_, p)| p.len() as u64).sum(),
        trained_params,
        rank: has_rank(&train.method).then(|| train.rank.unwrap_or(0) as u64),
        unigram_ppl: Some(facts.valid_unigram_perplexity),
        layers: engine.model.linears().iter().map(|linear| linear.name.clone()).collect(),
    })
}

/// `facts.json`: what the run was made of, so that it can be told apart from one with other data.
fn write_facts(dir: &RunDir, prepared: &Prepared, device: &Device) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let facts = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "device": device.name(),
        "host": {
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "cores": cores,
            "threads": rayon::current_num_threads(),
        },
        "data": prepared.dataset.facts,
        "model": prepared.shape.to_json("float32"),
    });
    let path = dir.facts();
    let text = serde_json::to_vec_pretty(&facts)
        .map_err(|error| Error::file(&path, error.to_string(), "report this"))?;
    write_atomically(&path, &text)
}

/// What `facts.json` says of the run's data.
fn data_facts(dir: &RunDir) -> Result<serde_json::Value> {
    Ok(facts(dir)?["data"].take())
}

/// The device that the run began on.
fn device_of(dir: &RunDir) -> Result<String> {
    Ok(facts(dir)?["device"].as_str().unwrap_or("an unknown device").to_owned())
}

fn facts(dir: &RunDir) -> Result<serde_json::Value> {
    let path = dir.facts();
    let text = fs::read(&path).map_err(Error::io("read", &path))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::file(&path, format!("not JSON: {error}"), "restore the file"))
}

/// Refuses another tokenizer than the run was trained with: its ids mean other text, or no row at all.
pub(super) fn check_tokenizer(dir: &RunDir, tokenizer: &Tokenizer) -> Result<()> {
    if data_facts(dir)?["tokenizer_blake3"] == tokenizer.hash() {
        return Ok(());
    }
    Err(Error::run(
        format!("the tokenizer is not the one that {} began with", dir.name()),
        "bring the old tokenizer.json back; one is in the run's model/ if it has finished",
    ))
}

/// Refuses to go on with other data or another tokenizer than the run began with.
fn check_facts(dir: &RunDir, prepared: &Prepared) -> Result<()> {
    let facts = data_facts(dir)?;
    let path = dir.facts();
    let now = serde_json::to_value(&prepared.dataset.facts)
        .map_err(|error| Error::file(&path, error.to_string(), "report this"))?;
    let what = [
        ("tokenizer_blake3", "tokenizer"),
        ("train", "text to train on"),
        ("valid", "text to validate"),
    ];
    for (key, what) in what {
        if facts[key] != now[key] {
            return Err(Error::run(
                format!(
                    "the {what} (data {}) is not the one that {} began with",
                    prepared.dataset.facts.source,
                    dir.name()
                ),
                "bring the old one back, or start a new run",
            ));
        }
    }
    Ok(())
}
