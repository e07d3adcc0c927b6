//! Puts a run together: tokenizer, data, network, method and optimizer from a configuration.

use crate::config::{DataTable, RunConfig, Targets};
use crate::data::cache::TokenCache;
use crate::data::row_cache::RowFormat;
use crate::data::text::Format;
use crate::data::{Corpus, Dataset, RowOptions};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::chat::ChatTemplate;
use crate::formats::tokenizer::Tokenizer;
use crate::kernels::packed;
use crate::kernels::update::AdamW;
use crate::methods::{self, Base, Method};
use crate::model::llama::initial_values;
use crate::model::{BaseStorage, Model, ModelConfig, PackAtLoad};
use crate::optim::Optimizer;
use crate::optim::adamw::form_from_name;

use super::checkpoint::Checkpoint;
use super::engine::Engine;
use super::estimate;
use super::plan::{self, CHATML, ModelSource};

/// What a configuration means, before any tensor is made.
pub struct Prepared {
    /// The configuration with every value set.
    pub config: RunConfig,
    /// Where the network comes from.
    pub source: ModelSource,
    /// Its shape.
    pub shape: ModelConfig,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The data.
    pub dataset: Dataset,
}

/// Resolves a configuration and prepares its data.
///
/// Errors: also a run that does not fit the machine's memory.
pub fn prepare(mut config: RunConfig) -> Result<Prepared> {
    let (source, tokenizer, shape) = resolve(&mut config)?;
    // The samples of the run need it: better now than after the last update.
    tokenizer.generation_ends()?;
    estimate::check_fits(&config, &shape)?;
    let corpus = Corpus::open(&config.data.data, config.data.valid_fraction)?;
    let seq_len = config.data.max_seq_length.unwrap_or(shape.max_position_embeddings);
    let cache = TokenCache::of_user();
    let dataset = match corpus.format {
        Format::Text => Dataset::prepare(&corpus, &tokenizer, seq_len, &cache)?,
        Format::Rows => {
            let template = data_template(&tokenizer)?;
            let options = row_options(&config, &tokenizer, template.as_ref(), seq_len);
            Dataset::prepare_rows(&corpus, options, &cache)?
        }
    };
    // Last, so that messages name what the user typed.
    make_paths_absolute(&mut config, &source)?;
    Ok(Prepared { config, source, shape, tokenizer, dataset })
}

/// The template that writes a run's data: the tokenizer's, with a date that stands still.
pub fn data_template(tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
    Ok(tokenizer.chat_template()?.map(ChatTemplate::at_fixed_date))
}

/// How a configuration has rows read and laid out.
pub fn row_options<'a>(
    config: &RunConfig,
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    seq_len: usize,
) -> RowOptions<'a> {
    let DataTable { mask_prompt, packing, strict, .. } = config.data;
    RowOptions { format: RowFormat { tokenizer, template, strict, mask_prompt }, seq_len, packing }
}

/// Sets every value of a configuration; looks at the model's shape and the tokenizer, not at the data.
pub fn resolve(config: &mut RunConfig) -> Result<(ModelSource, Tokenizer, ModelConfig)> {
    config.check()?;
    let source = ModelSource::find(&config.model.model)?;
    let tokenizer = source.tokenizer(config)?;
    let shape = source.model_config(config, &tokenizer)?;
    plan::resolve(config, &source, &shape)?;
    Ok((source, tokenizer, shape))
}

/// Paths as they are from everywhere, so that a run can be resumed from another working directory.
fn make_paths_absolute(config: &mut RunConfig, source: &ModelSource) -> Result<()> {
    let absolute = |name: &str| {
        let path = std::path::absolute(name).map_err(Error::io("find", name))?;
        Ok::<_, Error>(path.display().to_string())
    };
    if config.data.data != "builtin" {
        config.data.data = absolute(&config.data.data)?;
    }
    if let Some(adapter) = &config.model.adapter {
        config.model.adapter = Some(absolute(adapter)?);
    }
    if let Some(name) = &config.data.tokenizer
        && !matches!(name.as_str(), "builtin" | "bytes")
    {
        config.data.tokenizer = Some(absolute(name)?);
    }
    if let Some(name) = &config.data.chat_template
        && name != CHATML
    {
        config.data.chat_template = Some(absolute(name)?);
    }
    if let ModelSource::Directory(folder) = source {
        // Of an id this is the folder of its commit, so that a resumed run reads the same weights.
        config.model.model = absolute(&folder.display().to_string())?;
    }
    Ok(())
}

impl Prepared {
    /// What to say of a method that is made for trained weights where there are random ones.
    pub fn unusual_start(&self) -> Option<String> {
        let is_preset = matches!(self.source, ModelSource::Preset(_));
        (is_preset && self.config.method_defaults(self.shape.hidden_size).is_for_fine_tuning).then(|| {
            format!(
                "{} is a method to fine-tune trained weights with, and this run starts from random ones: give --model a \
                 folder, or take switchlora, relora, galore or fira to train from scratch",
                self.config.train.method
            )
        })
    }

    /// The network at its start.
    pub fn fresh_model(&self, device: &Device) -> Result<Model> {
        match &self.source {
            ModelSource::Preset(_) => random_model(&self.config, &self.shape, device),
            ModelSource::Directory(folder) => {
                Model::load_packed(folder, device, &pack_at_load(&self.config, false)?)
            }
        }
    }
}

/// The network of a configuration with random weights.
pub fn random_model(config: &RunConfig, shape: &ModelConfig, device: &Device) -> Result<Model> {
    let pack = pack_at_load(config, false)?;
    let (std, seed) = (shape.initializer_range, config.train.seed);
    Model::build(shape.clone(), device, |name, shape| {
        pack.initial(name, shape, initial_values(name, shape, std, seed))
    })
}

/// How the frozen weights of a configuration are stored where that is not f32, and what its method does with them.
fn base_storage(config: &RunConfig, method: &dyn Method) -> Result<Option<(BaseStorage, Base)>> {
    let Some(format) = packed::Format::from_name(&config.model.base_storage) else {
        return Ok(None);
    };
    let base = method.base();
    if base == Base::Changing {
        return Err(Error::config(
            format!(
                "model.base_storage is {}, and {} leaves no dense weight frozen",
                format.name(),
                config.train.method
            ),
            "leave --base-storage out, or use lora, rslora, lora-plus, lora-ga, pissa, dora or relora",
        ));
    }
    Ok(Some((BaseStorage { format, keeps_master: base == Base::Merged }, base)))
}

/// The layers whose weight is frozen all through a run whose method freezes its targets, as far as that is known
/// without the network.
fn frozen_layers(config: &RunConfig) -> Option<Targets> {
    match (config.train.train_non_targets, &config.model.adapter) {
        (Some(false), _) => Some(Targets::ALL),
        // An adapter from outside has its own layers, and the others are trained.
        (_, Some(_)) => None,
        _ => Some(config.train.targets()),
    }
}

/// Which weights of a configuration can be brought into few bits as they are read. The others follow when they have the
/// values that they are frozen with.
fn pack_at_load(config: &RunConfig, is_resumed: bool) -> Result<PackAtLoad> {
    let method = methods::create(config)?;
    let Some((storage, base)) = base_storage(config, method.as_ref())? else {
        return Ok(PackAtLoad::default());
    };
    let has_its_values = base == Base::Frozen || is_resumed && base == Base::ChangedAtStart;
    let layers = frozen_layers(config).filter(|_| has_its_values);
    Ok(layers.map_or_else(PackAtLoad::default, |layers| PackAtLoad::layers(storage.format, layers)))
}

/// An engine around the network of a checkpoint; [`Checkpoint::restore`] must follow.
pub fn resumed_engine(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    device: &Device,
) -> Result<Engine> {
    engine(config, checkpoint.load_packed(device, &pack_at_load(config, true)?)?)
}

/// An engine around a network; the method has not touched it yet.
pub fn engine(config: &RunConfig, mut model: Model) -> Result<Engine> {
    let train = &config.train;
    if train.train_non_targets == Some(false) {
        let targets = train.targets();
        let left_out = model.linears().iter().filter(|linear| !targets.contains(&linear.name));
        let left_out: Vec<_> = left_out.filter_map(|linear| linear.weight).collect();
        for id in model.non_targets().into_iter().chain(left_out) {
            model.params.set_trainable(id, false);
        }
    }
    let method = methods::create(config)?;
    if let Some((storage, base)) = base_storage(config, method.as_ref())? {
        model.set_base_storage(Some(storage));
        if let (Base::Frozen, Some(layers)) = (base, frozen_layers(config)) {
            let frozen = model.linears().iter().filter(|linear| layers.contains(&linear.name));
            for id in frozen.filter_map(|linear| linear.weight).collect::<Vec<_>>() {
                model.params.set_trainable(id, false);
            }
            model.pack_frozen()?;
        }
    }
    Ok(Engine {
        optimizer: Optimizer::new(hyper(config)?, model.device()).with_spam(plan::spam(config)),
        method,
        settings: plan::settings(config)?,
        seed: train.seed,
        t: 0,
        total: train.iters.unwrap_or(0),
        events: Vec::new(),
        late_events: Vec::new(),
        model,
    })
}

/// AdamW's hyper-parameters from a configuration; the learning rate comes with every update.
pub(super) fn hyper(config: &RunConfig) -> Result<AdamW> {
    let train = &config.train;
    let form = form_from_name(&train.adam_form).ok_or_else(|| {
        Error::config(
            format!("train.adam_form = {}: no such form", train.adam_form),
            "use torch or reference",
        )
    })?;
    Ok(AdamW {
        learning_rate: 0.0,
        beta1: train.beta1,
        beta2: train.beta2,
        eps: train.adam_eps,
        weight_decay: train.weight_decay,
        form,
    })
}
