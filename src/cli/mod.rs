//! The command line: parses, checks and hands over to one file per command.
//!
//! `commands` describes the command line, `settings` the flags that come from the table of settings,
//! `args` what each command is given, `print` what the program says itself. Only `main` calls this
//! room; nothing below knows of it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::error::{Error, Result};

pub mod args;
pub mod bench;
pub mod commands;
pub mod compare;
pub mod ctl;
pub mod devices;
pub mod doctor;
mod dry_run;
pub mod estimate;
pub mod eval;
pub mod export;
pub mod generate;
pub mod keys;
pub mod line;
pub mod log;
pub mod ls;
mod pace;
pub mod print;
pub mod report;
pub mod resume;
pub mod rm;
mod screen;
pub mod settings;
pub mod show;
pub mod source;
#[cfg(test)]
mod test_runs;
pub mod train;
pub mod watch;
mod words;

pub use crate::report::text;

use args::{Request, UiMode};

/// The program: parses the arguments (the program's name first), runs the command, prints what went
/// wrong to stderr.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match commands::command().try_get_matches_from(settings::with_dashes(args)) {
        Ok(matches) => matches,
        Err(help_or_usage) => {
            // Help and version come this way too, with exit code 0. A closed pipe is no failure.
            let _ = help_or_usage.print();
            return ExitCode::from(u8::try_from(help_or_usage.exit_code()).unwrap_or(2));
        }
    };
    match args::request(&matches).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if print::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = print::error(&error, &mut io::stderr());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs one command.
pub fn run(request: Request) -> Result<()> {
    let stdout = &mut io::stdout();
    match request {
        Request::Train(mut args) => {
            if args.dry_run {
                return dry_run::dry_run(args.config, stdout);
            }
            args.ui = available(args.ui)?;
            train::train(*args)
        }
        Request::Resume(mut args) => {
            args.ui = available(args.ui)?;
            resume::resume(args)
        }
        Request::Compare(mut args) => {
            args.ui = available(args.ui)?;
            compare::compare(*args, stdout)
        }
        Request::Eval(args) => eval::eval(args),
        Request::Generate(args) => generate::generate(args),
        Request::Export(args) => export::export(args),
        Request::Ls { out, json } => ls::ls(&out, json, stdout),
        Request::Show { run, out, json } => show::show(&out, &run, json, stdout),
        Request::Rm { runs, out } => rm::rm(&out, &runs, stdout),
        Request::Ctl(args) => {
            let wait = args.wait.then_some(ctl::WAIT);
            ctl::ctl(&args.out, &args.run, args.action, wait, stdout)
        }
        Request::Devices { json } => devices::devices(json, stdout),
        Request::Doctor { device, json } => doctor::doctor(&device, json, stdout),
        Request::Estimate(args) => estimate::estimate(&args, stdout),
        Request::Bench(args) => bench::bench(&args, stdout),
        Request::Report(args) => report::report(&args, stdout),
        Request::Watch(args) => watch::watch(&args, stdout),
        Request::Keys { md } => keys::keys(md, stdout),
        Request::Completions(shell) => completions(shell, stdout),
    }
}

/// What `auto` means here: the full screen on a terminal that can show it, else lines.
///
/// Errors: the full screen is asked for and there is no terminal.
fn available(ui: UiMode) -> Result<UiMode> {
    let has_terminal = screen::has_terminal();
    match ui {
        UiMode::Auto if has_terminal && std::env::var_os("CI").is_none() => Ok(UiMode::Tui),
        UiMode::Auto => Ok(UiMode::Line),
        UiMode::Tui if !has_terminal => Err(Error::config(
            "--ui tui needs a terminal on standard input and output",
            "use --ui line, and `fullrank watch` from a terminal",
        )),
        ui => Ok(ui),
    }
}

/// Writes the completion script of a shell.
fn completions(shell: clap_complete::Shell, stdout: &mut dyn Write) -> Result<()> {
    // Into memory first: the generator panics when its writer fails, as a closed pipe does.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut commands::command(), "fullrank", &mut script);
    stdout.write_all(&script).and_then(|()| stdout.flush()).map_err(print::stdout_failed)
}
