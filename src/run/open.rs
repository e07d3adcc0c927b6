//! Opens a trained network to use it: a run's newest checkpoint, or a Hugging Face directory.

use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::formats::hub::{self, HubId};
use crate::formats::peft::{PeftAdapter, is_adapter};
use crate::formats::tokenizer::Tokenizer;
use crate::methods::{Method, given};
use crate::model::Model;
use crate::runlog::status::LastWord;
use crate::runlog::{EndStatus, RunDir, Summary, find};

use super::checkpoint::{self, Checkpoint};
use super::plan::{ModelSource, adapter_alone, is_gguf, no_model};
use super::session::{check_tokenizer, open_device};
use super::setup;

/// A network to evaluate, to generate with or to export.
pub struct Opened {
    /// The network, with the factors of its method or of the given adapter on it.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The configuration of its run; the defaults for a directory.
    pub config: RunConfig,
    /// What was opened, for messages.
    pub name: String,
    /// The method that trained it, with its state, where it is of a run.
    pub method: Option<Box<dyn Method>>,
    /// The adapter that was given with a directory.
    pub adapter: Option<PeftAdapter>,
    /// Its run and the updates it had, where it is of one.
    pub run: Option<(RunDir, u64)>,
    /// Whether its run began from a preset's random weights.
    pub is_preset: bool,
    /// What the user should know of the choice: newer checkpoints that are damaged.
    pub warnings: Vec<String>,
}

/// Which checkpoint of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// The newest intact one.
    #[default]
    Newest,
    /// The one with the lowest validation loss.
    Best,
    /// The one after this many updates.
    Step(u64),
}

/// What to open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// A folder with a `config.json`, a GGUF file, the id of a model in the Hugging Face cache, a run (path, name, `latest`), or the
    /// folder of a checkpoint.
    pub target: String,
    /// Where runs are looked for.
    pub out: PathBuf,
    /// Instead of the device that the run trained on.
    pub device: Option<String>,
    /// A PEFT adapter for the folder.
    pub adapter: Option<PathBuf>,
    /// Which checkpoint of a run.
    pub which: Which,
}

/// Opens the newest state of `target`: see [`open_source`].
pub fn open(target: &str, out: &Path, device: Option<&str>) -> Result<Opened> {
    open_source(&Source {
        target: target.to_owned(),
        out: out.to_path_buf(),
        device: device.map(str::to_owned),
        ..Source::default()
    })
}

/// Opens a network with its tokenizer.
///
/// Errors: there is no such thing; an adapter that does not fit; a choice of checkpoint where there is none.
pub fn open_source(source: &Source) -> Result<Opened> {
    let Source { target, out, which, .. } = source;
    let device = source.device.as_deref();
    let path = Path::new(target);
    let is_folder = path.join("config.json").is_file() && !path.join("state.json").is_file();
    if is_folder || is_gguf(path) {
        return open_folder(path, source);
    }
    if is_adapter(path) {
        return Err(adapter_alone(path));
    }
    if let Some(id) = HubId::parse(target).filter(|_| !path.exists() && !out.join(path).exists()) {
        return open_folder(&hub::find(id)?, source);
    }
    if let Some(adapter) = &source.adapter {
        return Err(Error::config(
            format!("--adapter {} goes with a model folder, {target} is a run", adapter.display()),
            "give the adapter's base; the result of a run has its own adapter in it",
        ));
    }
    let (dir, (checkpoint, warnings)) = if path.join("state.json").is_file() {
        if *which != Which::Newest {
            return Err(Error::config(
                format!(
                    "{target} is one checkpoint; --step and --best choose among those of a run"
                ),
                "name the run",
            ));
        }
        (run_of(path)?, (Checkpoint::open(path)?, Vec::new()))
    } else {
        // A run of that name comes before what lies here under it.
        let dir = find(out, target)
            .map_err(|error| if path.exists() { no_model(path) } else { error })?;
        let chosen = choose(&dir, *which)?;
        (dir, chosen)
    };
    let mut config = RunConfig::read(&dir.config())?;
    set_device(&mut config, device)?;
    let device = open_device(&config)?;
    let origin = ModelSource::find(&config.model.model)?;
    let tokenizer = origin.tokenizer(&config)?;
    check_tokenizer(&dir, &tokenizer)?;
    let mut engine = setup::resumed_engine(&config, &checkpoint, &device)?;
    checkpoint.restore(&mut engine, false)?;
    check_finite(&engine.model, checkpoint.folder())?;
    let step = checkpoint.progress().t;
    Ok(Opened {
        model: engine.model,
        tokenizer,
        config,
        name: format!("{} at step {step}", dir.name()),
        method: Some(engine.method),
        adapter: None,
        run: Some((dir, step)),
        is_preset: matches!(origin, ModelSource::Preset(_)),
        warnings,
    })
}

/// A checkpoint of a run, and a warning for each damaged one that it stands in for.
fn choose(dir: &RunDir, which: Which) -> Result<(Checkpoint, Vec<String>)> {
    let all = dir.list_checkpoints()?;
    let folders: Vec<PathBuf> = all.iter().map(|c| c.path.clone()).collect();
    let (Some(newest), damaged) = Checkpoint::newest_intact(&folders)? else {
        let run = dir.as_argument();
        let diverged = LastWord::Ended(EndStatus::Diverged);
        let remedy = if dir.is_locked()? {
            format!("ask it for one with `fullrank ctl {run} checkpoint`")
        } else if Summary::of(dir)?.last_word == diverged {
            // From its start it would go the same way again.
            "it diverged: train a new run with a lower --learning-rate or a lower --max-grad-norm"
                .into()
        } else {
            format!("train it on with `fullrank resume {run}`")
        };
        return Err(Error::run(format!("run {} has no checkpoint yet", dir.name()), remedy));
    };
    let steps: Vec<String> = all.iter().map(|c| c.step.to_string()).collect();
    let steps = format!("its checkpoints are those of steps {}", steps.join(", "));
    let step = match which {
        Which::Newest => {
            let warnings = damaged.iter().map(checkpoint::skipped).collect();
            return Ok((newest, warnings));
        }
        Which::Step(step) if dir.checkpoint(step).is_dir() => step,
        Which::Step(step) => {
            return Err(Error::run(
                format!("run {} has no checkpoint of step {step}", dir.name()),
                steps,
            ));
        }
        Which::Best if !damaged.is_empty() => {
            return Err(Error::run(
                format!(
                    "which checkpoint of run {} is its best stands in the newest, which is damaged: {}",
                    dir.name(),
                    damaged[0]
                ),
                format!("{steps}; choose one with --step N"),
            ));
        }
        Which::Best => match newest.progress().best {
            None => {
                return Err(Error::run(
                    format!("run {} has no evaluation with a finite loss", dir.name()),
                    steps,
                ));
            }
            Some(best) if best.step == newest.progress().t => {
                return Ok((newest, Vec::new()));
            }
            Some(best) if dir.checkpoint(best.step).is_dir() => best.step,
            Some(best) => {
                return Err(Error::run(
                    format!(
                        "the best evaluation of run {}, {:.4}, was that of step {}, which was not saved",
                        dir.name(),
                        best.loss,
                        best.step
                    ),
                    format!("{steps}; train with --save-best to keep the best one"),
                ));
            }
        },
    };
    Ok((Checkpoint::open(&dir.checkpoint(step))?, Vec::new()))
}

/// A model folder with the adapter that was given.
fn open_folder(path: &Path, source: &Source) -> Result<Opened> {
    if source.which != Which::Newest {
        return Err(Error::config(
            format!(
                "{} is a model folder; --step and --best choose among checkpoints",
                path.display()
            ),
            "leave them out, or name a run",
        ));
    }
    let mut opened = open_directory(path, source.device.as_deref())?;
    if let Some(folder) = &source.adapter {
        let adapter = PeftAdapter::read(folder, &given::modules(&opened.model))?;
        given::attach(&mut opened.model, &adapter.layers);
        opened.name = format!("{} with {}", opened.name, folder.display());
        opened.adapter = Some(adapter);
    }
    Ok(opened)
}

fn open_directory(path: &Path, device: Option<&str>) -> Result<Opened> {
    let mut config = RunConfig::default();
    config.model.model = path.display().to_string();
    set_device(&mut config, device)?;
    let source = ModelSource::find(&config.model.model)?;
    let tokenizer = source.tokenizer(&config)?;
    let device = open_device(&config)?;
    let model = Model::load(path, &device)?;
    if tokenizer.vocab_size() > model.config.vocab_size {
        return Err(Error::config(
            format!(
                "the tokenizer has {} entries, the model's vocabulary {}",
                tokenizer.vocab_size(),
                model.config.vocab_size
            ),
            "use the tokenizer that belongs to the model",
        ));
    }
    check_finite(&model, path)?;
    Ok(Opened {
        model,
        tokenizer,
        name: path.display().to_string(),
        config,
        method: None,
        adapter: None,
        run: None,
        is_preset: false,
        warnings: Vec::new(),
    })
}

fn set_device(config: &mut RunConfig, device: Option<&str>) -> Result<()> {
    if let Some(device) = device {
        device.clone_into(&mut config.train.device);
        config.check()?;
    }
    Ok(())
}

/// Refuses weights that cannot give a loss or a text.
fn check_finite(model: &Model, path: &Path) -> Result<()> {
    for (id, param) in model.params.iter() {
        if let Some(value) = model.params.used_values(id).iter().find(|value| !value.is_finite()) {
            return Err(Error::file(
                path,
                format!("tensor {} holds {value}", param.name),
                "use a checkpoint from before the training diverged",
            ));
        }
    }
    Ok(())
}

/// The run that a checkpoint folder `<run>/checkpoints/step-…` belongs to.
fn run_of(checkpoint: &Path) -> Result<RunDir> {
    let run = checkpoint.canonicalize().map_err(Error::io("read", checkpoint))?;
    match run.parent().and_then(Path::parent).map(RunDir::at) {
        Some(dir) if dir.is_run() => Ok(dir),
        _ => Err(Error::file(
            checkpoint,
            "the checkpoint is not in the folder of its run",
            "name a checkpoint as <run>/checkpoints/step-…",
        )),
    }
}
