//! `fullrank export`: the result of a run, or a model with an adapter, in the files of other tools.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::args::{ExportArgs, ExportFormat};
use super::print;
use crate::error::{Error, Result};
use crate::formats::{mlx, peft};
use crate::run::adapter::{Collected, check_free, collect, whole_folder};
use crate::run::export::write_model;
use crate::run::open::{Opened, Source, open_source};
use crate::run::session::with_threads;

/// Writes one form into a folder of its own and prints the folder.
pub fn export(args: ExportArgs) -> Result<()> {
    with_threads(0, move || {
        let ExportArgs { source, format, to, force } = args;
        // Before the work: a folder that is given must be free.
        if let Some(to) = &to {
            check_free(to)?;
        }
        let opened = open_source(&source)?;
        let folder = match to {
            Some(to) => to,
            None => default_folder(&opened, &source, format)?,
        };
        let what = write(&opened, format, force, &folder)?;
        print::notice(&format!("{what} of {}", opened.name));
        writeln!(io::stdout(), "{}", folder.display()).map_err(print::stdout_failed)
    })
}

/// `<run>/export/<format>-step-00000600`.
///
/// Errors: a model folder has no such place.
fn default_folder(opened: &Opened, source: &Source, format: ExportFormat) -> Result<PathBuf> {
    let Some((dir, step)) = &opened.run else {
        return Err(Error::config(
            format!("{} is no run, so there is no place for the export", source.target),
            "give one with --to DIR",
        ));
    };
    let folder = dir.path().join("export").join(format!("{}-step-{step:08}", format.name()));
    check_free(&folder)?;
    Ok(folder)
}

/// Writes a form and says what it is.
fn write(opened: &Opened, format: ExportFormat, force: bool, folder: &Path) -> Result<String> {
    let base_blocks = opened.model.config.num_hidden_layers;
    match format {
        ExportFormat::Hf => {
            write_model(folder, &opened.model, &opened.tokenizer)?;
            Ok("merged Hugging Face model".into())
        }
        ExportFormat::Peft => {
            let adapter = adapter(opened, force)?;
            let Collected { layers, network, use_rslora, base_model } = &adapter;
            whole_folder(folder, |folder| {
                peft::write(folder, layers, network, base_model, *use_rslora)
            })?;
            Ok(described("PEFT", &adapter))
        }
        ExportFormat::Mlx => {
            let adapter = adapter(opened, force)?;
            whole_folder(folder, |folder| {
                mlx::write(folder, &adapter.layers, &adapter.base_model, base_blocks)
            })?;
            Ok(described("mlx-lm", &adapter))
        }
    }
}

fn described(tool: &str, adapter: &Collected) -> String {
    format!(
        "{tool} adapter ({}, rank {}, {} layers)",
        adapter.kind(),
        adapter.rank(),
        adapter.layers.len()
    )
}

/// The adapter, with a loud word where it would change nothing.
fn adapter(opened: &Opened, force: bool) -> Result<Collected> {
    let adapter = collect(opened)?;
    let (zero, all) = (adapter.zero_layers(), adapter.layers.len());
    if zero.len() == all && all > 0 && !force {
        return Err(Error::run(
            format!("lora_B is zero in all {all} layers: this adapter changes nothing"),
            "train it first; --force writes it all the same",
        ));
    }
    if let Some(first) = zero.first() {
        print::notice(&format!(
            "warning: lora_B is zero in {} of {all} layers, the first is {first}: the adapter changes nothing there",
            zero.len()
        ));
    }
    Ok(adapter)
}
