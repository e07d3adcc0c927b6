//! Every golden case of a folder against this crate: numbers of PyTorch, transformers, PEFT and the
//! authors' code, at the tolerances of the folder's README.
//!
//! `GOLDEN_DIR` names the folder (default `tests/golden`). A file is chosen by the prefix of its name; one
//! with an unknown prefix fails, one of a kind that is not implemented yet is counted and named.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests may stop

use crate::devices;
use crate::parity::{
    self, adamw, galore, llama, lora_ga, lte, peft, relora, schedules, switchlora, tokenizer, train,
};
use fullrank::device::Device;
use std::path::{Path, PathBuf};

type Case = fn(&Path, &Device);

/// Prefix and checker, the first match counts; `None`: known, not implemented yet.
const KINDS: [(&str, Option<Case>); 14] = [
    ("adamw_", Some(adamw::check)),
    ("switchlora_schedule", Some(switchlora::check_schedule)),
    ("switchlora_", Some(switchlora::check)),
    ("schedules", Some(schedules::check)),
    ("llama_", Some(llama::check)),
    ("train_", Some(train::check)),
    ("smollm2-tokenizer", Some(tokenizer::check)),
    ("relora_prune", Some(relora::check_prune)),
    ("relora_merge_", Some(relora::check_merge)),
    ("galore_", Some(galore::check)),
    ("fira_", Some(galore::check_fira)),
    ("lora_ga_", Some(lora_ga::check)),
    ("lte_", Some(lte::check)),
    ("peft_", Some(peft::check)),
];

#[test]
fn golden_cases_agree() {
    let folder = parity::folder();
    let mut entries: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    let devices = devices::all();
    let (mut checked, mut later) = (0, Vec::new());
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if matches!(name.as_str(), "README.md" | "tolerances.json") {
            continue;
        }
        match KINDS.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            Some((_, Some(check))) => {
                for device in &devices {
                    eprintln!("golden: {name} on {}", device.name());
                    check(&path, device);
                    device.check().unwrap();
                }
                checked += 1;
            }
            Some((_, None)) => later.push(name),
            None => panic!("{name}: no golden kind has this prefix"),
        }
    }
    eprintln!(
        "golden: {checked} cases agree on {} devices, {} of kinds not implemented yet: {later:?}",
        devices.len(),
        later.len()
    );
    assert!(checked > 0, "{} holds no golden case", folder.display());
}
