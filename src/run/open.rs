//! Opens a trained network to use it: a run's newest checkpoint, or a Hugging Face directory.

use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::formats::hub::{self, HubId};
use crate::formats::tokenizer::Tokenizer;
use crate::model::Model;
use crate::runlog::{RunDir, find};

use super::checkpoint::Checkpoint;
use super::plan::{ModelSource, is_gguf};
use super::session::{check_tokenizer, open_device};
use super::setup;

/// A network to evaluate or to generate with.
pub struct Opened {
    /// The network, with the factors of its method on it.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The configuration of its run; the defaults for a directory.
    pub config: RunConfig,
    /// What was opened, for messages.
    pub name: String,
}

/// Opens `target`: a folder with a `config.json`, a GGUF file, the id of a model in the Hugging Face cache, or a run (path, name,
/// `latest`) below `out`. `device`: instead of the one the run trained on.
pub fn open(target: &str, out: &Path, device: Option<&str>) -> Result<Opened> {
    let path = Path::new(target);
    if path.join("config.json").is_file() && !path.join("state.json").is_file() || is_gguf(path) {
        return open_directory(path, device);
    }
    if let Some(id) = HubId::parse(target).filter(|_| !path.exists() && !out.join(path).exists()) {
        return open_directory(&hub::find(id)?, device);
    }
    let (dir, checkpoint) = if path.join("state.json").is_file() {
        (run_of(path)?, Checkpoint::open(path)?)
    } else {
        let dir = find(out, target)?;
        let folders: Vec<PathBuf> = dir.list_checkpoints()?.into_iter().map(|c| c.path).collect();
        let (Some(checkpoint), _) = Checkpoint::newest_intact(&folders)? else {
            let run = dir.as_argument();
            let remedy = if dir.is_locked()? {
                format!("ask it for one with `fullrank ctl {run} checkpoint`")
            } else {
                format!("train it on with `fullrank resume {run}`")
            };
            return Err(Error::run(format!("run {} has no checkpoint yet", dir.name()), remedy));
        };
        (dir, checkpoint)
    };
    let mut config = RunConfig::read(&dir.config())?;
    set_device(&mut config, device)?;
    let device = open_device(&config)?;
    let tokenizer = ModelSource::find(&config.model.model)?.tokenizer(&config)?;
    check_tokenizer(&dir, &tokenizer)?;
    let mut engine = setup::engine(&config, checkpoint.load_model(&device)?)?;
    checkpoint.restore(&mut engine, false)?;
    check_finite(&engine.model, checkpoint.folder())?;
    let name = format!("{} at step {}", dir.name(), checkpoint.progress().t);
    Ok(Opened { model: engine.model, tokenizer, config, name })
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
    Ok(Opened { model, tokenizer, name: path.display().to_string(), config })
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
    for (_, param) in model.params.iter() {
        if let Some(value) = param.value().to_host().iter().find(|value| !value.is_finite()) {
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
