//! What `eval`, `generate` and `export` open: a run, one of its checkpoints, a model folder, or that with an adapter.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, ValueHint, value_parser};

use super::args::out;
use super::commands::folder_arg;
use super::print;
use crate::error::Result;
use crate::run::open::{Opened, Source, Which, open_source};

/// The arguments that say it, beside `--out` and `--device`.
pub fn args() -> [Arg; 5] {
    [
        Arg::new("target")
            .value_name("RUN|DIR")
            .required_unless_present("model")
            .value_hint(ValueHint::DirPath)
            .help("Folder of a run, its name in --out, `latest`, a Hugging Face folder or id, or a GGUF file"),
        Arg::new("model")
            .long("model")
            .value_name("DIR")
            .conflicts_with("target")
            .value_hint(ValueHint::DirPath)
            .help("The same, as a flag"),
        folder_arg("adapter").help("PEFT adapter to put on the Hugging Face folder"),
        Arg::new("step")
            .long("step")
            .value_name("N")
            .value_parser(value_parser!(u64))
            .conflicts_with("best")
            .help("The run's checkpoint after N updates [default: the newest]"),
        Arg::new("best")
            .long("best")
            .action(ArgAction::SetTrue)
            .help("The run's checkpoint with the lowest validation loss"),
    ]
}

/// Opens it, and says what is to be known of it.
pub fn open(source: &Source) -> Result<Opened> {
    let opened = open_source(source)?;
    for warning in &opened.warnings {
        print::notice(&format!("warning {warning}"));
    }
    Ok(opened)
}

/// What was said: the target itself or `--model`, with an adapter or a choice of checkpoint.
pub fn read(matches: &ArgMatches) -> Source {
    let named = matches.get_one::<String>("target").or_else(|| matches.get_one("model"));
    Source {
        target: named.cloned().unwrap_or_default(),
        out: out(matches),
        device: matches.get_one::<String>("device").cloned(),
        adapter: matches.get_one::<PathBuf>("adapter").cloned(),
        which: match matches.get_one::<u64>("step") {
            Some(&step) => Which::Step(step),
            None if matches.get_flag("best") => Which::Best,
            None => Which::Newest,
        },
    }
}
