//! What the training methods promise, as tests on tiny networks: the invariants of LoRA, SwitchLoRA, `GaLore`,
//! Fira and full-rank `AdamW`, a file for each kind of promise. Numbers of other programs are in `numerics/golden.rs`.

// clippy.toml allows this in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

mod adamw;
mod adarankgrad;
mod base;
mod depth;
mod dora;
mod fira;
mod fixture;
mod freeze;
mod galore;
mod inrank;
mod lora;
mod lora_ga;
mod lora_relatives;
mod lte;
mod lte_heads;
mod pissa;
mod rank;
mod relora;
mod resume;
mod skip;
mod sltrain;
mod spam;
mod spectra;
mod start;
mod switch;
mod switch_rate;
mod update;
mod warm_start;
