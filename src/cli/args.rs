//! What each command is given: plain structs, filled from what clap has understood.
//!
//! The only file that turns words into values, loads the configuration and has it checked. The bodies of
//! the commands take these structs and never see clap.

use std::path::PathBuf;

use clap::ArgMatches;
use clap_complete::Shell;

use super::{export, settings, source};

mod given;

use crate::bench::{Options, Shape};
use crate::compare::Wanted;
use crate::config::settings::{METHODS, Setting};
use crate::config::{FlagValue, RunConfig, check_methods_flag, setting_named};
use crate::error::{Error, Result};
use crate::report::series::At;
use crate::runlog::Action;
use crate::tui::action::ViewId;
pub use given::{
    BenchArgs, CompareArgs, CompareStart, CtlArgs, EstimateArgs, EvalArgs, GenerateArgs,
    ReportArgs, Request, ResumeArgs, TrainArgs, UiMode, WatchArgs,
};

/// Turns what clap has understood into a request; this is where a configuration is loaded and checked.
pub fn request(matches: &ArgMatches) -> Result<Request> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Error::config("no command given", "`fullrank --help` lists them"));
    };
    Ok(match name {
        "train" => Request::Train(Box::new(train_args(matches)?)),
        "compare" => Request::Compare(Box::new(compare_args(matches)?)),
        "resume" => Request::Resume(ResumeArgs {
            run: text(matches, "run"),
            out: out(matches),
            extend: matches.get_one::<u64>("extend").copied(),
            ui: ui(matches),
            ascii: matches.get_flag("ascii"),
            threads: matches.get_one::<u64>("threads").map(|threads| *threads as usize),
            device: matches.get_one::<String>("device").cloned(),
        }),
        "eval" => Request::Eval(EvalArgs {
            source: source::read(matches),
            data: matches.get_one::<String>("data").cloned(),
            chat_template: matches.get_one::<String>("chat-template").cloned(),
            batches: count(matches, "batches") as usize,
            max_seq_length: matches.get_one::<u64>("max-seq-length").map(|&len| len as usize),
            json: matches.get_flag("json"),
        }),
        "generate" => Request::Generate(generate_args(matches)?),
        "export" => Request::Export(export::args(matches)?),
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
            action: Action::parse(
                &text(matches, "command"),
                matches.get_one::<String>("argument").map(String::as_str),
            )?,
            wait: !matches.get_flag("no-wait"),
        }),
        "devices" => Request::Devices { json: matches.get_flag("json") },
        "doctor" => Request::Doctor { device: device(matches), json: matches.get_flag("json") },
        "estimate" => Request::Estimate(Box::new(estimate_args(matches)?)),
        "report" => Request::Report(ReportArgs {
            runs: matches.get_many::<String>("run").unwrap_or_default().cloned().collect(),
            out: out(matches),
            to: matches.get_one::<PathBuf>("to").cloned(),
            at: matches.get_one::<String>("at").map(|text| at(text)).transpose()?,
        }),
        "watch" => Request::Watch(watch_args(matches)?),
        "keys" => Request::Keys { md: matches.get_flag("md") },
        "bench" => Request::Bench(bench_args(matches)?),
        _ => {
            Request::Completions(matches.get_one::<Shell>("shell").copied().unwrap_or(Shell::Bash))
        }
    })
}

/// The configuration of a file and the flags, and the flags.
fn config(matches: &ArgMatches) -> Result<(RunConfig, Vec<FlagValue>)> {
    let file = matches.get_one::<PathBuf>("config");
    let flags = settings::given(matches);
    let config = RunConfig::load(file.map(PathBuf::as_path), &flags)?;
    config.check()?;
    Ok((config, flags))
}

fn estimate_args(matches: &ArgMatches) -> Result<EstimateArgs> {
    let (config, _) = config(matches)?;
    let named: Vec<String> =
        matches.get_many::<String>("methods").unwrap_or_default().cloned().collect();
    let methods = match named.as_slice() {
        [] => vec![config.train.method.clone()],
        [all] if all == "all" => METHODS.iter().map(|&method| method.to_owned()).collect(),
        _ => {
            check_methods_flag(&named)?;
            named
        }
    };
    Ok(EstimateArgs {
        config,
        methods,
        vocab_size: matches.get_one::<u64>("vocab-size").map(|&entries| entries as usize),
        measure: matches.get_flag("measure"),
        json: matches.get_flag("json"),
    })
}

fn train_args(matches: &ArgMatches) -> Result<TrainArgs> {
    let (config, flags) = config(matches)?;
    for FlagValue { setting, .. } in &flags {
        if !config.uses_table(setting.table()) {
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
        ascii: matches.get_flag("ascii"),
        resume_auto: matches.contains_id("resume"),
        dry_run: matches.get_flag("dry-run"),
    })
}

fn compare_args(matches: &ArgMatches) -> Result<CompareArgs> {
    let (out, ui, ascii) = (out(matches), ui(matches), matches.get_flag("ascii"));
    let flags = settings::given(matches);
    let file = matches.get_one::<PathBuf>("config");
    if let Some(what) = matches.get_one::<String>("resume").cloned() {
        if file.is_some() || !flags.is_empty() {
            return Err(Error::config(
                "--resume goes on with the settings of the comparison",
                "leave the other settings out",
            ));
        }
        return Ok(CompareArgs { start: CompareStart::Resume(what), out, ui, ascii });
    }
    let name = matches.get_one::<String>("name").cloned();
    if let Some(name) = &name {
        check_name(name)?;
    }
    let list = |name: &str| -> Vec<String> {
        matches.get_many::<String>(name).unwrap_or_default().map(|s| s.trim().to_owned()).collect()
    };
    let sweeps = list("sweep").iter().map(|text| sweep(text)).collect::<Result<_>>()?;
    let only = list("for").iter().map(|text| for_one(text)).collect::<Result<_>>()?;
    let target_loss = matches.get_one::<f64>("target-loss").copied();
    if let Some(loss) = target_loss.filter(|loss| !(*loss > 0.0 && loss.is_finite())) {
        return Err(Error::config(
            format!("--target-loss is {loss}, expected above 0 and finite"),
            "give a validation loss in nats, for example 4.5",
        ));
    }
    let wanted = Wanted {
        methods: list("methods"),
        seeds: count(matches, "seeds"),
        ranks: list("ranks"),
        sweeps,
        only,
        baseline: matches.get_one::<String>("baseline").cloned(),
        target_loss,
        sequential: matches.get_flag("sequential"),
        common: RunConfig::given(file.map(PathBuf::as_path), &flags)?,
    };
    Ok(CompareArgs { start: CompareStart::New { wanted: Box::new(wanted), name }, out, ui, ascii })
}

fn watch_args(matches: &ArgMatches) -> Result<WatchArgs> {
    let view = matches.get_one::<String>("view").and_then(|name| {
        ViewId::ALL.into_iter().find(|view| view.title().eq_ignore_ascii_case(name))
    });
    let speed = matches.get_one::<f64>("speed").copied();
    if let Some(speed) = speed.filter(|speed| !(*speed > 0.0 && speed.is_finite())) {
        return Err(Error::config(
            format!("--speed is {speed}, expected above 0 and finite"),
            "give for example `--speed 100`",
        ));
    }
    let size = matches.get_one::<String>("size").map(|text| {
        let sides =
            text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        sides.filter(|(w, h)| (1..=1000).contains(w) && (1..=1000).contains(h)).ok_or_else(|| {
            Error::config(
                format!("--size is `{text}`, expected COLUMNSxROWS, each 1 to 1000"),
                "give for example `--size 100x30`",
            )
        })
    });
    Ok(WatchArgs {
        runs: matches.get_many::<String>("run").unwrap_or_default().cloned().collect(),
        out: out(matches),
        once: matches.get_flag("once"),
        svg: matches.get_one::<PathBuf>("svg").cloned(),
        size: size.transpose()?,
        view,
        speed,
        ascii: matches.get_flag("ascii"),
    })
}

/// `tokens=N`, `step=N` or `time=SECONDS`
fn at(text: &str) -> Result<At> {
    let wrong = || {
        Error::config(
            format!("--at is `{text}`, expected tokens=N, step=N or time=SECONDS"),
            "give for example `--at tokens=1000000`",
        )
    };
    let (what, number) = text.split_once('=').ok_or_else(wrong)?;
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    if !(0.0..1e18).contains(&number) {
        return Err(wrong());
    }
    match what.trim() {
        "tokens" => Ok(At::Tokens(number as u64)),
        "step" => Ok(At::Step(number as u64)),
        "time" => Ok(At::Time(number)),
        _ => Err(wrong()),
    }
}

/// `KEY=A,B,C`
fn sweep(text: &str) -> Result<(&'static Setting, Vec<String>)> {
    let Some((key, values)) = text.split_once('=') else {
        return Err(Error::config(
            format!("--sweep is `{text}`, expected KEY=A,B,C"),
            "give for example `--sweep learning_rate=1e-3,2e-3`",
        ));
    };
    let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
    if values.iter().any(String::is_empty) {
        return Err(Error::config(
            format!("--sweep is `{text}`, with an empty value"),
            "give for example `--sweep learning_rate=1e-3,2e-3`",
        ));
    }
    Ok((setting_named(key)?, values))
}

/// `METHOD:KEY=VALUE`
fn for_one(text: &str) -> Result<(String, FlagValue)> {
    let parts = text.split_once(':').and_then(|(method, rest)| {
        let (key, value) = rest.split_once('=')?;
        Some((method, key, value))
    });
    let Some((method, key, value)) = parts else {
        return Err(Error::config(
            format!("--for is `{text}`, expected METHOD:KEY=VALUE"),
            "give for example `--for lora:learning_rate=2e-3`",
        ));
    };
    Ok((method.to_owned(), FlagValue { setting: setting_named(key)?, text: value.to_owned() }))
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
        source: source::read(matches),
        prompt: matches.get_one::<String>("prompt").cloned(),
        chat: matches.get_flag("chat"),
        system: matches.get_one::<String>("system").cloned(),
        max_tokens: count(matches, "max-tokens") as usize,
        temperature: matches.get_one::<f64>("temperature").copied().unwrap_or(0.8),
        top_k: count(matches, "top-k") as usize,
        top_p: matches.get_one::<f64>("top-p").copied().unwrap_or(1.0),
        min_p: matches.get_one::<f64>("min-p").copied().unwrap_or(0.0),
        repetition_penalty: matches.get_one::<f64>("repetition-penalty").copied().unwrap_or(1.0),
        ignore_eos: matches.get_flag("ignore-eos"),
        stats: matches.get_flag("stats"),
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
    if !(0.0..=1.0).contains(&args.min_p) {
        return Err(Error::config(
            format!("--min-p is {}, expected 0 to 1", args.min_p),
            "0 switches it off; 0.05 is a good start",
        ));
    }
    if !(args.repetition_penalty > 0.0 && args.repetition_penalty.is_finite()) {
        return Err(Error::config(
            format!("--repetition-penalty is {}, expected above 0", args.repetition_penalty),
            "1 switches it off; 1.1 is a good start",
        ));
    }
    Ok(args)
}

fn bench_args(matches: &ArgMatches) -> Result<BenchArgs> {
    let size = |name: &str| count(matches, name) as usize;
    let shape = Shape {
        dim: size("dim"),
        layers: size("layers"),
        heads: size("heads"),
        ffn: size("ffn"),
        vocab: size("vocab"),
        seq: size("seq"),
        batch: size("batch"),
        rank: size("rank"),
    };
    if !shape.dim.is_multiple_of(2 * shape.heads) {
        return Err(Error::config(
            format!("--dim {} is not {} heads of an even size", shape.dim, shape.heads),
            "change --dim or --heads",
        ));
    }
    let methods: Vec<String> =
        matches.get_many::<String>("methods").unwrap_or_default().cloned().collect();
    Ok(BenchArgs {
        options: Options {
            device: device(matches),
            methods,
            rounds: matches.get_one::<u64>("rounds").map(|rounds| *rounds as usize),
            with_kernels: !matches.get_flag("steps-only"),
            with_steps: !matches.get_flag("kernels-only"),
            with_stock: !matches.get_flag("no-stock"),
            profiled: matches.get_one::<u64>("profile").map_or(0, |updates| *updates as usize),
            shape,
        },
        screen_updates: matches.get_flag("screen").then(|| count(matches, "updates")),
        threads: size("threads"),
        json: matches.get_flag("json"),
    })
}

pub(super) fn text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

fn count(matches: &ArgMatches, name: &str) -> u64 {
    matches.get_one::<u64>(name).copied().unwrap_or_default()
}

fn device(matches: &ArgMatches) -> String {
    matches.get_one::<String>("device").cloned().unwrap_or_else(|| "auto".into())
}

pub(super) fn out(matches: &ArgMatches) -> PathBuf {
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
    use crate::cli::commands::command;
    use crate::cli::export::ExportFormat;
    use crate::run::open::Which;

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
            dry_run: false,
            ascii: false,
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
        assert_eq!((args.source.target.as_str(), args.batches, args.json), ("dir", 3, true));

        let Request::Eval(args) = parse("fullrank eval --model base --adapter tuned") else {
            panic!("not eval");
        };
        assert_eq!(args.source.target, "base");
        assert_eq!(args.source.adapter, Some("tuned".into()));

        let Request::Export(args) = parse("fullrank export latest --format peft --best --to there")
        else {
            panic!("not export");
        };
        assert_eq!((args.format, args.source.which), (ExportFormat::Peft, Which::Best));
        assert_eq!((args.to, args.force), (Some("there".into()), false));

        let Request::Generate(args) = parse("fullrank generate latest --top-k 5 --temp 0") else {
            panic!("not generate");
        };
        assert_eq!((args.top_k, args.temperature, args.max_tokens), (5, 0.0, 200));

        let Request::Ctl(args) = parse("fullrank ctl latest stop --no-wait --out there") else {
            panic!("not ctl");
        };
        assert_eq!((args.action, args.wait, args.out), (Action::Stop, false, "there".into()));

        let Request::Rm { runs, .. } = parse("fullrank rm one two") else {
            panic!("not rm");
        };
        assert_eq!(runs, ["one", "two"]);
    }
}
