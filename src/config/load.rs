//! Reading a configuration: defaults, then a TOML file, then flags; and writing it back.
//!
//! File and flags become one TOML table, checked key by key against the table of settings, so that
//! both report a wrong value in the same words. What values may be together is `check`'s business.

use std::path::Path;

use toml::{Table, Value};

use super::RunConfig;
use super::settings::{self, Kind, Setting};
use crate::error::{Error, Result};

/// A value given by a flag, as text.
#[derive(Debug, Clone)]
pub struct FlagValue {
    /// Which setting.
    pub setting: &'static Setting,
    /// What was typed.
    pub text: String,
}

impl RunConfig {
    /// The defaults, changed by a file, changed by flags.
    ///
    /// Errors: `Error::Config` for an unreadable file, a syntax error, an unknown key or a value of the wrong
    /// type. Ranges are for [`RunConfig::check`].
    pub fn load(file: Option<&Path>, flags: &[FlagValue]) -> Result<Self> {
        build(Self::given(file, flags)?)
    }

    /// What a file and flags say, as tables of TOML, without the defaults.
    ///
    /// Errors: as [`load`](Self::load).
    pub fn given(file: Option<&Path>, flags: &[FlagValue]) -> Result<Table> {
        let mut tables = match file {
            Some(file) => parse(&read(file)?, file)?,
            None => Table::new(),
        };
        lay_over(&mut tables, flags)?;
        Ok(tables)
    }

    /// The defaults, changed by tables that stood in the file `name`, changed by flags.
    ///
    /// Errors: as [`load`](Self::load).
    pub fn layered(tables: &Table, name: &Path, flags: &[FlagValue]) -> Result<Self> {
        let mut tables = tables.clone();
        check_tables(&mut tables, name)?;
        lay_over(&mut tables, flags)?;
        build(tables)
    }

    /// The defaults, changed by a TOML file.
    pub fn read(file: &Path) -> Result<Self> {
        Self::load(Some(file), &[])
    }

    /// The defaults, changed by TOML text; `name` stands for the file in messages.
    pub fn from_toml(text: &str, name: &Path) -> Result<Self> {
        build(parse(text, name)?)
    }

    /// The configuration as TOML: all tables in the order of the structs, without the values that are not
    /// set. Reading it gives the same bits, as long as whole numbers are below 2⁶³; `load` lets no others in.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| {
            Error::config(
                format!("the configuration cannot be written as TOML: {error}"),
                "use values that TOML can hold",
            )
        })
    }

    /// The same for a reader: without the tables of methods that the run does not use.
    pub fn to_toml_in_use(&self) -> Result<String> {
        // By lines, which keep the order of the structs; a table begins with its name alone on a line.
        let names = || settings::all().map(Setting::table);
        let mut is_in_use = true;
        let mut text = String::new();
        for line in self.to_toml()?.lines() {
            let name = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            if let Some(name) = name.filter(|name| names().any(|known| known == *name)) {
                is_in_use = self.uses_table(name);
            }
            if is_in_use {
                text += line;
                text += "\n";
            }
        }
        Ok(text)
    }
}

/// Puts the values of flags into tables.
fn lay_over(tables: &mut Table, flags: &[FlagValue]) -> Result<()> {
    for FlagValue { setting, text } in flags {
        let value = from_flag(setting, text)?;
        let table = tables.entry(setting.table()).or_insert_with(|| Table::new().into());
        if let Value::Table(table) = table {
            table.insert(setting.name().into(), value);
        }
    }
    Ok(())
}

/// The setting that a user means by `word`: its key (`train.rank`), its flag or its bare key, with dashes or
/// underscores, or another tool's spelling of it.
///
/// Errors: `Error::Config` that names the nearest.
pub fn setting_named(word: &str) -> Result<&'static Setting> {
    let plain = word.trim_start_matches('-').replace('-', "_");
    let is_it = |setting: &&Setting| {
        let spellings = setting.aliases.iter().chain([&setting.flag]);
        setting.key.replace('-', "_") == plain
            || spellings.into_iter().any(|name| name.replace('-', "_") == plain)
    };
    settings::all().find(is_it).ok_or_else(|| {
        let bare = plain.split_once('.').map_or(plain.as_str(), |(_, name)| name);
        let remedy = match nearest_setting("", bare) {
            Some(setting) => format!("did you mean {}?", setting.flag),
            None => "`fullrank train --help` lists the settings".into(),
        };
        Error::config(format!("there is no setting `{word}`"), remedy)
    })
}

fn build(tables: Table) -> Result<RunConfig> {
    Value::Table(tables).try_into().map_err(|error: toml::de::Error| {
        Error::config(
            format!("a setting does not fit: {}", error.message()),
            "`fullrank train --help` lists what each setting takes",
        )
    })
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| {
        Error::config(
            format!("cannot read the configuration {}: {error}", file.display()),
            "give --config a TOML file; a run's own is run.toml in its folder",
        )
    })
}

/// Parses text and checks every key and every type; whole numbers become floats where floats are wanted.
fn parse(text: &str, file: &Path) -> Result<Table> {
    let mut tables = text.parse::<Table>().map_err(|error| syntax_error(text, file, &error))?;
    check_tables(&mut tables, file)?;
    Ok(tables)
}

fn check_tables(tables: &mut Table, file: &Path) -> Result<()> {
    for (name, content) in tables {
        let Some(table) = known_table(name) else {
            return Err(unknown_table(name, content, file));
        };
        let Value::Table(content) = content else {
            return Err(Error::config(
                format!("{}: {name} is a value, expected a table", file.display()),
                format!("write [{name}] on a line of its own and its settings below it"),
            ));
        };
        for (key, value) in content.iter_mut() {
            let Some(setting) = settings::find(&format!("{table}.{key}")) else {
                return Err(unknown_key(table, key, file));
            };
            check_type(setting, value, file)?;
        }
    }
    Ok(())
}

fn syntax_error(text: &str, file: &Path, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start);
    let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
    let message = error.message().replace('\n', ", ");
    Error::config(
        format!("{}, line {line}: not valid TOML: {message}", file.display()),
        "correct this line; text stands in \"quotes\", tables in [brackets]",
    )
}

fn known_table(name: &str) -> Option<&'static str> {
    settings::all().map(Setting::table).find(|table| *table == name)
}

fn unknown_table(name: &str, content: &Value, file: &Path) -> Error {
    let file = file.display();
    if !content.is_table() {
        let what = format!("{file}: {name} stands outside the tables");
        let remedy = match nearest_setting("", name) {
            Some(setting) => format!(
                "did you mean {}? write `{} = …` under [{}]",
                setting.key,
                setting.name(),
                setting.table()
            ),
            None => "`fullrank train --help` lists the settings".into(),
        };
        return Error::config(what, remedy);
    }
    let names: Vec<&str> = table_names();
    let remedy = match nearest(name, names.iter().copied()) {
        Some(table) => format!("did you mean [{table}]?"),
        None => format!("the tables are [{}]", names.join("], [")),
    };
    Error::config(format!("{file}: unknown table [{name}]"), remedy)
}

fn unknown_key(table: &str, key: &str, file: &Path) -> Error {
    let remedy = match nearest_setting(table, key) {
        Some(setting) => format!("did you mean {}?", setting.key),
        None => format!(
            "the keys of [{table}] are {}",
            settings::all()
                .filter(|setting| setting.table() == table)
                .map(Setting::name)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    Error::config(format!("{}: unknown key {table}.{key}", file.display()), remedy)
}

fn table_names() -> Vec<&'static str> {
    let mut names: Vec<_> = settings::all().map(Setting::table).collect();
    names.dedup();
    names
}

/// Names less alike than this are no suggestion: two typing errors in a name of five letters.
const LEAST_LIKENESS: f64 = 0.6;

/// How much a key of the table it was written in is preferred: it decides ties and near ties, and an exact
/// name in another table still wins.
const SAME_TABLE_BONUS: f64 = 0.15;

/// The setting that was probably meant by `key` under `[table]`; other tools' spellings count.
fn nearest_setting(table: &str, key: &str) -> Option<&'static Setting> {
    let key = key.replace('-', "_");
    let score = |setting: &Setting| {
        let own = likeness(&key, setting.name());
        let whole = likeness(&key, &setting.flag.replace('-', "_"));
        let alias = |alias: &&str| if alias.replace('-', "_") == key { 1.0 } else { 0.0 };
        let alias = setting.aliases.iter().map(alias).fold(0.0, f64::max);
        let best = own.max(whole).max(alias);
        if best < LEAST_LIKENESS {
            return 0.0;
        }
        if setting.table() == table { best + SAME_TABLE_BONUS } else { best }
    };
    settings::all()
        .map(|setting| (score(setting), setting))
        .filter(|(score, _)| *score > 0.0)
        // The first of equals, so that the order of the table decides.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, setting)| setting)
}

/// The most similar of some names, if any is similar.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|candidate| (likeness(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LEAST_LIKENESS)
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, candidate)| candidate)
}

/// 1 for equal names, 0 for names without a common letter; a name cut short counts as a near one.
fn likeness(typed: &str, name: &str) -> f64 {
    let spelling = strsim::normalized_damerau_levenshtein(typed, name);
    let is_beginning = typed.len() >= 3 && name.starts_with(typed);
    if is_beginning { spelling.max(LEAST_LIKENESS) } else { spelling }
}

fn check_type(setting: &Setting, value: &mut Value, file: &Path) -> Result<()> {
    if let (Kind::Number, Value::Integer(whole)) = (setting.kind, &*value) {
        *value = Value::Float(*whole as f64);
    }
    let fits = match (setting.kind, &*value) {
        (Kind::Count, Value::Integer(number)) => *number >= 0,
        (Kind::Text | Kind::Choice(_), Value::String(_))
        | (Kind::Number, Value::Float(_))
        | (Kind::Switch, Value::Boolean(_)) => true,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Error::config(
        format!(
            "{}: {} is {value}, expected {}",
            file.display(),
            setting.key,
            setting.kind.expected()
        ),
        format!("write for example `{} = {}`", setting.name(), setting.kind.example()),
    ))
}

fn from_flag(setting: &Setting, text: &str) -> Result<Value> {
    let value = match setting.kind {
        Kind::Text | Kind::Choice(_) => Some(Value::String(text.into())),
        Kind::Count => text.parse::<i64>().ok().filter(|number| *number >= 0).map(Value::Integer),
        Kind::Number => text.parse::<f64>().ok().map(Value::Float),
        // Python's spelling too, because users come from there.
        Kind::Switch => match text {
            "true" | "True" => Some(Value::Boolean(true)),
            "false" | "False" => Some(Value::Boolean(false)),
            _ => None,
        },
    };
    let is_long = text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_digit());
    let expected = match setting.kind {
        Kind::Count if is_long => "at most 9223372036854775807",
        kind => kind.expected(),
    };
    value.ok_or_else(|| {
        Error::config(
            format!("--{} is `{text}`, expected {expected}", setting.flag),
            format!("give for example `--{} {}`", setting.flag, setting.kind.example()),
        )
    })
}
