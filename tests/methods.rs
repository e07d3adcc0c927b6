//! What the training methods promise, as tests on tiny networks: the invariants of LoRA, SwitchLoRA, `GaLore`,
//! Fira and full-rank `AdamW`, a file for each kind of promise. Numbers of other programs are in `golden.rs`.

// clippy.toml allows this in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "methods/adamw.rs"]
mod adamw;
#[path = "methods/adarankgrad.rs"]
mod adarankgrad;
#[path = "methods/base.rs"]
mod base;
#[path = "methods/depth.rs"]
mod depth;
#[path = "methods/dora.rs"]
mod dora;
#[path = "methods/fira.rs"]
mod fira;
#[path = "methods/fixture.rs"]
mod fixture;
#[path = "methods/freeze.rs"]
mod freeze;
#[path = "methods/galore.rs"]
mod galore;
#[path = "methods/inrank.rs"]
mod inrank;
#[path = "methods/lora.rs"]
mod lora;
#[path = "methods/lora_ga.rs"]
mod lora_ga;
#[path = "methods/lora_relatives.rs"]
mod lora_relatives;
#[path = "methods/lte.rs"]
mod lte;
#[path = "methods/lte_heads.rs"]
mod lte_heads;
#[path = "methods/pissa.rs"]
mod pissa;
#[path = "methods/rank.rs"]
mod rank;
#[path = "methods/relora.rs"]
mod relora;
#[path = "methods/resume.rs"]
mod resume;
#[path = "methods/skip.rs"]
mod skip;
#[path = "methods/sltrain.rs"]
mod sltrain;
#[path = "methods/spam.rs"]
mod spam;
#[path = "methods/spectra.rs"]
mod spectra;
#[path = "methods/start.rs"]
mod start;
#[path = "methods/switch.rs"]
mod switch;
#[path = "methods/switch_rate.rs"]
mod switch_rate;
#[path = "methods/update.rs"]
mod update;
#[path = "methods/warm_start.rs"]
mod warm_start;
