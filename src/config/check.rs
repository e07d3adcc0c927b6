//! What values a configuration may have, as far as that is known without the model and the data.

use std::fmt::Display;

use super::load::nearest;
use super::settings;
use super::{DataTable, ModelTable, RunConfig, TrainTable, methods, rank, ranks, targets};
use crate::error::{Error, Result};

/// More threads than this are a slip of the finger; each one costs memory.
const MOST_THREADS: usize = 1024;

/// As for the sizes in a `config.json`: far above any model, and small enough to multiply.
const LARGEST_SIZE: usize = 1 << 24;
const MOST_LAYERS: usize = 10_000;
/// Micro-batches of an update and sequences of a micro-batch; more are a slip of the finger.
const MOST_SEQUENCES: usize = 1 << 20;

impl RunConfig {
    /// Checks every value that can be checked without the model and the data.
    ///
    /// Errors: `Error::Config` for the first value that cannot work, `Error::Device` for a device that this
    /// build cannot use.
    pub fn check(&self) -> Result<()> {
        check_model(&self.model)?;
        check_data(&self.data)?;
        check_method(&self.train.method)?;
        check_training(&self.train)?;
        check_optimizer(&self.train)?;
        check_output(&self.train)?;
        check_restarts(&self.train)?;
        targets::check(&self.train)?;
        check_adapter(self)?;
        check_base_storage(self)?;
        rank::check(self)?;
        methods::check(self)?;
        check_warm_start(self)?;
        check_device(&self.train.device)
    }
}

fn check_model(model: &ModelTable) -> Result<()> {
    not_empty("model.model", &model.model)?;
    if let Some(adapter) = &model.adapter {
        not_empty("model.adapter", adapter)?;
    }
    for (key, value, most) in [
        ("model.hidden_size", model.hidden_size, LARGEST_SIZE),
        ("model.intermediate_size", model.intermediate_size, LARGEST_SIZE),
        ("model.num_hidden_layers", model.num_hidden_layers, MOST_LAYERS),
        ("model.num_attention_heads", model.num_attention_heads, LARGEST_SIZE),
        ("model.num_key_value_heads", model.num_key_value_heads, LARGEST_SIZE),
    ] {
        at_least_if_set(key, value, 1)?;
        at_most(key, value.unwrap_or(1), most)?;
    }
    Ok(())
}

fn check_data(data: &DataTable) -> Result<()> {
    not_empty("data.data", &data.data)?;
    if let Some(tokenizer) = &data.tokenizer {
        not_empty("data.tokenizer", tokenizer)?;
    }
    // One token to see and one to predict.
    if let Some(template) = &data.chat_template {
        not_empty("data.chat_template", template)?;
    }
    at_least_if_set("data.max_seq_length", data.max_seq_length, 2)?;
    at_most("data.max_seq_length", data.max_seq_length.unwrap_or(2), LARGEST_SIZE)?;
    let share = data.valid_fraction;
    number("data.valid_fraction", share, share > 0.0 && share < 1.0, "above 0 and below 1")
}

/// Checks the names that `--methods` gives.
///
/// Errors: `Error::Config` with the nearest name.
pub fn check_methods_flag(methods: &[String]) -> Result<()> {
    match methods.iter().find(|method| !settings::METHODS.contains(&method.as_str())) {
        None => Ok(()),
        Some(method) => {
            let remedy = match nearest(&method.replace('_', "-"), settings::METHODS.iter().copied())
            {
                Some(name) => format!("did you mean {name}?"),
                None => format!("this version has {}", in_words(settings::METHODS, "and")),
            };
            Err(Error::config(format!("--methods names `{method}`, which is no method"), remedy))
        }
    }
}

fn check_method(method: &str) -> Result<()> {
    if settings::METHODS.contains(&method) {
        return Ok(());
    }
    let remedy = match nearest(&method.replace('_', "-"), settings::METHODS.iter().copied()) {
        Some(name) => format!("did you mean {name}? {}", place("train.method", name)),
        None => format!(
            "this version has {}: {}",
            in_words(settings::METHODS, "and"),
            place("train.method", "NAME")
        ),
    };
    Err(Error::config(format!("train.method is `{method}`, which is no method"), remedy))
}

fn check_training(train: &TrainTable) -> Result<()> {
    at_least_if_set("train.rank", train.rank, 1)?;
    at_least_if_set("train.rank_first", train.rank_first, 1)?;
    at_least_if_set("train.rank_last", train.rank_last, 1)?;
    ranks::check(train)?;
    if let Some(alpha) = train.alpha {
        positive("train.alpha", alpha)?;
    }
    at_least_if_set("train.iters", train.iters, 1)?;
    if let Some(minutes) = train.max_minutes {
        positive("train.max_minutes", minutes)?;
    }
    if let Some(budget) = train.memory_budget {
        positive("train.memory_budget", budget)?;
    }
    at_least_if_set("train.batch_size", train.batch_size, 1)?;
    at_most("train.batch_size", train.batch_size.unwrap_or(1), MOST_SEQUENCES)?;
    at_least("train.grad_accumulation_steps", train.grad_accumulation_steps, 1)?;
    at_most("train.grad_accumulation_steps", train.grad_accumulation_steps, MOST_SEQUENCES)?;
    at_most("train.threads", train.threads, MOST_THREADS)
}

fn check_optimizer(train: &TrainTable) -> Result<()> {
    if let Some(rate) = train.learning_rate {
        not_negative("train.learning_rate", rate)?;
    }
    if let Some(schedule) = &train.lr_schedule {
        one_of("train.lr_schedule", schedule, settings::SCHEDULES)?;
    }
    let share = train.min_lr_ratio;
    number("train.min_lr_ratio", share, (0.0..=1.0).contains(&share), "from 0 to 1")?;
    for (key, beta) in [("train.beta1", train.beta1), ("train.beta2", train.beta2)] {
        number(key, beta, (0.0..1.0).contains(&beta), "from 0 to below 1")?;
    }
    positive("train.adam_eps", train.adam_eps)?;
    one_of("train.adam_form", &train.adam_form, settings::ADAM_FORMS)?;
    not_negative("train.weight_decay", train.weight_decay)?;
    match train.max_grad_norm {
        Some(norm) => not_negative("train.max_grad_norm", norm),
        None => Ok(()),
    }
}

/// A given adapter fixes what it is.
fn check_adapter(config: &RunConfig) -> Result<()> {
    const METHODS: [&str; 4] = ["lora", "lora-plus", "rslora", "dora"];
    let Some(adapter) = &config.model.adapter else { return Ok(()) };
    let train = &config.train;
    if !METHODS.contains(&train.method.as_str()) {
        return Err(Error::config(
            format!(
                "train.method is {}, which cannot go on with the adapter {adapter}",
                train.method
            ),
            "give --method lora, lora-plus, rslora or dora, whichever the adapter is",
        ));
    }
    if config.is_plain_lora() && (config.lora.start() != "standard" || config.lora.base != "dense")
    {
        return Err(Error::config(
            "lora.init and lora.base do not go with an adapter, which has its start",
            "leave them out",
        ));
    }
    if train.rank_first.is_some() || train.rank_last.is_some() {
        return Err(Error::config(
            "train.rank_first and train.rank_last do not go with an adapter, which has its ranks",
            "leave them out",
        ));
    }
    Ok(())
}

/// Weights in few bits cannot be changed a little.
fn check_base_storage(config: &RunConfig) -> Result<()> {
    let (storage, method) = (config.model.base_storage.as_str(), config.train.method.as_str());
    one_of("model.base_storage", storage, settings::BASE_STORAGES)?;
    let reason = match method {
        _ if storage == "f32" => return Ok(()),
        "lora" | "rslora" | "lora-plus" if config.lora.base == "none" => {
            "lora.base = none leaves no dense weight to store"
        }
        "lora" | "rslora" | "lora-plus" | "lora-ga" | "pissa" | "dora" | "relora" => return Ok(()),
        "switchlora" => {
            "switchlora moves a little into the weight at every update, and most of it would be less than one step of \
             such a code"
        }
        "lte" => {
            "lte moves the mean of its heads into the weight, which such a code would round off"
        }
        "sltrain" | "inrank" => "this method has no dense weight to store",
        _ => "this method trains the weight itself, in steps far below those of such a code",
    };
    Err(Error::config(
        format!("model.base_storage is {storage}, which does not go with {method}: {reason}"),
        "give --base-storage f32, or one of --method lora, rslora, lora-plus, lora-ga, pissa, dora and relora",
    ))
}

fn check_output(train: &TrainTable) -> Result<()> {
    at_least_if_set("train.early_stop", train.early_stop, 1)?;
    at_least_if_set("train.steps_per_report", train.steps_per_report, 1)?;
    at_least_if_set("train.eval_every", train.eval_every, 1)?;
    one_of("train.alert_policy", &train.alert_policy, settings::ALERT_POLICIES)?;
    if let Some(command) = &train.on_alert
        && command.trim().is_empty()
    {
        return Err(wrong("train.on_alert", "empty", "a command"));
    }
    at_least("train.keep_checkpoints", train.keep_checkpoints, 1)
}

/// The schedule with restarts needs cycles, which only one method has.
fn check_restarts(train: &TrainTable) -> Result<()> {
    if train.lr_schedule.as_deref() == Some("cosine_restarts") && train.method != "relora" {
        return Err(Error::config(
            format!(
                "train.lr_schedule is `cosine_restarts`, which goes with relora, not with {}",
                train.method
            ),
            "give --method relora with it, or another --lr-schedule",
        ));
    }
    Ok(())
}

fn check_warm_start(config: &RunConfig) -> Result<()> {
    let (method, warm_start) = (&config.train.method, config.warm_start());
    match config.train.iters {
        Some(iters) if warm_start >= iters && warm_start > 0 => Err(Error::config(
            format!("{method}.warm_start is {warm_start}, but train.iters is {iters}"),
            format!(
                "give --{method}-warm-start {} or less, or more --iters; --method full trains \
                 full rank all the way",
                iters - 1
            ),
        )),
        _ => Ok(()),
    }
}

fn check_device(device: &str) -> Result<()> {
    let is_gpu = device == "gpu"
        || device.strip_prefix("gpu:").is_some_and(|index| index.parse::<usize>().is_ok());
    match device {
        "auto" | "cpu" | "software" => Ok(()),
        _ if is_gpu => Ok(()),
        _ => Err(wrong("train.device", format!("`{device}`"), "auto, cpu, gpu, gpu:N or software")),
    }
}

/// The error for a value outside its range: both sides in the first line, where to set it in the second.
fn wrong(key: &str, value: impl Display, expected: &str) -> Error {
    let name = settings::find(key).map_or("VALUE", |setting| setting.value);
    Error::config(format!("{key} is {value}, expected {expected}"), place(key, name))
}

/// Where a setting is set, as an instruction.
fn place(key: &str, value: &str) -> String {
    match settings::find(key) {
        Some(setting) => format!(
            "set --{} {value}, or {} under [{}]",
            setting.flag,
            setting.name(),
            setting.table()
        ),
        None => format!("set {key}"),
    }
}

/// `a, b and c`, or with another word than "and".
fn in_words(words: &[&str], last_join: &str) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).into(),
        [first @ .., last] => format!("{} {last_join} {last}", first.join(", ")),
    }
}

pub(super) fn at_least<T: Copy + PartialOrd + Display>(
    key: &str,
    value: T,
    least: T,
) -> Result<()> {
    if value >= least { Ok(()) } else { Err(wrong(key, value, &format!("{least} or more"))) }
}

pub(super) fn at_most(key: &str, value: usize, most: usize) -> Result<()> {
    if value <= most { Ok(()) } else { Err(wrong(key, value, &format!("at most {most}"))) }
}

pub(super) fn at_least_if_set<T: Copy + PartialOrd + Display>(
    key: &str,
    value: Option<T>,
    least: T,
) -> Result<()> {
    value.map_or(Ok(()), |value| at_least(key, value, least))
}

pub(super) fn number(key: &str, value: f64, is_right: bool, expected: &str) -> Result<()> {
    if is_right { Ok(()) } else { Err(wrong(key, value, expected)) }
}

pub(super) fn positive(key: &str, value: f64) -> Result<()> {
    number(key, value, value > 0.0 && value.is_finite(), "above 0 and finite")
}

pub(super) fn not_negative(key: &str, value: f64) -> Result<()> {
    number(key, value, value >= 0.0 && value.is_finite(), "0 or more and finite")
}

pub(super) fn not_negative_if_set(key: &str, value: Option<f64>) -> Result<()> {
    value.map_or(Ok(()), |value| not_negative(key, value))
}

fn not_empty(key: &str, value: &str) -> Result<()> {
    if value.trim().is_empty() { Err(wrong(key, "empty", "a name or a path")) } else { Ok(()) }
}

pub(super) fn one_of(key: &str, value: &str, words: &[&str]) -> Result<()> {
    if words.contains(&value) {
        return Ok(());
    }
    let remedy = match nearest(value, words.iter().copied()) {
        Some(word) => format!("did you mean {word}? {}", place(key, word)),
        None => place(key, "NAME"),
    };
    let expected = in_words(words, "or");
    Err(Error::config(format!("{key} is `{value}`, expected {expected}"), remedy))
}
