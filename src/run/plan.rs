//! From a configuration to one whose every value is set: the model's shape, and the defaults that depend
//! on model and method.

use std::path::{Path, PathBuf};

use crate::config::{Defaults, Ranks, RunConfig, check_batch, check_warmup};
use crate::error::{Error, Result};
use crate::formats::chat::ChatTemplate;
use crate::formats::gguf::GgufModel;
use crate::formats::hf_config::HfConfig;
use crate::formats::hub::{self, HubId};
use crate::formats::peft::is_adapter;
use crate::formats::tokenizer::Tokenizer;
use crate::methods::switchlora::pool::{self, waits_on_host};
use crate::model::ModelConfig;
use crate::model::config::{PRESETS, Preset, non_target_len, preset, target_len};
use crate::optim::Schedule;
use crate::optim::spam::Rules;
use crate::runlog::{CompareDir, RunDir, list};

use super::engine::Settings;

mod adapter;
mod inrank;
mod relora;

/// Above this many parameters LoRA-GA starts with shorter vectors (its paper's value for LLaMA).
const BILLION: usize = 1_000_000_000;

/// The name of the template for models that bring none.
pub const CHATML: &str = "chatml";

/// A tokenizer with the template of chats that a user names: `chatml`, or a file. It goes wherever the tokenizer
/// goes: to the data, to a chat with the model, into exports.
///
/// `chatml` ends messages with the tokenizer's end of text, as that is where generation stops.
/// Errors: a file that is no template.
pub fn with_template(mut tokenizer: Tokenizer, name: Option<&str>) -> Result<Tokenizer> {
    let template = match name {
        None => return Ok(tokenizer),
        Some(CHATML) => {
            let end = tokenizer.name_of(tokenizer.eos()).unwrap_or_default();
            ChatTemplate::chatml(&end)?
        }
        Some(path) => {
            must_exist(Path::new(path), "check the path of --chat-template, or give chatml")?;
            ChatTemplate::of_file(Path::new(path))?
        }
    };
    tokenizer.set_chat_template(template.source());
    Ok(tokenizer)
}

/// Where the network comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSource {
    /// A preset, freshly initialised.
    Preset(&'static Preset),
    /// The weights of a Hugging Face directory, or of a GGUF file.
    Directory(PathBuf),
}

/// The error for an adapter in the place of a model.
pub(super) fn adapter_alone(path: &Path) -> Error {
    Error::file(
        path,
        "is a PEFT adapter without its base",
        format!("give the base as the model, and --adapter {} with it", path.display()),
    )
}

/// The error for something that is there and is no model: what it is, and what would be right.
pub(super) fn no_model(path: &Path) -> Error {
    let name = path.display();
    if !path.is_dir() {
        let parent = path.parent().filter(|parent| parent.join("config.json").is_file());
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let remedy = match (parent, ending) {
            (Some(folder), _) if folder.as_os_str().is_empty() => "name its folder: `.`".into(),
            (Some(folder), _) => format!("name its folder: {}", folder.display()),
            (None, "jsonl" | "txt" | "md" | "json") => format!("text and rows go to --data {name}"),
            (None, _) => "name the folder with config.json, or a file *.gguf".into(),
        };
        return Error::config(format!("{name} is a file, and no GGUF file: no model"), remedy);
    }
    if CompareDir::at(path).is_comparison() {
        let remedy = format!("name one of its runs, {name}/members/NAME");
        return Error::config(format!("{name} is a comparison, not a model"), remedy);
    }
    if RunDir::at(path).is_run() {
        let remedy = if RunDir::at(path).model().is_dir() {
            format!("name its result: {}", RunDir::at(path).model().display())
        } else {
            format!("make a model of it: `fullrank export {name}`")
        };
        return Error::config(format!("{name} is a run, not a model folder"), remedy);
    }
    if list(path).is_ok_and(|runs| !runs.is_empty()) {
        let remedy =
            format!("name a run: `latest --out {name}`; `fullrank ls --out {name}` lists them");
        return Error::config(format!("{name} is a folder of runs, not a model"), remedy);
    }
    let what = "the folder has no config.json";
    Error::file(path, what, "name a Hugging Face directory of a LLaMA model, or a file *.gguf")
}

/// Checks that a file is there which the user named.
fn must_exist(path: &Path, remedy: &str) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    Err(Error::config(format!("there is no {}", path.display()), remedy))
}

impl ModelSource {
    /// Finds what `model.model` names: a preset, a folder, or a model in the cache of the Hugging Face hub.
    pub fn find(name: &str) -> Result<Self> {
        if let Some(preset) = preset(name) {
            return Ok(Self::Preset(preset));
        }
        let path = Path::new(name);
        if path.join("config.json").is_file() {
            return Ok(Self::Directory(path.to_path_buf()));
        }
        if is_gguf(path) {
            must_exist(path, "check the path")?;
            return Ok(Self::Directory(path.to_path_buf()));
        }
        if is_adapter(path) {
            return Err(adapter_alone(path));
        }
        if path.exists() {
            return Err(no_model(path));
        }
        if let Some(id) = HubId::parse(name) {
            return Ok(Self::Directory(hub::find(id)?));
        }
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        Err(Error::config(
            format!("model {name}: no such preset or folder"),
            format!(
                "use one of {}, a Hugging Face directory, a GGUF file, or the id of a model in the Hugging Face cache (ORG/NAME)",
                names.join(", ")
            ),
        ))
    }

    /// The tokenizer that `data.tokenizer` names, or the one that belongs to the model; with the template of chats that
    /// `data.chat_template` names, if it does.
    pub fn tokenizer(&self, config: &RunConfig) -> Result<Tokenizer> {
        with_template(self.plain_tokenizer(config)?, config.data.chat_template.as_deref())
    }

    fn plain_tokenizer(&self, config: &RunConfig) -> Result<Tokenizer> {
        match (config.data.tokenizer.as_deref(), self) {
            (Some("builtin"), _) | (None, Self::Preset(_)) => Tokenizer::builtin(),
            (Some("bytes"), _) => Tokenizer::bytes(),
            (Some(path), _) => {
                let file = tokenizer_file(Path::new(path));
                must_exist(&file, "give --tokenizer a tokenizer.json or its folder")?;
                Tokenizer::from_file(file)
            }
            (None, Self::Directory(file)) if is_gguf(file) => GgufModel::open(file)?.tokenizer(),
            (None, Self::Directory(folder)) if tokenizer_file(folder).is_file() => {
                Tokenizer::from_file(tokenizer_file(folder))
            }
            (None, Self::Directory(folder)) => Err(Error::file(
                folder,
                "the folder has no tokenizer.json",
                "put the model's own tokenizer.json into it; `train` also takes --tokenizer PATH",
            )),
        }
    }

    /// The network's shape for a tokenizer.
    ///
    /// Errors: shape settings beside a directory; a tokenizer with more entries than the model.
    pub fn model_config(&self, config: &RunConfig, tokenizer: &Tokenizer) -> Result<ModelConfig> {
        let table = &config.model;
        let overrides = [
            table.hidden_size,
            table.intermediate_size,
            table.num_hidden_layers,
            table.num_attention_heads,
            table.num_key_value_heads,
            table.tie_word_embeddings.map(usize::from),
        ];
        match self {
            Self::Preset(preset) => {
                let mut shape = preset.config(tokenizer.vocab_size());
                let set = |target: &mut usize, value: Option<usize>| {
                    *target = value.unwrap_or(*target);
                };
                set(&mut shape.hidden_size, table.hidden_size);
                set(&mut shape.intermediate_size, table.intermediate_size);
                set(&mut shape.num_hidden_layers, table.num_hidden_layers);
                set(&mut shape.num_attention_heads, table.num_attention_heads);
                shape.num_key_value_heads = shape.num_attention_heads;
                set(&mut shape.num_key_value_heads, table.num_key_value_heads);
                shape.tie_word_embeddings = table.tie_word_embeddings.unwrap_or(false);
                shape.eos_token_ids = vec![tokenizer.eos()];
                shape.bos_token_id = tokenizer.bos();
                let (hidden, heads) = (shape.hidden_size, shape.num_attention_heads);
                if heads == 0 || hidden % heads != 0 || (hidden / heads) % 2 != 0 {
                    return Err(Error::config(
                        format!(
                            "model.hidden_size {hidden} with {heads} heads: a head needs an even size"
                        ),
                        "choose a hidden size that is an even multiple of the number of heads",
                    ));
                }
                if shape.num_key_value_heads == 0 || heads % shape.num_key_value_heads != 0 {
                    return Err(Error::config(
                        format!(
                            "model.num_key_value_heads {} does not divide the {heads} heads",
                            shape.num_key_value_heads
                        ),
                        "choose a divisor of num_attention_heads",
                    ));
                }
                if shape.num_hidden_layers == 0 || shape.intermediate_size == 0 {
                    return Err(Error::config(
                        "model.num_hidden_layers and model.intermediate_size must be at least 1",
                        "give positive sizes",
                    ));
                }
                shape.head_dim = hidden / heads;
                let seq_len = config.data.max_seq_length.unwrap_or(preset.seq_len);
                shape.max_position_embeddings = shape.max_position_embeddings.max(seq_len);
                Ok(shape)
            }
            Self::Directory(folder) => {
                if overrides.iter().any(Option::is_some) {
                    return Err(Error::config(
                        "shape settings in [model] do not go with a model directory",
                        "leave them out: the directory's config.json fixes the shape",
                    ));
                }
                let shape = if is_gguf(folder) {
                    GgufModel::open(folder)?.config().clone()
                } else {
                    HfConfig::read(folder.join("config.json"))?
                };
                if tokenizer.vocab_size() > shape.vocab_size {
                    return Err(Error::config(
                        format!(
                            "the tokenizer has {} entries, the model's vocabulary {}",
                            tokenizer.vocab_size(),
                            shape.vocab_size
                        ),
                        "use the model's own tokenizer (leave out --tokenizer), or a larger model vocabulary",
                    ));
                }
                Ok(shape)
            }
        }
    }
}

/// Whether this names a GGUF file, which may be missing.
pub fn is_gguf(path: &Path) -> bool {
    GgufModel::is_named(path) && !path.is_dir()
}

fn tokenizer_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() }
}

/// Fills in every value that depends on model or method, and checks what needs both.
///
/// Errors: rank above the hidden size; sequences longer than the model's context; a warm start as long as
/// the run.
pub fn resolve(config: &mut RunConfig, source: &ModelSource, shape: &ModelConfig) -> Result<()> {
    let (seq_len, batch_size, iters) = match source {
        ModelSource::Preset(preset) => (preset.seq_len, preset.batch_size, preset.iters),
        ModelSource::Directory(_) => (shape.max_position_embeddings.min(256), 4, 1_000),
    };
    let method = config.train.method.clone();
    config.lora.init = Some(config.lora.start().to_owned());
    let defaults = config.method_defaults(shape.hidden_size);
    adapter::resolve(config, source, shape)?;

    let data = &mut config.data;
    let seq_len = *data.max_seq_length.get_or_insert(seq_len);
    data.data_seed.get_or_insert(config.train.seed);
    let train = &mut config.train;
    let ends = train.rank_first.zip(train.rank_last);
    let is_fine_tuning = matches!(source, ModelSource::Directory(_));
    let fine_tuning = is_fine_tuning.then_some(defaults.fine_tuning);
    let most_rank = fine_tuning.map_or(usize::MAX, |own| own.most_rank).min(defaults.most_rank);
    let part = (shape.hidden_size / defaults.rank_divisor).clamp(1, most_rank);
    let rank = ends.map_or(part, |(first, last)| first.max(last));
    train.rank.get_or_insert(rank);
    let ranks = train.ranks();
    let rank = ranks.map_or(rank, Ranks::most);
    let alpha = fine_tuning.and_then(|own| own.alpha).unwrap_or(defaults.alpha);
    let alpha = defaults.scale.map_or(alpha, |scale| scale * rank as f64);
    train.alpha.get_or_insert(alpha);
    let iters = *train.iters.get_or_insert(iters);
    train.batch_size.get_or_insert(batch_size);
    let is_full = matches!(method.as_str(), "full" | "spam");
    train.train_non_targets.get_or_insert(!is_fine_tuning || is_full);
    let rate = fine_tuning.map_or(defaults.learning_rate, |own| own.learning_rate);
    train.learning_rate.get_or_insert(rate);
    train.save_best.get_or_insert(is_fine_tuning || train.early_stop.is_some());
    train.lr_schedule.get_or_insert_with(|| defaults.schedule.into());
    train.warmup_steps.get_or_insert((iters / 10).min(defaults.most_warmup));
    train.max_grad_norm.get_or_insert(defaults.max_grad_norm);
    // 200 updates, or a fiftieth of a shorter run.
    let gap = (iters / 50).clamp(10, 200);
    config.galore.update_proj_gap.get_or_insert(gap);
    config.fira.update_proj_gap.get_or_insert(gap);
    config.adarankgrad.update_proj_gap.get_or_insert(gap);
    inrank::resolve(&mut config.inrank, shape.hidden_size, iters);
    let warm_rate = Defaults::warm_start_rate(is_fine_tuning);
    config.switchlora.warm_start_learning_rate.get_or_insert(warm_rate);
    config.relora.warm_start_learning_rate.get_or_insert(warm_rate);
    let parameters = target_len(shape) + non_target_len(shape);
    config.lora_ga.gamma.get_or_insert(if parameters > BILLION { 64.0 } else { 16.0 });
    // The paper's 500 and 150, in proportion where a run is short.
    config.spam.enabled |= method == "spam";
    let every = *config.spam.reset_every.get_or_insert((iters / 4).clamp(50, 500));
    config.spam.warmup_steps.get_or_insert(every * 3 / 10);
    train.steps_per_report.get_or_insert((iters / 60).max(1));
    train.eval_every.get_or_insert((iters / 10).max(1));
    train.checkpoint_every.get_or_insert((iters / 4).max(1));
    config.rank.every.get_or_insert((iters / 10).max(1));
    let (pools, budget) = (pool::bytes(config, shape), config.train.memory_budget);
    let on_host = waits_on_host(&config.switchlora.pools, pools, budget);
    config.switchlora.pools = if on_host { "host" } else { "device" }.into();

    if is_fine_tuning && matches!(method.as_str(), "sltrain" | "inrank") {
        return Err(Error::config(
            format!(
                "{method} trains layers from nothing, but model.model is a folder with weights"
            ),
            "use a preset with it, or another --method for these weights",
        ));
    }
    if rank > shape.hidden_size {
        let ends = [("rank_first", config.train.rank_first), ("rank_last", config.train.rank_last)];
        let key = ends.into_iter().find(|(_, end)| *end == Some(rank)).map_or("rank", |end| end.0);
        return Err(Error::config(
            format!("train.{key} = {rank} is above the model's hidden size {}", shape.hidden_size),
            format!("use a rank of at most {}; a quarter of it is a good start", shape.hidden_size),
        ));
    }
    if seq_len > shape.max_position_embeddings {
        return Err(Error::config(
            format!(
                "data.max_seq_length = {seq_len} is above the model's context of {}",
                shape.max_position_embeddings
            ),
            format!("use --max-seq-length {} or less", shape.max_position_embeddings),
        ));
    }
    check_batch(config)?;
    check_warmup(config)?;
    if method == "relora" {
        relora::resolve(config, iters)?;
    }
    let warm_start = config.warm_start();
    if config.rank.reference == "warm-start-end" && warm_start == 0 {
        return Err(Error::config(
            format!("rank.reference is warm-start-end, and method {method} has no warm start here"),
            "leave it out, or give the run a warm start",
        ));
    }
    if warm_start > 0 && warm_start >= iters {
        return Err(Error::config(
            format!("{method}.warm_start = {warm_start} leaves nothing of {iters} updates"),
            "make the warm start shorter or the run longer",
        ));
    }
    Ok(())
}

/// SPAM's settings from a resolved configuration, where the run uses it.
pub fn spam(config: &RunConfig) -> Option<Rules> {
    let table = &config.spam;
    let reset_every = table.reset_every.unwrap_or(500);
    config.uses_spam().then(|| Rules {
        reset_every,
        warmup: table.warmup_steps.unwrap_or(reset_every * 3 / 10),
        threshold: table.threshold,
        density: table.density,
        seed: config.train.seed,
    })
}

/// The engine's settings from a resolved configuration.
pub fn settings(config: &RunConfig) -> Result<Settings> {
    let train = &config.train;
    let name = train.lr_schedule.as_deref().unwrap_or("cosine");
    let restarts = || {
        let (cycle, rewarm) = (config.relora.cycle?, config.relora.rewarm_steps?);
        // The cycles are counted from the end of the warm start, so nothing has to be shifted.
        Some(Schedule::CosineRestarts { cycle, rewarm, adjust: 0 })
    };
    let schedule = match name {
        "cosine_restarts" => restarts(),
        _ => Schedule::from_name(name),
    };
    let schedule = schedule.ok_or_else(|| {
        Error::config(
            format!("train.lr_schedule = {name}: no such schedule"),
            "use constant, linear, cosine, cosine_floor or cosine_min; cosine_restarts with relora",
        )
    })?;
    Ok(Settings {
        learning_rate: train.learning_rate.unwrap_or(1e-3),
        schedule,
        warmup: train.warmup_steps.unwrap_or(0),
        min_ratio: train.min_lr_ratio,
        max_grad_norm: train.max_grad_norm.unwrap_or(0.0),
        recompute: train.grad_checkpoint,
    })
}
