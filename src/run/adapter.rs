//! The result of a run, or an adapter that was opened, as the layers of an adapter for the untouched base; and folders
//! that appear whole.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::formats::atomic::sync_folder;
use crate::formats::hub::HubId;
use crate::formats::peft::{AdapterLayer, BaseName, Module, is_zero};
use crate::methods::{Export, Method, PlainAdapter, given};
use crate::model::{LinearId, Model};

use super::open::Opened;

/// An adapter, ready to be written in any form.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// Its layers, in the network's order.
    pub layers: Vec<AdapterLayer>,
    /// All linear layers of the base.
    pub network: Vec<Module>,
    /// Whether its scales are `alpha/√r`.
    pub use_rslora: bool,
    /// The base model.
    pub base_model: BaseName,
}

impl Collected {
    /// Layers whose `B` is zero: the adapter changes nothing there.
    pub fn zero_layers(&self) -> Vec<&str> {
        let zero = self.layers.iter().filter(|layer| is_zero(layer));
        zero.map(|layer| layer.module.name.as_str()).collect()
    }

    /// The largest rank.
    pub fn rank(&self) -> usize {
        self.layers.iter().map(|layer| layer.rank).max().unwrap_or(0)
    }

    /// The kind in PEFT's words.
    pub fn kind(&self) -> &'static str {
        match (self.layers.first().is_some_and(|layer| layer.magnitude.is_some()), self.use_rslora)
        {
            (true, _) => "DoRA",
            (false, true) => "rsLoRA",
            (false, false) => "LoRA",
        }
    }
}

/// The adapter of what was opened.
///
/// Errors: there is none, or it would not hold the result: the method changes the weights at full rank, something
/// beside the adapters was trained, or the base is a preset's random weights, which no file holds.
pub fn collect(opened: &Opened) -> Result<Collected> {
    let network = given::modules(&opened.model);
    if let Some(adapter) = &opened.adapter {
        return Ok(Collected {
            layers: adapter.layers.clone(),
            network,
            use_rslora: adapter.config.use_rslora,
            base_model: base_name(&opened.config.model.model),
        });
    }
    let Some(method) = &opened.method else {
        return Err(Error::config(
            format!("{} is a model without an adapter", opened.name),
            "name a run of an adapter method, or give --adapter DIR with it",
        ));
    };
    let (layers, use_rslora) = of_method(method.as_ref(), &opened.model)?;
    if opened.is_preset {
        return Err(Error::run(
            format!(
                "the base of {} is the random start of the preset {}, which no file holds",
                opened.name, opened.config.model.model
            ),
            "export the merged model with --format hf",
        ));
    }
    Ok(Collected { layers, network, use_rslora, base_model: base_name(&opened.config.model.model) })
}

/// The base as other machines know it: `ORG/NAME` and the commit of a folder in the Hugging Face cache
/// (`models--ORG--NAME/snapshots/COMMIT`) or of an id `ORG/NAME@REVISION`, else the folder itself.
fn base_name(model: &str) -> BaseName {
    let parts: Vec<&str> = model.split(['/', '\\']).collect();
    let of_cache = parts.windows(3).find_map(|parts| match parts {
        [name, "snapshots", commit] => Some((name.strip_prefix("models--")?, *commit)),
        _ => None,
    });
    if let Some((name, commit)) = of_cache {
        return BaseName { name: name.replacen("--", "/", 1), revision: Some(commit.to_owned()) };
    }
    match model.split_once('@').filter(|_| HubId::parse(model).is_some()) {
        Some((name, revision)) => {
            BaseName { name: name.to_owned(), revision: Some(revision.to_owned()) }
        }
        None => model.into(),
    }
}

/// The layers of a method's plain adapter, and whether their scales are `alpha/√r`.
///
/// Errors: the method's result is no adapter.
pub fn of_method(method: &dyn Method, model: &Model) -> Result<(Vec<AdapterLayer>, bool)> {
    if method.export(model) == Export::Merged {
        let trains_rest = model.non_targets().iter().any(|&id| model.params.is_trainable(id));
        let has_pairs = model.linears().iter().any(|linear| linear.adapter.is_some());
        let what = if trains_rest && has_pairs {
            format!(
                "{} trained embedding, head and norms beside its factors: no adapter holds that",
                method.name()
            )
        } else {
            format!(
                "the change that {} makes to the weights is not one low-rank pair for each layer: its last factors \
                 are not the result",
                method.name()
            )
        };
        return Err(Error::run(what, "export the merged model with --format hf"));
    }
    let mut use_rslora = false;
    let mut layers = Vec::new();
    for (index, linear) in model.linears().iter().enumerate() {
        let Some(plain) = method.plain_adapter(model, LinearId(index)) else { continue };
        let PlainAdapter { a, b, rank, scale, is_rank_stabilised, magnitude } = plain;
        use_rslora |= is_rank_stabilised;
        let module = Module { name: linear.name.clone(), rows: linear.rows, cols: linear.cols };
        layers.push(AdapterLayer { module, a, b, rank, scale, magnitude });
    }
    Ok((layers, use_rslora))
}

/// Makes a folder that appears with all its files or not at all.
///
/// Errors: there is something of this name that is not an empty folder; what `write` returns.
pub fn whole_folder(folder: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    check_free(folder)?;
    let mut partial = folder.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    if partial.exists() {
        fs::remove_dir_all(partial).map_err(Error::io("remove", partial))?;
    }
    fs::create_dir_all(partial).map_err(Error::io("create", partial))?;
    let written = write(partial).and_then(|()| sync_folder(partial)).and_then(|()| {
        if folder.exists() {
            fs::remove_dir(folder).map_err(Error::io("replace", folder))?;
        }
        fs::rename(partial, folder).map_err(Error::io("rename", partial))
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(partial);
    }
    written
}

/// Refuses a place where something is.
pub fn check_free(folder: &Path) -> Result<()> {
    let is_free = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_free {
        return Ok(());
    }
    Err(Error::file(
        folder,
        "is there already",
        "choose another place with --to, or remove it; nothing was written",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_in_the_hugging_face_cache_is_called_by_its_id() {
        let cached = "hub/models--HuggingFaceTB--SmolLM2-135M/snapshots/0a1b2c";
        let name = |model: &str| {
            let BaseName { name, revision } = base_name(model);
            (name, revision.unwrap_or_default())
        };
        let pair = |name: &str, revision: &str| (name.to_owned(), revision.to_owned());
        assert_eq!(name(cached), pair("HuggingFaceTB/SmolLM2-135M", "0a1b2c"));
        assert_eq!(name("org/name@v2"), pair("org/name", "v2"));
        assert_eq!(name("models--a--b/other"), pair("models--a--b/other", ""));
        assert_eq!(name("models/base"), pair("models/base", ""));
        assert_eq!(name("/my/models@home/base"), pair("/my/models@home/base", ""));
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all_and_replaces_nothing() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("new");
        let failed = whole_folder(&folder, |partial| {
            fs::write(partial.join("a"), b"1").unwrap();
            Err(Error::run("no", "never"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left");
        let write = |partial: &Path| {
            fs::write(partial.join("a"), b"1").unwrap();
            Ok(())
        };
        fs::create_dir(&folder).unwrap();
        whole_folder(&folder, write).unwrap();
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"1");
        assert!(whole_folder(&folder, write).is_err(), "it is taken");
        assert!(check_free(&folder.join("a")).is_err(), "a file is no free place");
    }
}
