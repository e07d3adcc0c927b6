//! The table of settings as flags of clap, and their values read back as text.
//!
//! Values stay text here: `RunConfig::load` gives them their type, so that a flag and a file report a
//! wrong value in the same words.

use std::ffi::{OsStr, OsString};

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgMatches, ValueHint};
use toml::{Table, Value};

use crate::config::settings::{self, GROUPS, Kind, Setting};
use crate::config::{FlagValue, RunConfig};

/// One flag per setting, under the headings of the table, with the defaults in the help.
pub fn flags() -> Vec<Arg> {
    let defaults = Table::try_from(RunConfig::default()).unwrap_or_default();
    GROUPS
        .iter()
        .flat_map(|group| group.settings.iter().map(move |setting| (group.heading, setting)))
        .map(|(heading, setting)| flag(setting, &defaults).help_heading(heading))
        .collect()
}

fn flag(setting: &'static Setting, defaults: &Table) -> Arg {
    let default = match defaults.get(setting.table()).and_then(|table| table.get(setting.name())) {
        None | Some(Value::Boolean(false)) => String::new(),
        Some(Value::String(text)) if text.contains(' ') => format!(" [default: \"{text}\"]"),
        Some(Value::String(text)) => format!(" [default: {text}]"),
        // Debug has exponents (1e-8), Display has no needless `.0`.
        Some(Value::Float(number)) if number.abs() < 1e-4 && *number != 0.0 => {
            format!(" [default: {number:?}]")
        }
        Some(Value::Float(number)) => format!(" [default: {number}]"),
        Some(value) => format!(" [default: {value}]"),
    };
    let short = format!("{}{default}", setting.short);
    let long = match setting.more {
        "" => short.clone(),
        more => format!("{short}\n{more}"),
    };
    let arg = Arg::new(setting.key)
        .long(setting.flag)
        .aliases(setting.aliases.iter().copied())
        .value_name(setting.value)
        .help(short)
        .long_help(long);
    match setting.kind {
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        Kind::Count | Kind::Number => arg.allow_negative_numbers(true),
        Kind::Choice(words) => arg.value_parser(Suggested(words)).hide_possible_values(true),
        Kind::Text if setting.value.contains("PATH") || setting.value.contains("DIR") => {
            arg.value_hint(ValueHint::AnyPath)
        }
        Kind::Text => arg,
    }
}

/// The settings that were given as flags.
pub fn given(matches: &ArgMatches) -> Vec<FlagValue> {
    settings::all()
        .filter_map(|setting| {
            // Not every command has every setting.
            let text = matches.try_get_one::<String>(setting.key).ok()??.clone();
            Some(FlagValue { setting, text })
        })
        .collect()
}

/// Dashes for the underscores in the names of flags, because `--learning_rate` is how Python tools spell it.
/// Values stay as they are.
pub fn with_dashes(args: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.into_iter().map(|arg| match arg.to_str().and_then(|text| text.strip_prefix("--")) {
        Some(text) => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            format!("--{}{value}", name.replace('_', "-")).into()
        }
        None => arg,
    })
}

/// Any text, with some words for the completion of the shell. What is allowed `RunConfig::check` decides: it
/// knows which methods are planned and names the nearest right word.
#[derive(Clone)]
struct Suggested(&'static [&'static str]);

impl TypedValueParser for Suggested {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().copied().map(PossibleValue::new)))
    }
}
