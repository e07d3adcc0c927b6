//! Commands that look at runs, steer them or predict them; none of them trains.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use super::{ascii_arg, config_arg, device_arg, file_arg, folder_arg, json_arg, out_arg, run_arg};
use crate::cli::settings;
use crate::runlog::control;

pub(super) fn ctl_command() -> Command {
    Command::new("ctl")
        .about("Commands a live run: pause, resume, checkpoint, stop, change a setting and more")
        .long_about(
            "Commands a live run, from a script or another terminal. Waits until the run has answered, \
             unless told not to.",
        )
        .arg(run_arg())
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .required(true)
                .value_parser(PossibleValuesParser::new(control::WORDS))
                .help("What to do")
                .long_help(
                    "pause: stop updating; resume: go on; unload: save, free the device's memory and wait for resume; \
                     checkpoint: save now; sample, eval, spectra: write text, measure the validation loss or the \
                     ranks now; stop: save and end; set KEY=VALUE: change a setting from the next update on",
                ),
        )
        .arg(Arg::new("argument").value_name("KEY=VALUE").help(
            "For set: learning_rate=1e-4, learning_rate=*0.5, eval_every=50, switchlora.interval0=60, …",
        ))
        .arg(out_arg())
        .arg(
            Arg::new("no-wait")
                .long("no-wait")
                .action(ArgAction::SetTrue)
                .help("Do not wait for the run's answer"),
        )
}

pub(super) fn estimate_command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("estimate")
        .about("Predicts what methods need, before anything runs")
        .long_about(
            "Predicts what methods need before anything runs: memory by category, trained parameters, \
             activations with and without recomputation, what data-parallel workers would send, and, \
             with --memory-budget, the largest rank and batch that fit. Nothing is allocated, so any \
             preset will do. Takes the settings of `train`.",
        )
        .args_override_self(true)
        .next_help_heading("Estimate")
        .arg(config_arg())
        .arg(
            Arg::new("methods")
                .long("methods")
                .value_name("NAME,...")
                .value_delimiter(',')
                .help("Methods to compare, or `all` [default: --method]"),
        )
        .arg(
            Arg::new("vocab-size")
                .long("vocab-size")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=1 << 24))
                .help("Entries of the vocabulary [default: the tokenizer's]"),
        )
        .arg(flag("measure", "Time a few updates on random tokens too, which allocates the model"))
        .arg(json_arg())
        .args(settings::flags())
}

pub(super) fn watch_command() -> Command {
    Command::new("watch")
        .about("Opens the full screen on runs, live or finished")
        .long_about(
            "Opens the full screen on runs that another process trains, or that are over: look at them, \
             compare them, command live ones. --once prints one frame, for scripts and logs.",
        )
        .args_override_self(true)
        .arg(
            Arg::new("run")
                .value_name("RUN|COMPARISON")
                .num_args(0..)
                .value_hint(ValueHint::DirPath)
                .help("Runs or comparisons: folders, names in --out, `latest` [default: latest]"),
        )
        .arg(out_arg())
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("Print one frame as text and leave"),
        )
        .arg(
            file_arg("svg").help("Draw one frame into this SVG file and leave"),
        )
        .arg(
            Arg::new("size")
                .long("size")
                .value_name("COLUMNSxROWS")
                .help("Size of that frame [default: COLUMNS and LINES, else 100x30]"),
        )
        .arg(
            Arg::new("view")
                .long("view")
                .value_name("NAME")
                .value_parser(PossibleValuesParser::new([
                    "train", "compare", "switches", "rank", "system", "logs", "runs",
                ]))
                .help("View to begin with"),
        )
        .arg(
            Arg::new("speed")
                .long("speed")
                .value_name("TIMES")
                .value_parser(value_parser!(f64))
                .help("Play the runs again, so many times as fast as they were"),
        )
        .arg(ascii_arg())
}

pub(super) fn report_command() -> Command {
    Command::new("report")
        .about("Writes a page with plots and a table of runs or of a comparison")
        .long_about(
            "Writes a page with plots and a table of runs or of a comparison, finished or not: report.html, which \
             needs nothing else, each plot as SVG and PNG, and the table as Markdown, CSV and JSON. Of several \
             runs the first is the baseline.",
        )
        .arg(
            Arg::new("run")
                .value_name("RUN|COMPARISON")
                .required(true)
                .num_args(1..)
                .value_hint(ValueHint::DirPath)
                .help("A comparison, or runs: folders, names in --out, `latest`"),
        )
        .arg(out_arg())
        .arg(
            folder_arg("to").help("Folder of the report [default: report/ beside the runs]"),
        )
        .arg(
            Arg::new("at")
                .long("at")
                .value_name("tokens=N|step=N|time=S")
                .help("Look at all runs at this budget"),
        )
}

pub(super) fn bench_command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let size = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .default_value(default)
            .value_parser(value_parser!(u64).range(1..=1 << 24))
            .help(help)
    };
    Command::new("bench")
        .about("Measures kernels and training steps beside stock burn")
        .long_about(
            "Measures every kernel and whole training steps, turn by turn with the same in the stock \
             operations of the tensor library burn. Other jobs on the machine only slow things down: \
             compare the best times. On a slow device it makes fewer turns and takes about 5 minutes.",
        )
        .args_override_self(true)
        .arg(device_arg())
        .arg(
            Arg::new("methods")
                .long("methods")
                .value_name("NAME,...")
                .value_delimiter(',')
                .default_value("full,lora,switchlora")
                .help("Whose steps are timed"),
        )
        .arg(
            Arg::new("rounds")
                .long("rounds")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..))
                .help("Timed turns of each [default: as many as there is time for]"),
        )
        .arg(flag("kernels-only", "Kernels, no steps").conflicts_with("steps-only"))
        .arg(flag("steps-only", "Steps, no kernels"))
        .arg(flag("no-stock", "Ours alone"))
        .arg(
            Arg::new("profile")
                .long("profile")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=10_000))
                .conflicts_with("kernels-only")
                .help("Then N updates of each method with every GPU program timed by itself"),
        )
        .arg(
            flag("screen", "The screen in place of both: long runs loaded, drawn and gone through")
                .conflicts_with_all(["kernels-only", "steps-only"]),
        )
        .arg(
            Arg::new("updates")
                .long("updates")
                .value_name("N")
                .default_value("1000000")
                .value_parser(value_parser!(u64).range(1..=10_000_000))
                .help("Updates of each run on the screen"),
        )
        .arg(
            Arg::new("threads")
                .long("threads")
                .value_name("N")
                .default_value("0")
                .value_parser(value_parser!(u64).range(..=1024))
                .help("Worker threads; 0 means all cores"),
        )
        .arg(json_arg())
        .next_help_heading("Sizes")
        .args([
            size("dim", "256", "Width of the network"),
            size("layers", "6", "Blocks"),
            size("heads", "4", "Attention heads"),
            size("ffn", "688", "Width of the MLP"),
            size("vocab", "4096", "Vocabulary"),
            size("seq", "256", "Tokens of a sequence"),
            size("batch", "8", "Sequences of a batch"),
            size("rank", "64", "Rank of the adapters"),
        ])
}
