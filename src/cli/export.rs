//! `fullrank export`: the result of a run, or a model with an adapter, in the files of other tools.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::args::text;
use super::commands::{device_arg, folder_arg, out_arg};
use super::{print, source};
use crate::error::{Error, Result};
use crate::formats::gguf::{Format, GgufModel};
use crate::formats::{mlx, peft};
use crate::report::tfevents;
use crate::run::adapter::{Collected, check_free, collect, whole_folder};
use crate::run::export::{write_gguf, write_model};
use crate::run::open::{Opened, Source, Which};
use crate::run::session::with_threads;
use crate::runlog::find;

const EXAMPLES: &str = "\
Examples:
  fullrank export latest                                     the newest checkpoint, merged
  fullrank export latest --best --format peft --to tuned     an adapter of the best one
  fullrank export --model base --adapter tuned --to merged   a model with an adapter in it
  fullrank export latest --format gguf --dtype q8_0          for llama.cpp, in 8 bits

LoRA, rsLoRA, LoRA+ and DoRA give adapters of their rank, LoRA-GA and PiSSA of twice their rank for the untouched base.
The other methods change the weights at full rank: their result is the merged model.";

/// A form that other tools read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// A Hugging Face directory with everything merged into the weights.
    Hf,
    /// A PEFT adapter for the untouched base.
    Peft,
    /// The same as mlx-lm has it.
    Mlx,
    /// A GGUF file with everything merged into the weights, and its matrices in this format.
    Gguf(Format),
    /// What a run's log says, as event files of `TensorBoard`.
    TensorBoard,
}

impl ExportFormat {
    /// The names on the command line.
    pub const NAMES: [&'static str; 5] = ["hf", "peft", "mlx", "gguf", "tensorboard"];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::Peft => "peft",
            Self::Mlx => "mlx",
            Self::Gguf(_) => "gguf",
            Self::TensorBoard => "tensorboard",
        }
    }
}

/// What `export` is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportArgs {
    /// What is exported.
    pub source: Source,
    /// As what.
    pub format: ExportFormat,
    /// The folder to make, or the GGUF file; without it one in the run's.
    pub to: Option<PathBuf>,
    /// Write an adapter that changes nothing, too.
    pub force: bool,
}

/// The command line.
pub fn command() -> Command {
    Command::new("export")
        .about("Writes a run's result, or a model with an adapter, in the files of other tools")
        .long_about(
            "Writes a run's result, or a model folder with an adapter, in the files of other tools: a merged \
             Hugging Face model, or for methods whose result is one an adapter for the untouched base. Prints \
             the folder that it made.",
        )
        .after_help(EXAMPLES)
        .args_override_self(true)
        .args(source::args())
        .arg(out_arg())
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("NAME")
                .default_value("hf")
                .value_parser(PossibleValuesParser::new(ExportFormat::NAMES))
                .hide_possible_values(true)
                .help("hf: merged model; peft or mlx: adapter as PEFT or mlx-lm has it; gguf: merged, for llama.cpp; tensorboard: the curves of a run"),
        )
        .arg(
            Arg::new("dtype")
                .long("dtype")
                .value_name("NAME")
                .default_value("f16")
                .value_parser(PossibleValuesParser::new(DTYPES.map(|(name, _)| name)))
                .hide_possible_values(true)
                .help("Matrices of a GGUF file: f16, q8_0 (8 bits) or f32"),
        )
        .arg(
            Arg::new("merge")
                .long("merge")
                .action(ArgAction::SetTrue)
                .conflicts_with("format")
                .help("Merge adapters into the weights: the same as --format hf"),
        )
        .arg(
            folder_arg("to").help("Folder to make, or FILE.gguf [default: export/ in the run's folder]"),
        )
        .arg(
            Arg::new("force")
                .long("force")
                .action(ArgAction::SetTrue)
                .help("Write an adapter that changes nothing, too"),
        )
        .arg(device_arg().default_value("cpu").help("Device to merge on"))
}

/// What was given.
///
/// Errors: `--dtype` for another format than `gguf`; a choice among networks for the curves of a run.
pub fn args(matches: &ArgMatches) -> Result<ExportArgs> {
    let format = match text(matches, "format").as_str() {
        "peft" => ExportFormat::Peft,
        "mlx" => ExportFormat::Mlx,
        "gguf" => ExportFormat::Gguf(dtype(&text(matches, "dtype"))),
        "tensorboard" => ExportFormat::TensorBoard,
        _ => ExportFormat::Hf,
    };
    let has_dtype = matches.value_source("dtype") == Some(ValueSource::CommandLine);
    if has_dtype && !matches!(format, ExportFormat::Gguf(_)) {
        return Err(Error::config(
            format!("--dtype is for --format gguf, and the format is {}", format.name()),
            "leave it out (the other formats are f32), or take --format gguf",
        ));
    }
    let source = source::read(matches);
    if format == ExportFormat::TensorBoard {
        let given = [
            ("--step", matches!(source.which, Which::Step(_))),
            ("--best", source.which == Which::Best),
            ("--adapter", source.adapter.is_some()),
            ("--force", matches.get_flag("force")),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, is_given)| *is_given) {
            return Err(Error::config(
                format!(
                    "{flag} is for networks, and --format tensorboard writes the curves of a whole run"
                ),
                "leave it out, or take another --format",
            ));
        }
    }
    Ok(ExportArgs {
        source,
        format,
        // Without a slash at its end, so that names can be made from it.
        to: matches.get_one::<PathBuf>("to").map(|to| to.components().collect()),
        force: matches.get_flag("force"),
    })
}

/// The formats of a GGUF file's matrices.
const DTYPES: [(&str, Format); 3] =
    [("f16", Format::F16), ("q8_0", Format::Q8_0), ("f32", Format::F32)];

fn dtype(name: &str) -> Format {
    DTYPES.iter().find(|(known, _)| *known == name).map_or(Format::F16, |(_, format)| *format)
}

/// Writes one form into a folder of its own and prints the folder.
pub fn export(args: ExportArgs) -> Result<()> {
    with_threads(0, move || {
        let ExportArgs { source: wanted, format, to, force } = args;
        if format == ExportFormat::TensorBoard {
            return tensorboard(&wanted, to);
        }
        // Before the work: a folder that is given must be free.
        if let Some(to) = &to {
            check_free(to)?;
        }
        let opened = source::open(&wanted)?;
        let folder = match to {
            Some(to) => to,
            None => default_folder(&opened, &wanted, format)?,
        };
        let what = write(&opened, format, force, &folder)?;
        let base = Path::new(&opened.config.model.model);
        if format == ExportFormat::Peft && GgufModel::is_named(base) {
            print::notice(&format!(
                "its base is a GGUF file, which PEFT cannot load: `fullrank export {} --to base` makes a folder of it",
                base.display()
            ));
        }
        print::notice(&format!("{what} of {}", opened.name));
        if let Some(note) = base_note(&opened, format) {
            print::notice(&note);
        }
        writeln!(io::stdout(), "{}", folder.display()).map_err(print::stdout_failed)
    })
}

/// The curves of a run; the file of an earlier export is replaced.
fn tensorboard(source: &Source, to: Option<PathBuf>) -> Result<()> {
    let run = find(&source.out, &source.target)?;
    let folder = to.unwrap_or_else(|| run.path().join("tensorboard"));
    let file = tfevents::export(&run, &folder)?;
    print::notice(&format!("curves of {}; look at them with `tensorboard --logdir`", run.name()));
    writeln!(io::stdout(), "{}", file.display()).map_err(print::stdout_failed)
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
    let ending = if matches!(format, ExportFormat::Gguf(_)) { ".gguf" } else { "" };
    let name = format!("{}-step-{step:08}{ending}", format.name());
    let folder = dir.path().join("export").join(name);
    check_free(&folder)?;
    Ok(folder)
}

/// What the result of a run with weights in few bits belongs to: it was trained beside what these decode to.
fn base_note(opened: &Opened, format: ExportFormat) -> Option<String> {
    let form = opened.model.base_storage()?.format.name();
    Some(match format {
        ExportFormat::Peft | ExportFormat::Mlx => {
            format!(
                "trained beside a base in {form}; beside the base in f32 it gives a little else"
            )
        }
        _ => format!("merged into what the base in {form} decodes to, beside which it was trained"),
    })
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
        ExportFormat::Gguf(format) => {
            let run = opened.run.as_ref().map(|(dir, _)| dir.name());
            let name = run.as_deref().unwrap_or(&opened.name);
            let Opened { model, tokenizer, .. } = opened;
            if GgufModel::is_named(folder) {
                if let Some(parent) = folder.parent() {
                    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
                }
                write_gguf(folder, name, model, tokenizer, format)?;
            } else {
                whole_folder(folder, |folder| {
                    let file = format!("model-{}.gguf", format.name().to_lowercase());
                    write_gguf(&folder.join(file), name, model, tokenizer, format)
                })?;
            }
            Ok(format!("merged GGUF model in {}", format.name()))
        }
        // It needs no model and was written before one was opened.
        ExportFormat::TensorBoard => Ok("curves".into()),
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
