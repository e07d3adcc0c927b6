//! Files of other tools and the logs of runs: those that trusted programs wrote are read exactly, and broken ones
//! give an error that says what is wrong and what to do, never a panic.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broken;
#[path = "../fuzz/mod.rs"]
mod fuzz;
mod gguf;
mod malformed_adapters;
mod malformed_data;
mod malformed_gguf;
mod malformed_models;
mod odd_events;
mod runlog;
mod safetensors;
mod trusted;

use std::env;
use std::path::{Path, PathBuf};

use fullrank::error::Error;

/// The folder of golden cases: `GOLDEN_DIR`, else the one in the repository.
fn golden() -> PathBuf {
    env::var_os("GOLDEN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from)
}

/// Every error names its file or setting, and says what to do.
fn check_error(case: &str, error: &Error, wanted: &str) {
    let message = error.to_string();
    assert!(message.contains(wanted), "{case}: \"{message}\" lacks \"{wanted}\"");
    assert!(!error.remedy().is_empty(), "{case}");
    assert!(message.len() < 500, "{case}: {message}");
}
