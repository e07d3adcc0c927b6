//! From methods, ranks, seeds and sweeps to the members of a comparison.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use crate::config::settings::{self, Setting};
use crate::config::{FlagValue, RunConfig, check_methods_flag, has_rank, is_table_of};
use crate::error::{Error, Result};
use crate::run::plan::{CHATML, is_gguf};
use crate::runlog::compare::{CompareDir, Member, Plan};

/// More members than this are a slip of the finger.
const MOST_MEMBERS: usize = 256;

/// Settings that a comparison sets in a way of its own, with that way.
const OWN_WAYS: [(&str, &str); 5] = [
    ("train.method", "name the methods with --methods"),
    ("train.seed", "use --seeds N for several seeds, --seed for the first"),
    ("train.max_minutes", "--max-minutes is the time of all members together"),
    ("train.threads", "all members train in one process; give --threads once"),
    ("train.memory_budget", "--memory-budget is that of all members together"),
];

/// What a comparison is asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The methods, the baseline first unless another is named.
    pub methods: Vec<String>,
    /// Number of seeds, counted from the common one; at least 1.
    pub seeds: u64,
    /// Ranks of every method that has one; empty: the common one.
    pub ranks: Vec<String>,
    /// Settings that are crossed: their values.
    pub sweeps: Vec<(&'static Setting, Vec<String>)>,
    /// Settings of one method alone.
    pub only: Vec<(String, FlagValue)>,
    /// The group that the others are compared with.
    pub baseline: Option<String>,
    /// Validation loss for "tokens to target".
    pub target_loss: Option<f64>,
    /// One member after the other.
    pub sequential: bool,
    /// What all members have, as tables of a configuration.
    pub common: Table,
}

/// One way to set some settings, and what it adds to the member's name.
type Variant = (String, Vec<(&'static Setting, String)>);

/// Makes the plan, and checks the configuration of every member as far as that is possible without the model.
///
/// Errors: `Error::Config` for unknown or repeated methods, settings that cannot be crossed, values out of range.
pub fn make(wanted: &Wanted) -> Result<Plan> {
    check_methods(&wanted.methods)?;
    check_sweeps(wanted)?;
    let mut common = wanted.common.clone();
    let max_minutes = take(&mut common, "train", "max_minutes").and_then(|value| value.as_float());
    take(&mut common, "train", "method");
    let first_seed = take(&mut common, "train", "seed");
    let first_seed = first_seed.and_then(|value| value.as_integer()).unwrap_or(0).cast_unsigned();
    make_paths_absolute(&mut common)?;

    let mut members = Vec::new();
    for method in &wanted.methods {
        for (group, set) in variants(wanted, method) {
            for seed in (first_seed..).take(wanted.seeds.max(1) as usize) {
                let mut member_settings = BTreeMap::from([
                    ("train.method".to_owned(), method.clone()),
                    ("train.seed".to_owned(), seed.to_string()),
                ]);
                let only = wanted.only.iter().filter(|(of, _)| of == method);
                let only = only.map(|(_, flag)| (flag.setting, flag.text.clone()));
                for (setting, text) in only.chain(set.iter().cloned()) {
                    member_settings.insert(setting.key.into(), absolute(setting.key, &text)?);
                }
                let name =
                    if wanted.seeds > 1 { format!("{group}-s{seed}") } else { group.clone() };
                members.push(Member {
                    name,
                    group: group.clone(),
                    seed,
                    settings: member_settings,
                });
            }
        }
    }
    if members.len() > MOST_MEMBERS {
        return Err(Error::config(
            format!(
                "the comparison has {} members, expected at most {MOST_MEMBERS}",
                members.len()
            ),
            "cross fewer values",
        ));
    }
    for (at, member) in members.iter().enumerate() {
        if members[..at].iter().any(|other| other.name == member.name) {
            return Err(Error::config(
                format!("two members are called {}", member.name),
                "give every value once",
            ));
        }
    }
    let mut plan = Plan::new(String::new(), common, members);
    plan.baseline = baseline(&plan, wanted.baseline.as_deref())?;
    plan.target_loss = wanted.target_loss;
    plan.max_minutes = max_minutes;
    plan.sequential = wanted.sequential;
    for member in &plan.members {
        config(&plan, member, Path::new("the settings of all members"))?.check()?;
    }
    Ok(plan)
}

/// The configuration of a member, not resolved.
///
/// Errors: `Error::Config`.
pub fn config_of(dir: &CompareDir, plan: &Plan, member: &Member) -> Result<RunConfig> {
    config(plan, member, &dir.plan_file())
}

fn config(plan: &Plan, member: &Member, file: &Path) -> Result<RunConfig> {
    let flags = member.settings.iter().map(|(key, text)| {
        let setting = settings::find(key)
            .ok_or_else(|| Error::file(file, format!("unknown key {key}"), "restore the file"))?;
        Ok(FlagValue { setting, text: text.clone() })
    });
    RunConfig::layered(&plan.common, file, &flags.collect::<Result<Vec<_>>>()?)
}

fn check_methods(methods: &[String]) -> Result<()> {
    if methods.is_empty() {
        let remedy = "name some, for example --methods full,lora,switchlora";
        return Err(Error::config("--methods names no method", remedy));
    }
    check_methods_flag(methods)?;
    for (at, method) in methods.iter().enumerate() {
        if methods[..at].contains(method) {
            return Err(Error::config(
                format!("--methods names {method} twice"),
                "name it once; --seeds, --ranks and --sweep make variants of it",
            ));
        }
    }
    Ok(())
}

fn check_sweeps(wanted: &Wanted) -> Result<()> {
    let crossed = wanted.sweeps.iter().map(|(setting, _)| ("--sweep", *setting));
    let only = wanted.only.iter().map(|(_, flag)| ("--for", flag.setting));
    for (flag, setting) in crossed.chain(only) {
        if let Some((_, way)) = OWN_WAYS.iter().find(|(key, _)| *key == setting.key) {
            let what = format!("{flag} cannot set {}", setting.flag);
            return Err(Error::config(what, *way));
        }
    }
    for (at, (setting, _)) in wanted.sweeps.iter().enumerate() {
        if wanted.sweeps[..at].iter().any(|(other, _)| other.key == setting.key)
            || (setting.key == "train.rank" && !wanted.ranks.is_empty())
        {
            return Err(Error::config(
                format!("{} is crossed twice", setting.flag),
                "give all its values in one list",
            ));
        }
        if !wanted.methods.iter().any(|method| belongs(wanted, setting, method)) {
            let more = if setting.table() == "spam" { ", give --spam-enabled" } else { "" };
            return Err(Error::config(
                format!("--sweep {}: no method of the comparison has it", setting.flag),
                format!("add {} to --methods{more}, or leave the sweep out", setting.table()),
            ));
        }
    }
    for (method, flag) in &wanted.only {
        if !wanted.methods.contains(method) {
            return Err(Error::config(
                format!("--for {method}:{}: the method is not compared", flag.setting.flag),
                format!("the methods are {}", wanted.methods.join(", ")),
            ));
        }
        let key = flag.setting.key;
        if (key == "train.rank" && !wanted.ranks.is_empty() && has_rank(method))
            || wanted.sweeps.iter().any(|(crossed, _)| crossed.key == key)
        {
            return Err(Error::config(
                format!("--for {method}:{} sets what is crossed", flag.setting.flag),
                "leave one of the two out",
            ));
        }
    }
    if !wanted.ranks.is_empty() && !wanted.methods.iter().any(|method| has_rank(method)) {
        return Err(Error::config("--ranks: no method of the comparison has one", "leave it out"));
    }
    Ok(())
}

/// Whether a setting means something to a method of the comparison.
fn belongs(wanted: &Wanted, setting: &Setting, method: &str) -> bool {
    match setting.key {
        "train.rank" => has_rank(method),
        // The method of that name always has it.
        "spam.enabled" => method != "spam",
        _ if setting.table() == "spam" => method == "spam" || has_spam(wanted, method),
        _ => is_table_of(setting.table(), method),
    }
}

/// Whether some member of a method is to use SPAM: by the common settings, by its own, or by a sweep.
fn has_spam(wanted: &Wanted, method: &str) -> bool {
    let common = wanted.common.get("spam").and_then(|table| table.get("enabled"));
    let is_on = |key: &str, text: &str| key == "spam.enabled" && text == "true";
    common.and_then(Value::as_bool) == Some(true)
        || wanted.only.iter().any(|(of, flag)| of == method && is_on(flag.setting.key, &flag.text))
        || wanted
            .sweeps
            .iter()
            .any(|(setting, values)| values.iter().any(|value| is_on(setting.key, value)))
}

/// Every combination of the crossed settings of a method. Values that do not vary add nothing to the name.
fn variants(wanted: &Wanted, method: &str) -> Vec<Variant> {
    let mut all: Vec<Variant> = vec![(method.to_owned(), Vec::new())];
    let ranks = settings::find("train.rank").filter(|_| !wanted.ranks.is_empty());
    let ranks = ranks.map(|setting| (setting, &wanted.ranks));
    let sweeps = wanted.sweeps.iter().map(|(setting, values)| (*setting, values));
    for (setting, values) in ranks.into_iter().chain(sweeps) {
        if !belongs(wanted, setting, method) {
            continue;
        }
        let label = match setting.key {
            "train.rank" => "r".to_owned(),
            _ => format!("{}-", setting.name()),
        };
        let crossed = all.iter().flat_map(|(name, set)| {
            let label = &label;
            values.iter().map(move |value| {
                let mut set = set.clone();
                set.push((setting, value.clone()));
                let is_varied = values.len() > 1;
                let name = if is_varied { format!("{name}-{label}{value}") } else { name.clone() };
                (plain(&name), set)
            })
        });
        all = crossed.collect();
    }
    all
}

/// A name that can be a folder's.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
}

/// The group that is meant: its name, or a method that has only one.
fn baseline(plan: &Plan, wanted: Option<&str>) -> Result<String> {
    let groups = plan.groups();
    let Some(wanted) = wanted else {
        return Ok(groups.first().copied().unwrap_or_default().to_owned());
    };
    if groups.contains(&wanted) {
        return Ok(wanted.to_owned());
    }
    Err(Error::config(
        format!("--baseline {wanted}: the comparison has no such member"),
        format!("use one of {}", groups.join(", ")),
    ))
}

fn take(tables: &mut Table, table: &str, key: &str) -> Option<Value> {
    tables.get_mut(table)?.as_table_mut()?.remove(key)
}

/// Paths as they are from everywhere, so that a comparison can be resumed from another working directory.
fn make_paths_absolute(common: &mut Table) -> Result<()> {
    for key in ["data.data", "data.tokenizer", "data.chat_template", "model.model", "model.adapter"]
    {
        let Some((table, name)) = key.split_once('.') else { continue };
        let value = common.get_mut(table).and_then(|table| table.get_mut(name));
        if let Some(Value::String(text)) = value {
            *text = absolute(key, text)?;
        }
    }
    Ok(())
}

fn absolute(key: &str, text: &str) -> Result<String> {
    let is_path = match key {
        "data.data" => text != "builtin",
        "data.tokenizer" => !matches!(text, "builtin" | "bytes"),
        "data.chat_template" => text != CHATML,
        "model.model" => Path::new(text).join("config.json").is_file() || is_gguf(Path::new(text)),
        "model.adapter" => true,
        _ => false,
    };
    if !is_path || text.is_empty() {
        return Ok(text.to_owned());
    }
    let path = std::path::absolute(text).map_err(Error::io("find", text))?;
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::setting_named;

    fn wanted(methods: &[&str]) -> Wanted {
        Wanted {
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            seeds: 1,
            ..Wanted::default()
        }
    }

    fn sweep(name: &str, values: &[&str]) -> (&'static Setting, Vec<String>) {
        (setting_named(name).unwrap(), values.iter().map(|&value| value.to_owned()).collect())
    }

    fn names(wanted: &Wanted) -> Vec<String> {
        make(wanted).unwrap().members.into_iter().map(|member| member.name).collect()
    }

    #[test]
    fn methods_ranks_and_seeds_are_crossed_where_they_mean_something() {
        let mut all = wanted(&["full", "lora", "switchlora"]);
        assert_eq!(names(&all), ["full", "lora", "switchlora"]);
        all.ranks = vec!["4".into(), "8".into()];
        assert_eq!(names(&all), ["full", "lora-r4", "lora-r8", "switchlora-r4", "switchlora-r8"]);
        all.ranks = vec!["4".into()];
        all.seeds = 2;
        let plan = make(&all).unwrap();
        let of = |at: usize| (plan.members[at].name.as_str(), plan.members[at].group.as_str());
        assert_eq!(of(3), ("lora-s1", "lora"));
        assert_eq!(plan.groups(), ["full", "lora", "switchlora"]);
        assert_eq!(plan.members[3].settings["train.rank"], "4");
        assert!(!plan.members[0].settings.contains_key("train.rank"), "full rank has none");
    }

    #[test]
    fn a_sweep_of_a_methods_own_setting_leaves_the_others_alone() {
        let mut all = wanted(&["full", "switchlora"]);
        all.sweeps = vec![
            sweep("switchlora-interval0", &["10", "inf"]),
            sweep("learning_rate", &["1e-3", "2e-3"]),
        ];
        assert_eq!(
            names(&all),
            [
                "full-learning_rate-1e-3",
                "full-learning_rate-2e-3",
                "switchlora-interval0-10-learning_rate-1e-3",
                "switchlora-interval0-10-learning_rate-2e-3",
                "switchlora-interval0-inf-learning_rate-1e-3",
                "switchlora-interval0-inf-learning_rate-2e-3",
            ]
        );
    }

    #[test]
    fn tables_that_several_methods_read_are_crossed_with_all_of_them() {
        let mut all = wanted(&["full", "rslora"]);
        all.sweeps = vec![sweep("lora-init", &["standard", "gaussian"])];
        assert_eq!(names(&all), ["full", "rslora-init-standard", "rslora-init-gaussian"]);
        let mut all = wanted(&["full", "lora", "spam"]);
        all.sweeps = vec![sweep("spam", &["true", "false"])];
        let crossed =
            ["full-enabled-true", "full-enabled-false", "lora-enabled-true", "lora-enabled-false"];
        assert_eq!(names(&all), [&crossed[..], &["spam"]].concat());
        // What SPAM does is a matter of the members that have it.
        let threshold = || vec![sweep("spam-threshold", &["100", "200"])];
        all.sweeps = threshold();
        assert_eq!(names(&all), ["full", "lora", "spam-threshold-100", "spam-threshold-200"]);
        all = Wanted { sweeps: threshold(), ..wanted(&["full", "lora"]) };
        let error = make(&all).unwrap_err();
        assert!(error.to_string().contains("no method") && error.remedy().contains("--spam"));
        all.common = "[spam]\nenabled = true\n".parse().unwrap();
        assert_eq!(names(&all).len(), 4);
        let on = FlagValue { setting: setting_named("spam").unwrap(), text: "true".into() };
        all = Wanted { only: vec![("lora".into(), on)], common: Table::new(), ..all };
        assert_eq!(names(&all), ["full", "lora-threshold-100", "lora-threshold-200"]);
    }

    #[test]
    fn a_comparison_does_not_depend_on_the_folder_it_was_begun_in() {
        let mut all = wanted(&["lora"]);
        all.common = "[model]\nmodel = \"m.gguf\"\nadapter = \"tuned\"\n[data]\ndata = \"rows\"\n\
                      chat_template = \"t.jinja\"\ntokenizer = \"bytes\"\n"
            .parse()
            .unwrap();
        let common = make(&all).unwrap().common;
        for (table, name) in
            [("model", "model"), ("model", "adapter"), ("data", "data"), ("data", "chat_template")]
        {
            let text = common[table][name].as_str().unwrap();
            assert!(Path::new(text).is_absolute(), "{table}.{name} = {text}");
        }
        assert_eq!(common["data"]["tokenizer"].as_str(), Some("bytes"));
        all.common =
            "[model]\nmodel = \"demo\"\n[data]\nchat_template = \"chatml\"\n".parse().unwrap();
        let common = make(&all).unwrap().common;
        assert_eq!(common["model"]["model"].as_str(), Some("demo"));
        assert_eq!(common["data"]["chat_template"].as_str(), Some("chatml"));
    }

    #[test]
    fn a_members_configuration_is_the_common_one_with_its_own_settings() {
        let mut all = wanted(&["full", "lora"]);
        all.common =
            "[train]\niters = 7\nseed = 5\nmax_minutes = 2.0\nmethod = \"fira\"\n".parse().unwrap();
        let rate = FlagValue { setting: setting_named("lr").unwrap(), text: "0.5".into() };
        all.only = vec![("lora".into(), rate)];
        all.seeds = 2;
        let plan = make(&all).unwrap();
        assert_eq!(plan.max_minutes, Some(2.0));
        let config = |at: usize| {
            let train = config(&plan, &plan.members[at], Path::new("x")).unwrap().train;
            (train.method, train.iters, train.seed, train.learning_rate, train.max_minutes)
        };
        assert_eq!(config(0), ("full".into(), Some(7), 5, None, None));
        assert_eq!(config(3), ("lora".into(), Some(7), 6, Some(0.5), None));
    }

    #[test]
    fn what_cannot_be_crossed_is_refused_with_the_way_to_do_it() {
        let fails = |wanted: &Wanted| {
            let error = make(wanted).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            format!("{error} | {}", error.remedy())
        };
        let with = |sweeps: Vec<(&'static Setting, Vec<String>)>| Wanted {
            sweeps,
            ..wanted(&["full", "lora"])
        };
        assert!(fails(&wanted(&[])).starts_with("--methods names no method"));
        assert!(fails(&wanted(&["full", "lorra"])).contains("lora"));
        assert!(fails(&wanted(&["full", "full"])).contains("twice"));
        assert!(fails(&with(vec![sweep("seed", &["1"])])).contains("--seeds"));
        assert!(fails(&with(vec![sweep("galore-update-proj-gap", &["5"])])).contains("no method"));
        assert!(fails(&with(vec![sweep("rank", &["4", "4"])])).contains("two members"));
        assert!(fails(&with(vec![sweep("rank", &["0"])])).contains("rank"));
        assert!(
            fails(&with(vec![sweep("lr", &["1", "2"]), sweep("lr", &["3"])])).contains("twice")
        );
        let base = Wanted { baseline: Some("galore".into()), ..wanted(&["full", "lora"]) };
        assert!(fails(&base).contains("use one of full, lora"));
        let rate = FlagValue { setting: setting_named("lr").unwrap(), text: "1".into() };
        let only = Wanted { only: vec![("fira".into(), rate.clone())], ..wanted(&["full"]) };
        assert!(fails(&only).contains("not compared"));
        let only = Wanted { only: vec![("lora".into(), rate)], ..with(vec![sweep("lr", &["1"])]) };
        assert!(fails(&only).contains("crossed"));
    }
}
