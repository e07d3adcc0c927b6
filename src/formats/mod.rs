//! Files of other tools: safetensors, Hugging Face configurations and checkpoints, adapters, tokenizers.
//!
//! This room is a leaf. It turns files into plain values on the host and back, checks every number
//! it reads, and knows nothing of models in memory, devices or training.

pub mod atomic;
pub mod chat;
pub mod gguf;
pub mod hf_checkpoint;
pub mod hf_config;
pub mod hf_shards;
pub mod hub;
mod json;
pub mod mlx;
pub mod pattern;
pub mod peft;
pub mod positioned;
pub mod safetensors;
mod ticks;
pub mod tokenizer;
