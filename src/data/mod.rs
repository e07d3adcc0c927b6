//! Text to batches: where the text comes from, its tokens on disk, and blocks of tokens in order.
//!
//! The order of the data depends on the data seed and the epoch and on nothing else, so that every
//! method and model sees the same batches. This room is a leaf: it yields ids as plain numbers on
//! the host.

pub mod cache;
pub mod dataset;
pub mod loader;
mod pieces;
pub mod text;
pub mod tokens;

pub use self::dataset::{DataFacts, Dataset, SplitFacts};
pub use self::loader::{Batch, Loader, Position, ValidationBlocks};
pub use self::text::Corpus;
pub use self::tokens::Tokens;
