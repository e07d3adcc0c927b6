//! The table against the structs, loading, and writing. Wrong values: `tests/configs/invalid`.

use std::path::Path;

use proptest::prelude::*;
use toml::{Table, Value};

use super::settings::{self, Kind};
use super::{FlagValue, RunConfig};

/// A configuration in which everything is set.
fn filled() -> RunConfig {
    let mut config = RunConfig::default();
    let model = &mut config.model;
    model.adapter = Some("tuned".into());
    model.hidden_size = Some(64);
    model.intermediate_size = Some(172);
    model.num_hidden_layers = Some(2);
    model.num_attention_heads = Some(4);
    model.num_key_value_heads = Some(2);
    model.tie_word_embeddings = Some(true);
    let data = &mut config.data;
    data.tokenizer = Some("bytes".into());
    data.max_seq_length = Some(128);
    data.data_seed = Some(3);
    data.chat_template = Some("chatml".into());
    let train = &mut config.train;
    train.rank = Some(16);
    train.rank_first = Some(8);
    train.rank_last = Some(16);
    train.alpha = Some(1.0);
    train.target_modules = Some("all-linear".into());
    train.iters = Some(1000);
    train.max_minutes = Some(2.5);
    train.memory_budget = Some(2.0);
    train.batch_size = Some(8);
    train.learning_rate = Some(0.02);
    train.lr_schedule = Some("cosine".into());
    train.warmup_steps = Some(100);
    train.steps_per_report = Some(10);
    train.eval_every = Some(100);
    train.train_non_targets = Some(true);
    train.max_grad_norm = Some(1.0);
    train.early_stop = Some(3);
    train.checkpoint_every = Some(250);
    train.save_best = Some(true);
    train.on_alert = Some("true".into());
    let relora = &mut config.relora;
    relora.warm_start = Some(200);
    relora.warm_start_learning_rate = Some(1e-3);
    relora.cycle = Some(200);
    relora.warmup_steps = Some(20);
    relora.rewarm_steps = Some(10);
    config.switchlora.warm_start_learning_rate = Some(1e-3);
    config.lora.init = Some("standard".into());
    config.galore.update_proj_gap = Some(20);
    config.fira.update_proj_gap = Some(20);
    config.adarankgrad.update_proj_gap = Some(20);
    let inrank = &mut config.inrank;
    inrank.buffer = Some(8);
    inrank.first_check = Some(100);
    inrank.gap = Some(25);
    inrank.truncate_at = Some(800);
    config.rank.every = Some(100);
    config.lora_ga.gamma = Some(16.0);
    config.spam.reset_every = Some(250);
    config.spam.warmup_steps = Some(75);
    config
}

fn kind_fits(kind: Kind, value: &Value) -> bool {
    matches!(
        (kind, value),
        (Kind::Text | Kind::Choice(_), Value::String(_))
            | (Kind::Count, Value::Integer(_))
            | (Kind::Number, Value::Float(_))
            | (Kind::Switch, Value::Boolean(_))
    )
}

fn from_flags(flags: &[(&str, &str)]) -> RunConfig {
    let flags: Vec<_> = flags
        .iter()
        .map(|(key, text)| FlagValue {
            setting: settings::find(key).unwrap(),
            text: (*text).into(),
        })
        .collect();
    RunConfig::load(None, &flags).unwrap()
}

fn reread(config: &RunConfig) -> RunConfig {
    RunConfig::from_toml(&config.to_toml().unwrap(), Path::new("run.toml")).unwrap()
}

#[test]
fn every_field_has_exactly_one_setting_of_its_type_in_the_same_order() {
    let written = filled().to_toml().unwrap();
    let mut table = String::new();
    let mut fields = Vec::new();
    for line in written.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_string();
        } else if let Some((key, _)) = line.split_once(" = ") {
            fields.push(format!("{table}.{key}"));
        }
    }
    let keys: Vec<_> = settings::all().map(|setting| setting.key.to_string()).collect();
    assert_eq!(keys, fields);

    let values: Table = written.parse().unwrap();
    for setting in settings::all() {
        let value = &values[setting.table()][setting.name()];
        assert!(kind_fits(setting.kind, value), "{} is {value}", setting.key);
    }
}

#[test]
fn flags_are_the_bare_key_and_methods_put_their_name_in_front() {
    for setting in settings::all() {
        let name = setting.name().replace('_', "-");
        let expected = match setting.table() {
            "model" | "data" | "train" => name,
            method => format!("{method}-{name}"),
        };
        assert_eq!(setting.flag, expected);
    }
}

#[test]
fn no_flag_or_alias_is_used_twice() {
    let mut names: Vec<_> = settings::all()
        .flat_map(|setting| setting.aliases.iter().copied().chain([setting.flag]))
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn every_setting_has_a_short_text_that_is_no_sentence() {
    for setting in settings::all() {
        assert!(!setting.short.is_empty(), "{}", setting.key);
        assert!(!setting.short.ends_with('.'), "{}", setting.key);
        assert!(setting.more.is_empty() || setting.more.ends_with('.'), "{}", setting.key);
    }
}

#[test]
fn the_defaults_are_allowed() {
    RunConfig::default().check().unwrap();
    // An adapter has its ranks, and only some methods go on with one.
    let mut config = filled();
    config.model.adapter = None;
    config.check().unwrap();
    config.model.adapter = Some("tuned".into());
    assert!(config.check().is_err());
}

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(RunConfig::load(None, &[]).unwrap(), RunConfig::default());
    assert_eq!(RunConfig::from_toml("", Path::new("empty.toml")).unwrap(), RunConfig::default());
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my.toml");
    std::fs::write(&file, "[train]\niters = 10\nbatch_size = 3\n").unwrap();
    let flag = FlagValue { setting: settings::find("train.iters").unwrap(), text: "20".into() };
    let config = RunConfig::load(Some(&file), &[flag]).unwrap();
    assert_eq!(config.train.iters, Some(20));
    assert_eq!(config.train.batch_size, Some(3));
    assert_eq!(config.train.weight_decay, 0.0);
}

#[test]
fn whole_numbers_are_taken_where_numbers_are_wanted() {
    let text = "[train]\nalpha = 32\n[switchlora]\ninterval0 = 20\n";
    let config = RunConfig::from_toml(text, Path::new("a.toml")).unwrap();
    assert_eq!(config.train.alpha, Some(32.0));
    assert_eq!(config.switchlora.interval0, 20.0);
    assert_eq!(from_flags(&[("train.alpha", "32")]).train.alpha, Some(32.0));
}

#[test]
fn an_infinite_interval_comes_from_a_file_and_from_a_flag() {
    let file = RunConfig::from_toml("[switchlora]\ninterval0 = inf", Path::new("a.toml")).unwrap();
    let flag = from_flags(&[("switchlora.interval0", "inf")]);
    assert_eq!(file.switchlora.interval0, f64::INFINITY);
    assert_eq!(flag, file);
    file.check().unwrap();
    assert_eq!(reread(&file), file);
}

#[test]
fn a_written_configuration_reads_back_the_same() {
    for config in [RunConfig::default(), filled()] {
        assert_eq!(reread(&config), config);
        assert_eq!(reread(&config).to_toml().unwrap(), config.to_toml().unwrap());
    }
}

#[test]
fn a_prompt_with_quotes_and_line_ends_reads_back_the_same() {
    let mut config = RunConfig::default();
    config.train.sample_prompt = "\"It\tis\", she\r\nsaid: \\ '''é\u{0}\"\"\"\n".into();
    assert_eq!(reread(&config), config);
}

proptest! {
    #[test]
    fn numbers_keep_their_bits(number in any::<f64>(), seed in 0..i64::MAX as u64) {
        prop_assume!(!number.is_nan());
        let mut config = filled();
        config.train.learning_rate = Some(number);
        config.train.seed = seed;
        let read = reread(&config);
        prop_assert_eq!(read.train.learning_rate.map(f64::to_bits), Some(number.to_bits()));
        prop_assert_eq!(read.train.seed, seed);
    }

    #[test]
    fn any_text_as_a_file_is_an_error_or_a_configuration(text in "\\PC{0,60}") {
        let _ = RunConfig::from_toml(&text, Path::new("a.toml"));
    }
}

#[test]
fn a_reader_sees_the_tables_of_the_method_alone() {
    let tables = |method: &str, uses_spam: bool| {
        let mut config = RunConfig::default();
        config.train.method = method.into();
        config.spam.enabled = uses_spam;
        let text = config.to_toml_in_use().unwrap();
        let mut again = RunConfig::from_toml(&text, Path::new("run.toml")).unwrap();
        // What is left out of it is as it is without a word.
        again.spam.enabled = uses_spam;
        assert_eq!(again, config);
        let names = text.lines().filter(|line| line.starts_with('[')).map(str::to_owned);
        names.collect::<Vec<_>>()
    };
    assert_eq!(tables("full", false), ["[model]", "[data]", "[train]", "[rank]"]);
    assert_eq!(tables("rslora", false), ["[model]", "[data]", "[train]", "[rank]", "[lora]"]);
    let both = ["[model]", "[data]", "[train]", "[rank]", "[galore]", "[spam]"];
    assert_eq!(tables("galore", true), both);
}
