//! The real binary: help, usage and configuration errors, exit codes. Trains nothing.

// Clippy knows `#[test]` functions as tests, but not the functions they share.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fullrank::config::RunConfig;

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fullrank"));
    // The width of the help would follow the terminal of whoever runs the tests.
    command
        .env("NODEVICE_SELECT", "1")
        .env_remove("COLUMNS")
        .env_remove("FULLRANK_LOG")
        .stdin(Stdio::null());
    command
}

fn fullrank(line: &str) -> Output {
    command().args(line.split_whitespace()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a line that must fail with these lines on stderr and nothing on stdout.
fn assert_fails(line: &str, code: i32, expected: &str) {
    let output = fullrank(line);
    assert_eq!(stderr(&output), expected, "`{line}`");
    assert_eq!(stdout(&output), "", "`{line}`");
    assert_eq!(output.status.code(), Some(code), "`{line}`");
}

fn configs(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension() == Some(OsStr::new("toml")))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn the_version_is_the_packages() {
    let output = fullrank("--version");
    assert_eq!(stdout(&output), format!("fullrank {}\n", env!("CARGO_PKG_VERSION")));
    assert!(output.status.success());
}

#[test]
fn the_help_of_the_program_stays_as_it_is() {
    insta::assert_snapshot!("help", stdout(&fullrank("--help")));
}

#[test]
fn the_flags_of_train_stay_as_they_are() {
    insta::assert_snapshot!("train_help", stdout(&fullrank("train -h")));
}

#[test]
fn the_long_help_of_train_stays_as_it_is() {
    insta::assert_snapshot!("train_long_help", stdout(&fullrank("train --help")));
}

#[test]
fn the_flags_of_the_other_commands_stay_as_they_are() {
    let commands = [
        "resume",
        "eval",
        "generate",
        "export",
        "ls",
        "show",
        "rm",
        "ctl",
        "devices",
        "doctor",
        "bench",
        "completions",
    ];
    let texts = commands.map(|command| stdout(&fullrank(&format!("{command} --help"))));
    insta::assert_snapshot!("other_help", texts.join("\n--------\n\n"));
}

#[test]
fn no_command_is_a_usage_error_that_shows_the_help() {
    let output = fullrank("");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("Usage: fullrank <COMMAND>"));
}

#[test]
fn a_misspelt_command_names_the_right_one() {
    let output = fullrank("trian");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("a similar subcommand exists: 'train'"));
}

#[test]
fn a_misspelt_flag_names_the_right_one() {
    for line in ["train --learning-rat 1", "train --learning_rat=1"] {
        let output = fullrank(line);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("a similar argument exists: '--learning-rate'"));
    }
}

#[test]
fn a_flag_with_a_wrong_value_says_what_is_expected() {
    assert_fails(
        "train --iters many",
        2,
        "error: --iters is `many`, expected a whole number, 0 or more\n  \
           try: give for example `--iters 8`\n",
    );
    assert_fails(
        "train --rank -4",
        2,
        "error: --rank is `-4`, expected a whole number, 0 or more\n  \
           try: give for example `--rank 8`\n",
    );
    assert_fails(
        "train --seed 9223372036854775808",
        2,
        "error: --seed is `9223372036854775808`, expected at most 9223372036854775807\n  \
           try: give for example `--seed 8`\n",
    );
    assert_fails(
        "train --lr fast",
        2,
        "error: --learning-rate is `fast`, expected a number\n  \
           try: give for example `--learning-rate 0.01`\n",
    );
    assert_fails(
        "train --grad-checkpoint yes",
        2,
        "error: --grad-checkpoint is `yes`, expected true or false\n  \
           try: give for example `--grad-checkpoint true`\n",
    );
}

#[test]
fn a_flag_out_of_range_fails_like_the_file() {
    assert_fails(
        "train --rank 0",
        2,
        "error: train.rank is 0, expected 1 or more\n  \
           try: set --rank N, or rank under [train]\n",
    );
}

#[test]
fn a_device_that_is_not_there_says_how_to_get_one() {
    let output = fullrank("train --device gpu:99");
    assert_eq!(output.status.code(), Some(4));
    let text = stderr(&output);
    // Without any adapter there is no number to name.
    let (what, remedy) = if text.starts_with("error: no adapter was found") {
        ("no adapter was found", "install a Vulkan driver")
    } else {
        ("there is no gpu:99, there is gpu:0", "see `fullrank devices`")
    };
    assert!(text.starts_with(&format!("error: {what}")), "{text}");
    assert!(text.contains(&format!("\n  try: {remedy}")), "{text}");
}

#[test]
fn a_missing_configuration_is_a_configuration_error() {
    let output = fullrank("train --config no/such/file.toml");
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.starts_with("error: cannot read the configuration no/such/file.toml: "), "{text}");
}

#[test]
fn a_run_name_must_be_fit_for_a_folder() {
    assert_fails(
        "train --name ../up",
        2,
        "error: --name is `../up`, which cannot be part of a folder's name everywhere\n  \
           try: use letters, digits and - _ . + only\n",
    );
}

#[test]
fn the_draw_of_generate_is_checked() {
    assert_fails(
        "generate latest --temperature -1",
        2,
        "error: --temperature is -1, expected 0 or more and finite\n  \
           try: 0 takes the most likely token; 0.8 is a good start\n",
    );
    assert_fails(
        "generate latest --top-p 1.5",
        2,
        "error: --top-p is 1.5, expected above 0 and at most 1\n  \
           try: 1 switches it off; 0.95 is a good start\n",
    );
    assert_eq!(fullrank("generate latest --max-tokens 0").status.code(), Some(2));
}

#[test]
fn every_valid_configuration_loads_and_survives_writing() {
    for file in configs("valid") {
        let config = RunConfig::read(&file).unwrap_or_else(|error| panic!("{error}"));
        config.check().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let written = config.to_toml().unwrap();
        assert_eq!(RunConfig::from_toml(&written, &file).unwrap(), config, "{}", file.display());
    }
}

/// The first lines of these files are the lines that the program prints, as comments, with FILE for the path;
/// a third comment names the exit code where it is not 2.
#[test]
fn every_invalid_configuration_fails_with_the_lines_it_names() {
    for file in configs("invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let mut comments = text.lines().map_while(|line| line.strip_prefix("# "));
        let (what, remedy) = (comments.next().unwrap(), comments.next().unwrap());
        let code = comments.next().map_or(2, |line| {
            line.strip_prefix("exit code ").and_then(|code| code.parse().ok()).unwrap()
        });
        let output = command().args(["train", "--config"]).arg(&file).output().unwrap();
        let found = stderr(&output).replace(&file.display().to_string(), "FILE");
        assert_eq!(found, format!("{what}\n  {remedy}\n"), "{}", file.display());
        assert_eq!(output.status.code(), Some(code), "{}", file.display());
    }
}

#[test]
fn completions_know_the_flags_of_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = fullrank(&format!("completions {shell}"));
        assert!(output.status.success());
        assert!(stdout(&output).contains("switchlora-interval0"), "{shell}");
    }
    assert_eq!(fullrank("completions tcsh").status.code(), Some(2));
}

#[test]
fn a_closed_pipe_is_quiet() {
    for line in ["completions bash", "--help", "train --help"] {
        let mut child = command()
            .args(line.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(stderr(&output), "", "`{line}`");
        assert_eq!(output.status.code(), Some(0), "`{line}`");
    }
}
