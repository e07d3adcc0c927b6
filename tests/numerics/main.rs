//! The numbers of whole networks, against other programs, other derivations, and the same network cut otherwise.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../devices/mod.rs"]
mod devices;
#[path = "../parity/mod.rs"]
mod parity;

mod families;
mod golden;
mod gradcheck;
mod large_tables;
mod model_gradients;
mod oracle;
