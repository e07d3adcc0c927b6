//! Beside the Python packages whose files are read and written here; without them, each test says that it was skipped.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../devices/mod.rs"]
mod devices;
#[allow(dead_code)] // a part is needed here
#[path = "../parity/mod.rs"]
mod parity;

mod adapters;
mod gguf;
mod tensorboard;
mod transformers;
