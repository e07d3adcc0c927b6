//! Beside the Python packages whose files are read and written here; without them, each test says that it was skipped.

#[path = "../devices/mod.rs"]
mod devices;
#[path = "../parity/mod.rs"]
mod parity;

mod adapters;
mod gguf;
mod transformers;
