//! `adapter_config.json`: what is read, what is refused by name, and what is written.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::modules::{Modules, is_pattern_of};
use super::{CONFIG, Module, OTHER_BASE};
use crate::error::{Error, Result};
use crate::formats::json::{Fields, read_object};

/// No adapter comes near this.
const MAX_RANK: usize = 1 << 20;
const MAX_PATTERNS: usize = 100_000;

/// What an `adapter_config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    path: PathBuf,
    /// The base model's name, where it is given.
    pub base_model: Option<String>,
    /// The common rank.
    pub rank: usize,
    /// The common numerator of the scale.
    pub alpha: f64,
    /// Whether the scale is `alpha/√r` instead of `alpha/r`.
    pub use_rslora: bool,
    /// Whether the rows have trained lengths.
    pub use_dora: bool,
    /// Dropout in training; nothing here applies it.
    pub dropout: f64,
    rank_pattern: Vec<(String, usize)>,
    alpha_pattern: Vec<(String, f64)>,
    targets: Modules,
    excluded: Option<Modules>,
    /// Only these blocks, where `layers_to_transform` is set.
    blocks: Option<Vec<u64>>,
}

/// Fields that, set to anything, make the adapter something else.
const REFUSED_IF_SET: [(&str, &str); 11] = [
    ("modules_to_save", "modules saved beside the adapter"),
    ("layer_replication", "replicated layers"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("target_parameters", "adapters on bare parameters"),
    ("trainable_token_indices", "trained tokens"),
    ("arrow_config", "Arrow routing"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
    ("velora_config", "VeLoRA"),
    ("lora_ga_config", "LoRA-GA's changed base weights"),
    ("corda_config", "CorDA's changed base weights"),
];
/// Flags that must be off.
const REFUSED_IF_TRUE: [(&str, &str); 4] = [
    ("fan_in_fan_out", "transposed weights"),
    ("lora_bias", "a bias of lora_B"),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
];
/// Starts that leave the base weights as they are.
const HARMLESS_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

impl PeftConfig {
    /// Reads the file in an adapter's folder.
    ///
    /// Errors: it is missing or damaged; a kind of adapter that is not supported, by name.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        if !path.exists() {
            let remedy = "give the folder of a PEFT adapter, with adapter_config.json and \
                          adapter_model.safetensors";
            if !folder.exists() {
                return Err(Error::config(format!("there is no {}", folder.display()), remedy));
            }
            let what = if folder.is_dir() { "has no adapter_config.json" } else { "is no folder" };
            return Err(Error::file(folder, what, remedy));
        }
        let object = read_object(&path)?;
        let fields = Fields::new(&path, &object);
        refuse_unsupported(&fields)?;
        let number = |name: &str, default: f64| -> Result<f64> {
            Ok(fields.positive(name)?.unwrap_or(default))
        };
        let dropout = match fields.get("lora_dropout") {
            None => 0.0,
            Some(value) => value
                .as_f64()
                .filter(|share| (0.0..=1.0).contains(share))
                .ok_or_else(|| fields.wrong("lora_dropout", value, "a share from 0 to 1"))?,
        };
        let targets =
            modules(&fields, "target_modules")?.ok_or_else(|| fields.missing("target_modules"))?;
        let blocks = blocks(&fields)?;
        if fields.get("layers_to_transform").is_some() && matches!(targets, Modules::Pattern(_)) {
            return Err(Error::file(
                &path,
                "layers_to_transform does not go with target_modules that is a pattern",
                "name the layers in the pattern",
            ));
        }
        let config = Self {
            base_model: fields.text("base_model_name_or_path")?.map(str::to_owned),
            // PEFT's own defaults where a file leaves them out.
            rank: fields.count("r", MAX_RANK)?.unwrap_or(8),
            alpha: number("lora_alpha", 8.0)?,
            use_rslora: fields.flag("use_rslora")?,
            use_dora: fields.flag("use_dora")?,
            dropout,
            rank_pattern: pattern(&fields, "rank_pattern", |value| {
                let rank = usize::try_from(value.as_u64()?).ok()?;
                (1..=MAX_RANK).contains(&rank).then_some(rank)
            })?,
            alpha_pattern: pattern(&fields, "alpha_pattern", |value| {
                value.as_f64().filter(|alpha| alpha.is_finite() && *alpha > 0.0)
            })?,
            targets,
            excluded: modules(&fields, "exclude_modules")?,
            blocks,
            path,
        };
        config.check_patterns()?;
        Ok(config)
    }

    /// The modules of a network that have an adapter.
    ///
    /// Errors: there is none.
    pub fn targets<'a>(&self, network: &'a [Module]) -> Result<Vec<&'a Module>> {
        let mut found = Vec::new();
        for module in network {
            if self.is_target(&module.name)? {
                found.push(module);
            }
        }
        if found.is_empty() {
            return Err(Error::file(
                &self.path,
                "target_modules names no linear layer of this network's blocks",
                OTHER_BASE,
            ));
        }
        Ok(found)
    }

    fn is_target(&self, module: &str) -> Result<bool> {
        let is_in = |modules: &Modules| {
            modules.contains(module).map_err(|why| self.bad_pattern("target_modules", &why))
        };
        if let Some(excluded) = &self.excluded
            && is_in(excluded)?
        {
            return Ok(false);
        }
        let is_block = match &self.blocks {
            None => true,
            Some(blocks) => block_of(module).is_some_and(|block| blocks.contains(&block)),
        };
        Ok(is_block && is_in(&self.targets)?)
    }

    /// The rank of a module: the first fitting key of `rank_pattern`, else `r`.
    pub fn rank_of(&self, module: &str) -> usize {
        first(&self.rank_pattern, module).unwrap_or(self.rank)
    }

    /// The numerator of a module's scale, likewise.
    pub fn alpha_of(&self, module: &str) -> f64 {
        first(&self.alpha_pattern, module).unwrap_or(self.alpha)
    }

    /// `s` of a rank and a numerator.
    pub fn scale(&self, rank: usize, alpha: f64) -> f32 {
        let rank = rank as f64;
        (alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }

    /// The kind in PEFT's words.
    pub fn kind(&self) -> &'static str {
        match (self.use_dora, self.use_rslora) {
            (true, _) => "DoRA",
            (false, true) => "rsLoRA",
            (false, false) => "LoRA",
        }
    }

    fn bad_pattern(&self, field: &str, why: &str) -> Error {
        Error::file(
            &self.path,
            format!("{field} is not a usable regular expression: {why}"),
            "correct the pattern, or list the modules by name",
        )
    }

    /// Every pattern must be a regular expression, whether a module comes to it or not.
    fn check_patterns(&self) -> Result<()> {
        const PROBE: &str = "model.layers.0.self_attn.q_proj";
        for (field, keys) in [
            ("rank_pattern", self.rank_pattern.iter().map(|(key, _)| key).collect::<Vec<_>>()),
            ("alpha_pattern", self.alpha_pattern.iter().map(|(key, _)| key).collect()),
        ] {
            for key in keys {
                is_pattern_of(key, PROBE).map_err(|why| self.bad_pattern(field, &why))?;
            }
        }
        self.is_target(PROBE).map(drop)
    }
}

fn first<T: Copy>(pattern: &[(String, T)], module: &str) -> Option<T> {
    let fits = |key: &str| is_pattern_of(key, module).unwrap_or(false);
    pattern.iter().find(|(key, _)| fits(key)).map(|(_, value)| *value)
}

/// The number after `layers.` in a module's path.
fn block_of(module: &str) -> Option<u64> {
    let (_, rest) = module.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<()> {
    const ADVICE: &str = "merge it into its base with PEFT's merge_and_unload, and use that model";
    let refuse = |what: String| Err(fields.unsupported(what, ADVICE));
    match fields.text("peft_type")? {
        Some("LORA") => {}
        Some(other) => {
            return refuse(format!(
                "peft_type is {other}; LoRA (LORA) is supported, with rsLoRA and DoRA"
            ));
        }
        None => return Err(fields.missing("peft_type")),
    }
    match fields.text("bias")? {
        None | Some("none") => {}
        Some(other) => return refuse(format!("bias is {other}; only none is supported")),
    }
    for (name, meaning) in REFUSED_IF_TRUE {
        if fields.flag(name)? {
            return refuse(format!("{name} is true ({meaning}), which is not supported"));
        }
    }
    for (name, meaning) in REFUSED_IF_SET {
        let is_set = match fields.get(name) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(object)) => !object.is_empty(),
            Some(_) => true,
        };
        if is_set {
            return refuse(format!("{name} is set ({meaning}), which is not supported"));
        }
    }
    match fields.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if HARMLESS_STARTS.contains(&name.to_lowercase().as_str()) => {
            Ok(())
        }
        Some(Value::String(name)) => Err(fields.unsupported(
            format!(
                "init_lora_weights is {name}, which changes the base weights; this adapter does not fit the \
                 untouched base"
            ),
            "save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
        )),
        Some(other) => Err(fields.wrong("init_lora_weights", other, "true, false or a name")),
    }
}

/// A list of names, a pattern or `all-linear`.
fn modules(fields: &Fields<'_>, name: &str) -> Result<Option<Modules>> {
    let wanted = "a list of module names, a pattern or all-linear";
    Ok(Some(match fields.get(name) {
        None => return Ok(None),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Modules::AllLinear,
        Some(Value::String(text)) => Modules::Pattern(text.clone()),
        Some(value @ Value::Array(list)) => {
            let names = list.iter().map(|name| name.as_str().map(str::to_owned));
            let names: Option<Vec<String>> = names.collect();
            Modules::Names(names.ok_or_else(|| fields.wrong(name, value, wanted))?)
        }
        Some(other) => return Err(fields.wrong(name, other, wanted)),
    }))
}

/// `layers_to_transform`, a number or a list, and `layers_pattern`, which must mean the blocks of a LLaMA.
fn blocks(fields: &Fields<'_>) -> Result<Option<Vec<u64>>> {
    let is_ours = match fields.get("layers_pattern") {
        None => true,
        Some(Value::String(name)) => name.is_empty() || name == "layers",
        Some(Value::Array(names)) => names.is_empty() || names.iter().any(|name| name == "layers"),
        Some(other) => return Err(fields.wrong("layers_pattern", other, "a name or a list")),
    };
    let wrong = |value| fields.wrong("layers_to_transform", value, "a number or a list of them");
    let blocks = match fields.get("layers_to_transform") {
        None => return Ok(None),
        Some(Value::Array(list)) => list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>(),
        Some(value) => value.as_u64().map(|block| vec![block]),
    };
    match blocks {
        None => Err(wrong(fields.get("layers_to_transform").unwrap_or(&Value::Null))),
        // PEFT takes no blocks for all.
        Some(blocks) if blocks.is_empty() => Ok(None),
        Some(_) if !is_ours => Ok(Some(Vec::new())),
        Some(blocks) => Ok(Some(blocks)),
    }
}

fn pattern<T>(
    fields: &Fields<'_>,
    name: &'static str,
    value: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>> {
    let object: &Map<String, Value> = match fields.get(name) {
        None => return Ok(Vec::new()),
        Some(Value::Object(object)) => object,
        Some(other) => return Err(fields.wrong(name, other, "an object")),
    };
    if object.len() > MAX_PATTERNS {
        return Err(fields.unsupported(
            format!("{name} has {} entries", object.len()),
            "use the file that PEFT wrote",
        ));
    }
    let entry = |(key, found): (&String, &Value)| match value(found) {
        Some(value) => Ok((key.clone(), value)),
        None => Err(fields.wrong(&format!("{name}.{key}"), found, "a number above zero")),
    };
    object.iter().map(entry).collect()
}
