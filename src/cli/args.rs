//! The commands, and what each of them is given.
//!
//! Two halves: the description of the command line for clap, and plain structs that the bodies of the
//! commands take. Nothing outside this file and `settings` sees clap.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use clap_complete::Shell;

use super::settings;
use crate::config::settings::METHODS;
use crate::config::{FlagValue, RunConfig};
use crate::error::{Error, Result};

/// How a run shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UiMode {
    /// The best that the terminal can do; in this version the same as `Line`.
    Auto,
    /// The terminal UI. Not in this version: the dispatcher says so and hands on `Line`.
    Tui,
    /// One line per interval, to stderr.
    Line,
    /// The events of the run as JSON lines, to stdout.
    Json,
    /// Nothing but the result and errors.
    None,
}

/// What `train` is given.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainArgs {
    /// The configuration, loaded and checked.
    pub config: RunConfig,
    /// Folder in which the run's folder is made.
    pub out: PathBuf,
    /// Last part of the run folder's name.
    pub name: Option<String>,
    /// How the run shows itself.
    pub ui: UiMode,
    /// Go on with the newest unfinished run of this configuration instead of starting a new one.
    pub resume_auto: bool,
}

/// What `resume` is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeArgs {
    /// A run's folder, its name, or `latest`.
    pub run: String,
    /// Folder with the runs.
    pub out: PathBuf,
    /// New total number of updates.
    pub extend: Option<u64>,
    /// How the run shows itself.
    pub ui: UiMode,
    /// Worker threads instead of the recorded number; 0 means all cores.
    pub threads: Option<usize>,
}

/// What `eval` is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalArgs {
    /// A run (folder, name, `latest`) or a Hugging Face folder.
    pub target: String,
    /// Folder with the runs.
    pub out: PathBuf,
    /// Text to evaluate on instead of the run's validation text.
    pub data: Option<String>,
    /// Number of batches; 0 means all.
    pub batches: usize,
    /// Result as JSON.
    pub json: bool,
}

/// What `generate` is given.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateArgs {
    /// A run (folder, name, `latest`) or a Hugging Face folder.
    pub target: String,
    /// Folder with the runs.
    pub out: PathBuf,
    /// What the text begins with. Default: the run's `train.sample_prompt`.
    pub prompt: Option<String>,
    /// Most tokens to add; at least 1.
    pub max_tokens: usize,
    /// Divides the logits; 0 takes the most likely token. Finite, 0 or more.
    pub temperature: f64,
    /// Only the `k` most likely tokens; 0 means all.
    pub top_k: usize,
    /// Only the most likely tokens that reach this probability together; above 0, 1 means all.
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
}

/// What a command of `ctl` asks of a live run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtlCommand {
    /// Stop updating until told to go on.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Write a checkpoint now.
    Checkpoint,
    /// Write a checkpoint and end.
    Stop,
}

impl CtlCommand {
    /// The word on the command line and in `control.jsonl`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Checkpoint => "checkpoint",
            Self::Stop => "stop",
        }
    }
}

/// What `ctl` is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CtlArgs {
    /// A run's folder, its name, or `latest`.
    pub run: String,
    /// Folder with the runs.
    pub out: PathBuf,
    /// What to ask.
    pub command: CtlCommand,
    /// Whether to wait until the run has answered.
    pub wait: bool,
}

/// A command with everything it needs.
#[derive(Debug)]
pub enum Request {
    /// Train.
    Train(Box<TrainArgs>),
    /// Go on with a run.
    Resume(ResumeArgs),
    /// Loss and perplexity.
    Eval(EvalArgs),
    /// Text.
    Generate(GenerateArgs),
    /// List the runs.
    Ls {
        /// Folder with the runs.
        out: PathBuf,
        /// As JSON.
        json: bool,
    },
    /// One run in detail.
    Show {
        /// A run's folder, its name, or `latest`.
        run: String,
        /// Folder with the runs.
        out: PathBuf,
        /// As JSON.
        json: bool,
    },
    /// Move runs to the trash folder.
    Rm {
        /// For each run its folder, its name, or `latest`.
        runs: Vec<String>,
        /// Folder with the runs.
        out: PathBuf,
    },
    /// Command a live run.
    Ctl(CtlArgs),
    /// A completion script.
    Completions(Shell),
}

const EXAMPLES: &str = "\
Examples:
  fullrank train                                    SwitchLoRA on the built-in text
  fullrank train --method full --iters 500          full rank, for comparison
  fullrank train --data novels/ --rank 32           your own text
  fullrank train --config runs/NAME/run.toml        the settings of an earlier run
  fullrank ls                                       what has been trained
  fullrank resume latest                            go on after an interruption
  fullrank generate latest --prompt \"It was\"        let the model write

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
        .subcommand(resume_command())
        .subcommand(eval_command())
        .subcommand(generate_command())
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
                    "Moves runs to .trash inside the folder of the runs. A live run is refused.",
                )
                .args([run_arg().num_args(1..), out_arg()]),
        )
        .subcommand(ctl_command())
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
        .arg(
            Arg::new("config")
                .short('c')
                .long("config")
                .value_name("FILE")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(PathBuf))
                .help("Read settings from a TOML file")
                .long_help("Read settings from a TOML file. A run's own is run.toml in its folder."),
        )
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
        .arg(ui_arg())
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
        .args(settings::flags())
}

fn resume_command() -> Command {
    Command::new("resume")
        .about("Goes on with a run from its newest intact checkpoint")
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
        .arg(ui_arg())
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
}

fn eval_command() -> Command {
    Command::new("eval")
        .about("Measures loss and perplexity of a run or a model")
        .long_about(
            "Measures loss and perplexity, weighted by tokens, of a run's newest weights or of a Hugging \
             Face folder.",
        )
        .args_override_self(true)
        .arg(target_arg())
        .arg(out_arg())
        .arg(
            Arg::new("data")
                .long("data")
                .value_name("PATH")
                .value_hint(ValueHint::AnyPath)
                .help("Text to measure on [default: the run's validation text]")
                .long_help(
                    "Text to measure on: a file, a folder or `builtin`. Default: the validation text of \
                     the run, or the built-in one.",
                ),
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
        .arg(target_arg())
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
        .arg(
            number("seed", "N", "0")
                .value_parser(value_parser!(u64))
                .help("Seed of the draws; the same seed writes the same text"),
        )
}

fn ctl_command() -> Command {
    Command::new("ctl")
        .about("Commands a live run: pause, resume, checkpoint or stop")
        .long_about(
            "Commands a live run, from a script or another terminal. Waits until the run has answered, \
             unless told not to.",
        )
        .arg(run_arg())
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .required(true)
                .value_parser(PossibleValuesParser::new(["pause", "resume", "checkpoint", "stop"]))
                .help("What to do")
                .long_help(
                    "pause: stop updating; resume: go on; checkpoint: save now; stop: save and end",
                ),
        )
        .arg(out_arg())
        .arg(
            Arg::new("no-wait")
                .long("no-wait")
                .action(ArgAction::SetTrue)
                .help("Do not wait for the run's answer"),
        )
}

fn run_arg() -> Arg {
    Arg::new("run")
        .value_name("RUN")
        .required(true)
        .value_hint(ValueHint::DirPath)
        .help("Folder of a run, its name in --out, or `latest`")
}

fn target_arg() -> Arg {
    Arg::new("target")
        .value_name("RUN|DIR")
        .required(true)
        .value_hint(ValueHint::DirPath)
        .help("Folder of a run, its name in --out, `latest`, or a Hugging Face folder")
}

fn out_arg() -> Arg {
    Arg::new("out")
        .long("out")
        .value_name("PARENT")
        .default_value("runs")
        .value_hint(ValueHint::DirPath)
        .value_parser(value_parser!(PathBuf))
        .help("Folder with the runs")
}

fn json_arg() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON, for scripts")
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
             stdout, none nothing but the result. The terminal UI (tui) is not in this version; auto is \
             line.",
        )
}

/// Turns what clap has understood into a request; this is where a configuration is loaded and checked.
pub fn request(matches: &ArgMatches) -> Result<Request> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Error::config("no command given", "`fullrank --help` lists them"));
    };
    Ok(match name {
        "train" => Request::Train(Box::new(train_args(matches)?)),
        "resume" => Request::Resume(ResumeArgs {
            run: text(matches, "run"),
            out: out(matches),
            extend: matches.get_one::<u64>("extend").copied(),
            ui: ui(matches),
            threads: matches.get_one::<u64>("threads").map(|threads| *threads as usize),
        }),
        "eval" => Request::Eval(EvalArgs {
            target: text(matches, "target"),
            out: out(matches),
            data: matches.get_one::<String>("data").cloned(),
            batches: count(matches, "batches") as usize,
            json: matches.get_flag("json"),
        }),
        "generate" => Request::Generate(generate_args(matches)?),
        "ls" => Request::Ls { out: out(matches), json: matches.get_flag("json") },
        "show" => Request::Show {
            run: text(matches, "run"),
            out: out(matches),
            json: matches.get_flag("json"),
        },
        "rm" => Request::Rm {
            runs: matches.get_many::<String>("run").unwrap_or_default().cloned().collect(),
            out: out(matches),
        },
        "ctl" => Request::Ctl(CtlArgs {
            run: text(matches, "run"),
            out: out(matches),
            command: match text(matches, "command").as_str() {
                "pause" => CtlCommand::Pause,
                "resume" => CtlCommand::Resume,
                "checkpoint" => CtlCommand::Checkpoint,
                _ => CtlCommand::Stop,
            },
            wait: !matches.get_flag("no-wait"),
        }),
        _ => {
            Request::Completions(matches.get_one::<Shell>("shell").copied().unwrap_or(Shell::Bash))
        }
    })
}

fn train_args(matches: &ArgMatches) -> Result<TrainArgs> {
    let file = matches.get_one::<PathBuf>("config");
    let flags = settings::given(matches);
    let config = RunConfig::load(file.map(PathBuf::as_path), &flags)?;
    config.check()?;
    for FlagValue { setting, .. } in &flags {
        let table = setting.table();
        if METHODS.contains(&table) && table != config.train.method {
            tracing::warn!("--{} has no effect with method {}", setting.flag, config.train.method);
        }
    }
    let name = matches.get_one::<String>("name").cloned();
    if let Some(name) = &name {
        check_name(name)?;
    }
    Ok(TrainArgs {
        config,
        out: out(matches),
        name,
        ui: ui(matches),
        resume_auto: matches.contains_id("resume"),
    })
}

/// A run's name becomes part of a folder's name on any system.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.+".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        return Ok(());
    }
    Err(Error::config(
        format!("--name is `{name}`, which cannot be part of a folder's name everywhere"),
        "use letters, digits and - _ . + only",
    ))
}

fn generate_args(matches: &ArgMatches) -> Result<GenerateArgs> {
    let args = GenerateArgs {
        target: text(matches, "target"),
        out: out(matches),
        prompt: matches.get_one::<String>("prompt").cloned(),
        max_tokens: count(matches, "max-tokens") as usize,
        temperature: matches.get_one::<f64>("temperature").copied().unwrap_or(0.8),
        top_k: count(matches, "top-k") as usize,
        top_p: matches.get_one::<f64>("top-p").copied().unwrap_or(1.0),
        seed: count(matches, "seed"),
    };
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(Error::config(
            format!("--temperature is {}, expected 0 or more and finite", args.temperature),
            "0 takes the most likely token; 0.8 is a good start",
        ));
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return Err(Error::config(
            format!("--top-p is {}, expected above 0 and at most 1", args.top_p),
            "1 switches it off; 0.95 is a good start",
        ));
    }
    Ok(args)
}

fn text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

fn count(matches: &ArgMatches, name: &str) -> u64 {
    matches.get_one::<u64>(name).copied().unwrap_or_default()
}

fn out(matches: &ArgMatches) -> PathBuf {
    matches.get_one::<PathBuf>("out").cloned().unwrap_or_else(|| "runs".into())
}

fn ui(matches: &ArgMatches) -> UiMode {
    match text(matches, "ui").as_str() {
        "tui" => UiMode::Tui,
        "line" => UiMode::Line,
        "json" => UiMode::Json,
        "none" => UiMode::None,
        _ => UiMode::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Request {
        let words = line.split_whitespace().map(Into::into);
        let matches = command().try_get_matches_from(settings::with_dashes(words)).unwrap();
        request(&matches).unwrap()
    }

    fn train(line: &str) -> TrainArgs {
        match parse(&format!("fullrank train {line}")) {
            Request::Train(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn train_alone_takes_the_defaults() {
        let expected = TrainArgs {
            config: RunConfig::default(),
            out: "runs".into(),
            name: None,
            ui: UiMode::Auto,
            resume_auto: false,
        };
        assert_eq!(train(""), expected);
    }

    #[test]
    fn flags_reach_their_fields() {
        let args = train(
            "--iters 5 --switchlora-interval0 inf --lora-base dense --data a.txt --out x --name n-1 \
             --ui json --resume auto",
        );
        assert_eq!(args.config.train.iters, Some(5));
        assert_eq!(args.config.switchlora.interval0, f64::INFINITY);
        assert_eq!(args.config.data.data, "a.txt");
        assert_eq!((args.out, args.name), ("x".into(), Some("n-1".into())));
        assert_eq!((args.ui, args.resume_auto), (UiMode::Json, true));
    }

    #[test]
    fn every_setting_is_a_flag() {
        for setting in crate::config::settings::all() {
            let matches = command()
                .try_get_matches_from(["fullrank", "train", &format!("--{}", setting.flag), "7"])
                .unwrap();
            let given = settings::given(matches.subcommand_matches("train").unwrap());
            let keys: Vec<_> = given.iter().map(|value| value.setting.key).collect();
            assert_eq!(keys, [setting.key]);
            assert_eq!(given[0].text, "7");
        }
    }

    #[test]
    fn spellings_of_other_tools_work() {
        let theirs = train(
            "--per_device_train_batch_size 4 --gradient_accumulation_steps=2 --max_steps 30 --lr 0.1 \
             --lr_scheduler_type linear --logging_steps 1 --eval-steps 3 --save-steps 6 --lora_r 8 \
             --lora_alpha 16 --gradient_checkpointing True --output_dir o_o",
        );
        let ours = train(
            "--batch-size 4 --grad-accumulation-steps 2 --iters 30 --learning-rate 0.1 \
             --lr-schedule linear --steps-per-report 1 --eval-every 3 --checkpoint-every 6 --rank 8 \
             --alpha 16 --grad-checkpoint --out o_o",
        );
        assert_eq!(theirs, ours);
    }

    #[test]
    fn a_switch_is_on_when_named_and_can_be_turned_off() {
        assert!(train("--grad-checkpoint").config.train.grad_checkpoint);
        assert!(!train("--grad-checkpoint --grad-checkpoint=false").config.train.grad_checkpoint);
        let off = train("--switchlora-count-frozen-steps false --iters 3");
        assert!(!off.config.switchlora.count_frozen_steps);
        assert_eq!(off.config.train.iters, Some(3));
    }

    #[test]
    fn the_last_of_repeated_flags_counts() {
        assert_eq!(train("--iters 5 --max-steps 6").config.train.iters, Some(6));
    }

    #[test]
    fn the_other_commands_get_what_they_need() {
        let Request::Resume(args) = parse("fullrank resume latest --extend 900 --threads 1") else {
            panic!("not resume");
        };
        assert_eq!((args.run.as_str(), args.extend, args.threads), ("latest", Some(900), Some(1)));

        let Request::Eval(args) = parse("fullrank eval dir --batches 3 --json") else {
            panic!("not eval");
        };
        assert_eq!((args.target.as_str(), args.batches, args.json), ("dir", 3, true));

        let Request::Generate(args) = parse("fullrank generate latest --top-k 5 --temp 0") else {
            panic!("not generate");
        };
        assert_eq!((args.top_k, args.temperature, args.max_tokens), (5, 0.0, 200));

        let Request::Ctl(args) = parse("fullrank ctl latest stop --no-wait --out there") else {
            panic!("not ctl");
        };
        assert_eq!((args.command, args.wait, args.out), (CtlCommand::Stop, false, "there".into()));

        let Request::Rm { runs, .. } = parse("fullrank rm one two") else {
            panic!("not rm");
        };
        assert_eq!(runs, ["one", "two"]);
    }
}
