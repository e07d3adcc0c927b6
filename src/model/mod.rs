//! The network: a LLaMA-family decoder with its forward and backward passes written out.
//!
//! Knows parameters by id, says which are trained, and hands every finished gradient to a hook; it
//! knows no method, no optimizer and no file.

pub mod backward;
pub mod base;
pub mod config;
pub mod generate;
pub mod linear;
pub mod llama;
pub mod load;
pub mod magnitude;
pub mod params;
pub mod replica;

pub use base::{BaseStorage, PackAtLoad};
pub use config::ModelConfig;
pub use linear::{Adapter, Linear, LinearId, Sparse};
pub use llama::{Batch, Model};
pub use magnitude::Magnitude;
pub use params::{Gradients, Param, ParamId, Params, Role, Whole};
pub use replica::Replica;
