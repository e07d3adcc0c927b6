//! What a given adapter and the choice of layers mean for a configuration.

use std::path::Path;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::formats::peft::{Module, PeftConfig, target_names};
use crate::model::ModelConfig;
use crate::model::config::{TargetLayer, target_layers};

use super::ModelSource;

/// Takes rank, alpha and layers from a given adapter, and checks that every name of `train.target_modules` is a layer.
///
/// Errors: an adapter without a model folder, or of another kind than the method; settings that differ from the
/// adapter's; a name that no layer has.
pub fn resolve(config: &mut RunConfig, source: &ModelSource, shape: &ModelConfig) -> Result<()> {
    if let Some(folder) = config.model.adapter.clone() {
        let train = &config.train;
        let is_resolved =
            train.rank.is_some() && train.alpha.is_some() && train.target_modules.is_some();
        // A run that resumes has all of it, and the adapter's values from its checkpoint.
        if !is_resolved || Path::new(&folder).exists() {
            take(config, Path::new(&folder), source, shape)?;
        }
    }
    check_names(config, shape)
}

fn take(
    config: &mut RunConfig,
    folder: &Path,
    source: &ModelSource,
    shape: &ModelConfig,
) -> Result<()> {
    if matches!(source, ModelSource::Preset(_)) {
        return Err(Error::config(
            format!(
                "model.adapter is {}, but {} is a preset with random weights",
                folder.display(),
                config.model.model
            ),
            "give the adapter's base with --model DIR",
        ));
    }
    let given = PeftConfig::read(folder)?;
    let fits: &[&str] = match (given.use_dora, given.use_rslora) {
        (true, _) => &["dora"],
        (false, true) => &["rslora"],
        (false, false) => &["lora", "lora-plus"],
    };
    let method = config.train.method.as_str();
    if !fits.contains(&method) {
        return Err(Error::config(
            format!("the adapter {} is {}, the method is {method}", folder.display(), given.kind()),
            format!("give --method {}", fits.join(" or ")),
        ));
    }
    let network: Vec<Module> = target_layers(shape)
        .iter()
        .map(|layer| Module { name: layer.name(), rows: layer.rows, cols: layer.cols })
        .collect();
    if given.dropout > 0.0 {
        let (folder, share) = (folder.display(), given.dropout);
        tracing::warn!("{folder}: lora_dropout is {share}; training here applies none");
    }
    let targets = given.targets(&network)?;
    let rank = targets.iter().map(|module| given.rank_of(&module.name)).max();
    let rank = rank.unwrap_or(given.rank);
    let chosen: Vec<String> = targets.iter().map(|module| module.name.clone()).collect();
    let names = if chosen.len() == network.len() {
        "all-linear".to_owned()
    } else {
        target_names(network.iter().map(|module| module.name.as_str()), &chosen).join(",")
    };
    let train = &mut config.train;
    let differs = |key: &str, ours: String, theirs: String| {
        Err(Error::config(
            format!("{key} is {ours}, the adapter {} has {theirs}", folder.display()),
            format!("leave {key} out: an adapter keeps what it was made with"),
        ))
    };
    match train.rank {
        Some(ours) if ours != rank => {
            return differs("train.rank", ours.to_string(), rank.to_string());
        }
        _ => train.rank = Some(rank),
    }
    match train.alpha {
        Some(ours) if ours != given.alpha => {
            return differs("train.alpha", ours.to_string(), given.alpha.to_string());
        }
        _ => train.alpha = Some(given.alpha),
    }
    let meant = train.targets();
    if train.target_modules.is_some()
        && network
            .iter()
            .any(|module| meant.contains(&module.name) != chosen.contains(&module.name))
    {
        let ours = train.target_modules.clone().unwrap_or_default();
        return differs("train.target_modules", ours, names);
    }
    train.target_modules = Some(names);
    Ok(())
}

fn check_names(config: &RunConfig, shape: &ModelConfig) -> Result<()> {
    let targets = config.train.targets();
    let layers: Vec<String> = target_layers(shape).iter().map(TargetLayer::name).collect();
    for name in targets.names() {
        let end = format!(".{name}");
        if layers.iter().any(|layer| layer == name || layer.ends_with(&end)) {
            continue;
        }
        let mut ends: Vec<&str> =
            layers.iter().filter_map(|layer| layer.rsplit('.').next()).collect();
        ends.truncate(7);
        return Err(Error::config(
            format!("train.target_modules names `{name}`, which is no linear layer of a block"),
            format!("use names among {}, or all-linear", ends.join(", ")),
        ));
    }
    Ok(())
}
