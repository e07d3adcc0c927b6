//! The command line as clap sees it: commands, flags and their help. `args` reads the values back.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};
use clap_complete::Shell;

use super::{export, settings, source};

mod looking;

use looking::{bench_command, ctl_command, estimate_command, report_command, watch_command};

const EXAMPLES: &str = "\
Examples:
  fullrank train                                    SwitchLoRA on the built-in text
  fullrank train --method full --iters 500          full rank, for comparison
  fullrank train --data novels/ --rank 32           your own text
  fullrank train --config runs/NAME/run.toml        the settings of an earlier run
  fullrank compare --methods full,lora,switchlora   three methods side by side
  fullrank report latest                            plots and a table as a page
  fullrank watch latest                             the full screen on a run, live or finished
  fullrank ls                                       what has been trained
  fullrank resume latest                            go on after an interruption
  fullrank devices                                  which GPUs there are
  fullrank doctor                                   whether they compute right
  fullrank estimate --model 1.3B --methods all      what the methods would need
  fullrank generate latest --prompt \"It was\"        let the model write
  fullrank export latest --format peft              an adapter for the base it was trained on

Exit codes: 0 finished or stopped with a checkpoint, 1 failure, 2 wrong usage or configuration,
3 diverged, 4 no usable device or out of its memory, 130 or 143 interrupted with a checkpoint.";

const TRAIN_EXAMPLES: &str = "\
Examples:
  fullrank train
  fullrank train --method lora --rank 16 --learning-rate 2e-3
  fullrank train --data book.txt --tokenizer bytes --iters 2000 --name book
  fullrank train --config my.toml --seed 1

Settings can stand in a TOML file: --batch-size 8 is `batch_size = 8` under [train], and a method's
flags have a table of their own: --switchlora-ratio 0.2 is `ratio = 0.2` under [switchlora].
Flags win over the file. The spellings of Hugging Face (--max-steps, --learning_rate) work too.";

const COMPARE_EXAMPLES: &str = "\
Examples:
  fullrank compare --methods full,lora,switchlora,galore --iters 600
  fullrank compare --methods full,switchlora --ranks 16,32,64 --seeds 3
  fullrank compare --methods full,lora --for full:learning_rate=1e-3 --for lora:learning_rate=2e-3
  fullrank compare --methods switchlora --sweep switchlora-interval0=10,40,160,inf
  fullrank compare --resume latest

Every method has its own documented learning rate unless --learning-rate or --for sets one. --max-minutes and
--memory-budget are those of all runs together. Exit codes: 0 every run finished, 1 some failed or diverged
(the others are in the table), 2 wrong usage, 130 or 143 interrupted with a checkpoint of each.";

/// The whole command line.
pub fn command() -> Command {
    Command::new("fullrank")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Trains LLaMA-family language models with low-rank methods")
        .long_about(
            "Trains LLaMA-family language models with low-rank methods that reach full-rank quality. \
             `fullrank train` alone needs no files: text, tokenizer and model are built in.",
        )
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(train_command())
        .subcommand(compare_command())
        .subcommand(resume_command())
        .subcommand(eval_command())
        .subcommand(generate_command())
        .subcommand(export::command())
        .subcommand(
            Command::new("ls").about("Lists the runs, newest first").args([out_arg(), json_arg()]),
        )
        .subcommand(Command::new("show").about("Shows one run in detail").args([
            run_arg(),
            out_arg(),
            json_arg(),
        ]))
        .subcommand(
            Command::new("rm")
                .about("Moves runs to the trash folder")
                .long_about(
                    "Moves runs to .trash inside the folder of the runs. The name of a comparison moves it with all \
                     its members. What is live is refused.",
                )
                .args([
                    run_arg()
                        .value_name("RUN|COMPARISON")
                        .num_args(1..)
                        .help("Folder of a run or comparison, its name in --out, or `latest`, a run"),
                    out_arg(),
                ]),
        )
        .subcommand(watch_command())
        .subcommand(report_command())
        .subcommand(ctl_command())
        .subcommand(
            Command::new("devices")
                .about("Lists the GPUs of this machine and which one a run takes")
                .arg(json_arg()),
        )
        .subcommand(
            Command::new("doctor")
                .about("Tests every kernel on a device, in about a minute")
                .long_about(
                    "Tests every kernel on a device at real width, depth and length against slow exact \
                     loops, a model of 12 layers against the CPU, and the largest buffer. After 50 seconds it \
                     begins no other check and names those it left out; on the CPU and on a software adapter \
                     the seconds count in which it computes, so that beside other work it takes up to 4 \
                     minutes. Exits with 4 if a result is wrong.",
                )
                .args([device_arg(), json_arg()]),
        )
        .subcommand(estimate_command())
        .subcommand(bench_command())
        .subcommand(
            Command::new("keys").about("Lists the keys of the full screen").arg(
                Arg::new("md")
                    .long("md")
                    .action(ArgAction::SetTrue)
                    .help("Print Markdown, for the documentation"),
            ),
        )
        .subcommand(
            Command::new("completions")
                .about("Prints a completion script for a shell")
                .long_about(
                    "Prints a completion script for a shell, for example: \
                     fullrank completions bash > ~/.local/share/bash-completion/completions/fullrank",
                )
                .arg(
                    Arg::new("shell")
                        .value_name("SHELL")
                        .required(true)
                        .value_parser(value_parser!(Shell))
                        .help("The shell"),
                ),
        )
}

fn train_command() -> Command {
    Command::new("train")
        .about("Trains a model with one method")
        .long_about(
            "Trains a model with one method: a preset from random weights (pre-training), or a Hugging \
             Face folder (fine-tuning). Without options it pre-trains a small LLaMA with SwitchLoRA on \
             the built-in text.",
        )
        .after_help(TRAIN_EXAMPLES)
        .args_override_self(true)
        .next_help_heading("Run")
        .arg(config_arg())
        .arg(out_arg().help("Folder in which the run's folder is made").alias("output-dir"))
        .arg(
            Arg::new("name")
                .long("name")
                .alias("run-name")
                .value_name("NAME")
                .help("Name of the run [default: made from method and model]")
                .long_help(
                    "Name of the run. Its folder is the date, the time and this name. Default: made \
                     from method and model.",
                ),
        )
        .args([ui_arg(), ascii_arg()])
        .arg(
            Arg::new("resume")
                .long("resume")
                .value_name("auto")
                .value_parser(PossibleValuesParser::new(["auto"]))
                .hide_possible_values(true)
                .help("auto: go on with an unfinished run of these settings, if there is one")
                .long_help(
                    "auto: go on with the newest unfinished run of the same settings, or start a new \
                     one if there is none. For jobs that may be killed and started again.",
                ),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Say what would be trained on what, and stop there")
                .long_help(
                    "Prints the resolved configuration, the data (rows, tokens, the share that counts in the \
                     loss) and the memory that the method needs. Trains nothing and makes no run.",
                ),
        )
        .args(settings::flags())
}

fn compare_command() -> Command {
    let list = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).value_delimiter(',').help(help)
    };
    Command::new("compare")
        .about("Trains several methods side by side and compares them")
        .long_about(
            "Trains several methods by turns, one update each, on the same text in the same order from the \
             same start, and ends in a table. Every member is an ordinary run with the bits of that run \
             alone: `ls`, `show`, `resume` and `eval` work on it.",
        )
        .after_help(COMPARE_EXAMPLES)
        .args_override_self(true)
        .arg(
            list("methods", "NAME,...", "Which methods; the first is the baseline")
                .default_value("full,lora,switchlora"),
        )
        .arg(
            Arg::new("seeds")
                .long("seeds")
                .value_name("N")
                .default_value("1")
                .value_parser(value_parser!(u64).range(1..=64))
                .help("Number of seeds of each, counted from --seed"),
        )
        .arg(list("ranks", "R,...", "Ranks of each method that has one"))
        .arg(
            Arg::new("sweep")
                .long("sweep")
                .value_name("KEY=A,B,...")
                .action(ArgAction::Append)
                .help("Cross a setting with these values; may be given more than once"),
        )
        .arg(
            Arg::new("for")
                .long("for")
                .value_name("METHOD:KEY=VALUE")
                .action(ArgAction::Append)
                .help("A setting of one method alone; may be given more than once"),
        )
        .arg(
            Arg::new("baseline")
                .long("baseline")
                .value_name("NAME")
                .help("What the others are compared with [default: the first]"),
        )
        .arg(
            Arg::new("target-loss")
                .long("target-loss")
                .value_name("LOSS")
                .value_parser(value_parser!(f64))
                .help("Count tokens to this validation loss [default: the baseline's last]"),
        )
        .arg(
            Arg::new("sequential")
                .long("sequential")
                .action(ArgAction::SetTrue)
                .help("One after the other [default: by turns, where memory allows]"),
        )
        .arg(
            Arg::new("resume")
                .long("resume")
                .value_name("DIR")
                .value_hint(ValueHint::DirPath)
                .help("Go on with a comparison: its folder, its name or `latest`"),
        )
        .arg(
            file_arg("config")
                .help("Read common settings from a TOML file")
                .long_help(
                    "Read common settings from a TOML file. What it sets, it sets for every method: the \
                     run.toml of a run has that run's learning rate in it.",
                ),
        )
        .arg(out_arg().help("Folder in which the comparison's folder is made"))
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .help("Name of the comparison [default: made from the methods]"),
        )
        .args([ui_arg(), ascii_arg()])
        .args(settings::flags().into_iter().filter(|arg| arg.get_id().as_str() != "train.method"))
}

fn resume_command() -> Command {
    Command::new("resume")
        .about("Goes on with a run or a comparison from its newest checkpoints")
        .long_about(
            "Goes on with a run from its newest intact checkpoint, with the settings in its run.toml. \
             On the same device the result has the bits of not having stopped.",
        )
        .args_override_self(true)
        .arg(run_arg())
        .arg(out_arg())
        .arg(
            Arg::new("extend")
                .long("extend")
                .value_name("ITERS")
                .value_parser(value_parser!(u64).range(1..))
                .help("New total number of updates")
                .long_help(
                    "New total number of updates, for a run that is finished or should last longer. The \
                     change is recorded in the run; schedules follow the new total.",
                ),
        )
        .args([ui_arg(), ascii_arg()])
        .arg(
            Arg::new("threads")
                .long("threads")
                .value_name("N")
                .value_parser(value_parser!(u64).range(..=1024))
                .help("Worker threads; 0 means all cores [default: the run's]")
                .long_help(
                    "Worker threads; 0 means all cores. Default: the run's. Results do not depend on it.",
                ),
        )
        .arg(device_arg().help("Device [default: the run's]"))
}

/// `--device` where no configuration is read from flags.
pub(super) fn device_arg() -> Arg {
    Arg::new("device")
        .long("device")
        .value_name("NAME")
        .help("Device: auto, cpu, gpu[:N] or software [default: auto]")
}

fn eval_command() -> Command {
    Command::new("eval")
        .about("Measures loss and perplexity of a run or a model")
        .long_about(
            "Measures loss and perplexity, weighted by tokens, of a run's newest weights or of a Hugging \
             Face folder, alone or with a PEFT adapter.",
        )
        .args_override_self(true)
        .args(source::args())
        .arg(out_arg())
        .arg(
            Arg::new("data")
                .long("data")
                .value_name("PATH")
                .value_hint(ValueHint::AnyPath)
                .help("Text or rows to measure on [default: the run's validation text]")
                .long_help(
                    "Text or rows (.jsonl) to measure on: a file, a folder or `builtin`. Of a folder of rows \
                     test.jsonl counts, else valid.jsonl. Default: the validation text of the run, or the \
                     built-in one.",
                ),
        )
        .arg(
            Arg::new("chat-template")
                .long("chat-template")
                .value_name("chatml|FILE")
                .help("Template that writes chats as text [default: the run's or model's]"),
        )
        .arg(
            Arg::new("batches")
                .long("batches")
                .alias("val-batches")
                .value_name("N")
                .default_value("0")
                .value_parser(value_parser!(u64))
                .help("Number of batches; 0 means all"),
        )
        .arg(
            Arg::new("max-seq-length")
                .long("max-seq-length")
                .value_name("N")
                .value_parser(value_parser!(u64).range(2..=1 << 24))
                .help("Tokens per block [default: the run's; 256 for a folder]"),
        )
        .arg(device_arg().help("Device [default: the run's]"))
        .arg(json_arg())
}

fn generate_command() -> Command {
    let number = |name: &'static str, value: &'static str, default: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .default_value(default)
            .allow_negative_numbers(true)
    };
    Command::new("generate")
        .about("Writes text with a run or a model")
        .args_override_self(true)
        .args(source::args())
        .arg(out_arg())
        .arg(
            Arg::new("prompt")
                .long("prompt")
                .short('p')
                .value_name("TEXT")
                .allow_hyphen_values(true)
                .help("What the text begins with [default: the run's sample prompt]"),
        )
        .arg(
            number("max-tokens", "N", "200")
                .aliases(["max-new-tokens"])
                .value_parser(value_parser!(u64).range(1..))
                .help("Most tokens to add"),
        )
        .arg(
            number("temperature", "T", "0.8")
                .alias("temp")
                .value_parser(value_parser!(f64))
                .help("0 takes the most likely token, more is more varied"),
        )
        .arg(
            number("top-k", "K", "0")
                .value_parser(value_parser!(u64))
                .help("Draw among the K most likely tokens; 0 means all"),
        )
        .arg(number("top-p", "P", "1").value_parser(value_parser!(f64)).help(
            "Draw among the most likely tokens that together have this probability; 1 means all",
        ))
        .arg(number("min-p", "P", "0").value_parser(value_parser!(f64)).help(
            "Draw among tokens with at least this share of the likeliest one's probability; 0 means all",
        ))
        .arg(
            number("repetition-penalty", "X", "1")
                .value_parser(value_parser!(f64))
                .help("Make tokens that are in the text less likely; 1 changes nothing"),
        )
        .arg(
            Arg::new("chat")
                .long("chat")
                .action(ArgAction::SetTrue)
                .help("Answer messages, in the form of the model's own chat template")
                .long_help(
                    "Answer messages, in the form of the model's own chat template. Without --prompt, messages are \
                     read from the terminal, a line each (/reset begins anew, /quit ends), or the whole input is one \
                     message where it is not a terminal.",
                ),
        )
        .arg(
            Arg::new("system")
                .long("system")
                .value_name("TEXT")
                .requires("chat")
                .help("What the chat's system message says [default: the template's own]"),
        )
        .arg(device_arg().help("Device [default: the run's]"))
        .arg(
            number("seed", "N", "0")
                .value_parser(value_parser!(u64))
                .help("Seed of the draws; the same seed writes the same text"),
        )
        .arg(
            Arg::new("ignore-eos")
                .long("ignore-eos")
                .action(ArgAction::SetTrue)
                .help("Go on past the model's end of a text, to measure"),
        )
        .arg(
            Arg::new("stats")
                .long("stats")
                .action(ArgAction::SetTrue)
                .help("Print tokens and seconds to stderr, as a line of JSON"),
        )
}

fn config_arg() -> Arg {
    file_arg("config")
        .short('c')
        .help("Read settings from a TOML file")
        .long_help("Read settings from a TOML file. A run's own is run.toml in its folder.")
}

fn run_arg() -> Arg {
    Arg::new("run")
        .value_name("RUN")
        .required(true)
        .value_hint(ValueHint::DirPath)
        .help("Folder of a run, its name in --out, or `latest`")
}

pub(super) fn out_arg() -> Arg {
    folder_arg("out").value_name("PARENT").default_value("runs").help("Folder with the runs")
}

/// A flag that takes the path of a folder.
pub(super) fn folder_arg(name: &'static str) -> Arg {
    path_arg(name, "DIR", ValueHint::DirPath)
}

/// A flag that takes the path of a file.
fn file_arg(name: &'static str) -> Arg {
    path_arg(name, "FILE", ValueHint::FilePath)
}

fn path_arg(name: &'static str, value: &'static str, hint: ValueHint) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .value_hint(hint)
        .value_parser(value_parser!(PathBuf))
}

fn json_arg() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON, for scripts")
}

/// `--ascii`
fn ascii_arg() -> Arg {
    Arg::new("ascii")
        .long("ascii")
        .action(ArgAction::SetTrue)
        .help("Draw the full screen in ASCII alone, for fonts without Braille")
}

fn ui_arg() -> Arg {
    Arg::new("ui")
        .long("ui")
        .value_name("auto|tui|line|json|none")
        .default_value("auto")
        .value_parser(PossibleValuesParser::new(["auto", "tui", "line", "json", "none"]))
        .hide_possible_values(true)
        .help("How to show the run")
        .long_help(
            "How to show the run: line prints a line per interval to stderr, json the run's events to \
             stdout, none nothing but the result. auto is the full screen (tui) where input and output are a \
             terminal, else line.",
        )
}
